"""The passes of a rewrite: the list is what runs, and what a pass leaves behind is checked."""

from __future__ import annotations

import os

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import precision_planner as pp
from examples.bert_classifier import PRESETS, build_bert_classifier
from precision_planner.cli.main import main
from precision_planner.errors import ConversionError
from precision_planner.model import GraphIndex, Model
from precision_planner.model.edit import PassResult
from precision_planner.rewriting import passes, rewrite
from precision_planner.rewriting.passes import CHECK_VARIABLE, PASSES, PassError, Passes, faults, refusals
from tests.random_graphs import decisions_of, graphs

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
case (float[N,4] x, int64[N] i) => (float[N,4] y) <float[4,4] w = {1,2,0,0,0,1,0,3,0,0,1,0,1,0,0,1}, int64[1] z = {0}> {
  [first] a = MatMul(x, w)
  [gather] b = Gather(a, i)
  [last] y = Exp(b)
}
"""
UNSORTED = TEXT.replace("[first] a = MatMul(x, w)", "").replace("[last] y", "[first] a = MatMul(x, w)\n  [last] y")
TWICE = TEXT.replace("[gather] b", "[again] a")


def loaded(text: str) -> Model:
    return Model.load(onnx.parser.parse_model(text))


def test_the_list_is_what_runs():
    names = [each.name for each in PASSES]
    done = pp.rewrite(onnx.parser.parse_model(TEXT), precision="bf16", int32_inputs=True).report["passes"]
    assert done == [name for name in names if name in done]
    assert {"convert", "int32_inputs"} <= set(done)
    assert pp.rewrite(onnx.parser.parse_model(TEXT), precision="fp32").report["passes"] == []


def test_the_command_prints_the_list(capsys):
    assert main(["rewrite", "--list-passes"]) == 0
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == [each.name for each in PASSES]


def test_a_fault_is_seen():
    assert faults(onnx.parser.parse_model(TEXT)) == []
    assert faults(onnx.parser.parse_model(UNSORTED)) == ["'a', read by Gather before it is made"]
    assert "'a', made twice" in faults(onnx.parser.parse_model(TWICE))


@pytest.mark.parametrize(("text", "message"), [(UNSORTED, "convert left 'a', read by Gather"), (TWICE, "made twice")])
def test_a_pass_that_leaves_one_is_named(text, message):
    broken = loaded(TEXT).with_proto(onnx.parser.parse_model(text))
    with pytest.raises(PassError, match=message):
        Passes().run("convert", loaded(TEXT), lambda _: PassResult(broken))


def test_the_checker_looks_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that is none has names like any other; only the checker knows the operator."""
    nameless = loaded(TEXT).edit()
    nameless.graph.node[2].op_type = "Exponential"
    broken = loaded(TEXT).with_proto(nameless)
    monkeypatch.setenv(CHECK_VARIABLE, "")
    assert Passes().run("convert", loaded(TEXT), lambda _: PassResult(broken)).model is broken
    monkeypatch.setenv(CHECK_VARIABLE, "1")
    with pytest.raises(PassError, match=r"convert left what the ONNX checker refuses: .*Exponential"):
        Passes().run("convert", loaded(TEXT), lambda _: PassResult(broken))


def test_a_model_that_came_so_is_not_blamed_on_a_pass():
    broken = loaded(TEXT).with_proto(onnx.parser.parse_model(UNSORTED))
    other = broken.with_proto(broken.edit())
    assert Passes().run("convert", broken, lambda _: PassResult(other)).model is other


def test_names_and_notes_are_gathered_and_the_order_is_kept():
    model = loaded(TEXT)
    passes = Passes()
    passes.run("fuse", model, lambda given: PassResult(given, {"a": "b"}, ("one",)))
    assert (passes.names, passes.notes, passes.done) == ({"a": "b"}, ["one"], [])
    with pytest.raises(PassError, match="surgery runs after fuse"):
        passes.run("surgery", model, PassResult)


@pytest.mark.slow
@given(graphs(), st.sampled_from(("fp16", "bf16")), st.sampled_from(((), ("layernorm",), ("attention", "layernorm"))))
@settings(max_examples=60)
def test_after_every_pass_of_a_random_model_the_checker_has_nothing_to_say(drawn, precision, fuse) -> None:
    """The checker is on in every test (conftest): a pass that leaves what it refuses raises."""
    assert os.environ.get(CHECK_VARIABLE)
    model = Model.load(drawn.model)
    decisions = decisions_of(drawn, GraphIndex(model.proto))
    options = {"decisions": decisions, "io_types": drawn.io_types, "fuse": fuse, "verify": False, "safe": False}
    try:
        found = rewrite(model, precision=precision, **options)
    except ConversionError as error:
        if "nothing was converted" not in str(error):  # as of a model that only moves values
            raise
        return
    assert refusals(found.typed) == []


@pytest.mark.parametrize("preset", ["tiny", "tiny-massive"])
def test_after_every_pass_of_a_sample_model_the_checker_has_nothing_to_say(preset: str, monkeypatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(passes, "refusals", lambda model: looked.append(preset) or refusals(model))
    model = build_bert_classifier(PRESETS[preset])
    found = rewrite(model, keep_fp32="softmax", keep_sum32="MatMul", int32_inputs=True, verify=False)
    assert {"fuse", "convert", "sums", "int32_inputs"} <= set(found.report["passes"])
    assert len(looked) >= len(found.report["passes"])
