"""Every column of every row, proven by running the operator that it marks on a sample."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

from precision_planner.operators import Operator, holds, operators, row, slots_of
from tests.operators.samples import SAMPLES, Sample, grid, sample_of

F = np.float32


def marked(column: str, value: Any = None) -> list[Any]:
    """The rows that a column marks, as parameters."""
    rows = [
        found for found in operators() if (getattr(found, column) if value is None else getattr(found, column) == value)
    ]
    return [pytest.param(found, id=f"{found.domain}:{found.name}") for found in rows]


NOT_RUN: dict[tuple[str, str], str] = {
    ("", "BitCast"): "onnx.reference alone has it, and it reads bits: no column of values",
    ("", "MelWeightMatrix"): "a table of constants: only the types of its inputs are told",
    ("", "ImageDecoder"): "no column",
    ("", "Multinomial"): "random, and its values are integers",
    ("", "NonMaxSuppression"): "indices alone",
    ("", "If"): "control flow: tests of the flow",
    ("", "Loop"): "control flow: tests of the flow",
    ("", "Scan"): "control flow: tests of the flow",
    ("", "SequenceMap"): "control flow: never moved through",
    ("", "ConvInteger"): "integers",
    ("", "MatMulInteger"): "integers",
    ("", "QLinearConv"): "integers",
    ("", "QLinearMatMul"): "integers",
    ("", "DynamicQuantizeLinear"): "integers",
    ("ai.onnx.ml", "Normalizer"): "neither runner has it for float32 rows",
    ("ai.onnx.preview", "FlexAttention"): "no runner has it",
}
"""Operators with a column and without a sample, and why."""

MICROSOFT_NOT_RUN = (
    "no CPU kernel, or one that asks for packed weights, caches or whole generation loops: the columns are what "
    "onnxruntime's docs/ContribOperators.md says of its inputs"
)


def sample(found: Operator) -> Sample:
    taken = sample_of(found.name, found.domain)
    if taken is None:
        if found.domain == "com.microsoft":
            pytest.skip(MICROSOFT_NOT_RUN)
        reason = NOT_RUN.get((found.domain, found.name))
        assert reason is not None, f"{found.name} has a column, and no sample runs it"
        pytest.skip(reason)
    assert holds(taken.node()), "the sample has attributes for which the row claims nothing"
    return taken


def flat(value: Any) -> np.ndarray:
    """All elements of a tensor, or of a sequence's tensors."""
    if isinstance(value, list):
        return np.concatenate([np.ravel(part) for part in value])
    return np.ravel(value)


def mapped(value: Any, change: Any) -> Any:
    return [change(part) for part in value] if isinstance(value, list) else np.asarray(change(value))


def with_inputs(taken: Sample, changes: dict[int, Any]) -> list[Any]:
    return [changes.get(at, array) for at, array in enumerate(taken.inputs)]


# -- completeness ---------------------------------------------------------------------------------------------------


def test_every_operator_of_onnx_has_a_row() -> None:
    missing = [
        (schema.domain, schema.name)
        for schema in onnx.defs.get_all_schemas()
        if row(schema.name, schema.domain).name != schema.name
    ]
    assert not missing


def test_every_row_of_onnx_is_an_operator() -> None:
    own_of_onnxruntime = {("", "SimplifiedLayerNormalization")}
    known = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas_with_history()}
    newest = onnx.defs.onnx_opset_version() >= 28
    rows = {(found.domain, found.name) for found in operators() if found.domain != "com.microsoft"}
    assert not newest or rows - own_of_onnxruntime <= known


def test_samples_are_of_operators_with_a_row() -> None:
    assert all(row(taken.op, taken.domain).name for taken in SAMPLES)


