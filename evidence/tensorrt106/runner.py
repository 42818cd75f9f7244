"""The cases in their order, and what one process does with its share."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from evidence.tensorrt106 import attention, islands, operators, products, tf32, weight_warnings
from evidence.tensorrt106.harness import Case, Machine, perform


def all_cases() -> Iterator[Case]:
    """Every case, the ones that matter most first."""
    yield from islands.cases()
    yield from islands.weak_cases()
    yield from products.spellings()
    yield from attention.cases()
    yield from products.weak()
    yield from operators.cases()
    yield from tf32.cases()
    yield from weight_warnings.cases()


def work(number: int, names: list[tuple[str, str]], out: Path, deadline: float) -> None:
    """One process: its Builder, its cases, its file of records."""
    machine = Machine()
    chosen = {(c.section, c.name): c for c in all_cases() if (c.section, c.name) in set(names)}
    with open(out / f"part.{number}.jsonl", "w") as file:
        for name in names:
            late = time.time() > deadline
            record = (
                {"section": name[0], "case": name[1], "failure": "no time"}
                if late
                else perform(machine, chosen[name], out)
            )
            file.write(json.dumps(record) + "\n")
            file.flush()
