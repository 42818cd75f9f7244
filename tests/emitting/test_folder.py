"""The plan folder: whole or not at all, relocatable, and its scripts on their own."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from precision_planner import judging
from precision_planner.emitting.folder import GoldenCase, emit_folder
from precision_planner.emitting.trtexec import trtexec_command
from precision_planner.errors import OutputError
from precision_planner.judging import PLAN_FILES
from precision_planner.model import Model
from precision_planner.plans import Constraint, PlannedNode, PrecisionPlan, Profile

JUDGING = Path(judging.__file__).parent
TEMPLATES = Path(__file__).parents[2] / "precision_planner" / "emitting" / "templates"


def typed_model() -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float16)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="/m/MatMul"),
            helper.make_node("Softmax", ["h"], ["y"], name="/s"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def plan_for(target: str, typing: str, **fields) -> PrecisionPlan:
    nodes = (
        PlannedNode("/m/MatMul", "MatMul", (), "h", "fp16"),
        PlannedNode("/s", "Softmax", (), "y", "fp32", "island", "scores reach 1e5", "SM001"),
    )
    values = {
        "model": {"name": "m.onnx"},
        "target": target,
        "typing": typing,
        "precision": "fp16",
        "nodes": nodes,
        "interface": {
            "inputs": {"x": {"dtype": "float16", "shape": ["batch", 64]}},
            "outputs": {"y": {"dtype": "float16", "shape": ["batch", 64]}},
        },
        "profiles": {"x": Profile((1, 64), (8, 64), (16, 64))},
        "build": {"tf32": False},
        "inputs": {"source": "synthesized"},
        "predicted": {"y": {"sad": 1e-4, "max_abs": 1e-5, "cosine": 1.0, "top1": 1.0}},
    }
    return PrecisionPlan(**{**values, **fields})


@pytest.fixture
def rtx_folder(tmp_path: Path) -> Path:
    golden = GoldenCase("usual", {"x": np.ones((2, 64), np.float16)}, {"y": np.full((2, 64), 1 / 64, np.float32)})
    emit_folder(tmp_path / "plan", plan_for("tensorrt-rtx", "strong"), Model.load(typed_model()), [golden])
    return tmp_path / "plan"


def template(name: str) -> ast.Module:
    return ast.parse((TEMPLATES / name).read_text(), feature_version=(3, 8))


def load_function(name: str, function: str) -> ModuleType:
    """One function of an emitted script, without importing what the device has and we do not."""
    tree = template(name)
    wanted = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    module = ModuleType(function)
    exec(compile(ast.Module(wanted, []), name, "exec"), module.__dict__)
    return module


def test_the_folder_is_complete_and_the_plan_reads_back(rtx_folder: Path) -> None:
    names = sorted(str(path.relative_to(rtx_folder)) for path in rtx_folder.rglob("*") if path.is_file())
    assert names == [
        ".planner-manifest.json",
        "README.md",
        "build.py",
        "diagnose.py",
        "engine_types.py",
        "golden/usual.inputs.npz",
        "golden/usual.outputs.npz",
        "judging/__init__.py",
        "judging/detections.py",
        "judging/differences.py",
        "judging/judge.py",
        "judging/metrics.py",
        "judging/verdict.py",
        "model.onnx",
        "plan.json",
        "verify.py",
    ]
    assert PrecisionPlan.from_json((rtx_folder / "plan.json").read_text()).target == "tensorrt-rtx"
    readme = (rtx_folder / "README.md").read_text()
    assert "scores reach 1e5" in readme
    assert "tensorrt_rtx --onnx=model.onnx" in readme
    assert "--fp16" not in readme.replace("never add --fp16", "")


@pytest.mark.parametrize("name", sorted(path.name for path in TEMPLATES.glob("*.py")))
def test_scripts_are_python_3_8_and_import_nothing_of_ours(name: str) -> None:
    imported = set()
    for node in ast.walk(template(name)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    siblings = {"judging", *(path.stem for path in TEMPLATES.glob("*.py"))}
    optional = {"onnx"} if name == "diagnose.py" else {"onnxruntime"} if name == "run.py" else set()
    assert imported <= {
        *sys.stdlib_module_names, "polygraphy", "tensorrt", "tensorrt_rtx", "numpy", *siblings, *optional
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.rtx
def test_a_moved_folder_builds_by_itself_and_through_polygraphy(rtx_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "deep"
    moved.parent.mkdir()
    shutil.move(rtx_folder, moved)
    # the folder must not find our package: run where it is not importable, without the environment's own path
    environment = {**os.environ, "PYTHONPATH": "", "POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    run = subprocess.run(
        [sys.executable, "build.py", "--compute-capabilities", "SM89,SM120"],
        cwd=moved, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (moved / "model.engine").stat().st_size > 1000
    environment["PLAN_COMPUTE_CAPABILITIES"] = "SM89"
    polygraphy = [
        str(Path(sys.executable).with_name("polygraphy")),
        "convert",
        "build.py",
        "--model-type",
        "trt-network-script",
    ]
    run = subprocess.run(
        [*polygraphy, "--trt-config-script", "build.py", "--convert-to", "trt", "-o", "by_polygraphy.engine"],
        cwd=moved, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert (moved / "by_polygraphy.engine").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.rtx
def test_a_model_that_is_not_the_plans_is_refused(rtx_folder: Path) -> None:
    data = json.loads((rtx_folder / "plan.json").read_text())
    data["interface"]["outputs"] = {"other": {"dtype": "float16", "shape": None}}
    (rtx_folder / "plan.json").write_text(json.dumps(data))
    run = subprocess.run(
        [sys.executable, "build.py", "--compute-capabilities", "SM89"],
        cwd=rtx_folder, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert run.returncode != 0
    assert "no output 'other'" in run.stdout + run.stderr
    assert not (rtx_folder / "model.engine").exists()


# --- constraints of weak plans: matched or refused, never ignored

LAYERS = [
    (["/a/Mul"], ["a"], "/a/Mul"),
    ([], ["ln_out"], "(Unnamed Layer* 7) [Normalization]"),
    (["/dup"], ["d1"], "/dup"),
    (["/dup"], ["d2"], "/dup_1"),
    ([], ["t"], "node_of_t"),
    ([], ["renamed_by_trt"], "node_of_u"),
]


@pytest.mark.parametrize(
    ("node", "outputs", "positions"),
    [
        ("/a/Mul", ["a"], [0]),
        ("/encoder/LayerNorm", ["ln_out"], [1]),  # no name and no metadata in 8.6: found by its output
        ("/dup", ["d2"], [2, 3]),  # a duplicate name reaches every layer that carries it
        ("", ["t"], [4]),  # an empty name
        ("", ["u"], [5]),  # an empty name and a renamed output: the name TensorRT makes from the output
    ],
)
def test_a_constraint_finds_its_layers(node: str, outputs: list[str], positions: list[int]) -> None:
    match = load_function("build.py", "match_constraints").match_constraints
    assert match(LAYERS, [{"node": node, "outputs": outputs}]) == [positions]


@pytest.mark.parametrize(("node", "outputs"), [("/a/Mull", ["gone"]), ("", ["gone"]), ("*", ["gone"]), ("", [])])
def test_a_constraint_without_a_layer_raises(node: str, outputs: list[str]) -> None:
    match = load_function("build.py", "match_constraints").match_constraints
    with pytest.raises(ValueError, match="1 of 2 constraints match no layer"):
        match(LAYERS, [{"node": "/a/Mul", "outputs": ["a"]}, {"node": node, "outputs": outputs}])


# --- verify.py's judge


@pytest.mark.parametrize("name", PLAN_FILES)
def test_the_judge_is_python_3_8_and_needs_numpy_alone(name: str) -> None:
    tree = ast.parse((JUDGING / name).read_text("utf-8"), feature_version=(3, 8))
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        assert {module.split(".")[0] for module in modules} <= {*sys.stdlib_module_names, "numpy"}


@pytest.mark.slow
def test_the_judge_runs_on_the_oldest_python_that_there_is(tmp_path: Path) -> None:
    """Annotations and calls that only newer versions have fail when they are imported or run."""
    shutil.copytree(JUDGING, tmp_path / "judging")
    old = shutil.which("python3.8")
    if old is None or subprocess.run([old, "-c", "import numpy"], capture_output=True).returncode:
        pytest.skip("no Python 3.8 with numpy on this machine")
    text = (
        "import numpy as np\n"
        "from judging.judge import judge, Tolerance\n"
        "from judging.verdict import verdict_of\n"
        "x = np.eye(4)\n"
        "print(verdict_of(judge([{'y': x}], [{'y': x + 1e-3}], [Tolerance('p99_abs', 1.0)]), 'x', False))\n"
    )
    run = subprocess.run([old, "-c", text], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.startswith("FINE"), run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_verify_counts_what_is_not_finite_and_it_breaks_every_tolerance(tmp_path: Path, broken: float) -> None:
    tolerance = ({"output": None, "metric": "sad", "bound": 1e9}, {"output": None, "metric": "top1", "bound": 0.0})
    golden = GoldenCase("usual", {"x": np.ones((2, 64), np.float16)}, {"y": np.array([[1.0, 2.0], [3.0, 4.0]])})
    plan = plan_for("tensorrt-rtx", "strong", tolerance=tolerance)
    emit_folder(tmp_path / "plan", plan, Model.load(typed_model()), [golden])
    actual = golden.outputs["y"].copy()
    assert verified(tmp_path / "plan", actual) == []
    assert verified(tmp_path / "plan", actual + 1e10) == ["BEYOND TOLERANCE: sad 2e+10, bound 1e+09"]
    assert verified(tmp_path / "plan", actual[:1])[0].startswith("NOT COMPARABLE: output 'y' has shape")
    actual[1, 0] = broken
    assert verified(tmp_path / "plan", actual) == [
        "NOT FINITE",
        "BEYOND TOLERANCE: sad nan, bound 1e+09; top1 nan, bound 0",
    ]


def verified(folder: Path, actual: np.ndarray) -> list[str]:
    """What verify.py, run where our package is not, says is wrong with an engine's answer."""
    np.save(folder / "actual.npy", actual)
    text = (
        "import json, numpy, verify\n"
        "found = verify.check(lambda inputs: {'y': numpy.load('actual.npy')})\n"
        "json.dump([wrong for *_, wrong in found], open('found.json', 'w'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", text], cwd=folder, env=environment, check=True, capture_output=True)
    return json.loads((folder / "found.json").read_text())[0]


