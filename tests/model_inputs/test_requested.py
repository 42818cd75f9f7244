"""Inputs as the command line asks for them: shapes, ranges, rows at a time, arrays without a name, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from precision_planner.cli.made_up import parse_ranges
from precision_planner.cli.main import main
from precision_planner.errors import InputsError
from precision_planner.model import Model
from precision_planner.model.arrays import read_npz, read_polygraphy
from precision_planner.model.inputs import InputRequest, load_inputs

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list]], constants: dict[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def of_height_48() -> onnx.ModelProto:
    """A fixed height behind a dynamic name, as PP-OCR's recognizer is written."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["r"], "r"),
        helper.make_node("Transpose", ["r"], ["t"], "t", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "w"], ["y"], "m"),
    ]
    constants = {"s": np.array([0, 144, -1]), "w": rng.normal(0, 0.1, (144, 8)).astype(np.float32)}
    return model(nodes, {"x": (FLOAT, ["N", 3, "H", "W"])}, constants)


def add(a: list, b: list) -> onnx.ModelProto:
    return model([helper.make_node("Add", ["a", "b"], ["y"])], {"a": (FLOAT, a), "b": (FLOAT, b)})


def test_shapes_seed_and_ranges() -> None:
    loaded = Model.load(of_height_48())
    request = InputRequest(shapes={"": {"x": (2, 3, 48, 320)}}, ranges={"": (3.0, 4.0)})
    (batch,) = load_inputs(request, loaded)
    assert batch["x"].shape == (2, 3, 48, 320)
    assert batch["x"].min() >= 3
    assert batch["x"].max() <= 4
    (other,) = load_inputs(InputRequest(shapes=request.shapes, ranges=request.ranges, seed=1), loaded)
    assert not np.array_equal(other["x"], batch["x"])
    labelled = InputRequest(shapes={"smallest": {"x": (1, 3, 48, 80)}, "longest": {"x": (4, 3, 48, 640)}})
    assert [batch["x"].shape[3] for batch in load_inputs(labelled, loaded)] == [80, 224, 640]


def test_a_named_axis_is_one_size_in_every_input() -> None:
    batches = load_inputs(InputRequest(shapes={"": {"a": (5, 7)}}), Model.load(add(["N", 7], ["N", 7])))
    assert {batch["b"].shape for batch in batches} == {(5, 7)}


@pytest.mark.parametrize(("name", "shape"), [("z", (1,)), ("x", (1, 3, 48)), ("x", (1, 4, 48, 320))])
def test_shapes_that_do_not_fit(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputsError, match="--input-shapes"):
        load_inputs(InputRequest(shapes={"": {name: shape}}), Model.load(of_height_48())).first()


def test_free_axes_of_every_spelling() -> None:
    """0, -1 and '?' are free; two '?' are two axes."""
    proto = add(["?", 4, "?"], ["?", 4, "?"])
    dims = proto.graph.input[1].type.tensor_type.shape.dim
    dims[0].dim_value, dims[2].dim_value = -1, 0
    loaded = Model.load(proto)
    given = {"a": np.ones((2, 4, 3), np.float32), "b": np.ones((2, 4, 1), np.float32)}
    assert load_inputs(given, loaded).first()["b"].shape == (2, 4, 1)


def test_too_large_to_be_made_up_is_one_line() -> None:
    with pytest.raises(InputsError, match=r"made-up values of input 'a' .* --input-shapes a:1x"):
        load_inputs(None, Model.load(add([2**40], [2**40]))).first()


def test_a_scalar_takes_what_it_is_compared_with() -> None:
    nodes = [
        helper.make_node("Equal", ["sr", "rate"], ["is"]),
        helper.make_node("Where", ["is", "x", "zero"], ["y"]),
    ]
    constants = {"rate": np.array(16000), "zero": np.float32(0)}
    proto = model(nodes, {"x": (FLOAT, ["N", 4]), "sr": (INT64, [])}, constants)
    assert {int(batch["sr"]) for batch in load_inputs(None, Model.load(proto))} == {16000}


@pytest.mark.parametrize("name", ["img_ids", "image_shape", "image_mask"])
def test_what_is_called_after_a_picture_is_none(name: str) -> None:
    proto = model([helper.make_node("Relu", [name], ["y"])], {name: (FLOAT, ["N", 2])})
    assert "image in" not in load_inputs(None, Model.load(proto)).source


