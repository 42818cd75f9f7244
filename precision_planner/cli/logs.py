"""What is said on stderr and in --log-file: levels, and lines of text or of JSON."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path

import click

from precision_planner._text import visible
from precision_planner.errors import OutputError

LOGGER = logging.getLogger("precision_planner")
STEPS = logging.getLogger("precision_planner.cli")
"""Notes and steps of the work: shown on stderr by whoever says them, logged here for the file."""

_OURS = re.compile(rb'\d{4}-\d\d-\d\dT|\{"time"')


class _StderrHandler(logging.Handler):
    """Writes to whatever sys.stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != STEPS.name or getattr(record, "on_stderr", False):
            click.echo(visible(self.format(record), keep="\n"), err=True)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        data = {"time": moment, "level": record.levelname.lower(), "logger": record.name}
        data["message"] = record.getMessage()
        if record.exc_info:
            data["traceback"] = self.formatException(record.exc_info)
        return json.dumps(data, ensure_ascii=False)


class _FileFormatter(logging.Formatter):
    """Time (UTC), level and message, a line each."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return f"{moment} {record.levelname} {super().format(record)}"


def configure(verbosity: int) -> None:
    """Set what reaches stderr: warnings, errors alone (-q), or more (-v, -vv)."""
    handler = next((one for one in LOGGER.handlers if isinstance(one, _StderrHandler)), None)
    if handler is None:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("planner: %(levelname)s: %(message)s"))
        LOGGER.addHandler(handler)
    level = logging.ERROR if verbosity < 0 else {0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    handler.setLevel(level)
    LOGGER.setLevel(min([level, *(other.level for other in LOGGER.handlers)]))


def is_debugging() -> bool:
    """Whether stderr gets everything (-vv)."""
    return any(isinstance(one, _StderrHandler) and one.level <= logging.DEBUG for one in LOGGER.handlers)


def in_json(on: bool) -> None:
    """Write JSON lines, or text, from now on."""
    for handler in LOGGER.handlers:
        text = _FileFormatter() if isinstance(handler, logging.FileHandler) else None
        handler.setFormatter(
            _JsonFormatter() if on else text or logging.Formatter("planner: %(levelname)s: %(message)s")
        )


def is_json() -> bool:
    """Whether stderr gets JSON lines."""
    return any(isinstance(one, _StderrHandler) and isinstance(one.formatter, _JsonFormatter) for one in LOGGER.handlers)


def open_file(text: str) -> None:
    """Log into a file too, at the end of an older log of ours.

    Raises:
      OutputError: another file is there, or it cannot be written.
    """
    path = Path(text)
    try:
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                if not _OURS.match(file.read(32)):
                    raise OutputError(f"--log-file {path} is there and is no log of the planner's; give another name")
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the log {path}: {error.strerror}; choose another file") from None
    handler.setFormatter(_JsonFormatter() if is_json() else _FileFormatter())
    handler.setLevel(logging.INFO)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(min(LOGGER.level, logging.INFO))


def close() -> None:
    """Close log files; text again."""
    for handler in list(LOGGER.handlers):
        if isinstance(handler, logging.FileHandler):
            LOGGER.removeHandler(handler)
            handler.close()
    in_json(False)


def say(message: str, *, shown: bool = False) -> None:
    """Log a note or a step.

    Args:
      message: what is said.
      shown: stderr has it already (as text); with JSON lines on stderr it is written there by this.
    """
    STEPS.info("%s", visible(message), extra={"on_stderr": not shown})


def fail(line: str) -> None:
    """Log what ends the command; as text, stderr gets it from whoever says so."""
    STEPS.error("%s", line, extra={"on_stderr": is_json()})
