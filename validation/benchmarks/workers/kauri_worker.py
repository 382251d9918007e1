"""One measurement of kauri, https://github.com/daniil-shmelev/kauri.

Its own modified equation works in floating point, since its weights of the exact solution are floats; with
exact weights and tableaux the same products of maps stay exact, at the same speed.
"""

from fractions import Fraction
from importlib.metadata import version

from measure import main, missing

try:
    import kauri as kr
    import sympy as sp
    from kauri import cem
except ImportError as error:
    missing(error)

HALF, SIXTH = Fraction(1, 2), Fraction(1, 6)
EULER = kr.RK([[0]], [1])
MIDPOINT = kr.RK([[0, 0], [HALF, 0]], [0, 1])
RK4 = kr.RK([[0, 0, 0, 0], [HALF, 0, 0, 0], [0, HALF, 0, 0], [0, 0, 1, 0]], [SIXTH, 2 * SIXTH, 2 * SIXTH, SIXTH])


def modified(method):
    """Return the exact coefficients of the modified equation as a map on trees."""
    exact_solution = kr.Map(lambda tree: Fraction(1, tree.factorial()))
    return method.elementary_weights_map() ^ (exact_solution & cem.antipode)


def coefficients(method, order):
    """Iterate over all trees and their exact coefficients."""
    weights = modified(method)
    for tree in kr.trees_up_to_order(order):
        if tree.nodes():
            value = Fraction(weights(tree))
            yield tree.nodes() * len(tree.list_repr), value.numerator, value.denominator


def lotka_volterra(order):
    """Write the modified field of explicit Euler out on p' = p(2 - q), q' = q(p - 1)."""
    p, q = sp.symbols("p q")
    start, field = sp.Matrix([p, q]), sp.Matrix([p * (2 - q), q * (p - 1)])
    series = kr.BSeries(start, field, modified(EULER), order)
    point = {p: sp.Integer(2), q: sp.Integer(3), series.h: sp.Integer(5)}

    def values():
        for weight, component in enumerate(
            (series.series() - start) / series.h, start=1
        ):  # it is y + h times the field
            value = component.xreplace(point)
            yield weight, value.p, value.q

    return values


if __name__ == "__main__":
    main(
        version("kauri"),
        {
            "explicit Euler": lambda order: coefficients(EULER, order),
            "explicit midpoint": lambda order: coefficients(MIDPOINT, order),
            "RK4": lambda order: coefficients(RK4, order),
            "Lotka-Volterra": lotka_volterra,
        },
    )
