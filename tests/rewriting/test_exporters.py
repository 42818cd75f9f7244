"""Real architectures through torch's exporters, in float16 and bfloat16, through the gates.

Random weights, small sizes. The honest error is simulated (every result rounded) and held against float64: a
network of n rounded steps is not far from n/2 ulp, so float16 must stay near 1e-2 and bfloat16 near 1e-1.
"""

from __future__ import annotations

import numpy as np
import pytest

from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.rewriting import rewrite
from precision_planner.simulation import simulate
from tests.gates import check_onnx, check_onnxruntime, check_rtx, check_shapes
from tests.patterns.test_exporters import ARCHITECTURES, UNEXPORTABLE, _executed, _export, _module

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.rtx,
    # torch and transformers warn of what they themselves deprecate while exporting
    pytest.mark.filterwarnings("ignore"),
]

EXPORTS = [("torchscript", 13), ("torchscript", 17), ("dynamo", 18)]
CASES = [(name, *export) for name in sorted(ARCHITECTURES) for export in EXPORTS if (name, *export) not in UNEXPORTABLE]
LIMIT = {"fp16": 1e-2, "bf16": 1e-1}


@pytest.mark.parametrize(("name", "exporter", "opset"), CASES)
def test_architectures_pass_the_gates_in_both_precisions(name: str, exporter: str, opset: int) -> None:
    module, x = _module(name)
    proto = _export(module, x, exporter, opset)
    _, expected = _executed(module.double(), x if x.dtype.is_floating_point is False else x.double())
    feeds = {"x": x.numpy()}
    original = Model.load(proto)
    for precision in ("fp16", "bf16"):
        result = rewrite(original, precision=precision, keep_fp32=[], verify=False)
        typed = result.model
        assert result.report["converted"] > len(result.report["kept_fp32"]), precision
        assert result.report["work"]["fp32"] == 0, result.report["work"]
        check_onnx(typed)
        check_shapes(typed)
        if precision == "fp16":
            check_onnxruntime(typed)
        check_rtx(typed, baseline=proto)
        (answer,) = simulate(result.typed, feeds).values()
        error = np.linalg.norm(answer - expected) / np.linalg.norm(expected)
        assert error < LIMIT[precision], f"{precision}: {error:.2e}"
    (wide,) = Session(original).run(feeds).values()
    np.testing.assert_allclose(wide, expected, atol=1e-4)
