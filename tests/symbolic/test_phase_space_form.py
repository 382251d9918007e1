"""The form that keeps the poles of the method: q(D) θ = h Σ r_k D^k f."""

import math

import mpmath
import numpy as np
import pytest
import sympy as sp
from sympy import Rational as Q

import modeq as mq

beta = sp.Symbol("beta", positive=True)
lam = sp.Symbol("lambda")


def with_pole(*poles):
    """Gradient descent behind filters 1/(z − p), so that the transfer function has these poles besides 1."""
    states = len(poles) + 1
    A, B = sp.eye(states), sp.zeros(states, 1)
    for i, pole in enumerate(poles, start=1):
        A[i, i], A[0, i], B[i] = pole, 1, 1
    B[0] = 1
    return mq.GeneralLinearMethod(A=A, B=B, C=[[1] + [0] * len(poles)], D=[[0]], name=f"poles {poles}")


def complex_pair(real, imaginary):
    A = [[1, 1, 0], [0, real, -imaginary], [0, imaginary, real]]
    return mq.GeneralLinearMethod(A=A, B=[[1], [1], [0]], C=[[1, 0, 0]], D=[[0]], name="complex pair")


CASES = {
    "gradient descent": mq.GradientDescent(),
    "heavy ball 0.5": mq.HeavyBall(0.5),
    "heavy ball 0.99, dampening": mq.HeavyBall(0.99, 0.5),
    "Nesterov 0.9": mq.Nesterov(0.9),
    "coupled decay": mq.HeavyBall(0.9).with_weight_decay(0.1),
    "decoupled decay": mq.HeavyBall(0.9).with_weight_decay(0.1, decoupled=True),
    "optimistic gradient": mq.OptimisticGradient(),
    "two poles": with_pole(Q(1, 2), Q(3, 4)),
    "a negative pole": with_pole(Q(-1, 2), Q(1, 4)),
    "complex pair": complex_pair(Q(1, 2), Q(1, 4)),
}


def transfer(method, colour):
    """θ's transfer function of one colour, evaluated by solving a linear system with mpmath numbers."""
    A, B = mpmath.matrix(method.A.tolist()), mpmath.matrix(method.B.tolist())
    columns = [j for j, c in enumerate(method.colours) if c == colour]

    def G(z):
        right = mpmath.matrix([mpmath.fsum(B[i, j] for j in columns) for i in range(B.rows)])
        return mpmath.lu_solve(z * mpmath.eye(A.rows) - A, right)[0]

    return G


@pytest.mark.parametrize("name", CASES)
def test_r_is_q_times_the_transfer_function(name):
    """Taylor coefficients at ζ = 0, by Cauchy's integral on a circle inside the radius."""
    method = CASES[name]
    form = mq.phase_space_form(method, order=6)
    with mpmath.workdps(40):
        q = [mpmath.mpmathify(sp.N(c, 40)) for c in form.q]
        points, circle = 64, mpmath.mpf(1) / 2
        zetas = [circle * mpmath.expjpi(mpmath.mpf(2 * j) / points) for j in range(points)]
        for colour, row in form.r.items():
            G = transfer(method, colour)
            values = [mpmath.polyval([*q[::-1], 0], zeta) * G(mpmath.exp(zeta)) for zeta in zetas]
            for k, r in enumerate(row):
                cauchy = mpmath.fsum(v * zeta**-k for v, zeta in zip(values, zetas, strict=True)) / points
                assert abs(cauchy - mpmath.mpmathify(sp.N(r, 40))) < 1e-15


def test_gradient_descent_has_bernoulli_numbers():
    form = mq.phase_space_form(mq.GradientDescent(), order=9)
    assert form.q == (1,)
    assert form.r[0] == tuple(sp.bernoulli(k) * (-1) ** k / math.factorial(k) for k in range(9))
    assert (form.poles, form.left_out, form.radius) == ((), (), 2 * sp.pi)


