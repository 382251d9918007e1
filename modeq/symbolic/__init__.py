"""Exact modified equations: trees, series, and the forms built on them (sympy and rationals only)."""
