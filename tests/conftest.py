"""What every test shares: the Hypothesis profile, and markers that skip what is not installed."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run and machine: a red test is a change of ours, not a draw of luck. "explore"
# is for looking for new ones by hand: HYPOTHESIS_PROFILE=explore pytest ...
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A test that is about narrow terminals says how wide; the others do not depend on where they are run.
os.environ.pop("COLUMNS", None)

# Whatever is rewritten in a test, the ONNX checker looks at after every pass.
os.environ.setdefault("PLANNER_CHECK_PASSES", "1")

# Marker -> the package that it needs. `make test` installs them all and sets PLANNER_REQUIRE_ALL, under which
# a missing one is a failure, so that a full run cannot pass by skipping.
_NEEDS = {"rtx": "tensorrt_rtx", "torch": "torch", "notebook": "nbclient"}


@pytest.fixture(autouse=True)
def no_step_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not add lines to what a test reads on stderr."""
    if "precision_planner.cli.steps" in sys.modules:
        monkeypatch.setattr("precision_planner.cli.steps.FIRST_S", 3600.0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PLANNER_REQUIRE_ALL"):
        return
    for marker, module in _NEEDS.items():
        if importlib.util.find_spec(module) is None:
            skip = pytest.mark.skip(reason=f"{module} is not installed")
            for item in items:
                if marker in item.keywords:
                    item.add_marker(skip)
