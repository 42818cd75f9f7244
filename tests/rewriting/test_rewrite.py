"""The pipeline: what is kept, what the report says, interface types, compat, the command."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from examples.bert_classifier.build import build_bert_classifier
from examples.bert_classifier.spec import PRESETS
from precision_planner.cli.main import main
from precision_planner.compat import convert_float_to_float16, convert_to_mixed_precision
from precision_planner.errors import ConversionError, SelectorError, SurgeryError
from precision_planner.rewriting import rewrite
from precision_planner.rewriting.casts import is_exact
from tests.gates import assert_gates
from tests.rewriting.conformance_models import MODELS, normal, text, weights

INTEGERS = [2, 3, 4, 5, 6, 7, 12, 13]  # UINT8, INT8, UINT16, INT16, INT32, INT64, UINT32, UINT64
FLOATS = [1, 10, 11, 16]


@pytest.fixture(scope="module")
def bert() -> onnx.ModelProto:
    return build_bert_classifier(PRESETS["tiny-massive"])


def _ops(model: onnx.ModelProto, op_type: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op_type]


def _types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    found = {i.name: i.type.tensor_type.elem_type for i in (*inferred.input, *inferred.output, *inferred.value_info)}
    return {**found, **{tensor.name: tensor.data_type for tensor in inferred.initializer}}


def test_kept_layernorm_is_fused_and_computes_in_fp32_with_half_data(bert: onnx.ModelProto) -> None:
    result = rewrite(bert, keep_fp32=["layernorm"], verify=False)
    norms = _ops(result.model, "LayerNormalization")
    assert len(norms) == len(result.report["fused"]) == len(result.report["kept_fp32"]) == 5
    types = _types(result.model)
    assert {types[name] for node in norms for name in (*node.input, node.output[0])} == {TensorProto.FLOAT16}
    assert {entry["as"] for entry in result.report["kept_fp32"]} == {"compute"}
    assert result.report["casts"] == 2  # the two outputs


def test_kept_as_island_is_fp32_in_weights_and_out(bert: onnx.ModelProto) -> None:
    result = rewrite(bert, keep_fp32=["layernorm"], keep_as="island", verify=False)
    types = _types(result.model)
    norms = _ops(result.model, "LayerNormalization")
    assert {types[name] for node in norms for name in (*node.input, node.output[0])} == {TensorProto.FLOAT}


def test_a_decomposed_island_has_one_cast_in_and_one_out(bert: onnx.ModelProto) -> None:
    result = rewrite(bert, fuse=None, keep_fp32=["layernorm"], verify=False)
    assert len(_ops(result.model, "LayerNormalization")) == 0
    assert len(result.report["kept_fp32"]) == 45
    assert result.report["casts"] == 5 * 2 + 2


def test_an_island_computes_exactly_what_fp32_computes() -> None:
    """What stands inside an island sees the same operands and gives the same bits.

    The island reads a half input, because onnxruntime hides the rounding of half values that it computes itself.
    """
    nodes = "s = Mul(x, x) m = ReduceMean<axes=[-1]>(s) q = Sqrt(m) a = Div(x, q)"
    model = text(f"g (float[N,8] x) => (float[N,8] a, float[N,8] b) {{ {nodes} b = Relu(x) }}")
    kept = ["Mul", "ReduceMean", "Sqrt", "Div"]
    typed = rewrite(model, fuse=(), io_types="low=x", keep_fp32=kept, verify=False).model
    assert len(_ops(typed, "Cast")) == 2  # x into the island, b to the interface
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float16)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(typed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    alone = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = alone.run(["a"], {"x": x.astype(np.float32)})[0]
    np.testing.assert_array_equal(session.run(["a"], {"x": x})[0], expected)


def test_weights_and_file_are_halved(bert: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(bert, tmp_path / "m.onnx")
    files = rewrite(tmp_path / "m.onnx", keep_fp32=["layernorm"]).save(tmp_path / "out.onnx")
    ratio = files[0].stat().st_size / (tmp_path / "m.onnx").stat().st_size
    assert 0.48 < ratio < 0.55


@pytest.mark.slow
@pytest.mark.rtx
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("fuse", [("layernorm",), ()])
def test_bert_passes_the_gates(bert: onnx.ModelProto, precision: str, fuse: tuple[str, ...]) -> None:
    result = rewrite(bert, precision=precision, fuse=fuse, keep_fp32=["layernorm"], verify=False)
    domains = frozenset({""}) if precision == "bf16" else frozenset()  # no bfloat16 on onnxruntime's CPU
    assert_gates(result.model, custom_domains=domains)


def test_three_types_live_in_one_model() -> None:
    model = weights(
        text("g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) b = Exp(a) c = Softmax(b) y = MatMul(c, w) }"),
        w=normal(8, 8),
    )
    result = rewrite(model, fuse=(), keep_bf16=["Exp"], keep_fp32=["Softmax"], verify=False)
    types = _types(result.model)
    assert (types["a"], types["b"], types["c"]) == (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT)
    assert [entry["node"] for entry in result.report["kept_bf16"]] == ["Exp(b)"]


def test_only_low_leaves_everything_else() -> None:
    model = weights(
        text("g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) b = Exp(a) y = Tanh(b) }"), w=normal(8, 8)
    )
    result = rewrite(model, fuse=(), only_low=["MatMul"], verify=False)
    types = _types(result.model)
    assert types["w"] == TensorProto.FLOAT16
    assert types["b"] == TensorProto.FLOAT
    assert result.report["converted"] == 1


def test_bf16_raises_the_opset_for_convolutions() -> None:
    result = rewrite(MODELS["convolutions"](), precision="bf16", verify=False)
    assert result.report["opset"] == {"from": 17, "to": 22}
    kept = {entry["op_type"] for entry in result.report["kept_fp32"]}
    assert kept == {"ConvTranspose"}  # TensorRT has no such kernel
    assert result.report["work"]["bf16"] > 0


def test_bf16_inside_a_body_is_not_judged_by_onnxruntime() -> None:
    """Its CPU provider has no bfloat16 kernels, wherever the node stands."""
    branch = "{ k = Constant<value = float[2] {1, 2}>() e = %s(k) %s = ArgMax<axis = 0>(e) }"
    model = text(
        f"g (bool c) => (int64[1] y) {{ y = If (c) <then_branch = t () => (int64[1] p) {branch % ('Exp', 'p')}, "
        f"else_branch = f () => (int64[1] q) {branch % ('Neg', 'q')}> }}"
    )
    result = rewrite(model, precision="bf16", fuse=())
    assert result.report["verification"]["passed"] is None
    assert "no bfloat16 kernels" in result.report["verification"]["reason"]


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_model_that_stores_its_weights_in_16_bits_computes_in_fp32(precision: str, stored: type) -> None:
    model = text("g (float[N,8] x) => (float[N,4] y) { c = Cast<to=1>(w) m = MatMul(x, c) y = Relu(m) }")
    model = weights(model, w=np.ones((8, 4), stored))
    result = rewrite(model, precision=precision)
    assert result.report["kept_fp32"] == []
    assert result.report["verification"]["passed"] in (True, None)


@pytest.mark.parametrize(
    ("io_types", "expected"),
    [("keep", (1, 1, 1, 1)), ("low", (10, 10, 10, 10)), ("low=past,present", (10, 1, 10, 1))],
)
def test_interface_types(io_types: str, expected: tuple[int, ...]) -> None:
    model = rewrite(MODELS["concat_of_cache"](), fuse=(), io_types=io_types, verify=False).model
    infos = (*model.graph.input, *model.graph.output)
    assert [info.name for info in infos] == ["past", "x", "present", "y"]
    assert tuple(info.type.tensor_type.elem_type for info in infos) == expected


def test_a_bf16_interface_below_the_opset_of_its_casts_is_an_error() -> None:
    model = text(
        "g (float[2,3,4] x) => (float[2,3,4] y) { e = Exp(x) y = BatchNormalization<spatial: int = 1>(e, s, s, s, s) }",
        opset=8,
    )
    model = weights(model, s=np.ones(3, np.float32))
    with pytest.raises(ConversionError, match="needs opset 13 for its Casts, and the model has 8 and cannot be raised"):
        rewrite(model, precision="bf16", io_types="low", verify=False)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_sequence_of_the_interface_keeps_its_type(precision: str) -> None:
    """No Cast takes it; what stands beside it goes low."""
    model = text(
        "g (seq(float[N]) s, float[N] x) => (float[N] y, int64 n, seq(float[N]) t) { i = Constant<value_int = 0>() "
        "a = SequenceAt(s, i) m = Mul(a, x) c = Celu(m) y = Exp(c) n = SequenceLength(s) t = SequenceInsert(s, c) }"
    )
    result = rewrite(model, precision=precision, io_types="low", verify=False).model
    onnx.checker.check_model(result, full_check=True)
    kinds = {info.name: info.type for info in (*result.graph.input, *result.graph.output)}
    low = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    assert [kinds[name].tensor_type.elem_type for name in "xy"] == [low, low]
    assert [kinds[name].sequence_type.elem_type.tensor_type.elem_type for name in "st"] == [TensorProto.FLOAT] * 2


def test_int32_inputs_of_one_hot_are_cast() -> None:
    """onnxruntime has kernels for some triples of its types alone; this is none of them."""
    model = text("g (int64[3] i) => (float[3,8] y) { o = OneHot<axis=-1>(i, d, v) y = Exp(o) }")
    model = weights(model, d=np.array(8), v=np.array([0, 1], np.float32))
    result = rewrite(model, fuse=(), int32_inputs=True)
    assert result.report["interface"]["int32_inputs"] == {"i": "cast"}
    assert result.report["verification"]["passed"] is True


def test_int32_inputs_with_and_without_a_cast() -> None:
    gathered = rewrite(MODELS["gather_embedding"](), fuse=(), int32_inputs=True, verify=False)
    assert gathered.report["interface"]["int32_inputs"] == {"i": "direct"}
    assert not [node for node in _ops(gathered.model, "Cast") if "i" in node.input]
    model = text(
        "g (int64[2] i, int64[2] j) => (int64[2] y, float[2] z) { y = Add(i, j) f = Cast<to=1>(j) z = Exp(f) }"
    )
    both = rewrite(model, fuse=(), int32_inputs=True)
    assert both.report["interface"]["int32_inputs"] == {"i": "cast", "j": "cast"}
    assert {info.type.tensor_type.elem_type for info in both.model.graph.input} == {TensorProto.INT32}
    onnx.checker.check_model(both.model, full_check=True)


def test_what_peers_lose_survives() -> None:
    model = MODELS["quantized_annotation_and_metadata"]()
    typed = rewrite(model, fuse=(), verify=False).model
    assert typed.metadata_props == model.metadata_props
    assert (typed.doc_string, typed.graph.doc_string) == ("model doc", "graph doc")
    assert typed.graph.quantization_annotation == model.graph.quantization_annotation
    node = next(node for node in typed.graph.node if node.op_type == "MatMul")
    assert (node.doc_string, node.name, list(node.metadata_props)) == (
        "a doc",
        "/layer/MatMul",
        list(model.graph.node[0].metadata_props),
    )
    infos = {info.name: info.type.tensor_type for info in typed.graph.value_info}
    assert infos["h"].elem_type == TensorProto.FLOAT16
    assert infos["h"].shape.dim[0].dim_param == "N"
    assert typed.ir_version == model.ir_version


def test_the_quantized_part_is_untouched() -> None:
    model = MODELS["qdq_int8_opset21"]()
    typed = rewrite(model, fuse=(), verify=False).model
    before = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in typed.graph.initializer:
        if tensor.name != "bias":
            assert tensor == before[tensor.name]
    assert _types(typed)["m"] == TensorProto.FLOAT16


def test_plugin_types_are_as_declared() -> None:
    from precision_planner.rewriting.plugins import parse_plugins

    model = MODELS["unknown_op"]()
    kept = rewrite(model, fuse=(), verify=False)
    assert [e["op_type"] for e in kept.report["kept_fp32"]] == ["Thing"]
    low = rewrite(model, fuse=(), verify=False, plugins=parse_plugins(["Thing=low->fp32"]))
    node = next(node for node in low.model.graph.node if node.op_type == "Thing")
    assert node.input[0] == "a"
    assert _types(low.model)["a"] == TensorProto.FLOAT16
    with pytest.raises(ConversionError, match="cannot be read"):
        parse_plugins(["Thing=int8"])


def test_index_arithmetic_stays_fp32_with_its_reason() -> None:
    for name in ("resize_scales_computed", "resize_sizes_through_floor", "indices_from_coordinates"):
        kept = rewrite(MODELS[name](), fuse=(), verify=False).report["kept_fp32"]
        assert kept, name
        assert all("index arithmetic" in entry["reason"] for entry in kept if entry["op_type"] != "Resize"), name


def test_exact_cast_chains_are_gone_and_rounding_ones_stay() -> None:
    exact = rewrite(MODELS["cast_chains"](), fuse=(), verify=False).model
    casts = [(node.input[0], onnx.helper.get_node_attr_value(node, "to")) for node in _ops(exact, "Cast")]
    assert sorted(casts) == [("i", 10), ("x", 10), ("y__fp16", 1)]
    rounding = rewrite(MODELS["cast_chain_that_rounds"](), fuse=(), verify=False).model
    assert 6 in [onnx.helper.get_node_attr_value(node, "to") for node in _ops(rounding, "Cast")]


@pytest.mark.parametrize("source", sorted(INTEGERS + FLOATS))
@pytest.mark.parametrize("target", sorted(INTEGERS + FLOATS))
def test_a_cast_called_exact_gives_every_extreme_back(source: int, target: int) -> None:
    """Against numpy and ml_dtypes: the extremes of a type and their neighbors survive there and back, or not."""
    one, other = (np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)) for element in (source, target))
    if source in INTEGERS:
        info = np.iinfo(one)
        values = np.array([info.min, info.max, info.max - 1, 1, 0], one)
    else:
        limits = ml_dtypes.finfo(one)
        values = np.array([limits.max, limits.tiny, limits.smallest_subnormal, 1 + limits.eps, -1.5], one)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = [
            int(v) == int(w) if source in INTEGERS and target in INTEGERS else float(v) == float(w)
            for v, w in zip(values, values.astype(other), strict=True)
        ]
        if source in INTEGERS and target in FLOATS:
            exact = [
                int(v) == int(float(w)) if np.isfinite(float(w)) else False
                for v, w in zip(values, values.astype(other), strict=True)
            ]
    if is_exact(source, target):
        assert all(exact)
    elif not (source in FLOATS and target in INTEGERS):
        assert not all(exact)


def test_an_author_island_of_a_half_model_stays() -> None:
    model = MODELS["half_model_with_island"]()
    assert rewrite(model, verify=False).model.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
    mixed = rewrite(MODELS["mixed_model"](), verify=False)
    assert _types(mixed.model)["v"] == TensorProto.FLOAT16


def test_integers_alone_are_an_error() -> None:
    with pytest.raises(ConversionError, match="computes nothing in FP32"):
        rewrite(text("g (int64[N] x) => (int64[N] y) { y = Add(x, x) }"))


def test_a_selector_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(SelectorError, match="MatMull"):
        rewrite(MODELS["linear"](), keep_fp32=["MatMull"])


# compat


@pytest.mark.slow
def test_compat_block_lists_hold_and_unknown_ones_do_not_matter(bert: onnx.ModelProto) -> None:
    typed = convert_float_to_float16(bert, keep_io_types=True, op_block_list=["Softmax", "NoSuchOp"])
    types = _types(typed)
    assert {types[node.output[0]] for node in _ops(typed, "Softmax")} <= {TensorProto.FLOAT}
    assert typed.opset_import[0].version == bert.opset_import[0].version
    low = convert_float_to_float16(MODELS["linear"]())
    assert low.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    named = convert_float_to_float16(MODELS["linear"](), keep_io_types=["x"])
    assert [i.type.tensor_type.elem_type for i in (*named.graph.input, *named.graph.output)] == [1, 10]


@pytest.mark.slow
def test_compat_autocast_excludes_by_name_after_fusing(bert: onnx.ModelProto, tmp_path: Path) -> None:
    """AutoCast's exclusion matches nothing after it has fused; here the fused node inherits it."""
    path = tmp_path / "m.onnx"
    onnx.save(bert, path)
    typed = convert_to_mixed_precision(path, nodes_to_exclude=[".*LayerNorm.*", ".*/query/.*"], keep_io_types=True)
    types = _types(typed)
    queries = [node for node in typed.graph.node if "/query/" in node.name and node.op_type in ("MatMul", "Add")]
    assert queries
    assert {types[node.output[0]] for node in queries} == {TensorProto.FLOAT}
    brain = convert_to_mixed_precision(path, low_precision_type="bf16", op_types_to_exclude=["Softmax"])
    assert any(tensor.data_type == TensorProto.BFLOAT16 for tensor in brain.graph.initializer)


