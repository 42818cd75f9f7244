"""The tables of an analysis as pandas DataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from precision_planner._extras import require

if TYPE_CHECKING:
    import pandas as pd

    from precision_planner.analysis.analysis import Analysis
    from precision_planner.analysis.tensorrt import TensorRTWarnings
    from precision_planner.analysis.weights import Weights

__all__ = ["TABLES", "analysis_frame", "warnings_frame", "weights_frame"]

TABLES = ("weights", "warnings", "findings", "normalizations")


def analysis_frame(analysis: Analysis, table: str) -> pd.DataFrame:
    """One table of an analysis; see `Analysis.to_dataframe`."""
    match table:
        case "weights":
            return weights_frame(analysis.weights)
        case "warnings":
            return warnings_frame(analysis.tensorrt_warnings, analysis.weights)
        case "findings":
            columns = ["rule", "severity", "subject", "message", "cost", "confidence"]
            return _frame(analysis.to_dict()["findings"], columns)
        case "normalizations":
            rows = [norm.to_dict() for norm in (*analysis.normalizations, *analysis.near_misses)]
            columns = ["kind", "form", "name", "axes", "epsilon", "scale", "bias", "fusable", "reason"]
            return _frame(rows, columns)
    raise ValueError(f"no table {table!r}; there are {', '.join(TABLES)}")


def weights_frame(weights: Weights) -> pd.DataFrame:
    """One row a tensor, in graph order, with the classes and errors of the low precision."""
    columns = [
        "name", "role", "dtype", "shape", "size", "zeros", "subnormal", "underflow", "overflow", "flushed", "to_inf",
        "nan", "inf", "min_abs", "max_abs", "rms", "rel_error", "rel_error_saturated", "max_rel_error", "lost_norm",
        "verdict", "assessment",
    ]  # fmt: skip
    return _frame([tensor.to_dict(weights.format) for tensor in weights], columns)


def warnings_frame(warnings: TensorRTWarnings, weights: Weights) -> pd.DataFrame:
    """One row for each tensor in each of TensorRT's lists, with the relative error that tells noise from damage."""
    by_name = {tensor.name: tensor for tensor in weights}
    rows: list[dict[str, Any]] = []
    for category, names in warnings.tensors.items():
        for name in names:
            tensor = by_name[name]
            rows.append(_warning_row(category, tensor.to_dict(weights.format), category))
    for folded in warnings.folded:
        rows.append(_warning_row("underflow (folded)", by_name[folded.name].to_dict(weights.format), "underflow"))
        rows[-1]["values"] = folded.count
    columns = ["category", "tensor", "role", "values", "size", "min_abs", "max_abs", "rel_error", "verdict"]
    return _frame(rows, columns)


def _warning_row(category: str, tensor: dict[str, Any], counted: str) -> dict[str, Any]:
    return {**tensor, "category": category, "tensor": tensor["name"], "values": tensor[counted]}


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    pandas = require("pandas", extra="notebook", purpose="a DataFrame")
    frame: pd.DataFrame = pandas.DataFrame([{name: row[name] for name in columns} for row in rows], columns=columns)
    return frame
