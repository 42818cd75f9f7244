"""The `Model`: an ONNX graph without its weights, and the store that knows where they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from precision_planner.errors import ModelError
from precision_planner.model import files
from precision_planner.model.payloads import FileSlice, WeightStore
from precision_planner.model.tensors import dense_nbytes, iter_tensors, marker_key, tensor_array

if TYPE_CHECKING:
    import os

MAX_IR_VERSION = 10
"""The newest IR written for opsets up to 22: onnx 1.23 defaults to 14, which onnxruntime refuses to load."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model, lossless, with its weights on demand.

    Attributes:
      proto: the ModelProto without payloads of 1 KiB and more (see `precision_planner.model.wire`). Read-only by
        agreement: take `edit()` to change it.
      weights: key -> payload, for every stripped tensor.
      path: the file it was loaded from, None for one that came as a ModelProto.
    """

    proto: onnx.ModelProto
    weights: WeightStore
    path: Path | None = None

    def __repr__(self) -> str:
        name = self.path or self.proto.graph.name or "in memory"
        return (
            f"<Model {name}: opset {self.opset}, {len(self.proto.graph.node)} nodes, {self.weight_bytes} weight bytes>"
        )

    @staticmethod
    def load(source: Model | onnx.ModelProto | str | os.PathLike[str]) -> Model:
        """Load a model without reading its weights.

        Args:
          source: a path to an .onnx file, a ModelProto (copied, not changed), or a Model (returned as it is).

        Raises:
          ModelError: missing, empty, damaged, or no ONNX model; external data missing or short.
        """
        if isinstance(source, Model):
            return source
        if isinstance(source, onnx.ModelProto):
            try:
                view = memoryview(source.SerializeToString())
            except ValueError:
                raise ModelError(
                    "a ModelProto over protobuf's 2 GiB cannot be copied; save it with external data and pass the path"
                ) from None
            proto, weights = files.read_buffer(view, None)
            return Model(proto, weights)
        path = Path(source)
        proto, weights = files.read_model(path)
        return Model(proto, weights, path)

    @property
    def opsets(self) -> dict[str, int]:
        """Domain -> version; the default domain is ''."""
        return {("" if entry.domain == "ai.onnx" else entry.domain): entry.version for entry in self.proto.opset_import}

    @property
    def opset(self) -> int:
        """The version of the default domain (1 where the model imports none, as the specification says)."""
        return self.opsets.get("", 1)

    @property
    def files(self) -> frozenset[Path]:
        """Every file the model reads: itself and its external data."""
        found = {payload.source for payload in self.weights.values() if isinstance(payload, FileSlice)}
        return frozenset(path for path in (*found, self.path) if path is not None)

    @property
    def external(self) -> bool:
        """Whether any weight lies outside the model file."""
        return any(file != self.path for file in self.files)

    @property
    def stored_bytes(self) -> int:
        """Size of the model as one file, in bytes."""
        return files.stored_length(self.proto, self.weights)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all dense initializers and Constant tensors, in bodies and functions too."""
        return sum(
            dense_nbytes(site.tensor.data_type, site.tensor.dims)
            for site in iter_tensors(self.proto)
            if site.tensor.data_type not in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED)
        )

    def edit(self) -> onnx.ModelProto:
        """A copy of the stripped proto, to change and hand to `with_proto`."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return proto

    def with_proto(self, proto: onnx.ModelProto, weights: WeightStore | None = None) -> Model:
        """This model with another structure (and another weight store)."""
        return replace(self, proto=proto, weights=self.weights if weights is None else weights)

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """A tensor's values, read-only, as a view of the file where possible; see `tensor_array`."""
        return tensor_array(tensor, self.weights)

    def to_bytes(self) -> bytes:
        """The whole model as one serialized ModelProto; ModelError past 2 GiB."""
        return files.serialize(self.proto, self.weights)

    def to_proto(self) -> onnx.ModelProto:
        """The whole model as a ModelProto, weights inside; ModelError past 2 GiB."""
        proto = self.edit()
        if self.stored_bytes > files.PROTOBUF_LIMIT:
            raise ModelError("the model is over protobuf's 2 GiB: save it to a file instead")
        for site in iter_tensors(proto):
            key = marker_key(site.tensor)
            if key is not None:
                data = b"".join(self.weights[key].chunks())
                site.tensor.ClearField("external_data")
                site.tensor.ClearField("data_location")
                site.tensor.raw_data = data
        return proto

    def save(self, path: str | os.PathLike[str], *, force: bool = False, external: bool | None = None) -> list[Path]:
        """Write the model, weights streamed, atomically.

        Args:
          path: where to; the input of this model is refused even with `force`.
          force: overwrite what is there.
          external: weights beside the model in ``<name>.data``; None: where the input had it so, or past 2 GiB.

        Returns:
          The files written, the model first.
        """
        if external is None and self.external:
            external = True
        return files.write_model(
            Path(path), self.proto, self.weights, force=force, external=external, protect=self.files
        )