def test_compat_init_max_and_data_max() -> None:
    model = weights(
        text("g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) y = Add(a, b) }"),
        w=normal(4, 4),
        b=np.full(4, 300, np.float32),
    )
    typed = convert_to_mixed_precision(model, init_max=100.0)
    assert _types(typed)["b"] == TensorProto.FLOAT
    assert _types(typed)["w"] == TensorProto.FLOAT16
    data = {"x": np.ones((2, 4), np.float32)}
    typed = convert_to_mixed_precision(model, data_max=100.0, calibration_data=data)
    assert _types(typed)["b"] == TensorProto.FLOAT


# surgery

SCRIPT = """
import numpy as np

def surgery(graph):
    node = next(node for node in graph.nodes if node.op == "Relu")
    node.op = "Tanh"

def double(graph):
    weight = next(t for t in graph.tensors().values() if t.name == "w")
    weight.values = weight.values * 2
    return graph

def bad(graph):
    return 3
"""


def test_surgery_changes_what_it_changes_and_loses_nothing(tmp_path: Path) -> None:
    script = tmp_path / "fix.py"
    script.write_text(SCRIPT)
    model = MODELS["quantized_annotation_and_metadata"]()
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("note", b"\xff\xfe"))
    result = rewrite(model, precision="fp32", fuse=(), surgery=str(script), verify=False).model
    assert [node.op_type for node in result.graph.node] == ["MatMul", "Tanh"]
    assert result.graph.node[0] == model.graph.node[0]
    assert result.metadata_props == model.metadata_props
    assert result.graph.value_info == model.graph.value_info
    assert result.graph.quantization_annotation == model.graph.quantization_annotation
    assert result.graph.initializer == model.graph.initializer
    doubled = rewrite(model, precision="fp32", fuse=(), surgery=f"{script}:double", verify=False).model
    np.testing.assert_array_equal(
        numpy_helper.to_array(doubled.graph.initializer[0]), 2 * numpy_helper.to_array(model.graph.initializer[0])
    )


