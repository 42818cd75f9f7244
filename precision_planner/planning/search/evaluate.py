"""One evaluation: decisions about nodes -> how far the outputs are from the FP32 model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from precision_planner.errors import ToleranceError
from precision_planner.judging.evidence import find_evidence
from precision_planner.judging.judge import Judgement, OwnMetric, Tolerance, judge
from precision_planner.judging.quantiles import DRAWS, upper
from precision_planner.judging.tolerance import check_outputs
from precision_planner.model import Model, NodeId, infer_types
from precision_planner.numerics.rounding import Overflow
from precision_planner.planning.search.noise import Atom, restricted
from precision_planner.simulation.accumulation import Accumulation
from precision_planner.simulation.draws import can_draw
from precision_planner.simulation.plans import (
    all_low,
    element_types,
    from_assignment,
    fuse_chains,
    with_accumulation,
    with_lowering,
    with_tf32,
)
from precision_planner.simulation.rounding import EdgeKey, RoundingPlan
from precision_planner.simulation.schemas import ELEMENT_TYPES, TF32_TRUNCATED
from precision_planner.simulation.tf32 import Tf32
from precision_planner.simulation.variants import BlockRunner, Outputs
from precision_planner.targets.lowering import Lowering
from precision_planner.typing import Decision, TypeAssignment, TypingOptions, assign_types

__all__ = ["Batches", "Candidate", "Decisions", "Evaluator", "Question", "Setting"]

UNDRAWN = 2.0
"""Quantile by prediction where nothing can be drawn: sqrt(2), by which draws err more, and as much for their spread."""

Decisions = Mapping[NodeId, Decision]
Batches = Sequence[Mapping[str, "np.ndarray[Any, Any]"]]


@dataclass(frozen=True)
class Candidate:
    """A plan, as it is simulated.

    Attributes:
      decisions: node -> precision, for nodes that are not simply low.
      tf32: products that stay in FP32 take their operands in TF32, as the setting says that the target rounds.
    """

    decisions: Decisions
    tf32: bool = False


@dataclass(frozen=True)
class Question:
    """What is to be evaluated.

    Attributes:
      candidate: the plan.
      base: one from which it differs in little: what is upstream of the difference is not computed again.
      only: the roundings of the plan that are made, everything else in FP32; None: all.
    """

    candidate: Candidate
    base: Candidate | None = None
    only: tuple[Atom, ...] | None = None


@dataclass(frozen=True)
class Setting:
    """What a search is about, but for the model and the data.

    Attributes:
      options: how types are assigned.
      typing: 'strong': the typed graph is simulated as ONNX defines it; 'weak': the worst that a weakly typed builder
        may do, chains of pointwise operators kept in a kernel and weights saturated.
      bounds: the tolerance.
      own: one's own metrics by name.
      tf32: how the target rounds to TF32 where products in FP32 may use it: "nearest" (True) or "truncated"; False:
        they never do.
      weights: what the conversion makes of weights that the type cannot hold: "saturate" or "inf".
      accumulation: how products in FP16 add up: "fp32" or "fp16".
      lowering: what the target's parser writes operators out as.
      chains: what the target's kernels hold chains of pointwise operators in; weak typing's are held in FP32 anyway.
    """

    options: TypingOptions
    typing: Literal["strong", "weak"]
    bounds: tuple[Tolerance, ...]
    own: Mapping[str, OwnMetric] = field(default_factory=dict)
    weights: Overflow = "saturate"
    tf32: Tf32 = False
    accumulation: Accumulation = "fp32"
    lowering: tuple[Lowering, ...] = ()
    chains: Literal["fp16", "fp32"] = "fp16"


class Evaluator:
    """Answers questions about one model on one set of batches; a context manager.

    Attributes:
      runner: the model, in the form that is run.
      types: of its values.
      truncated: operands that TF32 truncates where they and the product that reads them are in FP32.
      references: what whole plans are held to; None: this model's own answers in FP32.

    Args:
      model: fused, in FP32.
      batches: inputs; whole plans are judged on all of them.
      setting: see there.
      screen: fewer rows of them, on which single roundings are judged: their relative error is the same. None takes the
        batches.
      references: what whole plans are held to, batch by batch: the answers of the model as it was given, before its
        fusions and repairs. None: this model's own in FP32.
      threads: inside an operator; 0 leaves the choice to onnxruntime.
    """

    def __init__(
        self,
        model: Model,
        batches: Batches,
        setting: Setting,
        *,
        screen: Batches | None = None,
        references: Sequence[Outputs] | None = None,
        threads: int = 0,
    ) -> None:
        if not setting.bounds:
            raise ToleranceError("a search needs a tolerance to meet; give one such as --tolerance sad=1e-3")
        check_outputs(setting.bounds, [value.name for value in model.proto.graph.output], setting.own)
        self.setting, self.references = setting, references
        few = () if screen is None else tuple(screen)
        self.runner = BlockRunner(model, [*batches, *few], threads=threads)
        self.types = infer_types(self.runner.model, self.runner.index)
        self._elements = element_types(self.runner.model, self.runner.index, self.types)
        everything = with_tf32(RoundingPlan(), self.runner.index, self._elements, setting.tf32).edges
        self.truncated: frozenset[EdgeKey] = frozenset(e for e, kind in everything.items() if kind == TF32_TRUNCATED)
        self._evidence = find_evidence(model).evidence
        self._all = range(len(batches))
        self._few = range(len(batches), len(batches) + len(few)) if few else self._all
        try:
            self._references = {which: self.runner.run(RoundingPlan(), which=which) for which in {self._all, self._few}}
            if references is not None:
                self._references[self._all] = list(references)
        except BaseException:
            self.runner.close()
            raise
        self._bases: dict[range, Candidate | None] = {}
        self._last: tuple[Candidate, RoundingPlan] | None = None

    def assign(self, decisions: Decisions) -> TypeAssignment:
        """The types that decisions lead to."""
        runner = self.runner
        return assign_types(runner.model, decisions, self.setting.options, index=runner.index, types=self.types)

    def rounding(self, candidate: Candidate) -> RoundingPlan:
        """Where the model is rounded under a plan."""
        assignment, index = self.assign(candidate.decisions), self.runner.index
        strong = self.setting.typing == "strong"
        if strong:
            plan = self._tensors_only(from_assignment(assignment, index, self.setting.weights))
        else:
            kept = [typing.node for typing in assignment.kept if typing.keep_as != "compute"]
            elem_type = ELEMENT_TYPES[self.setting.options.precision]
            brain = [typing.node for typing in assignment.nodes.values() if typing.compute == "bf16"]
            plan = all_low(self.runner.model, index, elem_type, kept, "saturate", brain)
        plan = with_tf32(plan, index, self._elements, candidate.tf32 and self.setting.tf32)
        if self.setting.accumulation == "fp16":
            sums32 = [typing.node for typing in assignment.sums32]
            plan = with_accumulation(plan, self.runner.model, index, self.types, sums32)
        plan = with_lowering(plan, self.runner.model, index, self.setting.lowering)
        return plan if strong and self.setting.chains == "fp16" else fuse_chains(plan, index)

    def _tensors_only(self, plan: RoundingPlan) -> RoundingPlan:
        """Without the sequences and optionals, whose element type the assignment knows: only tensors are rounded."""
        values = {key: kind for key, kind in plan.values.items() if key in self._elements}
        edges = {}
        for (path, position, slot), kind in plan.edges.items():
            scope = self.runner.index.by_path[path]
            name = scope.nodes[position].input[slot]
            holder = self.runner.index.resolve(scope, name)
            if holder is not None and (holder.path, name) in self._elements:
                edges[path, position, slot] = kind
        return replace(plan, values=values, edges=edges, stored=values)

    def answer(self, question: Question) -> Judgement:
        """Judge decisions, or some of their roundings."""
        if question.only is not None:
            self._start_from(None, self._few)
            plan = restricted(self._known(question.candidate), question.only)
            return self._judge(self._few, plan)
        if question.base is not None:
            self._start_from(question.base, self._all)
        return self._judge(self._all, self.rounding(question.candidate))

    def likely(self, candidate: Candidate) -> float:
        """The score that a device will hardly exceed: a quantile over draws, in which roundings fall by chance.

        Where the opset has not what draws take, `UNDRAWN` times the score.
        """
        plan = self.rounding(candidate)
        if not can_draw(self.runner.model):
            return UNDRAWN * self._judge(self._all, plan).score
        return upper([self._judge(self._all, replace(plan, draw=draw)).score for draw in range(1, DRAWS + 1)])

    def _judge(self, which: range, plan: RoundingPlan) -> Judgement:
        found = self.runner.run(plan, which=which)
        return judge(self._references[which], found, self.setting.bounds, self.setting.own, self._evidence, lean=True)

    def _known(self, candidate: Candidate) -> RoundingPlan:
        """The rounding of a plan that many questions are about."""
        if self._last is None or self._last[0] != candidate:
            self._last = (candidate, self.rounding(candidate))
        return self._last[1]

    def _start_from(self, candidate: Candidate | None, which: range) -> None:
        """Remember the values of a plan (None: of FP32), if they are not those remembered already."""
        if which in self._bases and self._bases[which] == candidate:
            return
        plan = RoundingPlan() if candidate is None else self._known(candidate)
        self.runner.run(plan, which=which, remember=True)
        self._bases[which] = candidate

    def close(self) -> None:
        """Let go of sessions and values."""
        self.runner.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
