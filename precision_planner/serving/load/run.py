"""The levels of a load test, one after the other, baseline and model in turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from precision_planner.errors import ServerError
from precision_planner.model.inputs import Inputs
from precision_planner.serving.check import fit_served
from precision_planner.serving.client import Address, Server
from precision_planner.serving.load import asyncio_client, perf_analyzer
from precision_planner.serving.load.levels import Level, Limits, LoadTest, server_times

MOST_REQUESTS = 100_000
MOST_SECONDS = 600.0
MOST_CONCURRENCY = 1024
MOST_BATCHES = 64
"""Requests of different data that are kept ready."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How much load, and for how long.

    Attributes:
      concurrency: the levels.
      limits: the end of each level.
      rows: in one request; 0 sends the batches whole.
      client: what sends.
    """

    concurrency: tuple[int, ...] = (1, 11, 21, 31, 41)
    limits: Limits = field(default_factory=Limits)
    rows: int = 1
    client: Literal["auto", "perf_analyzer", "asyncio"] = "auto"


def load_test(
    address: Address,
    model: str,
    inputs: Inputs,
    options: LoadOptions | None = None,
    *,
    against: str = "",
    progress: Callable[[str], None] | None = None,
) -> LoadTest:
    """Measure a served model, and a baseline beside it, at each level of concurrency.

    Args:
      address: gRPC.
      model: its name.
      inputs: valid data.
      options: see there.
      against: the baseline's name; the same data goes to both, in the types that each takes.
      progress: called with what is done.

    Raises:
      ServerError: see `Server`; options out of bounds; perf_analyzer asked for and not there.
      InputsError: the data do not fit.
    """
    options = options or LoadOptions()
    _check_bounds(address, options)
    say = progress or (lambda _: None)
    program = perf_analyzer.find_perf_analyzer() if options.client != "asyncio" else None
    if options.client == "perf_analyzer" and program is None:
        raise ServerError("perf_analyzer is not on the PATH or does not start; use --client asyncio")
    names = [name for name in (model, against) if name]
    levels: list[Level] = []
    with Server(address, timeout_s=options.limits.timeout_s) as server:
        data = {name: _requests(server, name, inputs, options.rows) for name in names}
        for concurrency, name in itertools.product(options.concurrency, names):
            say(f"{name} at {concurrency}")
            batches, batched = data[name]
            before = server.statistics(name)
            level: Level
            if program is not None:
                level = perf_analyzer.run_level(
                    address, name, batches, concurrency, options.limits, program=program, batched=batched
                )
            else:
                level = asyncio_client.run_level(address, name, batches, concurrency, options.limits)
            times = server_times(before, server.statistics(name))
            levels.append(replace(level, server=times))
    client = "tritonclient asyncio gRPC" if program is None else "perf_analyzer"
    rows = next((array.shape[0] for array in data[model][0][0].values() if array.ndim), 1)
    return LoadTest(str(address), client, model, against, rows, tuple(levels), inputs.source, _notes(levels))


def _check_bounds(address: Address, options: LoadOptions) -> None:
    if address.protocol != "grpc":
        raise ServerError(f"a load test speaks gRPC, and {address} is HTTP; give the gRPC port, as in localhost:8001")
    if not options.concurrency or not all(1 <= level <= MOST_CONCURRENCY for level in options.concurrency):
        raise ServerError(f"--concurrency takes levels from 1 to {MOST_CONCURRENCY}, as in 1,11,21,31,41")
    if not 1 <= options.limits.requests <= MOST_REQUESTS or not 0 < options.limits.seconds <= MOST_SECONDS:
        raise ServerError(f"a level is bounded by 1 to {MOST_REQUESTS} requests and {MOST_SECONDS:g} s")


def _requests(server: Server, model: str, inputs: Inputs, rows: int) -> tuple[list[dict[str, np.ndarray]], bool]:
    """What is sent to a model, and whether it has a batch axis."""
    interface = server.interface(model)
    batched = int(server.config(model).get("max_batch_size", 0)) > 0
    found: list[dict[str, np.ndarray]] = []
    for batch in inputs:
        fitted = fit_served(batch, interface, inputs.source)
        if not batched or not rows:
            found.append(fitted)
            continue
        have = next(iter(fitted.values())).shape[0]
        for start in range(0, max(have // rows, 1) * rows, rows):
            wanted = [(start + at) % have for at in range(rows)]
            found.append({name: array[wanted] for name, array in fitted.items()})
    return found[:MOST_BATCHES], batched


def _notes(levels: list[Level]) -> tuple[str, ...]:
    notes = []
    few = [level for level in levels if level.requests < 100]
    if few:
        notes.append(
            f"fewer than 100 requests at {len(few)} of {len(levels)} levels: p99 is the slowest request or two"
        )
    wrong = sum(level.errors for level in levels)
    if wrong:
        notes.append(f"{wrong} requests were refused or took too long, and are counted in no time")
    return tuple(notes)
