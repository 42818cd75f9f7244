"""Concurrent requests by Triton's own perf_analyzer, where it is installed."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from precision_planner.errors import ServerError
from precision_planner.serving.client import Address
from precision_planner.serving.load.levels import Level, Limits, ServerTimes
from precision_planner.serving.refusals import explain


def find_perf_analyzer() -> str | None:
    """The program, if it is on the PATH and starts (its libraries may be missing)."""
    program = shutil.which("perf_analyzer")
    if program is None:
        return None
    try:
        ran = subprocess.run([program, "--version"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return program if b"Perf Analyzer" in ran.stdout + ran.stderr else None


def run_level(
    address: Address,
    model: str,
    batches: Sequence[Mapping[str, np.ndarray]],
    concurrency: int,
    limits: Limits,
    *,
    program: str,
    batched: bool,
) -> Level:
    """One level; see `asyncio_client.run_level`. The data are ours: random ones are no token ids.

    Raises:
      ServerError: it fails, finds no stable measurement in time, or writes no result.
    """
    rows = next((array.shape[0] for array in batches[0].values() if array.ndim), 1)
    with tempfile.TemporaryDirectory(prefix="precision-planner-") as folder:
        data, result = Path(folder) / "data.json", Path(folder) / "result.csv"
        data.write_text(json.dumps(input_data(batches, batched)), encoding="utf-8")
        command = [
            *(program, "-m", model, "-u", address.place, "-i", "grpc"),
            *("--concurrency-range", f"{concurrency}:{concurrency}", "--input-data", str(data)),
            *("--measurement-mode", "count_windows", "--measurement-request-count", str(max(limits.requests // 3, 1))),
            *("--max-trials", "3", "--stability-percentage", "999", "--verbose-csv", "-f", str(result)),
            *(("-b", str(rows)) if batched else ()),
        ]
        limit = limits.seconds * 3 + limits.timeout_s
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            raise ServerError(
                explain(f"perf_analyzer timed out after {limit:g} s", model, str(address), limit)
            ) from None
        if ran.returncode != 0 or not result.is_file():
            raise ServerError(explain(f"perf_analyzer: {(ran.stderr or ran.stdout)[-300:]}", model, str(address)))
        return parse_result(result.read_text(encoding="utf-8"), model, concurrency, rows)


def input_data(batches: Sequence[Mapping[str, np.ndarray]], batched: bool) -> dict[str, object]:
    """The batches as perf_analyzer's JSON: raw bytes in base64, one row an entry where it batches itself."""

    def entry(array: np.ndarray) -> dict[str, object]:
        content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
        return {"content": {"b64": content}, "shape": list(array.shape) or [1]}

    rows = [
        {name: array[at] for name, array in batch.items()}
        for batch in batches
        for at in range(next(iter(batch.values())).shape[0] if batched else 0)
    ]
    return {"data": [{name: entry(array) for name, array in step.items()} for step in (rows if batched else batches)]}


def parse_result(text: str, model: str, concurrency: int, rows: int) -> Level:
    """The one line of perf_analyzer's CSV; its times are microseconds, its throughput rows.

    Raises:
      ServerError: another form than 2.51 writes.
    """
    lines = list(csv.DictReader(text.splitlines()))
    try:
        line = lines[0]
        ms = {name: float(value) / 1e3 for name, value in line.items() if name.startswith(("p", "Avg", "Server"))}
        rate = float(line["Inferences/Second"])
        count = int(line.get("Completed Requests") or line.get("request/response count") or 0)
        server = ServerTimes(
            ms["Server Queue"],
            ms["Server Compute Input"],
            ms["Server Compute Infer"],
            ms["Server Compute Output"],
            rows_per_execution=0.0,
        )
        p50, p90, p95, p99 = (ms[f"p{at} latency"] for at in (50, 90, 95, 99))
        mean = ms["Avg latency"]
    except (IndexError, KeyError, ValueError) as error:
        raise ServerError(
            f"perf_analyzer's CSV is of a form not known here ({error!r}); use --client asyncio"
        ) from None
    seconds = count * rows / rate if rate else 0.0
    return Level(model, concurrency, count, 0, seconds, rate / rows, rate, mean, p50, p90, p95, p99, server)
