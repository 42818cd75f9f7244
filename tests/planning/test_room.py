"""What a search goes by besides predictions: the quantile of draws, the target's margin, what should not be raised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

import precision_planner as pp
from precision_planner.model import GraphIndex, NodeId
from precision_planner.planning import searching
from precision_planner.planning.search import (
    Budget,
    Judgement,
    PlanCosts,
    Region,
    SearchOptions,
    Setting,
    Space,
    State,
    search,
)
from precision_planner.planning.search.budget import Clock
from precision_planner.planning.search.evaluate import Candidate, Question
from precision_planner.planning.search.run import _search, _with_room
from precision_planner.planning.search.search import Ask, Found
from precision_planner.targets import get_target

CUBE = """
<ir_version: 8, opset_import: ["" : 17]>
cube (float[2, 4] x) => (float[2, 4] y) <float[4, 4] w = {1,2,3,4,5,6,7,8,9,8,7,6,5,4,3,2}> {
  [product] a = MatMul(x, w)
  [square] b = Mul(a, a)
  [cube] y = Mul(b, a)
}
"""
BESIDE = """
<ir_version: 8, opset_import: ["" : 17]>
beside (float[2, 4] x, float[4, 4] w) => (float[2, 4] y, float[2, 4] z) <float[4] one = {1, 1, 1, 1}> {
  [before] a = Mul(x, x)
  [norm] b = LayerNormalization (a, one)
  [product] y = MatMul (b, w)
  [other] z = Sigmoid (x)
}
"""


class Asked(Exception):
    """What `find_plan` was asked."""

    def __init__(self, setting: Setting, options: SearchOptions) -> None:
        super().__init__()
        self.setting, self.options = setting, options


def asked(monkeypatch: pytest.MonkeyPatch, target: str, inputs: object) -> Asked:
    def record(model, batches, base, target, setting, options, **_: object) -> None:
        raise Asked(setting, options)

    monkeypatch.setattr(searching, "find_plan", record)
    with pytest.raises(Asked) as caught:
        pp.plan(onnx.parser.parse_model(CUBE), inputs=inputs, target=target, tolerance="sad=1e-4")
    return caught.value


@pytest.mark.parametrize("target", ["tensorrt-8.6", "tensorrt-11"])
def test_the_search_aims_below_the_bound_by_the_targets_margin(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    margin = get_target(target).margin
    assert (margin > 1) is (target == "tensorrt-8.6")
    found = asked(monkeypatch, target, {"x": np.ones((2, 4), np.float32)})
    assert [bound.bound for bound in found.setting.bounds] == [pytest.approx(1e-4 / margin, rel=1e-12)]
    assert found.options.margin == margin


def test_made_up_data_alone_raises_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    index = GraphIndex(onnx.parser.parse_model(BESIDE))
    product = Region("product", "gemm", (NodeId((), "y"),))
    for inputs, may in ((None, False), ({"x": np.ones((2, 4), np.float32)}, True)):
        assert asked(monkeypatch, "tensorrt-10", inputs).options.may_raise(index, product) is may


@pytest.mark.parametrize(
    ("output", "beside"),
    [("a", True), ("b", True), ("y", False), ("z", False)],
    ids=["read", "norm", "behind", "apart"],
)
def test_nothing_beside_a_normalization_is_raised_where_the_builder_cannot(output: str, beside: bool) -> None:
    index = GraphIndex(onnx.parser.parse_model(BESIDE))
    region = Region("region", "other", (NodeId((), output),))
    old, new = get_target("tensorrt-8.6"), get_target("tensorrt-10")
    assert (old.norm_beside_fp32, new.norm_beside_fp32) == (False, True)
    assert searching._may_raise(old, made_up=False)(index, region) is not beside
    assert searching._may_raise(new, made_up=False)(index, region)


Sets = frozenset[int]


@dataclass(frozen=True)
class Draws:
    """What `_Likely` says of a chain: quantiles that are so many times the prediction, by what is raised."""

    space: Space
    ask: Ask
    ratios: Mapping[Sets, float]
    expected: float = 1.1

    def of(self, state: State) -> float:
        return self.ratios[state.raised] * self.ask([Question(self.space.candidate(state))])[0].score


def chain(costs: Sequence[float], refused: Sets = frozenset()) -> tuple[Space, list[Sets]]:
    """Regions of which `refused` should not be raised, and the list of what an `ask` of theirs is asked."""
    regions = tuple(Region(f"r{n}", "other", (NodeId((), f"v{n}"),)) for n in range(len(costs)))
    return Space(regions, PlanCosts(costs), {}, may_raise=lambda region: int(region.name[1:]) not in refused), []


def answering(asked_of: list[Sets], scores: Mapping[Sets, float]) -> Ask:
    """The smallest score of the sets that are in FP32, as far as they are; 9 where none is."""

    def answer(questions: Sequence[Question]) -> list[Judgement]:
        found = []
        for question in questions:
            raised = frozenset(int(node.output[1:]) for node in question.candidate.decisions)
            asked_of.append(raised)
            score = min((score for wanted, score in scores.items() if wanted <= raised), default=9.0)
            found.append(Judgement(score, {"y": score**2}, {"y:sad": score}, {"y": score}))
        return found

    return answer


ZERO, ONE, BOTH = frozenset({0}), frozenset({1}), frozenset({0, 1})


def test_what_should_not_be_raised_stays_low_though_it_would_be_cheapest() -> None:
    for whatever_helps, raised in ((False, ONE), (True, ZERO)):
        space, seen = chain([1.0, 5.0], refused=ZERO)
        answer = answering(seen, {ZERO: 0.5, ONE: 0.5})
        found = search(space, answer, Clock(Budget(100)), whatever_helps=whatever_helps)
        assert found.passed
        assert found.state == State(raised)
        assert any(0 in regions for regions in seen) is whatever_helps


@dataclass(frozen=True)
class Judge:
    """An evaluator of a chain, whose quantiles are its predictions."""

    ask: Ask

    def answer(self, question: Question) -> Judgement:
        return self.ask([question])[0]

    def likely(self, candidate: Candidate) -> float:
        return self.ask([Question(candidate)])[0].score


def test_what_should_not_be_raised_is_where_nothing_else_helps() -> None:
    space, seen = chain([1.0, 5.0], refused=ZERO)
    answer = answering(seen, {ZERO: 0.5})
    found = _search(space, answer, SearchOptions(Clock(Budget(100))), lambda candidate: frozenset(), Judge(answer))
    assert found.passed
    assert found.state.raised == {0}
    assert seen.index(ONE) < next(at for at, regions in enumerate(seen) if 0 in regions)


def with_room(scores: Mapping[Sets, float], ratios: Mapping[Sets, float], margin: float = 1.0) -> Found:
    space, seen = chain([1.0, 5.0])
    answer = answering(seen, scores)
    options = SearchOptions(Clock(Budget(500)), margin=margin)
    known: dict[State, Judgement] = {}

    def once(limit: float) -> Found:
        return search(space, answer, options.clock, limit=limit, known=known)

    return _with_room(once, Draws(space, answer, ratios), options)


@pytest.mark.parametrize(
    ("ratio", "raised"), [(1.2, ONE), (1.5, BOTH)], ids=["the quantile meets the bound", "the prediction alone does"]
)
def test_a_plan_whose_quantile_misses_the_bound_is_passed_over(ratio: float, raised: Sets) -> None:
    found = with_room({ONE: 0.8, BOTH: 0.3}, {ONE: ratio, BOTH: ratio})
    assert found.state.raised == raised
    assert found.likely == pytest.approx(ratio * found.judgement.score)
    assert found.likely <= 1.0


@pytest.mark.parametrize(("both", "raised", "likely"), [(5.0, BOTH, 1.5), (10.0, ONE, 2.0)])
def test_where_no_quantile_meets_the_bound_the_smallest_is_taken(both: float, raised: Sets, likely: float) -> None:
    found = with_room({ONE: 0.8, BOTH: 0.3}, {ONE: 2.5, BOTH: both})
    assert found.passed
    assert (found.state.raised, found.likely) == (raised, pytest.approx(likely))


@pytest.mark.parametrize(("margin", "passed"), [(1.0, False), (1.4, True), (1.1, False)])
def test_without_a_plan_that_has_the_room_one_within_the_bound_is_taken(margin: float, passed: bool) -> None:
    """The scores are of the tightened bound: 1.3 times it is within the bound itself only where the room was more."""
    found = with_room({BOTH: 1.3}, {frozenset(): 1.0, ZERO: 1.0, ONE: 1.0, BOTH: 1.0}, margin)
    assert found.passed is passed
    assert math.isclose(found.judgement.score, 1.3)
