"""Hamiltonian, symplectic, energy-preserving and symmetric: on methods known to be so, and known not to be."""

import pytest
import sympy as sp

import modeq as mq
from modeq.symbolic import algebra, structure

half, s = sp.Rational(1, 2), sp.Symbol("s")
quarter, sixth = sp.Rational(1, 4), sp.Rational(1, 6)
ORDER = 5

SYMPLECTIC = {
    "implicit midpoint": mq.RungeKutta([[half]], [1]),
    # b_i a_ij + b_j a_ji = b_i b_j for every s; s = √3 is the Gauss method of order 4.
    "two stages": mq.RungeKutta([[quarter, quarter - s * sixth], [quarter + s * sixth, quarter]], [half, half]),
}
OTHERS = {
    "gradient descent": mq.GradientDescent(),
    "trapezoidal": mq.RungeKutta([[0, 0], [half, half]], [half, half]),
    "heavy ball": mq.HeavyBall(half),
}
EVEN = {"implicit midpoint": True, "two stages": True, "trapezoidal": True, "gradient descent": False}


@pytest.mark.parametrize("name", SYMPLECTIC)
def test_symplectic_methods(name):
    assert mq.memoryless_map(SYMPLECTIC[name], ORDER).is_symplectic()
    assert mq.modified_equation(SYMPLECTIC[name], ORDER).is_hamiltonian()


@pytest.mark.parametrize("name", OTHERS)
def test_methods_that_are_not(name):
    assert not mq.memoryless_map(OTHERS[name], ORDER).is_symplectic()
    assert not mq.modified_equation(OTHERS[name], ORDER).is_hamiltonian()


@pytest.mark.parametrize("name, even", EVEN.items())
def test_symmetric_methods(name, even):
    method = {**SYMPLECTIC, **OTHERS}[name]
    assert mq.modified_equation(method, ORDER).is_even() is even


def averaged_vector_field(order):
    """θ⁺ = θ + h ∫₀¹ f(θ + ξ(θ⁺ − θ)) dξ as a B-series map."""
    step = {}
    for size in range(1, order + 1):
        for tree in mq.trees(size):
            step[tree] = sp.prod([step[child] for child in tree.children], start=sp.Integer(1)) / (
                len(tree.children) + 1
            )
    return step


def test_the_averaged_vector_field_preserves_energy_and_is_not_symplectic():
    step = averaged_vector_field(ORDER)
    field = algebra.logarithm(step, ORDER)
    assert structure.is_energy_preserving(field, ORDER)
    assert structure.is_even(field, ORDER)
    assert not structure.is_symplectic(step, ORDER)
    chain, bush = mq.Tree([[[]]]), mq.Tree([[], []])
    # ∇H·f'f'f = 0 whatever its weight, by antisymmetry; ∇H·f''(f, f) is not.
    assert structure.is_energy_preserving({**field, chain: field[chain] + 1}, 3)
    broken = {**field, bush: field[bush] + 1}
    assert structure.is_energy_preserving(broken, 2)
    assert not structure.is_energy_preserving(broken, 3)


def test_symplectic_methods_do_not_preserve_every_energy():
    equation = mq.modified_equation(SYMPLECTIC["implicit midpoint"], 3)
    assert not equation.is_energy_preserving()


def test_the_criteria_on_a_pendulum():
    """Energy drift ∇H·f̃ and divergence of f̃, on H = p²/2 + p q + cos q + q⁴/5, agree with the criteria."""
    q, p, h = sp.symbols("q p h")
    H = p**2 / 2 + p * q / 3 + sp.cos(q) + q**4 / 5
    f = [sp.diff(H, p), -sp.diff(H, q)]
    at = {q: 0.7, p: -0.4, h: 0.1}

    def drift(method):
        field = mq.modified_equation(method, 3).on(f, [q, p], h=h).components
        energy = sum(sp.diff(H, v) * c for v, c in zip((q, p), field, strict=True))
        divergence = sum(sp.diff(c, v) for v, c in zip((q, p), field, strict=True))
        return abs(float(energy.subs(at))), abs(float(divergence.subs(at)))

    midpoint, trapezoid = drift(SYMPLECTIC["implicit midpoint"]), drift(OTHERS["trapezoidal"])
    assert midpoint[1] < 1e-15 < 1e-6 < min(midpoint[0], trapezoid[1])


def test_several_fields_are_refused():
    decayed = mq.modified_equation(mq.GradientDescent().with_weight_decay(half), 2)
    with pytest.raises(mq.InvalidMethod, match=r"has the fields \[0, 1\]: this test is for one field"):
        decayed.is_hamiltonian()


RK4 = mq.RungeKutta(
    [[0, 0, 0, 0], [half, 0, 0, 0], [0, half, 0, 0], [0, 0, 1, 0]], [sixth, 2 * sixth, 2 * sixth, sixth]
)


@pytest.mark.parametrize(
    ("method", "accuracy", "symplectic"),
    [
        (RK4, 4, 4),
        (SYMPLECTIC["implicit midpoint"], 2, ORDER),
        (SYMPLECTIC["two stages"].subs(s, 1), 2, ORDER),
        (mq.GradientDescent(), 1, 1),
        (mq.HeavyBall(half), 0, 1),
        (mq.LinearMultistep([0, -1, 1], [-half, 3 * half]), 2, 2),
        (mq.QuasiHyperbolic(half, half), 1, 1),
    ],
)
def test_orders(method, accuracy, symplectic):
    """To the order of accuracy a method has every structure that the exact flow has."""
    equation, step = mq.modified_equation(method, ORDER), mq.memoryless_map(method, ORDER)
    assert equation.order_of_accuracy() == step.order_of_accuracy() == accuracy
    assert equation.hamiltonian_order() == step.symplectic_order() == symplectic
    assert equation.energy_preserving_order() >= accuracy


def test_a_method_of_no_order():
    field = mq.BSeriesField.from_coefficients({}, order=3)
    assert field.order_of_accuracy() == 0
    assert field.exponential().order_of_accuracy() == 0
    assert field.hamiltonian_order() == 3
