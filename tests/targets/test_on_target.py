"""What a target does not take, and what its builder is known to do wrong: found before the build, in one line each."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, parser

import precision_planner as pp
from precision_planner.analysis.on_target import find_defects, find_refused
from precision_planner.cli.main import main
from precision_planner.errors import TargetError
from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.targets import TARGETS, get_target

HEAD = '<ir_version: 10, opset_import: ["" : %d]> g '


def model(text: str, opset: int = 17) -> Model:
    return Model.load(parser.parse_model(HEAD % opset + text))


def int8_constant() -> Model:
    made = parser.parse_model(HEAD % 17 + "(float[4] x) => (float[4] y) { f = Cast<to = 1>(k) y = Add(x, f) }")
    made.graph.initializer.append(numpy_helper.from_array(np.arange(4, dtype=np.int8), "k"))
    return Model.load(made)


ATTENTION = "(float16[1,2,8,32] q, float16[1,2,8,32] k, float16[1,2,8,32] v) => (float16[1,2,8,32] y%s) "
REFUSED = {
    "present outputs": (
        model((ATTENTION % ", float16[1,2,16,32] pk, float16[1,2,16,32] pv")
              .replace("v)", "v, float16[1,2,8,32] a, float16[1,2,8,32] b)", 1)
              + "{ y, pk, pv = Attention(q, k, v, , a, b) }", 23), "Attention"),
    "softcap": (model(ATTENTION % "" + "{ y = Attention<softcap = 30.0>(q, k, v) }", 23), "Attention"),
    "SplitToSequence": (
        model("(float[4,2] x) => (float[2,2] y) <int64 i = {0}, int64[2] p = {2,2}> "
              "{ s = SplitToSequence<axis=0>(x, p) y = SequenceAt(s, i) }"), "SplitToSequence"),
    "DynamicQuantizeLinear": (
        model("(float[4] x) => (uint8[4] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }"),
        "DynamicQuantizeLinear"),
    "ScatterElements add": (
        model("(float[4] x, int64[2] i, float[2] u) => (float[4] y) "
              '{ y = ScatterElements<reduction="add">(x, i, u) }'),
        "ScatterElements"),
    "three outputs": (
        model("(float[2,4] x) => (float[2,4] y, float[2,1] m) <float[4] g = {1,1,1,1}> "
              "{ y, m, i = LayerNormalization(x, g) }"), "LayerNormalization"),
    "int8 constant": (int8_constant(), "Cast"),
    "BF16 ConvTranspose": (
        model("(bfloat16[1,2,4,4] x) => (bfloat16[1,2,5,5] y) <bfloat16[2,2,2,2] w = "
              "{1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}> { y = ConvTranspose(x, w) }", 22), "ConvTranspose"),
}  # fmt: skip
ACCEPTED = {
    "one output": model(ATTENTION % "" + "{ y = Attention(q, k, v) }", 23),
    "no reduction": model("(float[4] x, int64[2] i, float[2] u) => (float[4] y) { y = ScatterElements(x, i, u) }"),
    "statistics unread": model(
        "(float[2,4] x) => (float[2,4] y) <float[4] g = {1,1,1,1}> { y = LayerNormalization(x, g) }"
    ),
    "FP16 ConvTranspose": model(
        "(float16[1,2,4,4] x) => (float16[1,2,5,5] y) <float16[2,2,2,2] w = "
        "{1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}> { y = ConvTranspose(x, w) }",
        22,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_rtx_refuses_is_in_the_files_of_11_and_rtx(name: str) -> None:
    source, op_type = REFUSED[name]
    for target in ("tensorrt-11", "tensorrt-11-jetson", "tensorrt-rtx"):
        found = find_refused(source, get_target(target))
        assert op_type in {entry.op_type for entry in found}
        assert all(entry.reason and entry.instead and entry.source for entry in found)


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_it_takes_is_not(name: str) -> None:
    assert find_refused(ACCEPTED[name], get_target("tensorrt-11")) == ()


@pytest.mark.rtx
@pytest.mark.parametrize("name", [*REFUSED, *ACCEPTED])
def test_the_file_says_what_the_parser_and_builder_say(name: str) -> None:
    """TensorRT-RTX itself, which has TensorRT 11's parser."""
    from precision_planner.emitting.rtx import rtx_build

    source = REFUSED[name][0] if name in REFUSED else ACCEPTED[name]
    assert rtx_build(source).ok == (name in ACCEPTED)


