"""LayerNorm as a TensorRT plugin: the library goes with the model, and the server is told to load it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from precision_planner.cli.main import main
from tests.serving.server import running

pytestmark = [pytest.mark.slow, pytest.mark.triton]


def stand_in_plugin(folder: Path) -> None:
    """The engine's stand-in: the planned graph, with what the plugin computes as a local function."""
    model = onnx.load(folder / "model.onnx")
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    node = helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["y"])
    for name in ("axis", "epsilon"):
        node.attribute.add(name=name, ref_attr_name=name, type=onnx.AttributeProto.INT if name == "axis" else 1)
    given = ["axis", "epsilon", "plugin_version", "plugin_namespace"]
    function = helper.make_function(
        "trt.plugins", "LayerNorm", ["x", "gamma", "beta"], ["y"], [node], [helper.make_opsetid("", opset)], given
    )
    model.functions.append(function)
    onnx.save(model, folder / "model.engine")


def test_is_served_the_same_way(installation, planned, planner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("libplugin.so").write_bytes(b"what a library is")
    code = main(
        [
            "plan", str(planned.model), "-o", "plan", "--inputs", str(planned.data), "--layernorm", "plugin:LayerNorm",
            "--plugins", "libplugin.so", "--io-types", "low", "--int32-inputs", "--maxShapes", "input:40x48",
        ]
    )  # fmt: skip
    assert code == 0
    stand_in_plugin(Path("plan"))
    made = planner("triton", "repo", "plan", "-o", "models", "--name", "bert")
    assert made.exit_code == 0, made.stderr
    option = next(word for word in made.stdout.split() if word.startswith("--backend-config="))
    assert option == "--backend-config=tensorrt,plugins=models/bert/plugins/libplugin.so"
    assert option.partition("plugins=")[2] in Path("models/bert/README.md").read_text()
    assert Path("models/bert/plugins/libplugin.so").read_bytes() == b"what a library is"
    for name in ("with", "without"):
        Path(name).mkdir()
    with running(installation, Path("models"), Path("without"), all_ready=False) as server:
        assert "could not find plugin" in server.said
    with running(installation, Path("models"), Path("with"), [option]) as server:
        ran = planner(
            "triton", "check", server.http, "bert", "--reference", planned.model, "--inputs", planned.data,
            "--tolerance", "cosine=0.999",
        )  # fmt: skip
        assert ran.exit_code == 0, ran.stdout + ran.stderr
