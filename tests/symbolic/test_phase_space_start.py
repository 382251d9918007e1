"""Where the phase-space form starts: closed forms, quadratics in closed form, and convergence."""

import mpmath
import pytest
import sympy as sp
from registry import PROBLEMS
from sympy import Rational as Q

import modeq as mq
from modeq.testing import assert_order

beta, alpha = sp.symbols("beta alpha", positive=True)
a, s = -sp.log(beta), 1 - beta
DOT, CHAIN = mq.Tree([]), mq.Tree([[]])

# Gradient descent behind filters: kept poles, left-out ones, or both; eigenvalues beside 1 in the name.
MIXED = {
    "1/2 and 0": mq.LinearMultistep([0, Q(1, 2), -Q(3, 2), 1], [Q(1, 2)]),
    "optimistic gradient with momentum 1/2": mq.GeneralLinearMethod(
        A=[[1, Q(1, 2), -1], [0, Q(1, 2), 0], [0, 0, 0]], B=[[2], [1], [1]], C=[[1, 0, 0]], D=[[0]], name="optimistic"
    ),
    "1/4 and -1/2": mq.GeneralLinearMethod(
        A=[[1, 1, 1], [0, -Q(1, 2), 0], [0, 0, Q(1, 4)]], B=[[1], [1], [1]], C=[[1, 0, 0]], D=[[0]], name="negative"
    ),
    "complex pair and 0": mq.GeneralLinearMethod(
        A=[[1, 1, 0, 1], [0, Q(1, 2), -Q(1, 4), 0], [0, Q(1, 4), Q(1, 2), 0], [0, 0, 0, 0]],
        B=[[1], [1], [0], [1]],
        C=[[1, 0, 0, 0]],
        D=[[0]],
        name="complex",
    ),
    "double 1/2 and -1/4": mq.GeneralLinearMethod(
        A=[[1, 1, 0, 1], [0, Q(1, 2), 1, 0], [0, 0, Q(1, 2), 0], [0, 0, 0, -Q(1, 4)]],
        B=[[1], [0], [1], [1]],
        C=[[1, 0, 0, 0]],
        D=[[0]],
        name="double",
    ),
    "heavy ball": mq.HeavyBall(Q(9, 10)),
    "dampening": mq.HeavyBall(Q(1, 2), Q(3, 10)),
    "triple momentum": mq.TripleMomentum(Q(3, 5), 0, 0),
}


def test_heavy_ball_in_closed_form():
    """From zero buffers (s − aβ)/s² f + hA₂ f'f; a buffer v₀ adds −κ v₀ − hA₁ f'v₀."""
    position, velocity = mq.phase_space_form(mq.HeavyBall(beta), 2).start(2, buffers="given")
    assert {tree for tree, value in position.items() if value != 0} == {mq.Tree(1, [])}  # w₀ is added to θ itself
    assert sp.simplify(velocity[DOT] - (s - a * beta) / s**2) == 0
    A2 = (2 * a * beta * (beta + 2) - s * (1 + 5 * beta)) / (2 * s**4)
    assert sp.simplify(velocity[CHAIN] - A2) == 0
    given = mq.Tree(2, [])  # −v₀, the second state in units of h
    assert sp.simplify(velocity[given] - a * beta / s) == 0
    A1 = beta * (2 * s - a * (1 + beta)) / s**3
    assert sp.simplify(velocity[mq.Tree(0, [given])] - A1) == 0


def test_heavy_ball_in_numbers():
    _, velocity = mq.phase_space_form(mq.HeavyBall(0.9), 2).start()
    assert [round(float(velocity[tree]), 5) for tree in (DOT, CHAIN)] == [0.51755, -0.09054]


def test_nesterov_in_closed_form():
    _, velocity = mq.phase_space_form(mq.Nesterov(beta), 1).start()
    assert sp.simplify(velocity[DOT] - (s - a * beta**2) / s**2) == 0


def test_the_own_first_step_is_an_ordinary_one_from_a_buffer():
    """torch's undamped first step: the buffer (α/β)g₀."""
    form = mq.phase_space_form(mq.HeavyBall(beta, alpha), 3)
    own, given = form.start(3)[1], form.start(3, buffers=[[0], [alpha / beta]])[1]
    assert own.coefficients == given.coefficients
    assert own[DOT] != form.start(1, buffers=0)[1][DOT]


