"""What plans cost: bytes, operations and Casts, counted by hand on products of known shapes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from precision_planner.model import GraphIndex, NodeId
from precision_planner.planning.search import CostModel, PlanCosts, Region, plan_costs
from tests.simulation.models import FLOAT, model

BYTES, FP16, TF32, FP32 = 1_555e3, 312e6, 156e6, 19.5e6  # of an A100 in a microsecond


def chain(between: str) -> tuple[GraphIndex, list[Region], dict[str, tuple[int, ...]]]:
    """x [4, 8] by w [8, 16], something in between, by v; a region for each node that computes."""
    square = between == "Transpose"
    shapes = {"x": (4, 8), "a": (4, 16), "m": (16, 4) if square else (4, 16), "y": (16, 2) if square else (4, 2)}
    middle = [] if between == "" else [helper.make_node(between, ["a"], ["m"])]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        *middle,
        helper.make_node("MatMul", ["m" if middle else "a", "v"], ["y"]),
    ]
    weights = {"w": np.ones((8, 16), np.float32), "v": np.ones((4 if square else 16, 2), np.float32)}
    proto = model(nodes, {"x": (FLOAT, shapes["x"])}, {"y": (FLOAT, shapes["y"])}, weights)
    regions = [Region("a", "gemm", (NodeId((), "a"),)), Region("y", "gemm", (NodeId((), "y"),))]
    if between == "Tanh":
        regions.insert(1, Region("m", "pointwise", (NodeId((), "m"),)))
    return GraphIndex(proto), regions, shapes


def costs(between: str, used: CostModel | None = None) -> PlanCosts:
    index, regions, shapes = chain(between)
    return plan_costs(index, regions, shapes, used)


@pytest.mark.parametrize(("tf32", "rate"), [(True, TF32), (False, FP32)])
def test_a_product_costs_its_weights_its_result_and_its_operations(tf32: bool, rate: float) -> None:
    own = costs("", CostModel(tf32)).regions
    slower = 1 / rate - 1 / FP16
    # w has 128 elements, a 64, written once and read once; 4 * 16 sums of 8 products
    assert own[0] == pytest.approx(2 * (128 + 2 * 64) / BYTES + 2 * 64 * 8 * slower)
    # v has 32, y 8, which nothing reads; 4 * 2 sums of 16 products
    assert own[1] == pytest.approx(2 * (32 + 8) / BYTES + 2 * 8 * 16 * slower)


def test_a_cast_between_products_reads_and_writes_and_three_times_so_where_the_value_is_moved() -> None:
    (direct,), (moved,) = costs("").seams, costs("Transpose").seams
    assert (direct.maker, direct.readers) == (moved.maker, moved.readers) == (0, frozenset({1}))
    assert direct.us == pytest.approx((2 + 4) * 64 / BYTES + 2)
    assert moved.us == pytest.approx(3 * (2 + 4) * 64 / BYTES + 2)


def test_a_cast_beside_a_pointwise_operator_is_free() -> None:
    assert costs("Tanh").seams == ()


def test_scores_go_through_memory_where_the_target_would_have_fused_them() -> None:
    index, regions, shapes = chain("")
    regions[0] = replace(regions[0], attention=True)
    fused = plan_costs(index, regions, shapes, CostModel(True, fused_attention=True)).regions[0]
    apart = plan_costs(index, regions, shapes, CostModel(True, fused_attention=False)).regions[0]
    largest = 64  # of the computed values: x has 32 elements, a 64
    assert apart == costs("", CostModel(True)).regions[0]
    assert fused - apart == pytest.approx(2 * (4 + 4) * largest / BYTES + 2 * 2)
