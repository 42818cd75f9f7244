"""What one fuzzed input runs through: a model, or a file for one of the readers.

Each raises a `PlannerError` (or protobuf's DecodeError) for what it refuses; anything else is a fault of ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import onnx

from fuzz.corpus import KINDS
from precision_planner.analysis import analyze
from precision_planner.cli.diff import own_metrics
from precision_planner.cli.plan import parse_shapes
from precision_planner.cli.report import read_report
from precision_planner.emitting.migrate import read_recipe
from precision_planner.emitting.migrate.script import read_script
from precision_planner.engines.inspection import inspect_layers
from precision_planner.engines.layers import read_layers
from precision_planner.errors import PlannerError
from precision_planner.model import Model
from precision_planner.model.arrays import read_npy, read_npz, read_polygraphy
from precision_planner.model.inputs import load_inputs
from precision_planner.plans.plan import PrecisionPlan
from precision_planner.reporting.html import render_html
from precision_planner.rewriting import rewrite
from precision_planner.rules.language.schema import read_rule
from precision_planner.simulation.simulate import prepare
from precision_planner.targets import get_target

MOST_BYTES = 100_000


def _valid(data: bytes) -> bool:
    try:
        onnx.checker.check_model(onnx.ModelProto.FromString(data), full_check=True)
    except Exception:  # onnx's errors share no base, and none is of interest
        return False
    return True


class InvalidResult(Exception):
    """A rewritten model is not valid, and what it was made of is."""


def run_model(data: bytes, stage: Callable[[str], None]) -> None:
    """Everything up to onnxruntime, of one model: inputs, analysis, two rewrites, and three simulations made ready."""
    if len(data) > MOST_BYTES:
        return
    stage("load")
    model = Model.load(onnx.ModelProto.FromString(data))
    valid = _valid(data)
    stage("inputs")
    try:
        load_inputs(None, model).first()
    except (PlannerError, MemoryError):
        stage("inputs refused")  # that they cannot be made up says nothing of the rest
    stage("analyze")
    json.dumps(analyze(model).to_dict(), allow_nan=False)
    for precision, options in (("fp16", {}), ("bf16", {"io_types": "low", "int32_inputs": True})):
        stage(f"rewrite {precision}")
        typed = rewrite(model, precision=precision, verify=False, **options).typed
        made = typed.to_bytes()
        if valid and not _valid(made):
            try:
                onnx.checker.check_model(onnx.ModelProto.FromString(made), full_check=True)
            except Exception as error:
                raise InvalidResult(f"{precision}: {error}") from None
        stage(f"simulate {precision}")
        prepare(typed)
    stage("simulate")
    prepare(model, precision="fp16", accumulation="fp16", lowering=get_target("tensorrt-8.6").lowering)


def run_text(data: bytes, stage: Callable[[str], None], place: Path) -> None:
    """One reader; the first byte says which."""
    kind, data = KINDS[data[0] % len(KINDS)] if data else "rule", data[1:]
    stage(kind)
    text = data.decode("utf-8", "replace")
    file = place / "input"
    if kind == "npz":
        file.write_bytes(data)
        (read_npy if data.startswith(b"\x93") else read_npz)(file)
    elif kind == "polygraphy":
        file.write_bytes(data)
        read_polygraphy(file)
    elif kind == "rule":
        read_rule(text, Path("x.yaml"))
    elif kind == "layers":
        json.dumps(inspect_layers(read_layers(text, "x")).to_dict())
    elif kind == "profile":
        read_layers('{"Layers": [{"Name": "a"}, {"Name": "b"}]}', "x", text)
    elif kind == "plan":
        PrecisionPlan.from_json(text).to_json()
    elif kind == "report":
        file.write_bytes(data)
        render_html(read_report(file))
    elif kind == "script":
        read_script(text, "x.py")
    elif kind == "recipe" and not Path(text[:99]).is_absolute():
        read_recipe(text)
    for parse in (lambda: parse_shapes(text[:99], "--x"), lambda: own_metrics((text[:99],))):
        try:
            parse()
        except (PlannerError, click.ClickException):
            continue
