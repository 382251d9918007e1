"""One measurement of modeq."""

import sympy as sp
from measure import main

from modeq import (
    Epoch,
    GeneralLinearMethod,
    GradientDescent,
    HeavyBall,
    RungeKutta,
    __version__,
    modified_equation,
)

beta, h, m, p, q = sp.symbols("beta h m p q")
HALF, SIXTH = sp.Rational(1, 2), sp.Rational(1, 6)
POINT = {beta: sp.Rational(1, 3), h: sp.Integer(5), m: sp.Integer(7), p: sp.Integer(2), q: sp.Integer(3)}
RK4 = RungeKutta([[0, 0, 0, 0], [HALF, 0, 0, 0], [0, HALF, 0, 0], [0, 0, 1, 0]], [SIXTH, 2 * SIXTH, 2 * SIXTH, SIXTH])
MIDPOINT = RungeKutta([[0, 0], [HALF, 0]], [0, 1])
# Implicit in one field, explicit in the other.
SYMPLECTIC_EULER = GeneralLinearMethod(A=[[1]], B=[[1, 1]], C=[[1], [1]], D=[[1, 0], [1, 0]], colours=(0, 1))


def expected(method, sampling="reshuffling"):
    """Return an epoch of m batches in random order, m a symbol."""
    return Epoch(method, batches=m).expected(sampling)


def coefficients(method, order):
    """Iterate over all trees and their exact coefficients."""
    equation = modified_equation(method, order=order)
    symbolic = bool(equation.free_symbols)
    for tree, value in equation.items():
        number = value.xreplace(POINT) if symbolic else value
        yield tree.order * (1 + len(tree.children)), number.p, number.q


def lotka_volterra(order):
    """Write the modified field of explicit Euler out on p' = p(2 - q), q' = q(p - 1)."""
    field = modified_equation(GradientDescent(), order=order).on([p * (2 - q), q * (p - 1)], [p, q], h=h)

    def values():
        for weight, component in enumerate(field.components, start=1):
            value = component.xreplace(POINT)
            yield weight, value.p, value.q

    return values


if __name__ == "__main__":
    main(
        __version__,
        {
            "explicit Euler": lambda order: coefficients(GradientDescent(), order),
            "explicit midpoint": lambda order: coefficients(MIDPOINT, order),
            "RK4": lambda order: coefficients(RK4, order),
            "heavy ball, symbol": lambda order: coefficients(HeavyBall(beta), order),
            "heavy ball, 1/3": lambda order: coefficients(HeavyBall(POINT[beta]), order),
            "two colours": lambda order: coefficients(SYMPLECTIC_EULER, order),
            "three minibatches": lambda order: coefficients(Epoch(GradientDescent(), 3), order),
            "three minibatches, heavy ball": lambda order: coefficients(Epoch(HeavyBall(beta), 3), order),
            "expected epoch": lambda order: coefficients(expected(GradientDescent()), order),
            "expected epoch, heavy ball": lambda order: coefficients(expected(HeavyBall(beta)), order),
            "fixed order, heavy ball": lambda order: coefficients(
                expected(HeavyBall(beta), "fixed order, averaged"), order
            ),
            "Lotka-Volterra": lotka_volterra,
        },
    )
