"""Targets: one file each, every fact with its source, and nobody outside who asks for a name."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from precision_planner.errors import TargetError
from precision_planner.targets import DEFAULT_TARGET, IDENTITY, TARGETS, Target, get_target, newest, targets_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "precision_planner"
KNOWN = PACKAGE / "targets" / "known"


def test_the_targets_of_the_contract_are_there_and_one_is_the_default() -> None:
    contract = {"tensorrt-8.6", "tensorrt-10", "tensorrt-10-strong", "tensorrt-11", "tensorrt-rtx", "onnxruntime"}
    assert contract < set(TARGETS)
    assert DEFAULT_TARGET == "tensorrt-11"


def test_every_file_is_one_target_and_every_target_one_file() -> None:
    files = {path.stem for path in KNOWN.glob("*.py") if not path.stem.startswith("_")}
    assert files == {re.sub("[-.]", "_", name) for name in TARGETS}


@pytest.mark.parametrize("name", TARGETS)
def test_every_fact_has_a_source_and_every_source_is_of_a_fact(name: str) -> None:
    facts = {field.name for field in fields(Target)} - set(IDENTITY)
    about_lists = {"refused", "defects"}  # each entry says its own
    assert set(TARGETS[name].sources) | about_lists == facts
    assert all(text.strip() for text in TARGETS[name].sources.values())
    assert all(entry.source for entry in TARGETS[name].lowering)


def test_an_unknown_target_says_what_it_may_have_meant() -> None:
    with pytest.raises(TargetError, match="did you mean tensorrt-11"):
        get_target("tensorrt11")
    with pytest.raises(TargetError, match="take one of tensorrt-8"):
        get_target("coreml")


def test_targets_are_ordered_by_release() -> None:
    assert get_target("tensorrt-11").at_least(10, 12)
    assert not get_target("tensorrt-10-strong").at_least(10, 12)
    assert get_target("tensorrt-8.6").at_least(8, 5)
    assert not get_target("onnxruntime").at_least(8), "another runtime has no release of TensorRT's"
    assert newest(lambda target: not target.strong).name == "tensorrt-10"
    assert newest(lambda target: target.strong and target.runtime == "tensorrt").name == "tensorrt-11"
    assert [target.name for target in targets_of(lambda target: not target.has_builder)] == ["onnxruntime"]
    with pytest.raises(TargetError, match="no target is such"):
        newest(lambda target: target.name == "coreml")


def test_what_was_measured_stands_in_the_files() -> None:
    """Sums on 8.6.0 and 10.6 on an H200, and on onnxruntime's CUDA provider; TF32 on 8.6.0 and 10.6."""
    assert {target.sums for target in TARGETS.values() if target.has_builder} == {"fp16"}
    assert get_target("onnxruntime").sums == "fp32"
    assert {name for name, target in TARGETS.items() if target.tf32 == "truncated"} == {"tensorrt-8.6"}


# --- nobody outside compares with a name

_ABOUT_A_TARGET = re.compile(r"(^|[._\[\"'])target(_name)?(\.name|[\"']\])?$", re.IGNORECASE)


def _findings(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, text) of each comparison with a target's name, and of each name of a target that is no documentation."""
    found = []
    names = set(TARGETS) - {"onnxruntime", "tensorrt-rtx"}  # the name of a package, and of a distribution
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body
        and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            texts = [
                side
                for side in sides
                if any(isinstance(at, ast.Constant) and isinstance(at.value, str) for at in ast.walk(side))
            ]
            if texts and any(_ABOUT_A_TARGET.search(ast.unparse(side)) for side in sides):
                found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if (
                node.func.attr in ("startswith", "endswith")
                and any(isinstance(arg, (ast.Constant, ast.Tuple)) for arg in node.args)
                and _ABOUT_A_TARGET.search(ast.unparse(node.func.value))
            ):
                found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Constant) and id(node) not in documentation and node.value in names:
            found.append((node.lineno, repr(node.value)))
    return found


