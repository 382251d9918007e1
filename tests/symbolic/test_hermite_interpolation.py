"""r interpolated at the parasitic poles: exact there, and on Taylor's coefficients below."""

import mpmath
import numpy as np
import pytest
import sympy as sp
from registry import PROBLEMS

import modeq as mq
from modeq.symbolic.phase_space_exact import EXPANSIONS

METHODS = {
    "heavy ball": mq.HeavyBall(0.9),
    "heavy ball, dampening": mq.HeavyBall(0.5, 0.3),
    "Nesterov": mq.Nesterov(0.8),
    "decoupled": mq.HeavyBall(0.7).with_weight_decay(0.1, decoupled=True),
    # parasitic poles 1/2 and 1/4
    "two poles": mq.GeneralLinearMethod(
        A=[[1, 1, 0], [0, sp.Rational(1, 2), 1], [0, 0, sp.Rational(1, 4)]], B=[[1], [1], [1]], C=[[1, 0, 0]], D=[[0]]
    ),
}


@pytest.fixture(scope="module")
def two_variables():
    return PROBLEMS["two variables"][0]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", METHODS)
def test_it_is_exact_at_every_pole(name, order):
    """At ζ → ln p: r = q·G, by a limit along numbers near the pole."""
    method = METHODS[name]
    form = mq.phase_space_form(method, order, "hermite")
    plain = mq.phase_space_form(method, order)
    q, r = form.numbers()
    row = method.readout_transfer_function(sp.Symbol("z"))
    for colour, coefficients in r.items():
        assert coefficients[:order] == plain.numbers()[1][colour]
        # One coefficient more for each pole; but the heavy ball's 1 is exact at ln β already.
        assert len(coefficients) == (1 if form.r[0] == (1,) else order + len(form.poles))
        G = sp.lambdify(sp.Symbol("z"), sum(row[j] for j, c in enumerate(method.colours) if c == colour))
        for pole in form.poles:
            at = float(sp.log(pole))
            near = [at + e for e in (1e-5, -1e-5)]
            exact = np.mean([sum(c * x ** (k + 1) for k, c in enumerate(q)) * G(np.exp(x)) for x in near])
            value = sum(c * at**k for k, c in enumerate(coefficients))
            assert value == pytest.approx(exact, rel=1e-7, abs=1e-8)


def test_for_the_heavy_ball_the_second_order_is_an_expansion_in_powers_of_q():
    """r̂₂ = 1 + S₁Q, Q = ζ(ζ + a), S₁ = r₁/a."""
    _, r = mq.phase_space_form(mq.HeavyBall(0.9), 2, "hermite").numbers()
    a = -np.log(0.9)
    assert r[0][2] == pytest.approx(r[0][1] / a, rel=1e-12)
    assert r[0][2] == pytest.approx(-1 / 12, rel=2e-3)


def test_without_parasitic_poles_all_expansions_are_taylors():
    for order in (1, 3):
        forms = [mq.phase_space_form(mq.GradientDescent(), order, name) for name in EXPANSIONS]
        assert forms[0].r == forms[1].r == forms[2].r


def numbers(method, order, expansion, digits=60):
    """r of colour 0 in mpmath, and the exact r = q·G of the method as a function."""
    form = mq.phase_space_form(method, order, expansion)
    q, r = ([mpmath.mpmathify(sp.N(c, digits, maxn=1000)) for c in row] for row in (form.q, form.r[0]))
    G = sp.lambdify(sp.Symbol("z"), method.readout_transfer_function(sp.Symbol("z"))[0], "mpmath")
    return r, lambda zeta: sum(c * zeta ** (k + 1) for k, c in enumerate(q)) * G(mpmath.exp(zeta))


HALF = sp.Rational(1, 2)
MULTIPLE = {
    "double pole": mq.GeneralLinearMethod(
        A=[[1, 1, 0], [0, HALF, 1], [0, 0, HALF]], B=[[1], [1], [1]], C=[[1, 0, 0]], D=[[0]], name="double pole"
    ),
    "triple pole": mq.GeneralLinearMethod(
        A=[[1, 1, 0, 0], [0, HALF, 1, 0], [0, 0, HALF, 1], [0, 0, 0, HALF]],
        B=[[1], [0], [0], [1]],
        C=[[1, 0, 0, 0]],
        D=[[0]],
        name="triple pole",
    ),
    "double pole and another": mq.GeneralLinearMethod(
        A=[[1, 1, 0, 1], [0, HALF, 1, 0], [0, 0, HALF, 0], [0, 0, 0, HALF / 2]],
        B=[[1], [1], [1], [1]],
        C=[[1, 0, 0, 0]],
        D=[[0]],
        name="double pole and another",
    ),
    "complex pair": mq.GeneralLinearMethod(
        A=[[1, 1, 0], [0, HALF, -HALF / 2], [0, HALF / 2, HALF]], B=[[1], [1], [0]], C=[[1, 0, 0]], D=[[0]]
    ),
    "irrational poles": mq.GeneralLinearMethod(
        A=[[1, 1, 0], [0, HALF, HALF / 2], [0, HALF, HALF]], B=[[1], [1], [0]], C=[[1, 0, 0]], D=[[0]]
    ),
    "roots of a cubic": mq.GeneralLinearMethod(
        A=[[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, HALF / 4, -HALF, HALF * 2]],
        B=[[1], [0], [0], [1]],
        C=[[1, 0, 0, 0]],
        D=[[0]],
    ),
}


@pytest.mark.some(6)
@pytest.mark.parametrize("expansion", ["hermite", "powers"])
@pytest.mark.parametrize("name", MULTIPLE)
def test_multiple_and_irrational_poles(name, expansion):
    """The interpolant less r vanishes at each node as often as it should: Cauchy's integral about the node."""
    method, order = MULTIPLE[name], 2
    form = mq.phase_space_form(method, order, expansion)
    with mpmath.workdps(60):
        polynomial, exact = numbers(method, order, expansion)
        circle, points = mpmath.mpf("0.1"), 128
        roots = [circle * mpmath.expjpi(mpmath.mpf(2 * k) / points) for k in range(points)]
        nodes = {sp.Integer(1): order}
        for pole in form.poles:
            nodes[pole] = nodes.get(pole, 0) + (order if expansion == "powers" else 1)
        assert sum(nodes.values()) == len(form.r[0])
        for pole, multiplicity in nodes.items():
            node = mpmath.mpmathify(sp.N(sp.log(pole), 60))
            difference = [mpmath.polyval(polynomial[::-1], node + w) - exact(node + w) for w in roots]
            for k in range(multiplicity + 1):
                taylor = mpmath.fsum(d / w**k for d, w in zip(difference, roots, strict=True)) / points
                # r is not a polynomial: one derivative beyond, they differ.
                assert (abs(taylor) < 1e-20) == (k < multiplicity)


def test_a_flow_with_a_double_pole_follows_the_iterates(two_variables):
    method = MULTIPLE["double pole"]
    observed = mq.observed_order(
        method, two_variables, [0.8, -0.4], time=0.4, order=1, form="hermite", step_sizes=[0.01, 0.005, 0.0025]
    )
    assert observed.expected == 1
    assert observed.slopes[-1] == pytest.approx(1, abs=0.15)


def test_an_unknown_expansion_is_refused():
    with pytest.raises(mq.InvalidMethod, match="expansion is 'taylor': choose from derivatives, hermite, powers"):
        mq.phase_space_form(mq.HeavyBall(0.9), 2, "taylor")
