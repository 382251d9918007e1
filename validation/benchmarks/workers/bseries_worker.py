"""One measurement of BSeries for Python, https://github.com/ketch/BSeries.

It offers modified equations on a concrete field; coefficients alone come from its substitution law, tree by
tree, as in its own function for fields. It names the trees with up to nine vertices, and stops there.
"""

from importlib.metadata import version

from measure import main, missing

try:
    import numpy as np
    import sympy as sp
    from BSeries import bs, trees
except ImportError as error:
    missing(error)

HALF, SIXTH, ONE = sp.Rational(1, 2), sp.Rational(1, 6), sp.Integer(1)


def tableau(A, b):
    """Return a tableau with exact entries."""
    return np.array([[entry * ONE for entry in row] for row in A], dtype=object), np.array([w * ONE for w in b])


EULER = tableau([[0]], [1])
MIDPOINT = tableau([[0, 0], [HALF, 0]], [0, 1])
RK4 = tableau([[0, 0, 0, 0], [HALF, 0, 0, 0], [0, HALF, 0, 0], [0, 0, 1, 0]], [SIXTH, 2 * SIXTH, 2 * SIXTH, SIXTH])


def coefficients(method, order):
    """Iterate over all trees and their exact coefficients; nothing above nine vertices."""
    return _coefficients(method, order) if order <= 9 else None


def _coefficients(method, order):
    def exact_solution(tree):
        return ONE / trees.gamma(tree)

    field = bs.TreeMap("b")
    for size in range(1, order + 1):
        for tree in trees.all_trees(size):
            weight = bs.elementary_weight(tree, *method)
            # The substitution of the unknown value is linear in it, with the coefficient one.
            field[tree] = weight if size == 1 else weight - bs.subs(field, exact_solution, tree) + field[tree]
            children = tree.nodes[0].children or []
            yield size * (1 + len(children)), field[tree].p, field[tree].q


def lotka_volterra(order):
    """Write the modified field of explicit Euler out on p' = p(2 - q), q' = q(p - 1)."""
    p, q = sp.symbols("p q")
    field = bs.modified_equation(np.array([p, q]), np.array([p * (2 - q), q * (p - 1)]), *EULER, order=order)
    point = {p: sp.Integer(2), q: sp.Integer(3), bs.h: sp.Integer(5)}

    def values():
        for weight, component in enumerate(field, start=1):
            value = component.xreplace(point)
            yield weight, value.p, value.q

    return values


if __name__ == "__main__":
    main(
        version("BSeries"),
        {
            "explicit Euler": lambda order: coefficients(EULER, order),
            "explicit midpoint": lambda order: coefficients(MIDPOINT, order),
            "RK4": lambda order: coefficients(RK4, order),
            "Lotka-Volterra": lotka_volterra,
        },
    )
