"""Detectors: after NonMaxSuppression or TopK the order of the boxes is unstable, so they are matched as sets.

Two scores that differ by a rounding swap their rows, and every number after them differs. What is compared instead:
which boxes were found again (intersection over union, class), how far matched boxes and scores are apart, and the
numbers that go into the selection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.model.order import reads, sorted_copy
from precision_planner.numerics.metrics import json_number

IOU = 0.5
"""From this intersection over union on two boxes of a class are the same object (as in PASCAL VOC and COCO's AP50)."""

SELECTORS = frozenset({"NonMaxSuppression", "TopK"})

COLUMNS = {6: (slice(0, 4), 4, 5), 7: (slice(1, 5), 6, 5)}
"""Boxes, score and class in one tensor, by its width: [x1 y1 x2 y2 score class], [image x1 y1 x2 y2 class score]."""

Array = np.ndarray[Any, np.dtype[Any]]
Pairs = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a graph selects boxes by.

    Attributes:
      outputs: the graph's outputs that come after a selection.
      unordered: every value after it.
      before: the values that the selections read: boxes and scores in an order of their own.
      indices: outputs that are NonMaxSuppression's own: [n, 3] of image, class, box.
    """

    outputs: frozenset[str]
    unordered: frozenset[str]
    before: tuple[str, ...]
    indices: frozenset[str]


def find_selection(model: Model) -> Selection | None:
    """Whether outputs of the main graph come after NonMaxSuppression or TopK and may be boxes; None if none do.

    A classifier's TopK is none: a box tensor (last axis 4, 6 or 7, or unknown) must come after the selection, or the
    indices of NonMaxSuppression itself.
    """
    index = GraphIndex(sorted_copy(model.proto))
    types = infer_types(model)
    after: set[str] = set()
    before: list[str] = []
    own: set[str] = set()
    for node in index.main.nodes:
        chosen = node.op_type in SELECTORS and not node.domain
        if chosen:
            before += [name for name in node.input[: 2 if node.op_type == "NonMaxSuppression" else 1] if name]
        if chosen or after.intersection(reads(node)):
            after.update(name for name in node.output if name)
        is_move = node.op_type in ("Identity", "Cast") and node.input[0] in own
        if (chosen and node.op_type == "NonMaxSuppression") or is_move:
            own.update(node.output)
    outputs = [value.name for value in model.proto.graph.output if value.name in after]
    if not any(name in own or _may_be_boxes(types.get(((), name))) for name in outputs):
        return None
    made = {name for node in index.main.nodes for name in node.output}
    return Selection(
        frozenset(outputs),
        frozenset(after),
        tuple(dict.fromkeys(name for name in before if name in made)),
        frozenset(own.intersection(outputs)),
    )


def _may_be_boxes(kind: Any) -> bool:
    if kind is None or kind.shape is None:
        return True
    return len(kind.shape) >= 2 and (not isinstance(kind.shape[-1], int) or kind.shape[-1] in (4, *COLUMNS))


@dataclass
class Matched:
    """How two sets of detections agree, added up over images and batches."""

    reference: int = 0
    candidate: int = 0
    ious: list[float] = field(default_factory=list)
    score_errors: list[float] = field(default_factory=list)
    moved: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        matched = len(self.ious)
        return {
            "iou_threshold": IOU,
            "reference": self.reference,
            "candidate": self.candidate,
            "matched": matched,
            "missed": self.reference - matched,
            "extra": self.candidate - matched,
            "moved": self.moved,
            "mean_iou": json_number(float(np.mean(self.ious))) if matched else None,
            "min_iou": json_number(min(self.ious)) if matched else None,
            "max_score_error": json_number(max(self.score_errors)) if self.score_errors else None,
        }


class SetMatcher:
    """Puts the candidate's detections in the reference's order, batch by batch, and counts what is left over.

    Args:
      selection: see `find_selection`.
    """

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.found: dict[str, Matched] = {}

    def align(self, expected: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both sides' outputs of one batch, those after the selection cut to the matched detections.

        Outputs that are no detections stay as they are; so do all where the candidate's are not finite, or have shapes
        that differ in more than the number of detections.
        """
        ours, theirs = dict(expected), dict(given)
        names = [
            name
            for name in expected
            if name in self.selection.outputs and isinstance(expected[name], np.ndarray) and name in given
        ]
        for name in names:
            a, b = np.asarray(expected[name]), np.asarray(given[name])
            if name in self.selection.indices and a.ndim == 2 and a.shape[1] == 3 and b.shape[1:] == a.shape[1:]:
                pairs = _same_rows(a, b)
                self._note(name, len(a), len(b), [1.0] * len(pairs), [], pairs)
                ours[name], theirs[name] = _take(a, b, [pairs], batched=False)
        boxes = next((name for name in names if self._group(name, names, expected)), None)
        if boxes is None:
            return ours, theirs
        group = self._group(boxes, names, expected)
        sides = [{name: np.asarray(side[name]) for name in group} for side in (expected, given)]
        lead = np.asarray(expected[boxes]).ndim - 1
        batched = lead == 2
        comparable = all(_same_but_count(a, sides[1][name], batched) for name, a in sides[0].items())
        comparable &= len({array.shape[:lead] for array in sides[1].values()}) == 1
        if not comparable or not all(np.isfinite(b.astype(np.float64)).all() for b in sides[1].values()):
            return ours, theirs
        images = sides[0][boxes].shape[0] if batched else 1
        counts = [_counts(side, names, images) for side in (expected, given)]
        matches: list[Pairs] = []
        is_center = _is_center(_split(sides[0], boxes)[0])
        for image in range(images):
            rows = [
                _detections({n: v[image] for n, v in side.items()} if batched else side, boxes, count[image], is_center)
                for side, count in zip(sides, counts, strict=True)
            ]
            overlap = iou(rows[0].boxes, rows[1].boxes)
            pairs = match(overlap, rows[0], rows[1])
            ious = [float(overlap[i, j]) for i, j in pairs]
            errors = [abs(float(rows[0].scores[i]) - float(rows[1].scores[j])) for i, j in pairs]
            places = [(int(rows[0].places[i]), int(rows[1].places[j])) for i, j in pairs]
            self._note(boxes, len(rows[0].boxes), len(rows[1].boxes), ious, errors, places)
            matches.append(places)
        for name in group:
            ours[name], theirs[name] = _take(sides[0][name], sides[1][name], matches, batched=batched)
        return ours, theirs

    def _note(
        self, name: str, reference: int, candidate: int, ious: list[float], errors: list[float], pairs: Pairs
    ) -> None:
        total = self.found.setdefault(name, Matched())
        total.reference += reference
        total.candidate += candidate
        total.ious += ious
        total.score_errors += errors
        total.moved += sum(i != j for i, j in pairs)

    def _group(self, boxes: str, names: Sequence[str], outputs: Mapping[str, Any]) -> list[str]:
        """The outputs with a row for each box, boxes first; empty if `boxes` is none, or has no scores beside it."""
        array = np.asarray(outputs[boxes])
        if array.ndim not in (2, 3) or array.dtype.kind not in "fV" or boxes in self.selection.indices:
            return []
        lead = array.shape[:-1]
        beside = [n for n in names if n != boxes and np.asarray(outputs[n]).shape[: len(lead)] == lead]
        if array.shape[-1] in COLUMNS:
            return [boxes, *beside]
        if array.shape[-1] != 4 or not any(_is_score(np.asarray(outputs[n]), len(lead)) for n in beside):
            return []
        return [boxes, *beside]


@dataclass(frozen=True)
class _Rows:
    boxes: Array
    scores: Array
    labels: Array | None
    places: Array


def iou(a: Array, b: Array) -> Array:
    """Intersection over union of every two boxes [x1 y1 x2 y2]: [len(a), len(b)]; 0 where both are empty."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=-1)
    area_a, area_b = (np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=-1) for x in (a, b))
    union = area_a[:, None] + area_b[None, :] - common
    found: Array = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return found


def match(overlap: Array, reference: _Rows, candidate: _Rows) -> Pairs:
    """Pairs of the same class with an overlap of at least `IOU`, the best overlap first, then the closest score."""
    allowed = overlap >= IOU
    if reference.labels is not None and candidate.labels is not None:
        allowed &= reference.labels[:, None] == candidate.labels[None, :]
    rows, columns = np.nonzero(allowed)
    error = np.abs(reference.scores[rows] - candidate.scores[columns])
    used: tuple[set[int], set[int]] = (set(), set())
    pairs: Pairs = []
    for at in np.lexsort((error, -overlap[rows, columns])):
        i, j = int(rows[at]), int(columns[at])
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            pairs.append((i, j))
    return sorted(pairs)


def _is_score(array: Array, lead: int) -> bool:
    """[..] scores, or [.., classes] scores of every class."""
    return array.dtype.kind in "fV" and array.ndim in (lead, lead + 1)


def _split(side: Mapping[str, Array], boxes: str) -> tuple[Array, Array, Array | None]:
    """(boxes, scores, labels or None), each with the boxes' leading axes."""
    array = np.asarray(side[boxes], np.float64)
    lead = array.ndim - 1
    if array.shape[-1] in COLUMNS:
        box, score, label = COLUMNS[array.shape[-1]]
        return array[..., box], array[..., score], np.rint(array[..., label])
    others = [value for name, value in side.items() if name != boxes]
    flat = [value for value in others if value.ndim == lead]
    scores = [value for value in flat if value.dtype.kind in "fV"]
    labels = [value for value in flat if value.dtype.kind in "iu"]
    if not scores:
        classes = next(value for value in others if _is_score(value, lead)).astype(np.float64)
        return array, classes.max(axis=-1), classes.argmax(axis=-1)
    return array, scores[0].astype(np.float64), labels[0] if labels else None


def _is_center(boxes: Array) -> bool:
    """Whether boxes are [cx cy w h]: as corners some would end before they begin."""
    return bool(boxes.size) and bool((boxes[..., 2:] < boxes[..., :2]).any())


def _detections(side: Mapping[str, Array], boxes: str, count: int, is_center: bool) -> _Rows:
    found, scores, labels = _split(side, boxes)
    if is_center:
        half = found[:, 2:] / 2
        found = np.concatenate([found[:, :2] - half, found[:, :2] + half], axis=1)
    places = np.arange(len(found))
    # what is padded: past the count that the model gives, or an empty box without a score
    real = (places < count) & ((scores > 0) | (found[:, 2:] > found[:, :2]).all(axis=1))
    places = places[real]
    return _Rows(found[places], scores[places], None if labels is None else labels[places], places)


def _counts(outputs: Mapping[str, Any], names: Iterable[str], images: int) -> list[int]:
    """How many detections each image has, from an integer output of one number an image, named as a count."""
    for name in names:
        array = np.asarray(outputs[name])
        if array.dtype.kind in "iu" and array.size == images and ("num" in name.lower() or "count" in name.lower()):
            return [int(value) for value in array.reshape(-1)]
    return [1 << 62] * images


def _same_but_count(a: Array, b: Array, batched: bool) -> bool:
    """Whether two shapes differ at most in the axis that counts detections."""
    count = 1 if batched else 0
    return a.ndim == b.ndim and a.shape[:count] == b.shape[:count] and a.shape[count + 1 :] == b.shape[count + 1 :]


def _same_rows(a: Array, b: Array) -> Pairs:
    """Pairs of equal rows."""
    places: dict[tuple[int, ...], list[int]] = {}
    for at, row in enumerate(b.tolist()):
        places.setdefault(tuple(row), []).append(at)
    return [(at, places[key].pop(0)) for at, row in enumerate(a.tolist()) if places.get(key := tuple(row))]


def _take(a: Array, b: Array, matches: Sequence[Pairs], *, batched: bool) -> tuple[Array, Array]:
    """The matched rows of both, in the reference's order."""
    pieces: tuple[list[Array], list[Array]] = ([], [])
    for image, pairs in enumerate(matches):
        x, y = (a[image], b[image]) if batched else (a, b)
        pieces[0].append(x[[i for i, _ in pairs]])
        pieces[1].append(y[[j for _, j in pairs]])
    return np.concatenate(pieces[0]), np.concatenate(pieces[1])
