"""`planner rules`: list the rules, explain one, write a first one, run a folder's cases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from precision_planner.cli.grouping import PlannerCommand
from precision_planner.errors import SelectorError

if TYPE_CHECKING:
    import numpy as np

    from precision_planner.model import Model
    from precision_planner.rules import Rule, RuleBook


@click.command("rules", cls=PlannerCommand, short_help="List, explain and test the rules.")
@click.argument("rule_id", metavar="[ID]", required=False)
@click.option("--rules", "folders", multiple=True, metavar="DIR", help="A folder of further rules.")
@click.option("--test", "test", metavar="DIR", help="Run the cases of the rules in DIR (of ID alone, if it is given).")
@click.option("--new", "new", nargs=2, metavar="ID DIR", help="Write a first rule into DIR.")
@click.option("--json", "destination", metavar="FILE|-", help="The rules, or the results of --test, as JSON.")
@click.option("--docs", "docs", metavar="DIR", help="Write the pages of the rule book into DIR.")
def rules(
    rule_id: str | None,
    folders: Sequence[str],
    test: str | None,
    new: tuple[str, str] | None,
    destination: str | None,
    docs: str | None,
) -> int:
    """List the rules; with an ID (or a tag) explain one; run the cases of your own by --test."""
    from precision_planner.rules import load_rulebook

    if new is not None:
        from precision_planner.rules.language.scaffold import write_rule

        click.echo(f"wrote {write_rule(new[0], Path(new[1]))}; change it, then run: planner rules --test {new[1]}")
        return 0
    if test is not None:
        return _test(Path(test), rule_id, destination)
    rulebook = load_rulebook(folders)
    if docs is not None:
        return _write_docs(rulebook, Path(docs))
    if rule_id is None:
        return _list(rulebook, destination)
    rule = rulebook.get(rule_id)
    if rule is None:
        return _list(_tagged(rulebook, rule_id), destination)
    return _explain(rule, destination)


command = rules


def _tagged(rulebook: RuleBook, name: str) -> RuleBook:
    """The rules with a tag; SelectorError for a name that is neither an id nor a tag."""
    from precision_planner.rules import RuleBook, chosen_rules

    try:
        return RuleBook(tuple(chosen_rules(rulebook, only=(name,))))
    except SelectorError as error:
        raise SelectorError(str(error).replace("--only ", "", 1)) from None


def _list(rulebook: RuleBook, destination: str | None) -> int:
    from precision_planner.cli.console import stdout_console, write_result
    from precision_planner.patterns.selecting import categories

    if destination is not None:
        write_result(
            json.dumps({"schema_version": 1, "kind": "rules", "rules": [_json(rule) for rule in rulebook]}, indent=2),
            destination,
        )
        return 0
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, style in (("rule", "bold"), ("severity", ""), ("says", ""), ("tags", "dim")):
        table.add_column(name, style=style, no_wrap=name in ("rule", "severity"))
    for rule in rulebook:
        table.add_row(rule.id, rule.severity, rule.title, ", ".join(rule.tags))
    console = stdout_console()
    console.print(table)
    console.print(f"\n{len(rulebook)} rules; planner rules ID explains one", soft_wrap=True)
    console.print(f"categories for selectors: {', '.join(categories())}", soft_wrap=True)
    console.print(f"tags for --only, --disable and this command: {', '.join(rulebook.tags)}", soft_wrap=True)
    return 0


def _explain(rule: Rule, destination: str | None) -> int:
    from precision_planner.cli.console import stdout_console, write_result
    from precision_planner.planning.cures import example_graphs
    from precision_planner.rules.language.pages import rule_page

    if destination is not None:
        write_result(json.dumps({"schema_version": 1, "kind": "rules", "rules": [_json(rule)]}, indent=2), destination)
        return 0
    stdout_console().print(_plain(rule_page(rule, example_graphs(rule, measure_case))), soft_wrap=True)
    return 0


def _plain(page: str) -> str:
    """A page without the marks that only a browser needs."""
    lines = []
    for line in page.splitlines():
        if line.startswith(("```", "|---")):
            continue
        if line.startswith("| "):
            name, kind, expected = (cell.strip() for cell in line[1:-1].split(" | "))
            if name == "case":
                continue
            line = f"- {name} ({kind}): {expected}"
        lines.append(line.replace("<http", "http").removesuffix(">") if line.startswith("- <http") else line)
    return "\n".join(lines)


def _json(rule: Rule) -> dict[str, Any]:
    from precision_planner.rules.language.pages import describe_action, describe_match, uses_data

    return {
        "id": rule.id,
        "title": rule.title,
        "why": rule.why,
        "severity": rule.severity,
        "tags": list(rule.tags),
        "classes": list(rule.classes),
        "policies": list(rule.policies),
        "precisions": list(rule.precisions),
        "targets": list(rule.targets.names),
        "match": describe_match(rule),
        "when": "" if rule.when is None else str(rule.when),
        "needs_data": uses_data(rule),
        "actions": [describe_action(action) for action in rule.actions],
        "references": list(rule.references),
        "file": str(rule.path),
    }


def _test(folder: Path, rule_id: str | None, destination: str | None) -> int:
    """Run cases; 1 if one fails."""
    from precision_planner.cli.console import note, write_result
    from precision_planner.planning.cures import check_cure
    from precision_planner.rules import RuleBook
    from precision_planner.rules.engine.cases import run_case
    from precision_planner.rules.language.loader import load_folder
    from precision_planner.rules.language.schema import read_cases

    chosen = RuleBook(load_folder(folder))
    if rule_id is not None:
        chosen = _tagged(chosen, rule_id)
    results: list[dict[str, Any]] = []
    for rule in chosen:
        for case in read_cases(rule):
            failures = list(run_case(rule, case, measure_case).failures)
            cure = check_cure(rule, case, measure_case) if not failures else None
            result: dict[str, Any] = {"rule": rule.id, "case": case.name, "line": case.line, "file": str(rule.path)}
            if cure is not None:
                # what the types already keep shows no symptom: nothing is wrong then
                kept_by_types = cure.before < TYPED_AWAY and all("the error is" in text for text in cure.failures)
                failures += [] if kept_by_types else list(cure.failures)
                result |= {"before": str(cure.before), "after": None if cure.after is None else str(cure.after)}
            results.append({**result, "failures": failures})
    failed = [result for result in results if result["failures"]]
    if destination is not None:
        write_result(
            json.dumps({"schema_version": 1, "kind": "rule_cases", "passed": not failed, "cases": results}, indent=2),
            destination,
        )
    else:
        for result in results:
            mark = "FAIL" if result["failures"] else "ok"
            click.echo(f"{mark:4} {result['rule']}: {result['case']}")
            for failure in result["failures"]:
                click.echo(f"     {result['file']}:{result['line']}: {failure}")
        click.echo(f"{len(results)} cases of {len(chosen)} rules, {len(failed)} failed")
    if failed:
        note("a case that fails is a rule that does not do what it says: mend the rule, or what the case expects")
    return 1 if failed else 0


TYPED_AWAY = 0.0005
"""Below this error (one rounding) a graph shows no symptom: type assignment has kept the faulty part already."""


def measure_case(model: Model, batches: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> Any:
    """Ranges of a case's graph, by calibration."""
    from precision_planner.calibration import calibrate

    return calibrate(model, list(batches))


def _write_docs(rulebook: RuleBook, folder: Path) -> int:
    from precision_planner.planning.cures import example_graphs
    from precision_planner.rules.language.pages import rule_pages
    from precision_planner.writing import write_set

    pages = rule_pages(rulebook, lambda rule: example_graphs(rule, measure_case))
    # the pages of rules that are gone go with them: only those that an earlier run wrote there
    write_set(folder, {name: text.encode() for name, text in pages.items()})
    click.echo(f"wrote {len(pages)} pages to {folder}")
    return 0