def test_heavy_ball_in_closed_form():
    """q = cζ(ζ + a), a = −ln β, c = (1 − β)/a; r₁ = 1/a + 1/2 − 1/(1 − β)."""
    a = -sp.log(beta)
    form = mq.phase_space_form(mq.HeavyBall(beta), order=2)
    assert form.poles == (beta,)
    assert [sp.simplify(x) for x in (form.q[0] - (1 - beta), form.q[1] - (1 - beta) / a)] == [0, 0]
    assert form.r[0][0] == 1
    assert sp.simplify(form.r[0][1] - (1 / a + Q(1, 2) - 1 / (1 - beta))) == 0


@pytest.mark.parametrize("momentum", ["0.5", "0.9", "0.99", "0.9999"])
def test_heavy_ball_is_even_about_its_half_pole(momentum):
    """r(−a − ζ) = r(ζ): the truncated polynomial obeys it up to what the next terms, within 2π, can give."""
    b = Q(momentum)
    form = mq.phase_space_form(mq.HeavyBall(b), order=16)
    a, row = -math.log(b), form.numbers()[1][0]
    r = np.polynomial.Polynomial(row)
    for zeta in (0.1, 0.3, 0.2 + 0.4j):
        assert abs(r(zeta) - r(-a - zeta)) < 100 * (abs(a + zeta) / (2 * math.pi)) ** 16 + 1e-15


@pytest.mark.parametrize("momentum", ["0.9", "0.99", "0.9999"])
def test_leading_coefficients_near_momentum_one(momentum):
    """S₁ = r₁/a → −1/12 and S₂ = (r₂ − S₁)/a² → 1/240, the more so the closer β is to 1; no cancellation."""
    b = Q(momentum)
    form = mq.phase_space_form(mq.HeavyBall(b), order=3)
    a = -sp.log(b)
    s1 = sp.N(form.r[0][1] / a, 60)
    s2 = (sp.N(form.r[0][2], 60) - s1) / sp.N(a, 60) ** 2
    assert abs(s1 + Q(1, 12)) < a**2 / 50
    assert abs(s2 - Q(1, 240)) < a**2 / 1000
    assert form.numbers()[1][0][1] == pytest.approx(float(a * s1), rel=1e-14)


def test_poles_left_out():
    def poles(method):
        form = mq.phase_space_form(method, order=2)
        return form.poles, form.left_out

    assert poles(mq.OptimisticGradient()) == ((), (0,))
    assert poles(with_pole(Q(-1, 2))) == ((), (Q(-1, 2),))
    assert poles(mq.HeavyBall(0.001)) == ((), (Q(1, 1000),))  # e^{−2π} = 0.00187
    assert poles(mq.HeavyBall(0.002)) == ((Q(1, 500),), ())
    assert poles(mq.HeavyBall(0)) == ((), ())
    kept, left = poles(complex_pair(Q(1, 2), Q(1, 4)))
    assert set(kept) == {Q(1, 2) + sp.I / 4, Q(1, 2) - sp.I / 4}
    assert left == ()


def test_a_complex_pair_gives_a_real_equation():
    q, r = mq.phase_space_form(complex_pair(Q(1, 2), Q(1, 4)), order=4).numbers()
    a, w = -math.log(math.hypot(0.5, 0.25)), math.atan2(0.25, 0.5)
    c = q[2]
    assert np.allclose(q, [c * (a * a + w * w), 2 * a * c, c])
    assert r[0][0] == pytest.approx(1)


def test_radius():
    for name in ("heavy ball 0.5", "Nesterov 0.9", "two poles"):
        assert mq.phase_space_form(CASES[name], order=2).radius == 2 * sp.pi
    pair = complex_pair(Q(1, 10), Q(9, 10))
    expected = abs(complex(math.log(math.hypot(0.1, 0.9)), math.atan2(0.9, 0.1) - 2 * math.pi))
    assert float(mq.phase_space_form(pair, order=2).radius) == pytest.approx(expected)


