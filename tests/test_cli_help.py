"""Help, topics, suggestions and completion: what a newcomer meets first."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from precision_planner.cli import main
from precision_planner.cli.grouping import EXAMPLES, GROUPS, group_of
from precision_planner.cli.help import topics
from precision_planner.cli.main import ALIASES, COMMANDS, planner


def commands() -> Iterator[tuple[str, click.Command]]:
    """(path, command) of all, those of groups too."""
    context = click.Context(planner, info_name="planner")
    for name in COMMANDS:
        command = planner.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {child}", inner) for child, inner in command.commands.items())
        else:
            yield name, command


ALL = dict(commands())


@pytest.mark.parametrize("path", ALL)
def test_every_option_stands_in_a_group(path):
    options = [param for param in ALL[path].params if isinstance(param, click.Option)]
    assert [option.opts for option in options if group_of(option) == "Options"] == []


def test_no_option_stands_in_two_groups():
    listed = [option for options in GROUPS.values() for option in options]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("path", [path for path in ALL if path != "help"])
def test_help_ends_with_examples_that_parse(path):
    examples = EXAMPLES[path]
    with click.Context(ALL[path], info_name=path) as context:
        text = ALL[path].get_help(context)
    for example in examples:
        # a long one is continued, as a shell reads it
        assert f"\n  {example}\n" in re.sub(r" \\\n +", " ", text) + "\n"
        words = shlex.split(example)
        assert words[: 1 + len(path.split())] == ["planner", *path.split()]
        ALL[path].make_context(path, words[1 + len(path.split()) :])


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("width", [80, 120])
def test_help_fits(path, width):
    with click.Context(ALL[path], info_name=f"planner {path}", terminal_width=width) as context:
        text = ALL[path].get_help(context)
    assert [line for line in text.splitlines() if len(line) > width] == []


@pytest.mark.parametrize("topic", topics())
def test_topics_fit_a_screen(topic, capsys):
    assert main.main(["help", topic]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert [line for line in lines if len(line) > 80 and "planner " not in line] == []


def test_help_of_a_command_is_the_commands(capsys):
    assert main.main(["help", "diff"]) == 0
    assert "--simulate" in capsys.readouterr().out


@pytest.mark.parametrize(("said", "meant"), [("analyse", "analyze"), ("anlyze", "analyze"), *ALIASES.items()])
def test_an_unknown_command_says_what_was_meant(said, meant, capsys):
    assert meant in COMMANDS
    assert main.main([said, "model.onnx"]) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_an_unknown_topic_too(capsys):
    assert main.main(["help", "selector"]) == 2
    assert "did you mean selectors" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_where_the_shell_looks(shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    assert main.main(["--install-completion"]) == 0
    (written,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert str(written) in capsys.readouterr().out
    assert "_PLANNER_COMPLETE" in written.read_text()


def test_completion_for_another_shell_is_refused(capsys):
    assert main.main(["--install-completion", "cmd"]) == 2
    assert "give one of bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shell_is_offered_targets():
    ran = subprocess.run(
        [sys.executable, "-m", "precision_planner"],
        env={"_PLANNER_COMPLETE": "bash_complete", "COMP_WORDS": "planner plan --target tensorrt-1", "COMP_CWORD": "3"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "plain,tensorrt-11" in ran.stdout
    assert "onnxruntime" not in ran.stdout
