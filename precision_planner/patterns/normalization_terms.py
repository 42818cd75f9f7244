"""The terms normalizations are made of, recognised by what they compute, whatever the spelling.

mean(x), x - mean(x), d*d, mean(d*d), and sums of these. What is made of them stands in `variances` and `products`.
Each recogniser returns the term with the nodes it used, a `Near` that says what differs, or None for something else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from precision_planner.patterns.view import View, attribute_int, axes_text

Nodes = frozenset[int]
_NONE: Nodes = frozenset()


@dataclass(frozen=True, slots=True)
class Near:
    """Almost the term, with the condition that fails and the value found."""

    reason: str
    nodes: Nodes = _NONE
    kind: str = "layer"


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of `source` over `axes`; `kept`: the axes are there with size 1 (kept, or put back by a Reshape)."""

    source: str
    axes: tuple[int, ...]
    nodes: Nodes
    node: int
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Center:
    """sign * (x - mean(x))."""

    x: str
    mean: Mean
    sign: int
    nodes: Nodes


@dataclass(frozen=True, slots=True)
class Variance:
    """The variance of x ('layer'), or the mean of its square ('rms'), plus eps."""

    kind: str
    x: str
    axes: tuple[int, ...]
    epsilon: float
    mean: Mean | None
    nodes: Nodes


