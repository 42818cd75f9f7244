"""Which engines are built of a case, and in which order."""

from __future__ import annotations

from typing import Any

ORDER = (
    "vit", "gpt2-overflow", "llama-outliers", "t5", "gpt2", "llama", "whisper", "deit-dynamo", "swin",
    "vit-tiny-linears", "qwen3-dynamo", "deberta", "resnet-pixels", "unet", "style-written", "convnext", "sam",
    "poolformer", "segformer-224", "segformer-fused", "mobilevit", "style", "resnet", "segformer-128",
)  # fmt: skip
"""The most telling first; then those that are not named."""
LEVELS = {
    name: 1
    for name in (
        "resnet", "resnet-pixels", "unet", "style", "style-written", "convnext", "convnext-dynamo", "poolformer",
        "mobilevit", "mobilevit-128", "sam",
    )
}  # fmt: skip
"""Builder optimization level where it is not TensorRT's 3: networks of convolutions, each of which has hundreds of
kernels to time. Level 1 times the few that TensorRT's heuristic puts first."""
SEARCHES = (("segformer", 0), ("segformer-128", 3), ("segformer-small", 3), ("segformer-128", 0))
"""Decomposed SegFormers, and the level: the first value that is wrong is searched for where the whole is wrong."""


def jobs_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    """The engines of a case: plain FP32, --fp16, everything forced to half; whole SegFormers at other levels.

    A job: id, case, kind (fp32, fp16, half), priority (small first), level (builder optimization level, TensorRT's
    default where missing). `search.py` adds jobs with cut (the value where the graph ends), depth (computing nodes
    before it) and keep (regular expression of layers that are FP32 by obey).
    """
    name = case["case"]
    place = ORDER.index(name) if name in ORDER else len(ORDER)
    level = {"level": LEVELS[name]} if name in LEVELS else {}
    jobs = [
        {"id": f"{name}.{kind}", "case": name, "kind": kind, "priority": priority, **level}
        for kind, priority in (("fp16", 10 + place), ("half", 10 + place), ("fp32", 60 + place))
    ]
    for searched, at in SEARCHES:
        if searched == name and at != 3:
            jobs += [
                {"id": f"{name}.{kind}-level-{at}", "case": name, "kind": kind, "level": at, "priority": 1}
                for kind in ("fp16", "fp32", "half")
            ]
        elif searched == name:
            jobs[0]["priority"] = 2
    if name == "segformer-fused":
        jobs.append({"id": f"{name}.fp16-level-0", "case": name, "kind": "fp16", "level": 0, "priority": 1})
    return jobs


def searches_of(cases: set[str]) -> list[dict[str, Any]]:
    """The searches among some cases: the case, the level, the job that builds the whole."""
    return [
        {"case": name, "level": level, "full": f"{name}.fp16" + ("" if level == 3 else f"-level-{level}")}
        for name, level in SEARCHES
        if name in cases
    ]
