"""Applies decisions to a model: surgery, transforms, then types, then weights, then verification."""

from precision_planner.rewriting.convert import ConvertOptions, ConvertResult, convert
from precision_planner.rewriting.rewrite import RewriteResult, default_output, rewrite
from precision_planner.rewriting.weights import WeightChange, WeightPolicy

__all__ = [
    "ConvertOptions",
    "ConvertResult",
    "RewriteResult",
    "WeightChange",
    "WeightPolicy",
    "convert",
    "default_output",
    "rewrite",
]
