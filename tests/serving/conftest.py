"""A server for the tests of this folder, where it can be had, and what it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.cli.main import main
from precision_planner.model import Model
from precision_planner.planning import plan
from precision_planner.serving.repository import ServingOptions, write_repository
from tests.serving.server import Installation, RunningServer, find_installation, running

SEQUENCE = 48
SHAPES = {"input": (1, SEQUENCE)}


@pytest.fixture(scope="session")
def installation() -> Installation:
    """The server's environment; a test that needs it is skipped, with the reason, where there is none."""
    found = find_installation()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@dataclass(frozen=True)
class Ran:
    """One command line, run in this process."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def planner(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command line of paths and words."""

    def run(*arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@dataclass(frozen=True)
class Planned:
    """The story's classifier: INT32 in, FP16 out, batches of up to 40.

    Attributes:
      model: the FP32 model.
      folder: its plan, with a stand-in for the engine: the typed graph, which the server's stand-in runs.
      data: inputs of 8 rows.
    """

    model: Path
    folder: Path
    data: Path


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    place = tmp_path_factory.mktemp("planned")
    spec = PRESETS["tiny"]
    onnx.save(build_bert_classifier(spec), place / "bert.onnx")
    inputs = sample_inputs(spec, rows=8, sequence=SEQUENCE)
    np.savez(place / "data.npz", **inputs)
    made = plan(
        str(place / "bert.onnx"),
        target="tensorrt-11",
        inputs=str(place / "data.npz"),
        tolerance=["cosine=0.999"],
        io_types="low",
        int32_inputs=True,
        min_shapes={"input": (1, SEQUENCE)},
        opt_shapes={"input": (8, SEQUENCE)},
        max_shapes={"input": (40, SEQUENCE)},
    )
    made.save(place / "plan")
    stand_in_engine(place / "plan")
    return Planned(place / "bert.onnx", place / "plan", place / "data.npz")


def stand_in_engine(folder: Path) -> None:
    """What `planner build` would write, for the server's stand-in: the typed graph, its weights within."""
    onnx.save(onnx.load(folder / "model.onnx"), folder / "model.engine")


def identity_model(elem_type: int, shape: tuple[int | str, ...] = ("batch", 256)) -> onnx.ModelProto:
    """A model that gives what it takes."""
    ends = [helper.make_tensor_value_info(name, elem_type, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def plan_folder(folder: Path, model: onnx.ModelProto, *, target: str = "tensorrt-11", **plan_fields: object) -> Path:
    """A plan's folder around a typed model, with a stand-in engine and no golden cases."""
    from precision_planner.planning import interface
    from precision_planner.plans import PrecisionPlan

    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    fields = {
        "model": {"name": f"{folder.name}.onnx"},
        "target": target,
        "typing": "strong",
        "precision": "fp16",
        "nodes": (),
        "interface": interface(Model.load(model)),
        **plan_fields,
    }
    (folder / "plan.json").write_text(PrecisionPlan(**fields).to_json())  # type: ignore[arg-type]
    stand_in_engine(folder)
    return folder


@dataclass(frozen=True)
class Served:
    """A running server and what it serves."""

    server: RunningServer
    planned: Planned
    repository: Path


@pytest.fixture(scope="session")
def served(installation: Installation, planned: Planned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """bert, bert_baseline, half and brain (echoes of FP16 and BF16), slow (3 s a request), broken (does not load)."""
    place = tmp_path_factory.mktemp("served")
    repository = place / "models"
    write_repository(planned.folder, repository, ServingOptions(name="bert", baseline=planned.model))
    for name, elem_type in (("half", TensorProto.FLOAT16), ("brain", TensorProto.BFLOAT16)):
        folder = plan_folder(place / name, identity_model(elem_type), profiles=_profile(1, 40))
        write_repository(folder, repository, ServingOptions(warmup=False))
    _write_slow(repository / "slow")
    broken = write_repository(place / "half", repository, ServingOptions(name="broken", warmup=False))
    config = repository / "broken" / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_FP16", "TYPE_FP32", 1))
    assert broken.models[0].version == 1
    scratch = tmp_path_factory.mktemp("server")
    with running(installation, repository, scratch, all_ready=False) as server:
        yield Served(server, planned, repository)


def _profile(smallest: int, largest: int) -> dict[str, object]:
    from precision_planner.plans import Profile

    return {"x": Profile((smallest, 256), (8, 256), (largest, 256))}


def _write_slow(folder: Path) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(
        'backend: "python"\nmax_batch_size: 4\n'
        'input { name: "x" data_type: TYPE_FP32 dims: 4 }\noutput { name: "y" data_type: TYPE_FP32 dims: 4 }\n'
    )
    (folder / "1" / "model.py").write_text(
        "import time\nimport triton_python_backend_utils as pb\n\n\nclass TritonPythonModel:\n"
        "    def execute(self, requests):\n        time.sleep(3)\n"
        "        return [pb.InferenceResponse([pb.Tensor('y', pb.get_input_tensor_by_name(r, 'x').as_numpy())])"
        " for r in requests]\n"
    )
