"""Rewrites that keep FP32 results: fusions of normalizations and the opset they need."""

from precision_planner.transforms.float64_judgement import Judgement, judge
from precision_planner.transforms.fuse import DEFAULT_KINDS, FusionResult, fuse
from precision_planner.transforms.fuse_verified import fuse_verified
from precision_planner.transforms.opset import OpsetResult, raise_opset

__all__ = [
    "DEFAULT_KINDS",
    "FusionResult",
    "Judgement",
    "OpsetResult",
    "fuse",
    "fuse_verified",
    "judge",
    "raise_opset",
]
