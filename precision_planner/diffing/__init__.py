"""How far a candidate is from its reference: outputs, intermediate values, graphs."""

from precision_planner.diffing.compare import compare, diff
from precision_planner.diffing.graph import graph_diff
from precision_planner.diffing.result import Diff, LayerDiff, OutputDiff
from precision_planner.judging.judge import Tolerance
from precision_planner.judging.tolerance import parse_tolerances

__all__ = ["Diff", "LayerDiff", "OutputDiff", "Tolerance", "compare", "diff", "graph_diff", "parse_tolerances"]
