"""A polynomial reparametrisation φ(θ), given in sympy, as a straight-line program."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import comb, prod
from typing import Any

import sympy as sp
import torch

from modeq.errors import InvalidProblem
from modeq.symmetry.programs import Constant, Draw, Instruction, Linear, Multiply, Program

_MOST_TERMS = 500_000


def polynomials(phi: Any, variables: Any = None) -> tuple[list[sp.Poly], tuple[sp.Symbol, ...]]:
    """Return the entries of φ as polynomials with integer coefficients, without constants, and their variables.

    An entry is multiplied by its common denominator, which changes the direction of no gradient.

    Parameters
    ----------
    phi : sympy expression, Matrix, or a sequence of expressions
    variables : sequence of symbols, or None for those in φ, by name

    Raises
    ------
    InvalidProblem

    Examples
    --------
    >>> x, y = sp.symbols("x y")
    >>> polynomials([x * y / 2 + 1, 3])
    ([Poly(x*y, x, y, domain='ZZ')], (x, y))
    """
    entries = _entries(phi)
    symbols = set().union(*(entry.free_symbols for entry in entries))
    variables = sorted(symbols, key=str) if variables is None else variables
    variables = tuple(variables) if isinstance(variables, Iterable | sp.MatrixBase) else (variables,)
    if not all(isinstance(x, sp.Symbol) for x in variables) or len(set(variables)) < len(variables):
        raise InvalidProblem(f"input is {variables}: give the variables of φ, different sympy symbols")
    if missing := sorted(symbols - {*variables}, key=str):
        raise InvalidProblem(
            f"input is {variables}, without {', '.join(map(str, missing))} of the reparametrisation: give all its "
            "variables; symbols with other assumptions are others"
        )
    found = []
    for k, entry in enumerate(entries if variables else []):
        if _terms(entry) > _MOST_TERMS:
            raise InvalidProblem(
                f"entry {k} of the reparametrisation has up to {_terms(entry)} terms, more than {_MOST_TERMS}: give a "
                "smaller φ, or a torch module that computes it"
            )
        try:
            polynomial = sp.Poly(entry, *variables, domain="QQ")
        except (sp.PolynomialError, sp.CoercionFailed) as error:
            raise InvalidProblem(
                f"entry {k} of the reparametrisation, {entry}, is no polynomial with rational coefficients in "
                f"{', '.join(map(str, variables))}: give a polynomial, or a torch module that computes φ"
            ) from error
        polynomial -= polynomial.eval(dict.fromkeys(variables, 0))
        if not polynomial.is_zero:
            found.append(polynomial.clear_denoms(convert=True)[1])
    if not found:
        raise InvalidProblem("the reparametrisation is constant, so that nothing moves: give one of its variables")
    return found, variables


def _entries(phi: Any) -> list[Any]:
    try:
        entries = [sp.sympify(entry) for entry in (phi if isinstance(phi, Iterable | sp.MatrixBase) else [phi])]
    except sp.SympifyError:
        entries = [None]
    if not all(isinstance(entry, sp.Expr | sp.Poly) for entry in entries):
        raise InvalidProblem(f"{phi!r} is no reparametrisation: give sympy expressions, in one list, or a torch module")
    return entries


def _terms(expression: sp.Basic) -> int:
    """A bound of the number of terms, once products are expanded."""
    parts = [_terms(part) for part in expression.args]
    if isinstance(expression, sp.Add):
        return sum(parts)
    if isinstance(expression, sp.Mul):
        return prod(parts)
    if isinstance(expression, sp.Pow) and isinstance(expression.exp, sp.Integer) and expression.exp > 0:
        return comb(parts[0] + int(expression.exp) - 1, int(expression.exp))
    return 1


def program_of(phi: Sequence[sp.Poly], parameters: int) -> Program:
    """Return the program of random combinations of the entries of φ."""
    monomials = sorted({monomial for entry in phi for monomial in entry.monoms()})
    degree = max(sum(monomial) for monomial in monomials)
    factors = [[k for k, power in enumerate(monomial) for _ in range(power)] for monomial in monomials]
    count = len(monomials)
    instructions: list[Instruction] = [Constant((Fraction(1),))]
    for place in range(degree):
        take = [row[place] if place < len(row) else parameters for row in factors]
        instructions.append(Linear((0, 1), count, torch.tensor(take)))
        if place:
            instructions.append(Multiply((len(instructions) - 1, len(instructions)), "n,n->n", ((count,), (count,))))
    product = len(instructions)
    number = {monomial: k for k, monomial in enumerate(monomials)}
    terms = [
        (number[monomial], row, Fraction(int(c))) for row, entry in enumerate(phi) for monomial, c in entry.terms()
    ]
    taken, put, weights = zip(*terms, strict=True)
    plain = all(weight == 1 for weight in weights)
    instructions.append(
        Linear((product,), len(phi), torch.tensor(taken), torch.tensor(put), None if plain else weights)
    )
    instructions.append(Draw(len(phi)))
    shape = (1, len(phi))
    instructions.append(Multiply((product + 1, product + 2), "in,in->i", (shape, shape)))
    return Program(parameters, tuple(instructions))
