"""A pytest plugin for the runner of mutations: a failing law need not be made small."""

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "without shrinking",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=40,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)
