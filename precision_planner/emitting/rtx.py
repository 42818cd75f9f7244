"""Parse, type-check and build a model with TensorRT-RTX, on a machine without a GPU.

TensorRT-RTX is strongly typed, and its builder can target a GPU generation that is not there: so this proves
that NVIDIA's own parser takes the types of a model, and shows the kernels and their types. It cannot run the
engine without a GPU.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from precision_planner._extras import require
from precision_planner.engines.kernels import Kernel, parse_kernels, parse_nodes
from precision_planner.errors import EngineError, TargetError
from precision_planner.model import Model
from precision_planner.writing import scratch_folder

Shape = tuple[int, ...]
Profile = tuple[Shape, Shape, Shape]
"""The smallest, usual and longest shape of one input."""

# A buffer this large is written to a file for the parser to map instead: protobuf ends at 2 GiB.
_MAX_BUFFER = 1 << 30

# What a dynamic dimension is set to when the caller gives no profile: (smallest, usual, longest). The first
# suits sequences and batches; the others, tried in turn, models that need an image or one certain length.
_DEFAULT_SIZES = ((1, 8, 16), *((size,) * 3 for size in (32, 64, 128, 224, 256, 512, 1, 2, 4, 16)))

# Said by every call on a machine without a driver, about nothing that matters here.
_NO_GPU = ("Cuda Runtime", "cudaError 35", "CUDA driver version is insufficient")


@dataclass(frozen=True, slots=True)
class RtxError:
    """One thing that TensorRT-RTX refuses.

    Attributes:
      node: the ONNX node's name; empty when the node has none or the error concerns the whole network.
      op_type: the node's op type, or empty.
      message: TensorRT's words, on one line.
    """

    node: str
    op_type: str
    message: str


@dataclass(frozen=True, slots=True)
class RtxLayer:
    """One layer of the typed network, before fusion.

    Attributes:
      name: TensorRT's name.
      kind: its type: "MATRIX_MULTIPLY", "NORMALIZATION", ...
      nodes: the ONNX node it stands for; empty for layers that the parser adds.
      inputs: the types it reads: "HALF", "FLOAT", "BF16", "INT64", ...; a missing optional input is "".
      outputs: the types it writes.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RtxResult:
    """What TensorRT-RTX made of a model.

    Attributes:
      stage: how far it came: "parse" (refused by the parser), "build" (refused by the builder), "done".
      errors: why it stopped; empty when done.
      warnings: the builder's and parser's warnings, once each.
      layers: the typed network; empty when the parser refused the model.
      kernels: the engine's kernels in execution order, None when they were not seen (see `log_captured`).
      profiles: the optimization profile used, by input; empty for static shapes.
      engine: the serialized engine, or None.
      seconds: parse and build together.
      log_captured: False when TensorRT gave its messages to another logger of this process, which it keeps
        where that one came first: warnings and kernels are unknown then.
    """

    stage: str
    errors: tuple[RtxError, ...] = ()
    warnings: tuple[str, ...] = ()
    layers: tuple[RtxLayer, ...] = ()
    kernels: tuple[Kernel, ...] | None = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    engine: bytes | None = field(default=None, repr=False)
    seconds: float = 0.0
    log_captured: bool = True

    @property
    def ok(self) -> bool:
        """Whether an engine was built."""
        return self.stage == "done"

    @property
    def fused_attention(self) -> int:
        """How many kernels are a whole attention; 0 when the kernels were not seen."""
        return sum(kernel.is_fused_attention for kernel in self.kernels or ())


