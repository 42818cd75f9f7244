"""Scale and bias of a normalization: which operands the fused node can take, and which stay behind it."""

from __future__ import annotations

from dataclasses import dataclass

from precision_planner.patterns.match import Operand
from precision_planner.patterns.view import View

Shape = tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether an operand broadcasts into the normalized axes only.

    Attributes:
      operand: how the fused node reads it, None if it cannot.
      reason: why it cannot.
      fatal: a parameter that makes the result larger than x: nothing an affine of a normalization does.
    """

    operand: Operand | None
    reason: str = ""
    fatal: bool = False


def fit(view: View, value: str, x: str, axes: tuple[int, ...], role: str) -> Fit:
    """Decide how `value` can serve as scale or bias of a normalization of `x` over `axes`.

    Args:
      view: the scope.
      value: the operand as it is read.
      x: the normalized value.
      axes: negative, ascending.
      role: what to call it in the reason.
    """
    shape = view.shape(value)
    xshape = view.shape(x) or view.shape(view.root(x))
    if shape is None:
        return Fit(None, f"the shape of {role} '{value}' is unknown")
    grown = _grown(shape, xshape)
    if grown is not None:
        return Fit(None, f"{role} grows the shape {_text(xshape)} to {_text(grown)}", view.is_parameter(value))
    if xshape is None and len(shape) > -axes[0]:
        return Fit(None, f"{role} has {len(shape)} axes and the rank of x is unknown")
    dims: list[int] = []
    for axis in axes:
        have = shape[axis] if -len(shape) <= axis < len(shape) else 1
        want = xshape[axis] if xshape is not None and -len(xshape) <= axis < len(xshape) else None
        if not isinstance(have, int) or (isinstance(want, int) and have != want):
            return Fit(
                None, f"{role} has size {have} along axis {axis} where x has {want if want else 'an unknown size'}"
            )
        if not isinstance(want, int) and have == 1:
            return Fit(None, f"{role} has size 1 along axis {axis} and the size of x is unknown")
        dims.append(have)
    for axis in range(-len(shape), 0):
        if axis not in axes and shape[axis] != 1:
            return Fit(None, f"{role} of shape {_text(shape)} varies along axis {axis}, which is not normalized")
    source, plain = _source(view, value, tuple(dims))
    return Fit(Operand(source, tuple(dims), not plain))


def _source(view: View, value: str, dims: tuple[int, ...]) -> tuple[str, bool]:
    """The value of shape `dims` behind Unsqueeze, Flatten and Reshape, or the value itself, to be reshaped."""
    at = value
    for _ in range(8):
        if view.shape(at) == dims:
            return at, True
        node = view.node(at)
        if node is None or node.op_type not in ("Unsqueeze", "Flatten", "Reshape", "Squeeze", "Identity"):
            break
        at = node.input[0]
    return value, False


def _grown(shape: Shape, xshape: Shape | None) -> Shape | None:
    """What x of `xshape` becomes by broadcasting with `shape`, if that is surely larger; None otherwise."""
    if xshape is None:
        return None
    rank = max(len(shape), len(xshape))
    padded = (1,) * (rank - len(xshape)) + xshape
    other = (1,) * (rank - len(shape)) + shape
    grown = tuple(b if a == 1 and b != 1 else a for a, b in zip(padded, other, strict=True))
    return grown if len(grown) > len(xshape) or grown != padded else None


def _text(shape: Shape | None) -> str:
    return "?" if shape is None else "[" + ",".join("?" if dim is None else str(dim) for dim in shape) + "]"
