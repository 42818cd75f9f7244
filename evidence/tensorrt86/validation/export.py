"""From a torch module to an ONNX model that the parser of TensorRT 8.6 takes."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import onnx
import torch

from evidence.tensorrt86.validation.lowering import fold, lower


def export(module: torch.nn.Module, x: torch.Tensor, exporter: str, opset: int, outputs: list[str]) -> onnx.ModelProto:
    """Export with static shapes; the input is `x`."""
    logging.disable(logging.CRITICAL)
    names: dict[str, Any] = {"input_names": ["x"], "output_names": outputs}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            program = torch.onnx.export(module, (x,), opset_version=opset, dynamo=True, verbose=False, **names)
            assert program is not None
            model = lower(program.model_proto)
        else:
            buffer = io.BytesIO()
            torch.onnx.export(module, (x,), buffer, opset_version=opset, dynamo=False, **names)
            model = onnx.load_from_string(buffer.getvalue())
    model.ir_version = 8
    return fold(model)
