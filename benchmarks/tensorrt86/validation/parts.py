"""Make the cases of the diagnosis of SegFormer's head: where, behind the four stages, do FP16 engines go wrong?

    python -m benchmarks.tensorrt86.validation.parts CASES OUT

Takes segformer-128 from the case folders CASES and writes OUT.tar.gz for run_head.sh. The jobs are parts of its graph:
from the outputs of the four stages to successive values of the head, then ever smaller parts around the suspects.
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

CASE = "segformer-128"
HEAD = "/m/decode_head/"
STAGES = tuple(f"/m/segformer/stages.{n}/blocks.1/Add_1_output_0" for n in range(4))
NORMS = tuple(f"/m/segformer/stages.{n}/layer_norm/Add_1_output_0" for n in range(4))
PLANES = tuple(f"{HEAD}Reshape{n}_output_0" for n in ("", "_1", "_2", "_3"))
RESIZED = tuple(f"{HEAD}Resize{n}_output_0" for n in ("", "_1", "_2", "_3"))
CONCAT, FUSED, RELU = (f"{HEAD}{n}_output_0" for n in ("Concat_4", "linear_fuse/Conv", "activation/Relu"))
LAST_BLOCK = "/m/segformer/stages.3/blocks.1/Add_output_0"


def jobs() -> list[dict[str, Any]]:
    """The engines, the most telling first: what is cut where, in which precision, at which builder level."""
    found: list[dict[str, Any]] = []

    def add(name: str, cut: str, begin: tuple[str, ...], kind: str = "fp16", level: int = 0, keep: str = "") -> None:
        job = {"id": f"{CASE}.head.{name}-{kind}-L{level}", "case": CASE, "kind": kind, "level": level, "cut": cut}
        job.update(begin=list(begin), priority=len(found))
        found.append({**job, "keep": keep} if keep else job)

    add("all", "y", STAGES)
    add("to-concat", CONCAT, STAGES)
    add("to-resize-3", RESIZED[3], STAGES)
    add("all", "y", STAGES, level=3)
    add("resized-concat-fuse", FUSED, RESIZED)
    add("planes-to-fuse", FUSED, PLANES)
    add("to-plane-3", PLANES[3], STAGES)
    add("only-resize-3", RESIZED[3], PLANES[3:], "half")
    add("only-fuse", FUSED, (CONCAT,), "half")
    add("to-fuse", FUSED, STAGES)
    # the second engines of the builders
    add("planes-to-concat", CONCAT, PLANES, "half")
    add("all", "y", STAGES, "half")
    add("only-concat", CONCAT, RESIZED, "half")
    add("norms-to-plane-0", PLANES[0], NORMS[:1])
    add("to-norm-3", NORMS[3], STAGES)
    add("from-concat", "y", (CONCAT,), "half")
    add("resize-3-fp32", FUSED, PLANES, keep=r".*/Resize(_\d)?")
    add("fuse-fp32", FUSED, PLANES, keep=r".*/linear_fuse/Conv")
    add("concat-fp32", FUSED, PLANES, keep=r".*/Concat_4")
    add("planes-to-relu", RELU, PLANES)
    add("to-plane-0", PLANES[0], STAGES)
    add("to-resize-1", RESIZED[1], STAGES)
    add("to-resize-2", RESIZED[2], STAGES)
    add("only-resize-1", RESIZED[1], PLANES[1:2], "half")
    add("only-resize-2", RESIZED[2], PLANES[2:3], "half")
    add("only-classifier", "y", (RELU,), "half")
    add("only-resize-3", RESIZED[3], PLANES[3:])
    add("planes-to-fuse", FUSED, PLANES, "fp32")
    add("to-relu", RELU, STAGES)
    add("all", "y", STAGES, "fp32")
    add("planes-to-concat", CONCAT, PLANES, "half", 3)
    add("only-resize-3", RESIZED[3], PLANES[3:], "half", 3)
    add("only-concat", CONCAT, RESIZED, "half", 3)
    add("all", "y", STAGES, "half", 3)
    add("to-concat", CONCAT, STAGES, level=3)
    add("only-fuse", FUSED, (CONCAT,), "half", 3)
    add("planes-to-fuse", FUSED, PLANES, level=3)
    add("last-block", "y", (*STAGES[:3], LAST_BLOCK))
    for n in (1, 2):
        add(f"to-plane-{n}", PLANES[n], STAGES)
    for n in range(3):
        add(f"to-norm-{n}", NORMS[n], STAGES)
    add("only-resize-3", RESIZED[3], PLANES[3:], "fp32", 3)
    add("only-fuse", FUSED, (CONCAT,), "fp32")
    add("to-fuse", FUSED, STAGES, level=3)
    return found


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
