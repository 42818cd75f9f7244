"""The whole path in one call: a model in, a plan folder out."""

from precision_planner.pipeline.diffs import diff
from precision_planner.pipeline.finishing import PlannedModel, interface
from precision_planner.pipeline.ground import golden_cases
from precision_planner.pipeline.judged import apply, rewrite
from precision_planner.pipeline.plan import plan
from precision_planner.pipeline.weak import constant_values

__all__ = ["PlannedModel", "apply", "constant_values", "diff", "golden_cases", "interface", "plan", "rewrite"]
