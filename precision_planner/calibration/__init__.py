"""Activation ranges of the FP32 model over batches of inputs."""

from precision_planner.calibration.bodies import NOT_RUN
from precision_planner.calibration.calibrate import SQUARES, Calibration, calibrate, measure
from precision_planner.calibration.ranges import ActivationRange

__all__ = ["NOT_RUN", "SQUARES", "ActivationRange", "Calibration", "calibrate", "measure"]