def test_cancellation_near_momentum_one_costs_no_digit():
    _, velocity = mq.phase_space_form(mq.HeavyBall(Q("0.9999999")), 2).start()
    with mpmath.workdps(80):
        b = mpmath.mpf("0.9999999")
        r, w = -mpmath.log(b), 1 - b
        assert float(velocity[DOT]) == pytest.approx(float((w - r * b) / w**2), rel=1e-14)
        A2 = (2 * r * b * (b + 2) - w * (1 + 5 * b)) / (2 * w**4)
        assert float(velocity[CHAIN]) == pytest.approx(float(A2), rel=1e-14)


@pytest.mark.parametrize("method", [mq.OptimisticGradient(), mq.LinearMultistep([0, -1, 1], [-0.5, 1.5])], ids=repr)
def test_without_kept_poles_it_is_the_initial_layer(method):
    form = mq.phase_space_form(method, 4)
    (position,) = form.start()
    layer = mq.modified_equation(method, 4).initial_layer(4)
    assert position.coefficients == layer.coefficients


def modes(method, x):
    """On f = −θ, hλ = x: θ(0) and its derivatives per step of the kept part, by the eigenvectors of one step."""
    A, B, C, e, S, u = (
        mpmath.matrix(sp.Matrix(m).tolist())
        for m in (method.A, method.B, method.C, method.readout, method.start, method.preconsistency)
    )
    values, vectors = mpmath.eig(A - x * B * C)
    parts = mpmath.lu_solve(vectors, u - x * S)
    form = mq.phase_space_form(method, 1)
    kept, lost = ([mpmath.mpmathify(p) for p in poles] for poles in ((1, *form.poles), form.left_out))
    result = [mpmath.mpf(0)] * len(kept)
    for i, value in enumerate(values):
        if min(abs(value - p) for p in kept) < min([abs(value - p) for p in lost], default=9):
            part = (e * vectors)[i] * parts[i]
            result = [total + part * mpmath.log(value) ** k for k, total in enumerate(result)]
    return [mpmath.re(value) for value in result]


@pytest.mark.parametrize("name", MIXED)
def test_on_a_quadratic_it_is_the_kept_part_of_the_iterates(name):
    """Chains give the power series in x; its distance from the closed form falls with the next power of x."""
    method, order = MIXED[name], 3
    form = mq.phase_space_form(method, order)
    chains = [mq.Tree([])]
    for _ in range(order - 1):
        chains.append(mq.Tree([chains[-1]]))
    series = form.start(order)
    assert len(series) == len(form.q)
    misses = []
    with mpmath.workdps(50):
        for x in (mpmath.mpf("1e-6"), mpmath.mpf("5e-7")):
            sums = [sum(mpmath.mpmathify(sp.N(row[t], 50)) * (-x) ** t.order for t in chains) for row in series]
            sums[0] += 1
            misses.append(max(abs(a - b) for a, b in zip(sums, modes(method, x), strict=True)))
        assert abs(mpmath.log(misses[0] / misses[1], 2) - (order + 1)) < 0.01


CONVERGING = [
    ("1/2 and 0", "phase", 1),
    ("1/2 and 0", "phase", 2),
    ("optimistic gradient with momentum 1/2", "phase", 1),
    pytest.param("optimistic gradient with momentum 1/2", "hermite", 2, marks=pytest.mark.slow),
    ("1/4 and -1/2", "hermite", 1),
    pytest.param("1/4 and -1/2", "hermite", 2, marks=pytest.mark.slow),
    ("complex pair and 0", "phase", 1),
    ("double 1/2 and -1/4", "hermite", 1),
]


@pytest.mark.some(1)
@pytest.mark.parametrize("name, form, order", CONVERGING)
def test_with_poles_of_both_kinds_the_flow_follows_the_iterates(name, form, order):
    problem, start = PROBLEMS["two variables"]
    sizes = [(0.005 if order == 1 else 0.01) / 2**k for k in range(3)]
    assert_order(MIXED[name], problem, start, order=order, time=1.2, form=form, step_sizes=sizes)


def test_errors():
    form = mq.phase_space_form(mq.HeavyBall(0.9), 2)
    with pytest.raises(mq.InvalidOrder, match="order is 0: the lowest"):
        form.start(0)
    with pytest.raises(mq.InvalidMethod, match="buffers is 'zero': give None, 0, a matrix, or 'given'"):
        form.start(1, buffers="zero")
    with pytest.raises(mq.InvalidMethod, match="buffers has shape 1 x 1, it must be 2 x 1"):
        form.start(1, buffers=[[1]])
