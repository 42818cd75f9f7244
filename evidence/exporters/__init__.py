"""Thirty architectures through their exporters, planned in both precisions for every kind of target, and judged."""
