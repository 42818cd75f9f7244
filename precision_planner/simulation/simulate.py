"""Honest FP16 and BF16 on a CPU: the FP32 graph with every value rounded where it would be stored.

Inside an operator everything is FP32, as most tensor-core kernels accumulate; between operators a value is what its
16-bit type holds, so overflow, inf - inf and NaN appear where they would.

Two semantics:

- ``typed``: every node's result is rounded, as a strongly typed graph is defined by ONNX. Constants round as ONNX
  Cast does (past 65504 to infinity, under 2^-25 to zero).
- ``fused``: what TensorRT may do at worst: chains of pointwise operators stay in FP32 within a kernel, and a value
  is rounded where a kernel ends; constants saturate as in TensorRT's weak conversion of weights. A weakly typed
  builder is free to choose TF32 or FP32 where that is faster, so the prediction is the worst it is allowed to do.

Products accumulate in FP32 unless ``accumulation`` says FP16; see `precision_planner.simulation.accumulation`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto

from precision_planner.errors import ConversionError
from precision_planner.model import GraphIndex, Model, NodeId
from precision_planner.model.inline import inline_functions
from precision_planner.model.inputs import InputSpec, cast_batch, input_specs, load_inputs
from precision_planner.model.session import Session
from precision_planner.model.sources import InputSource, ModelSource
from precision_planner.numerics.rounding import Overflow
from precision_planner.patterns.selecting import Selector
from precision_planner.simulation.accumulation import Accumulation, Product
from precision_planner.simulation.draws import can_draw
from precision_planner.simulation.plans import (
    all_low,
    element_types,
    from_assignment,
    fuse_chains,
    with_accumulation,
    with_lowering,
    with_tf32,
)
from precision_planner.simulation.rounding import apply_rounding
from precision_planner.simulation.schemas import ELEMENT_TYPES
from precision_planner.simulation.stash import expand_low_stash
from precision_planner.simulation.tf32 import Tf32, check_tf32
from precision_planner.simulation.typed import is_typed_low, widen
from precision_planner.targets.lowering import Lowering
from precision_planner.transforms.opset import raise_opset
from precision_planner.transforms.single import to_single
from precision_planner.typing.assignment import TypeAssignment

Semantics = Literal["typed", "fused"]
WeightPolicy = Literal["ieee", "saturate"]


@dataclass(frozen=True, slots=True)
class Simulation:
    """An FP32 model that computes what a 16-bit one would.

    Attributes:
      model: FP32, with explicit rounding; every value keeps the name it has in the model it came from.
      specs: the inputs of the model it came from, in their own types; they are given so rounded.
      rounded: (scope, value) -> FLOAT16 or BFLOAT16, of every value that is rounded where it is produced.
      stored: the same of every value that is stored in 16 bits, those that are only moved included.
      semantics: "typed" or "fused".
      description: what was done, in one sentence.
      kept: nodes of an FP32 model that were told to stay FP32.
    """

    model: Model
    specs: tuple[InputSpec, ...]
    rounded: Mapping[tuple[tuple[str, ...], str], int]
    stored: Mapping[tuple[tuple[str, ...], str], int]
    semantics: Semantics
    description: str
    kept: frozenset[NodeId] = frozenset()

    def feeds(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch as the 16-bit model takes it (FP16 inputs are rounded), in the types that this one takes."""
        wide = {spec.name: spec for spec in input_specs(self.model)}
        rounded = cast_batch(batch, self.specs)
        return {name: array.astype(wide[name].dtype, copy=False) for name, array in rounded.items()}


