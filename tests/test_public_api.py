"""The public names: what is there, and that nothing is loaded before it is used."""

from __future__ import annotations

import json
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
