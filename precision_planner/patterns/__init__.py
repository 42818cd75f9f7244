"""Structural recognisers: what a subgraph means, and the reason where it nearly means it."""

from precision_planner.patterns.find import find_patterns
from precision_planner.patterns.match import KINDS, NORMALIZATIONS, STRUCTURES, Match, NormRewrite, Operand

__all__ = ["KINDS", "NORMALIZATIONS", "STRUCTURES", "Match", "NormRewrite", "Operand", "find_patterns"]
