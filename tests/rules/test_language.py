"""The language: three-valued logic, what the loader refuses (with file and line), what the engine does with a bug."""

from __future__ import annotations

import itertools

import onnx
import pytest

from precision_planner.errors import RuleError, SelectorError
from precision_planner.model import GraphIndex, Model, infer_types
from precision_planner.rules import Evidence, RuleFailedError, evaluate, load_rulebook
from precision_planner.rules.facts.registry import SUBJECT_FACTS, VALUE_FACTS
from precision_planner.rules.language.clauses import All, Any_, Compare, Not
from precision_planner.rules.language.loader import load_folder
from precision_planner.rules.language.scaffold import write_rule
from precision_planner.rules.language.schema import read_cases
from precision_planner.rules.language.yaml_tree import parse_yaml

TRUTHS = (True, False, None)


def said(name, truth):
    """A clause with a given truth."""
    return Compare(name, "is", True), {name: truth}


@pytest.mark.parametrize("truths", list(itertools.product(TRUTHS, repeat=3)))
def test_kleenes_logic(truths):
    # Kleene 1952, 64: the strong tables; None is the third value
    parts, facts = [], {}
    for number, truth in enumerate(truths):
        clause, known = said(f"f{number}", truth)
        parts.append(clause)
        facts |= known
    everything = False if False in truths else None if None in truths else True
    anything = True if True in truths else None if None in truths else False
    assert All(tuple(parts)).evaluate(facts.get, {}) is everything
    assert Any_(tuple(parts)).evaluate(facts.get, {}) is anything
    negated = {True: False, False: True, None: None}[everything]
    assert Not(All(tuple(parts))).evaluate(facts.get, {}) is negated


@pytest.mark.parametrize(
    ("comparison", "fact", "value", "expected"),
    [
        ("above", 2.0, 2, False), ("above", 2.5, 2, True), ("at_least", 2, 2, True), ("at_least", 1.9, 2, False),
        ("below", 2, 2, False), ("below", 1, 2, True), ("at_most", 2, 2, True), ("at_most", 3, 2, False),
        ("is", "a", "a", True), ("is_not", "a", "a", False), ("in", "a", frozenset("ab"), True),
        ("not_in", "a", frozenset("ab"), False), ("has", frozenset("ab"), frozenset("bc"), True),
        ("has", frozenset("ab"), frozenset("c"), False), ("lacks", frozenset("ab"), frozenset("bc"), False),
        ("lacks", frozenset(), frozenset("c"), True), ("above", float("inf"), 65504, True),
    ],
)  # fmt: skip
def test_comparisons(comparison, fact, value, expected):
    assert Compare("f", comparison, value).evaluate(lambda _: fact, {}) is expected
    assert Compare("f", comparison, value).evaluate(lambda _: None, {}) is None


def test_yaml_1_2():
    read = parse_yaml("a: 1e-12\nb: NO\nc: 0x10\nd: .inf\ne: [on, true]\nf: '1'\n", "x")
    assert read == {"a": 1e-12, "b": "NO", "c": 16, "d": float("inf"), "e": ["on", True], "f": "1"}
    assert read.lines["c"] == 3


