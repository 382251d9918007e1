"""What modeq is about: an optimizer, the flow that misses it, its own equation; and a charge with its law."""

import numpy as np
import sympy as sp
import torch
from charges import COLOURS, trained
from style import EQUATION, GRADIENT_FLOW, OPTIMIZER, figure, save

import modeq as mq
from modeq.numeric.networks.small import digits_cnn

H, STEPS = 0.02, 90


def draw_plane(ax):
    """Draw the heavy ball in the plane of its parameters with gradient flow and with its phase-space form."""
    x, y = sp.symbols("x y")
    loss = sp.Rational(5, 4) * (x**2 + y**2) - sp.Rational(3, 2) * x * y
    problem, ball = mq.SymbolicProblem(loss, [x, y], default_start=[1.0, 0.0]), mq.HeavyBall(0.9)
    a, b = np.meshgrid(np.linspace(-0.45, 1.1, 150), np.linspace(-0.55, 0.6, 150))
    levels = ax.contour(a, b, 1.25 * (a**2 + b**2) - 1.5 * a * b, levels=9, colors="#dcdcdc", linewidths=0.8)
    levels.set_zorder(0)
    gradient_flow = mq.flow(mq.modified_equation(ball, 1), problem, h=H / 10, time=H * STEPS)
    ax.plot(*gradient_flow.y.T, label="gradient flow", **GRADIENT_FLOW)
    ax.plot(
        *mq.flow(mq.phase_space_form(ball, 3), problem, h=H, time=H * STEPS).y.T, label="its own equation", **EQUATION
    )
    ax.plot(*mq.iterate(ball, problem, h=H, steps=STEPS).y.T, label="SGD with momentum 0.9", **OPTIMIZER)
    ax.set(xlabel="θ₁", ylabel="θ₂", title="the law of an optimizer")
    ax.legend(loc="lower right", fontsize="small", frameon=True, framealpha=0.9, edgecolor="none")


def draw_charges(ax):
    """Draw the squared norms of filters in a training, with their laws, and what gradient flow says of them."""
    torch.set_num_threads(1)
    charge = trained(digits_cnn(eps=1e-30), steps=400, momentum=0.9)["conv2"]
    steps = np.arange(len(charge.measured))
    for colour, k in zip(COLOURS, (0, 1, 4, 8, 12), strict=True):
        ax.plot(steps, np.full(len(steps), charge.measured[0, k]), color="#8a8a8a", linestyle="--", linewidth=0.9)
        ax.plot(steps, charge.predicted["discrete"][:, k], color=colour, linewidth=1.6)
        ax.plot(steps[::20], charge.measured[::20, k], "o", color=colour, markersize=3.5)
    handles = [
        ax.plot([], [], "o", color="#1b1b1b", markersize=3.5, label="measured in a training")[0],
        ax.plot([], [], color="#1b1b1b", linewidth=1.6, label="its law")[0],
        ax.plot([], [], color="#8a8a8a", linestyle="--", linewidth=0.9, label="gradient flow")[0],
    ]
    ax.set(xlabel="step", ylabel="squared norm of a filter", title="the law of a charge", ylim=(0, 2.1))
    ax.legend(handles=handles, loc="upper right", fontsize="small", frameon=False)


if __name__ == "__main__":
    made, (plane, charges) = figure(2, height=4.0)
    draw_plane(plane)
    draw_charges(charges)
    save(made, __file__)
