"""The rest of the family with momentum, against its own update rules and against one another."""

import numpy as np
import pytest
import sympy as sp
from sympy import Rational as Q

import modeq as mq
from modeq.testing import assert_order

beta, k, ki, kp, z = sp.symbols("beta k ki kp z")


def gradient(theta):
    return np.array([np.sin(theta[0]) + theta[1], theta[0] + theta[1] ** 3])


X = sp.symbols("u v")
PROBLEM = mq.SymbolicProblem(-sp.cos(X[0]) + X[0] * X[1] + X[1] ** 4 / 4, X)
START = np.array([0.8, -0.3])


def pid_run(steps, h, momentum, derivative, integral, proportional, decay=0.0, decoupled=False):
    """The published optimizer: two buffers and the last gradient, which the first step leaves at 0."""
    theta, points = START, [START]
    v = d = last = None
    for _ in range(steps):
        g = gradient(theta) + (0 if decoupled else decay * theta)
        if v is None:
            v, d, last = g, 0 * g, 0 * g
        else:
            v, d, last = momentum * v + g, momentum * d + (1 - momentum) * (g - last), g
        theta = (1 - h * decay * decoupled) * theta - h * (proportional * g + integral * v + derivative * d)
        points.append(theta)
    return np.array(points)


@pytest.mark.parametrize("decay", [{}, {"decay": 0.5}, {"decay": 0.5, "decoupled": True}], ids=str)
@pytest.mark.parametrize("gains", [(10, 5, 1), (3, 1, 0), (-2, 1, 0.5)], ids=str)
def test_pid_runs_like_its_published_code(gains, decay):
    derivative, integral, proportional = gains
    method = mq.PID(0.75, derivative, integral, proportional)
    if decay:
        method = method.with_weight_decay(decay["decay"], decoupled=decay.get("decoupled", False))
    found = mq.iterate(method, PROBLEM, START, h=0.01, steps=25).y
    assert np.allclose(found, pid_run(25, 0.01, 0.75, *gains, **decay), rtol=0, atol=1e-14)


def test_pid_with_a_changing_learning_rate():
    """The buffers hold gradients, so that a new rate counts at once."""

    def rate(n):
        return 0.02 / (1 + n)

    theta, v, d, last = START, 0, 0, None
    expected = [theta]
    for n in range(8):
        g = gradient(theta)
        v, d = 0.5 * v + g, 0.5 * d + (0 if n == 0 else 0.5 * (g - (last if n > 1 else 0)))
        theta, last = theta - rate(n) * (v + 2 * d), g
        expected.append(theta)
    found = mq.iterate(mq.PID(0.5, 2), PROBLEM, START, h=rate, steps=8).y
    assert np.allclose(found, expected, rtol=0, atol=1e-15)


def test_pid_in_general():
    buffers = ki * z / (z - beta) + k * (1 - beta) * (z - 1) / (z - beta)
    found = mq.PID(beta, k, ki, kp).transfer_function(z)
    assert sp.cancel(found - (kp + buffers) / (z - 1)) == 0


@pytest.mark.parametrize(
    ("pid", "other"),
    [
        (mq.PID(beta, 0), mq.HeavyBall(beta)),
        (mq.PID(beta, beta / (1 - beta)), mq.Nesterov(beta)),
        (mq.PID(beta, 0, integral=beta, proportional=1), mq.Nesterov(beta)),
        (mq.PID(0, 1), mq.OptimisticGradient()),
        (mq.PID(beta, 0, integral=(1 - beta) * k, proportional=1 - k), mq.QuasiHyperbolic(beta, k)),
        (mq.PID(0, 0), mq.GradientDescent()),
    ],
    ids=lambda m: repr(m),
)
def test_pid_holds_the_others(pid, other):
    """To one transfer function, with the gradient taken at the parameters, belongs one modified equation."""
    assert sp.cancel(pid.transfer_function(z) - other.transfer_function(z)) == 0
    ours, theirs = (mq.modified_equation(method, order=4) for method in (pid, other))
    assert all(sp.cancel(ours[tree] - value) == 0 for tree, value in theirs.items())


