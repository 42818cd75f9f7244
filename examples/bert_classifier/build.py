"""The two public functions that need the weights: the model, and what it should answer."""

from __future__ import annotations

import numpy as np
import onnx

from .dynamo import build_dynamo
from .reference import Norm, Round, forward
from .spec import BertSpec
from .torchscript import build_torchscript
from .weights import make_weights


def build_bert_classifier(spec: BertSpec) -> onnx.ModelProto:
    """Build the classifier: ``input`` int64 [batch, sequence] to ``logits``, ``probability`` [batch, 11].

    Args:
      spec: the whole description; see ``PRESETS``.

    Returns:
      The model with its weights inside. Above 2 GB it cannot be serialized in one file; save it with
      ``onnx.save(..., save_as_external_data=True)``.

    Raises:
      ModuleNotFoundError: the spec asks for MiniLM's weights and their package is not installed.
    """
    build = build_torchscript if spec.style == "torchscript" else build_dynamo
    return build(spec, make_weights(spec))


def reference_forward(
    spec: BertSpec, ids: np.ndarray, *, round: Round | None = None, norm: Norm = "native"
) -> dict[str, np.ndarray]:
    """Compute ``logits`` and ``probability``, float64 [batch, 11], from BERT's definition, without the graph.

    Args:
      spec: the model.
      ids: int64 [batch, sequence]; 0 is padding.
      round: applied to every step's result (``reference.Round``); the weights stay as they are.
      norm: LayerNorm as one rounded step or as nine.
    """
    return forward(spec, make_weights(spec), ids, round=round, norm=norm)
