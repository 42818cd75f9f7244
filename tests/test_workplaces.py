"""Where people work: the GitHub Action, the pre-commit hook, the release workflow, the Dockerfile."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.test_cli_gate import scaled

ROOT = Path(__file__).resolve().parent.parent
load = YAML(typ="safe").load


@pytest.mark.slow
@pytest.mark.parametrize(("tolerance", "code"), [("rel_l2=1e-2 max_abs=1", 0), ("max_abs=1e-12", 1)])
def test_the_action_runs_the_gate(tmp_path, tolerance, code):
    action = load((ROOT / "action.yml").read_text())
    step = action["runs"]["steps"][-1]
    asked = {name: entry.get("default", "") for name, entry in action["inputs"].items()}
    scaled(tmp_path / "a.onnx", 3.0)
    scaled(tmp_path / "b.onnx", 7.0)
    asked |= {"models": "*.onnx", "tolerance": tolerance}
    env = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: asked[found[1]], value)
        for name, value in step["env"].items()
    }
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "planner"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m precision_planner "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", step["run"]],
        env={**os.environ, **env, "PATH": path, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert ran.stdout.count("answers:") == 2


def test_the_hook_calls_a_command_that_is_there():
    from precision_planner.cli.main import COMMANDS

    (hook,) = load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"].split() == ["planner", "check"]
    assert "check" in COMMANDS
    assert re.search(hook["files"], "models/bert.onnx")
    assert not re.search(hook["files"], "models/bert.onnx.data")


def test_the_release_publishes_without_a_token():
    jobs = load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "build"
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert "secrets." not in text


def test_the_image_has_all_that_the_wheel_is_made_of():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], "pyproject.toml", project["project"]["readme"]}
    assert needed | set(project["project"]["license-files"]) <= kept
