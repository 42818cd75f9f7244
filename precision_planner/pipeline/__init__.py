"""The whole path in one call: a model in, a plan folder out."""

from precision_planner.pipeline.plan import PlannedModel, golden_cases, interface, plan
from precision_planner.pipeline.weak import constant_values

__all__ = ["PlannedModel", "constant_values", "golden_cases", "interface", "plan"]
