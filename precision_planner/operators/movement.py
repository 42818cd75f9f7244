"""Operators that move values: every element of the result is an element of an input, or a fill.

Source: the operators' definitions in onnx.defs; each column is run by tests/operators.
"""

from __future__ import annotations

from functools import partial

from precision_planner.operators.row import NONE, Operator, every, slots

_move = partial(Operator, moves=slots(0), exact=True, linear=True)
_whole = partial(_move, movement="whole")
_part = partial(_move, movement="part")
_repeat = partial(_move, movement="repeat")
_fill = partial(_move, movement="fill")
_lookup = partial(_move, movement="lookup", indices=slots(1), weights={0: "table"})
_scatter = partial(
    Operator, moves=slots(0, 2), movement="merge", exact=True, joint=slots(0, 2), indices=slots(1),
    only_if={"reduction": (None, "none")},
)  # fmt: skip
_sequence = partial(Operator, container=True, exact=True)

ROWS = (
    _whole("Identity", keeps_zero=True, pointwise=True),
    # Cast rounds where its target is narrower: it moves values, and is not exact
    Operator(
        "Cast", moves=slots(0), movement="whole", converts=True, pointwise=True, linear=True, keeps_zero=True,
        indifferent=slots(0), type_attribute="to",
    ),
    Operator(
        "CastLike", moves=slots(0), movement="whole", converts=True, pointwise=True, linear=True, keeps_zero=True,
        indifferent=slots(0), type_like=1,
    ),
    Operator("BitCast", type_attribute="to"),
    _whole("Reshape", shapes=slots(1), keeps_zero=True),
    _whole("Flatten", keeps_zero=True),
    _whole("Squeeze", indices=slots(1), keeps_zero=True),
    _whole("Unsqueeze", indices=slots(1), keeps_zero=True),
    _whole("Transpose", keeps_zero=True),
    _whole("DepthToSpace", keeps_zero=True),
    _whole("SpaceToDepth", keeps_zero=True),
    _whole("ReverseSequence", indices=slots(1), keeps_zero=True),
    # outside of training, which no inference graph does
    _whole("Dropout", keeps_zero=True, stays_wide=slots(1), only_if={"is_test": (None, 1)}),
    _part("Slice", indices=every(1), keeps_zero=True),
    _part("Split", indices=slots(1), moves_to=(-1,), keeps_zero=True),
    _part("Compress", keeps_zero=True),
    _repeat("Expand", shapes=slots(1), keeps_zero=True),
    _repeat("Tile", shapes=every(1), keeps_zero=True),
    _repeat(
        "Resize", shapes=slots(3), coordinates=slots(1, 2), stays_wide=slots(1, 2),
        weights={1: "resize", 2: "resize"}, only_if={"mode": (None, "nearest")},
    ),
    _repeat(
        "Upsample", coordinates=slots(1), stays_wide=slots(1), weights={1: "resize"},
        only_if={"mode": (None, "nearest")},
    ),
    _fill("CenterCropPad", shapes=slots(1), keeps_zero=True),
    _fill("Trilu", indices=slots(1), keeps_zero=True),
    _fill("MaxUnpool", indices=slots(1), shapes=slots(2)),
    Operator(
        "Pad", moves=slots(0, 2), movement="merge", exact=True, joint=slots(0, 2), indices=slots(1, 3),
        weights={2: "padding"}, bounds=("value",),
    ),
    Operator("Concat", moves=every(), movement="merge", exact=True, joint=every()),
    Operator(
        "Where", moves=slots(1, 2), movement="merge", exact=True, joint=slots(1, 2), pointwise=True, broadcasts=True,
    ),
    Operator("OneHot", moves=slots(2), movement="merge", exact=True, joint=slots(2), indices=slots(0, 1),
             weights={2: "scalar"}, stays_wide=slots(0, 1)),
    Operator("TensorScatter", moves=slots(0, 1), movement="merge", exact=True, joint=slots(0, 1), indices=slots(2)),
    _scatter("ScatterElements"),
    _scatter("ScatterND"),
    _scatter("Scatter", only_if={}),
    _lookup("Gather"),
    _lookup("GatherElements"),
    _lookup("GatherND"),
    # sequences and optionals: whole tensors go in and out
    _sequence("SequenceEmpty", gives_container=True, type_attribute="dtype"),
    _sequence("SequenceConstruct", gives_container=True, moves=every(), movement="merge"),
    _sequence("SequenceInsert", gives_container=True, moves=slots(0, 1), movement="merge", indices=slots(2)),
    _sequence("SequenceErase", gives_container=True, moves=slots(0), movement="part", indices=slots(1)),
    _sequence("SequenceAt", moves=slots(0), movement="part", indices=slots(1)),
    _sequence("SequenceLength", moves=NONE, blind=True),
    _sequence("SplitToSequence", gives_container=True, moves=slots(0), movement="whole", indices=slots(1)),
    _sequence("ConcatFromSequence", moves=slots(0), movement="whole"),
    _sequence("Optional", gives_container=True, moves=slots(0), movement="whole"),
    _sequence("OptionalGetElement", moves=slots(0), movement="whole"),
    _sequence("OptionalHasElement", moves=NONE, blind=True),
)  # fmt: skip
