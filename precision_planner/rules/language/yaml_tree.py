"""YAML 1.2 with positions: every key and value knows its line.

`1e-12` is a number, `NO` is a string, a duplicate key is an error. Only plain data is read: a tag in the file is an
error, so that a rule file can never construct an object.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from precision_planner.errors import RuleError

__all__ = [
    "Mapping",
    "Sequence",
    "Value",
    "check_keys",
    "choice",
    "choices",
    "describe",
    "fail",
    "parse_yaml",
    "text_of",
    "texts_of",
]

_TAG = "tag:yaml.org,2002:"

MOST_DEPTH = 100
"""Brackets within brackets of a rule file, over lines."""

MOST_VALUES = 100_000
"""Values of a rule file, aliases written out."""

Value: TypeAlias = "Mapping | Sequence | str | int | float | bool | None"


class Mapping(dict[str, Any]):
    """A mapping with its own line and the line of each key's value (1-based)."""

    line: int
    lines: dict[str, int]


class Sequence(list[Any]):
    """A sequence with its own line and the line of each item (1-based)."""

    line: int
    lines: list[int]


def fail(path: Path | str, line: int, message: str) -> RuleError:
    """Return the error of a rule file: `file:line: message`."""
    return RuleError(f"{path}:{line}: {message}")


def parse_yaml(text: str, path: Path | str, *, first_line: int = 1) -> Value:
    """Read one YAML document.

    Args:
      text: the document.
      path: for messages.
      first_line: the line of the file on which `text` begins.

    Returns:
      Mappings, sequences and scalars; None for an empty document.

    Raises:
      RuleError: not YAML, a duplicate key, a key that is no string, or a tag.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    offset = first_line
    _refuse_depth(text, path, offset)
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = offset + (mark.line if mark is not None else 0)
        problem = " ".join((error.problem or error.context or "cannot be read").split())
        raise fail(path, line, f"not valid YAML: {problem}") from None
    except YAMLError as error:
        raise fail(path, offset, f"not valid YAML: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError, OverflowError) as error:
        told = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise fail(path, offset, f"not valid YAML: {told}") from None
    if root is None:
        return None
    _refuse_expansion(root, path, offset)
    return _convert(root, path, offset)


def _refuse_depth(text: str, path: Path | str, offset: int) -> None:
    """Refuse what the parser would take a time to read that grows with the square of the depth."""
    depth = 0
    for number, line in enumerate(text.splitlines()):
        depth = max(0, depth + sum(line.count(mark) for mark in "[{") - sum(line.count(mark) for mark in "]}"))
        if depth > MOST_DEPTH or "- " * MOST_DEPTH in line or "? " * MOST_DEPTH in line:
            raise fail(path, number + offset, "not valid YAML: it is nested too deeply")


def _refuse_expansion(root: Any, path: Path | str, offset: int) -> None:
    """Refuse aliases by which a document contains itself, or grows past `MOST_VALUES` once they are written out."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:
        key, line = id(node), node.start_mark.line + offset
        if key in open_nodes:
            raise fail(path, line, "an alias makes the document contain itself; write it out")
        if key not in sizes:
            open_nodes.add(key)
            inner = node.value if isinstance(node.value, list) else ()
            parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
            sizes[key] = 1 + sum(size(part) for part in parts)
            open_nodes.discard(key)
            if sizes[key] > MOST_VALUES:
                raise fail(path, line, f"its aliases make more than {MOST_VALUES} values; write it shorter")
        return sizes[key]

    try:
        size(root)
    except RecursionError:
        raise fail(path, offset, "not valid YAML: it is nested too deeply") from None


def _convert(node: Any, path: Path | str, offset: int) -> Value:
    from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

    line = node.start_mark.line + offset
    if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
        mapping = Mapping()
        mapping.line, mapping.lines = line, {}
        for key_node, value_node in node.value:
            key = _convert(key_node, path, offset)
            key_line = key_node.start_mark.line + offset
            if not isinstance(key, str):
                raise fail(path, key_line, f"the key {key_node.value!r} is no string; put it in quotes")
            if key in mapping:
                raise fail(path, key_line, f"the key '{key}' is given twice (first in line {mapping.lines[key]})")
            mapping.lines[key] = key_line
            mapping[key] = _convert(value_node, path, offset)
        return mapping
    if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
        sequence = Sequence()
        sequence.line, sequence.lines = line, []
        for item in node.value:
            sequence.lines.append(item.start_mark.line + offset)
            sequence.append(_convert(item, path, offset))
        return sequence
    if isinstance(node, ScalarNode):
        return _scalar(node, path, line)
    raise fail(path, line, f"the tag {node.tag} is not allowed: a rule is plain data")


def _scalar(node: Any, path: Path | str, line: int) -> Value:
    text: str = node.value
    kind = str(node.tag).removeprefix(_TAG)
    try:
        match kind:
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text.replace("_", ""), 0)
            case "float":
                return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
            case "timestamp":
                return text
    except ValueError:
        raise fail(path, line, f"{text!r} is no {kind}") from None
    raise fail(path, line, f"the tag {node.tag} is not allowed: a rule is plain data")


def check_keys(mapping: Mapping, allowed: Iterable[str], path: Path, what: str) -> None:
    """Refuse keys that nobody reads, with the nearest one that exists."""
    import difflib

    known = tuple(allowed)
    for key in mapping:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; it takes {', '.join(known)}"
            raise fail(path, mapping.lines[key], f"{what} has no key '{key}'{hint}")


def text_of(mapping: Mapping, key: str, path: Path, *, default: str | None = None) -> str:
    """A text; required unless there is a default."""
    if key not in mapping and default is not None:
        return default
    value = mapping.get(key)
    if not isinstance(value, str) or not value.strip():
        raise fail(path, mapping.lines.get(key, mapping.line), f"'{key}' must be a text, not {describe(value)}")
    return value.strip()


def texts_of(mapping: Mapping, key: str, path: Path) -> tuple[str, ...]:
    """A text or a list of texts, as a tuple; empty where the key is missing."""
    value = mapping.get(key)
    if value is None and key not in mapping:
        return ()
    if isinstance(value, str) and value:
        return (value,)
    if not isinstance(value, Sequence) or not value or not all(isinstance(item, str) and item for item in value):
        raise fail(path, mapping.lines[key], f"'{key}' must be a text or a list of texts, not {describe(value)}")
    return tuple(value)


def choice(mapping: Mapping, key: str, allowed: tuple[str, ...], path: Path) -> str:
    """One of several texts."""
    value = text_of(mapping, key, path)
    if value not in allowed:
        raise fail(path, mapping.lines[key], f"'{key}' is {value!r}; it takes {', '.join(allowed)}")
    return value


def choices(mapping: Mapping, key: str, allowed: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """Several of several texts."""
    values = texts_of(mapping, key, path)
    for value in values:
        if value not in allowed:
            raise fail(path, mapping.lines[key], f"'{key}' has {value!r}; it takes {', '.join(allowed)}")
    return values


def describe(value: Any) -> str:
    """What a value of YAML is, for messages."""
    names: dict[type, str] = {
        Mapping: "a mapping", Sequence: "a list", str: "a text", bool: "a flag", int: "a number", float: "a number",
        type(None): "empty",
    }  # fmt: skip
    name = names.get(type(value), type(value).__name__)
    return f"{name} ({value!r})" if isinstance(value, str | int | float) else name
