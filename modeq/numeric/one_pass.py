"""Explicit stages from which N gradients give the modified field of order N, as a Runge–Kutta method would."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import permutations

import sympy as sp

from modeq.methods.base import GeneralLinearMethod
from modeq.symbolic.equation import modified_equation
from modeq.symbolic.rooted_trees import Tree

HIGHEST = 4  # with five gradients no scheme has order 5
_MULTIPLES = tuple(sp.Rational(k, 4) for k in (-8, -4, 2, 3, 4, 6, 8, 10, 12, 16))
_TREES = {
    "B0": [],
    "B1": [[]],
    "B2": [[], []],
    "B3": [[], [], []],
    "E1": [[[]]],
    "E2": [[[]], []],
    "E3": [[[], []]],
    "E4": [[[[]]]],
}


@dataclass(frozen=True)
class OnePass:
    """A tableau: F_i = f(θ + h Σ_{j<i} a_ij F_j), f̃ = Σ b_i F_i."""

    a: tuple[tuple[sp.Expr, ...], ...]
    b: tuple[sp.Expr, ...]

    @property
    def size(self) -> sp.Expr:
        """How much larger than the result the terms are of which it is the sum, and the stages than their nodes."""
        weights = sum(map(abs, self.b)) / abs(sum(self.b))
        first = abs(self.a[1][0])
        return weights + sum(abs(entry) for row in self.a[1:] for entry in row) / first / 4


@lru_cache(maxsize=64)
def one_pass(method: GeneralLinearMethod, order: int) -> OnePass | None:
    """Return stages whose B-series has the coefficients b(τ) of the modified field for all trees through `order`.

    The nodes c_i are multiples of b([•])/b(•), or of a like scale where b([•]) = 0. The weights b_i follow from the
    bushes, Σ b_i c_i^k = b([•, …, •]), the a_ij from the other trees linearly; at order 4 the tallest tree fixes the
    last node,

        c₄ = (E₂ − w(B₃ − c₂B₂)) / (E₁ + w(c₂B₁ − B₂)),    w = E₄/(E₃ − c₂E₁),

    where B_k are the bushes with k leaves, E₁ = [[•]], E₂ = [[•],•], E₃ = [[•,•]], E₄ = [[[•]]]. Of all candidates
    the one with the smallest terms is taken.

    Parameters
    ----------
    method : GeneralLinearMethod
        With numbers, whose queries are all at θ. Of several colours the first counts.
    order : int from 1 to 4

    Returns
    -------
    OnePass, or None if no candidate exists; of one stage if the terms of the orders 2, …, `order` vanish

    Examples
    --------
    >>> import modeq as mq
    >>> scheme = one_pass(mq.HeavyBall(momentum=0.5), 2)
    >>> scheme.a, scheme.b  # f(θ) moved by h·b([•])/b(•) f(θ) alone
    (((), (-3,)), (0, 2))
    """
    series = modified_equation(method, order)
    value = {name: series[Tree(children)] for name, children in _TREES.items() if Tree(children).order <= order}
    if all(coefficient == 0 for name, coefficient in value.items() if name != "B0"):
        return OnePass(((),), (value["B0"],))
    scale = _scale(value)
    candidates = [_tableau(scale * c2, scale * c3, order, value) for c2, c3 in permutations(_MULTIPLES, 2)]
    return min(filter(None, candidates), key=lambda tableau: tableau.size, default=None)


def _scale(value: dict[str, sp.Expr]) -> sp.Expr:
    """The size of h·f at which the terms of the series become alike, with the sign of the first."""
    if value["B1"] != 0:
        return value["B1"] / value["B0"]
    powers = {name: Tree(_TREES[name]).order - 1 for name in value if name != "B0"}
    sizes = [abs(float(value[name] / value["B0"])) ** (1 / power) for name, power in powers.items()]
    return sp.Rational(Fraction(max(sizes)).limit_denominator(100))


def _tableau(c2: sp.Expr, c3: sp.Expr, order: int, value: dict[str, sp.Expr]) -> OnePass | None:
    """The tableau with these nodes, the second of which does not count at order 2; None if there is none."""
    c = [sp.Integer(0), c2, c3][:order]
    if order == 4:
        w = _ratio(value["E4"], value["E3"] - c2 * value["E1"])
        c4 = _ratio(
            value["E2"] - w * (value["B3"] - c2 * value["B2"]), value["E1"] + w * (c2 * value["B1"] - value["B2"])
        )
        c.append(c4)
    if not all(node.is_finite for node in c) or len(set(c)) < order:
        return None
    powers = sp.Matrix(order, order, lambda k, i: c[i] ** k)
    b = list(powers.LUsolve(sp.Matrix([value[f"B{k}"] for k in range(order)])))
    if b[-1] == 0 or (order == 4 and b[2] == 0):
        return None
    if order == 2:
        a: tuple[tuple[sp.Expr, ...], ...] = ((), (c2,))
    elif order == 3:
        a32 = value["E1"] / (b[2] * c2)
        a = ((), (c2,), (c3 - a32, a32))
    else:
        u3 = (value["E2"] - c4 * value["E1"]) / (b[2] * (c3 - c4))  # Σ_j a_3j c_j, and u4 alike
        u4 = (value["E2"] - c3 * value["E1"]) / (b[3] * (c4 - c3))
        a43 = (value["E3"] - c2 * value["E1"]) / (b[3] * c3 * (c3 - c2))
        a32, a42 = u3 / c2, (u4 - a43 * c3) / c2
        a = ((), (c2,), (c3 - a32, a32), (c4 - a42 - a43, a42, a43))
    return OnePass(a, tuple(b))


def _ratio(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    return sp.zoo if b == 0 else a / b
