"""Models around operators whose written-out form leaves FP16 while their result does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Feeds = dict[str, np.ndarray]
Built = tuple[onnx.ModelProto, Feeds]
_N = helper.make_node


def _model(
    nodes: list[onnx.NodeProto], x: np.ndarray, constants: Mapping[str, Any] | None = None, opset: int = 17
) -> Built:
    """A graph from x to y between two products, so that the operator's input and result are computed values."""
    width = x.shape[1]
    generator = np.random.default_rng(1)
    mix = (generator.standard_normal((width, width)) * width**-0.5).astype(np.float32)
    weights = {"mix": mix if x.ndim == 2 else mix[:, :, None, None], **(constants or {})}
    first = (
        _N("MatMul", ["x", "mix"], ["h"], name="first")
        if x.ndim == 2
        else _N("Conv", ["x", "mix"], ["h"], name="first")
    )
    graph = helper.make_graph(
        [first, *nodes],
        "lowered",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True), {"x": x.astype(np.float32)}


def _rows(scale: float, columns: int = 256, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((64, columns)) * scale + mean


def _f(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32)


def lp_normalization() -> Built:
    return _model([_N("LpNormalization", ["h"], ["y"], name="op", axis=-1, p=2)], _rows(200))


def global_lp_pool() -> Built:
    x = np.random.default_rng(0).standard_normal((4, 16, 32, 32)) * 200
    return _model([_N("GlobalLpPool", ["h"], ["y"], name="op", p=2)], x)


def log_sum_exp() -> Built:
    return _model(
        [_N("Add", ["h", "far"], ["s"], name="far"), _N("ReduceLogSumExp", ["s"], ["y"], name="op", axes=[-1])],
        _rows(2), {"far": _f(200)},
    )  # fmt: skip


def sinkhorn() -> Built:
    """SuperGlue's optimal transport: three rounds of log-sum-exp over rows and columns of large scores."""
    nodes: list[onnx.NodeProto] = [_N("Mul", ["h", "ten"], ["z0"], name="scores")]
    for at in range(3):
        a, b, c = f"z{at}", f"r{at}", f"z{at + 1}"
        nodes += [
            _N("ReduceLogSumExp", [a], [f"{b}s"], name=f"rows{at}", axes=[-1]),
            _N("Sub", [a, f"{b}s"], [b], name=f"less_rows{at}"),
            _N("ReduceLogSumExp", [b], [f"{c}s"], name=f"columns{at}", axes=[0]),
            _N("Sub", [b, f"{c}s"], [c], name=f"less_columns{at}"),
        ]
    return _model([*nodes, _N("Identity", ["z3"], ["y"], name="end")], _rows(3), {"ten": _f(10)})


def cum_sum() -> Built:
    nodes = [
        _N("Sigmoid", ["h"], ["p"], name="p"), _N("CumSum", ["p", "axis"], ["c"], name="op"),
        _N("Mul", ["c", "rate"], ["y"], name="rate"),
    ]  # fmt: skip
    return _model(nodes, _rows(1, 6000)[:16], {"axis": np.asarray(1), "rate": _f(1e-3)})


def grn() -> Built:
    """ConvNeXt-V2's global response normalization, of maps whose squares pass 65504."""
    x = np.random.default_rng(0).standard_normal((2, 32, 16, 16)) * 100
    nodes = [
        _N("Transpose", ["h"], ["t"], name="last", perm=[0, 2, 3, 1]),
        _N("ReduceL2", ["t"], ["g"], name="op", axes=[1, 2], keepdims=1),
        _N("ReduceMean", ["g"], ["m"], name="mean", axes=[-1], keepdims=1),
        _N("Add", ["m", "eps"], ["me"], name="eps"), _N("Div", ["g", "me"], ["n"], name="div"),
        _N("Mul", ["t", "n"], ["tn"], name="scaled"), _N("Mul", ["tn", "gamma"], ["tg"], name="gamma"),
        _N("Add", ["tg", "t"], ["y"], name="residual"),
    ]  # fmt: skip
    gamma = _f(np.random.default_rng(2).standard_normal(32) * 0.3)
    return _model(nodes, x, {"eps": _f(1e-6), "gamma": gamma})


def scale_norm() -> Built:
    nodes = [
        _N("ReduceL2", ["h"], ["n"], name="op", axes=[-1], keepdims=1), _N("Clip", ["n", "low"], ["nc"], name="clip"),
        _N("Div", ["h", "nc"], ["d"], name="div"), _N("Mul", ["d", "g"], ["y"], name="g"),
    ]  # fmt: skip
    return _model(nodes, _rows(300), {"low": _f(1e-5), "g": _f(16)})


def root_mean_square() -> Built:
    """Pow, ReduceMean, Sqrt, Div: an RMSNorm without a scale, of values past 256."""
    nodes = [
        _N("Pow", ["h", "two"], ["sq"], name="pow"), _N("ReduceMean", ["sq"], ["ms"], name="mean", axes=[-1]),
        _N("Sqrt", ["ms"], ["rms"], name="sqrt"), _N("Div", ["h", "rms"], ["y"], name="div"),
    ]  # fmt: skip
    return _model(nodes, _rows(600), {"two": _f(2)})


def root_mean_square_read() -> Built:
    """The root of the mean of squares is itself the answer."""
    nodes = [
        _N("Pow", ["h", "two"], ["sq"], name="pow"), _N("ReduceMean", ["sq"], ["ms"], name="mean", axes=[-1]),
        _N("Sqrt", ["ms"], ["y"], name="sqrt"),
    ]  # fmt: skip
    return _model(nodes, _rows(600), {"two": _f(2)})


def log_softmax() -> Built:
    return _model([_N("LogSoftmax", ["h"], ["y"], name="op", axis=-1)], _rows(30))


def sum_square() -> Built:
    nodes = [
        _N("ReduceSumSquare", ["h"], ["s"], name="op", axes=[-1], keepdims=1), _N("Sqrt", ["s"], ["r"], name="sqrt"),
        _N("Div", ["h", "r"], ["y"], name="div"),
    ]  # fmt: skip
    return _model(nodes, _rows(300))


def power_spectrum() -> Built:
    """Real and imaginary parts squared, summed and put through a logarithm: tiny powers, and large ones."""
    nodes = [
        _N("Split", ["h"], ["re", "im"], name="split", axis=1), _N("Mul", ["re", "re"], ["re2"], name="re2"),
        _N("Mul", ["im", "im"], ["im2"], name="im2"), _N("Add", ["re2", "im2"], ["p"], name="power"),
        _N("Add", ["p", "floor"], ["pf"], name="floor"), _N("Log", ["pf"], ["y"], name="log"),
    ]  # fmt: skip
    scale = 10.0 ** np.random.default_rng(3).uniform(-5, 2.8, (64, 1))
    return _model(nodes, _rows(1) * scale, {"floor": _f(1e-10)})


MODELS: dict[str, Callable[[], Built]] = {
    "LpNormalization": lp_normalization, "GlobalLpPool": global_lp_pool, "ReduceLogSumExp": log_sum_exp,
    "SuperGlue's transport": sinkhorn, "CumSum past 2048": cum_sum, "ConvNeXt-V2's GRN": grn, "ScaleNorm": scale_norm,
    "RMSNorm by Pow": root_mean_square, "Pow, ReduceMean, Sqrt": root_mean_square_read, "LogSoftmax": log_softmax,
    "ReduceSumSquare": sum_square, "Power spectrum": power_spectrum,
}  # fmt: skip
