"""An ONNX graph evaluated node by node by torch, each node in the types that the graph gives it.

It shares no code with the simulation: a FLOAT16 value is a torch.half tensor, and what is computed inside an operator
is torch's kernel. Nothing is cast that the graph does not cast; a node whose operands differ in type is an error, where
torch would promote. Only what the sample classifiers use is here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

Tensor = torch.Tensor
Attributes = Mapping[str, Any]
Operator = Callable[[Sequence[Tensor | None], Attributes], Tensor]

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


class Evaluator:
    """Evaluates one model on one device; its initializers are put there once.

    Args:
      model: a graph in topological order, without subgraphs and local functions.
      device: torch's name of it.

    Raises:
      NotImplementedError: an operator that is not here, or one in a form that is not.
    """

    def __init__(self, model: onnx.ModelProto, device: str) -> None:
        self._device = device
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self._constants = {item.name: self.tensor(numpy_helper.to_array(item)) for item in model.graph.initializer}
        self._attributes = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in self.nodes]
        known = {*_OPERATORS, "Constant", "ConstantOfShape"}
        unknown = {node.op_type for node in self.nodes if node.domain or node.op_type not in known}
        if unknown:
            raise NotImplementedError(f"no torch operator for {', '.join(sorted(unknown))}")
        last: dict[str, int] = {}
        for at, node in enumerate(self.nodes):
            last.update((name, at) for name in node.input)
        self._last_read = last

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's outputs for one batch."""
        alive = {name: self.tensor(feeds[name]) for name in self.inputs}
        for at, node in enumerate(self.nodes):
            alive[node.output[0]] = self._node(at, [self._get(name, alive) for name in node.input])
            for name in node.input:
                if self._last_read[name] == at and name not in self.outputs:
                    alive.pop(name, None)
        return {name: array(alive[name]) for name in self.outputs}

    def replay(
        self, values: Mapping[str, np.ndarray], skip: Collection[str] = ()
    ) -> Iterator[tuple[NodeProto, np.ndarray]]:
        """Each node by itself, fed with given values rather than with what torch made of the ones before it.

        Args:
          values: every value of the graph, in its own type.
          skip: operators not asked.

        Yields:
          (node, its result), in topological order.
        """
        for at, node in enumerate(self.nodes):
            if node.op_type == "Constant":
                self._constants[node.output[0]] = self._node(at, [])
                continue
            if node.op_type in skip:
                continue
            given: list[Tensor | None] = []
            for name in node.input:
                constant = self._constants.get(name)
                given.append(None if not name else self.tensor(values[name]) if constant is None else constant)
            yield node, array(self._node(at, given))

    def tensor(self, value: np.ndarray) -> Tensor:
        """The array on the device; bfloat16 by its bits, of which torch's numpy bridge knows nothing."""
        value = np.array(value)  # a copy: torch wants it writable
        if value.dtype.name == "bfloat16":
            return torch.from_numpy(value.view(np.int16)).to(self._device).view(torch.bfloat16)
        return torch.from_numpy(value).to(self._device)

    def _get(self, name: str, alive: Mapping[str, Tensor]) -> Tensor | None:
        if not name:
            return None
        return alive[name] if name in alive else self._constants[name]

    def _node(self, at: int, given: Sequence[Tensor | None]) -> Tensor:
        node, attributes = self.nodes[at], self._attributes[at]
        floats = {item.dtype for item in given if item is not None and item.is_floating_point()}
        if len(floats) > 1:
            raise TypeError(f"{node.op_type} {node.name} mixes {floats}")
        if node.op_type == "Constant":
            return self.tensor(numpy_helper.to_array(attributes["value"]))
        if node.op_type == "ConstantOfShape":
            value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
            return self.tensor(value).expand(_ints(given[0]))
        return _OPERATORS[node.op_type](given, attributes)


def array(tensor: Tensor) -> np.ndarray:
    """The tensor as numpy has it, 16-bit floats widened, which is exact."""
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return wide.cpu().numpy()


def _ints(tensor: Tensor | None) -> list[int]:
    assert tensor is not None
    return [int(item) for item in tensor.tolist()]


def _gather(given: Sequence[Any], attributes: Attributes) -> Tensor:
    data, indices = given
    axis = attributes.get("axis", 0) % data.dim()
    flat = torch.where(indices < 0, indices + data.shape[axis], indices).reshape(-1)
    picked = torch.index_select(data, axis, flat)
    result: Tensor = picked.reshape((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))
    return result


