"""Attention at BERT's size (40 x 300 tokens, 12 heads of 64): spellings, their kernels, error and milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from evidence.tensorrt106.graphs import F, H, cast, half, model, node, value
from evidence.tensorrt106.harness import Case

SHAPE = (40, 12, 300, 64)
# where Casts to FP32 stand: around Q K^T, around P V, from Q, K, V through Softmax, around the Softmax
SPELLINGS: dict[str, frozenset[str]] = {
    "plain": frozenset(),
    "sandwich QK": frozenset({"qk"}),
    "sandwich PV": frozenset({"pv"}),
    "sandwich QK, PV": frozenset({"qk", "pv"}),
    "softmax FP32": frozenset({"softmax"}),
    "scale, mask, softmax FP32": frozenset({"scale", "mask", "softmax"}),
    "Q, K upcast through softmax": frozenset({"qk", "scale", "mask", "softmax", "joined"}),
    "Q, K, V upcast": frozenset({"qk", "scale", "mask", "softmax", "pv", "joined"}),
}


def _model(where: frozenset[str], scale: str, mask: str, shape: tuple[int, ...] = SHAPE) -> onnx.ModelProto:
    """Scaled dot-product attention; each named part in FP32, Casts where the type changes."""
    batch, heads, length, size = shape
    nodes: list[onnx.NodeProto] = []
    kind = {name: H for name in ("q", "k", "v", "mask")}
    count = 0

    def typed(name: str, to: int) -> str:
        nonlocal count
        if kind[name] == to:
            return name
        count += 1
        out = f"{name}_{count}"
        nodes.append(cast(name, out, to))
        kind[out] = to
        return out

    def apply(part: str, op: str, out: str, *ins: str, **attributes: Any) -> str:
        to = F if part in where else H
        nodes.append(node(op, [typed(i, to) for i in ins], [out], **attributes))
        kind[out] = to
        return out if "joined" in where else typed(out, H)

    init: dict[str, Any] = {"scale": np.array(size**-0.5, np.float16), "low": np.array(-10000, np.float16)}
    kind |= {"scale": H, "low": H}
    q = apply("scale" if "joined" in where else "", "Mul", "qs", "q", "scale") if scale == "q" else "q"
    nodes.append(node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]))
    kind["kt"] = H
    s = apply("qk", "MatMul", "s", q, "kt")
    if scale == "scores":
        s = apply("scale", "Mul", "ss", s, "scale")
    inputs = [value(n, H, shape) for n in "qkv"]
    if mask == "additive":
        s = apply("mask", "Add", "sm", s, "mask")
        inputs.append(value("mask", H, (batch, 1, 1, length)))
    p = apply("softmax", "Softmax", "p", s, axis=-1)
    y = apply("pv", "MatMul", "y", p, "v")
    y = typed(y, H)
    nodes.append(node("Transpose", [y], ["o"], perm=[0, 2, 1, 3]))
    del init["low"]
    return model(nodes, inputs, [value("o", H, (batch, length, heads, size))], **init)


def cases() -> Iterator[Case]:
    """Every spelling with the scale on Q or on the scores, with and without an additive mask; two of a long sequence."""
    for scale, mask in (("scores", ""), ("scores", "additive"), ("q", "additive")):
        for name, where in SPELLINGS.items():
            yield _case(name, where, scale, mask, SHAPE)
    for name in ("plain", "sandwich QK, PV", "softmax FP32", "Q, K, V upcast"):
        yield _case(name, SPELLINGS[name], "q", "", (2, 12, 2048, 64))


def _case(name: str, where: frozenset[str], scale: str, mask: str, shape: tuple[int, ...]) -> Case:
    def feeds() -> list[dict[str, np.ndarray]]:
        rng = np.random.default_rng(0)
        q, k, v = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
        feed = {"q": half(2 * q), "k": half(k), "v": half(v + 0.2)}
        if mask:
            feed["mask"] = np.where(np.arange(shape[2]) < shape[2] - 20, 0, -10000).astype(np.float32) * np.ones(
                (shape[0], 1, 1, 1), "f4"
            )
        return [feed]

    def reference(x: dict[str, Any]) -> list[Any]:
        import torch

        scores = x["q"] @ x["k"].transpose(-1, -2) * shape[3] ** -0.5
        if mask:
            scores = scores + x["mask"]
        return [(torch.softmax(scores, -1) @ x["v"]).transpose(1, 2)]

    label = f"{shape[0]}x{shape[2]}, scale on {scale}{', mask' if mask else ''}: {name}"
    return Case(
        "attention", label, lambda: _model(where, scale, mask, shape), feeds, reference, timed=True,
        keep_log=shape is SHAPE and scale == "q" and name == "plain",
    )  # fmt: skip
