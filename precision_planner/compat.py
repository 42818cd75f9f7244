"""The two converter signatures that scripts already use: change one import.

    from precision_planner.compat import convert_to_mixed_precision   # modelopt.onnx.autocast
    from precision_planner.compat import convert_float_to_float16     # onnxconverter_common.float16

Both return a typed ModelProto. What differs from the originals, on purpose: FP32 islands are whole, interface names
never change, what cannot be converted is an error or an island and never a broken model, and masks become finite
(see `precision_planner.rewriting.weights`).
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from precision_planner.errors import ConversionError
from precision_planner.model import GraphIndex, Model, NodeId, display_name
from precision_planner.planning import rewrite
from precision_planner.rewriting import RewriteResult
from precision_planner.typing import Decision, Precision

__all__ = ["VerdictWarning", "convert_float_to_float16", "convert_to_mixed_precision"]

FLOAT16_MAX = 65504.0

_AUTOCAST = frozenset(
    {
        "custom_rule", "init_conversion_max_bytes", "max_depth_of_reduction", "opset", "providers", "trt_plugins",
        "trt_plugins_precision", "use_standalone_type_inference",
    }
)  # fmt: skip
"""Arguments of ModelOpt's function that have no meaning here."""


class VerdictWarning(UserWarning):
    """What was made answers nonsense on the inputs that it was judged on."""


def convert_to_mixed_precision(
    onnx_path: str | os.PathLike[str] | onnx.ModelProto,
    low_precision_type: str = "fp16",
    nodes_to_exclude: Collection[str] | None = None,
    op_types_to_exclude: Collection[str] | None = None,
    nodes_to_include: Collection[str] | None = None,
    op_types_to_include: Collection[str] | None = None,
    data_max: float | None = 512.0,
    init_max: float | None = FLOAT16_MAX,
    keep_io_types: bool = False,
    calibration_data: str | os.PathLike[str] | Mapping[str, np.ndarray] | None = None,
    *,
    verify: bool = True,
    **ignored: Any,
) -> onnx.ModelProto:
    """Convert as ModelOpt's AutoCast does.

    Args:
      onnx_path: the model.
      low_precision_type: "fp16" or "bf16".
      nodes_to_exclude: regular expressions, matched from the start of a node's name; such nodes stay in FP32.
      op_types_to_exclude: op types that stay in FP32.
      nodes_to_include: regular expressions on names of nodes that go low whatever `data_max` and `init_max` say.
      op_types_to_include: op types of the same kind.
      data_max: nodes that read or make a larger magnitude on `calibration_data` stay in FP32. Without data nothing is
        measured: random inputs say nothing about a trained model.
      init_max: nodes with a constant of a larger finite magnitude stay in FP32. At its default, float16's maximum,
        masks become finite instead, and a bound that is out of range anyway is no reason.
      keep_io_types: the interface keeps its types.
      calibration_data: a .npz, a Polygraphy JSON file, or a dict of arrays.
      verify: check what was made and simulate it on `calibration_data`, or on made-up inputs; a `VerdictWarning` says
        where it answers nonsense (on made-up inputs, a line of the log).
      ignored: options of AutoCast that have no meaning here (`providers`, `trt_plugins`, ...) and any other: each is
        warned of.

    Raises:
      ConversionError: the type is unknown, an expression cannot be read, or nothing can be converted.
    """
    precisions: Mapping[str, Precision] = {"fp16": "fp16", "bf16": "bf16"}
    if low_precision_type not in precisions:
        raise ConversionError(f"low_precision_type {low_precision_type!r} is unknown; use fp16 or bf16")
    precision = precisions[low_precision_type]
    model = Model.load(onnx_path)
    index = GraphIndex(model.proto)
    forced = _named(index, _expressions(nodes_to_include), set(op_types_to_include or ()))
    kept = {
        node: Decision("fp32", "excluded by name or operator", keep_as="island")
        for node in _named(index, _expressions(nodes_to_exclude), set(op_types_to_exclude or ()))
    }
    _warn_of(ignored)
    if init_max is not None and init_max < FLOAT16_MAX:
        kept.update(_large_constants(model, index, init_max, forced))
    if data_max is not None and calibration_data is not None:
        kept.update(_large_data(model, index, data_max, calibration_data, forced))
    kept.update({node: Decision(precision, "included by name or operator") for node in forced if node not in kept})
    return _judged(
        rewrite(
            model,
            precision=precision,
            decisions=kept,
            io_types="keep" if keep_io_types else "low",
            inputs=calibration_data,
            verify=verify,
        )
    )


