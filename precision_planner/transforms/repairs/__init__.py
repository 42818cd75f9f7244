"""Cures that are rewrites: each keeps the FP32 function within rounding, and says why when it cannot be applied."""

from precision_planner.model.edit import Edit
from precision_planner.transforms.repairs.registry import (
    OPTIONAL_REPAIRS,
    REPAIRS,
    Repair,
    RepairRequest,
    RepairResult,
    apply_repairs,
)
from precision_planner.transforms.repairs.site import Site

__all__ = ["OPTIONAL_REPAIRS", "REPAIRS", "Edit", "Repair", "RepairRequest", "RepairResult", "Site", "apply_repairs"]
