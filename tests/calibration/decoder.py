"""A small decoder, flat and as exporters merge it: an If around the branch with a past and the one without."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

HIDDEN, HEADS, HEAD, INNER, TOKENS, LAYERS = 64, 4, 16, 256, 100, 2
CONSTANTS = {
    "two": np.float32(2),
    "eps": np.float32(1e-6),
    "split": np.array([0, 0, HEADS, HEAD], np.int64),
    "join": np.array([0, 0, HIDDEN], np.int64),
    "scale": np.float32(HEAD**-0.5),
}


def weights(massive: float) -> dict[str, np.ndarray]:
    """Name -> array; one channel of the first layer's output is `massive` times as large."""
    random = np.random.default_rng(0)
    found = {}
    shapes = {**dict.fromkeys("qkvo", (HIDDEN, HIDDEN)), "up": (HIDDEN, INNER), "down": (INNER, HIDDEN)}
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            found[f"{layer}.{name}"] = (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        for name in ("gain1", "gain2"):
            found[f"{layer}.{name}"] = (1 + 0.1 * random.standard_normal(HIDDEN)).astype(np.float32)
    found["0.down"][:, 3] *= massive
    found["table"] = random.standard_normal((TOKENS, HIDDEN)).astype(np.float32)
    found["head"] = (random.standard_normal((HIDDEN, TOKENS)) / 8).astype(np.float32)
    return found


class _Branch:
    def __init__(self, prefix: str, past: bool) -> None:
        self.nodes: list[NodeProto] = []
        self._prefix, self._past = prefix, past
        x = self.op("Gather", "table", "ids", to="embedded")
        presents = []
        for layer in range(LAYERS):
            attended, present = self.attention(x, layer)
            presents += present
            x = self.op("Add", x, attended, to=f"{layer}/attended")
            inner = self.op("Relu", self.product(self.norm(x, layer, 2), layer, "up"), to=f"{layer}/inner")
            x = self.op("Add", x, self.product(inner, layer, "down"), to=f"{layer}/out")
        size = self.op("Sqrt", self.op("ReduceMean", self.op("Pow", x, "two", to="sq"), to="mean", axes=[-1]), to="rms")
        self.results = [self.op("MatMul", self.op("Div", x, size, to="normed"), "head", to="logits"), *presents]

    def op(self, op_type: str, *inputs: str, to: str, **attributes: object) -> str:
        name = self._prefix + to
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def product(self, x: str, layer: int, weight: str) -> str:
        return self.op("MatMul", x, f"{layer}.{weight}", to=f"{layer}/{weight}")

    def norm(self, x: str, layer: int, number: int) -> str:
        at = f"{layer}/norm{number}"
        mean = self.op("ReduceMean", self.op("Pow", x, "two", to=f"{at}/squares"), to=f"{at}/mean", axes=[-1])
        size = self.op("Sqrt", self.op("Add", mean, "eps", to=f"{at}/eps"), to=f"{at}/size")
        normed = self.op("Div", x, size, to=f"{at}/normed")
        return self.op("Mul", normed, f"{layer}.gain{number}", to=f"{at}/out")

    def attention(self, x: str, layer: int) -> tuple[str, list[str]]:
        normed = self.norm(x, layer, 1)
        heads = []
        for name in "qkv":
            split = self.op("Reshape", self.product(normed, layer, name), "split", to=f"{layer}/{name}/split")
            heads.append(self.op("Transpose", split, to=f"{layer}/{name}/heads", perm=[0, 2, 1, 3]))
        query, *present = heads
        if self._past:
            present = [
                self.op("Concat", f"past.{layer}.{name}", new, to=f"{layer}/{name}/whole", axis=2)
                for name, new in zip("kv", present, strict=True)
            ]
        keys = self.op("Transpose", present[0], to=f"{layer}/keys", perm=[0, 1, 3, 2])
        scores = self.op("Mul", self.op("MatMul", query, keys, to=f"{layer}/scores"), "scale", to=f"{layer}/scaled")
        weighted = self.op("MatMul", self.op("Softmax", scores, to=f"{layer}/p", axis=-1), present[1], to=f"{layer}/pv")
        merged = self.op("Transpose", weighted, to=f"{layer}/merged", perm=[0, 2, 1, 3])
        return self.product(self.op("Reshape", merged, "join", to=f"{layer}/joined"), layer, "o"), present


def flat(massive: float = 3000.0) -> onnx.ModelProto:
    """The branch with a past alone."""
    branch = _Branch("", past=True)
    return _model(branch.nodes, _results(branch.results), [], massive)


def merged(massive: float = 3000.0) -> onnx.ModelProto:
    """Both branches, as optimum writes them: their weights stand in the graph around."""
    branches = [_Branch(prefix, past) for prefix, past in (("with/", True), ("without/", False))]
    then, other = (helper.make_graph(one.nodes, "branch", [], _results(one.results)) for one in branches)
    results = ["logits", *(f"present.{layer}.{name}" for layer in range(LAYERS) for name in "kv")]
    choice = helper.make_node("If", ["use_cache"], results, name="choice", then_branch=then, else_branch=other)
    flag = helper.make_tensor_value_info("use_cache", TensorProto.BOOL, [])
    return _model([choice], _results(results), [flag], massive)


def feeds(use_cache: bool | None = None) -> dict[str, np.ndarray]:
    """Two sentences of nine tokens and one more; `use_cache` for the merged model."""
    random = np.random.default_rng(1)
    found = {"ids": random.integers(0, TOKENS, (2, 1))}
    for layer in range(LAYERS):
        for name in "kv":
            found[f"past.{layer}.{name}"] = random.standard_normal((2, HEADS, 9, HEAD)).astype(np.float32)
    return found if use_cache is None else {**found, "use_cache": np.array(use_cache)}


def _results(names: list[str]) -> list[onnx.ValueInfoProto]:
    logits, *presents = names
    found = [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", "length", TOKENS])]
    shape = ["batch", HEADS, "all", HEAD]
    return found + [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in presents]


def _model(
    nodes: list[NodeProto], results: list[onnx.ValueInfoProto], more: list[onnx.ValueInfoProto], massive: float
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])]
    inputs += [
        helper.make_tensor_value_info(f"past.{layer}.{name}", TensorProto.FLOAT, ["batch", HEADS, "past", HEAD])
        for layer in range(LAYERS)
        for name in "kv"
    ]
    held = {**weights(massive), **CONSTANTS}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "decoder", [*inputs, *more], results, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
