"""The house: the wheel, the rule book's place, the extras, the gates."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from precision_planner import _extras
from precision_planner._resources import rulebook_dir
from precision_planner.errors import InstallationError, MissingExtraError
from tests.lint_operators import (  # noqa: F401  they run with the house's other lints
    test_lists_are_seen,
    test_nothing_lists_operators_but_their_rows,
    test_templates_say_what_the_rows_say,
)

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class TestRulebookDir:
    def test_is_the_checkouts_folder_in_an_editable_install(self):
        assert rulebook_dir() == ROOT / "rules"

    def test_prefers_what_the_wheel_carries(self, tmp_path):
        package = tmp_path / "precision_planner"
        (package / "_rulebook").mkdir(parents=True)
        (tmp_path / "rules").mkdir()
        (tmp_path / "pyproject.toml").touch()
        assert rulebook_dir(package) == package / "_rulebook"

    def test_does_not_take_anothers_folder_for_ours(self, tmp_path):
        (tmp_path / "rules").mkdir()
        with pytest.raises(InstallationError, match="reinstall precision-planner"):
            rulebook_dir(tmp_path / "precision_planner")


class TestExtras:
    def test_are_the_ones_of_the_contract(self):
        assert set(PROJECT["optional-dependencies"]) == {
            "cpu", "gpu", "rtx", "tensorrt", "triton", "cluster", "images", "notebook", "test", "demo", "dev",
        }  # fmt: skip

    def test_base_has_no_onnxruntime_and_no_torch(self):
        names = {re.split(r"[<>=\[ ]", entry)[0] for entry in PROJECT["dependencies"]}
        assert not names & {"onnxruntime", "onnxruntime-gpu", "torch", "tensorrt", "tensorrt-rtx"}

    def test_no_aggregate_takes_gpu_or_tensorrt(self):
        for extra, entries in PROJECT["optional-dependencies"].items():
            if extra not in ("gpu", "tensorrt"):
                chosen = ",".join(re.findall(r"precision-planner\[([\w,]+)\]", " ".join(entries))).split(",")
                assert not {"gpu", "tensorrt"} & set(chosen), extra
                assert not [entry for entry in entries if re.match(r"(onnxruntime-gpu|tensorrt)\b(?!-)", entry)]

    def test_require_imports_what_is_there(self):
        assert _extras.require("json.decoder", extra="cpu", purpose="x").__name__ == "json.decoder"

    def test_a_missing_package_gives_the_pip_line(self):
        with pytest.raises(MissingExtraError) as caught:
            _extras.require("no_such_package.part", extra="triton", purpose="checking a server")
        assert str(caught.value) == (
            "checking a server needs no_such_package, which is not installed; "
            'run in the checkout: pip install ".[triton]"'
        )
        assert (caught.value.package, caught.value.extra) == ("no_such_package", "triton")

    def test_a_broken_package_is_not_reported_as_absent(self, tmp_path, monkeypatch):
        (tmp_path / "half_installed.py").write_text("import no_such_dependency\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
            _extras.require("half_installed", extra="cpu", purpose="x")

    def test_both_onnxruntimes_are_refused(self, monkeypatch):
        monkeypatch.setattr(_extras, "_is_installed", lambda name: True)
        with pytest.raises(InstallationError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
            _extras.require("onnxruntime", extra="cpu", purpose="comparing outputs")

    def test_one_onnxruntime_is_fine(self):
        assert _extras.require("onnxruntime", extra="cpu", purpose="x") is sys.modules["onnxruntime"]

    def test_every_extra_named_in_the_code_exists(self):
        named = set()
        for path in (ROOT / "precision_planner").rglob("*.py"):
            named |= set(re.findall(r"\bextra=\"(\w+)\"", path.read_text()))
        assert named
        assert named <= set(PROJECT["optional-dependencies"])


@pytest.mark.slow
def test_a_wheel_carries_the_rules_and_finds_them(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT], check=True, timeout=240, cwd=tmp_path
    )
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {path.relative_to(ROOT / "rules").as_posix() for path in (ROOT / "rules").rglob("*") if path.is_file()}
    assert expected
    assert {f"precision_planner/_rulebook/{name}" for name in expected} <= names
    assert not [name for name in names if name.startswith(("tests/", "examples/", "rules/", "docs/"))]
    assert "precision_planner/py.typed" in names

    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel], check=True, timeout=120
    )
    code = (
        "import precision_planner\n"
        "from precision_planner._resources import rulebook_dir\n"
        "print(precision_planner.__file__)\n"
        "print(rulebook_dir())\n"
    )
    # -S leaves site-packages out, and with it the editable install that would be found otherwise.
    process = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=tmp_path,
    )
    module, rules = map(Path, process.stdout.splitlines())
    assert module.is_relative_to(site)
    assert rules == site / "precision_planner" / "_rulebook"
    assert {path.relative_to(rules).as_posix() for path in rules.rglob("*") if path.is_file()} == expected


_WRITES = {"append", "add", "clear", "extend", "insert", "pop", "remove", "reverse", "sort", "CopyFrom", "MergeFrom"}


def _is_node_list(tree: ast.AST) -> bool:
    """`something.node`, or a part of it."""
    return isinstance(tree, ast.Attribute) and tree.attr == "node"


def _written_nodes(tree: ast.AST) -> list[int]:
    """Lines that write a node list: a call that changes it, `del graph.node[..]`, `ClearField("node")`."""
    lines = []
    for found in ast.walk(tree):
        match found:
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in _WRITES and _is_node_list(value):
                lines.append(found.lineno)
            case ast.Call(func=ast.Attribute(attr="ClearField"), args=[ast.Constant(value="node")]):
                lines.append(found.lineno)
            case ast.Delete(targets=targets) if any(
                isinstance(target, ast.Subscript) and _is_node_list(target.value) for target in targets
            ):
                lines.append(found.lineno)
    return lines


def test_the_lint_sees_every_way_to_write_a_node_list():
    text = "del g.node[:]\ng.node.extend(n)\ns.container.node.insert(0, n)\nx.node.remove(n)\ng.ClearField('node')\n"
    assert _written_nodes(ast.parse(text)) == [1, 2, 3, 4, 5]
    assert _written_nodes(ast.parse("nodes.append(g.node[0])\ng.input.extend(i)\nn.node = 3\n")) == []


def test_node_lists_are_written_by_the_editor_alone():
    package = ROOT / "precision_planner"
    found = {
        f"{path.relative_to(package)}:{line}"
        for path in package.rglob("*.py")
        if path != package / "model" / "edit.py" and "templates" not in path.parts
        for line in _written_nodes(ast.parse(path.read_text()))
    }
    assert not found, f"write node lists with precision_planner.model.edit: {sorted(found)}"


def test_no_module_is_over_500_lines():
    sizes = {
        path.relative_to(ROOT): len(path.read_text().splitlines())
        for path in (ROOT / "precision_planner").rglob("*.py")
    }
    assert {str(path): size for path, size in sizes.items() if size > 500} == {}


def test_versions_agree():
    assert metadata.version("precision-planner") == PROJECT["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert headings[0] == "Unreleased" or headings[0] == PROJECT["version"]


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, flags=re.M)[1].split())
    help_text = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert {line.split()[0] for line in help_text.splitlines()} == phony
    assert phony >= {"help", "demo", "test", "test-fast", "check", "bench", "notebooks"}


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning_and_holds_commands_and_docstrings(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    packages = {path.parent.name for path in (ROOT / "precision_planner").glob("*/__init__.py")} - {"cli"}
    for name in packages:
        page = (tmp_path / "site" / "api" / name / "index.html").read_text()
        assert f'id="precision_planner.{name}"' in page
    assert (
        'id="precision_planner.errors.MissingExtraError"'
        in (tmp_path / "site" / "api" / "errors" / "index.html").read_text()
    )
    assert (tmp_path / "site" / "cli" / "index.html").is_file()
