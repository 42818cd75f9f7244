"""The public names: what is there, and that nothing is loaded before it is used."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from importlib import metadata

import pytest

import precision_planner as pp
from precision_planner import errors

# The contract with scripts: names are added, not renamed or removed.
CONTRACT = {"Model", "PlannerError", "__version__", "analyze", "diff", "plan", "rewrite", "simulate"}


def test_all_holds_the_contract():
    assert set(pp.__all__) >= CONTRACT
    assert len(pp.__all__) == len(set(pp.__all__))
    assert set(pp.__all__) <= set(dir(pp))


@pytest.mark.parametrize("name", sorted(pp.__all__))
def test_every_public_name_is_there_and_documented(name):
    value = getattr(pp, name)
    if name == "__version__":
        assert value == metadata.version("precision-planner")
    else:
        assert callable(value)
        assert value.__doc__
        assert value.__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'analyse'"):
        pp.analyse  # noqa: B018


def test_importing_the_package_loads_nothing_of_it():
    code = (
        "import json, sys\n"
        "import precision_planner\n"
        "precision_planner.__version__\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(process.stdout))
    assert {name for name in loaded if name.startswith("precision_planner")} == {"precision_planner"}
    assert not {name.partition(".")[0] for name in loaded} & {"numpy", "onnx", "onnxruntime", "rich", "click"}


def test_every_user_error_exits_with_2_and_is_listed():
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert {kind.__name__ for kind in kinds} == set(errors.__all__)
    for kind in kinds:
        assert issubclass(kind, errors.PlannerError)
        assert kind.exit_code == 2
        assert kind.__doc__


def test_what_the_calls_return_shows_itself_in_a_line(tmp_path):
    import numpy as np

    from tests.test_cli_gate import scaled

    model = str(scaled(tmp_path / "m.onnx", 2.0))
    inputs = {"x": np.ones((2, 4), np.float32)}
    rewritten, planned = pp.rewrite(model, inputs=inputs), pp.plan(model, inputs=inputs)
    shown = {
        "Analysis": pp.analyze(model),
        "RewriteResult": rewritten,
        "PlannedModel": planned,
        "PrecisionPlan": planned.plan,
        "Diff": pp.diff(model, rewritten.model, inputs),
        "Model": pp.Model.load(model),
        "TensorStats": pp.census(np.ones(3, np.float32)),
        "census": pp.census(model),
        "Migration": pp.migrate("trtexec --onnx=m.onnx --fp16"),
        "Extract": pp.extract(model, "up_", inputs),
    }
    for name, value in shown.items():
        text = repr(value)
        assert text.startswith(f"<{name}"), text
        assert len(text) < 250 + len(str(tmp_path))
        assert "\n" not in text


def test_what_they_hold_shows_itself_in_a_line_too():
    import numpy as np

    from examples.bert_classifier import PRESETS, build_bert_classifier

    model = build_bert_classifier(PRESETS["tiny-massive"])
    found, rewritten = pp.analyze(model), pp.rewrite(model, verify=False)
    outputs = pp.diff({"y": np.ones((2, 3))}, {"y": np.zeros((2, 3))}).outputs
    parts = [found.findings[0], found.normalizations[0], found.tensorrt_warnings, found.evaluation, found.evidence]
    parts += [found.values[0], found.info, next(iter(found.weights)), rewritten.assignment, outputs["y"]]
    for part in parts:
        assert len(repr(part)) < 260, repr(part)


def test_dir_shows_the_public_names_alone():
    assert dir(pp) == sorted(pp.__all__)


def test_a_tolerance_without_a_metric_says_what_to_write():
    with pytest.raises(errors.ToleranceError, match=r"write \{'max_abs': 0\.001\} or 'max_abs=0\.001'"):
        pp.plan("model.onnx", tolerance=1e-3)


@pytest.mark.parametrize("name", sorted(set(pp.__all__) - {"Model", "PlannerError", "__version__"}))
def test_public_signatures_say_what_they_take(name):
    """No parameter, and no result, is Any; what a mapping of settings holds may be."""
    signature = inspect.signature(getattr(pp, name))
    given = {
        key: str(parameter.annotation)
        for key, parameter in signature.parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    loose = [key for key, text in given.items() if re.search(r"(^|\| )Any($| \|)", text) or text == "object"]
    assert loose == []
    assert str(signature.return_annotation) not in ("Any", "object")
