"""What became of a model's weights in an engine: kept, rounded, transformed or not found, with the evidence.

An engine lists what its kernels read and write, not what their weights are. So the weights' own values are looked for
in the engine's bytes (`probes`, `scan`):

- kept: nine of ten values drawn stand there in float32 (or bfloat16, where that is asked), beside a neighbor of one
  axis; where the tensor stands in its own order or transposed, all of it is compared, value by value.
- rounded: they stand there as halves (or bfloat16) and not in float32.
- transformed: a convolution whose corner taps stand there in float32 and whose other taps do not, as the filters of a
  Winograd kernel do: the corners of G g G^T are g's own.
- not found: none of these. The builder folded something into the weight, or stores it in a way that is not known. It is
  no proof of anything.
- indistinct: so few values differ from their halves that bytes cannot tell.

The chance that other bytes give a false answer is stated: that of one run is at most the file's bytes over 2^bits,
`bits` being the mantissa bits of the run; a value has as many runs as they are long, and nine of ten have to be found.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from precision_planner.engines.probes import MANTISSA, Form, Probe, probes_of
from precision_planner.engines.scan import find_keys

__all__ = ["Asked", "WeightEvidence", "find_weights"]

Verdict = Literal["kept", "rounded", "transformed", "not found", "indistinct"]
ENOUGH = 0.9
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A weight that is to be in an engine as it is.

    Attributes:
      name: of the initializer.
      nodes: the products that read it, for display.
      values: its values, float32.
      form: 'fp32', or 'bf16' where that is what was asked.
    """

    name: str
    nodes: tuple[str, ...]
    values: Array
    form: Form = "fp32"


@dataclass(frozen=True, slots=True)
class WeightEvidence:
    """What an engine's bytes say of one weight.

    Attributes:
      name: of the initializer.
      nodes: the products that read it.
      asked: 'fp32' or 'bf16'.
      verdict: see the module.
      how: in words: which runs stand where.
      found: values found, in the asked form or, where rounded, in the form that it has; of `runs`.
      runs: values looked for, each by the runs of eight bytes that hold it.
      chance: that other bytes give this answer, at most.
      whole: every value was compared in place.
    """

    name: str
    nodes: tuple[str, ...]
    asked: Form
    verdict: Verdict
    how: str
    found: int = 0
    runs: int = 0
    chance: float = 1.0
    whole: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "weight": self.name, "nodes": list(self.nodes), "asked": self.asked, "verdict": self.verdict,
            "how": self.how, "found": self.found, "runs": self.runs, "chance": self.chance, "whole": self.whole,
        }  # fmt: skip


def find_weights(engine: Path, asked: Iterable[Asked]) -> tuple[WeightEvidence, ...]:
    """Look for weights in an engine's bytes, in one pass over the file.

    Args:
      engine: the engine's file.
      asked: the weights.
    """
    wanted = list(asked)
    probes = [list(probes_of(one.values)) for one in wanted]
    keys = [probe.keys.reshape(-1) for one in probes for probe in one]
    every = np.unique(np.concatenate(keys)) if keys else np.empty(0, np.uint64)
    places = find_keys(engine, every[every != 0])
    size = engine.stat().st_size
    found = []
    if not wanted:
        return ()
    with engine.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for one, own in zip(wanted, probes, strict=True):
            found.append(_judge(one, own, places, size, data))
    return tuple(found)


def _judge(
    asked: Asked, probes: Sequence[Probe], places: Mapping[int, int], size: int, data: mmap.mmap
) -> WeightEvidence:
    hits = {(p.form, p.axis, p.step): (int(_found(p, places).sum()), len(p.places)) for p in probes}
    if not any(form == asked.form for form, *_ in hits):
        return WeightEvidence(
            asked.name, asked.nodes, asked.form, "indistinct", "its values are the same in 16 bits, or too few differ"
        )
    here = _best(hits, (asked.form,))
    if _is_enough(here):
        whole = _whole(asked, [p for p in probes if p.form == asked.form and p.step == 1], places, data)
        how = whole or f"{here[2]} of {here[3]} values, beside their neighbors of {here[1]}"
        return _evidence(asked, "kept", here, size, how, bool(whole))
    rounded: tuple[Form, ...] = ("fp16", "saturated") if asked.form == "bf16" else ("fp16", "saturated", "bf16")
    wide = _widened(asked, data)
    if wide:
        return WeightEvidence(
            asked.name,
            asked.nodes,
            asked.form,
            "kept",
            wide,
            here[3],
            here[3],
            _chance(size, "bf16", here[3], here[3]),
            True,
        )
    other = _best(hits, rounded)
    corner = _winograd(asked, probes, places)
    if corner:
        return _evidence(asked, "transformed", here, size, corner, False)
    if _is_enough(other) and here[2] <= (1 - ENOUGH) * here[3]:
        word = {"fp16": "half", "saturated": "half, saturated", "bf16": "bfloat16"}[other[0]]
        return _evidence(
            asked,
            "rounded",
            other,
            size,
            f"as {word}: {other[2]} of {other[3]} values, beside their neighbors of {other[1]}",
            False,
        )
    how = f"{here[2]} of {here[3]} values in {here[0]}, {other[2]} of {other[3]} in {other[0]}"
    return _evidence(asked, "not found", here, size, how, False)


