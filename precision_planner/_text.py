"""Names as text: a model may call its values whatever it likes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def visible(text: str, keep: str = "") -> str:
    r"""What does not print written out, as \x1b or \n: escape sequences change terminals, XML has no place for them.

    Args:
      text: any.
      keep: characters left as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def visible_data(data: Any, keep: str = "") -> Any:
    """JSON data with every string `visible`, keys included."""
    if isinstance(data, str):
        return visible(data, keep)
    if isinstance(data, Mapping):
        return {visible_data(key, keep): visible_data(value, keep) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [visible_data(value, keep) for value in data]
    return data


def markdown_code(text: str, *, in_table: bool = False) -> str:
    """Text as a code span of GitHub's Markdown; in a table the bar between cells is escaped even there."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return fence + pad + (text.replace("|", "\\|") if in_table else text) + pad + fence


def markdown_text(text: str) -> str:
    """Text that GitHub's Markdown shows as it is: no HTML, no emphasis, no code, no link."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"[\\`*\[\]|~]", r"\\\g<0>", text)
    # between letters an underscore emphasizes nothing
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
