"""Benchmarks of the symbolic layer beside other packages for B-series: ``python -m validation.benchmarks``."""
