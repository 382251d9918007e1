"""r interpolated at the parasitic poles: exact there, and on Taylor's coefficients below."""

import numpy as np
import pytest
import sympy as sp

import modeq as mq

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


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", METHODS)
def test_it_is_exact_at_every_pole(name, order):
    """At ζ → ln p: r = q·G, by a limit along numbers near the pole."""
    method = METHODS[name]
    form = mq.phase_space_form(method, order, hermite=True)
    plain = mq.phase_space_form(method, order)
    q, r = form.numbers()
    row = method.readout_transfer_function(sp.Symbol("z"))
    for colour, coefficients in r.items():
        assert coefficients[:order] == plain.numbers()[1][colour]
        assert len(coefficients) == order + len(form.poles)
        G = sp.lambdify(sp.Symbol("z"), sum(row[j] for j, c in enumerate(method.colours) if c == colour))
        for pole in form.poles:
            at = float(sp.log(pole))
            near = [at + e for e in (1e-5, -1e-5)]
            exact = np.mean([sum(c * x ** (k + 1) for k, c in enumerate(q)) * G(np.exp(x)) for x in near])
            value = sum(c * at**k for k, c in enumerate(coefficients))
            assert value == pytest.approx(exact, rel=1e-7, abs=1e-8)


def test_for_the_heavy_ball_the_second_order_is_an_expansion_in_powers_of_q():
    """r̂₂ = 1 + S₁Q, Q = ζ(ζ + a), S₁ = r₁/a."""
    _, r = mq.phase_space_form(mq.HeavyBall(0.9), 2, hermite=True).numbers()
    a = -np.log(0.9)
    assert r[0][2] == pytest.approx(r[0][1] / a, rel=1e-12)
    assert r[0][2] == pytest.approx(-1 / 12, rel=2e-3)


def test_without_parasitic_poles_nothing_is_added():
    for order in (1, 3):
        forms = [mq.phase_space_form(mq.GradientDescent(), order, hermite=hermite) for hermite in (False, True)]
        assert forms[0].r == forms[1].r


def test_multiple_poles_are_refused():
    half = sp.Rational(1, 2)
    double = mq.GeneralLinearMethod(
        A=[[1, 1, 0], [0, half, 1], [0, 0, half]], B=[[1], [1], [1]], C=[[1, 0, 0]], D=[[0]], name="double pole"
    )
    with pytest.raises(mq.NoTimeDerivativeForm, match="double pole has a multiple pole"):
        mq.phase_space_form(double, 2, hermite=True)
