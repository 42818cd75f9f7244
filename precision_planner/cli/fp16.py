"""`planner fp16 VALUE...`: the bits of a value in FP16 and BF16."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from precision_planner.cli.grouping import PlannerCommand
from precision_planner.numerics import FORMATS, ValueBits, value_bits

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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fp16(values: Sequence[str], as_json: bool) -> None:
    """Show sign, exponent, fraction, decoded value, rounding error and class of each VALUE in FP16 and BF16.

    A VALUE is a decimal number of any length (1e-12), a hexadecimal float (0x1.8p-3), inf or nan. It is rounded to
    nearest, ties to even, from its exact text.
    """
    parts = [(text, [value_bits(text, fmt) for fmt in FORMATS.values()]) for text in values]
    if as_json:
        rows = [{"value": text, **{bits.format: bits.to_dict() for bits in both}} for text, both in parts]
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo("\n\n".join("\n".join([text, *map(render, both)]) for text, both in parts))


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
