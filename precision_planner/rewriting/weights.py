"""Weights in a 16-bit type: what becomes of values that it cannot hold, and the cast itself, streamed.

Rounding is to nearest, ties to even, and every sign is kept, a negative zero's too. For what the type cannot hold
there are three policies.

- `ieee`, as ONNX Cast: FP16 |x| >= 65520 becomes inf, |x| <= 2^-25 becomes 0.
- `saturate`, as TensorRT's weak typing: finite |x| > 65504 becomes 65504, 0 < |x| < 2^-24 becomes 2^-24.
- `auto`, by role:
    1. a mask constant (it reaches a softmax through additions, selections and reshapes): magnitudes above 30000,
       infinities too, become 30000 (BF16: 1e38). Two masks and a score still sum to a finite number, and (1 - mask) *
       value is never 0 * inf. Infinities stay where the graph asks for NaN behind the softmax.
    2. any other overflow saturates: a bound of Clip, a scale, a table.
    3. a scalar that would vanish (an epsilon) becomes the smallest subnormal.
    4. an element of a larger tensor that vanishes becomes zero: 2^-24 would be further from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
from onnx import TensorProto

from precision_planner.errors import ConversionError
from precision_planner.model import LazyPayload, Payload
from precision_planner.numerics.formats import BF16, FP16, Format
from precision_planner.numerics.rounding import to_storage

WeightPolicy = Literal["auto", "saturate", "ieee"]
Role = Literal["", "mask", "open_mask", "scalar"]
Array = np.ndarray[Any, np.dtype[Any]]

POLICIES = ("auto", "saturate", "ieee")
MASK_LIMIT = {"fp16": 30000.0, "bf16": float(np.float32(1e38).astype(ml_dtypes.bfloat16))}
"""Magnitude of a mask constant: 30000 is exact in FP16, and 30000 + 30000 + 5000 is still finite."""

BLOCK = 1 << 16
"""Elements cast or scanned at a time: input, output and temporaries stay in the second-level cache."""


@dataclass(frozen=True, slots=True)
class WeightChange:
    """What a policy changed beyond rounding in one tensor.

    Attributes:
      tensor: its name.
      policy: which policy.
      role: "mask", "scalar" or "".
      overflow: elements whose magnitude the type cannot hold (infinities of a mask included).
      flushed: elements that are not zero and would become zero.
      became: what they became, for people: "inf", "65504", "-30000", "0", ...
    """

    tensor: str
    policy: str
    role: str
    overflow: int
    flushed: int
    became: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "tensor": self.tensor,
            "policy": self.policy,
            "role": self.role,
            "overflow": self.overflow,
            "flushed": self.flushed,
            "became": self.became,
        }


def check_policy(policy: str) -> None:
    """Raise ConversionError for a policy that does not exist."""
    if policy not in POLICIES:
        raise ConversionError(f"weight policy {policy!r} is unknown; use auto, saturate or ieee")


def format_of(element: int) -> Format:
    """The 16-bit format of an element type."""
    return FP16 if element == TensorProto.FLOAT16 else BF16


@dataclass(frozen=True, slots=True)
class Treatment:
    """How one tensor is cast.

    Attributes:
      element: FLOAT16 or BFLOAT16.
      limit: magnitudes above it become it, infinities only where `infinities`; None: nothing is limited.
      infinities: whether infinities are limited too.
      floor: magnitudes that are not zero and below `floor_below` become it; None: they round.
      floor_below: see `floor`.
    """

    element: int
    limit: float | None = None
    infinities: bool = False
    floor: float | None = None
    floor_below: float = 0.0

    def cast(self, block: Array) -> Array:
        """Cast float32 or float64, any shape, to float16 or bfloat16."""
        fmt = format_of(self.element)
        if self.limit is not None or self.floor is not None:
            block = block.copy()
            size = np.abs(block)
            if self.limit is not None:
                over = size > self.limit
                if not self.infinities:
                    over &= np.isfinite(size)
                block[over] = np.copysign(np.asarray(self.limit, block.dtype), block[over])
            if self.floor is not None:
                tiny = (size > 0) & (size < self.floor_below)
                block[tiny] = np.copysign(np.asarray(self.floor, block.dtype), block[tiny])
        if block.dtype == np.dtype(np.float32) and fmt is BF16:
            return _to_bfloat16(block)
        return to_storage(block, fmt)


def _to_bfloat16(block: Array) -> Array:
    """float32 to bfloat16 on the bits: half an ulp added, less one if the last kept bit is even, and cut.

    Four times as fast as ml_dtypes' element-wise cast. NaN keeps its sign and upper bits, made quiet.
    """
    bits = np.ascontiguousarray(block).view(np.uint32)
    kept = bits >> np.uint32(16)
    rounded = ((bits + (np.uint32(0x7FFF) + (kept & np.uint32(1)))) >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(block)
    if nan.any():
        rounded[nan] = (kept[nan] | np.uint32(0x40)).astype(np.uint16)
    result: Array = rounded.view(ml_dtypes.bfloat16).reshape(block.shape)
    return result


def treat(
    name: str, blocks: Iterable[Array], count: int, element: int, policy: WeightPolicy, role: Role
) -> tuple[Treatment, WeightChange | None]:
    """Look at a tensor and say how it is cast.

    Args:
      name: the tensor's name, for the report.
      blocks: its values, float32 or float64, in pieces.
      count: how many there are.
      element: FLOAT16 or BFLOAT16.
      policy: what becomes of values that the type cannot hold.
      role: "mask" for a mask constant, "open_mask" for one whose infinities have to stay, else "".
    """
    fmt = format_of(element)
    mask = role in ("mask", "open_mask") and policy == "auto"
    mask_limit = MASK_LIMIT[fmt.name]
    overflow = flushed = 0
    largest = -np.inf
    limit_from = mask_limit if mask else (fmt.overflow_from if policy != "saturate" else fmt.max_finite)
    tiny_until = fmt.smallest_subnormal if policy == "saturate" else fmt.flush_until
    for block in blocks:
        over, tiny, top = _scan(block, limit_from, tiny_until, policy, mask and role == "mask")
        overflow, flushed, largest = overflow + over, flushed + tiny, max(largest, top)
    if not overflow and not flushed:
        return Treatment(element), None
    kind: Role = role if mask else ("scalar" if count == 1 else "")
    treatment, became = _choose(fmt, element, policy, kind, overflow, flushed)
    return treatment, WeightChange(name, policy, kind, overflow, flushed, became)


def _choose(
    fmt: Format, element: int, policy: WeightPolicy, role: Role, overflow: int, flushed: int
) -> tuple[Treatment, str]:
    over, tiny = "", ""
    limit = floor = None
    below = 0.0
    infinities = False
    if overflow:
        if policy == "ieee":
            over = "inf"
        else:
            limit = MASK_LIMIT[fmt.name] if role in ("mask", "open_mask") else fmt.max_finite
            infinities = role == "mask"
            over = f"{limit:g}"
    if flushed:
        if policy == "saturate" or (policy == "auto" and role == "scalar"):
            floor = fmt.smallest_subnormal
            below = fmt.smallest_subnormal if policy == "saturate" else float(np.nextafter(fmt.flush_until, 1.0))
            tiny = f"{floor:g}"
        else:
            tiny = "0"
    became = ", ".join(text for text in (over, tiny) if text)
    return Treatment(element, limit, infinities, floor, below), became


def _scan(
    block: Array, limit_from: float, tiny_until: float, policy: WeightPolicy, mask: bool
) -> tuple[int, int, float]:
    """(elements past the limit, elements that vanish, largest finite magnitude or 0) of one block.

    The magnitudes are compared as integers, which is exact and twice as fast: for floats of one sign the order of the
    bits is the order of the values.
    """
    single = block.dtype == np.dtype(np.float32)
    word = np.uint32 if single else np.uint64
    real = np.float32 if single else np.float64
    bits: Any = block.reshape(-1).view(word)
    size = bits & word(np.iinfo(word).max >> 1)
    inf = np.array(np.inf, real).view(word)
    tiny_bits = _at_most(tiny_until, real, word, exclusive=policy == "saturate")
    # zero wraps around to the largest integer, so that one comparison finds 0 < size <= tiny
    tiny = int(np.count_nonzero((size - word(1)) < tiny_bits)) if tiny_bits else 0
    top = size.max(initial=word(0))
    limit_bits = np.array(limit_from, real).view(word)
    if mask:
        over = int(np.count_nonzero((size > limit_bits) & (size <= inf))) if top > limit_bits else 0
    elif policy == "saturate":
        over = int(np.count_nonzero((size > limit_bits) & (size < inf))) if top > limit_bits else 0
    else:
        over = int(np.count_nonzero((size >= limit_bits) & (size < inf))) if top >= limit_bits else 0
    return over, tiny, float(np.array(top, word).view(real)) if top < inf else 0.0


def _at_most(bound: float, real: type, word: type, *, exclusive: bool) -> Any:
    """How many positive bit patterns lie at or below `bound` (below it, where exclusive)."""
    bits = int(np.array(bound, real).view(word))
    return word(max(bits - 1, 0) if exclusive else bits)


def payload_blocks(payload: Payload, dtype: np.dtype[Any]) -> Iterator[Array]:
    """The values of a payload in blocks of `BLOCK` elements."""
    for chunk in payload.chunks():
        array = np.frombuffer(chunk, np.uint8).view(dtype)
        for start in range(0, array.size, BLOCK):
            yield array[start : start + BLOCK]


def cast_payload(payload: Payload, dtype: np.dtype[Any], treatment: Treatment) -> LazyPayload:
    """The cast of a payload, computed while it is written."""

    def produce() -> Iterator[Array]:
        for chunk in payload.chunks():
            array = np.frombuffer(chunk, np.uint8).view(dtype)
            out = np.empty(array.size, np.uint16)
            for start in range(0, array.size, BLOCK):
                stop = start + BLOCK
                out[start:stop] = treatment.cast(array[start:stop]).view(np.uint16)
            yield out

    return LazyPayload(payload.nbytes // dtype.itemsize * 2, produce)
