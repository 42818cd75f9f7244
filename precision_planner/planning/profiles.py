"""The optimization profile of a plan: for which shapes of its free inputs the engine is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from precision_planner.errors import InputsError, ModelError, PlanError, PlannerError
from precision_planner.model import Model
from precision_planner.model.inputs import InputRequest, Inputs, InputSpec, input_specs
from precision_planner.model.session import Session
from precision_planner.model.synthesis import synthesise, token_axes
from precision_planner.model.totals import Total, settle
from precision_planner.plans.plan import Profile

Shapes: TypeAlias = Mapping[str, Sequence[int]]
"""Input -> shape."""


def make_profiles(
    model: Model,
    data: Inputs,
    smallest: Shapes | None = None,
    usual: Shapes | None = None,
    longest: Shapes | None = None,
    *,
    original: Model | None = None,
) -> dict[str, Profile]:
    """The optimization profile of every input with free dimensions.

    Every shape is run once, by onnxruntime on the original model, before it is written: one that was given and does not
    run is an error, and a smallest one that was made up and does not run makes room for the smallest of the data.

    What is not given comes from the data: the usual shape is the first batch's (of synthesized data the one called
    usual), the longest holds every batch. The smallest is what synthesis takes for the smallest, or less where the
    data has less; a free first axis may be 1.

    Args:
      model: what is built.
      data: the batches of the plan.
      smallest: shapes that were given.
      usual: the same.
      longest: the same.
      original: what the shapes are tried on; None: they are not tried.

    Raises:
      PlanError: a shape does not run, names no dynamic input, has another rank, or contradicts a fixed dimension or the
        others.
    """
    specs = {spec.name: spec for spec in input_specs(model) if spec.is_dynamic}
    for given in (smallest, usual, longest):
        for name, shape in (given or {}).items():
            _check_shape(name, shape, specs)
    if not specs:
        return {}
    every = input_specs(model)
    relations = _Relations(
        every, token_axes(model), [{s.name: np.shape(batch[s.name]) for s in every} for batch in data]
    )
    seen = [{name: np.shape(batch[name]) for name in specs} for batch in data]
    labels = list(data.labels)
    typical = seen[labels.index("usual")] if "usual" in labels else seen[0]
    made_up = [{name: np.shape(batch[name]) for name in specs} for batch in _synthesized(model)]
    trial = None if original is None else _Trial(original, seen)
    for lowest in ([*seen, *made_up], seen):
        profiles = _profiles(specs, lowest, seen, typical, (smallest, usual, longest), relations)
        if trial is None or trial.runs("min", profiles):
            break
    if trial is not None:
        for kind, flag, given in (
            ("min", "--minShapes", smallest),
            ("opt", "--optShapes", usual),
            ("max", "--maxShapes", longest),
        ):
            if given and not trial.runs(kind, profiles):
                raise PlanError(f"the model does not run at {flag}: {trial.reason}; give shapes at which it does")
    return profiles


class _Trial:
    """Runs a model at the shapes of a profile; one that onnxruntime cannot load at all runs at every shape.

    Attributes:
      reason: why it did not run the last time.
    """

    def __init__(self, model: Model, seen: Sequence[Mapping[str, Sequence[int]]]) -> None:
        self._model, self._seen = model, seen
        self._known: dict[tuple[tuple[str, tuple[int, ...]], ...], str] = {}
        self.reason = ""

    def runs(self, kind: str, profiles: Mapping[str, Profile]) -> bool:
        """Whether the model runs where every input has its shape of one kind: min, opt or max."""
        shapes = {name: tuple(getattr(profile, kind)) for name, profile in profiles.items()}
        key = tuple(sorted(shapes.items()))
        if key not in self._known:
            self._known[key] = self._tried(shapes)
        self.reason = self._known[key]
        return not self.reason

    def _tried(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        try:
            batch = synthesise(self._model, InputRequest(shapes={"": shapes})).first()
            session = Session(self._model)
        except PlannerError:
            return ""  # nothing can be made up, or run, for this model: the shapes stand as they are
        with session:
            try:
                session.run(batch)
            except ModelError as error:
                return str(error)
        return ""


class _Relations:
    """What axes have to do with each other: those of one name are equal, a mask's keys are past and new ones.

    A sum that the data does not keep to is none.

    Attributes:
      new_tokens: the axis of a decoder's new tokens, of which there may be one a call.
    """

    def __init__(
        self,
        specs: Sequence[InputSpec],
        axes: tuple[Sequence[Total], tuple[str, int] | None],
        seen: Sequence[Mapping[str, Sequence[int]]],
    ) -> None:
        totals, new = axes
        self._specs = {spec.name: spec for spec in specs}
        self._totals = [t for t in totals if all(t.of(shapes) == shapes[t.name][t.axis] for shapes in seen)]
        self.new_tokens = () if new is None else (new,)
        self._fixed = {s.name: tuple(d if isinstance(d, int) else 1 for d in s.shape or ()) for s in specs}

    def kept(self, shapes: dict[str, tuple[int, ...]], given: Shapes) -> dict[str, tuple[int, ...]]:
        """The shapes of one kind with what was given carried to every axis of the same name, and sums made."""
        sizes: dict[str, int] = {}
        for name, shape in given.items():
            for size, dim in zip(shape, self._specs[name].shape or (), strict=True):
                if isinstance(dim, str):
                    sizes.setdefault(dim, int(size))
        found = {
            name: tuple(
                sizes.get(dim, size) if isinstance(dim, str) and name not in given else size
                for size, dim in zip(shape, self._specs[name].shape or (), strict=True)
            )
            for name, shape in shapes.items()
        }
        totals = [total for total in self._totals if total.name in found and total.name not in given]
        settled = settle({**self._fixed, **found}, tuple(self._specs.values()), totals)
        return {name: shape if name in given else settled[name] for name, shape in found.items()}


def _profiles(
    specs: Mapping[str, InputSpec],
    lowest: Sequence[Mapping[str, Sequence[int]]],
    seen: Sequence[Mapping[str, Sequence[int]]],
    typical: Mapping[str, Sequence[int]],
    given: tuple[Shapes | None, Shapes | None, Shapes | None],
    relations: _Relations,
) -> dict[str, Profile]:
    smallest, usual, longest = ({name: _shape(shape) for name, shape in (shapes or {}).items()} for shapes in given)
    floors = {name: np.min([shapes[name] for shapes in lowest], axis=0) for name in specs}
    for name, spec in specs.items():
        if spec.shape and not isinstance(spec.shape[0], int):
            floors[name][0] = min(floors[name][0], 1)
    for name, axis in relations.new_tokens:
        if name in floors:
            floors[name][axis] = min(floors[name][axis], 1)
    floors = {name: _shape(floor) for name, floor in floors.items()}
    for name, axis in relations.new_tokens:
        floors = _lowered(floors, specs, name, axis)
    lows = relations.kept({**floors, **smallest}, smallest)
    opts = relations.kept({**{name: _shape(typical[name]) for name in specs}, **usual}, usual)
    ceilings = {name: _shape(np.max([*(shapes[name] for shapes in seen), opts[name]], axis=0)) for name in specs}
    highs = relations.kept({**ceilings, **longest}, longest)
    profiles = {}
    for name in specs:
        low, opt, high = lows[name], opts[name], highs[name]
        if name not in usual:
            opt = _shape(np.clip(opt, low, high))
        if not all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
            raise PlanError(
                f"the shapes of input '{name}' are not in order: smallest {list(low)}, usual {list(opt)}, longest "
                f"{list(high)}; give --minShapes, --optShapes and --maxShapes that are"
            )
        profiles[name] = Profile(low, opt, high)
    return profiles


def _lowered(
    floors: Mapping[str, tuple[int, ...]], specs: Mapping[str, InputSpec], name: str, axis: int
) -> dict[str, tuple[int, ...]]:
    """Every axis of the same name as low as that one."""
    dim = (specs[name].shape or ())[axis] if name in specs else None
    if not isinstance(dim, str):
        return dict(floors)
    return {
        other: tuple(
            floors[name][axis] if own == dim else size
            for size, own in zip(floor, specs[other].shape or (), strict=True)
        )
        for other, floor in floors.items()
    }


def _synthesized(model: Model) -> list[Mapping[str, np.ndarray]]:
    try:
        return list(synthesise(model))
    except InputsError:  # nothing can be made up for this model: the data given is all that is known
        return []


def _shape(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _check_shape(name: str, shape: Sequence[int], specs: Mapping[str, Any]) -> None:
    if name not in specs:
        known = ", ".join(specs) or "none"
        raise PlanError(f"shapes are given for '{name}', but the inputs with free dimensions are: {known}")
    dims = specs[name].shape
    if dims is not None and (
        len(dims) != len(shape)
        or any(isinstance(dim, int) and dim != size for dim, size in zip(dims, shape, strict=True))
    ):
        raise PlanError(f"shape {'x'.join(map(str, shape))} does not fit input {specs[name]}")
