"""Normalizations in every spelling: how they are written is drawn, what they compute is known.

`write` makes the ONNX model of a `Spelling`; `truth` computes, from the definition in numpy float64, what a sound
spelling has to give. A `fault` makes it something else that looks much the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.patterns.builder import Graph

SHAPE = (2, 5, 8)
FAULTS = (
    "exponent 3",
    "exponent 4",
    "Sub swapped",
    "Div swapped",
    "multiplied by the root",
    "eps after the root",
    "eps a vector",
    "eps a run-time input",
    "eps an overridable initializer",
    "eps missing",
    "eps negative",
    "keepdims=0",
    "N-1 variance",
    "mean of another tensor",
    "variance of another tensor",
    "second mean over axis -2",
    "first mean over axis -2",
    "mean read elsewhere",
    "x - mean a graph output",
    "variance captured by a body",
    "gamma grows the shape",
    "mean added",
    "root of the root",
)


@dataclass(frozen=True)
class Spelling:
    norm: str = "layer"
    opset: int = 13
    axes: tuple[int, ...] = (-1,)
    positive_axes: bool = False
    center: str = "sub"  # sub, two subs, add neg, add times -1
    mean: str = "reduce"  # reduce, sum/count, sum*inverse, keepdims 0 and unsqueeze
    variance: str = "centered"  # centered, moments, moments clamped
    square: str = "pow"  # pow, pow int, pow vector1, mul
    root: str = "sqrt div"  # sqrt div, sqrt reciprocal, 1/sqrt, pow 0.5, pow -0.5
    eps: float = 1e-5
    eps_left: bool = False
    scale: bool = True
    bias: bool = True
    affine: str = "after"  # after, before, refactored
    swap: bool = False
    affine_shape: str = "[H]"  # [H], [1,1,H], run time
    style: str = "initializer"
    casts: str = "none"  # none, half, half through double, upcast whole, upcast before affine, upcast statistics
    identities: frozenset[int] = frozenset()
    keepdims: int | None = None
    place: str = "main"  # main, If, Loop, Scan, function
    dynamic: bool = False
    fault: str = ""

    def valid(self) -> bool:
        """Whether the combination exists."""
        layer = self.norm == "layer"
        if self.affine != "after" and not self.scale:
            return False
        if not layer and (self.affine == "refactored" or self.variance != "centered" or self.bias):
            return False
        if not layer and self.fault in (
            "Sub swapped",
            "first mean over axis -2",
            "mean of another tensor",
            "mean read elsewhere",
            "x - mean a graph output",
            "mean added",
        ):
            return False
        if self.fault == "mean of another tensor" and self.variance != "centered":
            return False
        if self.affine == "refactored" and (
            self.root not in ("sqrt reciprocal", "1/sqrt", "pow -0.5")
            or self.fault
            in (
                "Sub swapped",
                "Div swapped",
                "multiplied by the root",
                "mean added",
                "first mean over axis -2",
                "x - mean a graph output",
                "mean of another tensor",
            )
        ):
            return False
        if self.fault == "keepdims=0" and (self.place == "Scan" or len(self.axes) > 1):
            return False
        if self.fault == "Div swapped" and self.affine == "before":
            return False
        if self.fault == "Div swapped" and self.root not in ("sqrt div", "pow 0.5"):
            return False
        if self.fault == "Sub swapped" and self.center not in ("sub", "two subs"):
            return False
        if self.fault == "mean added" and (self.center != "sub" or self.opset >= 23):
            return False  # x + mean over its root mean square is an RMS normalization, and fused as one at 23
        if self.fault.startswith("exponent") and self.variance != "centered":
            return False
        if self.variance != "centered" and self.fault in ("x - mean a graph output",):
            return False
        if self.fault == "gamma grows the shape" and (not self.scale or self.affine_shape == "run time"):
            return False
        if (
            self.fault
            and self.place != "main"
            and self.fault
            in (
                "eps a run-time input",
                "eps an overridable initializer",
                "variance captured by a body",
                "x - mean a graph output",
            )
        ):
            return False
        if self.casts != "none" and self.fault in ("variance captured by a body",):
            return False
        if self.mean.startswith("sum") and self.dynamic:
            return False
        if _half(self) and self.eps < 1e-6:
            return False
        if self.opset < 11 and not self.positive_axes and self.mean.startswith("keepdims"):
            return False  # Unsqueeze takes negative axes from 11 on
        if self.affine == "before" and self.casts in ("upcast whole", "upcast before affine"):
            return False
        if self.affine == "refactored" and self.casts not in ("none", "half"):
            return False
        return not (self.place == "function" and self.opset < 14)


@dataclass(frozen=True)
class Written:
    model: onnx.ModelProto
    feeds: Mapping[str, np.ndarray]
    x: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray


def draw_values(spelling: Spelling, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, other, gamma, beta in the storage type."""
    rng = np.random.default_rng(seed)
    dtype = "float16" if _half(spelling) else "float32"
    x = rng.normal(0.4, 2.0, shape_of(spelling)).astype(dtype)
    other = rng.normal(-1.0, 1.0, shape_of(spelling)).astype(dtype)
    size = tuple(shape_of(spelling)[axis] for axis in spelling.axes)
    gamma = rng.uniform(0.5, 1.5, size).astype(dtype)
    beta = rng.normal(0.0, 1.0, size).astype(dtype)
    return x, other, gamma, beta


