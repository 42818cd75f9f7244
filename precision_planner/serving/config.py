"""config.pbtxt, through Triton's own protobuf schema: written from a model, read back, held to a model.

Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from precision_planner._extras import require
from precision_planner.errors import OutputError
from precision_planner.serving.tensors import Interface, ServedTensor

PLATFORMS = {"tensorrt_plan": "model.plan", "onnxruntime_onnx": "model.onnx"}
"""Platform -> the file name that its backend looks for in a version's folder."""


@dataclass(frozen=True, slots=True)
class WarmupSample:
    """One request that the server runs before it says that a model is ready.

    Attributes:
      name: of the sample; its files are `warmup/NAME-INPUT`.
      batch_size: how many rows; 0 for a model without batching.
      arrays: input name -> (file name, dims without the batch).
    """

    name: str
    batch_size: int
    files: Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Serving:
    """How one model is served.

    Attributes:
      name: of the model in Triton.
      platform: a key of `PLATFORMS`.
      interface: what the file in the version's folder takes and gives.
      max_batch_size: 0 where requests are not put together.
      preferred: batch sizes that the dynamic batcher tries to make.
      queue_delay_us: how long it may wait for them.
      batching: whether requests are put together at all.
      instances: copies of the model per device.
      gpus: devices; empty leaves the choice to the server (every GPU it has, the CPU where there is none).
      graph_batches: batch sizes for which TensorRT's backend captures a CUDA graph; empty: none.
      graph_shapes: input -> dims without the batch, of those graphs.
      label_files: output -> file with a label a line.
      warmup: requests run before the model is ready.
    """

    name: str
    platform: str
    interface: Interface
    max_batch_size: int
    preferred: tuple[int, ...] = ()
    queue_delay_us: int = 100
    batching: bool = True
    instances: int = 1
    gpus: tuple[int, ...] = ()
    graph_batches: tuple[int, ...] = ()
    graph_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    label_files: Mapping[str, str] = field(default_factory=dict)
    warmup: tuple[WarmupSample, ...] = ()


def schema() -> Any:
    """Triton's generated protobuf module; MissingExtraError without tritonclient."""
    return require("tritonclient.grpc.model_config_pb2", extra="triton", purpose="writing config.pbtxt")


def make_config(serving: Serving) -> Any:
    """The `ModelConfig` message of a model."""
    pb = schema()
    config = pb.ModelConfig(name=serving.name, platform=serving.platform, max_batch_size=serving.max_batch_size)
    batched = serving.max_batch_size > 0
    for tensor in serving.interface.inputs:
        _add_tensor(config.input.add(), tensor, batched, pb)
    for tensor in serving.interface.outputs:
        entry = config.output.add()
        _add_tensor(entry, tensor, batched, pb)
        if tensor.name in serving.label_files:
            entry.label_filename = serving.label_files[tensor.name]
    config.version_policy.latest.num_versions = 1
    group = config.instance_group.add(count=serving.instances)
    group.kind = pb.ModelInstanceGroup.KIND_GPU if serving.gpus else pb.ModelInstanceGroup.KIND_AUTO
    group.gpus.extend(serving.gpus)
    if batched and serving.batching:
        config.dynamic_batching.preferred_batch_size.extend(serving.preferred)
        config.dynamic_batching.max_queue_delay_microseconds = serving.queue_delay_us
    _add_graphs(config, serving)
    for sample in serving.warmup:
        _add_warmup(config, sample, serving.interface, pb)
    return config


def _add_tensor(entry: Any, tensor: ServedTensor, batched: bool, pb: Any) -> None:
    entry.name = tensor.name
    entry.data_type = pb.DataType.Value(tensor.config_type)
    dims = tensor.dims(batched)
    if dims:
        entry.dims.extend(dims)
    else:
        # dims may not be empty: one element on the wire, none in the model
        entry.dims.append(1)
        entry.reshape.SetInParent()


def _add_graphs(config: Any, serving: Serving) -> None:
    if not serving.graph_batches:
        return
    cuda = config.optimization.cuda
    cuda.graphs = True
    for size in serving.graph_batches:
        spec = cuda.graph_spec.add(batch_size=size)
        for name, dims in serving.graph_shapes.items():
            spec.input[name].dim.extend(dims)


