"""Structural matches: softmax and its mask, attention, scaling, residuals, GELU, L2 normalization, rotary embedding."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from precision_planner.model import Model
from precision_planner.patterns import KINDS, Match, find_patterns
from tests.patterns.builder import Graph


def _find(g: Graph, kind: str, **outputs: str) -> list[Match]:
    for name, value in outputs.items():
        g.op("Identity", value, output=name)
        g.output(name)
    return find_patterns(Model.load(g.model()), kinds=[kind])


def _attention(*, scale: str = "after", mask: str = "add", low: float = -1e9) -> Graph:
    g = Graph(13)
    shape = (1, 2, 4, 8)
    for name in "qkv":
        g.input(name, shape)
    g.input("keep", (1, 1, 1, 4))
    q = g.op("Mul", "q", g.scalar(0.25)) if scale == "before" else "q"
    scores = g.op("MatMul", q, g.op("Transpose", "k", perm=[0, 1, 3, 2]))
    if scale == "after":
        scores = g.op("Div", scores, g.scalar(4.0))
    if mask == "add":
        bias = g.op("Mul", g.op("Sub", g.scalar(1.0), "keep"), g.scalar(low))
        scores = g.op("Add", scores, bias)
    elif mask == "where":
        hidden = g.op("Equal", "keep", g.scalar(0.0))
        scores = g.op("Where", hidden, g.scalar(low), scores)
    g.op("MatMul", g.op("Softmax", scores, axis=-1), "v", output="context")
    g.output("context")
    return g


@pytest.mark.parametrize("mask", ["add", "where", "none"])
@pytest.mark.parametrize("scale", ["before", "after", "none"])
def test_attention(scale: str, mask: str) -> None:
    model = Model.load(_attention(scale=scale, mask=mask).model())
    (attention,) = find_patterns(model, kinds=["attention"])
    assert attention.output == "context"
    assert attention.inputs["q"] == "q"
    assert attention.inputs["v"] == "v"
    assert attention.attributes["scale_position"] == scale
    assert attention.attributes["mask_value"] == (None if mask == "none" else pytest.approx(-1e9))
    scales = find_patterns(model, kinds=["attention_scale"])
    assert [match.attributes["position"] for match in scales] == ([] if scale == "none" else [scale])
    assert all(match.attributes["scale"] == 0.25 for match in scales)
    (softmax,) = find_patterns(model, kinds=["softmax"])
    assert len(softmax.nodes) == (1 if mask == "none" else 2)
    assert bool(softmax.inputs["mask"]) == (mask != "none")


def test_softmax_written_out() -> None:
    g = Graph(13)
    g.input("x", (2, 8))
    e = g.op("Exp", g.op("Sub", "x", g.reduce("ReduceMax", "x", (-1,), keepdims=1)))
    (match,) = _find(g, "softmax", y=g.op("Div", e, g.reduce("ReduceSum", e, (-1,), keepdims=1)))
    assert match.form == "decomposed"
    assert match.inputs["x"] == "x"
    assert match.attributes["axis"] == -1
    assert len(match.nodes) == 5


def test_a_softmax_of_no_attention() -> None:
    g = Graph(13)
    g.input("x", (2, 8))
    y = g.op("Softmax", g.op("MatMul", "x", g.const(np.eye(8, dtype=np.float32))))
    assert _find(g, "attention", y=y) == []


def _gelu(g: Graph, form: str) -> str:
    x, half, one = "x", g.scalar(0.5), g.scalar(1.0)
    if form == "erf":
        inner = g.op("Add", g.op("Erf", g.op("Div", x, g.scalar(2**0.5))), one)
        return g.op("Mul", g.op("Mul", x, inner), half)
    if form == "erf, half first":
        inner = g.op("Add", one, g.op("Erf", g.op("Mul", x, g.scalar(0.5**0.5))))
        return g.op("Mul", g.op("Mul", x, half), inner)
    if form == "sigmoid":
        return g.op("Mul", x, g.op("Sigmoid", g.op("Mul", x, g.scalar(1.702))))
    cube = g.op("Pow", x, g.scalar(3.0)) if form == "tanh" else g.op("Mul", x, g.op("Mul", x, x))
    inner = g.op("Add", x, g.op("Mul", g.scalar(0.044715), cube))
    tanh = g.op("Tanh", g.op("Mul", g.scalar((2 / np.pi) ** 0.5), inner))
    return g.op("Mul", g.op("Mul", half, x), g.op("Add", tanh, one))


@pytest.mark.parametrize("form", ["erf", "erf, half first", "tanh", "tanh, Mul", "sigmoid"])
def test_gelu(form: str) -> None:
    g = Graph(13)
    g.input("x", (2, 8))
    y = _gelu(g, form)
    (match,) = _find(g, "gelu", y=y)
    assert match.attributes["approximate"] == form.partition(",")[0]
    assert match.inputs["x"] == "x"
    assert match.output == y


@pytest.mark.parametrize("wrong", ["scale", "half", "other"])
def test_no_gelu(wrong: str) -> None:
    g = Graph(13)
    g.input("x", (2, 8))
    g.input("other", (2, 8))
    argument = g.op("Div", "x", g.scalar(2.0 if wrong == "scale" else 2**0.5))
    inner = g.op("Add", g.op("Erf", argument), g.scalar(1.0))
    y = g.op("Mul", g.op("Mul", "other" if wrong == "other" else "x", inner), g.scalar(0.7 if wrong == "half" else 0.5))
    assert _find(g, "gelu", y=y) == []


def test_residual() -> None:
    g = Graph(13)
    g.input("x", (2, 4, 8))
    branch = g.op("MatMul", g.op("Relu", "x"), g.const(np.eye(8, dtype=np.float32)))
    biased = g.op("Add", branch, g.const(np.ones(8, np.float32)))
    (match,) = _find(g, "residual", y=g.op("Add", biased, "x"))
    assert match.inputs == {"skip": "x", "branch": biased}


def test_no_residual_where_the_operands_are_unrelated() -> None:
    g = Graph(13)
    g.input("x", (2, 4, 8))
    g.input("z", (2, 4, 8))
    product = g.op("MatMul", "x", g.const(np.eye(8, dtype=np.float32)))
    assert _find(g, "residual", y=g.op("Add", product, "z"), w=g.op("Abs", "z")) == []


@pytest.mark.parametrize("form", ["ReduceL2", "max", "sum", "sum eps", "clip"])
def test_l2_normalization(form: str) -> None:
    g = Graph(13)
    g.input("x", (2, 8))
    if form == "ReduceL2":
        norm = g.reduce("ReduceL2", "x", (-1,), keepdims=1)
    elif form == "max":
        norm = g.op("Max", g.reduce("ReduceL2", "x", (-1,), keepdims=1), g.scalar(1e-6))
    elif form == "clip":
        norm = g.op("Clip", g.reduce("ReduceL2", "x", (-1,), keepdims=1), g.scalar(1e-6))
    else:
        total = g.reduce("ReduceSum", g.op("Mul", "x", "x"), (-1,), keepdims=1)
        norm = g.op("Sqrt", g.op("Add", total, g.scalar(1e-6)) if form == "sum eps" else total)
    y = g.op("Div", "x", norm)
    (match,) = _find(g, "l2_normalization", y=y)
    assert match.inputs == {"x": "x"}
    assert match.attributes["axes"] == (-1,)
    assert match.attributes["epsilon"] == pytest.approx(0.0 if form in ("ReduceL2", "sum") else 1e-6)
    assert match.output == y


def test_rotary_embedding() -> None:
    g = Graph(13)
    g.input("x", (1, 2, 4, 8))
    g.input("angles", (1, 1, 4, 8))

    def cut(start: int, stop: int) -> str:
        values = [g.const(np.array([v], np.int64)) for v in (start, stop, 3)]
        return g.op("Slice", "x", *values)

    cos, sin = g.op("Cos", "angles"), g.op("Sin", "angles")
    turned = g.op("Concat", g.op("Neg", cut(4, 8)), cut(0, 4), axis=-1)
    y = g.op("Add", g.op("Mul", "x", cos), g.op("Mul", turned, sin))
    (match,) = _find(g, "rotary_embedding", y=y)
    assert match.inputs == {"x": "x", "cos": cos, "sin": sin}
    assert {node.output for node in match.attributes["trigonometry"]} == {cos, sin}


def test_kinds_are_checked() -> None:
    g = Graph(13)
    g.input("x", (2, 8))
    with pytest.raises(ValueError, match="unknown pattern kind 'layernorm'"):
        _find(g, "layernorm", y="x")
    assert len(set(KINDS)) == 13


def test_every_match_names_nodes_of_the_model() -> None:
    model = Model.load(_attention().model())
    outputs = {name for node in model.proto.graph.node for name in node.output}
    for match in find_patterns(model):
        assert match.nodes
        assert {node.output for node in match.nodes} <= outputs
        assert match.output in outputs
        assert match.anchor == match.nodes[-1]


def test_nothing_in_a_graph_without_patterns() -> None:
    g = Graph(13)
    g.input("x", (2, 8))
    g.op("Sqrt", g.op("Mul", "x", "x"), output="y")
    g.output("y")
    assert find_patterns(Model.load(g.model())) == []
    assert isinstance(g.model(), onnx.ModelProto)
