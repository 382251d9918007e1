"""The continuous laws of charges: regimes, starts and orders, and what has no law."""

import warnings

import mpmath
import numpy as np
import pytest

from modeq.errors import NoClosedLaw
from modeq.symmetry.continuous import continuous_start, continuous_step, damping_regime
from modeq.symmetry.laws import SGDStep, discrete_step

# parameters of the published experiments of Kunin et al. 2021 (learning rate 0.1);
# γ and ω computed independently: momentum, decay, γ, ω (translation), ω (scale), regimes
PUBLISHED = [
    (0.8, 0.0001, 1.1111111, 0.0333333, 0.0471405, "over", "over"),
    (0.8, 0.0005, 1.1111111, 0.0745356, 0.1054093, "over", "over"),
    (0.8, 0.001, 1.1111111, 0.1054093, 0.1490712, "over", "over"),
    (0.9, 0.0001, 0.5263158, 0.0324443, 0.0458831, "over", "over"),
    (0.9, 0.0005, 0.5263158, 0.0725476, 0.1025978, "over", "over"),
    (0.9, 0.001, 0.5263158, 0.1025978, 0.1450953, "over", "over"),
    (0.99, 0.0001, 0.0502513, 0.0317021, 0.0448336, "over", "over"),
    (0.99, 0.0005, 0.0502513, 0.0708881, 0.1002509, "under", "under"),
    (0.99, 0.001, 0.0502513, 0.1002509, 0.1417762, "under", "under"),
]


@pytest.mark.parametrize("beta, decay, gamma, omega_1, omega_2, regime_1, regime_2", PUBLISHED)
def test_damping_of_the_published_experiments(beta, decay, gamma, omega_1, omega_2, regime_1, regime_2):
    step = SGDStep(0.1, beta, weight_decay=decay)
    for degree, omega, regime in ((1, omega_1, regime_1), (2, omega_2, regime_2)):
        found = damping_regime(step, degree=degree)
        assert found.gamma == pytest.approx(gamma, rel=1e-6)
        assert found.omega == pytest.approx(omega, rel=1e-5)
        assert found.regime == regime


def test_dampening_stretches_time_and_keeps_the_regime():
    alpha, beta, decay, h = 0.3, 0.9, 1e-3, 0.1
    found = damping_regime(SGDStep(h, beta, alpha, decay), degree=2)
    article = h * (1 - alpha)  # the article's time per step
    assert found.gamma / (1 - alpha) == pytest.approx((1 - beta) / (article * (1 + beta)))
    assert found.omega**2 / (1 - alpha) ** 2 == pytest.approx(4 * decay / (article * (1 + beta)))


def critical_decay(h, beta, degree):
    return (1 - beta) ** 2 / (2 * degree * h * (1 + beta))


@pytest.mark.parametrize("degree", [1, 2])
def test_critical_damping_lies_between_the_other_two(degree):
    decay = critical_decay(0.1, 0.9, degree)
    regimes = [
        damping_regime(SGDStep(0.1, 0.9, weight_decay=decay * factor), degree=degree).regime
        for factor in (1 - 1e-9, 1, 1 + 1e-9)
    ]
    assert regimes == ["over", "critical", "under"]


def closed_form(charge, rate, gamma, omega, force, time):
    """Q(t) of Q'' + 2γQ' + ω²Q = F for constant F, by the formula of its regime, in 50 digits."""
    with mpmath.workdps(50):
        gamma, omega, force, time = map(mpmath.mpf, (gamma, omega, force, time))
        if omega == 0:
            drift = force / (2 * gamma)
            return float(charge + drift * time + (rate - drift) * (1 - mpmath.exp(-2 * gamma * time)) / (2 * gamma))
        rest, root = force / omega**2, mpmath.sqrt(gamma**2 - omega**2)
        offset = charge - rest
        sine = time if root == 0 else mpmath.sinh(root * time) / root
        value = mpmath.exp(-gamma * time) * (offset * mpmath.cosh(root * time) + (rate + gamma * offset) * sine)
        return float(mpmath.re(rest + value))


