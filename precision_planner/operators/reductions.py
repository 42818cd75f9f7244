"""Operators that sum or choose over axes, windows or whole tensors, and softmaxes.

Source: the operators' definitions in onnx.defs; each column is run by tests/operators.
"""

from __future__ import annotations

from functools import partial

from precision_planner.operators.row import Operator, slots

# axes: an attribute before opset 13 (ReduceSum) or 18, an input since
_reduce = partial(Operator, indices=slots(1))
_pool = partial(Operator, window=True, linear=True)
_index = partial(Operator, reduces="index", picks_index=True, orders=True, exact=True, indifferent=slots(0))

ROWS = (
    _reduce("ReduceSum", reduces="sum", linear=True),
    _reduce("ReduceMean", reduces="mean", linear=True),
    _reduce("ReduceProd", reduces="prod"),
    _reduce("ReduceMax", reduces="max", linear=True, exact=True),
    _reduce("ReduceMin", reduces="min", linear=True, exact=True),
    _reduce("ReduceL1", reduces="l1", linear=True),
    _reduce("ReduceL2", reduces="l2", linear=True),
    _reduce("ReduceSumSquare", reduces="sum_square"),
    _reduce("ReduceLogSum", reduces="log_sum"),
    _reduce("ReduceLogSumExp", reduces="log_sum_exp"),
    _index("ArgMax"),
    _index("ArgMin"),
    # the values of TopK and Unique are the input's, in places that their order decides
    Operator("TopK", orders=True, exact=True, linear=True, indices=slots(1)),
    Operator("Unique", exact=True),
    Operator("NonZero", exact=True, picks_index=True, indifferent=slots(0)),
    Operator("CumSum", reduces="sum", scans=True, linear=True, indices=slots(1)),
    Operator("CumProd", reduces="prod", scans=True, indices=slots(1)),
    _pool("AveragePool", reduces="mean"),
    _pool("GlobalAveragePool", reduces="mean"),
    _pool("MaxPool", reduces="max", exact=True),
    _pool("GlobalMaxPool", reduces="max", exact=True),
    _pool("LpPool", reduces="lp"),
    _pool("GlobalLpPool", reduces="lp"),
    _pool("MaxRoiPool", reduces="max", exact=True, coordinates=slots(1)),
    Operator("Col2Im", reduces="sum", window=True, linear=True, shapes=slots(1, 2)),
    Operator("Softmax", scores=slots(0)),
    Operator("LogSoftmax", scores=slots(0)),
    Operator("Hardmax", orders=True, exact=True),
    Operator("SoftmaxCrossEntropyLoss", scores=slots(0), indices=slots(1)),
    Operator("NegativeLogLikelihoodLoss", indices=slots(1)),
    Operator("Det"),
)
