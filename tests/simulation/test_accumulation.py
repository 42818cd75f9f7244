"""Sums in FP16, against numpy doing what a tensor core does: an exact sum of 16 products, added and rounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

import precision_planner as pp
from precision_planner.cli.diff import command
from precision_planner.errors import ConversionError
from precision_planner.model import GraphIndex, Model
from precision_planner.model.session import Session
from precision_planner.simulation import all_low, apply_rounding, prepare
from precision_planner.simulation.plans import with_accumulation
from precision_planner.simulation.rounding import RoundingPlan
from precision_planner.simulation.variants import BlockRunner
from precision_planner.typing import Decision, TypingOptions, assign_types
from tests.simulation.models import FLOAT, FLOAT16, model

Array = np.ndarray


def half(x: Any) -> Array:
    """Float64 rounded to FP16 once, in float32."""
    with np.errstate(over="ignore"):
        return np.asarray(np.asarray(x).astype(np.float16), np.float32)


def stepped(a: Array, b: Array, step: int = 16) -> Array:
    """a @ b with an FP16 accumulator that is rounded after every `step` products."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        for at in range(0, a.shape[1], step):
            exact = a[:, at : at + step].astype(np.float64) @ b[at : at + step].astype(np.float64)
            total = (total.astype(np.float64) + exact).astype(np.float16)
    return total.astype(np.float64)


def rounding_once() -> float:
    """The root mean square of the relative error of rounding normal numbers to FP16."""
    x = np.random.default_rng(0).standard_normal(200_000)
    return float(np.sqrt(np.mean((x.astype(np.float16) - x) ** 2)))


def product(length: int | str, columns: int, opset: int = 17) -> onnx.ModelProto:
    return model(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        {"a": (FLOAT, ["m", length]), "b": (FLOAT, [length, columns])},
        {"y": (FLOAT, ["m", columns])},
        opset=opset,
    )


def in_half(source: Any, feeds: dict[str, Array], **options: Any) -> Array:
    return pp.simulate(source, feeds, accumulation="fp16", **options)["y"]


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.parametrize("length", [17, 64, 100, 128])
def test_up_to_eight_steps_are_the_steps_themselves(length: int) -> None:
    rng = np.random.default_rng(length)
    # multiples of 1/8 up to 8: the sum of any number of products here is exact in FP32, so only the steps round
    a = (rng.integers(-64, 65, (16, length)) / 8).astype(np.float32)
    b = (rng.integers(-64, 65, (length, 16)) / 8).astype(np.float32)
    found = in_half(product(length, 16), {"a": a, "b": b})
    np.testing.assert_array_equal(found, stepped(a, b))
    assert (found != half(a.astype(np.float64) @ b)).any(), "rounding once would have given the same"


KINDS = ("normal", "mean", "positive", "cancelling", "heavy")


