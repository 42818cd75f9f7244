"""What the validation builds on the GPU machine, and in which order."""

import json
from pathlib import Path
from typing import Any

import pytest

from evidence.tensorrt86.validation import remaining
from evidence.tensorrt86.validation.orchestrate import PATIENCE, Work


def work(tmp_path: Path, *jobs: dict[str, Any]) -> Work:
    cases = tmp_path / "cases"
    cases.mkdir()
    (cases / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    return Work(str(cases), str(tmp_path), str(tmp_path), 100)


def job(case: str, priority: int, **more: Any) -> dict[str, Any]:
    return {"id": f"{case}.fp16", "case": case, "kind": "fp16", "priority": priority, **more}


def test_no_job_overtakes_one_that_is_being_prepared_at_the_start(tmp_path: Path) -> None:
    todo = work(tmp_path, job("late", 1), job("first", 0))
    todo.prepared.add("late")
    assert todo.take() is None
    todo.start -= PATIENCE
    assert todo.take()["id"] == "late.fp16"
    assert todo.take() is None
    todo.prepared.add("first")
    assert todo.take()["id"] == "first.fp16"


@pytest.mark.parametrize(("more", "is_tried_again"), [({}, True), ({"limit": 9}, False), ({"level": 1}, False)])
def test_a_slow_engine_is_tried_at_level_1_unless_it_had_a_limit(
    tmp_path: Path, more: dict[str, Any], is_tried_again: bool
) -> None:
    todo = work(tmp_path)
    todo.record(job("m", 0, **more), {"id": "m.fp16", "error": "over its limit of 9 s"})
    assert [again["level"] for again in todo.pending] == [1] * is_tried_again


def test_the_remaining_jobs_are_distinct_engines() -> None:
    jobs = remaining.jobs()
    assert len({job["id"] for job in jobs}) == len(jobs)
    whole = [(job["case"], job["kind"], job["level"]) for job in jobs if "cut" not in job]
    assert len(set(whole)) == len(whole)
    assert {level for case, _, level in whole if case in remaining.NETWORKS} == {1}
    assert [level for case, kind, level in whole if (case, kind) == (remaining.SMALLEST, "fp16")] == [3, 1, 2, 0]
