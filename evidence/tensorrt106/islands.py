"""FP32 islands between Casts: which keep FP32 weights, shown by running weights of 1e-8 and 1e5, and by bytes.

Output column (channel) 0 has weights near 1e-8, column 1 near 1e5: half weights give 0 and inf (or 65504). Column 0 is
read from a run with inputs near 1e3, column 1 from one with inputs near 1e-3, the others from the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from evidence.tensorrt106.graphs import B, F, H, cast, half, model, node, value
from evidence.tensorrt106.harness import Case

M, K, N = 512, 1024, 512


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((K, N)) * 0.03).astype(np.float32)
    v = (rng.standard_normal((N, N)) * 0.03).astype(np.float32)
    b = rng.standard_normal(N).astype(np.float32)
    w3 = (rng.standard_normal((64, 64, 3, 3)) * 0.05).astype(np.float32)
    for matrix in (w, v):
        matrix[:, 0] *= 1e-8 / 0.03
        matrix[:, 1] *= 1e5 / 0.03
    b[:2] = 0
    w3t = w3.copy()
    w3[0] *= 1e-8 / 0.05
    w3[1] *= 1e5 / 0.05
    w3t[:, 0] *= 1e-8 / 0.05
    w3t[:, 1] *= 1e5 / 0.05
    return {"W": w, "V": v, "b": b, "W3": w3, "W3T": w3t, "WC": np.ascontiguousarray(w.T).reshape(N, K, 1, 1)}


def _runs(
    shapes: dict[str, Sequence[int]], channel: int, special: str = ""
) -> Callable[[], list[dict[str, np.ndarray]]]:
    """Two runs, inputs near 1e3 and near 1e-3; a second input y is a residual, zero where columns 0 and 1 are."""

    def make() -> list[dict[str, np.ndarray]]:
        rng = np.random.default_rng(1)
        runs = []
        for size in (1e3, 1e-3):
            feed = {}
            for name, shape in shapes.items():
                values = rng.standard_normal(shape)
                if name == "y":
                    index: list[Any] = [slice(None)] * len(shape)
                    index[channel] = slice(0, 2)
                    values[tuple(index)] = 0
                elif special == "exp":
                    values = np.log(size) + 0.2 * values
                else:
                    values = values * size
                feed[name] = half(values.astype(np.float32))
            runs.append(feed)
        return runs

    return make


def _measure(channel: int) -> Callable[[Any, Any], dict[str, Any]]:
    """Relative L2 error of channel 0 (first run), channel 1 and the others (second run)."""

    def of(results: Any, references: Any) -> dict[str, Any]:
        def error(run: int, index: Any) -> float:
            out = np.moveaxis(results[run][0], channel, 0)[index]
            ref = np.moveaxis(references[run][0], channel, 0)[index]
            if not np.isfinite(out).all():
                return float("inf")
            return float(np.linalg.norm(out - ref) / (np.linalg.norm(ref) or 1))

        tiny, huge, usual = error(0, 0), error(1, 1), error(1, slice(2, None))
        return {"tiny": tiny, "huge": huge, "usual": usual, "kept": bool(tiny < 0.02 and huge < 0.02)}

    return of


def _torch(kind: str, **w: np.ndarray) -> Callable[[dict[str, Any]], list[Any]]:
    """References in torch's float64, by the words of the variant's name."""

    def reference(x: dict[str, Any]) -> list[Any]:
        import torch

        t = {k: torch.from_numpy(np.ascontiguousarray(v)).double().to(x["x"].device) for k, v in w.items()}
        a = x["x"]
        if kind.startswith("exp"):
            a = torch.exp(a)
        if kind.startswith("relu"):
            a = torch.relu(a)
        if kind.startswith("reshape"):
            a = a.reshape(M, K)
        if kind.startswith("convt"):
            y = torch.nn.functional.conv_transpose2d(a, t["W"], padding=1)
        elif kind.startswith("conv"):
            y = torch.nn.functional.conv2d(a, t["W"], t.get("b"), padding=(t["W"].shape[-1] - 1) // 2)
        else:
            y = a @ t["W"]
        if "second" in kind:
            y = y @ t["V"]
        if "b" in t and not kind.startswith("conv"):
            y = y + t["b"]
        if "y" in x:
            y = y + x["y"]
        if "scaled" in kind:
            y = y * 3
        if "positive" in kind:
            y = torch.relu(y)
        if "split" in kind:
            y = y.reshape(M, 8, N // 8)
        if "turned" in kind:
            y = y.T
        return [y]

    return reference


def cases() -> Iterator[Case]:
    """The 23 variants first found on TensorRT-RTX, then forms that may hold."""
    w = _weights()
    W, V, b, WC, W3, W3T = w["W"], w["V"], w["b"], w["WC"], w["W3"], w["W3T"]
    eye = np.eye(N, dtype=np.float32)
    gentle = (np.random.default_rng(3).standard_normal((K, N)) / 32).astype(np.float32)
    wb = W.astype(ml_dtypes.bfloat16)
    X, Y = value("x", H, [M, K]), value("o", H, [M, N])
    XC, OC = value("x", H, [1, K, 16, 16]), value("o", H, [1, N, 16, 16])
    X3, O3 = value("x", H, [1, 64, 56, 56]), value("o", H, [1, 64, 56, 56])
    o = cast("r", "o", H)
    mm = node("MatMul", ["a", "W"], ["m"])
    out = cast("m", "o", H)
    flat = {"x": (M, K)}
    c1, c3 = {"x": (1, K, 16, 16)}, {"x": (1, 64, 56, 56)}
    zeros, zero = np.zeros(N, np.float32), np.float32(0)

    def one(name, nodes, shapes, kind, ins=(X,), outs=(Y,), channel=1, special="", keep=False, refs=None, **init):  # type: ignore[no-untyped-def]
        def build() -> onnx.ModelProto:
            return model([onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes], ins, outs, **init)

        weights = refs if refs is not None else {k: v for k, v in init.items() if k in ("W", "V", "b")}
        return Case(
            "islands",
            name,
            build,
            _runs(shapes, channel, special),
            _torch(kind, **weights),
            _measure(channel),
            keep_engine=keep,
        )

    def ca() -> onnx.NodeProto:
        return cast("x", "a", F)

    yield one("MatMul", [ca(), mm, out], flat, "", W=W, keep=True)
    yield one("MatMul, Relu", [ca(), mm, node("Relu", ["m"], ["r"]), o], flat, "positive", W=W)
    yield one("MatMul, Mul scalar", [ca(), mm, node("Mul", ["m", "s"], ["r"]), o], flat, "scaled", W=W, s=np.float32(3))
    yield one("MatMul, Add bias", [ca(), mm, node("Add", ["m", "b"], ["r"]), o], flat, "", W=W, b=b, keep=True)
    yield one("MatMul, Add zeros", [ca(), mm, node("Add", ["m", "b"], ["r"]), o], flat, "", W=W, b=zeros)
    yield one("Gemm with bias", [ca(), node("Gemm", ["a", "W", "b"], ["m"]), out], flat, "", W=W, b=b)
    yield one(
        "MatMul, residual FP32 Add (from half)",
        [ca(), cast("y", "yc", F), mm, node("Add", ["m", "yc"], ["r"]), o],
        {"x": (M, K), "y": (M, N)},
        "",
        ins=(X, value("y", H, [M, N])),
        W=W,
    )
    yield one(
        "MatMul, Reshape", [ca(), mm, node("Reshape", ["m", "sh"], ["r"]), o], flat, "split",
        outs=(value("o", H, [M, 8, N // 8]),), W=W, sh=np.array([M, 8, N // 8]), channel=-1,
    )  # fmt: skip
    yield one(
        "MatMul, Transpose", [ca(), mm, node("Transpose", ["m"], ["r"], perm=[1, 0]), o], flat, "turned",
        outs=(value("o", H, [N, M]),), channel=0, W=W,
    )  # fmt: skip
    yield one(
        "Reshape before, MatMul",
        [ca(), node("Reshape", ["a", "sh"], ["ar"]), node("MatMul", ["ar", "W"], ["m"]), out],
        {"x": (8, M // 8, K)}, "reshape", ins=(value("x", H, [8, M // 8, K]),), W=W, sh=np.array([M, K]),
    )  # fmt: skip
    yield one(
        "MatMul, MatMul (first weight)", [ca(), mm, node("MatMul", ["m", "V"], ["r"]), o], flat, "second", W=W, V=eye
    )
    yield one(
        "MatMul, MatMul (second weight)",
        [ca(), mm, node("MatMul", ["m", "V"], ["r"]), o],
        flat,
        "second",
        W=gentle,
        V=V,
    )
    yield one(
        "Relu FP32 before, MatMul",
        [ca(), node("Relu", ["a"], ["ar"]), node("MatMul", ["ar", "W"], ["m"]), out],
        flat,
        "relu",
        W=W,
    )
    yield one(
        "Exp FP32 before, MatMul",
        [ca(), node("Exp", ["a"], ["ar"]), node("MatMul", ["ar", "W"], ["m"]), out],
        flat,
        "exp",
        special="exp",
        W=W,
    )
    yield one("MatMul read by Cast and by FP32 output", [ca(), mm, out], flat, "", outs=(Y, value("m", F, [M, N])), W=W)
    yield one("MatMul, Cast BF16 out", [ca(), mm, cast("m", "o", B)], flat, "", outs=(value("o", B, [M, N]),), W=W)
    yield one(
        "BF16 in, MatMul, BF16 out", [ca(), mm, cast("m", "o", B)], flat, "",
        ins=(value("x", B, [M, K]),), outs=(value("o", B, [M, N]),), W=W,
    )  # fmt: skip
    yield one(
        "weight stored BF16, cast to FP32, half in/out", [ca(), cast("Wb", "W", F), mm, out], flat, "",
        Wb=wb, refs={"W": wb.astype(np.float32)}, keep=True,
    )  # fmt: skip
    conv = node("Conv", ["a", "W"], ["m"])
    convb = node("Conv", ["a", "W", "b"], ["m"])
    conv3 = node("Conv", ["a", "W"], ["m"], pads=[1] * 4)
    conv3b = node("Conv", ["a", "W", "b"], ["m"], pads=[1] * 4)
    turn3 = node("ConvTranspose", ["a", "W"], ["m"], pads=[1] * 4)
    yield one("Conv 1x1", [ca(), conv, out], c1, "conv", ins=(XC,), outs=(OC,), W=WC, keep=True)
    yield one("Conv 1x1 with bias", [ca(), convb, out], c1, "conv", ins=(XC,), outs=(OC,), W=WC, b=b)
    yield one(
        "Conv 3x3 with bias, Relu", [ca(), conv3b, node("Relu", ["m"], ["r"]), o], c3, "conv positive",
        ins=(X3,), outs=(O3,), W=W3, b=b[:64],
    )  # fmt: skip
    yield one("Conv 3x3", [ca(), conv3, out], c3, "conv", ins=(X3,), outs=(O3,), W=W3, keep=True)
    yield one("ConvTranspose", [ca(), turn3, out], c3, "convt", ins=(X3,), outs=(O3,), W=W3T)

    # forms that may hold
    def tail(name: str, *nodes: onnx.NodeProto, **init: np.ndarray) -> Case:
        return one(f"form: MatMul, {name}", [ca(), mm, *nodes, o], flat, "", W=W, **init)

    yield tail("Add scalar zero", node("Add", ["m", "z"], ["r"]), z=zero)
    yield tail("Mul scalar one", node("Mul", ["m", "z"], ["r"]), z=np.float32(1))
    yield tail("Identity", node("Identity", ["m"], ["r"]))
    yield tail("Max with lowest", node("Max", ["m", "z"], ["r"]), z=np.float32(-3.4e38))
    yield tail(
        "Clip without bounds", node("Clip", ["m", "lo", "hi"], ["r"]), lo=np.float32(-3.4e38), hi=np.float32(3.4e38)
    )
    yield one(
        "form: Add scalar zero before, MatMul",
        [ca(), node("Add", ["a", "z"], ["az"]), node("MatMul", ["az", "W"], ["m"]), out], flat, "", W=W, z=zero,
    )  # fmt: skip
    yield one(
        "form: MatMul, Reshape, Add zeros",
        [ca(), mm, node("Reshape", ["m", "sh"], ["q"]), node("Add", ["q", "z"], ["r"]), o], flat, "split",
        outs=(value("o", H, [M, 8, N // 8]),), W=W, sh=np.array([M, 8, N // 8]), channel=-1, z=np.zeros(N // 8, np.float32),
    )  # fmt: skip
    yield one(
        "form: MatMul, Add zeros, Transpose",
        [ca(), mm, node("Add", ["m", "b"], ["q"]), node("Transpose", ["q"], ["r"], perm=[1, 0]), o], flat, "turned",
        outs=(value("o", H, [N, M]),), channel=0, W=W, b=zeros,
    )  # fmt: skip
    yield one("form: Gemm without bias", [ca(), node("Gemm", ["a", "W"], ["m"]), out], flat, "", W=W)
    yield one("form: Gemm with zeros", [ca(), node("Gemm", ["a", "W", "b"], ["m"]), out], flat, "", W=W, b=zeros)
    zero_c = np.zeros((1, N, 1, 1), np.float32)
    yield one(
        "form: Conv 1x1, Add zeros",
        [ca(), conv, node("Add", ["m", "z"], ["r"]), o],
        c1,
        "conv",
        ins=(XC,),
        outs=(OC,),
        W=WC,
        z=zero_c,
    )
    yield one("form: Conv 1x1 bias zeros", [ca(), convb, out], c1, "conv", ins=(XC,), outs=(OC,), W=WC, b=zeros)
    yield one("form: Conv 3x3 bias zeros", [ca(), conv3b, out], c3, "conv", ins=(X3,), outs=(O3,), W=W3, b=zeros[:64])
    yield one(
        "form: Conv 3x3, Add scalar zero",
        [ca(), conv3, node("Add", ["m", "z"], ["r"]), o],
        c3,
        "conv",
        ins=(X3,),
        outs=(O3,),
        W=W3,
        z=zero,
    )
    yield one(
        "form: ConvTranspose, Add scalar zero", [ca(), turn3, node("Add", ["m", "z"], ["r"]), o], c3, "convt",
        ins=(X3,), outs=(O3,), W=W3T, z=zero,
    )  # fmt: skip
    lo, hi = np.float32(-3.4e38), np.float32(3.4e38)
    for label, op, shapes, kind, ins, outs, w in (
        ("Conv 1x1", conv, c1, "conv", XC, OC, WC),
        ("Conv 3x3", conv3, c3, "conv", X3, O3, W3),
        ("ConvTranspose", turn3, c3, "convt", X3, O3, W3T),
    ):
        ends: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
            "Max with lowest": ([node("Max", ["m", "z"], ["r"])], {"z": lo}),
            "Clip to the ends": ([node("Clip", ["m", "lo", "hi"], ["r"])], {"lo": lo, "hi": hi}),
            "LeakyRelu of slope 1": ([node("LeakyRelu", ["m"], ["r"], alpha=1.0)], {}),
            "Mul scalar 3": ([node("Mul", ["m", "z"], ["r"])], {"z": np.float32(3)}),
            "Add to itself times zero": (
                [node("Mul", ["m", "z"], ["n"]), node("Add", ["m", "n"], ["r"])],
                {"z": np.float32(0)},
            ),
            "Neg, Neg": ([node("Neg", ["m"], ["n"]), node("Neg", ["n"], ["r"])], {}),
        }
        for name, (tail_nodes, init) in ends.items():
            scaled = " scaled" if "3" in name and name.startswith("Mul") else ""
            yield one(
                f"form: {label}, {name}",
                [ca(), op, *tail_nodes, o],
                shapes,
                kind + scaled,
                ins=(ins,),
                outs=(outs,),
                W=w,
                **init,
            )
        yield one(
            f"form: Add scalar zero before, {label}",
            [ca(), node("Add", ["a", "z"], ["az"]), onnx.helper.make_node(op.op_type, ["az", "W"], ["m"], **{a.name: onnx.helper.get_attribute_value(a) for a in op.attribute}), out],
            shapes, kind, ins=(ins,), outs=(outs,), W=w, z=np.float32(0),
        )  # fmt: skip
        yield one(
            f"form: Max with lowest before, {label}",
            [ca(), node("Max", ["a", "z"], ["az"]), onnx.helper.make_node(op.op_type, ["az", "W"], ["m"], **{a.name: onnx.helper.get_attribute_value(a) for a in op.attribute}), out],
            shapes, kind, ins=(ins,), outs=(outs,), W=w, z=lo,
        )  # fmt: skip


def weak_cases() -> Iterator[Case]:
    """Weakly typed: half Relu -> FP32 product -> half Relu, obeyed, alone and with what may keep its FP32 weights."""
    w = _weights()
    forms: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
        "MatMul": ([node("MatMul", ["a", "W"], ["product_m"])], {}),
        "MatMul, Add bias": (
            [node("MatMul", ["a", "W"], ["product_n"]), node("Add", ["product_n", "b"], ["product_m"])],
            {"b": w["b"]},
        ),
        "Add scalar zero before, MatMul": (
            [node("Add", ["a", "z"], ["product_z"]), node("MatMul", ["product_z", "W"], ["product_m"])],
            {"z": np.float32(0)},
        ),
        "MatMul, Add scalar zero": (
            [node("MatMul", ["a", "W"], ["product_n"]), node("Add", ["product_n", "z"], ["product_m"])],
            {"z": np.float32(0)},
        ),
        "Gemm with bias": ([node("Gemm", ["a", "W", "b"], ["product_m"])], {"b": w["b"]}),
        "Add scalar zero before, Gemm with bias": (
            [node("Add", ["a", "z"], ["product_z"]), node("Gemm", ["product_z", "W", "b"], ["product_m"])],
            {"z": np.float32(0), "b": w["b"]},
        ),
    }

    def held(network: Any, trt: Any) -> list[str]:
        said = []
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            skip = (trt.LayerType.CONSTANT, trt.LayerType.SHAPE, trt.LayerType.CAST, trt.LayerType.SHUFFLE)
            if layer.type in skip or layer.get_output(0).dtype != trt.float32:
                continue
            kind = trt.float32 if "product" in layer.name else trt.float16
            layer.precision = kind
            layer.set_output_type(0, kind)
            said.append(f"{layer.name}: {kind}")
        return said

    for name, (nodes, extra) in forms.items():

        def build(nodes: list[onnx.NodeProto] = nodes, extra: dict[str, np.ndarray] = extra) -> onnx.ModelProto:
            body = [
                node("Relu", ["x"], ["a"]),
                *(onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes),
                node("Relu", ["product_m"], ["o"], name="last"),
            ]
            return model(body, [value("x", F, [M, K])], [value("o", F, [M, N])], W=w["W"], **extra)

        refs = {k: v for k, v in {"W": w["W"], **extra}.items() if k in ("W", "b")}
        yield Case(
            "weak_islands",
            name,
            build,
            _runs({"x": (M, K)}, 1),
            _torch("relu positive", **refs),
            _measure(1),
            strong=False,
            flags=("FP16", "OBEY_PRECISION_CONSTRAINTS"),
            constrain=held,
        )
