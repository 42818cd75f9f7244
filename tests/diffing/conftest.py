"""The tiny sample classifiers, built once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from examples.bert_classifier import PRESETS, build_bert_classifier, sample_inputs

Sample = tuple[onnx.ModelProto, dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def tiny() -> Sample:
    spec = PRESETS["tiny"]
    return build_bert_classifier(spec), sample_inputs(spec, rows=4, sequence=24)


@pytest.fixture(scope="session")
def massive() -> Sample:
    spec = PRESETS["tiny-massive"]
    return build_bert_classifier(spec), sample_inputs(spec, rows=8, sequence=24)
