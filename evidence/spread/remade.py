"""Stored GPU runs whose models can be made again here: what was measured, and how it is predicted.

Of the others (plans of searches that have changed since, exports of other versions of their libraries) only the one
prediction is there that was stored beside the measurement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evidence.spread.drawing import METRICS, Errors, predicted

EVIDENCE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Run:
    """One stored run.

    Attributes:
      source: the folder that holds it.
      name: of the run in it.
      target: whose arithmetic was measured.
      measured: metric -> value.
      nearest: metric -> the prediction that was stored beside it, where its model cannot be made again.
      predict: makes the model and draws; None where it cannot be.
    """

    source: str
    name: str
    target: str
    measured: Errors
    nearest: Errors | None = None
    predict: Callable[[], dict[str, Any]] | None = None


def runs() -> Iterator[Run]:
    """All of them, the small ones first."""
    yield from _tensorrt106()
    yield from _probes()
    yield from _validation()
    yield from _cuda()
    yield from _engines()


def _figures(found: dict[str, Any]) -> Errors:
    """The metrics that are known; JSON's None, nan and inf are lost outputs."""
    values = {name: found[name] for name in METRICS if name in found}
    lost = found.get("nonfinite") or any(value is None or str(value) in ("nan", "inf") for value in values.values())
    return {name: float("inf") if lost else float(value) for name, value in values.items()}


def _stored(path: str) -> Any:
    return json.loads((EVIDENCE / path).read_text())


def _tensorrt106() -> Iterator[Run]:
    """Small networks, strongly typed half, on TensorRT 10.6."""
    measured = {(r["section"], r["case"]): r for r in _stored("tensorrt106/results.json") if r.get("errors")}
    for (section, name), record in measured.items():
        if not record["strong"]:
            continue
        yield Run(
            "tensorrt106", f"{section}: {name}", "tensorrt-10-strong", _figures(record["errors"][0]),
            predict=lambda section=section, name=name: _case106(section, name),
        )  # fmt: skip


def _case106(section: str, name: str) -> dict[str, Any]:
    import torch

    from evidence.tensorrt106.runner import all_cases

    case = next(c for c in all_cases() if (c.section, c.name) == (section, name))
    model = case.model()
    output = model.graph.output[0].name
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    feeds, right = [], []
    for given in case.feeds():
        halves = {n: v.astype(np.float16) if kinds[n] == 10 else v for n, v in given.items()}
        assert case.reference is not None
        doubles = {n: torch.from_numpy(v if v.dtype == np.bool_ else v.astype(np.float64)) for n, v in halves.items()}
        feeds.append({n: v.astype(np.float32) if v.dtype == np.float16 else v for n, v in halves.items()})
        right.append({output: case.reference(doubles)[0].numpy()})
    return predicted(model, feeds[:1], right[:1], **strong("tensorrt-10-strong"))


def strong(name: str) -> dict[str, Any]:
    """How a typed graph is simulated for a target."""
    from precision_planner.targets import get_target

    target = get_target(name)
    held: dict[str, Any] = {"semantics": "fused", "weights": "ieee"} if target.chains == "fp32" else {}
    return {"accumulation": target.sums, "lowering": target.lowering, **held}


def weak(name: str) -> dict[str, Any]:
    """How an FP32 graph is simulated for a weakly typed target."""
    from precision_planner.targets import get_target

    target = get_target(name)
    return {"precision": "fp16", "semantics": "fused", "accumulation": target.sums, "lowering": target.lowering}


def _probes() -> Iterator[Run]:
    """Single layers on TensorRT 8.6, every layer held to half."""
    for record in _stored("tensorrt86/probes.json"):
        for kind in ("half", "fp16"):
            if isinstance(record.get(kind), dict) and "rel_l2" in record[kind]:
                yield Run(
                    "tensorrt86 probes", f"{record['probe']}: {kind}", "tensorrt-8.6", _figures(record[kind]),
                    predict=lambda name=record["probe"]: _probe(name),
                )  # fmt: skip


