"""Recognising and fusing normalizations: seconds and microseconds a node at 1k, 4k and 16k nodes.

Two graphs: transformer blocks as TorchScript writes them (decomposed LayerNorm, GELU, attention), and the worst case
of shared constants, where one eps and one exponent serve every normalization.
Bounds: time a node flat within 30 % from 1k to 16k; 16k nodes recognised and fused in under 3 s.
"""

from __future__ import annotations

import gc
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.patterns import find_patterns
from precision_planner.transforms import fuse

HIDDEN, HEADS, SEQUENCE = 32, 4, 16
SIZES = (1_000, 4_000, 16_000)
FLAT, LIMIT_S = 1.30, 3.0


class _Blocks:
    def __init__(self, shared: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.shared = shared
        self.count = 0

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        self.count += 1
        out = f"{op_type}_{self.count}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [out], f"/block/{out}", **attributes))
        return out

    def constant(self, value: float | list[int], key: str) -> str:
        array = np.array(value, np.int64 if isinstance(value, list) else np.float32)
        if self.shared:
            self.initializers.setdefault(key, array)
            return key
        self.count += 1
        name = f"Constant_{self.count}"
        self.nodes.append(helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(array)))
        return name

    def weight(self, *shape: int) -> str:
        name = f"weight_{len(self.initializers)}"
        self.initializers[name] = np.ones(shape, np.float32)
        return name

    def norm(self, x: str) -> str:
        d = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        variance = self.op("ReduceMean", self.op("Pow", d, self.constant(2.0, "two")), axes=[-1])
        root = self.op("Sqrt", self.op("Add", variance, self.constant(1e-5, "eps")))
        return self.op("Add", self.op("Mul", self.op("Div", d, root), self.weight(HIDDEN)), self.weight(HIDDEN))

    def linear(self, x: str, out: int, into: int = HIDDEN) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(into, out)), self.weight(out))

    def block(self, x: str) -> str:
        split = [0, 0, HEADS, HIDDEN // HEADS]
        heads = []
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            shaped = self.op("Reshape", self.linear(x, HIDDEN), self.constant(split, "split"))
            heads.append(self.op("Transpose", shaped, perm=perm))
        scores = self.op("Div", self.op("MatMul", heads[0], heads[1]), self.constant(2.8284, "scale"))
        weights = self.op("Softmax", self.op("Add", scores, "mask"), axis=-1)
        context = self.op("Transpose", self.op("MatMul", weights, heads[2]), perm=[0, 2, 1, 3])
        merged = self.op("Reshape", context, self.constant([0, 0, HIDDEN], "merge"))
        x = self.norm(self.op("Add", self.linear(merged, HIDDEN), x))
        inner = self.linear(x, 4 * HIDDEN)
        erf = self.op("Erf", self.op("Div", inner, self.constant(2**0.5, "root")))
        gelu = self.op("Mul", inner, self.op("Add", erf, self.constant(1.0, "one")))
        gelu = self.op("Mul", gelu, self.constant(0.5, "half"))
        return self.norm(self.op("Add", self.linear(gelu, HIDDEN, 4 * HIDDEN), x))


def transformer(nodes: int, shared: bool) -> Model:
    """Blocks until there are at least `nodes` nodes."""
    blocks = _Blocks(shared)
    x = "x"
    while len(blocks.nodes) < nodes:
        x = blocks.block(x)
    graph = helper.make_graph(
        blocks.nodes,
        "transformer",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SEQUENCE, HIDDEN]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 1, 1, SEQUENCE]),
        ],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", SEQUENCE, HIDDEN])],
        [numpy_helper.from_array(array, name) for name, array in blocks.initializers.items()],
    )
    return Model.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


def measure(models: list[Model], repeat: int = 7) -> list[dict[str, float]]:
    """CPU seconds for each step on each model, the best of `repeat` rounds, and the counts.

    All of it runs on one core. The models take turns, so that whatever else the machine does hits them alike, and
    the collector of reference cycles is off meanwhile, as in timeit.
    """
    rows: list[dict[str, float]] = [{} for _ in models]
    gc.disable()
    try:
        for _ in range(repeat):
            for model, row in zip(models, rows, strict=True):
                _round(model, row)
                gc.collect()
    finally:
        gc.enable()
    return rows


def _round(model: Model, best: dict[str, float]) -> None:
    start = time.process_time()
    index = GraphIndex(model.proto)
    types = infer_types(model, index)
    typed = time.process_time()
    matches = find_patterns(model, index=index, types=types)
    found = time.process_time()
    result = fuse(model, matches, index=index)
    done = time.process_time()
    steps = {"types": typed - start, "find": found - typed, "fuse": done - found, "all": done - start}
    for key, seconds in steps.items():
        best[key] = min(best.get(key, seconds), seconds)
    best["nodes"] = len(model.proto.graph.node)
    best["fused"] = len(result.fused)
    best["matches"] = len(matches)


def main() -> None:
    """Print the table, and stop with an error where a bound is broken."""
    failures = []
    for shared in (False, True):
        print(f"constants {'shared by all nodes' if shared else 'one node each'}")
        print("   nodes  matches  fused  types s   find s   fuse s    all s  us/node")
        rows = measure([transformer(size, shared) for size in SIZES])
        for row in rows:
            per_node = row["all"] / row["nodes"] * 1e6
            print(
                f"{row['nodes']:8.0f} {row['matches']:8.0f} {row['fused']:6.0f} {row['types']:8.3f} {row['find']:8.3f} "
                f"{row['fuse']:8.3f} {row['all']:8.3f} {per_node:8.1f}"
            )
        costs = [row["all"] / row["nodes"] for row in rows]
        if max(costs) > FLAT * min(costs):
            failures.append(f"time a node grew by {max(costs) / min(costs) - 1:.0%}")
        if rows[-1]["all"] > LIMIT_S:
            failures.append(f"{rows[-1]['nodes']:.0f} nodes took {rows[-1]['all']:.2f} s")
    if failures:
        raise SystemExit("; ".join(failures))


if __name__ == "__main__":
    main()
