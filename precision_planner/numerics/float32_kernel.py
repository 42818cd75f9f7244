"""The census of float32 values, a cache-sized block at a time.

One pass over memory: a block is taken apart while it lies in the cache, by integer and float operations on whole
blocks that numpy vectorizes and runs without the interpreter's lock. What one comparison of the magnitude bits singles
out (zeros and everything below FP16's normal range, seldom many) is gathered and looked at closely; a block with a
magnitude of 65520 or more, an infinity or a NaN goes the plain way of `totals.add_values`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from precision_planner.numerics.formats import BF16, FP16
from precision_planner.numerics.totals import FormatTotals, Totals, add_small, add_values, widen

__all__ = ["BLOCK", "TASK", "Kernel"]

BLOCK = 1 << 16
"""Elements in a block: with its temporaries it fits a core's second-level cache."""

ROW = 1 << 11
"""Elements in one dot product: so few that its float32 sum is good to 1e-6, and that no BLAS starts threads for it."""

SINGLE_PRECISION_FROM = int(np.float32(2.0**-20).view(np.uint32))
"""A block whose largest magnitude has at least these bits sums squares in float32: what underflows there, an error
below 2^-63, is nothing beside the norm. It keeps error sums good to 1e-6 of themselves, or 1e-12 of the norm."""

TASK = 1 << 20
"""Elements that one `Kernel.add` takes: their exponents are counted together, two at a time."""

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
# 1.5 * 2^(23 - p) times the power of two in x: adding and subtracting it rounds x to p fraction bits, half to even
ROUND_FP16 = np.array(1.5 * 2.0 ** (23 - FP16.fraction_bits), np.float32)
ROUND_BF16 = np.array(1.5 * 2.0 ** (23 - BF16.fraction_bits), np.float32)
# maximum of two whole arrays is vectorized, with a scalar it is not
FP16_SMALLEST_NORMAL = np.full(BLOCK, FP16.smallest_normal, np.float32)
BF16_SMALLEST_NORMAL = np.full(BLOCK, BF16.smallest_normal, np.float32)
DEEPEST = np.full(BLOCK + 1, 31, np.uint8)


