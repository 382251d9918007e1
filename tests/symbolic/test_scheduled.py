"""Learning-rate schedules: closed forms, derivations that share no code with modeq, and refusals."""

import numpy as np
import pytest
import registry
import sympy as sp
from sympy import Rational as Q

import modeq as mq
from modeq.methods.runge_kutta import RK4, ExplicitMidpoint

beta, alpha, nu, lam = sp.symbols("beta alpha nu lambda")
x, t, h = sp.symbols("x t h")
f, phi = sp.Function("f"), sp.Function("phi")


def same(a, b):
    return sp.cancel(a - b) == 0


SLOPES = {
    "gradient descent": (mq.GradientDescent(), -Q(1, 2)),
    "heavy ball": (mq.HeavyBall(beta), -1 / (2 * (1 - beta))),
    "torch dampening": (mq.HeavyBall(beta, alpha), -(1 - alpha) / (2 * (1 - beta))),
    "Nesterov": (mq.Nesterov(beta), -1 / (2 * (1 - beta))),
    "classical Nesterov": (mq.ClassicalNesterov(beta), -(1 + beta) / (2 * (1 - beta) ** 2)),
    "quasi-hyperbolic": (mq.QuasiHyperbolic(beta, nu), -Q(1, 2)),
    "PID": (mq.PID(beta, derivative=2), -1 / (2 * (1 - beta))),
    "optimistic gradient": (mq.OptimisticGradient(), -Q(1, 2)),
    # The rate does not change within a step, whatever its stages.
    "RK4": (RK4(), -Q(1, 2)),
    "explicit midpoint": (ExplicitMidpoint(), -Q(1, 2)),
    "implicit Euler": (mq.ImplicitEuler(), -Q(1, 2)),
}


@pytest.mark.parametrize("method, expected", SLOPES.values(), ids=SLOPES)
def test_the_new_term_of_the_vector_field(method, expected):
    (found,) = mq.scheduled_equation(method).schedule_coefficients
    assert same(found, expected)


DAMPINGS = {
    "gradient descent": (mq.GradientDescent(), 0),
    "heavy ball": (mq.HeavyBall(beta), -beta),
    "torch dampening": (mq.HeavyBall(beta, alpha), -beta / (1 - alpha)),
    "Nesterov": (mq.Nesterov(beta), -(beta**2)),
    "quasi-hyperbolic": (mq.QuasiHyperbolic(beta, nu), -beta * nu / (1 - beta)),
}


@pytest.mark.parametrize("method, expected", DAMPINGS.values(), ids=DAMPINGS)
def test_the_new_term_of_the_form_in_time_derivatives(method, expected):
    form = mq.scheduled_time_derivative_form(method)
    assert same(form.schedule_coefficients[0], expected)
    assert form.coefficients == mq.time_derivative_form(method, 2).coefficients


def momentum_in_units_of_the_step(powers):
    """The heavy ball with the buffer −hv, which is (powers 0, 0) or is not left alone when the rate changes."""
    return mq.GeneralLinearMethod(
        A=[[1, beta], [0, beta]], B=[[1], [1]], C=[[1, 0]], D=[[0]], step_powers=powers, name="heavy ball"
    )


def test_the_units_of_the_buffer_matter():
    torch = mq.scheduled_time_derivative_form(momentum_in_units_of_the_step((0, 1)))
    assert same(torch.schedule_coefficients[0], -beta)
    classical = momentum_in_units_of_the_step((0, 0))
    assert same(mq.scheduled_equation(classical).schedule_coefficients[0], -(1 + beta) / (2 * (1 - beta) ** 2))
    assert mq.scheduled_time_derivative_form(classical).schedule_coefficients == (0,)


