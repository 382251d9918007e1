"""The heavy ball on the loss of Kunin et al. 2021, Figure 4, with its equations, and the roots behind them."""

import numpy as np
import sympy as sp
from style import EQUATION, GRADIENT_FLOW, LINES, OPTIMIZER, SECOND, THIRD, figure, save

import modeq as mq

H, STEPS, BETA = 0.01, 50, 0.9


def curves():
    """Return the iterates, and the points of each equation."""
    x, y = sp.symbols("x y")
    loss = sp.Rational(5, 4) * (x**2 + y**2) - sp.Rational(3, 2) * x * y
    problem, ball = mq.SymbolicProblem(loss, [x, y], default_start=[1.0, 0.0]), mq.HeavyBall(BETA)
    oscillator = mq.time_derivative_form(ball, order=2)
    equations = {
        "gradient flow": (mq.modified_equation(ball, 1), {}, GRADIENT_FLOW),
        "oscillator from rest": (oscillator, {"initial_layer": False}, SECOND),
        "oscillator with its start": (oscillator, {}, THIRD),
        "phase space, order 3": (mq.phase_space_form(ball, 3), {}, EQUATION),
    }
    flows = {
        name: (mq.flow(form, problem, h=H, time=H * STEPS, **options).y, look)
        for name, (form, options, look) in equations.items()
    }
    return mq.iterate(ball, problem, h=H, steps=STEPS).y, flows


def draw_roots(ax):
    """Draw the roots of the heavy ball against h·λ, and where they meet."""
    x = np.geomspace(5e-5, 3.8, 400)
    roots = np.array([np.roots([1, -(1 + BETA - value), BETA]) for value in x])
    limit = float(mq.HeavyBall(BETA).series_limit())
    ax.plot(x, np.abs(roots).max(axis=1), color="#1b1b1b", linewidth=1.6, label="largest |root|")
    ax.plot(x, np.abs(np.angle(roots)).max(axis=1) / np.pi, label="its angle / π", **EQUATION)
    ax.axvspan(5e-5, limit, color="#1f6fb2", alpha=0.12)
    ax.text(limit * 0.9, 0.45, "the vector field\nexists", ha="right", fontsize="small")
    ax.text(limit * 1.3, 0.45, "the roots are a\ncomplex pair", ha="left", fontsize="small")
    ax.set(xscale="log", xlim=(5e-5, 3.8), ylim=(0, 1.05), xlabel="h·λ", title="one eigenvalue in one step")
    ax.legend(loc="upper left", bbox_to_anchor=(0.0, 0.92), fontsize="small", frameon=False)


if __name__ == "__main__":
    iterates, flows = curves()
    made, (plane, errors, roots) = figure(3, width=10.5)
    for name, (points, look) in flows.items():
        plane.plot(*points.T, label=name, **look)
        distance = np.abs(points - iterates).max(axis=1)
        errors.plot(np.arange(1, STEPS + 1), distance[1:], label=name, **look)
    plane.plot(*iterates.T, label="heavy ball", **OPTIMIZER)
    plane.set(xlabel="x", ylabel="y", title=f"β = {BETA}, h = {H}, {STEPS} steps")
    plane.legend(**LINES)
    errors.set(yscale="log", xlabel="step", ylabel="distance from the heavy ball", title="errors", ylim=(1e-8, 2))
    draw_roots(roots)
    save(made, __file__)
