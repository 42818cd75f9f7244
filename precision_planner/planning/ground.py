"""What plans of a model are made and judged on: the model, the data and its answers, measured once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from precision_planner.emitting.folder import GoldenCase
from precision_planner.errors import ModelError, PlanError
from precision_planner.judging.evidence import find_evidence
from precision_planner.judging.tolerance import check_detections, check_outputs
from precision_planner.model import Model
from precision_planner.model.inline import inline_functions
from precision_planner.model.inputs import Inputs, load_inputs
from precision_planner.model.session import Session
from precision_planner.patterns.selecting import pattern_kinds
from precision_planner.planning.request import Request
from precision_planner.rewriting.attention import verified_attention
from precision_planner.rewriting.surgery import run_surgery
from precision_planner.transforms.fold_constants import fold_constants
from precision_planner.transforms.single import to_single

__all__ = ["MAX_BATCHES", "MAX_GOLDEN", "Ground", "golden_cases", "lay_ground"]

MAX_GOLDEN = 3
"""Cases kept for verify.py: the smallest, usual and longest shape."""

MAX_BATCHES = 4
"""Batches that plans are judged on while searching; the prediction at the end takes all."""


@dataclass(frozen=True)
class Ground:
    """A model and its data.

    Attributes:
      original: the model as it was given.
      model: what is planned: after surgery, without local functions where a search decides.
      data: the inputs.
      answered: the first batches with the model's answers in FP32.
      obstacle: why there are no answers: onnxruntime cannot load the model, or run it on made-up data; '' where there
        are. Such a model (custom operators, plugins) is planned by its structure and its weights alone.
      surgery: the script that made `model` of `original`.
      whole: `model` with what was computed beforehand from constants still in it.
    """

    original: Model
    model: Model
    data: Inputs
    answered: tuple[GoldenCase, ...]
    obstacle: str = ""
    surgery: str | None = None
    whole: Model | None = None

    @property
    def golden(self) -> tuple[GoldenCase, ...]:
        """The cases of verify.py."""
        return self.answered[:MAX_GOLDEN]

    @property
    def batches(self) -> list[Mapping[str, np.ndarray[Any, Any]]]:
        """What plans are judged on while searching."""
        return [case.inputs for case in self.answered]

    @property
    def references(self) -> list[dict[str, np.ndarray[Any, Any]]]:
        """What the model answers to `batches`; what is no array (a sequence or map) is left out."""
        answers: list[Mapping[str, Any]] = [case.outputs for case in self.answered]
        return [{name: value for name, value in one.items() if isinstance(value, np.ndarray)} for one in answers]


def lay_ground(source: Model | Any, request: Request, inputs: Any, surgery: str | None) -> Ground:
    """Load model and data and run the model once in FP32.

    Raises:
      ModelError: the given inputs cannot be run.
      PlanError: there is a tolerance, and the model cannot be run.
    """
    original = Model.load(source)
    model = run_surgery(original, surgery) if surgery else original
    aim = request.aim
    if "attention" in pattern_kinds(request.fuse):
        if not aim.target.attention.operator:
            raise PlanError(f"--fuse attention: {aim.target.name} is not known to take ONNX's Attention; leave it out")
        model = verified_attention(model, inputs, verify=request.verify).model
    check_outputs(aim.bounds, [value.name for value in model.proto.graph.output], aim.metrics)
    check_detections(aim.bounds, find_evidence(model).evidence.is_detector)
    if request.searches and model.proto.functions:
        model = inline_functions(model)  # what is inside a function can only be decided for each of its calls
    model = to_single(model)
    if aim.precision == "bf16":
        model = to_single(model, TensorProto.FLOAT16)
    whole, model = model, fold_constants(model).model
    data = load_inputs(inputs, model)
    answered, obstacle = _answers_or_obstacle(model, data)
    if obstacle and aim.bounds:
        raise PlanError(
            f"the tolerance cannot be judged: {obstacle}; leave the tolerance out to plan by structure alone"
        )
    return Ground(original, model, data, answered, obstacle, surgery, whole)


def _answers_or_obstacle(model: Model, data: Inputs) -> tuple[tuple[GoldenCase, ...], str]:
    try:
        with Session(model):
            pass
    except ModelError as error:
        return (), str(error)
    try:
        return golden_cases(model, data, MAX_BATCHES), ""
    except ModelError as error:
        if not data.synthesised:
            raise
        return (), str(error)


def golden_cases(model: Model, data: Inputs, limit: int = MAX_GOLDEN) -> tuple[GoldenCase, ...]:
    """What the FP32 model answers to the first batches, with onnxruntime's optimizations off."""
    cases: list[GoldenCase] = []
    with Session(model) as session:
        for number, batch in enumerate(data):
            if number == limit:
                break
            name = data.labels[number] if number < len(data.labels) else f"batch-{number}"
            cases.append(GoldenCase(_file_name(name, number), batch, session.run(batch)))
    return tuple(cases)


def _file_name(label: str, number: int) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in Path(label).stem)
    return plain.strip("-") or f"batch-{number}"
