"""What TensorRT-RTX does to FP32 islands, by its engines' bytes: taken away as they are, all kept as we write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from precision_planner.cli.main import main
from precision_planner.emitting.rtx import rtx_build
from precision_planner.engines.asking import asked_weights
from precision_planner.engines.weights import find_weights
from precision_planner.model import Model
from precision_planner.rewriting import rewrite
from precision_planner.rewriting.islands import keep_islands
from tests.rewriting.test_islands import RTX, Variant, variants

pytestmark = [pytest.mark.rtx, pytest.mark.slow]


def _verdict(model: Model, weight: str, folder: Path) -> str:
    built = rtx_build(model)
    assert built.engine is not None, built.errors
    path = folder / "model.engine"
    path.write_bytes(built.engine)
    found = {one.name: one.verdict for one in find_weights(path, asked_weights(model))}
    return found[weight]


@pytest.mark.parametrize("variant", [*variants()], ids=lambda variant: variant[0])
def test_islands_are_taken_as_said_and_stay_as_written(variant: Variant, tmp_path: Path) -> None:
    _, model, weight, taken = variant
    plain = Model.load(model)
    assert _verdict(plain, weight, tmp_path) == ("rounded" if taken else "kept")
    kept = keep_islands(plain, RTX).model
    assert _verdict(kept, weight, tmp_path) in ("kept", "transformed")


def test_every_matmul_of_a_network_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    nodes, tensors, last = [], [], "x"
    for layer in range(6):
        for part in range(6):
            name = f"w{layer}_{part}"
            tensors.append(numpy_helper.from_array((rng.standard_normal((128, 128)) / 11).astype(np.float32), name))
            nodes.append(helper.make_node("MatMul", [last, name], [f"m{name}"], name=f"product_{name}"))
            nodes.append(helper.make_node("Tanh", [f"m{name}"], [f"t{name}"], name=f"tanh_{name}"))
            last = f"t{name}"
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64, 128])]
    outputs = [helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, [64, 128])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for islands, code, share in ((None, 1, "0 of 36"), (RTX, 0, "36 of 36")):
        paths = [str(tmp_path / f"{code}.{name}") for name in ("engine", "onnx")]
        typed = rewrite(model, keep_fp32="MatMul", io_types="low", islands=islands, verify=False)
        typed.save(paths[1], force=True)
        engine = rtx_build(typed.typed).engine
        assert engine is not None
        Path(paths[0]).write_bytes(engine)
        assert main(["inspect", paths[0], "--model", paths[1], "--expect", "kept>=100%"]) == code
        assert f"{share} weights kept" in capsys.readouterr().out
