"""The exact coefficients of the phase-space form: interpolation of r at 0 and at the logarithms of the poles.

Poles that are no rational functions of the symbols, and all logarithms, are formal generators of the coefficient
field; they become expressions only when a coefficient is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any, Literal

import sympy as sp
from sympy.polys.domains.domain import Domain
from sympy.polys.polyerrors import CoercionFailed

from modeq.errors import InvalidMethod, choice
from modeq.methods.arithmetic import Element, Vector, exponential_series, reciprocal, series_product
from modeq.methods.base import GeneralLinearMethod, z
from modeq.methods.exact import coefficient_field, tidy_element
from modeq.symbolic.rooted_trees import TreeTable
from modeq.symbolic.series import Coefficients

Expansion = Literal["derivatives", "hermite", "powers"]
EXPANSIONS: tuple[Expansion, ...] = ("derivatives", "hermite", "powers")
SMALLEST_POLE = sp.exp(-2 * sp.pi)
_BITS, _DIGITS = 1000, 300  # of the numbers that stand for poles without a closed form


@lru_cache(maxsize=64)
def poles_of(method: GeneralLinearMethod) -> tuple[tuple[sp.Expr, ...], tuple[sp.Expr, ...]]:
    """Return the poles of the transfer functions to θ besides 1: those kept and those left out.

    Left out are zero, negative poles and those below e^{−2π}.

    Examples
    --------
    >>> import modeq as mq
    >>> poles_of(mq.OptimisticGradient()), poles_of(mq.HeavyBall(momentum=0.9))
    (((), (0,)), ((9/10,), ()))
    """
    kept: list[sp.Expr] = []
    left_out: list[sp.Expr] = []
    for root in _roots(sp.cancel(_denominator(method) / (z - 1))):
        negligible = root.is_number and (
            (abs(sp.im(root)) < 1e-40 and sp.re(root) <= 0) or sp.N(abs(root) - SMALLEST_POLE, 30) < 0
        )
        (left_out if negligible else kept).append(root)
    return tuple(kept), tuple(left_out)


def hidden_eigenvalues(method: GeneralLinearMethod, kept: tuple[sp.Expr, ...]) -> tuple[sp.Expr, ...]:
    """Return the eigenvalues whose states move θ but see no gradient: they are no poles; less those in `kept`.

    Their transients come from the start alone.

    Examples
    --------
    >>> import modeq as mq
    >>> hidden_eigenvalues(mq.PID(0.6, derivative=2), ()), hidden_eigenvalues(mq.HeavyBall(0.6), ())
    ((0,), ())
    """
    seen = _common_denominator(method.readout * method.resolvent)
    return tuple(root for root in _roots(sp.cancel(seen / _denominator(method))) if root not in kept)


def _roots(expression: sp.Expr) -> list[sp.Expr]:
    """The roots of a polynomial in z, repeated as often as they occur; numbers where there is no closed form."""
    found: list[sp.Expr] = []
    for factor, multiplicity in sp.factor_list(expression, z)[1]:
        polynomial = sp.Poly(factor, z)
        # Real roots written by Cardano's formula are complex to sympy, so numbers are better.
        radicals = bool(factor.free_symbols - {z})
        roots = sp.roots(polynomial, cubics=radicals, quartics=radicals)
        if sum(roots.values()) < polynomial.degree():
            roots = dict.fromkeys(polynomial.nroots(n=_DIGITS, maxsteps=500), 1)
        for root, count in roots.items():
            found += [root] * (count * multiplicity)
    return found


@lru_cache(maxsize=64)
def _denominator(method: GeneralLinearMethod) -> sp.Expr:
    """The monic common denominator of the transfer functions to θ."""
    return _common_denominator(method.readout_transfer_function(z))


def _common_denominator(row: sp.MatrixBase) -> sp.Expr:
    polynomial = sp.Poly(sp.lcm_list([sp.fraction(sp.cancel(entry))[1] for entry in row]), z)
    return sp.cancel(polynomial.as_expr() / polynomial.LC())


def _is_element(pole: sp.Expr, K: Domain) -> bool:
    """Whether a pole is in the field, exactly."""
    if pole.has(sp.Float):
        return False
    try:
        K.from_sympy(pole)
    except (CoercionFailed, ValueError):
        return False
    return True


class PoleField:
    """ℚ(symbols) with generators for the logarithms of the kept poles, in which coefficients are computed.

    A pole that is no rational function of the symbols is a generator too. If it is a number, an exact field
    would be slow; then all numbers have 300 digits, and coefficients are returned to 60.

    Attributes
    ----------
    kept, left_out : the poles besides 1, repeated as often as they occur; see :func:`poles_of`
    distinct : the kept poles, each once
    method_field : ℚ(symbols), the field of the entries of the method
    base : that field with the poles
    field : the whole field, with the logarithms of the kept poles
    poles : each pole as an element of `base`
    logs : the logarithms of the `distinct` kept poles, elements of `field`

    Examples
    --------
    >>> import modeq as mq
    >>> exact = PoleField(mq.HeavyBall(momentum=0.9))
    >>> exact.expression(exact.logs[0] ** 2 / 2)
    log(9/10)**2/2
    """

    def __init__(self, method: GeneralLinearMethod) -> None:
        self.kept, self.left_out = poles_of(method)
        self.distinct = tuple(dict.fromkeys(self.kept))
        self.method_field = K = coefficient_field(method.entries)
        every = tuple(dict.fromkeys((*self.kept, *self.left_out)))
        irrational = [pole for pole in every if not _is_element(pole, K)]
        self._names: dict[sp.Expr, sp.Expr] = {}
        if K.is_QQ and irrational:
            self.base = self.field = sp.ComplexField(prec=_BITS)
            self.poles = {pole: self.base.from_sympy(sp.N(pole, _DIGITS)) for pole in every}
            self.logs = [self.base.from_sympy(sp.N(sp.log(pole), _DIGITS)) for pole in self.distinct]
            return
        names = {pole: sp.Dummy("p") for pole in irrational}
        logs = {pole: sp.Dummy("log_p") for pole in self.distinct}
        symbols = [*([] if K.is_QQ else K.symbols), *names.values()]
        self.base = sp.QQ.frac_field(*symbols) if symbols else K
        self.field = sp.QQ.frac_field(*symbols, *logs.values()) if logs else self.base
        self.poles = {pole: self.base.from_sympy(names.get(pole, pole)) for pole in every}
        self.logs = [self.field.from_sympy(log) for log in logs.values()]
        self._names = {name: pole for pole, name in names.items()}
        self._names |= {name: sp.log(pole) for pole, name in logs.items()}

    def lift(self, value: Element) -> Element:
        """An element of `base` in `field`."""
        return self.field.convert_from(value, self.base)

    def expression(self, value: Element) -> sp.Expr:
        """An element of `field` as an expression."""
        if self.field.is_CC:
            number = self.field.to_sympy(value)
            return sp.re(number).n(60) if abs(number) > sp.Rational(1, 10**100) else sp.Integer(0)
        return tidy_element(value, self.field).xreplace(self._names)

    def series(self, table: TreeTable, values: Vector) -> Coefficients:
        """One element of `field` for each tree; in the method's own coefficient field if no pole is left in them."""
        plain = [self.field.to_sympy(value) for value in values]
        if not self.field.is_CC and not any(value.free_symbols & self._names.keys() for value in plain):
            K = self.method_field
            return Coefficients(table, tuple(K.from_sympy(value) for value in plain), K)
        return WrittenCoefficients(table, tuple(self.expression(value) for value in values), sp.EX)


