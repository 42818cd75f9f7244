"""Sums in FP16: how close the simulation's error is to that of every single step, and what it costs.

    python -m benchmarks accumulation

The steps are numpy's: an exact sum of 16 products, added to a float16 and rounded. Times are the best of five of this
run and this machine; compare them within a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.simulation import prepare, simulate
from precision_planner.simulation.accumulation import STEP

ROWS = COLUMNS = 128
LENGTHS = (64, 300, 768, 1536, 3072)


def normal(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return a, b


def mean(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return a + 0.5, b + 0.5


def positive(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.abs(a), np.abs(b)


def cancelling(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sign = np.where(np.arange(len(b)) < len(b) // 2, 1, -1)
    return a + 1, np.abs(b) * sign[:, None]


def massive(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two positions that make most of every sum."""
    large = np.where(np.isin(np.arange(len(b)), (len(b) // 5, len(b) // 2)), 100, 1)
    return a * large, b * large[:, None]


KINDS: tuple[Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], ...] = (
    normal,
    mean,
    positive,
    cancelling,
    massive,
)


def stepped(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b with a float16 accumulator."""
    total = np.zeros((len(a), b.shape[1]), np.float16)
    for at in range(0, len(b), STEP):
        exact = a[:, at : at + STEP].astype(np.float64) @ b[at : at + STEP].astype(np.float64)
        total = (total.astype(np.float64) + exact).astype(np.float16)
    return total.astype(np.float64)


def closeness() -> list[str]:
    """A row a length and kind of summands: the steps' relative error, and the simulation's over it."""
    lines = ["| K | summands | error of the steps | simulated / steps |", "|---|---|---|---|"]
    for length in LENGTHS:
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["a", "b"], ["y"])],
            "product",
            [
                helper.make_tensor_value_info("a", TensorProto.FLOAT, [ROWS, length]),
                helper.make_tensor_value_info("b", TensorProto.FLOAT, [length, COLUMNS]),
            ],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, COLUMNS])],
        )
        product = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        for kind in KINDS:
            source = np.random.default_rng(length)
            a, b = kind(source.standard_normal((ROWS, length)), source.standard_normal((length, COLUMNS)))
            a, b = (half.astype(np.float16).astype(np.float32) for half in (a, b / np.sqrt(length)))
            exact = a.astype(np.float64) @ b.astype(np.float64)
            simulated = simulate(product, {"a": a, "b": b}, accumulation="fp16")["y"]
            size, steps = np.linalg.norm(exact), np.linalg.norm(stepped(a, b) - exact)
            ratio = np.linalg.norm(simulated - exact) / steps
            lines.append(f"| {length} | {kind.__name__} | {steps / size:.2g} | {ratio:.2f} |")
    return lines


def best(model: Model, feeds: Mapping[str, Any]) -> float:
    """Seconds of the fastest of five runs."""
    times = []
    with Session(model) as session:
        for _ in range(5):
            start = time.perf_counter()
            session.run(dict(feeds))
            times.append(time.perf_counter() - start)
    return min(times)


def costs() -> list[str]:
    """A row a model: a run in FP32, and simulated with either accumulation."""
    lines = ["| model, 4 x 128 tokens | FP32 | simulated | FP16 sums | to simulated |", "|---|---|---|---|---|"]
    for preset in ("minilm", "base"):
        source = Model.load(build_bert_classifier(PRESETS[preset]))
        inputs = sample_inputs(PRESETS[preset], rows=4, sequence=128)
        plain = best(source, inputs)
        times = []
        for accumulation in ("fp32", "fp16"):
            simulation = prepare(source, semantics="fused", accumulation=accumulation)  # type: ignore[arg-type]
            times.append(best(simulation.model, simulation.feeds(inputs)))
        cells = [preset, *(f"{1000 * seconds:.0f} ms" for seconds in (plain, *times)), f"{times[1] / times[0]:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print both tables."""
    print("\n".join([*closeness(), "", *costs()]))


if __name__ == "__main__":
    main()
