"""Tell which tool a recipe is for, and read it: a command line, a shell script that holds one, a builder's script."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from precision_planner.emitting.migrate.commands import read_polygraphy, read_trtexec
from precision_planner.emitting.migrate.cpp import SUFFIXES, read_cpp
from precision_planner.emitting.migrate.others import read_triton, read_yolo
from precision_planner.emitting.migrate.recipe import Recipe
from precision_planner.emitting.migrate.script import read_script
from precision_planner.errors import EngineError


def read_recipe(text: str) -> Recipe:
    """Read a recipe.

    Args:
      text: a trtexec, polygraphy or `yolo export` command line, or the path of a builder's script (Python or C++), of
        a Triton config.pbtxt, or of a file with such a command line.

    Raises:
      EngineError: it is none of these, or cannot be read.
    """
    path = Path(text) if "\n" not in text and len(text) < 4096 else None
    if path is not None and _is_file(path):
        try:
            content = path.read_text("utf-8")
        except UnicodeDecodeError:
            raise EngineError(f"{path} is not text; give a trtexec command line, or a Polygraphy script") from None
        if path.suffix == ".py":
            return read_script(content, str(path))
        if path.suffix in SUFFIXES:
            return read_cpp(content, str(path))
        if path.suffix == ".pbtxt":
            return read_triton(content, str(path))
        return _read_commands(content, str(path))
    if path is not None and path.suffix in (".py", ".pbtxt", *SUFFIXES) and " " not in text.strip():
        raise EngineError(f"{text}: no such file; give a builder's script or a command line in quotes")
    return _read_commands(text, "the recipe")


def _is_file(path: Path) -> bool:
    """Whether a text names a file; one that is too long for a name, or holds what no name may, names none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _read_commands(text: str, source: str) -> Recipe:
    """The first trtexec or polygraphy command of a text; line continuations, variables before it and comments aside."""
    joined = re.sub(r"\\\s*\n", " ", text)
    for line in joined.splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise EngineError(f"{source}: {line.strip()[:60]!r} cannot be read as a command ({error})") from None
        for position, word in enumerate(words):
            program = Path(word).name.lower()
            if program in ("trtexec", "trtexec.exe", "tensorrt_rtx"):
                return read_trtexec(words[position + 1 :])
            if program == "yolo":
                return read_yolo(words[position + 1 :])
            if program == "polygraphy":
                return _with_scripts(read_polygraphy(words[position + 1 :]))
        if words and words[0].startswith("--onnx"):
            return read_trtexec(words)
    raise EngineError(
        f'{source} holds no trtexec, polygraphy or yolo command; write planner migrate "trtexec --onnx=..."'
    )


def _with_scripts(recipe: Recipe) -> Recipe:
    """The command with what the scripts say that it names."""
    for name in recipe.settings.get("scripts", ()):
        path = Path(name)
        if not path.is_file():
            raise EngineError(f"the command names the script {name}, which is not here; run planner migrate beside it")
        recipe = recipe.joined(read_script(path.read_text("utf-8"), name))
    return recipe
