"""The form in higher time derivatives: coefficients, initial values, well-posedness."""

import math

import numpy as np
import pytest
import registry
import sympy as sp
from scipy.integrate import solve_ivp
from sympy import Rational as Q

import modeq as mq

beta, alpha, lam = sp.symbols("beta alpha lambda")


def same(a, b):
    return sp.cancel(a - b) == 0


def test_heavy_ball_coefficients():
    """c_k = (1 + (−1)ᵏβ)/(k!(1 − α)) = (1 − β)/(1 − α), (1 + β)/(2(1 − α)), …"""
    form = mq.time_derivative_form(mq.HeavyBall(beta, alpha), order=7)
    for k, c in enumerate(form.coefficients, start=1):
        assert same(c, (1 + (-1) ** k * beta) / (math.factorial(k) * (1 - alpha)))
    assert form.decay_coefficients == ()


def test_gradient_descent_is_the_exponential_series():
    form = mq.time_derivative_form(mq.GradientDescent(), order=8)
    assert form.coefficients == tuple(Q(1, math.factorial(k)) for k in range(1, 9))


def test_decoupled_decay():
    """sθ' + h(1+β)/2 θ'' + λ(sθ + hβθ') = −g."""
    form = mq.time_derivative_form(mq.HeavyBall(beta).with_weight_decay(lam, decoupled=True), order=2)
    assert [same(c, e) for c, e in zip(form.coefficients, (1 - beta, (1 + beta) / 2), strict=True)] == [True, True]
    assert [same(d, e) for d, e in zip(form.decay_coefficients, (1 - beta, beta), strict=True)] == [True, True]
    assert form.decay_rate == lam


def test_coupled_decay_stands_with_the_gradient():
    form = mq.time_derivative_form(mq.HeavyBall(beta, alpha).with_weight_decay(lam), order=4)
    assert form.decay_coefficients == (1, 0, 0, 0)


@pytest.mark.parametrize("name", registry.names(lambda m: m.queries_at_parameters))
def test_the_symbol_inverts_the_transfer_function(name):
    """(Σ c_k ζᵏ + λh Σ d_k ζᵏ …)·G(e^ζ) = 1 through the truncation, numerically at a small ζ."""
    method = registry.METHODS[name]()
    form = mq.time_derivative_form(method, order=8)
    z = sp.Symbol("z")
    row = method.readout_transfer_function(z)
    zeta = 0.01

    def G(colour):
        entry = sum(row[j] for j, c in enumerate(method.colours) if c == colour)
        return sp.N(entry.subs(z, sp.exp(sp.Float(zeta, 40))), 30)

    symbol = sum(c * sp.Float(zeta, 40) ** k for k, c in enumerate(form.coefficients, start=1))
    # The first neglected term is c₉ζ⁹ relative to c₁ζ.
    longer = mq.time_derivative_form(method, order=9)
    scale = abs(longer.coefficients[-1] / form.coefficients[0]) + 1
    assert abs(symbol * G(0) - 1) < 3 * scale * zeta**8
    if method.decay:
        decay = sum(d * sp.Float(zeta, 40) ** k for k, d in enumerate(form.decay_coefficients))
        assert abs(decay - G(1) / G(0)) < 3 * (abs(longer.decay_coefficients[-1]) + 1) * zeta**8


VELOCITIES = {
    "gradient descent": (mq.GradientDescent(), -1, None),
    "heavy ball": (mq.HeavyBall(beta), -1 / (1 + beta), None),
    "torch dampening": (mq.HeavyBall(beta, alpha), -(1 + alpha) / (1 + beta), None),
    "Nesterov": (mq.Nesterov(beta), -1 / (1 - beta + 2 * beta**2), None),
    "heavy ball, decay": (mq.HeavyBall(beta).with_weight_decay(lam), -1 / (1 + beta), -1 / (1 + beta)),
    "torch dampening, decay": (
        mq.HeavyBall(beta, alpha).with_weight_decay(lam),
        -(1 + alpha) / (1 + beta),
        -(1 + alpha) / (1 + beta),
    ),
    "Nesterov, decay": (
        mq.Nesterov(beta).with_weight_decay(lam),
        -1 / (1 - beta + 2 * beta**2),
        -1 / (1 - beta + 2 * beta**2),
    ),
    "decoupled": (mq.HeavyBall(beta).with_weight_decay(lam, decoupled=True), -1 / (1 + beta), -1),
}


@pytest.mark.parametrize("name", VELOCITIES)
def test_the_initial_velocity(name):
    """θ'(0) as a multiple of g (colour 0) and of λθ (colour 1), at order 2, where θ(0) = θ₀."""
    method, gradient, decay = VELOCITIES[name]
    position, velocity = mq.time_derivative_form(method, order=2).start
    assert len(position) == 0
    assert same(velocity[[]], -gradient)
    if decay is not None:
        assert same(velocity[mq.Tree(1, [])], -decay)


def test_torch_dampening_starts_as_from_the_full_formula():
    """θ'(0) = f/c₁ + (c₁/c₂)·a·f with c₁ = s/(1−α), c₂ = (1+β)/(2(1−α)) and the initial layer a = −(β−α)/s²."""
    s, velocity = 1 - beta, mq.time_derivative_form(mq.HeavyBall(beta, alpha), order=2).start[1]
    c1, c2 = s / (1 - alpha), (1 + beta) / (2 * (1 - alpha))
    assert same(velocity[[]], 1 / c1 + c1 / c2 * -(beta - alpha) / s**2)


