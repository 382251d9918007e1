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


@pytest.mark.parametrize("order, variant, expected", [(1, "corrected", 1), (2, "article", 1), (2, "corrected", 2)])
def test_the_solution_meets_the_tracked_charge_of_a_training(order, variant, expected):
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(20, 4, generator=draw, dtype=torch.float64)
    targets = torch.randn(20, 2, generator=draw, dtype=torch.float64)
    charge = mq.Rescale("hidden", incoming={"inner": 0}, outgoing={"outer": 1})
    decay, time, errors = 0.4, 1.6, []
    method = PLAIN.with_weight_decay(decay)
    equation = mq.modified_equation(method, order)
    law = mq.project(equation, charge, variant=variant)
    rate = law.coefficients[0]
    for step in (0.08, 0.04, 0.02, 0.01):
        module = Rescalable()
        optimizer = torch.optim.SGD(module.parameters(), lr=step, weight_decay=decay)
        with mq.track(module, optimizer, [charge]) as tracker:
            for _ in range(round(time / step)):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(module(inputs), targets).backward()
                optimizer.step()
            values = np.asarray(tracker.record["hidden"].measured)
        problem = mq.TorchProblem(Rescalable(), torch.nn.functional.mse_loss, inputs, targets)
        path = mq.flow(equation, problem, h=step, time=time, rtol=1e-11, atol=1e-13)
        forcing = []
        for theta in path.y:
            g = problem.field(theta)
            forcing.append((g[:12].reshape(3, 4) ** 2).sum(1) - (g[12:].reshape(2, 3) ** 2).sum(0))
        forcing, number = np.array(forcing), float(rate.subs(h, step))
        worst = 0.0
        for k in range(4, len(path.t), 2):
            decayed = np.exp(-number * (path.t[k] - path.t[: k + 1]))[:, None]
            driven = simpson(decayed * forcing[: k + 1], x=path.t[: k + 1], axis=0) if law.forcing else 0.0
            solved = decayed[0] * values[0] + step * driven
            worst = max(worst, np.abs(solved - values[k]).max())
        errors.append(worst)
    assert slopes(errors)[-2:] == pytest.approx(expected, abs=0.15)
