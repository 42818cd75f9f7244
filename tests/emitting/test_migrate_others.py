"""Builders in Python and C++ against NVIDIA's interface, and half precision as other tools ask for it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from precision_planner.cli.main import main
from precision_planner.emitting.migrate import migrate, read_recipe
from precision_planner.errors import EngineError
from precision_planner.model import Model
from tests.emitting.test_migrate import proto

PLAIN = """
import tensorrt as trt
KEEP = ["/a/Softmax", "/gone"]
logger = trt.Logger()
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
parser = trt.OnnxParser(network, logger)
with open("detector.onnx", "rb") as file:
    parser.parse(file.read())
config = builder.create_builder_config()
config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 4 * 1024**3)
config.builder_optimization_level = 5
config.set_flag(trt.BuilderFlag.FP16)
config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
profile = builder.create_optimization_profile()
profile.set_shape("x", (1, 4), (8, 4), (32, 4))
for index in range(network.num_layers):
    layer = network.get_layer(index)
    if layer.name in KEEP:
        layer.precision = trt.float32
        layer.set_output_type(0, trt.float32)
with open("detector.engine", "wb") as file:
    file.write(builder.build_serialized_network(network, config))
"""

CPP = """
// config->setFlag(BuilderFlag::kBF16);  not this one
const std::string onnxFile = "detector.onnx";
auto config = std::unique_ptr<IBuilderConfig>(builder->createBuilderConfig());
parser->parseFromFile(onnxFile.c_str(), static_cast<int>(ILogger::Severity::kWARNING));
config->setMemoryPoolLimit(MemoryPoolType::kWORKSPACE, 2ULL << 30);
config->setBuilderOptimizationLevel(4);
config->setFlag(nvinfer1::BuilderFlag::kFP16);
config->setFlag(BuilderFlag::kPREFER_PRECISION_CONSTRAINTS);
profile->setDimensions("x", OptProfileSelector::kMIN, Dims2(1, 4));
profile->setDimensions("x", OptProfileSelector::kOPT, Dims2{8, 4});
profile->setDimensions("x", OptProfileSelector::kMAX, nvinfer1::Dims2(32, 4));
for (int i = 0; i < network->getNbLayers(); ++i) {
  ILayer* layer = network->getLayer(i);
  if (std::string(layer->getName()) == "/a/Softmax" || std::string(layer->getName()) == "/gone") {
    layer->setPrecision(DataType::kFLOAT);
    layer->setOutputType(0, DataType::kFLOAT);
  }
  if (layer->getType() == LayerType::kNORMALIZATION) layer->setPrecision(DataType::kFLOAT);
  if (isSpecial(layer)) {
    layer->setPrecision(DataType::kFLOAT);
  }
}
"""


@pytest.fixture
def model() -> Model:
    return Model.load(proto())


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def words(result, program: str) -> list[str]:
    (found,) = [shlex.split(text) for text, _ in result.commands if text.startswith(program)]
    return found


def keeps(result) -> set[str]:
    found = words(result, "planner rewrite")
    return {found[at + 1] for at, word in enumerate(found) if word == "--keep-fp32"}


class TestPlainPython:
    def test_what_the_builder_is_told(self, tmp_path: Path, model: Model) -> None:
        recipe = read_recipe(written(tmp_path, "build.py", PLAIN))
        assert (recipe.model, recipe.engine, recipe.mode, recipe.low) == (
            "detector.onnx", "detector.engine", "obey", {"fp16"},
        )  # fmt: skip
        assert recipe.tf32, "TensorRT's own default is on"
        assert recipe.settings == {"workspace_bytes": 4 * 1024**3, "optimization_level": 5}
        assert recipe.profiles == {"x": {"min": (1, 4), "opt": (8, 4), "max": (32, 4)}}
        result = migrate(recipe, model)
        assert keeps(result) == {"/a/Softmax"}
        build = words(result, "trtexec")
        assert {"--memPoolSize=workspace:4096", "--builderOptimizationLevel=5"} <= set(build)
        assert "--noTF32" not in build
        assert "--saveEngine=detector.engine" in build

    def test_tf32_is_off_where_its_flag_is_cleared(self, tmp_path: Path) -> None:
        text = PLAIN + "config.clear_flag(trt.BuilderFlag.TF32)\n"
        assert not read_recipe(written(tmp_path, "build.py", text)).tf32

    def test_polygraphys_default_stays_off(self, tmp_path: Path) -> None:
        text = 'CreateConfig(fp16=True)\nNetworkFromOnnxPath("m.onnx")\n'
        assert not read_recipe(written(tmp_path, "build.py", text)).tf32

    def test_an_old_workspace_and_a_strong_network(self, tmp_path: Path) -> None:
        text = """
