"""What builders are known to do wrong, as data: `precision_planner.analysis.defects` finds it in a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from precision_planner.targets.target import Target

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
      low: only where the first operator is in 16 bits.
      inputs_over: only where the first operator has a named input beyond this many.
      look_alike: instead of `operators`: a pattern's kind, and how the reasons begin for which something is none (what
        it lacks is what the runtime overlooks).
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
    low: bool = False
    inputs_over: int | None = None
    look_alike: tuple[str, tuple[str, ...]] | None = None

    def is_about(self, target: Target) -> bool:
        """Whether a build for a target may have it: unknown ends of its versions, and of a GPU, count as having it.

        A target stands for every minor version of its release, so TensorRT 10 has what any 10.x has.
        """
        if target.runtime not in self.runtimes or (self.typing and self.typing != target.typing):
            return False
        if self.platforms and target.platform not in ("any", *self.platforms):
            return False
        major = target.release
        return (not self.since or major >= self.since[: len(major)]) and (not self.until or major < self.until)
