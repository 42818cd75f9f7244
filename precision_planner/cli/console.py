"""Where the commands write: results on stdout, everything else on stderr.

The consoles take what they are given literally: `[/encoder/0]` in a node name is text, not markup, so style
is given by `style=` or `rich.text.Text`. Colors follow the terminal, NO_COLOR and FORCE_COLOR; the width is
the terminal's or COLUMNS, and 80 in a pipe.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from precision_planner._text import visible
from precision_planner.cli import logs
from precision_planner.cli.main import verbosity
from precision_planner.cli.steps import step_lines
from precision_planner.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from precision_planner.judging.verdict import Verdict


def make_console(stream: TextIO, *, width: int | None = None) -> Console:
    """Return a console on a stream that takes text literally.

    Args:
      stream: where it writes.
      width: columns; None takes the terminal's, COLUMNS, or 80.
    """
    from rich.console import Console
    from rich.segment import Segment
    from rich.text import Text

    from precision_planner._text import visible
    from precision_planner.reporting.lines import hanging

    class Literal(Console):
        """A console whose text cannot command the terminal: names may hold escape sequences.

        Attributes:
          wraps: whether lines end at the width; in a pipe each stays one line, for whatever reads it.
        """

        wraps = False

        def print(self, *objects: Any, **options: Any) -> None:
            """Print; a line that is soft-wrapped elsewhere is wrapped between words where somebody looks at it."""
            if options.get("soft_wrap") and self.wraps and len(objects) == 1:
                text = objects[0] if isinstance(objects[0], Text) else Text(str(objects[0]))
                objects = (hanging(text, self),)
            super().print(*objects, **options)

        def on_broken_pipe(self) -> None:
            """The reader is gone: `main` ends the program, where Rich would raise SystemExit."""
            raise BrokenPipeError

        def _render_buffer(self, buffer: Iterable[Segment]) -> str:
            return super()._render_buffer(
                segment if segment.control else Segment(visible(segment.text, keep="\n"), segment.style)
                for segment in buffer
            )

    console = Literal(file=stream, width=width, markup=False, emoji=False, highlight=False)
    console.wraps = width is not None or console.is_terminal or bool(os.environ.get("COLUMNS"))
    return console


def stdout_console(*, width: int | None = None) -> Console:
    """Return the console for results."""
    return make_console(sys.stdout, width=width)


def stderr_console(*, width: int | None = None) -> Console:
    """Return the console for notes, warnings and progress."""
    return make_console(sys.stderr, width=width)


def note(message: str) -> None:
    """Say something that is not a result, on stderr; -q silences it, --log-file has it too."""
    quiet, as_json = verbosity() < 0, logs.is_json()
    logs.say(message, shown=quiet or not as_json)
    if not quiet and not as_json:
        stderr_console().print(message, soft_wrap=True)


@contextlib.contextmanager
def progress(description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """Show progress on stderr while the block runs, unless -q was given.

    Args:
      description: what is being done.
      total: how many steps there are; None when nobody knows.

    Yields:
      A function that takes the number of steps done since its last call.
    """
    if not _on_terminal():
        done = 0.0
        with step_lines(description, _line_writer()) as say:

            def advance(steps: float) -> None:
                nonlocal done
                done += steps
                say(f"{done:g} of {total:g} ({done / total:.0%})" if total else f"{done:g} done")

            yield advance
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    counted = (MofNCompleteColumn(), TaskProgressColumn()) if total else ()
    left = (TimeRemainingColumn(),) if total else ()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *counted, TimeElapsedColumn(), *left)
    with Progress(*columns, console=stderr_console(), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps: bar.advance(task, steps)


@contextlib.contextmanager
def work(description: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done while the block runs, unless -q was given.

    Args:
      description: of the whole.

    Yields:
      A function that takes what is being done now.
    """
    if not _on_terminal():
        with step_lines(description, _line_writer()) as say:
            yield say
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=stderr_console(), transient=True) as bar:
        task = bar.add_task(description)
        yield lambda text: bar.update(task, description=f"{description}: {text}")


def _on_terminal() -> bool:
    """Whether progress is drawn; where it is not, lines say it."""
    return verbosity() >= 0 and sys.stderr.isatty() and not logs.is_json()


def _line_writer() -> Callable[[str], None]:
    """What says one step where nothing is drawn; made by the command, as the thread that calls it knows no -q."""
    quiet = verbosity() < 0

    def line(text: str) -> None:
        if quiet or logs.is_json():
            logs.say(text, shown=quiet)
            return
        logs.say(text, shown=True)
        print(f"planner: {visible(text)}", file=sys.stderr, flush=True)

    return line


def check_results(destinations: Iterable[str | None], sources: Iterable[str | None] = ()) -> None:
    """Refuse, before any work is done, results that cannot be written or would overwrite what was read.

    Every command is guarded so for its own parameters (`precision_planner.cli.guard`); this is for what only the
    command knows.

    Args:
      destinations: where reports go; None where one was not asked for.
      sources: what the command reads: models with their data, other files, folders of them.

    Raises:
      OutputError: two results go to one place, one is a source, a folder, or in a folder that does not exist.
    """
    from precision_planner.cli.guard import check_destinations
    from precision_planner.writing import place_of

    wanted = [text for text in destinations if text]
    seen: set[str | Path] = set()
    for text in wanted:
        place = text if text == "-" else place_of(Path(text))
        if place in seen:
            raise OutputError(f"two results would be written to {text}; give each a place of its own")
        seen.add(place)
    check_destinations(dict.fromkeys(wanted, True), [text for text in sources if isinstance(text, str) and text])


def write_result(text: str, destination: str | Path) -> None:
    """Write a result to a file, or to stdout for `-`; a file appears whole or not at all.

    A device or a pipe is written to, not replaced. What stdout's encoding lacks is escaped there.

    Args:
      text: what to write; a missing final line break is added.
      destination: a path, or `-`.

    Raises:
      OutputError: the file cannot be written, was read, or is no report.
    """
    from precision_planner.writing import write_text

    text = text if text.endswith("\n") else text + "\n"
    if str(destination) == "-":
        sys.stdout.write(text)
        return
    write_text(Path(destination), text)


VERDICT_STYLES = {"FINE": "green", "DEGRADED": "yellow", "GARBAGE": "bold red", "NONFINITE": "bold red"}


def render_verdict(verdict: Verdict, step: str, fail_on_made_up: bool) -> None:
    """The next command that makes sense, if any, and the verdict: the last line."""
    from precision_planner.planning.judged import told
    from precision_planner.reporting.lines import print_command

    line, warning = told(verdict, fail_on_made_up)
    if warning:
        note(f"warning: {warning}")
    console = stdout_console()
    if step:
        print_command(console, step, "next:")
    console.print(line, soft_wrap=True, markup=False, style=VERDICT_STYLES.get(verdict.grade, "bold"))
