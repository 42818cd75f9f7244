"""What a typed model answers, by an evaluation of its own: every node alone in float32, rounded to its declared type.

Nothing of the planner is used: types are those of onnx.shape_inference, kernels those of onnxruntime for float32, one
session a node. Values of 16-bit types are held in float32, which holds them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

LOW: dict[int, Any] = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}
Values = dict[str, Any]


class CannotEvaluateError(Exception):
    """The model holds what this evaluation does not know: sequences, loops."""


def evaluate(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], stored: Mapping[str, int] | None = None
) -> Values:
    """The outputs for one batch; floats as float32.

    Args:
      model: typed, or in FP32.
      feeds: inputs by name.
      stored: value or initializer -> the type that it is stored in whatever the graph declares; constants past its
        range are then its largest finite value, as weakly typed builders convert them.

    Raises:
      CannotEvaluateError: see there.
    """
    whole = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(model))
    held = stored or {}
    for tensor in whole.graph.initializer:
        if tensor.name in held:
            array = numpy_helper.to_array(tensor)
            top = float(ml_dtypes.finfo(LOW[held[tensor.name]]).max)
            tensor.CopyFrom(numpy_helper.from_array(rounded(np.clip(array, -top, top), held[tensor.name]), tensor.name))
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*whole.graph.value_info, *whole.graph.input, *whole.graph.output)
    }
    values = {name: rounded(np.asarray(array), types.get(name, 0)) for name, array in feeds.items()}
    types.update(held)
    made = _Evaluation(whole, types, held).run(whole.graph, values)
    return {value.name: made[value.name] for value in whole.graph.output}


def rounded(array: Any, kind: int) -> Any:
    """A float array in float32, rounded to a 16-bit type where it is declared so; anything else as it is."""
    if not isinstance(array, np.ndarray):
        raise CannotEvaluateError("a sequence or map")
    if kind in LOW:
        with np.errstate(over="ignore", invalid="ignore"):
            return array.astype(LOW[kind]).astype(np.float32)
    return array.astype(np.float32) if array.dtype in (np.float16, ml_dtypes.bfloat16) else array


class _Evaluation:
    def __init__(self, model: onnx.ModelProto, types: Mapping[str, int], held: Mapping[str, int]) -> None:
        self.model, self.types, self.held = model, dict(types), held
        self.sessions: dict[bytes, ort.InferenceSession] = {}

    def run(self, graph: GraphProto, outer: Mapping[str, Any]) -> Values:
        values = dict(outer)
        for tensor in graph.initializer:
            values.setdefault(tensor.name, rounded(numpy_helper.to_array(tensor), tensor.data_type))
        kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
        for node in graph.node:
            for name, array in zip(node.output, self.node(node, values), strict=False):
                if name:
                    values[name] = rounded(array, self.held.get(name) or kinds.get(name) or self.types.get(name, 0))
        return values

    def node(self, node: NodeProto, values: Mapping[str, Any]) -> list[Any]:
        if node.op_type == "If":
            chosen = "then_branch" if bool(values[node.input[0]].reshape(-1)[0]) else "else_branch"
            body = next(a.g for a in node.attribute if a.name == chosen)
            made = self.run(body, values)
            return [made[value.name] for value in body.output]
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise CannotEvaluateError(node.op_type)
        given = [values[name] if name else None for name in node.input]
        alone = NodeProto()
        alone.CopyFrom(node)
        del alone.input[:]
        alone.input.extend(f"i{at}" if array is not None else "" for at, array in enumerate(given))
        del alone.output[:]
        alone.output.extend(f"o{at}" if name else "" for at, name in enumerate(node.output))
        for attribute in alone.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in LOW:
                attribute.i = TensorProto.FLOAT
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in LOW:
                wide = rounded(numpy_helper.to_array(attribute.t), attribute.t.data_type)
                attribute.t.CopyFrom(numpy_helper.from_array(wide))
        feeds = {f"i{at}": array for at, array in enumerate(given) if array is not None}
        inputs = [
            # Resize's sizes are refused where their number is not known
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(array.dtype),
                list(array.shape) if array.ndim == 1 else [None] * array.ndim,
            )
            for name, array in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in alone.output if name]
        text = (
            alone.SerializeToString(deterministic=True)
            + repr([(a.dtype, a.shape if a.ndim == 1 else a.ndim) for a in feeds.values()]).encode()
        )
        if text not in self.sessions:
            proto = helper.make_model(
                helper.make_graph([alone], "node", inputs, outputs),
                opset_imports=self.model.opset_import,
                ir_version=min(self.model.ir_version, 10),
            )
            options = ort.SessionOptions()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.intra_op_num_threads, options.log_severity_level = 1, 4
            self.sessions[text] = ort.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        found = iter(self.sessions[text].run(None, feeds))
        return [next(found) if name else None for name in node.output]


def answers(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> Values:
    """What the FP32 model answers, by onnxruntime with its optimizations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([out.name for out in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def verdict(expected: Values, given: Values) -> str:
    """The word for it, by the definitions in docs/diff.md: written out here, for the worst output.

    NONFINITE: an element is not finite that is so in the reference. GARBAGE: a relative L2 error above 0.1, or a tenth
    of the rows of a table of classes (two at least) in another class. DEGRADED: above 0.01, or a tenth of the rows.
    """
    order = ("FINE", "DEGRADED", "GARBAGE", "NONFINITE")
    worst = 0
    if not any(np.size(array) for array in expected.values()):
        return "NOT JUDGED"
    for name, array in expected.items():
        a, b = np.asarray(array, np.float64), np.asarray(given[name], np.float64)
        finite = np.isfinite(a)
        if not np.isfinite(b[finite]).all():
            return "NONFINITE"
        error, size = np.linalg.norm((b - a)[finite]), np.linalg.norm(a[finite])
        relative = error / size if size else (np.inf if error else 0.0)
        flips = _flips(np.asarray(array), np.asarray(given[name]))
        grade = 2 if relative > 0.1 else 1 if relative > 0.01 else 0
        if flips is not None and flips.mean() >= 0.1:
            grade = max(grade, 2 if flips.sum() > 1 else 1)
        worst = max(worst, grade)
    return order[worst]


def _flips(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """Which rows changed class, where there are classes: probabilities, the rows of a matrix, or labels themselves."""
    if a.dtype.kind not in "fV":
        is_label = a.dtype.kind in "bOUS" or a.dtype.itemsize >= 4
        return (a != b).reshape(-1) if is_label and a.size else None
    if a.ndim not in (1, 2, 3) or a.shape[-1] < 2 or not a.size:
        return None
    rows, other = (x.astype(np.float64).reshape(-1, a.shape[-1]) for x in (a, b))
    probable = (rows >= 0).all() and (np.abs(rows.sum(1) - 1) < 1e-2).all()
    unit = (np.abs(np.linalg.norm(rows, axis=1) - 1) < 1e-3).all()
    return rows.argmax(1) != other.argmax(1) if probable or (a.ndim == 2 and not unit) else None
