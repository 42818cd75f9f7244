"""The graph in the style of torch's dynamo exporter: native LayerNormalization, no Constant nodes.

Scalars and shapes are initializers shared by many nodes, equal weights are one initializer, every value has
a value_info, every node a namespace in its metadata. The order and the operators are those of a real export
of the same module at opset 18 (``tests/examples/test_exporter.py``); the running numbers are not.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
from onnx import helper

from .graph import Array, GraphParts, make_model
from .reference import MASK
from .spec import EPSILON, BertSpec


class DynamoWriter:
    """Writes the modules in order; values are named after the operator with a running number."""

    def __init__(self, spec: BertSpec, weights: dict[str, Array]) -> None:
        self.spec, self.parts = spec, GraphParts(weights)
        self.used: Counter[str] = Counter()
        self.values = 0
        self.constants: dict[tuple[object, ...], str] = {}
        self.module = ""
        self.reshapes: dict[tuple[int, ...], str] = {}

    def op(
        self,
        op_type: str,
        *inputs: str,
        as_torch: str | None = None,
        output: str | None = None,
        **attributes: object,
    ) -> str:
        """Append a node; its result is named after the torch operator, or else ``val_<number>``."""
        if as_torch is None:
            self.values += 1
            result, name = f"val_{self.values}", f"node_{op_type}_{self.values}"
        else:
            count = self.used[as_torch]
            self.used[as_torch] += 1
            result = as_torch + (f"_{count}" if count else "")
            name = f"node_{result}"
        result = output or result
        self.parts.node(op_type, list(inputs), result, name, **attributes)
        entry = self.parts.nodes[-1].metadata_props.add()
        entry.key, entry.value = "namespace", f": BertClassifier/{self.module}"
        return result

    def constant(self, value: Array) -> str:
        """Return a shared initializer ``val_<number>`` of this value."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.constants:
            self.values += 1
            self.constants[key] = f"val_{self.values}"
            self.parts.initializers[self.constants[key]] = value
        return self.constants[key]

    def number(self, value: float) -> str:
        """Return a float32 scalar."""
        return self.constant(np.array(value, dtype=np.float32))

    def integers(self, *values: int) -> str:
        """Return an int64 list."""
        return self.constant(np.array(values, dtype=np.int64))

    def linear(self, name: str, x: str) -> str:
        """MatMul with the transposed weight, anonymous, then the bias as the Add's second operand."""
        self.values += 1
        weight = f"val_{self.values}"
        self.parts.initializers[weight] = np.ascontiguousarray(self.parts.weights[f"{name}.weight"].T)
        return self.op("Add", self.op("MatMul", x, weight), self.parts.share(f"{name}.bias"), as_torch="linear")

    def gemm(self, name: str, x: str, output: str | None = None) -> str:
        """Gemm for rank 2."""
        inputs = (x, self.parts.share(f"{name}.weight"), self.parts.share(f"{name}.bias"))
        return self.op("Gemm", *inputs, as_torch="linear", output=output, beta=1.0, transB=1, alpha=1.0, transA=0)

    def layer_norm(self, name: str, x: str) -> str:
        """One LayerNormalization node, with stash_type written out."""
        inputs = (x, self.parts.share(f"{name}.weight"), self.parts.share(f"{name}.bias"))
        epsilon = np.float32(EPSILON).item()
        return self.op("LayerNormalization", *inputs, as_torch="layer_norm", stash_type=1, epsilon=epsilon, axis=-1)

    def reshape(self, x: str, last: tuple[int, ...]) -> str:
        """Reshape to [batch, sequence, *last]; the target shape is computed once."""
        if last not in self.reshapes:
            sizes = [self.integers(size) for size in last]
            self.reshapes[last] = self.op("Concat", self.batch, self.sequence, *sizes, axis=0)
        return self.op("Reshape", x, self.reshapes[last], as_torch="view", allowzero=1)

    def attention(self, name: str, x: str, mask: str) -> str:
        """Multi-head attention."""
        heads = (self.spec.heads, self.spec.head_size)
        query = self.linear(f"{name}.query", x)
        key = self.reshape(self.linear(f"{name}.key", x), heads)
        value = self.reshape(self.linear(f"{name}.value", x), heads)
        value = self.op("Transpose", value, as_torch="permute", perm=[0, 2, 1, 3])
        query = self.op("Transpose", self.reshape(query, heads), as_torch="permute", perm=[0, 2, 1, 3])
        key = self.op("Transpose", key, as_torch="transpose", perm=[0, 2, 3, 1])
        scores = self.op("MatMul", query, key, as_torch="matmul")
        scores = self.op("Div", scores, self.number(math.sqrt(self.spec.head_size)), as_torch="div")
        powers = self.op("Softmax", self.op("Add", scores, mask, as_torch="add"), as_torch="softmax", axis=-1)
        context = self.op("MatMul", powers, value, as_torch="matmul")
        context = self.op("Transpose", context, as_torch="permute", perm=[0, 2, 1, 3])
        return self.reshape(context, (self.spec.hidden,))

    def gelu(self, x: str) -> str:
        """X * (0.5 * (1 + erf(x / sqrt 2)))."""
        inner = self.op("Erf", self.op("Div", x, self.number(math.sqrt(2))))
        half = self.op("Mul", self.number(0.5), self.op("Add", inner, self.number(1.0)))
        return self.op("Mul", x, half, as_torch="gelu")

    def layer(self, index: int, x: str, mask: str) -> str:
        """One encoder layer."""
        self.module = f"encoder/layer.{index}"
        name = f"encoder.layer.{index}"
        y = self.linear(f"{name}.attention.output.dense", self.attention(f"{name}.attention.self", x, mask))
        x = self.layer_norm(f"{name}.attention.output.LayerNorm", self.op("Add", y, x, as_torch="add"))
        y = self.gelu(self.linear(f"{name}.intermediate.dense", x))
        y = self.linear(f"{name}.output.dense", y)
        return self.layer_norm(f"{name}.output.LayerNorm", self.op("Add", y, x, as_torch="add"))

    def write(self) -> None:
        """Write the whole model."""
        spec, share = self.spec, self.parts.share
        self.batch = self.op("Shape", "input", start=0, end=1)
        self.sequence = self.op("Shape", "input", start=1, end=2)
        present = self.op("Not", self.op("Equal", "input", self.constant(np.array(0, dtype=np.int64))), as_torch="ne")
        buffers = self.parts.initializers
        buffers["embeddings.position_ids"] = np.arange(spec.positions)[None]
        buffers["embeddings.token_type_ids"] = np.zeros((1, spec.positions), dtype=np.int64)

        def cut(buffer: str) -> str:
            start, one = self.integers(0), self.integers(1)
            return self.op("Slice", buffer, start, self.sequence, one, one, as_torch="slice")

        types = cut("embeddings.token_type_ids")
        shape = self.op("Concat", self.batch, self.sequence, axis=0)
        types = self.op("Expand", types, shape, as_torch="expand")
        extended = self.op("Unsqueeze", present, self.integers(1, 2), as_torch="unsqueeze")
        extended = self.op("Cast", extended, as_torch="_to_copy", to=onnx.TensorProto.FLOAT)
        mask = self.op(
            "Mul",
            self.op("Sub", self.number(1.0), extended, as_torch="sub"),
            self.number(MASK),
            as_torch="mul",
        )
        self.module = "embeddings"
        positions = cut("embeddings.position_ids")
        x = self.op("Gather", share("embeddings.word_embeddings.weight"), "input", as_torch="embedding", axis=0)
        y = self.op("Gather", share("embeddings.token_type_embeddings.weight"), types, as_torch="embedding", axis=0)
        x = self.op("Add", x, y, as_torch="add")
        y = self.op("Gather", share("embeddings.position_embeddings.weight"), positions, as_torch="embedding", axis=0)
        x = self.layer_norm("embeddings.LayerNorm", self.op("Add", x, y, as_torch="add"))
        for index in range(spec.layers):
            x = self.layer(index, x, mask)
        self.module = "pooler"
        first = self.op("Gather", x, self.constant(np.array(0, dtype=np.int64)), as_torch="select", axis=1)
        x = self.op("Tanh", self.gemm("pooler.dense", first), as_torch="tanh")
        self.module = "classifier"
        self.gemm("classifier", x, output="logits")
        self.op("Softmax", "logits", as_torch="softmax", output="probability", axis=-1)


def build_dynamo(spec: BertSpec, weights: dict[str, Array]) -> onnx.ModelProto:
    """Return the model in the dynamo exporter's style, IR version 10, with value_info for every value."""
    writer = DynamoWriter(spec, weights)
    writer.write()
    model = make_model(spec, writer.parts, ir_version=10, producer_version="2.13.0+cpu")
    _add_value_info(model)
    return model


def _add_value_info(model: onnx.ModelProto) -> None:
    """Infer the values' types on a copy whose large initializers have lost their bytes, and add them all."""
    bare = onnx.ModelProto()
    bare.CopyFrom(
        helper.make_model(
            helper.make_graph(model.graph.node, "main_graph", model.graph.input, model.graph.output),
            opset_imports=model.opset_import,
            ir_version=model.ir_version,
        )
    )
    for tensor in model.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.value_info.append(info)
        if len(tensor.raw_data) < 1024:
            bare.graph.initializer.append(tensor)
        else:
            bare.graph.input.append(info)
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    known = {info.name for info in model.graph.value_info}
    model.graph.value_info.extend(info for info in inferred.graph.value_info if info.name not in known)
