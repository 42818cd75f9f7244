"""The first line of a page: what it comes to, and the color that says so. The terminal says the same."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from precision_planner.reporting.text import nothing_found

__all__ = [
    "Headline",
    "analysis_headline",
    "measured_told",
    "next_command",
    "plan_headline",
    "severities_told",
    "unseen_told",
]

UNSEEN = 3
"""Bodies that are named in which nothing was measured; the others are counted."""


@dataclass(frozen=True, slots=True)
class Headline:
    """A verdict as a page shows it.

    Attributes:
      style: "passed", "warning" or "error": green, amber, red.
      word: the verdict in a word or two.
      sentence: what it rests on.
    """

    style: str
    word: str
    sentence: str


def analysis_headline(data: Mapping[str, Any]) -> Headline:
    """What will happen to an analyzed model in the low precision, as far as the analysis can know."""
    name = str(data.get("precision") or "16 bits").upper()
    counts = Counter(str(finding["severity"]) for finding in data["findings"])
    told = severities_told(counts)
    first = next((f for severity in ("error", "warning") for f in data["findings"] if f["severity"] == severity), None)
    if counts["error"] and first is not None:
        return Headline("error", f"breaks in {name}", f"{told}; first: {first['message']}")
    if first is not None:
        return Headline("warning", f"at risk in {name}", f"{told}; first: {first['message']}")
    said = (told and f"{told}: noise") or nothing_found(data)
    inputs = data.get("inputs")
    if inputs and not inputs.get("synthesized"):
        return Headline("passed", f"nothing breaks in {name}", said)
    return Headline("warning", f"nothing seen in {name}", f"{said}; {measured_told(data)}")


def severities_told(counts: Mapping[str, int]) -> str:
    """Findings by severity: "6 errors, 1 warning, 13 notes"; "" for none."""
    words = {"error": "error", "warning": "warning", "info": "note"}
    return ", ".join(
        f"{counts[severity]} {word}{'s' if counts[severity] != 1 else ''}"
        for severity, word in words.items()
        if counts.get(severity)
    )


def next_command(data: Mapping[str, Any]) -> str:
    """The command that makes sense after an analysis: a plan where something breaks, else the rewrite itself."""
    path = str(data["model"].get("path") or "model.onnx")
    inputs = data.get("inputs") or {}
    given = bool(inputs) and not inputs.get("synthesized")
    source = str(inputs["source"]) if given and not str(inputs["source"]).startswith("the ") else "INPUTS"
    precision = "" if data.get("precision", "fp16") == "fp16" else f" --precision {data['precision']}"
    if any(finding["severity"] in ("error", "warning") for finding in data["findings"]):
        folder = path.removesuffix(".onnx") + ".plan"
        target = f" --target {data['target']}" if data.get("target") else ""
        return f"planner plan {_word(path)} -o {_word(folder)} --inputs {_word(source)}{precision}{target}"
    return f"planner rewrite {_word(path)} --inputs {_word(source)}{precision}"


def _word(text: str) -> str:
    return shlex.quote(text) if text != "INPUTS" else text


def measured_told(data: Mapping[str, Any]) -> str:
    """Whether activations were measured, and on what."""
    inputs = data.get("inputs")
    if not inputs:
        waiting = sum(1 for entry in data.get("undecided", ()) if entry.get("needs_data"))
        open_questions = f", so {waiting} questions of rules are open" if waiting else ""
        return f"no activation was measured{open_questions}: give --inputs"
    told = f"activations measured on {inputs['source']}"
    if inputs.get("synthesized"):
        told += ": low confidence; give --inputs"
    unseen = unseen_told(inputs)
    return f"{told}; {unseen}" if unseen else told


def unseen_told(inputs: Mapping[str, Any]) -> str:
    """Which bodies (branches of If, Loop, Scan) were not measured, and why; '' where all were."""
    unseen: Mapping[str, str] = inputs.get("unseen_bodies") or {}
    return "; ".join(f"{body}: {why}" for body, why in list(unseen.items())[:UNSEEN]) + (
        f"; and {len(unseen) - UNSEEN} more bodies" if len(unseen) > UNSEEN else ""
    )


def plan_headline(data: Mapping[str, Any]) -> Headline:
    """What a plan's prediction comes to: its verdict, and whether it keeps the tolerance."""
    verdict = data.get("verdict") or {}
    grade = str(verdict.get("grade") or "NOT JUDGED")
    style = {"FINE": "passed", "GARBAGE": "error", "NONFINITE": "error"}.get(grade, "warning")
    parts = [str(verdict["sentence"])] if verdict.get("sentence") else []
    if verdict.get("first_wrong"):
        parts.append(f"first wrong at {verdict['first_wrong']}")
    if verdict.get("judged_on"):
        parts.append(f"judged on {verdict['judged_on']}")
    if data.get("passed") is False:
        style = "error"
        if not any("beyond tolerance" in part for part in parts):
            parts.append("beyond tolerance")
    return Headline(style, grade, "; ".join(parts))
