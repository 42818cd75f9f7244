"""What a model holds and what a 16-bit format does to it: census, roles, TensorRT's warnings, the `Analysis`."""

from precision_planner.analysis.analysis import Analysis, ModelInfo, analyze
from precision_planner.analysis.assessment import VERDICTS, Assessment
from precision_planner.analysis.normalizations import Normalization
from precision_planner.analysis.scales import FoldedScale, folded_scales
from precision_planner.analysis.tensorrt import CATEGORIES, TensorRTWarnings, tensorrt_warnings
from precision_planner.analysis.weights import WeightCensus, Weights, weights_census

__all__ = [
    "CATEGORIES",
    "VERDICTS",
    "Analysis",
    "Assessment",
    "FoldedScale",
    "ModelInfo",
    "Normalization",
    "TensorRTWarnings",
    "WeightCensus",
    "Weights",
    "analyze",
    "folded_scales",
    "tensorrt_warnings",
    "weights_census",
]
