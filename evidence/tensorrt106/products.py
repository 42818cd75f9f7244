"""Products of half values: which spelling, or which weak constraint, sums them in FP32, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx

from evidence.tensorrt106.graphs import F, H, cast, half, model, node, value
from evidence.tensorrt106.harness import Case, Feeds

# (rows, K, N): BERT's query, FFN in and FFN out at 40 x 300 tokens; a long sum
SHAPES = {
    "768x768": (12000, 768, 768),
    "768x3072": (12000, 768, 3072),
    "3072x768": (12000, 3072, 768),
    "8192x1024": (1024, 8192, 1024),
}


def ca() -> onnx.NodeProto:
    """The input in FP32."""
    return cast("x", "a", F)


def cw() -> onnx.NodeProto:
    """The half weight in FP32."""
    return cast("W", "w", F)


def cb() -> onnx.NodeProto:
    """The half bias in FP32."""
    return cast("b", "c", F)


def mm(left: str, right: str, out: str) -> onnx.NodeProto:
    """A MatMul."""
    return node("MatMul", [left, right], [out])


def conv3(ins: list[str], out: str) -> onnx.NodeProto:
    """A 3x3 Conv of the same size."""
    return node("Conv", ins, [out], pads=[1] * 4)


def _matrices(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, k, n = shape
    rng = np.random.default_rng(0)
    return (
        half((rng.standard_normal((rows, k)) + 0.3).astype(np.float32)),
        half(((rng.standard_normal((k, n)) + 0.1) / np.sqrt(k)).astype(np.float32)),
        half(rng.standard_normal(n).astype(np.float32)),
    )


def _dense(w: np.ndarray, b: np.ndarray | None, gelu: bool = False) -> Callable[[dict[str, Any]], list[Any]]:
    def reference(x: dict[str, Any]) -> list[Any]:
        import torch

        y = x["x"] @ torch.from_numpy(w).double().to(x["x"].device)
        if b is not None:
            y = y + torch.from_numpy(b).double().to(x["x"].device)
        return [torch.nn.functional.gelu(y) if gelu else y]

    return reference


def spellings() -> Iterator[Case]:
    """Strongly typed: a half product plain, in a Cast sandwich, bias outside and inside, followed by Gelu."""
    for label, shape in SHAPES.items():
        x, w, b = _matrices(shape)
        rows, k, n = shape
        w16, b16 = w.astype(np.float16), b.astype(np.float16)
        X, Y = value("x", H, [rows, k]), value("o", H, [rows, n])
        forms: dict[str, tuple[Callable[[], list[onnx.NodeProto]], dict[str, np.ndarray], bool, bool]] = {
            "plain": (lambda: [mm("x", "W", "o")], {"W": w16}, False, False),
            "plain, bias": (lambda: [mm("x", "W", "m"), node("Add", ["m", "b"], ["o"])], {"W": w16, "b": b16}, True, False),
            "sandwich": (lambda: [ca(), cw(), mm("a", "w", "m"), cast("m", "o", H)], {"W": w16}, False, False),
            "sandwich, float weights": (lambda: [ca(), mm("a", "W", "m"), cast("m", "o", H)], {"W": w}, False, False),
            "sandwich, bias outside": (
                lambda: [ca(), cw(), mm("a", "w", "m"), cast("m", "h", H), node("Add", ["h", "b"], ["o"])],
                {"W": w16, "b": b16}, True, False,
            ),
            "sandwich, bias inside": (
                lambda: [ca(), cw(), cb(), mm("a", "w", "m"), node("Add", ["m", "c"], ["h"]), cast("h", "o", H)],
                {"W": w16, "b": b16}, True, False,
            ),
            "sandwich, Gemm": (
                lambda: [ca(), cw(), cb(), node("Gemm", ["a", "w", "c"], ["h"]), cast("h", "o", H)],
                {"W": w16, "b": b16}, True, False,
            ),
            "plain, bias, Gelu": (
                lambda: [mm("x", "W", "m"), node("Add", ["m", "b"], ["h"]), node("Gelu", ["h"], ["o"])],
                {"W": w16, "b": b16}, True, True,
            ),
            "sandwich, bias outside, Gelu": (
                lambda: [ca(), cw(), mm("a", "w", "m"), cast("m", "h", H), node("Add", ["h", "b"], ["g"]), node("Gelu", ["g"], ["o"])],
                {"W": w16, "b": b16}, True, True,
            ),
            "sandwich, bias inside, Gelu outside": (
                lambda: [
                    ca(), cw(), cb(), mm("a", "w", "m"), node("Add", ["m", "c"], ["h"]), cast("h", "g", H), node("Gelu", ["g"], ["o"])
                ],
                {"W": w16, "b": b16}, True, True,
            ),
        }  # fmt: skip
        for name, (nodes, init, bias, gelu) in forms.items():
            yield Case(
                "spellings", f"MatMul {label} {name}",
                lambda nodes=nodes, init=init, X=X, Y=Y: model(nodes(), [X], [Y], **init),
                lambda x=x: [{"x": x}], _dense(w, b if bias else None, gelu), timed=True, keep_log=label == "768x768" and name == "sandwich",
            )  # fmt: skip
    rng = np.random.default_rng(0)
    for channels, size in ((64, 56), (512, 28)):
        cw32 = half(
            ((rng.standard_normal((channels, channels, 3, 3)) + 0.1) / (3 * np.sqrt(channels))).astype(np.float32)
        )
        cb32 = half(rng.standard_normal(channels).astype(np.float32))
        image = half((rng.standard_normal((16, channels, size, size)) + 0.3).astype(np.float32))
        X, Y = value("x", H, image.shape), value("o", H, image.shape)

        def reference(x: dict[str, Any], w: np.ndarray = cw32, b: np.ndarray = cb32) -> list[Any]:
            import torch

            to = x["x"].device
            return [
                torch.nn.functional.conv2d(
                    x["x"], torch.from_numpy(w).double().to(to), torch.from_numpy(b).double().to(to), padding=1
                )
            ]

        init = {"W": cw32.astype(np.float16), "b": cb32.astype(np.float16)}
        column = {"W": init["W"], "b": init["b"].reshape(1, -1, 1, 1)}
        convs: dict[str, tuple[Callable[[], list[onnx.NodeProto]], dict[str, np.ndarray]]] = {
            "plain": (lambda: [conv3(["x", "W", "b"], "o")], init),
            "sandwich, bias inside": (
                lambda: [ca(), cw(), cast("b", "c", F), conv3(["a", "w", "c"], "m"), cast("m", "o", H)],
                init,
            ),
            "sandwich, bias outside": (
                lambda: [ca(), cw(), conv3(["a", "w"], "m"), cast("m", "h", H), node("Add", ["h", "b"], ["o"])],
                column,
            ),
        }
        for name, (nodes, weights) in convs.items():
            yield Case(
                "spellings", f"Conv 3x3 {channels} {name}",
                lambda nodes=nodes, weights=weights, X=X, Y=Y: model(nodes(), [X], [Y], **weights),
                lambda image=image: [{"x": image}], reference, timed=True,
            )  # fmt: skip


def _set(names: tuple[str, ...], precision: str | None, output: str | None) -> Callable[[Any, Any], list[str]]:
    """Constrain layers by the beginning of their name; every other float layer to half in and out."""

    def constrain(network: Any, trt: Any) -> list[str]:
        said = []
        skip = (trt.LayerType.CONSTANT, trt.LayerType.SHAPE, trt.LayerType.CAST, trt.LayerType.SHUFFLE)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if layer.type in skip or layer.get_output(0).dtype != trt.float32:
                continue
            ours = layer.name.startswith(names)
            kind, out = (precision, output) if ours else ("float16", "float16")
            if kind:
                layer.precision = getattr(trt, kind)
            if out:
                layer.set_output_type(0, getattr(trt, out))
            said.append(f"{layer.name} {layer.type}: precision {kind}, output {out}")
        return said

    return constrain


WEAK: dict[str, tuple[tuple[str, ...], tuple[str | None, str | None] | None]] = {
    "fp16 alone": (("FP16",), None),
    "fp16 and tf32": (("FP16", "TF32"), None),
    "obey half, half out": (("FP16", "OBEY_PRECISION_CONSTRAINTS"), ("float16", "float16")),
    "obey float, half out": (("FP16", "OBEY_PRECISION_CONSTRAINTS"), ("float32", "float16")),
    "obey float, half out, tf32": (("FP16", "TF32", "OBEY_PRECISION_CONSTRAINTS"), ("float32", "float16")),
    "obey half, float out": (("FP16", "OBEY_PRECISION_CONSTRAINTS"), ("float16", "float32")),
    "obey float, float out": (("FP16", "OBEY_PRECISION_CONSTRAINTS"), ("float32", "float32")),
    "obey float, no output": (("FP16", "OBEY_PRECISION_CONSTRAINTS"), ("float32", None)),
    "obey no precision, half out": (("FP16", "OBEY_PRECISION_CONSTRAINTS"), (None, "float16")),
    "obey no precision, float out": (("FP16", "OBEY_PRECISION_CONSTRAINTS"), (None, "float32")),
    "prefer float, half out": (("FP16", "PREFER_PRECISION_CONSTRAINTS"), ("float32", "float16")),
    "prefer half, float out": (("FP16", "PREFER_PRECISION_CONSTRAINTS"), ("float16", "float32")),
}


def weak() -> Iterator[Case]:
    """Weakly typed: Relu -> product -> Relu, the Relus held to half, the product constrained in each way."""
    rng = np.random.default_rng(0)
    ours = ("product",)

    def fence(
        nodes: list[onnx.NodeProto], shape: Any, out: Any, ins: tuple[Any, ...] = (), **init: np.ndarray
    ) -> onnx.ModelProto:
        ends = [node("Relu", ["x"], ["a"]), *nodes, node("Relu", ["m"], ["o"])]
        return model(ends, [value("x", F, shape), *ins], [value("o", F, out)], **init)

    rows, k, n = 4096, 4096, 1024
    x = half((rng.standard_normal((rows, k)) + 0.3).astype(np.float32))
    w = half(((rng.standard_normal((k, n)) + 0.1) / np.sqrt(k)).astype(np.float32))
    b = half(rng.standard_normal(n).astype(np.float32))
    image = half((rng.standard_normal((8, 512, 28, 28)) + 0.3).astype(np.float32))
    cw = half(((rng.standard_normal((512, 512, 3, 3)) + 0.1) / 68).astype(np.float32))
    q, kk, v = (half(rng.standard_normal((8, 12, 512, 64)).astype(np.float32)) for _ in range(3))

    def dense(d: dict[str, Any]) -> list[Any]:
        import torch

        y = torch.relu(d["x"]) @ torch.from_numpy(w).double().to(d["x"].device)
        return [torch.relu(y)]

    def gemm(d: dict[str, Any]) -> list[Any]:
        import torch

        to = d["x"].device
        return [
            torch.relu(torch.relu(d["x"]) @ torch.from_numpy(w).double().to(to) + torch.from_numpy(b).double().to(to))
        ]

    def conv(d: dict[str, Any]) -> list[Any]:
        import torch

        y = torch.nn.functional.conv2d(torch.relu(d["x"]), torch.from_numpy(cw).double().to(d["x"].device), padding=1)
        return [torch.relu(y)]

    def attend(d: dict[str, Any]) -> list[Any]:
        import torch

        scores = torch.relu(d["x"]) @ d["k"].transpose(-1, -2) / 8
        return [torch.relu(torch.softmax(scores, -1) @ d["v"])]

    kinds: dict[str, tuple[Callable[[], onnx.ModelProto], Feeds, Any]] = {
        "MatMul": (lambda: fence([node("MatMul", ["a", "W"], ["m"], name="product")], x.shape, (rows, n), W=w), {"x": x}, dense),
        "Gemm": (lambda: fence([node("Gemm", ["a", "W", "b"], ["m"], name="product")], x.shape, (rows, n), W=w, b=b), {"x": x}, gemm),
        "Conv": (
            lambda: fence([node("Conv", ["a", "W"], ["m"], pads=[1] * 4, name="product")], image.shape, image.shape, W=cw),
            {"x": image}, conv,
        ),
        "attention": (
            lambda: fence(
                [
                    node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
                    node("MatMul", ["a", "kt"], ["s"], name="product_qk"),
                    node("Mul", ["s", "c"], ["z"]),
                    node("Softmax", ["z"], ["p"], axis=-1),
                    node("MatMul", ["p", "v"], ["m"], name="product_pv"),
                ],
                q.shape, q.shape, (value("k", F, q.shape), value("v", F, q.shape)), c=np.float32(0.125),
            ),
            {"x": q, "k": kk, "v": v}, attend,
        ),
    }  # fmt: skip
    for kind, (build, feed, reference) in kinds.items():
        for name, (flags, how) in WEAK.items():
            yield Case(
                "weak", f"{kind}: {name}", build, lambda feed=feed: [feed], reference, strong=False, flags=flags,
                constrain=None if how is None else _set(ours, *how), timed=True, keep_log=kind == "MatMul" and name.startswith("obey float, half out"),
            )  # fmt: skip
    # Casts written into a weakly typed network
    sandwich = lambda: fence(
        [cast("a", "a16", H), cast("a16", "a32", F), node("MatMul", ["a32", "W"], ["m32"], name="product"), cast("m32", "m16", H),
         cast("m16", "m", F)],
        x.shape, (rows, n), W=w,
    )  # fmt: skip
    for name, flags in {"fp16": ("FP16",), "fp16 obey": ("FP16", "OBEY_PRECISION_CONSTRAINTS")}.items():
        yield Case(
            "weak", f"MatMul in written Casts: {name}", sandwich, lambda: [{"x": x}], dense, strong=False, flags=flags,
            constrain=_set(ours, "float32", None) if "obey" in name else None, timed=True,
        )  # fmt: skip
