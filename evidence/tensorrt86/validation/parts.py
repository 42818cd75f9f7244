"""Build parts of SegFormer's head: how small is the graph that TensorRT 8.6 gets wrong, and at which builder levels?

    python -m evidence.tensorrt86.validation.parts CASES OUT

Takes segformer-128 from the case folders CASES and writes OUT.tar.gz for run_head.sh. `misread.py` says what the
engines of whole SegFormers have in common: the head takes the channel-major outputs of stages that a convolution reads
too for row-major planes. Parts with that convolution, and without it, at several levels, can say when.
"""

from __future__ import annotations

import json
import math
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evidence.tensorrt86.validation.table import USED

CASE = "segformer-128"
STAGE, HEAD = "/m/segformer/stages.", "/m/decode_head/"
STAGES = tuple(f"{STAGE}{n}/blocks.1/Add_1_output_0" for n in range(4))
NORMS = tuple(f"{STAGE}{n}/layer_norm/Add_1_output_0" for n in range(4))
PATCHES = tuple(f"{STAGE}{n + 1}/patch_embeddings/proj/Conv_output_0" for n in range(3))
"""What the next stage makes of the output of a stage: the convolution that reads it beside the head."""
TOKENS = tuple(f"{HEAD}linear_projections.{n}/Transpose_output_0" for n in range(4))
PRODUCTS = tuple(f"{HEAD}linear_projections.{n}/proj/MatMul_output_0" for n in range(4))
PLANES = tuple(f"{HEAD}Reshape{n}_output_0" for n in ("", "_1", "_2", "_3"))
RESIZED = tuple(f"{HEAD}Resize{n}_output_0" for n in ("", "_1", "_2", "_3"))
CONCAT, FUSED = (f"{HEAD}{n}_output_0" for n in ("Concat_4", "linear_fuse/Conv"))


def jobs() -> list[dict[str, Any]]:
    """The engines, the most telling first: what is cut where, in which precision, at which builder level."""
    found: list[dict[str, Any]] = []

    def add(
        name: str,
        cut: str,
        begin: tuple[str, ...],
        kind: str = "fp16",
        level: int = 0,
        also: tuple[str, ...] = (),
        keep: str = "",
    ) -> None:
        job = {"id": f"{CASE}.{name}-{kind}-L{level}", "case": CASE, "kind": kind, "level": level, "cut": cut}
        job.update(begin=list(begin), also=list(also), priority=len(found))
        found.append({**job, "keep": keep} if keep else job)

    def both(kind: str = "fp16", level: int = 0) -> None:
        """From the outputs of the stages to the result, and the convolutions that read them."""
        add("head-and-patches", "y", STAGES, kind, level, PATCHES)

    def stage(n: int, kind: str = "fp16", level: int = 0, name: str = "", keep: str = "") -> None:
        """One stage: its normalization, its projection in the head, and the convolution."""
        add(f"stage-{n}-and-patches{name}", PLANES[n], STAGES[n : n + 1], kind, level, PATCHES[n : n + 1], keep)

    both()
    stage(2)
    both(level=3)
    stage(2, level=3)
    both("half", 3)
    add("head", "y", STAGES)
    add("tokens-2-and-patches", TOKENS[2], NORMS[2:3], also=PATCHES[2:])
    add("product-2-and-patches", PRODUCTS[2], NORMS[2:3], also=PATCHES[2:])
    stage(2, level=2)
    add("head", "y", STAGES, level=3)
    # the second engines of the builders
    stage(2, "half")
    stage(2, "half", 3)
    stage(2, level=1)
    stage(2, "fp32")
    both("fp32")
    add("stage-2", PLANES[2], STAGES[2:3])
    stage(0)
    stage(1)
    stage(2, name="-conv-fp32", keep=f"{STAGE}3/patch_embeddings/proj/Conv")
    stage(2, name="-product-fp32", keep=f"{HEAD}linear_projections.2/proj/MatMul")
    stage(2, name="-transpose-fp32", keep=f"{STAGE}2/.*Transpose.*")
    both(level=1)
    both(level=2)
    add("product-2-and-patches", PRODUCTS[2], NORMS[2:3], level=3, also=PATCHES[2:])
    add("tokens-2-and-patches", TOKENS[2], NORMS[2:3], "half", also=PATCHES[2:])
    stage(0, level=3)
    stage(1, level=3)
    stage(0, "half", 3)
    stage(1, "half", 3)
    stage(2, level=4)
    stage(2, level=5)
    add("planes-to-concat", CONCAT, PLANES, "half")
    add("planes-to-fuse", FUSED, PLANES)
    add("resize-3", RESIZED[3], PLANES[3:], "half")
    both(level=4)
    both("half")
    stage(2, "fp32", 3)
    both("fp32", 3)
    return found


def part_of(result: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(name, what is kept of an engine of a part of a graph): what it was, and its error."""
    job = result["job"]
    kept = {key: job[key] for key in ("kind", "level", "cut", "also", "begin", "depth", "keep") if key in job}
    errors = {name: o["rel_l2"] for name, o in result.get("outputs", {}).items()}
    return result["id"], kept | ({"rel_l2": errors} if errors else {"error": result.get("error", "")[:200]})


def parts_table(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Markdown: the engines of parts of a graph that were built, by error."""
    lines = ["| engine of a part | ends at | precision | level | relative error |", "|---|---|---|---|---|"]
    for name, part in sorted(built(parts).items(), key=lambda item: _error(item[1])):
        kind = part["kind"] + (f", {part['keep']} in FP32" if "keep" in part else "")
        lines.append(f"| {name} | {part['cut']} | {kind} | {part['level']} | {_error(part):.2g} |")
    lost = sorted(name for name, part in parts.items() if "rel_l2" not in part)
    return [*lines, "", f"Not built: {', '.join(lost) or 'none'}."]


def parts_line(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """What they come to."""
    errors = {name: _error(part) for name, part in built(parts).items() if part["kind"] != "fp32"}
    worst = max(errors, key=lambda name: errors[name])
    rounded = sum(error > USED for error in errors.values())
    return (
        f"Engines of parts of SegFormer's graph, with FP16 allowed: {len(errors)} built, {rounded} of them with an "
        f"error that shows FP16, the largest {errors[worst]:.2g} ({worst})."
    )


def built(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {name: part for name, part in parts.items() if "rel_l2" in part}


def _error(part: Mapping[str, Any]) -> float:
    """Of the value that the part is about; infinite where it is not finite."""
    error = part["rel_l2"][part["cut"]]
    return math.inf if error is None else float(error)


def main(cases: str, out: str) -> None:
    """Pack the case and its jobs."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs()))
    with tarfile.open(f"{folder}.tar.gz", "w:gz") as archive:
        archive.add(folder / "jobs.jsonl", "jobs.jsonl")
        archive.add(Path(cases) / CASE, CASE)


if __name__ == "__main__":
    main(*sys.argv[1:])
