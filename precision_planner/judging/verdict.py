"""What a judgement means: a grade, one sentence, an exit code. Nothing else says so.

This very file goes into plan folders: Python 3.8 and numpy are all it needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional

from .judge import Judged, Judgement
from .metrics import BOUNDS

FINE = 1e-2
"""Largest relative L2 error that 16-bit rounding alone commonly gives a healthy model (FP16: 2e-4 to 4e-3)."""

GARBAGE = 1e-1
"""From here on the output no longer is an approximation of the reference."""

GARBAGE_FLIPS = 0.1
"""So large a share of rows with another class is garbage, whatever the norm says."""

GRADES = ("identical", "fine", "degraded", "garbage", "nonfinite")
"""From best to worst; beside them there is `NOT_JUDGED`."""

NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Verdict:
    """What a command says last about what it made.

    Attributes:
      grade: "FINE", "DEGRADED", "GARBAGE", "NONFINITE" or "NOT JUDGED".
      sentence: the figures, and of which output.
      judged_on: the inputs: "given inputs, 3 batches", "made-up inputs, 1 batch"; "" where nothing was judged.
      first_wrong: the node where it first goes wrong, with the reason; None where nothing does, or it is not known.
      is_made_up: the inputs were nobody's.
    """

    grade: str
    sentence: str
    judged_on: str = ""
    first_wrong: Optional[str] = None
    is_made_up: bool = False

    @property
    def is_wrong(self) -> bool:
        """Whether what was made answers nonsense."""
        return self.grade in ("GARBAGE", "NONFINITE")

    def exit_code(self, fail_on_made_up: bool = False) -> int:
        """1 for nonsense on given inputs; on made-up ones only where that is asked for; else 0."""
        return 1 if self.is_wrong and (fail_on_made_up or not self.is_made_up) else 0

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        return {
            "grade": self.grade,
            "sentence": self.sentence,
            "judged_on": self.judged_on or None,
            "first_wrong": self.first_wrong,
        }

    def __str__(self) -> str:
        parts = ["%s: %s" % (self.grade, self.sentence)]
        if self.first_wrong:
            parts.append("first wrong at %s" % self.first_wrong)
        if self.judged_on:
            parts.append("judged on %s" % self.judged_on)
        return "; ".join(parts)


def not_judged(reason: str) -> Verdict:
    """The verdict where nothing was compared."""
    return Verdict("NOT JUDGED", reason)


def verdict_of(judgement: Judgement, judged_on: str, is_made_up: bool, first_wrong: Optional[str] = None) -> Verdict:
    """The verdict of a judgement."""
    grade = grade_of(judgement)
    if grade == NOT_JUDGED:
        return not_judged(sentence_of(judgement, grade))
    word = "FINE" if grade == "identical" else grade.upper()
    return Verdict(word, sentence_of(judgement, grade), judged_on, first_wrong if word != "FINE" else None, is_made_up)


def inputs_told(source: str, is_made_up: bool, batches: int) -> str:
    """What was judged on, for `Verdict.judged_on`."""
    kind = "made-up inputs" if is_made_up else "given inputs"
    return "%s%s, %d batch%s" % (kind, " (%s)" % source if source else "", batches, "" if batches == 1 else "es")


def grade_of(judgement: Judgement) -> str:
    """The grade of the worst output: one of `GRADES`, or `NOT_JUDGED` where nothing was compared."""
    if not judgement.finite:
        return "nonfinite"
    if judgement.problems:
        return "garbage"
    worst = max((grade_of_output(output) for output in judgement.outputs.values()), default=-1)
    return NOT_JUDGED if worst < 0 else GRADES[worst]


def grade_of_output(output: Judged) -> int:
    """Index into `GRADES`; -1 for an output of which nothing was compared."""
    values, seen = output.values, output.detections
    if seen is not None and (seen.reference or seen.candidate):
        lost = 3 if seen.lost_share >= GARBAGE_FLIPS else 2 if seen.lost_share > 0 else 0
        if not seen.matched:
            return lost
    else:
        lost = -1
    if not output.is_finite:
        return 4
    if not output.is_compared:
        return lost
    flipped = values.number("flipped")
    many = output.flips >= GARBAGE_FLIPS
    if not values.number("off") <= GARBAGE or (many and flipped > 1):
        grade = 3
    elif values.number("off") > FINE or many:
        grade = 2
    else:
        grade = 0 if values["max_abs"] == 0 else 1
    return max(grade, lost)


def sentence_of(judgement: Judgement, grade: str, first_wrong: Optional[str] = None) -> str:
    """One sentence: what changed, by how much, where first, and whether it is within tolerance."""
    parts = _outputs_told(judgement, grade)
    if first_wrong:
        parts.append("first wrong at %s" % first_wrong)
    if judgement.failures:
        worst = judgement.failures[0]
        more = " and %d more" % (len(judgement.failures) - 1) if len(judgement.failures) > 1 else ""
        parts.append(
            "beyond tolerance: %s %s %s against %s%s"
            % (
                worst.output,
                worst.metric,
                _bound_text(worst.metric, worst.value),
                _bound_text(worst.metric, worst.bound),
                more,
            )
        )
    return "; ".join(parts)


def _outputs_told(judgement: Judgement, grade: str) -> List[str]:
    outputs = [output for output in judgement.outputs.values() if output.problem is None]
    told = [problem.text for problem in judgement.problems[:1]]
    if len(judgement.problems) > 1:
        told.append("%d more outputs cannot be compared" % (len(judgement.problems) - 1))
    lost = max(outputs, key=lambda output: output.values.number("new_nonfinite"), default=None)
    if lost is not None and not lost.is_finite:
        known = ", the reference's are not" if lost.values["nonfinite_reference"] else ""
        return [_share("new_nonfinite", lost) + " are NaN or infinite" + known, *told]
    if told:
        return [*told, "NaN or infinite values among what the candidate has"] if not judgement.finite else told
    both = next((output for output in outputs if output.values["nonfinite_reference"]), None)
    noted = [] if both is None else [_share("nonfinite_reference", both) + " are NaN or infinite in the reference"]
    if grade == NOT_JUDGED:
        return ["the outputs are empty: nothing was compared" if outputs else "nothing was compared"]
    empty = [output.name for output in outputs if not output.is_compared and output.detections is None]
    if empty and len(empty) < len(outputs) and not any(output.detections for output in outputs):
        noted.append("'%s' is empty and was not compared" % empty[0])
    if grade == "identical":
        return ["identical outputs", *noted]
    worst = max(outputs, key=_error)
    which = " (the worst of %d outputs)" % len(outputs) if len(outputs) > 1 else ""
    sets = [output for output in outputs if output.detections is not None]
    if sets:
        return [*_detections_told(max(sets, key=_loss)), *_error_of(worst), *noted]
    flipped = max((o for o in outputs if o.is_classes), key=lambda o: o.values.number("flipped"), default=None)
    if flipped is not None and flipped.values["flipped"]:
        other = "" if worst is flipped else " (of '%s')" % worst.name
        return [_flips_told(flipped), "relative L2 error %.2g%s" % (worst.values.number("off"), other), *noted]
    return [
        "'%s'%s off by %.2g a row (SAD), relative L2 error %.2g"
        % (worst.name, which, worst.values.number("sad"), worst.values.number("off"))
        if "sad" in worst.values
        else "'%s'%s off by at most %.2g, relative L2 error %.2g"
        % (worst.name, which, worst.values.number("max_abs"), worst.values.number("off")),
        *noted,
    ]


def _error(output: Judged) -> float:
    value = output.values.number("off")
    return (math.inf if output.is_compared else -1.0) if math.isnan(value) else value


def _share(metric: str, output: Judged) -> str:
    return "%d of %d elements of '%s'" % (output.values.number(metric), output.values.number("elements"), output.name)


def _flips_told(output: Judged) -> str:
    values = output.values
    if "float" not in output.dtype:  # each element of class ids, masks and labels is a row of its own
        return "%d of %d elements of '%s' changed" % (values.number("flipped"), values.number("rows"), output.name)
    return "%d of %d rows of '%s' changed class" % (values.number("flipped"), values.number("rows"), output.name)


def _loss(output: Judged) -> Any:
    """How many detections were not found again; of two outputs the one that knows boxes and scores, not indices."""
    seen = output.detections
    return (seen.missed + seen.extra, bool(seen.score_errors)) if seen is not None else (0, False)


def _detections_told(output: Judged) -> List[str]:
    seen = output.detections.to_dict() if output.detections is not None else {}
    parts = ["%d of %d detections of '%s' found again" % (seen["matched"], seen["reference"], output.name)]
    if seen["extra"]:
        parts.append("%d new" % seen["extra"])
    if seen["max_score_error"] is not None:  # NonMaxSuppression's indices are matched without a look at the boxes
        parts.append("mean IoU %s" % _text(seen["mean_iou"]))
        parts.append("scores off by at most %s" % _text(seen["max_score_error"]))
    return parts


def _error_of(worst: Judged) -> List[str]:
    """What the count of detections does not tell: an output that is wrong all the same."""
    error = worst.values.number("off")
    if not worst.is_compared or error <= FINE:
        return []
    return ["relative L2 error %.2g (of '%s')" % (error, worst.name)]


def _bound_text(metric: str, value: float) -> str:
    record: Mapping[str, Any] = BOUNDS
    if metric in record and record[metric].count and math.isfinite(value):
        return "%d" % value
    return _text(value)


def _text(value: Any) -> str:
    return "%.3g" % value if isinstance(value, float) else str(value)