def test_nothing_outside_compares_with_a_targets_name() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if (PACKAGE / "targets") not in path.parents:
            found.update(
                {f"{path.relative_to(ROOT)}:{line}": text for line, text in _findings(ast.parse(path.read_text()))}
            )
    assert found == {}
    for path in sorted(PACKAGE.rglob("*.jinja")):
        assert not re.search(r"target(\.name)? *(==|!=|in)\b", path.read_text()), path


@pytest.mark.parametrize(
    "code",
    [
        'if target == "tensorrt-rtx": pass',
        'if PLAN["target"] != "onnxruntime": pass',
        'program = "a" if plan.target == "b" else "c"',
        'if target.name in ("x", "y"): pass',
        'if self.target.startswith("tensorrt"): pass',
        'TABLE = {"tensorrt-8.6": 1}',
    ],
)
def test_the_lint_sees_what_it_is_for(code: str) -> None:
    assert _findings(ast.parse(code))


# --- a made-up target, as one file

MADE_UP = '''
"""A builder nobody has."""

from dataclasses import replace

from precision_planner.targets.known.tensorrt_10_strong import TARGET as LIKE
from precision_planner.targets.target import Words

TARGET = replace(LIKE, name="acme-3", sums="fp32", words=Words("Acme", "acmexec", strong=("--typed",)))
'''

RULE = """
id: ZZ001
title: Know the made-up target
why: >
  It was added as a file alone. A rule that names it loads, and fires for it. Nothing else knows of it.
references: [https://example.org/acme]
severity: info
tags: [gemm]
targets: {builds: [acme-3]}
match: {op: MatMul}
message: "{subject} is on {target}"
action: warn
cases:
  - {name: on it, kind: fires, builder: {linear: {rows: 64, columns: 4}}, target: acme-3, expect: {severity: info}}
  - {name: on another, kind: near_miss, builder: {linear: {rows: 64, columns: 4}}, expect: {fires: false}}
  - {name: long, kind: extreme, builder: {linear: {rows: 4096, columns: 4}}, target: acme-3, expect: {fires: true}}
"""


@pytest.mark.slow
def test_a_made_up_target_is_one_file_and_found_everywhere(tmp_path: Path) -> None:
    """A copy of the package with one file more: help, plan, rules, migrate, templates, completion."""
    shutil.copytree(PACKAGE, tmp_path / "precision_planner", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "rules", tmp_path / "rules")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "precision_planner" / "targets" / "known" / "acme_3.py").write_text(MADE_UP)
    (tmp_path / "rules" / "ZZ001.yaml").write_text(RULE)
    weight = np.full((64, 4), 1 / 64, np.float32)
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2,64] x) => (float[2,4] y) { y = MatMul(x, w) }'
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "m.onnx")
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "COLUMNS": "200"}

    def run(*words: str, code: int = 0, **more: str) -> str:
        command = [sys.executable, "-m", "precision_planner", *words]
        variables = {**environment, **more}
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=240)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    for name in ("plan", "analyze", "migrate"):
        assert "acme-3" in run(name, "--help")
    run("plan", "m.onnx", "-o", "p", "--target", "acme-3")
    readme = (tmp_path / "p" / "README.md").read_text()
    assert "acmexec" in readme
    assert "--typed" in readme
    assert "needs Acme" in readme
    facts = json.loads((tmp_path / "p" / "plan.json").read_text())["target_facts"]
    assert facts["runtime"] == "tensorrt"
    assert facts["has_builder"]
    migrated = run("migrate", "trtexec --onnx=m.onnx --fp16", "--target", "acme-3")
    assert "acmexec" in migrated
    assert "--typed" in migrated
    assert "did you mean acme-3" in run("plan", "m.onnx", "-o", "q", "--target", "acme3", code=2)
    assert "1 rule" in run("rules", "ZZ001", "--test", "rules")
    words = {"COMP_WORDS": "planner plan --target ac", "COMP_CWORD": "3", "_PLANNER_COMPLETE": "bash_complete"}
    assert "acme-3" in run(**words)
