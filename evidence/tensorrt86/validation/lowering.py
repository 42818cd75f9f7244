"""Write a graph so that the parser of TensorRT 8.6 takes it: opset 18 as 17, and shape arithmetic computed."""

from __future__ import annotations

import onnx
from onnx import numpy_helper


def lower(model: onnx.ModelProto) -> onnx.ModelProto:
    """Opset 18 written as 17: axes of reductions become attributes, Split loses `num_outputs`.

    The parser of TensorRT 8.6 knows opset 17 and reads no axes input of ReduceMean: it would reduce over all axes.

    Raises:
      ValueError: an operator whose opset 18 form says something that 17 cannot.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for node in model.graph.node:
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.input) > 1:
            axes = constants[node.input.pop()]
            _drop(node, "noop_with_empty_axes")
            node.attribute.append(onnx.helper.make_attribute("axes", axes.tolist()))
        elif node.op_type == "Split":
            _drop(node, "num_outputs")
        elif node.op_type == "Resize" and any(
            a.name in ("antialias", "axes") and (a.i or a.ints) for a in node.attribute
        ):
            raise ValueError(f"{node.name}: Resize with antialias or axes has no opset 17 form")
        elif node.op_type == "Resize":
            for name in ("antialias", "axes", "keep_aspect_ratio_policy"):
                _drop(node, name)
        elif node.op_type == "Pad" and len(node.input) > 3:
            raise ValueError(f"{node.name}: Pad with axes has no opset 17 form")
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = 17
    onnx.checker.check_model(model)
    return model


def _drop(node: onnx.NodeProto, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


MASK_ARITHMETIC = {"And", "Or", "Not", "GatherElements", "Mod", "Range", "Less", "LessOrEqual", "GreaterOrEqual"}
"""What exporters write to make attention masks and window indices from shapes; 8.6 does not parse all of it."""


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute what depends on no input, where that is more than TensorRT 8.6 parses; other models stay as exported."""
    if not MASK_ARITHMETIC & {node.op_type for node in model.graph.node}:
        return model
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(model)
    graph.fold_constants().cleanup()
    folded: onnx.ModelProto = gs.export_onnx(graph)
    folded.ir_version = 8
    return folded
