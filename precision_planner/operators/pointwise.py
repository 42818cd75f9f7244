"""Operators that compute each element from the elements at its own place.

Source: the operators' definitions in onnx.defs; each column is run by tests/operators.
"""

from __future__ import annotations

from functools import partial

from precision_planner.operators.row import Operator, every, slots

_op = partial(Operator, pointwise=True)
_exact = partial(_op, exact=True)
_compare = partial(_exact, compares=True, joint=every())
_test = partial(_exact, tests=True, indifferent=slots(0))

ROWS = (
    _exact("Abs", linear=True, keeps_zero=True),
    _exact("Neg", linear=True, keeps_zero=True),
    _exact("Relu", linear=True, keeps_zero=True),
    _exact("Sign", keeps_zero=True),
    _exact("Ceil", keeps_zero=True),
    _exact("Floor", keeps_zero=True),
    _exact("Round", keeps_zero=True),
    _exact("Max", joint=every()),
    _exact("Min", joint=every()),
    _exact("Clip", joint=every(), weights={1: "bound", 2: "bound"}, bounds=("min", "max")),
    _exact("ThresholdedRelu", keeps_zero=True),
    _op("LeakyRelu", linear=True, keeps_zero=True),
    _op("PRelu", linear=True, keeps_zero=True, weights={1: "slope"}),
    _op("Add", joint=every()),
    _op("Sub", joint=every()),
    _op("Sum", joint=every()),
    _op("Mean", joint=every()),
    _op("Mul", keeps_zero=True),
    _op("Div", keeps_zero=True, denominators=slots(1)),
    _op("Mod"),
    _op("Pow", weights={1: "exponent"}),
    _op("Sqrt", keeps_zero=True, denominators=slots(0)),
    _op("Log", denominators=slots(0)),
    _op("Reciprocal", denominators=slots(0)),
    _op("Exp"),
    _op("Sin", angles=slots(0), keeps_zero=True),
    _op("Cos", angles=slots(0)),
    _op("Tan", angles=slots(0), keeps_zero=True),
    _op("Asin", keeps_zero=True),
    _op("Acos"),
    _op("Atan", keeps_zero=True),
    _op("Sinh", keeps_zero=True),
    _op("Cosh"),
    _op("Tanh", keeps_zero=True),
    _op("Asinh", keeps_zero=True),
    _op("Acosh"),
    _op("Atanh", keeps_zero=True),
    _op("Erf", keeps_zero=True),
    _op("Sigmoid"),
    _op("HardSigmoid"),
    _op("HardSwish", keeps_zero=True),
    _op("Softplus"),
    _op("Softsign", keeps_zero=True),
    _op("Elu", keeps_zero=True),
    _op("Selu", keeps_zero=True),
    _op("Celu", keeps_zero=True),
    _op("Gelu", keeps_zero=True),
    _op("Mish", keeps_zero=True),
    _op("Swish", keeps_zero=True),
    _op("Shrink", keeps_zero=True),
    _op("SwiGLU", keeps_zero=True),
    _compare("Equal"),
    _compare("Less"),
    _compare("LessOrEqual"),
    _compare("Greater"),
    _compare("GreaterOrEqual"),
    _test("IsInf"),
    _test("IsNaN"),
    _exact("Not"),
    _exact("And"),
    _exact("Or"),
    _exact("Xor"),
    _exact("BitShift"),
    _exact("BitwiseAnd"),
    _exact("BitwiseNot"),
    _exact("BitwiseOr"),
    _exact("BitwiseXor"),
    # drawn with the probabilities of its input, element by element
    Operator("Bernoulli", random=True, exact=True, type_attribute="dtype"),
)
