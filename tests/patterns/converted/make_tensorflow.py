"""Writes tf2onnx_*.onnx and flax_*.onnx: run in an environment of its own, as TensorFlow wants an older numpy.

pip install tensorflow-cpu==2.19.1 tf2onnx==1.17.0 jax==0.5.3 flax==0.10.4 "numpy<2.2"; python make_tensorflow.py
"""

from __future__ import annotations

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from jax.experimental import jax2tf

HERE = Path(__file__).parent
RNG = np.random.default_rng(0)
G, B = (tf.constant(a.astype(np.float32)) for a in (RNG.uniform(0.5, 1.5, 8), RNG.normal(size=8)))
ROWS, IMAGES = (None, 4, 8), (None, 4, 4, 8)
K = tf.keras.layers


def layer(made, shape):
    """A Keras layer whose weights are not all 1 and 0."""
    made.build((2, *shape[1:]))
    made.set_weights([RNG.uniform(0.5, 1.5, w.shape) for w in made.get_weights()])
    return made


def moments(x):
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, B, G, 1e-5)


def moments_reshaped(x):
    mean, variance = tf.nn.moments(x, [-1])
    return (x - mean[..., None]) * tf.math.rsqrt(variance[..., None] + 1e-5) * G + B


def rms(x):
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + 1e-6) * G


def rms_div(x):
    return G * (x / tf.sqrt(tf.reduce_mean(x * x, -1, keepdims=True) + 1e-6))


def group_norm_moments(x):
    shape = tf.shape(x)
    y = tf.reshape(x, [shape[0], 4, 4, 4, 2])
    mean, variance = tf.nn.moments(y, [1, 2, 4], keepdims=True)
    return tf.reshape((y - mean) * tf.math.rsqrt(variance + 1e-5), shape) * G + B


MODELS = {
    "tf2onnx_keras_layer_norm": (layer(K.LayerNormalization(epsilon=1e-5), ROWS), ROWS),
    "tf2onnx_keras_layer_norm_4d": (layer(K.LayerNormalization(epsilon=1e-6), IMAGES), IMAGES),
    "tf2onnx_keras_group_norm": (layer(K.GroupNormalization(groups=4, epsilon=1e-5), IMAGES), IMAGES),
    "tf2onnx_keras_rms": (layer(K.RMSNormalization(), ROWS), ROWS),
    "tf2onnx_keras_unit": (K.UnitNormalization(), ROWS),
    "tf2onnx_moments": (moments, ROWS), "tf2onnx_moments_reshaped": (moments_reshaped, ROWS),
    "tf2onnx_rms": (rms, ROWS), "tf2onnx_rms_div": (rms_div, ROWS),
    "tf2onnx_group_norm_moments": (group_norm_moments, IMAGES),
}  # fmt: skip
FLAX = {
    "flax_layer_norm": (nn.LayerNorm(), (2, 4, 8)), "flax_rms_norm": (nn.RMSNorm(), (2, 4, 8)),
    "flax_layer_norm_slow": (nn.LayerNorm(use_fast_variance=False), (2, 4, 8)),
    "flax_group_norm": (nn.GroupNorm(num_groups=4), (2, 4, 4, 8)),
    "flax_group_norm_slow": (nn.GroupNorm(num_groups=4, use_fast_variance=False), (2, 4, 4, 8)),
}  # fmt: skip


def write(name, function, shape):
    traced = tf.function(
        lambda x: function(x), input_signature=[tf.TensorSpec(shape, tf.float32, name="x")], autograph=False
    )
    model, _ = tf2onnx.convert.from_function(traced, input_signature=traced.input_signature, opset=17)
    onnx.save(model, str(HERE / f"{name}.onnx"))


for name, (function, shape) in MODELS.items():
    write(name, function, shape)
for name, (module, shape) in FLAX.items():
    weights = module.init(jax.random.PRNGKey(0), jnp.zeros(shape))
    weights = jax.tree_util.tree_map(lambda a: jnp.asarray(RNG.uniform(0.5, 1.5, a.shape), jnp.float32), weights)
    call = jax2tf.convert(lambda x, m=module, w=weights: m.apply(w, x), enable_xla=False, native_serialization=False)
    write(name, call, shape)
