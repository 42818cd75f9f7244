"""Every target there is: one file each in `known/`, found by being there."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from precision_planner.errors import TargetError
from precision_planner.targets import known
from precision_planner.targets.target import RUNTIMES, Target

__all__ = ["DEFAULT_TARGET", "TARGETS", "facts_for_scripts", "get_target", "newest", "targets_of"]


def _order(target: Target) -> tuple[int, tuple[int, ...], bool, str]:
    return RUNTIMES.index(target.runtime), target.release, target.strong, target.name


def _load() -> dict[str, Target]:
    """The `TARGET` of every file of `known/`, by name: by runtime, release, typing."""
    found: list[Target] = [
        importlib.import_module(f"{known.__name__}.{module.name}").TARGET
        for module in pkgutil.iter_modules(known.__path__)
        if not module.name.startswith("_")
    ]
    by_name = {target.name: target for target in sorted(found, key=_order)}
    if len(by_name) != len(found):
        raise AssertionError("two files of targets/known/ have one name; a relative of another says name=...")
    return by_name


TARGETS: dict[str, Target] = _load()
"""Targets by name, in the order in which they are listed."""


def _default() -> str:
    names = [target.name for target in TARGETS.values() if target.default]
    if len(names) != 1:
        raise AssertionError(f"one target is the default one, not {names}; a relative of it says default=False")
    return names[0]


DEFAULT_TARGET = _default()


def get_target(name: str) -> Target:
    """The target of that name; TargetError with the nearest names for any other."""
    if name in TARGETS:
        return TARGETS[name]
    near = difflib.get_close_matches(name, TARGETS, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"take one of {', '.join(TARGETS)}"
    raise TargetError(f"unknown target '{name}': {hint}")


def targets_of(asked: Callable[[Target], bool]) -> tuple[Target, ...]:
    """The targets that something is true of."""
    return tuple(target for target in TARGETS.values() if asked(target))


def facts_for_scripts(target: Target) -> dict[str, Any]:
    """What the scripts of a plan folder ask of its target, who import nothing of ours: plan.json's `target_facts`.

    `instead` says what to plan for where another builder is installed: by runtime, and weakly typed by major version.
    """
    instead: dict[str, Any] = {
        "tensorrt": newest(lambda other: other.strong and other.has_builder and not other.is_rtx).name,
        "tensorrt_rtx": newest(lambda other: other.is_rtx).name,
    }
    instead["weak"] = {str(other.release[0]): other.name for other in targets_of(lambda other: not other.strong)}
    return {
        "runtime": target.runtime,
        "has_builder": target.has_builder,
        "timing_cache": target.words.timing_cache,
        "margin": target.margin,
        "instead": instead,
    }


def newest(asked: Callable[[Target], bool]) -> Target:
    """Of the targets that something is true of, the default one, else the newest that runs on any platform.

    Raises:
      TargetError: it is true of none.
    """
    found = targets_of(asked)
    if not found:
        raise TargetError(f"no target is such; there are {', '.join(TARGETS)}")
    return max(found, key=lambda target: (target.default, target.platform == "any", target.release))
