"""`planner diff` and `pp.diff`: outputs, layers, first divergence, tolerances, exit codes, forms."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp
from precision_planner.cli.main import main
from precision_planner.diffing import parse_tolerances
from precision_planner.errors import InputsError, ModelError, ToleranceError
from precision_planner.model import Model
from precision_planner.model.blocks import BlockChain, fetchable
from precision_planner.model.session import Session
from precision_planner.simulation import prepare
from tests.diffing.conftest import Sample
from tests.simulation.models import FLOAT, FLOAT16, chain
from tests.simulation.models import model as make

X = np.arange(1, 5, dtype=np.float32)


def test_a_model_is_identical_to_itself(tiny: Sample) -> None:
    found = pp.diff(tiny[0], tiny[0], tiny[1], layers=True)
    assert (found.grade, found.passed, found.first_divergence) == ("identical", True, None)
    assert all(output.sad == 0 and output.top1 == 1 for output in found.outputs.values())


def test_metrics_are_those_of_the_arrays_themselves(tiny: Sample) -> None:
    model, inputs = tiny
    with Session(Model.load(model)) as session:
        expected = session.run(inputs)
    given = pp.simulate(model, inputs, semantics="fused")
    found = pp.diff(model, model, inputs, simulate="fp16", semantics="fused")
    for name, output in found.outputs.items():
        delta = np.abs(given[name].astype(np.float64) - expected[name].astype(np.float64))
        assert output.sad == pytest.approx(delta.sum(axis=1).max(), rel=1e-12)
        assert output.max_abs == delta.max()
        assert 0 < output.sad < 0.1


def test_overflowing_squares_are_named(massive: Sample) -> None:
    found = pp.diff(*[massive[0]] * 2, massive[1], simulate="fp16", semantics="fused", tolerance={"sad": 1e-3})
    assert found.grade == "garbage"
    assert not found.passed
    assert found.first_divergence is not None
    assert found.first_divergence["node"] == "/encoder/layer.0/attention/output/LayerNorm/Pow"
    assert "FP16 ends at 65504" in found.first_divergence["reason"]
    assert "first wrong at" in found.verdict


def with_fault(model: onnx.ModelProto, value: str, factor: float = 1.25) -> onnx.ModelProto:
    """The model with `value` multiplied behind its producer; only the result's value is another."""
    faulty = onnx.ModelProto()
    faulty.CopyFrom(model)
    at = next(i for i, node in enumerate(faulty.graph.node) if value in node.output)
    faulty.graph.node[at].output[0] = "before_fault"
    faulty.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "fault_factor"))
    faulty.graph.node.insert(at + 1, helper.make_node("Mul", ["before_fault", "fault_factor"], [value], name="fault"))
    return faulty


def float_nodes(model: onnx.ModelProto) -> list[tuple[str, str]]:
    inferred = onnx.shape_inference.infer_shapes(model)
    infos = [*inferred.graph.value_info, *inferred.graph.output]
    floats = {info.name for info in infos if info.type.tensor_type.elem_type == FLOAT}
    # a mask of -3.4e38 masks as well when it is -inf: this fault changes nothing that anyone could see
    return [
        (node.name, node.output[0])
        for node in model.graph.node
        if node.op_type != "Constant" and node.output[0] in floats and node.name != "/Mul_1"
    ]


def _assert_named(tiny: Sample, nodes: list[tuple[str, str]]) -> None:
    model, inputs = tiny
    for name, value in nodes:
        found = pp.diff(model, with_fault(model, value), inputs, layers=True, self_check=False)
        assert found.first_divergence is not None, name
        assert found.first_divergence["node"] == name


@pytest.mark.slow
def test_a_fault_is_named_as_the_first_divergence(tiny: Sample) -> None:
    _assert_named(tiny, float_nodes(tiny[0])[5::24])


@pytest.mark.slow
def test_a_fault_in_any_node_is_named_as_the_first_divergence(tiny: Sample) -> None:
    nodes = float_nodes(tiny[0])
    assert len(nodes) > 100
    _assert_named(tiny, nodes)


