"""In what kernels add up, by the names that TensorRT 10.6 gave its tactics on an H200, and expectations on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from precision_planner.cli.main import main
from precision_planner.engines.expect import split_expectations
from precision_planner.engines.layers import EngineLayer, EngineTensor
from precision_planner.engines.sums import accumulator

TACTICS = {
    "sm90_xmma_gemm_f16f16_f16f16_f16_tn_n_tilesize128x128x64_cgasize1x1x1": "fp16",
    "sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64_cgasize1x1x1": "fp32",
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_nn_n_tilesize64x64x64_cgasize1x1x1": "fp32",
    "sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize128x128x8_stage3": "fp32",
    "sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x128x32_cgasize1x1x1": "fp32",
    "sm90_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize64x64x64": "fp16",
    "sm80_xmma_fprop_wngd_f32f32_f32_f32_nchwkcrs_nchw_tilesize8x16x8": "fp32",
    "sm80_xmma_deconv_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc": "fp32",
    "turing_h1688gemm_128x128_ldg8_nn_v1": "fp16",
    "volta_s884gemm_fp16_128x64_ldg8_nn_v1": "fp32",
    "_gemm_mha_v2_0xd4b920b85565822d5c1f81146a0ae1da": "",
    "__myelin_CASK_STUB": "",
}


@pytest.mark.parametrize(("tactic", "sums"), TACTICS.items())
def test_a_tactic_says_in_what_it_adds_up(tactic: str, sums: str) -> None:
    half = (EngineTensor("x", "fp16"),)
    assert accumulator(EngineLayer("l", "gemm", half, half, tactic, ())) == sums


def test_types_say_so_where_the_tactic_does_not() -> None:
    wide, half = (EngineTensor("x", "fp32"),), (EngineTensor("x", "fp16"),)
    assert accumulator(EngineLayer("l", "gemm", wide, wide, "", ())) == "fp32"
    assert accumulator(EngineLayer("l", "gemm", half, wide, "", ())) == ""


def test_a_selector_of_sums_may_hold_commas() -> None:
    split = split_expectations(["half>=80%,kept>=100%", "sums=fp32:MatMul,Gemm"])
    assert split == (["half>=80%"], ["kept>=100%"], ["sums=fp32:MatMul,Gemm"])


def _case(folder: Path, tactics: dict[str, str]) -> tuple[str, str]:
    nodes = [
        helper.make_node("MatMul", ["x" if at == 0 else f"y{at - 1}", "w"], [f"y{at}"], name=name)
        for at, name in enumerate(tactics)
    ]
    last = nodes[-1].output[0]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [8, 8]) for name in ("x", last)]
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float16), "w")
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    half = [{"Name": "t", "Dimensions": [8, 8], "Format/Datatype": "Half"}]
    layers = [
        {"Name": f"{name}_myl0_{at}", "LayerType": "gemm", "Inputs": half, "Outputs": half, "TacticName": tactic,
         "Metadata": f"[ONNX Layer: {name}]"}
        for at, (name, tactic) in enumerate(tactics.items())
    ]  # fmt: skip
    (folder / "layers.json").write_text(json.dumps({"Layers": layers}))
    return str(folder / "layers.json"), str(folder / "m.onnx")


def test_sums_are_expected_of_every_product_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half, wide = "sm90_xmma_gemm_f16f16_f16f16_f16_tn_n", "sm90_xmma_gemm_f16f16_f16f32_f32_tn_n"
    layers, model = _case(tmp_path, {"a": wide, "b": half, "c": "stub"})
    for selector, code, words in (
        ("a", 0, "1 of 1 products sum in fp32"),
        ("MatMul", 1, "1 of 3 products sum in fp32; b: fp16"),
        ("a,c", 1, "1 of 2 products sum in fp32; c: not told (stub)"),
    ):
        assert main(["inspect", layers, "--model", model, "--expect", f"sums=fp32:{selector}"]) == code
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--expect", "kept>=100%"], "give --model"),
        (["--model", "m.onnx", "--expect", "sums=int8:a"], "sums=fp32:SEL"),
        (["--model", "m.onnx", "--expect", "kept>=100%"], "no weight"),
        (["--model", "m.onnx", "--expect", "sums=fp32:nothing"], "nothing"),
    ],
)
def test_what_cannot_be_judged_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    layers, model = _case(tmp_path, {"a": "stub"})
    assert main(["inspect", layers, *(model if a == "m.onnx" else a for a in arguments)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert words in said[0]