# --- nothing lost or overwritten


def test_folders_that_are_not_a_plan_are_never_replaced(tmp_path: Path) -> None:
    plan, model = plan_for("tensorrt-rtx", "strong"), Model.load(typed_model())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(OutputError, match="never replaced"):
        emit_folder(tmp_path / "mine", plan, model, force=True)
    (tmp_path / "file").write_text("keep")
    with pytest.raises(OutputError, match="is a file"):
        emit_folder(tmp_path / "file", plan, model, force=True)
    emit_folder(tmp_path / "new", plan, model)
    with pytest.raises(OutputError, match="holds a plan already"):
        emit_folder(tmp_path / "new", plan, model)
    emit_folder(tmp_path / "new", plan, model, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "new"]


def test_the_input_inside_the_folder_is_not_lost(tmp_path: Path) -> None:
    plan = plan_for("tensorrt-rtx", "strong")
    emit_folder(tmp_path / "plan", plan, Model.load(typed_model()))
    inside = Model.load(tmp_path / "plan" / "model.onnx")
    with pytest.raises(OutputError, match="lies inside"):
        emit_folder(tmp_path / "plan", plan, inside, force=True)


# --- trtexec


def test_a_typed_model_gets_no_precision_flag() -> None:
    for target in ("tensorrt-11", "tensorrt-10-strong", "tensorrt-rtx"):
        command, notes = trtexec_command(plan_for(target, "strong"))
        assert not {"--fp16", "--bf16", "--best"} & set(command.split())
        assert ("--stronglyTyped" in command) == (target == "tensorrt-10-strong")
        assert "--optShapes=x:8x64" in command
        assert any("never add --fp16" in note for note in notes)


