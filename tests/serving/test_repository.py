"""Repositories as files: what the config says, what an existing one is held to, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from precision_planner.errors import OutputError, PlanError, TargetError
from precision_planner.model.arrays import write_npz
from precision_planner.plans import PrecisionPlan, Profile
from precision_planner.reporting.check import check_report
from precision_planner.serving.client import parse_address
from precision_planner.serving.repository import ServingOptions, write_repository
from precision_planner.serving.source import largest_batch, read_plan_folder
from tests.serving.conftest import identity_model, plan_folder

PROFILE = {"x": Profile((1, 256), (8, 256), (40, 256))}


def config_of(repository, name) -> ModelConfig:
    return text_format.Parse((repository / name / "config.pbtxt").read_text(), ModelConfig())


def with_golden(folder, cases: dict[str, int], columns: int = 256):
    """Golden cases of so many rows."""
    (folder / "golden").mkdir()
    for name, rows in cases.items():
        for kind, key in (("inputs", "x"), ("outputs", "y")):
            with (folder / "golden" / f"{name}.{kind}.npz").open("wb") as file:
                write_npz(file, {key: np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)})
    return folder


def model_of(inputs: dict, outputs: dict) -> onnx.ModelProto:
    """One Identity an output, of the first input."""
    infos = [
        [helper.make_tensor_value_info(name, elem_type, shape) for name, (elem_type, shape) in side.items()]
        for side in (inputs, outputs)
    ]
    nodes = [helper.make_node("Identity", [next(iter(inputs))], [name]) for name in outputs]
    graph = helper.make_graph(nodes, "g", *infos)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


HALF = TensorProto.FLOAT16


class TestConfig:
    def test_says_what_the_typed_model_takes(self, tmp_path):
        folder = plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE)
        write_repository(folder, tmp_path / "repo", ServingOptions(queue_delay_us=250, instances=2))
        config = config_of(tmp_path / "repo", "net")
        assert (config.name, config.platform, config.max_batch_size) == ("net", "tensorrt_plan", 40)
        assert [(t.name, DataType.Name(t.data_type), list(t.dims)) for t in config.input] == [("x", "TYPE_FP16", [256])]
        assert list(config.dynamic_batching.preferred_batch_size) == [8, 40]
        assert config.dynamic_batching.max_queue_delay_microseconds == 250
        assert (config.instance_group[0].kind, config.instance_group[0].count) == (ModelInstanceGroup.KIND_AUTO, 2)
        assert config.version_policy.latest.num_versions == 1
        assert [spec.batch_size for spec in config.optimization.cuda.graph_spec] == [1, 8, 40]
        assert (tmp_path / "repo" / "net" / "1" / "model.plan").read_bytes() == (folder / "model.engine").read_bytes()

    def test_names_gpus_where_they_are_chosen(self, tmp_path):
        folder = plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE)
        write_repository(folder, tmp_path / "repo", ServingOptions(gpus=(0, 2)))
        group = config_of(tmp_path / "repo", "net").instance_group[0]
        assert (group.kind, list(group.gpus)) == (ModelInstanceGroup.KIND_GPU, [0, 2])

    def test_a_row_of_one_number_is_reshaped(self, tmp_path):
        model = model_of({"x": (HALF, ["n"])}, {"y": (HALF, ["n"])})
        profiles = {"x": Profile((1,), (2,), (4,))}
        write_repository(plan_folder(tmp_path / "net", model, profiles=profiles), tmp_path / "repo")
        entry = config_of(tmp_path / "repo", "net").input[0]
        assert list(entry.dims) == [1]
        assert entry.HasField("reshape")
        assert list(entry.reshape.shape) == []

    def test_fixed_shapes_are_served_without_batching(self, tmp_path):
        folder = plan_folder(tmp_path / "net", identity_model(HALF, (4, 256)))
        write_repository(folder, tmp_path / "repo")
        config = config_of(tmp_path / "repo", "net")
        assert (config.max_batch_size, list(config.input[0].dims)) == (0, [4, 256])
        assert not config.HasField("dynamic_batching")

    def test_tensorrt_8_takes_int32_for_int64(self, tmp_path):
        model = model_of({"x": (TensorProto.INT64, ["n", 4])}, {"y": (TensorProto.INT64, ["n", 4])})
        profiles = {"x": Profile((1, 4), (2, 4), (4, 4))}
        folder = plan_folder(tmp_path / "net", model, target="tensorrt-8.6", profiles=profiles)
        made = write_repository(folder, tmp_path / "repo")
        assert DataType.Name(config_of(tmp_path / "repo", "net").input[0].data_type) == "TYPE_INT32"
        assert any("must send INT32" in warning for warning in made.warnings)


class TestBatch:
    @pytest.mark.parametrize(
        ("inputs", "outputs", "golden", "most"),
        [
            ({"x": (HALF, ["batch", 256])}, {"y": (HALF, ["batch", 256])}, {}, 40),
            # an exporter's own name for the output's rows: the golden cases show that they are the input's
            ({"x": (HALF, ["batch", 256])}, {"y": (HALF, ["Identityy_dim_0", 256])}, {"a": 1, "b": 3}, 40),
            ({"x": (HALF, ["batch", 256])}, {"y": (HALF, ["Identityy_dim_0", 256])}, {"a": 3}, 0),
            ({"x": (HALF, ["batch", 256])}, {"y": (HALF, [4, 256])}, {}, 0),
            ({"x": (HALF, ["sequence", 256])}, {"y": (HALF, ["sequence", 256])}, {}, 0),
            ({"x": (HALF, ["n", 256]), "z": (HALF, ["m", 256])}, {"y": (HALF, ["n", 256])}, {}, 0),
        ],
    )
    def test_is_a_first_axis_that_all_share(self, tmp_path, inputs, outputs, golden, most):
        profiles = {name: Profile((1, 256), (8, 256), (40, 256)) for name in inputs}
        folder = plan_folder(tmp_path / "net", model_of(inputs, outputs), profiles=profiles)
        if golden:
            with_golden(folder, golden)
        assert largest_batch(read_plan_folder(folder)) == most

    def test_beyond_the_profile_is_refused(self, tmp_path):
        folder = plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE)
        with pytest.raises(OutputError, match=r"--max-batch 64: the plan's profile ends at 40 rows"):
            write_repository(folder, tmp_path / "repo", ServingOptions(max_batch=64))

    def test_a_preferred_size_beyond_it_too(self, tmp_path):
        folder = plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE)
        with pytest.raises(OutputError, match=r"--preferred 41 is not within 1 and the largest batch, 40"):
            write_repository(folder, tmp_path / "repo", ServingOptions(preferred=(8, 41)))


class TestWarmup:
    def test_sends_golden_rows_in_the_servers_types(self, tmp_path):
        folder = with_golden(plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE), {"usual": 8})
        write_repository(folder, tmp_path / "repo")
        samples = config_of(tmp_path / "repo", "net").model_warmup
        assert [sample.batch_size for sample in samples] == [1, 8, 40]
        file = tmp_path / "repo" / "net" / "warmup" / samples[0].inputs["x"].input_data_file
        np.testing.assert_array_equal(np.fromfile(file, np.float16), np.arange(256, dtype=np.float16))


class TestLabels:
    def _labels(self, tmp_path, count):
        (tmp_path / "labels.txt").write_text("".join(f"class {at}\n" for at in range(count)))
        return (str(tmp_path / "labels.txt"),)

    def test_of_fp32_outputs_are_in_the_config(self, tmp_path):
        folder = plan_folder(tmp_path / "net", identity_model(TensorProto.FLOAT), profiles=PROFILE)
        write_repository(folder, tmp_path / "repo", ServingOptions(labels=self._labels(tmp_path, 256)))
        assert config_of(tmp_path / "repo", "net").output[0].label_filename == "labels.txt"

    def test_of_fp16_outputs_are_beside_it_with_a_warning(self, tmp_path):
        folder = plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE)
        made = write_repository(folder, tmp_path / "repo", ServingOptions(labels=self._labels(tmp_path, 256)))
        assert config_of(tmp_path / "repo", "net").output[0].label_filename == ""
        assert (tmp_path / "repo" / "net" / "labels.txt").is_file()
        assert any("class_count" in warning and "argmax" in warning for warning in made.warnings)

    def test_of_another_number_are_refused(self, tmp_path):
        folder = plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE)
        with pytest.raises(OutputError, match="11 labels, which is no output's number of values"):
            write_repository(folder, tmp_path / "repo", ServingOptions(labels=self._labels(tmp_path, 11)))


class TestExistingConfig:
    def _write(self, tmp_path, old, new):
        folder = plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE)
        write_repository(folder, tmp_path / "repo")
        config = tmp_path / "repo" / "net" / "config.pbtxt"
        text = config.read_text()
        assert old in text
        config.write_text(text.replace(old, new, 1))
        return folder, config

    def test_that_fits_stays_and_gets_a_further_version(self, tmp_path):
        folder, config = self._write(tmp_path, "max_queue_delay_microseconds: 100", "max_queue_delay_microseconds: 7")
        made = write_repository(folder, tmp_path / "repo")
        assert (made.models[0].version, made.models[0].validated) == (2, True)
        assert "max_queue_delay_microseconds: 7" in config.read_text()
        assert (config.parent / "2" / "model.plan").is_file()

    @pytest.mark.parametrize(
        ("old", "new", "fault"),
        [
            ('name: "net"', 'name: "other"', "name is 'other', but the folder is 'net'"),
            ("TYPE_FP16", "TYPE_FP32", "input 'x' is TYPE_FP32, the model has TYPE_FP16"),
            ("dims: 256", "dims: 300", r"input 'x' has dims \[300\], the model has \[256\]"),
            ('name: "y"', 'name: "z"', "output 'z' is none of the model's"),
            ("max_batch_size: 40", "max_batch_size: 64", "max_batch_size is 64, but the model takes at most 40 rows"),
            ("preferred_batch_size: 40", "preferred_batch_size: 41", "preferred_batch_size 41 is larger"),
            ("tensorrt_plan", "onnxruntime_onnx", "platform is 'onnxruntime_onnx'"),
            ('name: "y"', 'name: "y" label_filename: "l.txt"', "classification does not work on 16-bit outputs"),
            ("dims: 256", "dims: 256 nonsense: 1", r"config.pbtxt:\d+:\d+ .*nonsense"),
        ],
    )
    def test_that_does_not_fit_is_named(self, tmp_path, old, new, fault):
        folder, config = self._write(tmp_path, old, new)
        with pytest.raises(OutputError, match=fault):
            write_repository(folder, tmp_path / "repo")
        assert not (config.parent / "2").exists()

    def test_label_count_is_counted(self, tmp_path):
        folder = plan_folder(tmp_path / "net", identity_model(TensorProto.FLOAT), profiles=PROFILE)
        (tmp_path / "labels.txt").write_text("a\n" * 256)
        write_repository(folder, tmp_path / "repo", ServingOptions(labels=(str(tmp_path / "labels.txt"),)))
        (tmp_path / "repo" / "net" / "labels.txt").write_text("a\n" * 255)
        with pytest.raises(OutputError, match=r"'labels.txt' has 255 labels, output 'y' 256 values"):
            write_repository(folder, tmp_path / "repo")

    def test_force_writes_it_anew(self, tmp_path):
        folder, config = self._write(tmp_path, "TYPE_FP16", "TYPE_FP32")
        write_repository(folder, tmp_path / "repo", ServingOptions(version=1), force=True)
        assert "TYPE_FP32" not in config.read_text()


class TestRefused:
    def test_a_folder_without_a_plan(self, tmp_path):
        with pytest.raises(PlanError, match=r"holds no plan.json"):
            write_repository(tmp_path, tmp_path / "repo")

    def test_a_plan_without_an_engine(self, tmp_path):
        folder = plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE)
        (folder / "model.engine").unlink()
        with pytest.raises(OutputError, match="run planner build"):
            write_repository(folder, tmp_path / "repo")

    def test_an_engine_of_tensorrt_rtx(self, tmp_path):
        folder = plan_folder(tmp_path / "net", identity_model(HALF), target="tensorrt-rtx", profiles=PROFILE)
        with pytest.raises(TargetError, match="--platform onnxruntime_onnx"):
            write_repository(folder, tmp_path / "repo")
        write_repository(folder, tmp_path / "repo", ServingOptions(platform="onnxruntime_onnx"))

    def test_a_plugin_for_onnxruntime(self, tmp_path):
        model = identity_model(HALF)
        model.graph.node[0].domain = "trt.plugins"
        model.opset_import.add(domain="trt.plugins", version=1)
        folder = plan_folder(tmp_path / "net", model, profiles=PROFILE)
        with pytest.raises(TargetError, match=r"trt.plugins.Identity is none of onnxruntime's"):
            write_repository(folder, tmp_path / "repo", ServingOptions(platform="onnxruntime_onnx"))

    def test_a_plugin_library_that_is_gone(self, tmp_path):
        build = {"plugins": [str(tmp_path / "gone.so")]}
        folder = plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE, build=build)
        with pytest.raises(OutputError, match=r"gone.so does not exist here"):
            write_repository(folder, tmp_path / "repo")

    @pytest.mark.parametrize("url", ["ftp://host:8000", "host:port", "host:8000/v2", "http://", "host:70000"])
    def test_an_address_that_is_none(self, url):
        from precision_planner.errors import ServerError

        with pytest.raises(ServerError):
            parse_address(url)

    def test_loading_without_valid_data(self, planner):
        ran = planner("triton", "load", "localhost:8001", "net")
        assert ran.exit_code == 2
        assert "which values are valid; give --plan" in ran.stderr

    def test_no_server(self, tmp_path, planner):
        from tests.serving.server import free_ports

        folder = with_golden(plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE), {"usual": 8})
        for more in ((), ("--grpc",)):
            ran = planner("triton", "check", f"127.0.0.1:{free_ports(1)[0]}", "net", "--plan", folder, *more)
            assert ran.exit_code == 2
            assert "no server answers there" in ran.stderr
            assert ran.stderr.count("\n") == 1


def test_the_command_line_and_its_json(tmp_path, planner):
    folder = with_golden(plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE), {"usual": 8})
    onnx.save(identity_model(TensorProto.FLOAT), tmp_path / "base.onnx")
    ran = planner(
        "triton", "repo", folder, "-o", tmp_path / "repo", "--with-baseline", tmp_path / "base.onnx", "--json", "-"
    )
    assert ran.exit_code == 0, ran.stderr
    data = json.loads(ran.stdout)
    assert check_report(data) == "triton_repository"
    assert [model["name"] for model in data["models"]] == ["net", "net_baseline"]
    for model in data["models"]:
        for file in model["files"]:
            assert (tmp_path / "repo" / file).is_file(), file
    (tmp_path / "made.json").write_text(ran.stdout)
    again = planner("report", tmp_path / "made.json")
    assert again.exit_code == 0
    assert "net_baseline: version 1, onnxruntime_onnx, batches of up to 40" in again.stdout


def test_the_plan_of_these_tests_is_a_plan(tmp_path):
    folder = plan_folder(tmp_path / "net", identity_model(HALF), profiles=PROFILE)
    plan = PrecisionPlan.from_json((folder / "plan.json").read_text())
    assert replace(plan, model={}).target == "tensorrt-11"
