"""A BERT text classifier as ONNX, built with numpy and onnx alone, written as torch's exporters write it.

```python
from examples.bert_classifier import PRESETS, build_bert_classifier, reference_forward, sample_inputs

spec = PRESETS["tiny-massive"]
model = build_bert_classifier(spec)                 # onnx.ModelProto
inputs = sample_inputs(spec, rows=8, sequence=48)   # {"input": int64 [8, 48]}
expected = reference_forward(spec, inputs["input"]) # {"logits", "probability"}: float64 [8, 11]
```
"""

from __future__ import annotations

from .build import build_bert_classifier, reference_forward
from .spec import PRESETS, BertSpec
from .tokens import sample_inputs
from .weights import make_weights

__all__ = [
    "PRESETS",
    "BertSpec",
    "build_bert_classifier",
    "make_weights",
    "reference_forward",
    "sample_inputs",
]
