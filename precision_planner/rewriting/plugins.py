"""Types of plugin nodes, as a user says them."""

from __future__ import annotations

from collections.abc import Iterable

from precision_planner.errors import ConversionError
from precision_planner.typing import PluginTypes

_WORDS = ("low", "fp16", "bf16", "fp32", "-")


def parse_plugins(texts: Iterable[str]) -> dict[str, PluginTypes]:
    """Read ``OP=IN,IN->OUT,OUT`` declarations; ``OP=low`` means low everywhere.

    A path to a plugin library (``.so``, ``.dll``) says nothing about types and is passed over.

    Raises:
      ConversionError: a declaration cannot be read.
    """
    found: dict[str, PluginTypes] = {}
    for text in texts:
        if text.endswith((".so", ".dll")):
            continue
        name, equals, types = text.partition("=")
        inputs, arrow, outputs = types.partition("->")
        words = [tuple(word.strip() for word in part.split(",")) for part in (inputs, outputs if arrow else inputs)]
        if not equals or not name or any(word not in _WORDS for part in words for word in part):
            raise ConversionError(
                f"plugin types {text!r} cannot be read; write OP=IN,IN->OUT with low, fp16, bf16, fp32 or - a slot"
            )
        found[name.strip()] = PluginTypes(words[0], words[1])
    return found


def write_plugin(name: str, types: PluginTypes) -> str:
    """The declaration that `parse_plugins` reads as this."""
    return f"{name}={','.join(types.inputs)}->{','.join(types.outputs)}"