def drawn(kind: str, length: int, scale: float, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((96, length)), rng.standard_normal((length, 96)) / np.sqrt(length)
    if kind == "mean":
        a, b = a + 0.5, b + 0.5 / np.sqrt(length)
    elif kind == "positive":
        a, b = np.abs(a), np.abs(b)
    elif kind == "cancelling":  # the sum rises to the middle and comes back
        a, b = a + 1, np.abs(b)
        b[length // 2 :] *= -1
    elif kind == "heavy":
        a = a * np.exp(rng.standard_normal(a.shape))
    return half(a * scale), half(b)


@pytest.mark.slow
@pytest.mark.parametrize("symbolic", [False, True])
@given(st.sampled_from(KINDS), st.integers(129, 4096), st.integers(-5, 5), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_error_is_as_large_as_that_of_the_steps(
    symbolic: bool, kind: str, length: int, exponent: int, seed: int
) -> None:
    """Root mean squares within 15 %, within 20 % where halves cancel: whatever the length, the scale and the mean."""
    a, b = drawn(kind, length, 2.0**exponent, seed)
    exact = a.astype(np.float64) @ b
    found = in_half(product("k" if symbolic else length, 96), {"a": a, "b": b})
    ratio = rms(found - exact) / rms(stepped(a, b) - exact)
    assert 0.85 < ratio < (1.2 if kind == "cancelling" else 1.15)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_sum_that_one_product_makes_is_rounded_for_that_one_alone(seed: int, symbolic: bool) -> None:
    """Massive activations: all other products are far below the rounding unit of the sum."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((96, 1536)) / 100, rng.standard_normal((1536, 96)) / 100
    at = int(rng.integers(1536))
    a[:, at], b[at] = 100 * a[:, at], 5e4 * b[at]
    a, b = half(a), half(b)
    exact = a.astype(np.float64) @ b
    found = in_half(product("k" if symbolic else 1536, 96), {"a": a, "b": b})
    assert rms(found - exact) / rms(stepped(a, b) - exact) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("length", [64, 128, 3072])
def test_a_partial_sum_past_the_range_is_infinite_although_the_sum_is_not(
    length: int, sign: int, symbolic: bool
) -> None:
    a = np.ones((1, length), np.float32)
    b = np.full((length, 1), sign * 4 * 65504 / length, np.float32)
    b[length // 2 :] *= -1
    source, feeds = product("k" if symbolic else length, 1), {"a": a, "b": half(b)}
    assert np.isinf(stepped(a, half(b))).all()
    np.testing.assert_array_equal(in_half(source, feeds), [[sign * np.inf]])
    assert np.isfinite(pp.simulate(source, feeds)["y"]).all()


def test_a_sum_that_reaches_the_last_finite_value_stays_finite() -> None:
    a, b = np.ones((1, 1024), np.float32), np.zeros((1024, 1), np.float32)
    b[0] = 65504
    np.testing.assert_array_equal(in_half(product(1024, 1), {"a": a, "b": b}), [[65504]])


@pytest.mark.slow
@given(st.integers(1, 40) | st.integers(100, 600), st.booleans(), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_selections_and_small_integers_are_exact(length: int, symbolic: bool, seed: int) -> None:
    """What FP16 holds has no error that could be enlarged. Lengths below eight leave chunks empty."""
    rng = np.random.default_rng(seed)
    a = rng.integers(-1, 2, (3, length)).astype(np.float32)
    a[0] = np.eye(length, dtype=np.float32)[length // 2]
    b = rng.integers(-3, 4, (length, 5)).astype(np.float32)
    b[length // 2] = half(rng.standard_normal(5))  # selected by the first row, left out by the others
    a[1:, length // 2] = 0
    found = in_half(product("k" if symbolic else length, 5), {"a": a, "b": b})
    np.testing.assert_array_equal(found, a.astype(np.float64) @ b)


def gemm(**attributes: Any) -> tuple[onnx.ModelProto, dict[str, Array]]:
    rng = np.random.default_rng(1)
    a, b = rng.integers(-2, 3, (4, 200)), rng.integers(-2, 3, (200, 6))
    if attributes.get("transA"):
        a = a.T
    if attributes.get("transB"):
        b = b.T
    node = helper.make_node("Gemm", ["a", "b", "c"], ["y"], **attributes)
    constants = {"b": b.astype(np.float32), "c": rng.integers(-9, 9, 6).astype(np.float32)}
    return model([node], {"a": (FLOAT, a.shape)}, {"y": (FLOAT, [4, 6])}, constants), {"a": a.astype(np.float32)}


def convolution(
    op_type: str, channels: int, groups: int, bias: bool, opset: int, **attributes: Any
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    rng = np.random.default_rng(2)
    shape = (12, channels // groups, 3, 3) if op_type == "Conv" else (channels, 12 // groups, 3, 3)
    constants = {"w": rng.integers(-2, 3, shape).astype(np.float32)}
    if bias:
        constants["c"] = rng.integers(-9, 9, 12).astype(np.float32)
    node = helper.make_node(op_type, ["x", *constants], ["y"], group=groups, **attributes)
    feeds = {"x": rng.integers(-2, 3, (2, channels, 8, 8)).astype(np.float32)}
    return model(
        [node], {"x": (FLOAT, ["n", channels, "h", "w"])}, {"y": (FLOAT, list("abcd"))}, constants, opset=opset
    ), feeds


WIRED = {
    "gemm": gemm(),
    "gemm, both transposed": gemm(transA=1, transB=1),
    "gemm, scaled": gemm(alpha=0.5, beta=2.0),
    "conv": convolution("Conv", 24, 1, False, 17),
    "conv, bias, stride": convolution("Conv", 24, 1, True, 13, strides=[2, 2], pads=[1, 1, 1, 1]),
    "conv, groups": convolution("Conv", 24, 4, True, 11),
    "conv, old": convolution("Conv", 20, 1, True, 9, dilations=[2, 2]),
    "transposed": convolution("ConvTranspose", 36, 1, True, 13, strides=[2, 2]),
    "transposed, groups": convolution("ConvTranspose", 48, 2, True, 17, pads=[1, 1, 1, 1]),
}


@pytest.mark.parametrize("name", WIRED)
def test_every_product_is_put_together_as_it_was(name: str) -> None:
    """On small integers all that FP16 does is exact: the result is that of onnxruntime in FP32."""
    source, feeds = WIRED[name]
    simulation = prepare(source, accumulation="fp16")
    assert sum("__planner_acc_part" in node.name for node in simulation.model.proto.graph.node) >= 2
    with Session(Model.load(source)) as session:  # onnx.reference has no groups in ConvTranspose
        expected = session.run(feeds)["y"]
    np.testing.assert_array_equal(in_half(source, feeds), expected)


@pytest.mark.parametrize(
    ("op_type", "channels", "groups", "length"),
    [("Conv", 64, 1, 576), ("Conv", 64, 2, 288), ("ConvTranspose", 128, 1, 1152), ("Conv", 8, 1, 72)],
)
def test_convolutions_err_as_their_length_says(op_type: str, channels: int, groups: int, length: int) -> None:
    source, feeds = convolution(op_type, channels, groups, False, 17)
    rng = np.random.default_rng(3)
    weight = source.graph.initializer[0]
    values = half(rng.standard_normal(tuple(weight.dims)))
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    feeds = {"x": half(rng.standard_normal((2, channels, 24, 24)))}
    (exact,) = ReferenceEvaluator(source).run(None, feeds)
    inner = np.s_[:, :, 2:-2, 2:-2]  # at the edge of a transposed one fewer values add up
    error = (in_half(source, feeds) - exact)[inner]
    steps = np.ceil(length / 16)
    assert rms(error) / rms(exact[inner]) == pytest.approx(rounding_once() * np.sqrt((steps + 1) / 2), rel=0.15)


def test_vectors_and_batches() -> None:
    rng = np.random.default_rng(4)
    shapes = [((300,), (300, 4)), ((4, 300), (300,)), ((300,), (300,)), ((5, 1, 3, 300), (2, 300, 4))]
    for left, right in shapes:
        a, b = (rng.integers(-2, 3, shape).astype(np.float32) for shape in (left, right))
        expected = np.matmul(a, b)
        nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
        source = model(nodes, {"a": (FLOAT, left), "b": (FLOAT, right)}, {"y": (FLOAT, expected.shape)})
        np.testing.assert_array_equal(in_half(source, {"a": a, "b": b}), expected)


def test_a_length_known_at_run_time_needs_opset_13() -> None:
    a, b = drawn("normal", 768, 1.0, 0)
    old, new = (product("k", 96, opset) for opset in (11, 13))
    feeds = {"a": a, "b": b}
    np.testing.assert_array_equal(in_half(old, feeds), pp.simulate(old, feeds)["y"])
    assert rms(in_half(new, feeds) - a @ b) > 2 * rms(pp.simulate(new, feeds)["y"] - a @ b)


def test_below_opset_7_sums_stay_fp32() -> None:
    """onnxruntime runs the convolution there, but has no Add to put partial products together."""
    source, feeds = convolution("Conv", 64, 1, False, 6)
    rng = np.random.default_rng(3)
    feeds = {"x": half(rng.standard_normal(feeds["x"].shape))}
    np.testing.assert_array_equal(in_half(source, feeds), pp.simulate(source, feeds)["y"])


def test_only_products_that_compute_in_fp16_add_up_in_it() -> None:
    a, b = drawn("normal", 768, 1.0, 0)
    source, feeds = product(768, 96), {"a": a, "b": b}
    kept: dict[str, Any]
    for kept in ({"keep_fp32": ["MatMul"]}, {"precision": "bf16"}):
        np.testing.assert_array_equal(in_half(source, feeds, **kept), pp.simulate(source, feeds, **kept)["y"])
    typed = model(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        {"a": (FLOAT16, ["m", 768]), "b": (FLOAT16, [768, 96])},
        {"y": (FLOAT16, ["m", 96])},
    )
    expected = in_half(source, feeds)
    np.testing.assert_array_equal(in_half(typed, feeds), expected)
    assignment = assign_types(Model.load(source), {}, TypingOptions("fp16"))
    np.testing.assert_array_equal(in_half(source, feeds, assignment=assignment), expected)
    high = {node: Decision("fp32", "kept") for node in assignment.nodes}
    assignment = assign_types(Model.load(source), high, TypingOptions("fp16"))
    np.testing.assert_array_equal(
        in_half(source, feeds, assignment=assignment), pp.simulate(source, feeds, keep_fp32=["MatMul"])["y"]
    )


def test_a_product_inside_a_body() -> None:
    a, b = drawn("normal", 768, 1.0, 0)
    branches = [
        helper.make_graph(
            [helper.make_node("MatMul", ["a", "b"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, FLOAT, None)],
        )
        for name in ("left", "right")
    ]
    node = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    inputs = {"a": (FLOAT, [96, 768]), "b": (FLOAT, [768, 96]), "c": (onnx.TensorProto.BOOL, [])}
    source = model([node], inputs, {"y": (FLOAT, [96, 96])})
    for chosen in (True, False):
        found = in_half(source, {"a": a, "b": b, "c": np.array(chosen)})
        np.testing.assert_array_equal(found, in_half(product(768, 96), {"a": a, "b": b}))


def test_an_unknown_accumulation_is_refused() -> None:
    with pytest.raises(ConversionError, match="accumulation 'bf16' is unknown; use fp32 or fp16"):
        prepare(product(32, 2), accumulation="bf16")  # type: ignore[arg-type]


def test_the_command_takes_an_accumulation(tmp_path: Path) -> None:
    a, b = drawn("normal", 768, 1.0, 0)
    onnx.save(product(768, 96), tmp_path / "model.onnx")
    np.savez(tmp_path / "inputs.npz", a=a, b=b)
    arguments = [str(tmp_path / "model.onnx")] * 2 + ["--inputs", str(tmp_path / "inputs.npz"), "--simulate", "fp16"]
    errors = []
    for more in ((), ("--accumulation", "fp32"), ("--accumulation", "fp16")):
        result = CliRunner().invoke(command, [*arguments, *more, "--json", "-"], standalone_mode=False)
        assert result.exception is None, result.output
        data = json.loads(result.stdout)
        errors.append(data["outputs"]["y"]["rel_l2"])
        assert ("FP16 accumulation" in data["candidate"]["run"]) == ("fp16" in more)
    assert errors[0] == errors[1] < errors[2] / 3


@pytest.mark.slow
@given(st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=4), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_blocks_equal_the_whole_simulation(chosen: list[set[int]], block_nodes: int) -> None:
    """Whichever products of a chain add up in FP16, blocks and a session over all of it agree bit by bit."""
    rng = np.random.default_rng(5)
    names = [f"v{at}" for at in range(7)]
    nodes = [helper.make_node("MatMul", [names[at], f"w{at}"], [names[at + 1]]) for at in range(6)]
    weights = {f"w{at}": (rng.standard_normal((200, 200)) / 14).astype(np.float32) for at in range(6)}
    source = Model.load(model(nodes, {"v0": (FLOAT, ["m", 200])}, {"v6": (FLOAT, ["m", 200])}, weights))
    batch = {"v0": rng.standard_normal((3, 200)).astype(np.float32)}
    with BlockRunner(source, [batch], block_nodes=block_nodes) as runner:
        low = all_low(runner.model, runner.index, FLOAT16)
        everything = with_accumulation(low, runner.model, runner.index)
        assert len(everything.accumulated) == 6
        for number, products in enumerate(chosen):
            some = {key: cut for key, cut in everything.accumulated.items() if key[1] in products}
            for base in (low, RoundingPlan()):
                plan = RoundingPlan(base.values, base.edges, base.weights, base.stored, some)
                found = runner.run(plan, remember=number % 2 == 0)[0]
                with Session(apply_rounding(runner.model, plan)) as session:
                    np.testing.assert_array_equal(found["v6"], session.run(batch)["v6"])


def test_names_and_positions_are_those_of_the_model() -> None:
    source = Model.load(product(768, 96))
    index = GraphIndex(source.proto)
    plan = with_accumulation(all_low(source, index, FLOAT16), source, index)
    ((key, cut),) = plan.accumulated.items()
    assert key == ((), 0)
    assert (cut.steps, cut.sizes, cut.axes) == (48, (96,) * 8, (-1, -2))
    assert cut.growth == pytest.approx(np.sqrt(47 / 7))


PROBES = json.loads((Path(__file__).parents[2] / "evidence/tensorrt86/probes.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        probe["probe"]
        for probe in PROBES
        if "predicted" in probe and probe["probe"].startswith(("gemm-", "dense-", "encoder-massive-context"))
    ],
)
def test_tensorrt_86_errs_as_simulated(name: str) -> None:
    """Within a factor of 1.3 of what was measured on a GPU, which FP32 accumulation misses by 1.5 to 6."""
    from evidence.tensorrt86.probe_models import answer, probes

    (measured,) = (probe for probe in PROBES if probe["probe"] == name)
    probe = probes()[name]()
    exact = answer(probe, rounded=False)
    output = probe.model.graph.output[0].name
    found = pp.simulate(probe.model, probe.inputs, semantics="fused", accumulation="fp16")[output]
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1 / 1.3 < max(measured[kind]["rel_l2"] for kind in ("fp16", "half")) / error < 1.3
