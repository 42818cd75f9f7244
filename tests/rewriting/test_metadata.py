"""`--annotate`: what viewers show of nodes, and that nothing but metadata changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import precision_planner as pp
from precision_planner.cli.main import main
from precision_planner.model import Model
from precision_planner.rewriting.metadata import PREFIX, annotate
from tests.reporting.test_ribbon import overflowing

X = np.linspace(-2, 2, 16, dtype=np.float32).reshape(2, 8)


def without_metadata(proto: onnx.ModelProto) -> bytes:
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for message in (*bare.graph.node, *bare.graph.input, *bare.graph.output, *bare.graph.value_info):
        del message.metadata_props[:]
    return bare.SerializeToString(deterministic=True)


def told(node: onnx.NodeProto | onnx.ValueInfoProto) -> dict[str, str]:
    return {prop.key.removeprefix(PREFIX): prop.value for prop in node.metadata_props}


def test_nodes_say_precision_range_and_finding() -> None:
    model = Model.load(overflowing())
    analysis = pp.analyze(model, inputs={"x": X}).to_dict()
    made = annotate(model, {"square": ("fp32", "too large")}, analysis).proto
    scale, square, _ = made.graph.node
    assert told(scale)["precision"] == "fp32"
    assert told(square)["precision"] == "fp32: too large"
    exact = np.abs(X.astype(np.float64) * 300) ** 2
    assert told(square)["range"] == f"|x| {exact[exact > 0].min():.3g} to {exact.max():.3g} in FP32"
    assert told(square)["finding"].startswith("error ")
    assert told(made.graph.input[0])["range"].endswith("to 2 in FP32")
    assert without_metadata(made) == without_metadata(overflowing())


def test_other_peoples_metadata_stays_and_ours_is_not_repeated() -> None:
    proto = overflowing()
    proto.graph.node[0].metadata_props.add(key="namespace", value="block")
    model = Model.load(proto)
    analysis = pp.analyze(model, inputs={"x": X}).to_dict()
    once = annotate(model, {}, analysis)
    twice = annotate(once, {}, analysis)
    assert twice.proto == once.proto
    assert told(once.proto.graph.node[0])["namespace"] == "block"


def test_a_finding_follows_its_node_to_its_new_name() -> None:
    model = Model.load(overflowing())
    data = pp.analyze(model, inputs={"x": X}).to_dict()
    finding = {"rule": "XX001", "severity": "error", "message": "m", "action": {"nodes": ["gone", "old"]}}
    data["findings"] = [finding, {**finding, "severity": "info"}]
    made = annotate(model, {}, data, {"old": "square", "gone": None}).proto
    assert [told(node).get("finding") for node in made.graph.node] == [None, "error XX001: m", None]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["rewrite", "plan"])
def test_the_commands_annotate_what_they_write(command: str, tmp_path: Path) -> None:
    onnx.save(overflowing(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=X)
    source, data = str(tmp_path / "m.onnx"), str(tmp_path / "x.npz")
    plain, made = str(tmp_path / "plain"), str(tmp_path / "made")
    suffix = ".onnx" if command == "rewrite" else ""
    assert main([command, source, "-o", plain + suffix, "--inputs", data]) in (0, 1)
    assert main([command, source, "-o", made + suffix, "--inputs", data, "--annotate"]) in (0, 1)
    inner = "" if command == "rewrite" else "/model.onnx"
    found = onnx.load(made + suffix + inner)
    assert without_metadata(found) == without_metadata(onnx.load(plain + suffix + inner))
    onnx.checker.check_model(found, full_check=True)
    texts = [told(node) for node in found.graph.node]
    # a repair may have scaled what a finding is about: its range was another value's
    assert any("finding" in text for text in texts)
    assert any("range" in text for text in texts)
    assert all(
        text.get("precision") for node, text in zip(found.graph.node, texts, strict=True) if node.op_type == "Mul"
    )
