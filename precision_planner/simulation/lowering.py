"""An operator written out as a target's parser writes it out, each step rounded to the type that it is stored in.

A parser without a layer for an operator makes several of it, in the type of the operator's input. Where the builder
does not make one kernel of them again, what is between them is stored: the squares of ReduceL2 overflow past 256 in
FP16, and a norm that FP16 holds comes out infinite. `precision_planner.targets.lowering.Form` says what each is written
out as.

The result itself is rounded by others, under the operator's own name. Numbers stay exact: a sum is one Reduce with an
FP32 accumulator, as reductions have, except CumSum's, whose running sum is stored after each element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from precision_planner.targets.lowering import Form

__all__ = ["Steps", "steps_of"]


@dataclass(frozen=True, slots=True, order=True)
class Steps:
    """How a node is written out.

    Attributes:
      form: as what.
      elem_type: FLOAT16 or BFLOAT16, of what is between the steps.
      axis: of CumSum, which its operator takes as an input.
    """

    form: Form
    elem_type: int
    axis: int = 0

    def write(self, node: NodeProto, opset: int) -> tuple[list[NodeProto], list[TensorProto]]:
        """The nodes that take the place of a node in FP32, and the initializers that they read."""
        writer = _Steps(node, self, opset)
        getattr(writer, self.form)()
        return writer.nodes, writer.constants


_SCAN_OPSET = 9
"""Below it there is no Scan whose state can be rounded."""


def steps_of(
    node: NodeProto, form: Form, elem_type: int, constants: Mapping[str, np.ndarray], opset: int
) -> Steps | None:
    """How a node is written out; None where it cannot be, as a CumSum along an axis that is computed.

    Args:
      node: whose operator has the form.
      form: as what.
      elem_type: of what is between the steps.
      constants: value -> its numbers, of what the node reads and is constant.
      opset: the model's.
    """
    if form != "running_sum":
        return Steps(form, elem_type)
    axis = constants.get(node.input[1])
    if axis is None or axis.size != 1 or axis.dtype.kind not in "iu" or opset < _SCAN_OPSET:
        return None
    return Steps(form, elem_type, int(axis.reshape(())))


class _Steps:
    def __init__(self, node: NodeProto, steps: Steps, opset: int) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._node, self._steps, self._opset = node, steps, opset
        self._x, self._result = node.input[0], node.output[0]
        self._attributes = {a.name: a for a in node.attribute}

    def squares_root(self) -> None:
        squares = self._low("Mul", [self._x, self._x], "squares")
        self._op("Sqrt", [self._sum(squares, "sum")], self._result)

    def squares(self) -> None:
        self._sum(self._low("Mul", [self._x, self._x], "squares"), self._result, last=True)

    def sum_log(self) -> None:
        self._op("Log", [self._sum(self._x, "sum")], self._result)

    def exp_sum_log(self) -> None:
        self._op("Log", [self._sum(self._low("Exp", [self._x], "exp"), "sum")], self._result)

    def lp_normalization(self) -> None:
        axis = self._attributes["axis"].i if "axis" in self._attributes else -1
        first = "p" in self._attributes and self._attributes["p"].i == 1
        powers = self._low("Abs", [self._x], "powers") if first else self._low("Mul", [self._x, self._x], "powers")
        norm = self._reduce("ReduceSum", powers, "sum", axes=[axis], keepdims=1)
        norm = norm if first else self._low("Sqrt", [norm], "norm")
        zero = self._constant("zero", np.float32(0))
        one = self._constant("one", np.float32(1))
        none = self._op("Equal", [norm, zero], self._name("none"))
        self._op("Div", [self._x, self._op("Where", [none, one, norm], self._name("divisor"))], self._result)

    def powers_root(self) -> None:
        p = self._attributes["p"].i if "p" in self._attributes else 2
        size = self._low("Abs", [self._x], "size")
        powers = self._low("Pow", [size, self._constant("p", np.float32(p))], "powers")
        total = self._low("GlobalLpPool", [powers], "sum", p=1)  # of what is not negative: their sum
        inverse = np.float32(1) / np.float32(p)
        low = np.float32(inverse).astype(helper.tensor_dtype_to_np_dtype(self._steps.elem_type)).astype(np.float32)
        self._op("Pow", [total, self._constant("inverse", low)], self._result)

    def softmax_log(self) -> None:
        kept = {"axis": self._attributes["axis"].i} if "axis" in self._attributes else {}
        self._op("Log", [self._low("Softmax", [self._x], "softmax", **kept)], self._result)

    def running_sum(self) -> None:
        """A Scan whose state is rounded after each element."""
        axis = self._steps.axis
        given = {name: attribute.i for name, attribute in self._attributes.items()}
        exclusive, reverse = (bool(given.get(name)) for name in ("exclusive", "reverse"))
        first = self._op("Gather", [self._x, self._constant("first", np.int64(0))], self._name("first_of"), axis=axis)
        shape = self._op("Shape", [first], self._name("shape"))
        start = self._op("ConstantOfShape", [shape], self._name("start"))
        before, element, after = (self._name(part) for part in ("before", "element", "after"))
        inner = _Steps(self._node, self._steps, self._opset)
        inner._op("Add", [before, element], self._name("sum"))
        inner._round(self._name("sum"), after)
        inner._op("Identity", [before if exclusive else after], self._name("each"))
        value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (before, element)]
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (after, self._name("each"))]
        body = helper.make_graph(inner.nodes, self._name("body"), value, made)
        scan = helper.make_node(
            "Scan",
            [start, self._x],
            [self._name("last"), self._result],
            name=self._name("scan"),
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[axis],
            scan_output_axes=[axis],
            scan_input_directions=[int(reverse)],
            scan_output_directions=[int(reverse)],
        )
        self.nodes.append(scan)

    def _sum(self, value: str, suffix: str, *, last: bool = False) -> str:
        """The sum over the node's own axes, rounded unless it is the result."""
        kept = {a.name: helper.get_attribute_value(a) for a in self._node.attribute}
        inputs = list(self._node.input[1:])
        axes = kept.pop("axes", None)  # none are all, as is an empty list of them
        if self._opset < 13:
            kept.pop("noop_with_empty_axes", None)
            kept.update({"axes": axes} if axes else {})
        elif axes:
            inputs = [self._constant("axes", np.array(axes, np.int64))]
        if last:
            return self._op("ReduceSum", [value, *inputs], suffix, **kept)
        return self._low("ReduceSum", [value, *inputs], suffix, **kept)

    def _reduce(self, op_type: str, value: str, suffix: str, *, axes: Sequence[int], keepdims: int) -> str:
        if self._opset < 13:
            return self._low(op_type, [value], suffix, axes=list(axes), keepdims=keepdims)
        return self._low(op_type, [value, self._constant("axes", np.array(axes, np.int64))], suffix, keepdims=keepdims)

    def _low(self, op_type: str, inputs: Sequence[str], suffix: str, **attributes: Any) -> str:
        """A step, rounded."""
        wide = self._op(op_type, inputs, self._name(f"{suffix}_wide"), **attributes)
        return self._round(wide, self._name(suffix))

    def _round(self, value: str, result: str) -> str:
        low = self._op("Cast", [value], f"{result}_low", to=self._steps.elem_type)
        return self._op("Cast", [low], result, to=TensorProto.FLOAT)

    def _op(self, op_type: str, inputs: Sequence[str], result: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [result], name=f"{result}/{op_type}", **attributes))
        return result

    def _name(self, suffix: str) -> str:
        return f"{self._result}__planner_step_{suffix}"

    def _constant(self, suffix: str, value: Any) -> str:
        name = self._name(suffix)
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name
