"""The whole path, from a model to a plan folder, on the sample classifiers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier, reference_forward, sample_inputs
from precision_planner.cli.main import main, planner
from precision_planner.emitting.trtexec import trtexec_command
from precision_planner.errors import PlanError, TargetError
from precision_planner.model import Model
from precision_planner.model.inputs import load_inputs
from precision_planner.planning.profiles import make_profiles
from precision_planner.plans import PrecisionPlan
from tests.gates import assert_gates

ROWS, SEQUENCE = 12, 48


@pytest.fixture(scope="module")
def massive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny classifier with massive activations, and its inputs, as files."""
    folder = tmp_path_factory.mktemp("massive")
    spec = PRESETS["tiny-massive"]
    onnx.save(build_bert_classifier(spec), folder / "model.onnx")
    np.savez(folder / "inputs.npz", **sample_inputs(spec, rows=ROWS, sequence=SEQUENCE))
    return folder / "model.onnx", folder / "inputs.npz"


def float64_probability(preset: str) -> np.ndarray:
    spec = PRESETS[preset]
    inputs = sample_inputs(spec, rows=ROWS, sequence=SEQUENCE)
    return reference_forward(spec, inputs["input"])["probability"]


def sad(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).sum(axis=1).max())


def test_maps_are_compared_by_their_values() -> None:
    """What scikit-learn's converter ends with: a list of dictionaries beside the numbers."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ZipMap", ["y"], ["named"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    weights = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    keys = onnx.TypeProto()
    keys.map_type.key_type = onnx.TensorProto.INT64
    keys.map_type.value_type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 3])],
        [
            helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 2]),
            helper.make_value_info("named", helper.make_sequence_type_proto(keys)),
        ],
        [numpy_helper.from_array(weights, "w")],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    planned = pp.plan(helper.make_model(graph, opset_imports=imports, ir_version=8), tolerance={"rel_l2": 1e-2})
    assert planned.passed
    assert planned.plan.predicted["named"]["rel_l2"] == planned.plan.predicted["y"]["rel_l2"] > 0


@pytest.mark.slow
def test_plain_fp16_is_garbage_and_the_plan_is_not(massive) -> None:
    """Judged against the float64 forward pass, not against our own reference."""
    path, inputs = massive
    expected = float64_probability("tiny-massive")
    plain = pp.simulate(path, inputs, precision="fp16", semantics="fused", weights="saturate")
    assert sad(plain["probability"], expected) > 0.1
    planned = pp.plan(path, inputs=inputs, tolerance={"probability:sad": 5e-3})
    assert planned.passed
    simulated = pp.simulate(planned.model, inputs)
    assert sad(simulated["probability"], expected) < 5e-3


@pytest.mark.slow
def test_every_layernorm_is_accounted_for(massive) -> None:
    path, inputs = massive
    norms = [norm for norm in pp.analyze(path).normalizations if norm.kind == "layer_normalization"]
    planned = pp.plan(path, inputs=inputs)
    nodes = [node for node in planned.plan.nodes if node.op_type == "LayerNormalization"]
    assert len(norms) == 2 * PRESETS["tiny-massive"].layers + 1 == len(nodes)
    assert all(node.precision == "fp32" and node.keep_as == "compute" and node.reason for node in nodes)
    assert not any(node.precision == "fp32" and node.op_type in ("MatMul", "Gemm") for node in planned.plan.nodes)


@pytest.mark.slow
def test_an_overflowing_ffn_is_found_without_being_told(tmp_path: Path) -> None:
    spec = PRESETS["tiny-ffn"]
    onnx.save(build_bert_classifier(spec), tmp_path / "model.onnx")
    inputs = dict(sample_inputs(spec, rows=ROWS, sequence=SEQUENCE))
    expected = float64_probability("tiny-ffn")
    only_norms = pp.rewrite(tmp_path / "model.onnx", verify=False)  # with the inputs it would keep what overflows
    assert not np.isfinite(pp.simulate(only_norms.typed, inputs)["probability"]).all()
    planned = pp.plan(tmp_path / "model.onnx", inputs=inputs, tolerance={"probability:sad": 5e-3})
    assert planned.passed
    assert sad(pp.simulate(planned.model, inputs)["probability"], expected) < 5e-3


@pytest.mark.slow
@pytest.mark.rtx
def test_the_planned_model_passes_every_gate(massive, tmp_path: Path) -> None:
    path, inputs = massive
    pp.plan(path, target="tensorrt-rtx", inputs=inputs).save(tmp_path / "plan")
    assert_gates(tmp_path / "plan" / "model.onnx")
    run = subprocess.run(
        [sys.executable, "build.py", "--compute-capabilities", "SM89"],
        cwd=tmp_path / "plan", capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_the_golden_outputs_are_the_fp32_models(massive, tmp_path: Path) -> None:
    path, inputs = massive
    pp.plan(path, inputs=inputs).save(tmp_path / "plan")
    with np.load(next((tmp_path / "plan" / "golden").glob("*.outputs.npz"))) as golden:
        # float32 arithmetic against float64
        np.testing.assert_allclose(golden["probability"], float64_probability("tiny-massive"), atol=2e-5)


def test_the_command_writes_a_folder_and_says_so(massive, tmp_path: Path) -> None:
    path, inputs = massive
    arguments = ["plan", str(path), "-o", str(tmp_path / "p"), "--inputs", str(inputs), "--json", "-"]
    result = CliRunner().invoke(planner, [*arguments, "--tolerance", "probability:sad=5e-3"], standalone_mode=False)
    assert result.exception is None, result.exception
    assert result.return_value == 0
    on_stdout = json.loads(result.stdout)
    assert on_stdout == json.loads((tmp_path / "p" / "plan.json").read_text())
    assert PrecisionPlan.from_dict(on_stdout).target == "tensorrt-11"


@pytest.mark.slow
def test_beyond_tolerance_is_exit_1_and_the_folder_still_there(massive, tmp_path: Path) -> None:
    path, inputs = massive
    arguments = ["plan", str(path), "-o", str(tmp_path / "p"), "--inputs", str(inputs), "--tolerance", "sad=1e-9"]
    assert main([*arguments, "--only-low", "MatMul"]) == 1  # what the user wants low is low
    assert (tmp_path / "p" / "plan.json").is_file()


@pytest.mark.slow
def test_the_same_inputs_give_the_same_plan(massive) -> None:
    path, inputs = massive
    first, second = (pp.plan(path, inputs=inputs).plan.to_json() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "tensorrt-12"], "unknown target 'tensorrt-12'"),
        (["--target", "tensorrt-8.6", "--precision", "bf16"], "tensorrt-8.6 has no BF16"),
        (["--target", "tensorrt-8.6", "--io-types", "low"], "weakly typed"),
        (["--tolerance", "sadness=1"], "sad"),
        (["--tolerance", "nowhere:sad=1"], "nowhere"),
        (["--minShapes", "input:0x"], "NAME:AxBxC"),
        (["--minShapes", "other:1x8"], "other"),
        (["--keep-fp32", "nothing-like-it"], "nothing-like-it"),
        (["--only", "ZZ999"], "ZZ999"),
    ],
)
def test_mistakes_are_one_line_exit_2_and_leave_nothing(massive, tmp_path: Path, capsys, arguments, message) -> None:
    path, inputs = massive
    code = main(["plan", str(path), "-o", str(tmp_path / "p"), "--inputs", str(inputs), *arguments])
    said = capsys.readouterr().err.strip()
    assert code == 2
    assert message in said
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []


def custom_model() -> onnx.ModelProto:
    """A product, an operator nobody knows, a product."""
    helper, weight = onnx.helper, np.eye(8, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Warp", ["h"], ["g"], name="warp", domain="acme"),
        helper.make_node("MatMul", ["g", "w"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 8])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("target", ["tensorrt-11", "tensorrt-8.6"])
def test_what_onnxruntime_cannot_run_is_planned_by_its_structure(tmp_path: Path, target: str) -> None:
    onnx.save(custom_model(), tmp_path / "custom.onnx")
    planned = pp.plan(tmp_path / "custom.onnx", target=target)
    assert planned.passed is None
    assert planned.golden == ()
    assert "nothing predicted: onnxruntime cannot load" in planned.summary
    assert {node.node: node.precision for node in planned.plan.nodes}["warp"] == "fp32"
    planned.save(tmp_path / "plan")
    assert PrecisionPlan.from_json((tmp_path / "plan" / "plan.json").read_text()).predicted == {}
    with pytest.raises(PlanError, match="tolerance cannot be judged"):
        pp.plan(tmp_path / "custom.onnx", target=target, tolerance={"sad": 1e-3})


# --- optimization profiles


def test_profiles_come_from_the_data_and_hold_every_batch(massive) -> None:
    model = Model.load(massive[0])
    batches = [{"input": np.ones((rows, length), np.int64)} for rows, length in ((4, 16), (2, 90), (9, 5))]
    profile = make_profiles(model, load_inputs(batches, model))["input"]
    assert profile.opt == (4, 16)
    assert profile.max == (9, 90)
    assert profile.min[0] == 1
    assert profile.min[1] <= 5


def test_given_shapes_win_and_must_be_in_order(massive) -> None:
    model = Model.load(massive[0])
    data = load_inputs({"input": np.ones((4, 16), np.int64)}, model)
    given = make_profiles(model, data, {"input": (2, 4)}, {"input": (3, 32)}, {"input": (8, 64)})["input"]
    assert (given.min, given.opt, given.max) == ((2, 4), (3, 32), (8, 64))
    with pytest.raises(PlanError, match="not in order"):
        make_profiles(model, data, {"input": (9, 4)}, {"input": (3, 32)}, {"input": (8, 64)})
    with pytest.raises(PlanError, match="does not fit"):
        make_profiles(model, data, {"input": (9, 4, 1)})


def test_a_static_model_has_no_profile() -> None:
    proto = build_bert_classifier(PRESETS["tiny"])
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 16
    model = Model.load(proto)
    assert make_profiles(model, load_inputs({"input": np.ones((2, 16), np.int64)}, model)) == {}


@pytest.mark.slow
def test_a_weak_plan_keeps_the_types_and_names_its_constraints(massive) -> None:
    path, inputs = massive
    planned = pp.plan(path, target="tensorrt-8.6", inputs=inputs, keep_fp32=["softmax"])
    types = {tensor.data_type for tensor in planned.model.proto.graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in types
    softmax = [node for node in planned.model.proto.graph.node if node.op_type == "Softmax"]
    outputs = {output for entry in planned.plan.constraints for output in entry.outputs}
    assert {node.output[0] for node in softmax} <= outputs
    with pytest.raises(TargetError):
        pp.plan(path, target="tensorrt-8.6", inputs=inputs, keep_bf16=["softmax"])


@pytest.mark.slow
def test_a_weak_plan_holds_low_layers_to_their_type_where_asked(massive) -> None:
    path, inputs = massive
    free = pp.plan(path, target="tensorrt-8.6", inputs=inputs, keep_fp32=["softmax"])
    held = pp.plan(path, target="tensorrt-8.6", inputs=inputs, keep_fp32=["softmax"], hold_low=True)
    assert set(free.plan.constraints) < set(held.plan.constraints)
    added = {entry.outputs[0] for entry in set(held.plan.constraints) - set(free.plan.constraints)}
    low = {node.output: node.op_type for node in held.plan.nodes if node.precision == "fp16"}
    assert {name for name, op_type in low.items() if op_type in ("MatMul", "Gemm", "Add", "Mul", "Erf")} <= added
    assert {low[name] for name in added}.isdisjoint({"Cast", "Reshape", "Transpose", "Unsqueeze", "Gather"})
    kept = {(entry.precision, entry.output_type) for entry in set(held.plan.constraints) - set(free.plan.constraints)}
    assert kept == {("fp16", "fp16")}
    with pytest.raises(TargetError, match="strongly typed"):
        pp.plan(path, target="tensorrt-11", inputs=inputs, hold_low=True)


def _weak(nodes, initializers, **arguments):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3, 8])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in initializers.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = {"x": np.linspace(-1, 1, 48, dtype=np.float32).reshape(2, 3, 8)}
    return pp.plan(proto, target="tensorrt-8.6", inputs=data, **arguments)


def test_constants_of_constrained_nodes_get_their_rank_and_the_others_stay() -> None:
    vector = np.linspace(0.5, 1.5, 8)
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["t"], name="/kept"),
        helper.make_node("Tanh", ["t"], ["u"], name="/tanh"),
        helper.make_node("Add", ["u", "b"], ["y"], name="/low"),
    ]
    planned = _weak(nodes, {"a": vector, "b": vector}, keep_fp32=["/kept"])
    assert [entry.node for entry in planned.plan.constraints] == ["/kept"]
    shapes = {tensor.name: list(tensor.dims) for tensor in planned.model.proto.graph.initializer}
    by_name = {node.name: node for node in planned.model.proto.graph.node}
    assert shapes[by_name["/kept"].input[1]] == [1, 1, 8]
    assert shapes[by_name["/low"].input[1]] == [8]
    simulated = pp.simulate(planned.model, planned.golden[0].inputs, keep_fp32=["*"])["y"]
    x = planned.golden[0].inputs["x"].astype(np.float64)
    np.testing.assert_allclose(simulated, np.tanh(x * vector) + vector, rtol=1e-6)


def test_nodes_that_are_computed_before_the_build_get_no_constraint() -> None:
    nodes = [
        helper.make_node("Exp", ["a"], ["e"], name="/exp"),
        helper.make_node("Add", ["e", "a"], ["f"], name="/folded"),
        helper.make_node("Mul", ["x", "f"], ["t"], name="/kept"),
        helper.make_node("Tanh", ["t"], ["y"], name="/tanh"),
    ]
    planned = _weak(nodes, {"a": np.ones(8)}, keep_fp32=["/exp", "/folded", "/kept"])
    assert [entry.node for entry in planned.plan.constraints] == ["/kept"]


def test_a_layernorm_that_reads_a_constrained_node_is_constrained_with_it() -> None:
    """With an FP32 input and FP16 weights its FP16 form does not compile in TensorRT 8.6."""
    norm = {"axis": -1, "epsilon": 1e-5}
    nodes = [
        helper.make_node("Tanh", ["x"], ["h"], name="/tanh"),
        helper.make_node("LayerNormalization", ["h", "a", "b"], ["n"], name="/first", **norm),
        helper.make_node("Add", ["n", "x"], ["s"], name="/residual"),
        helper.make_node("LayerNormalization", ["s", "a", "b"], ["y"], name="/second", **norm),
    ]
    vectors = {"a": np.linspace(0.5, 1.5, 8), "b": np.zeros(8)}
    planned = _weak(nodes, vectors, keep_fp32=["/residual", "layernorm"])
    assert {entry.node for entry in planned.plan.constraints} == {"/residual", "/second"}


@pytest.mark.slow
def test_a_decomposed_layernorm_that_reads_a_constrained_node_stays_decomposed() -> None:
    spec = PRESETS["tiny-ffn"]
    data = sample_inputs(spec, rows=40)
    kept = "/encoder/layer.1/output/Add"
    planned = pp.plan(build_bert_classifier(spec), target="tensorrt-8.6", inputs=data, keep_fp32=[kept])
    assert all(node.op_type != "LayerNormalization" for node in planned.model.proto.graph.node)
    named = {entry.node for entry in planned.plan.constraints}
    assert {node.name for node in planned.model.proto.graph.node if node.name.endswith("LayerNorm/Pow")} <= named


@pytest.mark.slow
@pytest.mark.parametrize("target", ["tensorrt-10", "tensorrt-11"])
@pytest.mark.parametrize("preset", ["tiny-ffn", "minilm-ffn"])
def test_an_overflowing_ffn_is_rescaled_and_only_the_layernorms_compute_in_fp32(preset: str, target: str) -> None:
    spec = PRESETS[preset]
    model, data = build_bert_classifier(spec), sample_inputs(spec, rows=8)
    planned = pp.plan(model, target=target, inputs=data)
    (entry,) = [entry for entry in planned.plan.repairs if entry["repair"] == "rescale_stream"]
    assert entry["max_abs"] == 0.0  # in FP32, to the last bit
    assert {(node.op_type, node.keep_as) for node in planned.plan.kept} == {("LayerNormalization", "compute")}
    assert planned.plan.constraints == ()
    kept = pp.plan(model, target=target, inputs=data, without=["rescale_stream"]).plan
    assert len(kept.kept) > len(planned.plan.kept)
    # what BF16 sums would have given, within what one rounding more or less makes
    assert planned.plan.predicted["probability"]["sad"] < 1.1 * kept.predicted["probability"]["sad"]


@pytest.mark.slow
def test_a_plan_that_misses_its_tolerance_when_rescaled_is_made_without() -> None:
    """At this width four massive channels of unlike size round to a mean that the ordinary ones do not bear."""
    spec = replace(PRESETS["ffn"], layers=2, hidden=384, intermediate=1536, vocabulary=2048, positions=64, sequence=64)
    model, data = build_bert_classifier(spec), sample_inputs(spec, rows=8)
    free = pp.plan(model, target="tensorrt-10", inputs=data)
    assert any(entry["repair"] == "rescale_stream" for entry in free.plan.repairs)
    assert free.plan.predicted["probability"]["sad"] > 0.005
    held = pp.plan(model, target="tensorrt-10", inputs=data, tolerance=["probability:sad=0.005"], policy="rules")
    assert held.passed
    assert not any(entry["repair"] == "rescale_stream" for entry in held.plan.repairs)


@pytest.mark.slow
def test_a_weak_plan_tells_the_builder_of_bf16_too(massive) -> None:
    path, inputs = massive
    planned = pp.plan(path, target="tensorrt-10", inputs=inputs, keep_bf16=["Tanh"])
    assert [(c.precision, c.output_type) for c in planned.plan.constraints] == [("bf16", "bf16")]
    words, _ = trtexec_command(planned.plan)
    assert "--fp16 --bf16" in words


@pytest.mark.slow
def test_tensorrt_86_is_spared_what_it_does_not_build() -> None:
    spec = PRESETS["tiny-ffn"]
    planned = pp.plan(build_bert_classifier(spec), target="tensorrt-8.6", inputs=sample_inputs(spec, rows=4))
    assert not any(entry["repair"] == "rescale_stream" for entry in planned.plan.repairs)
    assert planned.plan.predicted["probability"]["nonfinite"] == 0
    assert planned.plan.constraints
