"""The phase-space form: a differential equation that keeps the poles of the method.

It is the form for momentum near 1, where the vector field on the parameters alone means nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import sympy as sp

from modeq.displays import Formula
from modeq.errors import InvalidMethod
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import FrozenMapping, tidy
from modeq.symbolic.b_series import BSeries
from modeq.symbolic.differentials import h, latex_sum, text_sum
from modeq.symbolic.equation import ModifiedEquation
from modeq.symbolic.explicit_fields import ExplicitField
from modeq.symbolic.phase_space_elimination import (
    eliminated_latex,
    eliminated_text,
    highest_derivative,
    rounded,
    shown,
)
from modeq.symbolic.phase_space_exact import (
    Expansion,
    checked_expansion,
    hidden_eigenvalues,
    phase_space_coefficients,
)
from modeq.symbolic.phase_space_start import phase_space_start
from modeq.symbolic.rooted_trees import checked_order
from modeq.symbolic.temporal import checked_time_order, field_of_form, require_time_form

_SHOWN = 6  # derivatives of the gradient


@dataclass(frozen=True, repr=False)
class PhaseSpaceForm(Formula):
    """q(D) θ = h Σ_c r_c(D) f_c(θ(t)), with D the derivative per step, h·d/dt.

    Attributes
    ----------
    method : GeneralLinearMethod
    order : the number of terms
    expansion : which polynomial interpolates r, as in :func:`phase_space_form`
    q : coefficients (q₁, …, q_m) of ζ, …, ζᵐ
    r : mapping from colour to the coefficients (r₀, r₁, …) of 1, ζ, …; r₀ = 1 for the gradient
    poles : the kept poles of the transfer function besides 1; the equation has the modes ln(pole) per step
    left_out : the poles that are not kept (zero, negative, below e^{−2π}), and the eigenvalues of the method
        that are no poles: their transients are lost. A pole with symbols in it is kept

    Examples
    --------
    >>> import modeq as mq
    >>> form = mq.phase_space_form(mq.HeavyBall(momentum=0.9), order=2)
    >>> form.poles, form.left_out, len(form.q), len(form.r[0])
    ((9/10,), (), 2, 2)
    """

    method: GeneralLinearMethod
    order: int
    expansion: Expansion
    poles: tuple[sp.Expr, ...] = field(compare=False)
    left_out: tuple[sp.Expr, ...] = field(compare=False)
    q: tuple[sp.Expr, ...] = field(compare=False)
    r: Mapping[int, tuple[sp.Expr, ...]] = field(compare=False)

    @cached_property
    def radius(self) -> sp.Expr:
        """The radius of convergence of r in the rate per step ζ: the next branch of a logarithm of a pole."""
        branches = [2 * sp.pi]
        branches += [sp.Abs(sp.log(pole) + 2 * sp.pi * sp.I * sign) for pole in self.poles for sign in (1, -1)]
        return min(branches, key=lambda value: float(value)) if not self._symbols else sp.Min(*branches)

    @property
    def _symbols(self) -> frozenset[sp.Symbol]:
        return frozenset().union(*(pole.free_symbols for pole in self.poles))

    @property
    def powers(self) -> dict[int, tuple[tuple[sp.Expr, ...], ...]]:
        """For each colour the polynomials R₀, R₁, … of degree below m with r = Σ_j R_j Q^j, Q = q/q_m.

        Each as its coefficients, from the constant on: for the heavy ball (S_j, T_j) with T_j = 0 in the
        expansion in powers.

        Examples
        --------
        >>> import modeq as mq
        >>> form = mq.phase_space_form(mq.HeavyBall(momentum=0.99), order=3, expansion="powers")
        >>> [[round(float(c), 5) for c in digit] for digit in form.powers[0]]
        [[1.0, 0.0], [-0.08333, 0.0], [0.00417, 0.0]]
        """
        found = phase_space_coefficients(self.method, self.order, self.expansion)
        return {
            colour: tuple(tuple(found.exact.expression(c) for c in digit) for digit in found.digits(colour))
            for colour in found.r
        }

    def numbers(self) -> tuple[list[float], dict[int, list[float]]]:
        """Return q and r as floats, evaluated with guard digits (r cancels heavily as a pole nears 1).

        Examples
        --------
        >>> import modeq as mq
        >>> q, r = mq.phase_space_form(mq.HeavyBall(momentum=0.9), order=2).numbers()
        >>> round(r[0][1], 4)
        -0.0088
        """
        if symbols := frozenset().union(*(c.free_symbols for c in self.q)):
            raise InvalidMethod(f"the coefficients depend on {sorted(map(str, symbols))}: substitute with method.subs")

        def number(expression: sp.Expr) -> float:
            return float(sp.re(sp.N(expression, 60, maxn=1000)))

        return [number(c) for c in self.q], {colour: [number(c) for c in row] for colour, row in self.r.items()}

    def start(self, order: int | None = None, buffers: Any = None) -> tuple[BSeries, ...]:
        """Return θ(0) − θ₀, θ'(0), …, θ⁽ᵐ⁻¹⁾(0) in time = h·n, as B-series at θ₀.

        They are the start of the part of the iterates that the form describes: without the transients of the
        poles that are left out.

        Parameters
        ----------
        order : positive int, optional
            Trees with at most this many vertices; by default as many as the form has terms.
        buffers : None, 0, matrix states × colours, or "given"
            None: the method's own start. 0: all buffers zero. A matrix S: X₀ = u θ₀ + h Σ_c S_c f_c(θ₀).
            "given": X₀ = u θ₀ + h w with any vectors w_i that are small like f; they become fields of
            their own, with the colours ``method.colour_count + i``.

        Raises
        ------
        InvalidOrder, InvalidMethod

        Examples
        --------
        For the heavy ball from zero buffers θ'(0) = (s − aβ)/s²·f + …, s = 1 − β and a = −ln β; a momentum
        buffer v₀, with w₁ = −v₀, adds −aβ/s·v₀:

        >>> import modeq as mq, sympy as sp
        >>> form = mq.phase_space_form(mq.HeavyBall(momentum=sp.Symbol("beta", positive=True)), order=2)
        >>> velocity = form.start(1, buffers="given")[1]
        >>> velocity[mq.Tree([])], velocity[mq.Tree(2, [])]
        ((beta*log(beta) - beta + 1)/(1 - beta)**2, -beta*log(beta)/(1 - beta))
        """
        return phase_space_start(self.method, self.poles, len(self.q), self.order if order is None else order, buffers)

    def vector_field(self, order: int) -> ModifiedEquation:
        """Return the form on its slow manifold: the field f̃ with θ' = f̃(θ), as a B-series of that `order`.

        Found from q and r alone, tree by tree, by putting the flow of f̃ into the form; it is
        `modified_equation` up to the order of the form, and differs beyond.

        Examples
        --------
        >>> import modeq as mq
        >>> form = mq.phase_space_form(mq.HeavyBall(momentum=0.5), order=3, expansion="powers")
        >>> form.vector_field(3).coefficients == mq.modified_equation(mq.HeavyBall(momentum=0.5), 3).coefficients
        True
        """
        found, order = phase_space_coefficients(self.method, self.order, self.expansion), checked_order(order)
        table, values = field_of_form(self.method, found.q, found.r, order, found.exact.field)
        return ModifiedEquation.of(self.method, found.exact.series(table, values))

    def on(self, loss_or_field: Any, variables: Any, h: Any = h) -> ExplicitField:
        """Return the form written out on a concrete loss or field, solved for the highest derivative.

        With K the degree of r, the form and its derivatives are cut where D^{K+1} f would be needed; for K < 2m
        they are linear in the unknown θ⁽ᵐ⁾, …, θ⁽ᴷ⁾.

        Parameters
        ----------
        loss_or_field, variables, h : as in :meth:`modeq.symbolic.b_series.BSeries.on`

        Returns
        -------
        ExplicitField
            In the variables θ, θ', …, θ⁽ᵐ⁻¹⁾ (named with primes), derivatives in time = h·n.

        Raises
        ------
        InvalidOrder
            If K ≥ 2m: the highest derivatives enter in products, and there is no closed form.
        InvalidProblem

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x, h = sp.symbols("x h")
        >>> field = mq.phase_space_form(mq.GradientDescent(), order=2).on(x**2 / 2, [x], h=h)
        >>> sp.factor(field.components[0])
        2*x/(h - 2)
        """
        return highest_derivative(self, loss_or_field, variables, h)

    def latex(self, eliminated: bool = False) -> str:
        r"""Return the equation as LaTeX, with logarithms of the poles left in it.

        Parameters
        ----------
        eliminated : bool
            Whether to write the derivatives of f out in those of θ, dots for D: Df = f'(\dot\theta), ….

        Examples
        --------
        >>> import modeq as mq
        >>> form = mq.phase_space_form(mq.GradientDescent(), order=3)
        >>> print(form.latex())
        D \theta = -h\left(g - \frac{1}{2}\,D g + \frac{1}{12}\,D^{2} g\right),\quad D = h\,\tfrac{d}{dt}
        >>> print(form.latex(eliminated=True))
        \dot\theta = h\left[f - \frac{1}{2}\,f'(\dot\theta)
            + \frac{1}{12}\,\left(f''(\dot\theta,\dot\theta) + f'(\ddot\theta)\right)\right],\quad ...
        """
        if eliminated:
            return eliminated_latex(self)

        left, right = map(latex_sum, self._sides())
        return rf"{left} = -h\left({right}\right),\quad D = h\,\tfrac{{d}}{{dt}}"

    def text(self, eliminated: bool = True) -> str:
        """Return the equation as one line of text, numbers that are not rational to six digits.

        Parameters
        ----------
        eliminated : bool
            Whether to write the derivatives of f out in those of θ, as ``str`` does for a few of them.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.phase_space_form(mq.GradientDescent(), order=3).text(eliminated=False)
        'D θ = -h·(g - 1/2·D g + 1/12·D^2 g), D = h·d/dt'
        """
        if eliminated:
            return eliminated_text(self)
        left, right = (text_sum([(rounded(c), symbol) for c, symbol in side]) for side in self._sides())
        return f"{left} = -h·({right}), D = h·d/dt"

    def _sides(self) -> tuple[list[tuple[sp.Expr, str]], list[tuple[sp.Expr, str]]]:
        """The terms of q(D) θ and of −r(D) f, as coefficients and LaTeX."""

        def power(k: int, symbol: str) -> str:
            return symbol if k == 0 else f"D {symbol}" if k == 1 else f"D^{{{k}}} {symbol}"

        left = [(shown(c), power(k + 1, r"\theta")) for k, c in enumerate(self.q)]
        right = []
        for colour, row in self.r.items():
            if colour in self.method.decay:
                rate = self.method.decay[colour]
                right += [(_tidy_product(rate, shown(c)), power(k, r"\theta")) for k, c in enumerate(row)]
            else:
                right += [(shown(c), power(k, "g")) for k, c in enumerate(row)]
        return left, right

    def _shortened(self) -> tuple["PhaseSpaceForm", int]:
        rows = {colour: row[:_SHOWN] for colour, row in self.r.items()}
        left = sum(map(len, self.r.values())) - sum(map(len, rows.values()))
        return replace(self, r=rows), left

    def __str__(self) -> str:
        shown, left = self._shortened()
        # Written out, a derivative of high order is a sum over many partitions.
        return f"{shown.text(eliminated=False)} … and {left} more terms" if left else self.text()

    def __repr__(self) -> str:
        name = "" if self.expansion == "derivatives" else f", expansion={self.expansion!r}"
        return f"PhaseSpaceForm({self.method}, order={self.order}{name}, poles={self.poles})"


def _tidy_product(rate: sp.Expr, coefficient: sp.Expr) -> sp.Expr:
    """rate·coefficient, factored if it is rational."""
    product = rate * coefficient
    return tidy(product) if product.is_rational_function() else product


def phase_space_form(method: GeneralLinearMethod, order: int, expansion: Expansion = "derivatives") -> PhaseSpaceForm:
    """Derive the equation that keeps every pole of the method: q(D) θ = h r(D) f.

    With poles 1, p₁, … of the transfer function G: q(ζ) = c ζ Π(ζ − ln p_i), scaled so that
    q'(0) = 1/g₋₁, and r(ζ) = q(ζ) G(e^ζ) = 1 + r₁ζ + …, cut to a polynomial. The derivatives of f are taken
    along the flow itself.

    Parameters
    ----------
    method : GeneralLinearMethod
        All its gradients are taken at θ.
    order : positive int
        The number of terms. From a slow start the error is O(h^order).
    expansion : "derivatives", "hermite" or "powers"
        Which polynomial interpolates r. "derivatives": Taylor's, at 0; the highest term is D^{order − 1} f.
        From buffers off the slow manifold a shift O(h²) stays. "hermite": also at every ln p_i, where the
        transients live (with derivatives if p_i is a multiple pole); one more term for each pole. Then the
        shift from any buffers is O(h³) only, with a small constant: it comes from products of transients, at
        other ζ. "powers": at 0 and every ln p_i alike, `order` times; this is r = Σ_j R_j(ζ) q(ζ)^j with
        `order` powers of q, deg R_j < deg q.

    Returns
    -------
    PhaseSpaceForm
        With exact coefficients of q and r, and the logarithms of the poles in them.

    Raises
    ------
    NoTimeDerivativeForm, NotZeroStable, InvalidOrder, InvalidMethod

    Notes
    -----
    For gradient descent θ' = Σ B_k/k! h^k (d/dt)^k f with Bernoulli numbers; for the heavy ball with
    a = −ln β, q = c ζ(ζ + a), c = (1 − β)/a. Neighbours: the high-resolution equations of Shi, Du,
    Jordan, Su 2018 (arXiv 1810.08907), the limit 1 − β ~ √h of the heavy ball and of Nesterov.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> form = mq.phase_space_form(mq.HeavyBall(momentum=sp.Symbol("beta", positive=True)), order=2)
    >>> form.q
    (1 - beta, -(1 - beta)/log(beta))
    >>> [round(value, 4) for value in phase_space_form(mq.HeavyBall(momentum=0.9), 2, "hermite").numbers()[1][0]]
    [1.0, -0.0088, -0.0833]
    """
    order, expansion = checked_time_order(order), checked_expansion(expansion)
    require_time_form(method)
    found = phase_space_coefficients(method, order, expansion)
    exact = found.exact
    q = tuple(exact.expression(c) for c in found.q[1:])
    r = {colour: tuple(exact.expression(c) for c in row) for colour, row in found.r.items()}
    left_out = (*exact.left_out, *hidden_eigenvalues(method, exact.kept))
    return PhaseSpaceForm(method, order, expansion, exact.kept, left_out, q, FrozenMapping(r))
