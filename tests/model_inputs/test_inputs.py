"""Inputs: every form of SRC, what is refused, and what is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from examples.bert_classifier import PRESETS, build_bert_classifier
from precision_planner.errors import InputsError
from precision_planner.model import Model
from precision_planner.model.arrays import read_polygraphy
from precision_planner.model.input_roles import Role
from precision_planner.model.inputs import cast_batch, input_specs, load_inputs
from precision_planner.model.session import Session
from precision_planner.model.synthesis import Sizes, _values, real_tokens, synthesise
from tests.simulation.models import FLOAT, FLOAT16, INT64, model

INT32, BOOL, STRING, UINT8, DOUBLE = (
    TensorProto.INT32,
    TensorProto.BOOL,
    TensorProto.STRING,
    TensorProto.UINT8,
    TensorProto.DOUBLE,
)


def identity(**inputs: tuple[int, Any]) -> Model:
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs]
    return Model.load(model(nodes, inputs, {f"{name}_out": kind for name, kind in inputs.items()}))


IDS = np.array([[1, 2, 3]], np.int64)


def test_npz_and_a_folder_of_them(tmp_path: Path) -> None:
    for name, value in [("b", 2), ("a", 1)]:
        np.savez(tmp_path / f"{name}.npz", x=np.full((1, 2), value, np.float32))
    target = identity(x=(FLOAT, ["n", 2]))
    assert [float(batch["x"][0, 0]) for batch in load_inputs(tmp_path, target)] == [1, 2]
    one = load_inputs(str(tmp_path / "b.npz"), target)
    assert [batch["x"].tolist() for batch in one] == [[[2, 2]]]
    assert len(list(one)) == 1  # can be read again
    assert not one.synthesised


@pytest.mark.slow
def test_polygraphys_files(tmp_path: Path) -> None:
    polygraphy = pytest.importorskip("polygraphy.json")
    batches = [{"x": np.eye(2, dtype=np.float32)}, {"x": np.ones((1, 2), np.float32)}]
    polygraphy.save_json(batches, str(tmp_path / "in.json"))
    found = list(load_inputs(tmp_path / "in.json", identity(x=(FLOAT, ["n", 2]))))
    for given, read in zip(batches, found, strict=True):
        np.testing.assert_array_equal(given["x"], read["x"])


def test_polygraphys_saved_outputs(tmp_path: Path) -> None:
    comparator = pytest.importorskip("polygraphy.comparator")
    results = comparator.RunResults()
    outputs = comparator.IterationResult({"y": np.arange(3, dtype=np.float16)}, runtime=0.1, runner_name="trt")
    results.append(("trt", [outputs]))
    results.save(str(tmp_path / "out.json"))
    np.testing.assert_array_equal(read_polygraphy(tmp_path / "out.json")[0]["y"], np.arange(3, dtype=np.float16))


def test_data_loader_scripts(tmp_path: Path) -> None:
    script = tmp_path / "loader.py"
    script.write_text(
        "import numpy as np\n"
        "def load_data():\n    for i in range(3):\n        yield {'x': np.full((1,), i, np.float32)}\n"
        "def other():\n    return [{'x': np.zeros(1, np.float32)}]\n"
        "def broken():\n    raise KeyError('weights')\n    yield\n"
    )
    target = identity(x=(FLOAT, ["n"]))
    assert len(list(load_inputs(script, target))) == 3
    assert len(list(load_inputs(f"{script}:other", target))) == 1
    with pytest.raises(InputsError, match=r"broken in .* failed: KeyError"):
        list(load_inputs(f"{script}:broken", target))
    with pytest.raises(InputsError, match="has no function none"):
        load_inputs(f"{script}:none", target)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "lack 'x'"),
        ({"x": np.ones((1, 2), np.float32), "z": IDS}, "have 'z', which the model does not take"),
        ({"x": np.ones((1, 3), np.float32)}, "axis 1 must be 2"),
        ({"x": np.ones(2, np.float32)}, "the model takes 2 axes"),
        ({"x": np.ones((1, 2), np.int64)}, r"is int64, the model takes float32; convert it with .astype"),
    ],
)
def test_what_does_not_fit_is_named(batch: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputsError, match=message):
        list(load_inputs(batch, identity(x=(FLOAT, ["n", 2]))))


def test_a_ragged_list_is_no_array() -> None:
    ragged = {"x": [np.ones(2, np.float32), np.ones(3, np.float32)]}
    for source in (ragged, [ragged]):
        with pytest.raises(InputsError, match="the values given for 'x' are no array"):
            list(load_inputs(source, identity(x=(FLOAT, ["n", 2]))))


def test_widths_are_converted_where_every_value_fits() -> None:
    target = identity(i=(INT32, ["n"]), x=(FLOAT, ["n"]), m=(BOOL, ["n"]))
    given = {"i": np.array([7], np.int64), "x": np.array([0.5]), "m": np.array([1])}
    found = load_inputs(given, target).first()
    assert [found[name].dtype for name in ("i", "x", "m")] == [np.int32, np.float32, np.bool_]
    with pytest.raises(InputsError, match="does not fit"):
        load_inputs({**given, "i": np.array([2**40])}, target).first()


def test_symbolic_axes_must_agree() -> None:
    target = identity(a=(FLOAT, ["n"]), b=(FLOAT, ["n"]))
    with pytest.raises(InputsError, match=r"'n' is 3 in 'b' .axis 0. but 2 in 'a'"):
        load_inputs({"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)}, target).first()


@pytest.mark.parametrize("name", ["none.npz", "none", "none.py", "none.json"])
def test_missing_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputsError, match=r"do(es)? not exist"):
        load_inputs(tmp_path / name, identity(x=(FLOAT, [1])))


def test_broken_files(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "null.json").write_text("null")
    (tmp_path / "empty").mkdir()
    for name in ("bad.npz", "bad.json", "null.json", "empty"):
        with pytest.raises(InputsError):
            load_inputs(tmp_path / name, identity(x=(FLOAT, [1]))).first()


def test_a_batch_in_the_types_of_another_form() -> None:
    low = identity(x=(FLOAT16, ["n"]), i=(INT32, ["n"]))
    found = cast_batch({"x": np.array([70000.0], np.float32), "i": np.array([3])}, input_specs(low))
    assert np.isinf(found["x"]).all()
    assert found["i"].dtype == np.int32


# --- synthesis ---------------------------------------------------------------------------------------------


def test_token_ids_stay_within_their_table() -> None:
    spec = PRESETS["tiny"]
    made = synthesise(Model.load(build_bert_classifier(spec)))
    assert made.synthesised
    assert "2048" in made.source
    shapes = [batch["input"].shape for batch in made]
    assert [shape[1] for shape in shapes] == sorted({shape[1] for shape in shapes})
    assert shapes[-1][1] <= spec.positions
    for batch in made:
        assert batch["input"].dtype == np.int64
        assert batch["input"].min() >= 0
        assert batch["input"].max() < spec.vocabulary
    usual = list(made)[1]["input"]
    assert len(np.unique(usual)) > 100  # not three token ids
    np.testing.assert_array_equal(usual, list(made)[1]["input"])


def encoder() -> onnx.ModelProto:
    """ids, mask, types and positions, as exporters write them."""
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["cast_ids"], to=INT64),
        helper.make_node("Gather", ["words", "cast_ids"], ["w"]),
        helper.make_node("Gather", ["kinds", "token_type_ids"], ["t"]),
        helper.make_node("Gather", ["places", "position_ids"], ["p"]),
        helper.make_node("Add", ["w", "t"], ["wt"]),
        helper.make_node("Add", ["wt", "p"], ["e"]),
        helper.make_node("Cast", ["attention_mask"], ["mf"], to=FLOAT),
        helper.make_node("Unsqueeze", ["mf", "two"], ["mu"]),
        helper.make_node("Mul", ["e", "mu"], ["y"]),
    ]
    sizes = ["batch", "sequence"]
    return model(
        nodes,
        {
            "input_ids": (INT32, sizes),
            "attention_mask": (INT64, sizes),
            "token_type_ids": (INT64, sizes),
            "position_ids": (INT64, sizes),
        },
        {"y": (FLOAT, ["batch", "sequence", 4])},
        {
            "words": generator.normal(size=(101, 4)).astype(np.float32),
            "kinds": generator.normal(size=(2, 4)).astype(np.float32),
            "places": generator.normal(size=(40, 4)).astype(np.float32),
            "two": np.array([2]),
        },
    )


def test_a_transformers_inputs_are_valid_together() -> None:
    source = Model.load(encoder())
    batches = list(synthesise(source))
    assert len(batches) == 3
    with Session(source) as session:
        for batch in batches:
            assert len({array.shape for array in batch.values()}) == 1
            assert batch["input_ids"].max() < 101
            assert set(np.unique(batch["token_type_ids"])) <= {0, 1}
            assert batch["position_ids"].max() < 40
            assert set(np.unique(batch["attention_mask"])) <= {0, 1}
            session.run(batch)
    tail = batches[1]["attention_mask"]
    assert tail[0].all(), "one row is full"
    assert not tail[1:].all(), "others end in padding"
    assert (np.diff(tail, axis=1) <= 0).all(), "padding stands at the end"


def test_a_decoders_lengths_agree() -> None:
    made = list(
        synthesise(
            identity(
                input_ids=(INT64, ["batch_size", "sequence_length"]),
                attention_mask=(INT64, ["batch_size", "past_sequence_length + sequence_length"]),
                **{"past_key_values.0.key": (FLOAT, ["batch_size", 2, "past_sequence_length", 8])},
            )
        )
    )
    assert made[0]["past_key_values.0.key"].shape[2] == 0, "as it is called first"
    for batch in made:
        past = batch["past_key_values.0.key"].shape[2]
        assert batch["attention_mask"].shape[1] == past + batch["input_ids"].shape[1]


def test_images_are_pictures_in_the_unit_interval() -> None:
    batch = synthesise(identity(pixel_values=(FLOAT, ["batch", 3, 32, 32]))).first()
    image = batch["pixel_values"]
    assert image.shape[1:] == (3, 32, 32)
    assert 0 <= image.min() < image.max() <= 1
    rows = image[0, 0]
    assert np.corrcoef(rows[:, :-1].reshape(-1), rows[:, 1:].reshape(-1))[0, 1] > 0.5, "neighbors resemble each other"


def test_axes_of_one_name_have_one_size() -> None:
    """What `load_inputs` refuses from others is not made up: a mask [s, s] beside [batch, s] and [batch, s, 16]."""
    source = identity(
        x=(FLOAT, ["batch", "s", 16]), ids=(INT64, ["batch", "s"]), mask=(BOOL, ["s", "s"]), n=(FLOAT, ["s"])
    )
    for batch in synthesise(source):
        length = batch["x"].shape[1]
        assert batch["ids"].shape == (batch["x"].shape[0], length)
        assert batch["mask"].shape == (length, length)
        assert batch["n"].shape == (length,)
        list(load_inputs(batch, source))


@pytest.mark.parametrize(
    ("op_type", "before", "made", "expected"),
    [
        ("Resize", ["", ""], [1, 3, None, None], [1, 3, 224, 224]),
        ("Resize", ["", ""], [1, 3, 32, 48], [1, 3, 32, 48]),
        ("Reshape", [], [3, 256], [3, 256]),
        ("Reshape", [], [3, None], [3, -1]),
        ("Expand", [], [2, 3, 16, 16], [2, 3, 16, 16]),
    ],
)
def test_a_shape_is_that_of_the_result(op_type: str, before: list[str], made: list[Any], expected: list[int]) -> None:
    """All axes at the size of an image would make 224 ** 4 values."""
    node = helper.make_node(op_type, ["x", *before, "target"], ["y"])
    source = model(
        [node], {"x": (FLOAT, [1, 3, 16, 16]), "target": (INT64, [len(made)])}, {"y": (FLOAT, made)}, opset=17
    )
    batch = synthesise(Model.load(source)).first()
    np.testing.assert_array_equal(batch["target"], expected)
    with Session(Model.load(source)) as session:
        assert session.run(batch)["y"].shape == tuple(256 if extent == -1 else extent for extent in expected)


def test_every_element_type_that_can_be_made() -> None:
    source = identity(
        a=(BOOL, ["n"]), b=(TensorProto.INT8, [3]), c=(FLOAT16, [2, 2]), d=(DOUBLE, []), e=(UINT8, [1, 3, 8, 8]),
        f=(TensorProto.BFLOAT16, [2]), g=(INT64, []),
    )  # fmt: skip
    batch = synthesise(source).first()
    assert {name: array.dtype for name, array in batch.items()} == {
        "a": np.dtype(bool), "b": np.dtype(np.int8), "c": np.dtype(np.float16), "d": np.dtype(np.float64),
        "e": np.dtype(np.uint8), "f": np.dtype(ml_dtypes.bfloat16), "g": np.dtype(np.int64),
    }  # fmt: skip
    assert batch["d"].shape == ()
    assert batch["e"].max() > 50


def test_strings_are_refused_clearly() -> None:
    with pytest.raises(InputsError, match="holds strings, which cannot be synthesised; give --inputs"):
        synthesise(identity(s=(STRING, ["n"])))


def test_overridable_initializers_are_no_inputs() -> None:
    proto = model(
        [helper.make_node("Mul", ["x", "k"], ["y"])],
        {"x": (FLOAT, [1])},
        {"y": (FLOAT, [1])},
        {"k": np.ones(1, np.float32)},
    )
    proto.graph.input.append(helper.make_tensor_value_info("k", FLOAT, [1]))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(1), "unused"))
    assert [spec.name for spec in input_specs(Model.load(proto))] == ["x"]


def test_tails_of_every_rank() -> None:
    assert real_tokens(()).all()
    assert real_tokens((1, 24)).all()
    wide = real_tokens((4, 1, 24, 24))
    assert wide.shape == (4, 1, 24, 24)
    np.testing.assert_array_equal(wide[3, 0].sum(axis=1), np.full(24, 18))


def test_the_tail_of_padding_grows_by_a_twelfth_over_four_rows() -> None:
    rows = real_tokens((6, 24))
    lengths = [24, 22, 20, 18, 24, 22]
    np.testing.assert_array_equal(rows, [[at < length for at in range(24)] for length in lengths])
    assert rows.sum(axis=1).min() == 24 * 3 // 4, "a quarter at most"
    assert real_tokens((24,)).all()
    assert real_tokens((4, 1)).all(), "no row is without a token"


@pytest.mark.parametrize(
    ("kind", "low", "high", "whole"),
    [("positive", 0.5, 1.5, False), ("audio", -1.0, 1.0, False), ("integer", 0, 1, True), ("float", -4.0, 4.0, False)],
)
def test_made_up_values_fill_the_range_of_their_kind(kind: str, low: float, high: float, whole: bool) -> None:
    values = _values(Role(kind), (40, 500), Sizes("", 1, 8, 0, 32, 8), np.random.default_rng(0))
    assert values.shape == (40, 500)
    assert low <= values.min()
    assert values.max() <= high
    assert (values == np.round(values)).all() == whole
    if kind == "audio":  # as loud as speech, not as loud as can be
        assert abs(values.std() - 0.1) < 0.01
    elif kind == "float":
        assert abs(values.std() - 1.0) < 0.02
    else:
        assert values.min() - low < 1e-3
        assert high - values.max() < 1e-3
