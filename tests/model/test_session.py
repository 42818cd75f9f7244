"""Running models by onnxruntime: what comes out stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from precision_planner.model import Model
from precision_planner.model.session import Session


@pytest.mark.parametrize("optimize", [False, True])
def test_an_output_that_is_an_input_outlives_it(optimize: bool) -> None:
    types = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 8]) for name in "xv"]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"]), helper.make_node("Identity", ["x"], ["v"])],
        "passes_through",
        types[:1],
        [*types, helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 8])],
        [numpy_helper.from_array(np.float32(2), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    expected = np.arange(512, dtype=np.float32).reshape(64, 8)
    with Session(Model.load(model), optimize=optimize) as session:
        given = {"x": expected.copy()}
        found = session.run(given)
    given["x"][:] = -1  # as whoever gets its memory next would
    for name, factor in (("x", 1), ("v", 1), ("y", 2)):
        np.testing.assert_array_equal(found[name], factor * expected, err_msg=name)