@pytest.mark.rtx
def test_the_operators_without_an_importer_are_those_that_the_parser_says_it_lacks() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from precision_planner.emitting.rtx import _capture_log, _new_network

    with _capture_log(trt) as log:
        _, asked = _new_network(trt, trt.Builder(log.logger), log)
        (absent,) = (entry for entry in get_target("tensorrt-rtx").refused if "no such operator" in entry.reason)
        known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
        offered = [name for name in absent.op_types if name in known and asked.supports_operator(name)]
        assert offered == []


def test_every_refusal_names_operators_that_there_are_and_its_source() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()} | {"SwiGLU"}
    for target in TARGETS.values():
        for entry in target.refused:
            assert entry.source
            assert set(entry.op_types) | set(entry.but_for) <= known
            assert bool(entry.op_types) != bool(entry.but_for)


def network(opset: int = 22) -> onnx.ModelProto:
    """Pooling, a Resize, a reduction and a comparison among what has a kernel in BF16."""
    rng = np.random.default_rng(0)
    text = (
        "(float[1,3,16,16] x) => (float[1,4,1,1] y) <float zero = {0}, float[4] s = {1,1,2,2}, float[0] roi> {"
        " c = Conv(x, w) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c) r = Resize(p, roi, s)"
        " m = Greater(r, zero) k = Where(m, r, zero) e = Exp(k) f = Reciprocal(e)"
        " y = ReduceMean<keepdims=1>(f, axes) }"
    )
    made = parser.parse_model(HEAD % opset + text.replace(", float[0] roi", ""))
    made.graph.initializer.extend(
        [
            numpy_helper.from_array(rng.normal(size=(4, 3, 3, 3)).astype(np.float32) * 0.1, "w"),
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
            numpy_helper.from_array(np.zeros(0, np.float32), "roi"),
        ]
    )
    return made


