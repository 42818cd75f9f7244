"""A weakly typed recipe's strongly typed equivalent, and a report of what the recipe never did."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precision_planner.emitting.migrate.recipe import Choice, Recipe, RecipeConstraint
from precision_planner.emitting.trtexec import profile_flags
from precision_planner.errors import EngineError
from precision_planner.model import GraphIndex, Model
from precision_planner.model.index import first_output
from precision_planner.plans.plan import Profile
from precision_planner.targets import DEFAULT_TARGET, get_target

_QUANTIZED = frozenset({"int8", "fp8", "int4"})


@dataclass(frozen=True, slots=True)
class ConstraintOutcome:
    """What became of one constraint.

    Attributes:
      constraint: as the recipe has it.
      nodes: the ONNX nodes that it means; None where the model is not there.
      applied: whether it had an effect in the old build; None where that cannot be told.
      reason: why it had none, or what to know.
    """

    constraint: RecipeConstraint
    nodes: tuple[str, ...] | None
    applied: bool | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Migration:
    """The strongly typed equivalent of a recipe.

    Attributes:
      recipe: what was read.
      target: what the new commands build for.
      commands: to run, in order: (command, what it is for).
      alternative: the same by `planner plan` and `planner build`.
      outcomes: every constraint of the recipe.
      notes: what differs from before.
    """

    recipe: Recipe
    target: str
    commands: tuple[tuple[str, str], ...]
    alternative: tuple[tuple[str, str], ...]
    outcomes: tuple[ConstraintOutcome, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        kept = f"{len(self.outcomes)} constraints, {len(self.unmatched)} without effect before"
        return f"<Migration from {self.recipe.tool} to {self.target}: {kept}>"

    @property
    def offered(self) -> tuple[tuple[str, str], ...]:
        """What had no effect before, as options that could be added: (option, why it had none)."""
        found = []
        for outcome in self.unmatched:
            option = {"fp32": "--keep-fp32", "bf16": "--keep-bf16"}.get(outcome.constraint.wanted, "")
            if not option or outcome.nodes:
                continue
            names: list[str] = []
            patterns: list[str] = []
            for by, values in [outcome.constraint.simple] if outcome.constraint.simple else ():
                for value in values:
                    _add_selector(by, value, names, patterns)
            selectors = [*([",".join(names)] if names else []), *patterns]
            found += [(shlex.join((option, selector)), outcome.reason) for selector in selectors]
        return tuple(dict.fromkeys(found))

    @property
    def unmatched(self) -> tuple[ConstraintOutcome, ...]:
        """Constraints that had no effect before."""
        return tuple(outcome for outcome in self.outcomes if outcome.applied is False)

    def to_dict(self) -> dict[str, Any]:
        """The migration as JSON data."""
        return {
            "schema_version": 1,
            "kind": "migration",
            "tool": self.recipe.tool,
            "target": self.target,
            "commands": [{"command": command, "why": why} for command, why in self.commands],
            "alternative": [{"command": command, "why": why} for command, why in self.alternative],
            "constraints": [
                {
                    "constraint": outcome.constraint.text,
                    "precision": outcome.constraint.precision,
                    "output_type": outcome.constraint.output_type,
                    "nodes": None if outcome.nodes is None else list(outcome.nodes),
                    "applied": outcome.applied,
                    "reason": outcome.reason,
                }
                for outcome in self.outcomes
            ],
            "unmatched": len(self.unmatched),
            "offered": [{"option": option, "reason": reason} for option, reason in self.offered],
            "ignored": list(self.recipe.ignored),
            "unknown": list(self.recipe.unknown),
            "notes": list(self.notes),
        }


def migrate(
    recipe: Recipe, model: Model | None = None, *, version: str = "8.6", target: str = DEFAULT_TARGET, path: str = ""
) -> Migration:
    """Translate a recipe.

    Args:
      recipe: what was read.
      model: the ONNX model, to check the constraints on; None leaves them unchecked.
      version: the TensorRT that ran the recipe: which wildcards it knew, and which layers had no name.
      target: what to build for now.
      path: the model's path for the commands; by default the recipe's.
    """
    where = path or recipe.model or "model.onnx"
    outcomes = tuple(_outcome(entry, recipe, model, version) for entry in recipe.constraints)
    low = _low(recipe)
    notes = list(recipe.notes) + _notes(recipe, low, model)
    flags = _selection_flags(recipe, outcomes, low, notes)
    if recipe.io_formats:
        flags += _io_flags(recipe, notes)
    commands: list[tuple[str, str]] = list(recipe.settings.get("before", ()))
    quantized = bool(recipe.low & _QUANTIZED or recipe.best) and not _has_qdq(model)
    source = where
    if recipe.low & _QUANTIZED and quantized:
        command, source = _quantize(recipe, where, outcomes, notes)
        commands.append((command, "quantize: a strongly typed network takes Q/DQ nodes, not a calibration cache"))
    elif recipe.best and quantized:
        notes.append(
            "--best also allowed INT8 without calibration, whose scales are made up: left out; to use INT8, quantize "
            f"first (python -m modelopt.onnx.quantization --onnx_path={where} --quantize_mode=int8 ...)"
        )
    typed = source
    if low and not recipe.strong:
        typed = f"{source.removesuffix('.onnx')}.{low}.onnx"
        words = ["planner", "rewrite", source, "-o", typed, "--precision", low, *flags]
        commands.append((shlex.join(words), "the precision as types in the graph, the constraints as FP32 islands"))
    commands.append((_build_command(recipe, typed, target), "no precision flags: the types decide"))
    return Migration(
        recipe, target, tuple(commands), _alternative(recipe, source, low, flags, target), outcomes, tuple(notes)
    )


# --- constraints


def _outcome(entry: RecipeConstraint, recipe: Recipe, model: Model | None, version: str) -> ConstraintOutcome:
    ineffective = ""
    if recipe.mode == "none" and not recipe.strong:
        ineffective = "precision constraints were not switched on (obey or prefer), so TensorRT ignored it"
    if recipe.strong:
        ineffective = "the network was strongly typed, which takes no layer precisions"
    if model is None:
        return ConstraintOutcome(entry, None, False if ineffective else None, ineffective)
    names = _layer_names(model)
    simple = entry.simple
    if simple is not None and any("(Unnamed Layer*" in value for value in simple[1]):
        reason = "TensorRT makes such names itself, anew in each build and version: which node it meant cannot be told"
        return ConstraintOutcome(entry, (), None, reason)
    if recipe.tool == "trtexec" and simple is not None and simple[0] == "name":
        problem = _trtexec_pattern(simple[1][0], version)
        if problem:
            return ConstraintOutcome(entry, (), False, problem)
    nodes = [(name, op) for layer, name, op in names if entry.matches(layer, op)]
    if not nodes:
        return ConstraintOutcome(entry, (), False, _why_unmatched(simple, names))
    found = tuple(name for name, _ in nodes)
    if ineffective:
        return ConstraintOutcome(entry, found, False, ineffective)
    norms = [name for name, op in nodes if op == "LayerNormalization"]
    if norms and _by_name(entry) and _version(version) <= (10, 0):
        return ConstraintOutcome(
            entry,
            found,
            False if len(norms) == len(nodes) else None,
            f"a LayerNormalization layer has no name up to TensorRT 10.0, so nothing matched {', '.join(norms[:3])}; "
            "it is kept now",
        )
    if entry.precision and not entry.output_type and entry.wanted == "fp32" and entry.clauses:
        return ConstraintOutcome(
            entry, found, True, "computed in FP32, but no output type was set: its result could still be stored in FP16"
        )
    return ConstraintOutcome(entry, found, True)


def _by_name(entry: RecipeConstraint) -> bool:
    return any(by not in ("op", "all") for clause in entry.clauses if not clause.negated for by, _ in clause.choices)


def _version(text: str) -> tuple[int, int]:
    parts = re.findall(r"[0-9]{1,9}", text)
    if not parts:
        raise EngineError(f"the TensorRT version {text!r} cannot be read; write 8.6 or 10.3")
    return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0


def _trtexec_pattern(pattern: str, version: str) -> str:
    """Why trtexec could not read a pattern as one, '' where it could."""
    stars = pattern.count("*")
    if _version(version) < (9, 1) and stars:
        return f"trtexec {version} knows exact names and a lone *; this was taken as a name with an asterisk in it"
    if stars > 1:
        return "trtexec takes one * a pattern; this matched nothing"
    return ""


def _layer_names(model: Model) -> list[tuple[str, str, str]]:
    """(TensorRT's layer name, node name, op type) of every node."""
    found = []
    for scope in GraphIndex(model.proto).scopes:
        for node in scope.nodes:
            if node.op_type == "Constant":
                continue
            name = node.name or f"node_of_{first_output(node)}"
            found.append((name, node.name or f"{node.op_type}({first_output(node)})", node.op_type))
    return found


def _why_unmatched(simple: Choice | None, names: Sequence[tuple[str, str, str]]) -> str:
    if simple is None:
        return "no node meets its conditions"
    by, values = simple
    if by == "op":
        return f"the model has no {' or '.join(values)}"
    if by != "name":
        return f"no node's name {_BY_WORDS[by]} {' or '.join(map(repr, values))}"
    known = {layer for layer, _, _ in names}
    value = next((value for value in values if value not in known), values[0])
    parts = [part.strip(" ()") for part in re.split(r" \+ |, |PWN\(", value)]
    fused = [part for part in parts if part in known]
    if len(parts) > 1 and fused:
        return f"a fused layer of a finished engine, not of the network; its nodes: {', '.join(fused[:4])}"
    near = difflib.get_close_matches(value, sorted(known), n=2, cutoff=0.6)
    return f"no node has this name{'; did it mean ' + ' or '.join(near) + '?' if near else ''}"


_BY_WORDS = {"prefix": "begins with", "suffix": "ends with", "contains": "contains", "regex": "matches"}


# --- the new commands


def _low(recipe: Recipe) -> str:
    """The low precision of the float part: fp16 before bf16, '' for an FP32 recipe."""
    asked = recipe.low | {entry.wanted for entry in recipe.constraints}
    if recipe.best or "fp16" in asked:
        return "fp16"
    return "bf16" if "bf16" in asked else ""


def _selection_flags(recipe: Recipe, outcomes: Sequence[ConstraintOutcome], low: str, notes: list[str]) -> list[str]:
    """--keep-fp32, --keep-bf16 and --only-low for the constraints."""
    if not low:
        return []
    usable = [outcome for outcome in outcomes if outcome.nodes is None or outcome.nodes]
    if any(not o.constraint.clauses and o.constraint.wanted == "fp32" for o in usable):
        selectors = _selectors([o for o in usable if o.constraint.wanted == low], notes)
        if selectors:
            return [word for selector in selectors for word in ("--only-low", selector)]
        notes.append("every layer was constrained to FP32: nothing is left to be low")
    flags = []
    for precision, option in (("fp32", "--keep-fp32"), ("bf16", "--keep-bf16")):
        if precision != low:
            chosen = [o for o in usable if o.constraint.wanted == precision and o.constraint.clauses]
            flags += [word for selector in _selectors(chosen, notes) for word in (option, selector)]
    return flags


def _selectors(outcomes: Sequence[ConstraintOutcome], notes: list[str]) -> list[str]:
    """Selectors of the planner's: names joined by commas, patterns each for themselves."""
    names: list[str] = []
    patterns: list[str] = []
    for outcome in outcomes:
        simple = outcome.constraint.simple
        if simple is not None and not (simple[0] == "name" and any(v.startswith("node_of_") for v in simple[1])):
            for value in simple[1]:
                _add_selector(simple[0], value, names, patterns)
        elif outcome.nodes is None:
            notes.append(
                f"{outcome.constraint.text}: its conditions need the model to be written as a selection; --model"
            )
        else:
            for node in outcome.nodes:
                _add_selector("name", node, names, patterns)
    return [*([",".join(dict.fromkeys(names))] if names else []), *dict.fromkeys(patterns)]


def _add_selector(by: str, value: str, names: list[str], patterns: list[str]) -> None:
    if by == "regex":
        patterns.append(f"re:{value}")
    elif by != "op" and (re.search(r"[,?]", value) or value.startswith("re:") or (by != "name" and "*" in value)):
        patterns.append("re:" + _regex(by, value))
    else:
        names.append({"prefix": f"{value}*", "suffix": f"*{value}", "contains": f"*{value}*"}.get(by, value))


def _regex(by: str, value: str) -> str:
    escaped = ".*".join(map(re.escape, value.split("*"))) if by == "name" else re.escape(value)
    return {"prefix": f"^{escaped}", "suffix": f"{escaped}$", "contains": escaped}.get(by, f"^{escaped}$")


def _io_flags(recipe: Recipe, notes: list[str]) -> list[str]:
    types = {kind for formats in recipe.io_formats.values() for kind in formats}
    floats = types & {"fp16", "bf16", "fp32"}
    if not floats & {"fp16", "bf16"}:
        return []
    if "fp32" in floats:
        notes.append("some inputs or outputs were FP16 and others FP32: name the low ones, --io-types low=NAME,..")
    return ["--io-types", "low"]


def _quantize(recipe: Recipe, where: str, outcomes: Sequence[ConstraintOutcome], notes: list[str]) -> tuple[str, str]:
    """The quantization command and the model it writes."""
    mode = "int8" if "int8" in recipe.low else "fp8" if "fp8" in recipe.low else "int4"
    target = f"{where.removesuffix('.onnx')}.{mode}.onnx"
    words = ["python", "-m", "modelopt.onnx.quantization", f"--onnx_path={where}", f"--quantize_mode={mode}"]
    words.append("--calibration_data_path=calibration.npz")
    if mode != "int4":
        words.append("--calibration_method=entropy")
    excluded = [
        name
        for outcome in outcomes
        if outcome.constraint.wanted in ("fp32", "fp16", "bf16") and outcome.constraint.clauses
        for name in outcome.nodes or _named(outcome)
    ]
    if excluded:
        words += ["--nodes_to_exclude", *map(re.escape, excluded)]
    words += ["--high_precision_dtype=fp32", f"--output_path={target}"]
    cache = f" {recipe.calibration}" if recipe.calibration else ""
    notes.append(
        f"the calibration cache{cache} holds scales for TensorRT's own INT8 calibrator, which TensorRT 11 has no more: "
        "calibration.npz is real input data (input name -> array), as many samples as the cache was made from"
    )
    notes.append(
        "pip install nvidia-modelopt[onnx]; --high_precision_dtype=fp32 leaves everything that is not quantized to "
        "planner rewrite"
    )
    return shlex.join(words), target


def _named(outcome: ConstraintOutcome) -> tuple[str, ...]:
    """The names of a constraint that could not be checked; nothing for one that matched nothing."""
    simple = outcome.constraint.simple
    return simple[1] if outcome.nodes is None and simple is not None and simple[0] == "name" else ()


def _build_command(recipe: Recipe, model: str, target: str) -> str:
    engine = recipe.engine or "model.engine"
    spoken = get_target(target).words
    words = [spoken.program, f"--onnx={model}", f"--saveEngine={engine}"]
    words += profile_flags({name: Profile(s["min"], s["opt"], s["max"]) for name, s in recipe.profiles.items()})
    settings = recipe.settings
    if not recipe.tf32:
        words.append("--noTF32")
    if settings.get("workspace_bytes"):
        words.append(f"--memPoolSize=workspace:{int(settings['workspace_bytes']) >> 20}")
    if settings.get("optimization_level") is not None:
        words.append(f"--builderOptimizationLevel={settings['optimization_level']}")
    if settings.get("version_compatible"):
        words.append("--versionCompatible")
    if settings.get("hardware_compatible"):
        level = settings["hardware_compatible"]
        words.append(f"--hardwareCompatibilityLevel={'ampere+' if level is True else level}")
    if settings.get("timing_cache") and spoken.timing_cache:
        words.append(f"--timingCacheFile={settings['timing_cache']}")
    words += [f"--staticPlugins={library}" for library in settings.get("plugins", ())]
    words += spoken.strong
    return shlex.join(words)


def _alternative(
    recipe: Recipe, source: str, low: str, flags: Sequence[str], target: str
) -> tuple[tuple[str, str], ...]:
    """The same by `planner plan` and `planner build`."""
    if not low or recipe.strong:
        return ()
    folder = f"{Path(source).stem}.plan"
    words = ["planner", "plan", source, "-o", folder, "--target", target]
    words += ["--precision", low] if low != "fp16" else []
    words += list(flags)
    words += profile_flags({name: Profile(s["min"], s["opt"], s["max"]) for name, s in recipe.profiles.items()})
    for library in recipe.settings.get("plugins", ()):
        words += ["--plugins", library]
    return (
        (shlex.join(words), "the same with the planner's own findings, a prediction, and a folder for the device"),
        (shlex.join(["planner", "build", folder]), "builds it and reports what was asked and what came out"),
    )


def _has_qdq(model: Model | None) -> bool:
    if model is None:
        return False
    return any(node.op_type == "QuantizeLinear" for _, _, node in GraphIndex(model.proto).nodes())


def _notes(recipe: Recipe, low: str, model: Model | None) -> list[str]:
    notes = []
    if recipe.strong:
        notes.append("the recipe is strongly typed already: it stays as it is, without the flag on TensorRT 11")
    elif not low and not recipe.low & _QUANTIZED:
        notes.append("the recipe asks for no low precision: the model is built as its types are, in FP32")
    if recipe.best:
        notes.append("--best let the builder choose by speed among all precisions: here it is FP16 throughout")
    if recipe.mode == "prefer":
        notes.append("prefer let the builder fall back to another precision; types in the graph always hold")
    if low and not recipe.strong:
        notes.append(
            "weak typing let the builder keep in FP32 or TF32 what was faster so; now everything is low but what is "
            "named: check with planner diff"
        )
    if recipe.tf32 and recipe.tool == "trtexec":
        notes.append("TF32 stays on for what is FP32 (trtexec's default); add --noTF32 to switch it off")
    if _has_qdq(model) and recipe.low & _QUANTIZED:
        notes.append("the model has Q/DQ nodes already: no quantization needed, and INT8 needs no flag")
    if model is None:
        notes.append("the model is not here, so no constraint was checked: run planner migrate beside it, or --model")
    return notes
