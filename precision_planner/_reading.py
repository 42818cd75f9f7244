"""Readers of text that others wrote, which end in an answer or an error whatever they are given."""

from __future__ import annotations

import ast
import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """JSON as Python's own; ValueError in one line for what is none, or is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None


def parse_python(source: str, name: str) -> ast.Module:
    """A script's syntax tree, without running it.

    Raises:
      SyntaxError: it is no Python, or nested too deeply for its parser.
    """
    try:
        return ast.parse(source, filename=name)
    except (RecursionError, MemoryError):
        raise SyntaxError("it is nested too deeply to be read") from None
    except ValueError as error:  # null bytes
        raise SyntaxError(str(error)) from None