def _half(spelling: Spelling) -> bool:
    return spelling.casts != "none"


def shape_of(spelling: Spelling) -> tuple[int, int, int]:
    """The shape of x; a cube where a mean without its axis has to broadcast, to the wrong place."""
    return (8, 8, 8) if spelling.fault == "keepdims=0" else SHAPE


def truth(spelling: Spelling, written: Written) -> np.ndarray:
    """The normalization by its definition, float64."""
    x = written.x.astype(np.float64)
    centered = x - x.mean(spelling.axes, keepdims=True) if spelling.norm == "layer" else x
    y = centered / np.sqrt((centered**2).mean(spelling.axes, keepdims=True) + spelling.eps)
    if spelling.scale:
        y = y * written.gamma.astype(np.float64)
    if spelling.bias:
        y = y + written.beta.astype(np.float64)
    return y


def write(spelling: Spelling, seed: int = 0) -> Written:
    """The model of a spelling, its inputs, and the values it was made of."""
    x, other, gamma, beta = draw_values(spelling, seed)
    outer = Graph(spelling.opset, spelling.style, spelling.identities)
    dims: tuple[int | str, ...] = ("batch", "sequence", SHAPE[2]) if spelling.dynamic else shape_of(spelling)
    dtype = "float16" if _half(spelling) else "float32"
    outer.input("x", dims, dtype)
    outer.input("other", dims, dtype)
    feeds: dict[str, np.ndarray] = {"x": x, "other": other}
    if spelling.affine_shape == "run time":
        for name, array in (("gamma", gamma), ("beta", beta)):
            outer.input(name, array.shape, dtype)
            feeds[name] = array
    if spelling.fault == "eps a run-time input":
        outer.input("eps", (), _math(spelling))
        feeds["eps"] = np.array(spelling.eps, _math(spelling))
    written = Written(onnx.ModelProto(), feeds, x, gamma, beta)
    if spelling.place == "main":
        y = _Writer(outer, spelling, written, outer).write("x", "other")
        outer.op("Identity", y, output="y")
        outer.output("y", dtype)
        return replace(written, model=outer.model())
    return replace(written, model=_placed(outer, spelling, written, dtype))


