"""What an operator is, said once: a row each, the questions asked of it, its types.

Below the model: what Reshape does is true of every model. The walk along what only moves values, over bodies and
functions, is `precision_planner.model.flow`.
"""

from precision_planner.operators.questions import (
    ALONE,
    ANYHOW,
    GEMMS,
    PRODUCTS,
    RESHAPES,
    carries,
    carries_to,
    dtype_attribute,
    holds,
    is_arithmetic,
    is_comparison,
    is_conversion,
    is_exact,
    is_generator,
    is_norm,
    is_pointwise,
    is_product,
    moves_values,
    named,
    slots_of,
    weight_role,
)
from precision_planner.operators.row import Operator, Slots
from precision_planner.operators.signatures import OpTypes, Slot, op_types
from precision_planner.operators.table import UNKNOWN, domain_of, operators, row, row_of

__all__ = [
    "ALONE",
    "ANYHOW",
    "GEMMS",
    "PRODUCTS",
    "RESHAPES",
    "UNKNOWN",
    "OpTypes",
    "Operator",
    "Slot",
    "Slots",
    "carries",
    "carries_to",
    "domain_of",
    "dtype_attribute",
    "holds",
    "is_arithmetic",
    "is_comparison",
    "is_conversion",
    "is_exact",
    "is_generator",
    "is_norm",
    "is_pointwise",
    "is_product",
    "moves_values",
    "named",
    "op_types",
    "operators",
    "row",
    "row_of",
    "slots_of",
    "weight_role",
]
