"""Compare integrators on a pendulum, exactly and by running them: ``python compare_integrators.py [FOLDER]``.

Each case is written to the folder as soon as it is done; a second run goes on where the first one stopped.
"""

import sys

import numpy as np
import sympy as sp

import modeq as mq

p, q = sp.symbols("p q")
ENERGY = p**2 / 2 - sp.cos(q)
PENDULUM = mq.VectorField([-sp.diff(ENERGY, q), sp.diff(ENERGY, p)], [p, q], default_start=[0.0, 1.2])
HALF, SIXTH = sp.Rational(1, 2), sp.Rational(1, 6)
METHODS = {
    "explicit Euler": mq.GradientDescent(),
    "Heun": mq.RungeKutta([[0, 0], [1, 0]], [HALF, HALF]),
    "RK4": mq.RungeKutta(
        [[0, 0, 0, 0], [HALF, 0, 0, 0], [0, HALF, 0, 0], [0, 0, 1, 0]], [SIXTH, 2 * SIXTH, 2 * SIXTH, SIXTH]
    ),
    "implicit midpoint": mq.RungeKutta([[HALF]], [1]),
    "trapezoidal rule": mq.RungeKutta([[0, 0], [HALF, HALF]], [HALF, HALF]),
}
TIME, ORDER = 40.0, 6


def properties(name: str) -> tuple[int, bool, bool]:
    """The order of accuracy, and whether the field, as far as it was derived, is even in h and Hamiltonian."""
    equation = mq.modified_equation(METHODS[name], order=ORDER)
    return equation.order_of_accuracy(), equation.is_even(), equation.is_hamiltonian()


def run(name: str, h: float) -> dict[str, float]:
    """The distance from the exact flow, that from the modified equation, and how far the energy drifts."""
    method, steps = METHODS[name], round(TIME / h)
    order = properties(name)[0]
    iterates = mq.iterate(method, PENDULUM, h=h, steps=steps)
    exact, modified = (mq.modified_equation(*which) for which in ((mq.GradientDescent(), 1), (method, order + 1)))
    distances = [abs(mq.flow(e, PENDULUM, h=h, time=h * steps).y - iterates.y).max() for e in (exact, modified)]
    energy = sp.lambdify([p, q], ENERGY)(*iterates.y.T)
    return {"exact": distances[0], "modified": distances[1], "energy": float(np.ptp(energy[-steps // 4 :]))}


def main(folder: str | None) -> None:
    """Print what the series say, and what running the methods says."""
    print(f"{'':<18} order  even in h  Hamiltonian")
    for name in METHODS:
        order, even, hamiltonian = properties(name)
        print(f"{name:<18} {order:>5}  {even!s:<9}  {hamiltonian}")
    cases = [{"name": name, "h": h} for name in METHODS for h in (0.1, 0.05)]
    found = mq.sweep(run, cases, checkpoint=folder)
    print(f"\n{'':<18} {'h':>5}  {'from exact flow':>15}  {'from own equation':>17}  {'energy, last quarter':>20}")
    for case, result in zip(cases, found.results, strict=True):
        numbers = f"{result['exact']:>15.1e}  {result['modified']:>17.1e}  {result['energy']:>20.1e}"
        print(f"{case['name']:<18} {case['h']:>5}  {numbers}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
