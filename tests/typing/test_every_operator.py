"""What is written is valid at every opset: each operator's sample, at each of its versions, in both low types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp
from precision_planner.model import Model
from tests.operators.samples import SAMPLES, Sample

NEWEST = 25  # of the checker's shape inference that onnxruntime's newest release knows too


@cache
def _versions(name: str) -> tuple[int, ...]:
    return tuple(
        sorted(
            schema.since_version
            for schema in onnx.defs.get_all_schemas_with_history()
            if (schema.name, schema.domain) == (name, "")
        )
    )


def typed(sample: Sample) -> onnx.ModelProto:
    """A sample between products that go low, with the types of its outputs: x * 1 -> operator -> y * 1."""
    model = onnx.shape_inference.infer_shapes(sample.model(), check_type=True, strict_mode=True)
    graph = model.graph
    node = graph.node[0]
    graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), "one"))
    before, after = [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            before.append(helper.make_node("Mul", [value.name, "one"], [f"{value.name}_low"]))
            for at, name in enumerate(node.input):
                if name == value.name:
                    node.input[at] = f"{value.name}_low"
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            after.append(helper.make_node("Mul", [value.name, "one"], [f"{value.name}_high"]))
            value.name = f"{value.name}_high"
    del graph.node[:]
    graph.node.extend([*before, node, *after])
    return model


def models_of(op: str) -> Iterator[tuple[int, onnx.ModelProto]]:
    """The operator's sample at each of its versions from opset 9 on that the checker takes it in."""
    sample = next(sample for sample in SAMPLES if (sample.op, sample.domain) == (op, ""))
    for opset in sorted({max(version, 9) for version in (*_versions(op), 12, 15, 17, 21)}):
        if opset > NEWEST:
            continue
        try:
            model = typed(replace(sample, opset=opset))
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, TypeError):
            continue  # written otherwise at this opset
        yield opset, model


def with_floats() -> list[str]:
    return sorted(
        {
            sample.op
            for sample in SAMPLES
            if not sample.domain and any(getattr(array, "dtype", None) == np.float32 for array in sample.inputs)
        }
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("op", with_floats())
def test_what_is_written_is_valid(op: str, precision: str) -> None:
    """Where an operator, a Cast or an attribute has no such type at an opset, it stays FP32 or the opset is raised."""
    for _, model in models_of(op):
        result = pp.rewrite(Model.load(model), precision=precision, verify=False)
        onnx.checker.check_model(result.model, full_check=True)


def _value(name: str, shape: list[int], element: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def _mul(name: str, out: str) -> onnx.NodeProto:
    return helper.make_node("Mul", [name, "one"], [out])


def scan() -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Mul", ["e", "e"], ["f"])],
        "body",
        [_value("s", [4]), _value("e", [4])],
        [_value("t", [4]), _value("f", [4])],
    )
    nodes = [
        _mul("x", "xl"),
        _mul("a", "al"),
        helper.make_node("Scan", ["al", "xl"], ["u", "v"], body=body, num_scan_inputs=1),
    ]
    return (
        [*nodes, _mul("u", "y"), _mul("v", "z")],
        [_value("x", [3, 4]), _value("a", [4])],
        [_value("y", [4]), _value("z", [3, 4])],
    )


def loop() -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["co"]), helper.make_node("Add", ["s", "s"], ["t"]),
         helper.make_node("Mul", ["s", "s"], ["e"])],
        "body",
        [_value("i", [], TensorProto.INT64), _value("c", [], TensorProto.BOOL), _value("s", [4])],
        [_value("co", [], TensorProto.BOOL), _value("t", [4]), _value("e", [4])],
    )  # fmt: skip
    nodes = [_mul("a", "al"), helper.make_node("Loop", ["three", "", "al"], ["u", "v"], body=body)]
    return [*nodes, _mul("u", "y"), _mul("v", "z")], [_value("a", [4])], [_value("y", [4]), _value("z", [3, 4])]


def branches() -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    def branch(op: str) -> onnx.GraphProto:
        return helper.make_graph([helper.make_node(op, ["xl"], [op])], op, [], [_value(op, [3, 4])])

    node = helper.make_node("If", ["c"], ["u"], then_branch=branch("Neg"), else_branch=branch("Abs"))
    return (
        [_mul("x", "xl"), node, _mul("u", "y")],
        [_value("x", [3, 4]), _value("c", [], TensorProto.BOOL)],
        [_value("y", [3, 4])],
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("opset", [9, 11, 13, 15, 16, 19, 21, 23])
@pytest.mark.parametrize("build", [scan, loop, branches])
def test_control_flow_is_valid_too(build, opset: int, precision: str) -> None:  # type: ignore[no-untyped-def]
    nodes, inputs, outputs = build()
    constants = [numpy_helper.from_array(np.ones((), np.float32), "one"), numpy_helper.from_array(np.array(3), "three")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError:
        pytest.skip("written otherwise at this opset")
    result = pp.rewrite(Model.load(model), precision=precision, verify=False)
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_function_whose_cast_names_its_type_by_attribute(precision: str) -> None:
    """torch.onnx's own prims_convert_element_type: the call says the type, so the body's Cast stays as it is."""
    cast = helper.make_node("Cast", ["a"], ["r"])
    cast.attribute.append(onnx.AttributeProto(name="to", ref_attr_name="dtype", type=onnx.AttributeProto.INT))
    function = helper.make_function("lib", "convert", ["a"], ["r"], [cast], [helper.make_opsetid("", 17)], ["dtype"])
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("convert", ["y"], ["z"], domain="lib", dtype=1),
            helper.make_node("Add", ["y", "z"], ["u"]),
        ],
        "g",
        [_value("x", [3, 4])],
        [_value("u", [3, 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("lib", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=9)
    result = pp.rewrite(Model.load(model), precision=precision, verify=False)
    onnx.checker.check_model(result.model, full_check=True)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(pp.simulate(result.model, {"x": x})["u"], 2 * x)
    if precision == "fp16":
        session = onnxruntime.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], 2 * x)