class WrittenCoefficients(Coefficients):
    """Coefficients that are written expressions, with logarithms of poles in them."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.table, self.values, sp.EX)

    @cached_property
    def expressions(self) -> list[sp.Expr]:
        """The coefficients."""
        return list(self.values)


@dataclass(frozen=True)
class PhaseSpaceCoefficients:
    """q as (0, q₁, …, q_m) and r of each colour as (r₀, r₁, …), elements of `exact.field`."""

    exact: PoleField
    q: Vector
    r: dict[int, Vector]

    def digits(self, colour: int) -> list[Vector]:
        """The polynomials R_j of degree below m with r = Σ_j R_j Q^j, Q = q/q_m."""
        K = self.exact.field
        monic = [c / self.q[-1] for c in self.q]
        rest, result = list(self.r[colour]), []
        while rest:
            quotient, remainder = _divided(rest, monic, K)
            result.append(remainder + [K.zero] * (len(monic) - 1 - len(remainder)))
            rest = quotient
        return result


@lru_cache(maxsize=64)
def phase_space_coefficients(method: GeneralLinearMethod, order: int, expansion: Expansion) -> PhaseSpaceCoefficients:
    """Return q and the polynomial r of a phase-space form, exactly.

    With λ_i = ln p_i, q(ζ) = c ζ Π(ζ − λ_i) and r(ζ) = q(ζ) G(e^ζ). All expansions interpolate r at 0 and at the
    λ_i and differ in the multiplicity of the nodes only: "derivatives" 0 alone, `order` times (Taylor); "hermite"
    each λ_i once more, and as often as it is a pole; "powers" all of them `order` times, which is r modulo q^order.
    Highest coefficients that vanish for every colour are left out.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> found = phase_space_coefficients(mq.GradientDescent(), 3, "derivatives")
    >>> [str(c) for c in found.r[0]]
    ['1', '-1/2', '1/12']
    """
    exact = PoleField(method)
    K = exact.field
    all_poles = [sp.Integer(1), *exact.kept]
    logs = dict(zip((sp.Integer(1), *exact.distinct), (K.zero, *exact.logs), strict=True))
    block = [logs[pole] for pole in all_poles]
    nodes = {
        "derivatives": [K.zero] * order,
        "hermite": [K.zero] * order + block[1:],
        "powers": block * order,
    }[expansion]
    transfers = [_Transfer(method, colour, exact) for colour in range(method.colour_count)]
    residue = exact.lift(transfers[0].at(sp.Integer(1), 1)[0])  # g₋₁
    scale = K.one / residue
    for log in block[1:]:
        scale = -scale / log
    q = [K.zero, scale]
    for log in block[1:]:
        q = _times_linear(q, log, K)
    r = {}
    for transfer in transfers:
        taylor = {}
        for pole, log in logs.items():
            if terms := nodes.count(log):
                series = [exact.lift(g) for g in transfer.at(pole, terms)]
                for other in all_poles:
                    if other != pole:  # the factor ζ − λ of q, about λ_pole
                        gap = log - logs[other]
                        series = [gap * g + (series[k - 1] if k else K.zero) for k, g in enumerate(series)]
                taylor[log] = [q[-1] * g for g in series]
        r[transfer.colour] = interpolated(nodes, taylor, K)
    degree = max(k for row in r.values() for k, c in enumerate(row) if c)
    return PhaseSpaceCoefficients(exact, q, {colour: row[: degree + 1] for colour, row in r.items()})


class _Transfer:
    """The transfer function of one colour to θ, and its expansion about each pole."""

    def __init__(self, method: GeneralLinearMethod, colour: int, exact: PoleField) -> None:
        self.colour, self.K = colour, exact.base
        row = method.readout_transfer_function(z)
        transfer = sp.Add(*(row[j] for j, c in enumerate(method.colours) if c == colour))
        numerator = sp.Poly(sp.cancel(transfer * _denominator(method)), z)
        self.numerator = [self.K.from_sympy(c) for c in numerator.all_coeffs()[::-1]]
        self.poles = [self.K.one] + [exact.poles[pole] for pole in (*exact.kept, *exact.left_out)]
        self.exact = exact

    def at(self, pole: sp.Expr, terms: int) -> Vector:
        """Taylor coefficients in ε of ε^μ G(p e^ε), μ the multiplicity of the pole p."""
        K = self.K
        p = K.one if pole == 1 else self.exact.poles[pole]
        top = exponential_series([c * p**k for k, c in enumerate(self.numerator)], terms, K)
        bottom = [K.one] + [K.zero] * (terms - 1)
        for other in self.poles:
            factor = exponential_series([-other, p], terms + 1, K)  # of p e^ε − other, over ε where that is 0 at 0
            bottom = series_product(bottom, factor[1:] if other == p else factor, K)
        return series_product(top, reciprocal(bottom, K), K)


def interpolated(nodes: Sequence[Element], taylor: dict[Element, Vector], K: Domain) -> Vector:
    r"""Return the coefficients of the polynomial that interpolates at `nodes`, repeated ones with their derivatives.

    ``taylor[x]`` holds the Taylor coefficients of the function about x. Divided differences: f[X] depends on how
    often each node occurs in X only, and f[X] = (f[X \ x] − f[X \ y])/(y − x) for any two different x, y in X.

    Examples
    --------
    1/(1 + t) at 0, 0 and 1:

    >>> K = sp.QQ
    >>> [str(c) for c in interpolated([K(0), K(0), K(1)], {K(0): [K(1), K(-1)], K(1): [K(1, 2)]}, K)]
    ['1', '-1', '1/2']
    """
    places = list(taylor)

    @cache
    def difference(counts: tuple[int, ...]) -> Element:
        present = [i for i, count in enumerate(counts) if count]
        x, y = present[0], present[-1]
        if x == y:
            return taylor[places[x]][counts[x] - 1]

        def without(i: int) -> tuple[int, ...]:
            return (*counts[:i], counts[i] - 1, *counts[i + 1 :])

        return (difference(without(x)) - difference(without(y))) / (places[y] - places[x])

    polynomial: Vector = []
    for end in range(len(nodes), 0, -1):
        counts = tuple(nodes[:end].count(place) for place in places)
        polynomial = _times_linear(polynomial, nodes[end - 1], K) if polynomial else [K.zero]
        polynomial[0] += difference(counts)
    return polynomial


def _times_linear(polynomial: Vector, root: Element, K: Domain) -> Vector:
    """polynomial·(ζ − root)."""
    return [a - root * b for a, b in zip([K.zero, *polynomial], [*polynomial, K.zero], strict=True)]


def _divided(polynomial: Vector, monic: Vector, K: Domain) -> tuple[Vector, Vector]:
    """Quotient and remainder."""
    degree = len(monic) - 1
    rest, quotient = list(polynomial), [K.zero] * max(len(polynomial) - degree, 0)
    for k in reversed(range(len(quotient))):
        quotient[k] = rest[k + degree]
        for i, c in enumerate(monic):
            rest[k + i] -= quotient[k] * c
    return quotient, rest[:degree]


def checked_expansion(value: object) -> Expansion:
    """Return the name of an expansion, or raise `InvalidMethod`."""
    for expansion in EXPANSIONS:
        if value == expansion:
            return expansion
    raise InvalidMethod(f"expansion is {choice(value, EXPANSIONS)}")