def convert_float_to_float16(
    model: onnx.ModelProto | str | os.PathLike[str],
    min_positive_val: float = 1e-7,
    max_finite_val: float = 1e4,
    keep_io_types: bool | Sequence[str] = False,
    disable_shape_infer: bool = False,
    op_block_list: Collection[str] | None = None,
    node_block_list: Collection[str] | None = None,
    check_fp16_ready: bool = True,
    *,
    verify: bool = True,
) -> onnx.ModelProto:
    """Convert as onnxconverter-common's float16 does.

    Args:
      model: the model; a path is accepted too.
      min_positive_val: accepted and without effect: small weights round, their sign is kept.
      max_finite_val: accepted and without effect: weights past float16's range are repaired by their role.
      keep_io_types: True, or the names of the inputs and outputs that keep their types.
      disable_shape_infer: accepted and without effect: types are always inferred, on the graph without its weights.
      op_block_list: op types that stay in FP32. None means none: what cannot be float16 is known.
      node_block_list: names of nodes that stay in FP32.
      check_fp16_ready: accepted and without effect: converting twice changes nothing.
      verify: check what was made and simulate it on made-up inputs; the log says where it answers nonsense.

    Raises:
      ConversionError: nothing can be converted.
    """
    del min_positive_val, max_finite_val, disable_shape_infer, check_fp16_ready
    loaded = Model.load(model)
    index = GraphIndex(loaded.proto)
    blocked, names = set(op_block_list or ()), set(node_block_list or ())
    decisions = {
        index.node_id(scope, position): Decision("fp32", "in the block list", keep_as="island")
        for scope, position, node in index.nodes()
        if node.op_type in blocked or (node.name in names and node.name) or display_name(node) in names
    }
    io_types = "keep" if keep_io_types is True else "low"
    if not isinstance(keep_io_types, bool):
        keep = set(keep_io_types)
        graph = loaded.proto.graph
        low = [info.name for info in (*graph.input, *graph.output) if info.name not in keep]
        io_types = "low=" + ",".join(low) if low else "keep"
    return _judged(rewrite(loaded, precision="fp16", fuse=(), decisions=decisions, io_types=io_types, verify=verify))


def _judged(result: RewriteResult) -> onnx.ModelProto:
    """The model; where it answers nonsense, a warning on the inputs given, a line of the log on made-up ones."""
    verdict = result.verdict
    if verdict is not None and verdict.is_wrong:
        if verdict.is_made_up:
            logging.getLogger(__name__).warning("%s; give calibration_data to know", verdict)
        else:
            warnings.warn(str(verdict), VerdictWarning, stacklevel=3)
    return result.model


def _warn_of(ignored: Mapping[str, Any]) -> None:
    """Say which arguments do nothing: a misspelled nodes_to_exclude must not pass in silence."""
    for name, value in ignored.items():
        if name in _AUTOCAST and not value:
            continue
        why = "is AutoCast's and has no effect here" if name in _AUTOCAST else "is unknown and has no effect"
        warnings.warn(f"convert_to_mixed_precision: the argument {name} {why}", UserWarning, stacklevel=3)


def _expressions(patterns: Iterable[str] | None) -> list[re.Pattern[str]]:
    compiled = []
    for pattern in patterns or ():
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ConversionError(
                f"{pattern!r} is no regular expression ({error}); escape its special characters"
            ) from None
    return compiled


def _named(index: GraphIndex, patterns: Sequence[re.Pattern[str]], op_types: set[str]) -> set[NodeId]:
    return {
        index.node_id(scope, position)
        for scope, position, node in index.nodes()
        if node.op_type in op_types or any(pattern.match(display_name(node)) for pattern in patterns)
    }


def _large_constants(model: Model, index: GraphIndex, limit: float, forced: set[NodeId]) -> dict[NodeId, Decision]:
    found = {}
    largest: dict[tuple[tuple[str, ...], str], float] = {}
    for scope, position, node in index.nodes():
        identity = index.node_id(scope, position)
        for name in node.input:
            holder = index.resolve(scope, name) if name else None
            if holder is None or identity in forced:
                continue
            key = (holder.path, name)
            if key not in largest:
                array = index.constant(scope, name, model)
                largest[key] = _amax(array) if array is not None and array.dtype.kind == "f" else 0.0
            if largest[key] > limit:
                found[identity] = Decision("fp32", f"constant {name} reaches {largest[key]:g}, over init_max {limit:g}")
    return found


def _amax(array: np.ndarray) -> float:
    size = np.abs(array[np.isfinite(array)])
    return float(size.max(initial=0.0))


def _large_data(
    model: Model, index: GraphIndex, limit: float, data: object, forced: set[NodeId]
) -> dict[NodeId, Decision]:
    from precision_planner.calibration import calibrate

    ranges = calibrate(model, data)
    found = {}
    for scope, position, node in index.nodes():
        identity = index.node_id(scope, position)
        for name in (*node.input, *node.output):
            seen = ranges.get((scope.path, name))
            if seen is not None and seen.amax > limit and identity not in forced:
                found[identity] = Decision("fp32", f"{name} reached {seen.amax:g}, over data_max {limit:g}")
    return found
