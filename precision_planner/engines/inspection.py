"""What precision an engine really has: shares, islands, kernels, and expectations as a gate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from precision_planner.engines.layers import EngineInfo, EngineLayer
from precision_planner.errors import EngineError

LOW = frozenset({"fp16", "bf16", "fp8", "fp4", "int8", "int4"})
_ALIASES = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16", "float": "fp32", "float32": "fp32"}
_COUNTS = ("layers", "kernels", "attention", "islands")
_EXPECT = re.compile(
    r"^\s*(?P<what>[a-z0-9]+)(?:@(?P<by>layers|time))?\s*(?P<op>>=|<=|==|>|<)\s*(?P<value>[\d.]+)\s*(?P<percent>%?)\s*$"
)


@dataclass(frozen=True, slots=True)
class Island:
    """Neighbouring layers that compute in FP32 in an engine that is otherwise low.

    Attributes:
      layers: their names, in execution order.
      nodes: the ONNX nodes they compute.
      ms: their time, None without a profile.
    """

    layers: tuple[str, ...]
    nodes: tuple[str, ...]
    ms: float | None


@dataclass(frozen=True, slots=True, repr=False)
class Inspection:
    """An engine's precision.

    Attributes:
      info: the engine.
      by_layers: precision -> number of computing layers.
      by_time: precision -> milliseconds, None without a profile.
      islands: FP32 groups; empty where the whole engine is FP32.
      attention: fused attention kernels.
      unknown: computing layers of which nothing tells the precision.
      inferred: layers whose precision is taken from the tactic's name.
    """

    info: EngineInfo
    by_layers: dict[str, int]
    by_time: dict[str, float] | None
    islands: tuple[Island, ...]
    attention: int
    unknown: int
    inferred: int

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {precision}" for precision, count in self.by_layers.items())
        return f"<Inspection of {self.info.source}: {counts}; {len(self.islands)} FP32 islands>"

    @property
    def computing(self) -> int:
        """How many layers compute in a known precision."""
        return sum(self.by_layers.values())

    def share(self, precision: str, by: str = "layers") -> float:
        """The share of a precision, 0 to 1; 'low' is every type below FP32. Mixed layers count half.

        Raises:
          EngineError: by time, and no profile is there; or no layer's precision is known.
        """
        counts: dict[str, float] = dict(self.by_layers) if by == "layers" else dict(self.by_time or {})
        total = sum(counts.values())
        if by == "time" and self.by_time is None:
            raise EngineError("a share by time needs the layers' times: give --profile (trtexec --exportProfile=FILE)")
        if not total:
            raise EngineError(
                f"no layer of {self.info.source} tells its precision: build with detailed profiling verbosity "
                "(trtexec --profilingVerbosity=detailed), and for dynamic shapes inspect the engine itself"
            )
        wanted = LOW if precision == "low" else {precision}
        part = sum(value for name, value in counts.items() if name in wanted)
        if precision in LOW or precision in ("low", "fp32"):
            part += 0.5 * counts.get("mixed", 0)
        return part / total

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON data."""
        return {
            "schema_version": 1,
            "kind": "inspection",
            "source": self.info.source,
            "layers": len(self.info.layers),
            "computing": self.computing,
            "by_layers": dict(sorted(self.by_layers.items())),
            "by_time_ms": None if self.by_time is None else dict(sorted(self.by_time.items())),
            "half_share": self.share("fp16") if self.computing else None,
            "half_share_of_time": self.share("fp16", "time") if self.by_time else None,
            "fused_attention": self.attention,
            "islands": [{"layers": i.layers, "nodes": i.nodes, "ms": i.ms} for i in self.islands],
            "unknown": self.unknown,
            "inferred": self.inferred,
            "names_only": self.info.names_only,
            "kernels": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "precision": layer.precision,
                    "inputs": [tensor.dtype for tensor in layer.inputs],
                    "outputs": [tensor.dtype for tensor in layer.outputs],
                    "nodes": layer.nodes,
                    "ms": layer.ms,
                }
                for layer in self.info.layers
            ],
        }