def test_weak_constraints_are_written_as_trtexec_reads_them() -> None:
    nodes = (PlannedNode("/ln", "LayerNormalization", (), "l", "fp32", "island", "r"),)
    constraints = (
        Constraint("/s", ("y",)),
        Constraint("", ("t",)),
        Constraint("a,b", ("u",)),
        Constraint("/ln", ("l",)),
    )
    command, notes = trtexec_command(plan_for("tensorrt-8.6", "weak", constraints=constraints, nodes=nodes))
    assert "--precisionConstraints=obey" in command
    assert "--layerPrecisions=/s:fp32,/ln:fp32" in command
    assert "--layerOutputTypes=/s:fp32,/ln:fp32" in command
    assert any(note.startswith("2 of 4 constraints") for note in notes)
    assert any("LayerNormalization layer has no name" in note for note in notes)


def test_every_setting_of_the_plan_is_in_the_command() -> None:
    build = {
        "tf32": True, "workspace_bytes": 3 << 30, "optimization_level": 5, "version_compatible": True,
        "hardware_compatible": "same_compute_capability", "timing_cache": "t.cache", "plugins": ["libp.so"],
    }  # fmt: skip
    command, _ = trtexec_command(plan_for("tensorrt-11", "strong", build=build))
    assert command.split()[6:] == [
        "--memPoolSize=workspace:3072", "--builderOptimizationLevel=5", "--versionCompatible",
        "--hardwareCompatibilityLevel=same_compute_capability", "--timingCacheFile=t.cache", "--staticPlugins=libp.so",
        "--profilingVerbosity=detailed",
    ]  # fmt: skip
    assert "--noTF32" not in command


def test_a_name_that_several_nodes_share_is_said_to_reach_one() -> None:
    nodes = (PlannedNode("/d", "Add", (), "a", "fp32", "island", "r"), PlannedNode("/d", "Mul", (), "b", "fp16"))
    _, notes = trtexec_command(plan_for("tensorrt-10", "weak", nodes=nodes, constraints=(Constraint("/d", ("a",)),)))
    assert any("Several nodes are named '/d'" in note for note in notes)


def test_the_template_modules_are_found_as_package_data() -> None:
    assert importlib.util.find_spec("precision_planner.emitting") is not None
    assert {path.name for path in TEMPLATES.iterdir()} >= {"build.py", "verify.py", "README.md.jinja"}
