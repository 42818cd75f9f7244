"""Predictions as distributions against what GPUs measured: draws of stochastic rounding, and how many runs they cover."""
