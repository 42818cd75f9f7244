"""A small model whose weights hold one kind of trouble each, to compare a census with TensorRT's own warnings.

A chain of MatMul, Add and Tanh. Every tensor's name says what it holds: ``w_subnormal`` has values that are subnormal
in FP16, ``b_overflow`` one of 9e4, and so on. ``mask_neg_inf`` is a constant of -inf that no input selects, and the
attention at the end has weights of 1.5e-7 that fall under 2^-24 if TensorRT folds the scale 0.125 into them.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 64
ROWS = 8


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)

    def normal(scale: float) -> np.ndarray:
        # away from zero, so that only what is planted is small
        values = rng.uniform(0.5, 1.5, (WIDTH, WIDTH)) * rng.choice([-1.0, 1.0], (WIDTH, WIDTH))
        return (scale * values).astype(np.float32)

    def planted(value: float, base: float = 0.1) -> np.ndarray:
        weight = normal(base)
        weight[3, 5] = value
        return weight

    vector = np.linspace(0.25, 1.0, WIDTH, dtype=np.float32)

    def bias(value: float) -> np.ndarray:
        planted_bias = vector.copy()
        planted_bias[7] = value
        return planted_bias

    return {
        "w_clean": normal(0.1),
        "w_subnormal": planted(3e-5),
        "w_smallest_subnormal": planted(float(2.0**-24)),
        "w_below_smallest_normal": planted(float(np.nextafter(np.float32(2.0**-14), np.float32(0)))),
        "w_smallest_normal": planted(float(2.0**-14)),
        "w_underflow": planted(1e-9),
        "w_just_under_subnormal": planted(float(np.nextafter(np.float32(2.0**-24), np.float32(0)))),
        "w_both": planted(1e-9) + np.float32(0) * vector,
        "w_zero": planted(0.0),
        "b_overflow": bias(9e4),
        "b_negative_overflow": bias(-7e4),
        "b_largest_finite": bias(65504.0),
        "b_rounds_to_largest": bias(65510.0),
        "b_rounds_to_infinity": bias(65525.0),
        "b_tiny": np.full(WIDTH, 1e-8, np.float32),
    }


def build_census_model(masks: str = "Where", scaled: str = "scores") -> onnx.ModelProto:
    """The model; equal on every machine.

    Args:
      masks: the operator that reads the masks, ``Where`` or ``Max``.
      scaled: what the attention scale is applied to: the ``scores`` by Div, or the ``query`` by Mul.
    """
    weights = _weights()
    weights["w_both"][9, 9] = 3e-5
    nodes: list[onnx.NodeProto] = []
    last = "x"
    for name in weights:
        product = name.startswith("w_")
        nodes.append(helper.make_node("MatMul" if product else "Add", [last, name], [f"{name}_out"], name=f"/{name}"))
        nodes.append(helper.make_node("Tanh", [f"{name}_out"], [f"{name}_tanh"], name=f"/{name}/Tanh"))
        last = f"{name}_tanh"
    weights["limit"] = np.full((1, 1), -5.0, np.float32)
    weights["mask_neg_inf"] = np.full((1, 1), -np.inf, np.float32)
    weights["mask_lowest"] = np.full((1, 1), np.finfo(np.float32).min, np.float32)
    for name in ("mask_neg_inf", "mask_lowest"):
        if masks == "Where":
            kept = f"{name}_kept"
            nodes.append(helper.make_node("Greater", [last, "limit"], [kept], name=f"/{name}/Greater"))
            nodes.append(helper.make_node("Where", [kept, last, name], [f"{name}_out"], name=f"/{name}/Where"))
        else:
            nodes.append(helper.make_node("Max", [last, name], [f"{name}_out"], name=f"/{name}/Max"))
        last = f"{name}_out"
    if masks != "Where":
        del weights["limit"]
    rng = np.random.default_rng(11)
    for name in ("query", "key"):
        weights[f"{name}_folded"] = rng.uniform(0.5, 1.5, (WIDTH, WIDTH)).astype(np.float32)
        weights[f"{name}_folded"][2, 2] = 1.5e-7
        nodes.append(helper.make_node("MatMul", [last, f"{name}_folded"], [name], name=f"/attention/{name}"))
    on_scores = scaled == "scores"
    weights["scale"] = np.array(8.0 if on_scores else 0.125, np.float32)
    if not on_scores:
        nodes.append(helper.make_node("Mul", ["query", "scale"], ["scaled_query"], name="/attention/Mul"))
    nodes.append(helper.make_node("Transpose", ["key"], ["key_t"], name="/attention/Transpose", perm=[1, 0]))
    query, scores = ("query", "scores") if on_scores else ("scaled_query", "scaled")
    nodes.append(helper.make_node("MatMul", [query, "key_t"], [scores], name="/attention/MatMul"))
    if on_scores:
        nodes.append(helper.make_node("Div", ["scores", "scale"], ["scaled"], name="/attention/Div"))
    nodes.append(helper.make_node("Softmax", ["scaled"], ["y"], name="/attention/Softmax", axis=-1))
    graph = helper.make_graph(
        nodes,
        "census",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, ROWS])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def census_inputs() -> dict[str, np.ndarray]:
    """Inputs between -1 and 1."""
    return {"x": np.random.default_rng(3).uniform(-1, 1, (ROWS, WIDTH)).astype(np.float32)}
