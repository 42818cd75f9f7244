"""What a search costs: an evaluation beside a plain FP32 run, and whole searches.

    python -m benchmarks.search [PRESET...] [--rows 4] [--sequence 128] [--target tensorrt-11] [--tolerance 1e-3]

Times are of this run and this machine; compare them within a run.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.model import Model, infer_types
from precision_planner.model.session import Session
from precision_planner.rewriting import rewrite
from precision_planner.simulation.plans import from_assignment
from precision_planner.simulation.variants import BlockRunner
from precision_planner.typing import Decision, TypingOptions, assign_types

SAMPLES = 24
"""Plans tried to time an evaluation: single nodes kept in FP32, spread over the graph."""


def evaluation_cost(model: Model, inputs: dict[str, Any]) -> str:
    """One evaluation of a plan that differs from another in one node, beside plain FP32 inference."""
    fused = rewrite(model, keep_fp32=["layernorm"], verify=False)
    with Session(fused.fused) as session:
        session.run(inputs)
        plain = min(_timed(lambda: session.run(inputs)) for _ in range(3))
    with BlockRunner(fused.fused, [inputs]) as runner:
        types = infer_types(runner.model, runner.index)

        def plan(extra: dict[Any, Decision]) -> Any:
            decisions = {**fused.decisions, **extra}
            assignment = assign_types(runner.model, decisions, TypingOptions(), index=runner.index, types=types)
            return assignment, from_assignment(assignment, runner.index, "saturate")

        assignment, base = plan({})
        first = _timed(lambda: runner.run(base, remember=True))
        nodes = [node for node, typing in assignment.nodes.items() if not typing.forced and not typing.moves]
        chosen = nodes[:: max(1, len(nodes) // SAMPLES)]
        times = [_timed(lambda node=node: runner.run(plan({node: Decision("fp32", "tried")})[1])) for node in chosen]
    return (
        f"plain FP32 run {plain:.2f} s; first simulation, sessions included, {first / plain:.1f} times that; "
        f"an evaluation {np.median(times) / plain:.2f} times (median of {len(times)}), at most {max(times) / plain:.2f}"
    )


def whole_search(model: Model, inputs: dict[str, Any], target: str, bound: float) -> str:
    """A search, twice, and what it found."""
    start = time.perf_counter()
    planned = pp.plan(model, target=target, inputs=inputs, tolerance={"probability:sad": bound})
    took = time.perf_counter() - start
    again = pp.plan(model, target=target, inputs=inputs, tolerance={"probability:sad": bound})
    found = planned.plan.search
    kept = [region for region in found["regions"] if region["precision"] != "low"]
    gemms = sum(region["kind"] == "gemm" for region in kept)
    return (
        f"{target}, SAD {bound:g}: {took:.0f} s, {found['evaluations']} evaluations; "
        f"{found['before']['probability:sad']:.3g} by the rules, {found['after']['probability:sad']:.3g} now; "
        f"{len(kept)} regions kept, {gemms} of them products; passed: {planned.passed}; "
        f"the same plan twice: {planned.plan.to_json() == again.plan.to_json()}"
    )


def _timed(function: Any) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Print two lines a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=["base"])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--sequence", type=int)
    parser.add_argument("--target", default="tensorrt-11")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    options = parser.parse_args()
    for preset in options.presets:
        spec = PRESETS[preset]
        model = Model.load(build_bert_classifier(spec))
        inputs = dict(sample_inputs(spec, rows=options.rows, sequence=options.sequence or spec.sequence))
        print(f"{preset}, {options.rows} rows: {evaluation_cost(model, inputs)}")
        print(f"{preset}: {whole_search(model, inputs, options.target, options.tolerance)}")


if __name__ == "__main__":
    main()
