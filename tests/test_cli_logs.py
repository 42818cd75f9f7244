"""--log-file, --log-format, and progress where there is no terminal."""

from __future__ import annotations

import json
import time

import pytest

from precision_planner.cli import main, steps
from precision_planner.cli.steps import step_lines


def test_a_log_file_says_what_ran_and_how_it_ended(tmp_path, capsys):
    log = tmp_path / "planner.log"
    assert main.main(["fp16", "0.1", "--log-file", str(log)]) == 0
    assert main.main(["analyze", "no.onnx", "--log-file", str(log)]) == 2
    lines = log.read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["INFO", "ERROR", "INFO"]
    assert "exit 0" in lines[0]
    assert "no.onnx does not exist" in lines[1]
    assert capsys.readouterr().err.startswith("planner: error: model no.onnx")


def test_json_lines_on_stderr(capsys):
    assert main.main(["analyze", "no.onnx", "--log-format", "json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    data = json.loads(line)
    assert (data["level"], set(data)) == ("error", {"time", "level", "logger", "message"})
    # and text again for whoever comes next in this process
    assert main.main(["analyze", "no.onnx"]) == 2
    assert capsys.readouterr().err.startswith("planner: error:")


def test_json_lines_in_a_file(tmp_path):
    log = tmp_path / "log"
    assert main.main(["--log-format", "json", "--log-file", str(log), "fp16", "1"]) == 0
    assert [json.loads(line)["level"] for line in log.read_text().splitlines()] == ["info"]


def test_a_file_that_is_no_log_is_left_alone(tmp_path, capsys):
    other = tmp_path / "model.onnx"
    other.write_bytes(b"\x08\x08weights")
    assert main.main(["fp16", "1", "--log-file", str(other)]) == 2
    assert "is no log of the planner's" in capsys.readouterr().err
    assert other.read_bytes() == b"\x08\x08weights"


@pytest.fixture
def quick(monkeypatch):
    """The same in tenths of a second."""
    for name, value in (("FIRST_S", 0.1), ("SAME_S", 0.2), ("AGAIN_S", 0.4)):
        monkeypatch.setattr(steps, name, value)


def test_quick_work_says_nothing(quick):
    lines: list[str] = []
    with step_lines("planning", lines.append) as say:
        say("reading")
    assert lines == []


def test_long_work_says_each_step_once_and_again_after_a_while(quick):
    lines: list[str] = []
    with step_lines("planning", lines.append) as say:
        say("measuring")
        time.sleep(0.7)
        say("searching")
        time.sleep(0.1)
    told = [line.partition(" (")[0] for line in lines]
    assert told[0] == "planning: measuring"
    assert told.count("planning: measuring") >= 2
    assert told[-1] == "planning: searching"


def test_counted_steps_do_not_flood(quick):
    lines: list[str] = []
    with step_lines("searching", lines.append) as say:
        for number in range(60):
            say(f"evaluation {number}")
            time.sleep(0.01)
    assert 1 <= len(lines) <= 5
