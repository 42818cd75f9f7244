"""Small random models of what precision plans trip over: products, norms, masks, selections, bodies, great ranges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

WIDTH = 8
"""Length of the last axis of every value that flows from block to block; the first one is rows."""


@dataclass
class Drawn:
    """A model and its inputs, as they grow."""

    rng: np.random.Generator
    rows: int
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def node(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """A node; the name of its first output."""
        number = len(self.nodes)
        names = [f"v{number}" if at == 0 else f"v{number}_{at}" for at in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"{op_type.lower()}{number}", **attributes))
        return names[0]

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        """An initializer."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def matrix(self, scale: float = 1.0) -> str:
        """A weight matrix that keeps the size of what it is multiplied with, but for `scale`."""
        return self.constant(self.rng.standard_normal((WIDTH, WIDTH)) * scale / WIDTH**0.5)

    def output(self, value: str, kind: int, shape: list[int]) -> None:
        """Return a value."""
        self.outputs.append(helper.make_tensor_value_info(value, kind, shape))


def _scale(drawn: Drawn) -> float:
    """Mostly 1; sometimes what leaves the range of FP16 or its resolution behind."""
    return float(drawn.rng.choice([1.0, 1.0, 1.0, 30.0, 1e3, 2e4, 1e-3, 1e-6]))


def product(drawn: Drawn, x: str) -> str:
    """A layer: product, bias, activation."""
    y = drawn.node("MatMul", x, drawn.matrix(_scale(drawn)))
    if drawn.rng.random() < 0.6:
        y = drawn.node("Add", y, drawn.constant(drawn.rng.standard_normal(WIDTH)))
    return drawn.node(str(drawn.rng.choice(["Relu", "Tanh", "Identity", "Abs"])), y)


def residual(drawn: Drawn, x: str) -> str:
    """A sum with what came before."""
    return drawn.node("Add", x, product(drawn, x))


def norm(drawn: Drawn, x: str) -> str:
    """A LayerNormalization in its parts."""
    mean = drawn.node("ReduceMean", x, axes=[-1])
    apart = drawn.node("Sub", x, mean)
    square = drawn.node("Pow", apart, drawn.constant(2.0))
    variance = drawn.node("ReduceMean", square, axes=[-1])
    eps = drawn.constant(float(drawn.rng.choice([1e-5, 1e-12])))
    scaled = drawn.node("Div", apart, drawn.node("Sqrt", drawn.node("Add", variance, eps)))
    gained = drawn.node("Mul", scaled, drawn.constant(drawn.rng.uniform(0.5, 1.5, WIDTH)))
    return drawn.node("Add", gained, drawn.constant(drawn.rng.standard_normal(WIDTH)))


def attention(drawn: Drawn, x: str) -> str:
    """Scores, a mask perhaps, softmax, values."""
    q, k, v = (drawn.node("MatMul", x, drawn.matrix(s)) for s in (_scale(drawn), 1.0, 1.0))
    scores = drawn.node("MatMul", q, drawn.node("Transpose", k, perm=[1, 0]))
    if drawn.rng.random() < 0.5:
        mask = np.where(drawn.rng.random((drawn.rows, drawn.rows)) < 0.3, float(drawn.rng.choice([-1e9, -1e4])), 0.0)
        scores = drawn.node("Add", scores, drawn.constant(mask))
    return drawn.node("MatMul", drawn.node("Softmax", scores, axis=-1), v)


def routing(drawn: Drawn, x: str) -> str:
    """The rows with the largest gate, gathered: near ties decide."""
    gate = drawn.node("MatMul", x, drawn.constant(drawn.rng.standard_normal((WIDTH, 1)) * 1e-2))
    flat = drawn.node("Reshape", gate, drawn.constant([-1], np.int64))
    drawn.node("TopK", flat, drawn.constant([drawn.rows], np.int64), outputs=2, axis=0)
    return drawn.node("Gather", x, f"{drawn.nodes[-1].output[1]}", axis=0)


def wave(drawn: Drawn, x: str) -> str:
    """A phase that grows, and its sine."""
    return drawn.node("Sin", drawn.node("Mul", x, drawn.constant(float(drawn.rng.choice([1.0, 100.0])))))


