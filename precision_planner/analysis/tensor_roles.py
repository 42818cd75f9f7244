"""What a tensor is to the nodes that read it: a gamma, a weight, an embedding, a mask, an epsilon.

A tensor may play several roles (exporters share equal initializers); the one where a wrong value hurts most stands
first.
"""

from __future__ import annotations

from collections.abc import Sequence

from precision_planner.model import GraphIndex, NodeId
from precision_planner.model.flow import Read
from precision_planner.numerics import TensorStats
from precision_planner.operators import Operator, carries, combines, row_of
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
_NORMALIZED = {kind: f"{kind}norm" for kind in ("layer", "rms", "group", "instance", "batch")}
_WEIGHTS = {"convolution": "conv_weight", "recurrent": "recurrent_weight"}
_PART = {"scale": "gamma", "bias": "beta", "mean": "mean", "variance": "variance"}

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
        if inside and stats.size == 1 and row_of(read.node).lifts:
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
    node, row = read.node, row_of(read.node)
    fixed = _fixed_role(row, read.slot)
    if fixed:
        return fixed
    if row.domain or not row.name:
        return "scalar" if stats.size == 1 else "constant"
    if node.op_type in ("Min", "Max") and stats.size == 1:
        return "bound"
    if (combines(node) or node.op_type == "Mul") and _is_mask(stats):
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


def _fixed_role(row: Operator, slot: int) -> str:
    """The role that the operator alone says: a part of a normalization, a weight by the kind of its product."""
    role = row.weights.get(slot, "")
    if role == "weight":
        return _WEIGHTS.get(row.product, "matmul_weight")
    if row.normalizes in _NORMALIZED and role in _PART:
        return f"{_NORMALIZED[row.normalizes]}_{_PART[role]}"
    return "embedding" if role == "table" else role


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
            if use.slot in row_of(after).denominators or after.op_type == "Pow":
                return True
        if len(uses) != 1:
            return False
        carried = read.scope.nodes[uses[0].position]
        if not carries(carried, uses[0].slot) and carried.op_type != "Clip":
            return False
        output = carried.output[0]
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
