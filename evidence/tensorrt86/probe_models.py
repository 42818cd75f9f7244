"""Make small models that isolate one operator or fusion each, with what float64 and ideal FP16 answer.

    python -m evidence.tensorrt86.probe_models OUT [NAME...]

A folder a probe: model.onnx (FP32), inputs.npz, expected.npz (float64 by `onnx.reference` on the model in doubles) and
predicted.json: the errors of *ideal* FP16 (inputs and weights rounded to half, exact arithmetic, the result rounded)
and of the planner's simulation: typed, fused, and fused with products that add up in FP16; of TF32 by `tf32.py`.
`probes.py` then builds and measures them with TensorRT 8.6.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from evidence.tensorrt86 import tf32
from evidence.tensorrt86.metrics import errors
from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs
from precision_planner.simulation import simulate
from precision_planner.simulation.accumulation import Accumulation
from precision_planner.simulation.simulate import Semantics

Array = np.ndarray
BATCH, SEQUENCE, HIDDEN, INNER, HEADS, HEAD = 8, 128, 768, 3072, 12, 64
MASSIVE = {10: 2500.0, 138: -1700.0, 378: 900.0, 600: -1700.0}
"""Channel -> value: as in the sample classifier's hard variant; they add up to 0."""
EPSILON = 1e-12
LOWEST = -3.4028234663852886e38


@dataclass(frozen=True)
class Probe:
    """One model and what it is run on."""

    model: onnx.ModelProto
    inputs: dict[str, Array]


class Sketch:
    """Collects nodes, inputs and weights of one small graph; inputs have static shapes."""

    def __init__(self, name: str, opset: int = 17) -> None:
        self.name, self.opset = name, opset
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: dict[str, Array] = {}
        self.weights: dict[str, Array] = {}

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        return np.float32(scale) * self.random.standard_normal(shape, dtype=np.float32)

    def input(self, array: Array) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = array.astype(np.float32)
        return name

    def weight(self, array: Array | float) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array, dtype=np.float32)
        return name

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        result = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [result], name=f"{op_type}_{result}", **attributes))
        return result

    def probe(self, output: str) -> Probe:
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in self.inputs.items()],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        return Probe(onnx.shape_inference.infer_shapes(model, strict_mode=True), self.inputs)


# --- parts, as exporters write them


def dense(s: Sketch, x: str, rows: int, columns: int, scale: float = 1.0, bias: Array | None = None) -> str:
    product = s.op("MatMul", x, s.weight(s.normal(rows, columns, scale=scale / math.sqrt(rows))))
    return product if bias is None else s.op("Add", s.weight(bias), product)


def gelu_erf(s: Sketch, x: str) -> str:
    inner = s.op("Erf", s.op("Div", x, s.weight(math.sqrt(2))))
    return s.op("Mul", s.op("Mul", x, s.op("Add", inner, s.weight(1.0))), s.weight(0.5))


def gelu_tanh(s: Sketch, x: str) -> str:
    cube = s.op("Mul", s.weight(0.044715), s.op("Pow", x, s.weight(3.0)))
    inner = s.op("Mul", s.weight(math.sqrt(2 / math.pi)), s.op("Add", x, cube))
    return s.op("Mul", s.op("Mul", s.weight(0.5), x), s.op("Add", s.weight(1.0), s.op("Tanh", inner)))


def silu(s: Sketch, x: str) -> str:
    return s.op("Mul", x, s.op("Sigmoid", x))


ACTIVATIONS: dict[str, Callable[[Sketch, str], str]] = {
    "gelu-erf": gelu_erf,
    "gelu-tanh": gelu_tanh,
    "silu": silu,
    "tanh": lambda s, x: s.op("Tanh", x),
    "exp": lambda s, x: s.op("Exp", x),
}


def layer_norm(s: Sketch, x: str, gamma: Array, beta: Array, native: bool) -> str:
    scale, shift = s.weight(gamma), s.weight(beta)
    if native:
        return s.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=EPSILON)
    centered = s.op("Sub", x, s.op("ReduceMean", x, axes=[-1]))
    variance = s.op("ReduceMean", s.op("Pow", centered, s.weight(2.0)), axes=[-1])
    deviation = s.op("Sqrt", s.op("Add", variance, s.weight(EPSILON)))
    return s.op("Add", s.op("Mul", s.op("Div", centered, deviation), scale), shift)


