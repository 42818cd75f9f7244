"""python -m evidence.lowered OUT: plans of each model for TensorRT 10, built and run by 10.6 where it is.

For each model and target: the plan's engine by its own build.py, and blind FP16 (every float in half, no rule asked),
against float64. Without TensorRT only the plans are made and what they predict is written. A minute or two with 10.6.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import precision_planner as pp
from evidence.exporters.evaluator import answers, evaluate
from evidence.lowered.models import MODELS, Feeds

TARGETS = ("tensorrt-10-strong", "tensorrt-10")
RIGHT = 2e-2
"""A relative error past which a result is wrong, not rounded."""


def relative(found: Any, right: np.ndarray) -> float:
    """Relative L2 error; infinite where anything is not finite."""
    found = np.asarray(found, np.float64)
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def blind(model: onnx.ModelProto) -> onnx.ModelProto:
    """Everything in half, no rule asked."""
    return pp.rewrite(model, fuse=[], verify=False).model


def measure(name: str, machine: Any, folder: Path) -> list[dict[str, Any]]:
    """The records of one model."""
    model, feeds = MODELS[name]()
    reference = answers(model, feeds)["y"].astype(np.float64)
    low = blind(model)
    record: dict[str, Any] = {
        "model": name,
        "kind": "blind",
        "predicted": relative(evaluate(low, feeds)["y"], reference),
    }
    if machine is not None:
        record |= _built(machine, low, feeds, reference)
    records = [record]
    for target in TARGETS:
        planned = pp.plan(model, target=target, inputs=feeds, policy="rules")
        plan = planned.plan
        record = {
            "model": name,
            "kind": target,
            "predicted": float(plan.predicted["y"]["rel_l2"]),
            "low": plan.counts.get("fp16", 0),
            "kept": [node.node for node in plan.kept],
            "repairs": [entry["repair"] for entry in plan.repairs],
            "rules": sorted({finding["rule"] for finding in plan.findings}),
        }
        if machine is not None:
            from evidence.zoo.on_gpu import plan_engine

            at = folder / f"{list(MODELS).index(name)}.{target}"
            planned.save(at)
            record |= plan_engine(machine, at, feeds, _tensor(reference))
        records.append(record)
    return records


def _tensor(reference: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(reference)


def _built(machine: Any, model: onnx.ModelProto, feeds: Feeds, reference: np.ndarray) -> dict[str, Any]:
    from evidence.tensorrt106.harness import Case
    from evidence.zoo.on_gpu import measure as run

    case = Case("lowered", "blind", lambda: model, lambda: [feeds], lambda _: [_tensor(reference)])
    try:
        plan, _ = machine.build(case, model)
        return run(machine, case, plan) if plan is not None else {"failure": "not built"}
    except Exception as failure:  # whatever TensorRT says is the record
        return {"failure": f"{type(failure).__name__}: {failure}"[:300]}


def table(records: list[dict[str, Any]]) -> str:
    """Markdown, a line a record."""
    lines = ["| model | graph | predicted | TensorRT 10.6 | repairs | kept in FP32 |", "|---|---|---|---|---|---|"]
    for r in records:
        measured = f"{r['rel_l2']:.2g}" if "rel_l2" in r else r.get("failure", "-")
        kept = ", ".join(r.get("kept", ()))
        lines.append(
            f"| {r['model']} | {r['kind']} | {r['predicted']:.2g} | {measured} | {', '.join(r.get('repairs', ()))} | {kept} |"
        )
    return "\n".join(lines)


def main() -> int:
    """The command: 1 where a plan is wrong by its prediction or by the engine."""
    parser = argparse.ArgumentParser(prog="python -m evidence.lowered", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    machine = None
    if importlib.util.find_spec("tensorrt") is not None:
        from evidence.tensorrt106.harness import Machine

        machine = Machine()
    args.out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in MODELS:
            if not args.only or name in args.only:
                records += measure(name, machine, Path(scratch))
                (args.out / "lowered.json").write_text(json.dumps(records, indent=1) + "\n")
    print(table(records))
    plans = [r for r in records if r["kind"] != "blind"]
    return 1 if any(max(r["predicted"], r.get("rel_l2", 0.0)) > RIGHT or "failure" in r for r in plans) else 0


if __name__ == "__main__":
    raise SystemExit(main())
