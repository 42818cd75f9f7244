"""The build targets under the name that they had; they stand in `precision_planner.targets`."""

from precision_planner.targets import DEFAULT_TARGET, TARGETS, Target, get_target

__all__ = ["DEFAULT_TARGET", "TARGETS", "Target", "get_target"]
