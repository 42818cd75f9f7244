"""Pack the engines that the first runs did not come to: SegFormers at levels 1 to 3, networks of convolutions.

    python -m evidence.tensorrt86.validation.remaining CASES OUT

Takes the case folders CASES, made by `cases.py` before, and writes OUT.tar.gz for run_validation.sh. At level 3 the
builder was too slow for a whole SegFormer: `segformer-two-stages-64` is the smallest whose head reads what a
convolution reads too, and the parts of `parts.py` are smaller still.
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

from evidence.tensorrt86.validation import parts
from evidence.tensorrt86.validation.jobs import LEVELS

SMALLEST, SHALLOW = "segformer-two-stages-64", "segformer-shallow-128"
NETWORKS = ("resnet", "unet", "poolformer", "mobilevit-128", "convnext")
HARD = ("resnet-pixels", "vit-tiny-linears")
"""Predicted to be degraded or not finite."""
OTHERS = ("gpt2", "llama", "deit-dynamo", "whisper", "swin", "style-written", "qwen3-dynamo")
SECONDS = {SMALLEST: 150, SHALLOW: 220}
"""A job's limit, where it is not 90."""


def jobs() -> list[dict[str, Any]]:
    """The engines, the most telling first; those of convolutional networks are built at level 1."""
    small = {job["id"].removeprefix(f"{parts.CASE}."): job for job in parts.jobs()}
    both, stage = "head-and-patches", "stage-2-and-patches"
    return [
        # the first engines of the builders, which take half a minute more
        job(SMALLEST, "fp16"),
        job(SHALLOW, "fp16"),
        job(SMALLEST, "half"),
        small[f"{both}-fp16-L3"],
        *(job(name, "fp16") for name in NETWORKS[:3]),
        # the second ones
        job(SMALLEST, "fp32"),
        *(job(name, "fp16") for name in (*NETWORKS[3:], HARD[0])),
        small[f"{stage}-fp16-L3"],
        job(SMALLEST, "fp16", 1),
        job(SMALLEST, "fp16", 2),
        *(job(name, "half") for name in NETWORKS),
        job(SMALLEST, "fp16", 0),
        small[f"{both}-fp16-L0"],
        job(SHALLOW, "half"),
        job(SHALLOW, "fp16", 1),
        *(job(name, "fp16") for name in (HARD[1], *OTHERS[:4])),
        job(SHALLOW, "fp16", 2),
        small[f"{both}-half-L3"],
        small[f"{stage}-fp16-L0"],
        job(f"{SHALLOW}-fused", "fp16"),
        *(job(name, "fp32") for name in NETWORKS),
        *(job(name, "half") for name in OTHERS[:4]),
        small[f"{stage}-fp16-L2"],
        small[f"{stage}-fp16-L1"],
        job(SHALLOW, "fp32"),
        *(job(name, "half") for name in (*HARD, "t5", "deberta")),
        *(job(name, "fp16") for name in (*OTHERS[4:], "llama-outliers")),
        *(job(name, "fp32") for name in HARD),
    ]


def job(name: str, kind: str, level: int | None = None) -> dict[str, Any]:
    """An engine of a whole model, at the level it is validated at unless another one is asked for."""
    at = LEVELS.get(name, 3) if level is None else level
    ending = "" if level is None else f"-level-{level}"
    return {"id": f"{name}.{kind}{ending}", "case": name, "kind": kind, "level": at, "limit": SECONDS.get(name, 90)}


def main(cases: str, out: str) -> None:
    """Pack the cases and their jobs; it is an error where a case is missing."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    ordered = [{**found, "priority": place} for place, found in enumerate(jobs())]
    (folder / "jobs.jsonl").write_text("".join(json.dumps(found) + "\n" for found in ordered))
    with tarfile.open(f"{folder}.tar.gz", "w:gz") as archive:
        archive.add(folder / "jobs.jsonl", "jobs.jsonl")
        for name in dict.fromkeys(found["case"] for found in ordered):
            archive.add(Path(cases) / name, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
