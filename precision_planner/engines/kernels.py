"""The kernels of an engine, read from the layer listing that the builder logs.

With detailed profiling TensorRT-RTX logs one line per fused kernel: its name, kind, inputs, constants and
outputs with their types, and the ONNX nodes it computes. That listing is the proof of what precision an
engine has, and needs no GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FIELD = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: \[(?P<inputs>.*?)\], "
    r"(?:Constants: \[(?P<constants>.*?)\], )?Outputs: \[(?P<outputs>.*?)\](?=, (?:TacticName|ParameterType): )"
    # copies of shapes to the device have no constants and no tactic; jumps of If and Loop name their targets
    r"(?:, TacticName: (?P<tactic>.*?)(?=, StreamId: ))?(?:, (?!StreamId)\w+: .*?)?"
    r", StreamId: -?\d+(?:, \w+: [^,]*?)*?, Metadata: ?(?P<metadata>.*)$"
)
_SEPARATORS = (", LayerType: ", ", Inputs: [", "], Constants: [", "], Outputs: [", ", TacticName: ", ", StreamId: ")
_MOST = 8
"""How often a separator may stand in a line, names included: what is tried grows with the product of these."""

_BEGIN = "{ Name: "
_TENSOR = re.compile(r"(?P<name>.*?), Dimensions: \[(?P<dims>[-\d,]*)\].*?Datatype: (?P<dtype>\w+)")
# What follows the layers: TensorRT-RTX 1.4 calls the interface Bindings, later versions I/O Tensors.
_END = re.compile(r"\n(?:Bindings|I/O Tensors):")
# Fused layers separate the entries by a control character: 0x1e or, within a kernel, 0x1f.
_IN_A_BODY = re.compile(r" \| [^|]*\((?:then_branch|else_branch|body)\)(?: \| [^|]*)*$")
_NODE, _CONTROLS = "[ONNX Layer: ", "\x1e\x1f"


@dataclass(frozen=True, slots=True)
class KernelTensor:
    """A tensor that a kernel reads or writes.

    Attributes:
      name: the builder's name; an interface tensor keeps its ONNX name.
      dims: -1 where dynamic.
      dtype: TensorRT's name: "Half", "BFloat16", "Float", "Int64", ...
    """

    name: str
    dims: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of an engine.

    Attributes:
      name: the builder's name, such as `_gemm_mha_v2_myl0_8`.
      kind: the builder's LayerType: "gemm", "kgen" (generated), "cast", "shape_call", ...
      inputs: what it reads.
      constants: the weights it holds.
      outputs: what it writes.
      tactic: the implementation's name.
      nodes: the names of the ONNX nodes it computes (`node_of_<output>` for unnamed ones).
    """

    name: str
    kind: str
    inputs: tuple[KernelTensor, ...]
    constants: tuple[KernelTensor, ...]
    outputs: tuple[KernelTensor, ...]
    tactic: str
    nodes: tuple[str, ...]

    @property
    def is_fused_attention(self) -> bool:
        """Whether the kernel is a whole attention: QK^T, softmax and PV in one."""
        return "_mha" in self.name


def parse_kernels(listing: str, *, strict: bool = True) -> tuple[Kernel, ...]:
    """Read the kernels from a layer listing, in execution order.

    Args:
      listing: the log message that begins with "Layers:".
      strict: refuse what cannot be read. Otherwise such a line is a kernel of the kind "unread", of which its name
        alone is known: an engine that was built is reported, whatever a new version writes of it.

    Raises:
      ValueError: a line that begins like a kernel cannot be read, because another version writes it
        differently; a kernel is never left out in silence.
    """
    # not splitlines(), which ends a line at the 0x1e that separates nodes in the metadata
    lines = _END.split(listing.partition("Layers:")[2])[0].split("\n")
    return tuple(_parse_kernel(line, strict) for line in lines if line.strip())


def parse_nodes(metadata: str) -> tuple[str, ...]:
    """Return the ONNX node names in a layer's metadata, in its order.

    `[ONNX Layer: a][ONNX Layer: b]` gives `("a", "b")`. A name may itself hold brackets; only a bracket that
    ends an entry does so. Of a node in a body, `[ONNX Layer: a | graph (then_branch) | holder (If)]` gives `("a",)`.
    """
    nodes: list[str] = []
    held: list[str] = []
    for part in metadata.split(_NODE)[1:]:
        whole = part.rstrip(_CONTROLS)
        if whole.endswith("]"):
            nodes.append(_IN_A_BODY.sub("", _NODE.join([*held, whole[:-1]])))
            held.clear()
        else:
            held.append(part)  # of a name that holds what begins an entry
    return tuple(nodes)


def _parse_kernel(line: str, strict: bool) -> Kernel:
    clear = all(line.count(separator) <= _MOST for separator in _SEPARATORS)
    match = _FIELD.match(line.strip()) if clear else None
    if match is None and not strict:
        name = line.strip().removeprefix("Name: ").partition(", LayerType: ")[0]
        return Kernel(name[:200], "unread", (), (), (), "", parse_nodes(line.rpartition("Metadata:")[2].strip()))
    if match is None:
        raise ValueError(f"not a kernel of a TensorRT layer listing: {line[:200]!r}")
    return Kernel(
        name=match["name"],
        kind=match["kind"],
        inputs=_parse_tensors(match["inputs"]),
        constants=_parse_tensors(match["constants"] or ""),
        outputs=_parse_tensors(match["outputs"]),
        tactic=match["tactic"] or "",
        nodes=parse_nodes(match["metadata"]),
    )


def _parse_tensors(text: str) -> tuple[KernelTensor, ...]:
    return tuple(
        KernelTensor(found["name"], tuple(_dim(dim) for dim in found["dims"].split(",") if dim), found["dtype"])
        for part in text.split(_BEGIN)[1:]
        if part.count(", Dimensions: [") <= _MOST and (found := _TENSOR.match(part))
    )


def _dim(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no dimension") from None
