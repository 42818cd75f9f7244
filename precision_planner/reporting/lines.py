"""Lines for a terminal: cut in the middle, wrapped below their beginning, commands that can be copied."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["command_lines", "hanging", "middle", "print_command"]

MOST_NAME = 44
"""Letters of a name in a line that is not verbose."""


def middle(name: str, most: int = MOST_NAME) -> str:
    """Cut a name in its middle, where names of one model differ least: ``/encoder/layer.0/attn…/LayerNorm/Add_1``."""
    if len(name) <= most:
        return name
    tail = (most - 1) // 2
    return f"{name[: most - 1 - tail]}…{name[-tail:]}"


def hanging(text: Text, console: Console) -> Text:
    """Wrap a text at the console's width between words, what follows the first line set in below it.

    A line's leading blanks and the label before its first two blanks in a row stay alone on the left.
    """
    from rich.text import Text as Made

    lines = []
    for line in text.split("\n", allow_blank=True):
        plain = line.plain
        lead = len(plain) - len(plain.lstrip())
        if line.cell_len <= console.width or lead > console.width // 2:
            lines.append(line)
            continue
        body = line[lead:]
        column = _label(body.plain) or (0 if lead else 2)
        room = console.width - lead - column
        wrapped = body[column:].wrap(console, room)
        for number, part in enumerate(wrapped):
            part.rstrip()
            # what is a comment to a shell stays one
            again = "# " if plain.startswith("# ") else " " * (lead + column)
            start = line[: lead + column] if number == 0 else Made(again)
            lines.append(Made.assemble(start, part))
    return Made("\n").join(lines)


def _label(plain: str) -> int:
    """Where the text behind a label begins: behind two blanks in a row near the left; 0 where there is none."""
    at = plain[:24].rfind("  ")
    return at + 2 if at >= 0 else 0


def command_lines(command: str, width: int, indent: int = 0) -> list[str]:
    """A shell command in lines of at most `width`, each but the last ending in a backslash; words stay whole."""
    room = width - indent
    lines: list[str] = []
    for word in _words(command):
        if lines and len(lines[-1]) + 1 + len(word) + 2 <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word if not lines else f"  {word}")
    return [line + " \\" for line in lines[:-1]] + lines[-1:]


def _words(command: str) -> list[str]:
    """The words as they are quoted, an option together with its value."""
    lexer = shlex.shlex(command, posix=False, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words = list(lexer)
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("-") and " " not in joined[-1] and not word.startswith("-"):
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined


def print_command(console: Console, command: str, label: str = "") -> None:
    """Print a command, behind a label or alone, so that it can be copied however narrow the terminal is."""
    lead = f"{label} " if label else ""
    wraps = getattr(console, "wraps", False)
    lines = command_lines(command, console.width, len(lead)) if wraps else [command]
    for number, line in enumerate(lines):
        start = lead if number == 0 else " " * len(lead)
        console.print(start + line, no_wrap=True, overflow="ignore", crop=False)
