"""The 16-bit formats, rounding to them, and the census of a tensor."""

from precision_planner.numerics.bits import ValueBits, decode, encode, value_bits
from precision_planner.numerics.census import FLOAT_TYPES, census, count_classes
from precision_planner.numerics.formats import BF16, FORMATS, FP16, Format, get_format
from precision_planner.numerics.rounding import round_to_format, to_storage
from precision_planner.numerics.stats import ClassCounts, FormatStats, TensorStats, value_matters_from

__all__ = [
    "BF16",
    "FLOAT_TYPES",
    "FORMATS",
    "FP16",
    "ClassCounts",
    "Format",
    "FormatStats",
    "TensorStats",
    "ValueBits",
    "census",
    "count_classes",
    "decode",
    "encode",
    "get_format",
    "round_to_format",
    "to_storage",
    "value_bits",
    "value_matters_from",
]