@pytest.mark.parametrize(
    "name", registry.names(lambda m: m.step_powers is not None and m.colour_count == 1 and m.parasitic_radius < 0.95)
)
def test_the_new_term_read_off_the_iterates_on_a_constant_field(name):
    """With f = 1 the part of θ_n linear in ε of h(1 + εn) ends as a polynomial of degree 2 in n of slope k at 0."""
    method, epsilon, step = registry.method(name), 1e-3, 0.5
    problem = mq.VectorField([sp.Integer(1)], [x])
    up, down = (
        mq.iterate(method, problem, [0.0], h=lambda n, e=e: step * (1 + e * n), steps=700).y[:, 0]
        for e in (epsilon, -epsilon)
    )
    nodes = np.array([500, 600, 700])
    polynomial = np.polyfit(nodes, (up - down)[nodes] / (2 * epsilon * step), 2)
    (expected,) = mq.scheduled_equation(method).schedule_coefficients
    assert polynomial[1] == pytest.approx(float(expected), abs=1e-6)


# The update rules as difference equations in θ alone, torch's momentum eliminated: a function that is 0, of the
# parameters at n + s, the gradient step f and the decay, each through O(h²), and the rates hφ at n + s.


def gradient_descent(theta, field, rate):
    return theta(1) - theta(0) - rate(0) * field(0)


def heavy_ball(theta, field, rate):
    return (theta(1) - theta(0)) / rate(0) - beta * (theta(0) - theta(-1)) / rate(-1) - field(0)


def nesterov(theta, field, rate):
    moves = [(theta(s + 1) - theta(s)) / rate(s) for s in (0, -1)]
    return moves[0] - field(0) - beta * (moves[1] - field(-1) + field(0))


RULES = {
    "gradient descent": (mq.GradientDescent(), gradient_descent),
    "heavy ball": (mq.HeavyBall(beta), heavy_ball),
    "Nesterov": (mq.Nesterov(beta), nesterov),
}


def expanded(rule, decay=None):
    """F₀ and F₁ of θ' = F₀ + hF₁ on the slow solution of a rule, by Taylor expansion about t."""
    F0, F1 = sp.Function("F0")(x, t), sp.Function("F1")(x, t)
    F = F0 + h * F1

    def theta(s):
        value = x + s * h * F + (s * h) ** 2 / 2 * (F.diff(t) + F.diff(x) * F)
        return value

    def field(s):
        coupled = lam if decay == "coupled" else 0
        value = f(x) - coupled * x
        return value + s * h * value.diff(x) * F

    def factor(s):
        return phi(t) + s * h * phi(t).diff(t)

    if decay == "decoupled":  # what remains of each move without the decay is that of the rule
        plain = theta

        def move(s):
            return plain(s + 1) - plain(s) + h * factor(s) * lam * plain(s)

        def theta(s):
            return x + (move(0) if s == 1 else 0 if s == 0 else -move(-1))

    residual = rule(theta, field, lambda s: h * factor(s))
    residual = residual if rule is not gradient_descent else residual / h
    first = sp.limit(residual, h, 0)
    second = sp.limit(residual.diff(h), h, 0)
    (value,) = sp.solve(first, F0)
    second = second.subs(F0, value).doit()
    (correction,) = sp.solve(second, F1)
    return value, correction


@pytest.mark.some(2)
@pytest.mark.parametrize("decay", [None, "coupled", "decoupled"])
@pytest.mark.parametrize("method, rule", RULES.values(), ids=RULES)
def test_the_vector_field_is_the_expansion_of_the_update_rule(method, rule, decay):
    if decay is not None:
        method = method.with_weight_decay(lam, decoupled=decay == "decoupled")
    (component,) = mq.scheduled_equation(method, phi(t), t).on([f(x)], [x], h=h).components
    for power, expected in enumerate(expanded(rule, decay)):
        assert sp.simplify(component.diff(h, power).subs(h, 0) - expected) == 0


FORMS = {
    **{name: m for name, (m, _) in DAMPINGS.items()},
    "heavy ball, coupled decay": mq.HeavyBall(beta).with_weight_decay(lam),
    "Nesterov, decoupled decay": mq.Nesterov(beta).with_weight_decay(lam, decoupled=True),
    "classical buffer, decoupled decay": momentum_in_units_of_the_step((0, 0)).with_weight_decay(lam, decoupled=True),
}


