"""The passes of a rewrite, in their order: `planner rewrite --list-passes` prints this list, and `rewrite` follows it.

A pass takes a `Model` and returns a `PassResult`; it changes nothing behind the caller's back. What every pass must
leave behind is checked here, between passes: values made once and before they are read, in every graph, and names of
values that no two nodes share. A model that came in otherwise is not blamed on a pass.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import onnx

from precision_planner.model import GraphIndex, Model
from precision_planner.model.edit import PassResult
from precision_planner.model.order import reads

R = TypeVar("R", bound=PassResult)

CHECK_VARIABLE = "PLANNER_CHECK_PASSES"
"""The environment variable that has the ONNX checker look at the model after every pass; the tests set it."""

CHECKED_BYTES = 16 << 20

__all__ = ["CHECK_VARIABLE", "PASSES", "Pass", "PassError", "Passes", "faults", "refusals"]


class PassError(RuntimeError):
    """A pass left a graph that is none; a bug of the planner's, with the pass and the place named."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One step of a rewrite.

    Attributes:
      name: in reports.
      does: one sentence.
    """

    name: str
    does: str


PASSES = (
    Pass("surgery", "run the user's graphsurgeon script (--surgery)"),
    Pass("widen", "make a model that is all FP16 FP32 again, where BF16 is asked for"),
    Pass("fold", "compute beforehand, in FP32, what depends on constants alone"),
    Pass("attention", "write attentions as one node (--fuse attention)"),
    Pass("fuse", "replace recognised patterns by one operator each, proven in float64"),
    Pass("raise_opset", "raise the opset where BF16 kernels exist only in newer ones"),
    Pass("convert", "give every value its decided type: Casts between islands, weights cast, types of the interface"),
    Pass("sums", "write products that sum in FP32, and islands that a builder would take away, so that they stay"),
    Pass("plugins", "write LayerNormalization as a TensorRT plugin (--layernorm plugin:NAME)"),
    Pass("int32_inputs", "make int64 inputs INT32 (--int32-inputs)"),
)  # fmt: skip
"""Every pass, in order; one that has nothing to do hands the model on."""

_ORDER = {each.name: number for number, each in enumerate(PASSES)}


class Passes:
    """One run through the list.

    Attributes:
      done: names of the passes that changed the model, in order.
      names: old node name -> new one, of all passes together.
      notes: of all passes.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.names: dict[str, str] = {}
        self.notes: list[str] = []
        self._next = 0

    def run(self, name: str, model: Model, step: Callable[[Model], R]) -> R:
        """Run one pass and check what it leaves.

        Returns:
          What the pass returned.

        Raises:
          PassError: it is not its turn, or it leaves a fault that the model did not have before.
        """
        if _ORDER[name] < self._next:
            raise PassError(f"the pass {name} runs after {PASSES[self._next - 1].name}, which stands behind it")
        self._next = _ORDER[name] + 1
        result = step(model)
        self.names.update(result.names)
        self.notes += result.notes
        if result.model is not model:
            self.done.append(name)
            left = faults(result.model.proto) or refusals(result.model)
            if left and not (faults(model.proto) or refusals(model)):
                raise PassError(f"the pass {name} left {left[0]}")
        return result


def refusals(model: Model) -> list[str]:
    """What the ONNX checker says against a model, where `PLANNER_CHECK_PASSES` is set: it reads the whole model.

    Models of more than `CHECKED_BYTES` are passed over.
    """
    if not os.environ.get(CHECK_VARIABLE) or model.stored_bytes > CHECKED_BYTES:
        return []
    try:
        onnx.checker.check_model(model.to_proto())
    except onnx.checker.ValidationError as error:
        return ["what the ONNX checker refuses: " + " ".join(str(error).split())]
    return []


def faults(proto: onnx.ModelProto) -> list[str]:
    """Values that are read before they are made, or made twice in one graph; [] for a sound model."""
    index = GraphIndex(proto)
    found: list[str] = []
    for scope in index.scopes:
        made: set[str] = set()
        where = f" in {'/'.join(scope.path)}" if scope.path else ""
        for node in scope.nodes:
            late = {name for name in reads(node) if name not in made and scope.producer(name) is not None}
            found += [f"'{name}', read by {node.op_type} before it is made{where}" for name in sorted(late)]
            for name in node.output:
                if name and name in made:
                    found.append(f"'{name}', made twice{where}")
            made.update(name for name in node.output if name)
    return found
