"""r in powers of q: closed forms, and that the three expansions are one interpolation."""

import math

import pytest
import sympy as sp
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic.phase_space_exact import EXPANSIONS

beta = sp.Symbol("beta", positive=True)
a, s = -sp.log(beta), 1 - beta


def test_for_the_heavy_ball_every_digit_is_a_number():
    """r(−a − ζ) = r(ζ), so that r is a function of ζ(ζ + a) alone: T_j = 0."""
    digits = mq.phase_space_form(mq.HeavyBall(beta), 4, "powers").powers[0]
    assert [digit[1] for digit in digits] == [0, 0, 0, 0]
    assert digits[0][0] == 1
    r = mq.phase_space_form(mq.HeavyBall(beta), 3).r[0]
    assert sp.simplify(digits[1][0] - r[1] / a) == 0
    assert sp.simplify(digits[2][0] - (r[2] - r[1] / a) / a**2) == 0


@pytest.mark.parametrize("momentum", ["0.9", "0.99", "0.9999"])
def test_digits_of_the_heavy_ball_near_momentum_one(momentum):
    """At β = 1, r = ζ²e^ζ/(e^ζ − 1)² = 1 − ζ²/12 + ζ⁴/240 − …, and Q = ζ²; the distance is O(a²)."""
    b = Q(momentum)
    form = mq.phase_space_form(mq.HeavyBall(b), 4, "powers")
    distance = math.log(b) ** 2
    for digit, limit in zip(form.powers[0], (1, Q(-1, 12), Q(1, 240), Q(-1, 6048)), strict=True):
        assert abs(sp.N(digit[0], 30) - limit) <= distance / 500


def test_one_power_of_the_heavy_ball_is_hermite_of_two_terms():
    forms = [mq.phase_space_form(mq.HeavyBall(beta), 2, expansion) for expansion in ("hermite", "powers")]
    assert forms[0].r == forms[1].r


def test_nesterov_leads_with_hessian_damping():
    """R₀ = 1 + (s/a)ζ: f + (s/a) Df, the damping by the Hessian of Shi, Du, Jordan, Su."""
    digits = mq.phase_space_form(mq.Nesterov(beta), 1, "powers").powers[0]
    assert digits[0][0] == 1
    assert sp.simplify(digits[0][1] - s / a) == 0


def test_gradient_descent_has_bernoulli_numbers():
    form = mq.phase_space_form(mq.GradientDescent(), 7, "powers")
    assert form.r[0] == tuple(sp.bernoulli(k) * (-1) ** k / math.factorial(k) for k in range(7))
    assert form.powers[0] == tuple((c,) for c in form.r[0])


@pytest.mark.some(1)
@pytest.mark.parametrize("expansion", EXPANSIONS)
@pytest.mark.parametrize(
    "method", [mq.Nesterov(beta), mq.HeavyBall(Q(1, 2)).with_weight_decay(Q(1, 10), True)], ids=repr
)
def test_the_digits_add_up(method, expansion):
    """Σ R_j Q^j = r."""
    zeta = sp.Symbol("zeta")
    form = mq.phase_space_form(method, 3, expansion)
    monic = sp.Add(*(c * zeta ** (k + 1) for k, c in enumerate(form.q))) / form.q[-1]
    for colour, row in form.r.items():
        total = sum(c * zeta**k * monic**j for j, digit in enumerate(form.powers[colour]) for k, c in enumerate(digit))
        difference = sp.Poly(sp.expand(total - sum(c * zeta**k for k, c in enumerate(row))), zeta)
        assert all(sp.simplify(c) == 0 for c in difference.all_coeffs())


@pytest.mark.parametrize("method", [mq.HeavyBall(beta), mq.Nesterov(beta)], ids=repr)
def test_numbers_for_the_symbol_give_the_same(method):
    for expansion in EXPANSIONS:
        symbolic = mq.phase_space_form(method, 2, expansion)
        numeric = mq.phase_space_form(method.subs(beta, Q(4, 5)), 2, expansion)
        for x, y in zip((*symbolic.q, *symbolic.r[0]), (*numeric.q, *numeric.r[0]), strict=True):
            assert abs(sp.N(x.subs(beta, Q(4, 5)) - y, 30)) < 1e-25


def test_how_it_prints_itself():
    form = mq.phase_space_form(mq.HeavyBall(0.9), 2, "powers")
    assert repr(form) == "PhaseSpaceForm(HeavyBall(momentum=9/10), order=2, expansion='powers', poles=(9/10,))"
