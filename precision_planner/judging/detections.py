"""Sets of boxes: after NonMaxSuppression or TopK their order is unstable, so they are matched and counted.

Two scores that differ by a rounding swap their rows, and every number after them differs. What is compared instead:
which boxes were found again (intersection over union, class), and how far matched boxes and scores are apart. What was
not found again is counted, and keeps no tolerance.

This very file goes into plan folders: Python 3.8 and numpy are all it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np

from .metrics import json_number, nonfinite

IOU = 0.5
"""From this intersection over union on two boxes of a class are the same object (as in PASCAL VOC and COCO's AP50)."""

READABLE = 0.95
"""Share of the reference's rows that must be boxes for four numbers to be read as such."""

COLUMNS = {5: (slice(0, 4), 4, None), 6: (slice(0, 4), 4, 5), 7: (slice(1, 5), 6, 5)}
"""Boxes, score and class in one tensor, by its width: [x1 y1 x2 y2 score], the same and a class,
[image x1 y1 x2 y2 class score]."""

Array = Any
Pairs = List[Tuple[int, int]]


@dataclass(frozen=True)
class Evidence:
    """What is known of outputs beyond their numbers.

    Attributes:
      boxes: outputs whose rows are boxes: they come after NonMaxSuppression, or the user says so.
      coordinates: outputs of four numbers a row that TopK has selected: boxes where they can be read as such and have
        scores beside them.
      unordered: outputs that come after a selection: their rows belong to boxes, if any do.
      indices: outputs that are NonMaxSuppression's own: [n, 3] of image, class, box.
      classes: output -> whether its rows are scores of classes; an output that is missing here is judged by its looks.
    """

    boxes: FrozenSet[str] = frozenset()
    coordinates: FrozenSet[str] = frozenset()
    unordered: FrozenSet[str] = frozenset()
    indices: FrozenSet[str] = frozenset()
    classes: Mapping[str, bool] = field(default_factory=dict)

    @property
    def is_detector(self) -> bool:
        """Whether any output may hold boxes."""
        return bool(self.boxes or self.coordinates or self.indices)

    def naming(self, boxes: Iterable[str]) -> Evidence:
        """With outputs that the user names as boxes."""
        named = frozenset(boxes)
        if not named:
            return self
        return Evidence(self.boxes | named, self.coordinates, self.unordered | named, self.indices, self.classes)

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        sets = {name: sorted(getattr(self, name)) for name in ("boxes", "coordinates", "unordered", "indices")}
        return {**sets, "classes": dict(self.classes)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Evidence:
        """Read it back."""
        sets = [frozenset(data.get(name, ())) for name in ("boxes", "coordinates", "unordered", "indices")]
        return Evidence(sets[0], sets[1], sets[2], sets[3], dict(data.get("classes", {})))


@dataclass
class Matched:
    """How two sets of detections agree, added up over images and batches."""

    reference: int = 0
    candidate: int = 0
    ious: List[float] = field(default_factory=list)
    score_errors: List[float] = field(default_factory=list)
    moved: int = 0

    @property
    def matched(self) -> int:
        """How many were found again."""
        return len(self.ious)

    @property
    def missed(self) -> int:
        """Detections of the reference that the candidate lacks."""
        return self.reference - len(self.ious)

    @property
    def extra(self) -> int:
        """Detections of the candidate that the reference lacks."""
        return self.candidate - len(self.ious)

    @property
    def lost_share(self) -> float:
        """Share of all detections, both sides', that have no partner."""
        return (self.missed + self.extra) / max(1, self.reference + self.candidate)

    def value(self, metric: str) -> float:
        """The value of missed, extra or min_iou; NaN for an overlap of nothing."""
        if metric == "min_iou":
            return min(self.ious) if self.ious else float("nan")
        return float(getattr(self, metric))

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        found = bool(self.ious)
        return {
            "iou_threshold": IOU,
            "reference": self.reference,
            "candidate": self.candidate,
            "matched": self.matched,
            "missed": self.missed,
            "extra": self.extra,
            "moved": self.moved,
            "mean_iou": json_number(float(np.mean(self.ious))) if found else None,
            "min_iou": json_number(min(self.ious)) if found else None,
            "max_score_error": json_number(max(self.score_errors)) if self.score_errors else None,
        }


class SetMatcher:
    """Puts the candidate's detections in the reference's order, batch by batch, and counts what is left over.

    Attributes:
      found: output of boxes (or of indices) -> how its sets agree.
      groups: output -> the output of boxes that its rows belong to.

    Args:
      evidence: which outputs hold boxes.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.found: Dict[str, Matched] = {}
        self.groups: Dict[str, str] = {}
        self._centers: Dict[str, Optional[bool]] = {}

    def align(self, expected: Mapping[str, Any], given: Mapping[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """Both sides' outputs of one batch, those after the selection cut to the matched detections.

        Outputs that are no detections stay as they are; so do all where the candidate's are not finite, or have shapes
        that differ in more than the number of detections.
        """
        ours, theirs = dict(expected), dict(given)
        known = self.evidence
        names = [
            name
            for name in expected
            if name in (known.unordered | known.boxes | known.coordinates | known.indices)
            and isinstance(expected[name], np.ndarray)
            and isinstance(given.get(name), np.ndarray)
        ]
        for name in names:
            a, b = expected[name], given[name]
            if name in known.indices and a.ndim == 2 and a.shape[1] == 3 and b.shape[1:] == a.shape[1:]:
                pairs = _same_rows(a, b)
                self._note(name, len(a), len(b), [1.0] * len(pairs), [], pairs)
                self.groups[name] = name
                ours[name], theirs[name] = _take(a, b, [pairs], batched=False)
        used: Set[str] = set(known.indices)
        for boxes in names:
            group = [] if boxes in used else self._group(boxes, [n for n in names if n not in used], expected)
            if group and self._align_group(group, names, ours, theirs):
                used.update(group)
        return ours, theirs

    def _align_group(self, group: List[str], names: List[str], ours: Dict[str, Any], theirs: Dict[str, Any]) -> bool:
        """Match one output of boxes and what has a row for each of them, in place; whether that could be done."""
        boxes = group[0]
        sides = [{name: side[name] for name in group} for side in (ours, theirs)]
        lead = ours[boxes].ndim - 1
        batched = lead == 2
        comparable = all(_same_but_count(a, sides[1][name], batched) for name, a in sides[0].items())
        comparable &= len({array.shape[:lead] for array in sides[1].values()}) == 1
        if not comparable or not all(_all_finite(array) for array in sides[1].values()):
            return False
        images = sides[0][boxes].shape[0] if batched else 1
        if not images:
            return False
        has_scores = len(group) > 1 or ours[boxes].shape[-1] in COLUMNS
        counts = [_counts(side, names, images) for side in (ours, theirs)]
        matches: List[Pairs] = []
        for image in range(images):
            rows = [
                _detections(
                    {n: v[image] for n, v in side.items()} if batched else side,
                    boxes,
                    count[image],
                    self._centers.get(boxes),
                )
                for side, count in zip(sides, counts)
            ]
            overlap = iou(rows[0].boxes, rows[1].boxes)
            pairs = match(overlap, rows[0], rows[1])
            ious = [float(overlap[i, j]) for i, j in pairs]
            errors = [abs(float(rows[0].scores[i]) - float(rows[1].scores[j])) for i, j in pairs]
            places = [(int(rows[0].places[i]), int(rows[1].places[j])) for i, j in pairs]
            self._note(boxes, len(rows[0].boxes), len(rows[1].boxes), ious, errors if has_scores else [], places)
            matches.append(places)
        for name in group:
            self.groups[name] = boxes
            ours[name], theirs[name] = _take(sides[0][name], sides[1][name], matches, batched=batched)
        return True

    def _note(
        self, name: str, reference: int, candidate: int, ious: List[float], errors: List[float], pairs: Pairs
    ) -> None:
        total = self.found.setdefault(name, Matched())
        total.reference += reference
        total.candidate += candidate
        total.ious += ious
        total.score_errors += errors
        total.moved += sum(i != j for i, j in pairs)

    def _group(self, boxes: str, names: Sequence[str], outputs: Mapping[str, Any]) -> List[str]:
        """The outputs with a row for each box, boxes first; empty if `boxes` is none."""
        array = outputs[boxes]
        known = self.evidence
        if array.ndim not in (2, 3) or array.dtype.kind not in "fV" or array.shape[-1] not in (4, *COLUMNS):
            return []
        lead = array.shape[:-1]
        beside = [n for n in names if n != boxes and outputs[n].shape[: len(lead)] == lead]
        if boxes in known.boxes:
            centers = _reading(array)
        elif boxes in known.coordinates:
            centers = _reading(array)
            has_scores = array.shape[-1] != 4 or any(_is_score(outputs[n], len(lead)) for n in beside)
            if not has_scores or centers is None:
                return []
        else:
            return []
        if boxes not in self._centers and array.size:
            self._centers[boxes] = centers
        return [boxes, *(name for name in beside if name not in known.boxes | known.coordinates)]


@dataclass(frozen=True)
class _Rows:
    boxes: Array
    scores: Array
    labels: Array
    places: Array


def iou(a: Array, b: Array) -> Array:
    """Intersection over union of every two boxes [x1 y1 x2 y2]: [len(a), len(b)]; 0 where both are empty."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=-1)
    area_a, area_b = (np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=-1) for x in (a, b))
    union = area_a[:, None] + area_b[None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def match(overlap: Array, reference: _Rows, candidate: _Rows) -> Pairs:
    """Pairs of the same class with an overlap of at least `IOU`, the best overlap first, then the closest score.

    Each detection is in one pair at most.
    """
    allowed = overlap >= IOU
    if reference.labels is not None and candidate.labels is not None:
        allowed &= reference.labels[:, None] == candidate.labels[None, :]
    rows, columns = np.nonzero(allowed)
    error = np.abs(reference.scores[rows] - candidate.scores[columns])
    used: Tuple[Set[int], Set[int]] = (set(), set())
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


def _split(side: Mapping[str, Array], boxes: str) -> Tuple[Array, Array, Array]:
    """(boxes, scores, labels or None), each with the boxes' leading axes; scores of 0 where there are none."""
    array = np.asarray(side[boxes], np.float64)
    lead = array.ndim - 1
    if array.shape[-1] in COLUMNS:
        box, score, label = COLUMNS[array.shape[-1]]
        return array[..., box], array[..., score], None if label is None else np.rint(array[..., label])
    others = [value for name, value in side.items() if name != boxes]
    flat = [value for value in others if value.ndim == lead]
    scores = [value for value in flat if value.dtype.kind in "fV"]
    labels = [value for value in flat if value.dtype.kind in "iu"]
    if scores:
        return array, scores[0].astype(np.float64), labels[0] if labels else None
    tables = [value for value in others if _is_score(value, lead)]
    if tables and tables[0].shape[-1]:
        classes = tables[0].astype(np.float64)
        return array, classes.max(axis=-1), classes.argmax(axis=-1)
    return array, np.zeros(array.shape[:-1]), labels[0] if labels else None


def _reading(array: Array) -> Optional[bool]:
    """How four coordinates read: True as [cx cy w h], False as corners, None as no boxes at all."""
    box = COLUMNS[array.shape[-1]][0] if array.shape[-1] in COLUMNS else slice(0, 4)
    rows = np.asarray(array, np.float64).reshape(-1, array.shape[-1])[:, box]
    rows = rows[rows.any(axis=1)]  # padding
    if not len(rows):
        return False
    if float((rows[:, 2:] >= rows[:, :2]).all(axis=1).mean()) >= READABLE:
        return False
    return True if float((rows[:, 2:] >= 0).all(axis=1).mean()) >= READABLE else None


def _detections(side: Mapping[str, Array], boxes: str, count: int, centers: Optional[bool]) -> _Rows:
    found, scores, labels = _split(side, boxes)
    if centers:
        half = found[:, 2:] / 2
        found = np.concatenate([found[:, :2] - half, found[:, :2] + half], axis=1)
    elif centers is None:  # NonMaxSuppression takes any two opposite corners
        found = np.concatenate([np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])], axis=1)
    places = np.arange(len(found))
    # what is padded: past the count that the model gives, or an empty box
    places = places[(places < count) & (found[:, 2:] > found[:, :2]).all(axis=1)]
    return _Rows(found[places], scores[places], None if labels is None else labels[places], places)


