"""FP32 sums for products of halves (fp16+): the Cast sandwich.

    x (half) -> Cast(FP32) --+
                             +-- product (FP32) -> Cast(half) [-> Add(bias, half)]
    W (half) -> Cast(FP32) --+

Builders of TensorRT take it for one kernel that reads and writes halves and sums in FP32 (f16f16_f16f32_f32), which is
NVIDIA's way to ask for it; a half product as it stands permits FP16 sums. The bias stands outside, in half: inside, the
sandwich is an FP32 island, and the fusion is lost. Nothing is stored twice: weights stay halves.

A bias stays inside where it cannot stand outside: Gemm below opset 11 must have one, and one of a convolution whose
rank is not known cannot be given its shape. A Gemm whose beta is not 1 keeps it, too: in half it would be rounded.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from precision_planner.model import GraphIndex, Model, Scope, TypeTable, infer_types
from precision_planner.model.edit import PassResult, rewrite_nodes
from precision_planner.model.names import FreshNames
from precision_planner.typing import Key

__all__ = ["SumsResult", "promise_sums"]

GEMM_WITHOUT_C = 11
"""The opset from which Gemm may come without its third input."""


@dataclass(frozen=True, slots=True)
class SumsResult(PassResult):
    """A model with Cast sandwiches.

    Attributes:
      model: the model; the one given where nothing was to be done.
      casts: Cast nodes added.
      biases_inside: products, by first output, whose bias had to stay in FP32 inside.
    """

    casts: int = 0
    biases_inside: tuple[str, ...] = ()


def promise_sums(model: Model, products: Collection[Key]) -> SumsResult:
    """Put half products between Casts.

    Args:
      model: typed; its products in FP16.
      products: (path of the scope, first output) of those whose sum is to be in FP32.
    """
    if not products:
        return SumsResult(model)
    writer = _Writer(model, frozenset(products))
    return writer.run()


class _Writer:
    """State of one pass."""

    def __init__(self, model: Model, products: frozenset[Key]) -> None:
        self.model, self.products = model, products
        self.types: TypeTable = infer_types(model, GraphIndex(model.proto))
        self.proto = model.edit()
        self.index = GraphIndex(self.proto)
        self.names = FreshNames.of(self.proto)
        self.casts = 0
        self.inside: list[str] = []

    def run(self) -> SumsResult:
        wide: dict[tuple[str, ...], dict[str, str]] = {}

        def sandwich(scope: Scope, _: int, node: onnx.NodeProto) -> list[onnx.NodeProto]:
            if not node.output or (scope.path, node.output[0]) not in self.products:
                return [node]
            return self._sandwich(scope, node, wide.setdefault(scope.path, {}))

        rewrite_nodes(self.index, sandwich)
        return SumsResult(self.model.with_proto(self.proto), casts=self.casts, biases_inside=tuple(self.inside))

    def _sandwich(self, scope: Scope, node: onnx.NodeProto, wide: dict[str, str]) -> list[onnx.NodeProto]:
        """What takes the node's place; `wide` holds the FP32 versions of this scope's values so far."""
        label, output = node.name or node.output[0], node.output[0]
        bias = node.input[2] if len(node.input) > 2 else ""
        outside = bool(bias) and self._can_stand_outside(scope, node, bias)
        if bias and not outside:
            self.inside.append(output)
        before: list[onnx.NodeProto] = []
        product = onnx.NodeProto.FromString(node.SerializeToString())
        if outside:
            del product.input[2:]
        for slot, name in enumerate(product.input):
            if not name:
                continue
            if name not in wide:
                wide[name] = self.names.fresh(f"{name}__sum32")
                before.append(self._cast(f"{name}__cast_sum32", name, wide[name], TensorProto.FLOAT))
            product.input[slot] = wide[name]
        product.output[0] = self.names.fresh(f"{output}__sum32")
        summed = self.names.fresh(f"{output}__sum") if outside else output
        after = [self._cast(f"{label}__cast_half", product.output[0], summed, TensorProto.FLOAT16)]
        if outside:
            after += self._bias(scope, node, bias, summed, label)
        return [*before, product, *after]

    def _can_stand_outside(self, scope: Scope, node: onnx.NodeProto, bias: str) -> bool:
        if node.op_type == "Gemm":
            beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0)
            return beta == 1.0 and self.model.opset >= GEMM_WITHOUT_C
        return self.types.of(scope, node.input[1]).shape is not None and self.types.of(scope, bias).shape is not None

    def _bias(self, scope: Scope, node: onnx.NodeProto, bias: str, summed: str, label: str) -> list[onnx.NodeProto]:
        """The Add of the bias in half; a convolution's is given the axes behind the channels first."""
        shaped, nodes = bias, []
        if node.op_type != "Gemm":
            rank = len(self.types.of(scope, node.input[1]).shape or ())
            shaped = self.names.fresh(f"{bias}__channels")
            shape = self.names.fresh(f"{bias}__channel_shape")
            value = helper.make_tensor(shape, TensorProto.INT64, [rank - 1], [-1, *([1] * (rank - 2))])
            nodes.append(helper.make_node("Constant", [], [shape], self.names.fresh(shape), value=value))
            nodes.append(helper.make_node("Reshape", [bias, shape], [shaped], self.names.fresh(shaped)))
        add = helper.make_node("Add", [summed, shaped], [node.output[0]], self.names.fresh(f"{label}__bias"))
        return [*nodes, add]

    def _cast(self, name: str, source: str, target: str, to: int) -> onnx.NodeProto:
        self.casts += 1
        return helper.make_node("Cast", [source], [target], self.names.fresh(name), to=to)