GOOD = """\
id: XX001
title: A title
why: Because.
references: [https://example.org]
severity: warning
tags: [mine]
match: {op: Exp}
when: {fact: output.amax, above: 10}
action: warn
cases: []
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tags: [mine]", "tags: [mine]\ntags: [again]", "7: the key 'tags' is given twice (first in line 6)"),
        ("severity: warning", "severity: grave", "5: 'severity' is 'grave'; it takes error, warning, info"),
        ("severity: warning", "severety: warning", "5: a rule has no key 'severety'; did you mean 'severity'?"),
        ("id: XX001", "id: xx1", "1: the id 'xx1' is not two to four capitals and three digits"),
        ("references: [https://example.org]", "references: [there]", "4: 'references' needs at least one URL"),
        ("{op: Exp}", "{op: Exq}", "7: ONNX has no operator Exq; did you mean Exp?"),
        ("{op: Exp}", "{op: Exp, pattern: softmax}", "7: 'match' takes exactly one of"),
        ("{op: Exp}", "{pattern: layernorm}", "7: 'pattern' has 'layernorm'; it takes layer_normalization"),
        ("{op: Exp}", "{op: Exp, form: native}", "7: 'form' belongs to 'pattern'"),
        ("output.amax, above: 10", "amax, above: 10", "8: a node has no fact 'amax' (facts of a value need a role"),
        ("output.amax, above: 10", "output.amix, above: 10", "8: a node has no fact 'output.amix'; did you mean"),
        ("output.amax, above: 10", "output.amax, over: 10", "8: there is no comparison 'over'"),
        ("output.amax, above: 10", "output.amax, has: [a]", "8: 'output.amax' is a number: compare it by is, is_not"),
        ("output.amax, above: 10", "output.amax, above: ten", "8: 'amax' is a number; 'ten' is none"),
        ("output.amax, above: 10", "output.amax, above: true", "8: 'amax' is a number; True is none"),
        ("output.amax, above: 10", "output.amax, above: .nan", "8: nothing compares with NaN"),
        ("output.amax, above: 10", "output.amax, above: 1, below: 2", "8: a clause has exactly one comparison"),
        ("output.amax, above: 10", "op_type, is: 3", "8: 'op_type' is a text; put 3 in quotes"),
        ("{fact: output.amax, above: 10}", "{all: []}", "8: 'all' takes a list of clauses"),
        ("{fact: output.amax, above: 10}", "amax > 10", "8: a clause is {fact: NAME, COMPARISON: VALUE}"),
        ("action: warn", "action: warm", "9: there is no action 'warm'"),
        ("action: warn", "action: {fuse: {}}", "9: 'fuse' needs a rule about a pattern"),
        ("action: warn", "action: {replace: {repair: magic}}", "9: 'replace' needs a repair: one of finite_mask"),
        ("action: warn", "action: {replace: {repair: finite_mask, valeu: 1}}", "9: 'finite_mask' has no key 'valeu'"),
        ("action: warn", "action: {keep_fp32: {nodes: all}}", "9: there is no node set 'all'"),
        ("action: warn", "action: {keep_bf16: {as: island}}", "9: 'as' belongs to keep_fp32"),
        ("title: A title", "title: !!python/name:os.system x", "2: the tag tag:yaml.org,2002:python/name:os.system"),
        ("title: A title", "title: [", "4: not valid YAML"),
        ("title: A title", "title: 3", "2: 'title' must be a text, not a number (3)"),
        ("action: warn", "message: '{amix}'\naction: warn", "9: a node has no fact 'amix'"),
        ("why: Because.\n", "", "1: the rule has no 'why'"),
    ],
)  # fmt: skip
def test_the_loader_says_file_and_line(tmp_path, old, new, message):
    path = tmp_path / "XX001.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(RuleError) as caught:
        load_folder(tmp_path)
    assert str(caught.value).startswith(f"{path}:{message}")
    assert "\n" not in str(caught.value)


CASES = """\
cases:
  - name: one
    kind: fires
    model: |
      <ir_version: 8, opset_import: ["" : 17]>
      case (float[2] x) => (float[2] y) { y = Exp(x) }
    expect: {fires: unknown}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: fires", "kind: maybe", "12: 'kind' is 'maybe'"),
        ("{fires: unknown}", "{fires: often}", "16: 'fires' is true, false or unknown"),
        ("    expect: {fires: unknown}\n", "", "11: a case needs 'expect'"),
        ("    expect", "    inputs: {x: {normal: 1}}\n    expect", "16: an input needs its 'shape'"),
        ("    expect", "    inputs: {x: {gauss: 1, shape: [2]}}\n    expect", "16: an input has no key 'gauss'"),
        ("    expect", "    builder: linear\n    expect", "11: a case has either 'model' (ONNX text) or 'builder'"),
        ("cases:", "cases:  # none of the other kinds", "10: the rule has no case of kind 'near_miss'"),
    ],
)  # fmt: skip
def test_cases_are_checked_with_their_line(tmp_path, old, new, message):
    path = tmp_path / "XX001.yaml"
    path.write_text(GOOD.replace("cases: []\n", CASES.replace(old, new)))
    (rule,) = load_folder(tmp_path)
    with pytest.raises(RuleError) as caught:
        assert read_cases(rule)
    assert str(caught.value).startswith(f"{path}:{message}")


