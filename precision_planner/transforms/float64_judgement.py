"""Judging fusions by numbers: every fused normalization before and after, against float64.

Before and after run in onnxruntime with its optimizations off, on the same inputs. At each fused normalization what
went in is fetched from both runs, goes through the original nodes in float64 (through the definition where
onnxruntime has no float64 kernel for one of them), and is compared with what came out. A fusion whose error grew by
more than rounding, or that is not finite where the original was, is rolled back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from precision_planner.errors import InputsError, InstallationError, MissingExtraError, ModelError
from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.model.session import Session
from precision_planner.patterns import Match, NormRewrite
from precision_planner.transforms.isolate import doubled, isolate

_EPS: dict[int, float] = {TensorProto.FLOAT16: 2.0**-11, TensorProto.BFLOAT16: 2.0**-8, TensorProto.FLOAT: 2.0**-24}
GROWTH = 8.0
"""How much larger the error may be than the original's: other orders of summation differ by less."""
FAR = 1e-2
"""How far, beside its largest value, an original may be from the definition where nothing else tells what it does."""
ULPS = 32.0
"""Errors up to this many units of rounding of the largest result count as rounding, whatever the original's."""
_AT_ONCE = 64

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the runs showed.

    Attributes:
      passed: None where the model could not be run, or a fusion not be checked.
      max_abs: largest difference between the outputs of the two models; None where not run.
      reason: why not passed, or why not run.
      worse: index of a fused match -> why it has to be rolled back.
      errors: index of a fused match -> (error before, error after), largest absolute error against float64.
      unchecked: index of a fused match -> why it could not be held against its original in float64.
    """

    passed: bool | None
    max_abs: float | None = None
    reason: str = ""
    worse: Mapping[int, str] = field(default_factory=dict)
    errors: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    unchecked: Mapping[int, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """The `verification` entry of the report."""
        return {"passed": self.passed, "max_abs": self.max_abs, "reason": self.reason}


def judge(before: Model, after: Model, fused: Sequence[Match], feeds: Feeds) -> Judgement:
    """Run both models on one batch and judge every fused match of the main graph.

    Args:
      before: the model in which the matches were found.
      after: the model with the matches fused.
      fused: the matches.
      feeds: one batch of inputs.
    """
    worse: dict[int, str] = {}
    errors: dict[int, tuple[float, float]] = {}
    unchecked: dict[int, str] = {}
    index = GraphIndex(before.proto)
    types = infer_types(before, index)
    defined = _defined(after)
    here = [(at, match) for at, match in enumerate(fused) if not match.scope and match.rewrite is not None]
    outputs = [value.name for value in before.proto.graph.output]
    max_abs = 0.0
    try:
        for start in range(0, max(len(here), 1), _AT_ONCE):
            part = here[start : start + _AT_ONCE]
            names = [*outputs] if start == 0 else []
            alone = {at: isolate(before, index, types, index.main, match) for at, match in part}
            for at, match in part:
                names += [*_values(match), *(value.name for value in alone[at].proto.graph.input)]
            old = _run(before, names, feeds)
            if start == 0 and not any(np.isfinite(_float(old[name])).any() for name in outputs if _is_float(old[name])):
                return Judgement(None, None, "the model itself gives nothing finite on these inputs")
            try:
                new = _run(after, [name for name in names if name in defined], feeds)
            except ModelError as error:
                return Judgement(False, None, str(error), dict.fromkeys(range(len(fused)), str(error)))
            for at, match in part:
                verdict, pair, lacking = _compare(match, alone[at], old, new)
                errors[at] = pair
                if lacking:
                    unchecked[at] = lacking
                if verdict:
                    worse[at] = verdict
            if start == 0:
                max_abs, problem = _outputs(outputs, old, new)
                if problem and not worse:
                    worse = dict.fromkeys(range(len(fused)), problem)
    except ModelError as error:
        return Judgement(None, None, str(error))
    except (MissingExtraError, InstallationError, InputsError) as error:
        return Judgement(None, None, str(error))
    passed = False if worse else None if unchecked else True
    reason = next(iter(worse.values()), "") or not_checked(fused, unchecked)
    return Judgement(passed, max_abs, reason, worse, errors, unchecked)


def not_checked(fused: Sequence[Match], unchecked: Mapping[int, str]) -> str:
    """The fusions that could not be checked, by name; "" where all were."""
    if not unchecked:
        return ""
    at, why = next(iter(unchecked.items()))
    return (
        f"{len(unchecked)} of {len(fused)} fusions could not be checked, such as the one of {fused[at].output}: {why}"
    )


def _values(match: Match) -> list[str]:
    rewrite = match.rewrite
    if rewrite is None:
        return []
    operands = [operand.value for operand in (rewrite.scale, rewrite.bias) if operand is not None]
    behind = [name for name in (rewrite.scale_behind, rewrite.bias_behind) if name]
    return [rewrite.x, match.output, *operands, *behind]


def _run(model: Model, names: Sequence[str], feeds: Feeds) -> dict[str, np.ndarray]:
    unique = list(dict.fromkeys(names))
    with Session(model, unique) as session:
        found = session.run(feeds)
    return found


def _defined(model: Model) -> set[str]:
    graph = model.proto.graph
    made = {name for node in graph.node for name in node.output}
    return made | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}


def _compare(
    match: Match, alone: Model, old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
) -> tuple[str, tuple[float, float], str]:
    """('' or why it is worse, (error before, error after), '' or why the original was not run in float64)."""
    rewrite = match.rewrite
    assert rewrite is not None
    (before_ref, after_ref), lacking = _in_float64(alone, rewrite, match.output, [old, {**old, **new}])
    before, after = _float(old[match.output]), _float(new[match.output])
    if before.shape != after.shape:
        return f"the shape is {list(after.shape)}, was {list(before.shape)}", (0.0, float("inf")), lacking
    sane = np.isfinite(before) & np.isfinite(before_ref)
    lost = sane & ~np.isfinite(after)
    error_before = float(np.abs(before - before_ref)[sane].max(initial=0.0))
    if lost.any():
        return f"{int(lost.sum())} values are not finite any more", (error_before, float("inf")), lacking
    good = sane & np.isfinite(after_ref)
    error_after = float(np.abs(after - after_ref)[good].max(initial=0.0))
    unit = _EPS.get(rewrite.elem_type, 2.0**-24) * float(np.abs(after_ref[good]).max(initial=0.0))
    if error_after > GROWTH * error_before + ULPS * unit:
        reason = f"the error against float64 grew from {error_before:.3g} to {error_after:.3g}"
        return reason, (error_before, error_after), lacking
    if lacking and error_before > FAR * float(np.abs(before_ref[sane]).max(initial=0.0)):
        reason = f"the original nodes are {error_before:.3g} off the definition, and cannot be run in float64"
        return reason, (error_before, error_after), lacking
    return "", (error_before, error_after), lacking


def _in_float64(
    alone: Model, rewrite: NormRewrite, output: str, runs: Sequence[Mapping[str, np.ndarray]]
) -> tuple[list[np.ndarray], str]:
    """What the original nodes give in float64 for the values of each run, and why they were not run ('': they were).

    The nodes take the sizes of the run: what the graph leaves open is open here.
    """
    wide = _of_any_size(doubled(alone))
    try:
        with Session(wide, [output]) as session:
            names = session.input_names
            found = [_float(session.run({name: _wide(values[name]) for name in names})[output]) for values in runs]
        return found, ""
    except ModelError as error:  # no float64 kernel for one of the nodes, as for InstanceNormalization
        found = _by_reference(wide, output, runs)
        return (found, "") if found else ([normalize(rewrite, values) for values in runs], str(error))


def _by_reference(model: Model, output: str, runs: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    """The same by ONNX's own reference implementation; [] where that has none either."""
    from onnx.reference import ReferenceEvaluator

    proto = model.to_proto()
    names = [value.name for value in proto.graph.input]
    try:
        runner = ReferenceEvaluator(proto)
        answers = [list(runner.run([output], {name: _wide(values[name]) for name in names})) for values in runs]
        return [_float(np.asarray(only)) for [only] in answers]
    except Exception:  # it raises whatever numpy does; what cannot be evaluated is reported as not checked
        return []


