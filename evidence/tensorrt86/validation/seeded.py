"""Random weights as a recipe: a model without its large random initializers is small enough to carry anywhere.

Runs under Python 3.8 and newer with numpy and onnx alone; imports nothing of the planner.
"""

import json
import os
import zlib

import numpy as np
import onnx
from onnx import numpy_helper

SMALLEST = 2048
"""Elements of the smallest initializer worth a recipe."""


def draw(shape, seed, mean, std):
    """Normal float32 numbers from a generator of the tensor's own."""
    noise = np.random.default_rng(zlib.crc32(seed.encode())).standard_normal(tuple(shape), dtype=np.float32)
    return np.float32(std) * noise + np.float32(mean)


def looks_random(array):
    """Whether nothing but mean and deviation says what is in a tensor: no table, no mask, no outliers."""
    x = array.reshape(array.shape[0] if array.ndim > 1 else 1, -1).astype(np.float64)
    x = (x - x.mean()) / (x.std() or 1)
    # a folded BatchNorm gives the channels of a convolution scales of their own: near enough
    if not 1.5 < (x**4).mean() < (10.0 if array.ndim == 4 else 3.7) or np.unique(array[:64]).size < 100:
        return False
    neighbors = [(x[:, 1:] * x[:, :-1]).mean(), (x[1:] * x[:-1]).mean() if len(x) > 1 else 0.0]
    means = [np.abs(x.mean(axis=axis)).max() for axis in range(2) if x.shape[axis] >= 256]
    return max(map(abs, neighbors)) < 0.05 and max(means, default=0) < 0.6


def strip(model):
    """Take the large random initializers out of a model, in place; returns the recipes {name: [seed, mean, std]}.

    The seed is the shape and how many of that shape came before: two exports of one module differ in their names.
    """
    recipes, counts = {}, {}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.FLOAT and array.size >= SMALLEST and looks_random(array):
            shape = "x".join(map(str, sorted(array.shape)))
            counts[shape] = counts.get(shape, 0) + 1
            recipes[tensor.name] = ["%s#%d" % (shape, counts[shape]), float(array.mean()), float(array.std())]
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return recipes


def restore(model, recipes):
    """Put them back, in place."""
    for tensor in model.graph.initializer:
        if tensor.name in recipes:
            tensor.raw_data = draw(tensor.dims, *recipes[tensor.name]).tobytes()
    return model


def load(folder):
    """The whole model of a case folder."""
    model = onnx.load(os.path.join(folder, "model.onnx"))
    with open(os.path.join(folder, "case.json"), encoding="utf-8") as file:
        return restore(model, json.load(file)["recipes"])
