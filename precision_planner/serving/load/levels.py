"""What a load test measured, as values."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a level ends.

    Attributes:
      requests, seconds: of a level, whichever comes first.
      timeout_s: of one request.
    """

    requests: int = 1000
    seconds: float = 10.0
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """The server's own account of the requests of one level, per request.

    Attributes:
      queue_ms: waiting in the scheduler.
      compute_input_ms, compute_infer_ms, compute_output_ms: gathering inputs, the model, handing out outputs.
      rows_per_execution: how many rows the batcher put together on average.
    """

    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    rows_per_execution: float

    @property
    def compute_ms(self) -> float:
        """Input, model and output together."""
        return self.compute_input_ms + self.compute_infer_ms + self.compute_output_ms


@dataclass(frozen=True, slots=True)
class Level:
    """One model at one concurrency, seen from the client.

    Attributes:
      model: its name.
      concurrency: requests under way at any time.
      requests: how many were answered and counted.
      errors: how many were refused or took too long.
      seconds: from the first to the last.
      requests_per_s, rows_per_s: throughput.
      mean_ms, p50_ms, p90_ms, p95_ms, p99_ms: latency of one request.
      server: None where the server does not tell.
    """

    model: str
    concurrency: int
    requests: int
    errors: int
    seconds: float
    requests_per_s: float
    rows_per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    server: ServerTimes | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        data = asdict(self)
        if self.server is not None:
            data["server"]["compute_ms"] = self.server.compute_ms
        return data


def level_of(
    model: str, concurrency: int, rows: int, latencies_s: Sequence[float], errors: int, seconds: float
) -> Level:
    """The level of measured latencies; percentiles are interpolated linearly between the two nearest."""
    times = np.asarray(latencies_s, np.float64) * 1e3
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, (50, 90, 95, 99)))
    rate = len(times) / seconds
    return Level(
        model, concurrency, len(times), errors, seconds, rate, rate * rows, float(times.mean()), p50, p90, p95, p99
    )


def server_times(before: Mapping[str, Any], after: Mapping[str, Any]) -> ServerTimes | None:
    """What the server spent between two looks at its statistics (`Server.statistics`); None where nothing ran."""

    def grown(name: str, unit: str) -> int:
        def read(data: Mapping[str, Any]) -> int:
            return int(data.get("inference_stats", {}).get(name, {}).get(unit, 0))

        return read(after) - read(before)

    def per_request(name: str) -> float:
        count = grown(name, "count")
        return grown(name, "ns") / count / 1e6 if count else 0.0

    executions = int(after.get("execution_count", 0)) - int(before.get("execution_count", 0))
    rows = int(after.get("inference_count", 0)) - int(before.get("inference_count", 0))
    if executions <= 0:
        return None
    names = ("queue", "compute_input", "compute_infer", "compute_output")
    queue, gather, infer, scatter = (per_request(name) for name in names)
    return ServerTimes(queue, gather, infer, scatter, rows / executions)


@dataclass(frozen=True)
class LoadTest:
    """A load test, whole.

    Attributes:
      server: its address.
      client: what sent the requests.
      model, against: the model, and the baseline beside it ('' for none).
      rows: rows in a request.
      levels: by concurrency, the model before the baseline.
      inputs: where the data came from.
      notes: what to know of the numbers.
    """

    server: str
    client: str
    model: str
    against: str
    rows: int
    levels: tuple[Level, ...]
    inputs: str
    notes: tuple[str, ...] = ()

    def speedup(self, concurrency: int) -> float | None:
        """Throughput of the model over the baseline's at a level; None without one."""
        rates = {level.model: level.requests_per_s for level in self.levels if level.concurrency == concurrency}
        return rates[self.model] / rates[self.against] if rates.get(self.against) else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        concurrencies = list(dict.fromkeys(level.concurrency for level in self.levels))
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "triton_load",
            "server": self.server,
            "client": self.client,
            "model": self.model,
            "against": self.against or None,
            "rows": self.rows,
            "inputs": self.inputs,
            "levels": [level.to_dict() for level in self.levels],
            "speedup": {str(at): self.speedup(at) for at in concurrencies} if self.against else {},
            "notes": list(self.notes),
        }

    def to_csv(self) -> str:
        """A line a level, with a header; the server's times are prefixed `server_`."""
        own = [entry.name for entry in fields(Level) if entry.name != "server"]
        theirs = [entry.name for entry in fields(ServerTimes)]
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*own, *(f"server_{name}" for name in theirs)])
        for level in self.levels:
            times = ["" if level.server is None else getattr(level.server, name) for name in theirs]
            writer.writerow([*(getattr(level, name) for name in own), *times])
        return stream.getvalue()
