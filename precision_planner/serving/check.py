"""Real requests to a served model, and what the one judge says of the answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from precision_planner.diffing import Tolerance, compare
from precision_planner.diffing.result import Diff
from precision_planner.errors import InputsError, PlanError
from precision_planner.model import Model
from precision_planner.model.inputs import Batch, Inputs, InputSpec, fit_batch, load_inputs
from precision_planner.serving.client import Address, Server
from precision_planner.serving.source import PlanFolder, read_plan_folder
from precision_planner.serving.tensors import ONNX_TYPES, Interface, ServedTensor

SCHEMA_VERSION = 1

_LOST = frozenset({"garbage", "nonfinite"})


@dataclass(frozen=True)
class ServedCheck:
    """What a server answered, judged.

    Attributes:
      server, model, wire: who was asked, and how the numbers travelled: 'HTTP binary', 'HTTP JSON', 'gRPC'.
      interface: as the server says it.
      requests: how many were sent; cases with more rows than a request may have are split.
      diff: the answers against the reference.
      notes: what is served otherwise than the plan says.
    """

    server: str
    model: str
    wire: str
    interface: Interface
    requests: int
    diff: Diff
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Within tolerance, finite where the reference is, and no garbage where no tolerance was given."""
        return self.diff.passed and self.diff.grade not in _LOST

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "triton_check",
            "server": self.server,
            "model": self.model,
            "wire": self.wire,
            "inputs": _tensors(self.interface.inputs),
            "outputs": _tensors(self.interface.outputs),
            "requests": self.requests,
            "passed": self.passed,
            "notes": list(self.notes),
            "diff": self.diff.to_dict(),
        }


def _tensors(tensors: Iterable[ServedTensor]) -> dict[str, Any]:
    return {
        tensor.name: {
            "datatype": tensor.wire,
            "shape": [size if isinstance(size, int) else -1 for size in tensor.shape],
        }
        for tensor in tensors
    }


def check_server(
    address: Address,
    model: str,
    *,
    reference: Any = None,
    plan: Path | None = None,
    inputs: Any = None,
    tolerance: Mapping[str, float] | Iterable[str | Tolerance] | None = None,
    as_json: bool = False,
    as_given: bool = False,
    timeout_s: float = 30.0,
    command: str = "",
) -> ServedCheck:
    """Send inputs to a served model and judge its answers.

    Args:
      address: see `parse_address`.
      model: its name on the server.
      reference: what is right: an FP32 model; None takes the plan's golden outputs.
      plan: the plan's folder: golden cases, tolerance, types.
      inputs: see `load_inputs`; None takes the plan's golden inputs, or, with a reference, synthesises valid ones.
      tolerance: None takes the plan's.
      as_json: by HTTP, as JSON.
      as_given: send arrays in the types that they have, as a client does that converts nothing.
      timeout_s: for every request.
      command: the command line, for the report.

    Raises:
      PlanError, InputsError: nothing to compare with, or inputs that do not fit.
      ServerError: see `Server`.
    """
    folder = None if plan is None else read_plan_folder(plan)
    right, batches = _reference(reference, folder, inputs)
    bounds = tolerance if tolerance else () if folder is None else planned_tolerance(folder)
    with Server(address, timeout_s=timeout_s) as server:
        interface = server.interface(model)
        most = int(server.config(model).get("max_batch_size", 0))
        names = tuple(tensor.name for tensor in interface.outputs)
        answers, requests = [], 0
        for batch in batches:
            fitted = dict(batch) if as_given else fit_served(batch, interface, batches.source)
            parts = []
            for part in split_rows(fitted, most):
                parts.append(server.infer(model, part, names, as_json=as_json))
                requests += 1
            answers.append(_joined(parts))
    diff = judge(right, answers, batches, bounds, command)
    wire = "gRPC" if address.protocol == "grpc" else "HTTP JSON" if as_json else "HTTP binary"
    notes = () if folder is None else tuple(_differences(folder.interface, interface))
    return ServedCheck(str(address), model, wire, interface, requests, diff, notes)


def judge(reference: Any, answers: list[Batch], batches: Inputs, tolerance: Any, command: str = "") -> Diff:
    """The one judge, on saved outputs: the reference is a model, or what it answered to the same batches."""
    inputs = None if isinstance(reference, list) else batches
    return compare(reference, answers, inputs, tolerance=tolerance, command=command, self_check=False)


def planned_tolerance(folder: PlanFolder) -> tuple[Tolerance, ...]:
    """The bounds that a plan was made to meet."""
    return tuple(
        Tolerance(entry["metric"], float(entry["bound"]), entry.get("output") or None)
        for entry in folder.plan.tolerance
    )


def fit_served(batch: Mapping[str, Any], interface: Interface, source: str = "the inputs") -> Batch:
    """The batch in the types and shapes that the server takes; see `fit_batch`."""
    specs = [
        InputSpec(tensor.name, TensorProto.DataType.Value(ONNX_TYPES[tensor.wire].upper()), tensor.shape)
        for tensor in interface.inputs
    ]
    return fit_batch(batch, specs, source)


def split_rows(batch: Mapping[str, np.ndarray], most: int) -> Iterator[Batch]:
    """The batch in requests of at most so many rows; whole where the model has no batch axis (0)."""
    rows = max((array.shape[0] for array in batch.values() if array.ndim), default=0)
    if not most or rows <= most:
        yield dict(batch)
        return
    for start in range(0, rows, most):
        yield {name: array[start : start + most] for name, array in batch.items()}


def _joined(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _reference(reference: Any, folder: PlanFolder | None, inputs: Any) -> tuple[Any, Inputs]:
    """What is right, and the batches that it is right for."""
    if reference is not None:
        model = reference if isinstance(reference, Model) else Model.load(reference)
        if inputs is None and folder is not None and folder.golden:
            return model, _golden_inputs(folder)
        return model, load_inputs(inputs, model)
    if folder is None:
        raise PlanError("there is nothing to compare with; give --plan PLAN_DIR, or --reference model.onnx")
    if inputs is not None:
        raise InputsError(
            "the plan's golden outputs belong to its own inputs; give --reference model.onnx beside --inputs, or leave "
            "--inputs out"
        )
    if not folder.golden:
        raise PlanError(f"the plan {folder.folder} has no golden cases; give --reference model.onnx")
    return [dict(outputs) for _, outputs in folder.golden.values()], _golden_inputs(folder)


def _golden_inputs(folder: PlanFolder) -> Inputs:
    batches = [dict(inputs) for inputs, _ in folder.golden.values()]
    source = f"the golden cases of {folder.folder}"
    return Inputs(lambda: iter(batches), source, bool(folder.plan.inputs.get("synthesized")), tuple(folder.golden))


def _differences(planned: Interface, served: Interface) -> Iterator[str]:
    """Types that are served otherwise than planned."""
    types = {tensor.name: tensor.wire for tensor in served.tensors}
    for tensor in planned.tensors:
        if types.get(tensor.name, tensor.wire) != tensor.wire:
            yield f"'{tensor.name}' is served as {types[tensor.name]}, the plan has {tensor.wire}"
