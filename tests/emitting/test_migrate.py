"""Weakly typed recipes: read whole, checked against the model, and written as what TensorRT 11 takes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from precision_planner.cli.migrate import command
from precision_planner.emitting.migrate import Migration, migrate, read_recipe
from precision_planner.errors import EngineError
from precision_planner.model import Model

MODEL = """<ir_version: 8, opset_import: ["":17]>
g (float[B,4] x) => (float[B,4] y) <float[4] g = {1, 2, 3, 4}, float[4] b = {0, 0, 0, 0}> {
  m = Mul(x, g)
  n = LayerNormalization(m, g, b)
  s = Softmax(n)
  e = Exp(s)
  y = Add(e, b)
}"""
NAMES = {"m": "/a/Mul", "n": "/ln", "s": "/a/Softmax", "y": "/a/Add"}


def proto() -> onnx.ModelProto:
    """Five nodes; Exp has no name."""
    found = onnx.parser.parse_model(MODEL)
    for node in found.graph.node:
        node.name = NAMES.get(node.output[0], "")
    return found


@pytest.fixture
def model() -> Model:
    return Model.load(proto())


def run(recipe: str, model: Model | None = None, **options) -> Migration:
    return migrate(read_recipe(recipe), model, **options)


def words(migration: Migration, program: str) -> list[str]:
    (found,) = [shlex.split(text) for text, _ in migration.commands if text.startswith(program)]
    return found


def keeps(migration: Migration) -> list[str]:
    found = words(migration, "planner rewrite")
    return [found[at + 1] for at, word in enumerate(found) if word == "--keep-fp32"]


class TestTrtexec:
    def test_the_whole_command(self, model: Model):
        result = run(
            "CUDA_VISIBLE_DEVICES=0 /usr/src/tensorrt/bin/trtexec --onnx=m.onnx --saveEngine=m.plan --fp16 "
            "--precisionConstraints=obey --layerPrecisions=/a/Mul:fp32 --layerOutputTypes=/a/Mul:fp32 "
            "--minShapes=x:1x4 --optShapes=x:8x4 --maxShapes=x:16x4 --workspace=2048 --noTF32 "
            "--builderOptimizationLevel=4 --versionCompatible --hardwareCompatibilityLevel=ampere+ --plugins=libp.so "
            "--timingCacheFile=t.cache --verbose --iterations=10",
            model,
        )
        assert keeps(result) == ["/a/Mul"]
        assert words(result, "trtexec") == [
            "trtexec", "--onnx=m.fp16.onnx", "--saveEngine=m.plan", "--minShapes=x:1x4", "--optShapes=x:8x4",
            "--maxShapes=x:16x4", "--noTF32", "--memPoolSize=workspace:2048", "--builderOptimizationLevel=4",
            "--versionCompatible", "--hardwareCompatibilityLevel=ampere+", "--timingCacheFile=t.cache",
            "--staticPlugins=libp.so",
        ]  # fmt: skip
        assert [outcome.applied for outcome in result.outcomes] == [True]
        assert result.recipe.unknown == ()
        assert any("planner plan m.onnx" in text for text, _ in result.alternative)

    @pytest.mark.parametrize(
        ("spec", "version", "reason"),
        [
            ("/a/Mull:fp32", "8.6", "no node has this name; did it mean /a/Mul"),
            ("/a/*:fp32", "8.6", "exact names and a lone"),
            ("*a*:fp32", "10.3", "one \\* a pattern"),
            ("/ln:fp32", "8.6", "LayerNormalization layer has no name"),
            ("/a/Mul + /a/Add:fp32", "10.3", "a fused layer of a finished engine.*: /a/Mul, /a/Add"),
        ],
    )
    def test_what_matched_nothing_is_reported_and_left_out(self, model: Model, spec: str, version: str, reason: str):
        result = run(
            f'trtexec --onnx=m.onnx --fp16 --precisionConstraints=obey "--layerPrecisions={spec},/a/Add:fp32"',
            model,
            version=version,
        )
        (unmatched,) = result.unmatched
        assert re.search(reason, unmatched.reason), unmatched.reason
        # the cure for a LayerNormalization without a name is that its node has one
        assert keeps(result) == (["/ln,/a/Add"] if spec.startswith("/ln") else ["/a/Add"])

    def test_a_name_of_tensorrts_own_making_is_told(self, model: Model):
        spec = "'(Unnamed Layer* 3) [Normalization]':fp32"
        result = run(f'trtexec --onnx=m.onnx --fp16 --precisionConstraints=obey "--layerPrecisions={spec}"', model)
        assert [outcome.applied for outcome in result.outcomes] == [None]
        assert "which node it meant cannot be told" in result.outcomes[0].reason
        assert keeps(result) == []

    def test_a_pattern_that_the_version_knows_keeps_its_nodes(self, model: Model):
        result = run(
            "trtexec --onnx=m.onnx --fp16 --precisionConstraints=obey --layerPrecisions=/a/*:fp32",
            model,
            version="10.3",
        )
        assert result.outcomes[0].nodes == ("/a/Mul", "/a/Softmax", "/a/Add")
        assert keeps(result) == ["/a/*"]

    def test_constraints_that_were_never_switched_on(self, model: Model):
        result = run("trtexec --onnx=m.onnx --fp16 --layerPrecisions=/a/Mul:fp32", model)
        assert [outcome.applied for outcome in result.outcomes] == [False]
        assert "not switched on" in result.outcomes[0].reason
        assert keeps(result) == ["/a/Mul"], "what the user meant is kept all the same"

    def test_a_precision_without_an_output_type_is_noted(self, model: Model):
        result = run("trtexec --onnx=m.onnx --fp16 --precisionConstraints=obey --layerPrecisions=/a/Mul:fp32", model)
        assert "no output type was set" in result.outcomes[0].reason

    def test_an_unnamed_node_is_found_by_what_tensorrt_calls_it(self, model: Model):
        spec = "--precisionConstraints=obey --layerPrecisions=node_of_e:fp32 --layerOutputTypes=node_of_e:fp32"
        result = run(f"trtexec --onnx=m.onnx --fp16 {spec}", model)
        assert [(outcome.applied, outcome.nodes) for outcome in result.outcomes] == [(True, ("Exp(e)",))]

    def test_everything_fp32_but_some(self, model: Model):
        spec = "--layerPrecisions=*:fp32,/a/Mul:fp16,/a/Add:fp16"
        result = run(f"trtexec --onnx=m.onnx --fp16 --precisionConstraints=prefer {spec}", model)
        found = words(result, "planner rewrite")
        assert found[found.index("--only-low") + 1] == "/a/Mul,/a/Add"
        assert "--keep-fp32" not in found

    def test_int8_is_quantized_first(self, model: Model):
        result = run(
            "trtexec --onnx=m.onnx --int8 --fp16 --calib=c.cache --precisionConstraints=obey "
            "--layerPrecisions=/a/Mul:fp32,/gone:fp32",
            model,
        )
        first = shlex.split(result.commands[0][0])
        assert first[:3] == ["python", "-m", "modelopt.onnx.quantization"]
        assert {"--onnx_path=m.onnx", "--quantize_mode=int8", "--output_path=m.int8.onnx"} <= set(first)
        assert first[first.index("--nodes_to_exclude") + 1 :][:1] == ["/a/Mul"]
        assert "/gone" not in first
        assert words(result, "planner rewrite")[2:5] == ["m.int8.onnx", "-o", "m.int8.fp16.onnx"]
        assert any("c.cache" in note for note in result.notes)

    def test_a_model_with_qdq_needs_no_quantization(self):
        text = """<ir_version: 8, opset_import: ["":17]> g (float[4] x) => (float[4] y)
          <float s = {0.5}, int8 z = {0}> { q = QuantizeLinear(x, s, z)
 y = DequantizeLinear(q, s, z) }"""
        result = run("trtexec --onnx=m.onnx --int8 --fp16", Model.load(onnx.parser.parse_model(text)))
        assert not any("modelopt" in text for text, _ in result.commands)
        assert any("Q/DQ nodes already" in note for note in result.notes)

    @pytest.mark.parametrize(
        ("flags", "precision"), [("--fp16", "fp16"), ("--bf16", "bf16"), ("--best", "fp16"), ("--fp16 --bf16", "fp16")]
    )
    def test_the_low_precision(self, flags: str, precision: str):
        result = run(f"trtexec --onnx=m.onnx {flags}")
        found = words(result, "planner rewrite")
        assert found[found.index("--precision") + 1] == precision
        assert not {"--fp16", "--bf16", "--best"} & set(words(result, "trtexec"))

    def test_fp32_and_strong_recipes_need_no_rewrite(self):
        for flags in ("", "--stronglyTyped"):
            result = run(f"trtexec --onnx=m.onnx {flags}")
            assert [text.split()[0] for text, _ in result.commands] == ["trtexec"]
            assert "--onnx=m.onnx" in result.commands[0][0]

    def test_low_interfaces(self):
        assert "--io-types" in words(run("trtexec --onnx=m.onnx --fp16 --inputIOFormats=fp16:chw"), "planner rewrite")
        assert "--io-types" not in words(
            run("trtexec --onnx=m.onnx --fp16 --inputIOFormats=fp32:chw"), "planner rewrite"
        )

    def test_names_that_selectors_read_otherwise_become_patterns(self):
        result = run("trtexec --onnx=m.onnx --fp16 --precisionConstraints=obey \"--layerPrecisions='a,b':fp32,c:fp32\"")
        assert keeps(result) == ["c", "re:^a,b$"]

    def test_unknown_flags_are_told(self):
        assert run("trtexec --onnx=m.onnx --fp16 --noSuchFlag=3").recipe.unknown == ("--noSuchFlag=3",)


class TestPolygraphy:
    def test_a_command(self, model: Model):
        result = run(
            "polygraphy run m.onnx --trt --fp16 --precision-constraints obey --layer-precisions /a/Mul:float32 "
            "/gone:float32 --trt-min-shapes x:[1,4] --trt-opt-shapes x:[8,4] --trt-max-shapes x:[16,4] "
            "--pool-limit workspace:1G --save-engine m.engine --onnxrt --atol 1e-3",
            model,
        )
        assert keeps(result) == ["/a/Mul"]
        assert [outcome.applied for outcome in result.outcomes] == [True, False]
        assert words(result, "trtexec") == [
            "trtexec", "--onnx=m.fp16.onnx", "--saveEngine=m.engine", "--minShapes=x:1x4", "--optShapes=x:8x4",
            "--maxShapes=x:16x4", "--noTF32", "--memPoolSize=workspace:1024",
        ]  # fmt: skip
        assert result.recipe.unknown == ()

    def test_convert(self):
        result = run("polygraphy convert m.onnx --bf16 -o m.engine --tf32")
        assert words(result, "planner rewrite")[-2:] == ["--precision", "bf16"]
        assert "--noTF32" not in words(result, "trtexec")


SCRIPT = """
import re
import tensorrt as trt
from polygraphy import func
from polygraphy.backend.trt import CreateConfig, NetworkFromOnnxPath, Profile

