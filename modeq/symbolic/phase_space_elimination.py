"""The phase-space form with the derivatives of f written out in those of θ: as text, and on a concrete loss.

Along a path D^k f is a sum over the partitions of k (Faà di Bruno): D²f = f''(θ̇,θ̇) + f'(θ̈), ….
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import factorial
from typing import TYPE_CHECKING, Any

import sympy as sp
from sympy.utilities.iterables import partitions

from modeq.errors import InvalidOrder, InvalidProblem
from modeq.methods import arithmetic
from modeq.symbolic.differentials import latex_sum, text_sum, theta_latex
from modeq.symbolic.explicit_fields import (
    ExplicitDifferentials,
    ExplicitField,
    Vector,
    checked_step,
    concrete_fields,
)
from modeq.symbolic.phase_space_exact import PhaseSpaceCoefficients, phase_space_coefficients

if TYPE_CHECKING:
    from modeq.symbolic.phase_space import PhaseSpaceForm

Terms = list[tuple[sp.Expr, str]]


def path_partitions(k: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return D^k f along a path, k ≥ 1, as pairs (factor, (k₁, k₂, …)) for factor·f⁽ᵐ⁾(D^{k₁}θ, D^{k₂}θ, …).

    Examples
    --------
    >>> path_partitions(3)
    [(1, (3,)), (3, (1, 2)), (1, (1, 1, 1))]
    """
    result = []
    for partition in partitions(k):
        factor = factorial(k)
        for part, count in partition.items():
            factor //= factorial(part) ** count * factorial(count)
        result.append((factor, tuple(part for part in sorted(partition) for _ in range(partition[part]))))
    return result


@dataclass(frozen=True)
class _Style:
    """How sums and derivatives are written."""

    total: Callable[[Terms], str]
    theta: Callable[[int], str]
    round_bracket: str
    square_bracket: str
    order: str
    units: str

    def applied(self, parts: tuple[str, ...], index: str) -> str:
        """f⁽ᵐ⁾(parts)."""
        primes = "'" * len(parts) if len(parts) < 4 else self.order.format(len(parts))
        return f"f{index}{primes}({','.join(parts)})"


def _text_theta(k: int) -> str:
    return ("θ", "θ̇", "θ̈", "θ⃛")[k] if k < 4 else f"θ^({k})"


def rounded(coefficient: sp.Expr) -> sp.Expr:
    """Return a number that is not rational to six digits.

    Examples
    --------
    >>> rounded(sp.log(2)), rounded(sp.Rational(1, 3))
    (0.693147, 1/3)
    """
    if coefficient.is_Rational or coefficient.free_symbols:
        return coefficient
    return sp.Float(sp.re(sp.N(coefficient, 40, maxn=1000)), 6)


def shown(coefficient: sp.Expr) -> sp.Expr:
    """Return a coefficient as LaTeX shows it: floating numbers to six digits.

    Examples
    --------
    >>> shown(sp.Float("0.123456789012345", 15)), shown(sp.log(2))
    (0.123457, log(2))
    """
    return sp.Float(coefficient, 6) if coefficient.is_Float else coefficient


_LATEX = _Style(
    lambda terms: latex_sum([(shown(c), symbol) for c, symbol in terms]),
    theta_latex,
    r"\left({}\right)",
    r"\left[{}\right]",
    "^{{({})}}",
    r",\quad \dot\theta = h\,\tfrac{d\theta}{dt}",
)
_TEXT = _Style(
    lambda terms: text_sum([(rounded(c), symbol) for c, symbol in terms]),
    _text_theta,
    "({})",
    "[{}]",
    "^({})",
    ", θ̇ = h·dθ/dt",
)


def eliminated_latex(form: "PhaseSpaceForm") -> str:
    """Return the equation in θ̇, θ̈, … as LaTeX; see :meth:`PhaseSpaceForm.latex`."""
    return _equation(form, _LATEX)


def eliminated_text(form: "PhaseSpaceForm") -> str:
    """Return the equation in θ̇, θ̈, … as text, numbers to six digits."""
    return _equation(form, _TEXT)


def _equation(form: "PhaseSpaceForm", style: _Style) -> str:
    """Return c Q(D)θ = h [Σ R_jk D^k Q(D)^j f], every D^k Q^j f written out."""
    found = phase_space_coefficients(form.method, form.order, form.expansion)
    K, exact = found.exact.field, found.exact
    monic = [c / found.q[-1] for c in found.q]
    left = _along_text([exact.expression(c) for c in monic], style)
    scale = exact.expression(found.q[-1])
    if scale != 1:
        bracketed = style.round_bracket.format(left) if len(form.q) > 1 else left
        left = style.total([(scale, bracketed)])
    single = len(form.r) - len(form.method.decay) == 1
    right: Terms = []
    for colour in form.r:
        power = [K.one]
        for digit in found.digits(colour):
            for k, c in enumerate(digit):
                if c:
                    factor, symbol = _acting(form, colour, [K.zero] * k + power, found, style, single)
                    right.append((sp.Mul(exact.expression(c), factor), symbol))
            power = arithmetic.product(power, monic, K)
    return f"{left} = h{style.square_bracket.format(style.total(right))}{style.units}"


def _along_text(weights: list[sp.Expr], style: _Style) -> str:
    """Σ weight_k D^k θ, the highest derivative first."""
    return style.total([(weight, style.theta(k)) for k, weight in enumerate(weights)][::-1])


