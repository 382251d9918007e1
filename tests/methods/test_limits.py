"""How large h·λ may be: closed forms, and brute force on grids."""

import numpy as np
import pytest
import registry
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Rational as Q

import modeq as mq

beta, alpha = sp.symbols("beta alpha", positive=True)

CLOSED = {
    "gradient descent": (mq.GradientDescent(), sp.Integer(1), sp.Integer(2)),
    "heavy ball": (mq.HeavyBall(beta), (1 - sp.sqrt(beta)) ** 2, 2 * (1 + beta)),
    "dampened": (mq.HeavyBall(beta, alpha), (1 - sp.sqrt(beta)) ** 2 / (1 - alpha), 2 * (1 + beta) / (1 - alpha)),
    "Nesterov": (mq.Nesterov(beta), ((1 - beta) / (1 + beta)) ** 2, 2 * (1 + beta) / (1 + 2 * beta)),
}


@pytest.mark.some(1)
@pytest.mark.parametrize("name", CLOSED)
def test_limits_in_closed_form(name):
    method, series, stability = CLOSED[name]
    for b, a in ((Q(1, 9), Q(1, 3)), (Q(1, 2), Q(0)), (Q(9, 10), Q(9, 10)), (Q(99, 100), Q(1, 2))):
        point = {beta: b, alpha: a}
        # As functions of the symbols …
        assert float(method.series_limit().subs(point)) == pytest.approx(float(series.subs(point)), rel=1e-12)
        assert method.stability_limit().subs(point) == stability.subs(point)
        # … and computed from the numbers.
        at = method.subs(point)
        assert float(at.series_limit()) == pytest.approx(float(series.subs(point)), rel=1e-9)
        assert at.stability_limit() == stability.subs(point)


def test_figures():
    radii = [float(mq.HeavyBall(b).series_limit()) for b in (0.5, 0.9, 0.99)]
    assert radii == pytest.approx([0.0857864, 0.0026334, 2.5126e-5], rel=1e-4)


def step_matrix(method, x):
    """One step on θ ↦ −xθ/h of all fields but weight decay."""
    keep = [j for j, c in enumerate(method.colours) if c not in method.decay]
    A, B, C, D = (np.array(m, dtype=float) for m in (method.A, method.B, method.C, method.D))
    B, C, D = B[:, keep], C[keep], D[np.ix_(keep, keep)]
    return A - x * B @ np.linalg.solve(np.eye(len(keep)) + x * D, C)


def spectral_radius(method, x):
    return max(abs(np.linalg.eigvals(step_matrix(method, x))))


@pytest.mark.parametrize("name", registry.METHODS)
def test_stability_limit_against_the_spectral_radius(name):
    method = registry.METHODS[name]()
    limit = float(method.stability_limit())
    for fraction in np.linspace(0.001, 0.999, 60):
        assert spectral_radius(method, fraction * min(limit, 100)) <= 1 + 1e-9
    if np.isinf(limit):
        assert not method.is_explicit
    else:
        assert spectral_radius(method, 1.0001 * limit) > 1


@settings(max_examples=25)
@given(st.sampled_from([mq.HeavyBall, mq.Nesterov, mq.ClassicalNesterov]), st.integers(0, 99))
def test_stability_limit_for_any_momentum(make, percent):
    method = make(Q(percent, 100))
    limit = float(method.stability_limit())
    grid = np.linspace(1e-3, 1.2 * limit, 400)
    stable = np.array([spectral_radius(method, x) <= 1 + 1e-10 for x in grid])
    assert np.array_equal(stable, grid <= limit)


@settings(max_examples=15)
@given(st.sampled_from([mq.HeavyBall, mq.Nesterov]), st.integers(5, 95))
def test_inside_the_series_limit_the_principal_root_is_alone(make, percent):
    """On a circle inside the radius the root continued from 1 is simple; on its edge it meets another."""
    method = make(Q(percent, 100))
    r = float(method.series_limit())
    for angle in np.linspace(0, 2 * np.pi, 9):
        root = 1.0
        for fraction in np.linspace(0.01, 0.99, 99):
            roots = np.linalg.eigvals(step_matrix(method, fraction * r * np.exp(1j * angle)).astype(complex))
            root = roots[np.argmin(abs(roots - root))]
        others = np.delete(roots, np.argmin(abs(roots - root)))
        assert np.min(abs(others - root)) > 1e-3 * (1 - percent / 100)
        assert abs(root) > 1e-3
    edge = np.linalg.eigvals(step_matrix(method, r).astype(complex))
    assert abs(edge[0] - edge[1]) < 1e-5


@pytest.mark.parametrize("name", ["heavy ball 0.5", "Nesterov 0.5", "gradient descent", "optimistic gradient", "RK4"])
def test_series_limit_is_the_radius_of_the_chains(name):
    """Coefficients of log z₁ grow like r^{−n}: the root test on the numerical Taylor series."""
    method = registry.METHODS[name]()
    r = float(method.series_limit())
    points = 512
    circle = 0.9 * r * np.exp(2j * np.pi * np.arange(points) / points)
    roots, root = [], 1.0 + 0j
    for x in np.linspace(0, 0.9 * r, 50):
        every = np.linalg.eigvals(step_matrix(method, x).astype(complex))
        root = every[np.argmin(abs(every - root))]
    for x in circle:
        every = np.linalg.eigvals(step_matrix_complex(method, x))
        root = every[np.argmin(abs(every - root))]
        roots.append(root)
    logarithm = np.unwrap(np.angle(roots)) * 1j + np.log(np.abs(roots))
    scaled = abs(np.fft.fft(logarithm) / points)  # |c_n| (0.9 r)ⁿ, so like 0.9ⁿ times a power of n
    tail = scaled[20:100]
    rate = np.exp(np.polyfit(np.arange(20, 100), np.log(tail + 1e-300), 1)[0])
    # An algebraic factor n^{−1}, n^{−3/2} lowers the fitted rate a little; a wrong radius would move it beyond.
    assert 0.8 < rate < 0.92


def step_matrix_complex(method, x):
    A, B, C, D = (np.array(m, dtype=complex) for m in (method.A, method.B, method.C, method.D))
    return A - x * B @ np.linalg.solve(np.eye(len(D)) + x * D, C)


def test_a_method_that_is_stable_for_every_curvature():
    implicit = mq.ImplicitEuler()
    assert implicit.stability_limit() == sp.oo
    assert implicit.series_limit() == 1  # log(1 + x)


def test_explicit_runge_kutta_limits():
    assert float(registry.METHODS["RK4"]().stability_limit()) == pytest.approx(2.785293563405282, rel=1e-12)
    assert registry.METHODS["explicit midpoint"]().stability_limit() == 2


def test_weight_decay_is_left_out_and_dampening_scales():
    plain = mq.HeavyBall(0.9)
    for decoupled in (False, True):
        decayed = plain.with_weight_decay(0.1, decoupled=decoupled)
        assert decayed.stability_limit() == plain.stability_limit()
        assert decayed.series_limit() == plain.series_limit()
    dampened = mq.HeavyBall(0.9, 0.75)
    assert dampened.stability_limit() == 4 * plain.stability_limit()
    assert sp.simplify(dampened.series_limit() - 4 * plain.series_limit()) == 0


def test_momentum_zero():
    assert mq.HeavyBall(0).series_limit() == 1
    assert mq.Nesterov(0).stability_limit() == 2
