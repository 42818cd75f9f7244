"""Reading a rule book: one YAML file a rule, from our folder and from the user's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from precision_planner._resources import rulebook_dir
from precision_planner.errors import RuleError
from precision_planner.rules.language.rule import Rule, RuleBook
from precision_planner.rules.language.schema import read_rule
from precision_planner.rules.language.yaml_tree import fail

__all__ = ["load_folder", "load_rulebook"]


def load_rulebook(dirs: Iterable[str | os.PathLike[str]] = (), *, builtin: bool = True) -> RuleBook:
    """Read our rule book and further folders.

    Args:
      dirs: folders of the user's.
      builtin: whether our own rules are in it.

    Raises:
      RuleError: a folder is missing or empty, a file is no valid rule, an id is used twice.
    """
    rules: list[Rule] = list(_builtin()) if builtin else []
    for folder in dirs:
        rules.extend(load_folder(Path(folder)))
    _refuse_twins(rules)
    return RuleBook(tuple(sorted(rules, key=lambda rule: rule.id)))


def load_folder(folder: Path) -> tuple[Rule, ...]:
    """Read the rules of one folder (its `*.yaml` and `*.yml`, no deeper).

    Raises:
      RuleError: the folder is missing or has no rule, or a rule is not valid.
    """
    if not folder.is_dir():
        raise RuleError(f"{folder}: no such folder of rules; give a folder with one YAML file a rule")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    if not files:
        raise RuleError(f"{folder}: no rule in it; 'planner rules --new XX001 {folder}' writes a first one")
    rules = tuple(load_file(path) for path in files)
    _refuse_twins(rules)
    return rules


def load_file(path: Path) -> Rule:
    """Read one rule.

    Raises:
      RuleError: it cannot be read, or is no valid rule.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise fail(path, 1, "not UTF-8 text; save the rule as UTF-8") from None
    return read_rule(text, path)


@lru_cache(maxsize=1)
def _builtin() -> tuple[Rule, ...]:
    return load_folder(rulebook_dir())


def _refuse_twins(rules: Iterable[Rule]) -> None:
    seen: dict[str, Rule] = {}
    for rule in rules:
        if rule.id in seen:
            raise fail(rule.path, rule.line, f"the id {rule.id} is taken by {seen[rule.id].path}; choose another")
        seen[rule.id] = rule