def power(drawn: Drawn, x: str) -> str:
    """Log of a square, clamped."""
    square = drawn.node("Mul", x, x)
    return drawn.node("Log", drawn.node("Max", square, drawn.constant(1e-10)))


def scatter(drawn: Drawn, x: str) -> str:
    """A row written over another."""
    row = drawn.node("Gather", x, drawn.constant([1], np.int64), axis=0)
    return drawn.node("ScatterND", x, drawn.constant([[0]], np.int64), drawn.node("Exp", drawn.node("Tanh", row)))


def branch(drawn: Drawn, x: str) -> str:
    """An If on the input's own sum."""
    condition = drawn.node("Greater", drawn.node("ReduceSum", x, keepdims=0), drawn.constant(0.0))
    weight = drawn.matrix(_scale(drawn))

    def body(name: str, op_type: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [drawn.rows, WIDTH])
        nodes = [
            helper.make_node("MatMul", [x, weight], [f"{name}_h"], name=f"{name}_matmul"),
            helper.make_node(op_type, [f"{name}_h"], [f"{name}_out"], name=f"{name}_last"),
        ]
        return helper.make_graph(nodes, name, [], [out])

    tag = f"if{len(drawn.nodes)}"
    branches = {"then_branch": body(f"{tag}_then", "Tanh"), "else_branch": body(f"{tag}_else", "Softsign")}
    return drawn.node("If", condition, **branches)


def loop(drawn: Drawn, x: str) -> str:
    """Three steps of a recurrence."""
    tag, weight = f"loop{len(drawn.nodes)}", drawn.matrix(float(drawn.rng.choice([0.5, 1.0, 40.0])))
    shape = [drawn.rows, WIDTH]
    nodes = [
        helper.make_node("MatMul", [f"{tag}_state", weight], [f"{tag}_h"], name=f"{tag}_matmul"),
        helper.make_node("Add", [f"{tag}_h", x], [f"{tag}_next"], name=f"{tag}_add"),
        helper.make_node("Identity", [f"{tag}_cond"], [f"{tag}_go"], name=f"{tag}_go"),
    ]
    body = helper.make_graph(
        nodes,
        tag,
        [
            helper.make_tensor_value_info(f"{tag}_i", TensorProto.INT64, []),
            helper.make_tensor_value_info(f"{tag}_cond", TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"{tag}_state", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info(f"{tag}_go", TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"{tag}_next", TensorProto.FLOAT, shape),
        ],
    )
    return drawn.node("Loop", drawn.constant(3, np.int64), drawn.constant(True, np.bool_), x, body=body)


def pool(drawn: Drawn, x: str) -> str:
    """What lies above a row's mean maximum."""
    return drawn.node("Sub", x, drawn.node("ReduceMax", x, axes=[-1], keepdims=1))


BLOCKS: tuple[Callable[[Drawn, str], str], ...] = (
    product, residual, norm, attention, routing, wave, power, scatter, branch, loop, pool,
)  # fmt: skip


def random_model(seed: int, most: int = 4) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of a few blocks, and inputs for it.

    Args:
      seed: the same seed gives the same model.
      most: blocks at most.
    """
    rng = np.random.default_rng(seed)
    drawn = Drawn(rng, int(rng.integers(3, 7)))
    shape = [drawn.rows, WIDTH]
    value = "x"
    for at, block in enumerate(rng.choice(len(BLOCKS), int(rng.integers(1, most + 1)))):
        value = BLOCKS[block](drawn, value)
        if at == 0 and rng.random() < 0.3:
            value = drawn.node("Identity", value)
            drawn.output(value, TensorProto.FLOAT, shape)
    if rng.random() < 0.25:
        drawn.output(drawn.node("ArgMax", value, axis=-1, keepdims=0), TensorProto.INT64, [drawn.rows])
    if not any(output.name == value for output in drawn.outputs):
        drawn.output(value, TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        drawn.nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], drawn.outputs, drawn.weights
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    scale = float(rng.choice([1.0, 1.0, 1.0, 50.0, 5e3]))
    return made, {"x": (rng.standard_normal(shape) * scale).astype(np.float32)}
