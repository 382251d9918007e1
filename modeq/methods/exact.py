"""Exact entries of methods: what a user may write, and the field the arithmetic is done in."""

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import sympy as sp
from sympy.polys.domains.domain import Domain

from modeq.errors import InvalidMethod


def exact(value: Any, argument: str = "entry") -> sp.Expr:
    """Return `value` as an exact sympy expression.

    Integers, fractions and sympy expressions stay as they are. A float is read as the decimal
    number that prints it, so ``0.9`` becomes ``9/10`` (and converts back to the same float).

    Raises
    ------
    InvalidMethod
        If `value` is not a finite real number, nor a rational function of symbols.

    Examples
    --------
    >>> exact(0.9), exact(2), exact(sp.Symbol("beta") / 2)
    (9/10, 2, beta/2)
    """
    if isinstance(value, bool | np.bool_ | str) or value is None:
        raise InvalidMethod(f"{argument} is {value!r}: give a number or a sympy expression")
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            raise InvalidMethod(f"{argument} is {value!r}: give a finite number")
        return sp.Rational(Fraction(repr(float(value))))
    try:
        expression = sp.sympify(value)
    except (sp.SympifyError, TypeError) as error:
        raise InvalidMethod(f"{argument} is {value!r}: give a number or a sympy expression") from error
    if not isinstance(expression, sp.Expr) or not expression.is_commutative:
        raise InvalidMethod(f"{argument} is {value!r}: give a number or a sympy expression")
    if expression.has(sp.zoo, sp.nan, sp.oo, -sp.oo):
        raise InvalidMethod(
            f"{argument} is {expression}: it must be finite; where a substitution made a denominator vanish, build the "
            "method with that value instead"
        )
    expression = expression.replace(lambda e: e.is_Float, lambda e: exact(float(e)))
    if not expression.is_rational_function(*expression.free_symbols) or _has_irrational_number(expression):
        raise InvalidMethod(
            f"{argument} is {value!r}: entries must be rational numbers or rational functions of symbols; "
            "write an irrational number as a symbol, or as a decimal float"
        )
    return expression


def exact_row(values: Any, argument: str) -> list[sp.Expr]:
    """Return a sequence of numbers or expressions, each exactly.

    Examples
    --------
    >>> exact_row([0.5, 1], "b")
    [1/2, 1]
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidMethod(f"{argument} is {values!r}: give a sequence of numbers")
    return [exact(value, f"{argument}[{i}]") for i, value in enumerate(values)]


class FrozenMapping(Mapping[Any, Any]):
    """A mapping that cannot change, so that a frozen method stays what it was checked to be.

    Examples
    --------
    >>> FrozenMapping({1: 2})
    {1: 2}
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[Any, Any]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, key: Any) -> Any:
        return self._entries[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return repr(self._entries)


def checked_rate(value: Any, argument: str) -> sp.Expr:
    """Return a rate of weight decay exactly: not negative if it is a number.

    Examples
    --------
    >>> checked_rate(0.25, "weight decay")
    1/4
    """
    rate = exact(value, argument)
    if rate.is_number and rate < 0:
        raise InvalidMethod(f"{argument} is {value!r}: give a number that is not negative, 0.0005 for instance")
    return rate


def _has_irrational_number(expression: sp.Expr) -> bool:
    return any(not atom.is_Rational for atom in expression.atoms(sp.Number, sp.NumberSymbol, sp.I)) or any(
        not power.exp.is_Integer for power in expression.atoms(sp.Pow)
    )


def exact_matrix(rows: Any, argument: str, shape: tuple[int | None, int | None]) -> sp.ImmutableMatrix:
    """Return `rows` (a matrix, nested lists or an array) exactly, after a check of its shape.

    ``None`` in `shape` leaves that length free.
    """
    if isinstance(rows, sp.MatrixBase):
        rows = rows.tolist()
    try:
        table = [list(row) for row in rows]
    except TypeError as error:
        raise InvalidMethod(f"{argument} is {rows!r}: give a matrix, as a list of rows") from error
    widths = {len(row) for row in table}
    if len(widths) > 1:
        raise InvalidMethod(f"{argument} has rows of different lengths {sorted(widths)}: give rows of one length")
    found = (len(table), widths.pop() if widths else 0)
    if any(want is not None and want != have for want, have in zip(shape, found, strict=True)):
        wanted = " x ".join("any" if want is None else str(want) for want in shape)
        raise InvalidMethod(f"{argument} has shape {found[0]} x {found[1]}, it must be {wanted}")
    entries = [exact(entry, f"{argument}[{i}, {j}]") for i, row in enumerate(table) for j, entry in enumerate(row)]
    return sp.ImmutableMatrix(*found, entries)


def coefficient_field(entries: Iterable[sp.Expr]) -> Domain:
    """Return ℚ, or the field of rational functions over ℚ in the symbols that occur in `entries`.

    Examples
    --------
    >>> coefficient_field([sp.Rational(1, 2), sp.Symbol("beta")])
    QQ(beta)
    """
    symbols = sorted(set().union(*(entry.free_symbols for entry in entries)), key=lambda s: s.name)
    if len({symbol.name for symbol in symbols}) < len(symbols):
        raise InvalidMethod(
            f"two different symbols share a name in {symbols}: create each once, with the same assumptions"
        )
    return sp.QQ.frac_field(*symbols) if symbols else sp.QQ


def tidy(expression: sp.Expr) -> sp.Expr:
    """Return a rational function factored, with powers of 1 − β rather than of β − 1.

    Examples
    --------
    >>> beta = sp.Symbol("beta")
    >>> tidy((beta + 1) / (2 * beta**2 - 4 * beta + 2) / (beta - 1))
    -(beta + 1)/(2*(1 - beta)**3)
    """
    number, powers = sp.Integer(1), []
    for factor in sp.Mul.make_args(sp.factor(expression)):
        base, exponent = factor.as_base_exp()
        if base.is_Number:
            number *= factor
        elif base.is_Add and base.as_coeff_Add()[0] < 0:
            number *= (-1) ** exponent
            powers.append(sp.expand(-base) ** exponent)
        else:
            powers.append(factor)
    return scaled(number, sp.Mul(*powers))


def tidy_element(value: Any, field: Domain) -> sp.Expr:
    """Return an element of a coefficient field as :func:`tidy` would, factored inside its own ring, which is faster.

    Examples
    --------
    >>> K = coefficient_field([sp.Symbol("beta")])
    >>> tidy_element(K.from_sympy(1 / (2 - 2 * sp.Symbol("beta"))), K)
    1/(2*(1 - beta))
    """
    if not field.is_FractionField:
        return field.to_sympy(value) if field.is_QQ else tidy(field.to_sympy(value))
    number, powers = sp.Integer(1), []
    for polynomial, side in ((value.numer, 1), (value.denom, -1)):
        content, factors = polynomial.factor_list()
        number *= field.domain.to_sympy(content) ** side
        for factor, exponent in factors:
            negative = factor.coeff(1) < 0
            number *= (-1) ** exponent if negative else 1
            powers.append((-factor if negative else factor).as_expr() ** (side * exponent))
    return scaled(number, sp.Mul(*powers))


def scaled(number: sp.Rational, expression: sp.Expr) -> sp.Expr:
    """Return number·expression, without sympy's multiplying the number into a lone sum.

    Examples
    --------
    >>> scaled(sp.Rational(1, 2), 1 - sp.Symbol("beta"))
    (1 - beta)/2
    """
    if expression.is_Add and number != 1:
        return sp.Mul(number, expression, evaluate=False)
    return number * expression