@pytest.mark.parametrize("factor", [0, 0.1, 1 - 1e-7, 1 - 1e-14, 1, 1 + 1e-14, 1 + 1e-7, 10, 200])
@pytest.mark.parametrize("beta", [0.3, 0.9, 0.99])
def test_the_propagator_equals_the_closed_form_of_every_regime(factor, beta):
    step = SGDStep(0.2, beta, weight_decay=critical_decay(0.2, beta, 2) * factor)
    damping = damping_regime(step, degree=2)
    charge, rate = 1.3, -0.4
    for k in range(1, 31):
        charge, rate = continuous_step(charge, rate, step, 0.7, degree=2)
        expected = closed_form(1.3, -0.4, damping.gamma, damping.omega, 1.4, 0.2 * k)
        assert charge == pytest.approx(expected, rel=1e-11, abs=1e-11)


def test_the_article_has_its_published_exponentials_without_momentum():
    step = SGDStep(0.1, weight_decay=0.2)
    charge, translation = 1.0, 1.0
    for _ in range(50):
        charge, _ = continuous_step(charge, 0.0, step, 3.0, degree=2, variant="article")
        translation, _ = continuous_step(translation, 0.0, step, degree=1, variant="article")
    assert translation == pytest.approx(np.exp(-0.2 * 5))
    # ‖θ‖²(t) = e^{−2λt}‖θ‖²(0) + h∫₀ᵗ e^{−2λ(t−s)}‖g‖² ds at a constant ‖g‖² = 3
    assert charge == pytest.approx(np.exp(-2 * 0.2 * 5) + 0.1 * 3 * (1 - np.exp(-2 * 0.2 * 5)) / (2 * 0.2))


def test_without_decay_the_article_adds_up_the_squared_gradients():
    charge = 1.0
    for _ in range(50):
        charge, _ = continuous_step(charge, 0.0, SGDStep(0.1), 3.0, degree=2, variant="article")
    assert charge == pytest.approx(1 + 0.1 * 3 * 5)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_long_runs_settle_where_an_integral_of_growing_exponentials_would_overflow(beta):
    step, charge, rate = SGDStep(0.1, beta, weight_decay=0.5), np.ones(1), np.zeros(1)
    for _ in range(20_000):  # e^{2λt} would be e^{2000}
        charge, rate = continuous_step(charge, rate, step, np.full(1, 2.0), degree=2, variant="article")
    assert charge[0] == pytest.approx(0.1 * 2 / (2 * 0.5) if beta == 0 else 2 * 2 * 0.1 * 1.9 / (4 * 0.5))


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_starts_from_torchs_first_step(degree, alpha):
    step = SGDStep(0.1, 0.9, alpha, 0.05)
    start = continuous_start(2.0, 0.0, step, degree=degree)
    assert start == pytest.approx(-degree * 0.05 * 2.0 * (1 + alpha) / 1.9)
    assert continuous_start(2.0, 0.0, step, degree=degree, variant="article") == 0.0


@pytest.mark.parametrize("degree", [1, 2])
def test_nesterov_starts_from_its_own_rate(degree):
    step = SGDStep(0.1, 0.6, weight_decay=0.05, nesterov=True)
    expected = -degree * 0.05 * 2.0 / (1 - 0.6 + 2 * 0.6**2)
    assert continuous_start(2.0, 0.0, step, degree=degree) == pytest.approx(expected)


OPTIMIZERS = {
    "gradient descent": ({}, 1),
    "heavy ball": ({"momentum": 0.5}, 1),
    "dampened": ({"momentum": 0.5, "dampening": 0.3}, 1),
    "nesterov": ({"momentum": 0.5, "nesterov": True}, None),
}


def slopes(errors):
    errors = np.array(errors)
    return np.log2(errors[:-1] / errors[1:])


