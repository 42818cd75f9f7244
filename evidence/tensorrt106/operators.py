"""Operators that a parser lowers in the input's type: in half, and in their cured spelling, at values that tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx

from evidence.tensorrt106.graphs import F, H, cast, half, model, node, value
from evidence.tensorrt106.harness import Case

Rows = Callable[[Any], Any]


def _probe(
    name: str, x: np.ndarray, nodes: Callable[[str, str], list[onnx.NodeProto]], reference: Rows, **init: Any
) -> Iterator[Case]:
    """The nodes from half to half, strongly and weakly typed; and between Casts in FP32."""
    x = half(x.astype(np.float32))

    def shape(m: onnx.ModelProto) -> onnx.ModelProto:
        inferred = onnx.shape_inference.infer_shapes(m).graph.output[0]
        m.graph.output[0].CopyFrom(inferred)
        return m

    def plain(to: int) -> onnx.ModelProto:
        typed = {k: v.astype(np.float16) if to == H and v.dtype == np.float32 else v for k, v in init.items()}
        return shape(
            model(
                nodes("x", "o"),
                [value("x", to, x.shape)],
                [onnx.helper.make_tensor_value_info("o", to, None)],
                opset=20,
                **typed,
            )
        )

    def island() -> onnx.ModelProto:
        out = onnx.helper.make_tensor_value_info("o", H, None)
        return shape(
            model(
                [cast("x", "a", F), *nodes("a", "m"), cast("m", "o", H)],
                [value("x", H, x.shape)],
                [out],
                opset=20,
                **init,
            )
        )

    def refer(d: dict[str, Any]) -> list[Any]:
        return [reference(d["x"])]

    feeds = lambda: [{"x": x}]
    yield Case("operators", f"{name}: half", lambda: plain(H), feeds, refer)
    yield Case("operators", f"{name}: FP32 between Casts", island, feeds, refer)
    yield Case("operators", f"{name}: weak, fp16", lambda: plain(F), feeds, refer, strong=False, flags=("FP16",))


def cases() -> Iterator[Case]:
    """Each operator at values whose intermediate leaves FP16 while the result does not."""
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((64, 1024)) * 200
    image = rng.standard_normal((4, 16, 32, 32)) * 200
    logits = rng.standard_normal((64, 1024)) * 2 + 200
    ax = {"ax": np.array([-1])}

    def torch() -> Any:
        import torch as module

        return module

    yield from _probe(
        "ReduceL2", wide, lambda a, o: [node("ReduceL2", [a, "ax"], [o])], lambda x: x.norm(dim=-1, keepdim=True), **ax
    )
    yield from _probe(
        "ReduceL2 of tiny",
        wide * 1e-7,
        lambda a, o: [node("ReduceL2", [a, "ax"], [o])],
        lambda x: x.norm(dim=-1, keepdim=True),
        **ax,
    )
    yield from _probe(
        "LpNormalization",
        wide,
        lambda a, o: [node("LpNormalization", [a], [o], axis=-1, p=2)],
        lambda x: x / x.norm(dim=-1, keepdim=True),
    )
    yield from _probe(
        "GlobalLpPool",
        image,
        lambda a, o: [node("GlobalLpPool", [a], [o], p=2)],
        lambda x: x.pow(2).sum((2, 3), keepdim=True).sqrt(),
    )
    yield from _probe(
        "ReduceLogSumExp",
        logits,
        lambda a, o: [node("ReduceLogSumExp", [a, "ax"], [o])],
        lambda x: x.logsumexp(-1, keepdim=True),
        **ax,
    )
    yield from _probe(
        "ReduceLogSumExp, max-shifted", logits,
        lambda a, o: [
            node("ReduceMax", [a, "ax"], [f"{o}_t"]), node("Sub", [a, f"{o}_t"], [f"{o}_s"]), node("Exp", [f"{o}_s"], [f"{o}_e"]),
            node("ReduceSum", [f"{o}_e", "ax"], [f"{o}_r"]), node("Log", [f"{o}_r"], [f"{o}_l"]), node("Add", [f"{o}_l", f"{o}_t"], [o]),
        ],
        lambda x: x.logsumexp(-1, keepdim=True), **ax,
    )  # fmt: skip
    yield from _probe(
        "ReduceSumSquare",
        wide / 40,
        lambda a, o: [node("ReduceSumSquare", [a, "ax"], [o])],
        lambda x: x.pow(2).sum(-1, keepdim=True),
        **ax,
    )
    yield from _probe(
        "LogSoftmax",
        logits - 200,
        lambda a, o: [node("LogSoftmax", [a], [o], axis=-1)],
        lambda x: torch().log_softmax(x, -1),
    )
    yield from _probe(
        "LogSoftmax of distant logits", rng.standard_normal((64, 64)) * 12, lambda a, o: [node("LogSoftmax", [a], [o], axis=-1)],
        lambda x: torch().log_softmax(x, -1),
    )  # fmt: skip
    yield from _probe(
        "CumSum past 2048",
        np.ones((8, 4000)),
        lambda a, o: [node("CumSum", [a, "one"], [o])],
        lambda x: x.cumsum(1),
        one=np.array(1),
    )
    yield from _probe(
        "Pow, ReduceMean, Sqrt", wide * 3,
        lambda a, o: [
            node("Pow", [a, "two"], [f"{o}_p"]), node("ReduceMean", [f"{o}_p", "ax"], [f"{o}_m"]), node("Sqrt", [f"{o}_m"], [o])
        ],
        lambda x: x.pow(2).mean(-1, keepdim=True).sqrt(), two=np.float32(2), **ax,
    )  # fmt: skip
    yield from _probe(
        "Mul, ReduceSum, Sqrt, Div (L2 normalize)", wide,
        lambda a, o: [
            node("Mul", [a, a], [f"{o}_p"]), node("ReduceSum", [f"{o}_p", "ax"], [f"{o}_m"]), node("Sqrt", [f"{o}_m"], [f"{o}_r"]),
            node("Div", [a, f"{o}_r"], [o]),
        ],
        lambda x: x / x.norm(dim=-1, keepdim=True), **ax,
    )  # fmt: skip
    yield from _probe(
        "ReduceL1",
        wide / 4,
        lambda a, o: [node("ReduceL1", [a, "ax"], [o])],
        lambda x: x.abs().sum(-1, keepdim=True),
        **ax,
    )
    yield from _probe("ReduceMean of 1000", np.full((8, 4096), 1000.0), lambda a, o: [node("ReduceMean", [a, "ax"], [o])],
                      lambda x: x.mean(-1, keepdim=True), **ax)  # fmt: skip
    yield from _probe(
        "ReduceProd", np.full((8, 16), 2.5) * np.where(np.arange(16) % 2, 1, 0.4), lambda a, o: [node("ReduceProd", [a, "ax"], [o])],
        lambda x: x.prod(-1, keepdim=True), **ax,
    )  # fmt: skip
    yield from _probe("AveragePool 32x32 of 1000", np.full((1, 8, 32, 32), 1000.0), lambda a, o: [node("GlobalAveragePool", [a], [o])],
                      lambda x: x.mean((2, 3), keepdim=True))  # fmt: skip
    yield from _probe("Softplus", rng.standard_normal((64, 64)) * 20, lambda a, o: [node("Softplus", [a], [o])],
                      lambda x: torch().nn.functional.softplus(x, threshold=1e9))  # fmt: skip