def _of_any_size(model: Model) -> Model:
    """The model with inputs of any shape: it is to be run on values whose sizes are known by then."""
    proto = model.edit()
    for value in proto.graph.input:
        value.type.tensor_type.ClearField("shape")
    return model.with_proto(proto)


def _wide(value: np.ndarray) -> np.ndarray:
    return _float(value) if _is_float(value) else value


def normalize(rewrite: NormRewrite, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The normalization by its definition, in float64.

    Args:
      rewrite: what to compute.
      values: name -> array for x and the operands.
    """
    x = _float(values[rewrite.x])
    with np.errstate(all="ignore"):
        centered = x - x.mean(axis=rewrite.axes, keepdims=True) if rewrite.op_type == "LayerNormalization" else x
        spread = (centered * centered).mean(axis=rewrite.axes, keepdims=True)
        y = centered / np.sqrt(spread + rewrite.epsilon)
        shape = [1] * x.ndim
        for axis in rewrite.axes:
            shape[axis] = x.shape[axis]
        if rewrite.scale is not None:
            y = y * _float(values[rewrite.scale.value]).reshape(shape)
        if rewrite.bias is not None:
            y = y + _float(values[rewrite.bias.value]).reshape(shape)
        if rewrite.scale_behind:
            y = y * _float(values[rewrite.scale_behind])
        if rewrite.bias_behind:
            y = y + _float(values[rewrite.bias_behind])
    return np.asarray(y, np.float64)


def _outputs(names: Sequence[str], old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """(largest absolute difference, what is not finite any more)."""
    largest, problem = 0.0, ""
    for name in names:
        if not _is_float(old[name]):
            continue
        before, after = _float(old[name]), _float(new[name])
        if before.shape != after.shape:
            problem = f"output '{name}' has shape {list(after.shape)}, had {list(before.shape)}"
            continue
        sane = np.isfinite(before)
        if (sane & ~np.isfinite(after)).any():
            problem = f"output '{name}' is not finite any more"
        both = sane & np.isfinite(after)
        largest = max(largest, float(np.abs(before - after)[both].max(initial=0.0)))
    return largest, problem


def _is_float(value: object) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype.name == "bfloat16")


def _float(value: np.ndarray) -> np.ndarray:
    return np.asarray(value).astype(np.float64)