raise RuntimeError("a script is read, never run")
KEEP = ["/a/Mul", "/typo"]

@func.extend(NetworkFromOnnxPath("m.onnx"))
def load_network(builder, network, parser):
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type == trt.LayerType.SHAPE:
            continue
        if layer.name in KEEP:
            layer.precision = trt.float32
            layer.set_output_type(0, trt.DataType.FLOAT)
        elif layer.type == trt.LayerType.SOFTMAX:
            layer.precision = trt.float32
        elif some_helper(layer):
            layer.precision = trt.float32

def load_config():
    return CreateConfig(fp16=True, precision_constraints="obey",
                        profiles=[Profile().add("x", min=(1, 4), opt=(8, 4), max=(16, 4))])
"""


class TestScript:
    def test_constraints_by_list_and_type(self, model: Model, tmp_path: Path):
        (tmp_path / "net.py").write_text(SCRIPT)
        result = run(str(tmp_path / "net.py"), model)
        assert [(outcome.nodes, outcome.applied) for outcome in result.outcomes] == [
            (("/a/Mul",), True),
            ((), False),
            (("/a/Softmax",), True),
        ]
        assert keeps(result) == ["/a/Mul,/a/Softmax"]
        assert result.recipe.model == "m.onnx"
        assert result.recipe.profiles == {"x": {"min": (1, 4), "opt": (8, 4), "max": (16, 4)}}
        (unread,) = result.recipe.unknown
        assert "some_helper(layer)" in unread
        assert "cannot be read" in unread

    @pytest.mark.parametrize(
        ("condition", "nodes"),
        [
            ('layer.name == "/a/Mul"', ["/a/Mul"]),
            ('"[ONNX Layer: /a/Mul]" == layer.metadata', ["/a/Mul"]),
            ('layer.name.startswith("/a/")', ["/a/Mul", "/a/Softmax", "/a/Add"]),
            ('layer.name.endswith(("Mul", "Add"))', ["/a/Mul", "/a/Add"]),
            ('"Soft" in layer.name', ["/a/Softmax"]),
            ('re.search(r"M[u]l$", layer.name)', ["/a/Mul"]),
            ('re.match("a/Mul", layer.name)', []),
            ('fnmatch.fnmatch(layer.name, "/a/*l")', ["/a/Mul"]),
            ('any(word in layer.name for word in ("Mul", "Soft"))', ["/a/Mul", "/a/Softmax"]),
            ('layer.type in (trt.LayerType.SOFTMAX, trt.LayerType.NORMALIZATION)', ["/ln", "/a/Softmax"]),
            ('layer.name.startswith("/a/") and not layer.name.endswith("Mul")', ["/a/Softmax", "/a/Add"]),
            ('layer.name.startswith("/a/") and layer.type == trt.LayerType.SOFTMAX', ["/a/Softmax"]),
            ('layer.name == "/a/Mul" or layer.name == "/a/Add"', ["/a/Mul", "/a/Add"]),
            ('layer.type != trt.LayerType.CONSTANT and "Mul" in layer.name', ["/a/Mul"]),
            ('layer.name not in ("/a/Mul", "/ln")', ["/a/Softmax", "Exp(e)", "/a/Add"]),
        ],
    )  # fmt: skip
    def test_conditions_mean_what_python_means(self, model: Model, tmp_path: Path, condition: str, nodes: list[str]):
        path = tmp_path / "net.py"
        path.write_text(
            "def f(network):\n  for layer in network:\n"
            f"    if {condition}:\n      layer.precision = trt.float32\n      layer.set_output_type(0, trt.float32)\n"
        )
        result = run(str(path), model)
        assert result.recipe.unknown == ()
        found = {node for outcome in result.outcomes for node in outcome.nodes or ()}
        assert found == set(nodes)

    def test_a_type_that_cannot_be_read_is_told(self, tmp_path: Path):
        (tmp_path / "net.py").write_text("for layer in network:\n  layer.precision = choose(layer)\n")
        assert "the type cannot be read" in run(str(tmp_path / "net.py")).recipe.unknown[0]

    def test_builder_flags(self, tmp_path: Path):
        (tmp_path / "net.py").write_text(
            "config.set_flag(trt.BuilderFlag.FP16)\nconfig.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)\n"
            "network = NetworkFromOnnxPath('k.onnx')\nlayer.precision = trt.float16\n"
        )
        recipe = read_recipe(str(tmp_path / "net.py"))
        assert (recipe.low, recipe.mode, recipe.model) == ({"fp16"}, "prefer", "k.onnx")

    @pytest.mark.parametrize(("text", "message"), [("def f(:", "not Python"), ("print(1)", "nothing to migrate")])
    def test_what_is_no_such_script_is_refused(self, tmp_path: Path, text: str, message: str):
        (tmp_path / "net.py").write_text(text)
        with pytest.raises(EngineError, match=message):
            read_recipe(str(tmp_path / "net.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("make all", "holds no trtexec, polygraphy or yolo command"),
        ("gone.py", "no such file"),
        ("trtexec --onnx=m.onnx --layerPrecisions=a", "cannot be read; write LAYER:fp32"),
        ("trtexec --onnx=m.onnx --minShapes=x", "cannot be read; write NAME:1x3"),
        ("trtexec --onnx=m.onnx --layerPrecisions", "needs a value"),
        ("trtexec --onnx='m.onnx", "cannot be read as a command"),
        ("trtexec --onnx=m.onnx --builderOptimizationLevel=x:1x3", "optimization level 'x:1x3' cannot be read"),
        ("trtexec --onnx=m.onnx --memPoolSize=workspace:inf", "size 'inf' cannot be read"),
        ("polygraphy convert m.onnx --builder-optimization-level", "needs a value"),
        ("polygraphy convert m.onnx --load-timing-cache", "needs a value"),
        ("polygraphy run m.onnx --trt-npps gone.py", "names the script gone.py, which is not here"),
    ],
)
def test_mistakes_are_said_in_a_line(text: str, message: str):
    with pytest.raises(EngineError, match=message):
        read_recipe(text)


def test_a_shell_script_holds_the_command_over_several_lines(tmp_path: Path):
    (tmp_path / "build.sh").write_text("#!/bin/sh\n# comment\ntrtexec --onnx=m.onnx \\\n  --fp16 \\\n  --noTF32\n")
    recipe = read_recipe(str(tmp_path / "build.sh"))
    assert (recipe.low, recipe.tf32, recipe.model) == ({"fp16"}, False, "m.onnx")


class TestCommand:
    def test_the_emitted_rewrite_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """The command that is printed is one that our own program takes."""
        from precision_planner.cli.main import main

        monkeypatch.chdir(tmp_path)
        onnx.save(proto(), "m.onnx")
        recipe = "trtexec --onnx=m.onnx --fp16 --precisionConstraints=obey --layerPrecisions=/a/Softmax:fp32,/gone:fp32"
        result = CliRunner().invoke(command, [recipe, "--json", "-"], standalone_mode=False)
        data = json.loads(result.stdout)
        assert data["unmatched"] == 1
        rewrite = shlex.split(data["commands"][0]["command"])
        assert main([*rewrite[1:], "--no-verify", "-q"]) == 0
        typed = onnx.load("m.fp16.onnx")
        softmax = next(node for node in typed.graph.node if node.op_type == "Softmax")
        cast = next(node for node in typed.graph.node if softmax.output[0] in node.input)
        assert cast.op_type == "Cast"

    def test_a_weak_target_is_refused(self):
        result = CliRunner().invoke(
            command, ["trtexec --onnx=m.onnx", "--target", "tensorrt-10"], standalone_mode=False
        )
        assert "no strongly typed TensorRT" in str(result.exception)