def _slice(given: Sequence[Any], _: Attributes) -> Tensor:
    data, starts, ends = given[0], _ints(given[1]), _ints(given[2])
    axes = _ints(given[3]) if len(given) > 3 and given[3] is not None else list(range(len(starts)))
    steps = _ints(given[4]) if len(given) > 4 and given[4] is not None else [1] * len(starts)
    if any(step < 1 for step in steps):
        raise NotImplementedError("Slice backwards")
    index: list[slice] = [slice(None)] * data.dim()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    result: Tensor = data[tuple(index)]
    return result


def _reshape(given: Sequence[Any], _: Attributes) -> Tensor:
    data, wanted = given[0], _ints(given[1])
    sizes = [data.shape[at] if size == 0 else size for at, size in enumerate(wanted)]
    result: Tensor = data.reshape(sizes)
    return result


def _unsqueeze(given: Sequence[Any], attributes: Attributes) -> Tensor:
    data = given[0]
    axes = attributes["axes"] if "axes" in attributes else _ints(given[1])
    rank = data.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        data = data.unsqueeze(axis)
    result: Tensor = data
    return result


def _reduce_mean(given: Sequence[Any], attributes: Attributes) -> Tensor:
    axes = attributes["axes"] if "axes" in attributes else _ints(given[1])
    return torch.mean(given[0], dim=list(axes), keepdim=bool(attributes.get("keepdims", 1)))


def _layer_norm(given: Sequence[Any], attributes: Attributes) -> Tensor:
    if attributes.get("stash_type", 1) != TensorProto.FLOAT:
        raise NotImplementedError("LayerNormalization with statistics in 16 bits")
    x, scale = given[0], given[1]
    bias = given[2] if len(given) > 2 else None
    axis = attributes.get("axis", -1) % x.dim()
    # torch's kernels keep mean and variance of 16-bit tensors in FP32
    return torch.nn.functional.layer_norm(x, x.shape[axis:], scale, bias, attributes.get("epsilon", 1e-5))


def _softmax(given: Sequence[Any], attributes: Attributes) -> Tensor:
    return torch.softmax(given[0], dim=attributes.get("axis", -1))


def _gemm(given: Sequence[Any], attributes: Attributes) -> Tensor:
    a = given[0].t() if attributes.get("transA") else given[0]
    b = given[1].t() if attributes.get("transB") else given[1]
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if len(given) < 3 or given[2] is None:
        return alpha * torch.matmul(a, b) if alpha != 1.0 else torch.matmul(a, b)
    return torch.addmm(given[2], a, b, alpha=alpha, beta=beta)


def _cast(given: Sequence[Any], attributes: Attributes) -> Tensor:
    result: Tensor = given[0].to(DTYPES[attributes["to"]])
    return result


def _shape(given: Sequence[Any], attributes: Attributes) -> Tensor:
    start, end = attributes.get("start", 0), attributes.get("end")
    return torch.tensor(list(given[0].shape)[start:end], dtype=torch.int64, device=given[0].device)


def _expand(given: Sequence[Any], _: Attributes) -> Tensor:
    shape = torch.broadcast_shapes(given[0].shape, _ints(given[1]))
    result: Tensor = given[0].expand(shape)
    return result


def _div(given: Sequence[Any], _: Attributes) -> Tensor:
    a, b = given
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _plain(function: Callable[..., Tensor]) -> Operator:
    return lambda given, _: function(*given)


_OPERATORS: dict[str, Operator] = {
    **{name: _plain(function) for name, function in {
        "Abs": torch.abs, "Add": torch.add, "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp,
        "Less": torch.lt, "MatMul": torch.matmul, "Max": torch.maximum, "Min": torch.minimum, "Mul": torch.mul,
        "Neg": torch.neg, "Not": torch.logical_not, "Pow": torch.pow, "Reciprocal": torch.reciprocal,
        "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Sqrt": torch.sqrt, "Sub": torch.sub, "Tanh": torch.tanh,
        "Where": torch.where,
    }.items()},
    "Cast": _cast,
    "Concat": lambda given, attributes: torch.cat(list(given), dim=attributes["axis"]),
    "Div": _div,
    "Expand": _expand,
    "Gather": _gather,
    "Gemm": _gemm,
    "Identity": lambda given, _: given[0],
    "LayerNormalization": _layer_norm,
    "ReduceMean": _reduce_mean,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Transpose": lambda given, attributes: given[0].permute(*attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}  # fmt: skip
