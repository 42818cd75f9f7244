"""What a tensor is to the nodes that read it: a gamma, a weight, an embedding, a mask, an epsilon.

A tensor may play several roles (exporters share equal initializers); the one where a wrong value hurts most stands
first.
"""

from __future__ import annotations

from collections.abc import Sequence

from precision_planner.analysis.readers import Read, is_standard
from precision_planner.model import GraphIndex, NodeId
from precision_planner.numerics import TensorStats
from precision_planner.patterns import NORMALIZATIONS, Match

__all__ = ["MASK_FROM", "ROLES", "Patterns", "roles_of"]

MASK_FROM = 1e4
"""The smallest magnitude that masks are made of: exporters write -1e4, -65504, -1e9, -3.4e38 and -inf."""

EPSILON_UNTIL = 1e-2
"""The largest constant taken for an epsilon where no pattern says so: 1e-3 is in use (BatchNormalization)."""

_AFFIX = {
    "layer_normalization": "layernorm",
    "rms_normalization": "rmsnorm",
    "group_normalization": "groupnorm",
    "instance_normalization": "instancenorm",
    "batch_normalization": "batchnorm",
    "mean_variance_normalization": "mvn",
}
_PART = {"scale": "gamma", "bias": "beta", "mean": "mean", "variance": "variance"}

_SLOTS: dict[tuple[str, int], str] = {
    ("MatMul", 0): "matmul_weight", ("MatMul", 1): "matmul_weight", ("Gemm", 0): "matmul_weight",
    ("Gemm", 1): "matmul_weight", ("Gemm", 2): "bias", ("Einsum", 0): "matmul_weight", ("Einsum", 1): "matmul_weight",
    ("Conv", 1): "conv_weight", ("Conv", 2): "bias", ("ConvTranspose", 1): "conv_weight",
    ("ConvTranspose", 2): "bias", ("DeformConv", 1): "conv_weight", ("DeformConv", 3): "bias",
    ("Gather", 0): "embedding", ("GatherElements", 0): "embedding", ("GatherND", 0): "embedding",
    ("LSTM", 1): "recurrent_weight", ("LSTM", 2): "recurrent_weight", ("LSTM", 3): "bias",
    ("GRU", 1): "recurrent_weight", ("GRU", 2): "recurrent_weight", ("GRU", 3): "bias",
    ("RNN", 1): "recurrent_weight", ("RNN", 2): "recurrent_weight", ("RNN", 3): "bias",
    ("LayerNormalization", 1): "layernorm_gamma", ("LayerNormalization", 2): "layernorm_beta",
    ("RMSNormalization", 1): "rmsnorm_gamma", ("SimplifiedLayerNormalization", 1): "rmsnorm_gamma",
    ("GroupNormalization", 1): "groupnorm_gamma", ("GroupNormalization", 2): "groupnorm_beta",
    ("InstanceNormalization", 1): "instancenorm_gamma", ("InstanceNormalization", 2): "instancenorm_beta",
    ("BatchNormalization", 1): "batchnorm_gamma", ("BatchNormalization", 2): "batchnorm_beta",
    ("BatchNormalization", 3): "batchnorm_mean", ("BatchNormalization", 4): "batchnorm_variance",
    ("PRelu", 1): "slope", ("Clip", 1): "bound", ("Clip", 2): "bound", ("Pow", 1): "exponent",
    ("QuantizeLinear", 1): "quantization_scale", ("DequantizeLinear", 1): "quantization_scale",
    ("Resize", 1): "resize", ("Resize", 2): "resize", ("Upsample", 1): "resize", ("Pad", 2): "padding",
    ("OneHot", 2): "scalar", ("Range", 0): "scalar", ("Range", 1): "scalar", ("Range", 2): "scalar",
}  # fmt: skip
"""(Op type, input) -> role, where the operator alone says it."""

ROLES = (
    "epsilon", "mask",
    *(f"{affix}_{part}" for affix in _AFFIX.values() for part in _PART.values()),
    "bias", "conv_weight", "matmul_weight", "recurrent_weight", "embedding", "scale", "slope", "exponent", "bound",
    "quantization_scale", "resize", "padding", "scalar", "fill", "constant", "output", "unused",
)  # fmt: skip
"""Every role, the one that decides first."""


class Patterns:
    """What the recognised normalizations say about the constants that they read.

    Args:
      matches: as `find_patterns` returns them; near misses say nothing.
      index: of the model.
    """

    def __init__(self, matches: Sequence[Match], index: GraphIndex) -> None:
        self._parts: dict[tuple[tuple[str, ...], str], list[tuple[str, Match]]] = {}
        self._inside: dict[NodeId, list[Match]] = {}
        self._index = index
        for match in matches:
            if match.kind not in NORMALIZATIONS or not match.proven:
                continue
            for part, value in match.inputs.items():
                if value and part in _PART:
                    self._parts.setdefault((match.scope, value), []).append((part, match))
            for node in match.nodes:
                self._inside.setdefault(node, []).append(match)

    def role(self, read: Read, stats: TensorStats) -> str | None:
        """The role of a tensor in the normalization that reads it here; None outside of one."""
        node_id = self._index.node_id(read.scope, read.position)
        inside = self._inside.get(node_id, [])
        for part, match in self._parts.get((read.scope.path, read.value), []):
            if match in inside:
                return f"{_AFFIX[match.kind]}_{_PART[part]}"
        if inside and stats.size == 1 and read.node.op_type in ("Add", "Max", "Clip"):
            epsilon = inside[0].attributes.get("epsilon")
            if epsilon is not None and stats.max_abs is not None and _close(stats.max_abs, float(epsilon)):
                return "epsilon"
        return None


