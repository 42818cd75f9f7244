"""Decisions about precision: a request, the ground it stands on, variants, a search, and the plan with its proof."""

from precision_planner.planning.diffs import diff
from precision_planner.planning.finishing import PlannedModel, interface
from precision_planner.planning.ground import golden_cases
from precision_planner.planning.judged import apply, rewrite
from precision_planner.planning.plan import plan
from precision_planner.planning.weak import constant_values

__all__ = ["PlannedModel", "apply", "constant_values", "diff", "golden_cases", "interface", "plan", "rewrite"]
