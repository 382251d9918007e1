"""Settings of the whole test suite."""

import matplotlib
import torch
from hypothesis import HealthCheck, settings

matplotlib.use("agg")
# Small networks run several times slower with torch's default threads on few cores.
torch.set_num_threads(1)
settings.register_profile(
    "modeq", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=40
)
settings.load_profile("modeq")
