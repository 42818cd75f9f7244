"""The edit of a rescaled stream: nodes written anew, constants scaled, a Mul wherever two degrees meet."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from precision_planner.model.edit import Edit
from precision_planner.model.wire import STRIP_BYTES
from precision_planner.numerics.formats import FP16
from precision_planner.transforms.repairs.homogeneity import Treatment
from precision_planner.transforms.repairs.powers import ldexp_payload, scaled_scalar
from precision_planner.transforms.repairs.site import constant
from precision_planner.transforms.repairs.stream import Stream

__all__ = ["StreamWriter"]


class StreamWriter:
    """Collects what changes; a value keeps its name only where it keeps its meaning.

    Args:
      stream: what is taken along.
      treatments: position -> how that node is written, with nothing left open.
      power: k: degree 1 is 2^-k times the value.
    """

    def __init__(self, stream: Stream, treatments: Mapping[int, Treatment], power: int) -> None:
        self._stream = stream
        self._scope = stream.scope
        self._treatments = treatments
        self._power = power
        self._edit = Edit(stream.scope.path)
        self._fresh = stream.site.fresh
        self._raw: dict[str, int] = {}
        self._wanted: dict[str, set[int]] = {}
        self._copies: dict[tuple[str, int], str] = {}
        self._scaled: dict[tuple[str, int], str] = {}
        for position, treatment in treatments.items():
            for output, degree in treatment.gives.items():
                if output < len(self._scope.nodes[position].output) and degree:
                    self._raw[self._scope.nodes[position].output[output]] = degree

    def edit(self) -> Edit | str:
        """The whole edit, or why the stream cannot be written so."""
        self._demand()
        refusal = self._refusal() or self._scale_constants()
        if refusal:
            return refusal
        muls: dict[int, list[NodeProto]] = {}
        for value, degrees in self._wanted.items():
            producer = self._scope.producer(value)
            place = 0 if producer is None else producer + 1
            for degree in sorted(degrees - {self._raw.get(value, 0)}):
                muls.setdefault(place, []).append(self._mul(value, degree))
        rewritten = {position: self._node(position) for position in self._treatments}
        for position in sorted({*muls, *rewritten}):
            self._edit.insert += [(position, mul) for mul in muls.get(position, ())]
            fresh = rewritten.get(position)
            if fresh is not None:
                self._edit.insert.append((position, fresh))
                self._edit.remove.add(position)
        self._edit.reads |= self._treatments.keys()
        for value in {*self._raw, *self._wanted}:
            for degree in {self._raw.get(value, 0), *self._wanted.get(value, ())} - {0}:
                self._edit.scaled[self._name(value, degree)] = (value, -self._power * degree)
        held = sum(degree == 1 for degree in self._raw.values())
        count = sum(map(len, muls.values()))
        scaled = len(self._copies)
        self._edit.note = f"2^-{self._power} on {held} values; {scaled} constants scaled, {count} Mul inserted"
        return self._edit

    def _treated(self, position: int) -> Treatment:
        return self._treatments.get(position, Treatment())

    # -- who wants what ---------------------------------------------------------------------------------------------

    def _demand(self) -> None:
        """Collect in which degrees each value of the stream is read."""
        for position, treatment in self._treatments.items():
            for slot, degree in treatment.needs.items():
                if degree:
                    self._wanted.setdefault(self._scope.nodes[position].input[slot], set()).add(degree)
        for value in {*self._raw, *self._wanted}:
            if self._original_reader(value):
                self._wanted.setdefault(value, set()).add(0)

    def _original_reader(self, value: str) -> str:
        """What reads a value as it was; "" if nothing does."""
        scope = self._scope
        if scope.is_output(value):
            return "the graph returns it"
        if value in scope.captures or value in scope.body_outputs:
            return "a nested body reads it"
        for use in scope.consumers(value):
            if not self._treated(use.position).needs.get(use.slot):
                return f"{scope.nodes[use.position].op_type} needs it as it is"
        return ""

    def _refusal(self) -> str:
        """Why rescaling would not help: a value past the limit that is still computed, or restored, as it was."""
        for value in {**self._wanted, **self._raw}:
            amax = self._stream.amax(value)
            degree = self._raw.get(value, 0)
            if amax <= FP16.max_finite:
                continue
            producer = self._scope.producer(value)
            if producer is not None and self._treated(producer).role == "reader":
                continue  # it overflows by itself, with the stream rescaled or not
            if degree and 0 in self._wanted.get(value, ()):
                return f"{value} reaches {amax:.4g} and {self._original_reader(value)}"
            node = self._scope.producer_node(value)
            if not degree and node is not None:
                return f"{value} reaches {amax:.4g} and {node.op_type} makes it, which cannot be scaled"
        return ""

    # -- constants --------------------------------------------------------------------------------------------------

    def _scale_constants(self) -> str:
        readers: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for position, treatment in self._treatments.items():
            for slot, degree in treatment.constants.items():
                if degree and slot < len(self._scope.nodes[position].input):
                    name = self._scope.nodes[position].input[slot]
                    readers.setdefault((name, degree), []).append((position, slot))
        for (value, degree), uses in sorted(readers.items()):
            refusal = self._scale_constant(value, degree, uses)
            if refusal:
                return refusal
        return ""

    def _scale_constant(self, value: str, degree: int, uses: list[tuple[int, int]]) -> str:
        holder = self._stream.constant(value)
        array = self._stream.site.array(holder)
        assert array is not None, "a constant has values"
        power = -self._power * degree
        if array.size == 1 and scaled_scalar(float(array.reshape(-1)[0]), power) is None:
            return f"{holder} times 2^{power} would leave float32's normal range"
        tensor = self._scope.initializers.get(value)
        alone = len(uses) == len(self._scope.consumers(value)) and not self._scope.is_read_elsewhere(
            value, {position for position, _ in uses}
        )
        if tensor is not None and alone:
            large = array.nbytes >= STRIP_BYTES
            self._edit.replace[value] = ldexp_payload(array, power) if large else _small(array, power)
            self._copies[value, degree] = value
            return ""
        # others read it as it is: a copy of its own
        name = self._fresh(f"{value}_times_1p{power}_{uses[0][0]}")
        fresh = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        if array.nbytes >= STRIP_BYTES:
            self._edit.payloads[name] = ldexp_payload(array, power)
        else:
            fresh.raw_data = _small(array, power).astype("<f4").tobytes()
        self._edit.constants.append(fresh)
        self._copies[value, degree] = name
        producer = self._scope.producer(value)
        if alone and producer is not None and self._scope.nodes[producer].op_type == "Constant":
            self._edit.remove.add(producer)
        return ""

    # -- nodes ------------------------------------------------------------------------------------------------------

    def _node(self, position: int) -> NodeProto | None:
        """The node with its inputs and outputs in their degrees; None where nothing changes."""
        old, treatment = self._scope.nodes[position], self._treatments[position]
        node = NodeProto()
        node.CopyFrom(old)
        for slot, name in enumerate(old.input):
            if treatment.needs.get(slot):
                node.input[slot] = self._name(name, treatment.needs[slot])
            elif treatment.constants.get(slot):
                node.input[slot] = self._copies[name, treatment.constants[slot]]
        for output, degree in treatment.gives.items():
            if degree and output < len(old.output) and old.output[output]:
                node.output[output] = self._name(old.output[output], degree)
        for name, degree in treatment.attributes.items():
            self._scale_attribute(node, name, degree)
        return None if node == old else node

    def _scale_attribute(self, node: NodeProto, name: str, degree: int) -> None:
        found = next((attribute for attribute in node.attribute if attribute.name == name), None)
        if found is None:
            found = node.attribute.add(name=name, type=AttributeProto.FLOAT, f=1e-5)
        found.f = math.ldexp(found.f, -self._power * degree)

    def _mul(self, value: str, degree: int) -> NodeProto:
        """From what the producer gives to another degree of the same value."""
        raw = self._raw.get(value, 0)
        power = self._power * (raw - degree)
        result = self._name(value, degree)
        factor = constant(self._fresh(f"{value}_factor_1p{power}"), math.ldexp(1.0, power), TensorProto.FLOAT)
        self._edit.constants.append(factor)
        node = self._scope.producer_node(value)
        base = f"{node.name if node is not None and node.name else value}/scale_{'up' if power > 0 else 'down'}"
        return helper.make_node("Mul", [self._name(value, raw), factor.name], [result], self._fresh(base))

    def _name(self, value: str, degree: int) -> str:
        if not degree:
            return value
        if (value, degree) not in self._scaled:
            wish = f"{value}_scaled" if degree == 1 else f"{value}_scaled_{degree}".replace("-", "m")
            self._scaled[value, degree] = self._fresh(wish)
        return self._scaled[value, degree]


def _small(array: np.ndarray, power: int) -> np.ndarray:
    return np.asarray(np.ldexp(array, power), np.float32)
