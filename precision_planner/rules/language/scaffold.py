"""A first rule to change: valid as it is, with all three kinds of case."""

from __future__ import annotations

import re
from pathlib import Path

from precision_planner.errors import OutputError, RuleError

__all__ = ["write_rule"]

_TEMPLATE = """\
id: {rule_id}
title: Keep an exponential in FP32 where it overflows
why: >
  Say in two to four sentences what goes wrong in 16 bits, from which value on, and why the action mends it.
references:
  - https://example.org/where-it-was-seen
severity: warning
tags: [mine]
match: {{op: Exp}}
when: {{fact: output.amax, above: max_finite}}
evidence: [inputs.amax]
message: Exp {{subject}} reaches {{output.amax}}
action: {{keep_fp32: {{nodes: [subject, consumers], as: island}}}}

cases:
  - name: exp(12) is past 65504
    kind: fires
    model: |
      <ir_version: 8, opset_import: ["" : 17]>
      case (float[3] x) => (float[3] y) <float small = {{0.001}}> {{
        [exp] e = Exp(x)
        [scale] y = Mul(e, small)
      }}
    inputs: {{x: [12, 1, 0]}}
    expect: {{severity: warning, action: keep_fp32, nodes: [exp, scale]}}
    symptom: {{nonfinite: true}}
    cure: {{error_below: 0.002}}
  - name: exp(11) fits
    kind: near_miss
    model: |
      <ir_version: 8, opset_import: ["" : 17]>
      case (float[3] x) => (float[3] y) {{ y = Exp(x) }}
    inputs: {{x: [11, 1, 0]}}
    expect: {{fires: false}}
  - name: without data nobody knows
    kind: extreme
    model: |
      <ir_version: 8, opset_import: ["" : 17]>
      case (float[3] x) => (float[3] y) {{ y = Exp(x) }}
    expect: {{fires: unknown}}
"""


def write_rule(rule_id: str, folder: Path) -> Path:
    """Write a first rule into a folder, which is made if it is missing.

    Args:
      rule_id: two to four capitals and three digits.
      folder: where to.

    Returns:
      The new file.

    Raises:
      RuleError: the id is not one, or is one of ours.
      OutputError: the file is there already, or cannot be written.
    """
    from precision_planner.rules.language.loader import load_rulebook

    if not re.fullmatch(r"[A-Z]{2,4}[0-9]{3}", rule_id):
        raise RuleError(f"{rule_id!r} is no rule id; take two to four capitals and three digits, as in XX001")
    if rule_id in load_rulebook():
        raise RuleError(f"{rule_id} is one of the planner's own rules; choose another id, as in XX001")
    path = folder / f"{rule_id}.yaml"
    if path.exists():
        raise OutputError(f"{path} is there already; choose another id or folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(_TEMPLATE.format(rule_id=rule_id), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    return path
