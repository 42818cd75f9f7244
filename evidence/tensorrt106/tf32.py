"""How TF32 rounds its operands, to nearest or truncated, for each kind of product and each operand.

The output is compared with the product of operands rounded each way in float64; the smallest error tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx

from evidence.tensorrt106.graphs import F, model, node, value
from evidence.tensorrt106.harness import Case

HEADS = (8, 12, 300, 64)
WAYS = ("exact", "nearest", "truncated")


def rounded(x: Any, way: str) -> Any:
    """Float64 tensor of float32 values with 10 fraction bits kept: to nearest even, or cut."""
    import torch

    if way == "exact":
        return x
    bits = x.float().contiguous().view(torch.int32)
    if way == "nearest":
        bits = bits + 0xFFF + ((bits >> 13) & 1)
    return (bits & ~0x1FFF).view(torch.float32).double()


def _case(
    name: str,
    build: Callable[[], onnx.ModelProto],
    shapes: dict[str, Any],
    product: Callable[[Any, Any], Any],
    weight: np.ndarray | None,
    strong: bool,
) -> Case:
    def feeds() -> list[dict[str, np.ndarray]]:
        rng = np.random.default_rng(5)
        return [{n: rng.standard_normal(s).astype(np.float32) + np.float32(0.1) for n, s in shapes.items()}]

    def reference(d: dict[str, Any]) -> list[Any]:
        import torch

        b = d["y"] if weight is None else torch.from_numpy(weight).double().to(d["x"].device)
        return [product(rounded(d["x"], i), rounded(b, j)) for i in WAYS for j in WAYS]

    def measure(results: Any, references: Any) -> dict[str, Any]:
        labels = [f"{i} x {j}" for i in WAYS for j in WAYS]
        out = results[0][0]
        found = {
            n: float(np.linalg.norm(out - r) / np.linalg.norm(r)) for n, r in zip(labels, references[0], strict=True)
        }
        return {"nearest to": min(found, key=lambda n: found[n]), "errors": found}

    return Case(
        "tf32",
        f"{name}, {'strong' if strong else 'weak'}",
        build,
        feeds,
        reference,
        measure,
        strong=strong,
        flags=("TF32",),
    )


def cases() -> Iterator[Case]:
    """MatMul by weight and by value, Gemm, Conv of several sizes, ConvTranspose, batched products, at two sizes."""
    rng = np.random.default_rng(4)

    def weights(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))

    for strong in (True, False):
        for m, k, n in ((1024, 1024, 1024), (12000, 768, 3072)):
            w = weights(k, n)
            ins, outs = [value("x", F, (m, k))], [value("o", F, (m, n))]
            size = f"{m}x{k}x{n}"
            yield _case(f"MatMul by weight {size}", lambda w=w, i=ins, o=outs: model([node("MatMul", ["x", "W"], ["o"])], i, o, W=w), {"x": (m, k)}, lambda a, b: a @ b, w, strong)  # fmt: skip
            yield _case(f"Gemm by weight {size}", lambda w=w, i=ins, o=outs, n=n: model([node("Gemm", ["x", "W", "b"], ["o"])], i, o, W=w, b=np.zeros(n, "f4")), {"x": (m, k)}, lambda a, b: a @ b, w, strong)  # fmt: skip
            yield _case(f"MatMul of values {size}", lambda m=m, k=k, n=n: model([node("MatMul", ["x", "y"], ["o"])], [value("x", F, (m, k)), value("y", F, (k, n))], [value("o", F, (m, n))]), {"x": (m, k), "y": (k, n)}, lambda a, b: a @ b, None, strong)  # fmt: skip
        yield _case("batched Q K^T", lambda: model([node("Transpose", ["y"], ["t"], perm=[0, 1, 3, 2]), node("MatMul", ["x", "t"], ["o"])], [value("x", F, HEADS), value("y", F, HEADS)], [value("o", F, (8, 12, 300, 300))]), {"x": HEADS, "y": HEADS}, lambda a, b: a @ b.transpose(-1, -2), None, strong)  # fmt: skip
        for channels, size, kernel in ((64, 56, 3), (256, 28, 3), (256, 28, 1), (32, 64, 5)):
            w = weights(channels, channels, kernel, kernel)
            io = (4, channels, size, size)
            pad = kernel // 2

            def conv(a: Any, b: Any, pad: int = pad) -> Any:
                import torch

                return torch.nn.functional.conv2d(a, b, padding=pad)

            yield _case(f"Conv {kernel}x{kernel} {channels}", lambda w=w, io=io, pad=pad: model([node("Conv", ["x", "W"], ["o"], pads=[pad] * 4)], [value("x", F, io)], [value("o", F, io)], W=w), {"x": io}, conv, w, strong)  # fmt: skip
        w = weights(64, 64, 3, 3)

        def turned(a: Any, b: Any) -> Any:
            import torch

            return torch.nn.functional.conv_transpose2d(a, b, padding=1)

        io = (4, 64, 56, 56)
        yield _case("ConvTranspose 3x3 64", lambda w=w, io=io: model([node("ConvTranspose", ["x", "W"], ["o"], pads=[1] * 4)], [value("x", F, io)], [value("o", F, io)], W=w), {"x": io}, turned, w, strong)  # fmt: skip
