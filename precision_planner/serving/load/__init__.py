"""How fast a server answers: levels of concurrent requests, by perf_analyzer or by tritonclient's asyncio gRPC."""

from precision_planner.serving.load.levels import Level, LoadTest, ServerTimes
from precision_planner.serving.load.run import LoadOptions, load_test

__all__ = ["Level", "LoadOptions", "LoadTest", "ServerTimes", "load_test"]
