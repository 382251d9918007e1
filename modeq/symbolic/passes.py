"""The powers of a method's state matrix through one epoch, and sums over its steps: m a number, or a symbol."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import combinations
from typing import Any

import sympy as sp
from sympy.polys.domains.domain import Domain
from sympy.polys.matrices import DomainMatrix

from modeq.errors import InvalidMethod
from modeq.methods.arithmetic import Element, Vector, elements, matrix_product
from modeq.methods.base import GeneralLinearMethod, z
from modeq.methods.exact import coefficient_field, tidy_element
from modeq.symbolic.geometric_sums import Exponents, LaurentSum, nested_sum
from modeq.symbolic.rooted_trees import TreeTable
from modeq.symbolic.series import Coefficients

FEW_BATCHES = 6  # whose steps are summed over one by one in any case
LARGEST_NUMBER_OF_BATCHES = 40  # for which that is done where there is no closed form

Number = Any  # an element of the field, or a LaurentSum over it: both add, multiply, and are false if they are 0
Power = Callable[[list[Number]], list[Number]]  # of the matrix of the parasitic states, applied to a vector


@dataclass(frozen=True)
class Places:
    """Steps k₀ < k₁ < … < k_{r−1} of one epoch: numbers, or all at once as the variables of a sum.

    Attributes
    ----------
    one : the number 1, as a function of the steps
    between : A^{k_l − k_i − 1} for each pair (l, i) with l > i, A that of the parasitic states
    before : A^{k_l} for each l
    after : A^{m − 1 − k_l} for each l
    constant : from a number to that constant function of the steps
    total : from a function of the steps to its value, or to its sum over all steps
    """

    one: Number
    between: Mapping[tuple[int, int], Power]
    before: Sequence[Power]
    after: Sequence[Power]
    constant: Callable[[Number], Number]
    total: Callable[[Number], Number]


class Passes(ABC):
    """What an expectation over an epoch of m batches needs to know of it.

    Attributes
    ----------
    field : the field of the coefficients
    split : the method, in coordinates in which A is 1 and the matrix of the parasitic states
    settling : (I − A^m)⁻¹ of the parasitic states
    per_step : 1/m
    """

    field: Domain
    split: "SplitMethod"
    settling: list[list[Number]]
    per_step: Number

    @abstractmethod
    def places(self, r: int) -> Iterator[Places]:
        """Yield places for all r steps in growing order, so that their totals add up to the sum over all of them."""

    @abstractmethod
    def moment(self, different: int) -> Number:
        """E of a product of deviations of so many different batches, as a multiple of that with a single batch."""

    @abstractmethod
    def coefficients(self, table: TreeTable, values: list[Number]) -> Coefficients:
        """Return the values as the coefficients of a series."""


class SplitMethod:
    """A method in the coordinates X = u s + N y, s its slow state and y the parasitic ones.

        s⁺ = s + slow·hF,    y⁺ = A y + B hF,    queries 1 s + C y + D hF,    θ = s + readout·y.

    Parameters
    ----------
    method : GeneralLinearMethod
    diagonal : bool
        Whether to choose y so that A is diagonal, which needs simple eigenvalues that are rational in the symbols.

    Examples
    --------
    >>> import modeq as mq
    >>> split = SplitMethod(mq.HeavyBall(momentum=0.5))
    >>> split.A == [[sp.Rational(1, 2)]], split.slow == [2]
    (True, True)
    """

    def __init__(self, method: GeneralLinearMethod, diagonal: bool = False) -> None:
        K = coefficient_field(method.entries)
        if diagonal:
            columns = [(method.A - mu * sp.eye(method.state_count)).nullspace()[0] for mu in eigenvalues(method)]
        else:
            columns = method.slow_row.nullspace()
        T = sp.Matrix.hstack(method.preconsistency, *columns)
        inverse = T.inv().applyfunc(sp.cancel)
        A, B = (inverse * method.A * T).applyfunc(sp.cancel), (inverse * method.B).applyfunc(sp.cancel)
        self.A, self.B = elements(A[1:, 1:], K), elements(B[1:, :], K)
        self.slow = elements(B[:1, :], K)[0]
        self.C = elements((method.C * T).applyfunc(sp.cancel)[:, 1:], K)
        self.D = elements(method.D, K)
        self.readout = elements((method.readout * T).applyfunc(sp.cancel)[:, 1:], K)[0]


def has_moment(size: int, batches: sp.Expr) -> bool:
    """Return whether so many deviations of one batch, multiplied and averaged over the batches, can be other than 0.

    A single deviation averages to 0, one batch has none, and for two batches odd moments vanish.

    Examples
    --------
    >>> [has_moment(3, sp.Integer(m)) for m in (1, 2, 3)], has_moment(3, sp.Symbol("m")), has_moment(1, sp.Symbol("m"))
    ([False, False, True], True, False)
    """
    if size == 0 or not batches.is_Integer:
        return size != 1
    return size > 1 and (batches > 2 or (batches == 2 and size % 2 == 0))


def passes_of(method: GeneralLinearMethod, batches: sp.Expr) -> Passes:
    """Return the passes over a number of batches, or over a symbol.

    Examples
    --------
    >>> import modeq as mq
    >>> passes_of(mq.HeavyBall(momentum=0.5), sp.Integer(3)).settling == [[sp.Rational(8, 7)]]
    True
    """
    if batches.is_Integer and batches <= FEW_BATCHES:
        return NumberedPasses(method, int(batches))
    try:
        return SymbolicPasses(method, batches)
    except InvalidMethod:
        if batches.is_Integer and batches <= LARGEST_NUMBER_OF_BATCHES:
            return NumberedPasses(method, int(batches))
        raise


class NumberedPasses(Passes):
    """Passes over a number of batches, summed over step by step."""

    def __init__(self, method: GeneralLinearMethod, batches: int) -> None:
        K = self.field = coefficient_field(method.entries)
        self.per_step, self._batches = K.one / K(batches), batches
        self.split = SplitMethod(method)
        size = method.state_count - 1
        powers = [[[K(int(i == j)) for j in range(size)] for i in range(size)]]
        for _ in range(batches):
            powers.append(matrix_product(powers[-1], self.split.A, K) if size else [])
        self._powers = [partial(apply, matrix) for matrix in powers]
        left = DomainMatrix.eye(size, K).to_dense() - DomainMatrix(powers[batches], (size, size), K)
        self.settling = left.inv().to_list() if size else []

    def places(self, r: int) -> Iterator[Places]:
        """Yield one for each choice of r steps."""
        powers = self._powers
        for k in combinations(range(self._batches), r):
            between = {(i, j): powers[k[i] - k[j] - 1] for i in range(r) for j in range(i)}
            before, after = [powers[step] for step in k], [powers[self._batches - 1 - step] for step in k]
            yield Places(self.field.one, between, before, after, same, same)

    def moment(self, different: int) -> Element:
        """1, −1/(m − 1), 2/((m − 1)(m − 2))."""
        K, m = self.field, self._batches
        return K.one if different < 2 else -K.one / K(m - 1) if different == 2 else K(2) / K((m - 1) * (m - 2))

    def coefficients(self, table: TreeTable, values: list[Number]) -> Coefficients:
        """Return the values as they are."""
        return Coefficients(table, tuple(value or self.field.zero for value in values), self.field)


class SymbolicPasses(Passes):
    """Passes over m batches, m a symbol, or a number for which it is put in at the end.

    The parasitic states are those of the eigenvalues μ₁, μ₂, … of A, all simple, so that Aᵏ is diagonal. A function of
    r steps is a Laurent sum in the μ_i^{k_l} for each step, and in these constants, which come last: μ_i^m,
    1/(1 − μ_i^m), m, 1/(m − 1), 1/(m − 2).
    """

    def __init__(self, method: GeneralLinearMethod, batches: sp.Expr) -> None:
        self._batches = batches
        K = self.field = coefficient_field(method.entries)
        self._eigenvalues = eigenvalues(method)
        self.split = SplitMethod(method, diagonal=True)
        self._bases = tuple(K.from_sympy(value) for value in self._eigenvalues)
        count = range(len(self._bases))
        self._unit = (0,) * (2 * len(self._bases) + 3)
        self.per_step = self._constant({2 * len(count): -1})
        settled = [self._constant({len(count) + i: 1}) for i in count]
        self.settling = [[settled[i] if i == j else 0 for j in count] for i in count]

    def _constant(self, exponents: Mapping[int, int]) -> LaurentSum:
        key = [exponents.get(i, 0) for i in range(len(self._unit))]
        return LaurentSum({tuple(key): self.field.one})

    def places(self, r: int) -> Iterator[Places]:
        """Yield a single one, whose steps are variables."""
        K, count = self.field, len(self._bases)
        zeros = (0,) * (r * count)

        def power(signs: Mapping[int, int], end: int = 0, shift: int = 0) -> Power:
            """Diag μ_i^{Σ_l sign_l k_l + end·m + shift}."""
            factors = []
            for i, mu in enumerate(self._bases):
                steps = [signs.get(place, 0) * int(i == j) for place in range(r) for j in range(count)]
                constants = [end * int(i == j) for j in range(len(self._unit))]
                factors.append(LaurentSum({(*steps, *constants): mu**shift if shift >= 0 else K.one / mu}))
            return lambda y: [times(factor, x) for factor, x in zip(factors, y, strict=True)]

        yield Places(
            LaurentSum({zeros + self._unit: K.one}),
            {(i, j): power({i: 1, j: -1}, shift=-1) for i in range(r) for j in range(i)},
            [power({place: 1}) for place in range(r)],
            [power({place: -1}, end=1, shift=-1) for place in range(r)],
            lambda value: self._lifted(value, zeros) if value else value,
            lambda value: self._summed(value, r) if value else value,
        )

    def _lifted(self, value: LaurentSum, steps: Exponents) -> LaurentSum:
        return LaurentSum({steps + key: c for key, c in value.terms.items()})

    def _summed(self, value: LaurentSum, r: int) -> LaurentSum:
        count, K = len(self._bases), self.field
        found: dict[Exponents, Element] = {}
        for key, coefficient in value.terms.items():
            steps = tuple(key[place * count : (place + 1) * count] for place in range(r))
            constants = key[r * count :]
            for exponents, polynomial in nested_sum(steps, self._bases, K).items():
                ends = tuple(a + b for a, b in zip(exponents, constants[:count], strict=True))
                for power, c in enumerate(polynomial):
                    if c:
                        m = constants[2 * count] + power
                        at = (*ends, *constants[count : 2 * count], m, *constants[2 * count + 1 :])
                        found[at] = found[at] + c * coefficient if at in found else c * coefficient
        return LaurentSum({key: c for key, c in found.items() if c})

    def moment(self, different: int) -> Number:
        """1, −1/(m − 1), 2/((m − 1)(m − 2))."""
        K, poles = self.field, len(self._unit) - 2
        if different < 2:
            return self._constant({})
        if different == 2:
            return self._constant({poles: 1}) * -K.one
        return self._constant({poles: 1, poles + 1: 1}) * K(2)

    def coefficients(self, table: TreeTable, values: list[Number]) -> Coefficients:
        """Return the values as rational functions of the symbols, m, and the μ_i^m."""
        K, count = self.field, len(self._eigenvalues)
        ends = [sp.Dummy(f"q{i}") for i in range(count)]
        number = sp.Dummy("m") if self._batches.is_Integer else self._batches
        own = K.symbols if K.is_FractionField else ()
        wide = sp.QQ.frac_field(*own, number, *ends)
        q, m = [wide.from_sympy(symbol) for symbol in ends], wide.from_sympy(number)
        factors = [*q, *(1 - x for x in q), m, m - 1, m - 2]
        inverted = [False] * count + [True] * count + [False, True, True]
        found = tuple(_over_one_denominator(value, factors, inverted, K, wide) for value in values)
        powers = {end: mu**self._batches for end, mu in zip(ends, self._eigenvalues, strict=True)}
        if self._batches.is_Integer:
            put = {**powers, number: self._batches}
            return Coefficients(table, tuple(K.from_sympy(wide.to_sympy(value).subs(put)) for value in found), K)
        if not count:
            return Coefficients(table, found, wide)
        written = (tidy_element(value, wide).xreplace(powers) for value in found)
        return Coefficients(table, tuple(sp.EX(value) for value in written), sp.EX)


def _over_one_denominator(value: Number, factors: Vector, inverted: list[bool], K: Domain, wide: Domain) -> Element:
    """Σ c·Π factor^exponent, or factor^−exponent, with a single division."""
    if not value:
        return wide.zero
    keys = [[-e if inverse else e for e, inverse in zip(key, inverted, strict=True)] for key in value.terms]
    lowest = [min(0, *column) for column in zip(*keys, strict=True)]
    coefficients = list(value.terms.values())
    bottom = K.one
    if K.is_FractionField:
        bottom = K.field.new(reduce(lambda a, b: a.lcm(b), (c.denom for c in coefficients)))
    top = wide.zero
    for key, c in zip(keys, coefficients, strict=True):
        term = wide.convert_from(c * bottom, K)
        for factor, exponent, least in zip(factors, key, lowest, strict=True):
            term *= factor ** (exponent - least)
        top += term
    divisor = wide.convert_from(bottom, K)
    for factor, least in zip(factors, lowest, strict=True):
        divisor *= factor**-least
    return top / divisor


def eigenvalues(method: GeneralLinearMethod) -> list[sp.Expr]:
    """Return the parasitic eigenvalues, which must be simple, other than 0, and rational in the symbols.

    Examples
    --------
    >>> import modeq as mq
    >>> eigenvalues(mq.HeavyBall(momentum=0.5))
    [1/2]
    """
    found: list[sp.Expr] = []
    for factor, multiplicity in sp.factor_list(method.parasitic_polynomial.as_expr(), z)[1]:
        polynomial = sp.Poly(factor, z)
        if polynomial.degree() == 0:
            continue
        lead, constant = polynomial.all_coeffs()[0], polynomial.eval(0)
        if polynomial.degree() > 1 or multiplicity > 1 or constant == 0:
            raise InvalidMethod(
                f"{method} has the parasitic eigenvalues of ({factor})^{multiplicity}: for a symbol or more than "
                f"{LARGEST_NUMBER_OF_BATCHES} as the number of batches they must be simple, not 0, and rational in its "
                f"symbols; give an integer up to {LARGEST_NUMBER_OF_BATCHES} as batches"
            )
        found.append(sp.cancel(-constant / lead))
    return found


def times(a: Number, b: Number) -> Number:
    """a·b."""
    if not a or not b:
        return 0
    return b * a if isinstance(b, LaurentSum) else a * b


def total(values: Iterable[Number]) -> Number:
    """The sum of numbers, 0 of none."""
    result: Number = 0
    for value in values:
        if value:
            result = value if not result else result + value
    return result


def apply(matrix: list[list[Number]], vector: list[Number]) -> list[Number]:
    """matrix·vector."""
    return [total([times(a, x) for a, x in zip(row, vector, strict=True)]) for row in matrix]


def same(value: Number) -> Number:
    """The value."""
    return value
