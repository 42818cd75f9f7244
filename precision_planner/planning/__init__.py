"""Decisions about precision: the plan, its targets, selectors and policies."""

from precision_planner.plans.plan import Constraint, PlannedNode, PrecisionPlan, Profile, plan_schema
from precision_planner.targets import DEFAULT_TARGET, TARGETS, Target, get_target

__all__ = [
    "DEFAULT_TARGET",
    "TARGETS",
    "Constraint",
    "PlannedNode",
    "PrecisionPlan",
    "Profile",
    "Target",
    "get_target",
    "plan_schema",
]
