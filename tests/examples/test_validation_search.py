"""The search for the value that an engine gets wrong, on random graphs with one wrong node."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from evidence.tensorrt86.validation.search import Search, cut, values

SHAPE = (8, 16)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Sums and tanhs of earlier values, with Reshapes in between; everything leads to the output."""
    nodes, names = [], ["x"]
    unused: set[str] = set()
    for number in range(draw(st.integers(1, 25))):
        name = f"v{number}"
        op = draw(st.sampled_from(["Add", "Tanh", "Identity"]))
        sources = [draw(st.sampled_from(names)) for _ in range(2 if op == "Add" else 1)]
        nodes.append(helper.make_node(op, sources, [name], name=name))
        unused = (unused - set(sources)) | {name}
        names.append(name)
    nodes.append(helper.make_node("Sum", sorted(unused), ["y"], name="y"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPE) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {name: SHAPE for node in model.graph.node for name in node.output}


def affected(cuts: list[list], wrong: int) -> set[int]:
    """Numbers of all values computed from a wrong one, itself among them: what an oracle sees to be off."""
    found = {wrong}
    for number, (_, sources) in enumerate(cuts):
        if found & set(sources):
            found.add(number)
    return found


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(graphs(), st.data())
def test_the_wrong_value_is_found_in_any_order_of_answers(model: onnx.ModelProto, data: st.DataObject) -> None:
    cuts = values(model, shapes_of(model))
    wrong = data.draw(st.integers(0, len(cuts) - 1))
    off = affected(cuts, wrong)
    if len(cuts) - 1 not in off:
        return  # no way to the last value
    search = Search("case", 3, "full")
    search.begin(cuts, 0.3)
    built, waiting = 0, search.wanted()
    while search.state == "searching":
        job = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
        assert job["cut"] == cuts[job["index"]][0]
        search.learn(job["index"], 0.3 if job["index"] in off else 1e-4)
        built += 1
        waiting = [job for job in waiting if not search.gives_up(job)] + search.wanted()
    assert search.line()["first_bad"] == cuts[wrong][0]
    assert built <= len(cuts)


def test_a_value_that_cannot_be_built_ends_no_search() -> None:
    cuts = [["a", []], ["b", [0]], ["c", [1]], ["d", [2]]]
    search = Search("case", 3, "full")
    search.begin(cuts, 0.3)
    waiting = search.wanted()
    while search.state == "searching":
        index = waiting.pop()["index"]
        search.learn(index, {0: 1e-4, 1: None, 2: 0.3}[index])
        waiting += search.wanted()
    assert search.line()["first_bad"] == "c"


@settings(max_examples=60, deadline=None)
@given(graphs(), st.data())
def test_a_cut_computes_the_value(model: onnx.ModelProto, data: st.DataObject) -> None:
    everything = onnx.ModelProto()
    everything.CopyFrom(model)
    made = [name for node in model.graph.node for name in node.output]
    everything.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name != "y")
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    names = [*(o.name for o in everything.graph.output)]
    arrays = dict(zip(names, session(everything).run(names, {"x": x}), strict=True))
    output = data.draw(st.sampled_from([name for name, _ in values(model, shapes_of(model))]))
    depth = data.draw(st.sampled_from([None, 1, 2, 4]))
    part, inputs = cut(model, [output], shapes_of(model), depth)
    feeds = {name: x if name == "x" else arrays[name] for name in inputs}
    np.testing.assert_array_equal(session(part).run([output], feeds)[0], arrays[output])
    if depth == 1:
        assert sum(node.op_type != "Identity" for node in part.graph.node) == 1


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
