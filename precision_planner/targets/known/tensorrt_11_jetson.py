"""TensorRT 11 on Jetson: its GPU, strongly typed as everywhere; the DLA takes no strongly typed network."""

from dataclasses import replace

from precision_planner.targets.known.tensorrt_11 import TARGET as DESKTOP

TARGET = replace(DESKTOP, name="tensorrt-11-jetson", platform="jetson", default=False)