def rtx_build(
    source: Model | onnx.ModelProto | bytes | str | os.PathLike[str],
    profiles: Mapping[str, Profile] | None = None,
    *,
    compute_capability: str = "SM89",
    optimization_level: int | None = None,
) -> RtxResult:
    """Parse a model and build its engine, without a GPU; a refusal is a result, not an exception.

    Args:
      source: a path (external data is found beside it), a serialized model, a ModelProto with its weights
        inside, or a Model.
      profiles: input name -> (smallest, usual, longest shape), for the inputs with dynamic dimensions; for an
        input that is itself a shape, its values. Inputs that are left out get sizes that suit a sequence, and
        if the network cannot be built with these, those of an image.
      compute_capability: the GPU generation to build for, as in `tensorrt_rtx.ComputeCapability`.
      optimization_level: the builder's effort, 0 to 5; None takes the builder's default.

    Raises:
      MissingExtraError: tensorrt_rtx is not installed.
      TargetError: the compute capability is unknown to this version.
      EngineError: a profile names an input that the network has not, or does not fit it.
    """
    trt = require("tensorrt_rtx", extra="rtx", purpose="building with TensorRT-RTX")
    if not hasattr(trt.ComputeCapability, compute_capability):
        known = ", ".join(name for name in dir(trt.ComputeCapability) if name.startswith("SM"))
        raise TargetError(f"TensorRT-RTX has no compute capability {compute_capability!r}; take one of {known}")
    started = time.perf_counter()
    with _capture_log(trt) as log, _parser_source(source) as serialized:
        builder = trt.Builder(log.logger)
        network, parser = _new_network(trt, builder, log)
        if not _parse(parser, serialized):
            errors = _parser_errors(trt, builder, log, parser, serialized)
            seconds = time.perf_counter() - started
            return RtxResult("parse", errors, log.warnings(), seconds=seconds, log_captured=log.captured)
        layers = tuple(_layer(network.get_layer(index)) for index in range(network.num_layers))
        attempt = _Attempt(trt, builder, network, compute_capability, optimization_level)
        candidates = _profile_candidates(network, profiles or {})
        refusal: tuple[RtxError, ...] = ()
        for used in candidates:
            log.forget_build()
            engine = attempt.build(used)
            if engine is not None:
                break
            refusal = refusal or _build_errors(log)
        return RtxResult(
            stage="build" if engine is None else "done",
            # The first profile is the likeliest, so its errors say most.
            errors=refusal if engine is None else (),
            warnings=log.warnings(),
            layers=layers,
            kernels=None if engine is None else log.kernels(),
            profiles=candidates[0] if engine is None else used,
            engine=engine,
            seconds=time.perf_counter() - started,
            log_captured=log.captured,
        )