def prepare(
    source: Model | onnx.ModelProto | str | os.PathLike[str],
    *,
    precision: str | None = None,
    keep_fp32: Iterable[str | NodeId] = (),
    keep_bf16: Iterable[str | NodeId] = (),
    assignment: TypeAssignment | None = None,
    semantics: Semantics = "typed",
    weights: WeightPolicy | None = None,
    tf32: Tf32 = False,
    accumulation: Accumulation = "fp32",
    sums32: Iterable[str | NodeId] = (),
    lowering: Iterable[Lowering] = (),
    draws: bool = False,
) -> Simulation:
    """The FP32 model that computes what a 16-bit one would.

    Args:
      source: a model. One that is typed already (FP16 or BF16 in its graph) is evaluated as it is typed; an FP32
        one is rounded everywhere but where `keep_fp32` or `assignment` says otherwise.
      precision: "fp16", "bf16" or "tf32" (everything FP32, products in TF32) for an FP32 model; fp16 by default.
      keep_fp32: nodes that stay FP32: selectors (`patterns.selecting`) and `NodeId`s.
      keep_bf16: nodes of an FP32 model that are BF16, named in the same ways.
      assignment: types for every value, instead of `precision` and `keep_fp32`.
      semantics: "typed" or "fused", see the module.
      weights: "ieee" or "saturate"; by default what the semantics say. An assignment is written with saturated
        masks by the conversion, so it is simulated so.
      tf32: products that stay in FP32 take their operands in TF32, as a build with TF32 allowed does: True or "nearest"
        rounded, "truncated" with both operands cut off where both are computed, the worst that was seen.
      accumulation: "fp32", or "fp16" for products that compute in FP16: what a weakly typed builder may choose.
      sums32: products that add up in FP32 all the same, named as in `keep_fp32`; an assignment names its own.
      lowering: what a target's parser writes operators out as (`Target.lowering`).
      draws: round by chance (`simulation.draws`), where the opset has what that takes; the model then takes
        `draw_feeds` besides.

    Raises:
      ConversionError: unknown precision, semantics, accumulation or tf32, or an assignment for a typed model.
      SelectorError: an entry of `keep_fp32` matches nothing.
    """
    if semantics not in ("typed", "fused"):
        raise ConversionError(f"semantics {semantics!r} are unknown; use typed or fused")
    if precision == "tf32":
        # nothing is low: every product keeps its FP32 sums and loses the lower bits of its operands
        precision, keep_fp32, tf32 = "fp16", ("*",), tf32 or "nearest"
    if precision is not None and precision not in ELEMENT_TYPES:
        raise ConversionError(f"precision {precision!r} cannot be simulated; use fp16, bf16 or tf32")
    if weights not in (None, "ieee", "saturate"):
        raise ConversionError(f"weights {weights!r} are unknown; use ieee or saturate")
    if accumulation not in ("fp32", "fp16"):
        raise ConversionError(f"accumulation {accumulation!r} is unknown; use fp32 or fp16")
    check_tf32(tf32)
    by_default = semantics == "fused" or assignment is not None
    saturating = weights == "saturate" or (weights is None and by_default)
    policy: Overflow = "saturate" if saturating else "inf"
    original = Model.load(source)
    model = inline_functions(original)
    if assignment is None:
        model = to_single(model)
    specs = input_specs(model)
    model = _with_casts_to(model, precision)
    kept: frozenset[NodeId] = frozenset()
    if is_typed_low(model):
        if assignment is not None:
            raise ConversionError("the model is typed already, so no type assignment can be simulated on it")
        model = expand_low_stash(model)
        wide, plan = widen(model, policy)
        description = "the model as it is typed"
    else:
        wide = model
        index = GraphIndex(wide.proto)
        if assignment is not None:
            plan = from_assignment(assignment, index, policy)
            description = f"the plan's types ({assignment.options.precision})"
        else:
            precision = precision or "fp16"
            selector = Selector(wide, index)
            kept, in_bf16 = (frozenset(selector.select(*_each(wanted))) for wanted in (keep_fp32, keep_bf16))
            plan = all_low(wide, index, ELEMENT_TYPES[precision], kept, policy, in_bf16)
            description = f"everything in {precision}" + (f" but {len(kept)} nodes" if kept else "")
            if not plan.stored and not plan.edges:
                description = "everything in fp32"
    if tf32:
        index = GraphIndex(wide.proto)
        plan = with_tf32(plan, index, element_types(wide, index), tf32)
        description += ", kept products in TF32"
        description += " (those of two computed values truncated)" if tf32 == "truncated" else ""
    if semantics == "fused":
        plan = fuse_chains(plan, GraphIndex(wide.proto))
    if accumulation == "fp16":
        index = GraphIndex(wide.proto)
        promised = Selector(wide, index).select(*_each(sums32))
        promised.update(() if assignment is None else (typing.node for typing in assignment.sums32))
        plan = with_accumulation(plan, wide, index, sums32=promised)
    plan = with_lowering(plan, wide, GraphIndex(wide.proto), lowering)
    stored = "saturating weights" if policy == "saturate" else "IEEE weights"
    description += f", {semantics} semantics, {stored}"
    plan = replace(plan, draw=int(draws and can_draw(wide)))
    description += ", FP16 accumulation" if any(isinstance(how, Product) for how in plan.accumulated.values()) else ""
    return Simulation(
        apply_rounding(wide, plan), specs, dict(plan.values), dict(plan.stored), semantics, description, kept
    )


