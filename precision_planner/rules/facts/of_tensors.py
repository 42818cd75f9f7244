"""Facts of a weight: its role, and what the census counted. All hold without calibration data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from precision_planner.numerics.formats import get_format
from precision_planner.rules.facts.registry import FactValue, subject_fact

if TYPE_CHECKING:
    from precision_planner.numerics.stats import FormatStats, TensorStats
    from precision_planner.rules.facts.evidence import Subject
    from precision_planner.rules.facts.model_facts import ModelFacts


def _stats(facts: ModelFacts, subject: Subject) -> TensorStats | None:
    return (facts.source.census or {}).get((subject.scope.path, subject.value))


def _cast(facts: ModelFacts, subject: Subject) -> FormatStats | None:
    stats = _stats(facts, subject)
    return None if stats is None else stats.cast(get_format(facts.source.precision))


@subject_fact("tensor", type="set")
def role(facts: ModelFacts, subject: Subject) -> FactValue:
    """What it is read as: weight, bias, table, scale, mean, variance, scalar, constant."""
    return facts.tensor_roles(subject)


@subject_fact("tensor", type="set", name="consumers")
def tensor_consumers(facts: ModelFacts, subject: Subject) -> FactValue:
    """Op types of the nodes that read it."""
    return frozenset(read.node.op_type for read in facts.tensor_uses(subject))


@subject_fact("tensor", type="number", unit="magnitude", name="amax")
def tensor_amax(facts: ModelFacts, subject: Subject) -> FactValue:
    """The largest finite magnitude."""
    stats = _stats(facts, subject)
    return None if stats is None else stats.max_abs


@subject_fact("tensor", type="number", unit="magnitude", name="amin")
def tensor_amin(facts: ModelFacts, subject: Subject) -> FactValue:
    """The smallest finite magnitude above zero."""
    stats = _stats(facts, subject)
    return None if stats is None else stats.min_abs


@subject_fact("tensor", type="number", unit="elements", name="size")
def tensor_size(facts: ModelFacts, subject: Subject) -> FactValue:
    """Number of elements."""
    stats = _stats(facts, subject)
    return None if stats is None else stats.size


@subject_fact("tensor", type="number", unit="axes", name="rank")
def tensor_rank(facts: ModelFacts, subject: Subject) -> FactValue:
    """Number of axes."""
    return (
        len(subject.tensor.dims)
        if subject.tensor is not None
        else facts.source.types.of(subject.scope, subject.value).rank
    )


@subject_fact("tensor", type="flag")
def consumer_rank_differs(facts: ModelFacts, subject: Subject) -> FactValue:
    """Whether an elementwise op reads it together with a value of more axes, so that it is broadcast."""
    return facts.is_broadcast(subject)


@subject_fact("tensor", type="set", name="position")
def tensor_position(facts: ModelFacts, subject: Subject) -> FactValue:
    """Where the nodes that read it stand."""
    return frozenset().union(*(facts.surroundings_of(read.scope, read.position) for read in facts.tensor_uses(subject)))


@subject_fact("tensor", type="set", name="in_pattern")
def tensor_in_pattern(facts: ModelFacts, subject: Subject) -> FactValue:
    """The kinds of the proven patterns that read it."""
    index = facts.source.index
    return frozenset().union(
        *(facts.patterns_of.get(index.node_id(read.scope, read.position), frozenset())
          for read in facts.tensor_uses(subject))
    )  # fmt: skip


def _count(name: str, unit: str, doc: str, read: Callable[[TensorStats, FormatStats], FactValue]) -> None:
    """Register a fact that is one number of the census."""

    def compute(facts: ModelFacts, subject: Subject) -> FactValue:
        stats, cast = _stats(facts, subject), _cast(facts, subject)
        return None if stats is None or cast is None else read(stats, cast)

    compute.__doc__ = doc
    subject_fact("tensor", type="number", unit=unit, name=name)(compute)


def _share(count: int, stats: TensorStats) -> float:
    nonzero = stats.size - stats.zeros
    return count / nonzero if nonzero else 0.0


for _name, _doc in (
    ("subnormal", "Values with 2^-24 <= |w| < 2^-14 (FP16)."),
    ("underflow", "Values with 0 < |w| < 2^-24 (FP16)."),
    ("overflow", "Finite values with |w| > 65504 (FP16)."),
    ("flushed", "Values that round to zero: 0 < |w| <= 2^-25 (FP16)."),
    ("to_inf", "Finite values that round to infinity: |w| >= 65520 (FP16)."),
):
    _count(_name, "values", _doc, lambda stats, cast, name=_name: int(getattr(cast.classes, name)))  # type: ignore[misc]
    _count(
        f"{_name}_share", "share", f"{_name} / values that are not zero.",
        lambda stats, cast, name=_name: _share(getattr(cast.classes, name), stats),  # type: ignore[misc]
    )  # fmt: skip
_count("zeros", "values", "Zeros of both signs.", lambda stats, cast: stats.zeros)
_count("nan", "values", "NaN.", lambda stats, cast: stats.nan)
_count("inf", "values", "Infinities of both signs.", lambda stats, cast: stats.inf)
_count("rel_error", "share", "norm(cast(w) - w) / norm(w), IEEE rounding; inf where a finite value overflows.",
       lambda stats, cast: cast.rel_error)  # fmt: skip
_count("rel_error_saturated", "share", "The same as TensorRT's weak typing converts weights (it saturates both ends).",
       lambda stats, cast: cast.rel_error_saturated)  # fmt: skip
_count("max_rel_error", "share", "The largest relative error of a value that matters beside the tensor's rms.",
       lambda stats, cast: cast.max_rel_error)  # fmt: skip
_count("lost_norm", "share", "norm of the values that become zero / norm(w).", lambda stats, cast: cast.lost_norm)
