"""What a load test says of its levels, without a server."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from precision_planner.errors import ServerError
from precision_planner.serving.check import ServedCheck
from precision_planner.serving.load.levels import LoadTest, level_of
from precision_planner.serving.load.perf_analyzer import parse_result


def load(against: str = "fp32", *, silent: bool = False) -> LoadTest:
    levels = [
        level_of("plan", concurrency, 8, [0.01, 0.02, 0.03, 0.04], 0, seconds)
        for concurrency, seconds in ((1, 0.1), (4, 0.05))
    ]
    if against:
        levels += [
            replace(level_of(against, 1, 8, [0.1, 0.1], 0, 0.2), **({"requests_per_s": 0.0} if silent else {})),
            level_of(against, 4, 8, [0.1], 1, 0.1),
        ]
    return LoadTest("server", "client", "plan", against, 8, tuple(levels), "inputs")


def test_the_speedup_is_of_the_same_concurrency() -> None:
    """4 requests in 0.1 s are 40/s, in 0.05 s 80/s; the baseline answers 10/s at both."""
    found = load()
    assert (found.speedup(1), found.speedup(4)) == (pytest.approx(4.0), pytest.approx(8.0))
    assert found.to_dict()["speedup"] == {"1": pytest.approx(4.0), "4": pytest.approx(8.0)}


def test_there_is_none_without_a_baseline_or_where_it_answered_nothing() -> None:
    alone = load("")
    assert (alone.speedup(1), alone.to_dict()["speedup"], alone.to_dict()["against"]) == (None, {}, None)
    assert load(silent=True).speedup(1) is None


def test_latencies_are_numpys_percentiles() -> None:
    level = level_of("plan", 2, 8, [0.01, 0.02, 0.03, 0.04], 3, 0.5)
    assert (level.requests, level.errors, level.requests_per_s, level.rows_per_s) == (4, 3, 8.0, 64.0)
    assert (level.mean_ms, level.p50_ms, level.p90_ms) == (pytest.approx(25), pytest.approx(25), pytest.approx(37))


@pytest.mark.parametrize(
    ("passed", "grade", "expected"),
    [(True, "fine", True), (True, "garbage", False), (True, "nonfinite", False), (False, "fine", False)],
)
def test_a_check_without_a_tolerance_still_refuses_garbage(passed: bool, grade: str, expected: bool) -> None:
    diff = SimpleNamespace(passed=passed, grade=grade)
    check = ServedCheck("server", "model", "gRPC", SimpleNamespace(), 1, diff)  # type: ignore[arg-type]
    assert check.passed is expected


CSV = """Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,Completed Requests,p50 latency,p90 latency,p95 latency,\
p99 latency,Avg latency
2,400,0,0,10,20,300,5,0,{count},1000,2000,3000,4000,1500
"""


def test_perf_analyzers_line_is_read_in_its_units() -> None:
    """400 rows a second in requests of 8 are 50 requests, so 100 requests took 2 s; its microseconds are our ms."""
    level = parse_result(CSV.format(count=100), "plan", 2, 8)
    assert (level.requests_per_s, level.rows_per_s, level.requests, level.seconds) == (50.0, 400.0, 100, 2.0)
    assert (level.mean_ms, level.p50_ms, level.p90_ms, level.p95_ms, level.p99_ms) == (1.5, 1.0, 2.0, 3.0, 4.0)
    assert level.server is not None
    assert (level.server.queue_ms, level.server.compute_ms) == (pytest.approx(0.01), pytest.approx(0.325))


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", CSV.format(count="many")])
def test_another_form_of_its_csv_is_refused(text: str) -> None:
    with pytest.raises(ServerError, match="of a form not known here"):
        parse_result(text, "plan", 2, 8)
