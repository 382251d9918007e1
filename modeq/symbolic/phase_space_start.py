"""Where a phase-space form starts: θ and its first derivatives, from any buffers, as B-series at θ₀."""

from dataclasses import dataclass, field
from math import comb, factorial
from typing import Any

import sympy as sp

from modeq.methods.arithmetic import Element
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import coefficient_field, tidy
from modeq.symbolic.b_series import BSeries
from modeq.symbolic.exponential_polynomials import LinearRecurrence, Sequence
from modeq.symbolic.iterates import first_state, iterated, readout
from modeq.symbolic.phase_space_exact import WrittenCoefficients
from modeq.symbolic.rooted_trees import checked_order


@dataclass(frozen=True)
class Mode:
    """A product of eigenvalues, known by its exponents: products of equal value may differ in their logarithms."""

    exponents: tuple[int, ...]
    value: Element = field(compare=False)

    def __mul__(self, other: "Mode") -> "Mode":
        exponents = tuple(a + b for a, b in zip(self.exponents, other.exponents, strict=True))
        return Mode(exponents, self.value * other.value)

    def __pow__(self, n: int) -> Element:
        """Its value after n steps."""
        return self.value**n


class _Modes(LinearRecurrence):
    """The recurrence on sequences whose factors are :class:`Mode`."""

    def __init__(self, A: sp.MatrixBase, field: Any) -> None:
        super().__init__(A, field)
        K = self.field
        self.rates = [mu for mu in self.eigenvalues if mu not in (K.zero, K.one)]
        self.one: Any = Mode((0,) * len(self.rates), K.one)
        self.modes = {K.one: self.one}
        for i, mu in enumerate(self.rates):
            self.modes[mu] = Mode(tuple(int(i == j) for j in range(len(self.rates))), mu)

    def _particular(self, mu: Mode, forcing: list[list[Element]]) -> list[list[Element]]:
        return super()._particular(mu.value, forcing)

    def _homogeneous(self, value: list[Element], at: int) -> dict[Element, list[list[Element]]]:
        return {self.modes[mu]: polynomials for mu, polynomials in super()._homogeneous(value, at).items()}


def phase_space_start(
    method: GeneralLinearMethod, kept: tuple[sp.Expr, ...], count: int, order: int, buffers: Any
) -> tuple[BSeries, ...]:
    """Return θ(0) − θ₀, θ'(0), … (`count` of them) of the part of the iterates without left-out transients.

    The iterates are exponential polynomials in n, Σ μⁿ·poly(n) over products μ of the eigenvalues of the
    method, tree by tree. The terms whose factors are all 1 or kept poles obey the phase-space form by
    themselves, because products with other transients stay such; read for real n, with ln μ the sum of the
    logarithms of the factors, they are the solution that is asked for. See :meth:`PhaseSpaceForm.start`.
    """
    number = checked_order(order)
    first = first_state(method, buffers)
    recurrence = _Modes(method.A, coefficient_field([*method.entries, *first]))
    table, states = iterated(method, number, first, recurrence)
    paths = readout(method, states, recurrence)
    rates, names = _kept_rates(recurrence, kept)
    values = [[_derivative(path, k, rates, recurrence, names) for path in paths] for k in range(count)]
    return tuple(
        BSeries.of(method, WrittenCoefficients(table, tuple(row), sp.EX), offset=k) for k, row in enumerate(values)
    )


def _kept_rates(recurrence: _Modes, kept: tuple[sp.Expr, ...]) -> tuple[list[sp.Expr | None], dict[sp.Expr, sp.Expr]]:
    """For each mode a name for the logarithm of the kept pole that it is, or None; and what the names stand for."""
    K = recurrence.field

    def same(mu: sp.Expr, pole: sp.Expr) -> bool:
        difference = mu - pole
        if difference.free_symbols:
            return bool(sp.simplify(difference) == 0)
        return bool(abs(sp.N(difference, 40)) < sp.Rational(1, 10**30))

    rates: list[sp.Expr | None] = []
    names: dict[sp.Expr, sp.Expr] = {}
    for mu in recurrence.rates:
        found = [pole for pole in kept if same(K.to_sympy(mu), pole)]
        rates.append(sp.Dummy("log_p") if found else None)
        if found:
            names[rates[-1]] = sp.log(found[0])
    return rates, names


def _derivative(
    path: Sequence, k: int, rates: list[sp.Expr | None], recurrence: _Modes, names: dict[sp.Expr, sp.Expr]
) -> sp.Expr:
    """The k-th derivative of the kept part at n = 0: Σ c_j (d/dn)ᵏ[nʲ e^{Λn}] = Σ c_j C(k, j) j! Λ^{k−j}."""
    K = recurrence.field
    terms = []
    for mode, polynomial in path.tail.items():
        used = [(rate, e) for rate, e in zip(rates, mode.exponents, strict=True) if e]
        if any(rate is None for rate, _ in used):
            continue
        total = sp.Add(*(e * rate for rate, e in used))
        for j, c in enumerate(polynomial[: k + 1]):
            terms.append(K.to_sympy(c) * comb(k, j) * factorial(j) * total ** (k - j))
    value = sp.Add(*terms)
    if K.is_Algebraic:
        return sp.re(sp.expand_complex(value.xreplace(names)))
    return (tidy(value) if K.is_FractionField else sp.expand(value)).xreplace(names)