@pytest.mark.some(3)
@pytest.mark.parametrize("method", FORMS.values(), ids=FORMS)
def test_the_slow_manifold_of_the_second_form_is_the_first(method):
    """The velocity F₀ + hF₁ of the one, put into the other, leaves O(h²)."""
    (velocity,) = mq.scheduled_equation(method, phi(t), t).on([f(x)], [x], h=h).components
    acceleration = velocity.diff(t) + velocity.diff(x) * velocity
    form = mq.scheduled_time_derivative_form(method, phi(t), t)
    c, d = form.coefficients, form.autonomous.decay_coefficients or (0, 0)
    e, e_decay = (*form.schedule_coefficients, 0)[:2]
    rate, slope = sum(method.decay.values()), phi(t).diff(t)

    def residual(v, a):
        damped = c[0] * v + h * (c[1] * a + e * slope / phi(t) * v)
        decay = d[0] * phi(t) * x + h * (d[1] * phi(t) * v + e_decay * slope * x)
        return damped + rate * decay - phi(t) * f(x)

    left = residual(velocity, acceleration)
    assert all(sp.simplify(left.diff(h, power).subs(h, 0)) == 0 for power in (0, 1))
    field = form.on([f(x)], [x], h=h)
    assert field.components[0] == field.variables[1]
    assert sp.simplify(residual(*field.components)) == 0


def test_weight_decay_has_a_term_of_its_own_where_the_buffer_is_not_in_units_of_the_field():
    form = mq.scheduled_time_derivative_form(FORMS["classical buffer, decoupled decay"])
    assert form.schedule_coefficients[0] == 0
    assert same(form.schedule_coefficients[1], beta)
    assert "beta*h*lambda*φ'·θ" in str(form)
    assert mq.scheduled_time_derivative_form(FORMS["Nesterov, decoupled decay"]).schedule_coefficients[1] == 0


@pytest.mark.some(9)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("method", FORMS.values(), ids=FORMS)
def test_a_constant_rate_is_the_autonomous_form(method, order):
    scheduled = mq.scheduled_equation(method, 1, order=order)
    equation = mq.modified_equation(method, order)
    assert scheduled.coefficients == equation.coefficients
    assert scheduled.on(x**4, [x], h=h).components == equation.on(x**4, [x], h=h).components
    assert (str(scheduled), scheduled.text("field")) == (str(equation), equation.text("field"))
    form, derivatives = (
        mq.scheduled_time_derivative_form(method, 1, order=order),
        mq.time_derivative_form(method, order),
    )
    assert (form.coefficients, form.autonomous.decay_coefficients) == (
        derivatives.coefficients,
        derivatives.decay_coefficients,
    )
    assert form.latex() == derivatives.latex()


def test_an_epoch_changes_its_rate_at_its_ends():
    """Three steps at one rate: θ after k epochs is 3 Σ_{j<k} h_j, so that k = −3/2 for the three batches together."""
    equation = mq.scheduled_equation(mq.Epoch(mq.GradientDescent(), 3), sp.exp(-t))
    assert equation.schedule_coefficients == (-Q(1, 2),) * 3
    assert [equation.rate(0.5)(n) for n in (0, 2, 3)] == [0.5, 0.5, 0.5 * np.exp(-1.5)]


def test_players_of_a_game_have_a_term_each():
    game = mq.Simultaneous([mq.HeavyBall(beta), mq.GradientDescent()], rates=[1, 2])
    found = mq.scheduled_equation(game).schedule_coefficients
    assert same(found[0], -1 / (2 * (1 - beta)))
    assert found[1] == -1


def test_what_is_printed():
    equation = mq.scheduled_equation(mq.HeavyBall(momentum=0.5).with_weight_decay(lam), sp.exp(-t))
    assert str(equation).startswith("θ' = -2*exp(-t)·g - 2*lambda*exp(-t)·θ - 6*h*exp(-2*t)·H g")
    assert str(equation).endswith("- h*exp(-t)·g - h*lambda*exp(-t)·θ")
    assert equation._repr_latex_() == f"$\\displaystyle {equation.latex()}$"
    assert repr(equation) == f"ScheduledEquation({equation.method}, exp(-t), order=2)"
    assert mq.scheduled_equation(mq.GradientDescent(), order=1).text("field") == "θ' = φ·f"
    form = mq.scheduled_time_derivative_form(mq.HeavyBall(beta))
    assert form.latex("field").endswith(r"= {\phi}\,f")
    assert form == mq.scheduled_time_derivative_form(mq.HeavyBall(beta))
    # A function of something else than t prints as it is.
    assert "phi(2*t)" in str(mq.scheduled_equation(mq.GradientDescent(), phi(2 * t), t))


