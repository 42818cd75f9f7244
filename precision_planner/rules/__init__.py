"""The rules: what breaks in 16 bits, as data that is read, tested, switched off and added to.

`load_rulebook` reads the YAML files, `evaluate` asks them about a model's `Evidence`. The engine measures nothing
itself, and never runs code from a rule. Three folders, each on the one before: `facts` (what can be asked), `language`
(how it is written down), `engine` (who asks).
"""

from precision_planner.rules.engine.evaluate import RuleFailedError, chosen_rules, evaluate
from precision_planner.rules.engine.findings import Action, Evaluation, Finding, Undecided
from precision_planner.rules.facts.evidence import DEFAULT_HEADROOM, Evidence, FactSource, RangeLike, Subject
from precision_planner.rules.language.loader import load_rulebook
from precision_planner.rules.language.rule import Case, Rule, RuleBook

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
