"""The census of float32 values, by whole-array operations that numpy vectorizes.

`CountKernel` knows the classes, the range and the exponents, in few passes over long spans. `ErrorKernel` knows the
norm and the rounding errors; it needs many passes and takes a block apart while it lies in the core's own cache.

What one comparison of the magnitude bits singles out (zeros and everything below FP16's normal range, seldom many) is
gathered and looked at closely. Magnitudes of 65520 or more, infinities and NaN go the plain way of
`totals.add_values`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from precision_planner.numerics.formats import BF16, FP16, Format
from precision_planner.numerics.totals import FormatTotals, Totals, add_small, add_values, widen

__all__ = ["BLOCK", "TASK", "CountKernel", "ErrorKernel", "Tiny", "add_large"]

TASK = 1 << 20
"""Elements that one kernel takes and then the other."""

SPAN = 1 << 19
"""Elements in one pass of the count kernel: measured, longer and shorter ones are slower."""

BLOCK = 1 << 15
"""Elements in one pass of the error kernel: its temporaries fit a core's second-level cache."""

ROW = 1 << 11
"""Elements in one dot product: so few that its float32 sum is good to 1e-6, and that no BLAS starts threads for it."""

Word = np.ndarray[Any, np.dtype[np.uint32]]
Real = np.ndarray[Any, np.dtype[np.float32]]


def _word(value: int) -> Word:
    """A constant as an array without dimensions: numpy takes it in less than half the time of a scalar."""
    return np.array(value, np.uint32)