@dataclass(frozen=True, slots=True)
class Expectation:
    """A bound on an engine, such as `half>=80%`.

    Attributes:
      text: as the user wrote it.
      what: a precision, 'low', or one of layers, kernels, attention, islands.
      by: 'layers' or 'time', for a precision.
      op: >=, <=, ==, > or <.
      value: a share from 0 to 1 for a precision, otherwise a number.
    """

    text: str
    what: str
    by: str
    op: str
    value: float

    def check(self, inspection: Inspection) -> tuple[bool, str]:
        """(whether it holds, what the engine has)."""
        if self.what in _COUNTS:
            actual = float(
                {
                    "layers": len(inspection.info.layers),
                    "kernels": len(inspection.info.layers),
                    "attention": inspection.attention,
                    "islands": len(inspection.islands),
                }[self.what]
            )
            return self._holds(actual), f"{actual:.0f} {self.what}"
        actual = inspection.share(self.what, self.by)
        return self._holds(actual), f"{100 * actual:.1f} % {self.what} by {self.by}"

    def _holds(self, actual: float) -> bool:
        # a share that prints as the bound meets it
        if abs(actual - self.value) < 1e-9:
            return self.op in (">=", "<=", "==")
        return (
            actual > self.value if self.op in (">=", ">") else actual < self.value if self.op in ("<=", "<") else False
        )


def inspect_layers(info: EngineInfo) -> Inspection:
    """Measure an engine's precision."""
    computing = [layer for layer in info.layers if layer.computes]
    known = [layer for layer in computing if layer.precision]
    timed = [layer for layer in known if layer.ms is not None]
    by_time: dict[str, float] | None = None
    if timed:
        by_time = {}
        for layer in timed:
            by_time[layer.precision] = by_time.get(layer.precision, 0.0) + (layer.ms or 0.0)
    counts = Counter(layer.precision for layer in known)
    return Inspection(
        info=info,
        by_layers=dict(counts),
        by_time=by_time,
        islands=tuple(_islands(known)) if counts.keys() & (LOW | {"mixed"}) else (),
        attention=sum(layer.is_fused_attention for layer in info.layers),
        unknown=len(computing) - len(known),
        inferred=sum(layer.inferred for layer in known),
    )


def parse_expectations(texts: Iterable[str]) -> tuple[Expectation, ...]:
    """Read `half>=80%`, `low@time>=90%`, `attention>=12`, `islands==0`; several, comma separated.

    Raises:
      EngineError: one cannot be read.
    """
    return tuple(_expectation(part) for text in texts for part in text.split(","))


def _expectation(text: str) -> Expectation:
    match = _EXPECT.match(text.lower())
    known = sorted({*LOW, "fp32", "low", "half", *_COUNTS})
    what = _ALIASES.get(match["what"], match["what"]) if match else ""
    if match is None or (what not in known):
        raise EngineError(
            f"--expect {text.strip()!r} cannot be read; write a bound such as 'half>=80%', 'low@time>=90%', "
            f"'attention>=12' or 'islands==0', of {', '.join(known)}"
        )
    value = float(match["value"])
    if what not in _COUNTS:
        value = value / 100 if match["percent"] or value > 1 else value
    return Expectation(text.strip(), what, match["by"] or "layers", match["op"], value)


def _islands(layers: Sequence[EngineLayer]) -> list[Island]:
    """Groups of FP32 layers that hand values to each other."""
    members = [layer for layer in layers if layer.precision == "fp32"]
    parent = list(range(len(members)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    writers = {tensor.name: index for index, layer in enumerate(members) for tensor in layer.outputs if tensor.name}
    for index, layer in enumerate(members):
        for tensor in layer.inputs:
            if tensor.name in writers:
                parent[root(index)] = root(writers[tensor.name])
    groups: dict[int, list[EngineLayer]] = {}
    for index, layer in enumerate(members):
        groups.setdefault(root(index), []).append(layer)
    return [
        Island(
            tuple(layer.name for layer in group),
            tuple(dict.fromkeys(node for layer in group for node in layer.nodes)),
            None if all(layer.ms is None for layer in group) else sum(layer.ms or 0.0 for layer in group),
        )
        for group in groups.values()
    ]