def _add_warmup(config: Any, sample: WarmupSample, interface: Interface, pb: Any) -> None:
    entry = config.model_warmup.add(name=sample.name, batch_size=sample.batch_size)
    for tensor in interface.inputs:
        file, dims = sample.files[tensor.name]
        given = entry.inputs[tensor.name]
        given.data_type = pb.DataType.Value(tensor.config_type)
        given.dims.extend(dims or (1,))
        given.input_data_file = file


def config_text(config: Any) -> str:
    """The message as config.pbtxt has it."""
    from google.protobuf import text_format

    return str(text_format.MessageToString(config))


def parse_config(text: str, source: str) -> Any:
    """Read a config.pbtxt; OutputError, with the line, for what Triton's schema has not."""
    from google.protobuf import text_format

    config = schema().ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise OutputError(f"{source}:{error}; mend it, or move it away to have one written") from None
    return config


def config_faults(config: Any, serving: Serving, labels: Mapping[str, Sequence[str]]) -> list[str]:
    """What an existing config says that the model is not; the server itself checks less, or only at the first request.

    Args:
      config: the `ModelConfig` as it is.
      serving: how the model would be served: its tensors and the largest batch that it takes.
      labels: label file as the config names it -> its lines; None for one that is not there.

    Returns:
      One sentence a fault, empty where the config fits.
    """
    faults = []
    if config.name and config.name != serving.name:
        faults.append(f"name is '{config.name}', but the folder is '{serving.name}'")
    backend = config.platform or {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx"}.get(config.backend)
    if backend != serving.platform:
        faults.append(f"platform is '{config.platform or config.backend}', the model is a {serving.platform}")
    most = config.max_batch_size
    if most > serving.max_batch_size:
        ends = f"takes at most {serving.max_batch_size} rows" if serving.max_batch_size else "has no batch axis"
        faults.append(f"max_batch_size is {most}, but the model {ends}")
    faults += [
        f"preferred_batch_size {size} is larger than max_batch_size {most}"
        for size in config.dynamic_batching.preferred_batch_size
        if size > most
    ]
    for kind, entries, tensors in (
        ("input", config.input, serving.interface.inputs),
        ("output", config.output, serving.interface.outputs),
    ):
        faults += _tensor_faults(kind, entries, tensors, batched=most > 0)
    for entry in config.output:
        faults += _label_faults(entry, labels)
    return faults


def _tensor_faults(kind: str, entries: Any, tensors: tuple[ServedTensor, ...], *, batched: bool) -> list[str]:
    faults = []
    known = {tensor.name: tensor for tensor in tensors}
    listed = {entry.name for entry in entries}
    pb = schema()
    for entry in entries:
        tensor = known.get(entry.name)
        if tensor is None:
            faults.append(f"{kind} '{entry.name}' is none of the model's, which are {', '.join(known)}")
            continue
        have = pb.DataType.Name(entry.data_type)
        if have != tensor.config_type:
            faults.append(f"{kind} '{entry.name}' is {have}, the model has {tensor.config_type}")
        dims = tuple(entry.reshape.shape if entry.HasField("reshape") else entry.dims)
        wanted = tensor.dims(batched)
        fits = len(dims) == len(wanted) and all(
            a == b or b == -1 or (a == -1 and kind == "output") for a, b in zip(dims, wanted, strict=True)
        )
        if not fits:
            faults.append(f"{kind} '{entry.name}' has dims {list(dims)}, the model has {list(wanted)}")
    if kind == "input":
        faults += [f"input '{name}' of the model is missing" for name in known if name not in listed]
    elif not listed:
        faults.append("no output is listed")
    return faults


def _label_faults(entry: Any, labels: Mapping[str, Sequence[str]]) -> list[str]:
    if not entry.label_filename:
        return []
    file = entry.label_filename
    if schema().DataType.Name(entry.data_type) in ("TYPE_FP16", "TYPE_BF16"):
        return [f"output '{entry.name}' has labels, but Triton's classification does not work on 16-bit outputs"]
    lines = labels.get(file)
    if lines is None:
        return [f"the label file '{file}' of output '{entry.name}' does not exist"]
    count = list(entry.dims)[-1] if entry.dims else -1
    return (
        [] if count in (-1, len(lines)) else [f"'{file}' has {len(lines)} labels, output '{entry.name}' {count} values"]
    )