def test_the_time_keeps_its_symbol_and_its_assumptions():
    time, kappa = sp.Symbol("t", positive=True), sp.Symbol("kappa")
    assert mq.scheduled_equation(mq.GradientDescent(), 1 / (1 + kappa * time)).t == time
    tau = sp.Symbol("tau")
    assert mq.scheduled_equation(mq.GradientDescent(), sp.exp(-tau), tau).slope == -sp.exp(-tau)
    field = mq.scheduled_equation(mq.GradientDescent(), sp.exp(-kappa * t)).on(x**2 / 2, [x], h=h)
    assert field.parameters == (h, kappa, t)
    assert field.lambdify()([2.0], 0.1, 1.0, 0.0) == pytest.approx([-2.0 - 0.1 - 0.1])


def test_a_kink_needs_a_real_time():
    time = sp.Symbol("t", real=True)
    assert mq.scheduled_equation(mq.GradientDescent(), 1 + sp.Abs(time - 1)).slope == sp.sign(time - 1)


def test_the_rate_is_a_number_at_each_step():
    equation = mq.scheduled_equation(mq.GradientDescent(), sp.Piecewise((2 - t, t < 1), (1 / t, True)))
    assert [equation.rate(0.5)(n) for n in (0, 1, 4)] == [1.0, 0.75, 0.25]
    assert mq.scheduled_equation(mq.GradientDescent(), 2).rate(0.5)(7) == 1.0


REFUSED = {
    "order 3": ({"order": 3}, mq.InvalidOrder, "order is 3: learning-rate schedules are derived to order 2, give 1"),
    "order 0": ({"order": 0}, mq.InvalidOrder, "order is 0"),
    "t a string": ({"t": "t"}, mq.InvalidProblem, "t is 't': give the symbol of the time"),
    "schedule a string": ({"schedule": "exp(-t)"}, mq.InvalidProblem, r"schedule is 'exp\(-t\)': give a finite sympy"),
    "schedule a function": ({"schedule": lambda n: 0.1}, mq.InvalidProblem, "give a finite sympy expression in t"),
    "schedule a list": ({"schedule": [t]}, mq.InvalidProblem, "give a finite sympy expression in t"),
    "schedule a truth": ({"schedule": True}, mq.InvalidProblem, "schedule is True: give a finite"),
    "schedule infinite": ({"schedule": sp.oo}, mq.InvalidProblem, "schedule is oo: give a finite"),
    "another symbol": ({"schedule": sp.exp(-x)}, mq.InvalidProblem, "without the symbol t of the time: give t=x"),
    "another t": (
        {"schedule": sp.exp(-sp.Symbol("t", real=True)), "t": t},
        mq.InvalidProblem,
        r"in which Symbol\('t', real=True\) is another symbol than Symbol\('t'\): create the time once, with the same",
    ),
    "two of one name": (
        {"schedule": sp.exp(-sp.Symbol("t", positive=True)) + t},
        mq.InvalidProblem,
        "is another symbol than .*: create the time once, with the same assumptions",
    ),
    "a kink in complex t": (
        {"schedule": 1 + sp.Abs(t - Q(1, 4))},
        mq.InvalidProblem,
        r"has no derivative in a complex t: create it as sp.Symbol\('t', real=True\), or write a sympy Piecewise",
    ),
    "h inside": ({"schedule": sp.exp(-h * t)}, mq.InvalidProblem, "h and the symbols of .* are taken, rename"),
    "t of the method": ({"schedule": sp.exp(-beta), "t": beta}, mq.InvalidProblem, "are taken, rename"),
    "warm-up from 0": (
        {"schedule": t},
        mq.InvalidProblem,
        "schedule is t, at t = 0 it is 0: give a positive multiple",
    ),
    "negative": ({"schedule": -sp.exp(t)}, mq.InvalidProblem, "at t = 0 it is -1"),
    "complex": ({"schedule": 1 + sp.I * sp.cos(t)}, mq.InvalidProblem, r"at t = 0 it is 1 \+ I"),
    "infinite at 0": ({"schedule": 1 / t}, mq.InvalidProblem, "at t = 0 it is zoo"),
    "a jump": ({"schedule": 1 + sp.Heaviside(t - 1)}, mq.InvalidProblem, "has no derivative: write what jumps as a"),
    "steps": ({"schedule": 1 / (1 + sp.floor(t))}, mq.InvalidProblem, "has no derivative"),
}


