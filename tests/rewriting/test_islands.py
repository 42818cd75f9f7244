"""FP32 islands that a builder would take away are given what keeps them, and only these."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from precision_planner.model import Model
from precision_planner.rewriting.islands import keep_islands
from precision_planner.targets import TARGETS
from precision_planner.targets.target import Islands

RNG = np.random.default_rng(0)
M, K, N = 64, 256, 128
RTX = TARGETS["tensorrt-rtx"].islands
WEIGHT = (RNG.standard_normal((K, N)) * 0.03).astype(np.float32)
FILTER = (RNG.standard_normal((32, 32, 3, 3)) * 0.05).astype(np.float32)
POINT = np.ascontiguousarray(WEIGHT.T).reshape(N, K, 1, 1)
BIAS = RNG.standard_normal(N).astype(np.float32)
Variant = tuple[str, onnx.ModelProto, str, bool]


def _node(op: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"{op}_{output}", **attributes)


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=to)


def variants() -> Iterator[Variant]:
    """(what, model, the weight, whether TensorRT-RTX takes the island away): x half -> FP32 -> .. -> half."""
    flat, square, wide = (M, K), (1, 32, 28, 28), (1, K, 16, 16)
    product = _node("MatMul", "a w", "m")

    def of(what, nodes, taken, shape=flat, low=T.FLOAT16, out=T.FLOAT16, extra=(), outs=(), **weights) -> Variant:
        last = nodes[-1].output[0]
        body = [_cast("x", "a", T.FLOAT), *nodes, _cast(last, "o", out)]
        tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
        inputs = [helper.make_tensor_value_info("x", low, shape), *extra]
        outputs = [helper.make_tensor_value_info("o", out, None), *outs]
        graph = helper.make_graph([_copy(n) for n in body], "g", inputs, outputs, tensors)
        opset = [helper.make_opsetid("", 22)]
        weight = "v" if "second" in what else "b16" if "b16" in weights else "w"
        model = helper.make_model(graph, opset_imports=opset, ir_version=10)
        model.graph.output[0].CopyFrom(onnx.shape_inference.infer_shapes(model).graph.output[0])
        return what, model, weight, taken

    relu, add = _node("Relu", "m", "r"), _node("Add", "m b", "r")
    yield of("MatMul", [product], True, w=WEIGHT)
    yield of("MatMul, Relu", [product, relu], False, w=WEIGHT)
    yield of("MatMul, Mul", [product, _node("Mul", "m s", "r")], False, w=WEIGHT, s=np.float32(3))
    yield of("MatMul, Add", [product, add], False, w=WEIGHT, b=BIAS)
    yield of("MatMul, Add of zeros", [product, add], False, w=WEIGHT, b=BIAS * 0)
    yield of("Gemm with bias", [_node("Gemm", "a w b", "m")], False, w=WEIGHT, b=BIAS)
    yield of("Gemm", [_node("Gemm", "a w", "m")], True, w=WEIGHT)
    residual = [_cast("y", "z", T.FLOAT), product, _node("Add", "m z", "r")]
    given = helper.make_tensor_value_info("y", T.FLOAT16, (M, N))
    yield of("MatMul, residual", residual, False, extra=[given], w=WEIGHT)
    split = np.array([M, 8, N // 8])
    yield of("MatMul, Reshape", [product, _node("Reshape", "m s", "r")], True, w=WEIGHT, s=split)
    yield of("MatMul, Transpose", [product, _node("Transpose", "m", "r", perm=[1, 0])], True, w=WEIGHT)
    before = [_node("Reshape", "a s", "q"), _node("MatMul", "q w", "m")]
    yield of("Reshape, MatMul", before, True, (8, M // 8, K), w=WEIGHT, s=np.array([M, K]))
    twice = [product, _node("MatMul", "m v", "r")]
    square_weight = (RNG.standard_normal((N, N)) * 0.03).astype(np.float32)
    yield of("MatMul, MatMul, first", twice, False, w=WEIGHT, v=square_weight)
    yield of("MatMul, MatMul, second", twice, False, w=WEIGHT, v=square_weight)
    yield of("Relu, MatMul", [_node("Relu", "a", "q"), _node("MatMul", "q w", "m")], False, w=WEIGHT)
    yield of("Exp, MatMul", [_node("Exp", "a", "q"), _node("MatMul", "q w", "m")], False, w=WEIGHT)
    seen = helper.make_tensor_value_info("m", T.FLOAT, (M, N))
    yield of("MatMul, read in FP32", [product], False, outs=[seen], w=WEIGHT)
    yield of("MatMul, Cast to BF16", [product], False, out=T.BFLOAT16, w=WEIGHT)
    yield of("BF16, MatMul, BF16", [product], True, low=T.BFLOAT16, out=T.BFLOAT16, w=WEIGHT)
    stored = [_cast("b16", "w", T.FLOAT), product]
    yield of("weight stored in BF16", stored, True, b16=WEIGHT.astype(ml_dtypes.bfloat16))
    yield of("Conv 1x1", [_node("Conv", "a w", "m")], True, wide, w=POINT)
    yield of("Conv 1x1 with bias", [_node("Conv", "a w b", "m")], True, wide, w=POINT, b=BIAS)
    three = _node("Conv", "a w", "m", pads=[1] * 4)
    biased = [_node("Conv", "a w b", "m", pads=[1] * 4), relu]
    yield of("Conv 3x3 with bias, Relu", biased, False, square, w=FILTER, b=BIAS[:32])
    yield of("Conv 3x3", [three], True, square, w=FILTER)
    yield of("ConvTranspose", [_node("ConvTranspose", "a w", "m", pads=[1] * 4)], True, square, w=FILTER)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    return onnx.NodeProto.FromString(node.SerializeToString())


@pytest.mark.parametrize("variant", [*variants()], ids=lambda variant: variant[0])
def test_what_would_be_taken_gets_an_add_of_zero(variant: Variant) -> None:
    _, model, _, taken = variant
    kept = keep_islands(Model.load(model), RTX)
    assert bool(kept.products) == taken
    if not taken:
        assert kept.model.to_bytes() == Model.load(model).to_bytes()
        return
    written = kept.model.to_proto()
    onnx.checker.check_model(written, full_check=True)
    product = next(n for n in written.graph.node if n.output[0] == "m")
    made = {n.output[0]: n for n in written.graph.node}
    hold = made[product.input[0]]
    assert hold.op_type == "Add"
    zero = next(t for t in written.graph.initializer if t.name == hold.input[1])
    assert numpy_helper.to_array(zero) == 0


def test_products_of_one_value_share_the_add() -> None:
    nodes = [_cast("x", "a", T.FLOAT)]
    for n in "qkv":
        nodes += [_node("MatMul", f"a w{n}", f"m{n}"), _cast(f"m{n}", n, T.FLOAT16)]
    outputs = [helper.make_tensor_value_info(n, T.FLOAT16, (M, N)) for n in "qkv"]
    tensors = [numpy_helper.from_array(WEIGHT, f"w{n}") for n in "qkv"]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", T.FLOAT16, (M, K))], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    kept = keep_islands(Model.load(model), RTX)
    assert len(kept.products) == 3
    assert [n.op_type for n in kept.model.proto.graph.node].count("Add") == 1


def test_halves_and_targets_without_the_fault_are_left_alone() -> None:
    _, model, *_ = next(variants())
    assert not keep_islands(Model.load(model), Islands()).products
    half = numpy_helper.from_array(WEIGHT.astype(np.float16), "h")
    model.graph.initializer.append(half)
    model.graph.node[1].input[1] = "hw"
    model.graph.node.insert(0, _cast("h", "hw", T.FLOAT))
    assert not keep_islands(Model.load(model), RTX).products  # a sandwich: its weights are halves