def test_layers_grow_along_the_fault(tiny: Sample) -> None:
    model, inputs = tiny
    found = pp.diff(model, with_fault(model, "/embeddings/Add_output_0"), inputs)
    assert found.layers, "a wrong output is looked into without being asked"
    positions = [layer.position for layer in found.layers]
    assert positions == sorted(positions)


def test_blocks_give_what_one_run_gives(tiny: Sample) -> None:
    model = Model.load(tiny[0])
    wanted = fetchable(model)
    with Session(model, wanted) as session:
        expected = session.run(tiny[1])
    with BlockChain(model, wanted, block_bytes=1 << 14) as chain_of_blocks:
        for _ in range(2):  # the first batch cuts, the second reuses
            found = dict(chain_of_blocks.run(tiny[1]))
            assert list(found) == wanted
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array)
        assert len(chain_of_blocks.blocks) > 5


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"weight_bytes": 0}, {"block_bytes": 1}, {}])
def test_weights_that_are_let_go_come_back(tiny: Sample, options: dict[str, int]) -> None:
    simulation = prepare(tiny[0], semantics="fused")
    wanted = fetchable(simulation.model)
    wanted = [name for name in wanted if not name.endswith(("__planner_low", "__planner_cast"))]
    with Session(simulation.model, wanted) as session:
        expected = session.run(tiny[1])
    with BlockChain(simulation.model, wanted, **options) as blocks:
        for last in (False, True, True):
            found = dict(blocks.run(tiny[1], last=last))
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array)


