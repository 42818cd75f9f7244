"""Layer information of every version: types, shares, islands, times, expectations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from precision_planner.cli.inspect import command
from precision_planner.engines.engine_file import engine_origin, read_engine
from precision_planner.engines.inspection import inspect_layers, parse_expectations
from precision_planner.engines.layers import read_layers, type_of
from precision_planner.errors import EngineError


def tensor(name: str, **kind: str) -> dict:
    return {"Name": name, "Location": "Device", "Dimensions": [1, 4], **kind}


def v8(name: str, low: bool, source: str, target: str, kind: str = "CaskConvolution") -> dict:
    """A layer as 8.6 exports it."""
    text = "Row major linear FP16 format" if low else "Row major linear FP32"
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [tensor(source, **{"Format/Datatype": text})],
        "Outputs": [tensor(target, **{"Format/Datatype": text})],
        "TacticName": "t",
        "Metadata": f"[ONNX Layer: {name}]",
    }


LAYERS_8 = {
    "Layers": [
        {
            **v8("Reformatting CopyNode for Input Tensor 0 to conv1", True, "x", "x16", "Reformat"),
            "Metadata": "",
        },
        v8("conv1", True, "x16", "a"),
        v8("norm", False, "a", "b", "Normalization"),
        v8("scale", False, "b", "c", "PointWiseV2"),
        v8("conv2", True, "c", "d"),
        v8("head", False, "d", "y", "Softmax"),
    ],
    "Bindings": ["x", "y"],
}
PROFILE = [
    {"count": 10},
    {"name": "conv1", "timeMs": 60.0, "averageMs": 6.0, "percentage": 60.0},
    {"name": "norm", "timeMs": 10.0, "averageMs": 1.0, "medianMs": 1.0, "percentage": 10.0},
    {"name": "scale", "timeMs": 10.0, "averageMs": 1.0, "percentage": 10.0},
    {"name": "conv2", "timeMs": 15.0, "averageMs": 1.5, "percentage": 15.0},
    {"name": "head", "timeMs": 5.0, "averageMs": 0.5, "percentage": 5.0},
]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Row major linear FP16 format", "fp16"),
        ("Two wide channel vectorized row major FP16 format", "fp16"),
        ("Half", "fp16"),
        ("Channel major FP32 format", "fp32"),
        ("Float", "fp32"),
        ("BFloat16", "bf16"),
        ("Row major linear BFloat16 format", "bf16"),
        ("FP8", "fp8"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Row major linear UInt8 format", "int"),
        ("Row major linear Int32", "int"),
        ("Int64", "int"),
        ("Row major linear BOOL", "int"),
        ("N/A due to dynamic shapes", ""),
        ("Unknown format", ""),
    ],
)
def test_a_type_is_read_in_every_spelling(text: str, kind: str):
    assert type_of(text) == kind


def test_shares_islands_and_nodes_of_8_6():
    found = inspect_layers(read_layers(json.dumps(LAYERS_8), "l.json"))
    assert found.by_layers == {"fp16": 2, "fp32": 3}
    assert found.share("fp16") == pytest.approx(0.4)
    assert [(island.nodes, island.ms) for island in found.islands] == [(("norm", "scale"), None), (("head",), None)]
    with pytest.raises(EngineError, match="needs the layers' times"):
        found.share("fp16", "time")


def test_a_profile_gives_shares_of_time():
    found = inspect_layers(read_layers(json.dumps(LAYERS_8), "l.json", json.dumps(PROFILE)))
    assert found.share("fp16", "time") == pytest.approx(0.75)
    assert found.islands[0].ms == pytest.approx(2.0)
    with pytest.raises(EngineError, match="names none of the 6 layers"):
        read_layers(json.dumps(LAYERS_8), "l.json", json.dumps([{"name": "other", "averageMs": 1.0}]))


def test_version_10_and_rtx_spell_types_apart_from_formats():
    layers = [
        {
            "Name": "_gemm_mha_v2_myl0_4",
            "LayerType": "kgen",
            "Inputs": [tensor("q", **{"Format/Datatype": "Half"})],
            "Outputs": [tensor("o", **{"Format/Datatype": "Half"})],
            "Metadata": "[ONNX Layer: /qk]\x1e[ONNX Layer: /softmax]\x1f[ONNX Layer: /pv]",
        },
        {
            "Name": "__myl_Cast_myl0_5",
            "LayerType": "kgen",
            "Inputs": [tensor("o", Datatype="Half", Format="Row major linear format")],
            "Outputs": [
                tensor("p", Datatype="Float", Format="Row major linear format"),
                tensor("r", Datatype="Half", Format="Row major linear format"),
            ],
            "Metadata": "[ONNX Layer: /cast]",
        },
        {"Name": "shape", "LayerType": "shape_call", "Inputs": [], "Outputs": []},
        {"Name": "gather", "LayerType": "kgen", "Inputs": [], "Outputs": [tensor("i", Datatype="Int64")]},
    ]
    found = inspect_layers(read_layers(json.dumps({"Layers": layers}), "l.json"))
    assert found.by_layers == {"fp16": 1, "mixed": 1}
    assert found.attention == 1
    assert found.share("fp16") == pytest.approx(0.75)
    assert found.info.layers[0].nodes == ("/qk", "/softmax", "/pv")


def test_dynamic_shapes_of_8_x_are_told_by_the_tactic_alone_and_said_to_be():
    layer = v8("gemm", True, "a", "b")
    layer["Outputs"][0]["Format/Datatype"] = "N/A due to dynamic shapes"
    silent = {**layer, "Name": "other", "TacticName": ""}
    layer["TacticName"] = "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x32"
    found = inspect_layers(read_layers(json.dumps({"Layers": [layer, silent]}), "l.json"))
    assert (found.by_layers, found.inferred, found.unknown) == ({"fp16": 1}, 1, 1)


def test_names_alone_tell_no_precision_and_the_gate_says_so():
    names = ["conv1.weight + /conv1 + PWN(/act/Sigmoid, /act/Mul)", "{ForeignNode[/a.../b]}", "[trainStation1]"]
    info = read_layers(json.dumps({"Layers": names}), "l.json")
    assert info.names_only
    assert info.layers[0].nodes == ("conv1.weight", "/conv1", "/act/Sigmoid", "/act/Mul")
    assert info.layers[1].nodes == ("/a", "/b")
    (bound,) = parse_expectations(["half>=80%"])
    with pytest.raises(EngineError, match=r"profilingVerbosity=detailed"):
        bound.check(inspect_layers(info))


@pytest.mark.parametrize(
    ("bound", "met"),
    [
        ("half>=40%", True),
        ("fp16>=0.4", True),
        ("half>40%", False),
        ("half>=41%", False),
        ("low<=40%", True),
        ("fp32<=60%", True),
        ("half@time>=75%", True),
        ("half@time>=76%", False),
        ("islands==2", True),
        ("islands<=1", False),
        ("attention>=1", False),
        ("layers==6", True),
    ],
)
def test_bounds(bound: str, met: bool):
    found = inspect_layers(read_layers(json.dumps(LAYERS_8), "l.json", json.dumps(PROFILE)))
    (expectation,) = parse_expectations([bound])
    assert expectation.check(found)[0] is met


@pytest.mark.parametrize("text", ["half", "quarter>=3", "half=>3%", "half>=abc", ""])
def test_a_bound_that_cannot_be_read_is_refused(text: str):
    with pytest.raises(EngineError, match="cannot be read; write a bound"):
        parse_expectations([text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "neither an engine nor JSON"),
        ('{"Bindings": []}', "has no list of Layers"),
        ('{"Layers": []}', "lists no layers"),
        (json.dumps(PROFILE), "is a profile"),
    ],
)
def test_files_that_are_no_layer_information_are_refused(text: str, message: str):
    with pytest.raises(EngineError, match=message):
        read_layers(text, "l.json")


def test_an_engine_is_known_by_its_first_bytes():
    head = bytearray(40)
    head[:4], head[24:28] = b"ptrt", bytes([8, 6, 0, 12])
    assert engine_origin(bytes(head)) == ("tensorrt", "8.6.0.12")
    head[:4] = b"vtrt"
    assert engine_origin(bytes(head)) == ("tensorrt_rtx", "8.6.0.12")
    assert engine_origin(b"PK\x03\x04") is None


def test_an_engine_that_cannot_be_loaded_here_says_how_to_go_on(tmp_path: Path, monkeypatch):
    path = tmp_path / "m.engine"
    path.write_bytes(b"ptrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(100))
    monkeypatch.setattr("precision_planner.engines.engine_file.has_gpu", lambda: False)
    with pytest.raises(Exception, match=r"(not installed|loaded only where its GPU is).*exportLayerInfo"):
        read_engine(path)


class TestCommand:
    @pytest.fixture
    def layers(self, tmp_path: Path) -> Path:
        (tmp_path / "layers.json").write_text(json.dumps(LAYERS_8))
        (tmp_path / "profile.json").write_text(json.dumps(PROFILE))
        return tmp_path / "layers.json"

    def test_the_gate_exits_with_1(self, layers: Path):
        result = CliRunner().invoke(command, [str(layers), "--expect", "half>=80%"], standalone_mode=False)
        assert result.return_value == 1
        assert "NOT MET: half>=80% (40.0 % fp16 by layers)" in result.stdout
        result = CliRunner().invoke(command, [str(layers), "--expect", "half>=40%"], standalone_mode=False)
        assert result.return_value == 0
        assert "FP32 islands: 2" in result.stdout

    def test_json_is_alone_on_stdout(self, layers: Path):
        profile = str(layers.with_name("profile.json"))
        arguments = [str(layers), "--profile", profile, "--json", "-", "--expect", "islands==0"]
        result = CliRunner().invoke(command, arguments, standalone_mode=False)
        data = json.loads(result.stdout)
        assert (data["half_share"], data["half_share_of_time"]) == (pytest.approx(0.4), pytest.approx(0.75))
        assert data["expect"] == [{"bound": "islands==0", "met": False, "actual": "2 islands"}]
        assert result.return_value == 1
