"""The rules: what breaks in 16 bits, as data that is read, tested, switched off and added to.

`load_rulebook` reads the YAML files, `evaluate` asks them about a model's `Evidence`. The engine measures nothing
itself, and never runs code from a rule.
"""

from precision_planner.rules import facts_of_subjects, facts_of_tensors, facts_of_values
from precision_planner.rules.engine import RuleFailedError, chosen_rules, evaluate
from precision_planner.rules.evidence import DEFAULT_HEADROOM, Evidence, FactSource, RangeLike, Subject
from precision_planner.rules.findings import Action, Evaluation, Finding, Undecided
from precision_planner.rules.loader import load_rulebook
from precision_planner.rules.rule import Case, Rule, RuleBook

# their import fills the registry of facts
_FACT_MODULES = (facts_of_subjects, facts_of_tensors, facts_of_values)

__all__ = [
    "DEFAULT_HEADROOM",
    "Action",
    "Case",
    "Evaluation",
    "Evidence",
    "FactSource",
    "Finding",
    "RangeLike",
    "Rule",
    "RuleBook",
    "RuleFailedError",
    "Subject",
    "Undecided",
    "chosen_rules",
    "evaluate",
    "load_rulebook",
]