def test_npy_and_rows_at_a_time(tmp_path: Path) -> None:
    loaded = Model.load(of_height_48())
    data = np.random.default_rng(0).normal(size=(5, 3, 48, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", data)
    batches = list(load_inputs(InputRequest(tmp_path / "x.npy", batch_size=2), loaded))
    assert [len(batch["x"]) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), data)
    with pytest.raises(InputsError, match="name no input, and the model takes 2"):
        load_inputs(tmp_path / "x.npy", Model.load(add([4], [4]))).first()


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for number, value in enumerate((0, 255)):
        image.new("RGB", (20, 10), (value, 0, 0)).save(tmp_path / f"{number}.png")
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": (FLOAT, ["N", 3, 4, 6])})
    batches = list(load_inputs(tmp_path, Model.load(proto)))
    assert [batch["x"].shape for batch in batches] == [(1, 3, 4, 6)] * 2
    assert [float(batch["x"][0, 0].max()) for batch in batches] == [0.0, 1.0]
    assert batches[1]["x"][0, 1:].max() == 0


def test_ranges_are_read_as_polygraphy_writes_them_too() -> None:
    assert parse_ranges(("0:1", "a:b:-1:2", "c:[0,5]")) == {"": (0, 1), "a:b": (-1, 2), "c": (0, 5)}


def test_the_options_of_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(of_height_48(), path)
    shapes = ["--input-shapes", "x:1x3x48x320"]
    saved = tmp_path / "s.npz"
    assert main(["analyze", str(path), *shapes, "--seed", "3", "--save-inputs", str(saved)]) == 0
    assert "activations are not measured" not in capsys.readouterr().err
    assert read_npz(saved)["x"].shape == (1, 3, 48, 320)
    assert main(["diff", str(path), str(path), "--simulate", "fp16", "--inputs", str(saved)]) == 0
    assert main(["extract", str(path), "--around", "m", "-o", str(tmp_path / "e.onnx"), *shapes]) == 0
    assert main(["rewrite", str(path), "-o", str(tmp_path / "r.onnx"), *shapes]) == 0
    profile = ["--minShapes", "x:1x3x48x80", "--optShapes", "x:2x3x48x160", "--maxShapes", "x:4x3x48x320"]
    batches = tmp_path / "s.json"
    assert main(["plan", str(path), "-o", str(tmp_path / "p"), *profile, "--save-inputs", str(batches)]) == 0
    assert [batch["x"].shape for batch in read_polygraphy(batches)] == [
        (1, 3, 48, 80),
        (2, 3, 48, 160),
        (4, 3, 48, 320),
    ]
    found = json.loads((tmp_path / "p" / "plan.json").read_text())["profiles"]["x"]
    assert found == {"min": [1, 3, 48, 80], "opt": [2, 3, 48, 160], "max": [4, 3, 48, 320]}
    capsys.readouterr()
    profile[1] = "x:1x3x32x80"
    assert main(["plan", str(path), "-o", str(tmp_path / "q"), *profile]) == 2
    assert "does not run at --minShapes" in capsys.readouterr().err
    assert main(["analyze", str(path), "--inputs", str(saved), *shapes]) == 2
    assert "leave one out" in capsys.readouterr().err


def test_a_smallest_shape_that_does_not_run_is_not_written(tmp_path: Path) -> None:
    """A least length, as silero-vad has: the profile begins where the data does."""
    nodes = [
        helper.make_node("Pad", ["x", "p"], ["q"], mode="reflect"),
        helper.make_node("Unsqueeze", ["q", "ax"], ["u"]),
        helper.make_node("Conv", ["u", "w"], ["y"], strides=[64]),
    ]
    weight = np.random.default_rng(0).normal(0, 0.1, (4, 1, 256)).astype(np.float32)
    constants = {"p": np.array([0, 0, 0, 32]), "ax": np.array([1]), "w": weight}
    onnx.save(model(nodes, {"x": (FLOAT, ["N", "L"])}, constants), tmp_path / "m.onnx")
    np.savez(tmp_path / "in.npz", x=np.random.default_rng(1).normal(size=(2, 576)).astype(np.float32))
    words = ["plan", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "p"), "--inputs", str(tmp_path / "in.npz")]
    assert main(words) == 0
    found = json.loads((tmp_path / "p" / "plan.json").read_text())["profiles"]["x"]
    assert found == {"min": [1, 576], "opt": [2, 576], "max": [2, 576]}
