"""Activation ranges of the FP32 model over batches of inputs."""

from precision_planner.calibration.calibrate import SQUARES, calibrate
from precision_planner.calibration.ranges import ActivationRange

__all__ = ["SQUARES", "ActivationRange", "calibrate"]
