"""The plan as a value: what is decided for every node and why, as JSON; planning makes it, rewriting applies it."""

from precision_planner.plans.plan import (
    SCHEMA_VERSION,
    Constraint,
    PlannedNode,
    PrecisionPlan,
    Profile,
    check_plan,
    plan_schema,
)

__all__ = [
    "SCHEMA_VERSION",
    "Constraint",
    "PlannedNode",
    "PrecisionPlan",
    "Profile",
    "check_plan",
    "plan_schema",
]
