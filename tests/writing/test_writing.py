"""What was read is never overwritten; a folder keeps what others put there; a killed run leaves no half state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from precision_planner.cli.guard import OUTPUTS, REPORTS
from precision_planner.cli.main import COMMANDS, main, planner
from precision_planner.errors import ModelError, OutputError
from precision_planner.model import Model
from precision_planner.writing import (
    FolderWriter,
    atomic_files,
    check_output,
    made_files,
    recording,
    write_set,
    write_text,
)


def small_model(path: Path, scale: float = 1.0, external: bool = False) -> Path:
    weight = numpy_helper.from_array(np.full((64, 64), scale, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 64])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.bin" if external else None)
    return path


def test_every_option_that_writes_is_known_to_the_guard() -> None:
    """An option whose help or metavar names a file to write is a report or an output."""
    context = planner.make_context("planner", [], resilient_parsing=True)
    for name in COMMANDS:
        command = planner.get_command(context, name)
        if command is None:
            continue
        assert hasattr(command.callback, "guarded") or hasattr(command, "commands"), name
        for parameter in command.params:
            help_text = (getattr(parameter, "help", "") or "").lower()
            if help_text.startswith(("write", "also write")) and parameter.type.name == "text":
                allowed = {"--layernorm"}
                assert set(parameter.opts) & (REPORTS | OUTPUTS | allowed), f"{name}: {parameter.opts}"


@pytest.mark.parametrize("spelling", ["plain", "relative", "link", "hard link"])
def test_what_was_read_is_refused_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    source = tmp_path / "data.json"
    source.write_text("{}")
    monkeypatch.chdir(tmp_path)
    other = {"plain": source, "relative": Path("x") / ".." / "data.json"}.get(spelling, tmp_path / "other.json")
    (tmp_path / "x").mkdir()
    if spelling == "link":
        other.symlink_to(source)
    elif spelling == "hard link":
        other.hardlink_to(source)
    with recording():
        source.read_text()  # as a user's loader would
        with pytest.raises(OutputError, match="is an input, which is never overwritten"):
            write_text(other, "new")
        with pytest.raises(OutputError, match="is an input"):
            check_output(other, force=True)
    assert source.read_text() == "{}"


def test_a_file_that_a_loader_reads_is_no_place_for_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_model(Path("m.onnx"))
    Path("values.txt").write_text("0.5")
    Path("loader.py").write_text(
        "import numpy as np\ndef load_data():\n"
        "    with open('values.txt') as f:\n        v = float(f.read())\n    yield {'x': np.full((1, 64), v, 'f4')}\n"
    )
    assert main(["analyze", "m.onnx", "--inputs", "loader.py", "--json", "values.txt"]) == 2
    assert "values.txt is an input" in capsys.readouterr().err
    assert Path("values.txt").read_text() == "0.5"


def test_only_reports_are_replaced_unasked(tmp_path: Path) -> None:
    for name, replaced in (("old.json", True), ("other.onnx", False), ("notes.py", False)):
        (tmp_path / name).write_text("mine")
        if replaced:
            write_text(tmp_path / name, "{}")
        else:
            with pytest.raises(OutputError, match="no report by its name"):
                write_text(tmp_path / name, "{}")
            assert (tmp_path / name).read_text() == "mine"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "out.json"
    link.symlink_to(tmp_path / "real" / "out.json")
    write_text(link, "{}")
    assert link.is_symlink()
    assert (tmp_path / "real" / "out.json").read_text() == "{}"


def test_special_files_are_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    model = Model.load(small_model(tmp_path / "m.onnx"))
    with pytest.raises(OutputError, match="a device or a pipe"):
        model.save(pipe, force=True)
    with pytest.raises(OutputError, match="a device or a pipe"), atomic_files(pipe):
        pass
    assert pipe.is_fifo()


def test_a_plan_folder_keeps_what_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_model(Path("m.onnx"))
    np.savez("in.npz", x=np.ones((2, 64), np.float32))
    plan = ["plan", "m.onnx", "-o", "p", "--no-verify"]
    assert main([*plan, "--inputs", "in.npz"]) == 0
    first = made_files(Path("p"))
    Path("p/calib.npz").write_bytes(Path("in.npz").read_bytes())
    Path("p/golden/mine.txt").write_text("mine")
    assert main([*plan, "--force", "--no-calibrate"]) == 0
    assert Path("p/golden/mine.txt").read_text() == "mine"
    assert Path("p/calib.npz").exists()
    assert "golden/in.inputs.npz" in first - made_files(Path("p"))
    for gone in first - made_files(Path("p")):
        assert not (Path("p") / gone).exists()
    capsys.readouterr()
    # a file of the planner's that this very run reads is not replaced
    assert main(["plan", "p/model.onnx", "-o", "p", "--force"]) == 2
    assert "p" in capsys.readouterr().err


def test_a_folder_of_somebody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(OutputError, match="never replaced"), FolderWriter(tmp_path, "plan.json", force=True):
        pass
    with pytest.raises(OutputError, match=r"exists already"):
        write_set(tmp_path, {"plan.json": b"new"})
    assert (tmp_path / "plan.json").read_text() == "{}"


def test_a_manifest_names_nothing_outside(tmp_path: Path) -> None:
    inside = tmp_path / "p"
    inside.mkdir()
    (tmp_path / "precious").touch()
    (inside / ".planner-manifest.json").write_text(json.dumps({"files": ["../precious", str(tmp_path / "precious")]}))
    assert made_files(inside) == set()


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    with FolderWriter(tmp_path / "p", "plan.json", force=False) as staging:
        (staging / "plan.json").touch()
        with (
            pytest.raises(OutputError, match="another run is writing"),
            FolderWriter(tmp_path / "p", "plan.json", force=True),
        ):
            pass
    assert made_files(tmp_path / "p") == {"plan.json"}


def test_an_input_that_is_changed_meanwhile_is_said(tmp_path: Path) -> None:
    source = small_model(tmp_path / "m.onnx")
    model = Model.load(source)
    with source.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    os.utime(source, ns=(1, 1))
    with pytest.raises(ModelError, match="was changed while it was being read"):
        model.save(tmp_path / "out.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]


# --- killed at each step

_KILLED = textwrap.dedent("""
    import os, sys
    at, seen = int(sys.argv[1]), [0]
    def wrap(name):
        real = getattr(os, name)
        def called(*args, **kwargs):
            if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                seen[0] += 1
                if seen[0] == at:
                    os._exit(9)
            return real(*args, **kwargs)
        setattr(os, name, called)
    for name in ("unlink", "rmdir", "mkdir", "replace", "rename", "open"):
        wrap(name)
    class Halfway:
        "A file that is written to by half when it is time to die."
        def __init__(self, file):
            self.file = file
        def write(self, data):
            seen[0] += 1
            if seen[0] == at:
                self.file.write(bytes(data)[: len(data) // 2])
                self.file.flush()
                os._exit(9)
            return self.file.write(data)
        def __getattr__(self, name):
            return getattr(self.file, name)
    real_fdopen = os.fdopen
    os.fdopen = lambda *args, **kwargs: Halfway(real_fdopen(*args, **kwargs))
""")
_PLAN = """
from pathlib import Path
from precision_planner.writing import FolderWriter
folder = Path(sys.argv[2])
with FolderWriter(folder, "plan.json", force=True) as staging:
    for name in ("model.onnx", "plan.json", "build.py"):
        (staging / name).write_text("new")
    (staging / "golden").mkdir()
    (staging / "golden" / "a").write_text("new")
"""
_SINGLE = """
from pathlib import Path
from precision_planner.model import Model
Model.load(sys.argv[3]).save(Path(sys.argv[2]), force=True)
"""
_SET = """
from pathlib import Path
from precision_planner.writing import write_set
write_set(Path(sys.argv[2]), {"a.md": b"new a", "b.md": b"new b"})
"""
_INTO = """
from pathlib import Path
from precision_planner.writing import write_into
write_into(Path(sys.argv[2]), "build.log", b"new log")
"""
_LINKED = """
from pathlib import Path
from precision_planner.model import Model
Model.load(sys.argv[3]).save(Path(sys.argv[2]), force=True, external=True)
"""


def _run(script: str, *arguments: object) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED + script, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (0, 9), done.stderr
    return done.returncode


@pytest.mark.slow
def test_a_plan_folder_killed_at_each_step_is_old_or_none_or_new(tmp_path: Path) -> None:
    """And the same command afterwards makes it whole."""
    for at in range(1, 60):
        folder = tmp_path / str(at)
        with FolderWriter(folder, "plan.json", force=False) as staging:
            for name in ("model.onnx", "plan.json", "stale"):
                (staging / name).write_text("old")
        (folder / "mine").write_text("mine")
        code = _run(_PLAN, at, folder)
        if (folder / "plan.json").exists():
            found = {name: (folder / name).read_text() for name in ("model.onnx", "plan.json")}
            assert len(set(found.values())) == 1, (at, found)
        assert _run(_PLAN, 0, folder) == 0
        assert {(folder / name).read_text() for name in made_files(folder)} == {"new"}
        assert (folder / "mine").read_text() == "mine"
        left = sorted(path.name for path in folder.iterdir())
        assert left == [".planner-manifest.json", "build.py", "golden", "mine", "model.onnx", "plan.json"], at
        if code == 0:
            break
    else:
        pytest.fail("it never came to its end")
    assert at > 10


@pytest.mark.slow
def test_a_model_with_external_data_killed_at_each_step_never_mixes(tmp_path: Path) -> None:
    one, two = small_model(tmp_path / "one.onnx", 1.0), small_model(tmp_path / "two.onnx", 2.0)
    for at in range(1, 30):
        folder = tmp_path / str(at)
        folder.mkdir()
        out = folder / "out.onnx"
        Model.load(one).save(out, external=True)
        code = _run(_LINKED, at, out, two)
        (weight,) = onnx.load(out).graph.initializer
        values = set(numpy_helper.to_array(weight).reshape(-1).tolist())
        assert values in ({1.0}, {2.0}), at
        assert _run(_LINKED, 0, out, two) == 0
        assert set(numpy_helper.to_array(onnx.load(out).graph.initializer[0]).reshape(-1).tolist()) == {2.0}
        assert not list(folder.glob(".*")), at
        assert len(list(folder.iterdir())) == 2, (at, sorted(folder.iterdir()))
        if code == 0:
            break
    else:
        pytest.fail("it never came to its end")
    assert at > 3


@pytest.mark.slow
def test_a_model_in_one_file_killed_at_each_step_is_old_or_new(tmp_path: Path) -> None:
    one, two = small_model(tmp_path / "one.onnx", 1.0), small_model(tmp_path / "two.onnx", 2.0)
    for at in range(1, 30):
        folder = tmp_path / str(at)
        folder.mkdir()
        out = folder / "out.onnx"
        Model.load(one).save(out)
        old = out.read_bytes()
        code = _run(_SINGLE, at, out, two)
        found = out.read_bytes()
        assert found == old or numpy_helper.to_array(onnx.load(out).graph.initializer[0]).max() == 2, at
        assert _run(_SINGLE, 0, out, two) == 0
        assert [path.name for path in folder.iterdir()] == ["out.onnx"], at
        if code == 0:
            break
    else:
        pytest.fail("it never came to its end")
    assert at > 3


@pytest.mark.slow
@pytest.mark.parametrize(("script", "names"), [(_SET, {"a.md", "b.md"}), (_INTO, {"a.md", "build.log", "old.md"})])
def test_files_beside_others_killed_at_each_step_are_whole_each(tmp_path: Path, script: str, names: set[str]) -> None:
    """Each file old or new, what is not ours as it was, and the manifest never claims that."""
    for at in range(1, 40):
        folder = tmp_path / str(at)
        folder.mkdir()
        write_set(folder, {"a.md": b"old a", "old.md": b"old"})
        (folder / "mine").write_text("mine")
        code = _run(script, at, folder)
        texts = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
        assert texts.pop("mine") == b"mine"
        assert set(texts.values()) <= {b"old a", b"old", b"new a", b"new b", b"new log"}, (at, texts)
        assert "mine" not in made_files(folder)
        assert _run(script, 0, folder) == 0
        assert made_files(folder) == names
        assert {path.name for path in folder.iterdir()} == {*names, "mine", ".planner-manifest.json"}, at
        if code == 0:
            break
    else:
        pytest.fail("it never came to its end")
    assert at > 3


def test_weights_that_another_model_names_stay(tmp_path: Path) -> None:
    one, two = small_model(tmp_path / "one.onnx", 1.0), small_model(tmp_path / "two.onnx", 2.0)
    out, copy = tmp_path / "out.onnx", tmp_path / "copy.onnx"
    Model.load(one).save(out, external=True)
    copy.write_bytes(out.read_bytes())
    Model.load(two).save(out, external=True, force=True)
    for path, value in ((copy, 1.0), (out, 2.0)):
        assert numpy_helper.to_array(onnx.load(path).graph.initializer[0]).max() == value
