"""Settings of the whole test suite."""

import matplotlib
import pytest
import torch
from hypothesis import HealthCheck, settings

matplotlib.use("agg")
# Small networks run several times slower with torch's default threads on few cores.
torch.set_num_threads(1)
settings.register_profile(
    "modeq", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=40
)
settings.load_profile("modeq")


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(items):
    """Of the variants of a test marked `some(n)`, n from all over the list run by default; the others are slow."""
    variants = {}
    for item in items:
        if item.get_closest_marker("some") and not item.get_closest_marker("slow"):
            variants.setdefault((item.path, item.originalname), []).append(item)
    for listed in variants.values():
        (number,) = listed[0].get_closest_marker("some").args
        kept = {i * len(listed) // number for i in range(number)}
        for i, item in enumerate(listed):
            if i not in kept:
                item.add_marker(pytest.mark.slow)
