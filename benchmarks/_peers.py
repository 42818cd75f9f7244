"""One converter on one model in its own process: what `benchmarks.conversion` starts in each environment.

Run as ``python _peers.py TOOL INPUT OUTPUT`` by the interpreter that has the tool. Prints one JSON line: CPU seconds of
loading, converting and saving (imports not counted), wall seconds, and the peak of anonymous memory in MB.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable


def numpy_cast(source: str, target: str) -> None:
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    with open(target, "wb") as file:
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                file.write(numpy_helper.to_array(tensor).astype(np.float16).tobytes())


def onnxconverter_common(source: str, target: str) -> None:
    import onnx
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def onnxruntime_float16(source: str, target: str) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def modelopt_autocast(source: str, target: str) -> None:
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision

    onnx.save(convert_to_mixed_precision(source, keep_io_types=True), target)


def modelopt_autocast_calibrated(source: str, target: str) -> None:
    """The same on the inputs.npz beside the model."""
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision

    inputs = os.path.join(os.path.dirname(source), "inputs.npz")
    onnx.save(convert_to_mixed_precision(source, keep_io_types=True, calibration_data=inputs), target)


def planner(source: str, target: str) -> None:
    from precision_planner.rewriting import rewrite

    rewrite(source, verify=False).save(target, force=True)


def planner_verified(source: str, target: str) -> None:
    from precision_planner.rewriting import rewrite

    rewrite(source, verify=True).save(target, force=True)


IMPORTS = {
    "numpy_cast": "import numpy, onnx",
    "onnxconverter_common": "import onnx; from onnxconverter_common import float16",
    "onnxruntime_float16": "import onnx; from onnxruntime.transformers import float16",
    "modelopt_autocast": "import onnx; from modelopt.onnx.autocast import convert_to_mixed_precision",
    "modelopt_autocast_calibrated": "import onnx; from modelopt.onnx.autocast import convert_to_mixed_precision",
    "planner": "from precision_planner.rewriting import rewrite",
    "planner_verified": "from precision_planner.rewriting import rewrite; import onnxruntime",
}


def anonymous_mb() -> float:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
    return 0.0


def measure(work: Callable[[str, str], None], source: str, target: str) -> dict[str, float]:
    peak, done = [anonymous_mb()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=watch, daemon=True)
    start_cpu, start = time.process_time(), time.perf_counter()
    watcher.start()
    work(source, target)
    cpu, wall = time.process_time() - start_cpu, time.perf_counter() - start
    done.set()
    watcher.join()
    return {"cpu_s": round(cpu, 2), "wall_s": round(wall, 2), "anonymous_mb": round(peak[0])}


if __name__ == "__main__":
    name, source_path, target_path = sys.argv[1:4]
    exec(IMPORTS[name])
    print(json.dumps(measure(globals()[name], source_path, target_path)))
