"""Which slots of a node follow its precision, and which are fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx

from precision_planner.operators import Operator, OpTypes, Slot, holds, named, row_of
from precision_planner.typing.decisions import ELEMENT_TYPES, PluginTypes, TypingOptions

Mode = Literal["follows", "any", "wide", "low"]
"""follows the node's precision; reads what is stored; stays wide; is low whatever the node computes in."""


@dataclass(frozen=True, slots=True)
class NodeSlots:
    """The float slots of one node.

    Attributes:
      inputs: slot -> mode, for the inputs whose value is a float to be decided.
      outputs: the same for outputs.
      allowed: element types that every following slot takes; None where nothing follows.
      kind: the kind of variable ("fixed": it computes).
    """

    inputs: dict[int, Mode]
    outputs: dict[int, Mode]
    allowed: frozenset[int] | None
    kind: Literal["fixed", "moves", "cast", "compares"]


def classify(
    node: onnx.NodeProto, schema: OpTypes, wide_inputs: list[int], wide_outputs: list[int], low: frozenset[int]
) -> NodeSlots:
    """Sort the float slots of an operator.

    Args:
      node: the node.
      schema: its types at the opset it is read in.
      wide_inputs: positions of the inputs that hold a float to be decided.
      wide_outputs: the same for outputs.
      low: the 16-bit types that the plan uses; a slot that takes none of them stays wide.
    """
    row = row_of(node)
    named_type = named(node, row.type_attribute) is not None if row.type_attribute else False
    inputs: dict[int, Mode] = {}
    outputs: dict[int, Mode] = {}
    allowed: frozenset[int] | None = None
    for at in wide_inputs:
        slot = schema.input(at)
        inputs[at] = _input_mode(row, at, slot, low, named_type)
        if inputs[at] == "follows" and slot is not None:
            allowed = slot.elements if allowed is None else allowed & slot.elements
    for at in wide_outputs:
        slot = schema.output(at)
        takes = slot is not None and bool(slot.elements & low)
        stash = row.statistics_type and at > 0
        outputs[at] = "follows" if takes and not stash else "wide"
        if outputs[at] == "follows" and slot is not None:
            allowed = slot.elements if allowed is None else allowed & slot.elements
    return NodeSlots(inputs, outputs, allowed, _kind(node))


def _input_mode(row: Operator, at: int, slot: Slot | None, low: frozenset[int], named_type: bool) -> Mode:
    if slot is None:
        return "wide"
    if at in row.indifferent:
        return "any" if low <= slot.elements else "wide"  # IsInf takes halves from opset 20 on
    if row.random and named_type:
        return "any"
    if at in row.stays_wide or not slot.elements & low:
        return "wide"
    return "follows"


def _kind(node: onnx.NodeProto) -> Literal["fixed", "moves", "cast", "compares"]:
    row = row_of(node)
    if row.converts:
        return "cast"
    if row.compares:
        return "compares"
    if row.moves or row.container:
        return "moves" if holds(node) else "fixed"
    return "moves" if row.generates else "fixed"


def plugin_slots(
    plugin: PluginTypes, options: TypingOptions, wide_inputs: list[int], wide_outputs: list[int]
) -> tuple[NodeSlots, dict[int, int], dict[int, int]]:
    """The slots of a plugin node as its declaration says.

    Returns:
      (slots, input -> element type where declared by name, output -> the same).
    """

    def entry(entries: tuple[str, ...], at: int) -> str:
        return entries[min(at, len(entries) - 1)] if entries else "fp32"

    modes: list[dict[int, Mode]] = [{}, {}]
    named: list[dict[int, int]] = [{}, {}]
    for side, (entries, positions) in enumerate(((plugin.inputs, wide_inputs), (plugin.outputs, wide_outputs))):
        for at in positions:
            text = entry(entries, at)
            if text == "low":
                modes[side][at] = "follows"
            elif text in ("fp16", "bf16"):
                modes[side][at] = "low"
                named[side][at] = ELEMENT_TYPES[text]
            else:
                modes[side][at] = "wide"
    return NodeSlots(modes[0], modes[1], None, "fixed"), named[0], named[1]