def test_surgery_reads_large_weights_and_keeps_overridable_initializers(tmp_path: Path) -> None:
    script = tmp_path / "fix.py"
    script.write_text(SCRIPT)
    model = weights(
        text("g (float[N,64] x, float[64] b) => (float[N,64] y) { h = MatMul(x, w) a = Add(h, b) y = Relu(a) }"),
        w=normal(64, 64),
        b=normal(64),
    )
    doubled = rewrite(model, precision="fp32", fuse=(), surgery=f"{script}:double", verify=False).model
    by_name = {tensor.name: numpy_helper.to_array(tensor) for tensor in doubled.graph.initializer}
    np.testing.assert_array_equal(by_name["w"], 2 * normal(64, 64))
    assert [info.name for info in doubled.graph.input] == ["x", "b"]


@pytest.mark.parametrize("function", ["bad", "missing"])
def test_surgery_mistakes_are_one_line(function: str, tmp_path: Path) -> None:
    script = tmp_path / "fix.py"
    script.write_text(SCRIPT)
    with pytest.raises(SurgeryError):
        rewrite(MODELS["linear"](), surgery=f"{script}:{function}")
    with pytest.raises(SurgeryError, match="does not exist"):
        rewrite(MODELS["linear"](), surgery=str(tmp_path / "no.py"))


