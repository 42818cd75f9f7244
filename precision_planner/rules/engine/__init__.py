"""Asking the rules about a model, and proving the rules by their own cases."""
