"""What each failure class does to a graph in 16 bits, and what its rule makes of it.

    python -m benchmarks rules_cured

For every class the cases of its rules that show a symptom: relative L2 error against FP32 in 16 bits as the graph is
and after the rule's action (the worst output; inf where it is not finite), by the project's own simulation on the types
that the conversion would write; how many nodes the action keeps in FP32 or BF16; and by how much a rewrite changes the
FP32 result. Exits with 1 if a case does not show what it claims. Classes without such a case are named with the test
that shows them.
"""

from __future__ import annotations

from precision_planner.cli.rules import TYPED_AWAY, measure_case
from precision_planner.planning.cures import CureResult, check_cure
from precision_planner.rules import load_rulebook
from precision_planner.rules.language.pages import CLASSES
from precision_planner.rules.language.schema import read_cases

ELSEWHERE = {
    12: "tests/rules/test_classes.py: instance_norm_with_fp16_statistics",
    14: "tests/rules/test_classes.py: the_cube_is_infinite_before_and_finite_after",
    23: "tests/rules/test_classes.py: the_constant_has_its_consumers_rank, tensorrt_needs_no_shuffle_for_it",
    24: "tests/rules/test_classes.py: a_long_product_in_an_fp16_accumulator",
    27: "tests/rules/test_classes.py: a_denominator_past_65504",
}
"""Classes that no rounding between nodes can show -> the test that does."""


def table() -> tuple[list[tuple[str, ...]], list[str]]:
    """The rows, and what failed."""
    rows, failed = [], []
    book = load_rulebook()
    for number, what in CLASSES.items():
        results: list[CureResult] = []
        for rule in (rule for rule in book if number in rule.classes):
            found = (check_cure(rule, case, measure_case) for case in read_cases(rule))
            results += [result for result in found if result is not None]
        if number in ELSEWHERE:
            rows.append((str(number), what, "", "", "", "", "", ELSEWHERE[number]))
        for result in results:
            kept_by_types = result.before < TYPED_AWAY
            if result.failures and not kept_by_types:
                failed.append(f"{result.rule}: {result.case.name}: {'; '.join(result.failures)}")
            note = "already kept by the types" if kept_by_types else result.action or "diagnoses only"
            rows.append(
                (
                    str(number),
                    what,
                    result.rule,
                    f"{result.before:.2g}",
                    "" if result.after is None else f"{result.after:.2g}",
                    str(result.kept) if result.action else "",
                    "" if result.changed is None else f"{result.changed:.1g}",
                    note,
                )
            )
    return rows, failed


def main() -> None:
    header = ("class", "what fails", "rule", "error before", "after", "nodes kept", "FP32 changed by", "action")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    rows, failed = table()
    for row in rows:
        print("| " + " | ".join(row) + " |")
    for line in failed:
        print(f"not as claimed: {line}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
