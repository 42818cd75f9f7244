"""`planner build`: which TensorRT, which arguments, what the log says, and what was asked against what came out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

from precision_planner.cli.build import command
from precision_planner.emitting import building
from precision_planner.emitting.attention import attention_report
from precision_planner.emitting.build_report import node_outcomes
from precision_planner.emitting.building import apply_arguments, choose_tensorrt, read_plan, run_build
from precision_planner.emitting.rtx import rtx_build
from precision_planner.emitting.widen import widen
from precision_planner.engines.buildlog import PrecisionWarning, onnx_name, precision_warnings, severity
from precision_planner.engines.layers import EngineLayer, EngineTensor
from precision_planner.errors import EngineError, MissingExtraError, PlanError, TargetError
from precision_planner.model import Model, infer_types
from precision_planner.plans import PlannedNode
from tests.emitting import plans
from tests.emitting.test_folder import plan_for
from tests.gates import assert_gates

ATTENTION = "re:/encoder/layer.1/attention/self/(MatMul|Div|Add|Softmax)$"


class TestChoice:
    @pytest.mark.parametrize(
        ("target", "typing", "here", "module"),
        [
            ("tensorrt-rtx", "strong", ("tensorrt", "tensorrt_rtx"), "tensorrt_rtx"),
            ("tensorrt-11", "strong", ("tensorrt", "tensorrt_rtx"), "tensorrt"),
            ("tensorrt-11", "strong", ("tensorrt_rtx",), "tensorrt_rtx"),
            ("tensorrt-8.6", "weak", ("tensorrt",), "tensorrt"),
        ],
    )
    def test_the_targets_own_first_then_what_builds_the_same_types(self, monkeypatch, target, typing, here, module):
        monkeypatch.setattr(building, "installed_tensorrt", lambda: here)
        chosen, note = choose_tensorrt(plan_for(target, typing))
        assert chosen == module
        assert bool(note) == (target == "tensorrt-11" and here == ("tensorrt_rtx",))

    @pytest.mark.parametrize(
        ("target", "typing", "here", "message"),
        [
            ("tensorrt-11", "strong", (), r'pip install "\.\[tensorrt\]" in the checkout, or copy the folder'),
            ("tensorrt-rtx", "strong", (), r'pip install "\.\[rtx\]" in the checkout'),
            ("tensorrt-8.6", "weak", ("tensorrt_rtx",), r'builds no weakly typed plan.*pip install "tensorrt==8\.6'),
        ],
    )
    def test_without_one_the_line_says_what_to_install(self, monkeypatch, target, typing, here, message):
        monkeypatch.setattr(building, "installed_tensorrt", lambda: here)
        with pytest.raises(MissingExtraError, match=message):
            choose_tensorrt(plan_for(target, typing))

    def test_tensorrt_without_a_gpu_is_refused_before_it_is_tried(self, tmp_path, monkeypatch):
        monkeypatch.setattr(building, "installed_tensorrt", lambda: ("tensorrt",))
        monkeypatch.setattr(building, "has_gpu", lambda: False)
        for name in ("build.py", "model.onnx"):
            (tmp_path / name).touch()
        (tmp_path / "plan.json").write_text(plan_for("tensorrt-11", "strong").to_json())
        with pytest.raises(EngineError, match="needs a GPU and this machine has none: copy"):
            run_build(tmp_path)

    def test_what_is_no_plan_folder_is_refused(self, tmp_path):
        with pytest.raises(PlanError, match=r"has no plan\.json"):
            read_plan(tmp_path)
        (tmp_path / "plan.json").write_text(plan_for("tensorrt-11", "strong").to_json())
        with pytest.raises(PlanError, match=r"lacks build\.py and model\.onnx"):
            read_plan(tmp_path)
        (tmp_path / "plan.json").write_text(plan_for("onnxruntime", "strong").to_json())
        with pytest.raises(TargetError, match=r"builds no engine; run .*run\.py"):
            read_plan(tmp_path)


class TestArguments:
    def test_settings_are_applied_to_the_plan_and_the_rest_goes_on(self):
        rest, overrides, given = apply_arguments(
            ["--builder-optimization-level", "4", "--pool-limit", "workspace:2G", "-v", "--compute-capabilities=8.9",
             "--trt-min-shapes", "x:[1,4]", "--trt-opt-shapes", "x:[2,4]", "--trt-max-shapes", "x:[8,4]", "-o", "e"]
        )  # fmt: skip
        assert rest == ["-v"]
        assert overrides == {
            "build": {"optimization_level": 4, "workspace_bytes": 2 << 30},
            "profiles": {"x": {"min": [1, 4], "opt": [2, 4], "max": [8, 4]}},
        }
        assert given == {"capabilities": "8.9", "output": "e"}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--fp16"], "--fp16 would undo the plan"),
            (["--int8", "--calibration-cache", "c"], "--int8 would undo the plan"),
            (["--sparse-weights"], "Polygraphy ignores --sparse-weights"),
            (["--trt-min-shapes", "x:[1,4]"], "give --trt-min-shapes, --trt-opt-shapes and --trt-max-shapes for x"),
            (["--pool-limit", "dla_local_dram:1G"], "sets the workspace alone"),
            (["--pool-limit", "lots"], "size 'lots' cannot be read"),
        ],
    )
    def test_what_would_be_ignored_or_undo_the_plan_is_refused(self, arguments: list[str], message: str):
        with pytest.raises(EngineError, match=message):
            apply_arguments(arguments)


class TestLog:
    @pytest.mark.parametrize(
        ("line", "level"),
        [
            ("[W] [TRT] text", "W"),
            ("[W] text", "W"),
            ("[11/22/2026-16:04:00] [TRT] [W] text", "W"),
            ("[11/22/26-16:04:00] [I] [TRT] text", "I"),
            ("    Name: a, LayerType: gemm", ""),
            ("build.py: wrote x", ""),
        ],
    )
    def test_a_lines_level(self, line: str, level: str):
        assert severity(line) == level

    def test_warnings_about_precision_with_the_tensors_they_list(self):
        log = [
            "[W] TensorRT encountered issues when converting weights between types and that could affect accuracy.",
            "[W] If this is not the desired behavior, please modify the weights or retrain with regularization.",
            "[W] Check verbose logs for the list of affected weights.",
            "[W] - 2 weights are affected by this issue: Detected subnormal FP16 values.",
            "[V]   List of affected weights: onnx::MatMul_531, enc.gamma + (Unnamed Layer* 88) [Shuffle]",
            "[W] Detected layernorm nodes in FP16: /ln/Sqrt, /ln/Pow",
            "[I] FP16 is on",
            "[W] Unused Input: x",
        ]
        found = precision_warnings(log, ["enc.gamma", "onnx::MatMul_531"])
        assert (
            PrecisionWarning(
                "- 2 weights are affected by this issue: Detected subnormal FP16 values.",
                ("onnx::MatMul_531", "enc.gamma"),
            )
            in found
        )
        assert PrecisionWarning("Detected layernorm nodes in FP16: /ln/Sqrt, /ln/Pow", ("/ln/Sqrt", "/ln/Pow")) in found
        assert not any("FP16 is on" in warning.text or "Unused" in warning.text for warning in found)

    def test_myelins_spelling_is_undone(self):
        mangled = {"enc_layer_0_gamma": "enc.layer.0.gamma"}
        assert onnx_name("enc_layer_0_gamma _ (Unnamed Layer_ 96) [Shuffle]_constant", mangled) == "enc.layer.0.gamma"


NETWORK = {
    "layers": [
        {"nodes": ["/a"], "outputs": ["a"], "types": ["HALF"]},
        {"nodes": ["node_of_b"], "outputs": ["b"], "types": ["FLOAT"]},
        {"nodes": ["/ln"], "outputs": ["l"], "types": ["HALF"]},
    ]
}


class TestOutcomes:
    def nodes(self) -> tuple[PlannedNode, ...]:
        return (
            PlannedNode("/a", "MatMul", (), "a", "fp16"),
            PlannedNode("Exp(b)", "Exp", (), "b", "fp32", "island", "r"),
            PlannedNode("/ln", "LayerNormalization", (), "l", "fp32", "compute", "r"),
            PlannedNode("/wrong", "Add", (), "a", "fp32", "island", "r"),
            PlannedNode("/folded", "Cast", (), "f", "fp16"),
            PlannedNode("/shape", "Shape", (), "s", ""),
        )

    def test_a_typed_network_is_the_proof_of_every_node(self):
        plan = plan_for("tensorrt-rtx", "strong", nodes=self.nodes())
        kernel = EngineLayer("k", "kgen", (), (EngineTensor("l", "fp16"),), "", ("/a", "node_of_b", "/ln"))
        outcomes = {outcome.node: outcome for outcome in node_outcomes(plan, NETWORK, [kernel])}
        assert {name: outcome.met for name, outcome in outcomes.items()} == {
            "/a": True,
            "Exp(b)": True,
            "/ln": True,
            "/wrong": False,
            "/folded": None,
        }
        assert outcomes["Exp(b)"].kernels == ("k",)

    def test_a_weak_network_is_judged_by_its_constraints_and_its_engine(self):
        plan = plan_for("tensorrt-8.6", "weak", nodes=self.nodes()[:2])
        network = {**NETWORK, "constraints": [{"node": "", "outputs": ["b"], "layers": ["node_of_b"]}]}
        assert [outcome.met for outcome in node_outcomes(plan, network, [])] == [None, True]
        kernel = EngineLayer("k", "gemm", (), (EngineTensor("a", "fp32"),), "", ("/a",))
        assert [outcome.met for outcome in node_outcomes(plan, network, [kernel])] == [False, True]


class TestWiden:
    def test_weights_and_casts_are_exact_and_the_gates_hold(self):
        _, result = plans.planned("tiny", ["softmax"])
        wide = widen(result.typed)
        proto = wide.to_proto()
        assert_gates(proto, rtx=False)
        kinds = {tensor.data_type for tensor in proto.graph.initializer}
        assert not kinds & {TensorProto.FLOAT16, TensorProto.BFLOAT16}
        before = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.typed.to_proto().graph.initializer}
        for tensor in proto.graph.initializer:
            value = before[tensor.name]
            wanted = value.astype(np.float32) if value.dtype == np.float16 else value
            assert np.array_equal(numpy_helper.to_array(tensor), wanted), tensor.name
        types = infer_types(wide)
        outputs = {info.name for info in proto.graph.output}
        for node in proto.graph.node:
            if node.op_type == "Cast" and node.output[0] not in outputs:
                between = {types[((), node.input[0])].elem_type, types[((), node.output[0])].elem_type}
                assert between != {TensorProto.FLOAT}, f"{node.name} casts float to float"

    def test_a_value_that_went_through_casts_is_read_at_its_source(self):
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["":17]> g (float[4] x) => (float[4] y) {'
            " a = Cast<to=10>(x)\n b = Relu(a)\n c = Cast<to=1>(b)\n d = Exp(c)\n e = Cast<to=10>(d)\n"
            " y = Cast<to=1>(e) }"
        )
        proto = widen(Model.load(model)).to_proto()
        assert [(node.op_type, list(node.input)) for node in proto.graph.node] == [
            ("Relu", ["x"]), ("Exp", ["b"]), ("Cast", ["d"]),
        ]  # fmt: skip


@pytest.mark.rtx
@pytest.mark.slow
class TestAttention:
    def test_layernorm_costs_no_fused_attention(self):
        plan, result = plans.planned("tiny", ["layernorm"])
        kernels = rtx_build(result.typed, {"input": ((1, 8), (4, 16), (8, 32))}).kernels
        report = attention_report(result.typed, plan, kernels)
        assert (report.planned, report.plain, report.lost, report.reason) == (2, 2, 0, "")

    def test_the_region_that_costs_one_is_named(self):
        plan, result = plans.planned("tiny", ["layernorm", ATTENTION])
        kernels = rtx_build(result.typed, {"input": ((1, 8), (4, 16), (8, 32))}).kernels
        report = attention_report(result.typed, plan, kernels)
        assert (report.planned, report.plain, report.lost) == (1, 2, 1)
        (cost,) = report.costs
        assert cost.kernels == 1
        assert {"/encoder/layer.1/attention/self/MatMul", "/encoder/layer.1/attention/self/Softmax"} <= set(cost.nodes)
        assert "--keep-fp32" in cost.reason


@pytest.mark.rtx
@pytest.mark.slow
class TestCommand:
    def test_a_plan_builds_and_every_node_is_what_was_asked(self, tmp_path: Path):
        plan = plans.write(tmp_path / "p", "tiny", ["layernorm", "softmax"])
        result = CliRunner().invoke(command, [str(tmp_path / "p"), "--json", "-"], standalone_mode=False)
        assert result.exception is None
        assert result.return_value == 0
        data = json.loads(result.stdout)
        asked = sum(bool(node.precision) for node in plan.nodes)
        assert len(data["nodes"]) == asked
        assert data["unmet"] == []
        assert data["met"] + data["folded"] == asked
        assert data["fused_attention"]["lost"] == 0
        kept = [node for node in data["nodes"] if node["asked"] == "fp32" and node["op_type"] == "Softmax"]
        assert kept
        assert all(node["network"] == ["fp32"] and node["kernels"] for node in kept)
        assert {node for kernel in data["kernels"] for node in kernel["nodes"]} >= {node["node"] for node in kept}
        assert (tmp_path / "p" / "model.engine").stat().st_size > 10_000
        assert "Layers:" in (tmp_path / "p" / "build.log").read_text()

    def test_a_model_that_is_not_what_was_asked_is_told_by_node(self, tmp_path: Path):
        plans.write(tmp_path / "p", "tiny", ["softmax"])
        _, other = plans.planned("tiny", [])
        (tmp_path / "p" / "model.onnx").unlink()
        other.save(tmp_path / "p" / "model.onnx")
        result = CliRunner().invoke(command, [str(tmp_path / "p"), "--no-attention"], standalone_mode=False)
        assert result.return_value == 1
        assert "asked fp32, got fp16" in result.stdout
        assert "attention/self/Softmax (Softmax)" in result.stdout

    def test_polygraphy_arguments_build_the_same_plan(self, tmp_path: Path):
        plans.write(tmp_path / "p", "tiny", [])
        arguments = [str(tmp_path / "p"), "--no-attention", "--json", "-", "--"]
        arguments += [
            "--builder-optimization-level",
            "1",
            "--compute-capabilities",
            "12.0",
            "-v",
            "-o",
            str(tmp_path / "e"),
        ]
        result = CliRunner().invoke(command, arguments, standalone_mode=False)
        assert result.return_value == 0
        assert (tmp_path / "e").is_file()
        assert not (tmp_path / "p" / "model.engine").exists()
        assert json.loads(result.stdout)["unmet"] == []

    def test_a_build_that_fails_says_why_and_leaves_no_engine(self, tmp_path: Path):
        plans.write(tmp_path / "p", "tiny", [])
        data = json.loads((tmp_path / "p" / "plan.json").read_text())
        data["profiles"] = {"input": {"min": [1, 8], "opt": [1, 8], "max": [1, 4096]}}  # past the position table
        data["profiles"]["nonsense"] = data["profiles"]["input"]
        (tmp_path / "p" / "plan.json").write_text(json.dumps(data))
        result = CliRunner().invoke(command, [str(tmp_path / "p")], standalone_mode=False)
        assert result.return_value == 1
        assert "FAILED" in result.stdout
        assert "shapes for 'nonsense', but the inputs are ['input']" in result.stdout
        assert not (tmp_path / "p" / "model.engine").exists()

    def test_a_plan_for_tensorrt_11_is_proven_with_rtx(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(building, "installed_tensorrt", lambda: ("tensorrt_rtx",))
        plans.write(tmp_path / "p", "tiny", ["layernorm"], target="tensorrt-11")
        run = run_build(tmp_path / "p")
        assert run.returncode == 0
        assert "tensorrt is not installed: built with tensorrt_rtx" in run.note


@pytest.mark.rtx
@pytest.mark.slow
def test_constraints_find_their_layers_in_nvidias_own_network():
    """Typo, renamed, empty and duplicate names and a LayerNormalization, on what the real parser makes of them."""
    from tests.emitting.test_folder import load_function

    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["":17]>
        g (float16[N,4] x) => (float16[N,4] y) <float16[4] w = {1, 2, 3, 4}> {
        [dup] a = Relu(x)
        [dup] b = Exp(a)
        c = Sqrt(b)
        [ln] d = LayerNormalization(c, w, w)
        [soft] e = Softmax(d)
        [mul] y = Mul(e, w)
        }"""
    )
    result = rtx_build(model)
    assert result.ok
    outputs = {"dup": ["a"], "dup_0": ["b"], "node_of_c": ["c"], "ln": ["d"], "soft": [], "mul": ["y"]}
    layers = [(list(layer.nodes), outputs.get(layer.name, []), layer.name) for layer in result.layers]
    match = load_function("build.py", "match_constraints").match_constraints

    def names(node: str, *values: str) -> list[str]:
        return [layers[at][2] for at in match(layers, [{"node": node, "outputs": list(values)}])[0]]

    assert names("ln", "d") == ["ln"]
    assert names("", "c") == ["node_of_c"]
    assert names("dup", "b") == ["dup", "dup_0"]
    assert names("renamed", "y") == ["mul"]
    assert names("soft", "e") == ["soft"]
    with pytest.raises(ValueError, match="match no layer"):
        names("sfot", "gone")


