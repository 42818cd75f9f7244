"""The SEL grammar: categories, op types, globs with a literal bracket, regular expressions, suggestions."""

from __future__ import annotations

import onnx
import pytest

from precision_planner.errors import SelectorError
from precision_planner.model import GraphIndex, Model
from precision_planner.operators import operators
from precision_planner.patterns import find_patterns
from precision_planner.patterns.match import KINDS
from precision_planner.patterns.selecting import CATEGORIES, categories, select
from precision_planner.rules.language.builders import BUILDERS

BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
case (bool c, float[2] x) => (float[2] y) {
  y = If (c) <
    then_branch = yes () => (float[2] t) { t = Exp(x) },
    else_branch = no () => (float[2] e) { e = Neg(x) }
  >
}
"""

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
case (float[2,4] x) => (float[2,4] y) <float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}, float[4] g = {1,1,1,1}> {
  [/enc/layer.0/MatMul] a = MatMul(x, w)
  [/enc/layer.0/Add] b = Add(x, a)
  [/enc/layer.10/MatMul] c = MatMul(b, w)
  ["/enc/block[0]/Relu"] d = Relu(c)
  [norm] n = LayerNormalization<axis = -1>(d, g)
  [soft] s = Softmax(n)
  y = Exp(s)
}
"""


@pytest.fixture(scope="module")
def chosen():
    text = TEXT.replace('"/enc/block[0]/Relu"', "block_relu")
    proto = onnx.parser.parse_model(text.replace("/", "_").replace(".", "_"))
    names = [
        "/enc/layer.0/MatMul",
        "/enc/layer.0/Add",
        "/enc/layer.10/MatMul",
        "/enc/block[0]/Relu",
        "norm",
        "soft",
        "",
    ]
    for node, name in zip(proto.graph.node, names, strict=True):
        node.name = name
    model = Model.load(proto)
    index = GraphIndex(model.proto)
    matches = find_patterns(model, index=index)
    return lambda selector: {node.output for node in select(model, selector, index=index, matches=matches)}


@pytest.mark.parametrize(
    ("selector", "outputs"),
    [
        ("layernorm", "n"), ("softmax", "s"), ("residual", "b"), ("MatMul", "ac"), ("MatMul,softmax", "acs"),
        ("/enc/layer.0/*", "ab"), ("/enc/layer.1*", "c"), ("/enc/block[0]/Relu", "d"), ("*[0]*", "d"),
        ("/enc/layer.?/Add", "b"), ("Exp(y)", "y"), ("Exp*", "y"), ("exp", "y"), ("re:layer\\.(0|10)/Mat", "ac"),
        ("re:^norm$|^soft$", "ns"), ("re:layer.{1,3}/MatMul", "ac"), (" softmax , norm ", "sn"), ("*", "abcdnsy"),
        ("layer_normalization", "n"),
    ],
)  # fmt: skip
def test_what_a_selector_means(chosen, selector, outputs):
    assert chosen(selector) == set(outputs)


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("layernrm", "selector 'layernrm' matches no node; did you mean layernorm"),
        ("matmul", "did you mean MatMul"),
        ("/enc/layer.0/Matmul", "did you mean /enc/layer.0/MatMul"),
        ("/enc/layer.0/MatMu", "/enc/layer.0/MatMul"),
        ("groupnorm", "the category exists but this model has none of it"),
        ("softmax,,norm", "has an empty part"),
        ("", "has an empty part"),
        ("re:(", "is no regular expression"),
        ("re:", "needs a regular expression"),
        ("re:nothing_like_it", "matches no node"),
        ("softmax,nonesuch", "selector 'nonesuch' matches no node"),
        ("LAYER", "matches no node"),
        ("/enc/block[01]/Relu", "did you mean /enc/block[0]/Relu"),
    ],
)
def test_what_matches_nothing_is_an_error_with_suggestions(chosen, selector, message):
    with pytest.raises(SelectorError) as caught:
        chosen(selector)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_decomposed_norm_is_all_its_nodes():
    made = BUILDERS["layer_norm"]
    model = Model.load(made.build(**made.parameters))
    found = select(model, ["layernorm"])
    assert len(found) == 9


def test_a_look_alike_is_no_layernorm():
    made = BUILDERS["layer_norm"]
    model = Model.load(made.build(**{**made.parameters, "exponent": 3.0}))
    with pytest.raises(SelectorError, match="the category exists"):
        select(model, "layernorm")


def test_every_category_is_taken(chosen):
    assert {"layernorm", "rmsnorm", "groupnorm", "softmax", "residual"} <= set(categories())
    for name in CATEGORIES:
        try:
            assert chosen(name)
        except SelectorError as error:
            assert "the category exists" in str(error)  # noqa: PT017
    assert chosen("gemm") == set("ac")
    assert chosen("exp") == set("y")


def test_what_a_family_covers_is_a_pattern_kind_or_an_operator():
    known = {found.name for found in operators()}
    for category in CATEGORIES.values():
        assert set(category.kinds) <= set(KINDS)
        assert category.ops <= known


def test_a_selected_if_means_its_branches():
    proto = onnx.parser.parse_model(BRANCHES)
    assert {node.output for node in select(Model.load(proto), "If")} == {"y", "t", "e"}


def test_a_node_id_means_itself():
    model = Model.load(onnx.parser.parse_model(BRANCHES))
    index = GraphIndex(model.proto)
    one = index.node_id(index.main, 0)
    assert select(model, [one]) >= {one}
    assert select(model, []) == set()
