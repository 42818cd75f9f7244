"""Reading external data and writing models: streamed, atomic, nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from precision_planner.errors import ExternalDataError, OutputError
from precision_planner.model import LazyPayload, Model, set_payload
from tests.model.graphs import encoded, holding


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model with its weights in an external file, written by onnx itself."""
    proto = holding(encoded("w", "raw_float", 3000)[0], "initializer")
    path = tmp_path / "in" / "m.onnx"
    path.parent.mkdir()
    onnx.save_model(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def initializer(path: Path, name: str = "w") -> np.ndarray:
    proto = onnx.load(path)
    return numpy_helper.to_array(next(tensor for tensor in proto.graph.initializer if tensor.name == name))


def test_external_data_is_mapped_and_written_beside_the_output(external: Path, tmp_path: Path) -> None:
    model = Model.load(external)
    assert model.external
    assert model.files == {external, external.parent / "w.bin"}
    written = model.save(tmp_path / "out.onnx")
    assert written == [tmp_path / "out.onnx", tmp_path / "out.onnx.data"]
    np.testing.assert_array_equal(initializer(tmp_path / "out.onnx"), initializer(external))


def test_external_data_may_move_inside(external: Path, tmp_path: Path) -> None:
    Model.load(external).save(tmp_path / "one.onnx", external=False)
    assert [file.name for file in tmp_path.glob("one*")] == ["one.onnx"]
    np.testing.assert_array_equal(initializer(tmp_path / "one.onnx"), initializer(external))


def test_external_offsets_are_aligned(tmp_path: Path) -> None:
    proto = holding(encoded("w", "raw_float", 777)[0], "initializer")
    proto.graph.initializer.append(encoded("v", "half_int32", 999, 1)[0])
    Model.load(proto).save(tmp_path / "m.onnx", external=True)
    stripped = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in stripped.graph.initializer]
    assert [int(entry["offset"]) % 4096 for entry in entries] == [0, 0]
    np.testing.assert_array_equal(initializer(tmp_path / "m.onnx", "v"), encoded("v", "half_int32", 999, 1)[1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path.parent / "w.bin").unlink(), "does not exist"),
        (lambda path: (path.parent / "w.bin").write_bytes(b"\0" * 11999), "cut short"),
    ],
)
def test_missing_and_short_external_data(external: Path, damage, message: str) -> None:
    damage(external)
    with pytest.raises(ExternalDataError, match=message):
        Model.load(external)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", ""])
def test_external_data_outside_the_folder_is_refused(external: Path, location: str) -> None:
    proto = onnx.load(external, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    external.write_bytes(proto.SerializeToString())
    with pytest.raises(ExternalDataError, match="outside the folder"):
        Model.load(external)


def test_external_length_that_contradicts_the_shape(external: Path) -> None:
    proto = onnx.load(external, load_external_data=False)
    proto.graph.initializer[0].dims[0] = 2999
    external.write_bytes(proto.SerializeToString())
    with pytest.raises(ExternalDataError, match="12000 bytes of external data where its shape"):
        Model.load(external)


def test_a_proto_in_memory_cannot_name_external_data(external: Path) -> None:
    with pytest.raises(ExternalDataError, match="pass the model's path"):
        Model.load(onnx.load(external, load_external_data=False))


def test_an_output_is_not_overwritten_and_the_input_never(external: Path, tmp_path: Path) -> None:
    model = Model.load(external)
    before = external.read_bytes(), (external.parent / "w.bin").read_bytes()
    (tmp_path / "taken.onnx").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        model.save(tmp_path / "taken.onnx")
    for force in (False, True):
        with pytest.raises(OutputError, match="is the input"):
            model.save(external, force=force)
    assert (tmp_path / "taken.onnx").read_text() == "mine"
    assert (external.read_bytes(), (external.parent / "w.bin").read_bytes()) == before
    model.save(tmp_path / "taken.onnx", force=True)
    np.testing.assert_array_equal(initializer(tmp_path / "taken.onnx"), initializer(external))


def test_a_link_to_the_input_is_the_input(external: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.onnx"
    link.symlink_to(external)
    with pytest.raises(OutputError, match="is the input"):
        Model.load(external).save(link, force=True)


@pytest.mark.parametrize("external_output", [False, True])
def test_an_interruption_leaves_no_half_file_and_the_old_one(tmp_path: Path, external_output: bool) -> None:
    model = Model.load(holding(encoded("w", "raw_float", 3000)[0], "initializer"))

    def interrupted() -> Iterator[bytes]:
        yield b"\0" * 4096
        raise KeyboardInterrupt

    weights, key = model.weights.add(LazyPayload(12000, interrupted))
    proto = model.edit()
    set_payload(proto.graph.initializer[0], key)
    (tmp_path / "m.onnx").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        model.with_proto(proto, weights).save(tmp_path / "m.onnx", force=True, external=external_output)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "old"


def test_missing_output_folder(tmp_path: Path) -> None:
    model = Model.load(holding(encoded("w", "raw_float", 10)[0], "initializer"))
    with pytest.raises(OutputError, match="does not exist; create it"):
        model.save(tmp_path / "no" / "m.onnx")


def test_a_computed_payload_must_keep_its_promise() -> None:
    payload = LazyPayload(8, lambda: [np.zeros(3, np.float16)])
    with pytest.raises(AssertionError, match="gave 6 bytes and promised 8"):
        list(payload.chunks())


def test_an_untouched_model_is_written_with_the_same_content(tmp_path: Path) -> None:
    proto = holding(encoded("w", "int64_data", 3000)[0], "constant")
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    Model.load(tmp_path / "in.onnx").save(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == proto
