"""`planner check`: one gate for CI and pre-commit. May this model go into 16 bits, as it is or by its plan?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precision_planner.analysis import analyze
from precision_planner.diffing import Tolerance, compare
from precision_planner.errors import PlannerError
from precision_planner.model import Model
from precision_planner.model.inputs import load_inputs
from precision_planner.targets import DEFAULT_TARGET

SCHEMA_VERSION = 1
LOST = frozenset({"garbage", "nonfinite"})
SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Gate:
    """One question.

    Attributes:
      name: 'loads', 'findings' or 'answers'.
      passed: None where it was asked for information only.
      said: the answer in a sentence.
    """

    name: str
    passed: bool | None
    said: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "passed": self.passed, "said": self.said}


@dataclass(frozen=True, slots=True)
class Checked:
    """All questions about one model."""

    model: str
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(gate.passed is not False for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"model": self.model, "passed": self.passed, "gates": [gate.to_dict() for gate in self.gates]}


def check_model(
    path: Path,
    *,
    plan: Path | None = None,
    tolerance: Iterable[str | Tolerance] = (),
    fail_on: str = "error",
    inputs: Any = None,
    precision: str = "fp16",
    target: str | None = None,
) -> Checked:
    """Ask every question about a model.

    Args:
      path: the FP32 model, or a typed one.
      plan: its plan's folder: the planned model is held to the tolerance (the plan's own where none is given), and
        findings are for information, for the plan is the answer to them.
      tolerance: of the plan, or, without one, of the model simulated in `precision`.
      fail_on: findings of this severity or a worse one fail: "error", "warning" or "never".
      inputs: see `load_inputs`; None takes the plan's golden inputs, or makes valid ones up.
      precision: "fp16" or "bf16".
      target: whose lowering and kernels are asked about; None takes the default.

    Raises:
      PlannerError: a plan, inputs or a tolerance that cannot be used. A model that cannot be read fails its gate.
    """
    try:
        model = Model.load(path)
    except PlannerError as error:
        return Checked(str(path), (Gate("loads", False, str(error)),))
    gates = [Gate("loads", True, f"opset {model.opset}, {len(model.proto.graph.node)} nodes")]
    gates.append(_findings(model, None if plan is not None else fail_on, inputs, precision, target))
    bounds = tuple(tolerance)
    if plan is not None:
        gates.append(_planned(model, plan, bounds, inputs))
    elif bounds:
        found = compare(model, model, inputs, simulate=precision, tolerance=bounds, self_check=False)
        gates.append(Gate("answers", found.passed and found.grade not in LOST, found.verdict))
    return Checked(str(path), tuple(gates))


def _findings(model: Model, fail_on: str | None, inputs: Any, precision: str, target: str | None) -> Gate:
    found = analyze(model, inputs=inputs, precision=precision, target=target or DEFAULT_TARGET)
    counts = {name: count for name, count in found.by_severity.items() if count}
    told = ", ".join(f"{count} {name}{'s' if count != 1 else ''}" for name, count in counts.items())
    worst = next((finding for name in SEVERITIES for finding in found.findings if finding.severity == name), None)
    first = "" if worst is None else f"; {worst.rule} at {worst.subject}: {worst.message}"
    if fail_on is None:
        return Gate("findings", None, (told or "none") + ", answered by the plan")
    failing = SEVERITIES[: SEVERITIES.index(fail_on) + 1] if fail_on in SEVERITIES else ()
    return Gate("findings", not any(counts.get(name) for name in failing), (told or "none") + first)


def _planned(model: Model, folder: Path, bounds: tuple[str | Tolerance, ...], inputs: Any) -> Gate:
    from precision_planner.model.arrays import read_npz
    from precision_planner.plans import PrecisionPlan

    file = folder / "plan.json"
    if not file.is_file():
        raise PlannerError(f"{folder} holds no plan.json; give the folder that planner plan wrote")
    plan = PrecisionPlan.from_json(file.read_text(encoding="utf-8"))
    wanted = bounds or tuple(
        Tolerance(entry["metric"], float(entry["bound"]), entry.get("output") or None) for entry in plan.tolerance
    )
    golden = sorted((folder / "golden").glob("*.inputs.npz"))
    given = inputs if inputs is not None or not golden else [read_npz(path) for path in golden]
    found = compare(model, folder, load_inputs(given, model), tolerance=wanted, self_check=False)
    held = ", ".join(map(str, wanted)) or "no tolerance"
    return Gate("answers", found.passed and found.grade not in LOST, f"{found.verdict} ({held})")
