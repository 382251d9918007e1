"""The solution of a projected equation against the optimizer itself: the order it claims, and no more."""

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.integrate import simpson, solve_ivp

import modeq as mq
from modeq.symmetry.charge_solutions import t, tau
from modeq.symmetry.pairings import Pairing

h, x, y, z = sp.symbols("h x y z")
PLAIN = mq.GradientDescent()
RESCALED = (x * y - 1) ** 2 / 2 + (x * y) ** 3 / 10 + (z - x * y) ** 2 / 2
VARIABLES, RESCALE, START = (x, y, z), np.array([1.0, -1.0, 0.0]), np.array([1.1, 0.4, -0.6])


def evaluated(pairings, theta, velocity):
    """Pairings on a path, arrays over its points."""
    gradient = [sp.diff(RESCALED, v) for v in VARIABLES]
    hessian = sp.hessian(RESCALED, VARIABLES)
    of = sp.lambdify([VARIABLES], [gradient, list(hessian * sp.Matrix(gradient)), list(hessian * sp.Matrix(VARIABLES))])
    g, Hg, Htheta = (np.array(list(np.broadcast_arrays(*row))) for row in of(theta))
    vectors = {"g": g, "H g": Hg, "H θ": Htheta, "θ'": velocity}
    return {p: RESCALE @ (vectors[p.vectors[0].text] * vectors[p.vectors[1].text]) for p in pairings}


def predicted(law, times, theta, velocity, step, regime=None, at_rest=False):
    """The solution at every second time after the fourth, its integral by Simpson's rule on the path."""
    start = {symbol: value.subs(h, step) for symbol, value in law.start.items()}
    atoms = sp.Tuple(*start.values()).atoms(Pairing)
    origin = evaluated(atoms, START[:, None], None if velocity is None else velocity[:, :1])
    atoms = {pairing: value[0] for pairing, value in origin.items()}
    first = sp.Symbol("N_0")
    if at_rest:
        start[law.initial[1]] = sp.S.Zero
    start = {s: sp.sympify(v).subs(atoms).subs(first, RESCALE @ START**2) for s, v in start.items()}
    solution = law.solution(regime).rhs.subs(h, step)
    free = sp.lambdify(t, solution.replace(sp.Integral, lambda *_: sp.S.Zero).subs(start))
    values = evaluated(law.forcing, theta, velocity)
    names = {p.subs(t, tau): sp.Dummy() for p in law.forcing}
    integrals = list(solution.atoms(sp.Integral))
    chosen = range(4, len(times), 2)
    if not integrals:
        return times[4::2], np.array([float(free(times[k])) for k in chosen])
    (integral,) = integrals
    integrand = sp.lambdify([t, tau, *names.values()], integral.function.xreplace(names))
    rows = [values[p] for p in law.forcing]
    driven = [
        simpson(integrand(times[k], times[: k + 1], *(r[: k + 1] for r in rows)), x=times[: k + 1]) for k in chosen
    ]
    return times[4::2], np.array([float(free(times[k])) for k in chosen]) + np.array(driven)