def _placed(outer: Graph, spelling: Spelling, written: Written, dtype: str) -> onnx.ModelProto:
    """The normalization inside a body, or inside a local function."""
    inner = Graph(spelling.opset, spelling.style, spelling.identities, "inner_")
    functions: list[onnx.FunctionProto] = []
    match spelling.place:
        case "If":
            y = _Writer(inner, spelling, written, outer).write("x", "other")
            inner.op("Identity", y, output="inner_y")
            inner.output("inner_y", dtype)
            other = Graph(spelling.opset, prefix="else_")
            other.op("Identity", "other", output="else_y")
            other.output("else_y", dtype)
            condition = outer.const(np.array(True), "initializer")
            outer.op("If", condition, output="y", then_branch=inner.graph("then"), else_branch=other.graph("else"))
        case "Loop":
            inner.input("i", (), "int64")
            inner.inputs.append(helper.make_tensor_value_info("go", TensorProto.BOOL, []))
            inner.input("carried", shape_of(spelling), dtype)
            y = _Writer(inner, spelling, written, outer).write("x", "other")
            inner.op("Identity", "go", output="going")
            inner.op("Identity", y, output="inner_y")
            inner.outputs.append(helper.make_tensor_value_info("going", TensorProto.BOOL, []))
            inner.output("inner_y", dtype)
            trips = outer.const(np.array(2, np.int64), "initializer")
            condition = outer.const(np.array(True), "initializer")
            outer.op("Loop", trips, condition, "x", output="y", body=inner.graph("body"))
        case "Scan":
            row = shape_of(spelling)[1:]
            inner.input("row", row, dtype)
            inner.input("other_row", row, dtype)
            y = _Writer(inner, spelling, written, outer).write("row", "other_row")
            inner.op("Identity", y, output="inner_y")
            inner.output("inner_y", dtype)
            outer.op("Scan", "x", "other", output="y", body=inner.graph("body"), num_scan_inputs=2)
        case _:
            arguments = ["x", "other"]
            if spelling.affine_shape == "run time":
                arguments += ["gamma", "beta"]
            inner.style = "constant"
            y = _Writer(inner, spelling, written, inner).write("x", "other")
            inner.op("Identity", y, output="inner_y")
            constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in inner.initializers]
            functions.append(
                helper.make_function(
                    "local",
                    "Norm",
                    arguments,
                    ["inner_y"],
                    [*constants, *inner.nodes],
                    [helper.make_opsetid("", spelling.opset)],
                )
            )
            outer.op("Norm", *arguments, output="y", domain="local")
    outer.output("y", dtype, shape_of(spelling))
    return outer.model(functions)


def _math(spelling: Spelling) -> str:
    """The type in which the root is taken."""
    match spelling.casts:
        case "none":
            return "float32"
        case "half":
            return "float16"
        case "half through double":
            return "float16"
        case _:
            return "float32"


