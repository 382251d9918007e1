"""Rates of convergence on quadratics against the condition number: aggregated momentum between two heavy balls."""

import numpy as np
import sympy as sp
from numpy.polynomial import polynomial as P
from style import EQUATION, LINES, SECOND, THIRD, figure, save

import modeq as mq

Z = sp.Symbol("z")
GRID = np.geomspace(1e-5, 4, 800)


def three(theta, v0, v1, v2, gradient, h):
    """Make a step of aggregated momentum with β = 0, 0.9 and 0.99."""
    g = gradient(theta)
    v0, v1, v2 = 0 * v0 + g, sp.Rational(9, 10) * v1 + g, sp.Rational(99, 100) * v2 + g
    return theta - h * (v0 + v1 + v2) / 3, v0, v1, v2


def largest_root(method):
    """Return the largest root of 1 + x·G(z) on the grid of x = h·λ."""
    top, bottom = sp.fraction(sp.together(method.transfer_function(Z)))
    top, bottom = ([float(c) for c in reversed(sp.Poly(part, Z).all_coeffs())] for part in (top, bottom))
    return np.array([abs(P.polyroots(P.polyadd(bottom, x * np.array(top)))).max() for x in GRID])


def best_rate(rho, kappa):
    """Return the rate at the best learning rate for a condition number."""
    return min(rho[(x / kappa <= GRID) & (x >= GRID)].max() for x in GRID)


if __name__ == "__main__":
    methods = {
        "heavy ball, β = 0.9": (mq.HeavyBall(0.9), SECOND),
        "heavy ball, β = 0.99": (mq.HeavyBall(0.99), THIRD),
        "aggregated, β = 0, 0.9, 0.99": (mq.method_from(three), EQUATION),
    }
    made, (roots, rates) = figure(2)
    kappas = np.geomspace(2, 3e4, 25)
    for name, (method, look) in methods.items():
        rho = largest_root(method)
        roots.plot(GRID, rho, label=name, **look)
        rates.plot(kappas, [-np.log(best_rate(rho, kappa)) for kappa in kappas], label=name, **look)
    roots.set(xscale="log", xlabel="h·λ", ylabel="largest |root|", ylim=(0.94, 1.005), title="one eigenvalue")
    rates.set(xscale="log", yscale="log", xlabel="condition number", ylabel="−log of the rate", title="all eigenvalues")
    rates.set_yticks([0.002, 0.005, 0.01, 0.02, 0.05], ["0.002", "0.005", "0.01", "0.02", "0.05"])
    rates.minorticks_off()
    rates.legend(**LINES | {"loc": "lower left"})
    save(made, __file__)
