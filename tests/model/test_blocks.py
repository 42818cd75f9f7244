"""A model cut into blocks where shape arithmetic crosses the cuts gives what it gives whole."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from precision_planner.model import Model
from precision_planner.model.blocks import BlockChain, fetchable
from precision_planner.model.session import Session
from precision_planner.simulation import RoundingPlan
from precision_planner.simulation.variants import BlockRunner

# BEiT's relative position bias, as torch's exporter writes it: the sizes come from a shape through Cast and Concat
SIZES = """
  <ir_version: 8, opset_import: ["" : OPSET]>
  g (float[n, 3, h, w] x) => (float y) {
    shape = Shape (x)
    two = Constant <value = int64[1] {2}> ()
    four = Constant <value = int64[1] {4}> ()
    axis = Constant <value = int64[1] {0}> ()
    image = Slice (shape, two, four, axis)
    wide = Cast <to = 1> (image)
    half = Constant <value = float {0.5}> ()
    halves = Mul (wide, half)
    whole = Cast <to = 7> (halves)
    front = Constant <value = int64[2] {1, 4}> ()
    sizes = Concat <axis = 0> (front, whole)
    small = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (table, , , sizes)
    flat = ReduceSum (small)
    sum = ReduceSum (x)
    y = Add (flat, sum)
  }
"""


def model(opset: int) -> Model:
    proto = parser.parse_model(SIZES.replace("OPSET", str(opset)))
    table = np.random.default_rng(0).standard_normal((1, 4, 7, 7)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(table, "table"))
    return Model.load(proto)


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("block", range(1, 8))
def test_sizes_that_are_computed_may_be_cut_from_their_resize(opset: int, block: int) -> None:
    batches = [{"x": np.random.default_rng(n).standard_normal((n, 3, 8 * n, 6)).astype(np.float32)} for n in (1, 2)]
    with Session(model(opset)) as session:
        right = [session.run(batch)["y"] for batch in batches]
    with BlockRunner(model(opset), batches, block_nodes=block) as runner:
        found = [outputs["y"] for outputs in runner.run(RoundingPlan())]
    np.testing.assert_allclose(found, right, rtol=1e-5)


@pytest.mark.parametrize("opset", [13, 17])
def test_every_value_behind_them_is_fetched(opset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precision_planner.model.blocks.FIRST_BLOCK", 1)
    whole = model(opset)
    batch = {"x": np.ones((2, 3, 8, 6), np.float32)}
    with BlockChain(whole, fetchable(whole), block_bytes=1) as chain:
        found = dict(chain.run(batch))
        assert len(chain.blocks) > 5
    assert found["small"].shape == (1, 4, 4, 3)