def _bits(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


MAGNITUDE = _word(0x7FFFFFFF)
EXPONENT = _word(0x7F800000)
ONE = _word(1)
FRACTION_BITS = _word(23)
TINY = _word(_bits(FP16.smallest_normal))
LARGE = _bits(FP16.overflow_from)
OVERFLOW = _bits(FP16.max_finite)
FLOAT32_NORMAL = _bits(BF16.smallest_normal)
INFINITY = 0x7F800000
# 1.5 * 2^(23 - p) times the power of two in x: adding and subtracting it rounds x to p fraction bits, half to even
ROUND_FP16 = np.array(1.5 * 2.0 ** (23 - FP16.fraction_bits), np.float32)
ROUND_BF16 = np.array(1.5 * 2.0 ** (23 - BF16.fraction_bits), np.float32)
# maximum and minimum of two whole arrays are vectorized, with a scalar they are not
FP16_SMALLEST_NORMAL = np.full(BLOCK, FP16.smallest_normal, np.float32)
BF16_SMALLEST_NORMAL = np.full(BLOCK, BF16.smallest_normal, np.float32)
DEEPEST = np.full(SPAN + 1, 31, np.uint8)

SINGLE_PRECISION_FROM = 2.0**-40
"""A block whose squares sum to this sums them in float32: what underflows there, an error below 2^-63, is nothing
beside the norm. It keeps error sums good to 1e-6 of themselves, or 1e-12 of the norm."""


class Tiny:
    """What the count kernel tells the error kernel about a task.

    Attributes:
      any: some magnitude is below FP16's normal range.
      float32_subnormal: some magnitude is zero or below float32's normal range.
    """

    __slots__ = ("any", "float32_subnormal")

    def __init__(self) -> None:
        self.any = self.float32_subnormal = False


class CountKernel:
    """Classes, range and exponents. Holds its temporaries; not shared between threads."""

    def __init__(self) -> None:
        self._magnitude = np.empty(SPAN, np.uint32)
        self._mask = np.empty(SPAN, np.bool_)
        self._exponent = np.empty(SPAN + 1, np.uint8)
        self._pair = np.empty(SPAN // 2 + 1, np.intp)

    def add(self, totals: Totals, words: Word, *, details: bool = True) -> Tiny | None:
        """Add the counts of float32 values, unless a magnitude is 65520 or more.

        Args:
          totals: what to add to.
          words: the bits of float32 values, shape [n].
          details: count exponents, and complete the error sums for the values below the normal range.

        Returns:
          What the error kernel needs, or None if a magnitude is 65520 or more: nothing has been added then.
        """
        part, tiny = Totals(), Tiny()
        for start in range(0, words.size, SPAN):
            span = words[start : start + SPAN]
            n = span.size
            magnitude = np.bitwise_and(span, MAGNITUDE, out=self._magnitude[:n])
            top = int(magnitude.max())
            if top >= LARGE:
                return None
            part.size += n
            part.max_abs = max(part.max_abs, _value(top))
            if top > OVERFLOW:
                part.fp16.overflow += int(np.count_nonzero(magnitude > OVERFLOW))
            below = magnitude[np.less(magnitude, TINY, out=self._mask[:n])]
            if below.size:
                least = self._add_below(part, below, details)
                tiny.any = True
                tiny.float32_subnormal = tiny.float32_subnormal or least < FLOAT32_NORMAL
            if part.min_abs >= FP16.smallest_normal:
                part.min_abs = min(part.min_abs, self._smallest_above_zero(magnitude))
            if details:
                self._add_exponents(part, magnitude)
        totals.merge(part)
        return tiny

    def _smallest_above_zero(self, magnitude: Word) -> float:
        """The smallest magnitude above zero; inf if there is none."""
        less_one = np.subtract(magnitude, ONE, out=self._pair.view(np.uint32)[: magnitude.size])
        lowest = int(less_one.min())  # a zero wraps to the top
        return _value(lowest + 1) if lowest < INFINITY else math.inf

    def _add_below(self, totals: Totals, below: Word, details: bool) -> int:
        """Look closely at the magnitudes below FP16's normal range; return the smallest, zero included."""
        small = below[below > 0]
        zeros = below.size - small.size
        totals.zeros += zeros
        if details:
            totals.exponents[0] -= zeros  # a zero's exponent field is 0, but it has no exponent
        if not small.size:
            return 0
        least = int(small.min())
        totals.min_abs = min(totals.min_abs, _value(least))
        for part in (totals.fp16, totals.bf16):
            _count_small(part, small, least)
        if details:
            size = small.view(np.float32).astype(np.float64)
            add_small(totals.fp16, size)
            if least < FLOAT32_NORMAL:
                add_small(totals.bf16, size[size < BF16.smallest_normal])
        return 0 if zeros else least

    def _add_exponents(self, totals: Totals, magnitude: Word) -> None:
        """Count exponent fields, zeros' too, in pairs: two values to one step of a table of 32 x 32.

        The table has the 31 binades from the largest downwards; what lies deeper is counted on its own. The
        magnitudes are overwritten.
        """
        n = magnitude.size
        even = n + n % 2
        exponent = self._exponent[:even]
        exponent[:n] = np.right_shift(magnitude, FRACTION_BITS, out=magnitude)
        if n % 2:
            exponent[-1] = exponent[0]
        first, top = int(exponent[0]), int(exponent.max())
        depth = np.subtract(np.uint8(top), exponent, out=exponent)
        deep = depth[depth >= 31] if int(depth.max()) >= 31 else depth[:0]
        if deep.size:
            totals.exponents[: top - 30] += np.bincount(top - deep.astype(np.intp), minlength=top - 30)
            np.minimum(depth, DEEPEST[:even], out=depth)
        self._pair[: even // 2] = depth.view(np.uint16)
        table = np.bincount(self._pair[: even // 2], minlength=32 * 256).reshape(32, 256)[:, :32]
        counts = table.sum(0) + table.sum(1)
        shown = min(top + 1, 31)
        totals.exponents[top - shown + 1 : top + 1] += counts[:shown][::-1]
        if n % 2:
            totals.exponents[first] -= 1


class ErrorKernel:
    """Norm and rounding errors. Holds its temporaries; not shared between threads."""

    def __init__(self) -> None:
        self._magnitude = np.empty(BLOCK, np.uint32)
        self._power = np.empty(BLOCK, np.uint32)
        self._error = np.empty(BLOCK, np.float32)
        self._shift = np.empty(BLOCK, np.float32)
        self._double = np.empty(BLOCK, np.float64)

    def add(self, totals: Totals, words: Word, tiny: Tiny) -> None:
        """Add the norm and the error sums of float32 values that the count kernel has taken.

        Args:
          totals: what to add to.
          words: the bits of float32 values below 65520 in magnitude, shape [n].
          tiny: what the count kernel said of them.
        """
        for start in range(0, words.size, BLOCK):
            block = words[start : start + BLOCK]
            n = block.size
            magnitude = np.bitwise_and(block, MAGNITUDE, out=self._magnitude[:n])
            size = magnitude.view(np.float32)
            sum_of_squares = self._squares
            square = sum_of_squares(size)
            if square < SINGLE_PRECISION_FROM:
                sum_of_squares = self._squares_in_double
                square = sum_of_squares(size)
            totals.square += square
            power = np.bitwise_and(magnitude, EXPONENT, out=self._power[:n]).view(np.float32)
            if tiny.float32_subnormal:
                np.maximum(power, BF16_SMALLEST_NORMAL[:n], out=power)
            error = self._round_off(size, power, ROUND_BF16)
            _add_error(totals.bf16, size, error, sum_of_squares(error))
            if tiny.any:
                np.maximum(power, FP16_SMALLEST_NORMAL[:n], out=power)
            error = self._round_off(size, power, ROUND_FP16)
            _add_error(totals.fp16, size, error, sum_of_squares(error))

    def _round_off(self, size: Real, power: Real, rounder: Real) -> Real:
        """The rounding error of each value, for the spacing that a format has at `power`.

        Adding 1.5 * 2^k and subtracting it again rounds to a multiple of the sum's ulp, half to even; both the
        rounded value and its difference from the original are exact in float32.
        """
        n = size.size
        shift = np.multiply(power, rounder, out=self._shift[:n])
        error = np.add(size, shift, out=self._error[:n])
        np.subtract(error, shift, out=error)
        return np.subtract(error, size, out=error)

    def _squares(self, x: Real) -> float:
        """The sum of squares: float32 within rows, float64 across them."""
        rows, rest = divmod(x.size, ROW)
        last = x[rows * ROW :]
        whole = x[: rows * ROW].reshape(rows, ROW)
        return float(_row_products(whole).sum(dtype=np.float64)) + (float(np.dot(last, last)) if rest else 0.0)

    def _squares_in_double(self, x: Real) -> float:
        """The sum of squares in float64, where squares in float32 would underflow."""
        double = self._double[: x.size]
        double[...] = x
        rows = range(0, x.size, ROW)
        return sum(float(np.dot(double[row : row + ROW], double[row : row + ROW])) for row in rows)


def add_large(totals: Totals, words: Word, count: CountKernel, error: ErrorKernel) -> None:
    """Add float32 values that the count kernel has refused: block by block, the plain way where it must be.

    Args:
      totals: what to add to.
      words: the bits of float32 values, shape [n].
      count: used for the blocks without large magnitudes.
      error: likewise.
    """
    for start in range(0, words.size, BLOCK):
        block = words[start : start + BLOCK]
        tiny = count.add(totals, block)
        if tiny is None:
            add_values(totals, widen(block.view(np.float32)))
        else:
            error.add(totals, block, tiny)


def _add_error(part: FormatTotals, size: Real, error: Real, square: float) -> None:
    """Add a block's squared rounding error, and note whether a value in the normal range was rounded."""
    part.error += square
    part.saturated += square
    if not part.inexact and square:  # soon true, so seldom looked at
        part.inexact = bool(error[size >= np.float32(part.format.smallest_normal)].any())


def _count_small(part: FormatTotals, small: Word, least: int) -> None:
    """Count the classes below a format's normal range; `least` is the smallest of the magnitudes, all above zero."""
    fmt: Format = part.format
    normal, subnormal = _bits(fmt.smallest_normal), _bits(fmt.smallest_subnormal)
    below = int(np.count_nonzero(small < _word(normal))) if least < normal else 0
    underflow = int(np.count_nonzero(small < _word(subnormal))) if least < subnormal else 0
    part.subnormal += below - underflow
    part.underflow += underflow
    if underflow:
        part.flushed += int(np.count_nonzero(small <= _word(_bits(fmt.flush_until))))


def _row_products(rows: Real) -> Real:
    """The dot product of each row with itself; numpy 2's own function takes half the time of a batched matmul."""
    if hasattr(np, "vecdot"):
        products: Real = np.vecdot(rows, rows)
    else:
        products = np.matmul(rows[:, None, :], rows[:, :, None])
    return products


def _value(bits: int) -> float:
    """The float32 value of magnitude bits."""
    return float(np.uint32(bits).view(np.float32))
