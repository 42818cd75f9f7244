"""Rewrites that keep FP32 results: fusions of normalizations and the opset they need."""

from precision_planner.transforms.fuse import DEFAULT_KINDS, FusionResult, fuse
from precision_planner.transforms.opset import OpsetResult, raise_opset
from precision_planner.transforms.verified import fuse_verified
from precision_planner.transforms.verify import Judgement, judge

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
