"""Gradient descent on a product of two weights: where it ends, and what its modified equation says of that."""

import numpy as np
import sympy as sp
from style import EQUATION, GRADIENT_FLOW, LINES, OPTIMIZER, SECOND, figure, save

import modeq as mq

START, H, STEPS = [2.8, 3.5], 0.025, 80
ORDERS = {1: ("gradient flow", GRADIENT_FLOW), 2: ("modified loss, order 2", SECOND), 3: ("order 3", EQUATION)}


def flow(problem, order, h, steps):
    """Return the points of the flow of one order."""
    equation = mq.modified_equation(mq.GradientDescent(), order)
    return mq.flow(equation, problem, START, h=h, time=h * steps, rtol=1e-8).y


def draw_plane(ax, problem):
    """Draw the trajectories over the minima."""
    a = np.linspace(0.15, 3, 300)
    ax.plot(a, 0.6 / a, color="#d9b44a", linewidth=5, alpha=0.5, label="minima, ab = 0.6")
    for order, (name, look) in ORDERS.items():
        ax.plot(*flow(problem, order, H, STEPS).T, label=name, **look)
    iterates = mq.iterate(mq.GradientDescent(), problem, START, h=H, steps=STEPS).y
    ax.plot(*iterates.T, label=f"gradient descent, h = {H}", **OPTIMIZER)
    ax.set(xlim=(0, 3), ylim=(1.3, 3.7), xlabel="a", ylabel="b", title="the way to a flatter minimum")
    ax.legend(**LINES)


def draw_ends(ax, problem):
    """Draw the squared norm at the end against the learning rate."""
    rates = [0.002, 0.005, 0.01, 0.015, 0.02, 0.025]
    for order, (name, look) in ORDERS.items():
        ends = [np.sum(flow(problem, order, h, round(2 / h))[-1] ** 2) for h in rates]
        ax.plot(rates, ends, label=name, **look)
    ends = [np.sum(mq.iterate(mq.GradientDescent(), problem, START, h=h, steps=round(2 / h)).y[-1] ** 2) for h in rates]
    ax.plot(rates, ends, label="gradient descent", **OPTIMIZER)
    ax.set(xlabel="learning rate h", ylabel="a² + b² at the end", title="learning rate as a regulariser")
    ax.legend(**LINES)


if __name__ == "__main__":
    problem = mq.problems.two_layer_scalar(target=sp.Rational(3, 5))
    made, (plane, ends) = figure(2)
    draw_plane(plane, problem)
    draw_ends(ends, problem)
    save(made, __file__)
