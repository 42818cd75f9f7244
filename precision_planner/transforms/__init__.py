"""Rewrites that keep FP32 results: fusions of normalizations and the opset they need."""

from precision_planner.transforms.fuse import DEFAULT_KINDS, FusionResult, fuse
from precision_planner.transforms.opset import OpsetResult, raise_opset

__all__ = ["DEFAULT_KINDS", "FusionResult", "OpsetResult", "fuse", "raise_opset"]
