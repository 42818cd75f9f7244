"""Expectations on an engine that need its model: `kept>=100%` of the weights, `sums=fp32:SEL`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from precision_planner.engines.layers import EngineInfo
from precision_planner.engines.sums import node_sums
from precision_planner.engines.weights import WeightEvidence
from precision_planner.errors import EngineError
from precision_planner.model import GraphIndex, Model
from precision_planner.operators import is_product
from precision_planner.patterns.selecting import Selector

__all__ = ["Result", "check_kept", "check_sums", "split_expectations"]

_KEPT = re.compile(r"^\s*kept\s*(?P<op>>=|==)\s*(?P<value>[\d.]+)\s*(?P<percent>%?)\s*$")
_SUMS = re.compile(r"^\s*sums\s*=\s*(?P<sum>fp32|fp16)\s*:\s*(?P<selector>.+)$")


@dataclass(frozen=True, slots=True)
class Result:
    """A bound, whether it is met, and what the engine has."""

    text: str
    met: bool
    actual: str


def split_expectations(texts: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """(bounds on layers, on kept weights, on sums). A `sums=` takes its whole argument: a selector may hold commas."""
    layers: list[str] = []
    kept: list[str] = []
    sums: list[str] = []
    for text in texts:
        if text.strip().lower().startswith("sums"):
            sums.append(text)
            continue
        for part in text.split(","):
            (kept if part.strip().lower().startswith("kept") else layers).append(part)
    return layers, kept, sums


def check_kept(text: str, weights: Sequence[WeightEvidence]) -> Result:
    """Whether so large a share of the weights that the bytes can tell of is kept.

    A Winograd kernel's filters in FP32 count as kept; what is not found does not.

    Raises:
      EngineError: the bound cannot be read, or there is no weight to judge.
    """
    match = _KEPT.match(text.lower())
    if match is None:
        raise EngineError(f"--expect {text.strip()!r} cannot be read; write kept>=100%")
    told = [weight for weight in weights if weight.verdict != "indistinct"]
    if not told:
        raise EngineError(
            f"--expect {text.strip()!r}: the model asks for no weight in FP32 or BF16 that bytes can tell of"
        )
    value = float(match["value"])
    bound = value / 100 if match["percent"] or value > 1 else value
    good = sum(weight.verdict in ("kept", "transformed") for weight in told)
    share = good / len(told)
    met = share >= bound - 1e-9 if match["op"] == ">=" else abs(share - bound) < 1e-9
    return Result(text.strip(), met, f"{good} of {len(told)} weights kept")


def check_sums(text: str, info: EngineInfo, model: Model) -> Result:
    """Whether every product that a selector names adds up as asked; one of which nothing tells does not count as so.

    Raises:
      EngineError: the expectation cannot be read, or names no product.
      SelectorError: the selector matches nothing.
    """
    match = _SUMS.match(text)
    if match is None:
        raise EngineError(f"--expect {text.strip()!r} cannot be read; write sums=fp32:SEL")
    index = GraphIndex(model.proto)
    chosen = Selector(model, index).select(match["selector"])
    products = [
        node.name or f"node_of_{node.output[0]}"
        for scope, position, node in index.nodes()
        if index.node_id(scope, position) in chosen and is_product(node)
    ]
    if not products:
        raise EngineError(
            f"--expect {text.strip()!r} names no product; sums are those of MatMul, Gemm and convolutions"
        )
    sums = node_sums(info, products)
    good = [one for one in sums if one.sums == match["sum"]]
    rest = next((one for one in sums if one.sums != match["sum"]), None)
    actual = f"{len(good)} of {len(sums)} products sum in {match['sum']}"
    if rest is not None:
        actual += f"; {rest.node}: {rest.sums or 'not told'} ({rest.kernel or 'no kernel lists it'})"
    return Result(text.strip(), rest is None, actual)