def rtx_refusals(source: Model | onnx.ModelProto | bytes | str | os.PathLike[str]) -> tuple[RtxError, ...]:
    """What the parser of the installed TensorRT-RTX, TensorRT 11's too, refuses of a typed model; nothing is built.

    Raises:
      MissingExtraError: tensorrt_rtx is not installed.
    """
    trt = require("tensorrt_rtx", extra="rtx", purpose="asking TensorRT-RTX's parser")
    with _capture_log(trt) as log, _parser_source(source) as serialized:
        builder = trt.Builder(log.logger)
        _, parser = _new_network(trt, builder, log)
        if _parse(parser, serialized):
            return ()
        return _parser_errors(trt, builder, log, parser, serialized)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What stays the same from one attempt to build a network to the next."""

    trt: Any
    builder: Any
    network: Any
    compute_capability: str
    optimization_level: int | None

    def build(self, profiles: Mapping[str, Profile]) -> bytes | None:
        """Build with one optimization profile; None when the builder refuses."""
        config = self.builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(self.trt.ComputeCapability, self.compute_capability), 0)
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        if self.optimization_level is not None:
            config.builder_optimization_level = self.optimization_level
        if profiles:
            config.add_optimization_profile(self._optimization_profile(profiles))
        engine = self.builder.build_serialized_network(self.network, config)
        return None if engine is None else bytes(engine)

    def _optimization_profile(self, profiles: Mapping[str, Profile]) -> Any:
        inputs = {tensor.name: tensor for tensor in _network_inputs(self.network)}
        profile = self.builder.create_optimization_profile()
        for name, shapes in profiles.items():
            if name not in inputs:
                raise EngineError(
                    f"the profile names an input {name!r} that the network has not; it has {', '.join(inputs)}"
                )
            is_shape = inputs[name].is_shape_tensor
            try:
                (profile.set_shape_input if is_shape else profile.set_shape)(name, *shapes)
            except (RuntimeError, ValueError, TypeError) as error:
                raise EngineError(f"the profile {shapes} does not fit input {name!r}: {error}") from error
            if not profile:
                raise EngineError(
                    f"the profile {shapes} does not fit input {name!r} of shape {tuple(inputs[name].shape)}: "
                    "give the smallest, usual and longest shape, each at least the one before"
                )
        return profile


# --- reading the model


@contextmanager
def _parser_source(source: Model | onnx.ModelProto | bytes | str | os.PathLike[str]) -> Iterator[bytes | Path]:
    """Yield what the parser reads: a file, or the serialized model where it is small enough."""
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, (Model, onnx.ModelProto)):
        model = Model.load(source)
        if model.stored_bytes <= _MAX_BUFFER:
            yield model.to_bytes()
            return
        with scratch_folder() as folder:
            yield model.save(folder / "model.onnx")[0]
    else:
        path = Path(source)
        if not path.is_file():
            raise EngineError(f"{path}: no such file; give the path of an .onnx file")
        yield path


def _new_network(trt: Any, builder: Any, log: _Log) -> tuple[Any, Any]:
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    return network, trt.OnnxParser(network, log.logger)


def _parse(parser: Any, serialized: bytes | Path) -> bool:
    if isinstance(serialized, Path):
        return bool(parser.parse_from_file(str(serialized)))
    return bool(parser.parse(serialized))


def _parser_errors(trt: Any, builder: Any, log: _Log, parser: Any, serialized: bytes | Path) -> tuple[RtxError, ...]:
    """Collect what the parser refuses: parse() stops at the first, the support check goes on.

    The support check fills the network that it is given, so it gets its own.
    """
    found = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    _, checker = _new_network(trt, builder, log)
    if isinstance(serialized, Path):
        checker.supports_model_v2(serialized.read_bytes(), str(serialized))
    else:
        checker.supports_model_v2(serialized)
    found += [_parser_error(checker.get_error(index)) for index in range(checker.num_errors)]
    return tuple(dict.fromkeys(found)) or (RtxError("", "", "the parser gave no reason"),)


def _parser_error(error: Any) -> RtxError:
    lines = [line for line in str(error.desc()).splitlines() if not any(noise in line for noise in _NO_GPU)]
    return RtxError(str(error.node_name()), str(error.node_operator()), " ".join(" ".join(lines).split()))


def _layer(layer: Any) -> RtxLayer:
    inputs = (layer.get_input(index) for index in range(layer.num_inputs))
    return RtxLayer(
        name=layer.name,
        kind=layer.type.name,
        nodes=parse_nodes(layer.metadata),
        inputs=tuple("" if tensor is None else tensor.dtype.name for tensor in inputs),
        outputs=tuple(layer.get_output_type(index).name for index in range(layer.num_outputs)),
    )


def _network_inputs(network: Any) -> list[Any]:
    return [network.get_input(index) for index in range(network.num_inputs)]


def _build_errors(log: _Log) -> tuple[RtxError, ...]:
    messages = log.errors() or ("the builder returned no engine and gave no reason",)
    return tuple(RtxError("", "", message) for message in messages)


# --- optimization profiles


def _profile_candidates(network: Any, given: Mapping[str, Profile]) -> list[dict[str, Profile]]:
    """Return the optimization profiles to try, the most likely first; a single empty one for static shapes."""
    open_inputs = [
        tensor
        for tensor in _network_inputs(network)
        if tensor.name not in given and (tensor.is_shape_tensor or -1 in tuple(tensor.shape))
    ]
    if not open_inputs:
        return [dict(given)]
    return [
        dict(given) | {tensor.name: _default_profile(tensor, sizes) for tensor in open_inputs}
        for sizes in _DEFAULT_SIZES
    ]


def _default_profile(tensor: Any, sizes: Sequence[int]) -> Profile:
    dims = tuple(tensor.shape)
    if tensor.is_shape_tensor:
        # The values of a shape: as many as the tensor has elements (a scalar has one).
        count = dims[0] if dims else 1
        smallest, usual, longest = ((size,) * count for size in sizes)
    else:
        smallest, usual, longest = (tuple(size if dim < 0 else dim for dim in dims) for size in sizes)
    return smallest, usual, longest


# --- the process's one logger


class _Log:
    """The messages of one build."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.messages: list[tuple[str, str]] = []
        self._parsed = 0

    @property
    def captured(self) -> bool:
        """Whether anything came: a build is never silent."""
        return bool(self.messages)

    def forget_build(self) -> None:
        """Drop what an earlier attempt to build the parsed network said."""
        if not self._parsed:
            self._parsed = len(self.messages)
        del self.messages[self._parsed :]

    def errors(self) -> tuple[str, ...]:
        return self._of(("INTERNAL_ERROR", "ERROR"))

    def warnings(self) -> tuple[str, ...]:
        return self._of(("WARNING",))

    def kernels(self) -> tuple[Kernel, ...] | None:
        found = [text for _, text in self.messages if text.startswith("Layers:\n")]
        return parse_kernels(found[-1], strict=False) if found else None

    def _of(self, severities: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(
                " ".join(text.split())
                for severity, text in self.messages
                if severity in severities and not any(noise in text for noise in _NO_GPU)
            )
        )


# TensorRT keeps the first logger of a process for good (for all messages, or for those that belong to no
# builder, by version), so there is one, and it writes to whichever build is under way; the lock keeps two
# builds from mixing their messages.
_LOCK = threading.RLock()
_LOGGER: Any = None
_CURRENT: list[_Log] = []


@contextmanager
def _capture_log(trt: Any) -> Iterator[_Log]:
    global _LOGGER
    with _LOCK:
        if _LOGGER is None:
            _LOGGER = _make_logger(trt)
        log = _Log(_LOGGER)
        _CURRENT.append(log)
        try:
            yield log
        finally:
            _CURRENT.remove(log)


def _make_logger(trt: Any) -> Any:
    keep_always = {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING, trt.ILogger.INFO}

    class RoutingLogger(trt.ILogger):  # type: ignore[misc]  # the base class comes from a lazy import
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            # The verbose log of a large model is tens of megabytes, of which the listing alone is read.
            if _CURRENT and (severity in keep_always or message.startswith("Layers:\n")):
                _CURRENT[-1].messages.append((severity.name, message))

    return RoutingLogger()
