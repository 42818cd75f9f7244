"""What a parser makes of an operator that it has no layer for, and of which steps the result is held in half."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Form = Literal[
    "squares_root",
    "squares",
    "sum_log",
    "exp_sum_log",
    "lp_normalization",
    "powers_root",
    "softmax_log",
    "running_sum",
]
"""How it is written out; `precision_planner.simulation.lowering` has the arithmetic of each:

- ``squares_root``: x * x, their sum, its root (ReduceL2)
- ``squares``: x * x, their sum (ReduceSumSquare)
- ``sum_log``: the sum, its logarithm (ReduceLogSum)
- ``exp_sum_log``: exp(x), their sum, its logarithm (ReduceLogSumExp)
- ``lp_normalization``: x over the root of the sum of x * x, or over the sum of |x|; a norm of 0 counts as 1
- ``powers_root``: |x|^p, their sum, to the 1/p (GlobalLpPool)
- ``softmax_log``: the softmax, its logarithm (LogSoftmax)
- ``running_sum``: an element at a time onto a sum (CumSum)
"""


@dataclass(frozen=True, slots=True)
class Lowering:
    """One operator's lowering.

    Attributes:
      op_type: of ONNX's own domain.
      form: what it is written out as.
      steps: 'low': each step is stored in the operator's own type; 'fp32': one kernel holds them in FP32.
      source: where this was seen, with the versions.
    """

    op_type: str
    form: Form
    steps: Literal["low", "fp32"]
    source: str


def in_half(lowerings: Iterable[Lowering]) -> dict[str, Lowering]:
    """Operator -> lowering, of those whose steps are stored in the low type."""
    return {entry.op_type: entry for entry in lowerings if entry.steps == "low"}
