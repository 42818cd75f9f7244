"""Writes paddle_*.onnx: run in an environment of its own.

pip install paddlepaddle==2.6.2 paddle2onnx==1.2.1 six setuptools "onnx<1.16" "numpy<2"; python make_paddle.py

paddle2onnx 1.2.1 leaves out an epsilon that is added by hand (paddle_rms, paddle_own_layer_norm).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import paddle.nn as nn

HERE = Path(__file__).parent


class Own(nn.Layer):
    def __init__(self):
        super().__init__()
        self.w = self.create_parameter([8])
        self.b = self.create_parameter([8])


class Rms(Own):
    def forward(self, x):
        return x * paddle.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.w


class LayerNorm(Own):
    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        return (x - mean) / paddle.sqrt(variance + 1e-6) * self.w + self.b


class Variance(Own):
    def forward(self, x):
        variance = paddle.var(x, -1, unbiased=False, keepdim=True)
        return self.w * (x - x.mean(-1, keepdim=True)) / paddle.sqrt(variance + 1e-6)


ROWS, IMAGES = [None, 4, 8], [None, 8, 4, 4]
MODELS = {
    "paddle_layer_norm": (nn.LayerNorm(8), ROWS), "paddle_layer_norm_two": (nn.LayerNorm([4, 8]), ROWS),
    "paddle_group_norm": (nn.GroupNorm(4, 8), IMAGES), "paddle_instance_norm": (nn.InstanceNorm2D(8), IMAGES),
    "paddle_rms": (Rms(), ROWS), "paddle_own_layer_norm": (LayerNorm(), ROWS), "paddle_variance": (Variance(), ROWS),
}  # fmt: skip
for name, (module, shape) in MODELS.items():
    for parameter in module.parameters():
        parameter.set_value(np.random.default_rng(0).uniform(0.5, 1.5, parameter.shape).astype(np.float32))
    module.eval()
    spec = [paddle.static.InputSpec(shape, "float32", "x")]
    paddle.onnx.export(module, str(HERE / name), input_spec=spec, opset_version=13)
