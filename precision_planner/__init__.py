"""Says before deployment what FP16 breaks in an ONNX model, mends it, and emits a build that applies it.

The public names are loaded when they are first used, so that importing the package (and `planner --version`)
costs nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# onnxruntime 1.29 and newer report what they load, names of the model included, unless this is set before their import.
# Processes that this one starts inherit it; a setting of the user's own wins.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Public name -> the module that defines it.
_PUBLIC = {
    "Model": "precision_planner.model",
    "PlannerError": "precision_planner.errors",
    "analyze": "precision_planner.analysis",
    "apply": "precision_planner.planning",
    "build": "precision_planner.api",
    "census": "precision_planner.api",
    "diff": "precision_planner.planning",
    "extract": "precision_planner.api",
    "inspect": "precision_planner.api",
    "migrate": "precision_planner.api",
    "plan": "precision_planner.planning",
    "rewrite": "precision_planner.planning",
    "simulate": "precision_planner.simulation",
}

if TYPE_CHECKING:
    from precision_planner.errors import PlannerError as PlannerError

__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("precision-planner")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