def _acting(
    form: "PhaseSpaceForm",
    colour: int,
    operator: arithmetic.Vector,
    found: PhaseSpaceCoefficients,
    style: _Style,
    single: bool,
) -> tuple[sp.Expr, str]:
    """P(D) f_c for a polynomial P, as a factor and what it multiplies: the part linear in the path gathered in f'."""
    weights = [found.exact.expression(c) for c in operator]
    along = _along_text(weights, style)
    if colour in form.method.decay:
        alone = sum(weight != 0 for weight in weights) == 1
        return -form.method.decay[colour], along if alone else style.round_bracket.format(along)
    index = "" if single else f"_{colour + 1}"
    if len(weights) == 1:
        return sp.Integer(1), f"f{index}"
    products: dict[tuple[int, ...], sp.Expr] = {}
    for k, weight in enumerate(weights):
        for factor, parts in path_partitions(k) if k and weight != 0 else []:
            if len(parts) > 1:
                products[parts] = factor * weight
    terms = [(c, style.applied(tuple(map(style.theta, parts)), index)) for parts, c in sorted(products.items())]
    terms.append((sp.Integer(1), style.applied((along,), index)))
    written = style.total(terms)
    return sp.Integer(1), written if len(terms) == 1 else style.round_bracket.format(written)


def highest_derivative(form: "PhaseSpaceForm", loss_or_field: Any, variables: Any, h: Any) -> ExplicitField:
    """Return the form on a loss as θ', …, θ⁽ᵐ⁾ in θ, …, θ⁽ᵐ⁻¹⁾; see :meth:`PhaseSpaceForm.on`."""
    fields, symbols = concrete_fields(loss_or_field, variables, form.method)
    step = checked_step(h, symbols, divides=True)
    m, degree = len(form.q), max(len(row) for row in form.r.values()) - 1
    if degree >= 2 * m:
        raise InvalidOrder(
            f"{form!r} has derivatives of f up to D^{degree}, in which products of unknown derivatives of θ stand: a "
            f"closed form exists for at most {2 * m - 1}; take a lower order, or let modeq.flow solve for them"
        )
    top = max(degree, m)
    names = [symbols, *(tuple(sp.Symbol(v.name + "'" * k) for v in symbols) for k in range(1, m))]
    taken = set(symbols) | step.free_symbols | form.method.free_symbols
    if clash := taken & {name for row in names[1:] for name in row}:
        raise InvalidProblem(f"{sorted(map(str, clash))} would name derivatives of the variables: rename them")
    unknown = [tuple(sp.Dummy(f"{v.name}{k}") for v in symbols) for k in range(m, top + 1)]
    # The path in derivatives per step, as h^k times those in time.
    path = [tuple(step**k * name for name in row) for k, row in enumerate(names)] + unknown
    derivatives = [derivatives_along(ExplicitDifferentials(fields, symbols), colour, path, degree) for colour in form.r]
    q, r, coefficients = _named(form)
    equations = []
    for j in range(top - m + 1):
        for i in range(len(symbols)):
            left = sp.Add(*(c * path[k + j][i] for k, c in enumerate(q, start=1)))
            right = [row[k] * derivatives[c][k + j][i] for c, row in r.items() for k in range(degree + 1 - j)]
            equations.append(left - step * sp.Add(*right))
    matrix, rest = sp.linear_eq_to_matrix(equations, [name for row in unknown for name in row])
    solution = (matrix.adjugate() * rest)[: len(symbols)]
    scale = step**m * matrix.det(method="berkowitz")
    velocities = [name for row in names[1:] for name in row]
    components = [*velocities, *((value / scale).xreplace(coefficients) for value in solution)]
    return ExplicitField(tuple(name for row in names for name in row), tuple(components), step)


def _named(form: "PhaseSpaceForm") -> tuple[Vector, dict[int, Vector], dict[sp.Expr, sp.Expr]]:
    """Return q and r with names for the coefficients that are not rational, so that linear algebra stays short."""
    names: dict[sp.Expr, sp.Expr] = {}

    def named(row: tuple[sp.Expr, ...]) -> Vector:
        return tuple(c if c.is_Rational else names.setdefault(c, sp.Dummy("c")) for c in row)

    q, r = named(form.q), {colour: named(row) for colour, row in form.r.items()}
    return q, r, {name: value for value, name in names.items()}


def derivatives_along(
    differentials: ExplicitDifferentials, colour: int, path: list[Vector], degree: int
) -> list[Vector]:
    """Return f, Df, …, D^degree f of one colour along the path θ = path[0], Dθ = path[1], ….

    Examples
    --------
    >>> x, u = sp.symbols("x u")
    >>> derivatives_along(ExplicitDifferentials([(x**2,)], [x]), 0, [(x,), (u,)], 1)
    [(x**2,), (2*u*x,)]
    """
    indices = range(len(differentials.variables))
    levels = [tuple(differentials.derivative(colour, i, ()) for i in indices)]
    for k in range(1, degree + 1):
        levels.append(
            tuple(
                sp.Add(
                    *(
                        factor
                        * differentials.multilinear(
                            partial(differentials.derivative, colour, i), [path[part] for part in parts]
                        )
                        for factor, parts in path_partitions(k)
                    )
                )
                for i in indices
            )
        )
    return levels
