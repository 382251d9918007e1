"""Three Euler methods on the Lotka–Volterra equations: what they do, and the orbits of their modified equations."""

import sympy as sp
from style import EQUATION, GRADIENT_FLOW, OPTIMIZER, SECOND, figure, save

import modeq as mq

START, H, TIME = [1.5, 2.25], 0.1, 15.0


def cases():
    """Return for each panel a method, and the problem in the parts that it needs."""
    p, q = sp.symbols("p q")
    field = [p * (2 - q), q * (p - 1)]
    whole, players = mq.VectorField(field, [p, q]), mq.VectorField(field, [p, q], players=[[p], [q]])
    symplectic = mq.Alternating([mq.ImplicitEuler(), mq.GradientDescent()])
    return {
        "explicit Euler": (mq.GradientDescent(), whole),
        "implicit Euler": (mq.ImplicitEuler(), whole),
        "symplectic Euler": (symplectic, players),
    }


if __name__ == "__main__":
    made, panels = figure(3, width=10.5, height=3.9)
    for ax, (name, (method, problem)) in zip(panels, cases().items(), strict=True):
        steps = round(TIME / H)
        for order, label, look in (
            (1, "exact flow", GRADIENT_FLOW),
            (2, "modified equation, order 2", SECOND),
            (3, "order 3", EQUATION),
        ):
            path = mq.flow(mq.modified_equation(method, order), problem, START, h=H, time=TIME, rtol=1e-8).y
            ax.plot(*path.T, label=label, **look)
        ax.plot(*mq.iterate(method, problem, START, h=H, steps=steps).y.T, label=f"steps, h = {H}", **OPTIMIZER)
        ax.set(xlabel="p", title=name)
        if ax is not panels[0]:
            ax.set(xlim=(0.5, 1.65), ylim=(1.25, 2.85))
    panels[0].set(ylabel="q")
    handles = panels[0].get_legend_handles_labels()
    made.legend(*handles, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    save(made, __file__)
