"""The search for the least that must stay above the low precision, given a tolerance."""

from precision_planner.judging.judge import Judgement, OwnMetric
from precision_planner.planning.search.budget import DEFAULT_BUDGET, Budget, Clock, parse_budget
from precision_planner.planning.search.cost import CostModel, PlanCosts, Seam, plan_costs
from precision_planner.planning.search.evaluate import Candidate, Evaluator, Setting
from precision_planner.planning.search.regions import Region, find_regions
from precision_planner.planning.search.result import SearchReport
from precision_planner.planning.search.run import Judged, SearchOptions, find_plan, judge_draft
from precision_planner.planning.search.search import search
from precision_planner.planning.search.states import Space, State

__all__ = [
    "DEFAULT_BUDGET",
    "Budget",
    "Candidate",
    "Clock",
    "CostModel",
    "Evaluator",
    "Judged",
    "Judgement",
    "OwnMetric",
    "PlanCosts",
    "Region",
    "Seam",
    "SearchOptions",
    "SearchReport",
    "Setting",
    "Space",
    "State",
    "find_plan",
    "find_regions",
    "judge_draft",
    "parse_budget",
    "plan_costs",
    "search",
]
