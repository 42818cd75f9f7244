"""The builds a plan can be for, one file each, and what is known of them."""

from precision_planner.targets.registry import (
    DEFAULT_TARGET,
    TARGETS,
    facts_for_scripts,
    get_target,
    newest,
    targets_of,
)
from precision_planner.targets.target import (
    IDENTITY,
    RUNTIMES,
    Attention,
    Islands,
    Runtime,
    Sandwich,
    Target,
    Warnings,
    Words,
)

__all__ = [
    "DEFAULT_TARGET",
    "IDENTITY",
    "RUNTIMES",
    "TARGETS",
    "Attention",
    "Islands",
    "Runtime",
    "Sandwich",
    "Target",
    "Warnings",
    "Words",
    "facts_for_scripts",
    "get_target",
    "newest",
    "targets_of",
]
