"""A diff as JUnit XML: a case for each output and tolerance, so that a CI server lists what failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from precision_planner.reporting.numbers import number
from precision_planner.reporting.text import visible_data


def render_junit(data: Mapping[str, Any]) -> str:
    """A diff as JUnit XML.

    Without a tolerance there is one case an output, which fails where the output is not finite although the
    reference is.

    Args:
      data: the diff's JSON.
    """
    data = visible_data(data)
    suite = ElementTree.Element("testsuite", name="planner diff")
    failures = {(found["output"], found["metric"]): found for found in data.get("failures", ())}
    count = failed = 0
    for name, output in data["outputs"].items():
        for metric in _metrics(name, data.get("tolerances", ())):
            case = ElementTree.SubElement(suite, "testcase", classname=f"diff.{name}", name=metric or "finite")
            count += 1
            found = failures.get((name, metric))
            new = int(output.get("new_nonfinite", output["nonfinite"] - output.get("nonfinite_reference", 0)))
            lost = not metric and new > 0
            if found is None and not lost:
                continue
            failed += 1
            message = (
                f"{new} elements are NaN or infinite, the reference's are not"
                if found is None
                else f"{metric} {number(found['value'])}, bound {number(found['bound'])}"
            )
            ElementTree.SubElement(case, "failure", message=message).text = str(data["verdict"])
    suite.set("tests", str(count))
    suite.set("failures", str(failed))
    suite.set("errors", "0")
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _metrics(output: str, tolerances: Any) -> list[str]:
    """The metrics bounded for an output; [""] where none is."""
    found: list[str] = []
    for text in tolerances:
        left = str(text).rpartition("=")[0]
        name, colon, metric = left.rpartition(":")
        if (not colon or name == output) and metric not in found:
            found.append(metric)
    return found or [""]
