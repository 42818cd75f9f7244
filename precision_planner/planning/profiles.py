"""The optimization profile of a plan: for which shapes of its free inputs the engine is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from precision_planner.errors import InputsError, PlanError
from precision_planner.model import Model
from precision_planner.model.inputs import Inputs, input_specs
from precision_planner.model.synthesis import synthesise
from precision_planner.plans.plan import Profile

Shapes: TypeAlias = Mapping[str, Sequence[int]]
"""Input -> shape."""


def make_profiles(
    model: Model,
    data: Inputs,
    smallest: Shapes | None = None,
    usual: Shapes | None = None,
    longest: Shapes | None = None,
) -> dict[str, Profile]:
    """The optimization profile of every input with free dimensions.

    What is not given comes from the data: the usual shape is the first batch's (of synthesized data the one called
    usual), the longest holds every batch. The smallest is what synthesis takes for the smallest, or less where the
    data has less; a free first axis may be 1.

    Raises:
      PlanError: a shape names no dynamic input, has another rank, or contradicts a fixed dimension or the others.
    """
    specs = {spec.name: spec for spec in input_specs(model) if spec.is_dynamic}
    for given in (smallest, usual, longest):
        for name, shape in (given or {}).items():
            _check_shape(name, shape, specs)
    if not specs:
        return {}
    seen = [{name: np.shape(batch[name]) for name in specs} for batch in data]
    labels = list(data.labels)
    typical = seen[labels.index("usual")] if "usual" in labels else seen[0]
    made_up = [{name: np.shape(batch[name]) for name in specs} for batch in _synthesized(model)]
    profiles = {}
    for name, spec in specs.items():
        floor = np.min([shapes[name] for shapes in (*seen, *made_up)], axis=0)
        if spec.shape and not isinstance(spec.shape[0], int):
            floor[0] = min(floor[0], 1)
        ceiling = np.max([shapes[name] for shapes in seen], axis=0)
        low = _shape((smallest or {}).get(name, floor))
        opt = _shape((usual or {}).get(name, typical[name]))
        high = _shape((longest or {}).get(name, np.maximum(ceiling, opt)))
        if not usual or name not in usual:
            opt = _shape(np.clip(opt, low, high))
        if not all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
            raise PlanError(
                f"the shapes of input '{name}' are not in order: smallest {list(low)}, usual {list(opt)}, longest "
                f"{list(high)}; give --minShapes, --optShapes and --maxShapes that are"
            )
        profiles[name] = Profile(low, opt, high)
    return profiles


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
