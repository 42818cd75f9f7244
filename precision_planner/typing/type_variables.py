"""The unknowns of the assignment and how they are solved.

A *type variable* is one type to be chosen: of a node (all its slots that share it), or of a value that passes through
a body (a Loop's state, an If's output, a function's argument). It is fixed (a decision, a necessity, the low type of
ordinary arithmetic) or flexible (nodes that only move values). A flexible variable looks both ways:

- where its values come from in a wider type and are read in a wider type, it stays wide, so that nothing is rounded
  on the way from one FP32 island to the next and no Cast stands inside;
- otherwise it is low, so that the Cast stands as early as it can and the data moves in 16 bits.

Wideness travels through chains and cycles of flexible variables as bit masks until nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from onnx import TensorProto

Kind = Literal["fixed", "moves", "cast", "compares", "state"]

_BITS: dict[int, int] = {
    TensorProto.FLOAT16: 1,
    TensorProto.BFLOAT16: 2,
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 4,
}


@dataclass(slots=True)
class TypeVariable:
    """One type to be chosen.

    Attributes:
      kind: fixed; moves (a flexible one); cast (a flexible one whose input may have any type); compares (makes no
        float, and is exact in the type its operands have); state (what a loop carries: wide where its body reads and
        makes it wide, whatever it begins with, so that no iteration rounds it; low where its body makes it low, so that
        no Cast runs in every iteration).
      element: the chosen type, 0 while open.
      allowed: the element types that every slot of the variable takes.
      reason: why it is not low.
      forced: by necessity.
    """

    kind: Kind
    element: int = 0
    allowed: frozenset[int] | None = None
    reason: str = ""
    forced: bool = False
    source: int = 0
    need: int = 0


class TypeVariables:
    """Type variables with union-find (values that no Cast can convert tie them) and the flows between them."""

    def __init__(self, low: int, wide: int) -> None:
        self.low, self.wide = low, wide
        self._cells: list[TypeVariable] = []
        self._parent: list[int] = []
        self._flows: list[tuple[int, int]] = []
        self._returned: list[tuple[tuple[str, int], int]] = []

    def add(self, variable: TypeVariable) -> int:
        """A new variable; returns its number."""
        self._cells.append(variable)
        self._parent.append(len(self._parent))
        return len(self._cells) - 1

    def __getitem__(self, number: int) -> TypeVariable:
        return self._cells[self.root(number)]

    def root(self, number: int) -> int:
        """The representative of a tied set."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def tie(self, first: int, second: int) -> None:
        """Make two variables one: a fixed wide one wins, then a fixed one."""
        a, b = self.root(first), self.root(second)
        if a == b:
            return
        keep, drop = (a, b)
        if self._cells[b].element and (not self._cells[a].element or self._cells[b].element == self.wide):
            keep, drop = b, a
        self._parent[drop] = keep
        kept, dropped = self._cells[keep], self._cells[drop]
        if kept.allowed is None:
            kept.allowed = dropped.allowed
        elif dropped.allowed is not None:
            kept.allowed &= dropped.allowed

    def flow(self, source: int, target: int) -> None:
        """A value made by variable `source` is read by variable `target`."""
        self._flows.append((source, target))

    def returned(self, made: tuple[str, int], target: int) -> None:
        """What a body returns, a variable or a settled type, is what variable `target` goes on with."""
        self._returned.append((made, target))

    def source(self, target: int, element: int) -> None:
        """A value of a settled type is read by variable `target`."""
        self[target].source |= _BITS[element]

    def need(self, source: int, element: int) -> None:
        """A value made by variable `source` is read in a settled type."""
        self[source].need |= _BITS[element]

    def solve(self) -> None:
        """Choose every open variable's type."""
        forward: dict[int, list[int]] = {}
        backward: dict[int, list[int]] = {}
        for source, target in self._flows:
            source, target = self.root(source), self.root(target)
            made, read = self._cells[source], self._cells[target]
            if made.element and not read.element:
                read.source |= _BITS[made.element]
            elif read.element and not made.element:
                made.need |= _BITS[read.element]
            elif not made.element and source != target:
                forward.setdefault(source, []).append(target)
                backward.setdefault(target, []).append(source)
        roots = [n for n in range(len(self._cells)) if self._parent[n] == n and not self._cells[n].element]
        for number in roots:
            variable = self._cells[number]
            if variable.kind == "compares":
                variable.need |= _BITS[self.wide]
        self._spread_sources(roots, forward)
        self._spread_needs(roots, backward)
        made_inside: dict[int, int] = {}
        for (kind, maker), target in self._returned:
            number = self.root(target)
            if kind == "type":
                made_inside[number] = made_inside.get(number, 0) | _BITS.get(maker, 0)
            elif kind == "variable" and self.root(maker) != number:
                made_inside[number] = made_inside.get(number, 0) | self._mask(self[maker])
        for number in roots:
            self._choose(self._cells[number], made_inside.get(number, 0))

    def _mask(self, variable: TypeVariable) -> int:
        """The types that a variable's values have, as far as that is known before all are chosen."""
        return _BITS[variable.element] if variable.element in _BITS else self._out_source(variable)

    def _spread_sources(self, roots: Iterable[int], forward: dict[int, list[int]]) -> None:
        # a Cast's result is as wide as it is made, whatever it was before: sources do not travel through it
        work = [n for n in roots if self._out_source(self._cells[n])]
        while work:
            number = work.pop()
            mask = self._out_source(self._cells[number])
            for target in forward.get(number, ()):
                variable = self._cells[target]
                if mask & ~variable.source:
                    variable.source |= mask
                    work.append(target)

    def _out_source(self, variable: TypeVariable) -> int:
        return _BITS[self.wide] if variable.kind == "cast" and not variable.source else variable.source

    def _spread_needs(self, roots: Iterable[int], backward: dict[int, list[int]]) -> None:
        work = [n for n in roots if self._cells[n].need]
        while work:
            number = work.pop()
            mask = self._cells[number].need
            for source in backward.get(number, ()):
                variable = self._cells[source]
                if mask & ~variable.need:
                    variable.need |= mask
                    work.append(source)

    def _choose(self, variable: TypeVariable, made_inside: int) -> None:
        wide, bfloat = _BITS[self.wide], _BITS[TensorProto.BFLOAT16]
        source = variable.source or wide  # constants alone: exact in any type
        if variable.kind == "cast":
            source = wide
        if variable.kind == "state" and made_inside == wide:
            source = wide
        elif variable.kind == "state" and source & ~wide:
            source &= ~wide
        need = variable.need or wide  # what nobody reads stays as it is
        if source & wide and need & wide:
            chosen = self.wide
        elif source & (wide | bfloat) and need & (wide | bfloat):
            chosen = TensorProto.BFLOAT16
        else:
            chosen = self.low
        if variable.allowed is not None and chosen not in variable.allowed and chosen != self.wide:
            chosen = self.wide
            variable.forced, variable.reason = (
                True,
                variable.reason or "no type that its readers ask for is allowed here",
            )
        variable.element = chosen
