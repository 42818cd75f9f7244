"""What TF32 does to a probe: operands of products with ten bits behind the point, sums in FP32, by numpy alone.

TensorRT 8.6 reads FP32 and writes FP32; the tensor core takes 19 of an operand's 32 bits. Who drops the other 13, and
how, is the kernel's affair: *tf32* rounds both operands to nearest, *tf32-truncated* does too, but cuts off the values
that softmax weighs (the second operand of attention's second product).

    python -m evidence.tensorrt86.tf32 [PRESET...]     both for a whole sample model (minilm), beside its TF32 engines
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs

Array = np.ndarray
DOMAIN = "tf32"
DROPPED = 13
"""Bits of a float32 significand that TF32 has not."""


def rounded(array: Array) -> Array:
    """To the nearest TF32 value, ties to even; float32 in and out. Infinity and NaN are not handled."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    up = np.uint32((1 << DROPPED - 1) - 1) + (bits >> np.uint32(DROPPED) & np.uint32(1))
    return truncated((bits + up).view(np.float32))


def truncated(array: Array) -> Array:
    """To the TF32 value next nearer to 0; float32 in and out."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFFFFFF << DROPPED & 0xFFFFFFFF)).view(np.float32)


class Round(OpRun):
    """`rounded` as an operator of the reference."""

    op_domain = DOMAIN

    def _run(self, array: Array) -> tuple[Array]:
        return (rounded(array),)


class Truncate(OpRun):
    """`truncated` as an operator of the reference."""

    op_domain = DOMAIN

    def _run(self, array: Array) -> tuple[Array]:
        return (truncated(array),)


def weighs(model: onnx.ModelProto) -> set[str]:
    """The results of MatMuls that read a Softmax."""
    probabilities = {node.output[0] for node in model.graph.node if node.op_type == "Softmax"}
    products = (node for node in model.graph.node if node.op_type == "MatMul")
    return {node.output[0] for node in products if node.input[0] in probabilities}


def answer(model: onnx.ModelProto, inputs: dict[str, Array], truncate: bool, output: str | None = None) -> Array:
    """An output (the first one) in TF32; `truncate`: as *tf32-truncated*."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    cut = weighs(model) if truncate else set()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if node.op_type in ("MatMul", "Gemm"):
            for place, name in enumerate(node.input[:2]):
                kind = "Truncate" if place == 1 and node.output[0] in cut else "Round"
                copy.input[place] = f"{node.output[0]}_operand_{place}"
                nodes.append(helper.make_node(kind, [name], [copy.input[place]], domain=DOMAIN))
        nodes.append(copy)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    changed.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    operators: Any = [Round, Truncate]
    names = None if output is None else [output]
    return np.asarray(ReferenceEvaluator(changed, new_ops=operators).run(names, inputs)[0])


def sad(expected: Array, actual: Array) -> dict[str, float]:
    """Sum of absolute differences of a row: the worst, the mean."""
    rows = np.abs(actual.astype(np.float64) - expected).reshape(len(expected), -1).sum(axis=1)
    return {"sad": float(rows.max()), "sad_mean": float(rows.mean())}


def main(presets: list[str]) -> None:
    """Print."""
    from evidence.tensorrt86.cases import ROWS
    from evidence.tensorrt86.table import RESULTS

    print("| case | TF32 | SAD worst | SAD mean |\n|---|---|---|---|")
    for preset in presets or ["minilm"]:
        spec = PRESETS[preset]
        model, inputs = build_bert_classifier(spec), dict(sample_inputs(spec, rows=ROWS, sequence=spec.sequence))
        expected = ReferenceEvaluator(model).run(["probability"], inputs)[0]
        found = {said: sad(expected, answer(model, inputs, said == "values truncated", "probability"))
                 for said in ("rounded", "values truncated")}  # fmt: skip
        for engine in json.loads(RESULTS.read_text()):
            if engine["case"] == preset and engine["kind"].startswith("tf32"):
                found[f"TensorRT, {engine['gpu']}, {engine['kind']}"] = engine["outputs"]["probability"]
        for said, figures in found.items():
            print(f"| {preset} | {said} | {figures['sad']:.2g} | {figures['sad_mean']:.2g} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
