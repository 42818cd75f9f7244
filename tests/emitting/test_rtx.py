"""TensorRT-RTX without a GPU: what is refused and why, the typed network, the kernels."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from precision_planner.emitting.rtx import rtx_build
from precision_planner.engines.kernels import Kernel, KernelTensor, parse_kernels, parse_nodes
from precision_planner.errors import EngineError, MissingExtraError, ModelError, TargetError
from precision_planner.model import Model

pytestmark = pytest.mark.rtx

HEADER = '<ir_version: 10, opset_import: ["":17]>\n'


def parse(text):
    return onnx.parser.parse_model(HEADER + text)


def attention(elem="float16", in_fp32=()):
    """Attention on dynamic batch and length; `in_fp32`: "product" (Q K^T) or "softmax", between Casts."""
    low = 10 if elem == "float16" else 1
    product = "s = MatMul(q, k)"
    if "product" in in_fp32:
        # Its result stays FP32: a Cast straight back would let the compiler undo the island.
        product = "q32 = Cast<to=1>(q)\n k32 = Cast<to=1>(k)\n s32 = MatMul(q32, k32)"
    softmax = "p = Softmax<axis=-1>(s)"
    if "softmax" in in_fp32:
        widen = "" if "product" in in_fp32 else "s32 = Cast<to=1>(s)\n"
        softmax = f"{widen} p32 = Softmax<axis=-1>(s32)\n p = Cast<to={low}>(p32)"
    model = parse(
        f"""g ({elem}[B,S,64] x) => ({elem}[B,S,64] y) {{
        qkv = MatMul(x, w)
        q0, k0, v0 = Split<axis=-1>(qkv)
        split = Constant<value_ints=[0,0,2,32]>()
        q1 = Reshape(q0, split)
        k1 = Reshape(k0, split)
        v1 = Reshape(v0, split)
        q = Transpose<perm=[0,2,1,3]>(q1)
        k = Transpose<perm=[0,2,3,1]>(k1)
        v = Transpose<perm=[0,2,1,3]>(v1)
        {product}
        {softmax}
        [pv] o = MatMul(p, v)
        o1 = Transpose<perm=[0,2,1,3]>(o)
        join = Constant<value_ints=[0,0,64]>()
        o2 = Reshape(o1, join)
        [sum] y = Add(o2, x)
        }}"""
    )
    weight = np.random.default_rng(0).normal(size=(64, 192)) * 0.1
    dtype = np.float16 if elem == "float16" else np.float32
    model.graph.initializer.append(numpy_helper.from_array(weight.astype(dtype), "w"))
    return model


def test_types_that_meet_without_a_cast_are_refused_by_name():
    model = parse("g (float16[4] x, float[4] z) => (float16[4] y) { [first] y = Add(x, z) }")
    result = rtx_build(model)
    assert (result.ok, result.stage, result.engine) == (False, "parse", None)
    (error,) = result.errors
    assert (error.node, error.op_type) == ("first", "Add")
    assert "Half and Float" in error.message
    assert "CUDA" not in error.message
    assert "\n" not in error.message


def test_an_unknown_operator_is_refused():
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["":17, "foo":1]> g (float[4] x) => (float[4] y) { [b] y = foo.Bar(x) }'
    )
    result = rtx_build(model)
    assert not result.ok
    assert [(error.node, error.op_type) for error in result.errors] == [("b", "Bar")]


def test_the_typed_network_shows_each_layers_types():
    result = rtx_build(
        parse(
            "g (float16[4] x) => (float16[4] y){ [up] a = Cast<to=1>(x)\n [e] b = Exp(a)\n [down] y = Cast<to=10>(b) }"
        )
    )
    assert result.ok
    assert result.profiles == {}
    types = {layer.nodes: (layer.inputs, layer.outputs) for layer in result.layers}
    assert types == {
        ("up",): (("HALF",), ("FLOAT",)),
        ("e",): (("FLOAT",), ("FLOAT",)),
        ("down",): (("FLOAT",), ("HALF",)),
    }


class TestKernels:
    def test_attention_is_one_kernel_with_its_nodes_and_types(self):
        result = rtx_build(attention())
        assert result.log_captured
        assert result.fused_attention == 1
        (kernel,) = [kernel for kernel in result.kernels if kernel.is_fused_attention]
        assert "pv" in kernel.nodes
        assert {tensor.dtype for tensor in kernel.inputs + kernel.outputs} == {"Half"}
        last = result.kernels[-1]
        assert "sum" in last.nodes
        assert [tensor.name for tensor in last.outputs] == ["y"]

    @pytest.mark.parametrize(("in_fp32", "fused"), [((), 1), (("softmax",), 1), (("product", "softmax"), 0)])
    def test_an_fp32_softmax_keeps_fused_attention_and_an_fp32_product_loses_it(self, in_fp32, fused):
        assert rtx_build(attention(in_fp32=in_fp32)).fused_attention == fused

    def test_an_fp32_model_shows_float_kernels(self):
        result = rtx_build(attention("float"))
        assert result.fused_attention == 0
        (product,) = [kernel for kernel in result.kernels if kernel.kind == "gemm" and "pv" in kernel.nodes]
        assert [tensor.dtype for tensor in product.outputs] == ["Float"]

    @pytest.mark.slow
    def test_a_logger_registered_before_ours_does_not_take_the_listing(self, tmp_path):
        path = tmp_path / "m.onnx"
        onnx.save(parse("g (float[4] x) => (float[4] y) { [r] y = Relu(x) }"), path)
        code = (
            "import tensorrt_rtx as trt\n"
            "logger = trt.Logger(trt.Logger.ERROR)\n"
            "builder = trt.Builder(logger)\n"
            "from precision_planner.emitting.rtx import rtx_build\n"
            f"r = rtx_build({str(path)!r})\n"
            "print(r.ok, r.log_captured, [k.nodes for k in r.kernels])"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        assert out.stdout.splitlines()[-1] == "True True [('r',)]"


class TestProfiles:
    def test_dynamic_dimensions_get_sizes_and_equal_names_agree(self):
        result = rtx_build(parse("g (float16[N,4] x, float16[N,4] z) => (float16[N,4] y) { y = Add(x, z) }"))
        assert result.ok
        assert result.profiles["x"] == result.profiles["z"] == ((1, 4), (8, 4), (16, 4))

    def test_sizes_that_do_not_fit_are_followed_by_others(self):
        result = rtx_build(parse("g (float16[N,M] x, float16[128,7] z) => (float16[N,7] y) { y = MatMul(x, z) }"))
        assert result.ok
        assert result.profiles == {"x": ((128, 128),) * 3}

    def test_given_shapes_are_used_also_for_an_input_that_is_a_shape(self):
        model = parse("g (float16[N,6] x, int64[2] s) => (float16[A,B] y) { y = Reshape(x, s) }")
        given = {"x": ((2, 6),) * 3, "s": ((3, 4),) * 3}
        result = rtx_build(model, given)
        assert result.ok
        assert result.profiles == given

    def test_a_profile_the_network_refuses_is_a_result(self):
        model = parse("g (float16[N,4] x, float16[M,4] z) => (float16[K,4] y) { y = Add(x, z) }")
        result = rtx_build(model, {"x": ((3, 4),) * 3, "z": ((2, 4),) * 3})
        assert (result.ok, result.stage) == (False, "build")
        assert result.layers

    def test_a_profile_for_no_input_is_the_users_mistake(self):
        model = parse("g (float16[N,4] x) => (float16[N,4] y) { y = Relu(x) }")
        with pytest.raises(EngineError, match="'w' that the network has not; it has x"):
            rtx_build(model, {"x": ((1, 4),) * 3, "w": ((1, 4),) * 3})
        with pytest.raises(EngineError, match="does not fit input 'x'"):
            rtx_build(model, {"x": ((9, 4), (2, 4), (1, 4))})


class TestSources:
    @pytest.mark.slow
    def test_all_forms_of_a_model_are_the_same(self, tmp_path):
        model = attention()
        onnx.save(model, tmp_path / "inside.onnx")
        external = onnx.load(tmp_path / "inside.onnx")
        onnx.save(external, tmp_path / "outside.onnx", save_as_external_data=True, location="w.bin", size_threshold=16)
        assert (tmp_path / "w.bin").stat().st_size >= 64 * 192 * 2
        sources = (
            model,
            model.SerializeToString(),
            str(tmp_path / "inside.onnx"),
            tmp_path / "outside.onnx",
            Model.load(tmp_path / "outside.onnx"),
        )
        results = [rtx_build(source) for source in sources]
        assert [result.ok for result in results] == [True] * 5
        assert len({result.layers for result in results}) == 1

    def test_errors_of_an_external_model_are_found_too(self, tmp_path):
        model = parse("g (float[N,64] x) => (float[N,64] y) { [bad] y = MatMul(x, w) }")
        model.graph.initializer.append(numpy_helper.from_array(np.ones((64, 64), np.float16), "w"))
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=16)
        result = rtx_build(tmp_path / "m.onnx")
        assert [error.node for error in result.errors] == ["bad"]

    def test_a_missing_file_is_the_users_mistake(self, tmp_path):
        with pytest.raises((EngineError, ModelError), match=r"none\.onnx"):
            rtx_build(tmp_path / "none.onnx")

    def test_an_unknown_gpu_generation_lists_the_known(self):
        with pytest.raises(TargetError, match=r"'SM99'; take one of .*SM89"):
            rtx_build(parse("g (float[4] x) => (float[4] y) { y = Relu(x) }"), compute_capability="SM99")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError, match=r'in the checkout: pip install "\.\[rtx\]"'):
        rtx_build(b"")


class TestListing:
    LINE = (
        "Name: a+b_myl0_1, LayerType: gemm, Inputs: [ { Name: in[0], Dimensions: [-1,64], Strides: [64,1], "
        "StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major linear format }, { Name: s, Dimensions: "
        "[], Strides: [], StrideOrder: [], Datatype: Float, Format: (Linear) x }], Constants: [], Outputs: "
        "[ { Name: y, Dimensions: [-1,8], Strides: [8,1], StrideOrder: [1,0], Datatype: BFloat16, Format: f }], "
        "TacticName: t, StreamId: 0, Metadata: [ONNX Layer: /q[0]/MatMul]\x1f[ONNX Layer: b]"
    )

    def test_a_kernel_is_read_whole(self):
        assert parse_kernels(f"Layers:\n{self.LINE}\n\nI/O Tensors:\n Name: x") == (
            Kernel(
                name="a+b_myl0_1",
                kind="gemm",
                inputs=(KernelTensor("in[0]", (-1, 64), "Half"), KernelTensor("s", (), "Float")),
                constants=(),
                outputs=(KernelTensor("y", (-1, 8), "BFloat16"),),
                tactic="t",
                nodes=("/q[0]/MatMul", "b"),
            ),
        )

    def test_a_line_of_another_version_is_not_left_out_in_silence(self):
        with pytest.raises(ValueError, match="not a kernel"):
            parse_kernels("Layers:\nName: a, Kind: gemm")

    @pytest.mark.parametrize(
        ("metadata", "nodes"),
        [
            ("", ()),
            ("[ONNX Layer: a]", ("a",)),
            ("[ONNX Layer: a][ONNX Layer: b]", ("a", "b")),
            ("[ONNX Layer: a]\x1e[ONNX Layer: b]\x1f[ONNX Layer: c]", ("a", "b", "c")),
            ("[ONNX Layer: x[1]]", ("x[1]",)),
        ],
    )
    def test_metadata_gives_the_onnx_nodes(self, metadata, nodes):
        assert parse_nodes(metadata) == nodes
