"""The variants of the table in docs/normalizations.md: how each is written, and what has to become of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.patterns.builder import Graph
from tests.patterns.spellings import FAULTS, Spelling, truth, write


@dataclass(frozen=True)
class Case:
    model: onnx.ModelProto
    feeds: Mapping[str, np.ndarray]
    truth: np.ndarray | None = None
    """What output y has to be, float64; None: what the model gives before the rewrite."""


@dataclass(frozen=True)
class Variant:
    section: str
    name: str
    make: Callable[[], Case]
    outcome: str
    """fused, island, rejected, native."""
    kind: str = "layer_normalization"
    options: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1
    """How many matches of the kind there have to be."""


def _spelled(**fields: Any) -> Callable[[], Case]:
    def make() -> Case:
        spelling = Spelling(**fields)
        assert spelling.valid(), spelling
        written = write(spelling)
        sound = not spelling.fault and spelling.place != "Loop"
        return Case(written.model, written.feeds, truth(spelling, written) if sound else None)

    return make


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def layer(x: np.ndarray, axes: tuple[int, ...], eps: float = 1e-5) -> np.ndarray:
    x = x.astype(np.float64)
    centered = x - x.mean(axes, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axes, keepdims=True) + eps)


def _core(g: Graph, x: str, axes: tuple[int, ...], eps: float = 1e-5) -> str:
    d = g.op("Sub", x, g.reduce("ReduceMean", x, axes))
    variance = g.reduce("ReduceMean", g.op("Pow", d, g.scalar(2.0)), axes)
    return g.op("Div", d, g.op("Sqrt", g.op("Add", variance, g.scalar(eps))))


def channels_first() -> Case:
    """ConvNeXt: over axis 1 of NCHW, weight and bias [C,1,1]."""
    x = _rng().normal(0.3, 2, (2, 6, 4, 5)).astype(np.float32)
    gamma, beta = _rng().uniform(0.5, 2, (2, 6)).astype(np.float32)
    g = Graph(13)
    g.input("x", ("batch", 6, "height", "width"))
    y = _core(g, "x", (1,), 1e-6)
    y = g.op("Mul", g.const(gamma.reshape(6, 1, 1), "initializer"), y)
    y = g.op("Add", y, g.const(beta.reshape(6, 1, 1), "initializer"))
    g.op("Identity", y, output="y")
    g.output("y")
    expected = layer(x, (1,), 1e-6) * gamma[:, None, None] + beta[:, None, None]
    return Case(g.model(), {"x": x}, expected)


def several_heads() -> Case:
    """One core, two affines."""
    x = _rng().normal(0.3, 2, (2, 5, 8)).astype(np.float32)
    a, b = _rng().uniform(0.5, 2, (2, 8)).astype(np.float32)
    g = Graph(13)
    g.input("x", x.shape)
    core = _core(g, "x", (-1,))
    g.op("Add", g.op("Mul", core, g.const(a)), g.op("Mul", core, g.const(b)), output="y")
    g.output("y")
    return Case(g.model(), {"x": x}, layer(x, (-1,)) * (a.astype(float) + b.astype(float)))


def shared_inverse() -> Case:
    """Keras with two affines that share mean and inverse root."""
    x = _rng().normal(0.3, 2, (2, 5, 8)).astype(np.float32)
    a, b = _rng().uniform(0.5, 2, (2, 8)).astype(np.float32)
    g = Graph(13)
    g.input("x", x.shape)
    mean = g.reduce("ReduceMean", "x", (-1,), keepdims=1)
    d = g.op("Sub", "x", mean)
    variance = g.reduce("ReduceMean", g.op("Mul", d, d), (-1,), keepdims=1)
    inverse = g.op("Reciprocal", g.op("Sqrt", g.op("Add", variance, g.scalar(1e-3))))
    parts = []
    for gamma, beta in ((a, b), (b, a)):
        factor = g.op("Mul", inverse, g.const(gamma))
        parts.append(g.op("Add", g.op("Mul", "x", factor), g.op("Sub", g.const(beta), g.op("Mul", mean, factor))))
    g.op("Add", *parts, output="y")
    g.output("y")
    total = a.astype(np.float64) + b
    return Case(g.model(), {"x": x}, layer(x, (-1,), 1e-3) * total + total)


def _affine_left(gamma: np.ndarray, beta: np.ndarray) -> Callable[[], Case]:
    def make() -> Case:
        x = _rng().normal(0.3, 2, (2, 5, 8)).astype(np.float32)
        g = Graph(13)
        g.input("x", x.shape)
        y = g.op("Add", g.op("Mul", _core(g, "x", (-1,)), g.const(gamma)), g.const(beta))
        g.op("Identity", y, output="y")
        g.output("y")
        return Case(g.model(), {"x": x}, layer(x, (-1,)) * gamma.astype(np.float64) + beta)

    return make


def modulated() -> Case:
    """adaLN: scale and shift computed at run time, [B,1,H]."""
    x = _rng().normal(0.3, 2, (2, 5, 8)).astype(np.float32)
    scale, shift = _rng().normal(0, 1, (2, 2, 1, 8)).astype(np.float32)
    g = Graph(13)
    for name in ("x", "scale", "shift"):
        g.input(name, x.shape if name == "x" else scale.shape)
    y = g.op("Mul", _core(g, "x", (-1,)), g.op("Add", "scale", g.scalar(1.0)))
    g.op("Add", y, "shift", output="y")
    g.output("y")
    expected = layer(x, (-1,)) * (1 + scale.astype(np.float64)) + shift
    return Case(g.model(), {"x": x, "scale": scale, "shift": shift}, expected)


def residual_behind() -> Case:
    """No affine; what follows is a residual add, which is not a bias."""
    x = _rng().normal(0.3, 2, (2, 5, 8)).astype(np.float32)
    g = Graph(13)
    g.input("x", x.shape)
    g.op("Add", _core(g, "x", (-1,)), "x", output="y")
    g.output("y")
    return Case(g.model(), {"x": x}, layer(x, (-1,)) + x)


def dynamic_count() -> Case:
    """ReduceSum over a count that Shape, Gather and Cast compute."""
    x = _rng().normal(0.3, 2, (2, 5, 8)).astype(np.float32)
    gamma = _rng().uniform(0.5, 2, 8).astype(np.float32)
    g = Graph(13)
    g.input("x", ("b", "s", "h"))
    size = g.op("Gather", g.op("Shape", "x"), g.const(np.array(-1, np.int64)))
    count = g.op("Cast", size, to=TensorProto.FLOAT)
    d = g.op("Sub", "x", g.op("Div", g.reduce("ReduceSum", "x", (-1,)), count))
    variance = g.op("Div", g.reduce("ReduceSum", g.op("Mul", d, d), (-1,)), count)
    y = g.op("Div", d, g.op("Sqrt", g.op("Add", variance, g.scalar(1e-5))))
    g.op("Mul", y, g.const(gamma), output="y")
    g.output("y")
    return Case(g.model(), {"x": x}, layer(x, (-1,)) * gamma)


def overridable_affine() -> Case:
    """gamma and beta listed among the inputs, as IR 3 models have them: read at run time, fused all the same."""
    case = _spelled(style="constant")()
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for tensor in model.graph.initializer:
        if tensor.dims:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return Case(model, case.feeds, case.truth)


def unknown_size() -> Case:
    """No affine and no size known: there is no scale to write."""
    x = _rng().normal(0.3, 2, (2, 5, 8)).astype(np.float32)
    g = Graph(13)
    g.input("x", ("b", "s", "h"))
    g.op("Identity", _core(g, "x", (-1,)), output="y")
    g.output("y")
    return Case(g.model(), {"x": x}, layer(x, (-1,)))


def double() -> Case:
    x = _rng().normal(0.3, 2, (2, 5, 8))
    g = Graph(13)
    g.input("x", x.shape, "float64")
    d = g.op("Sub", "x", g.reduce("ReduceMean", "x", (-1,)))
    variance = g.reduce("ReduceMean", g.op("Mul", d, d), (-1,))
    g.op("Div", d, g.op("Sqrt", g.op("Add", variance, g.scalar(1e-5, "float64"))), output="y")
    g.output("y", "float64")
    return Case(g.model(), {"x": x}, layer(x, (-1,)))


def integers() -> Case:
    """Integers cast to float first: the float is what is normalized."""
    x = _rng().integers(-9, 9, (2, 5, 8))
    g = Graph(13)
    g.input("x", x.shape, "int64")
    g.op("Identity", _core(g, g.cast("x", "float32"), (-1,)), output="y")
    g.output("y")
    return Case(g.model(), {"x": x}, layer(x, (-1,)))


def instance_reshape(groups: int, affine: bool = True) -> Callable[[], Case]:
    """x [N,C,H,W] through InstanceNormalization on [N, groups, -1]."""

    def make() -> Case:
        x = _rng().normal(0.3, 2, (2, 6, 4, 5)).astype(np.float32)
        gamma, beta = _rng().uniform(0.5, 2, (2, 6, 1, 1)).astype(np.float32)
        g = Graph(13)
        g.input("x", x.shape)
        shape = g.const(np.array([0, groups, -1], np.int64), "initializer")
        y = g.op(
            "InstanceNormalization",
            g.op("Reshape", "x", shape),
            g.const(np.ones(groups, np.float32)),
            g.const(np.zeros(groups, np.float32)),
            epsilon=1e-5,
        )
        y = g.op("Reshape", y, g.op("Shape", "x"))
        expected = layer(x.reshape(2, groups, -1), (-1,)).reshape(x.shape)
        if affine:
            y = g.op("Add", g.op("Mul", y, g.const(gamma)), g.const(beta))
            expected = expected * gamma + beta
        g.op("Identity", y, output="y")
        g.output("y", shape=x.shape)
        return Case(g.model(), {"x": x}, expected)

    return make


def instance_rows() -> Case:
    """[B,S,H] through InstanceNormalization on [1, B*S, H]."""
    x = _rng().normal(0.3, 2, (2, 5, 8)).astype(np.float32)
    gamma, beta = _rng().uniform(0.5, 2, (2, 8)).astype(np.float32)
    g = Graph(13)
    g.input("x", x.shape)
    y = g.op(
        "InstanceNormalization",
        g.op("Reshape", "x", g.const(np.array([1, 10, 8], np.int64), "initializer")),
        g.const(np.ones(10, np.float32)),
        g.const(np.zeros(10, np.float32)),
        epsilon=1e-6,
    )
    y = g.op("Reshape", y, g.const(np.array([2, 5, 8], np.int64), "initializer"))
    g.op("Add", g.op("Mul", y, g.const(gamma)), g.const(beta), output="y")
    g.output("y")
    return Case(g.model(), {"x": x}, layer(x, (-1,), 1e-6) * gamma + beta)


def expanded() -> Case:
    """The function body of LayerNormalization, as onnx expands it, with the first output only."""
    x = _rng().normal(0.3, 2, (2, 5, 8)).astype(np.float32)
    gamma, beta = _rng().uniform(0.5, 2, (2, 8)).astype(np.float32)
    g = Graph(17)
    for name, array in (("x", x), ("gamma", gamma), ("beta", beta)):
        g.input(name, array.shape)
    g.nodes.append(helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["y"], "ln", epsilon=1e-4))
    g.output("y")
    model = g.model()
    schema = onnx.defs.get_schema("LayerNormalization", 17, "")
    types = [value.type.SerializeToString() for value in model.graph.input]
    body = onnx.FunctionProto()
    body.ParseFromString(
        schema.get_context_dependent_function(model.graph.node[0].SerializeToString(), types)
        if schema.has_context_dependent_function
        else schema.function_body.SerializeToString()
    )
    names = dict(zip(body.input, ["x", "gamma", "beta"], strict=True))
    names |= dict(zip(body.output, ["y", "unused_mean", "unused_inverse"], strict=False))
    nodes = []
    for node in body.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for values in (copy.input, copy.output):
            values[:] = [names.get(value, value) for value in values]
        nodes.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return Case(model, {"x": x, "gamma": gamma, "beta": beta}, layer(x, (-1,), 1e-4) * gamma + beta)


def _native(
    op_type: str, inputs: Mapping[str, np.ndarray], opset: int, domain: str = "", **attributes: Any
) -> Callable[[], Case]:
    def make() -> Case:
        g = Graph(opset)
        first = next(iter(inputs))
        for name, array in inputs.items():
            if name == first:
                g.input(name, array.shape)
            else:
                g.initializers.append(numpy_helper.from_array(array, name))
        g.op(op_type, *inputs, output="y", domain=domain, **attributes)
        g.output("y", shape=inputs[first].shape)
        model = g.model(domain=domain)
        return Case(model, {first: inputs[first]})

    return make


def one_plus_weight() -> Case:
    """Gemma: x * rsqrt(mean(x^2) + eps) * (1 + w), in float, cast back."""
    x = _rng().normal(0, 2, (2, 5, 8)).astype(np.float16)
    w = _rng().normal(0, 0.2, 8).astype(np.float32)
    g = Graph(18)
    g.input("x", x.shape, "float16")
    up = g.cast("x", "float32")
    mean = g.reduce("ReduceMean", g.op("Pow", up, g.scalar(2.0)), (-1,))
    y = g.op("Mul", up, g.op("Reciprocal", g.op("Sqrt", g.op("Add", mean, g.scalar(1e-6)))))
    y = g.op("Mul", y, g.op("Add", g.const(w), g.scalar(1.0)))
    g.op("Cast", y, output="y", to=TensorProto.FLOAT16)
    g.output("y", "float16")
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * (1 + w.astype(np.float64))
    return Case(g.model(), {"x": x}, expected)


def rms_23() -> Case:
    return _spelled(norm="rms", bias=False, opset=23)()


def _variants() -> list[Variant]:
    out: list[Variant] = []

    def add(section: str, name: str, make: Callable[[], Case], outcome: str = "fused", **more: Any) -> None:
        out.append(Variant(section, name, make, outcome, **more))

    spell = "How the terms are written"
    add(spell, "ReduceMean, Sub, Pow(2), ReduceMean, Add, Sqrt, Div, Mul, Add (TorchScript)", _spelled())
    add(spell, "square as Mul(d, d)", _spelled(square="mul"))
    add(spell, "square as Pow with an int64 exponent", _spelled(square="pow int"))
    add(spell, "square as Pow with an exponent of shape [1]", _spelled(square="pow vector1"))
    add(spell, "two Subs (x.var)", _spelled(center="two subs"))
    add(spell, "two Subs, the squared one mean - x", _spelled(center="two subs", swap=True))
    add(spell, "x + Neg(mean)", _spelled(center="add neg"))
    add(spell, "x + mean * -1", _spelled(center="add times -1"))
    add(spell, "mean as ReduceSum / count", _spelled(mean="sum/count"))
    add(spell, "mean as ReduceSum * (1 / count)", _spelled(mean="sum*inverse"))
    add(spell, "mean as ReduceSum / a count from Shape, Gather, Cast", dynamic_count)
    add(spell, "mean with keepdims=0, then Unsqueeze", _spelled(mean="keepdims 0 and unsqueeze"))
    add(spell, "explicit keepdims, positive axes", _spelled(keepdims=1, positive_axes=True))
    add(spell, "axes as an input (opset 18)", _spelled(opset=18))
    add(spell, "E[x^2] - E[x]^2", _spelled(variance="moments"))
    add(spell, "E[x^2] - E[x]^2, clamped by Max(0) (Flax)", _spelled(variance="moments clamped"))
    add(spell, "E[x^2] - E[x]^2, clamped by Relu", _spelled(variance="moments clamped", swap=True))
    add(spell, "Mul by Reciprocal(Sqrt)", _spelled(root="sqrt reciprocal"))
    add(spell, "Mul by Div(1, Sqrt)", _spelled(root="1/sqrt"))
    add(spell, "Div by Pow(0.5)", _spelled(root="pow 0.5"))
    add(spell, "Mul by Pow(-0.5)", _spelled(root="pow -0.5"))
    add(spell, "eps on the left", _spelled(eps_left=True))
    add(spell, "eps 1e-12 (BERT)", _spelled(eps=1e-12))
    add(spell, "Identity behind every node", _spelled(identities=frozenset(range(0, 60))))
    for style, text in (("constant", "value"), ("value_float", "value_float"), ("value_floats", "value_floats")):
        add(spell, f"constants as Constant nodes ({text})", _spelled(style=style))
    add(spell, "onnx's own expansion of LayerNormalization", expanded)
    add(spell, "InstanceNormalization on [1, B*S, H]", instance_rows)
    for opset in (9, 11, 16, 17, 20, 21, 22, 23, 24):
        add(spell, f"opset {opset}", _spelled(opset=opset))

    affine = "Affine"
    add(affine, "none", _spelled(scale=False, bias=False))
    add(affine, "gamma only", _spelled(bias=False))
    add(affine, "beta only", _spelled(scale=False))
    add(affine, "operands swapped", _spelled(swap=True, center="sub"))
    add(affine, "shape [1,1,H]", _spelled(affine_shape="[1,1,H]"))
    add(affine, "gamma and beta computed at run time", _spelled(affine_shape="run time"))
    add(affine, "gamma and beta that a caller may override", overridable_affine)
    add(affine, "gamma before the division", _spelled(affine="before"))
    add(affine, "gamma on the inverse root: d * (inv * gamma)", _spelled(affine="before", root="sqrt reciprocal"))
    keras = {"affine": "refactored", "root": "sqrt reciprocal", "square": "mul"}
    add(affine, "x*g*inv + (b - mean*g*inv) (TensorFlow, Keras)", _spelled(**keras))
    add(affine, "the same without beta", _spelled(**keras, bias=False))
    add(affine, "the same with two affines on one inverse root", shared_inverse, count=2)
    add(affine, "several affine heads on one core (they stay behind)", several_heads)
    one = np.array([1.5], np.float32)
    add(affine, "gamma of one element (stays behind)", _affine_left(one, np.arange(8, dtype=np.float32)))
    rows = np.arange(5, dtype=np.float32).reshape(5, 1) + 1
    add(affine, "gamma along an axis that is not normalized (stays behind)", _affine_left(rows, one))
    add(affine, "beta of one element (stays behind)", _affine_left(np.arange(8, dtype=np.float32), one))
    add(affine, "scale and shift [B,1,H] at run time, adaLN (stay behind)", modulated)
    add(affine, "a residual add behind it", residual_behind)
    add(affine, "no affine and the size of the axis unknown", unknown_size, "island")

    axes = "Axes and places"
    add(axes, "two trailing axes", _spelled(axes=(-2, -1)))
    add(axes, "batch and sequence dynamic", _spelled(dynamic=True))
    add(axes, "channels first (axis 1 of NCHW), asked for", channels_first, options={"channels_first": True})
    add(axes, "channels first, not asked for", channels_first, "island")
    for place in ("If", "Loop", "Scan"):
        add(axes, f"inside the body of {place}", _spelled(place=place))
    add(axes, "inside a local function", _spelled(place="function", opset=15))
    add(
        axes,
        "inside a local function, gamma and beta its arguments",
        _spelled(place="function", opset=17, affine_shape="run time"),
    )

    types = "Types"
    add(types, "all in half", _spelled(casts="half"))
    add(types, "half, the square through double (TorchScript)", _spelled(casts="half through double"))
    add(types, "half, upcast whole (casts stay around)", _spelled(casts="upcast whole"))
    add(types, "half, upcast before the affine (Apex)", _spelled(casts="upcast before affine"))
    add(types, "half, statistics in float", _spelled(casts="upcast statistics"))
    add(types, "double", double, "island")
    add(types, "integers cast to float", integers)

    rms = "RMS normalization"
    kind: dict[str, Any] = {"kind": "rms_normalization"}
    add(rms, "x * rsqrt(mean(x^2) + eps) * g below opset 23", _spelled(norm="rms", bias=False), "island", **kind)
    for root in ("sqrt reciprocal", "1/sqrt", "pow -0.5"):
        add(rms, f"written with {root}", _spelled(norm="rms", bias=False, root=root), "island", **kind)
    add(
        rms,
        "gamma behind the Cast (Llama)",
        _spelled(norm="rms", bias=False, casts="upcast before affine", root="sqrt reciprocal"),
        "island",
        **kind,
    )
    add(
        rms,
        "gamma before the Cast (T5)",
        _spelled(norm="rms", bias=False, casts="upcast whole", root="sqrt reciprocal"),
        "island",
        **kind,
    )
    add(rms, "1 + w (Gemma)", one_plus_weight, "island", **kind)
    add(rms, "at opset 23, asked for", rms_23, options={"kinds": ("rms_normalization",)}, **kind)
    add(
        rms,
        "below opset 23, opset 23 asked for",
        _spelled(norm="rms", bias=False),
        options={"kinds": ("rms_normalization",), "opset": 23},
        **kind,
    )

    x = _rng().normal(0.3, 2, (2, 6, 4, 5)).astype(np.float32)
    c, w = np.ones(6, np.float32), np.ones(5, np.float32)
    native = "Native nodes and other normalizations"
    add(native, "LayerNormalization", _native("LayerNormalization", {"x": x, "w": w}, 17), "native")
    add(native, "RMSNormalization", _native("RMSNormalization", {"x": x, "w": w}, 23), "native", **kind)
    add(
        native,
        "GroupNormalization (opset 18)",
        _native("GroupNormalization", {"x": x, "w": c[:3], "b": c[:3]}, 18, num_groups=3),
        "native",
        kind="group_normalization",
    )
    add(
        native,
        "GroupNormalization (opset 21)",
        _native("GroupNormalization", {"x": x, "w": c, "b": c}, 21, num_groups=3),
        "native",
        kind="group_normalization",
    )
    add(
        native,
        "InstanceNormalization",
        _native("InstanceNormalization", {"x": x, "w": c, "b": c}, 13),
        "native",
        kind="instance_normalization",
    )
    add(
        native,
        "BatchNormalization",
        _native("BatchNormalization", {"x": x, "w": c, "b": c, "m": c, "v": c}, 13),
        "native",
        kind="batch_normalization",
    )
    add(
        native,
        "MeanVarianceNormalization (its eps comes after the root)",
        _native("MeanVarianceNormalization", {"x": x}, 13),
        "native",
        kind="mean_variance_normalization",
    )
    flat = x.reshape(2, 24, 5)
    microsoft = "com.microsoft"
    add(
        native,
        "com.microsoft SkipLayerNormalization",
        _native("SkipLayerNormalization", {"x": flat, "s": flat, "w": w, "b": w}, 17, microsoft),
        "native",
    )
    add(
        native,
        "com.microsoft SkipSimplifiedLayerNormalization",
        _native("SkipSimplifiedLayerNormalization", {"x": flat, "s": flat, "w": w}, 17, microsoft),
        "native",
        **kind,
    )
    add(
        native,
        "SimplifiedLayerNormalization (onnxruntime's own)",
        _native("SimplifiedLayerNormalization", {"x": flat, "w": w}, 17),
        "native",
        **kind,
    )
    add(
        native,
        "GroupNorm as Reshape, InstanceNormalization, Reshape, Mul, Add",
        instance_reshape(3),
        "island",
        kind="group_normalization",
    )
    add(native, "the same with one group: over C, H and W, the affine behind", instance_reshape(1))

    for fault in FAULTS:
        fields: dict[str, Any] = {"fault": fault, "center": "sub"}
        if fault == "multiplied by the root":
            fields["root"] = "sqrt reciprocal"
        proven = fault in (
            "mean read elsewhere",
            "x - mean a graph output",
            "variance captured by a body",
            "gamma grows the shape",
        )
        if fault == "mean added":  # x + mean(x) over its root mean square: another normalization, not a wrong one
            add("Look-alikes", fault, _spelled(**fields), "island", **kind)
            continue
        add("Look-alikes", fault, _spelled(**fields), "island" if proven else "rejected")
    return out


VARIANTS = _variants()
