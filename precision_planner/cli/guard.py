"""Around every command: what it is given to read is known before it begins, and none of its results may be that."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

REPORTS = frozenset({"--json", "--html", "--md", "--junit", "--log-file", "--node-data"})
"""Options that name a report: an older report there is replaced, any other file never."""

OUTPUTS = frozenset({"-o", "--output", "--docs", "--save-inputs", "--new"})
"""Options that name another result; their commands say when an existing one is replaced."""

_IN_FOLDERS = (
    *("*.onnx", "*.npz", "*.npy", "*.yaml", "*.yml", "*.py", "*.data"),
    *("*.png", "*.jpg", "*.jpeg", "*.bmp"),
)
_REBUILT = frozenset({"model.engine", "build.log"})
"""What `planner build` puts into a plan's folder, and puts there again."""


def guard(command: click.Command) -> None:
    """Make a command (and the commands of a group) refuse results that would overwrite what it reads."""
    if isinstance(command, click.Group):
        for child in command.commands.values():
            guard(child)
    callback = command.callback
    if callback is None or hasattr(callback, "guarded"):
        return

    @functools.wraps(callback)
    def guarded(*arguments: Any, **values: Any) -> Any:
        from precision_planner.errors import PlannerError
        from precision_planner.writing import recording, refuse_changed

        destinations, sources = _sorted_out(command, values)
        check_destinations(destinations, sources)
        with recording(path for text in sources for path in _spellings(text)):
            try:
                result = callback(*arguments, **values)
            except SystemExit as error:
                raise PlannerError(
                    f"a script that was given ended the program (sys.exit({error.code!r})), and there is no result; "
                    "let its function return instead"
                ) from error
            except Exception:
                refuse_changed()  # what went wrong is that, whatever it looked like
                raise
            refuse_changed()
            return result

    guarded.guarded = True  # type: ignore[attr-defined]
    command.callback = guarded


def _sorted_out(command: click.Command, values: Mapping[str, Any]) -> tuple[dict[str, bool], list[str]]:
    """(result -> whether it is a report, everything else that is text) of a command's parameters."""
    destinations: dict[str, bool] = {}
    sources: list[str] = []
    for parameter in command.params:
        given = values.get(parameter.name or "")
        texts = [text for text in _texts(given) if text]
        names = set(parameter.opts)
        if names & REPORTS:
            _no_twins(texts, destinations)
            destinations.update(dict.fromkeys(texts, True))
        elif names & OUTPUTS:
            _no_twins(texts, destinations)
            destinations.update(dict.fromkeys(texts, False))
        else:
            sources += texts
    return destinations, sources


def _no_twins(texts: list[str], known: Mapping[str, bool]) -> None:
    from precision_planner.errors import OutputError
    from precision_planner.writing import place_of

    places = {place_of(Path(text)) if text != "-" else text for text in known}
    for text in texts:
        if (place_of(Path(text)) if text != "-" else text) in places:
            raise OutputError(f"two results would be written to {text}; give each a place of its own")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def check_destinations(destinations: Mapping[str, bool], sources: list[str]) -> None:
    """Refuse results that cannot be written or would overwrite what is read, before any work is done.

    Args:
      destinations: path or `-` -> whether it is a report.
      sources: what the command was given; folders stand for what is read from them.

    Raises:
      OutputError: see `precision_planner.writing.check_report`.
    """
    from precision_planner.errors import OutputError
    from precision_planner.writing import check_report, identity

    files = {text: report for text, report in destinations.items() if text != "-"}
    existing = {known: text for text in files if (known := identity(text)) is not None and not Path(text).is_dir()}
    if existing:  # else there is nothing that could be lost
        for source in sources:
            for path in _spellings(source):
                for file in files_of(path):
                    known = identity(file)
                    if known in existing and file.is_file():
                        raise OutputError(
                            f"{existing[known]} is an input, which is never overwritten; write the result elsewhere"
                        )
    for text, report in files.items():
        if report:
            check_report(Path(text))


def _spellings(text: str) -> Iterator[Path]:
    """The file that a parameter names: as it stands, or as FILE:FUNCTION."""
    for candidate in (text, text.rpartition(":")[0]):
        try:
            if candidate and len(candidate) < 4096 and Path(candidate).exists():
                yield Path(candidate)
                return
        except (OSError, ValueError):  # no path at all
            continue


def files_of(path: Path) -> Iterator[Path]:
    """What is read of a path: a model with its external data, what a folder holds, or the file itself."""
    if path.is_dir():
        from precision_planner.writing import made_files

        yield path / "plan.json"
        yield from (path / name for name in made_files(path) - _REBUILT)
        for pattern in _IN_FOLDERS:
            yield from path.glob(pattern)
        for model in path.glob("*.onnx"):
            yield from files_of(model)
        return
    yield path
    if path.suffix == ".onnx" and path.is_file():
        from precision_planner.errors import ModelError
        from precision_planner.model import Model

        try:
            yield from Model.load(path).files
        except ModelError:
            return  # whoever reads it says what is wrong
