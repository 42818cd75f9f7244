"""Constants get their consumer's rank: the same values to the bit, no broadcast layer left in TensorRT's network."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from precision_planner.model import GraphIndex, Model
from precision_planner.transforms.constant_rank import give_consumers_rank

HEADER = '<ir_version: 8, opset_import: ["":17]>\n'


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEADER + text)


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def test_vectors_scalars_and_constant_nodes_get_the_rank():
    model = parse(
        """g (float[B,S,4] x) => (float[B,S,4] y) <float[4] w = {1, 2, 3, 4}, float e = {0.5}> {
        c = Constant<value_floats=[2.0, 2.0, 2.0, 2.0]>()
        a = Mul(x, w)
        b = Add(e, a)
        y = Div(b, c)
        }"""
    )
    result = give_consumers_rank(Model.load(model))
    assert [(change.constant, change.after) for change in result.changes] == [
        ("w", (1, 1, 4)),
        ("e", (1, 1, 1)),
        ("c", (1, 1, 4)),
    ]
    proto = result.model.to_proto()
    assert shapes(proto) == {"w_rank3": (1, 1, 4), "e_rank3": (1, 1, 1), "c_rank3": (1, 1, 4)}
    assert [node.op_type for node in proto.graph.node] == ["Mul", "Add", "Div"]
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    assert all(np.array_equal(a, b) for a, b in zip(run(model, x=x), run(proto, x=x), strict=True))


def test_shared_constants_keep_their_shape_for_others():
    weight = np.random.default_rng(0).normal(size=(512,)).astype(np.float32)  # large enough to be stored
    model = parse(
        "g (float[B,512] x, float[512] v) => (float[B,512] y, float[512] z) { y = Mul(x, w)\n z = Mul(v, w) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    result = give_consumers_rank(Model.load(model))
    proto = result.model.to_proto()
    assert shapes(proto) == {"w": (512,), "w_rank2": (1, 512)}
    assert all(np.array_equal(numpy_helper.to_array(tensor).ravel(), weight) for tensor in proto.graph.initializer)
    assert len(result.model.weights) == 1, "the copy shares the stored weights"


@pytest.mark.parametrize(
    "text",
    [
        "g (float[B,4] x, float[4] w) => (float[B,4] y) { y = Mul(x, w) }",  # not a constant
        "g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> { y = Mul(x, w) }",  # has the rank
        "g (float[B,4] x) => (float[B,4] y) <float[4,4] w = {1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}> "
        "{ y = MatMul(x, w) }",  # no broadcasting of ranks
        "g (float[B,4] x) => (float[B,4] y) <float[4] w = {1, 2, 3, 4}, float[4] b = {0,0,0,0}> "
        "{ y = LayerNormalization(x, w, b) }",
    ],
)
def test_everything_else_stays_as_it_is(text: str):
    model = Model.load(parse(text))
    result = give_consumers_rank(model)
    assert result.model is model
    assert result.changes == ()


def test_an_initializer_that_a_caller_may_override_is_left_alone():
    model = parse("g (float[B,4] x, float[4] w = {1, 2, 3, 4}) => (float[B,4] y) { y = Mul(x, w) }")
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    assert give_consumers_rank(Model.load(model)).changes == ()


def test_a_constant_of_the_graph_around_a_body_is_reached():
    model = parse(
        """g (float[B,4] x, bool c) => (float[B,4] y) <float[4] w = {1, 2, 3, 4}> {
        y = If(c) <
          then_branch = t () => (float[B,4] a) { a = Mul(x, w) },
          else_branch = e () => (float[B,4] d) { d = Identity(x) }
        > }"""
    )
    result = give_consumers_rank(Model.load(model))
    proto = result.model.to_proto()
    assert shapes(proto) == {"w_rank2": (1, 4)}
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for condition in (True, False):
        inputs = {"x": x, "c": np.array(condition)}
        assert np.array_equal(run(model, **inputs)[0], run(proto, **inputs)[0])


def test_only_the_nodes_asked_for_are_changed():
    model = Model.load(
        parse("g (float[B,4] x) => (float[B,4] y) <float[4] w = {1, 2, 3, 4}> { a = Mul(x, w)\n y = Add(a, w) }")
    )
    index = GraphIndex(model.proto)
    result = give_consumers_rank(model, {index.node_id(index.main, 1)})
    assert [change.node.output for change in result.changes] == ["y"]
    assert shapes(result.model.to_proto()) == {"w": (4,), "w_rank2": (1, 4)}


@given(
    op=st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min"]),
    rank=st.integers(1, 4),
    constant_rank=st.integers(0, 4),
    first=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_broadcasting_prepends_axes_of_size_one(op: str, rank: int, constant_rank: int, first: bool, seed: int):
    """ONNX, Broadcasting: the tensor with fewer dimensions is prepended with dimensions of size 1."""
    rng = np.random.default_rng(seed)
    dims = [int(size) for size in rng.integers(1, 4, rank)]
    wanted = [size if rng.random() < 0.7 else 1 for size in dims[max(0, rank - constant_rank) :]]
    wanted = [1] * (constant_rank - len(wanted)) + wanted
    operands = "c, x" if first else "x, c"
    size = max(rank, constant_rank)
    out = ",".join(f"O{axis}" for axis in range(size))
    shape = ",".join(f"D{axis}" for axis in range(rank))
    model = parse(f"g (float[{shape}] x) => (float[{out}] y) {{ y = {op}({operands}) }}")
    constant = rng.normal(size=wanted).astype(np.float32) + 3
    model.graph.initializer.append(numpy_helper.from_array(constant, "c"))
    result = give_consumers_rank(Model.load(model))
    assert len(result.changes) == (constant_rank < rank)
    x = rng.normal(size=dims).astype(np.float32) + 3
    assert np.array_equal(run(model, x=x)[0], run(result.model.to_proto(), x=x)[0])


@pytest.mark.rtx
def test_tensorrt_adds_no_broadcast_layer_any_more():
    from precision_planner.emitting.rtx import rtx_build

    model = Model.load(
        parse(
            "g (float[B,S,4] x) => (float[B,S,4] y) <float[4] w = {1, 2, 3, 4}, float e = {0.5}> "
            "{ [m] a = Mul(x, w)\n [a] y = Add(a, e) }"
        )
    )

    def shuffles(of: Model) -> int:
        result = rtx_build(of)
        assert result.ok
        return sum(layer.kind == "SHUFFLE" for layer in result.layers)

    assert shuffles(model) == 2
    assert shuffles(give_consumers_rank(model).model) == 0
