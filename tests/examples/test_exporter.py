"""The sample graph against what torch's exporters write for the same module."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from examples.bert_classifier import (
    BertSpec,
    build_bert_classifier,
    make_weights,
    reference_forward,
    sample_inputs,
)

SPEC = BertSpec(2, 64, 4, 128, 1000, 64, sequence=32)


def export(spec: BertSpec, path: Path) -> tuple[onnx.ModelProto, np.ndarray]:
    """Export the torch module with the sample's weights; also return torch's own float64 logits."""
    torch = pytest.importorskip("torch")
    from tests.examples.torch_bert import BertClassifier

    module = BertClassifier(*spec.sizes).eval()
    weights = {name: torch.from_numpy(value) for name, value in make_weights(spec).items()}
    module.load_state_dict(weights, strict=True)
    ids = torch.from_numpy(sample_inputs(spec, rows=4)["input"])
    names = {"input_names": ["input"], "output_names": ["logits", "probability"], "opset_version": spec.opset}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        if spec.style == "torchscript":
            axes = {"input": {0: "batch", 1: "sequence"}, "logits": {0: "batch"}, "probability": {0: "batch"}}
            torch.onnx.export(module, (ids,), str(path), dynamo=False, dynamic_axes=axes, **names)
        else:
            batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=spec.positions)
            shapes = ({0: batch, 1: sequence},)
            torch.onnx.export(
                module, (ids,), str(path), dynamo=True, dynamic_shapes=shapes, external_data=False, **names
            )
        with torch.no_grad():
            logits = module.double()(ids)[0]
    return onnx.load(path), logits.numpy()


def unnumbered(name: str) -> str:
    """Take the exporter's running number out of an anonymous name."""
    return re.sub(r"^(onnx::\w+_|Constant_|Identity_)\d+$", r"\1N", name)


def described(model: onnx.ModelProto) -> list[tuple[object, ...]]:
    """Every node with operator, name, inputs, outputs and attributes, constants by value."""

    def attribute(item: onnx.AttributeProto) -> object:
        if item.type == onnx.AttributeProto.TENSOR:
            array = onnx.numpy_helper.to_array(item.t)
            return (array.dtype.str, array.tolist())
        return onnx.helper.get_attribute_value(item)

    return [
        (
            node.op_type,
            unnumbered(node.name),
            [unnumbered(name) for name in node.input],
            [unnumbered(name) for name in node.output],
            {item.name: attribute(item) for item in node.attribute},
        )
        for node in model.graph.node
    ]


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(("opset", "weights"), [(13, "random"), (17, "random"), (13, "fresh")])
def test_torchscript_style_is_what_torch_writes(opset: int, weights: str, tmp_path: Path) -> None:
    """Node for node and tensor for tensor; only running numbers differ. Torch's float64 agrees with ours."""
    spec = replace(SPEC, opset=opset, weights=weights)
    theirs, logits = export(spec, tmp_path / "torch.onnx")
    ours = build_bert_classifier(spec)
    assert described(ours) == described(theirs)
    tensors = [
        {unnumbered(t.name) + str(i): onnx.numpy_helper.to_array(t) for i, t in enumerate(model.graph.initializer)}
        for model in (ours, theirs)
    ]
    assert list(tensors[0]) == list(tensors[1])
    for name, value in tensors[0].items():
        np.testing.assert_array_equal(value, tensors[1][name], err_msg=name)
    assert (ours.ir_version, ours.producer_name, ours.graph.name) == (
        theirs.ir_version,
        "pytorch",
        theirs.graph.name,
    )
    assert list(ours.graph.input) == list(theirs.graph.input)
    assert list(ours.graph.output) == list(theirs.graph.output)
    expected = reference_forward(spec, sample_inputs(spec, rows=4)["input"])["logits"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-7)


@pytest.mark.torch
@pytest.mark.slow
def test_dynamo_style_has_torch_s_operators(tmp_path: Path) -> None:
    """The same operators in the same order, one initializer for each value, a value_info for every value."""
    spec = replace(SPEC, style="dynamo", opset=18)
    theirs, _ = export(spec, tmp_path / "torch.onnx")
    ours = build_bert_classifier(spec)
    assert [node.op_type for node in ours.graph.node] == [node.op_type for node in theirs.graph.node]
    shapes = [sorted((t.data_type, tuple(t.dims)) for t in m.graph.initializer) for m in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_dynamo_style_describes_every_value() -> None:
    """Typed value_info for initializers and results, no Constant node, equal weights stored once."""
    model = build_bert_classifier(replace(SPEC, style="dynamo", opset=18, weights="fresh"))
    graph = model.graph
    described = {info.name for info in graph.value_info} | {info.name for info in graph.output}
    values = {t.name for t in graph.initializer} | {name for node in graph.node for name in node.output}
    assert values == described
    assert not any(node.op_type == "Constant" for node in graph.node)
    uses = [node.input[1] for node in graph.node if node.op_type == "LayerNormalization"]
    assert len(uses) == 5
    assert len(set(uses)) == 1