@cache
def widest_schemas() -> dict[tuple[str, str], onnx.defs.OpSchema]:
    """(domain, operator) -> of all its versions the one with most inputs."""
    found: dict[tuple[str, str], onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        known = found.setdefault((schema.domain, schema.name), schema)
        if len(schema.inputs) > len(known.inputs):
            found[schema.domain, schema.name] = schema
    return found


@pytest.mark.parametrize(
    "column",
    [
        "moves",
        "joint",
        "factors",
        "weights",
        "indices",
        "shapes",
        "coordinates",
        "angles",
        "denominators",
        "scores",
        "masks",
        "indifferent",
        "stays_wide",
    ],
)
def test_slots_exist_in_the_newest_schema(column: str) -> None:
    for found in operators():
        if found.domain == "com.microsoft" or not onnx.defs.has(found.name, found.domain):
            continue
        schema = widest_schemas()[found.domain, found.name]
        variadic = bool(schema.inputs) and schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
        at = getattr(found, column)
        chosen = tuple(at) if column == "weights" else at.at
        assert variadic or all(slot < len(schema.inputs) for slot in chosen), found.name


# -- what moves -----------------------------------------------------------------------------------------------------


def moved(found: Operator, taken: Sample) -> Iterator[tuple[int, Any]]:
    for slot, _ in slots_of(taken.node(), found.moves):
        yield slot, taken.inputs[slot]


def results(found: Operator, outputs: list[Any]) -> list[np.ndarray]:
    return [flat(out) for at, out in enumerate(outputs) if at in found.moves_to or -1 in found.moves_to]


@pytest.mark.parametrize("found", marked("moves"))
def test_moved_values_are_the_inputs(found: Operator) -> None:
    taken = sample(found)
    values = np.concatenate([flat(array) for _, array in moved(found, taken)])
    assert values.size == np.unique(values).size, "a sample's values must be told apart"
    got = np.concatenate(results(found, taken.run()))
    strangers = np.setdiff1d(got, values)
    if found.movement in ("fill",):
        strangers = strangers[strangers != 0]
    assert not strangers.size
    counts = np.array([(got == value).sum() for value in values])
    match found.movement:
        case "whole":
            assert (counts == 1).all()
        case "part":
            assert (counts <= 1).all()
            assert counts.sum() < values.size or found.name == "Split"
        case "repeat":
            assert counts.max() > 1


@pytest.mark.parametrize("found", marked("moves"))
def test_no_moved_value_decides_where_it_goes(found: Operator) -> None:
    """Any function of the values commutes with moving them."""
    taken = sample(found)

    def change(x: np.ndarray) -> np.ndarray:
        return np.where(x == 0, x, -3 * x + F(0.5)).astype(x.dtype)

    inputs = with_inputs(taken, {slot: mapped(array, change) for slot, array in moved(found, taken)})
    for before, after in zip(results(found, taken.run()), results(found, taken.run(inputs)), strict=True):
        np.testing.assert_array_equal(after, change(before))


@pytest.mark.parametrize("found", marked("exact"))
def test_exact_operators_keep_rounded_values_rounded(found: Operator) -> None:
    taken = sample(found)

    def rounded(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float16).astype(F) if x.dtype == F else x

    if found.generates and not found.blind:
        pytest.skip("what it makes is an attribute's value")
    inputs = [None if array is None else mapped(array, rounded) for array in taken.inputs]
    for output in taken.run(inputs):
        if output is None:
            continue
        for part in output if isinstance(output, list) else [output]:
            if np.asarray(part).dtype == F:
                np.testing.assert_array_equal(part, rounded(np.asarray(part)))


# -- what computes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", marked("pointwise"))
def test_pointwise_operators_commute_with_permutation(found: Operator) -> None:
    taken = sample(found)
    inputs = [array for array in taken.inputs if array is not None]
    shape = np.broadcast_shapes(*(array.shape for array in inputs if array.ndim))
    order = np.random.default_rng(5).permutation(int(np.prod(shape)))

    def permuted(x: np.ndarray) -> np.ndarray:
        return x if x.shape != shape else x.ravel()[order].reshape(shape)

    before, after = taken.run()[0], taken.run([permuted(array) for array in inputs])[0]
    assert before.shape == shape
    np.testing.assert_array_equal(after, permuted(before))


@pytest.mark.parametrize("found", marked("broadcasts"))
def test_operands_are_brought_to_one_shape(found: Operator) -> None:
    taken = sample(found)
    last = len(taken.inputs) - 1
    row_alone = taken.inputs[last][:1].reshape(-1)
    wide = np.broadcast_to(row_alone, taken.inputs[last].shape).copy()
    short = taken.run(with_inputs(taken, {last: row_alone}))[0]
    np.testing.assert_array_equal(short, taken.run(with_inputs(taken, {last: wide}))[0])
    np.testing.assert_array_equal(short, taken.run(with_inputs(taken, {last: row_alone[None]}))[0])


@pytest.mark.parametrize("found", marked("lifts"))
def test_an_epsilon_keeps_the_result_above_zero(found: Operator) -> None:
    taken = sample(found)
    for slot, _ in slots_of(taken.node(), found.lifts):
        changes = {at: np.zeros_like(array) for at, array in enumerate(taken.inputs) if at != slot and at < 2}
        changes[slot] = np.full_like(taken.inputs[slot], 1e-3)
        np.testing.assert_array_equal(taken.run(with_inputs(taken, changes))[0], F(1e-3))


@pytest.mark.parametrize("found", marked("linear"))
def test_linear_operators_hand_on_a_power_of_two(found: Operator) -> None:
    taken = sample(found)
    if found.type_like >= 0:
        taken.run()
    inputs = with_inputs(taken, {0: mapped(taken.inputs[0], lambda x: x * F(0.25))})
    np.testing.assert_allclose(flat(taken.run(inputs)[0]), flat(taken.run()[0]) * F(0.25), rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("found", marked("joint"))
def test_joint_inputs_hand_on_a_power_of_two(found: Operator) -> None:
    taken = sample(found)
    scaled = {slot: taken.inputs[slot] * F(0.25) for slot, _ in slots_of(taken.node(), found.joint)}
    after, before = taken.run(with_inputs(taken, scaled))[0], taken.run()[0]
    if found.compares:
        np.testing.assert_array_equal(after, before)
    elif found.normalizes:
        np.testing.assert_allclose(after, before, rtol=1e-5)
    else:
        np.testing.assert_allclose(after, before * F(0.25), rtol=2e-7)


@pytest.mark.parametrize("found", marked("keeps_zero"))
def test_zero_stays_zero(found: Operator) -> None:
    taken = sample(found)
    for output in taken.run(with_inputs(taken, {0: mapped(taken.inputs[0], np.zeros_like)})):
        if output is not None and np.asarray(output).dtype == F:
            np.testing.assert_array_equal(flat(output), 0)


@pytest.mark.parametrize("found", marked("product"))
def test_products_are_linear_in_each_factor(found: Operator) -> None:
    taken = sample(found)
    if found.product in ("recurrent", "attention"):
        # gates and the softmax stand behind the products: without the weights or values nothing of them is left
        last = max(slot for slot, _ in slots_of(taken.node(), found.factors))
        if found.product == "attention" and len(found.factors.at) == 3:
            doubled = taken.run(with_inputs(taken, {last: taken.inputs[last] * F(2)}))[0]
            if not found.weights:
                np.testing.assert_allclose(doubled, taken.run()[0] * F(2), rtol=1e-5)
                return
        changed = taken.run(with_inputs(taken, {last: taken.inputs[last] * F(2)}))[0]
        assert not np.allclose(changed, taken.run()[0])
        return
    biases = {slot for slot, role in found.weights.items() if role == "bias"}
    none = {slot: np.zeros_like(taken.inputs[slot]) for slot in biases if slot < len(taken.inputs)}
    for slot, _ in slots_of(taken.node(), found.factors):
        given = taken.inputs[slot]
        other = grid(*given.shape, seed=11)
        one, two, both = (
            taken.run(with_inputs(taken, {**none, slot: array}))[0] for array in (given, other, given + other)
        )
        np.testing.assert_allclose(both, one + two, rtol=1e-4, atol=1e-4)


ORACLES: dict[str, Any] = {
    "sum": lambda x: x.sum(1, keepdims=True),
    "mean": lambda x: x.mean(1, keepdims=True),
    "prod": lambda x: x.prod(1, keepdims=True),
    "max": lambda x: x.max(1, keepdims=True),
    "min": lambda x: x.min(1, keepdims=True),
    "l1": lambda x: np.abs(x).sum(1, keepdims=True),
    "l2": lambda x: np.sqrt((x * x).sum(1, keepdims=True)),
    "sum_square": lambda x: (x * x).sum(1, keepdims=True),
    "log_sum": lambda x: np.log(x.sum(1, keepdims=True)),
    "log_sum_exp": lambda x: np.log(np.exp(x).sum(1, keepdims=True)),
}
WINDOWS: dict[str, Any] = {
    "mean": lambda x: x.mean((2, 3), keepdims=True),
    "max": lambda x: x.max((2, 3), keepdims=True),
    "lp": lambda x: np.sqrt((x * x).sum((2, 3), keepdims=True)),
}


@pytest.mark.parametrize("found", marked("reduces"))
def test_reductions_are_what_they_are_called(found: Operator) -> None:
    taken = sample(found)
    x = taken.inputs[0].astype(np.float64)
    got = taken.run()[0]
    if found.reduces == "index":
        pytest.skip("see test_picks_index")
    if found.name == "Col2Im":
        ones = taken.run(with_inputs(taken, {0: np.ones_like(taken.inputs[0])}))[0]
        np.testing.assert_array_equal(ones.ravel(), [1, 2, 1, 2, 4, 2, 1, 2, 1])
    elif found.scans:
        np.testing.assert_allclose(got, (np.cumsum if found.reduces == "sum" else np.cumprod)(x, 1), rtol=1e-5)
    elif found.coordinates:
        boxes = [x[0, :, 0:3, 0:3], x[0, :, 1:4, 1:4]]
        np.testing.assert_allclose(got[..., 0, 0], [box.max((1, 2)) for box in boxes], rtol=1e-6)
    elif found.window:
        if "kernel_shape" in taken.attributes:
            got, x = got[:, :, :1, :1], x[:, :, :2, :2]
        np.testing.assert_allclose(got, WINDOWS[found.reduces](x), rtol=1e-5)
    else:
        np.testing.assert_allclose(got, ORACLES[found.reduces](x), rtol=1e-5)


@pytest.mark.parametrize("found", marked("picks_index"))
def test_picked_indices_follow_the_order_of_the_values_alone(found: Operator) -> None:
    taken = sample(found)
    np.testing.assert_array_equal(taken.run([taken.inputs[0] * F(2)])[0], taken.run()[0])
    assert taken.run()[0].dtype == np.int64


@pytest.mark.parametrize("found", marked("normalizes"))
def test_normalizations_take_a_scale_away(found: Operator) -> None:
    taken = sample(found)
    x = taken.inputs[0]
    before = taken.run()[0]
    if found.normalizes == "batch":  # the statistics are inputs
        changes = {0: x * F(4), 3: taken.inputs[3] * F(4), 4: taken.inputs[4] * F(16)}
    else:
        changes = {slot: taken.inputs[slot] * F(4) for slot in (0, *found.joint.at)}
    np.testing.assert_allclose(taken.run(with_inputs(taken, changes))[0], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("found", marked("statistics_type"))
def test_statistics_have_an_attribute_for_their_type(found: Operator) -> None:
    standard = "LayerNormalization" if found.name == "SimplifiedLayerNormalization" else found.name
    assert "stash_type" in onnx.defs.get_schema(standard).attributes


@pytest.mark.parametrize("found", marked("weights"))
def test_constants_act_as_they_are_called(found: Operator) -> None:
    taken = sample(found)
    before = taken.run()[0]
    for slot, role in found.weights.items():
        if slot >= len(taken.inputs) or taken.inputs[slot] is None or (slot, role) == (0, "scalar"):
            continue
        given = taken.inputs[slot]
        doubled = taken.run(with_inputs(taken, {slot: np.asarray(given * 2, given.dtype)}))[0]
        biases = [at for at, other in found.weights.items() if other == "bias" and at < len(taken.inputs)]
        match role:
            case "weight" | "scale" if found.product == "" or found.product in ("matmul", "convolution", "einsum"):
                none = {at: np.zeros_like(taken.inputs[at]) for at in biases if taken.inputs[at] is not None}
                none |= {3: np.zeros_like(taken.inputs[3])} if found.normalizes == "batch" else {}
                one = taken.run(with_inputs(taken, none))[0]
                two = taken.run(with_inputs(taken, {**none, slot: given * F(2)}))[0]
                np.testing.assert_allclose(two, one * F(2), rtol=1e-5)
            case "table":
                np.testing.assert_allclose(doubled, before * F(2))
            case "quantization_scale" if found.name == "DequantizeLinear":
                np.testing.assert_allclose(doubled, before * F(2))
            case "bound":
                assert (before.max() if slot == 2 else before.min()) == given
            case "padding":
                assert (before == given).sum() > 0
            case _:
                assert doubled.shape != before.shape or not np.array_equal(doubled, before), (slot, role)


@pytest.mark.parametrize("found", marked("indices") + marked("shapes"))
def test_index_and_shape_slots_take_whole_numbers(found: Operator) -> None:
    """By the schema: integers, or a length, bound or step that may be a float too (Range)."""
    if found.domain == "com.microsoft":
        pytest.skip(MICROSOFT_NOT_RUN)
    if not onnx.defs.has(found.name, found.domain):
        pytest.skip("not in this version of onnx")
    schema = onnx.defs.get_schema(found.name, found.domain)
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    for column in (found.indices, found.shapes):
        for slot in column.of(len(schema.inputs)):
            types = allowed.get(schema.inputs[slot].type_str, {schema.inputs[slot].type_str})
            assert types & {"tensor(int64)", "tensor(int32)"}, (found.name, slot)
            floats = types & {"tensor(float)", "tensor(float16)"}
            assert not floats or found.name in ("Range", "OneHot"), (found.name, slot)


@pytest.mark.parametrize("found", marked("coordinates"))
def test_coordinates_are_floats_that_decide_where_is_sampled(found: Operator) -> None:
    taken = sample(found)
    for slot, _ in slots_of(taken.node(), found.coordinates):
        given = taken.inputs[slot]
        assert given.dtype == F
        if found.name in ("Resize", "Upsample"):
            moved_there = np.concatenate([given[:2], given[2:] * F(1.5)])
        else:
            moved_there = given * F(0.5) + F(0.25)
        after, before = taken.run(with_inputs(taken, {slot: moved_there}))[0], taken.run()[0]
        assert after.shape != before.shape or not np.allclose(after, before)


@pytest.mark.parametrize("found", marked("angles"))
def test_angles_come_round(found: Operator) -> None:
    taken = sample(found)
    turned = taken.run([(taken.inputs[0].astype(np.float64) + 2 * np.pi)])[0]
    np.testing.assert_allclose(turned, taken.run()[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("found", marked("denominators"))
def test_denominators_are_steep_at_zero(found: Operator) -> None:
    taken = sample(found)
    ((slot, _),) = slots_of(taken.node(), found.denominators)

    def near(value: float) -> np.ndarray:
        with np.errstate(all="ignore"):
            return taken.run(with_inputs(taken, {slot: np.full_like(taken.inputs[slot], value)}))[0]

    with np.errstate(all="ignore"):
        slope = np.abs(near(2e-8).astype(np.float64) - near(1e-8)) / 1e-8
    assert (slope > 1e3).all()


@pytest.mark.parametrize("found", marked("scores"))
def test_scores_are_the_same_with_a_number_added_to_a_row(found: Operator) -> None:
    taken = sample(found)
    x = taken.inputs[0]
    if found.product != "attention":
        # a loss is a softmax too: no added number shows
        np.testing.assert_allclose(
            taken.run(with_inputs(taken, {0: x + F(3)}))[0], taken.run()[0], rtol=1e-4, atol=1e-5
        )
        return
    # attention without scores is the mean of the values
    if len(found.scores.at) == 1:
        pytest.skip("scores are made inside, of one packed input")
    values = taken.run(with_inputs(taken, {1: np.zeros_like(taken.inputs[1])}))[0]
    np.testing.assert_allclose(values, np.broadcast_to(values.mean(-2, keepdims=True), values.shape), rtol=1e-4)


@pytest.mark.parametrize("found", marked("masks"))
def test_a_masked_column_has_no_say(found: Operator) -> None:
    taken = sample(found)
    ((slot, _),) = slots_of(taken.node(), found.masks)
    mask = taken.inputs[slot].copy()
    mask[..., -1] = -1e9
    if found.name == "BiasSoftmax":
        pytest.skip("no sample")
    changed = taken.inputs[0] if found.name == "Attention" and found.domain else taken.inputs[2]
    source = 0 if found.name == "Attention" and found.domain else 2
    other = changed.copy()
    other[..., -1, :] = 50
    one = taken.run(with_inputs(taken, {slot: mask}))[0]
    two = taken.run(with_inputs(taken, {slot: mask, source: other}))[0]
    rows = slice(None) if source == 2 else slice(0, -1)  # the last row's own query changed with it
    np.testing.assert_allclose(two[..., rows, :], one[..., rows, :], rtol=1e-5)


@pytest.mark.parametrize("found", marked("compares") + marked("tests"))
def test_comparisons_give_truth_values(found: Operator) -> None:
    assert sample(found).run()[0].dtype == np.bool_


@pytest.mark.parametrize("found", marked("blind"))
def test_blind_operators_see_the_shape_alone(found: Operator) -> None:
    taken = sample(found)
    before, after = taken.run()[0], taken.run([mapped(taken.inputs[0], lambda x: x * F(0) + F(9))])[0]
    if found.random:
        assert after.shape == before.shape
    else:
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("found", marked("generates"))
def test_generators_read_no_float_value(found: Operator) -> None:
    taken = sample(found)
    assert found.blind or all(array.dtype != F for array in taken.inputs)
    assert taken.run()[0].dtype == F


@pytest.mark.parametrize("found", marked("random"))
def test_random_operators_differ_from_run_to_run(found: Operator) -> None:
    taken = sample(found)
    assert any(not np.array_equal(taken.run()[0], taken.run()[0]) for _ in range(8))


@pytest.mark.parametrize("found", marked("type_attribute"))
def test_type_attributes_name_a_type(found: Operator) -> None:
    schema = onnx.defs.get_schema(found.name, found.domain)
    assert schema.attributes[found.type_attribute].type == onnx.defs.OpSchema.AttrType.INT


@pytest.mark.parametrize("found", marked("bodies"))
def test_bodies_are_attributes_that_hold_graphs(found: Operator) -> None:
    if found.domain == "com.microsoft":
        pytest.skip(MICROSOFT_NOT_RUN)
    if not onnx.defs.has(found.name, found.domain):
        pytest.skip("not in this version of onnx")
    schema = onnx.defs.get_schema(found.name, found.domain)
    graphs = [a for a in schema.attributes.values() if a.type == onnx.defs.OpSchema.AttrType.GRAPH]
    assert graphs


def test_no_operator_with_bodies_is_unmarked() -> None:
    for schema in onnx.defs.get_all_schemas():
        holds_graphs = any(a.type == onnx.defs.OpSchema.AttrType.GRAPH for a in schema.attributes.values())
        assert row(schema.name, schema.domain).bodies == holds_graphs, schema.name


@pytest.mark.parametrize("found", marked("only_if"))
def test_conditions_are_attributes_of_the_operator(found: Operator) -> None:
    names = {
        name
        for schema in onnx.defs.get_all_schemas_with_history()
        if (schema.name, schema.domain) == (found.name, found.domain)
        for name in schema.attributes
    }
    assert set(found.only_if) <= names


@pytest.mark.parametrize(
    ("op", "attributes", "claim"),
    [("Resize", {"mode": "linear"}, False), ("Resize", {"mode": "nearest"}, True), ("Resize", {}, True),
     ("ScatterND", {"reduction": "add"}, False), ("Dropout", {}, True)],
)  # fmt: skip
def test_attributes_decide(op: str, attributes: dict[str, Any], claim: bool) -> None:
    assert holds(onnx.helper.make_node(op, ["x"], ["y"], **attributes)) is claim


@pytest.mark.parametrize("found", marked("gives_container"))
def test_containers_are_what_the_schema_gives(found: Operator) -> None:
    schema = onnx.defs.get_schema(found.name)
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    for output in schema.outputs:
        assert all(t.startswith(("seq(", "optional(")) for t in allowed.get(output.type_str, [output.type_str]))
