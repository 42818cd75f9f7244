"""Concurrent requests by tritonclient's asyncio gRPC client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import numpy as np

from precision_planner._extras import require
from precision_planner.errors import ServerError
from precision_planner.serving.client import Address
from precision_planner.serving.load.levels import Level, Limits, level_of
from precision_planner.serving.refusals import explain


def run_level(
    address: Address,
    model: str,
    batches: Sequence[Mapping[str, np.ndarray]],
    concurrency: int,
    limits: Limits,
) -> Level:
    """Keep so many requests under way until enough were answered, or the time is over.

    Every worker sends one request before the clock starts: connections and the batcher are warm then.

    Args:
      address: gRPC.
      model: its name.
      batches: what is sent, in turn, in the types that the model takes.
      concurrency: workers, each of which sends its next request when the last one is answered.
      limits: where the level ends.

    Raises:
      ServerError: no request was answered.
    """
    return asyncio.run(_run(address, model, batches, concurrency, limits))


async def _run(
    address: Address,
    model: str,
    batches: Sequence[Mapping[str, np.ndarray]],
    concurrency: int,
    limits: Limits,
) -> Level:
    tr = require("tritonclient.grpc.aio", extra="triton", purpose="a load test")
    utils = require("tritonclient.utils", extra="triton", purpose="a load test")
    prepared = [
        [
            tr.InferInput(name, list(array.shape), utils.np_to_triton_dtype(array.dtype)).set_data_from_numpy(array)
            for name, array in batch.items()
        ]
        for batch in batches
    ]
    latencies: list[float] = []
    failures: list[str] = []
    sent = 0

    async with tr.InferenceServerClient(address.place, ssl=address.secure) as client:

        async def send(number: int) -> bool:
            try:
                await client.infer(model, prepared[number % len(prepared)], client_timeout=limits.timeout_s)
            except utils.InferenceServerException as error:
                failures.append(f"{error.status() or ''} {error.message()}")
                return False
            return True

        async def work() -> None:
            nonlocal sent
            while sent < limits.requests and time.perf_counter() < end:
                sent += 1
                start = time.perf_counter()
                if await send(sent):
                    latencies.append(time.perf_counter() - start)

        end = 0.0
        if not all(await asyncio.gather(*(send(number) for number in range(concurrency)))):
            raise ServerError(explain(failures[0], model, str(address), limits.timeout_s))
        failures.clear()
        begin = time.perf_counter()
        end = begin + limits.seconds
        await asyncio.gather(*(work() for _ in range(concurrency)))
        took = time.perf_counter() - begin
    if not latencies:
        raise ServerError(explain(failures[0], model, str(address), limits.timeout_s))
    rows = next((array.shape[0] for array in batches[0].values() if array.ndim), 1)
    return level_of(model, concurrency, rows, latencies, len(failures), took)
