"""Local functions, written out where they are called."""

from __future__ import annotations

from precision_planner.errors import ModelError
from precision_planner.model.index import GraphIndex
from precision_planner.model.model import Model


def inline_functions(model: Model) -> Model:
    """The model without local functions: their bodies stand where they were called; a model without any as it is.

    Raises:
      ModelError: a function that is called asks for another opset than the model, in which its body would be wrong.
    """
    if not model.proto.functions:
        return model
    from onnx import inliner

    proto = inliner.inline_local_functions(model.proto)
    if proto.functions:  # left out: those of another opset
        left = {(function.domain, function.name): function for function in proto.functions}
        for _, _, node in GraphIndex(proto).nodes():
            function = left.get((node.domain, node.op_type))
            if function is not None:
                wanted = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in function.opset_import)
                raise ModelError(
                    f"the function '{function.name}' asks for {wanted}, and the model that calls it for opset "
                    f"{model.opset}: it cannot be written out; export the model again, with one opset"
                )
        del proto.functions[:]
    return model.with_proto(proto)
