"""What a fuzzing process counts and keeps: runs, places that broke, hangs, leaks."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import click

import precision_planner
from fuzz.running import run_model, run_text
from precision_planner.errors import PlannerError

HANG_S = 15
MEMORY_BYTES = 3 << 30
LEAK_BYTES = 256 << 20
"""More than caches and libFuzzer's own corpus take."""

LEAK_FILES = 20
SETTLED = 2_000
"""Runs after which caches are full, and growth is a leak."""


class Hang(BaseException):
    """A run took longer than `HANG_S` seconds of CPU time."""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang


def _held() -> tuple[int, int]:
    """(resident bytes, open files) of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), len(os.listdir("/proc/self/fd"))


class Recorder:
    """Counts runs and keeps, for each place where one broke, the smallest input.

    Args:
      kind: "model" or "text".
      out: where.
      guided: libFuzzer runs in this process, whose own corpus grows: memory says nothing then.
    """

    def __init__(self, kind: str, out: Path, *, guided: bool = False) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        signal.signal(signal.SIGPROF, _alarm)
        self.kind, self.out, self.started, self.guided = kind, out, time.process_time(), guided
        self.counts = {"runs": 0, "answered": 0, "refused": 0, "broken": 0}
        self.places: dict[str, dict[str, Any]] = {}
        self.settled: tuple[int, int] | None = None
        out.mkdir(parents=True, exist_ok=True)
        self.dump()

    def run(self, data: bytes) -> None:
        """One input, within its time; whatever it raises that is no refusal is kept."""
        self._count(data)
        at = [""]
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        try:
            run_model(data, at.append) if self.kind == "model" else run_text(data, at.append, self.out)
            self.counts["answered"] += 1
        except (PlannerError, click.ClickException):
            self.counts["refused"] += 1
        except BaseException as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            if isinstance(error, KeyboardInterrupt):
                raise
            if type(error).__name__ == "DecodeError":  # protobuf's: no model at all
                self.counts["refused"] += 1
            else:
                self._broken(error, data, at[-1])
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _count(self, data: bytes) -> None:
        """Count a run, and look now and then at what the process holds."""
        self.counts["runs"] += 1
        if self.counts["runs"] == SETTLED:
            self.settled = _held()
        if self.counts["runs"] % 50:
            return
        if self.settled is not None:
            grown = [now - then for now, then in zip(_held(), self.settled, strict=True)]
            if (grown[0] > LEAK_BYTES and not self.guided) or grown[1] > LEAK_FILES:
                self._keep("leak", data, "over many runs", f"{grown[0] >> 20} MB, {grown[1]} files more than before")
                self.settled = None
        self.dump()

    def _broken(self, error: BaseException, data: bytes, stage: str) -> None:
        """Keep an input by the last line of ours that its traceback names."""
        self.counts["broken"] += 1
        root = os.path.dirname(precision_planner.__file__)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(root)]
        last = frames[-1] if frames else None
        place = f"{os.path.relpath(last.filename, root)}:{last.lineno}" if last else stage
        self._keep(f"{type(error).__name__} at {place}", data, stage, str(error)[:300])

    def _keep(self, key: str, data: bytes, stage: str, message: str) -> None:
        known = self.places.setdefault(
            key, {"count": 0, "bytes": 1 << 40, "file": f"{self.kind}-{len(self.places):03d}", "stage": stage}
        )
        known["count"] += 1
        if len(data) < known["bytes"]:
            known |= {"bytes": len(data), "message": message}
            (self.out / known["file"]).write_bytes(data)
        self.dump()

    def dump(self) -> None:
        """Write what is known so far: libFuzzer ends the process when time is up."""
        held = dict(zip(("resident_bytes", "open_files"), _held(), strict=True))
        told = {**self.counts, "cpu_s": round(time.process_time() - self.started, 1), **held, "places": self.places}
        whole = self.out / f"{self.kind}.json"
        part = whole.with_suffix(".part")
        part.write_text(json.dumps(told, indent=1))
        part.replace(whole)  # whenever the process ends, the file is one
