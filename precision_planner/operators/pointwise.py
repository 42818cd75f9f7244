"""Operators that compute each element from the elements at its own place.

Source: the operators' definitions in onnx.defs; each column is run by tests/operators.
"""

from __future__ import annotations

from functools import partial

from precision_planner.operators.row import Operator, every, slots

_op = partial(Operator, pointwise=True)
_exact = partial(_op, exact=True)
_compare = partial(_exact, compares=True, broadcasts=True, joint=every())
_test = partial(_exact, tests=True, indifferent=slots(0))

ROWS = (
    _exact("Abs", linear=True, keeps_zero=True),
    _exact("Neg", linear=True, keeps_zero=True),
    _exact("Relu", linear=True, keeps_zero=True),
    _exact("Sign", keeps_zero=True),
    _exact("Ceil", keeps_zero=True),
    _exact("Floor", keeps_zero=True),
    _exact("Round", keeps_zero=True),
    _exact("Max", broadcasts=True, lifts=every(), joint=every()),
    _exact("Min", broadcasts=True, joint=every()),
    _exact("Clip", lifts=slots(1), joint=every(), weights={1: "bound", 2: "bound"}, bounds=("min", "max")),
    _exact("ThresholdedRelu", activation=True, keeps_zero=True),
    _op("LeakyRelu", activation=True, linear=True, keeps_zero=True),
    _op("PRelu", activation=True, broadcasts=True, linear=True, keeps_zero=True, weights={1: "slope"}),
    _op("Add", broadcasts=True, lifts=every(), joint=every()),
    _op("Sub", broadcasts=True, joint=every()),
    _op("Sum", broadcasts=True, lifts=every(), joint=every()),
    _op("Mean", broadcasts=True, joint=every()),
    _op("Mul", broadcasts=True, keeps_zero=True),
    _op("Div", broadcasts=True, keeps_zero=True, denominators=slots(1)),
    _op("Mod", broadcasts=True),
    _op("Pow", broadcasts=True, weights={1: "exponent"}),
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
    _op("Tanh", activation=True, keeps_zero=True),
    _op("Asinh", keeps_zero=True),
    _op("Acosh"),
    _op("Atanh", keeps_zero=True),
    _op("Erf", activation=True, keeps_zero=True),
    _op("Sigmoid", activation=True),
    _op("HardSigmoid", activation=True),
    _op("HardSwish", activation=True, keeps_zero=True),
    _op("Softplus", activation=True),
    _op("Softsign", activation=True, keeps_zero=True),
    _op("Elu", activation=True, keeps_zero=True),
    _op("Selu", activation=True, keeps_zero=True),
    _op("Celu", activation=True, keeps_zero=True),
    _op("Gelu", activation=True, keeps_zero=True),
    _op("Mish", activation=True, keeps_zero=True),
    _op("Swish", activation=True, keeps_zero=True),
    _op("Shrink", activation=True, keeps_zero=True),
    _op("SwiGLU", activation=True, keeps_zero=True),
    _compare("Equal"),
    _compare("Less"),
    _compare("LessOrEqual"),
    _compare("Greater"),
    _compare("GreaterOrEqual"),
    _test("IsInf"),
    _test("IsNaN"),
    _exact("Not"),
    _exact("And", broadcasts=True),
    _exact("Or", broadcasts=True),
    _exact("Xor", broadcasts=True),
    _exact("BitShift", broadcasts=True),
    _exact("BitwiseAnd", broadcasts=True),
    _exact("BitwiseNot"),
    _exact("BitwiseOr", broadcasts=True),
    _exact("BitwiseXor", broadcasts=True),
    # drawn with the probabilities of its input, element by element
    Operator("Bernoulli", random=True, exact=True, type_attribute="dtype"),
)
