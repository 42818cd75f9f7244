"""`planner fp16 VALUE...`: the bits of a value in FP16 and BF16."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import click

from precision_planner.cli.grouping import PlannerCommand
from precision_planner.errors import InputsError
from precision_planner.numerics import FORMATS, ValueBits, value_bits
from precision_planner.numerics.bits import decode
from precision_planner.numerics.formats import Format

CENSUS_NOTES = {
    "underflow": "below the smallest subnormal",
    "subnormal": "below the smallest normal: fewer bits",
    "overflow": "past the largest finite value",
}


@click.command(
    "fp16",
    cls=PlannerCommand,
    # a negative value is a value, not an option
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    short_help="Show the bits of a value in FP16 and BF16.",
)
@click.argument("values", metavar="VALUE...", nargs=-1, required=True)
@click.option("--bits", "as_bits", is_flag=True, help="Each VALUE is 16 bits, as 0x4248: what they stand for.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fp16(values: Sequence[str], as_bits: bool, as_json: bool) -> None:
    """Show sign, exponent, fraction, decoded value, rounding error and class of each VALUE in FP16 and BF16.

    A VALUE is a decimal number of any length (1e-12), a hexadecimal float (0x1.8p-3), inf or nan. It is rounded to
    nearest, ties to even, from its exact text.
    """
    from precision_planner.cli.console import stdout_console

    take = pattern_bits if as_bits else value_bits
    parts = [(text, [take(text, fmt) for fmt in FORMATS.values()]) for text in values]
    if as_json:
        rows = [{"value": text, **{bits.format: bits.to_dict() for bits in both}} for text, both in parts]
        click.echo(json.dumps({"schema_version": 1, "kind": "fp16", "values": rows}, indent=2))
        return
    console = stdout_console()
    console.print("\n\n".join("\n".join([text, *map(render, both)]) for text, both in parts), soft_wrap=True)


def pattern_bits(text: str, fmt: Format) -> ValueBits:
    """What 16 bits stand for in a format.

    Args:
      text: hexadecimal (0x4248), binary (0b...) or decimal.
      fmt: the format.

    Raises:
      InputsError: no such number, or more than 16 bits.
    """
    try:
        bits = int(text, 0)
    except ValueError:
        raise InputsError(f"{text!r} is no bit pattern; write it as 0x4248") from None
    if not 0 <= bits <= 0xFFFF:
        raise InputsError(f"{text} is not 16 bits; write it as 0x4248")
    found = value_bits(decode(bits, fmt), fmt)
    # of the NaNs every payload is another pattern
    fraction = bits & ((1 << fmt.fraction_bits) - 1)
    return replace(found, text=text, bits=bits, sign=bits >> 15, fraction=fraction)


def render(bits: ValueBits) -> str:
    """Two lines on a value in one format."""
    sign, exponent, fraction = bits.fields
    power = "" if bits.exponent_value is None else f"  2^{bits.exponent_value}"
    first = f"  {bits.format}  {bits.hex}  {sign} {exponent} {fraction}{power}  = {_exact(bits.decoded)}"
    census = CENSUS_NOTES.get(bits.census)
    parts = [
        bits.kind,
        bits.outcome + (" (a tie, to even)" if bits.tie else ""),
        f"error {bits.error:.6g}" if bits.error else "",
        f"relative {bits.relative_error:.3g}" if bits.relative_error else "",
        f"{bits.census}: {census}" if census else "",
        f"TensorRT's weak weights: {_exact(bits.saturated)}" if bits.saturated != bits.decoded and census else "",
    ]
    return f"{first}\n        {'; '.join(part for part in parts if part)}"


def _exact(x: float) -> str:
    """The shortest text that reads back as x, with the power of two where that says more."""
    mantissa, exponent = x.hex().split("p") if x and abs(x) < 2.0**-14 else ("", "")
    if mantissa.lstrip("-") in ("0x1.0000000000000", "0x1"):
        return f"{x:.6g} (2^{int(exponent)})"
    return f"{x:.9g}"


command = fp16
