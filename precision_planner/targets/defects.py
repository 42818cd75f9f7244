"""What builders are known to do wrong, as data: `precision_planner.analysis.defects` finds it in a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Release = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Defect:
    """One builder defect that is not a question of precision.

    Attributes:
      key: what reports call it.
      title: in a few words.
      runtimes: whose builder has it.
      since: the first release known to have it; () where nobody looked.
      until: the first release known not to have it; () while there is none.
      platforms: compute capabilities ('sm_120'), 'jetson' or 'dla'; () for any.
      typing: only in builds so typed; '' for both.
      operators: operators in whose presence it was seen, each in the order of the data flow: a node of the first, read
        (through what only moves values) by one of the second, and so on. One name is one node.
      precision: of the first operator, where that matters: 'fp16', 'bf16', 'fp32', 'int8'; '' for any.
      dynamic: only in models with dynamic shapes.
      symptom: what comes out.
      breaker: what breaks the spell: a change to the model or the build that was seen to help.
      reference: a URL.
    """

    key: str
    title: str
    operators: tuple[str, ...]
    symptom: str
    breaker: str
    reference: str
    runtimes: tuple[str, ...] = ("tensorrt", "tensorrt_rtx")
    since: Release = ()
    until: Release = ()
    platforms: tuple[str, ...] = ()
    typing: Literal["", "strong", "weak"] = ""
    precision: Literal["", "fp16", "bf16", "fp32", "int8"] = ""
    dynamic: bool = False

    def concerns(self, runtime: str, release: Release) -> bool:
        """Whether a build by this runtime and release may have it: unknown ends count as having it."""
        if runtime not in self.runtimes:
            return False
        return (not self.since or release >= self.since) and (not self.until or release < self.until)
