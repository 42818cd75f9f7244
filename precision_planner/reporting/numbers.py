"""Numbers as people read them; the JSON's strings for infinities and NaN included."""

from __future__ import annotations

import math
from typing import Any


def as_float(value: Any) -> float:
    """A number of the JSON as a float: "inf", "-inf" and "nan" are what they say, None is NaN."""
    return math.nan if value is None else float(value)


def number(value: Any, digits: int = 3) -> str:
    """Three significant digits, without a padded exponent: 6.2e-4, 0.012, 65504, inf."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    found = float(value)
    if not math.isfinite(found):
        return str(found)
    if found == 0:
        return "0"
    if 1e-3 <= abs(found) < 1e5:
        text = f"{found:.{max(0, digits - 1 - math.floor(math.log10(abs(found))))}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = f"{found:.{digits - 1}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"


def share(value: Any) -> str:
    """A share as a percentage, never rounded up to 100 %: 99.98 %."""
    found = as_float(value)
    if not math.isfinite(found):
        return str(found)
    if found == 1:
        return "100%"
    return f"{math.floor(found * 10000) / 100:g}%"


def size(count: Any) -> str:
    """Bytes in decimal units."""
    found = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if found < 1000 or unit == "GB":
            return f"{found:.0f} {unit}" if unit == "B" else f"{found:.1f} {unit}"
        found /= 1000
    raise AssertionError("unreachable")