def test_a_folder_without_rules_and_an_id_that_is_taken(tmp_path):
    with pytest.raises(RuleError, match="no such folder"):
        load_rulebook([tmp_path / "nowhere"])
    with pytest.raises(RuleError, match="no rule in it"):
        load_rulebook([tmp_path])
    (tmp_path / "a.yaml").write_text(GOOD.replace("XX001", "LN001"))
    with pytest.raises(RuleError, match=r"a.yaml:1: the id LN001 is taken by .*LN001.yaml"):
        load_rulebook([tmp_path])


def test_the_scaffold_passes_its_own_cases(tmp_path):
    from precision_planner.planning.cures import check_cure
    from precision_planner.rules.engine.cases import run_case
    from tests.rules.oracle import measure

    write_rule("XX001", tmp_path / "mine")
    (rule,) = load_folder(tmp_path / "mine")
    for case in read_cases(rule):
        assert run_case(rule, case, measure).failures == ()
    result = check_cure(rule, read_cases(rule)[0], measure)
    assert result is not None
    assert result.failures == ()
    with pytest.raises(RuleError, match="own rules"):
        write_rule("LN001", tmp_path)


def evidence(text):
    model = Model.load(onnx.parser.parse_model(text))
    index = GraphIndex(model.proto)
    return Evidence(model, index, infer_types(model, index))


EXP = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { [e] y = Exp(x) }'


def test_a_rule_that_raises_is_named_with_its_subject(monkeypatch):
    fact = VALUE_FACTS["amax"]

    def broken(world, scope, value):
        raise ZeroDivisionError("oops")

    monkeypatch.setitem(VALUE_FACTS, "amax", type(fact)(**{**fact.__dict__, "compute": broken}))
    with pytest.raises(RuleFailedError, match="rule EX001 on e: ZeroDivisionError: oops"):
        evaluate(load_rulebook(), evidence(EXP), only=["EX001"])


def test_without_data_a_rule_is_undecided_and_says_what_is_missing():
    found = evaluate(load_rulebook(), evidence(EXP), only=["EX001"])
    assert found.findings == ()
    (open_,) = found.undecided
    assert (open_.rule, open_.subject, open_.missing, open_.needs_data) == ("EX001", "e", ("output.amax",), True)


def test_only_and_disable_take_ids_and_tags():
    book = load_rulebook()
    chosen = evaluate(book, evidence(EXP), only=["range"], disable=["EX001"]).rules
    assert "EX001" not in chosen
    assert set(chosen) == {r.id for r in book if "range" in r.tags and "torch-amp" not in r.policies} - {"EX001"}
    with pytest.raises(SelectorError, match=r"--disable EX01: no rule has that id or tag; did you mean EX001"):
        evaluate(book, evidence(EXP), disable=["EX01"])


def test_every_fact_is_documented_and_used_or_usable():
    for (subject, name), fact in SUBJECT_FACTS.items():
        assert fact.doc.endswith("."), (subject, name)
        assert fact.name == name
        assert subject in fact.subjects
    assert all(fact.doc.endswith(".") for fact in VALUE_FACTS.values())


def test_every_rule_of_the_book_is_whole():
    book = load_rulebook()
    for rule in book:
        assert rule.path.name == f"{rule.id}.yaml"
        assert 2 <= rule.why.count(". ") + 1 <= 4, rule.id
        assert rule.tags, rule.id
    classes = {number for rule in book for number in rule.classes}
    assert classes >= set(range(1, 28))
