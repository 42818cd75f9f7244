"""Which engines are built of a case, and in which order."""

from __future__ import annotations

from typing import Any

STEPS = {
    "pow": r".*/Pow",
    "mean": r".*/ReduceMean",
    "variance": r".*/ReduceMean_1",
    "sub": r".*norm.*/Sub",
    "eps": r".*norm.*/Add",
    "sqrt": r".*/Sqrt",
    "div": r".*norm.*/Div",
    "affine": r".*norm.*/(Mul|Add_1)",
    "statistics": r".*norm.*/(Pow|ReduceMean_1|Add|Sqrt)",
    "norms": r".*norm.*/(ReduceMean|Sub|Pow|ReduceMean_1|Add|Sqrt|Div|Mul|Add_1)",
    "patch-norms": r".*patch_embeddings.*norm.*/.*",
    "reduction-norms": r".*attention.*norm.*/.*",
    "stage-norms": r".*stages\.\d+/layer_norm/.*",
    "block-norms": r".*blocks.*/layernorm_.*",
    "head": r".*decode_head.*",
    "convolutions": r".*/Conv",
    "products": r".*/MatMul(_\d+)?",
    "softmax": r".*/Softmax",
    "gelu": r".*activation_fn.*",
    "residuals": r".*blocks\.\d+/Add(_1)?",
    "all-but-norms": r"(?!.*norm).*",
}
"""Parts of a decomposed SegFormer that are kept in FP32, one part an engine: regular expressions on layer names."""


SLOW = ("massive", "ffn", "segformer", "segformer-small")
"""Begun first: their builds are long, or others wait for what they show."""


def jobs_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    """The engines of a case: plain FP32, --fp16, everything forced to half; the diagnosis of a SegFormer.

    A job: id, case, kind (fp32, fp16, half), priority (small first), mark (values made outputs), keep (regular
    expression of layers that are FP32 by obey), level (builder optimization level), when (the job whose relative error
    must be above 0.01), first_bad (mark the steps of the first bad norm that job `first_bad` found).
    """
    name = case["case"]
    first = 0 if name in SLOW else 2
    jobs = [
        {"id": f"{name}.{kind}", "case": name, "kind": kind, "priority": priority}
        for kind, priority in (("fp16", first), ("half", first), ("fp32", 3))
    ]
    norms = case.get("norms", [])
    if not norms:
        return jobs

    def add(suffix: str, priority: int, **more: Any) -> None:
        jobs.append({"id": f"{name}.{suffix}", "case": name, "kind": "fp16", "priority": priority, **more})

    outs = [steps["Add_1"] for steps in norms]
    always: dict[str, Any] = {} if name == "segformer" else {"when": f"{name}.fp16"}
    when = {"when": f"{name}.fp16"}
    add("marked", 1, mark=outs, **always)
    add("marked-half", 6, mark=outs, kind="half", **when)
    add("keep-norms", 1, keep=STEPS["norms"], **always)
    add("level-0", 1, level=0, **always)
    add("first-bad", 1, first_bad=f"{name}.marked", **when)
    for number in (0, 1, len(norms) // 4, len(norms) // 2, len(norms) - 1):
        add(f"mark-{number}", 5, mark=[outs[number]], **when)
    add("steps-0", 1, mark=list(norms[0].values()), **when)
    for part, pattern in STEPS.items():
        if part != "norms":
            add(f"keep-{part}", 4, keep=pattern, **when)
    return jobs
