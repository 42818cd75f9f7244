#!/usr/bin/env python3
"""Where the end of a network goes wrong: engines of single steps, of several, and of all from a point on.

    head.py CASE_FOLDER OUT.jsonl [FIRST]     BUDGET=70 seconds, JOBS=10 builders, LEVELS=0,3

The values from number FIRST (of `search.values`) on are each built alone (FP32 inputs one computing node before), from
four nodes before, and from sixteen; at the levels named, in FP16. For the GPU machine; uses job.py's processes.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
DEPTHS = (1, 4, 16)


def jobs_for(case, cuts, first, levels):
    """The most telling first: single steps from the end on, then longer stretches."""
    found = []
    for level in levels:
        for depth in DEPTHS:
            for number in range(len(cuts) - 1, first - 1, -1):
                name = "%s.head.L%d.%d.d%d" % (case, level, number, depth)
                found.append(
                    {"id": name, "case": case, "kind": "fp16", "level": level, "cut": cuts[number][0], "depth": depth}
                )
    return found


def worker(jobs, work, out, deadline, lock, write):
    """One builder process; it is replaced when it dies."""
    process = None
    while time.time() < deadline:
        with lock:
            if not jobs:
                return
            job = jobs.pop(0)
        if process is None or process.poll() is not None:
            process = subprocess.Popen(
                [sys.executable, os.path.join(HERE, "job.py"), "serve", work, out],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        killer = threading.Timer(max(1.0, deadline - time.time()), process.kill)
        killer.start()
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            while True:
                line = process.stdout.readline()
                if not line or line.startswith("DONE"):
                    break
        except BrokenPipeError:
            line = ""
        killer.cancel()
        path = os.path.join(out, job["id"] + ".json")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                write(json.load(file))


def main():
    folder, out_path = sys.argv[1], sys.argv[2]
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    deadline = time.time() + float(os.environ.get("BUDGET", "70"))
    levels = [int(level) for level in os.environ.get("LEVELS", "0,3").split(",")]
    work, out = tempfile.mkdtemp(), tempfile.mkdtemp()
    subprocess.run([sys.executable, os.path.join(HERE, "job.py"), "prepare", folder, work, "searched"], check=True)
    case = os.path.basename(os.path.normpath(folder))
    with open(os.path.join(work, case, "values.json"), encoding="utf-8") as file:
        cuts = json.load(file)["cuts"]
    jobs = jobs_for(case, cuts, first, levels)
    lock = threading.Lock()
    with open(out_path, "w", encoding="utf-8", buffering=1) as stream:

        def write(result):
            with lock:
                errors = [metrics["rel_l2"] for metrics in result.get("outputs", {}).values()]
                print(result["id"], result["job"]["cut"], errors or result.get("error", "")[:150], flush=True)
                stream.write(json.dumps(result) + "\n")

        threads = [
            threading.Thread(target=worker, args=(jobs, work, out, deadline, lock, write))
            for _ in range(int(os.environ.get("JOBS", "10")))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
