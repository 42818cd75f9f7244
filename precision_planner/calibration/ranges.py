"""The range of an activation, gathered over batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from precision_planner.numerics.formats import FP16, Format, get_format

BLOCK = 1 << 16
"""Elements looked at together: a block and its magnitudes stay in a core's cache."""


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """What one value held over the calibration batches. Infinite elements (masks of -inf) are left out.

    Attributes:
      amax: the largest magnitude.
      amin: the smallest magnitude above zero, None if there is none.
      minimum: the smallest value.
      maximum: the largest value.
      elements: how many were seen.
      overflow: share of elements that FP16 rounds to infinity (65520 and more).
      subnormal: share of elements above zero that lie below FP16's normal range (2^-14).
      flushed: share of elements above zero that FP16 rounds to zero (2^-25 and less).
      batches: how many batches.
      longest: the largest number of elements in one batch.
      derived: how it was computed, where it is no value of the graph ("squares inside the norm"); "" if measured.
      synthesised: whether the planner made up the inputs: such a range is no proof.
    """

    amax: float
    amin: float | None
    minimum: float
    maximum: float
    elements: int
    overflow: float
    subnormal: float
    flushed: float
    batches: int = 1
    longest: int = 0
    derived: str = ""
    synthesised: bool = False

    def headroom(self, precision: str | Format = FP16) -> float:
        """Largest finite value of the format over amax; inf for a value that is always 0."""
        return get_format(precision).max_finite / self.amax if self.amax else math.inf

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "headroom": None if not self.amax else self.headroom()
        }


@dataclass
class Accumulator:
    """Counts of one value; constant size whatever the number of batches."""

    amax: float = 0.0
    amin: float = math.inf
    minimum: float = math.inf
    maximum: float = -math.inf
    elements: int = 0
    overflow: int = 0
    subnormal: int = 0
    flushed: int = 0
    batches: int = 0
    longest: int = 0

    def add(self, values: np.ndarray) -> None:
        """Take in one batch; what is not finite is left out."""
        flat = np.ascontiguousarray(values).reshape(-1)
        if flat.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            flat = flat.astype(np.float32)
        self.batches += 1
        self.longest = max(self.longest, flat.size)
        for start in range(0, flat.size, BLOCK):
            self._block(flat[start : start + BLOCK])

    def _block(self, block: np.ndarray) -> None:
        low, high = float(block.min()), float(block.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            block = block[np.isfinite(block)]
            if not block.size:
                return
            low, high = float(block.min()), float(block.max())
        self.elements += block.size
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        top = max(-low, high)
        self.amax = max(self.amax, top)
        size = np.abs(block)
        if top >= FP16.overflow_from:
            self.overflow += int((size >= FP16.overflow_from).sum())
        small = size[size < FP16.smallest_normal]
        # most blocks hold no small values, so that their smallest magnitude is simply the smallest
        if small.size:
            small = small[small > 0]
            self.subnormal += small.size
            self.flushed += int((small <= FP16.flush_until).sum())
            least = small if small.size else size[size > 0]
        else:
            least = size
        if least.size:
            self.amin = min(self.amin, float(least.min()))

    def range(self, derived: str = "", synthesised: bool = False) -> ActivationRange:
        """The range so far."""
        count = max(1, self.elements)
        seen = self.elements > 0
        return ActivationRange(
            amax=self.amax,
            amin=None if math.isinf(self.amin) else self.amin,
            minimum=self.minimum if seen else 0.0,
            maximum=self.maximum if seen else 0.0,
            elements=self.elements,
            overflow=self.overflow / count,
            subnormal=self.subnormal / count,
            flushed=self.flushed / count,
            batches=self.batches,
            longest=self.longest,
            derived=derived,
            synthesised=synthesised,
        )