Best = tuple[Form, str, int, int]


def _found(probe: Probe, places: Mapping[int, int]) -> Array:
    """bool [values]: one of the runs that hold it stands in the file."""
    rows = probe.keys.tolist()
    return np.array([any(key in places for key in row if key) for row in rows])


def _best(hits: Mapping[tuple[Form, int, int], tuple[int, int]], forms: Sequence[Form]) -> Best:
    """(form, axis in words, found, runs) of the largest share among some forms."""
    found: list[Best] = [
        (form, f"axis {axis}" + (f", every {step}th value" if step > 1 else ""), hit, runs)
        for (form, axis, step), (hit, runs) in hits.items()
        if form in forms
    ]
    return max(found, key=lambda one: (one[2] / one[3], one[3]), default=(forms[0], "any axis", 0, 1))


def _is_enough(best: Best) -> bool:
    return best[2] >= ENOUGH * best[3] and best[3] >= 8


def _evidence(asked: Asked, verdict: Verdict, best: Best, size: int, how: str, whole: bool) -> WeightEvidence:
    form, _, found, runs = best
    chance = 1.0 if verdict in ("not found", "transformed") else _chance(size, form, found, runs)
    return WeightEvidence(asked.name, asked.nodes, asked.form, verdict, how, found, runs, chance, whole)


def _chance(size: int, form: Form, found: int, runs: int) -> float:
    """At most, that so many of the runs stand in so many bytes of other values: C(runs, found) p^found."""
    single = min(1.0, size * (2 if form == "fp32" else 4) / 2.0 ** MANTISSA[form])
    if single >= 1.0 or not found:
        return 1.0
    log = math.lgamma(runs + 1) - math.lgamma(found + 1) - math.lgamma(runs - found + 1) + found * math.log(single)
    return math.exp(max(log, -690.0)) if log < 0 else 1.0


def _whole(asked: Asked, probes: Sequence[Probe], places: Mapping[int, int], data: mmap.mmap) -> str:
    """Where all values stand in the tensor's order or, of a matrix, transposed; '' where they do not."""
    layouts = [("as it is", asked.values, 0)]
    if asked.values.ndim >= 2:
        layouts.append(("transposed", np.ascontiguousarray(asked.values.reshape(asked.values.shape[0], -1).T), 1))
    for name, array, turned in layouts:
        stored = array.astype("<f4") if asked.form == "fp32" else _to_bfloat16(array)
        blob = stored.tobytes()
        for probe in probes:
            rows, columns = asked.values.shape[0], asked.values.size // asked.values.shape[0]
            for key, place in list(
                zip(probe.keys.reshape(-1).tolist(), probe.starts.reshape(-1).tolist(), strict=True)
            )[:16]:
                if key not in places:
                    continue
                index = (place % columns) * rows + place // columns if turned else place
                begin = places[key] - index * stored.itemsize
                if begin >= 0 and data[begin : begin + len(blob)] == blob:
                    return f"the whole tensor, {name}, at byte {begin}"
    return ""


def _widened(asked: Asked, data: mmap.mmap) -> str:
    """Where a bfloat16 weight stands whole in float32, as the builder widened it; '' where it does not."""
    if asked.form != "bf16" or asked.values.ndim < 2:
        return ""
    turned = np.ascontiguousarray(asked.values.reshape(asked.values.shape[0], -1).T)
    for name, array in (("as it is", asked.values), ("transposed", turned)):
        begin = data.find(array.astype("<f4").tobytes())
        if begin >= 0:
            return f"the whole tensor in float32, {name}, at byte {begin}"
    return ""


def _to_bfloat16(array: Array) -> Array:
    import ml_dtypes

    result: Array = array.astype(ml_dtypes.bfloat16).view("<u2")
    return result


def _winograd(asked: Asked, probes: Sequence[Probe], places: Mapping[int, int]) -> str:
    """Words for a convolution of which the corner taps alone stand there in float32; '' for anything else.

    In the transformed filters G g G^T the corners are the filter's own; the runs of other taps are sums.
    """
    values = asked.values
    if values.ndim != 4 or min(values.shape[2:]) < 3 or asked.form != "fp32":
        return ""
    taps = values.shape[2] * values.shape[3]
    ends = np.array([0, values.shape[3] - 1, taps - values.shape[3], taps - 1])
    for probe in probes:
        if probe.form != "fp32" or probe.axis > 1:
            continue
        corner = np.isin(probe.places % taps, ends)
        present = _found(probe, places)
        if corner.sum() < 8 or (~corner).sum() < 8:
            continue
        inside, outside = float(present[corner].mean()), float(present[~corner].mean())
        if inside >= ENOUGH and outside <= 1 - ENOUGH:
            return (
                f"the corner taps in float32 ({present[corner].sum()} of {corner.sum()} values), the others not "
                f"({present[~corner].sum()} of {(~corner).sum()}): the filters of a Winograd kernel in FP32"
            )
    return ""
