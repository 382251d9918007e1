"""A plain Python update rule, run once on symbols and read off as a general linear method."""

import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import sympy as sp

from modeq.errors import InvalidMethod, UnsupportedOptimizer
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import exact

Key = tuple[str, int]  # ("state" or "gradient", index)


class _NotLinear(Exception):
    """An operation that is not linear in states and gradients."""


class _Linear:
    """A combination of states and gradients; the coefficients are expressions in h and the symbols."""

    terms: dict[Key, sp.Expr]
    __array_ufunc__ = None  # numpy must not take such a value apart,
    _op_priority = 1000.0  # and sympy must leave products to this class

    def __init__(self, terms: Mapping[Key, sp.Expr]) -> None:
        self.terms = {key: value for key, value in terms.items() if value != 0}

    def __add__(self, other: Any) -> "_Linear":
        if not isinstance(other, _Linear):
            if isinstance(other, int | float) and other == 0:
                return self
            raise _NotLinear(f"adds the constant {other!r}")
        keys = {**self.terms, **other.terms}
        return _Linear({k: self.terms.get(k, sp.Integer(0)) + other.terms.get(k, sp.Integer(0)) for k in keys})

    __radd__ = __add__

    def __mul__(self, other: Any) -> "_Linear":
        if isinstance(other, _Linear):
            raise _NotLinear("multiplies states or gradients with one another")
        factor = _factor(other)
        return _Linear({key: factor * value for key, value in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "_Linear":
        if isinstance(other, _Linear):
            raise _NotLinear("divides by a state or gradient")
        return self.__mul__(1 / _factor(other))

    def __neg__(self) -> "_Linear":
        return self.__mul__(-1)

    def __pos__(self) -> "_Linear":
        return self

    def __sub__(self, other: Any) -> "_Linear":
        return self.__add__(-1 * other)

    def __rsub__(self, other: Any) -> "_Linear":
        return self.__neg__().__add__(other)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise _NotLinear(f"uses .{name} of a state or gradient")

    def _refuse(self, *_: Any) -> Any:
        raise _NotLinear("is no sum of multiples of states and gradients")

    __pow__ = __rpow__ = __rtruediv__ = __abs__ = __bool__ = __float__ = __matmul__ = __rmatmul__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __getitem__ = __iter__ = __len__ = __mod__ = __floordiv__ = _refuse


def _factor(value: Any) -> sp.Expr:
    try:
        return exact(value, "a factor")
    except InvalidMethod as error:
        raise _NotLinear(str(error)) from error


def method_from(
    rule: Callable[..., Any],
    parameters: str = "theta",
    gradient: str = "gradient",
    step: str = "h",
    start: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> GeneralLinearMethod:
    """Return the method that a plain Python update rule is.

    The rule is called once with symbols. Its arguments are the states, the gradient function ∇L and the
    learning rate; it returns the new states in the order of its arguments (one of them as it is, several
    as a tuple). It may use symbols of its own as hyper-parameters, and must be linear in states and gradients.

    Parameters
    ----------
    rule : function
    parameters, gradient, step : str
        The names of the arguments that are the parameters θ, the gradient function, and h.
    start : mapping from state to number, optional
        The first value of a buffer v as a multiple of ∇L(θ₀), in the units in which the rule keeps it
        (a gradient, or h times one). 0 by default.
    name : str, optional
        How the method prints; the rule's own name by default.

    Returns
    -------
    GeneralLinearMethod
        With the states of the rule, the parameters first.

    Raises
    ------
    UnsupportedOptimizer
        If the rule is not linear; the message shows the line.
    InvalidMethod
        If the arguments or what it returns do not fit, or the powers of h cannot be balanced.

    Notes
    -----
    A state may be kept in any unit of h: the powers of h are read off, and each state is rescaled so that
    the method's matrices are free of h. A term −hλθ is weight decay.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> beta = sp.Symbol("beta")
    >>> def rule(theta, v, gradient, h):
    ...     v = beta * v + gradient(theta)
    ...     return theta - h * v, v
    >>> method = method_from(rule)
    >>> mq.modified_equation(method, 2).coefficients == mq.modified_equation(mq.HeavyBall(beta), 2).coefficients
    True
    """
    if not callable(rule):
        raise InvalidMethod(f"rule is {rule!r}: give a Python function of the states, the gradient and the step")
    if not isinstance(start or {}, Mapping):
        raise InvalidMethod(f"start is {start!r}: give a mapping from the names of buffers to numbers")
    names = list(inspect.signature(rule).parameters)
    for argument, wanted in (("parameters", parameters), ("gradient", gradient), ("step", step)):
        if wanted not in names:
            raise InvalidMethod(f"{argument} is {wanted!r}, but the rule has the arguments {names}: give one of these")
    states = [n for n in names if n not in (gradient, step)]
    unknown = set(start or {}) - (set(states) - {parameters})
    if unknown:
        raise InvalidMethod(
            f"start names {sorted(unknown)}, the rule's buffers are {sorted(set(states) - {parameters})}"
        )
    h = sp.Dummy("h")
    queries, updates = _trace(rule, states, gradient, step, h)
    theta = states.index(parameters)
    order = [theta, *(i for i in range(len(states)) if i != theta)]  # θ becomes the first state
    powers = _balanced_powers(updates, queries, theta, h)
    return _assembled(
        updates,
        queries,
        order,
        powers,
        h,
        states,
        start or {},
        name or f"method_from({getattr(rule, '__name__', type(rule).__name__)})",
    )


def _trace(
    rule: Callable[..., Any], states: list[str], gradient: str, step: str, h: sp.Symbol
) -> tuple[list[_Linear], list[_Linear]]:
    """Run the rule on symbols; return the points of its gradients and the new states."""
    queries: list[_Linear] = []

    def query(point: Any) -> _Linear:
        if not isinstance(point, _Linear):
            raise _NotLinear(f"takes the gradient at {point!r}")
        queries.append(point)
        return _Linear({("gradient", len(queries) - 1): sp.Integer(1)})

    arguments: dict[str, Any] = {n: _Linear({("state", i): sp.Integer(1)}) for i, n in enumerate(states)}
    try:
        returned = rule(**arguments, **{gradient: query, step: h})
    except (_NotLinear, TypeError, InvalidMethod) as error:
        raise UnsupportedOptimizer(f"the rule is not linear in states and gradients: {_where(rule, error)}") from error
    updates = list(returned) if isinstance(returned, tuple | list) else [returned]
    if len(updates) != len(states) or not all(isinstance(update, _Linear) for update in updates):
        raise InvalidMethod(
            f"the rule must return its {len(states)} new states {states}, in this order, it returned {len(updates)} "
            "value(s)"
        )
    if not queries:
        raise InvalidMethod("the rule takes no gradient: call its argument for the gradient at some point")
    return queries, updates


def _where(rule: Callable[..., Any], error: Exception) -> str:
    """The line of the rule at which it stopped."""
    code = getattr(rule, "__code__", None)
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code is code:
            try:
                lines, first = inspect.getsourcelines(rule)
                return f"line {line - first + 1}, `{lines[line - first].strip()}`, {error}"
            except OSError:
                return f"line {line - code.co_firstlineno + 1}, {error}"
    return str(error)


def _powers_of(coefficient: sp.Expr, h: sp.Symbol) -> dict[int, sp.Expr]:
    """A coefficient as a Laurent polynomial in h."""
    terms: dict[int, sp.Expr] = {}
    for term in sp.Add.make_args(sp.expand(coefficient)):
        constant, rest = term.as_independent(h, as_Add=False)
        base, exponent = rest.as_base_exp() if rest != 1 else (h, sp.Integer(0))
        if base != h or not exponent.is_Integer:
            raise InvalidMethod(
                f"the coefficient {coefficient} is no sum of powers of h: let h enter the rule by whole powers only"
            )
        terms[int(exponent)] = terms.get(int(exponent), sp.Integer(0)) + constant
    return {power: value for power, value in terms.items() if value != 0}


def _balanced_powers(updates: list[_Linear], queries: list[_Linear], theta: int, h: sp.Symbol) -> list[int]:
    """The power e_i of h for each state such that h^{e_i}·state has the unit of θ.

    A new state i with the term h^l·(state j) asks for e_j = e_i + l, with h^l·(gradient) for e_i = 1 − l; a
    query with h^l·(state j) for e_j = l. Terms in θ decide last, since −hλθ has a power too many.
    """

    def lowest(row: _Linear, key: Key) -> int:
        return min(_powers_of(row.terms[key], h))

    powers: dict[int, int] = {theta: 0}
    for row in queries:
        powers.update({j: lowest(row, (kind, j)) for kind, j in row.terms if kind == "state" and j != theta})
    for i, row in enumerate(updates):
        for kind, j in row.terms:
            if kind == "gradient" and i != theta:
                powers.setdefault(i, 1 - lowest(row, (kind, j)))
    for _ in updates:
        for i, row in enumerate(updates):
            for kind, j in row.terms:
                if kind == "state" and j != theta:
                    if i in powers:
                        powers.setdefault(j, powers[i] + lowest(row, (kind, j)))
                    elif j in powers:
                        powers[i] = powers[j] - lowest(row, (kind, j))
    for i, row in enumerate(updates):
        if ("state", theta) in row.terms:
            powers.setdefault(i, -lowest(row, ("state", theta)))
    return [powers.get(i, 0) for i in range(len(updates))]


def _assembled(
    updates: list[_Linear],
    queries: list[_Linear],
    order: list[int],
    powers: list[int],
    h: sp.Symbol,
    states: list[str],
    start: Mapping[str, Any],
    name: str,
) -> GeneralLinearMethod:
    """The matrices in states of the unit of θ; terms −hλθ become weight decay."""
    size, count = len(updates), len(queries)
    place = {state: k for k, state in enumerate(order)}
    A, B = sp.zeros(size, size), sp.zeros(size, count)
    C, D = sp.zeros(count, size), sp.zeros(count, count)
    decay = [sp.Integer(0)] * size  # the coefficient of hθ in each new state

    def fill(row: _Linear, unit: int, X: sp.Matrix, F: sp.Matrix, at: int, label: str) -> None:
        for (kind, index), coefficient in row.terms.items():
            expected = powers[index] if kind == "state" else 1
            for power, value in _powers_of(coefficient, h).items():
                excess = power + unit - expected
                if excess == 0:
                    target, column = (X, place[index]) if kind == "state" else (F, index)
                    # f = −∇L
                    target[at, column] += value if kind == "state" else -value
                elif excess == 1 and kind == "state" and place[index] == 0 and X is A:
                    decay[at] += value
                else:
                    raise InvalidMethod(
                        f"the powers of h in {label} cannot be balanced: one term has h^{power} where "
                        f"h^{expected - unit} fits the others; keep each buffer in one unit, a gradient or h times one"
                    )

    for i, update in enumerate(updates):
        fill(update, powers[i], A, B, place[i], f"the new {states[i]}")
    for j, query in enumerate(queries):
        fill(query, 0, C, D, j, f"the point of gradient {j + 1}")
    first = sp.zeros(size, 1)
    scales = tuple(powers[i] for i in order)
    for state, value in start.items():
        i = states.index(state)
        # A buffer in units of h·∇L has power 0, one in units of ∇L power 1.
        first[place[i]] = -exact(value, f"start[{state!r}]")
    if not any(decay):
        return GeneralLinearMethod(A=A, B=B, C=C, D=D, start=first, name=name, step_powers=scales)
    rate, column = _decay_column(sp.Matrix(decay), B)
    reads = sp.Matrix([[1] + [0] * (size - 1)])
    return GeneralLinearMethod(
        A=A,
        B=sp.Matrix.hstack(B, column),
        C=sp.Matrix.vstack(C, reads),
        D=sp.diag(D, sp.zeros(1, 1)),
        colours=(0,) * count + (1,),
        decay={1: rate},
        start=sp.Matrix.hstack(first, sp.zeros(size, 1)),
        name=name,
        step_powers=scales,
    )


def _decay_column(decay: sp.Matrix, B: sp.Matrix) -> tuple[sp.Expr, sp.Matrix]:
    """The rate λ and the column that the field −λθ enters the states with: that of a gradient if it is parallel."""
    first = next(i for i, value in enumerate(decay) if value != 0)
    for j in range(B.cols):
        if B[first, j] != 0:
            rate = sp.cancel(-decay[first] / B[first, j])
            if all(sp.cancel(value + rate * b) == 0 for value, b in zip(decay, B.col(j), strict=True)):
                return rate, B.col(j)
    rate = -decay[first]
    return rate, (-decay / rate).applyfunc(sp.cancel)