def _each(wanted: Iterable[str | NodeId] | str | NodeId) -> tuple[str | NodeId, ...]:
    return (wanted,) if isinstance(wanted, str | NodeId) else tuple(wanted)


def _with_casts_to(model: Model, precision: str | None) -> Model:
    """The model at an opset whose Cast has the 16-bit type: 13 for BF16, 6 for FP16."""
    needed = 13 if precision == "bf16" else 6
    if model.opset >= needed:
        return model
    raised = raise_opset(model, needed)
    if raised.opset < needed:
        raise ConversionError(
            f"{precision or 'fp16'} cannot be simulated at opset {model.opset}, and the model cannot be raised to "
            f"{needed}: {raised.reason}; export it at a newer opset"
        )
    return raised.model


def simulate(
    source: ModelSource,
    inputs: InputSource = None,
    *,
    precision: str | None = None,
    keep_fp32: Iterable[str | NodeId] = (),
    assignment: TypeAssignment | None = None,
    semantics: Semantics = "typed",
    weights: WeightPolicy | None = None,
    accumulation: Accumulation = "fp32",
    outputs: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """What the model gives in FP16 or BF16, computed honestly on a CPU.

    Args:
      source: a path, a ModelProto or a `Model`; see `prepare` for typed and FP32 models.
      inputs: a dict of arrays, a path (see `load_inputs`), or None for synthesised ones. Of several batches the
        first is taken.
      precision: "fp16", "bf16" or "tf32"; see `prepare` for this and the next five.
      keep_fp32: nodes that stay FP32.
      assignment: types for every value.
      semantics: "typed" or "fused".
      weights: "ieee" or "saturate".
      accumulation: "fp32" or "fp16".
      outputs: values of the main graph to return; None takes the model's outputs.

    Returns:
      Value -> array, floats as float32 that hold 16-bit values where they are stored so.

    Raises:
      InputsError: the inputs do not fit the model.
      MissingExtraError: onnxruntime is not installed.
    """
    simulation = prepare(
        source,
        precision=precision,
        keep_fp32=keep_fp32,
        assignment=assignment,
        semantics=semantics,
        weights=weights,
        accumulation=accumulation,
    )
    batch = load_inputs(inputs, Model.load(source)).first()
    with open_simulation(simulation, outputs) as session:
        return session.run(simulation.feeds(batch))


@contextmanager
def open_simulation(simulation: Simulation, outputs: Sequence[str] | None = None) -> Iterator[Session]:
    """A session over a simulation, after the proof that this onnxruntime rounds where it is told."""
    prove_rounding()
    with Session(simulation.model, outputs) as session:
        yield session


_proven: list[str] = []


def prove_rounding() -> None:
    """Once a process: x * 1e4 * 1e4 * 1e-4 * 1e-4 must be infinite in simulated FP16.

    Raises:
      RuntimeError: this onnxruntime removed the rounding; nothing it computes could be believed.
    """
    if _proven:
        return
    names = ["x", "a", "b", "c", "y"]
    nodes = [onnx.helper.make_node("Mul", [names[i], f"k{i}"], [names[i + 1]]) for i in range(4)]
    graph = onnx.helper.make_graph(
        nodes,
        "proof",
        [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [onnx.helper.make_tensor(f"k{i}", TensorProto.FLOAT, [], [v]) for i, v in enumerate((1e4, 1e4, 1e-4, 1e-4))],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    model = Model.load(proto)
    index = GraphIndex(model.proto)
    rounded = apply_rounding(model, all_low(model, index, TensorProto.FLOAT16))
    with Session(rounded) as session:
        value = session.run({"x": np.ones(1, np.float32)})["y"]
    if not np.isinf(value).all():
        raise RuntimeError(f"onnxruntime removed the explicit rounding ({value[0]} instead of inf); report its version")
    _proven.append("fp16")