# the command


def test_the_command_writes_beside_the_model_and_never_overwrites(
    bert: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(bert, path)
    assert main(["rewrite", str(path), "--keep-fp32", "layernorm", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"fused", "rejected", "kept_fp32", "converted", "casts", "verification", "names"} <= report.keys()
    assert report["verification"]["passed"] is True
    assert report["verification"]["max_abs"] < 1e-4
    assert (tmp_path / "model.fp16.onnx").is_file()
    assert main(["rewrite", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["rewrite", str(path), "--force", "--no-verify"]) == 0
    assert main(["rewrite", str(path), "-o", str(path), "--force"]) == 2
    assert main(["rewrite", str(path), "--precision", "fp32", "--no-verify"]) == 0
    assert onnx.load(tmp_path / "model.fp32.onnx").opset_import[0].version == 17


def test_layernorm_as_a_plugin(bert: onnx.ModelProto) -> None:
    model = rewrite(bert, layernorm="plugin:LayerNorm", verify=False).model
    assert len(_ops(model, "LayerNorm")) == 5
    with pytest.raises(ConversionError, match="plugin:NAME"):
        rewrite(bert, layernorm="apex")


@pytest.mark.slow
def test_a_crash_of_onnxruntimes_is_not_ours(tmp_path: Path) -> None:
    """A Transpose that swaps two axes before a product with a constant, as torch's attention has it."""
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), helper.make_node("MatMul", ["t", "w"], ["y"])]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "swapped",
        [value("x", TensorProto.FLOAT, ["n", 7, 32])],
        [value("y", TensorProto.FLOAT, [7, "n", 96])],
        [numpy_helper.from_array(np.ones((32, 96), np.float32), "w")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    command = [sys.executable, "-m", "precision_planner", "rewrite", str(path)]  # in a process that may die
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