class _Writer:
    def __init__(self, graph: Graph, spelling: Spelling, written: Written, outer: Graph) -> None:
        self.g, self.s, self.written, self.outer = graph, spelling, written, outer
        self.storage = "float16" if _half(spelling) else "float32"
        self.math = _math(spelling)

    def axes(self, other: bool = False) -> tuple[int, ...]:
        axes = (-2,) if other else self.s.axes
        rank = 2 if self.s.place == "Scan" else 3
        return tuple(axis + rank for axis in axes) if self.s.positive_axes else axes

    def mean(self, x: str, *, other_axis: bool = False, dtype: str, faulty: bool = False) -> str:
        g, s, axes = self.g, self.s, self.axes(other_axis)
        count = int(np.prod([shape_of(s)[axis] for axis in (axes if not s.positive_axes else self._negative(axes))]))
        if faulty and s.fault == "N-1 variance":
            return g.op("Div", g.reduce("ReduceSum", x, axes, keepdims=1), g.scalar(count - 1, dtype))
        if faulty and s.fault == "keepdims=0":
            return g.reduce("ReduceMean", x, axes, keepdims=0)
        match s.mean:
            case "sum/count":
                return g.op("Div", g.reduce("ReduceSum", x, axes, keepdims=1), g.scalar(count, dtype))
            case "sum*inverse":
                return g.op("Mul", g.reduce("ReduceSum", x, axes, keepdims=1), g.scalar(1.0 / count, dtype))
            case "keepdims 0 and unsqueeze":
                return g.unsqueeze(g.reduce("ReduceMean", x, axes, keepdims=0), axes)
            case _:
                return g.reduce("ReduceMean", x, axes, keepdims=s.keepdims)

    def _negative(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        rank = 2 if self.s.place == "Scan" else 3
        return tuple(axis - rank for axis in axes)

    def square(self, d: str, dtype: str) -> str:
        g, fault = self.g, self.s.fault
        if fault.startswith("exponent"):
            return g.op("Pow", d, g.scalar(float(fault[-1]), dtype))
        match self.s.square:
            case "mul":
                return g.op("Mul", d, d)
            case "pow int" if g.opset >= 12:
                return g.op("Pow", d, g.const(np.array(2, np.int64)))
            case "pow vector1":
                return g.op("Pow", d, g.const(np.array([2], dtype)))
            case _:
                return g.op("Pow", d, g.scalar(2.0, dtype))

    def center(self, x: str, mean: str, *, swapped: bool = False) -> str:
        g, s = self.g, self.s
        if s.fault == "mean added":
            return g.op("Add", x, mean)
        match s.center:
            case "add neg":
                operands = [x, g.op("Neg", mean)]
                return g.op("Add", *(reversed(operands) if s.swap else operands))
            case "add times -1":
                return g.op("Add", x, g.op("Mul", mean, g.scalar(-1.0, self.center_type)))
            case _:
                return g.op("Sub", mean, x) if swapped else g.op("Sub", x, mean)

    def write(self, x: str, other: str) -> str:
        g, s = self.g, self.s
        outer_x = x
        self.center_type = "float32" if s.casts.startswith("upcast") else self.storage
        if s.casts in ("upcast whole", "upcast before affine", "upcast statistics"):
            x, other = g.cast(x, "float32"), g.cast(other, "float32")
        source = other if s.fault == "mean of another tensor" else x
        layer = s.norm == "layer"
        mean = ""
        if layer:
            mean = self.mean(source, other_axis=s.fault == "first mean over axis -2", dtype=self.center_type)
            if s.fault == "mean read elsewhere":
                self.leak(mean)
        swapped = s.fault == "Sub swapped"
        numerator = self.center(x, mean, swapped=swapped) if layer and s.affine != "refactored" else x
        variance = self.variance(x, other, mean, numerator)
        if s.fault == "x - mean a graph output":
            g.op("Identity", numerator, output="leaked")
            g.output("leaked", self.center_type)
        shifted = self.add_eps(variance)
        if s.fault == "variance captured by a body":
            self.capture(shifted)
        return self.finish(outer_x, x, mean, numerator, shifted)

    def leak(self, value: str) -> None:
        """Make something outside read a value; inside a body a further (unused but live) node of it."""
        g = self.g
        name = g.op("Abs", value)
        if self.s.place == "main":
            g.output(name, self.center_type)
        else:
            # keeps it alive: x + 0 * |mean| would change nothing, but reads it
            self._kept = g.op("Mul", name, g.scalar(0.0, self.center_type))

    def capture(self, value: str) -> None:
        g = self.g
        then, other = Graph(g.opset, prefix="t_"), Graph(g.opset, prefix="e_")
        then.op("Identity", value, output="t_out")
        then.output("t_out", self.math)
        other.op("Neg", value, output="e_out")
        other.output("e_out", self.math)
        condition = g.const(np.array(True), "initializer")
        g.op("If", condition, output="captured", then_branch=then.graph("t"), else_branch=other.graph("e"))
        g.output("captured", self.math)

    def variance(self, x: str, other: str, mean: str, numerator: str) -> str:
        g, s = self.g, self.s
        base = other if s.fault == "variance of another tensor" else x
        second_axis = s.fault == "second mean over axis -2"
        dtype = self.center_type
        if s.norm == "layer" and s.variance != "centered":
            square = self.mean(self.square(base, dtype), other_axis=second_axis, dtype=dtype, faulty=True)
            difference = g.op("Sub", square, g.op("Mul", mean, mean))
            if s.variance == "moments clamped":
                difference = g.op("Relu", difference) if s.swap else g.op("Max", g.scalar(0.0, dtype), difference)
            return difference
        d = numerator
        if s.norm == "layer":
            if s.fault == "variance of another tensor":
                d = self.center(other, self.mean(other, dtype=dtype))
            elif s.center == "two subs" or s.affine == "refactored":
                d = g.op("Sub", x, mean) if not s.swap else g.op("Sub", mean, x)
        else:
            d = base
        if s.casts == "half through double":
            squared = g.cast(self.square(g.cast(d, "float64"), "float64"), "float16")
        else:
            squared = self.square(d, dtype)
        return self.mean(squared, other_axis=second_axis, dtype=dtype, faulty=True)

    def add_eps(self, variance: str) -> str:
        g, s = self.g, self.s
        self.math = self.center_type
        if s.fault in ("eps missing", "eps after the root"):
            return variance
        if s.fault == "eps a run-time input":
            eps = "eps"
        elif s.fault == "eps a vector":
            eps = g.const(np.linspace(1, 2, SHAPE[1]).reshape(-1, 1).astype(self.math) * s.eps)
        elif s.fault == "eps negative":
            eps = g.scalar(-s.eps, self.math)
        elif s.fault == "eps an overridable initializer":
            eps = g.const(np.array(s.eps, self.math), "initializer")
            self.outer.input(eps, (), self.math)
        else:
            eps = g.scalar(s.eps, self.math)
        return g.op("Add", eps, variance) if s.eps_left else g.op("Add", variance, eps)

    def finish(self, outer_x: str, x: str, mean: str, numerator: str, shifted: str) -> str:
        g, s = self.g, self.s
        if s.fault == "root of the root":
            shifted = g.op("Sqrt", shifted)
        affine_type = "float32" if s.casts == "upcast whole" else self.storage
        gamma, beta = self.parameters(affine_type)
        root = s.root
        inverse = divisor = ""
        if root in ("sqrt div", "sqrt reciprocal", "1/sqrt"):
            divisor = g.op("Sqrt", shifted)
        elif root == "pow 0.5":
            divisor = g.op("Pow", shifted, g.scalar(0.5, self.math))
        else:
            inverse = g.op("Pow", shifted, g.scalar(-0.5, self.math))
        if s.fault == "eps after the root":
            value = divisor or inverse
            value = g.op("Add", value, g.scalar(s.eps, self.math))
            divisor, inverse = (value, "") if divisor else ("", value)
        if root == "sqrt reciprocal":
            inverse = g.op("Reciprocal", divisor)
        elif root == "1/sqrt":
            inverse = g.op("Div", g.scalar(1.0, self.math), divisor)
        if s.fault == "multiplied by the root":
            inverse, divisor = (divisor or g.op("Sqrt", shifted)), ""
        if s.casts == "upcast statistics":
            numerator = g.cast(numerator, "float16")
            inverse = g.cast(inverse, "float16") if inverse else ""
            divisor = g.cast(divisor, "float16") if divisor else ""
        if s.affine == "refactored":
            return self.refactored(x, mean, inverse, gamma, beta)
        if inverse and s.affine == "before":
            factor = g.op("Mul", gamma, inverse) if s.swap else g.op("Mul", inverse, gamma)
            y = g.op("Mul", numerator, factor)
        elif s.affine == "before":
            y = g.op("Div", g.op("Mul", numerator, gamma), divisor)
        else:
            y = self.normalized(numerator, inverse, divisor)
            if s.casts == "upcast before affine":
                y = g.cast(y, "float16")
            if s.scale:
                y = g.op("Mul", gamma, y) if s.swap else g.op("Mul", y, gamma)
        if s.bias:
            y = g.op("Add", beta, y) if s.swap else g.op("Add", y, beta)
        if s.casts == "upcast whole":
            y = g.cast(y, "float16")
        if getattr(self, "_kept", ""):
            y = g.op("Add", y, g.cast(self._kept, self.storage) if _half(s) else self._kept)
        return y

    def normalized(self, numerator: str, inverse: str, divisor: str) -> str:
        g, s = self.g, self.s
        if inverse and (s.root not in ("sqrt div", "pow 0.5") or s.fault == "multiplied by the root"):
            return g.op("Mul", inverse, numerator) if s.swap else g.op("Mul", numerator, inverse)
        if s.fault == "Div swapped":
            return g.op("Div", divisor, numerator)
        return g.op("Div", numerator, divisor)

    def refactored(self, x: str, mean: str, inverse: str, gamma: str, beta: str) -> str:
        g, s = self.g, self.s
        factor = g.op("Mul", inverse, gamma)
        first = g.op("Mul", x, factor)
        second = g.op("Mul", mean, factor)
        if s.bias:
            rest = g.op("Sub", beta, second)
            y = g.op("Add", rest, first) if s.swap else g.op("Add", first, rest)
        else:
            y = g.op("Sub", first, second)
        if getattr(self, "_kept", ""):
            y = g.op("Add", y, self._kept)
        return y

    def parameters(self, dtype: str) -> tuple[str, str]:
        g, s = self.g, self.s
        if s.affine_shape == "run time":
            names = ("gamma", "beta")
            return tuple(g.cast(name, dtype) if dtype != self.storage else name for name in names)  # type: ignore
        out = []
        for array, wanted in ((self.written.gamma, s.scale), (self.written.beta, s.bias)):
            shape = array.shape if s.affine_shape == "[H]" else (1,) * (3 - array.ndim) + array.shape
            if s.place == "Scan":
                shape = array.shape
            value = array.astype(dtype).reshape(shape)
            if s.fault == "gamma grows the shape" and array is self.written.gamma:
                value = np.broadcast_to(value, (3, 1, *((1,) * (2 - array.ndim)), *array.shape)).copy()
            out.append(g.const(value, "initializer") if wanted else "")
        return out[0], out[1]