class Terms:
    """Recognises terms in one scope, each value once."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._means: dict[str, Mean | Near | None] = {}
        self._centers: dict[str, Center | Near | None] = {}

    # -- mean ------------------------------------------------------------------------------------------------------

    def mean(self, value: str) -> Mean | Near | None:
        """The mean of a source over axes that are kept: ReduceMean, ReduceSum over the count, GlobalAveragePool."""
        root = self.view.root(value)
        if root not in self._means:
            self._means[root] = self._mean(root)
        found, path = self._means[root], self.view.path(value)
        if isinstance(found, Mean) and path:
            return replace(found, nodes=found.nodes | set(path))
        return found

    def _mean(self, value: str) -> Mean | Near | None:
        reduced = self._reduced(value, "Mean")
        if reduced is None:
            return None
        if isinstance(reduced, Near):
            return reduced
        source, axes, keepdims, nodes, node = reduced
        return Mean(source, axes, nodes, node, keepdims)

    def without_axes(self, mean: Mean) -> Near:
        """What to say of a mean whose axes are gone where they are needed."""
        return Near(f"keepdims is 0 in {self.view.name(mean.node)}", mean.nodes)

    def _reduced(self, value: str, what: str) -> tuple[str, tuple[int, ...], bool, Nodes, int] | Near | None:
        """A mean of `source` ('Mean') or of its square by ReduceSumSquare ('MeanSquare')."""
        view = self.view
        value, path = view.root(value), frozenset(view.path(value))
        node = view.node(value)
        if node is None:
            return None
        at = view.position(value)
        match node.op_type:
            case "ReduceMean" if what == "Mean":
                axes = view.axes(node, node.input[0])
                if axes is None:
                    return None
                if isinstance(axes, str):
                    return Near(axes, path | {at})
                return node.input[0], axes, attribute_int(node, "keepdims", 1) != 0, path | {at}, at
            case "GlobalAveragePool" if what == "Mean":
                rank = view.rank(node.input[0])
                if rank is None:
                    return None
                return node.input[0], tuple(range(2 - rank, 0)), True, path | {at}, at
            case "Unsqueeze":
                inner = self._reduced(node.input[0], what)
                if not isinstance(inner, tuple):
                    return inner
                source, axes, keepdims, nodes, reduce = inner
                restored = _unsqueeze_axes(view, node, source)
                if keepdims or restored != axes:
                    return None
                return source, axes, True, nodes | path | {at}, reduce
            case "Reshape" | "Expand":
                inner = self._reduced(node.input[0], what)
                if not isinstance(inner, tuple):
                    return inner
                source, axes, keepdims, nodes, reduce = inner
                used = self.put_back(value, Mean(source, axes, nodes, reduce, keepdims))
                return None if used is None else (source, axes, True, nodes | path | used, reduce)
            case "Div" | "Mul":
                return self._counted(node, at, path, what)
            case _:
                return None

    def put_back(self, value: str, mean: Mean) -> Nodes | None:
        """The nodes that give a reduced value its axes back (Unsqueeze, Reshape) or repeat it as x has it (Expand).

        The Reshape's shape is that of the reduced value with a 1 for each reduced axis, by known shapes or written as
        Concat(Shape(reduced), 1), as jax2tf and tf2onnx do; the Expand's is the same shape again, or Shape(x).

        Args:
          value: the output of the Unsqueeze, Reshape or Expand.
          mean: what is in it: its source and axes, and whether they are kept so far.

        Returns:
          The positions used; None where neither is proven.
        """
        view, node = self.view, self.view.node(value)
        if node is None:
            return None
        own = frozenset({view.position(value)})
        if node.op_type == "Unsqueeze" and not mean.kept:
            return own if _unsqueeze_axes(view, node, mean.source) == mean.axes else None
        if node.op_type == "Expand" and mean.kept:
            inner, shape_of = view.node(view.root(node.input[0])), view.node(node.input[1])
            if inner is not None and inner.op_type == "Reshape" and view.same(inner.input[1], node.input[1]):
                return own
            whole = shape_of is not None and shape_of.op_type == "Shape" and not shape_of.attribute
            base = self._base(mean.source)
            if whole and shape_of is not None and view.same(shape_of.input[0], base):
                return own | {view.position(node.input[1])}
            return None
        if node.op_type != "Reshape" or mean.kept:
            return None
        written = self._size_with_ones(node, mean)
        if self._sizes_with_ones(mean) == view.shape(value) is not None:
            return own | (written or _NONE)
        return None if written is None else own | written

    def _sizes_with_ones(self, mean: Mean) -> tuple[int | str | None, ...] | None:
        """The sizes of the source with 1 for each axis of the mean; None where one of them is unknown."""
        wanted = self.view.shape(mean.source)
        if wanted is None:
            return None
        ones = {axis % len(wanted) for axis in mean.axes}
        sizes = tuple(1 if axis in ones else size for axis, size in enumerate(wanted))
        return None if None in sizes else sizes

    def _size_with_ones(self, reshape: onnx.NodeProto, mean: Mean) -> Nodes | None:
        """The nodes that write a Reshape's shape as Concat(Shape(reduced), 1); None where it is not written so."""
        view = self.view
        joined = view.node(reshape.input[1])
        if joined is None or joined.op_type != "Concat" or mean.axes != tuple(range(1 - len(joined.input), 0)):
            return None
        shape_of, behind = view.node(joined.input[0]), [view.constant(name) for name in joined.input[1:]]
        if shape_of is None or shape_of.op_type != "Shape" or shape_of.attribute:
            return None
        if any(one is None or one.size != 1 or int(one.reshape(())) != 1 for one in behind):
            return None
        like = self.mean(shape_of.input[0])
        same = view.same(shape_of.input[0], reshape.input[0]) or (
            isinstance(like, Mean)
            and not like.kept
            and like.axes == mean.axes
            and view.same(self._base(like.source), self._base(mean.source))
        )
        return frozenset({view.position(reshape.input[1]), view.position(joined.input[0])}) if same else None

    def _base(self, source: str) -> str:
        """x, where a mean is of x or of x*x: both have the same shape."""
        square = self.square(source)
        return square[0] if isinstance(square, tuple) else source

    def _counted(
        self, node: onnx.NodeProto, at: int, path: Nodes, what: str
    ) -> tuple[str, tuple[int, ...], bool, Nodes, int] | Near | None:
        view = self.view
        op = "ReduceSum" if what == "Mean" else "ReduceSumSquare"
        pairs = [(0, 1)] if node.op_type == "Div" else [(0, 1), (1, 0)]
        for first, second in pairs:
            total, count = node.input[first], node.input[second]
            root = view.root(total)
            reduce = view.node(root)
            if reduce is None or reduce.op_type != op:
                continue
            source = reduce.input[0]
            axes = view.axes(reduce, source)
            position = view.position(root)
            nodes = path | {at, position} | set(view.path(total))
            if axes is None:
                return None
            if isinstance(axes, str):
                return Near(axes, nodes)
            wrong = self._wrong_count(count, source, axes, inverse=node.op_type == "Mul")
            if wrong is not None:
                return Near(wrong, nodes)
            return source, axes, attribute_int(reduce, "keepdims", 1) != 0, nodes, position
        return None

    def _wrong_count(self, value: str, source: str, axes: tuple[int, ...], *, inverse: bool) -> str | None:
        """Why `value` is not the number of elements along `axes` (or its inverse); None if it is."""
        view = self.view
        shape = view.shape(source) or view.shape(view.root(source))
        dims = None if shape is None or any(axis >= 0 for axis in axes) else [shape[axis] for axis in axes]
        constant = view.scalar(value, view.rank(source))
        if constant is None:
            if not inverse and self._is_dynamic_count(value, source, axes):
                return None
            return f"the divisor of the sum comes from {view.describe(value)}"
        if dims is None or not all(isinstance(dim, int) for dim in dims):
            return f"the sum is divided by {constant:g} and the size of {axes_text(axes)} is unknown"
        count = 1
        for dim in dims:
            count *= int(dim)  # type: ignore[arg-type]
        if inverse:
            array = view.constant(value)
            limit = 2.0**-24 if array is None or array.dtype.itemsize >= 4 else 2.0**-11
            return (
                None if abs(constant * count - 1) <= limit * 2 else f"the sum is scaled by {constant:g}, not 1/{count}"
            )
        if constant == count:
            return None
        hint = " (N-1 variance)" if constant == count - 1 else ""
        return f"the sum over {count} elements is divided by {constant:g}{hint}"

    def _is_dynamic_count(self, value: str, source: str, axes: tuple[int, ...]) -> bool:
        """Whether a value is computed as the product of shape(source) over `axes`."""
        view, at = self.view, value
        for _ in range(8):
            node = view.node(at)
            if node is None or not node.input:
                return False
            if node.op_type in ("Cast", "Identity", "Squeeze", "Unsqueeze", "ReduceProd"):
                at = node.input[0]
                continue
            shape_of = view.node(node.input[0])
            if node.op_type == "Gather" and shape_of is not None and shape_of.op_type == "Shape":
                picked = view.constant(node.input[1])
                rank = view.rank(source)
                if picked is None or any(a.name in ("start", "end") for a in shape_of.attribute):
                    return False
                if rank is not None:
                    picked = np.where(picked >= 0, picked - rank, picked)
                picked_axes = tuple(sorted(int(i) for i in picked.reshape(-1)))
                return picked_axes == axes and self._same_sizes(shape_of.input[0], source, axes)
            return False
        return False

    def _same_sizes(self, a: str, b: str, axes: tuple[int, ...]) -> bool:
        """Whether two values surely have the same sizes along `axes`: b may be (a - mean) squared."""
        view = self.view
        first, second = view.shape(a), view.shape(b)
        if first is not None and second is not None and len(first) == len(second):
            return all(first[axis] is not None and first[axis] == second[axis] for axis in axes)
        square = self.square(b)
        base = square[0] if isinstance(square, tuple) else b
        center = self.center(base)
        return view.same(a, center.x if isinstance(center, Center) else base)

    # -- center ----------------------------------------------------------------------------------------------------

    def center(self, value: str) -> Center | Near | None:
        """+-(x - mean(x)), as Sub either way round or Add of a negated mean."""
        root = self.view.root(value)
        if root not in self._centers:
            self._centers[root] = self._center(root)
        found, path = self._centers[root], self.view.path(value)
        if isinstance(found, Center) and path:
            return Center(found.x, found.mean, found.sign, found.nodes | set(path))
        return found

    def _center(self, value: str) -> Center | Near | None:
        view, node = self.view, self.view.node(value)
        if node is None or node.op_type not in ("Sub", "Add") or len(node.input) != 2:
            return None
        at, near = view.position(value), None
        for first, second in ((0, 1), (1, 0)):
            x, other = node.input[first], node.input[second]
            sign, nodes = 1, frozenset({at})
            if node.op_type == "Add":
                negated = self.negated(other)
                if negated is None:
                    continue
                other, extra = negated
                nodes |= extra
            elif first == 1:
                sign = -1
            mean = self.mean(other)
            if isinstance(mean, Near) and near is None:
                near = Near(mean.reason, mean.nodes | nodes)
            if isinstance(mean, Mean) and not mean.kept:
                near = near or Near(self.without_axes(mean).reason, mean.nodes | nodes)
            elif isinstance(mean, Mean):
                if view.same(mean.source, x):
                    return Center(x, mean, sign, mean.nodes | nodes)
                near = near or Near(
                    f"{view.name(mean.node)} is the mean of '{mean.source}', not of '{x}'", mean.nodes | nodes
                )
        return near

    def negated(self, value: str) -> tuple[str, Nodes] | None:
        """u, where `value` is -u: Neg, Mul or Div by -1, 0 - u."""
        view = self.view
        root, path = view.root(value), frozenset(view.path(value))
        node = view.node(root)
        if node is None:
            return None
        at = frozenset({view.position(root)}) | path
        if node.op_type == "Neg":
            return node.input[0], at
        if node.op_type in ("Mul", "Div") and view.scalar(node.input[1]) == -1:
            return node.input[0], at
        if node.op_type == "Mul" and view.scalar(node.input[0]) == -1:
            return node.input[1], at
        if node.op_type == "Sub" and view.scalar(node.input[0]) == 0:
            return node.input[1], at
        return None

    # -- square ----------------------------------------------------------------------------------------------------

    def square(self, value: str) -> tuple[str, Nodes] | Near | None:
        """u, where `value` is u*u: Pow with exponent 2 of any type, or Mul of a value with itself."""
        view = self.view
        root, path = view.root(value), frozenset(view.path(value))
        node = view.node(root)
        if node is None:
            return None
        nodes = path | {view.position(root)}
        if node.op_type == "Pow":
            exponent = view.scalar(node.input[1], view.rank(node.input[0]))
            if exponent is None:
                array = view.constant(node.input[1])
                found = f"has shape {list(array.shape)}" if array is not None else f"is {view.describe(node.input[1])}"
                return Near(f"the exponent of {view.name(view.position(root))} {found}", nodes)
            if exponent != 2:
                return Near(f"exponent is {exponent:g}", nodes)
            return self._without_abs(node.input[0], nodes)
        if node.op_type == "Mul":
            a, b = node.input
            if view.same(a, b):
                return self._without_abs(a, nodes)
            first, second = self.center(a), self.center(b)
            if isinstance(first, Center) and isinstance(second, Center):
                if view.same(first.x, second.x) and first.mean.axes == second.mean.axes:
                    if first.sign == second.sign:
                        return a, nodes | second.nodes
                    return Near("the square multiplies x - mean by mean - x", nodes)
                return Near(f"the square multiplies '{a}' by '{b}'", nodes)
            if isinstance(first, Center) or isinstance(second, Center):
                return Near(f"the square multiplies '{a}' by '{b}'", nodes)
        return None

    def _without_abs(self, value: str, nodes: Nodes) -> tuple[str, Nodes]:
        node = self.view.node(self.view.root(value))
        if node is not None and node.op_type == "Abs":
            return node.input[0], nodes | {self.view.position(self.view.root(value))} | set(self.view.path(value))
        return value, nodes

    def mean_square(self, value: str) -> tuple[str, Mean] | Near | None:
        """(u, the mean) where `value` is mean(u*u)."""
        mean = self.mean(value)
        if isinstance(mean, Mean):
            square = self.square(mean.source)
            if isinstance(square, tuple):
                return square[0], replace(mean, nodes=mean.nodes | square[1])
            return Near(square.reason, mean.nodes | square.nodes) if isinstance(square, Near) else None
        if isinstance(mean, Near):
            return mean
        reduced = self._reduced(value, "MeanSquare")
        if isinstance(reduced, tuple):
            source, axes, keepdims, nodes, node = reduced
            return source, Mean(source, axes, nodes, node, keepdims)
        return reduced

    # -- variance plus eps -----------------------------------------------------------------------------------------

    def summands(self, value: str, depth: int = 6) -> tuple[list[tuple[int, str]], set[int]]:
        """The signed summands of a value, and the nodes that add them."""
        view = self.view
        root = view.root(value)
        node = view.node(root)
        if depth == 0 or node is None or node.op_type not in ("Add", "Sub", "Neg", "Sum"):
            return [(1, value)], set()
        nodes = {view.position(root), *view.path(value)}
        out: list[tuple[int, str]] = []
        for slot, name in enumerate(node.input):
            sign = -1 if node.op_type == "Neg" or (node.op_type == "Sub" and slot == 1) else 1
            inner, more = self.summands(name, depth - 1)
            out += [(sign * each, term) for each, term in inner]
            nodes |= more
        return out, nodes


def _unsqueeze_axes(view: View, node: onnx.NodeProto, source: str) -> tuple[int, ...] | None:
    """The axes that an Unsqueeze inserts, counted in the rank of `source`, negative where that is known."""
    raw: list[int] = []
    if len(node.input) > 1:
        array = view.constant(node.input[1])
        if array is None:
            return None
        raw = [int(axis) for axis in array.reshape(-1)]
    else:
        raw = [axis for attribute in node.attribute if attribute.name == "axes" for axis in attribute.ints]
    rank = view.rank(source)
    if rank is not None:
        raw = [axis - rank if axis >= 0 else axis for axis in raw]
    return tuple(sorted(raw))
