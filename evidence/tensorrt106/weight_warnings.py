"""Which weights 10.6 warns about: Conv, Gemm, MatMul and a transformer block, weak and strong, by kind of value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx

from evidence.tensorrt106.graphs import F, H, cast, model, node, value
from evidence.tensorrt106.harness import Case

KINDS = {"subnormal": 1e-6, "underflow": 1e-8, "overflow": 1e5}
WEAK = {"fp16": ("FP16",), "fp16, obey half": ("FP16", "OBEY_PRECISION_CONSTRAINTS")}


def _hold_half(network: Any, trt: Any) -> list[str]:
    """Every float layer in half, outputs too."""
    skip = (trt.LayerType.CONSTANT, trt.LayerType.SHAPE, trt.LayerType.CAST)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type not in skip and layer.get_output(0).dtype == trt.float32:
            layer.precision = trt.float16
            layer.set_output_type(0, trt.float16)
    return ["all half"]


def _marked(shape: tuple[int, ...], size: float, share: float = 0.01) -> np.ndarray:
    rng = np.random.default_rng(0)
    w = (rng.standard_normal(shape) * 0.03).astype(np.float32)
    w.reshape(-1)[:: int(1 / share)] = size
    return w


def _graph(kind: str, size: float, to: int) -> onnx.ModelProto:
    """One product with a marked weight between Relus, or a block of attention and FFN with all weights marked."""
    t = (lambda a: a.astype(np.float16)) if to == H else (lambda a: a)
    with np.errstate(over="ignore"):
        if kind == "Conv":
            w, io = _marked((64, 64, 3, 3), size), (2, 64, 32, 32)
            return model(
                [node("Relu", ["x"], ["a"]), node("Conv", ["a", "W"], ["m"], pads=[1] * 4), node("Relu", ["m"], ["o"])],
                [value("x", to, io)], [value("o", to, io)], W=t(w),
            )  # fmt: skip
        if kind in ("Gemm", "MatMul"):
            w = _marked((768, 768), size)
            ins = ["a", "W", "b"] if kind == "Gemm" else ["a", "W"]
            init = {"W": t(w)} | ({"b": t(np.zeros(768, np.float32))} if kind == "Gemm" else {})
            return model(
                [node("Relu", ["x"], ["a"]), node(kind, ins, ["m"]), node("Relu", ["m"], ["o"])],
                [value("x", to, (1024, 768))], [value("o", to, (1024, 768))], **init,
            )  # fmt: skip
        h = 768
        init = {n: t(_marked((h, h), size)) for n in ("Wq", "Wk", "Wv", "Wo")}
        init |= {
            "W1": t(_marked((h, 4 * h), size)),
            "W2": t(_marked((4 * h, h), size)),
            "b1": t(_marked((4 * h,), size)),
        }
        init |= {"g": t(_marked((h,), size)), "b": t(_marked((h,), size)), "scale": t(np.array(0.125, np.float32))}
        split = np.array([8, 128, 12, 64])
        join = np.array([8, 128, 768])
        nodes = []
        for n in "qkv":
            nodes += [
                node("MatMul", ["x", f"W{n}"], [f"{n}0"]), node("Reshape", [f"{n}0", "split"], [f"{n}1"]),
                node("Transpose", [f"{n}1"], [n], perm=[0, 2, 3, 1] if n == "k" else [0, 2, 1, 3]),
            ]  # fmt: skip
        nodes += [
            node("MatMul", ["q", "k"], ["s"]), node("Mul", ["s", "scale"], ["z"]), node("Softmax", ["z"], ["p"], axis=-1),
            node("MatMul", ["p", "v"], ["y0"]), node("Transpose", ["y0"], ["y1"], perm=[0, 2, 1, 3]), node("Reshape", ["y1", "join"], ["y"]),
            node("MatMul", ["y", "Wo"], ["w"]), node("Add", ["w", "x"], ["r"]), node("LayerNormalization", ["r", "g", "b"], ["n"], axis=-1),
            node("MatMul", ["n", "W1"], ["f0"]), node("Add", ["f0", "b1"], ["f1"]), node("Relu", ["f1"], ["f2"]),
            node("MatMul", ["f2", "W2"], ["f3"]), node("Add", ["f3", "n"], ["o"]),
        ]  # fmt: skip
        return model(
            nodes,
            [value("x", to, (8, 128, h))],
            [value("o", to, (8, 128, h))],
            opset=17,
            split=split,
            join=join,
            **init,
        )


def cases() -> Iterator[Case]:
    """Each kind of product by each kind of value; the whole log is kept for the block."""
    for kind in ("Conv", "Gemm", "MatMul", "block"):
        for value_kind, size in KINDS.items():
            for name, flags in WEAK.items():
                build: Callable[[], onnx.ModelProto] = lambda kind=kind, size=size: _graph(kind, size, F)
                constrain = _hold_half if "obey" in name else None
                yield Case(
                    "warnings",
                    f"{kind} {value_kind}: weak {name}",
                    build,
                    strong=False,
                    flags=flags,
                    constrain=constrain,
                    keep_log=True,
                )
            yield Case(
                "warnings",
                f"{kind} {value_kind}: strong half",
                lambda kind=kind, size=size: _graph(kind, size, H),
                keep_log=True,
            )
    # FP32 weights cast to half in a strongly typed graph
    w = _marked((768, 768), 1e-8)
    yield Case(
        "warnings", "MatMul underflow: strong, weight cast in the graph",
        lambda: model(
            [cast("W", "w", H), node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["o"])],
            [value("x", H, (1024, 768))], [value("o", H, (1024, 768))], W=w,
        ), keep_log=True,
    )  # fmt: skip
