"""The high-resolution equations of Shi, Du, Jordan, Su 2018 (arXiv 1810.08907, section 1) are a limit.

With β = (1 − √(μs))/(1 + √(μs)), learning rate s and the time √s·n, the form q(D)θ = −s r(D)∇f is divided
by the coefficient of θ̈ and expanded in √s. Coefficient by coefficient it agrees with their equations, which
are derived through √s, up to and with √s; at s it differs, and how is stated below.
"""

from functools import cache

import pytest
import sympy as sp

import modeq as mq

root, mu = sp.symbols("root mu", positive=True)  # root = √s
beta = sp.Symbol("beta", positive=True)
HEAVY_BALL, NESTEROV = mq.HeavyBall(beta), mq.Nesterov(beta)
BETA = (1 - sp.sqrt(mu) * root) / (1 + sp.sqrt(mu) * root)


@cache
def expanded(method, expansion):
    """Series in √s of the coefficient of θ̇, and of those of ∇f, d/dt ∇f, d²/dt² ∇f, …, that of θ̈ being 1."""
    form = mq.phase_space_form(method, 2 if expansion == "powers" else 4, expansion)
    c1, c2 = form.q
    damping = c1 / c2 / root
    forces = [r * root**k / c2 for k, r in enumerate(form.r[0])]
    return [sp.expand(sp.series(value.subs(beta, BETA), root, 0, 3).removeO()) for value in (damping, *forces)]


@pytest.mark.some(1)
@pytest.mark.parametrize("expansion", ["derivatives", "powers"])
def test_heavy_ball(expansion):
    """θ̈ + 2√μ θ̇ + (1 + √(μs))∇f = 0 through √s; beyond, μ√μ s·(2/3)θ̇, (μs/3)∇f and −(s/12) d²/dt² ∇f."""
    damping, force, first, second, *higher = expanded(HEAVY_BALL, expansion)
    assert sp.expand(damping - 2 * sp.sqrt(mu) - sp.Rational(2, 3) * mu ** sp.Rational(3, 2) * root**2) == 0
    assert sp.expand(force - 1 - sp.sqrt(mu) * root - mu * root**2 / 3) == 0
    assert sp.expand(first + sp.sqrt(mu) * root**2 / 6) == 0
    assert sp.expand(second + root**2 / 12) == 0
    assert all(value == 0 for value in higher)


@pytest.mark.some(1)
@pytest.mark.parametrize("expansion", ["derivatives", "powers"])
def test_nesterov(expansion):
    """θ̈ + 2√μ θ̇ + √s ∇²f θ̇ + (1 + √(μs))∇f = 0 through √s: d/dt ∇f = ∇²f θ̇ has the coefficient √s."""
    damping, force, first, second, *higher = expanded(NESTEROV, expansion)
    assert sp.expand(damping - 2 * sp.sqrt(mu) - sp.Rational(2, 3) * mu ** sp.Rational(3, 2) * root**2) == 0
    assert sp.expand(force - 1 - sp.sqrt(mu) * root - mu * root**2 / 3) == 0
    assert first.coeff(root, 1) == 1
    assert first.coeff(root, 2) != 0  # their equation has nothing here
    assert second.coeff(root, 1) == 0
    assert second.coeff(root, 2) != 0
    assert all(value == 0 for value in higher)


def test_the_hessian_damping_tells_the_two_apart():
    without, with_it = (expanded(method, "derivatives")[2].coeff(root, 1) for method in (HEAVY_BALL, NESTEROV))
    assert (without, with_it) == (0, 1)