def test_a_block_of_which_nobody_wants_anything_is_passed_over() -> None:
    nodes = [helper.make_node("Constant", [], [f"c{at}"], value_float=float(at)) for at in range(40)]
    nodes += [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Add", ["s", "s"], ["t"])]
    kinds = {"x": (FLOAT, ["n"]), "s": (FLOAT, [])}
    proto = make(nodes, kinds, {"y": (FLOAT, ["n"]), "t": (FLOAT, [])})
    with BlockChain(Model.load(proto), ["y", "t"]) as blocks:
        found = dict(blocks.run({"x": X, "s": np.float32(1.5)}))
        assert len(blocks.blocks) > 1
    np.testing.assert_array_equal(found["y"], X + X)
    np.testing.assert_array_equal(found["t"], np.float32(3.0))
    assert found["t"].shape == ()


def test_strings_pass_through_blocks_and_sessions() -> None:
    nodes = [helper.make_node("Equal", ["s", "s"], ["e"]), helper.make_node("Identity", ["s"], ["y"])]
    proto = make(nodes, {"s": (TensorProto.STRING, ["n"])}, {"y": (TensorProto.STRING, ["n"])}, opset=19)
    words = np.array(["a", "bc"], object)
    with BlockChain(Model.load(proto), ["e", "y"]) as blocks, Session(Model.load(proto)) as session:
        found = dict(blocks.run({"s": words}))
        assert list(session.run({"s": words})["y"]) == ["a", "bc"]
    assert list(found["y"]) == ["a", "bc"]
    assert found["e"].all()


def test_several_batches_give_the_worst_and_the_mean(tmp_path: Path) -> None:
    reference, candidate = chain(FLOAT, 1.0), chain(FLOAT, 1.5)
    for name, x in [("a", [1.0, 1.0]), ("b", [3.0, 1.0])]:
        np.savez(tmp_path / f"{name}.npz", x=np.array(x, np.float32))
    found = pp.diff(reference, candidate, tmp_path).outputs["y"]
    assert found.max_abs == 1.5
    assert found.mean["max_abs"] == 1.0
    assert found.sad == 1.5
    assert found.sad_mean == 1.0


def test_saved_outputs_are_compared(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", y=np.array([[1.0, 2.0]], np.float32))
    np.savez(tmp_path / "b.npz", y=np.array([[1.5, 2.0]], np.float32))
    found = pp.diff(tmp_path / "a.npz", tmp_path / "b.npz")
    assert found.outputs["y"].max_abs == 0.5
    assert pp.diff(chain(FLOAT, 1.0), {"y": X}, {"x": X}).grade == "identical"
    with pytest.raises(InputsError, match=r"has none of the outputs of .*, which are y; it has"):
        pp.diff(tmp_path / "a.npz", {"z": X})


def test_an_fp16_graph_is_not_believed_to_onnxruntime() -> None:
    typed = chain(FLOAT16, 1e4, 1e4, 1e-4, 1e-4)
    assert pp.diff(chain(FLOAT, 1e4, 1e4, 1e-4, 1e-4), typed, {"x": X}).grade == "nonfinite"
    as_it_runs = pp.diff(chain(FLOAT, 1e4, 1e4, 1e-4, 1e-4), typed, {"x": X}, simulate="none")
    assert "not an FP16 result" in as_it_runs.candidate["run"]


def test_tolerances() -> None:
    found = parse_tolerances(["sad=1e-3", "a:b:cosine=0.99"])
    assert [(t.output, t.metric, t.bound) for t in found] == [(None, "sad", 1e-3), ("a:b", "cosine", 0.99)]
    assert found[1].holds(0.995)
    assert not found[0].holds(float("nan"))
    for text, message in [
        ("sad", "is not .OUTPUT:.METRIC=VALUE"),
        ("sad=x", "is not a number"),
        ("sad=-1", "never below 0"),
        ("sad=nan", "nothing is within NaN"),
    ]:
        with pytest.raises(ToleranceError, match=message):
            parse_tolerances([text])
    with pytest.raises(ToleranceError, match="did you mean cosine"):
        pp.diff(chain(FLOAT, 1.0), chain(FLOAT, 1.0), {"x": X}, tolerance=["cosin=1"])
    with pytest.raises(ToleranceError, match="the outputs are y"):
        pp.diff(chain(FLOAT, 1.0), chain(FLOAT, 1.0), {"x": X}, tolerance=["z:sad=1"])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    onnx.save(chain(FLOAT, 1e4, 1e4, 1e-4, 1e-4), tmp_path / "m.onnx")
    onnx.save(chain(FLOAT16, 3.0), tmp_path / "half.onnx")
    onnx.save(chain(FLOAT, 3.0), tmp_path / "single.onnx")
    np.savez(tmp_path / "in.npz", x=X)
    return tmp_path


def test_the_command_and_its_exit_codes(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(files / "single.onnx"), str(files / "half.onnx"), "--inputs", str(files / "in.npz")]
    assert main(["diff", *arguments]) == 0
    assert main(["diff", *arguments, "--tolerance", "sad=0"]) == 0  # 3 x {1,2,3,4} is exact
    lossy = [str(files / "m.onnx"), str(files / "m.onnx"), "--inputs", str(files / "in.npz"), "--simulate", "fp16"]
    assert main(["diff", *lossy]) == 0
    assert main(["diff", *lossy, "--tolerance", "y:max_abs=1"]) == 1
    assert main(["diff", *lossy, "--tolerance", "y:max_ab=1"]) == 2
    assert main(["diff", str(files / "none.onnx"), str(files / "m.onnx")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("planner: error: ")
    assert "none.onnx does not exist" in error[-1]


def test_json_is_alone_on_stdout_and_strict(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(files / "m.onnx")
    assert main(["diff", source, source, "--inputs", str(files / "in.npz"), "--simulate", "fp16", "--json", "-"]) == 0

    def refuse(text: str) -> float:
        raise AssertionError(text)

    data = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert {"max_abs", "mean_abs", "sad", "rel_l2", "cosine", "top1", "nonfinite"} <= data["outputs"]["y"].keys()
    assert data["first_divergence"]["node"] == "mul1"
    assert data["passed"] is False


def test_reports_are_functions_of_the_json(files: Path) -> None:
    source, out = str(files / "m.onnx"), files / "out"
    out.mkdir()
    code = main(
        [
            "diff",
            source,
            source,
            "--inputs",
            str(files / "in.npz"),
            "--simulate",
            "fp16",
            "--tolerance",
            "sad=1",
            "--json",
            str(out / "d.json"),
            "--html",
            str(out / "d.html"),
            "--md",
            str(out / "d.md"),
            "--junit",
            str(out / "d.xml"),
        ]
    )
    assert code == 1
    again = ["--html", str(out / "e.html"), "--md", str(out / "e.md"), "--junit", str(out / "e.xml")]
    assert main(["report", str(out / "d.json"), *again]) == 0
    for suffix in ("html", "md", "xml"):
        assert (out / f"d.{suffix}").read_text() == (out / f"e.{suffix}").read_text()
    suite = ET.parse(out / "d.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert "`mul1`" in (out / "d.md").read_text()
    assert main(["report", str(files / "in.npz")]) == 2


def test_no_report_overwrites_what_it_is_of(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single, half, data = (str(files / name) for name in ("single.onnx", "half.onnx", "in.npz"))
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    arguments = ["diff", single, half, "--inputs", data]
    for option, target in (("--json", single), ("--html", half), ("--md", data)):
        assert main([*arguments, option, target]) == 2
        assert "is an input, which is never overwritten" in capsys.readouterr().err
    assert main(["analyze", single, "--json", single]) == 2
    assert main(["rewrite", single, "--json", single]) == 2
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before
    assert main([*arguments, "--json", str(files / "d.json")]) == 0
    saved = (files / "d.json").read_text()
    assert main(["report", str(files / "d.json"), "--html", str(files / "d.json")]) == 2
    assert (files / "d.json").read_text() == saved


def test_a_report_on_stdout_is_alone(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["diff", str(files / "single.onnx"), str(files / "half.onnx"), "--inputs", str(files / "in.npz")]
    assert main([*arguments, "--junit", "-"]) == 0
    assert ET.fromstring(capsys.readouterr().out).tag == "testsuite"


def test_ones_own_metric(files: Path) -> None:
    (files / "own.py").write_text("def worst(a, b):\n    return float(abs(a - b).max()) * 2\n")
    arguments = ["diff", str(files / "single.onnx"), str(files / "m.onnx"), "--inputs", str(files / "in.npz")]
    own = ["--metric", f"{files / 'own.py'}:worst"]
    assert main([*arguments, *own, "--tolerance", "worst=15.9"]) == 1  # 2 * |3 x 4 - 4|
    assert main([*arguments, *own, "--tolerance", "worst=16.1"]) == 0
    assert main([*arguments, "--metric", "own.py"]) == 2


def test_an_extract_reproduces_the_divergence(files: Path) -> None:
    source, cut = str(files / "m.onnx"), files / "cut.onnx"
    inputs = ["--inputs", str(files / "in.npz")]
    assert main(["extract", source, "--around", "mul1", "--radius", "0", "-o", str(cut), *inputs]) == 0
    onnx.checker.check_model(str(cut), full_check=True)
    found = pp.diff(cut, cut, f"{cut}.npz", simulate="fp16")
    assert found.first_divergence is not None
    assert found.first_divergence["node"] == "mul1"
    assert main(["extract", source, "--around", "mul1", "-o", str(cut), *inputs]) == 2
    assert main(["extract", source, "--around", "mull", "-o", str(files / "c.onnx"), *inputs]) == 2


def _reshaped(rows: int) -> onnx.ModelProto:
    """x [batch, 8] to [rows, 8], times two; -1 takes any batch."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("Add", ["r", "r"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [rows, 8])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("layers", [False, True])
def test_a_made_up_batch_that_only_the_candidate_refuses_is_an_error(layers: bool) -> None:
    with pytest.raises(ModelError, match="onnxruntime stopped"):
        pp.diff(_reshaped(-1), _reshaped(4), layers=layers, self_check=False)


@pytest.mark.parametrize("layers", [False, True])
def test_a_made_up_batch_that_the_reference_refuses_is_left_out(layers: bool) -> None:
    with pytest.raises(InputsError, match="no batch could be run"):
        pp.diff(_reshaped(5), _reshaped(5), layers=layers, self_check=False)
