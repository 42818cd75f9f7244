"""Where a candidate first goes wrong, and why."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from precision_planner.diffing.result import LayerDiff
from precision_planner.judging.metrics import json_number
from precision_planner.numerics.formats import BF16, FORMATS, FP16

HIDDEN = 1e-3
"""Gross damage is followed through values whose relative error is smaller by this factor."""

JUMP = 10.0
"""A node whose result is so many times worse than what it read has done the damage itself."""


def find_first_divergence(
    layers: Sequence[LayerDiff],
    precision: str,
    entries: Mapping[str, Mapping[str, Any]],
    readers: Mapping[str, Sequence[str]] | None = None,
    outputs: Collection[str] = (),
    moved: Collection[str] = (),
) -> dict[str, Any] | None:
    """The first value, in topological order, whose node did damage of its own that reaches an output.

    Damage: the value is not finite where the reference is, or its relative error is past 8 roundings of its type and
    `JUMP` times the largest error among what the node read. It reaches an output if values past 8 roundings (for
    gross damage `HIDDEN` times that) lead from it there. Failing that, the first damage at all where an output is
    wrong, or the first gross one (what stands behind it may cancel it on these inputs alone); failing that too, the
    first value past 64 roundings. None where nothing is.

    Args:
      layers: in topological order.
      precision: what the candidate computes in.
      entries: the plan's reason for a node, by its name.
      readers: value -> the values made from it, in the reference.
      outputs: the reference's outputs.
      moved: values of the reference that only hold another one, in another shape or type.
    """
    roundoff = {"fp16": FP16.unit_roundoff, "bf16": BF16.unit_roundoff}.get(precision, 2.0**-24)
    # FP32 against FP32: other kernels sum in another order, and cancellation magnifies that
    floor, drift = (8 * roundoff, 64 * roundoff) if precision in FORMATS else (1e-5, 1e-3)
    reaching = _reaching(layers, floor, readers or {}, outputs)
    damaged = [layer for layer in layers if _is_damage(layer, floor)]
    wrong_output = any(layer.value in outputs and not layer.metrics.rel_l2 <= floor for layer in layers)
    # a residual with massive values hides an error from its norm until a normalization takes them out
    hidden = _reaching(layers, HIDDEN * floor, readers or {}, outputs)
    found = next(
        (layer for layer in damaged if layer.value in reaching or (layer.value in hidden and _is_gross(layer))), None
    )
    if found is None:
        found = next((layer for layer in damaged if wrong_output or _is_gross(layer)), None)
    if found is not None:
        unseen = _unseen_before(found.value, layers, readers or {}, moved)
        return _divergence(found, precision, entries, "jump", unseen)
    drifted = next((layer for layer in layers if layer.metrics.rel_l2 > drift and layer.value in reaching), None)
    return None if drifted is None else _divergence(drifted, precision, entries, "drift")


def where_told(divergence: Mapping[str, Any] | None) -> str | None:
    """The first divergence in a few words: the node and the reason."""
    return None if divergence is None else f"{divergence['node']}: {divergence['reason']}"


def _is_gross(layer: LayerDiff) -> bool:
    """Damage that cancellation does not explain: large beside what the node read, not only beside its result."""
    found = layer.metrics
    return not found.rel_l2 <= 0.05 and not found.max_abs <= 0.01 * max(layer.read_amax, found.ref_amax)


def _is_damage(layer: LayerDiff, floor: float) -> bool:
    error = layer.metrics.rel_l2
    if math.isinf(layer.inherited) or math.isnan(layer.inherited):
        return False
    return layer.metrics.new_nonfinite > 0 or math.isnan(error) or (error > floor and error > JUMP * layer.inherited)


def _reaching(
    layers: Sequence[LayerDiff], floor: float, readers: Mapping[str, Sequence[str]], outputs: Collection[str]
) -> set[str]:
    """The wrong values from which wrong values lead to an output; values that only one side has are passed through."""
    errors = {layer.value: layer.metrics for layer in layers}
    reached: dict[str, bool] = {}
    # readers come after what they read, so one sweep from the end settles every value
    order = list(dict.fromkeys([*readers, *errors, *outputs]))
    places = {layer.value: layer.position for layer in layers}
    order.sort(key=lambda value: places.get(value, -1))
    pending = set(order)
    stack: list[str] = []
    for start in reversed(order):
        stack.append(start)
        while stack:
            value = stack[-1]
            if value in reached:
                stack.pop()
                continue
            below = readers.get(value, ())
            todo = [name for name in below if name not in reached and name in pending]
            if todo:
                pending.difference_update(todo)
                stack.extend(todo)
                continue
            metrics = errors.get(value)
            wrong = metrics is None or metrics.new_nonfinite > 0 or not metrics.rel_l2 <= floor
            reached[value] = wrong and (value in outputs or any(reached.get(name, False) for name in below))
            stack.pop()
    return {value for value, found in reached.items() if found and value in errors}


def _unseen_before(
    value: str, layers: Sequence[LayerDiff], readers: Mapping[str, Sequence[str]], moved: Collection[str]
) -> int:
    """How many computed values lead to this one if none of them was compared; 0 where one was: the error grew since."""
    compared = {layer.value for layer in layers}
    read: dict[str, set[str]] = {}
    for name, made in readers.items():
        for output in made:
            read.setdefault(output, set()).add(name)
    unseen: set[str] = set()
    todo = [value]
    while todo:
        for name in read.get(todo.pop(), ()):
            if name in compared:
                return 0
            if name in read and name not in unseen:
                unseen.add(name)
                todo.append(name)
    return len(unseen.difference(moved))


def _divergence(
    layer: LayerDiff, precision: str, entries: Mapping[str, Mapping[str, Any]], kind: str, unseen: int = 0
) -> dict[str, Any]:
    found = {
        "value": layer.value,
        "candidate_value": layer.candidate_value,
        "candidate_node": layer.candidate_node,
        "node": layer.node,
        "op_type": layer.op_type,
        "kind": kind,
        "reason": _cause(layer, precision, kind, unseen),
        "rel_l2": json_number(layer.metrics.rel_l2),
        "inherited": None if unseen else json_number(layer.inherited),
        "max_abs": json_number(layer.metrics.max_abs),
        "reference_amax": json_number(layer.metrics.ref_amax),
    }
    entry = entries.get(layer.candidate_node) or entries.get(layer.node)
    if entry is not None:
        found["plan"] = dict(entry)
        found["rule"] = entry.get("rule")
    return found


def _cause(layer: LayerDiff, precision: str, kind: str, unseen: int) -> str:
    """The likely cause, in terms of the format."""
    found = layer.metrics
    if found.shapes:
        return f"the shapes differ: {found.shapes}"
    fmt = FORMATS.get(precision)
    name = {"fp16": "FP16", "bf16": "BF16"}.get(precision, "FP32")
    if fmt is not None and found.ref_amax > fmt.max_finite:
        return f"values reach {_short(found.ref_amax)}, {name} ends at {fmt.max_finite:g}"
    if found.new_nonfinite:
        return f"{found.new_nonfinite} of {found.elements} elements are not finite, the reference's are"
    if fmt is not None and 0 < found.ref_amax < fmt.smallest_normal:
        return (
            f"values stay under {_short(found.ref_amax)}, below {name}'s normal range ({_short(fmt.smallest_normal)})"
        )
    if kind == "drift":
        return f"relative error has grown to {_short(found.rel_l2)} over many nodes"
    if unseen:
        what = (
            "the value before it has another name" if unseen == 1 else f"the {unseen} values before it have other names"
        )
        return (
            f"relative error {_short(found.rel_l2)}; {what} in the candidate and could not be compared, so the cause "
            "may lie there too"
        )
    return f"relative error {_short(found.rel_l2)}, where what it reads has {_short(layer.inherited)}"


def _short(value: float) -> str:
    """Three digits, without a padded exponent: 6.25e6."""
    text = f"{value:.3g}"
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
