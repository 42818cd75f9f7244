"""Activation ranges of the FP32 model, measured by onnxruntime in a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from precision_planner.calibration.bodies import Bodies, Path, holders
from precision_planner.calibration.ranges import Accumulator, ActivationRange
from precision_planner.errors import CalibrationError, InputsError, ModelError
from precision_planner.model import GraphIndex, Model, display_name
from precision_planner.model.blocks import BlockChain, fetchable
from precision_planner.model.flow import Flow
from precision_planner.model.index import Scope
from precision_planner.model.inline import inline_functions
from precision_planner.model.inputs import Inputs, load_inputs
from precision_planner.operators import row_of
from precision_planner.transforms.repairs.finite_mask import mask_refusal

ValueKey = tuple[tuple[str, ...], str]

SQUARES = "#squares"
"""Behind the name of a native normalization's result: the squares inside it, which no value of the graph holds."""

MASK_MAGNITUDE = 1e37
"""Constants of this size are masks; where they are added or multiplied, -inf means what they mean."""

_MEAN_FREE = frozenset({"layer", "instance", "group"})
"""Normalizations that take the mean away before they square; the others square what they read."""
_SQUARING = _MEAN_FREE | {"rms", "lp"}


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
      ranges: (scope path, value) -> range; inputs of the model and of bodies included.
      unseen: path of a body in which nothing was measured -> why; a branch that was never taken is `NOT_RUN`.
    """

    ranges: Mapping[ValueKey, ActivationRange]
    unseen: Mapping[Path, str]


def calibrate(model: Model, inputs: Any = None) -> dict[ValueKey, ActivationRange]:
    """The ranges that `measure` finds."""
    return dict(measure(model, inputs).ranges)


def measure(model: Model, inputs: Any = None) -> Calibration:
    """Measure the range of every float value, those inside the bodies of If, Loop and Scan included.

    Integer and boolean tensors are no magnitudes and are left out. Memory does not grow with the number of batches:
    the model runs block by block, and of each value only counts are kept. Inside bodies they are those of every
    iteration. The squares inside native normalizations are derived from what they read, and are found under the
    result's name with `SQUARES` behind it.

    Args:
      model: in FP32.
      inputs: batches; see `load_inputs`. None synthesises them, and marks every range so.

    Raises:
      CalibrationError: the FP32 model itself answers NaN or infinity; the message names the first node that made one.
        One that no output shows (the log of 0 that a Where discards) is no error.
      InputsError, ModelError: the inputs do not fit, or onnxruntime cannot run the model.
    """
    batches = inputs if isinstance(inputs, Inputs) else load_inputs(inputs, model)
    runnable = inline_functions(model)
    wanted = fetchable(runnable)
    index = GraphIndex(runnable.proto)
    made = _Gathered(runnable, index, batches.synthesised)
    count = 0
    skipped = ""
    with BlockChain(runnable, wanted) as chain, Bodies(runnable, index, made.take) as bodies:
        for number, batch in enumerate(batches):
            label = batches.labels[number] if number < len(batches.labels) else f"batch {number}"
            made.start(label, batch)
            try:
                bodies.look(index.main, chain.run(batch), batch, frozenset())
            except ModelError as error:
                # a made-up length that the model cannot take says nothing about it
                if not batches.synthesised:
                    raise
                skipped = f"{label}: {error}"
                continue
            made.finish()
            count += 1
    if not count:
        raise InputsError(
            f"no batch could be run ({skipped or 'there was none'}); give --inputs or --input-shapes that it takes"
        )
    return Calibration(made.ranges(), bodies.unseen)


@dataclass(frozen=True, slots=True)
class _Norm:
    """A native normalization that reads a value: the squares of what are the squares inside it."""

    output: ValueKey
    axis: int
    mean_free: bool


class _Gathered:
    def __init__(self, model: Model, index: GraphIndex, synthesised: bool) -> None:
        self._synthesised = synthesised
        self._index = index
        self._model = model
        self._flow = Flow(self._index)
        self._found: dict[ValueKey, Accumulator] = {}
        self._squares: dict[ValueKey, tuple[str, Accumulator]] = {}
        self._norms: dict[ValueKey, list[_Norm]] = {}
        for scope, _, node in index.nodes():
            norm = _norm_of(scope, node)
            if norm is not None:
                self._norms.setdefault(self._key(scope, node.input[0]), []).append(norm)
        self._bodies = holders(index)
        self._marked: set[ValueKey] = set()
        self._suspect: set[ValueKey] = set()
        self._first = ""
        self._shown = False
        self._label = ""

    def start(self, label: str, batch: Mapping[str, np.ndarray]) -> None:
        """Begin a batch with the model's own inputs."""
        self._label = label
        self._marked, self._suspect = set(), set()
        self._first, self._shown = "", False
        for name, value in batch.items():
            if _is_float(value):
                wide = value.astype(np.float32)
                if not np.isfinite(wide).all():
                    if self._is_mask(name, wide):
                        self._marked.add(((), name))
                        self._count(((), name), np.where(np.isfinite(wide), wide, np.float32(0)))
                        continue
                    raise CalibrationError(
                        f"input '{name}' ({label}) holds NaN or infinity; give finite inputs, which ranges can be "
                        "measured on"
                    )
                self._count(((), name), value)

    def _is_mask(self, name: str, value: np.ndarray) -> bool:
        """Whether all that is not finite in an input is -inf, and all that it does is to mask a softmax."""
        odd = value[~np.isfinite(value)]
        if not (np.isinf(odd) & (odd < 0)).all():
            return False
        return not mask_refusal(self._flow, self._index.main, name, self._constant)

    def _constant(self, scope: Scope, name: str) -> np.ndarray | None:
        return self._index.constant(scope, name, self._model, 1 << 20)

    def take(self, scope: Scope, name: str, value: Any) -> None:
        """Take in one value of the batch."""
        if not isinstance(value, np.ndarray) or not _is_float(value):
            return
        self._check(scope, name, value)
        self._count((scope.path, name), value)

    def _key(self, scope: Scope, name: str) -> ValueKey:
        return ((self._index.resolve(scope, name) or scope).path, name)

    def finish(self) -> None:
        """End a batch: what is not finite, and not meant to be, must not reach an output."""
        if self._shown:
            raise CalibrationError(
                f"the FP32 model itself gives {self._first} ({self._label}) and answers so, so no range can be "
                "measured; mend the model or give inputs that it can take"
            )

    def ranges(self) -> dict[ValueKey, ActivationRange]:
        """Everything measured, and what is derived from it."""
        found = {key: counts.range("", self._synthesised) for key, counts in self._found.items()}
        for (path, name), (how, counts) in self._squares.items():
            found[path, name + SQUARES] = counts.range(how, self._synthesised)
        return found

    def _count(self, key: ValueKey, value: np.ndarray) -> None:
        if value.size:
            self._found.setdefault(key, Accumulator()).add(value)
            for norm in self._norms.get(key, ()):
                how = "squares of the centered input" if norm.mean_free else "squares of the input"
                counts = self._squares.setdefault(norm.output, (how, Accumulator()))[1]
                counts.add(_squares(value, norm))

    def _check(self, scope: Scope, name: str, value: np.ndarray) -> None:
        """Note NaN, and infinity that no infinite or mask-sized constant explains."""
        low, high = (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)
        if np.isfinite(low) and np.isfinite(high):
            return
        node = scope.producer_node(name)
        reads = [] if node is None else [self._key(scope, read) for read in node.input if read]
        inside = self._bodies.get(id(node), ())
        reads += [self._key(body, result) for body in inside for result in body.outputs]
        infinite = not (np.isnan(low) or np.isnan(high))
        suspect = not self._suspect.isdisjoint(reads)
        if (
            infinite
            and not suspect
            and (node is None or any(self._may_be_infinite(read) for read in reads) or _holds_infinity(node))
        ):
            self._marked.add((scope.path, name))
            return
        what = "infinity" if infinite else "NaN"
        who = name if node is None else f"{display_name(node)} ({node.op_type})"
        self._first = self._first or f"{what} at {who}"
        self._shown = self._shown or (not scope.path and scope.is_output(name))
        self._suspect.add((scope.path, name))

    def _may_be_infinite(self, key: ValueKey) -> bool:
        if key in self._marked:
            return True
        counts = self._found.get(key)
        if counts is not None:
            return counts.amax >= MASK_MAGNITUDE
        constant = self._index.constant(self._index.by_path[key[0]], key[1], self._model, 1 << 20)
        if constant is None or not constant.size or constant.dtype.kind not in "fV":
            return False
        return float(np.abs(constant.astype(np.float64)).max()) >= MASK_MAGNITUDE


def _norm_of(scope: Scope, node: NodeProto) -> _Norm | None:
    row = row_of(node)
    if not node.output or not node.input or row.normalizes not in _SQUARING or 0 in row.indices:
        return None
    axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
    if row.normalizes in ("instance", "group"):
        axis = 2
    return _Norm((scope.path, node.output[0]), axis, row.normalizes in _MEAN_FREE)


def _squares(value: np.ndarray, norm: _Norm) -> np.ndarray:
    """What a norm squares; group norms are centered a channel at a time, which bounds theirs from below."""
    x = value.astype(np.float64)
    if norm.mean_free:
        axis = norm.axis if norm.axis >= 0 else value.ndim + norm.axis
        axes = tuple(range(min(axis, value.ndim - 1), value.ndim))
        x = x - x.mean(axis=axes, keepdims=True)
    with np.errstate(over="ignore"):
        return np.square(x)


def _holds_infinity(node: NodeProto) -> bool:
    """Whether a Constant or ConstantOfShape itself says infinity (or a mask that is as good as it)."""
    return node.op_type in ("Constant", "ConstantOfShape")


def _is_float(value: np.ndarray) -> bool:
    # bfloat16 and float8 are of numpy's kind V
    return value.dtype.kind in "fV"