def slopes(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


TRAINED = {
    "descent": PLAIN.with_weight_decay(0.3),
    "heavy ball": mq.HeavyBall(0.4, dampening=0.2).with_weight_decay(0.3),
    "Nesterov, decoupled": mq.Nesterov(0.3).with_weight_decay(0.3, decoupled=True),
}


@pytest.mark.some(2)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", TRAINED, ids=str)
def test_the_solution_meets_the_iterates_with_its_order(name, order):
    method, problem = TRAINED[name], mq.SymbolicProblem(RESCALED, VARIABLES)
    equation = mq.modified_equation(method, order)
    law, errors = mq.project(equation, "rescale"), []
    for step in (0.02, 0.01, 0.005, 0.0025):
        iterates = mq.iterate(method, problem, START, h=step, steps=round(0.8 / step))
        path = mq.flow(equation, problem, START, h=step, time=0.8, rtol=1e-12, atol=1e-14)
        times, charge = predicted(law, path.t, path.y.T, None, step)
        measured = (iterates.y**2 @ RESCALE)[4::2]
        errors.append(np.abs(charge - measured)[times >= 0.4].max())
        # On the flow itself the solution is exact, but for what the start and the quadrature leave.
        assert np.abs(charge - (path.y**2 @ RESCALE)[4::2]).max() < 20 * step**order + 1e-9
    assert slopes(errors)[-2:] == pytest.approx(order, abs=0.15)


def oscillation(method, step, steps, start):
    """The time-derivative form of order 2 and its velocity, eight points to a step."""
    form = mq.time_derivative_form(method, order=2)
    c1, c2, rate = (float(c) for c in (*form.coefficients, form.decay_rate))
    gradient = sp.lambdify([VARIABLES], [sp.diff(RESCALED, v) for v in VARIABLES])

    def slope(_, state):
        theta, velocity = state[:3], state[3:]
        force = -np.array(gradient(theta)) - rate * theta
        return np.concatenate([velocity, (force - c1 * velocity) / (c2 * step)])

    first = start * (np.array(gradient(START)) + rate * START)
    grid = np.linspace(0, steps * step, 8 * steps + 1)
    path = solve_ivp(slope, (0, grid[-1]), [*START, *first], t_eval=grid, rtol=1e-11, atol=1e-13)
    return grid, path.y[:3], path.y[3:]


ALPHA, BETA = 0.2, 0.5
SPEED = -(1 + ALPHA) / (1 + BETA)  # of torch's first step, in g + λθ


@pytest.mark.parametrize("decay, regime", [(0.3, "over"), (9.0, "under")])
def test_the_oscillator_is_solved_in_both_regimes(decay, regime):
    law = mq.project(mq.HeavyBall(BETA, dampening=ALPHA).with_weight_decay(decay), "rescale", form="time")
    difference = float((law.gamma**2 - law.omega_squared).subs(h, 0.02))
    assert (difference > 0) == (regime == "over")
    grid, theta, velocity = oscillation(law.source.method, 0.02, 20, SPEED)
    _, charge = predicted(law, grid, theta, velocity, 0.02, regime)
    on_path = (theta.T**2 @ RESCALE)[4::2]
    assert np.abs(charge - on_path).max() < 1e-5
    assert np.ptp(on_path) > 0.01


@pytest.mark.parametrize("start, order", [(SPEED, 2), (0.0, 1)], ids=["the start of torch", "at rest"])
def test_the_oscillator_meets_the_iterates_with_its_order(start, order):
    """The article's start at rest costs an order; both hold once the start has relaxed, after some steps."""
    method, errors = mq.HeavyBall(BETA, dampening=ALPHA).with_weight_decay(0.3), []
    law, problem = mq.project(method, "rescale", form="time"), mq.SymbolicProblem(RESCALED, VARIABLES)
    for step in (0.01, 0.005, 0.0025, 0.00125):
        steps = round(0.4 / step)
        iterates = mq.iterate(method, problem, START, h=step, steps=steps)
        grid, theta, velocity = oscillation(method, step, steps, start)
        times, charge = predicted(law, grid, theta, velocity, step, "over", at_rest=start == 0)
        measured = (iterates.y**2 @ RESCALE)[1:]
        errors.append(np.abs(charge[2::4] - measured)[times[2::4] >= 0.2].max())
        assert times[2::4] == pytest.approx(iterates.t[1:])
    assert slopes(errors)[-2:] == pytest.approx(order, abs=0.15)


@pytest.mark.some(1)
@pytest.mark.parametrize("order", [1, 2])
def test_the_phase_space_law_meets_the_iterates_with_its_order(order):
    method, errors = mq.HeavyBall(BETA, dampening=ALPHA).with_weight_decay(0.3), []
    form, problem = mq.phase_space_form(method, order), mq.SymbolicProblem(RESCALED, VARIABLES)
    law, first = mq.project(form, "rescale"), form.start()[1].on(RESCALED, VARIABLES, h=h)
    for step in (0.01, 0.005, 0.0025, 0.00125):
        steps = round(0.4 / step)
        iterates = mq.iterate(method, problem, START, h=step, steps=steps)
        written = form.on(RESCALED, VARIABLES, h=step).lambdify()
        velocity = np.array(first.lambdify()(START, step), dtype=float)
        grid = np.linspace(0, steps * step, 8 * steps + 1)

        def slope(_, state, written=written):
            return np.array(written(state), dtype=float)

        path = solve_ivp(slope, (0, grid[-1]), [*START, *velocity], t_eval=grid, rtol=1e-11, atol=1e-13)
        times, charge = predicted(law, grid, path.y[:3], path.y[3:], step, "over")
        measured = (iterates.y**2 @ RESCALE)[1:]
        errors.append(np.abs(charge[2::4] - measured)[times[2::4] >= 0.2].max())
    assert slopes(errors)[-2:] == pytest.approx(order, abs=0.15)


class Rescalable(torch.nn.Module):
    """Two linear maps in a row, between them one charge for each hidden unit."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.inner = torch.nn.Parameter(torch.randn(3, 4, generator=draw, dtype=torch.float64) * 0.5)
        self.outer = torch.nn.Parameter(torch.randn(2, 3, generator=draw, dtype=torch.float64) * 0.5)

    def forward(self, inputs):
        return torch.tanh(inputs @ self.inner.T @ self.outer.T)


def named(theta):
    """A vector of all parameters of `Rescalable`, by name."""
    inner, outer = torch.as_tensor(theta).split([12, 6])
    return {"inner": inner.reshape(3, 4), "outer": outer.reshape(2, 3)}


_DRAW = torch.Generator().manual_seed(1)
INPUTS = torch.randn(20, 4, generator=_DRAW, dtype=torch.float64)
TARGETS = torch.randn(20, 2, generator=_DRAW, dtype=torch.float64)
WHOLE = mq.GeneralLinear("hidden", {"inner": 0}, {"outer": 1})


def trained(charge, steps, velocity=None, batch=20, **settings):
    """The record of a charge in a training, from buffers `velocity` if given."""
    module = Rescalable()
    optimizer = torch.optim.SGD(module.parameters(), **settings)
    if velocity is not None:
        for parameter, buffer in zip(module.parameters(), named(velocity).values(), strict=True):
            optimizer.state[parameter]["momentum_buffer"] = buffer.clone()
    with mq.track(module, optimizer, [charge]) as tracker:
        for step in range(steps):
            chosen = torch.arange(batch * step, batch * (step + 1)) % 20
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(module(INPUTS[chosen]), TARGETS[chosen]).backward()
            optimizer.step()
        return tracker.record[charge.name]


def squares(path):
    """The entries of ⟨a, a⟩_M along a path, shape [times, charges]."""
    return np.array([WHOLE.value(named(a)).numpy() for a in path])


@pytest.mark.some(1)
@pytest.mark.parametrize("order, variant, expected", [(1, "corrected", 1), (2, "article", 1), (2, "corrected", 2)])
def test_the_solution_meets_the_tracked_charge_of_a_training(order, variant, expected):
    decay, time, errors = 0.4, 1.6, []
    method = PLAIN.with_weight_decay(decay)
    equation = mq.modified_equation(method, order)
    law = mq.project(equation, WHOLE, variant=variant)
    rate = law.coefficients[0]
    for step in (0.08, 0.04, 0.02, 0.01):
        values = np.asarray(trained(WHOLE, round(time / step), lr=step, weight_decay=decay).measured)
        problem = mq.TorchProblem(Rescalable(), torch.nn.functional.mse_loss, INPUTS, TARGETS)
        path = mq.flow(equation, problem, h=step, time=time, rtol=1e-11, atol=1e-13)
        gradients = [problem.field(theta) for theta in path.y]
        forcing, number = squares(gradients), float(rate.subs(h, step))
        worst = 0.0
        for k in range(4, len(path.t), 2):
            decayed = np.exp(-number * (path.t[k] - path.t[: k + 1]))[:, None]
            driven = simpson(decayed * forcing[: k + 1], x=path.t[: k + 1], axis=0) if law.forcing else 0.0
            solved = decayed[0] * values[0] + step * driven
            worst = max(worst, np.abs(solved - values[k]).max())
        errors.append(worst)
    assert slopes(errors)[-2:] == pytest.approx(expected, abs=0.15)


def test_the_oscillator_of_a_whole_matrix_meets_a_training_with_its_order():
    """UᵀU − VᵀV under momentum and weight decay, solved in closed form with ⟨θ', θ'⟩_M on the path."""
    errors, problem = [], mq.TorchProblem(Rescalable(), torch.nn.functional.mse_loss, INPUTS, TARGETS)
    form = mq.time_derivative_form(mq.HeavyBall(BETA, dampening=ALPHA).with_weight_decay(0.3), 2)
    law = mq.project(form, WHOLE)
    c1, c2, rate = (float(c) for c in (*form.coefficients, form.decay_rate))
    origin = torch.nn.utils.parameters_to_vector(Rescalable().parameters()).detach().numpy()

    def force(theta):
        return problem.field(theta) - rate * theta

    for step in (0.04, 0.02, 0.01):
        steps = round(0.8 / step)

        def slope(_, state, step=step):
            return np.concatenate([state[18:], (force(state[:18]) - c1 * state[18:]) / (c2 * step)])

        grid = np.linspace(0, steps * step, 4 * steps + 1)
        path = solve_ivp(slope, (0, grid[-1]), [*origin, *(-SPEED * force(origin))], t_eval=grid, rtol=1e-8, atol=1e-10)
        driven = squares(path.y[18:].T)
        values = np.asarray(trained(WHOLE, steps, lr=step, momentum=BETA, dampening=ALPHA, weight_decay=0.3).measured)
        start = {symbol: value.subs({h: step, sp.Symbol("M_0"): 1}) for symbol, value in law.start.items()}
        solution = law.solution("over").rhs.subs(h, step).subs(start)
        (integral,) = solution.atoms(sp.Integral)
        free = float((solution - integral).subs(t, grid[-1]))
        (pairing,) = (p.subs(t, tau) for p in law.forcing)
        response = sp.lambdify(tau, integral.function.subs(t, grid[-1]).coeff(pairing))(grid)
        solved = free * values[0] + simpson(response[:, None] * driven, x=grid, axis=0)
        errors.append(np.abs(solved - values[-1]).max())
        assert np.abs(values[-1] - values[0]).max() > 50 * errors[-1]
    assert slopes(errors)[-1] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_rotation_of_a_training_is_the_solution_of_its_equation(decay):
    """R ← βR at any learning rate, for any batches: the phase-space form of order 1 keeps the pole β."""
    velocity = torch.randn(18, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    settings = {"lr": 0.2, "momentum": BETA, "weight_decay": decay}
    record = trained(WHOLE.rotation(), 8, velocity, batch=5, **settings)
    law = mq.project(mq.HeavyBall(BETA).with_weight_decay(decay), "rotation", order=1, form="phase")
    free = sp.lambdify(t, law.solution().rhs.subs({law.initial[0]: 1, h: 0.2}))
    found = np.asarray(record.measured)
    assert np.abs(found[0]).min() > 0.01
    assert found == pytest.approx(np.outer(free(0.2 * np.arange(9)), found[0]), abs=1e-13)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("name", TRAINED, ids=str)
def test_the_angular_momentum_of_iterates_is_that_of_the_field(name, order):
    """R = ⟨θ, θ'⟩_R, with θ' a difference of five iterates, right to h⁴; order 2 says that it is 0."""
    method, errors = TRAINED[name], []
    origin, rotation = torch.nn.utils.parameters_to_vector(Rescalable().parameters()).detach().numpy(), WHOLE.rotation()
    problem = mq.TorchProblem(Rescalable(), torch.nn.functional.mse_loss, INPUTS, TARGETS)
    law = mq.project(method, rotation, order)
    for step in (0.08, 0.04, 0.02, 0.01):
        steps = round(0.64 / step)
        theta = mq.iterate(method, problem, origin, h=step, steps=steps + 2).y[-5:]
        velocity = (theta[0] - 8 * theta[1] + 8 * theta[3] - theta[4]) / (12 * step)
        g, at = -problem.field(theta[2]), theta[2]
        vectors = {"g": g, "H g": -problem.derivative(at, [g]), "H θ": -problem.derivative(at, [at])}
        predicted = 0.0
        for (pairing, _), c in law.projected.terms.items():
            a, b = (vectors[v.text] for v in pairing.vectors)
            predicted = predicted + float(c.subs(h, step)) * rotation.pairing(named(a), named(b)).numpy()
        errors.append(np.abs(rotation.pairing(named(theta[2]), named(velocity)).numpy() - predicted).max())
    assert slopes(errors)[-1] == pytest.approx(order, abs=0.2)
