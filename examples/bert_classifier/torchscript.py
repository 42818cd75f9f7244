"""The graph as ``torch.onnx.export(..., dynamo=False)`` of torch 2 writes transformers 4's BERT.

Compared node by node with a real export in ``tests/examples/test_exporter.py``; only the running numbers in
anonymous names (``onnx::MatMul_370``, ``Constant_159``) differ.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx

from .graph import Array, GraphParts, constant_tensor, make_model
from .reference import MASK
from .spec import EPSILON, BertSpec
from .weights import parameter_shapes


class Scope:
    """One module call: its path is the prefix of every name, and numbers repeated operators."""

    def __init__(self, writer: TorchScriptWriter, path: str) -> None:
        self.writer, self.path = writer, path
        self.used: Counter[str] = Counter()

    def sub(self, name: str) -> Scope:
        """Return the scope of a submodule, in which numbering starts anew."""
        return Scope(self.writer, f"{self.path}/{name}")

    def op(self, op_type: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        """Append ``path/Op``, ``path/Op_1``, ... with output ``<name>_output_0``."""
        count = self.used[op_type]
        self.used[op_type] += 1
        name = f"{self.path}/{op_type}" + (f"_{count}" if count else "")
        return self.writer.parts.node(op_type, list(inputs), output or f"{name}_output_0", name, **attributes)

    def integer(self, value: int | list[int]) -> str:
        """Append an int64 Constant."""
        return self.op("Constant", value=constant_tensor(np.array(value, dtype=np.int64)))

    def number(self, value: float) -> str:
        """Append a float32 scalar Constant."""
        return self.op("Constant", value=constant_tensor(np.array(value, dtype=np.float32)))

    def dimension(self, x: str, axis: int) -> str:
        """Return one entry of a shape, as ``x.size(axis)`` is written."""
        shape = self.op("Shape", x)
        return self.op("Gather", shape, self.integer(axis), axis=0)

    def unsqueeze(self, x: str, axis: int) -> str:
        """Insert an axis."""
        return self.op("Unsqueeze", x, self.integer([axis]))

    def unsqueeze_anonymous(self, x: str) -> str:
        """Make a shape's entry a list of one; the exporter's own peephole names this constant otherwise."""
        return self.op("Unsqueeze", x, self.writer.anonymous_constant("Unsqueeze", np.array([0], dtype=np.int64)))


class TorchScriptWriter:
    """Writes the modules in the order in which torch traces them."""

    def __init__(self, spec: BertSpec, weights: dict[str, Array]) -> None:
        self.spec, self.parts = spec, GraphParts(weights)
        self.number = 95
        self.matmuls: dict[str, Array] = {}
        self._share_parameters()

    def _share_parameters(self) -> None:
        """Add the named parameters; an Identity node stands for each one that equals an earlier one."""
        repeated: list[tuple[str, str]] = []
        for name in parameter_shapes(self.spec):
            if name.endswith(".weight") and ".dense." in name and not name.startswith("pooler"):
                continue
            if any(f".self.{part}.weight" in name for part in ("query", "key", "value")):
                continue
            same = self.parts.share(name)
            if same != name:
                repeated.append((same, name))
        for at, (same, name) in enumerate(reversed(repeated)):
            self.parts.node("Identity", [same], name, f"Identity_{at + 75}")

    def next_number(self) -> int:
        """Return the next of the numbers that anonymous values carry."""
        self.number += 1
        return self.number

    def anonymous_constant(self, consumer: str, value: Array) -> str:
        """Append a Constant that belongs to no module: ``onnx::<consumer>_<number>``."""
        number = self.next_number()
        output = f"onnx::{consumer}_{number}"
        return self.parts.node("Constant", [], output, f"Constant_{number}", value=constant_tensor(value))

    def linear(self, scope: Scope, name: str, x: str) -> str:
        """X W^T + b for x of rank 3: the weight transposed, anonymous; the bias the Add's first operand."""
        weight = f"onnx::MatMul_{self.next_number()}"
        self.matmuls[weight] = np.ascontiguousarray(self.parts.weights[f"{name}.weight"].T)
        return scope.op("Add", f"{name}.bias", scope.op("MatMul", x, weight))

    def gemm(self, scope: Scope, name: str, x: str, output: str | None = None) -> str:
        """X W^T + b for x of rank 2: a Gemm, the weight as it is."""
        inputs = (x, f"{name}.weight", f"{name}.bias")
        return scope.op("Gemm", *inputs, output=output, alpha=1.0, beta=1.0, transB=1)

    def layer_norm(self, scope: Scope, name: str, x: str) -> str:
        """LayerNorm: nine operators and two Constants below opset 17, one node from there on."""
        gamma, beta = f"{name}.weight", f"{name}.bias"
        if self.spec.opset >= 17:
            return scope.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=np.float32(EPSILON).item())
        centered = scope.op("Sub", x, scope.op("ReduceMean", x, axes=[-1]))
        variance = scope.op("ReduceMean", scope.op("Pow", centered, scope.number(2.0)), axes=[-1])
        deviation = scope.op("Sqrt", scope.op("Add", variance, scope.number(EPSILON)))
        scaled = scope.op("Mul", scope.op("Div", centered, deviation), gamma)
        return scope.op("Add", scaled, beta)

    def gelu(self, scope: Scope, x: str) -> str:
        """X (1 + erf(x / sqrt 2)) / 2, as the exporter decomposes it."""
        inner = scope.op("Erf", scope.op("Div", x, scope.number(math.sqrt(2))))
        return scope.op("Mul", scope.op("Mul", x, scope.op("Add", inner, scope.number(1.0))), scope.number(0.5))

    def reshape(self, scope: Scope, x: str, shape: str) -> str:
        """Reshape; from opset 14 on torch writes ``allowzero`` out."""
        extra = {"allowzero": 0} if self.spec.opset >= 14 else {}
        return scope.op("Reshape", x, shape, **extra)

    def table_slice(self, scope: Scope, table: Array, length: str) -> str:
        """Cut the buffer [1, positions] to [1, sequence], as ``buffer[:, :length]`` is written."""
        buffer = self.anonymous_constant("Slice", table[None])
        axes, starts = scope.integer([1]), scope.integer([0])
        ends = scope.unsqueeze(length, 0)
        return scope.op("Slice", buffer, starts, ends, axes, scope.integer([1]))

    def expand(self, scope: Scope, x: str, batch: str, sequence: str) -> str:
        """``x.expand(batch, sequence)``, with the test for -1 that torch writes."""
        sizes = scope.op("Concat", scope.unsqueeze(batch, 0), scope.unsqueeze(sequence, 0), axis=0)
        shape = self.reshape(scope, sizes, scope.integer([-1]))
        ones = scope.op("ConstantOfShape", scope.op("Shape", shape), value=constant_tensor(np.array([1])))
        keep = scope.op("Equal", shape, scope.op("Mul", ones, scope.integer(-1)))
        return scope.op("Expand", x, scope.op("Where", keep, ones, shape))

    def embeddings(self, sequence: str, types: str) -> str:
        """Word, token type and position embeddings, their sum, LayerNorm."""
        scope = Scope(self, "/embeddings")
        positions = self.table_slice(scope, np.arange(self.spec.positions), sequence)

        def gather(kind: str, ids: str) -> str:
            return scope.sub(kind).op("Gather", f"embeddings.{kind}.weight", ids)

        words = gather("word_embeddings", "input")
        total = scope.op("Add", words, gather("token_type_embeddings", types))
        total = scope.op("Add", total, gather("position_embeddings", positions))
        return self.layer_norm(scope.sub("LayerNorm"), "embeddings.LayerNorm", total)

    def split_heads(self, scope: Scope, x: str, last: list[int]) -> str:
        """``x.view(x.size()[:-1] + last)`` by shape arithmetic."""
        batch, sequence = scope.dimension(x, 0), scope.dimension(x, 1)
        sizes = [scope.unsqueeze_anonymous(batch), scope.unsqueeze_anonymous(sequence)]
        sizes += [scope.integer([size]) for size in last]
        return self.reshape(scope, x, scope.op("Concat", *sizes, axis=0))

    def attention(self, scope: Scope, name: str, x: str, mask: str) -> str:
        """Multi-head attention in transformers' order: query, key, value, then the query's heads."""
        spec = self.spec
        heads = [spec.heads, spec.head_size]
        query = self.linear(scope.sub("query"), f"{name}.query", x)
        key = self.split_heads(scope, self.linear(scope.sub("key"), f"{name}.key", x), heads)
        value = self.split_heads(scope, self.linear(scope.sub("value"), f"{name}.value", x), heads)
        value = scope.op("Transpose", value, perm=[0, 2, 1, 3])
        query = scope.op("Transpose", self.split_heads(scope, query, heads), perm=[0, 2, 1, 3])
        key = scope.op("Transpose", key, perm=[0, 2, 3, 1])
        scores = scope.op("MatMul", query, key)
        scores = scope.op("Div", scores, scope.number(math.sqrt(spec.head_size)))
        powers = scope.op("Softmax", scope.op("Add", scores, mask), axis=-1)
        context = scope.op("Transpose", scope.op("MatMul", powers, value), perm=[0, 2, 1, 3])
        return self.split_heads(scope, context, [spec.hidden])

    def add_and_norm(self, scope: Scope, name: str, x: str, residual: str) -> str:
        """Dense, residual Add, LayerNorm."""
        total = scope.op("Add", self.linear(scope.sub("dense"), f"{name}.dense", x), residual)
        return self.layer_norm(scope.sub("LayerNorm"), f"{name}.LayerNorm", total)

    def layer(self, index: int, x: str, mask: str) -> str:
        """One encoder layer."""
        scope, name = Scope(self, f"/encoder/layer.{index}"), f"encoder.layer.{index}"
        attended = self.attention(scope.sub("attention/self"), f"{name}.attention.self", x, mask)
        x = self.add_and_norm(scope.sub("attention/output"), f"{name}.attention.output", attended, x)
        inner = scope.sub("intermediate")
        y = self.linear(inner.sub("dense"), f"{name}.intermediate.dense", x)
        y = self.gelu(inner.sub("intermediate_act_fn"), y)
        return self.add_and_norm(scope.sub("output"), f"{name}.output", y, x)

    def write(self) -> None:
        """Write the whole model: mask, token types, embeddings, encoder, pooler, classifier."""
        root = Scope(self, "")
        first = root.integer(0)
        present = root.op("Not", root.op("Equal", "input", root.integer(0)))
        batch, sequence = root.dimension("input", 0), root.dimension("input", 1)
        zeros = self.table_slice(root, np.zeros(self.spec.positions, dtype=np.int64), sequence)
        types = self.expand(root, zeros, batch, sequence)
        extended = root.op("Cast", root.unsqueeze(root.unsqueeze(present, 1), 2), to=onnx.TensorProto.FLOAT)
        absent = root.op("Sub", root.number(1.0), extended)
        mask = root.op("Mul", absent, root.number(MASK))
        x = self.embeddings(sequence, types)
        for index in range(self.spec.layers):
            x = self.layer(index, x, mask)
        pooler = root.sub("pooler")
        x = self.gemm(pooler.sub("dense"), "pooler.dense", pooler.op("Gather", x, first, axis=1))
        x = pooler.sub("activation").op("Tanh", x)
        self.gemm(root.sub("classifier"), "classifier", x, output="logits")
        root.op("Softmax", "logits", output="probability", axis=-1)
        self.parts.initializers.update(self.matmuls)


def build_torchscript(spec: BertSpec, weights: dict[str, Array]) -> onnx.ModelProto:
    """Return the model in the TorchScript exporter's style, IR version 7 (8 from opset 15), as torch sets."""
    writer = TorchScriptWriter(spec, weights)
    writer.write()
    ir_version = 7 if spec.opset < 15 else 8
    return make_model(spec, writer.parts, ir_version=ir_version, producer_version="2.13.0")
