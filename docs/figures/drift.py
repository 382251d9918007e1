"""The Dirac-GAN, played at once and in turn, with the flow that both discretize and with their modified equations."""

import numpy as np
from style import EQUATION, GRADIENT_FLOW, OPTIMIZER, SECOND, figure, save

import modeq as mq

START, H, ROUNDS = [1.0, 1.0], 0.2, 100
PLAYERS = [mq.GradientDescent(), mq.GradientDescent()]

if __name__ == "__main__":
    game = mq.problems.dirac_gan()
    made, panels = figure(3, width=10.5)
    for ax, title, method in zip(
        panels, ("at once", "in turn"), (mq.Simultaneous(PLAYERS), mq.Alternating(PLAYERS)), strict=False
    ):
        iterates = mq.iterate(method, game, START, h=H, steps=ROUNDS).y
        for order, name, look in ((1, "gradient flow", GRADIENT_FLOW), (4, "modified equation, order 4", EQUATION)):
            path = mq.flow(mq.modified_equation(method, order), game, START, h=H, time=H * ROUNDS).y
            ax.plot(*path.T, label=name, **look)
        ax.plot(*iterates.T, label="gradient descent", **OPTIMIZER)
        ax.set(aspect="equal", xlabel="generator x", ylabel="discriminator y", title=title, xlim=(-2.3, 2.3))
        ax.set_ylim(-2.3, 2.3)
        look = EQUATION if title == "at once" else SECOND
        panels[2].plot(np.arange(ROUNDS + 1), np.linalg.norm(iterates, axis=1), label=title, **look)
    panels[2].plot([0, ROUNDS], [2**0.5] * 2, label="gradient flow", **GRADIENT_FLOW)
    panels[2].set(xlabel="round", ylabel="distance from the equilibrium", title="who gets away", ylim=(1, 2.2))
    panels[2].legend(loc="upper left", fontsize="small", frameon=False)
    handles, names = panels[0].get_legend_handles_labels()
    made.legend(handles, names, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    save(made, __file__)
