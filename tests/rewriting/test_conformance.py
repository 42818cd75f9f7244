"""The conformance suite: every small graph through every gate, in float16 and bfloat16."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from precision_planner.errors import ConversionError
from precision_planner.rewriting import RewriteResult, rewrite
from tests.gates import assert_gates, check_onnx, check_onnxruntime, check_rtx, check_shapes
from tests.rewriting.conformance_models import MODELS, NOT_IN_ONNXRUNTIME

CUSTOM = frozenset({"mine", "trt", "trtp"})
NOTHING = {("einsum", "bf16"), ("half_model_with_island", "bf16")}
"""Nothing to convert to bfloat16: Einsum has no such kernel in the standard, and a half model has its precision."""

REFUSED_BY_ONNX = {"group_normalization_18", "onnxruntimes_own_norms", "sparse_initializer"}
"""onnx.checker refuses deprecated operators, unknown ones and a sparse operand of Add, in the original, too."""

CASES = [(name, precision) for precision in ("fp16", "bf16") for name in MODELS if (name, precision) not in NOTHING]


def _rewrite(name: str, precision: str, **options: object) -> tuple[onnx.ModelProto, RewriteResult]:
    model = MODELS[name]()
    return model, rewrite(model, precision=precision, fuse=(), verify=False, **options)  # type: ignore[arg-type]


def _interface(model: onnx.ModelProto) -> list[tuple[str, bytes]]:
    return [(info.name, info.type.SerializeToString()) for info in (*model.graph.input, *model.graph.output)]


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_the_typed_graph_passes_the_gates(name: str, precision: str) -> None:
    model, result = _rewrite(name, precision)
    typed = result.model
    assert result.report["converted"] > 0 or name == "half_model_with_island"
    if name not in REFUSED_BY_ONNX:
        check_onnx(typed)
        check_shapes(typed)
    if precision == "fp16" and name not in NOT_IN_ONNXRUNTIME:  # its CPU provider has no bfloat16
        check_onnxruntime(typed)
    assert _interface(typed) == _interface(model)


@pytest.mark.parametrize("name", sorted(set(MODELS) - NOT_IN_ONNXRUNTIME))
def test_the_typed_graph_computes_the_same_within_float16(name: str) -> None:
    """float16's relative error is 2^-11 an operation; these graphs have at most ten of them."""
    model, result = _rewrite(name, "fp16")
    feeds = _feeds(model)
    before, after = _run(model, feeds), _run(result.model, feeds)
    for left, right in zip(before, after, strict=True):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        if left.dtype.kind == "f":
            np.testing.assert_allclose(right.astype(np.float64), left.astype(np.float64), rtol=2e-2, atol=2e-2)
        else:
            np.testing.assert_array_equal(right, left)


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_a_second_run_changes_nothing(name: str, precision: str) -> None:
    once = _rewrite(name, precision)[1].model
    twice = rewrite(once, precision=precision, fuse=(), verify=False)
    assert twice.model.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"half_model_with_island"}))
def test_everything_kept_is_the_original(name: str, precision: str) -> None:
    model, result = _rewrite(name, precision, keep_fp32=["*"])
    assert result.model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("kept", ["FusedMatMul", "QuickGelu", "FusedGemm", "Gelu", "BiasGelu"])
def test_an_island_among_microsofts_operators_loads(kept: str) -> None:
    result = _rewrite("microsoft_island", "fp16", keep_fp32=[kept])[1]
    check_onnxruntime(result.model)
    assert result.report["casts"] >= 2


@pytest.mark.parametrize("name", sorted(NOTHING))
def test_nothing_to_convert_is_an_error(name: tuple[str, str]) -> None:
    with pytest.raises(ConversionError, match="nothing was converted to bf16"):
        _rewrite(*name)


@pytest.mark.parametrize("name", MODELS)
def test_casts_stand_only_where_types_meet(name: str) -> None:
    """One Cast a value and direction, and none between equal types."""
    typed = _rewrite(name, "fp16")[1].model
    inferred = onnx.shape_inference.infer_shapes(typed)
    types = {
        info.name: info.type.tensor_type.elem_type
        for info in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)
    }
    types.update({tensor.name: tensor.data_type for tensor in inferred.graph.initializer})
    seen = set()
    for node in inferred.graph.node:
        if node.op_type == "Cast" and node.name.endswith(("__cast_fp16", "__cast_fp32", "__cast_bf16")):
            to = helper.get_node_attr_value(node, "to")
            assert types.get(node.input[0]) != to, node
            assert (node.input[0], to) not in seen, node
            seen.add((node.input[0], to))


@pytest.mark.slow
@pytest.mark.rtx
@pytest.mark.parametrize(("name", "precision"), CASES)
def test_tensorrt_rtx_builds_what_it_builds_in_fp32(name: str, precision: str) -> None:
    model, result = _rewrite(name, precision)
    check_rtx(result.model, baseline=model)


@pytest.mark.slow
@pytest.mark.rtx
def test_low_interface_passes_the_gates() -> None:
    model, result = _rewrite("concat_of_cache", "fp16", io_types="low=pa*,pre*")
    types = {
        info.name: info.type.tensor_type.elem_type for info in (*result.model.graph.input, *result.model.graph.output)
    }
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    assert types == {"past": half, "x": single, "present": half, "y": single}
    assert_gates(result.model, rtx_baseline=model)


def _feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Values that every operator here is defined for: 0.1 to 0.9, small indices, True."""
    random = np.random.default_rng(7)
    sizes = {"N": 3, "H": 4, "W": 6, "P": 2}
    given = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for info in model.graph.input:
        if info.name in given:
            continue
        tensor = info.type.tensor_type
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind == "f":
            feeds[info.name] = np.asarray(random.uniform(0.1, 0.9, shape), dtype)
        elif dtype.kind == "b":
            feeds[info.name] = np.ones(shape, dtype)
        else:
            feeds[info.name] = np.asarray(random.integers(0, 2, shape) + (0 if shape else 2), dtype)
    return feeds


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    ordered = onnx.ModelProto.FromString(model.SerializeToString())
    if [node.output[0] for node in ordered.graph.node][:1] == ["y"] and len(ordered.graph.node) == 3:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(ordered.graph.node)]
        del ordered.graph.node[:]
        ordered.graph.node.extend(nodes)
    session = ort.InferenceSession(ordered.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))
