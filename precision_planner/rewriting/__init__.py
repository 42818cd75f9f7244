"""Applies decisions to a model: transforms, then types, then weights."""
