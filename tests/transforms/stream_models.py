"""Random residual networks whose stream passes 65504, in the spellings that exporters use."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NORMS = ("native", "pow", "mul", "moments", "keras", "rms_div", "rms_reciprocal", "l2")
LINEARS = ("matmul", "bias", "bias_first", "gemm", "gemm_trans")
ACTIVATIONS = ("Relu", "Tanh", "gelu")
READS = ("none", "returned", "sliced", "skip", "maximum")


@dataclass(frozen=True)
class Spec:
    """What a network is made of; see the fields' names in `build`."""

    seed: int = 0
    layers: int = 2
    pre_norm: bool = True
    norm: str = "native"
    linear: str = "bias"
    activation: str = "Relu"
    attention: bool = False
    shared: bool = False
    read: str = "none"
    constant_nodes: bool = False
    magnitude: float = 1e5
    epsilon: float = 1e-5
    width: int = 12


class Builder:
    """Nodes and constants of one network over a stream of [rows, width]."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.rng = np.random.default_rng(spec.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.sums: list[str] = []
        self.watched: list[str] = []

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op_type, list(inputs), [name], f"/{op_type}_{len(self.nodes)}", **attributes)
        )
        return name

    def constant(self, name: str, value: object) -> str:
        self.constants.setdefault(name, np.asarray(value, None if isinstance(value, np.ndarray) else np.float32))
        return name

    def weight(self, name: str, rows: int, columns: int, scale: float) -> str:
        # with `shared`, every layer reads the first layer's
        name = re.sub(r"@\d+", "", name) if self.spec.shared else name
        if name not in self.constants:
            self.constants[name] = self.rng.normal(0, scale, (rows, columns)).astype(np.float32)
        return name

    def vector(self, name: str, size: int, middle: float, spread: float) -> str:
        name = re.sub(r"@\d+", "", name) if self.spec.shared else name
        if name not in self.constants:
            self.constants[name] = (middle + self.rng.uniform(-spread, spread, size)).astype(np.float32)
        return name

    def linear(self, x: str, name: str, rows: int, columns: int, scale: float, bias: float) -> str:
        first = len(self.nodes)
        made = self._linear(x, name, rows, columns, scale, bias)
        self.watched += [node.output[0] for node in self.nodes[first:]]
        return made

    def _linear(self, x: str, name: str, rows: int, columns: int, scale: float, bias: float) -> str:
        kind = self.spec.linear
        if kind == "matmul":
            return self.op("MatMul", x, self.weight(f"{name}_w", rows, columns, scale))
        b = self.vector(f"{name}_b", columns, 0.0, bias)
        if kind == "gemm":
            return self.op("Gemm", x, self.weight(f"{name}_w", rows, columns, scale), b, beta=0.5)
        if kind == "gemm_trans":
            return self.op("Gemm", x, self.weight(f"{name}_w", columns, rows, scale), b, transB=1, alpha=2.0)
        product = self.op("MatMul", x, self.weight(f"{name}_w", rows, columns, scale))
        return self.op("Add", b, product) if kind == "bias_first" else self.op("Add", product, b)

    def norm(self, x: str, name: str) -> str:
        kind, width = self.spec.norm, self.spec.width
        gamma, beta = self.vector(f"{name}_g", width, 1.0, 0.5), self.vector(f"{name}_beta", width, 0.0, 0.5)
        eps, two = self.constant("eps", self.spec.epsilon), self.constant("two", 2.0)
        if kind == "native":
            return self.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=self.spec.epsilon)
        if kind == "l2":
            norm = self.op("ReduceL2", x, axes=[-1], keepdims=1)
            return self.op("Mul", self.op("Div", x, self.op("Max", norm, eps)), gamma)
        if kind.startswith("rms"):
            mean = self.op("ReduceMean", self.op("Pow", x, two), axes=[-1])
            root = self.op("Sqrt", self.op("Add", mean, eps))
            if kind == "rms_div":
                return self.op("Mul", self.op("Div", x, root), gamma)
            return self.op("Mul", gamma, self.op("Mul", x, self.op("Reciprocal", root)))
        mean = self.op("ReduceMean", x, axes=[-1])
        centered = self.op("Sub", x, mean)
        if kind == "moments":
            square = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1])
            variance = self.op("Relu", self.op("Sub", square, self.op("Mul", mean, mean)))
        else:
            squares = self.op("Pow", centered, two) if kind == "pow" else self.op("Mul", centered, centered)
            variance = self.op("ReduceMean", squares, axes=[-1])
        root = self.op("Sqrt", self.op("Add", variance, eps))
        if kind == "keras":  # x k + (beta - mean k)
            factor = self.op("Mul", self.op("Reciprocal", root), gamma)
            shift = self.op("Sub", beta, self.op("Mul", mean, factor))
            return self.op("Add", self.op("Mul", x, factor), shift)
        return self.op("Add", self.op("Mul", self.op("Div", centered, root), gamma), beta)

    def attend(self, x: str, name: str) -> str:
        width = self.spec.width
        q, k, v = (self.linear(x, f"{name}_{part}", width, width, 0.3, 0.1) for part in "qkv")
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[1, 0]))
        weights = self.op("Softmax", self.op("Mul", scores, self.constant("scale", 0.25)), axis=-1)
        return self.linear(self.op("MatMul", weights, v), f"{name}_o", width, width, 1.0, 0.1)

    def activate(self, x: str) -> str:
        if self.spec.activation != "gelu":
            return self.op(self.spec.activation, x)
        erf = self.op("Erf", self.op("Div", x, self.constant("root2", 2.0**0.5)))
        half = self.op("Mul", x, self.op("Add", erf, self.constant("one", 1.0)))
        return self.op("Mul", half, self.constant("half", 0.5))

    def residual(self, x: str, branch, name: str) -> str:
        if self.spec.pre_norm:
            self.sums.append(self.op("Add", x, branch(self.norm(x, name))))
            return self.sums[-1]
        self.sums.append(self.op("Add", branch(x), x))
        return self.norm(self.sums[-1], name)

    def mlp(self, x: str, name: str) -> str:
        width, spec = self.spec.width, self.spec
        active = self.activate(self.linear(x, f"{name}_up", width, 2 * width, 0.3, 0.1))
        return self.linear(active, f"{name}_down", 2 * width, width, spec.magnitude / 5, 0.3)


def build(spec: Spec) -> tuple[onnx.ModelProto, list[str]]:
    """A stack of attention and MLP blocks on x, normalized at its end, with further readers of the stream.

    Returns:
      The model, and the values that RS001 and RG001 look at: sums of the stream, results of linear layers.
    """
    made = Builder(spec)
    x, outputs = "x", []
    for at in range(spec.layers):
        if spec.attention:
            x = made.residual(x, lambda y, at=at: made.attend(y, f"att@{at}"), f"n1@{at}")
        x = made.residual(x, lambda y, at=at: made.mlp(y, f"mlp@{at}"), f"n2@{at}")
    sums, stream = made.sums, x
    match spec.read:
        case "returned":
            outputs.append(sums[0])
        case "sliced":
            limits = [made.constant(f"at{n}", np.array([n], np.int64)) for n in (0, 1)]
            first = made.op("Slice", sums[0], *limits, limits[0])
            outputs.append(made.linear(first, "head", spec.width, 3, 1e-3, 0.1))
        case "skip":
            both = made.op("Concat", sums[0], stream, axis=1)
            outputs.append(made.linear(both, "wide", 2 * spec.width, 4, 1e-3, 0.1))
        case "maximum":
            best = made.op("ArgMax", sums[0], axis=-1)
            outputs.append(made.op("Cast", best, to=TensorProto.FLOAT))
            outputs.append(made.op("Mul", stream, made.constant("tiny", 2.0**-9)))
    outputs.append(made.op("Softmax", made.linear(made.norm(stream, "last"), "out", spec.width, 5, 0.5, 0.1), axis=-1))
    return finish(made, outputs), [*made.sums, *made.watched]


def finish(made: Builder, outputs: list[str]) -> onnx.ModelProto:
    """The model of what was built, constants as initializers or Constant nodes."""
    tensors = [numpy_helper.from_array(array, name) for name, array in made.constants.items()]
    nodes, initializers = made.nodes, tensors
    if made.spec.constant_nodes:
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors] + nodes
        initializers = []
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", made.spec.width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in outputs],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
