"""The layers of any engine, as TensorRT's inspector, trtexec or a builder's log tell them.

One shape for what 8.4 to 11 and TensorRT-RTX write: the keys stayed (`Layers`, `Name`, `LayerType`, `Inputs`,
`Outputs`, `TacticName`, `Metadata`), what a tensor's type is called did not:

| written by | type of a tensor |
|---|---|
| 8.x, interface tensors of 10.x | `"Format/Datatype": "Row major linear FP16 format"` |
| 8.x, dynamic shapes without a context | `"Format/Datatype": "N/A due to dynamic shapes"` |
| 10.x | `"Format/Datatype": "Half"` |
| 10.13 and newer, TensorRT-RTX | `"Datatype": "Half", "Format": "Row major linear format"` |

Without detailed profiling verbosity a layer is its name alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from precision_planner._reading import parse_json
from precision_planner.engines.kernels import parse_kernels, parse_nodes
from precision_planner.errors import EngineError

# In this order: "BFloat16" holds "Float", and "UInt8" holds "Int8".
_TYPES = (
    ("bf16", re.compile(r"BF16|BFloat16", re.IGNORECASE)),
    ("fp16", re.compile(r"FP16|Half|Float16", re.IGNORECASE)),
    ("fp8", re.compile(r"FP8|E4M3|E5M2", re.IGNORECASE)),
    ("fp4", re.compile(r"FP4|E2M1", re.IGNORECASE)),
    ("fp32", re.compile(r"FP32|TF32|Float", re.IGNORECASE)),
    ("int", re.compile(r"Int64|Int32|UInt8|Bool", re.IGNORECASE)),
    ("int8", re.compile(r"Int8", re.IGNORECASE)),
    ("int4", re.compile(r"Int4", re.IGNORECASE)),
)
FLOATS = frozenset({"fp32", "fp16", "bf16", "fp8", "fp4", "int8", "int4"})
"""Types that a layer computes with: quantized integers too, indices and conditions not."""

# What a tactic's name says of its operands where the inspector says nothing: f16f16_f16f32, h884cudnn, hmma, _fp16.
_TACTIC = (
    ("bf16", re.compile(r"bf16bf16|_bf16", re.IGNORECASE)),
    ("fp16", re.compile(r"f16f16|h884|h1688|h16816|hmma|_fp16", re.IGNORECASE)),
    ("int8", re.compile(r"i8i8|i8f32|i8816|imma|_int8", re.IGNORECASE)),
    ("fp32", re.compile(r"f32f32|tf32|_fp32|scudnn|sgemm", re.IGNORECASE)),
)

# Layers that move or hold values and compute nothing: their share says nothing about precision.
_MOVES = frozenset(
    {"reformat", "noop", "constant", "shape_call", "shape", "shapehostcopy", "signal", "wait", "trainstation", "cast"}
)


@dataclass(frozen=True, slots=True)
class EngineTensor:
    """A tensor between layers.

    Attributes:
      name: the builder's name.
      dtype: 'fp32', 'fp16', 'bf16', 'fp8', 'int8', 'int' (any other integer or bool), or '' where nothing says.
    """

    name: str
    dtype: str


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer (or fused kernel) of an engine.

    Attributes:
      name: the builder's name.
      kind: its LayerType, '' where only the name is known.
      inputs: what it reads.
      outputs: what it writes.
      tactic: the implementation's name, or ''.
      nodes: the ONNX nodes it computes, as far as the metadata (or, in 8.x, the name) tells.
      ms: milliseconds a run, None where no profile was given.
    """

    name: str
    kind: str
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    tactic: str
    nodes: tuple[str, ...]
    ms: float | None = None

    @property
    def computes(self) -> bool:
        """Whether it computes something, rather than moving or holding values."""
        if self.kind.replace(" ", "").lower() in _MOVES or self.name.startswith("[trainStation"):
            return False
        if self.name.startswith("Reformatting CopyNode") or "[DevicetoShapeHostCopy]" in self.name:
            return False
        return self.precision != "int"

    @property
    def precision(self) -> str:
        """What it computes in, by what it writes: a type, 'mixed', 'int' for no floats, '' where nothing tells."""
        types = {tensor.dtype for tensor in self.outputs}
        floats = types & FLOATS
        if len(floats) == 1:
            return floats.pop()
        if floats:
            return "mixed"
        if types - {""}:
            return "int"
        return next((name for name, pattern in _TACTIC if pattern.search(self.tactic)), "")

    @property
    def inferred(self) -> bool:
        """Whether the precision is a guess from the tactic's name, because no type is given."""
        return bool(self.precision) and not any(tensor.dtype for tensor in self.outputs)

    @property
    def is_fused_attention(self) -> bool:
        """Whether it is a whole attention: QK^T, softmax and PV in one kernel."""
        return bool(re.search(r"_mha|fmha|fused_attention|flash_attn", f"{self.name} {self.tactic}", re.IGNORECASE))


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An engine, seen from outside.

    Attributes:
      layers: in execution order.
      source: where it comes from, for messages.
      names_only: the engine was built without detailed profiling verbosity, so that nothing but names is known.
    """

    layers: tuple[EngineLayer, ...]
    source: str
    names_only: bool = False


def read_layers(text: str, source: str, profile: str | None = None) -> EngineInfo:
    """Read exported layer information.

    Args:
      text: JSON of trtexec --exportLayerInfo or of the inspector, or a builder's log with a "Layers:" listing.
      source: the file's name, for messages.
      profile: JSON of trtexec --exportProfile, for the layers' times.

    Raises:
      EngineError: neither of these, or the profile is of another engine.
    """
    is_log = re.search(r"Layers:\n\s*Name: ", text) is not None
    info = EngineInfo(_from_log(text), source) if is_log else _from_json(text, source)
    if not info.layers:
        raise EngineError(f"{source} lists no layers; export them with trtexec --exportLayerInfo={source}")
    return info if profile is None else with_times(info, profile)


def with_times(info: EngineInfo, profile: str) -> EngineInfo:
    """Give the layers the times of a trtexec --exportProfile file; layers are matched by name, in order."""
    try:
        entries = parse_json(profile)
    except ValueError as error:
        raise EngineError(f"the profile is not JSON ({error}); write one with trtexec --exportProfile=FILE") from None
    times: dict[str, list[float]] = {}
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            ms = entry.get("averageMs")
            times.setdefault(entry["name"], []).append(float(ms) if isinstance(ms, (int, float)) else 0.0)
    layers, found = [], 0
    for layer in info.layers:
        queue = times.get(layer.name)
        found += queue is not None
        layers.append(_timed(layer, queue.pop(0) if queue else None))
    if not found:
        raise EngineError(f"the profile names none of the {len(layers)} layers of {info.source}: another engine's?")
    return EngineInfo(tuple(layers), info.source, info.names_only)


def _timed(layer: EngineLayer, ms: float | None) -> EngineLayer:
    return EngineLayer(layer.name, layer.kind, layer.inputs, layer.outputs, layer.tactic, layer.nodes, ms)


def _from_json(text: str, source: str) -> EngineInfo:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise EngineError(
            f"{source} is neither an engine nor JSON ({error}); give an engine file or what "
            "trtexec --exportLayerInfo=FILE --profilingVerbosity=detailed wrote"
        ) from None
    entries = data.get("Layers") if isinstance(data, dict) else data
    if not isinstance(entries, list):
        raise EngineError(f"{source} has no list of Layers; write one with trtexec --exportLayerInfo=FILE")
    if entries and all(isinstance(entry, dict) and "averageMs" in entry for entry in entries[1:]) and len(entries) > 1:
        raise EngineError(f"{source} is a profile; give the layer information, and this as --profile")
    layers = tuple(_layer(entry) for entry in entries if isinstance(entry, (str, dict)))
    return EngineInfo(layers, source, bool(entries) and all(isinstance(entry, str) for entry in entries))


def _layer(entry: str | Mapping[str, Any]) -> EngineLayer:
    if isinstance(entry, str):
        return EngineLayer(entry, "", (), (), "", _nodes_of_name(entry))
    name = str(entry.get("Name", ""))
    metadata = str(entry.get("Metadata") or "")
    return EngineLayer(
        name=name,
        kind=str(entry.get("LayerType", "")),
        inputs=_tensors(entry.get("Inputs")),
        outputs=_tensors(entry.get("Outputs")),
        tactic=str(entry.get("TacticName") or ""),
        nodes=parse_nodes(metadata) or _nodes_of_name(name),
    )


def _tensors(entries: Any) -> tuple[EngineTensor, ...]:
    return tuple(
        EngineTensor(
            str(entry.get("Name", "")), type_of(str(entry.get("Datatype") or entry.get("Format/Datatype", "")))
        )
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, Mapping)
    )


def type_of(text: str) -> str:
    """The type that a spelling of any version means; '' where it tells none."""
    return next((name for name, pattern in _TYPES if pattern.search(text)), "")


def _nodes_of_name(name: str) -> tuple[str, ...]:
    """The nodes in a fused layer's name, as 8.x joins them: `a + b`, `PWN(a, b)`; nothing for what it made itself."""
    begin, end = name.find("{ForeignNode["), name.rfind("]}")
    inner = name if begin < 0 or end < begin else name[:begin] + name[begin + 13 : end] + name[end + 2 :]
    inner = re.sub(r"\bPWN\(|\)(?=$|\s*[+,)])", " ", inner)
    words = (word.strip(" ()") for word in re.split(r" \+ |, |\.\.\.", inner))
    return tuple(
        word for word in words if word and "Unnamed Layer*" not in word and not word.startswith(("[", "Reform"))
    )


def _from_log(text: str) -> tuple[EngineLayer, ...]:
    """The last listing of a builder's log: TensorRT-RTX writes one for each build."""
    # not splitlines(), which ends a line at the 0x1e that separates nodes in the metadata
    lines = text.rpartition("Layers:\n")[2].split("\n")
    listing = []
    for line in lines:
        if not line.strip().startswith("Name: "):
            break
        listing.append(line)
    try:
        kernels = parse_kernels("Layers:\n" + "\n".join(listing))
    except ValueError as error:
        raise EngineError(f"the layer listing of this log cannot be read: {error}; is it cut short?") from None
    return tuple(
        EngineLayer(
            kernel.name,
            kernel.kind,
            tuple(EngineTensor(tensor.name, type_of(tensor.dtype)) for tensor in kernel.inputs),
            tuple(EngineTensor(tensor.name, type_of(tensor.dtype)) for tensor in kernel.outputs),
            kernel.tactic,
            kernel.nodes,
        )
        for kernel in kernels
    )
