"""Honest FP16 and BF16 on a CPU, by explicit rounding in an FP32 graph."""

from precision_planner.model.inline import inline_functions
from precision_planner.simulation.plans import all_low, from_assignment, fuse_chains
from precision_planner.simulation.rounding import RoundingPlan, apply_rounding
from precision_planner.simulation.simulate import Simulation, open_simulation, prepare, simulate
from precision_planner.simulation.typed import is_typed_low

__all__ = [
    "RoundingPlan",
    "Simulation",
    "all_low",
    "apply_rounding",
    "from_assignment",
    "fuse_chains",
    "inline_functions",
    "is_typed_low",
    "open_simulation",
    "prepare",
    "simulate",
]