def test_weight_decay_has_a_row_of_its_own():
    coupled = mq.phase_space_form(mq.HeavyBall(0.9).with_weight_decay(0.1), order=4)
    assert coupled.r[1] == coupled.r[0]
    decoupled = mq.phase_space_form(mq.HeavyBall(beta).with_weight_decay(lam, decoupled=True), order=2)
    # Decay alone multiplies θ by 1 − hλ, which needs r₀ = q'(0)·1: the gradient is amplified by 1/(1 − β).
    assert sp.simplify(decoupled.r[1][0] - (1 - beta)) == 0
    assert decoupled.r[0][0] == 1


@pytest.mark.parametrize("method", [mq.HeavyBall(Q(9, 10)), mq.Nesterov(Q(9, 10))], ids=repr)
def test_exact_rates_on_quadratics_beyond_the_series_limit(method):
    """q(ζ) + x r_K(ζ) = 0 has a root near ln z₁ also where the vector field means nothing."""
    x = 0.04
    assert x > method.series_limit()
    G = method.transfer_function(sp.Symbol("z"))
    numerator, denominator = sp.fraction(sp.cancel(1 + sp.Rational(x) * G))
    del denominator
    roots = [complex(root) for root in sp.Poly(numerator).nroots()]
    rate = np.log(max(roots, key=lambda root: (abs(root), root.imag)))
    distances = []
    for order in (1, 3, 5, 7):
        q, r = mq.phase_space_form(method, order).numbers()
        row = x * np.array(r[0])
        polynomial = np.zeros(max(len(q) + 1, len(row)))
        polynomial[1 : len(q) + 1] += q
        polynomial[: len(row)] += row
        distances.append(min(abs(np.roots(polynomial[::-1]) - rate)))
    assert all(later < earlier / 20 for earlier, later in zip(distances, distances[1:], strict=False))
    assert distances[-1] < 1e-8


def test_how_it_prints():
    form = mq.phase_space_form(mq.HeavyBall(beta), order=1)
    assert form.latex() == (
        r"\left(1 - \beta\right)\,D \theta - \frac{1 - \beta}{\log{\left(\beta \right)}}\,D^{2} \theta"
        r" = -h\left(g\right),\quad D = h\,\tfrac{d}{dt}"
    )
    decayed = mq.phase_space_form(mq.GradientDescent().with_weight_decay(lam), order=2)
    assert decayed.latex() == (
        r"D \theta = -h\left(g - \frac{1}{2}\,D g + \lambda\,\theta - \frac{\lambda}{2}\,D \theta\right)"
        r",\quad D = h\,\tfrac{d}{dt}"
    )
    assert repr(form) == "PhaseSpaceForm(HeavyBall(momentum=beta), order=1, poles=(beta,))"


def test_errors():
    with pytest.raises(mq.InvalidOrder, match="order is 0: the lowest"):
        mq.phase_space_form(mq.GradientDescent(), order=0)
    with pytest.raises(mq.InvalidMethod, match=r"depend on \['beta'\]: substitute with method.subs"):
        mq.phase_space_form(mq.HeavyBall(beta), order=2).numbers()
    with pytest.raises(mq.InvalidMethod, match="'heavy ball' is no method"):
        mq.phase_space_form("heavy ball", order=2)


def test_poles_that_are_roots_of_a_cubic_without_rational_ones():
    """A complex pair and a real pole of a cubic with no closed form that sympy can compare with 0."""
    companion = [[1, 1, 0, 0], [0, 0, 0, -Q(1, 9)], [0, 1, 0, -Q(1, 7)], [0, 0, 1, -Q(1, 5)]]
    method = mq.GeneralLinearMethod(A=companion, B=[[1]] * 4, C=[[1, 0, 0, 0]], D=[[0]], name="three poles")
    for expansion in ("derivatives", "hermite", "powers"):
        form = mq.phase_space_form(method, order=2, expansion=expansion)
        (real,) = form.left_out  # negative
        assert real < 0
        assert [sp.im(pole) != 0 for pole in form.poles] == [True, True]
        for pole in (*form.poles, real):
            assert abs(sp.expand(pole**3 + pole**2 / 5 + pole / 7 + Q(1, 9))) < 1e-60
        equation = mq.modified_equation(method, order=2)
        assert all(abs(form.vector_field(2)[tree] - equation[tree]) < 1e-30 for tree in equation)
