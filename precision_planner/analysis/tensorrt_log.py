"""Reads the weight warnings out of a VERBOSE log of TensorRT 8.5 to 10.x, and matches its names with the model's."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["base_name", "log_lists", "myelin_name", "same_tensor"]

_CATEGORY = {
    "subnormal": re.compile(r"affected by this issue: Detected subnormal FP16 values"),
    "underflow": re.compile(r"affected by this issue: Detected values less than smallest positive FP16 subnormal"),
    "overflow": re.compile(r"affected by this issue: Detected finite FP32 values which would overflow in FP16"),
}
_LIST = re.compile(r"List of affected weights:\s*(.*)")
_LAYERNORM = re.compile(r"Detected layernorm nodes in FP16:\s*(.*)")
_DECORATION = re.compile(r"\s*(\+ \(Unnamed Layer\* \d+\) \[\w+\])+\s*$")
_MYELIN_DECORATION = re.compile(r"( _ \(Unnamed Layer_ \d+\) \[\w+\])*_constant$")


def log_lists(text: str) -> dict[str, list[str]]:
    """The names that TensorRT lists for each category, in its order, decorations and all.

    Args:
      text: the log, from which on VERBOSE TensorRT writes `List of affected weights:` under each count.

    Returns:
      subnormal, underflow, overflow, layernorm_in_fp16 -> names; of several builds in one log, all.
    """
    found: dict[str, list[str]] = {**{name: [] for name in _CATEGORY}, "layernorm_in_fp16": []}
    current = ""
    for line in text.splitlines():
        current = next((name for name, pattern in _CATEGORY.items() if pattern.search(line)), current)
        listed, layernorm = _LIST.search(line), _LAYERNORM.search(line)
        if listed and current:
            found[current] += _split(listed.group(1))
            current = ""
        elif layernorm:
            found["layernorm_in_fp16"] += _split(layernorm.group(1))
    return found


def base_name(listed: str) -> str:
    """A listed name without what fusion appended to it; Myelin's keeps its own spelling.

    `X + (Unnamed Layer* 88) [Shuffle]` -> `X`; `x_y _ (Unnamed Layer_ 96) [Shuffle]_constant` -> `x_y`.
    """
    return _DECORATION.sub("", _MYELIN_DECORATION.sub("", listed)).strip()


def myelin_name(name: str) -> str:
    """A name as Myelin spells it: every character but letters and digits is `_`."""
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def same_tensor(listed: str, names: Iterable[str]) -> bool:
    """Whether TensorRT's listed name is one of a tensor's names (the value it is read by, its node).

    Args:
      listed: from the log.
      names: what the model calls the tensor.
    """
    base = base_name(listed)
    squeezed = myelin_name(base)
    return any(base == name or squeezed == myelin_name(name) for name in names if name)


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(", ") if name.strip()]
