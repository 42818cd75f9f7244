"""The layer listing of TensorRT-RTX 1.4, which writes no constants, other words for types, and "Bindings" at the end.

fixtures/tensorrt-rtx-1.4.0.76.log is what its builder logged, on a CPU, for the FP16 attention of
tests/emitting/test_rtx.py; the expected values are read off that text and the model.
"""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from precision_planner.cli.main import planner
from precision_planner.engines.kernels import parse_kernels

LOG = Path(__file__).parent / "fixtures" / "tensorrt-rtx-1.4.0.76.log"


def test_every_kernel_is_read_with_its_types_and_nodes() -> None:
    kernels = parse_kernels(LOG.read_text())  # strictly: a line that cannot be read would raise
    assert [kernel.kind for kernel in kernels] == ["shape_call", "gemm", *["kgen"] * 5]
    attention = kernels[5]
    assert attention.name == "_gemm_mha_v2_myl0_5"
    assert attention.nodes == ("pv", "node_of_p", "node_of_s")
    assert [tensor.dims for tensor in attention.inputs] == [(-1, -1, 32), (-1, 32, -1), (-1, -1, 32)]
    assert {tensor.dtype for kernel in kernels for tensor in (*kernel.inputs, *kernel.outputs)} == {"Half"}
    assert [tensor.name for tensor in kernels[-1].outputs] == ["y"]
    named = {node for kernel in kernels for node in kernel.nodes}
    assert named == {
        "pv",
        "sum",
        *(f"node_of_{name}" for name in ("qkv", "q", "k", "v", "q1", "k1", "v1", "s", "p")),
    } | {
        "node_of_o1",
        "node_of_o2",
    }


def test_the_command_reads_it() -> None:
    result = CliRunner().invoke(planner, ["inspect", str(LOG), "--json", "-"])
    assert result.exit_code == 0, result.output
    assert '"_gemm_mha_v2_myl0_5"' in result.output
