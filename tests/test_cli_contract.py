"""The command line's contract: exit codes, one-line errors, streams, lazy start."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import click
import onnx
import onnx.parser
import pytest

from precision_planner.cli import console, main
from precision_planner.cli.main import COMMANDS, planner
from precision_planner.errors import MissingExtraError, OutputError, PlannerError
from tests.simulation.models import FLOAT, chain

LOGGER = logging.getLogger("precision_planner.tests")


@pytest.fixture
def boom(monkeypatch):
    """Register a command `boom` that runs the given function; return a caller of it."""

    def register(action, *args):
        @click.command("boom")
        @click.option("--number", type=int)
        def command(number):
            return action()

        monkeypatch.setitem(planner.commands, "boom", command)
        return main.main(["boom", *args])

    return register


def raiser(error):
    def action():
        raise error

    return action


def spawn(*args, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "precision_planner", *args], capture_output=True, text=True, timeout=60, **kwargs
    )


def test_success_is_0(boom):
    assert boom(lambda: None) == 0


@pytest.mark.parametrize("finish", [lambda: 1, raiser(click.exceptions.Exit(1))])
def test_findings_are_1(boom, finish):
    assert boom(finish) == 1


def test_a_bool_is_no_exit_code(boom):
    assert boom(lambda: True) == 0


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PlannerError("m.onnx: broken; export it again"), "planner: error: m.onnx: broken; export it again\n"),
        (OutputError("two\n  lines"), "planner: error: two lines\n"),
        (
            MissingExtraError("needs x; pip install y", package="x", extra="y"),
            "planner: error: needs x; pip install y\n",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "m.onnx"),
            "planner: error: m.onnx: No such file or directory; check the path and its permissions\n",
        ),
    ],
)
def test_a_mistake_of_the_users_is_2_and_one_line(boom, capsys, error, line):
    assert boom(raiser(error)) == 2
    captured = capsys.readouterr()
    assert captured.err == line
    assert captured.out == ""


def test_debugging_shows_where_a_mistake_was_found(boom, capsys):
    assert boom(raiser(PlannerError("broken")), "-vv") == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("planner: error: broken\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("1/0"), AssertionError(), KeyError("k"), OSError("no file")])
def test_a_bug_is_3_with_traceback_and_how_to_report(boom, capsys, error):
    assert boom(raiser(error), "--number", "3") == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback (most recent call last)" in captured.err
    assert type(error).__name__ in captured.err
    assert "Please report it" in captured.err
    assert "command: planner boom --number 3" in captured.err
    assert "onnx: " in captured.err


def test_an_interrupt_is_130(boom, capsys):
    assert boom(raiser(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "planner: interrupted\n"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["no-such-command"], "no-such-command"),
        (["--no-such-option"], "--no-such-option"),
        (["boom", "--number", "many"], "'many' is not a valid integer"),
        (["boom", "extra"], "extra"),
    ],
)
def test_a_usage_error_is_2_and_one_line(boom, capsys, args, text):
    boom(lambda: None)
    assert main.main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("planner: error: ")
    assert captured.err.count("\n") == 1
    assert text in captured.err
    assert "--help" in captured.err


def test_no_command_shows_the_help_and_is_2(capsys):
    assert main.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: planner" in captured.err


@pytest.mark.parametrize(
    ("args", "levels"),
    [
        ([], {"WARNING", "ERROR"}),
        (["-v"], {"INFO", "WARNING", "ERROR"}),
        (["-vv"], {"DEBUG", "INFO", "WARNING", "ERROR"}),
        (["-q"], {"ERROR"}),
        (["-v", "-q"], {"WARNING", "ERROR"}),
    ],
)
def test_verbosity_goes_before_and_after_the_command(boom, capsys, args, levels):
    def log():
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            LOGGER.log(level, "said")

    for position in ("after", "before"):
        boom(log, *args) if position == "after" else main.main([*args, "boom"])
        captured = capsys.readouterr()
        assert captured.out == ""
        assert {line.split(": ")[1] for line in captured.err.splitlines()} == levels, position


def test_verbosity_does_not_leak_into_the_next_call(boom, capsys):
    boom(lambda: None, "-q")
    boom(lambda: LOGGER.warning("heard"))
    assert "heard" in capsys.readouterr().err


def test_notes_go_to_stderr_and_quiet_silences_them(boom, capsys):
    boom(lambda: console.note("used [/encoder/0] synthesised inputs"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "used [/encoder/0] synthesised inputs\n"
    boom(lambda: console.note("hidden"), "-q")
    assert capsys.readouterr().err == ""


def test_every_command_answers_help_and_has_its_contract_name(capsys):
    with click.Context(planner) as ctx:
        names = planner.list_commands(ctx)
        assert set(names) <= set(COMMANDS)
        for name in names:
            command = planner.get_command(ctx, name)
            assert command is not None
            assert command.name == name
            assert main.main([name, "--help"]) == 0
            captured = capsys.readouterr()
            assert f"planner {name}" in captured.out
            assert captured.err == ""


def test_the_program_and_the_module_are_the_same():
    script = subprocess.run(
        [sys.executable, "-c", "from precision_planner.cli.main import run; run()", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    module = spawn("--version")
    assert script.stdout == module.stdout
    assert module.stdout.startswith("planner ")
    assert module.returncode == 0


@pytest.mark.parametrize("args", [["--version"], ["--help"]])
def test_start_up_imports_nothing_heavy(args):
    code = (
        "import json, sys\n"
        "from precision_planner.cli.main import main\n"
        f"main({args!r})\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(process.stdout.splitlines()[-1]))
    heavy = {"numpy", "onnx", "onnxruntime", "rich", "ml_dtypes", "jinja2", "jsonschema", "ruamel", "pandas"}
    assert not loaded & heavy
    assert "click" in loaded


def test_a_closed_pipe_is_silent():
    code = (
        "import click\n"
        "from precision_planner.cli.main import planner, run\n"
        "planner.add_command(click.Command('boom', callback=lambda: [click.echo('x' * 1000) for _ in range(1000)]))\n"
        "run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "boom"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_is_a_line_and_no_bug():
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "precision_planner", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert process.returncode == 2
    assert process.stderr.startswith("planner: error: cannot write the result: ")
    assert process.stderr.count("\n") == 1


class TestConsole:
    def test_takes_node_names_literally(self, capsys):
        console.stdout_console(width=60).print("/a[0]/[bold]x[/bold] :smile: 'quoted' 1e-12")
        assert capsys.readouterr().out == "/a[0]/[bold]x[/bold] :smile: 'quoted' 1e-12\n"

    @pytest.mark.parametrize(("no_color", "colored"), [(None, True), ("1", False)])
    def test_respects_no_color(self, monkeypatch, capsys, no_color, colored):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        if no_color:
            monkeypatch.setenv("NO_COLOR", no_color)
        console.stdout_console().print("red", style="red")
        assert ("\x1b[31m" in capsys.readouterr().out) is colored

    def test_width_is_80_in_a_pipe_and_follows_columns(self, monkeypatch):
        monkeypatch.delenv("COLUMNS", raising=False)
        assert console.stdout_console().width == 80
        monkeypatch.setenv("COLUMNS", "123")
        assert console.stdout_console().width == 123
        assert console.stderr_console(width=40).width == 40


class TestWriteResult:
    def test_dash_is_stdout_and_adds_the_last_line_break(self, capsys):
        console.write_result("{}", "-")
        assert capsys.readouterr().out == "{}\n"

    def test_replaces_a_file_whole(self, tmp_path):
        path = tmp_path / "r.json"
        path.write_text("old and long")
        console.write_result("new\n", path)
        assert path.read_text() == "new\n"
        assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
        (tmp_path / "plain").touch()
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_a_folder_that_is_not_there_is_a_mistake_of_the_users(self, tmp_path):
        with pytest.raises(OutputError, match="does not exist; create it first"):
            console.write_result("x", tmp_path / "none" / "r.json")

    def test_a_pipe_is_written_to_and_not_replaced(self, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            console.write_result("{}", pipe)
            assert os.read(reader, 100) == b"{}\n"
        finally:
            os.close(reader)
        assert pipe.is_fifo()


class TestCheckResults:
    def test_what_is_read_is_never_written(self, tmp_path):
        plan = tmp_path / "plan"
        plan.mkdir()
        model, data, planned = tmp_path / "m.onnx", tmp_path / "w.bin", plan / "model.onnx"
        onnx.save(chain(FLOAT, 1.0), planned)
        onnx.save(chain(FLOAT, 1.0), model, save_as_external_data=True, location=data.name, size_threshold=0)
        (plan / "plan.json").touch()
        (tmp_path / "link.json").symlink_to(model)
        assert data.exists()
        sources = [str(model), str(plan), None]
        for target in (model, data, planned, plan / "plan.json", tmp_path / "link.json"):
            with pytest.raises(OutputError, match="is an input, which is never overwritten; write"):
                console.check_results([None, str(target)], sources)
        (tmp_path / "d.json").touch()
        console.check_results([None, "-", str(tmp_path / "d.json"), str(plan / "d.json")], sources)

    def test_each_result_has_a_place(self, tmp_path):
        again = str(tmp_path / "plan" / ".." / "d.json")
        (tmp_path / "plan").mkdir()
        for two in ([str(tmp_path / "d.json"), again], ["-", "-"]):
            with pytest.raises(OutputError, match=r"two results would be written to .+; give each"):
                console.check_results(two)
        with pytest.raises(OutputError, match="it is a folder; give the name of a file"):
            console.check_results([str(tmp_path)])
        with pytest.raises(OutputError, match="none does not exist; create it first"):
            console.check_results([str(tmp_path / "none" / "d.json")])


def test_progress_is_silent_in_a_pipe(capsys):
    with console.progress("scanning", total=3) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("headroom", ["0", "-1", "nan", "inf"])
def test_a_headroom_is_above_0(headroom, tmp_path, capsys):
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) { y = Exp(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    assert main.main(["analyze", str(tmp_path / "m.onnx"), "--headroom", headroom]) == 2
    assert "give a factor above 0" in capsys.readouterr().err
