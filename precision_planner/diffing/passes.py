"""Running both sides over the batches and gathering their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from precision_planner.diffing.collect import OutputCollector, OwnMetric
from precision_planner.diffing.detectors import SetMatcher
from precision_planner.diffing.result import OutputDiff
from precision_planner.diffing.run import Runner
from precision_planner.errors import InputsError, ModelError
from precision_planner.model.inputs import Batch, Inputs

Progress = Callable[[float], None]


@dataclass
class Gathered:
    """Outputs compared so far, and what could not be run.

    Attributes:
      precision: the candidate's type, for ULPs.
      own: one's own metrics.
      collectors: output -> its metrics.
      batches: how many were compared.
      skipped: synthesised batches that the reference cannot take, each with the reason.
      first: the reference's outputs of the first batch.
      matcher: matches detections as sets, where the reference is a detector.
    """

    precision: str
    own: Mapping[str, OwnMetric]
    collectors: dict[str, OutputCollector] = field(default_factory=dict)
    batches: int = 0
    skipped: list[str] = field(default_factory=list)
    first: dict[str, Any] = field(default_factory=dict)
    matcher: SetMatcher | None = None

    def add(self, expected: Mapping[str, Any], given: Mapping[str, Any], reference: str, candidate: str) -> None:
        """Compare the outputs of one batch."""
        ours, theirs = (expected, given) if self.matcher is None else self.matcher.align(expected, given)
        for name, (a, b) in output_pairs(ours, theirs, reference, candidate):
            self.collectors.setdefault(name, OutputCollector(name, self.precision, self.own)).add(a, b)
        if not self.batches:
            self.first = dict(expected)
        self.batches += 1

    def results(self) -> dict[str, OutputDiff]:
        """Output -> its diff; InputsError where no batch could be run."""
        if not self.batches:
            why = f" ({self.skipped[0]})" if self.skipped else ""
            raise InputsError(
                f"no batch could be run{why}; check that onnxruntime runs both models, or give --inputs with a batch "
                "that they take"
            )
        if not self.collectors:
            raise InputsError("there is nothing to compare: no output of the reference holds an array")
        sets = {} if self.matcher is None else self.matcher.found
        return {
            name: replace(collector.result(), detections=sets[name].to_dict() if name in sets else None)
            for name, collector in self.collectors.items()
        }


def output_pass(reference: Runner, candidate: Runner, inputs: Inputs | None, into: Gathered, step: Progress) -> None:
    """Run both sides batch by batch and compare their outputs.

    A made-up batch that the reference cannot take (a length beyond a fixed number of positions) says nothing about
    the model and is left out.

    Raises:
      ModelError: a model cannot take a batch; the message says which of the two, and which batch.
    """
    for label, batch in batches_of(inputs, reference):
        try:
            expected = reference.run(batch)
        except ModelError as error:
            if inputs is None or not inputs.synthesised:
                raise ModelError(f"{reference.side.label} on {label}: {error}") from None
            into.skipped.append(f"{label}: {error}")
            continue
        try:
            given = candidate.run(batch)
        except ModelError as error:
            raise ModelError(f"{candidate.side.label} on {label}: {error}") from None
        into.add(expected, given, reference.side.label, candidate.side.label)
        step(1)
    reference.check_all_read()
    candidate.check_all_read()


def batches_of(inputs: Inputs | None, reference: Runner) -> Iterator[tuple[str, Batch | None]]:
    """(label, batch); without inputs, one None for each saved batch of the reference."""
    if inputs is None:
        assert reference.side.outputs is not None
        for number, _ in enumerate(reference.side.outputs()):
            yield f"batch {number}", None
        return
    for number, batch in enumerate(inputs):
        yield (inputs.labels[number] if number < len(inputs.labels) else f"batch {number}"), batch


def output_pairs(
    expected: Mapping[str, Any], given: Mapping[str, Any], reference: str, candidate: str
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Outputs of one name, as arrays: maps as rows, sequences element by element; what both leave empty left out.

    Raises:
      InputsError: the candidate lacks an output, or has it in another shape or of another kind.
    """
    missing = [name for name in expected if name not in given]
    if missing:
        raise InputsError(
            f"{candidate} lacks the output '{missing[0]}' of {reference}; it has {', '.join(given) or 'none'}"
        )
    for name in expected:
        a, b = _as_rows(expected[name]), _as_rows(given[name])
        if _kind(a) != _kind(b):
            raise InputsError(
                f"output '{name}' is {_kind(a)} in {reference} and {_kind(b)} in {candidate}; "
                "compare outputs of one kind"
            )
        if isinstance(a, list):
            if len(a) != len(b):
                raise InputsError(
                    f"output '{name}' is a sequence of {len(a)} in {reference} and of {len(b)} in {candidate}"
                )
            for number, (x, y) in enumerate(zip(a, b, strict=True)):
                yield f"{name}[{number}]", _comparable(name, np.asarray(x), np.asarray(y), candidate)
        elif a is not None:
            yield name, _comparable(name, np.asarray(a), np.asarray(b), candidate)


def _kind(value: Any) -> str:
    return "empty" if value is None else "a sequence" if isinstance(value, list) else "an array"


def _as_rows(value: Any) -> Any:
    """A sequence of maps (of class to probability) as one row a map, in the order of the keys; all else as it is."""
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        return value
    keys = sorted({key for entry in value for key in entry})
    return np.array([[entry.get(key, np.nan) for key in keys] for entry in value])


def _comparable(name: str, a: np.ndarray, b: np.ndarray, candidate: str) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape:
        raise InputsError(
            f"output '{name}' has shape {list(a.shape)} in the reference and {list(b.shape)} in {candidate}; give "
            "both the same inputs"
        )
    for array in (a, b):
        if array.dtype.kind not in "fiubVOUS" or array.dtype.type is np.void:
            raise InputsError(
                f"output '{name}' holds {array.dtype}, which has no metrics; save real numbers or strings"
            )
    if (a.dtype.kind in "OUS") != (b.dtype.kind in "OUS"):
        raise InputsError(
            f"output '{name}' is {a.dtype} in the reference and {b.dtype} in {candidate}; compare outputs of one type"
        )
    return a, b
