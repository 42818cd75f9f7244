"""Who wins: the user over rewrites over keeping, FP32 over BF16, and torch's promotion."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from precision_planner.errors import SelectorError
from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.patterns import find_patterns
from precision_planner.planning.policy import FUSED, resolve
from precision_planner.rules import Evidence, evaluate, load_rulebook
from precision_planner.rules.engine.cases import model_census
from precision_planner.rules.language.builders import BUILDERS
from precision_planner.transforms.repairs import REPAIRS
from tests.rules.oracle import measure

BOOK = load_rulebook()


def evidence(proto, inputs=None, **options):
    model = Model.load(proto)
    index = GraphIndex(model.proto)
    types = infer_types(model, index)
    ranges = None if inputs is None else measure(model, [inputs])
    matches = find_patterns(model, index=index, types=types)
    return Evidence(model, index, types, matches, model_census(model, index), ranges, **options)


def build(name, **parameters):
    return BUILDERS[name].build(**{**BUILDERS[name].parameters, **parameters})


def parse(body):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {body}')


def resolved(facts, *, fuse=FUSED, policy="auto", only=(), repair=True):
    evaluation = evaluate(BOOK, facts, policy=policy, only=only, without=() if repair else REPAIRS)
    return resolve(evaluation, facts, fuse=fuse, policy=policy)


def kept(resolution):
    return {node.output: decision.precision for node, decision in resolution.decisions.items()}


BLOCK = """g (float[1,4] x) => (float[1,4] y)
 <float[4,4] w = {2,0,0,0,0,2,0,0,0,0,2,0,0,0,0,2}, float[4] g = {1,1,1,1},
  float[4,4] v = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}> {
  a = MatMul(x, w)
  b = Add(x, a)
  n = LayerNormalization<axis = -1>(b, g)
  y = MatMul(n, v)
}"""


def test_an_overflowing_stream_is_rescaled_and_nothing_is_kept_for_it():
    for synthesized in (False, True):
        facts = evidence(parse(BLOCK), {"x": np.array([[60000, 1, 2, 3.0]])}, synthesized=synthesized)
        found = resolved(facts)
        assert {request.repair for request in found.repairs} == {"rescale_stream"}
        assert {request.label for request in found.repairs} == {"RG001", "RS001"}
        assert found.decisions == {}


def test_fp32_of_one_rule_beats_bf16_of_another():
    facts = evidence(parse(BLOCK), {"x": np.array([[60000, 1, 2, 3.0]])})
    found = resolved(facts, repair=False)
    # RG001 asks BF16 for the product and its reader, RS001 FP32 for the residual sum and the norm
    assert kept(found) == {"a": "bf16", "b": "fp32", "n": "fp32"}
    assert set(found.spoken) == {"LN002", "RG001", "RS001"}


def test_made_up_data_alone_never_keeps_a_gemm_high():
    facts = evidence(parse(BLOCK), {"x": np.array([[60000, 1, 2, 3.0]])}, synthesized=True)
    found = resolved(facts, repair=False)
    assert kept(found) == {"b": "fp32", "n": "fp32"}
    assert {finding.confidence for finding in evaluate(BOOK, facts).findings} == {"low"}


def test_a_fusion_takes_its_nodes_and_keeping_a_part_keeps_the_fused_node():
    facts = evidence(build("layer_norm", hidden=8), {"x": np.array([[300, -300, 1, 2, 3, 4, 5, 6.0]])})
    found = resolved(facts)
    assert [match.kind for match in found.fuse] == ["layer_normalization"]
    assert found.decisions == {}
    unfused = resolved(facts, fuse=frozenset())
    assert unfused.fuse == ()
    assert set(kept(unfused).values()) == {"fp32"}
    assert len(unfused.decisions) == 9


def test_a_decomposed_norm_behind_an_overflowing_sum_is_an_island_when_fused():
    proto = build("layer_norm", hidden=4)
    text = """g (float[1,4] v) => (float[1,4] x) <float[4,4] w = {2,0,0,0,0,2,0,0,0,0,2,0,0,0,0,2}> {
      a = MatMul(v, w)
      x = Add(v, a)
    }"""
    front = parse(text).graph
    graph = onnx.helper.make_graph(
        [*front.node, *proto.graph.node], "g", list(front.input), list(proto.graph.output),
        [*front.initializer, *proto.graph.initializer],
    )  # fmt: skip
    joined = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    facts = evidence(joined, {"v": np.array([[60000, 1, 2, 3.0]])})
    found = resolved(facts, repair=False)
    assert len(found.fuse) == 1
    decision = found.decisions[found.fuse[0].anchor]
    assert (decision.precision, decision.rule, decision.keep_as) == ("fp32", "RS001", "island")


def test_a_repair_replaces_keeping():
    facts = evidence(build("attention", mask=-3.4e38), None)
    found = resolved(facts)
    assert [(request.repair, request.label) for request in found.repairs] == [("finite_mask", "MK001")]
    assert found.decisions == {}
    assert resolved(facts, repair=False).repairs == ()


AMP = """g (int64[2] ids, float[2,4] extra) => (float[2,4] y)
 <float[9,4] table = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0},
  float[4,4] w = {2,0,0,0,0,2,0,0,0,0,2,0,0,0,0,2}, float[4] bias = {1,2,3,4}, float half = {0.5}> {
  e = Gather(table, ids)
  a = MatMul(e, w)
  b = Add(a, bias)
  r = Relu(b)
  h = Mul(r, half)
  s = Softmax(h)
  m = Mul(s, h)
  n = MatMul(m, w)
  y = Add(n, extra)
}"""


def test_torch_amp_follows_the_lists_and_the_inputs():
    # torch.autocast: lookups and parameters are float32, linear casts its bias, softmax gives float32, and
    # everything on neither list takes the widest type of its inputs (a scalar does not promote)
    found = resolved(evidence(parse(AMP)), policy="torch-amp")
    assert set(kept(found)) == {"e", "s", "m", "y"}
    assert set(kept(found).values()) == {"fp32"}
    assert found.spoken == ("AMP001", "AMP002")


@pytest.mark.torch
def test_torch_does_the_same():
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.first = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4)
            self.second = torch.nn.Linear(4, 4, bias=False)

        def forward(self, ids, extra):
            e = self.table(ids)
            b = self.first(e)
            h = torch.relu(b) * 0.5
            s = torch.softmax(h, -1, dtype=torch.float32)  # what CUDA's autocast does by itself
            m = s * h
            n = self.second(m)
            return {"e": e, "b": b, "h": h, "s": s, "m": m, "n": n, "y": n + extra}

    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        values = Net()(torch.tensor([1, 2]), torch.ones(2, 4))
    assert {name for name, value in values.items() if value.dtype == torch.float32} == {"e", "s", "m", "y"}


def test_an_unknown_policy():
    facts = evidence(build("layer_norm"))
    with pytest.raises(SelectorError, match="there is no policy 'amp'; use auto, rules, torch-amp"):
        resolve(evaluate(BOOK, facts), facts, policy="amp")