def roles_of(
    reads: Sequence[Read], is_returned: bool, stats: TensorStats, dims: Sequence[int], patterns: Patterns, kind: str
) -> tuple[str, ...]:
    """Every role of a tensor, the one that decides first.

    Args:
      reads: who reads it.
      is_returned: whether the model returns it as it is.
      stats: its census.
      dims: its shape.
      patterns: of the model.
      kind: `FloatTensor.kind`.
    """
    found = {patterns.role(read, stats) or _role(read, stats, dims) for read in reads}
    if kind == "fill":
        found = {"mask"} if "mask" in found else {"fill"}
    elif kind == "attribute":
        found = {"constant"}
    elif not found:
        found = {"output" if is_returned else "unused"}
    return tuple(sorted(found, key=ROLES.index))


def _role(read: Read, stats: TensorStats, dims: Sequence[int]) -> str:
    """The role in one node, read off the node and its neighbours."""
    node = read.node
    if not is_standard(node):
        return "scalar" if stats.size == 1 else "constant"
    fixed = _SLOTS.get((node.op_type, read.slot))
    if fixed is not None:
        return fixed
    if node.op_type in ("Min", "Max") and stats.size == 1:
        return "bound"
    if node.op_type in ("Add", "Where", "Mul", "Sub", "Min", "Max") and _is_mask(stats):
        return "mask"
    affine = _affine_of_norm(read)
    if affine and stats.size > 1:
        return affine
    if node.op_type == "Add":
        if stats.size == 1:
            return "epsilon" if _is_epsilon(read, stats) else "scalar"
        return "bias" if _is_vector(dims) else "constant"
    if node.op_type in ("Mul", "Div"):
        return "scale"
    return "scalar" if stats.size == 1 else "constant"


def _is_mask(stats: TensorStats) -> bool:
    """Whether all that is not zero (or one) is of one huge magnitude, or infinite."""
    huge = {exponent: count for exponent, count in stats.exponents.items() if exponent >= 13}
    rest = set(stats.exponents) - set(huge)
    if stats.inf and rest <= {0}:
        return True
    return len(huge) == 1 and rest <= {0} and stats.max_abs is not None and stats.max_abs >= MASK_FROM


def _is_vector(dims: Sequence[int]) -> bool:
    """Whether a tensor runs along one axis: a bias, and not a table of positions."""
    return sum(dim != 1 for dim in dims) <= 1


def _is_epsilon(read: Read, stats: TensorStats) -> bool:
    """Whether a small constant is added to something that is then divided by, rooted or logged."""
    if stats.max_abs is None or not 0 < stats.max_abs <= EPSILON_UNTIL:
        return False
    output = read.node.output[0]
    for _ in range(3):
        uses = read.scope.consumers(output)
        for use in uses:
            after = read.scope.nodes[use.position]
            if after.op_type in ("Sqrt", "Log", "Reciprocal", "Pow") or (after.op_type == "Div" and use.slot == 1):
                return True
        carried = [read.scope.nodes[use.position] for use in uses]
        if len(carried) != 1 or carried[0].op_type not in ("Cast", "Identity", "Expand", "Clip"):
            return False
        output = carried[0].output[0]
    return False


def _affine_of_norm(read: Read) -> str | None:
    """Gamma or beta behind a division by a root, where no pattern was recognised (a near miss, a custom form)."""
    node = read.node
    if node.op_type not in ("Mul", "Add") or len(node.input) != 2:
        return None
    before = read.scope.producer_node(node.input[1 - read.slot])
    if node.op_type == "Mul":
        return "layernorm_gamma" if before is not None and _is_normalizing(read, before.output[0]) else None
    if before is None or before.op_type != "Mul":
        return None
    if any(_is_normalizing(read, name) for name in before.input):
        return "layernorm_beta"
    return None


def _is_normalizing(read: Read, value: str) -> bool:
    """Whether a value is a difference divided by a root."""
    node = read.scope.producer_node(value)
    if node is None or node.op_type not in ("Div", "Mul") or len(node.input) != 2:
        return False
    makers = [read.scope.producer_node(name) for name in node.input]
    wanted = ("Sqrt",) if node.op_type == "Div" else ("Reciprocal",)
    return any(maker is not None and maker.op_type in wanted for maker in makers)


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
