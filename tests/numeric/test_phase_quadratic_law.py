"""The exact law of the heavy ball on quadratics: θ̈ + aθ̇ + Pθ = 0 per step, a = −ln β.

P(x) = a²/4 − arccosh²((1 + β − x)/(2√β)), x = h·curvature: the roots μ of μ² − (1 + β − x)μ + β have the product β
and the sum of logarithms −a.
"""

import mpmath
import numpy as np
import pytest
import sympy as sp
from scipy.linalg import expm

import modeq as mq

X = sp.Symbol("x")


def stiffness(beta, x):
    a = -np.log(beta)
    return a**2 / 4 - np.arccosh(complex((1 + beta - x) / (2 * np.sqrt(beta)))) ** 2


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.4, 0.7, 0.95, 0.999])
@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99])
def test_its_solution_passes_through_every_iterate(beta, fraction):
    """Up to the stability limit 2(1 + β); from (1 + √β)² on P is complex, still with these iterates."""
    h = fraction * 2 * (1 + beta)
    iterates = mq.iterate(mq.HeavyBall(beta), mq.SymbolicProblem(X**2 / 2, [X]), [1.0], h=h, steps=200).y[:, 0]
    P = stiffness(beta, h)
    assert (abs(P.imag) > 1e-9) == (h > (1 + np.sqrt(beta)) ** 2)
    generator = np.array([[0, 1], [-P, np.log(beta)]])
    step = expm(generator)
    state = np.array([1.0, (iterates[1] - step[0, 0]) / step[0, 1]])
    for expected in iterates:
        assert abs(state[0] - expected) < 1e-12 * max(1, 1 / abs(step[0, 1]))
        state = step @ state


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99])
def test_between_the_iterates_it_is_the_exact_quadratic_flow(beta):
    x, h = 0.8, 0.4
    problem = mq.SymbolicProblem(X**2, [X])
    law = mq.exact_quadratic_flow(mq.HeavyBall(beta), problem, [1.0], h=h, time=8.2)
    iterates = mq.iterate(mq.HeavyBall(beta), problem, [1.0], h=h, steps=1).y[:, 0]
    generator = np.array([[0, 1], [-stiffness(beta, x).real, np.log(beta)]])
    step = expm(generator)
    first = np.array([1.0, (iterates[1] - step[0, 0]) / step[0, 1]])
    expected = [(expm(generator * t / h) @ first)[0] for t in law.t]
    assert law.t[-1] / h == pytest.approx(20.5)
    np.testing.assert_allclose(law.y[:, 0], expected, atol=1e-11)


@pytest.mark.some(1)
@pytest.mark.parametrize("momentum", ["0.5", "0.9", "0.99"])
def test_its_power_series_is_what_the_form_gives(momentum):
    """c Q + x Σ S_j Q^j = 0 at Q = −P(x): J powers of q give J coefficients of P, and not the next."""
    beta, count = sp.Rational(momentum), 5
    form = mq.phase_space_form(mq.HeavyBall(beta), count, "powers")
    with mpmath.workdps(60):
        c = mpmath.mpmathify(sp.N(form.q[-1], 60))
        S = [mpmath.mpmathify(sp.N(digit[0], 60, maxn=1000)) for digit in form.powers[0]]
        solved = [mpmath.mpf(0)]  # P = (x/c) Σ S_j (−P)^j, one coefficient after the other
        for k in range(count + 1):
            power, total = [mpmath.mpf(1)] + [mpmath.mpf(0)] * k, mpmath.mpf(0)
            for s in S:
                total += s * power[k]
                power = [-mpmath.fsum(power[i] * solved[m - i] for i in range(m + 1)) for m in range(k + 1)]
            solved.append(total / c)
        b, a = mpmath.mpmathify(beta), -mpmath.log(mpmath.mpmathify(beta))
        exact = mpmath.taylor(
            lambda x: a**2 / 4 - mpmath.acosh((1 + b - x) / (2 * mpmath.sqrt(b))) ** 2, 0, count + 1, method="quad",
            radius=(1 - mpmath.sqrt(b)) ** 2 / 2,
        )  # fmt: skip
        ratios = [abs(p / mpmath.re(e) - 1) for p, e in zip(solved[1:], exact[1:], strict=True)]
    assert abs(exact[0]) < 1e-30
    assert all(ratio < 1e-10 for ratio in ratios[:count])
    assert ratios[count] > 1e-6