class Kernel:
    """The temporaries of one worker, allocated once, and the work on them. Not shared between threads."""

    def __init__(self) -> None:
        self._magnitude = np.empty(BLOCK, np.uint32)
        self._word = np.empty(BLOCK, np.uint32)
        self._error = np.empty(BLOCK, np.float32)
        self._shift = np.empty(BLOCK, np.float32)
        self._mask = np.empty(BLOCK, np.bool_)
        self._double = np.empty(BLOCK, np.float64)
        self._exponent = np.empty(BLOCK + 1, np.uint8)
        self._depth = np.empty(BLOCK + 1, np.uint8)
        self._pair = np.empty(BLOCK // 2 + 1, np.intp)

    def add(self, totals: Totals, words: Word, *, errors: bool = True) -> None:
        """Add float32 values to the sums.

        Args:
          totals: what to add to.
          words: the bits of at most TASK float32 values, shape [n].
          errors: False adds the class counts and the range alone; exponents and error sums are then incomplete.
        """
        gathered: list[Word] = []
        for start in range(0, words.size, BLOCK):
            block = words[start : start + BLOCK]
            n = block.size
            magnitude = np.bitwise_and(block, MAGNITUDE, out=self._magnitude[:n])
            top = int(magnitude.max())
            if top >= LARGE:
                add_values(totals, widen(block.view(np.float32)))
                continue
            totals.size += n
            totals.max_abs = max(totals.max_abs, _value(top))
            if top > OVERFLOW:
                totals.fp16.overflow += int(np.count_nonzero(magnitude > OVERFLOW))
            tiny: Word = magnitude[np.less(magnitude, TINY, out=self._mask[:n])]
            if tiny.size:
                gathered.append(tiny)
            elif totals.min_abs >= FP16.smallest_normal:
                totals.min_abs = min(totals.min_abs, _value(int(magnitude.min())))
            if errors:
                self._add_exponents(totals, magnitude)
                self._add_errors(totals, magnitude, tiny, top)
        if gathered:
            self._add_tiny(totals, words, np.concatenate(gathered), errors)

    def _add_tiny(self, totals: Totals, words: Word, tiny: Word, errors: bool) -> None:
        """Look closely at the magnitudes below FP16's normal range."""
        small = tiny[tiny > 0]
        zeros = tiny.size - small.size
        totals.zeros += zeros
        if small.size:
            _count_small(totals.fp16, small, int(small.min()))
            _count_small(totals.bf16, small, int(small.min()))
            totals.min_abs = min(totals.min_abs, _value(int(small.min())))
        elif totals.min_abs >= FP16.smallest_normal:
            for start in range(0, words.size, BLOCK):  # zeros, but nothing small: the minimum is a normal value
                block = words[start : start + BLOCK] & MAGNITUDE
                totals.min_abs = min(totals.min_abs, _smallest_above_zero(block))
        if errors:
            totals.exponents[0] -= zeros  # a zero's exponent field is 0, but it has no exponent
            if small.size:
                size = small.view(np.float32).astype(np.float64)
                add_small(totals.fp16, size)
                if totals.min_abs < BF16.smallest_normal:
                    add_small(totals.bf16, size[size < BF16.smallest_normal])

    def _add_errors(self, totals: Totals, magnitude: Word, tiny: Word, top: int) -> None:
        """Add the norm and the rounding errors of one block without large values."""
        n = magnitude.size
        size = magnitude.view(np.float32)
        sum_of_squares = self._squares if top >= SINGLE_PRECISION_FROM else self._squares_in_double
        totals.square += sum_of_squares(size)
        power = np.bitwise_and(magnitude, EXPONENT, out=self._word[:n]).view(np.float32)
        if tiny.size and int(tiny.min()) < FLOAT32_NORMAL:
            np.maximum(power, BF16_SMALLEST_NORMAL[:n], out=power)
        square = sum_of_squares(self._round_off(size, power, ROUND_BF16))
        totals.bf16.error += square
        totals.bf16.saturated += square
        _note_inexact(totals.bf16, magnitude)
        if tiny.size:
            np.maximum(power, FP16_SMALLEST_NORMAL[:n], out=power)
        square = sum_of_squares(self._round_off(size, power, ROUND_FP16))
        totals.fp16.error += square
        totals.fp16.saturated += square
        _note_inexact(totals.fp16, magnitude)

    def _round_off(self, size: Real, power: Real, rounder: Real) -> Real:
        """The rounding error of each value, for a format whose spacing at `power` is rounder's.

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
        return float(np.matmul(whole[:, None, :], whole[:, :, None]).sum(dtype=np.float64)) + (
            float(np.dot(last, last)) if rest else 0.0
        )

    def _squares_in_double(self, x: Real) -> float:
        """The sum of squares in float64, where squares in float32 would underflow."""
        double = self._double[: x.size]
        double[...] = x
        rows = range(0, x.size, ROW)
        return sum(float(np.dot(double[row : row + ROW], double[row : row + ROW])) for row in rows)

    def _add_exponents(self, totals: Totals, magnitude: Word) -> None:
        """Count exponent fields, zeros' too, in pairs: two values to one step of a table of 32 x 32.

        The table has the 31 binades from the block's largest downwards; what lies deeper is counted on its own.
        """
        n = magnitude.size
        even = n + n % 2
        exponent, depth = self._exponent[:even], self._depth[:even]
        np.right_shift(magnitude, FRACTION_BITS, out=self._word[:n])
        exponent[:n] = self._word[:n]
        if n % 2:
            exponent[-1] = exponent[0]
        top = int(exponent.max())
        np.subtract(np.uint8(top), exponent, out=depth)
        np.minimum(depth, DEEPEST[:even], out=depth)
        self._pair[: even // 2] = depth.view(np.uint16)
        table = np.bincount(self._pair[: even // 2], minlength=32 * 256).reshape(32, 256)[:, :32]
        counts = table.sum(0) + table.sum(1)
        shown = min(top + 1, 31)
        totals.exponents[top - shown + 1 : top + 1] += counts[:shown][::-1]
        if counts[31]:
            deep = exponent[depth == 31]
            totals.exponents[: top - 30] += np.bincount(deep, minlength=top - 30)
        if n % 2:
            totals.exponents[exponent[0]] -= 1


def _count_small(part: FormatTotals, small: Word, least: int) -> None:
    """Count the classes below a format's normal range; `least` is the smallest of the magnitudes, all above zero."""
    fmt = part.format
    normal, subnormal = _bits(fmt.smallest_normal), _bits(fmt.smallest_subnormal)
    below = int(np.count_nonzero(small < _word(normal))) if least < normal else 0
    underflow = int(np.count_nonzero(small < _word(subnormal))) if least < subnormal else 0
    part.subnormal += below - underflow
    part.underflow += underflow
    if underflow:
        part.flushed += int(np.count_nonzero(small <= _word(_bits(fmt.flush_until))))


def _smallest_above_zero(magnitude: Word) -> float:
    """The smallest magnitude above zero; inf if there is none."""
    lowest = int((magnitude - ONE).min())  # a zero wraps to the top
    return _value(lowest + 1) if lowest < 0x7F800000 else math.inf


def _value(bits: int) -> float:
    """The float32 value of magnitude bits."""
    return float(np.uint32(bits).view(np.float32))


def _note_inexact(part: FormatTotals, magnitude: Word) -> None:
    """Set `inexact` if a value in the format's normal range has a bit that the format drops."""
    if not part.inexact:  # soon true, so seldom computed
        dropped = np.uint32((1 << (23 - part.format.fraction_bits)) - 1)
        normal = magnitude[magnitude >= np.uint32(_bits(part.format.smallest_normal))]
        part.inexact = bool((normal & dropped).any())
