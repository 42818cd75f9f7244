"""The emitted scripts by themselves: what they set, what they refuse, and how they tell a defect from precision."""

from __future__ import annotations

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
from tests.emitting import fake_tensorrt
from tests.emitting.test_folder import TEMPLATES, plan_for, typed_model


def write_plan(folder: Path, target: str, typing: str, **fields) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for script in TEMPLATES.glob("*.py"):
        shutil.copy(script, folder)
    shutil.copytree(Path(judging.__file__).parent, folder / "judging", dirs_exist_ok=True)
    (folder / "plan.json").write_text(plan_for(target, typing, **fields).to_json())
    return folder


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Load a folder's build.py with a stand-in for TensorRT and without Polygraphy."""

    def loader(folder: Path, version: str = "8.6.1") -> ModuleType:
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make_module(version))
        monkeypatch.setitem(sys.modules, "polygraphy", None)
        monkeypatch.delenv("POLYGRAPHY_USE_TENSORRT_RTX", raising=False)
        return load_script(folder / "build.py", monkeypatch)

    return loader


def load_script(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def constraint(node: str, *outputs: str, precision: str = "fp32") -> dict:
    return {"node": node, "outputs": list(outputs), "precision": precision, "output_type": precision}


WEAK = {"interface": {"inputs": {}, "outputs": {"y": {"dtype": "float", "shape": None}}}}


def weak_folder(tmp_path: Path, constraints: list[dict], **build) -> Path:
    folder = write_plan(tmp_path / "weak", "tensorrt-8.6", "weak", **WEAK)
    plan = json.loads((folder / "plan.json").read_text())
    plan["constraints"] = constraints
    plan["build"].update(build)
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


class TestWeak:
    def test_precision_and_output_type_are_set_on_the_layers_and_their_shuffles(self, tmp_path, load, monkeypatch):
        folder = weak_folder(tmp_path, [constraint("/mul", "m"), constraint("/ln", "n"), constraint("/count", "i")])
        monkeypatch.setenv("PLAN_REPORT", str(tmp_path / "report.json"))
        build = load(folder)
        _, network, _ = build.load_network()
        fp32 = fake_tensorrt.DataType.FLOAT
        named = {layer.name: layer for layer in network.layers}
        for name in ("/mul", "(Unnamed Layer* 1) [Shuffle]", "(Unnamed Layer* 3) [Normalization]"):
            assert named[name].precision is fp32
            assert named[name].output_types == {0: fp32}
        for name in ("/soft", "c", "/count"):  # not asked for, a constant, integers
            assert named[name].precision is None
            assert named[name].output_types == {}
        report = json.loads((tmp_path / "report.json").read_text())
        assert [entry["layers"] for entry in report["constraints"]] == [
            ["/mul", "(Unnamed Layer* 1) [Shuffle]"],
            ["(Unnamed Layer* 3) [Normalization]"],
            ["/count"],
        ]

    def test_a_typo_stops_the_build(self, tmp_path, load):
        build = load(weak_folder(tmp_path, [constraint("/mul", "m"), constraint("/mull", "gone")]))
        with pytest.raises(ValueError, match=r"1 of 2 constraints match no layer.*: /mull"):
            build.load_network()

    def test_the_settings_of_the_plan_reach_the_builder(self, tmp_path, load):
        folder = weak_folder(
            tmp_path, [], tf32=False, workspace_bytes=1 << 30, optimization_level=4, version_compatible=True,
            hardware_compatible="ampere+",
        )  # fmt: skip
        (folder / "timing.cache").write_bytes(b"old")
        build = load(folder)
        builder, network, parser = build.load_network()
        config = build.load_config(builder, network)
        assert config.flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS", "VERSION_COMPATIBLE"}
        assert config.profiles == [{"x": ((1, 64), (8, 64), (16, 64))}]
        assert [*config.pools.values()] == [1 << 30]
        assert config.builder_optimization_level == 4
        assert config.hardware_compatibility_level.name == "AMPERE_PLUS"
        assert config.cache == b"old"
        assert {flag.name for flag in parser.flags} == {"NATIVE_INSTANCENORM"}
        assert network.created_with == 1, "explicit batch, which 8.6 needs"
        plain = build.load_config(builder, network, low=False)
        assert plain.flags == {"VERSION_COMPATIBLE"}, "FP32 without TF32 and without constraints"
        assert build.build_engine() == b"engine"
        assert (folder / "timing.cache").read_bytes() == b"timed"

    def test_overrides_change_one_build_alone(self, tmp_path, load, monkeypatch):
        monkeypatch.setenv("PLAN_OVERRIDES", '{"build": {"optimization_level": 2}}')
        build = load(weak_folder(tmp_path, [], optimization_level=5))
        builder, network, _ = build.load_network()
        assert build.load_config(builder, network).builder_optimization_level == 2

    def test_a_gpu_without_fp16_is_refused(self, tmp_path, load):
        build = load(weak_folder(tmp_path, []))
        sys.modules["tensorrt"].Builder.platform_has_fast_fp16 = False
        with pytest.raises(SystemExit, match="asks for FP16, which this GPU has no fast kernels for"):
            build.load_network()

    def test_what_the_parser_refuses_is_said_by_node(self, tmp_path, load):
        build = load(weak_folder(tmp_path, []))
        sys.modules["tensorrt"].OnnxParser.parses = False
        with pytest.raises(SystemExit, match=r"cannot parse model\.onnx: node 3: cannot"):
            build.load_network()

    def test_a_missing_plugin_library_is_named(self, tmp_path, load):
        build = load(weak_folder(tmp_path, [], plugins=["libnone.so"]))
        sys.modules["tensorrt"].get_plugin_registry = lambda: type("R", (), {"all_creators": ()})()
        with pytest.raises(SystemExit, match=r"plugin library libnone\.so cannot be loaded"):
            build.load_network()


class TestVersions:
    @pytest.mark.parametrize(
        ("target", "typing", "version", "message"),
        [
            ("tensorrt-8.6", "weak", "11.0.0", "weakly typed, which TensorRT 11 no longer builds"),
            ("tensorrt-11", "strong", "8.6.1", "strongly typed, which TensorRT 8 does not build"),
            ("tensorrt-rtx", "strong", "10.3.0", "is for tensorrt-rtx, but TensorRT is what is used"),
            ("onnxruntime", "strong", "10.3.0", "builds no engine: use run.py"),
        ],
    )
    def test_a_plan_for_another_version_is_refused_before_parsing(
        self, tmp_path, load, target, typing, version, message
    ):
        build = load(write_plan(tmp_path / "p", target, typing, **WEAK), version)
        build.os.environ.pop("POLYGRAPHY_USE_TENSORRT_RTX", None)
        with pytest.raises(SystemExit, match=message):
            build.load_network()

    def test_a_strong_plan_whose_network_is_fp32_is_refused(self, tmp_path, load):
        build = load(write_plan(tmp_path / "p", "tensorrt-11", "strong", **WEAK), "11.0.0")
        with pytest.raises(SystemExit, match="asks for FP16, but no layer of the network has that type"):
            build.load_network()

    def test_a_network_that_is_not_strongly_typed_is_refused(self, tmp_path, load):
        build = load(write_plan(tmp_path / "p", "tensorrt-11", "strong", **WEAK), "11.0.0")
        sys.modules["tensorrt"].Builder.create_network = lambda self, flags: fake_tensorrt.Network(0)
        with pytest.raises(SystemExit, match="not strongly typed"):
            build.load_network()


class TestEngineTypes:
    @pytest.mark.parametrize(
        ("kind", "fine"), [("Row major linear FP16 format", True), ("Half", True), ("Float", False)]
    )
    def test_an_engine_without_the_plans_precision_is_refused(self, tmp_path, load, monkeypatch, kind, fine, capsys):
        build = load(weak_folder(tmp_path, []))
        types = load_script(TEMPLATES / "engine_types.py", monkeypatch)
        monkeypatch.setattr(types, "layers", lambda *_: [{"Outputs": [{"Format/Datatype": kind}]}, {"Outputs": []}])
        assert types.check(build, b"") is fine
        assert ("came out FP32" in capsys.readouterr().out) is not fine

    @pytest.mark.parametrize(
        "layer",
        [
            {"Name": "a", "LayerType": "kgen", "Outputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]},
            {"Name": "a", "Outputs": [{"Name": "y"}]},
            {"Name": "{ForeignNode[a...z]}", "LayerType": "Myelin", "Outputs": [{"Format/Datatype": "Float"}]},
        ],
    )
    def test_unknown_is_not_taken_for_fp32(self, tmp_path, load, monkeypatch, layer, capsys):
        """TensorRT 8.6 takes a transformer into one Myelin layer, which writes FP32 where its head is kept so."""
        build = load(weak_folder(tmp_path, []))
        types = load_script(TEMPLATES / "engine_types.py", monkeypatch)
        monkeypatch.setattr(types, "layers", lambda *_: [layer])
        assert types.check(build, b"")
        said = capsys.readouterr().out
        assert "cannot be told" in said
        assert "came out FP32" not in said

    @pytest.mark.parametrize(("size", "fine"), [(92_500_000, True), (184_200_000, False)])
    def test_an_engine_that_holds_its_weights_in_fp32_is_refused(self, tmp_path, load, monkeypatch, size, fine, capsys):
        """Sizes measured with TensorRT 8.6: Myelin's FP16 form failed to compile, and the engine was twice as large."""
        build = load(weak_folder(tmp_path, []))
        types = load_script(TEMPLATES / "engine_types.py", monkeypatch)
        build.PLAN["model"]["weight_bytes"] = 182_800_000
        build.PLAN["nodes"] = [{"op_type": op, "precision": "fp16"} for op in ("MatMul", "Gemm")]
        myelin = {"Name": "{ForeignNode[a...z]}", "Outputs": [{"Format/Datatype": "Row major linear FP32"}]}
        monkeypatch.setattr(types, "layers", lambda *_: [myelin])
        assert types.check(build, bytes(size)) is fine
        assert ("184 MB for 182 MB" in capsys.readouterr().out) is not fine


class TestDiagnose:
    @pytest.fixture
    def diagnose(self, tmp_path, monkeypatch) -> ModuleType:
        folder = write_plan(tmp_path / "p", "tensorrt-8.6", "weak", **WEAK)
        load_script(folder / "verify.py", monkeypatch)
        return load_script(folder / "diagnose.py", monkeypatch)

    def test_halving_finds_the_one_fusion(self, diagnose):
        asked = []

        def cures(part):
            asked.append(list(part))
            return "t5" in part

        names = [f"t{number}" for number in range(8)]
        assert diagnose.smallest(names, cures, 99) == (["t5"], True)
        assert len(asked) <= 6

    def test_two_that_are_needed_together_are_named_together(self, diagnose):
        found, finished = diagnose.smallest(["a", "b", "c", "d"], lambda part: {"a", "d"} <= set(part), 99)
        assert (sorted(found), finished) == (["a", "b", "c", "d"], True)

    def test_a_budget_ends_the_search_and_says_so(self, diagnose):
        assert diagnose.smallest(["a", "b", "c", "d"], lambda part: "a" in part, 1) == (["a", "b", "c", "d"], False)

    def test_the_first_value_that_differs_is_found(self, diagnose):
        good, wrong = np.ones(4, np.float32), np.array([1, np.nan, 1, 1], np.float32)
        low = {"a": good.astype(np.float16), "b": wrong, "c": wrong}
        assert diagnose.first_divergence(low, {"a": good, "b": good, "c": good})[0] == "b"
        assert diagnose.first_divergence({"a": good}, {"a": good}) is None
        # what FP32 itself cannot represent finitely accuses nobody
        assert diagnose.first_divergence({"a": wrong}, {"a": wrong}) is None

    def test_suspects_end_at_what_is_right(self, diagnose):
        producers = {"a": 0, "b": 1, "c": 2, "d": 3}
        inputs = {0: ["x"], 1: ["a"], 2: ["b"], 3: ["c", "a"]}
        assert diagnose.upstream("d", producers, inputs, {"a"}) == ["c", "b"]

    @pytest.mark.parametrize(
        ("fp32_wrong", "cured_by", "verdict"),
        [
            (True, None, "BUILDER DEFECT (or parser): the FP32 engine"),
            (False, None, "PRECISION"),
            (False, "m", "BUILDER DEFECT: FP32 is right"),
        ],
    )
    def test_the_verdicts(self, diagnose, monkeypatch, fp32_wrong, cured_by, verdict):
        """FP32 first, then the fusions, against builds whose outcome is given."""
        import verify

        def run(build, model, low=True, mark=(), observe=True):
            wrong = fp32_wrong if not low else cured_by is None or cured_by not in mark
            metrics = {"nonfinite": int(wrong), "rel_l2": 1.0 if wrong else 1e-7}
            return [("usual", "y", metrics, ["sad"] if wrong and low else [])], {}

        monkeypatch.setitem(sys.modules, "build", type("B", (), {"PLAN": {"typing": "weak"}}))
        monkeypatch.setattr(diagnose, "_run", run)
        structure = {"tensors": ["k", "l", "m", "n"], "producers": {}, "inputs": {}}
        monkeypatch.setattr(diagnose, "_structure", lambda build: structure)
        assert verify is sys.modules["verify"]
        text = diagnose.diagnose()
        assert verdict in text
        if cured_by:
            assert "around m is" in text

    def test_a_typed_model_is_widened_exactly(self, diagnose):
        model = typed_model()
        wide = diagnose.widened(onnx.ModelProto.FromString(model.SerializeToString()))
        onnx.checker.check_model(wide, full_check=True)
        assert [info.type.tensor_type.elem_type for info in (*wide.graph.input, *wide.graph.output)] == [1, 1]
        before = numpy_helper.to_array(model.graph.initializer[0])
        assert np.array_equal(numpy_helper.to_array(wide.graph.initializer[0]), before.astype(np.float32))


def test_golden_inputs_get_the_types_of_the_planned_model(tmp_path, monkeypatch):
    """ONNX's "float" is numpy's float32, while numpy's "float" is float64."""
    types = {"f": "float", "h": "float16", "i": "int32", "b": "bool", "d": "double"}
    interface = {"inputs": {name: {"dtype": kind, "shape": None} for name, kind in types.items()}, "outputs": {}}
    folder = write_plan(tmp_path / "p", "tensorrt-11", "strong", interface=interface)
    verify = load_script(folder / "verify.py", monkeypatch)
    given = {"f": np.float32, "h": np.float32, "i": np.int64, "b": np.bool_, "d": np.float64, "other": np.int8}
    found = verify.typed({name: np.zeros(2, kind) for name, kind in given.items()})
    wanted = {"f": "float32", "h": "float16", "i": "int32", "b": "bool", "d": "float64", "other": "int8"}
    assert {name: str(array.dtype) for name, array in found.items()} == wanted


# --- onnxruntime


def island_model() -> onnx.ModelProto:
    """A decomposed LayerNorm in FP32 between Casts, which onnxruntime's own fusion takes for FP16's."""
    text = """<ir_version: 8, opset_import: ["":17]>
    g (float16[B,8] x) => (float16[B,8] y)
      <float two = {2}, float eps = {1e-5}, float[8] gamma = {1,1,1,1,1,1,1,1}, float[8] beta = {0,0,0,0,0,0,0,0}> {
      a = Cast<to=1>(x)
      m = ReduceMean<axes=[-1]>(a)
      d = Sub(a, m)
      p = Pow(d, two)
      v = ReduceMean<axes=[-1]>(p)
      e = Add(v, eps)
      s = Sqrt(e)
      q = Div(d, s)
      g1 = Mul(q, gamma)
      g2 = Add(g1, beta)
      y = Cast<to=10>(g2)
    }"""
    return onnx.parser.parse_model(text)


def test_onnxruntime_keeps_an_fp32_island(tmp_path, monkeypatch):
    """With run.py's options every node of the island is still there; with the defaults the model does not load."""
    import onnxruntime as ort

    folder = write_plan(tmp_path / "p", "onnxruntime", "strong", **WEAK)
    onnx.save(island_model(), folder / "model.onnx")
    run = load_script(folder / "run.py", monkeypatch)
    kept = tmp_path / "kept.onnx"
    original = run.session_options

    def with_dump():
        options = original()
        options.optimized_model_filepath = str(kept)
        return options

    monkeypatch.setattr(run, "session_options", with_dump)
    session = run.load_session()
    ops = {node.op_type for node in onnx.load(kept).graph.node}
    assert {"ReduceMean", "Sub", "Pow", "Sqrt", "Div"} <= ops
    assert "LayerNormalization" not in ops
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float16)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(session.run(None, {"x": x})[0].astype(np.float64), expected, atol=2e-3)
    assert dict(run.provider_options(["CUDAExecutionProvider"]))["CUDAExecutionProvider"]["use_tf32"] == "0"
    # its own fusion joins the island and the Casts around it into a node of two types, which it then refuses to load
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail, match=r"LayerNormalization.*bound to different types"):
        ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_a_plan_for_onnxruntime_runs_and_verifies_itself(tmp_path):
    from precision_planner.emitting.folder import GoldenCase, emit_folder
    from precision_planner.model import Model

    weight = np.eye(4, dtype=np.float16)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="/m/MatMul")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    plan = plan_for("onnxruntime", "strong", tolerance=({"output": None, "metric": "sad", "bound": 1e-3},))
    files = emit_folder(tmp_path / "p", plan, Model.load(model), [GoldenCase("usual", {"x": x}, {"y": x})])
    assert {path.name for path in files} >= {"run.py", "verify.py"}
    assert "build.py" not in {path.name for path in files}
    environment = {**os.environ, "PYTHONPATH": ""}
    run = subprocess.run(
        [sys.executable, "verify.py"], cwd=tmp_path / "p", env=environment, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    assert "ok" in run.stdout
    np.savez(tmp_path / "p" / "golden" / "usual.outputs.npz", y=x + 1)
    run = subprocess.run(
        [sys.executable, "verify.py"], cwd=tmp_path / "p", env=environment, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 1
    assert "BEYOND TOLERANCE: sad" in run.stdout


@pytest.mark.slow
def test_a_plan_without_a_tolerance_is_held_to_its_own_prediction(tmp_path):
    from precision_planner.emitting.folder import GoldenCase, emit_folder
    from precision_planner.model import Model

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="/m/Relu")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    plan = plan_for(
        "onnxruntime", "strong", distribution={"draws": 5, "share": 0.95, "quantiles": {"y": {"rel_l2": 1e-3}}}
    )
    emit_folder(tmp_path / "p", plan, Model.load(model), [GoldenCase("usual", {"x": x}, {"y": x})])
    command, environment = [sys.executable, "verify.py"], {**os.environ, "PYTHONPATH": ""}
    for scale, code, said in ((1 + 9e-4, 0, "ok"), (1 + 2e-3, 1, "BEYOND THE PREDICTION: rel_l2 0.002")):
        np.savez(tmp_path / "p" / "golden" / "usual.outputs.npz", y=x * np.float32(scale))
        run = subprocess.run(command, cwd=tmp_path / "p", env=environment, capture_output=True, text=True, timeout=100)
        assert (run.returncode, said in run.stdout) == (code, True), run.stdout + run.stderr
