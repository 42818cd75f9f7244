"""New names that are readable and taken by nobody."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from precision_planner.model.bodies import bodies_of

__all__ = ["SUFFIX", "FreshNames"]

SUFFIX: dict[int, str] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.DOUBLE: "fp64",
    onnx.TensorProto.INT64: "int64",
}
"""What a value of that type is called after the double underscore."""


class FreshNames:
    """The one maker of names: hands out what is not in use, and remembers it.

    Args:
      taken: names in use.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> FreshNames:
        """Names of values and nodes that a model does not use, in any of its graphs, bodies and functions."""
        made = cls()
        made._collect(proto.graph)
        for function in proto.functions:
            made._taken.update(function.input, function.output)
            for node in function.node:
                made._collect_node(node)
        return made

    def fresh(self, wish: str) -> str:
        """`wish`, with a number where it is taken."""
        name, number = wish, 0
        while name in self._taken:
            number += 1
            name = f"{wish}_{number}"
        self._taken.add(name)
        return name

    def _collect(self, graph: onnx.GraphProto) -> None:
        taken = self._taken
        taken.update(info.name for info in graph.input)
        taken.update(info.name for info in graph.output)
        taken.update(tensor.name for tensor in graph.initializer)
        taken.update(sparse.values.name for sparse in graph.sparse_initializer)
        for node in graph.node:
            self._collect_node(node)

    def _collect_node(self, node: onnx.NodeProto) -> None:
        self._taken.add(node.name)
        self._taken.update(node.input)
        self._taken.update(node.output)
        for body in bodies_of(node):
            self._collect(body)