def test_a_bf16_plan_for_onnxruntime_keeps_in_fp32_what_has_no_kernel() -> None:
    batch = {"x": np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    planned = pp.plan(network(), target="onnxruntime", precision="bf16", inputs=batch, verify=False)
    typed = Model.load(planned.model.to_proto())
    types = infer_types(typed)
    without = {"MaxPool", "Resize", "Greater", "Reciprocal", "ReduceMean"}
    for node in typed.proto.graph.node:
        kinds = {types[(), name].elem_type for name in (*node.input, *node.output) if ((), name) in types}
        assert (TensorProto.BFLOAT16 in kinds) <= (node.op_type not in without)
    assert {node.op_type for node in planned.plan.nodes if node.precision == "bf16"} >= {"Conv", "Exp"}
    said = {node.op_type: node.reason for node in planned.plan.nodes if node.precision == "fp32"}
    assert "no kernel for it in BF16" in said["MaxPool"]
    assert planned.plan.refused == ()
    other = pp.plan(network(), target="tensorrt-11", precision="bf16", inputs=batch, verify=False)
    assert other.plan.counts.get("fp32", 0) < planned.plan.counts["fp32"]


def test_analyze_lists_them_with_the_way_round(tmp_path: Path, capsys) -> None:
    onnx.save(REFUSED["SplitToSequence"][0].to_proto(), tmp_path / "m.onnx")
    main(["analyze", str(tmp_path / "m.onnx"), "--target", "tensorrt-11", "--no-calibrate"])
    told = " ".join(capsys.readouterr().out.split())  # wrapped for the terminal
    assert re.search(
        r"tensorrt-11 refuses .*\(SplitToSequence\): its parser has no such operator; compute it outside", told
    )
    main(["analyze", str(tmp_path / "m.onnx"), "--target", "onnxruntime", "--no-calibrate", "--json", "-"])
    assert json.loads(capsys.readouterr().out)["refused"] == []


# --- known defects

YOLO = (
    "(float16[1,8,4,4] x) => (float16[1,12,4,4] y) <int64[2] halves = {4,4}> {"
    " a, b = Split<axis=1>(x, halves) c = Relu(b) d = Add(c, b) y = Concat<axis=1>(a, b, d) }"
)
SCORES = (
    "(float[2,8,16] q, float[2,8,16] v) => (float[2,8,16] y) { s = Softmax<axis=-1>(q) t = Transpose<perm=[0,1,2]>(s) "
)
SCORES += "y = Mul(t, v) }"


def keys(source: Model, target: str, precision: str = "") -> set[str]:
    return {entry.key for entry in find_defects(source, get_target(target), precision)}


def test_a_shortcut_into_a_concat_is_named_for_11_in_half() -> None:
    assert keys(model(YOLO), "tensorrt-11") == {"strided-shortcut"}
    assert keys(model(YOLO.replace("float16", "float")), "tensorrt-11") == set()
    assert keys(model(YOLO.replace("float16", "float")), "tensorrt-11", "fp16") == {"strided-shortcut"}
    assert keys(model(YOLO), "tensorrt-10-strong") == set()
    assert keys(model(YOLO.replace("Concat<axis=1>(a, b, d)", "Concat<axis=1>(a, b, b)")), "tensorrt-11") == set()


def test_attention_is_followed_through_what_moves_values_and_not_on_a_jetson() -> None:
    attention = model(SCORES.replace("Mul(t, v)", "MatMul(t, w)").replace("v) =>", "v, float[2,16,16] w) =>"))
    assert "mha-sm120" in keys(attention, "tensorrt-11", "fp16")
    assert keys(attention, "tensorrt-11-jetson", "fp16") == set()
    assert keys(attention, "tensorrt-8.6", "fp16") == set()
    assert keys(model(SCORES), "tensorrt-11", "fp16") == set()


def test_lost_axes_are_named_where_they_are_an_input() -> None:
    text = "(float[4,8] x) => (float[4,1] y) <int64[1] last = {1}> { y = ReduceLogSumExp(x, last) }"
    assert keys(model(text, 18), "tensorrt-10") == {"lse-axes"}
    assert keys(model(text, 18), "onnxruntime") == set()
    assert keys(model("(float[4,8] x) => (float[4,1] y) { y = ReduceLogSumExp<axes=[1]>(x) }"), "tensorrt-10") == set()


def test_the_folder_names_them_and_diagnose_says_so(tmp_path: Path) -> None:
    source = model(YOLO.replace("float16", "float"))
    planned = pp.plan(source, target="tensorrt-11", io_types="low", verify=False, only=("AC001",))
    planned.save(tmp_path / "plan")
    readme = (tmp_path / "plan" / "README.md").read_text()
    assert "## Known defects of the builder" in readme
    assert "TensorRT/issues/4854" in readme
    sys.path.insert(0, str(tmp_path / "plan"))
    try:
        import diagnose

        told = diagnose.known_defects(json.loads((tmp_path / "plan" / "plan.json").read_text()))
    finally:
        sys.path.remove(str(tmp_path / "plan"))
        for name in ("diagnose", "verify", "build", "engine_types"):
            sys.modules.pop(name, None)
    assert "TensorRT/issues/4854" in told
    assert told.count("known:") == 1


@pytest.mark.parametrize("target", TARGETS)
def test_every_defect_has_what_a_reader_needs(target: str) -> None:
    for defect in get_target(target).defects:
        assert defect.reference.startswith("https://")
        assert defect.symptom
        assert defect.breaker
        assert all(onnx.defs.has(name) for name in defect.operators)
    assert len({defect.key for defect in get_target(target).defects}) == len(get_target(target).defects)


def test_rewrite_for_a_target_keeps_what_it_has_no_kernel_for() -> None:
    batch = {"x": np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    anywhere = pp.rewrite(network(), precision="bf16", inputs=batch)
    result = pp.rewrite(network(), precision="bf16", target="onnxruntime", inputs=batch)
    kept = {entry["op_type"] for entry in result.report["kept_fp32"]}
    assert {"MaxPool", "Resize", "ReduceMean"} <= kept
    assert "MaxPool" not in {entry["op_type"] for entry in anywhere.report["kept_fp32"]}
    with pytest.raises(TargetError, match="weakly typed"):
        pp.rewrite(network(), target="tensorrt-8.6")


def test_rewrite_for_a_target_is_judged_by_its_arithmetic() -> None:
    made = parser.parse_model(
        HEAD % 13 + "(float[2,256] x) => (float[2,256] y) { y = LpNormalization<axis=-1, p=2>(x) }"
    )
    batch = {"x": np.full((2, 256), 25, np.float32)}
    here, there = (
        pp.rewrite(made, precision="fp16", target=target, inputs=batch).report["verdict"]["grade"]
        for target in ("onnxruntime", "tensorrt-10-strong")
    )
    assert (here, there) == ("FINE", "GARBAGE")


def test_what_sources_name_of_the_repository_is_there() -> None:
    root = Path(__file__).resolve().parents[2]
    for target in TARGETS.values():
        for text in (*target.sources.values(), *(entry.source for entry in (*target.lowering, *target.refused))):
            for path in re.findall(r"\b((?:evidence|benchmarks|docs)/[\w/.]+\.(?:json|py|md))", text):
                assert path == "docs/operators.md" or path == "docs/OperatorKernels.md" or (root / path).exists(), path


READERS = {
    "ArgMax": "i = ArgMax<axis = -1>(h) y = Cast<to = 1>(i)",
    "NonZero": "i = NonZero(h) y = Cast<to = 1>(i)",
    "Greater": "i = Greater(h, zero) y = Cast<to = 1>(i)",
    "Less": "i = Less(h, zero) y = Cast<to = 1>(i)",
    "ReduceMax": "y = ReduceMax<keepdims = 0>(h)",
    "Pad": "y = Pad(h, pads)",
    "Softplus": "y = Softplus(h)",
    "TopK": "y, i = TopK(h, k)",
}


@pytest.mark.parametrize("reader", READERS)
def test_what_onnxruntime_has_no_bf16_kernel_for_reads_fp32(reader: str) -> None:
    """Operators whose result is no float, too: they read what is stored, and that is then FP32."""
    source = model(
        "(float[4,4] x) => (float[?] y) <float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}, float zero = {0}, "
        "int64[4] pads = {0,1,0,1}, int64[1] k = {2}> { h = MatMul(x, w) " + READERS[reader] + " }",
        18,
    )
    target = get_target("onnxruntime")
    planned = pp.plan(source, target="onnxruntime", precision="bf16", verify=False)
    typed = planned.model
    assert find_refused(typed, target) == ()
    node = next(node for node in typed.proto.graph.node if node.op_type == reader)
    kinds = infer_types(typed)
    assert kinds.of(GraphIndex(typed.proto).main, node.input[0]).elem_type == TensorProto.FLOAT


SEGFORMER = (
    "(float[n,16,8] x, float[8,8,2,2] w, float[8,8] k) => (float[n,4,8] y) <float[8] g = {1,1,1,1,1,1,1,1}, "
    "int64[4] image = {0,8,4,4}, int64[3] tokens = {0,8,4}> "
    "{ a = LayerNormalization(x, g) t = Transpose<perm = [0,2,1]>(a) r = Reshape(t, image) "
    "c = Conv<strides = [2,2]>(r, w) f = Reshape(c, tokens) b = Transpose<perm = [0,2,1]>(f) "
    "n = LayerNormalization(b, g) y = MatMul(n, k) }"
)


def test_segformers_attention_is_told_from_a_convnexts_block() -> None:
    assert "segformer-batch" in keys(model(SEGFORMER), "tensorrt-11")
    assert "segformer-batch" in keys(model(SEGFORMER), "tensorrt-10-strong")
    assert "segformer-batch" not in keys(model(SEGFORMER), "tensorrt-8.6")
    other = SEGFORMER.replace("a = LayerNormalization(x, g)", "a = Relu(x)")
    assert "segformer-batch" not in keys(model(other), "tensorrt-11")


def test_a_resize_behind_an_if_needs_dynamic_shapes_to_be_wrong() -> None:
    text = (
        "(bool c, float[1,4,4,n] x) => (float[?,?,?,?] y) <float[4] s = {1,1,2,2}> { i = If(c) <then_branch = a () => "
        "(float[1,4,4,n] p) { p = Relu(x) }, else_branch = b () => (float[1,4,4,n] q) { q = Abs(x) }> "
        "t = Transpose<perm = [0,3,1,2]>(i) y = Resize(t, , s) }"
    )
    assert "if-transpose-resize" in keys(model(text), "tensorrt-11")
    assert "if-transpose-resize" not in keys(model(text.replace("n]", "3]")), "tensorrt-11")
    assert "if-transpose-resize" not in keys(model(text), "tensorrt-10-strong")