config = builder.create_builder_config()
config.max_workspace_size = 1 << 28
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser.parse_from_file("typed.onnx")
"""
        recipe = read_recipe(written(tmp_path, "build.py", text))
        assert recipe.strong
        assert recipe.model == "typed.onnx"
        assert recipe.settings["workspace_bytes"] == 1 << 28


class TestCpp:
    def test_what_the_builder_is_told(self, tmp_path: Path, model: Model) -> None:
        recipe = read_recipe(written(tmp_path, "build.cpp", CPP))
        assert (recipe.model, recipe.mode, recipe.low, recipe.tf32) == ("detector.onnx", "prefer", {"fp16"}, True)
        assert recipe.settings == {"workspace_bytes": 2 << 30, "optimization_level": 4}
        assert recipe.profiles == {"x": {"min": (1, 4), "opt": (8, 4), "max": (32, 4)}}
        result = migrate(recipe, model)
        kept = {name for selector in keeps(result) for name in selector.split(",")}
        assert {"/a/Softmax", "LayerNormalization"} <= kept
        assert "/gone" not in kept or len(result.unmatched) == 1
        assert [text for text in recipe.unknown if "isSpecial(layer)" in text]

    def test_tf32_and_strong_typing(self, tmp_path: Path) -> None:
        text = "config->clearFlag(BuilderFlag::kTF32);\nbuilder->createNetworkV2(1U << kSTRONGLY_TYPED);\n"
        recipe = read_recipe(written(tmp_path, "build.cc", text))
        assert recipe.strong
        assert not recipe.tf32

    @pytest.mark.parametrize(
        ("written_as", "size"),
        [("1U << 20", 1 << 20), ("1_GiB", 1 << 30), ("16 * 1024 * 1024", 16 << 20), ("size_t(1) << 31", 1 << 31)],
    )
    def test_sizes(self, tmp_path: Path, written_as: str, size: int) -> None:
        text = f"config->setFlag(kFP16); config->setMemoryPoolLimit(MemoryPoolType::kWORKSPACE, {written_as});"
        assert read_recipe(written(tmp_path, "b.cpp", text)).settings["workspace_bytes"] == size

    def test_a_file_without_a_builder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="calls no builder"):
            read_recipe(written(tmp_path, "main.cpp", "int main() { return 0; }"))


def test_a_constraint_that_matched_nothing_is_offered_as_a_comment(tmp_path: Path, model: Model, capsys) -> None:
    path = written(tmp_path, "build.py", PLAIN.replace("/gone", "/a/Sofmax"))
    result = migrate(read_recipe(path), model)
    assert [option for option, _ in result.offered] == ["--keep-fp32 /a/Sofmax"]
    assert "did it mean /a/Softmax" in result.offered[0][1]
    assert result.to_dict()["offered"][0]["option"] == "--keep-fp32 /a/Sofmax"
    import onnx

    onnx.save(proto(), tmp_path / "m.onnx")
    main(["migrate", path, "--model", str(tmp_path / "m.onnx")])
    assert "#   --keep-fp32 /a/Sofmax   # had no effect before: no node has this name" in capsys.readouterr().out


def test_yolo_export_half() -> None:
    result = migrate(read_recipe("yolo export model=runs/yolo11n.pt format=engine half=True imgsz=640 dynamic=True"))
    export, rewrite, build = (shlex.split(command) for command, _ in result.commands)
    assert export == ["yolo", "export", "model=runs/yolo11n.pt", "imgsz=640", "dynamic=True", "format=onnx"]
    assert rewrite[:3] == ["planner", "rewrite", "runs/yolo11n.onnx"]
    assert "--onnx=runs/yolo11n.fp16.onnx" in build
    assert "--saveEngine=runs/yolo11n.engine" in build
    with pytest.raises(EngineError, match="only export"):
        read_recipe("yolo predict model=yolo11n.pt half=True")


@pytest.mark.parametrize(
    ("text", "model", "low"),
    [
        ('YOLO("a.pt").export(format="engine", half=True)\n', "", {"fp16"}),
        (
            'ort.InferenceSession("net.onnx", providers=[("TensorrtExecutionProvider", '
            '{"trt_fp16_enable": True, "trt_max_workspace_size": 1073741824})])\n',
            "net.onnx",
            {"fp16"},
        ),
        ("m = torch_tensorrt.compile(model, inputs=x, enabled_precisions={torch.float32, torch.half})\n", "", {"fp16"}),
        ("m = torch_tensorrt.compile(model, inputs=x, enabled_precisions={torch.bfloat16})\n", "", {"bf16"}),
    ],
)
def test_half_as_other_tools_ask_for_it(tmp_path: Path, text: str, model: str, low: set[str]) -> None:
    recipe = read_recipe(written(tmp_path, "run.py", text))
    assert (recipe.model, recipe.low) == (model, low)
    assert recipe.notes
    assert words(migrate(recipe), "planner rewrite")


def test_what_is_switched_off_is_not_half(tmp_path: Path) -> None:
    text = 'ort.InferenceSession("net.onnx", providers=[("TensorrtExecutionProvider", {"trt_fp16_enable": False})])\n'
    recipe = read_recipe(written(tmp_path, "run.py", text))
    assert recipe.low == frozenset()


def test_tritons_precision_mode(tmp_path: Path) -> None:
    text = """
optimization { execution_accelerators { gpu_execution_accelerator : [ {
  name : "tensorrt"
  parameters { key: "precision_mode" value: "FP16" }
  parameters { key: "max_workspace_size_bytes" value: "1073741824" }
} ] } }
"""
    recipe = read_recipe(written(tmp_path, "config.pbtxt", text))
    assert recipe.low == {"fp16"}
    assert recipe.settings["workspace_bytes"] == 1 << 30
    assert Path(recipe.model) == tmp_path / "1" / "model.onnx"
    with pytest.raises(EngineError, match="asks for no precision"):
        read_recipe(written(tmp_path, "other.pbtxt", 'name: "m"'))
