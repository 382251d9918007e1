"""Derive the corrections to gradient flow of an optimizer that you write down: ``python derive_corrections.py``.

The rule here is heavy ball whose gradient is taken a fraction ν ahead, which is heavy ball for ν = 0 and Nesterov's
method for ν = 1; replace it with yours.
"""

import sympy as sp

import modeq as mq
from modeq.testing import assert_order

beta, nu, h, x, y = sp.symbols("beta nu h x y")


def ahead(theta, v, gradient, h):
    """One step: a gradient at θ − hνβv, a buffer that forgets, a step along it."""
    g = gradient(theta - h * nu * beta * v)
    v = beta * v + g
    return theta - h * v, v


def main() -> None:
    """Print the modified equation, in words, as LaTeX and on a loss, and check its order against the optimizer."""
    method = mq.method_from(ahead)
    equation = mq.modified_equation(method, order=3)
    print("Its modified equation, a coefficient for each rooted tree:")
    for tree in (tree for order in (1, 2, 3) for tree in mq.trees(order)):
        print(f"  {tree.text():<14} {sp.factor(equation[tree])}")

    print(f"\nIt is the gradient flow of a loss up to order {equation.gradient_test().order}:")
    print(f"  {equation.modified_loss()}")
    penalty = sp.factor(-equation[mq.Tree([[]])] / 2)
    print(f"  |g|² is not penalised where its weight {penalty} vanishes, at ν = {sp.solve(penalty, nu)}")
    print(f"  in LaTeX: {equation.truncated(2).latex()}")

    loss = (x**2 - y) ** 2 / 4
    print(f"\nOn the loss {loss}, with β = 0:")
    for variable, component in zip((x, y), equation.truncated(2).on(loss, [x, y], h=h).components, strict=True):
        print(f"  {variable}' = {sp.factor(component.subs(beta, 0))}")

    numbers = method.subs({beta: sp.Rational(1, 2), nu: sp.Rational(1, 3)})
    problem = mq.SymbolicProblem(sp.cos(x) + x**2 + x * y / 2 + y**2, [x, y])
    print("\nIts distance from the optimizer with β = 1/2, ν = 1/3 falls with the order that it should:")
    for order in (1, 2, 3):
        observed = assert_order(numbers, problem, [0.8, -0.4], order=order, time=1.0)
        print(f"  order {order}: slopes {', '.join(f'{slope:.2f}' for slope in observed.slopes)}")


if __name__ == "__main__":
    main()
