"""SegFormers whose head misreads what the stages made, in FP32 on a CPU, beside the FP16 engines that were wrong.

    python -m evidence.tensorrt86.validation.misread CASES [OUT/wrong.tar.gz]

A stage ends with Transpose, which TensorRT keeps as the tokens it has (channel-major) where the next stage's
convolution reads it too. The head read those bytes as row-major planes: a Reshape of the tokens in place of the
Transpose. This does the same to the model, so that the errors can be compared: no rounding has a part in them. CASES
are the folders of `cases.py`. The error that it gives goes into results.json, where the validation's summary reads it.

With the archive of what wrong engines gave, their values are compared with those of the misread models: the relative L2
distance between them, of the rows that the archive has.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Collection
from itertools import combinations, product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from evidence.tensorrt86.validation import seeded
from evidence.tensorrt86.validation.metrics import compare

CASES = ("segformer-128", "segformer", "segformer-fused", "segformer-shallow-128", "segformer-two-stages-64")
READER = "/m/decode_head/linear_projections.{}/Reshape"


def stages_tried(count: int) -> list[tuple[int, ...]]:
    """Which of some stages are misread: none; those whose output a convolution reads too; others, for comparison."""
    shared = tuple(range(count - 1))  # all but the last have a next stage, which begins with a convolution
    tried = [(), shared, (count - 1,), (*shared, count - 1), *combinations(shared, 2)]
    return list(dict.fromkeys(tried))


def misread(model: onnx.ModelProto, readers: Collection[str]) -> onnx.ModelProto:
    """A copy in which some nodes read the bytes of a Transpose's input in the shape of its output.

    Raises:
      ValueError: a node of that name does not read a Transpose of known shape.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    }
    nodes = []
    for node in model.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if node.name in readers:
            read = node.input[0]
            shape = shapes.get(read, [0])
            if read not in makers or makers[read].op_type != "Transpose" or 0 in shape:
                raise ValueError(f"{node.name} reads no Transpose of known shape")
            copy.input[0], sizes = f"{read}_misread", f"{read}_misread_shape"
            changed.graph.initializer.append(helper.make_tensor(sizes, onnx.TensorProto.INT64, [len(shape)], shape))
            nodes.append(helper.make_node("Reshape", [makers[read].input[0], sizes], [copy.input[0]]))
        nodes.append(copy)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, inputs)[0]
    return found


def distances(archive: str, case: str, outputs: dict[str, np.ndarray]) -> list[str]:
    """A line for each wrong engine of a case: how far its values are from each of some outputs."""
    lines = []
    with tarfile.open(archive) as file:
        for member in file.getmembers():
            held = file.extractfile(member)
            if held is None or not member.name.startswith(f"{case}."):
                continue
            (actual,) = np.load(io.BytesIO(held.read())).values()
            for said, output in outputs.items():
                near = compare(output[: len(actual)], actual)["rel_l2"]
                lines.append(f"| {case} | {member.name} against: {said} | {near:.4g} | | | |")
    return lines


def main(folder: str, archive: str | None = None) -> None:
    """Print a row for each set of stages that is misread, and the engines' rows; keep the first set's error."""
    results = Path(__file__).with_name("results.json")
    kept = json.loads(results.read_text())
    engines, kept["misread"] = kept["engines"], {}
    print("| model | | relative L2 | SAD | largest | other argmax |\n|---|---|---|---|---|---|")
    for case in CASES:
        model = seeded.load(Path(folder) / case)
        with np.load(Path(folder) / case / "inputs.npz") as file:
            inputs = dict(file)
        expected = run(model, inputs)
        found, outputs = {}, {}
        names = {node.name for node in model.graph.node}
        for stages in stages_tried(sum(READER.format(stage) in names for stage in range(9))):
            said = "nothing" if not stages else "stage " + ", ".join(map(str, stages))
            changed = misread(model, {READER.format(stage) for stage in stages})
            outputs[f"{said} misread"] = run(changed, inputs)
            found[f"{said} misread"] = compare(expected, outputs[f"{said} misread"])
        kept["misread"][case] = list(found.values())[1]["rel_l2"]
        for kind, level in product(("fp16", "half", "fp32"), range(6)):
            engine = engines.get(f"{case}.{kind}.L{level}", {})
            found |= {f"TensorRT {kind}, level {level}": metrics for metrics in engine.get("outputs", {}).values()}
        for name, metrics in found.items():
            values = f"{metrics['rel_l2']:.4g} | {metrics['sad']:.5g} | {metrics['max_abs']:.3g}"
            print(f"| {case} | {name} | {values} | {metrics['flipped']} of {metrics['rows']} |", flush=True)
        for line in distances(archive, case, outputs) if archive else []:
            print(line)
    results.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
