"""The census of every weight of a model, with who reads it and as what: in one pass, in constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from precision_planner.analysis.assessment import Assessment, assess
from precision_planner.analysis.scan import take_census
from precision_planner.analysis.tensor_roles import Patterns, roles_of
from precision_planner.analysis.tensors import FloatTensor, float_tensors
from precision_planner.errors import ModelError
from precision_planner.model import GraphIndex, Model, display_name
from precision_planner.model.flow import Flow
from precision_planner.numerics import FP16, Format, TensorStats, get_format
from precision_planner.patterns import Match

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["WeightCensus", "Weights", "weights_census"]

SHOWN_READERS = 8
"""Readers named in JSON; `reader_count` has them all."""

MOST_READS = 4096
"""Reads looked at for one tensor: a scalar that the exporter shares may have one for each node."""


@dataclass(frozen=True, slots=True, repr=False)
class WeightCensus:
    """One tensor: what it holds, who reads it, what the cast does to it.

    Attributes:
      name: see `FloatTensor.name`.
      scope: path of the graph that holds it, () for the main graph.
      kind: see `FloatTensor.kind`.
      shape: of a sparse tensor the dense one.
      stats: over the stored values.
      roles: what it is read as, the one that decides first.
      readers: display names of the nodes that use it, the first ones.
      reader_count: how many use it.
      node: display name of the Constant (or other) node that holds it, "" for an initializer.
      assessment: what the cast to the low precision does to it, in a word and a sentence.
    """

    name: str
    scope: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    stats: TensorStats
    roles: tuple[str, ...]
    readers: tuple[str, ...]
    reader_count: int
    node: str
    assessment: Assessment

    def __repr__(self) -> str:
        return f"<{self.name} {list(self.shape)} {self.stats.dtype}, {self.role}: {self.assessment.sentence}>"

    @property
    def role(self) -> str:
        """The role that decides."""
        return self.roles[0]

    @property
    def key(self) -> tuple[tuple[str, ...], str]:
        """(scope path, name)."""
        return self.scope, self.name

    @property
    def nbytes(self) -> int:
        """Bytes that the census read."""
        return self.stats.size * {"float64": 8, "float32": 4}.get(self.stats.dtype, 2)

    def plot(self) -> Figure:
        """Its exponent histogram against the ranges of FP16 and BF16.

        Raises:
          MissingExtraError: matplotlib is not installed.
        """
        from precision_planner.analysis.figures import exponent_figure

        return exponent_figure({self.name: self.stats.exponents}, self.name)

    def _repr_html_(self) -> str:
        from precision_planner.analysis.html import tensor_html

        return tensor_html(self)

    def to_dict(self, fmt: Format = FP16) -> dict[str, Any]:
        """JSON-ready, with the classes and errors of `fmt`."""
        stats = self.stats.to_dict(fmt)
        return {
            "name": self.name,
            "scope": "/".join(self.scope),
            "kind": self.kind,
            "dtype": stats.pop("dtype"),
            "shape": list(self.shape),
            **stats,
            "role": self.role,
            "roles": list(self.roles),
            "readers": list(self.readers),
            "reader_count": self.reader_count,
            "node": self.node,
            **self.assessment.to_dict(),
        }


@dataclass(frozen=True, slots=True, repr=False)
class Weights:
    """The census of a model.

    Attributes:
      tensors: every float tensor, in the order of the graphs.
      precision: the format that assessments and JSON are about.
    """

    tensors: tuple[WeightCensus, ...]
    precision: str = "fp16"

    def __repr__(self) -> str:
        return f"<census of {len(self.tensors)} float tensors, {self.scanned_bytes} bytes, for {self.precision}>"

    @property
    def scanned_bytes(self) -> int:
        """Bytes that the census read."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def format(self) -> Format:
        """The format that assessments and JSON are about."""
        return get_format(self.precision)

    def __iter__(self) -> Iterator[WeightCensus]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, name: str) -> WeightCensus:
        """The tensor of that name, the main graph's first."""
        found = [tensor for tensor in self.tensors if tensor.name == name]
        if not found:
            raise KeyError(f"no float tensor is called {name!r}")
        return min(found, key=lambda tensor: len(tensor.scope))

    def by_key(self) -> dict[tuple[tuple[str, ...], str], TensorStats]:
        """(scope path, name) -> statistics, as the rules take them."""
        return {tensor.key: tensor.stats for tensor in self.tensors}

    def exponents(self) -> dict[int, int]:
        """The exponent histogram of the whole model, ascending."""
        total: Counter[int] = Counter()
        for tensor in self.tensors:
            total.update(tensor.stats.exponents)
        return dict(sorted(total.items()))

    def ranked(self) -> list[WeightCensus]:
        """The tensors, the one that the cast hurts most first."""
        return sorted(self.tensors, key=lambda tensor: -tensor.assessment.cost)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a tensor.

        Raises:
          MissingExtraError: pandas is not installed.
        """
        from precision_planner.analysis.frames import weights_frame

        return weights_frame(self)

    def plot(self, tensor: str | None = None) -> Figure:
        """The exponent histogram of one tensor, or of all, against the ranges of FP16 and BF16.

        Raises:
          KeyError: no float tensor of that name.
          MissingExtraError: matplotlib is not installed.
        """
        from precision_planner.analysis.figures import exponent_figure

        if tensor is not None:
            return self[tensor].plot()
        return exponent_figure({"weights": self.exponents()}, "all weights")

    def _repr_html_(self) -> str:
        from precision_planner.analysis.html import weights_html

        return weights_html(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "tensors": [tensor.to_dict(self.format) for tensor in self.tensors],
            "scanned_bytes": self.scanned_bytes,
        }


def weights_census(
    model: Model,
    index: GraphIndex,
    matches: Sequence[Match] = (),
    *,
    precision: str = "fp16",
    progress: Callable[[float], None] | None = None,
) -> Weights:
    """Take the census of every float tensor of a model.

    Args:
      model: any model.
      index: of the model.
      matches: the patterns found in it, for the roles.
      precision: the low precision that assessments are about.
      progress: told the bytes read since the last call.

    Raises:
      ModelError: a tensor's values cannot be read.
    """
    fmt = get_format(precision)
    flow, patterns = Flow(index), Patterns(matches, index)
    tensors = float_tensors(index)
    return Weights(
        tuple(
            _weight(tensor, stats, flow, patterns, fmt)
            for tensor, stats in zip(tensors, take_census(model, tensors, progress), strict=True)
        ),
        fmt.name,
    )


def _weight(tensor: FloatTensor, stats: TensorStats, flow: Flow, patterns: Patterns, fmt: Format) -> WeightCensus:
    """Put the census of a tensor beside who reads it."""
    if stats.size != tensor.elements:
        raise ModelError(
            f"tensor '{tensor.name}' holds {stats.size} values where its shape takes {tensor.elements}; "
            "export the model again"
        )
    reads, is_returned = flow.readers(tensor.scope, tensor.name, limit=MOST_READS)
    roles = roles_of(reads, is_returned, stats, tensor.dims, patterns, tensor.kind)
    names = list(dict.fromkeys(display_name(read.node) for read in reads))
    return WeightCensus(
        name=tensor.name,
        scope=tensor.scope.path,
        kind=tensor.kind,
        shape=tensor.dims,
        stats=stats,
        roles=roles,
        readers=tuple(names[:SHOWN_READERS]),
        reader_count=len(names),
        node="" if tensor.position is None else display_name(tensor.scope.nodes[tensor.position]),
        assessment=assess(stats, fmt, roles[0]),
    )
