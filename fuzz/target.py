"""One fuzzing process: `python -m fuzz.target model|text SECONDS OUT`.

model: a ModelProto, mutated as one, is loaded, given inputs, analyzed and rewritten twice; what becomes of a valid one
has to be valid. text: every reader of files. Whatever raises anything but a `PlannerError`, or takes over `HANG_S`
seconds or `MEMORY_BYTES`, is written to OUT, once a place, as small as it was met.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import atheris

with atheris.instrument_imports(include=["precision_planner"]):
    import precision_planner
    from precision_planner.analysis import analyze
    from precision_planner.cli.diff import own_metrics
    from precision_planner.cli.plan import parse_shapes
    from precision_planner.cli.report import read_report
    from precision_planner.errors import PlannerError
    from precision_planner.model import Model
    from precision_planner.model.arrays import read_npy, read_npz, read_polygraphy
    from precision_planner.model.inputs import load_inputs
    from precision_planner.plans.plan import PrecisionPlan
    from precision_planner.reporting.html import render_html
    from precision_planner.rewriting import rewrite
    from precision_planner.rules.language.schema import read_rule

import click
import onnx

from fuzz.corpus import KINDS, found_models, models, texts
from fuzz.mutation import mutate

HANG_S = 15
MEMORY_BYTES = 3 << 30
MOST_BYTES = 100_000


class Hang(BaseException):
    """A run took longer than `HANG_S` seconds."""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang


class Recorder:
    """Counts runs and keeps, for each place where one broke, the smallest input."""

    def __init__(self, kind: str, out: Path) -> None:
        self.kind, self.out, self.started = kind, out, time.process_time()
        self.counts = {"runs": 0, "answered": 0, "refused": 0, "broken": 0}
        self.places: dict[str, dict[str, Any]] = {}
        out.mkdir(parents=True, exist_ok=True)
        self.dump()

    def broken(self, error: BaseException, data: bytes, stage: str) -> None:
        """Keep an input by the last line of ours that its traceback names."""
        self.counts["broken"] += 1
        root = os.path.dirname(precision_planner.__file__)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(root)]
        last = frames[-1] if frames else None
        place = f"{os.path.relpath(last.filename, root)}:{last.lineno}" if last else stage
        key = f"{type(error).__name__} at {place}"
        known = self.places.setdefault(
            key, {"count": 0, "bytes": 1 << 40, "file": f"{self.kind}-{len(self.places):03d}", "stage": stage}
        )
        known["count"] += 1
        if len(data) < known["bytes"]:
            known |= {"bytes": len(data), "message": str(error)[:300]}
            (self.out / known["file"]).write_bytes(data)
        self.dump()

    def dump(self) -> None:
        """Write what is known so far: libFuzzer ends the process when time is up."""
        told = {**self.counts, "cpu_s": round(time.process_time() - self.started, 1), "places": self.places}
        (self.out / f"{self.kind}.json").write_text(json.dumps(told, indent=1))


def _valid(data: bytes) -> bool:
    try:
        onnx.checker.check_model(onnx.ModelProto.FromString(data), full_check=True)
    except Exception:  # onnx's errors share no base, and none is of interest
        return False
    return True


class InvalidResult(Exception):
    """A rewritten model is not valid, and what it was made of is."""


def run_model(data: bytes, stage: Callable[[str], None]) -> None:
    """Everything up to onnxruntime, of one model."""
    if len(data) > MOST_BYTES:
        return
    stage("load")
    model = Model.load(onnx.ModelProto.FromString(data))
    valid = _valid(data)
    stage("inputs")
    try:
        load_inputs(None, model).first()
    except (PlannerError, MemoryError):
        stage("inputs refused")  # that they cannot be made up says nothing of the rest
    stage("analyze")
    json.dumps(analyze(model).to_dict(), allow_nan=False)
    for precision, options in (("fp16", {}), ("bf16", {"io_types": "low", "int32_inputs": True})):
        stage(f"rewrite {precision}")
        made = rewrite(model, precision=precision, verify=False, **options).typed.to_bytes()
        if valid and not _valid(made):
            try:
                onnx.checker.check_model(onnx.ModelProto.FromString(made), full_check=True)
            except Exception as error:
                raise InvalidResult(f"{precision}: {error}") from None


def run_text(data: bytes, stage: Callable[[str], None], place: Path) -> None:
    """One reader; the first byte says which."""
    from precision_planner.emitting.migrate import read_recipe
    from precision_planner.emitting.migrate.script import read_script
    from precision_planner.engines.inspection import inspect_layers
    from precision_planner.engines.layers import read_layers

    kind, data = KINDS[data[0] % len(KINDS)] if data else "rule", data[1:]
    stage(kind)
    text = data.decode("utf-8", "replace")
    file = place / "input"
    if kind == "npz":
        file.write_bytes(data)
        (read_npy if data.startswith(b"\x93") else read_npz)(file)
    elif kind == "polygraphy":
        file.write_bytes(data)
        read_polygraphy(file)
    elif kind == "rule":
        read_rule(text, Path("x.yaml"))
    elif kind == "layers":
        json.dumps(inspect_layers(read_layers(text, "x")).to_dict())
    elif kind == "profile":
        read_layers('{"Layers": [{"Name": "a"}, {"Name": "b"}]}', "x", text)
    elif kind == "plan":
        PrecisionPlan.from_json(text).to_json()
    elif kind == "report":
        file.write_bytes(data)
        render_html(read_report(file))
    elif kind == "script":
        read_script(text, "x.py")
    elif kind == "recipe" and not Path(text[:99]).is_absolute():
        read_recipe(text)
    for parse in (lambda: parse_shapes(text[:99], "--x"), lambda: own_metrics((text[:99],))):
        try:
            parse()
        except (PlannerError, click.ClickException):
            continue


def main() -> None:
    """Fuzz until time is up; libFuzzer ends the process."""
    kind, seconds, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _alarm)
    recorder = Recorder(kind, out)
    seeds = models() if kind == "model" else []
    begin = out / f"{kind}-seeds"
    begin.mkdir(exist_ok=True)
    whole = [proto.SerializeToString() for proto in seeds] + list(found_models()) if kind == "model" else []
    if kind == "text":
        whole = [bytes([at]) + text for at, name in enumerate(KINDS) for text in texts(name)]
    for number, data in enumerate(whole):
        (begin / f"{number:04d}").write_bytes(data)

    def one(data: bytes) -> None:
        recorder.counts["runs"] += 1
        if recorder.counts["runs"] % 50 == 0:
            recorder.dump()
        at = [""]
        signal.alarm(HANG_S)
        try:
            run_model(data, at.append) if kind == "model" else run_text(data, at.append, out)
            recorder.counts["answered"] += 1
        except (PlannerError, click.ClickException):
            recorder.counts["refused"] += 1
        except BaseException as error:
            if type(error).__name__ == "DecodeError":  # protobuf's: no model at all
                recorder.counts["refused"] += 1
            else:
                signal.alarm(0)
                recorder.broken(error, data, at[-1])
        finally:
            signal.alarm(0)

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        try:
            model = onnx.ModelProto.FromString(data)
            if not data or rng.random() < 0.05:
                model.CopyFrom(rng.choice(seeds))
        except Exception:  # protobuf's DecodeError, whose class differs between its implementations
            model = onnx.ModelProto()
            model.CopyFrom(rng.choice(seeds))
        if rng.random() < 0.05:
            return bytes(atheris.Mutate(data or b"\0", most))
        mutate(model, rng, seeds)
        made = model.SerializeToString()
        return made if len(made) <= most else data

    arguments = ["fuzz", str(begin), f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-timeout=120"]
    arguments += ["-print_final_stats=0", "-verbosity=0", "-rss_limit_mb=0"]
    if kind == "model":
        atheris.Setup(arguments, one, custom_mutator=mutated)
    else:
        atheris.Setup(arguments, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
