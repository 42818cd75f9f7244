#!/usr/bin/env python3
"""Build the probes of `probe_models.py` with TensorRT 8.6 and measure their errors.

    probes.py PROBES OUT.json [NAME...]     JOBS=12 workers, KINDS=fp16,half, no probe begun after BUDGET=150

Runs under Python 3.8 to 3.10 with tensorrt, polygraphy and numpy. TensorRT takes seconds to load its kernels, so each
worker builds one probe after another; one that dies or hangs is replaced, and the others go on.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

KINDS = os.environ.get("KINDS", "fp16,half").split(",")
LIMIT = float(os.environ.get("LIMIT", "100"))  # seconds a probe


def layers(engine_bytes, arrays, log):
    """The engine's layers by TensorRT's inspector: type, kernel, formats."""
    import tensorrt as trt

    engine = trt.Runtime(log).deserialize_cuda_engine(engine_bytes)
    context = engine.create_execution_context()
    for name, array in arrays.items():
        context.set_input_shape(name, array.shape)
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    said = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    found = json.loads(said, strict=False)["Layers"]  # names hold control characters
    return [brief(layer) if isinstance(layer, dict) else str(layer)[:160] for layer in found]


def brief(layer):
    def formats(side):
        return [tensor.get("Format/Datatype", "") for tensor in layer.get(side, [])]

    return {
        "name": layer.get("Name", "")[:160],
        "type": layer.get("LayerType", ""),
        "tactic": layer.get("TacticName", ""),
        "inputs": formats("Inputs"),
        "outputs": formats("Outputs"),
    }


def measure(folder, kind, log):
    """One engine's figures, or {"error": why there are none}."""
    import engine
    from metrics import errors

    arrays, expected = dict(np.load(os.path.join(folder, "inputs.npz"))), np.load(os.path.join(folder, "expected.npz"))
    start = time.perf_counter()
    try:
        built = engine.build_plain(os.path.join(folder, "model.onnx"), kind, arrays, log)
    except SystemExit as error:
        return {"error": "%s %s" % (error, " ".join(log.recent))}
    seconds = round(time.perf_counter() - start, 1)
    outputs, _ = engine.run(built, arrays, log)
    (actual,) = outputs.values()
    figures = errors(expected["output"], actual)
    return dict(figures, build_s=seconds, output=str(actual.dtype), layers=layers(built, arrays, log))


def serve(probes):
    """A worker: names come in a line each, one JSON line a probe goes out."""
    import engine

    class Log(engine.Log):
        def __init__(self):
            super().__init__()
            self.recent = []

        def log(self, severity, message):
            if severity in (severity.INTERNAL_ERROR, severity.ERROR):
                self.recent.append(message[:300])

    log = Log()  # TensorRT keeps a process's first
    for line in sys.stdin:
        name, found = line.strip(), {}
        for kind in KINDS:
            del log.recent[:]
            found[kind] = measure(os.path.join(probes, name), kind, log)
        with open(os.path.join(probes, name, "predicted.json"), encoding="utf-8") as file:
            found["predicted"] = json.load(file)
        print("RESULT " + json.dumps(dict(found, probe=name)), flush=True)


class Worker:
    """A worker process, and another when it is gone."""

    def __init__(self, probes):
        self.command = [sys.executable, os.path.abspath(__file__), "--serve", probes]
        self.process = None

    def ask(self, name):
        """The answer to one probe; {"error": ...} where the worker died over it or was too slow."""
        if self.process is None or self.process.poll() is not None:
            self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
            )
        watchdog = threading.Timer(LIMIT, self.process.kill)
        watchdog.start()
        try:
            self.process.stdin.write(name + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has just ended: reading says so
        for line in self.process.stdout:
            if line.startswith("RESULT "):
                watchdog.cancel()
                return json.loads(line[7:])
        watchdog.cancel()
        code = self.process.wait()
        self.errors.seek(0)
        return {"probe": name, "error": "worker ended with %s: %s" % (code, self.errors.read()[-600:])}


def main():
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
        return
    probes, out, names = sys.argv[1], sys.argv[2], sys.argv[3:]
    if not names:
        with open(os.path.join(probes, "order.json"), encoding="utf-8") as file:
            names = json.load(file)
    waiting, results, start = queue.Queue(), [], time.time()
    for name in names:
        waiting.put(name)

    def drain():
        worker = Worker(probes)
        while time.time() - start < float(os.environ.get("BUDGET", "150")):
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                break
            results.append(worker.ask(name))
            print("%4.0f s %s %s" % (time.time() - start, name, results[-1].get("error", "")[-300:]), flush=True)
            with open(out + ".part", "w", encoding="utf-8") as file:  # what is there, should this be stopped
                json.dump(results, file)
        if worker.process is not None and worker.process.poll() is None:
            worker.process.stdin.close()
            worker.process.wait()

    threads = [threading.Thread(target=drain) for _ in range(int(os.environ.get("JOBS", "12")))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results += [{"probe": name, "error": "no time left"} for name in list(waiting.queue)]
    with open(out, "w", encoding="utf-8") as file:
        json.dump(sorted(results, key=lambda result: result["probe"]), file, indent=1)
    print("%d of %d probes in %.0f s" % (sum("error" not in r for r in results), len(names), time.time() - start))


if __name__ == "__main__":
    main()
