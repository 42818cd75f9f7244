"""Running both sides over the batches and gathering their outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from precision_planner.diffing.collect import OutputCollector
from precision_planner.diffing.result import OutputDiff
from precision_planner.diffing.run import Runner
from precision_planner.errors import InputsError, ModelError
from precision_planner.judging.judge import Judge, Judgement
from precision_planner.model.inputs import Batch, Inputs

Progress = Callable[[float], None]


@dataclass
class Gathered:
    """Outputs compared so far, and what could not be run.

    Attributes:
      judge: what judges them.
      collectors: output -> the distribution of its errors.
      skipped: synthesised batches that the reference cannot take, each with the reason.
      first: the reference's outputs of the first batch.
    """

    judge: Judge
    collectors: dict[str, OutputCollector] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    first: dict[str, Any] = field(default_factory=dict)

    def add(self, expected: Mapping[str, Any], given: Mapping[str, Any], reference: str, candidate: str) -> None:
        """Compare the outputs of one batch.

        Raises:
          InputsError: an output holds what has no metrics, or the candidate has none of the reference's.
        """
        if not self.first:
            self.first = dict(expected)
            if expected and not any(name in given for name in expected):
                raise InputsError(
                    f"{candidate} has none of the outputs of {reference}, which are {', '.join(expected)}; it has "
                    f"{', '.join(given) or 'none'}"
                )
        try:
            pairs = self.judge.add(expected, given)
        except TypeError as error:
            raise InputsError(str(error)) from None
        for name, (pair, measured) in pairs.items():
            self.collectors.setdefault(name, OutputCollector()).add(pair, measured)

    def result(self) -> Judgement:
        """What was judged; InputsError where no batch could be run."""
        found = self.judge.result()
        if not found.batches:
            why = f" ({self.skipped[0]})" if self.skipped else ""
            raise InputsError(
                f"no batch could be run{why}; check that onnxruntime runs both models, or give --inputs with a batch "
                "that they take"
            )
        if not found.outputs:
            raise InputsError("there is nothing to compare: no output of the reference holds an array")
        return found

    def outputs(self, judgement: Judgement, own: Collection[str]) -> dict[str, OutputDiff]:
        """Output -> its diff."""
        return {
            name: self.collectors.get(name, OutputCollector()).result(judged, own)
            for name, judged in judgement.outputs.items()
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
