"""Strip and splice: nothing of a model is lost, wherever its tensors sit and however they are encoded."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from precision_planner.errors import ModelError
from precision_planner.model import Model, iter_tensors, marker_key
from precision_planner.model.files import parse_buffer
from precision_planner.model.payloads import decode_varints
from precision_planner.model.wire import encode_varint
from tests.model.graphs import ENCODINGS, PLACES, encoded, holding


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_large_tensor_leaves_the_structure_and_comes_back(place: str, encoding: str) -> None:
    tensor, values = encoded("w", encoding, 3000)
    proto = holding(tensor, place)
    model = Model.load(proto)
    assert model.proto.ByteSize() < proto.ByteSize() / 2
    stripped = [
        site.tensor for site in iter_tensors(model.proto) if marker_key(site.tensor) and site.tensor.name == "w"
    ]
    assert stripped
    for found in stripped:
        array = model.array(found)
        assert array.dtype == values.dtype
        np.testing.assert_array_equal(array, values)
    assert onnx.ModelProto.FromString(model.to_bytes()) == proto


@pytest.mark.parametrize("place", PLACES)
def test_a_small_tensor_stays_inline(place: str) -> None:
    tensor, values = encoded("w", "raw_float", 8)
    model = Model.load(holding(tensor, place))
    found = next(site.tensor for site in iter_tensors(model.proto) if site.tensor.name == "w")
    assert marker_key(found) is None
    np.testing.assert_array_equal(model.array(found), values)


@given(
    st.lists(
        st.tuples(st.sampled_from(PLACES[:4]), st.sampled_from(ENCODINGS), st.integers(0, 700)), min_size=1, max_size=5
    )
)
def test_round_trip_keeps_every_field(parts: list[tuple[str, str, int]]) -> None:
    """The whole message survives strip and splice, several tensors of any size and place together."""
    proto = onnx.ModelProto()
    for number, (place, encoding, count) in enumerate(parts):
        tensor, _ = encoded(f"w{number}", encoding, count, number)
        proto.MergeFrom(holding(tensor, place))
    stripped, weights = parse_buffer(memoryview(proto.SerializeToString()), None)  # several models in one: not valid
    assert onnx.ModelProto.FromString(Model(stripped, weights).to_bytes()) == proto


def test_to_proto_holds_the_same_values() -> None:
    tensor, values = encoded("w", "half_int32", 4000)
    whole = Model.load(holding(tensor, "initializer")).to_proto()
    np.testing.assert_array_equal(numpy_helper.to_array(whole.graph.initializer[0]), values)


def test_a_user_string_that_looks_like_a_marker_is_left_alone() -> None:
    proto = holding(encoded("w", "raw_float", 2000)[0], "initializer")
    proto.doc_string = "planner:0 is not a marker"
    proto.graph.node[0].name = "planner:1"
    assert onnx.ModelProto.FromString(Model.load(proto).to_bytes()) == proto


def test_a_payload_in_pieces_is_kept() -> None:
    """protobuf allows a packed field in several pieces; it stays inline, whole."""
    values = np.arange(1200, dtype=np.float32)
    tensor = TensorProto(name="w", dims=[1200], data_type=TensorProto.FLOAT)
    halves = values[:600].tobytes(), values[600:].tobytes()
    head = bytes([4 << 3 | 2])
    message = tensor.SerializeToString() + b"".join(head + encode_varint(len(half)) + half for half in halves)
    assert len(TensorProto.FromString(message).float_data) == 1200
    graph = b"\x2a" + encode_varint(len(message)) + message
    model_bytes = b"\x08\x08" + b"\x3a" + encode_varint(len(graph)) + graph
    proto, weights = parse_buffer(memoryview(model_bytes), None)
    assert len(weights) == 0
    np.testing.assert_array_equal(numpy_helper.to_array(proto.graph.initializer[0]), values)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=200))
def test_decode_varints_agrees_with_protobuf(values: list[int]) -> None:
    """protobuf writes an int64 as the varint of its two's complement."""
    data = b"".join(encode_varint(value & (2**64 - 1)) for value in values)
    decoded = decode_varints(memoryview(data), 8).view(np.int64)
    np.testing.assert_array_equal(decoded, np.array(values, np.int64))


@pytest.mark.parametrize("cut", [1, 10, 100, 5000])
def test_a_file_cut_short_is_one_clear_error(cut: int, tmp_path) -> None:
    data = holding(encoded("w", "raw_float", 3000)[0], "initializer").SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[:-cut])
    with pytest.raises(ModelError, match=r"cut\.onnx is not an ONNX model"):
        Model.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello, I am a text file\n", b"\x89PNG\r\n\x1a\n" + bytes(64), b"PK\x03\x04" * 40]
)
def test_what_is_no_model_is_refused(content: bytes, tmp_path) -> None:
    path = tmp_path / "thing.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        Model.load(path)
    assert "thing.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        Model.load(tmp_path / "no.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        Model.load(tmp_path)


def test_a_tensor_whose_bytes_do_not_fit_its_shape() -> None:
    tensor, _ = encoded("w", "raw_float", 3000)
    tensor.dims[0] = 2999
    with pytest.raises(ModelError, match=r"'w'.*12000 bytes.*takes 11996"):
        Model.load(holding(tensor, "initializer"))
