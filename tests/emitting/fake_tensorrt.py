"""A stand-in for the `tensorrt` module of 8.6, as far as the emitted scripts use it: it records what they set.

Its network is what TensorRT 8.6 makes of a small graph: names, metadata, a LayerNormalization without either, and the
shuffle before a constant's reader. It builds nothing.
"""

from __future__ import annotations

import enum
from types import ModuleType, SimpleNamespace


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT32 = 3


LayerType = enum.Enum("LayerType", "ELEMENTWISE SHUFFLE CONSTANT NORMALIZATION SOFTMAX MATRIX_MULTIPLY SHAPE")


class Tensor(SimpleNamespace):
    def __init__(self, name: str, dtype: DataType = DataType.FLOAT) -> None:
        super().__init__(
            name=name,
            dtype=dtype,
            shape=(-1, 4),
            is_shape_tensor=False,
            is_execution_tensor=True,
            is_network_output=False,
        )


class Layer:
    def __init__(self, name, kind, inputs, outputs, metadata="") -> None:
        self.name, self.type, self.metadata = name, kind, metadata
        self.inputs, self.outputs = inputs, outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        self.precision = None
        self.output_types: dict[int, DataType] = {}

    def get_input(self, number):
        return self.inputs[number]

    def get_output(self, number):
        return self.outputs[number]

    def get_output_type(self, number):
        return self.output_types.get(number, self.outputs[number].dtype)

    def set_output_type(self, number, dtype):
        self.output_types[number] = dtype


class Network:
    def __init__(self, flags: int) -> None:
        self.created_with = flags
        x, y = Tensor("x"), Tensor("y")
        scaled, constant, wide, normed = Tensor("m"), Tensor("c"), Tensor("shuffled"), Tensor("n")
        count = Tensor("i", DataType.INT32)
        self.layers = [
            Layer("c", LayerType.CONSTANT, [], [constant]),
            Layer("(Unnamed Layer* 1) [Shuffle]", LayerType.SHUFFLE, [constant], [wide]),
            Layer("/mul", LayerType.ELEMENTWISE, [x, wide], [scaled], "[ONNX Layer: /mul]"),
            Layer("(Unnamed Layer* 3) [Normalization]", LayerType.NORMALIZATION, [scaled], [normed]),
            Layer("/count", LayerType.SHAPE, [x], [count], "[ONNX Layer: /count]"),
            Layer("/soft", LayerType.SOFTMAX, [normed], [y], "[ONNX Layer: /soft]"),
        ]
        self.inputs, self.outputs = [x], [y]
        self.num_inputs, self.num_outputs, self.num_layers = 1, 1, len(self.layers)

    def get_layer(self, number):
        return self.layers[number]

    def get_input(self, number):
        return self.inputs[number]

    def get_output(self, number):
        return self.outputs[number]

    def get_flag(self, flag):
        return bool(self.created_with & (1 << int(flag)))


class Config:
    def __init__(self) -> None:
        self.flags: set[str] = {"TF32"}
        self.profiles: list[dict] = []
        self.pools: dict = {}
        self.cache = b"unset"

    def set_flag(self, flag):
        self.flags.add(flag.name)

    def clear_flag(self, flag):
        self.flags.discard(flag.name)

    def get_flag(self, flag):
        return flag.name in self.flags

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)

    def set_memory_pool_limit(self, pool, size):
        self.pools[pool] = size

    def create_timing_cache(self, data):
        return data

    def set_timing_cache(self, cache, ignore):
        self.cache = cache

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: b"timed")


class Builder:
    platform_has_fast_fp16 = True
    last: Builder

    def __init__(self, logger) -> None:
        Builder.last = self

    def create_network(self, flags):
        self.network = Network(flags)
        return self.network

    def create_builder_config(self):
        self.config = Config()
        return self.config

    def create_optimization_profile(self):
        profile = SimpleNamespace(shapes={})
        profile.set_shape = lambda name, *shapes: profile.shapes.update({name: shapes})
        return profile

    def build_serialized_network(self, network, config):
        return b"engine"


class OnnxParser:
    parses = True
    num_errors = 1

    def __init__(self, network, logger) -> None:
        self.flags: set[str] = set()

    def set_flag(self, flag):
        self.flags.add(flag)

    def parse_from_file(self, path):
        return self.parses

    def get_error(self, number):
        return SimpleNamespace(desc=lambda: "cannot", node=lambda: 3)


def make_module(version: str = "8.6.1") -> ModuleType:
    """The module, fresh, as version `version` would have it."""
    module = ModuleType("tensorrt")
    flags = {"EXPLICIT_BATCH": 0}
    if int(version.split(".")[0]) >= 10:
        flags["STRONGLY_TYPED"] = 1
    names = "FP16 TF32 OBEY_PRECISION_CONSTRAINTS VERSION_COMPATIBLE" if version < "8.7" or version[0] == "1" else ""
    values = {
        "__version__": version,
        "float32": DataType.FLOAT,
        "float16": DataType.HALF,
        "LayerType": LayerType,
        "Builder": type("Builder", (Builder,), {}),
        "OnnxParser": type("OnnxParser", (OnnxParser,), {}),
        "Logger": type("Logger", (), {"INFO": 0, "VERBOSE": 1, "__init__": lambda self, level: None}),
        "NetworkDefinitionCreationFlag": enum.IntEnum("NetworkDefinitionCreationFlag", flags),
        "BuilderFlag": enum.Enum("BuilderFlag", names),
        "ProfilingVerbosity": enum.Enum("ProfilingVerbosity", "DETAILED"),
        "MemoryPoolType": enum.Enum("MemoryPoolType", "WORKSPACE"),
        "HardwareCompatibilityLevel": enum.Enum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS"),
        "OnnxParserFlag": enum.Enum("OnnxParserFlag", "NATIVE_INSTANCENORM"),
        "init_libnvinfer_plugins": lambda logger, namespace: True,
    }
    for name, value in values.items():
        setattr(module, name, value)
    return module
