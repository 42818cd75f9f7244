"""The whole path in one call: a model in, a plan folder out."""

from precision_planner.pipeline.plan import PlannedModel, constant_values, golden_cases, interface, plan

__all__ = ["PlannedModel", "constant_values", "golden_cases", "interface", "plan"]