@pytest.mark.rtx
@pytest.mark.slow
def test_the_folder_needs_nothing_of_ours_or_polygraphys(tmp_path: Path):
    plans.write(tmp_path / "p", "tiny", ["layernorm"])
    shutil.move(tmp_path / "p", tmp_path / "moved")
    code = (
        "import sys, runpy; sys.modules['precision_planner'] = sys.modules['polygraphy'] = sys.modules['onnx'] = None;"
        "sys.argv = ['build.py', '--compute-capabilities', 'SM89']; runpy.run_path('build.py', run_name='__main__')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "moved", capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "moved" / "model.engine").stat().st_size > 10_000


@pytest.mark.rtx
@pytest.mark.slow
@pytest.mark.parametrize(("style", "opset"), [("torchscript", 13), ("torchscript", 17), ("dynamo", 18)])
@pytest.mark.parametrize("variant", ["tiny", "tiny-massive", "tiny-ffn"])
def test_a_sample_models_plan_builds_as_asked_and_loses_no_attention(
    tmp_path: Path, style: str, opset: int, variant: str
):
    """The whole path: planned by the rules, built through the folder, judged by NVIDIA's network and kernels."""
    from dataclasses import replace

    from examples.bert_classifier import PRESETS, build_bert_classifier
    from precision_planner.planning import plan

    model = build_bert_classifier(replace(PRESETS[variant], style=style, opset=opset))
    planned = plan(model, target="tensorrt-rtx", verify=False)
    planned.save(tmp_path / "p")
    result = CliRunner().invoke(command, [str(tmp_path / "p"), "--json", "-"], standalone_mode=False)
    assert result.exception is None
    data = json.loads(result.stdout)
    assert (data["ok"], data["unmet"]) == (True, [])
    assert data["met"] + data["folded"] == len(data["nodes"])
    attention = data["fused_attention"]
    assert attention["plain"] == PRESETS[variant].layers, "one fused attention a layer in plain FP16"
    assert attention["lost"] == 0, attention
