"""Local functions, written out where they are called."""

from __future__ import annotations

from precision_planner.model.model import Model


def inline_functions(model: Model) -> Model:
    """The model without local functions: their bodies stand where they were called; a model without any as it is."""
    if not model.proto.functions:
        return model
    from onnx import inliner

    return model.with_proto(inliner.inline_local_functions(model.proto))