@pytest.mark.parametrize("derive", [mq.scheduled_equation, mq.scheduled_time_derivative_form])
@pytest.mark.parametrize("arguments, error, message", REFUSED.values(), ids=REFUSED)
def test_refused_schedules(derive, arguments, error, message):
    with pytest.raises(error, match=message):
        derive(mq.HeavyBall(beta), **arguments)


def test_methods_without_a_rule_for_a_changing_rate_are_refused():
    for derive, order in (
        (mq.scheduled_equation, 1),
        (mq.scheduled_equation, 2),
        (mq.scheduled_time_derivative_form, 1),
    ):
        with pytest.raises(mq.UnsupportedOptimizer, match="Adams-Bashforth has step_powers=None, no rule for what"):
            derive(registry.method("Adams-Bashforth"), order=order)
    with pytest.raises(mq.UnsupportedOptimizer, match=r"step_powers=\(1, 1\).* 0 for each state that holds parameters"):
        mq.scheduled_time_derivative_form(momentum_in_units_of_the_step((1, 1)))
    with pytest.raises(mq.InvalidMethod, match="is no method"):
        mq.scheduled_equation(mq.HeavyBall)
    with pytest.raises(mq.NoTimeDerivativeForm, match="takes gradients at other points"):
        mq.scheduled_time_derivative_form(mq.ClassicalNesterov(beta))
    with pytest.raises(mq.NotZeroStable, match="not strictly zero-stable"):
        mq.scheduled_equation(mq.GeneralLinearMethod(A=[[1, 0], [0, 1.5]], B=[[1], [1]], C=[[1, 0]], D=[[0]]))


def test_refused_on_a_loss():
    equation = mq.scheduled_equation(mq.GradientDescent(), sp.exp(-t))
    with pytest.raises(mq.InvalidProblem, match=r"variables \['t'\] are also symbols of the schedule exp\(-t\)"):
        equation.on(t**2, [t])
    form = mq.scheduled_time_derivative_form(mq.GradientDescent(), sp.exp(-t))
    with pytest.raises(mq.InvalidProblem, match=r"\[\"x'\"\] would name derivatives of the variables"):
        form.on(x**2 + sp.Symbol("x'") ** 2, [x, sp.Symbol("x'")])
    with pytest.raises(mq.InvalidProblem, match="h is 0: give a symbol or a finite number, not 0"):
        form.on(x**2, [x], h=0)


@pytest.mark.parametrize("step", [0, -0.1, "0.1", True, np.inf, np.nan, [0.1]])
def test_refused_base_rates(step):
    with pytest.raises(mq.InvalidProblem, match="h is .*: give a positive number"):
        mq.scheduled_equation(mq.GradientDescent(), sp.exp(-t)).rate(step)


def test_numbers_are_needed_for_a_rate():
    with pytest.raises(mq.InvalidProblem, match=r"with the unknown kappa: give an expression in t alone"):
        mq.scheduled_equation(mq.GradientDescent(), sp.exp(-sp.Symbol("kappa") * t)).rate(0.1)
    with pytest.raises(mq.InvalidProblem, match=r"with the unknown phi\(t\)"):
        mq.scheduled_equation(mq.GradientDescent()).rate(0.1)