@pytest.mark.some(1)
@pytest.mark.parametrize(
    "name",
    [name if name in ("heavy ball", "nesterov") else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS],
)
def test_orders_of_both_variants_along_real_trainings(train, name):
    """Article first order, corrected second, neither more; measured after the start has relaxed."""
    options, published = OPTIMIZERS[name]
    errors = {}
    for n in (160, 320, 640):
        tracker = train(n, full_batch=True, lr=4.0 / n, weight_decay=0.3, **options)
        for charge in tracker.record.charges.values():
            for law in ("article", "corrected"):
                error = np.abs(charge.predicted[law] - charge.measured)[n // 4 :].max()
                errors.setdefault((law, charge.name), []).append(error)
    for (law, _), error in errors.items():
        order = 2 if law == "corrected" else published
        if order is not None:
            np.testing.assert_allclose(slopes(error), order, atol=0.15)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("degree", [1, 2])
def test_second_order_from_any_buffer(degree, nesterov):
    """Also where tracking begins in mid-training, with a momentum of the charge that is not its slow one."""
    errors = []
    for n in (200, 400, 800, 1600):
        step = SGDStep(4.0 / n, 0.6, weight_decay=0.3, nesterov=nesterov)
        discrete = (1.0, 0.8)
        rate = continuous_start(*discrete, step, degree=degree, first=False)
        state, worst = (1.0, rate), 0.0
        for k in range(n):
            discrete = discrete_step(*discrete, step, 0.4, 0.4, degree=degree)
            state = continuous_step(*state, step, 0.4, degree=degree)
            if k > n // 4:
                worst = max(worst, abs(discrete[0] - state[0]))
        errors.append(worst)
    np.testing.assert_allclose(slopes(errors), 2.0, atol=0.15)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: damping_regime(SGDStep(0.1), degree=2), "no oscillator without momentum"),
        (
            lambda: damping_regime(SGDStep(0.1, 0.9, weight_decay=0.1, decoupled=True), degree=2),
            "no continuous law is known here for decoupled decay",
        ),
        (
            lambda: continuous_step(1.0, 0.0, SGDStep(0.1, 0.9, nesterov=True), degree=2, variant="article"),
            "the article has no law for Nesterov momentum; use variant='corrected'",
        ),
        (lambda: damping_regime(SGDStep(0, 0.9, weight_decay=0.1), degree=2), r"h is 0, .*; give h > 0"),
        (lambda: damping_regime(SGDStep(0.1, 1.0), degree=2), "momentum 1 damps nothing, .*; give one below 1"),
        (lambda: damping_regime(SGDStep(0.1, 1.5), degree=1), "momentum 1.5 damps nothing"),
        (
            lambda: damping_regime(SGDStep(0.1, 0.9, 1.5, 0.1), degree=2),
            r"\(1 − dampening\)·weight_decay is negative, .*dampening=1.5.*; give a dampening of at most 1",
        ),
        (lambda: continuous_start(1.0, 0.0, SGDStep(0.1), degree=2), "no oscillator starts without momentum"),
    ],
)
def test_laws_that_do_not_exist_are_refused(call, message):
    with pytest.raises(NoClosedLaw, match=message):
        call()


@pytest.mark.parametrize("variant", ["article", "corrected"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}])
@pytest.mark.parametrize("h", [1e200, 1e308])
def test_a_law_that_overflows_does_so_silently(h, options, variant):
    step = SGDStep(h, weight_decay=0.5, **options)
    charge, rate = np.ones(2), np.zeros(2)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            charge, rate = continuous_step(charge, rate, step, np.full(2, 1e300), degree=2, variant=variant)
    assert charge.shape == (2,)
    assert not np.isfinite(charge).any()


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_of_length_zero_is_the_limit_of_short_ones(nesterov):
    (charge, rate), (near_charge, near_rate) = (
        continuous_step(1.3, -0.4, SGDStep(h, 0.9, weight_decay=0.2, nesterov=nesterov), 0.7, degree=2)
        for h in (0.0, 1e-9)
    )
    assert charge == 1.3
    assert near_charge == pytest.approx(charge, rel=1e-8)
    assert near_rate == pytest.approx(rate, rel=1e-7)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_momentum_of_one_leaves_an_undamped_oscillator(nesterov):
    step = SGDStep(0.1, 1.0, weight_decay=0.2, nesterov=nesterov)
    charge, rate = 1.0, continuous_start(1.0, 0.0, step, degree=2)
    limit = continuous_start(1.0, 0.0, SGDStep(0.1, 1 - 1e-9, weight_decay=0.2, nesterov=nesterov), degree=2)
    assert rate == pytest.approx(limit, rel=1e-8)
    energy = 0.4 * charge**2 + rate**2 * 0.1  # ω² = 2λ/h
    for _ in range(1000):
        charge, rate = continuous_step(charge, rate, step, degree=2)
    assert 0.4 * charge**2 + rate**2 * 0.1 == pytest.approx(energy, rel=1e-10)