def _probe(name: str) -> dict[str, Any]:
    from evidence.tensorrt86.probe_models import answer, probes

    probe = probes()[name]()
    right = {probe.model.graph.output[0].name: answer(probe, rounded=False)}
    return predicted(probe.model, [probe.inputs], [right], **weak("tensorrt-8.6"))


def _validation() -> Iterator[Run]:
    """Exported models on TensorRT 8.6; their seeds give other weights under other versions of their libraries."""
    stored = _stored("tensorrt86/validation/results.json")
    for name, engine in stored["engines"].items():
        case = stored["cases"].get(engine["case"], {}).get("predicted", {}).get("fp16-sums")
        if case is None or "outputs" not in case or "outputs" not in engine:
            continue
        output = next(iter(engine["outputs"]))
        yield Run(
            "tensorrt86 validation", name, "tensorrt-8.6", _figures(engine["outputs"][output]),
            nearest=_figures(case["outputs"][output]),
        )  # fmt: skip


def _cuda() -> Iterator[Run]:
    """BERT classifiers, typed, by torch's kernels on a GPU."""
    for record in _stored("cuda/results.json")["results"]:
        if record["kind"] == "fp32":
            continue
        for sums, found in record["device"].items():
            name = f"{record['case']} {record['kind']}: {sums} sums"
            target = "onnxruntime" if sums != "fp16" else "onnxruntime with FP16 sums"
            if record["kind"] == "plan":
                told = _figures(record["simulated"]) if sums == "fp32" else None
                if told is not None:
                    yield Run("cuda", name, target, _figures(found), nearest=told)
                continue
            yield Run(
                "cuda", name, target, _figures(found),
                predict=lambda r=record, sums=sums: _classifier(r["case"], r["kind"], "fp16" if sums == "fp16" else "fp32"),
            )  # fmt: skip


def _bert(preset: str) -> tuple[Any, dict[str, np.ndarray], dict[str, np.ndarray]]:
    from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
    from precision_planner.model import Model
    from precision_planner.model.session import Session

    spec = PRESETS[preset]
    model, inputs = build_bert_classifier(spec), dict(sample_inputs(spec, rows=40, sequence=spec.sequence))
    with Session(Model.load(model), ["probability"]) as session:
        return model, inputs, session.run(inputs)


def _classifier(preset: str, kind: str, sums: str) -> dict[str, Any]:
    import precision_planner as pp

    model, inputs, right = _bert(preset)
    options: dict[str, dict[str, Any]] = {
        "plain": {"fuse": ()}, "ieee": {"fuse": (), "weights": "ieee"}, "fused": {}, "bf16": {"precision": "bf16"},
    }  # fmt: skip
    typed = pp.rewrite(model, verify=False, **options[kind]).model
    return predicted(typed, [inputs], [right], draws=5, accumulation=sums)


def _engines() -> Iterator[Run]:
    """Whole engines on TensorRT 8.6: what evidence/tensorrt86/predicted.py can make again, and stored predictions."""
    from evidence.tensorrt86.predicted import KEPT, OUTPUT

    for record in _stored("tensorrt86/results.json"):
        measured = record["outputs"].get(OUTPUT)
        name = f"{record['case']} {record['kind']} ({record['gpu']})"
        if measured is None:
            continue
        if record["case"] in ("massive", "minilm") and record["kind"] in KEPT:
            yield Run(
                "tensorrt86", name, "tensorrt-8.6", _figures(measured),
                predict=lambda r=record: _engine(r["case"], r["kind"]),
            )  # fmt: skip
        elif "predicted" in record:
            yield Run("tensorrt86", name, "tensorrt-8.6", _figures(measured), nearest=_figures(record["predicted"]))


def _engine(preset: str, kind: str) -> dict[str, Any]:
    from evidence.tensorrt86.predicted import KEPT
    from precision_planner.rewriting import rewrite

    model, inputs, right = _bert(preset)
    fused = rewrite(model, precision="fp32", verify=False).typed
    how = {**weak("tensorrt-8.6"), "keep_fp32": KEPT[kind]}
    if kind.startswith("tf32"):
        how["tf32"] = "truncated"
    return predicted(fused, [inputs], [right], draws=5, **how)