def _counts(outputs: Mapping[str, Any], names: Iterable[str], images: int) -> List[int]:
    """How many detections each image has, from an integer output of one number an image, named as a count."""
    for name in names:
        array = np.asarray(outputs[name])
        if array.dtype.kind in "iu" and array.size == images and ("num" in name.lower() or "count" in name.lower()):
            return [int(value) for value in array.reshape(-1)]
    return [1 << 62] * images


def _all_finite(array: Array) -> bool:
    return nonfinite(array) == 0


def _same_but_count(a: Array, b: Array, batched: bool) -> bool:
    """Whether two shapes differ at most in the axis that counts detections."""
    count = 1 if batched else 0
    x, y = tuple(a.shape), tuple(b.shape)
    return len(x) == len(y) and x[:count] == y[:count] and x[count + 1 :] == y[count + 1 :]


def _same_rows(a: Array, b: Array) -> Pairs:
    """Pairs of equal rows."""
    places: Dict[Any, List[int]] = {}
    for at, row in enumerate(b.tolist()):
        places.setdefault(tuple(row), []).append(at)
    pairs = []
    for at, row in enumerate(a.tolist()):
        left = places.get(tuple(row))
        if left:
            pairs.append((at, left.pop(0)))
    return pairs


def _take(a: Array, b: Array, matches: Sequence[Pairs], *, batched: bool) -> Tuple[Array, Array]:
    """The matched rows of both, in the reference's order."""
    pieces: Tuple[List[Array], List[Array]] = ([], [])
    for image, pairs in enumerate(matches):
        x, y = (a[image], b[image]) if batched else (a, b)
        pieces[0].append(x[[i for i, _ in pairs]])
        pieces[1].append(y[[j for _, j in pairs]])
    return np.concatenate(pieces[0]), np.concatenate(pieces[1])
