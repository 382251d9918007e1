"""The time-derivative form: Σ c_k h^{k−1} θ⁽ᵏ⁾ = f, truncated to an initial-value problem."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import factorial
from typing import Any

import sympy as sp
from sympy.polys.domains.domain import Domain

from modeq.displays import MOST, Formula
from modeq.errors import IllPosed, InvalidOrder, NoTimeDerivativeForm
from modeq.methods.arithmetic import Vector, integral, product, reciprocal, series_product
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.methods.exact import coefficient_field, tidy
from modeq.methods.shift_operator import ShiftOperator
from modeq.symbolic.algebra import Elements, Paths, root_subtrees, slope
from modeq.symbolic.b_series import BSeries
from modeq.symbolic.differentials import h, latex_sum, step_latex, text_sum, theta_latex, theta_text
from modeq.symbolic.equation import ModifiedEquation
from modeq.symbolic.initial_layer import initial_layer
from modeq.symbolic.rooted_trees import TreeTable, checked_order, tree_table
from modeq.symbolic.series import Coefficients, modified_coefficients


@dataclass(frozen=True, repr=False)
class TimeDerivativeForm(Formula):
    """Σ_{k=1}^p c_k h^{k−1} θ⁽ᵏ⁾ + λ Σ_{k<p} d_k h^k θ⁽ᵏ⁾ = f(θ), derivatives in time = h·n.

    Attributes
    ----------
    method : GeneralLinearMethod
    order : the number p of time derivatives
    coefficients : (c₁, …, c_p), exact
    decay_coefficients : (d₀, …, d_{p−1}), exact; empty without weight decay
    decay_rate : λ

    Examples
    --------
    >>> import modeq as mq
    >>> form = mq.time_derivative_form(mq.HeavyBall(momentum=0.9), order=2)
    >>> print(form)
    1/10·θ' + 19*h/20·θ'' = -g
    >>> form.coefficients, form.is_well_posed, form.start[1][[]]
    ((1/10, 19/20), True, 10/19)
    """

    method: GeneralLinearMethod
    order: int
    coefficients: tuple[sp.Expr, ...] = field(compare=False)
    decay_coefficients: tuple[sp.Expr, ...] = field(compare=False)
    decay_rate: sp.Expr = field(compare=False)

    @cached_property
    def roots(self) -> tuple[complex, ...]:
        """The rates of the fast modes, in units of 1/h: the roots ζ ≠ 0 of Σ_{k≤p} c_k ζᵏ."""
        symbols = frozenset().union(*(c.free_symbols for c in self.coefficients))
        if symbols:
            raise IllPosed(f"the roots depend on {sorted(map(str, symbols))}: substitute numbers with method.subs")
        zeta = sp.Symbol("zeta")
        polynomial = sp.Poly(sum(c * zeta**k for k, c in enumerate(self.coefficients)), zeta)
        return tuple(complex(root) for root in polynomial.nroots(n=20)) if polynomial.degree() > 0 else ()

    @property
    def is_well_posed(self) -> bool:
        """Whether all fast modes of the truncated equation decay."""
        return all(root.real < 0 for root in self.roots)

    def require_well_posed(self) -> None:
        """Raise `IllPosed` if a fast mode grows."""
        growing = [root for root in self.roots if root.real >= 0]
        if growing:
            raise IllPosed(
                f"the time-derivative form of {self.method} truncated at order {self.order} is no initial-value "
                f"problem: a mode grows like exp({growing[0]:.3g}·t/h); use order=2 or the phase-space form"
            )

    @cached_property
    def start(self) -> tuple[BSeries, ...]:
        """What the initial values are: θ(0) − θ₀, θ'(0), …, θ⁽ᵖ⁻¹⁾(0), as B-series at θ₀.

        For p = 2 the solution starts at θ₀, with the velocity that excites the one fast mode as the
        method does: θ'(0) = Σ_c (b_c + (c₁/c₂) a_c) f_c, with b the slow velocity and a the initial layer.
        For p > 2 it starts on the slow manifold, without fast modes: θ(0) is the initial layer of order
        p − 1 and θ⁽ᵏ⁾(0), *taken there*, the derivatives of the modified flow.
        """
        method, p = self.method, self.order
        if p > 2:
            layer = initial_layer(method, p - 1)
            flow = [BSeries.of(method, modified_coefficients(method, p, k), offset=k) for k in range(1, p)]
            return (layer, *flow)
        nothing = initial_layer(method, 0)
        if p == 1:
            return (nothing,)
        slow, layer = modified_coefficients(method, 1), initial_layer(method, 1)
        K = slow.field.unify(layer.series.field)
        ratio = K.from_sympy(self.coefficients[0] / self.coefficients[1])
        values = tuple(
            K.convert_from(b, slow.field) + ratio * K.convert_from(a, layer.series.field)
            for b, a in zip(slow.values, layer.series.values, strict=True)
        )
        return nothing, BSeries.of(method, Coefficients(slow.table, values, K))

    def vector_field(self, order: int) -> ModifiedEquation:
        """Return the form on its slow manifold: the field f̃ with θ' = f̃(θ), as a B-series of that `order`.

        Found from the coefficients of the form alone, tree by tree, by putting the flow of f̃ into it; it is
        `modified_equation` up to the order of the form, and differs beyond.

        Examples
        --------
        >>> import modeq as mq
        >>> field = mq.time_derivative_form(mq.GradientDescent(), order=3).vector_field(4)
        >>> exact = mq.modified_equation(mq.GradientDescent(), 4)
        >>> [field[tree] == exact[tree] for tree in exact]
        [True, True, True, True, False, False, False, False]
        """
        order = checked_order(order)
        K = coefficient_field(self.method.entries)
        q = [K.zero, *(K.from_sympy(c) for c in self.coefficients)]
        r = {c: [K.from_sympy(d) for d in self.decay_coefficients] for c in self.method.decay}
        colours = [c for c in range(self.method.colour_count) if c not in r]
        table, values = field_of_form(self.method, q, {**r, colours[0]: [K.one]}, order, K)
        return ModifiedEquation.of(self.method, Coefficients(table, tuple(values), K))

    def latex(self) -> str:
        r"""Return the equation as LaTeX.

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.time_derivative_form(mq.GradientDescent(), order=2).latex())
        \dot\theta + \frac{1}{2}\,h\,\ddot\theta = -g
        """
        return f"{latex_sum([(c, step_latex(power) + theta_latex(k)) for power, k, c in self._terms()])} = -g"

    def text(self) -> str:
        """Return the equation as one line of text; ``str`` gives it too.

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.time_derivative_form(mq.GradientDescent().with_weight_decay(0.5), order=2))
        θ' + h/2·θ'' + 1/2·θ = -g
        """
        return f"{text_sum([(h**power * c, theta_text(k)) for power, k, c in self._terms()])} = -g"

    def _terms(self) -> list[tuple[int, int, sp.Expr]]:
        """The terms of the left-hand side: a power of h, a number of derivatives, and a coefficient."""
        terms = [(k, k + 1, c) for k, c in enumerate(self.coefficients)]
        return terms + [(k, k, tidy(self.decay_rate * d)) for k, d in enumerate(self.decay_coefficients)]

    def _shortened(self) -> tuple["TimeDerivativeForm", int]:
        c, d = self.coefficients[: MOST // 2], self.decay_coefficients[: MOST // 2]
        left = len(self.coefficients) + len(self.decay_coefficients) - len(c) - len(d)
        return replace(self, coefficients=c, decay_coefficients=d), left

    def __repr__(self) -> str:
        return f"TimeDerivativeForm({self.method}, order={self.order})"


LARGEST_ORDER = 200


def checked_time_order(order: Any) -> int:
    """Return the truncation order of a form in time, or raise `InvalidOrder`."""
    if (number := checked_order(order)) > LARGEST_ORDER:
        raise InvalidOrder(
            f"order is {number}: forms in time are derived up to order {LARGEST_ORDER}, give at most that"
        )
    return number


def require_single_step(method: GeneralLinearMethod) -> None:
    """Raise an error if one application of the method counts several steps n."""
    if method.steps > 1:
        raise NoTimeDerivativeForm(
            f"{method} counts {method.steps} steps in one application: forms besides the vector field are derived for "
            "single steps; use modified_equation"
        )


def require_time_form(method: GeneralLinearMethod) -> None:
    """Raise an error unless the method is zero-stable and takes all gradients, of one field, at θ."""
    require_method(method)
    method.require_zero_stable()
    require_single_step(method)
    if not method.queries_at_parameters or method.colour_count - len(method.decay) > 1:
        raise NoTimeDerivativeForm(
            f"{method} takes gradients at other points than its parameters, or of several fields: it has no form in "
            "time derivatives; use modified_equation"
        )


def field_of_form(
    method: GeneralLinearMethod, q: Vector, r: dict[int, Vector], order: int, K: Domain
) -> tuple[TreeTable, Vector]:
    r"""Return b(τ) of the field f̃ whose flow obeys Σ_k q_k D^k θ = h Σ_c Σ_k r_k^c D^k f_c, D = h·d/dt.

    Along the flow θ(nh) has the coefficients p_τ(n), p_τ' = Σ over root subtrees s of b(s)·Π p(τ \ s), and
    f(θ(nh)) those of the product of the children's p. Since b(τ) itself enters p_τ as b(τ)·n only,

        q₁ b(τ) = Σ_k r_k (Π p)⁽ᵏ⁾(0) − Σ_{k≥2} q_k p_τ⁽ᵏ⁾(0).
    """
    table = tree_table(order, method.colour_count, method.decay.keys())
    paths: Paths = {}
    field: Elements = {}
    for tree in table.trees:
        path = integral(slope(field, paths, root_subtrees(tree)[:-1], K), K)  # without b(τ)·n so far
        right = [K.one]
        for child in tree.children:
            right = product(right, paths[child], K)
        total = sum(
            (r[tree.colour][k] * K(factorial(k)) * c for k, c in enumerate(right[: len(r[tree.colour])])), K.zero
        )
        total -= sum((q[k] * K(factorial(k)) * path[k] for k in range(2, min(len(q), len(path)))), K.zero)
        field[tree] = path[1] = total / q[1]
        paths[tree] = path
    return table, list(field.values())


def time_derivative_form(method: GeneralLinearMethod, order: int) -> TimeDerivativeForm:
    """Derive the form in higher time derivatives: Σ c_k h^{k−1} θ⁽ᵏ⁾ = f.

    With G the transfer function, 1/G(e^ζ) = Σ_{k≥1} c_k ζᵏ. The solution of truncation order p follows
    the iterates with error O(hᵖ) where it is well posed.

    Parameters
    ----------
    method : GeneralLinearMethod
        All its gradients are taken at θ.
    order : positive int
        The number of time derivatives kept.

    Returns
    -------
    TimeDerivativeForm
        With the exact coefficients c_k.

    Raises
    ------
    NoTimeDerivativeForm, NotZeroStable, InvalidOrder

    Notes
    -----
    Source: Kovachki, Stuart 2021 (arXiv 1906.04285), there for order 2.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> mq.time_derivative_form(mq.HeavyBall(momentum=sp.Symbol("beta")), order=3).coefficients
    (1 - beta, (beta + 1)/2, (1 - beta)/6)
    """
    order = checked_time_order(order)
    require_time_form(method)
    operator = ShiftOperator(method)
    K, series = operator.field, operator.readout_laurent(order)
    inverse = reciprocal(series[0], K)  # of ζ·G: the c_k
    decay: Vector = []
    rate = sp.Integer(0)
    for colour, lam in method.decay.items():
        rate = lam
        decay = series_product(series[colour], inverse, K)
    return TimeDerivativeForm(
        method,
        order,
        tuple(tidy(K.to_sympy(c)) for c in inverse),
        tuple(tidy(K.to_sympy(d)) for d in decay),
        rate,
    )
