"""What a TensorRT builder's log says about precision, in any version and through any logger."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# "[W] text" (Polygraphy), "[11/22/2026-16:04:00] [TRT] [W] text" (TensorRT's own), "[11/22/26-16:04:00] [W] [TRT] text"
_LINE = re.compile(r"^(?:\[[\d/:.\- ]+\] )?(?:\[TRT\] )?\[(?P<level>[FEWIVXUS])\] (?:\[TRT\] )?(?P<text>.*)$")
_PRECISION = re.compile(
    r"converting weights between types|weights are affected by this issue|layernorm|FP16|BF16|half precision|"
    r"reduced precision|precision constraint|requested precision|subnormal|strongly typed|weakly typed|"
    r"requires the .* precision|TF32",
    re.IGNORECASE,
)
_AFFECTED = re.compile(r"List of affected weights:\s*(?P<names>.*)$")
_DECORATION = re.compile(
    r" ?\+ ?\(Unnamed Layer\* \d+\) \[\w+\](?:_output)?| _ \(Unnamed Layer_ \d+\) \[\w+\](?:_constant)?"
)


@dataclass(frozen=True, slots=True)
class PrecisionWarning:
    """A warning of the builder's about precision.

    Attributes:
      text: its words, on one line.
      tensors: the initializers or nodes it lists, by their ONNX names where they can be told.
    """

    text: str
    tensors: tuple[str, ...] = ()


def severity(line: str) -> str:
    """The level letter of a log line, '' for a continuation or for anything else."""
    match = _LINE.match(line)
    return match["level"] if match else ""


def precision_warnings(lines: Iterable[str], names: Sequence[str] = ()) -> tuple[PrecisionWarning, ...]:
    """Collect the warnings about precision, once each, with what they list.

    Args:
      lines: the log. A message may go on in lines without a level.
      names: ONNX names, to undo Myelin's spelling (`a_b_c` for `a.b/c`).
    """
    found: dict[str, list[str]] = {}
    last = ""
    inside = False
    for line in lines:
        match = _LINE.match(line.rstrip("\n"))
        text = match["text"] if match else line.strip()
        if match:
            inside = match["level"] == "W"
        affected = _AFFECTED.search(text)
        if affected and last:
            found[last] += [name for name in affected["names"].split(", ") if name.strip()]
        elif inside and _PRECISION.search(text):
            last = " ".join(text.split())
            listed = re.search(r"Detected layernorm nodes in FP16: (.*)$", text)
            found.setdefault(last, []).extend(listed[1].split(", ") if listed else ())
    by_mangled = {mangled(name): name for name in names}
    return tuple(
        PrecisionWarning(text, tuple(dict.fromkeys(onnx_name(item, by_mangled) for item in items)))
        for text, items in found.items()
    )


def onnx_name(text: str, by_mangled: dict[str, str] | None = None) -> str:
    """The ONNX name in what TensorRT calls a weight: without its fusion decoration, and with Myelin's `_` undone."""
    plain = _DECORATION.sub("", text.strip())
    plain = re.sub(r"_constant(?:Half|Float|BFloat16)?$", "", plain).strip(" +")
    return (by_mangled or {}).get(mangled(plain), plain) if by_mangled and plain not in by_mangled.values() else plain


def mangled(name: str) -> str:
    """Myelin's spelling: every character that is no letter, digit or underscore becomes an underscore."""
    return re.sub(r"\W", "_", name)