WELL_POSED = {
    "gradient descent": (mq.GradientDescent(), [True, True, True, True, False, False]),
    "heavy ball 1/2": (mq.HeavyBall(Q(1, 2)), [True, True, True, True, False, False]),
    "heavy ball 9/10": (mq.HeavyBall(Q(9, 10)), [True, True, True, True, False, False]),
    "Nesterov 9/10": (mq.Nesterov(Q(9, 10)), [True, True, False]),
}


@pytest.mark.parametrize("name", WELL_POSED)
def test_well_posedness(name):
    method, expected = WELL_POSED[name]
    forms = [mq.time_derivative_form(method, order=p) for p in range(1, len(expected) + 1)]
    assert [form.is_well_posed for form in forms] == expected
    for form, fine in zip(forms, expected, strict=True):
        by_numpy = np.roots([float(c) for c in form.coefficients[::-1]])
        assert np.allclose(np.sort_complex(by_numpy), np.sort_complex(np.array(form.roots)), atol=1e-10)
        if fine:
            form.require_well_posed()
        else:
            with pytest.raises(mq.IllPosed, match=rf"order {form.order} .* grows like exp\(.*use order=2 or the phase"):
                form.require_well_posed()


def follow(method, order, h, update):
    """The largest distance at t ≥ 1/2 between the iteration and the truncated form, f = −sin θ − 0.3θ²."""
    x = sp.Symbol("theta")
    f = -sp.sin(x) - Q(3, 10) * x**2
    form = mq.time_derivative_form(method, order=order)
    layer, *derivatives = form.start
    start = 1.0 + (layer.on([f], [x], h=h).lambdify()([1.0])[0] if len(layer) else 0.0)
    values = [start] + [float(d.on([f], [x], h=h).lambdify()([start])[0]) for d in derivatives]
    c = [float(c) * h**k for k, c in enumerate(form.coefficients)]
    force = sp.lambdify(x, f, "math")

    def right(t, y):
        return [*y[1:], (force(y[0]) - sum(a * b for a, b in zip(c[:-1], y[1:], strict=True))) / c[-1]]

    steps = round(1 / h)
    grid = h * np.arange(steps // 2, steps + 1)
    solution = solve_ivp(right, (0, 1), values, method="Radau", t_eval=grid, rtol=1e-11, atol=1e-13)
    iterates = update(lambda y: h * force(y), steps)
    return np.max(abs(solution.y[0] - iterates[steps // 2 :]))


def heavy_ball(beta, alpha):
    def run(hf, steps):
        theta, v, path = 1.0, None, [1.0]
        for _ in range(steps):
            v = hf(theta) if v is None else beta * v + (1 - alpha) * hf(theta)
            theta += v
            path.append(theta)
        return np.array(path)

    return run


def nesterov(beta):
    def run(hf, steps):
        theta, v, path = 1.0, 0.0, [1.0]
        for _ in range(steps):
            g = hf(theta)
            v = beta * v + g
            theta += g + beta * v
            path.append(theta)
        return np.array(path)

    return run


@pytest.mark.some(1)
@pytest.mark.parametrize(
    ("method", "update", "order"),
    [
        (mq.GradientDescent(), heavy_ball(0.0, 0.0), 2),
        (mq.HeavyBall(0.5), heavy_ball(0.5, 0.0), 2),
        (mq.HeavyBall(0.5, 0.3), heavy_ball(0.5, 0.3), 2),
        (mq.Nesterov(0.5), nesterov(0.5), 2),
        (mq.HeavyBall(0.5, 0.3), heavy_ball(0.5, 0.3), 3),
        (mq.HeavyBall(0.5), heavy_ball(0.5, 0.0), 4),
    ],
    ids=["GD 2", "heavy ball 2", "dampened 2", "Nesterov 2", "dampened 3", "heavy ball 4"],
)
def test_the_solution_follows_the_iterates_to_its_order(method, update, order):
    coarse = 40 if order > 2 else 320  # where the next order has become small beside this one
    errors = [follow(method, order, h, update) for h in (1 / coarse, 1 / (2 * coarse))]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.15


@pytest.mark.parametrize(
    "make",
    [registry.METHODS["RK4"], mq.Extragradient, lambda: mq.ClassicalNesterov(Q(1, 2)), mq.ImplicitEuler],
)
def test_methods_that_have_no_such_form(make):
    for derive in (mq.time_derivative_form, mq.phase_space_form):
        with pytest.raises(mq.NoTimeDerivativeForm, match="takes gradients at other points than its parameters"):
            derive(make(), order=2)


def test_errors():
    symbolic = mq.time_derivative_form(mq.HeavyBall(beta), order=2)
    with pytest.raises(mq.IllPosed, match=r"roots depend on .*beta.*substitute numbers"):
        _ = symbolic.roots
    with pytest.raises(mq.InvalidOrder, match="order is 0: the lowest"):
        mq.time_derivative_form(mq.GradientDescent(), order=0)
    with pytest.raises(mq.InvalidOrder, match=r"order is 1\.5"):
        mq.time_derivative_form(mq.GradientDescent(), order=1.5)
    with pytest.raises(mq.InvalidMethod, match="is no method: give one such as"):
        mq.time_derivative_form(mq.GradientDescent, order=2)


def test_how_it_prints():
    form = mq.time_derivative_form(mq.HeavyBall(beta).with_weight_decay(lam, decoupled=True), order=2)
    assert form.latex() == (
        r"\left(1 - \beta\right)\,\dot\theta + \frac{\beta + 1}{2}\,h\,\ddot\theta"
        r" + \lambda \left(1 - \beta\right)\,\theta + \beta \lambda\,h\,\dot\theta = -g"
    )
    assert repr(form).startswith("TimeDerivativeForm(HeavyBall(momentum=beta)")
    assert repr(form.start[1]).startswith("BSeries(HeavyBall(momentum=beta)")