def test_pid_whose_buffers_cancel():
    """With k_D (1 − β)² = k_I β the buffers undo each other, and gradient descent is left, 11 times as fast."""
    published = mq.modified_equation(mq.PID(0.5, derivative=10, integral=5, proportional=1), order=5)
    descent = mq.modified_equation(mq.GradientDescent(), order=5)
    assert all(published[tree] == 11**tree.order * value for tree, value in descent.items())


def test_the_start_of_pid():
    """In the first step v moves θ and d does not; the second difference counts from 0."""
    first, second = mq.iterate(mq.PID(0.5, 8, 3, 2), PROBLEM, START, h=1e-3, steps=2).y[1:] - START
    assert np.allclose(first, -1e-3 * 5 * gradient(START), rtol=1e-12)
    g = gradient(START + first)
    v, d = 0.5 * gradient(START) + g, 0.5 * g
    assert np.allclose(second - first, -1e-3 * (2 * g + 3 * v + 8 * d), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1, "derivative": 1}, r"momentum is 1: give a number in \[0, 1\), 0.9 for instance"),
        ({"momentum": -0.1, "derivative": 1}, "momentum is -0.1: give a number in"),
        ({"momentum": 0.5, "derivative": "1"}, "derivative is '1': give a number"),
        ({"momentum": 0.5, "derivative": float("nan")}, "derivative is nan: give a finite number"),
        ({"momentum": 0.5, "derivative": 1, "integral": None}, "integral is None: give a number"),
        ({"momentum": 0.5, "derivative": 1, "proportional": sp.sqrt(2)}, r"proportional is sqrt\(2\): entries must be"),
        ({"momentum": 0.5, "derivative": 1, "integral": 0}, "is not consistent: the field of colour 0 does not move"),
        ({"momentum": 0.5, "derivative": 1, "proportional": -2}, "is not consistent"),
    ],
    ids=repr,
)
def test_refused_gains(arguments, message):
    with pytest.raises(mq.InvalidMethod, match=message):
        mq.PID(**arguments)


def test_gauss_with_two_stages_is_of_order_four():
    """A = ¼[[1, 1 − s], [1 + s, 1]] with s² = 4/3: its irrational entry is a symbol, put in at the end."""
    s = sp.Symbol("s")
    quarter, half = Q(1, 4), Q(1, 2)
    gauss = mq.RungeKutta([[quarter, quarter * (1 - s)], [quarter * (1 + s), quarter]], [half, half], name="Gauss")
    assert not gauss.is_explicit
    equation = mq.modified_equation(gauss, order=5)
    values = {tree: sp.simplify(value.subs(s, 2 / sp.sqrt(3))) for tree, value in equation.items()}
    assert all(value == 0 for tree, value in values.items() if 1 < tree.order < 5)
    assert any(value != 0 for tree, value in values.items() if tree.order == 5)


@pytest.mark.some(1)
@pytest.mark.parametrize("order", [1, 2])
def test_the_phase_space_form_starts_behind_the_first_steps_of_pid(order):
    """Its second step follows no equation: the state that sets g⁻ to 0 has an eigenvalue that is no pole."""
    form = mq.phase_space_form(mq.PID(0.6, 10, 5, 1), order)
    assert form.poles == (Q(3, 5),)
    assert form.left_out == (0,)
    assert_order(form.method, PROBLEM, START, order=order, time=0.4, form="phase", halvings=2)


def test_gradients_alone_with_an_eigenvalue_zero_twice():
    """PID without momentum, like Adams–Bashforth with three steps."""
    method = mq.PID(0, 1, proportional=0.5)
    assert method.parasitic_polynomial.as_expr() == sp.Symbol("z") ** 2
    assert_order(method, PROBLEM, START, order=3, time=1.0, field="gradients")
