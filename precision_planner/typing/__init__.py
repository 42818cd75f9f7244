"""Type propagation: one storage type for every value, Casts where two types meet, reasons for what stays FP32."""

from precision_planner.typing.assign import assign_types
from precision_planner.typing.assignment import Key, NodeTyping, TypeAssignment
from precision_planner.typing.decisions import (
    ELEMENT_TYPES,
    PRECISIONS,
    Decision,
    KeepAs,
    PluginTypes,
    Precision,
    TypingOptions,
)

__all__ = [
    "ELEMENT_TYPES",
    "PRECISIONS",
    "Decision",
    "KeepAs",
    "Key",
    "NodeTyping",
    "PluginTypes",
    "Precision",
    "TypeAssignment",
    "TypingOptions",
    "assign_types",
]
