"""What a weakly typed recipe says, whichever tool it is written for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from precision_planner.errors import EngineError

_PRECISIONS = {
    "fp32": "fp32", "float32": "fp32", "float": "fp32", "tf32": "fp32",
    "fp16": "fp16", "float16": "fp16", "half": "fp16",
    "bf16": "bf16", "bfloat16": "bf16",
    "int8": "int8", "fp8": "fp8", "int4": "int4",
    "int32": "int", "int64": "int", "bool": "int", "uint8": "int",
}  # fmt: skip


def precision_of(text: str) -> str | None:
    """'fp32', 'fp16', 'bf16', 'int8', 'fp8', 'int' for any tool's spelling of it; None for none."""
    return _PRECISIONS.get(text.strip().lower())


Choice = tuple[str, tuple[str, ...]]
"""How layers are found, and the values: 'name' (exact, `*` as the tool has it), 'prefix', 'suffix', 'contains', 'regex'
(all on the layer's name), 'op' (ONNX operators), 'all'."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One of several alternatives must find a layer; negated: none may."""

    choices: tuple[Choice, ...]
    negated: bool = False

    def matches(self, name: str, op_type: str) -> bool:
        """Whether it holds for a layer of that name, made of a node of that type."""
        return self.negated != any(_finds(by, values, name, op_type) for by, values in self.choices)


def _finds(by: str, values: tuple[str, ...], name: str, op_type: str) -> bool:
    if by == "all":
        return True
    return op_type in values if by == "op" else any(_matches(by, value, name) for value in values)


@dataclass(frozen=True, slots=True)
class RecipeConstraint:
    """One constraint on layers.

    Attributes:
      text: as it stands in the recipe, for messages.
      clauses: which layers; all must hold.
      precision: the layer precision, None where only an output type is set.
      output_type: the output type, None where only a precision is set.
      line: the script's line, 0 on a command line.
    """

    text: str
    clauses: tuple[Clause, ...]
    precision: str | None
    output_type: str | None = None
    line: int = 0

    def matches(self, name: str, op_type: str) -> bool:
        """Whether a layer of that name, made of a node of that type, is meant."""
        return all(clause.matches(name, op_type) for clause in self.clauses)

    @property
    def simple(self) -> Choice | None:
        """The only choice of the only clause, None for anything more; no clause at all means every layer."""
        if not self.clauses:
            return ("all", ("*",))
        if len(self.clauses) > 1 or self.clauses[0].negated or len(self.clauses[0].choices) > 1:
            return None
        return self.clauses[0].choices[0]

    @property
    def wanted(self) -> str:
        """The precision to keep: the layer's, else the output's."""
        return self.precision or self.output_type or ""


def _matches(by: str, value: str, name: str) -> bool:
    match by:
        case "name":
            pattern = ".*".join(map(re.escape, value.split("*")))
            return re.fullmatch(pattern, name) is not None
        case "prefix":
            return name.startswith(value)
        case "suffix":
            return name.endswith(value)
        case "contains":
            return value in name
        case "regex":
            return re.search(value, name) is not None
    raise ValueError(f"unknown kind of constraint {by!r}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A weakly typed recipe.

    Attributes:
      tool: 'trtexec', 'polygraphy' or 'script'.
      text: the recipe, on one line where it is a command.
      model: the ONNX file, '' where the recipe names none.
      engine: the engine file, ''.
      low: the precisions switched on: fp16, bf16, int8, fp8, int4.
      best: --best, every precision the GPU has.
      mode: 'none', 'prefer' or 'obey'.
      constraints: on layers.
      tf32: whether TF32 stays on (trtexec's default) or off.
      strong: the network is strongly typed already.
      profiles: input -> {min, opt, max} -> dimensions.
      calibration: the INT8 calibration cache, ''.
      io_formats: {inputs, outputs} -> the types of trtexec's --inputIOFormats and --outputIOFormats.
      settings: workspace_bytes, optimization_level, version_compatible, hardware_compatible, plugins, timing_cache.
      ignored: flags that say nothing about the build (iterations, verbosity).
      unknown: words that could not be read.
      notes: what the user should know.
    """

    tool: str
    text: str
    model: str = ""
    engine: str = ""
    low: frozenset[str] = frozenset()
    best: bool = False
    mode: str = "none"
    constraints: tuple[RecipeConstraint, ...] = ()
    tf32: bool = True
    strong: bool = False
    profiles: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    calibration: str = ""
    io_formats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def joined(self, other: Recipe) -> Recipe:
        """This recipe with what a script that it names adds to it."""
        return replace(
            self,
            model=self.model or other.model,
            low=self.low | other.low,
            best=self.best or other.best,
            mode=other.mode if self.mode == "none" else self.mode,
            constraints=(*self.constraints, *other.constraints),
            strong=self.strong or other.strong,
            profiles={**other.profiles, **self.profiles},
            calibration=self.calibration or other.calibration,
            settings={**other.settings, **self.settings},
            unknown=(*self.unknown, *other.unknown),
            notes=(*self.notes, *other.notes),
        )


def read_shapes(text: str, kind: str, profiles: dict[str, dict[str, tuple[int, ...]]]) -> None:
    """Add `a:1x3,b:1x4` to the profiles; EngineError for what is no shape."""
    for entry in split_commas(text):
        name, colon, dims = entry.rpartition(":")
        try:
            shape = tuple(int(size) for size in dims.split("x")) if dims not in ("", "scalar") else ()
        except ValueError:
            shape, colon = (), ""
        if not colon:
            raise EngineError(f"the shape {entry!r} cannot be read; write NAME:1x3x224x224")
        profiles.setdefault(name.strip("'\""), {})[kind] = shape


def split_commas(text: str) -> list[str]:
    """Split at commas outside quotes (trtexec lets a name with a comma be quoted)."""
    parts = re.findall(r"(?:'[^']*'|\"[^\"]*\"|[^,'\"])+", text)
    return [part.strip() for part in parts if part.strip()]


def read_layer_spec(text: str, attribute: str) -> list[RecipeConstraint]:
    """Read `name:fp32,other:fp16` of --layerPrecisions, or --layerOutputTypes (`name:fp32+fp16`, one an output)."""
    found = []
    for entry in split_commas(text):
        name, _, kind = entry.rpartition(":")
        precisions = [precision_of(part) for part in kind.split("+")]
        if not name or None in precisions:
            raise EngineError(f"the constraint {entry!r} cannot be read; write LAYER:fp32")
        kept = "fp32" if "fp32" in precisions else precisions[0]
        name = name.strip("'\"")
        found.append(
            RecipeConstraint(
                text=entry,
                clauses=() if name == "*" else (Clause((("name", (name,)),)),),
                precision=kept if attribute == "precision" else None,
                output_type=kept if attribute == "output_type" else None,
            )
        )
    return found


def merged(constraints: Iterable[RecipeConstraint]) -> tuple[RecipeConstraint, ...]:
    """Precision and output type of the same layers as one constraint."""
    found: dict[tuple[Clause, ...], RecipeConstraint] = {}
    for entry in constraints:
        before = found.get(entry.clauses)
        if before is None:
            found[entry.clauses] = entry
        else:
            found[entry.clauses] = replace(
                before,
                precision=entry.precision or before.precision,
                output_type=entry.output_type or before.output_type,
            )
    return tuple(found.values())
