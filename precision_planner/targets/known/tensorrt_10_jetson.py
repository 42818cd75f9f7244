"""TensorRT 10 on Jetson (JetPack 6 and 7): its GPU, strongly typed; the DLA takes no strongly typed network."""

from dataclasses import replace

from precision_planner.targets.known.tensorrt_10_strong import TARGET as DESKTOP

TARGET = replace(
    DESKTOP,
    name="tensorrt-10-jetson",
    platform="jetson",
    sources={
        **DESKTOP.sources,
        "sums": f"assumed from {DESKTOP.sources['sums']}",
        "margin": f"not measured on a Jetson; {DESKTOP.sources['margin']}",
    },
)
