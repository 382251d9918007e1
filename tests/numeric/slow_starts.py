"""Trainings that have been going on for so long that no transient of their start is left."""

import numpy as np
import sympy as sp
from scipy.integrate import solve_ivp

import modeq as mq


def settled_iterates(method, problem, theta, h, steps, transient):
    """Iterates θ₀, …, θ_steps on the slow manifold, with θ₀ close to `theta`.

    A leading-order flow is followed back from `theta` for `transient` steps, and the method run from there.
    """
    speed = float(mq.modified_equation(method, 1)[[]])
    backward = solve_ivp(lambda t, u: -speed * problem.field(u), (0, transient * h), theta, rtol=1e-10, atol=1e-12)
    iterates = mq.iterate(method, problem, backward.y[:, -1], h=h, steps=transient + steps).y
    return iterates[transient:]


def largest_errors(method, form, problem, theta, step_sizes, time, transient=0, field="auto", rtol=1e-13):
    """The largest distance of the flow from the iterates for each step size, from buffers zero or settled."""
    modes = len(form.q)
    errors = []
    for h in step_sizes:
        steps = round(time / h)
        if transient:
            points = settled_iterates(method, problem, theta, h, steps, transient)
        else:
            points = mq.iterate(method, problem, theta, h=h, steps=steps).y
        through = points[1:modes] if modes > 1 else None
        flowed = mq.flow(form, problem, points[0], h=h, time=h * steps, through=through, rtol=rtol, atol=rtol / 100)
        errors.append(float(np.max(abs(flowed.y - points))))
    return errors


def slopes(errors):
    """log₂ of the ratios of successive errors."""
    return [float(np.log2(a / b)) for a, b in zip(errors, errors[1:], strict=False)]


_x, _y = sp.symbols("x y")
PROBLEM = mq.SymbolicProblem(sp.sin(_x + _y) / 2 + sp.cos(_x - 2 * _y) / 4 + _x**2 / 2 + _y**2, [_x, _y])
START = np.array([0.8, -0.4])
