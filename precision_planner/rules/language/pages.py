"""The rule book as pages: one a rule, an index, and the language, all from the rules and the registries themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import resources
from typing import TypeAlias

from precision_planner.rules.facts.evidence import CONSTANT_DOCS
from precision_planner.rules.facts.node_sets import NODE_SETS, NodeSet
from precision_planner.rules.facts.registry import SUBJECT_FACTS, SUBJECTS, VALUE_FACTS, Fact
from precision_planner.rules.facts.surroundings import SURROUNDINGS
from precision_planner.rules.language.builders import BUILDERS
from precision_planner.rules.language.clauses import COMPARISONS
from precision_planner.rules.language.rule import ActionSpec, Case, Rule, RuleBook
from precision_planner.rules.language.schema import read_cases
from precision_planner.transforms.repairs import REPAIRS

__all__ = ["CLASSES", "describe_action", "describe_match", "rule_pages"]

Example: TypeAlias = Callable[[Rule], "tuple[str, str, str] | None"]
"""rule -> (the case's name, the graph before, the graph after); None where there is nothing to show."""

CLASSES = {
    1: "decomposed LayerNorm: the squares overflow",
    2: "RMSNorm: the squares overflow",
    3: "the residual stream grows past 65504",
    4: "LayerNorm operator used and still wrong: look at what it reads",
    5: "L2 normalization: the sum of squares overflows",
    6: "an epsilon that becomes zero",
    7: "attention masks of -1e9 and below",
    8: "attention masks without headroom; rows masked as a whole",
    9: "infinity in Min, Max, Clip, Where, Pad",
    10: "softmax on huge scores: check what makes them",
    11: "Q K^T before the 1/sqrt(d) scale",
    12: "InstanceNorm and GroupNorm",
    13: "channels-first LayerNorm",
    14: "tanh GELU: x^3",
    15: "Exp, Softplus, Mish past 11.09",
    16: "sums over many values",
    17: "RoPE, Sin and Cos of large positions",
    18: "index arithmetic in float",
    19: "sampling coordinates",
    20: "shape arithmetic and Resize scales in float",
    21: "BatchNorm variances",
    22: "subnormal, flushed and overflowing weights",
    23: "tiny constants behind a Shuffle",
    24: "FP16 accumulation",
    25: "division, roots and logarithms of what flushes to zero",
    26: "inputs past 65504",
    27: "fused attention over very many keys",
    28: "the logarithm of a softmax",
    29: "tiny quantization scales",
}
"""Number -> failure class; up to 27 as they are known from the field, the rest found while writing the rules."""


def rule_pages(rulebook: RuleBook, example: Example) -> dict[str, str]:
    """Every page of docs/rules: file name -> Markdown.

    Args:
      rulebook: the rules.
      example: the graphs of a rule's example.
    """
    pages = {f"{rule.id}.md": rule_page(rule, example(rule)) for rule in rulebook}
    return {"index.md": index_page(rulebook), "language.md": language_page(), **pages}


def index_page(rulebook: RuleBook) -> str:
    """The table of all rules and the table of classes."""
    lines = [
        "# The rules",
        "",
        "What breaks in 16 bits, as data. Each rule is one YAML file with its reason, its references and the cases",
        "that prove it; [the language](language.md) is on one page. `planner rules` prints this table,",
        "`planner rules LN001` one rule, `planner rules --new XX001 DIR` writes a first rule of your own,",
        "`planner rules --test DIR` runs its cases.",
        "",
        "| rule | says | severity | action | needs data | tags |",
        "|---|---|---|---|---|---|",
    ]
    for rule in rulebook:
        kinds = ", ".join(dict.fromkeys(action.repair or action.kind for action in rule.actions))
        data = "yes" if uses_data(rule) else "no"
        cells = (f"[{rule.id}]({rule.id}.md)", rule.title, rule.severity, kinds, data, ", ".join(rule.tags))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Failure classes", "", "| class | what fails | rules |", "|---|---|---|"]
    for number, what in CLASSES.items():
        rules = ", ".join(f"[{rule.id}]({rule.id}.md)" for rule in rulebook if number in rule.classes)
        lines.append(f"| {number} | {what} | {rules} |")
    lines += [
        "",
        "LN002 and SM001 only diagnose: the cure of what they find lies upstream, and which values are right is not",
        "in the graph. WT001 and RG002 report and leave the decision to WT002, WT003 and RG001.",
        "",
        "## Order",
        "",
        "Several rules may speak about one node; every one of them is reported. What is done is decided in this order:",
        "",
        "1. the user's `--keep-fp32`, then `--keep-bf16`, then `--only-low`;",
        "2. a fusion, then a repair; of two rewrites of one node the graver finding's, then the smaller id's. A",
        "   rewrite replaces keeping the same node, because ranges change with it: a plan asks again afterwards;",
        "3. FP32 over BF16 over low, then severity, then id;",
        "4. nothing said: low.",
        "",
        "A measurement on synthesized inputs alone never keeps a GEMM or a convolution high.",
    ]
    return "\n".join(lines) + "\n"


def rule_page(rule: Rule, example: tuple[str, str, str] | None) -> str:
    """One rule: why, when, what it does, an example before and after, its cases, references."""
    lines = [f"# {rule.id}: {rule.title}", "", rule.why, "", "## When", ""]
    lines += [f"- looks at {describe_match(rule)}"]
    if rule.when is not None:
        lines.append(f"- fires where {rule.when}")
    lines.append(f"- severity {rule.severity}" + "".join(f"; {e.severity} where {e.when}" for e in rule.escalate))
    if rule.policies != ("auto", "rules"):
        lines.append(f"- only under --policy {', '.join(rule.policies)}")
    if rule.precisions != ("fp16",):
        lines.append(f"- for {' and '.join(rule.precisions)}")
    if rule.targets:
        lines.append(f"- only for {rule.targets}")
    lines.append(f"- {'needs calibration data' if uses_data(rule) else 'needs no calibration data'}")
    lines += ["", "## What it does", ""]
    lines += [f"{number}. {describe_action(action)}" for number, action in enumerate(rule.actions, 1)]
    if len(rule.actions) > 1:
        lines += ["", "The first that the graph and the target allow."]
    if example is not None:
        name, before, after = example
        lines += ["", "## Example", "", f"{name}:", "", "```text", before, "```"]
        if after:
            lines += ["", "becomes", "", "```text", after, "```"]
    lines += ["", "## Cases", "", "| case | kind | expected |", "|---|---|---|"]
    lines += [f"| {case.name} | {case.kind.replace('_', ' ')} | {describe_case(case)} |" for case in read_cases(rule)]
    lines += ["", "## References", ""]
    lines += [f"- <{reference}>" for reference in rule.references]
    lines += ["", f"Tags: {', '.join(rule.tags)}. Classes: {', '.join(map(str, rule.classes)) or 'none'}."]
    return "\n".join(lines) + "\n"


def language_page() -> str:
    """The language of rules, with the tables of everything that can be named."""
    text = resources.files("precision_planner.rules.language").joinpath("language.md").read_text(encoding="utf-8")
    tables = {
        "COMPARISONS": _table(
            ("comparison", "of", "opposite"),
            ((f"`{c.name}`", ", ".join(sorted(c.types)), f"`{c.opposite}`") for c in COMPARISONS.values()),
        ),
        "CONSTANTS": _table(("name", "meaning"), ((f"`{name}`", doc) for name, doc in CONSTANT_DOCS.items())),
        "SUBJECT_FACTS": _facts_table(),
        "VALUE_FACTS": _table(
            ("fact", "type", "unit", "data", "meaning"), (_fact_row(fact) for fact in VALUE_FACTS.values())
        ),
        "SURROUNDINGS": _table(("position", "meaning"), ((f"`{name}`", doc) for name, doc in SURROUNDINGS.items())),
        "NODE_SETS": _table(("set", "nodes"), ((f"`{name}`", doc) for name, doc in NODE_SETS.items())),
        "REPAIRS": _table(
            ("repair", "action", "what it does", "the FP32 function", "parameters"),
            (
                (
                    f"`{repair.name}`", f"`{repair.kind}`", repair.summary, repair.exact,
                    ", ".join(f"{name} = {value:.6g}" for name, value in repair.parameters.items()) or "none",
                )
                for repair in REPAIRS.values()
            ),
        ),
        "BUILDERS": _table(
            ("builder", "makes", "parameters"),
            (
                (f"`{made.name}`", made.doc, ", ".join(f"{name} = {value}" for name, value in made.parameters.items()))
                for made in BUILDERS.values()
            ),
        ),
    }  # fmt: skip
    for name, table in tables.items():
        text = text.replace(f"@{name}@", table)
    return text


def describe_match(rule: Rule) -> str:
    """What a rule looks at, in words."""
    match = rule.match
    names = ", ".join(name for name in match.names)
    named = f" named {', '.join(match.globs)}" if match.globs else ""
    match match.subject:
        case "pattern":
            form = f"{rule.match.form} " if rule.match.form else ""
            return f"every {form}{names.replace('_', ' ')}{named}"
        case "node":
            domain = f" of the domain {rule.match.domain}" if rule.match.domain else ""
            return f"every {names} node{domain}{named}"
        case "tensor":
            return f"every {'constant' if names == 'any' else names + ' tensor'}{named}"
        case _:
            return f"every {'' if names == 'any' else names + ' '}input{named}"


def describe_action(action: ActionSpec) -> str:
    """One alternative, in words."""
    nodes = " and ".join(_describe_set(term) for term in action.nodes)
    condition = f", where {action.when}" if action.when is not None else ""
    match action.kind:
        case "fuse":
            text = "fuse the pattern into one node"
        case "warn":
            text = "warn: nothing is changed"
        case "keep_fp32":
            how = {"island": " as an island (FP32 in and out)", "compute": " inside (16 bits in and out)"}
            text = f"keep {nodes} in FP32{how.get(action.keep_as, '')}"
        case "keep_bf16":
            text = f"compute {nodes} in BF16"
        case "run_low":
            text = f"compute {nodes} in the low precision"
        case _:
            text = f"{action.repair}: {REPAIRS[action.repair].summary[0].lower()}{REPAIRS[action.repair].summary[1:-1]}"
    return text + condition


def describe_case(case: Case) -> str:
    """What a case expects, in words."""
    if case.fires is None:
        return "undecided: a fact is missing"
    if not case.fires:
        return "quiet"
    parts = [case.severity or "fires", case.action]
    if case.symptom is not None:
        parts.append(
            "not finite in 16 bits" if "nonfinite" in case.symptom else f"error above {case.symptom['error_above']}"
        )
    if case.cure is not None:
        parts.append(f"error below {case.cure['error_below']} after the action")
    return ", ".join(part for part in parts if part)


def uses_data(rule: Rule) -> bool:
    """Whether a rule cannot fire without calibration data, in some of its conditions at least."""
    from precision_planner.rules.facts.registry import needs_data
    from precision_planner.rules.language.clauses import facts_of

    return any(needs_data(rule.match.subject, name) for name in facts_of(rule.when))


def _describe_set(term: NodeSet) -> str:
    ops = f" ({', '.join(term.ops)})" if term.ops else ""
    role = f" of {term.role}" if term.role else ""
    names = {
        "subject": "it", "producers": "what makes its inputs", "consumers": "what reads it",
        "normalizations": "the normalizations that read it", "upstream": "the arithmetic that leads to it",
        "inside": "its inner nodes",
    }  # fmt: skip
    return f"{names[term.name]}{role}{ops}"


def _facts_table() -> str:
    facts: dict[int, tuple[Fact, list[str]]] = {}
    for (subject, _), fact in SUBJECT_FACTS.items():
        facts.setdefault(id(fact), (fact, []))[1].append(subject)
    rows = []
    for fact, subjects in facts.values():
        where = "all" if len(subjects) == len(SUBJECTS) else ", ".join(subjects)
        rows.append((f"`{fact.name}`", where, *_fact_row(fact)[1:]))
    return _table(("fact", "of", "type", "unit", "data", "meaning"), rows)


def _fact_row(fact: Fact) -> tuple[str, ...]:
    return (f"`{fact.name}`", fact.type, fact.unit or "", "yes" if fact.data else "", fact.doc)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
