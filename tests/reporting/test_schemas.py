"""Every `--json` against its published schema: it holds, it describes every key, and `planner report` takes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.cli.main import main
from precision_planner.judging.schema import metrics_schema
from precision_planner.reporting import schemas as published
from precision_planner.reporting.check import check_report, schema_of
from precision_planner.reporting.html import KINDS, kind_of, render_html
from tests.simulation.models import FLOAT, chain

METRICS_OF_A_DIFF = metrics_schema()
OUTPUT = {"classes", "detections", "dtype", "flipped_rows", "histogram", "mean", "percentiles", "problem", "shape"}
"""What an output has besides its metrics."""

OPEN = {"diff", "plan", "triton_repository", "triton_check", "triton_load"}
"""Kinds whose schemas leave parts open: what one's own metrics, a search or a server add."""


def undescribed(data: Any, schema: Mapping[str, Any], root: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Keys that a schema says nothing of."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        forms = [
            form for form in schema["anyOf"] if jsonschema.Draft202012Validator({**form, **defs(root)}).is_valid(data)
        ]
        yield from undescribed(data, forms[0], root, place)
    elif isinstance(data, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        for key, value in data.items():
            if key in known:
                yield from undescribed(value, known[key], root, f"{place}/{key}")
            elif isinstance(other, dict):
                yield from undescribed(value, other, root, f"{place}/{key}")
            elif not other:
                yield f"{place}/{key}"
    elif isinstance(data, list):
        for item in data:
            yield from undescribed(item, schema.get("items", {}), root, place)


def defs(root: Mapping[str, Any]) -> dict[str, Any]:
    return {"$defs": root.get("$defs", {})}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_schema_of_its_own(kind: str) -> None:
    schema = schema_of(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {"schema_version", "kind"} <= schema["properties"].keys()
    name = "precision_plan" if kind == "plan" else kind
    assert schema["properties"]["kind"] == {"const": name}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("json")
    onnx.save(chain(FLOAT, 1e4, 1e4, 1e-4, 1e-4), made / "model.onnx")
    np.savez(made / "data.npz", x=np.ones(4, np.float32))
    spec = PRESETS["tiny-massive"]
    onnx.save(build_bert_classifier(spec), made / "bert.onnx")
    np.savez(made / "tokens.npz", **sample_inputs(spec, rows=2, sequence=8))
    return made


COMMANDS = {
    "analysis": "analyze model.onnx --inputs data.npz --json {out}",
    "rewrite": "rewrite model.onnx -o low.onnx --force --json {out}",
    "diff": "diff model.onnx model.onnx --inputs data.npz --simulate fp16 --json {out}",
    "check": "check model.onnx --inputs data.npz --json {out}",
    "rules": "rules --json {out}",
    "migration": "migrate model.sh --json {out}",
}
SLOW = {
    "analysis": "analyze bert.onnx --inputs tokens.npz --json {out}",
    "rewrite": "rewrite bert.onnx -o low.onnx --keep-fp32 softmax --inputs tokens.npz --force --json {out}",
    "plan": "plan bert.onnx -o plan --force --inputs tokens.npz --tolerance probability:sad=3e-3 --json {out}",
    "rule_cases": "rules --test {rules} LN001 --json {out}",
}


def hold(path: Path, kind: str) -> None:
    """The file follows its schema, the schema says all of it, and a report can be made of it."""
    data = json.loads(path.read_text())
    assert kind_of(data) in (kind, "plan")
    assert check_report(data) == kind
    if kind not in OPEN:
        assert list(undescribed(data, schema_of(kind), schema_of(kind))) == []
    assert "<html" in render_html(data)
    assert main(["report", str(path)]) == 0


@pytest.mark.parametrize("kind", COMMANDS)
def test_what_a_command_writes_follows_its_schema(kind, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "model.sh").write_text(
        "trtexec --onnx=model.onnx --fp16 --precisionConstraints=obey --layerPrecisions=*:fp16,n1:fp32 --workspace=99\n"
    )
    out = folder / f"{kind}.json"
    assert main(COMMANDS[kind].format(out=out).split()) in (0, 1), capsys.readouterr().err
    hold(out, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SLOW)
def test_what_a_command_writes_of_a_real_model_follows_its_schema(kind, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    rules = Path(__file__).resolve().parents[2] / "rules"
    out = folder / f"real-{kind}.json"
    assert main(SLOW[kind].format(rules=rules, out=out).split()) in (0, 1), capsys.readouterr().err
    hold(out, kind)


def test_the_bits_of_values_follow_their_schema(tmp_path, capsys):
    assert main(["fp16", "0.1", "1e-12", "-70000", "nan", "inf", "--json"]) == 0
    (tmp_path / "out.json").write_text(capsys.readouterr().out)
    hold(tmp_path / "out.json", "fp16")


@pytest.mark.slow
@pytest.mark.rtx
def test_what_is_said_of_an_engine_follows_its_schema(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert (
        main(["plan", "bert.onnx", "-o", "rtx", "--target", "tensorrt-rtx", "--inputs", "tokens.npz", "--force"]) == 0
    )
    assert main(["build", "rtx", "--json", "build.json"]) in (0, 1)
    hold(folder / "build.json", "build")
    assert main(["inspect", "rtx/build.log", "--json", "seen.json"]) == 0
    hold(folder / "seen.json", "inspection")
    # an engine whose layers cannot be read here, but whose weights can
    assert main(["inspect", "rtx/model.engine", "--model", "bert.onnx", "--json", "bytes.json"]) in (0, 1)
    hold(folder / "bytes.json", "inspection")


def test_a_wrong_key_or_type_is_refused():
    good = {
        "schema_version": 1,
        "kind": "migration",
        "tool": "trtexec",
        "target": "t",
        "commands": [],
        "alternative": [],
    }
    good |= {"constraints": [], "unmatched": 0, "notes": []}
    assert check_report(good) == "migration"
    for wrong in ({"commands": [{"command": "x"}]}, {"unmatched": -1}, {"notes": [3]}):
        with pytest.raises(ValueError, match="a broken migration"):
            check_report({**good, **wrong})


def test_a_diffs_schema_has_every_metric_as_its_record_has_it():
    """Written from the records by `make update-goldens`."""
    path = Path(published.__file__).parent / "diff.schema.json"
    schema = json.loads(path.read_text())
    output = schema["$defs"]["output"]
    rest = {name: value for name, value in output["properties"].items() if name not in METRICS_OF_A_DIFF}
    right = {**METRICS_OF_A_DIFF, **rest}
    if os.environ.get("PLANNER_UPDATE_GOLDENS"):
        output["properties"] = right
        path.write_text(json.dumps(schema, indent=1) + "\n")
    assert output["properties"] == right
    assert set(rest) == OUTPUT


def test_an_outputs_numbers_are_those_of_the_schema():
    found = pp.diff({"y": np.ones((4, 8))}, {"y": np.full((4, 8), np.inf)}, tolerance="sad=1").to_dict()
    (output,) = found["outputs"].values()
    schema = schema_of("diff")["$defs"]["output"]
    assert set(output) == set(schema["properties"])
    check_report(found)
    for name in METRICS_OF_A_DIFF:
        with pytest.raises(ValueError, match=f"outputs/y/{name}"):
            check_report({**found, "outputs": {"y": {**output, name: "much"}}})