def masked_softmax(s: Sketch, scores: str, length: int, lowest: float) -> str:
    """Softmax(scores + (1 - present) * lowest); rows are of varied length."""
    lengths = np.linspace(length // 3, length, BATCH).astype(int)
    present = s.input((np.arange(length) < lengths[:, None])[:, None, None, :])
    mask = s.op("Mul", s.op("Sub", s.weight(1.0), present), s.weight(lowest))
    return s.op("Softmax", s.op("Add", scores, mask), axis=-1)


# --- probes


def activation(name: str, kind: str, scale: float, behind: bool) -> Probe:
    s = Sketch(name)
    x = s.input(s.normal(BATCH, SEQUENCE, HIDDEN) if behind else s.normal(BATCH, 64, INNER, scale=scale))
    if behind:
        x = dense(s, x, HIDDEN, INNER, scale, s.normal(INNER, scale=0.05))
    return s.probe(ACTIVATIONS[kind](s, x))


def gemm(name: str, rows: int, scale: float, bias: bool, residual: bool) -> Probe:
    s = Sketch(name)
    x = s.input(s.normal(BATCH, SEQUENCE, rows))
    y = dense(s, x, rows, HIDDEN, scale, s.normal(HIDDEN, scale=0.05 * scale) if bias else None)
    if residual:
        y = s.op("Add", y, s.input(s.normal(BATCH, SEQUENCE, HIDDEN, scale=scale)))
    return s.probe(y)


def norm(name: str, massive: bool, native: bool, before: str) -> Probe:
    """LayerNorm behind Add(residual); `before`: "add" alone, or "dense" for MatMul, bias, Add."""
    s = Sketch(name, 17 if native else 13)
    channels, values = list(MASSIVE), np.float32(list(MASSIVE.values()))
    residual = s.normal(BATCH, SEQUENCE, HIDDEN)
    gamma, beta = 1 + s.normal(HIDDEN, scale=0.1), s.normal(HIDDEN, scale=0.05)
    if massive:
        residual[..., channels] = 0
        gamma *= np.float32(math.sqrt(float(values @ values) / HIDDEN / 2))  # the ordinary ones come out O(1)
        gamma[channels] = 2.0**-4
    if before == "dense":
        bias = s.normal(HIDDEN, scale=0.05)
        x = s.input(s.normal(BATCH, SEQUENCE, HIDDEN))
        weight = s.normal(HIDDEN, HIDDEN, scale=1 / math.sqrt(HIDDEN))
        if massive:
            bias[channels], weight[:, channels] = values, 0
        y = s.op("Add", s.weight(bias), s.op("MatMul", x, s.weight(weight)))
    else:
        other = s.normal(BATCH, SEQUENCE, HIDDEN)
        if massive:
            other[..., channels] = values
        y = s.input(other)
    return s.probe(layer_norm(s, s.op("Add", y, s.input(residual)), gamma, beta, native))


def softmax(name: str, length: int, lowest: float) -> Probe:
    s = Sketch(name)
    scores = s.input(s.normal(BATCH, HEADS, length, length, scale=2.0))
    return s.probe(masked_softmax(s, scores, length, lowest))


def attention(name: str, scaling: str, spread: float, length: int = 300, head: int = HEAD) -> Probe:
    """QK^T, scale, mask, softmax, PV; scores with this standard deviation. `scaling`: "q", "div" or "mul"."""
    s = Sketch(name)
    shape = (BATCH, HEADS, length, head)
    query, key, value = s.input(s.normal(*shape, scale=spread)), s.input(s.normal(*shape)), s.input(s.normal(*shape))
    if scaling == "q":
        query = s.op("Mul", query, s.weight(head**-0.5))
    scores = s.op("MatMul", query, s.op("Transpose", key, perm=[0, 1, 3, 2]))
    if scaling == "div":
        scores = s.op("Div", scores, s.weight(head**0.5))
    if scaling == "mul":
        scores = s.op("Mul", scores, s.weight(head**-0.5))
    return s.probe(s.op("MatMul", masked_softmax(s, scores, length, LOWEST), value))


CUTS = {
    "embeddings": "/embeddings/LayerNorm/LayerNormalization_output_0",
    "context": "/encoder/layer.0/attention/self/Reshape_3_output_0",
    "attended": "/encoder/layer.0/attention/output/LayerNorm/LayerNormalization_output_0",
    "gelu": "/encoder/layer.0/intermediate/intermediate_act_fn/Mul_1_output_0",
    "layer": "/encoder/layer.0/output/LayerNorm/LayerNormalization_output_0",
    "logits": "logits",
}
DECOMPOSED = {"layer": "/encoder/layer.0/output/LayerNorm/Add_1_output_0", "logits": "logits"}


def encoder(preset: str, opset: int, cut: str) -> Probe:
    """One layer of the sample classifier up to a value: where along it the error comes in."""
    spec = replace(PRESETS[preset], layers=1, vocabulary=2048, opset=opset)
    model = onnx.shape_inference.infer_shapes(build_bert_classifier(spec))
    cut_model = onnx.utils.Extractor(model).extract_model(["input"], [cut])
    return Probe(cut_model, dict(sample_inputs(spec, rows=BATCH, sequence=SEQUENCE)))


def probes() -> dict[str, Callable[[], Probe]]:
    """Name -> what makes it, the slowest builds first."""
    found: dict[str, Callable[[], Probe]] = {}

    def add(name: str, make: Callable[..., Probe], *arguments: object, named: bool = True) -> None:
        found[name] = lambda: make(name, *arguments) if named else make(*arguments)

    for preset, word in (("massive", "massive"), ("base", "plain")):
        for cut, value in reversed(CUTS.items()):
            add(f"encoder-{word}-{cut}", encoder, preset, 17, value, named=False)
    for cut, value in DECOMPOSED.items():
        add(f"encoder-plain-opset13-{cut}", encoder, "base", 13, value, named=False)
    for spread in (1.0, 5.0):
        for scaling in ("q", "div", "mul"):
            add(f"attention-{scaling}-spread{spread:g}", attention, scaling, spread)
    for length, head in ((128, 64), (128, 32), (300, 32)):
        add(f"attention-div-spread1-{length}x{head}", attention, "div", 1.0, length, head)
    for massive in (False, True):
        word = "massive" if massive else "ordinary"
        for before in ("add", "dense"):
            for native in (True, False):
                form = "native" if native else "decomposed"
                add(f"norm-{form}-{before}-{word}", norm, massive, native, before)
    for scale in (1.0, 2.0, 4.0):
        add(f"gelu-erf-scale{scale:g}", activation, "gelu-erf", scale, False)
    for kind in list(ACTIVATIONS)[1:]:
        add(f"{kind}-scale1", activation, kind, 1.0, False)
    for kind in ACTIVATIONS:
        add(f"dense-{kind}-scale1", activation, kind, 1.0, True)
    add("dense-gelu-erf-scale4", activation, "gelu-erf", 4.0, True)
    for rows in (HIDDEN // 2, HIDDEN, INNER):
        for scale in (1.0, 1000.0):
            add(f"gemm-k{rows}-out{scale:g}", gemm, rows, scale, False, False)
        add(f"gemm-k{rows}-bias", gemm, rows, 1.0, True, False)
        add(f"gemm-k{rows}-bias-residual", gemm, rows, 1.0, True, True)
    for length in (128, 300):
        for word, lowest in (("1e4", -10000.0), ("lowest", LOWEST)):
            add(f"softmax-{length}-mask{word}", softmax, length, lowest)
    return found


# --- answers


def half(array: Array) -> Array:
    """Rounded to half, as TensorRT converts weights: what would overflow saturates."""
    return np.clip(array, -65504, 65504).astype(np.float16).astype(np.float64)


def answer(probe: Probe, rounded: bool) -> Array:
    """float64, by the ONNX reference on the model in doubles; `rounded`: of inputs and weights in half.

    Scalars (epsilons, masks, the constants of an activation) stay as they are.
    """
    double, single = TensorProto.DOUBLE, TensorProto.FLOAT
    model = onnx.ModelProto()
    model.CopyFrom(probe.model)
    graph = model.graph
    constants = [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"]
    for tensor in (*graph.initializer, *constants):
        if tensor.data_type == single:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(half(array) if rounded and array.size > 1 else array, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == single:
                attribute.i = double
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == single:
            value.type.tensor_type.elem_type = double
    del graph.value_info[:]
    feeds = {
        name: array if array.dtype.kind == "i" else half(array) if rounded else array.astype(np.float64)
        for name, array in probe.inputs.items()
    }
    result = np.asarray(ReferenceEvaluator(model).run(None, feeds)[0])
    if result.dtype != np.float64:
        raise TypeError(f"the reference answered in {result.dtype}")
    return half(result) if rounded else result


SIMULATIONS: dict[str, tuple[Semantics, Accumulation]] = {
    "typed": ("typed", "fp32"),
    "fused": ("fused", "fp32"),
    "fused-fp16": ("fused", "fp16"),
}
"""Name of a prediction -> (semantics, accumulation)."""


def predict(probe: Probe, expected: Array) -> dict[str, Any]:
    """Name of a prediction -> its errors."""
    predicted = {"ideal": errors(expected, answer(probe, rounded=True))}
    output = probe.model.graph.output[0].name
    for name, (semantics, accumulation) in SIMULATIONS.items():
        simulated = simulate(
            probe.model, probe.inputs, semantics=semantics, weights="saturate", accumulation=accumulation
        )
        predicted[name] = errors(expected, simulated[output])
    predicted["tf32"] = errors(expected, tf32.answer(probe.model, probe.inputs, truncate=False))
    if tf32.weighs(probe.model):
        predicted["tf32-truncated"] = errors(expected, tf32.answer(probe.model, probe.inputs, truncate=True))
    return predicted


def make(folder: Path) -> str:
    """Write one probe's folder."""
    probe = probes()[folder.name]()
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(probe.model, folder / "model.onnx")
    np.savez(folder / "inputs.npz", **probe.inputs)
    expected = answer(probe, rounded=False)
    np.savez(folder / "expected.npz", output=expected)
    predicted = predict(probe, expected)
    (folder / "predicted.json").write_text(json.dumps(predicted) + "\n")
    return folder.name


def main(arguments: list[str]) -> None:
    """Make the probes named, or all."""
    out, names = Path(arguments[0]), arguments[1:] or list(probes())
    out.mkdir(parents=True, exist_ok=True)
    (out / "order.json").write_text(json.dumps(names))
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        made = {name: pool.submit(make, out / name) for name in names}
        failed = {name: error for name, future in made.items() if (error := future.exception()) is not None}
    for name, error in failed.items():
        print(f"{name} not made: {error!r}")
    print(f"{len(names) - len(failed)} of {len(names)} probes made")


if __name__ == "__main__":
    main(sys.argv[1:])
