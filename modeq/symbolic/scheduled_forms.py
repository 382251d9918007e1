"""The forms of a method under a learning-rate schedule h(n) = h·φ(hn): a vector field, and time derivatives."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from modeq.displays import Formula
from modeq.errors import InvalidProblem
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import tidy
from modeq.symbolic.differentials import (
    Notation,
    checked_notation,
    h,
    latex_sum,
    printable,
    step_latex,
    text_sum,
    theta_text,
)
from modeq.symbolic.differentials import theta_latex as theta
from modeq.symbolic.equation import ModifiedEquation
from modeq.symbolic.explicit_fields import ExplicitField, checked_step, concrete_fields
from modeq.symbolic.rooted_trees import Tree
from modeq.symbolic.temporal import TimeDerivativeForm

Factor = Callable[[float], float]
Terms = list[tuple[int, sp.Expr, str]]  # the power of h, the rest of the coefficient, and what it stands before


@dataclass(frozen=True, repr=False)
class ScheduledForm(Formula, ABC):
    """What the forms of a method under a schedule h(n) = h·φ(t), t = h·n, share; h is the base learning rate.

    Attributes
    ----------
    method, order : what was derived, to which truncation order (1 or 2)
    schedule : φ, a sympy expression in t
    t : the symbol of the time
    autonomous : the same form at a constant learning rate
    schedule_coefficients : the coefficients of the terms in φ', exact; empty at order 1
    """

    method: GeneralLinearMethod
    order: int
    schedule: sp.Expr
    t: sp.Symbol
    autonomous: Any = field(compare=False)
    schedule_coefficients: tuple[sp.Expr, ...] = field(compare=False)

    @cached_property
    def slope(self) -> sp.Expr:
        """φ'."""
        return sp.diff(self.schedule, self.t)

    @property
    def coefficients(self) -> Any:
        """The coefficients of the terms without φ', exact: those of the form at a constant learning rate."""
        return self.autonomous.coefficients

    def factors(self) -> tuple[Factor, Factor]:
        """Return φ and φ' as functions of a number t, or raise `InvalidProblem` if φ has symbols besides t."""
        unknown = sorted(map(str, (self.schedule.free_symbols - {self.t}) | self.schedule.atoms(AppliedUndef)))
        if unknown:
            raise InvalidProblem(
                f"schedule is {self.schedule}, with the unknown {', '.join(unknown)}: give an expression in {self.t} "
                f"alone, sp.exp(-{self.t}) for instance"
            )

        def of(expression: sp.Expr) -> Factor:
            function = sp.lambdify(self.t, expression)

            def value(time: float) -> float:
                with np.errstate(all="ignore"):
                    return float(function(np.float64(time)))

            return value

        return of(self.schedule), of(self.slope)

    def rate(self, h: Any) -> Callable[[int], float]:
        """Return the schedule as a function of the step, n ↦ h·φ(hn), for ``mq.iterate(…, h=form.rate(h))``.

        Of an `Epoch` the rate is that of its first step throughout, while the form has φ(t): a schedule must not jump
        but at the end of an epoch.

        Parameters
        ----------
        h : positive number
            The base learning rate.

        Raises
        ------
        InvalidProblem

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> t = sp.Symbol("t")
        >>> rate = mq.scheduled_equation(mq.GradientDescent(), 1 / (1 + t)).rate(0.5)
        >>> [rate(n) for n in (0, 2, 6)]
        [0.5, 0.25, 0.125]
        """
        base = float(h) if isinstance(h, Real) and not isinstance(h, bool) else np.nan
        if not 0 < base < np.inf:
            raise InvalidProblem(f"h is {h!r}: give a positive number, 0.01 for instance")
        factor, steps = self.factors()[0], self.method.steps
        return lambda n: base * factor(base * (n - n % steps))

    @abstractmethod
    def on(self, loss_or_field: Any, variables: Any, h: Any = h) -> ExplicitField:
        """Return the form written out on a concrete loss or field, its components with t in them.

        Parameters
        ----------
        loss_or_field, variables, h : as in :meth:`ScheduledEquation.on`
        """

    @abstractmethod
    def _sides(self, phi: sp.Expr, slope: sp.Expr, notation: Notation) -> tuple[Terms, Terms]:
        """The terms of the left and of the right-hand side."""

    def latex(self, notation: Notation = "loss") -> str:
        r"""Return the equation as LaTeX, with g and H for f = −∇L, or with f and f' in the `notation` "field".

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.scheduled_equation(mq.GradientDescent()).latex())
        \dot\theta = -{\phi}\,g - \frac{{\phi}^{2}}{2}\,h\,H g + \frac{{\dot\phi}}{2}\,h\,g
        """
        letters = (sp.Symbol(r"{\phi}"), sp.Symbol(r"{\dot\phi}"))
        sides = self._sides(*self._named(*letters), checked_notation(notation))
        return " = ".join(latex_sum([(c, step_latex(power) + symbol) for power, c, symbol in side]) for side in sides)

    def text(self, notation: Notation = "loss") -> str:
        """Return the equation as one line of text, in a `notation` as :meth:`latex`; ``str`` gives it for a loss.

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.scheduled_equation(mq.GradientDescent()).text("field"))
        θ' = φ·f - h*φ**2/2·f'(f) - h*φ'/2·f
        >>> print(mq.scheduled_time_derivative_form(mq.HeavyBall(momentum=0.5)))
        1/2·θ' + 3*h/4·θ'' - h*φ'/(2*φ)·θ' = -φ·g
        """
        sides = self._sides(*self._named(sp.Symbol("φ"), sp.Symbol("φ'")), checked_notation(notation))
        dots = {theta(k): theta_text(k) for k in range(3)}
        return " = ".join(text_sum([(h**power * c, dots.get(symbol, symbol)) for power, c, symbol in s]) for s in sides)

    def _named(self, letter: sp.Symbol, dotted: sp.Symbol) -> tuple[sp.Expr, sp.Expr]:
        """φ and φ' as they print: by their letters if φ is any function."""
        any_function = isinstance(self.schedule, AppliedUndef) and self.schedule.args == (self.t,)
        return (letter, dotted) if any_function else (self.schedule, self.slope)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method}, {self.schedule}, order={self.order})"


class ScheduledEquation(ScheduledForm):
    """The modified equation of a method under a learning-rate schedule h·φ(t), through order 2.

        θ' = φ Σ_c b(•_c) f_c + h [φ² Σ_{r,c} b([•_c]_r) f_r'(f_c) + φ' Σ_c k_c f_c],    t = h·n,

    with h the base learning rate. ``coefficients`` are the b(τ) of `ModifiedEquation`, which a schedule does
    not change, and ``schedule_coefficients`` the k_c, one for each colour (weight decay is a colour).

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> mq.scheduled_equation(mq.HeavyBall(momentum=sp.Symbol("beta"))).schedule_coefficients
    (-1/(2*(1 - beta)),)
    """

    autonomous: ModifiedEquation

    def on(self, loss_or_field: Any, variables: Any, h: Any = h) -> ExplicitField:
        """Return the equation written out on a concrete loss or vector field, its components with t in them.

        Parameters
        ----------
        loss_or_field, variables : as in :meth:`modeq.symbolic.b_series.BSeries.on`
        h : symbol or number
            The base learning rate.

        Raises
        ------
        InvalidProblem

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x, t, h = sp.symbols("x t h")
        >>> field = mq.scheduled_equation(mq.GradientDescent(), sp.exp(-t)).on(x**2 / 2, [x], h=h)
        >>> sp.expand(field.components[0]), field.parameters
        (-h*x*exp(-t)/2 - h*x*exp(-2*t)/2 - x*exp(-t), (h, t))
        """
        fields, symbols = _fields_and_variables(self, loss_or_field, variables)
        step = checked_step(h, symbols)
        # The terms without φ' are φ times the field at the constant learning rate hφ.
        constant = self.autonomous.on(loss_or_field, variables, h=step * self.schedule).components
        slopes = [step * self.slope * k for k in self.schedule_coefficients]
        added = (sp.Add(*(k * f[i] for k, f in zip(slopes, fields, strict=False))) for i in range(len(symbols)))
        components = (self.schedule * c + extra for c, extra in zip(constant, added, strict=True))
        return ExplicitField(symbols, tuple(components), step)

    def _sides(self, phi: sp.Expr, slope: sp.Expr, notation: Notation) -> tuple[Terms, Terms]:
        decay = self.method.decay
        groups = self.autonomous._terms(notation)
        right = [(power, phi ** (power + 1) * c, symbol) for power, terms in groups for c, symbol in terms]
        single = self.method.colour_count - len(decay) == 1
        for colour, k in enumerate(self.schedule_coefficients):
            factor, symbol = printable(Tree(colour, []), notation, decay, single)
            right.append((1, slope * tidy(factor * k), symbol))
        return [(0, sp.Integer(1), theta(1))], right


class ScheduledTimeDerivativeForm(ScheduledForm):
    """The form in time derivatives of a method under a learning-rate schedule h·φ(t), through order 2.

        c₁θ' + h [c₂θ'' + e (φ'/φ) θ'] + λ [d₀φθ + h (d₁φθ' + e_λ φ'θ)] = φ f(θ),    t = h·n,

    with h the base learning rate. ``coefficients`` are (c₁, c₂) and ``autonomous.decay_coefficients`` (d₀, d₁),
    those of `TimeDerivativeForm`, which a schedule does not change; ``schedule_coefficients`` are (e,), with
    weight decay (e, e_λ).

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> form = mq.scheduled_time_derivative_form(mq.HeavyBall(momentum=sp.Symbol("beta")))
    >>> form.coefficients, form.schedule_coefficients
    ((1 - beta, (beta + 1)/2), (-beta,))
    """

    autonomous: TimeDerivativeForm

    def on(self, loss_or_field: Any, variables: Any, h: Any = h) -> ExplicitField:
        """Return the form written out on a concrete loss or field, as a system of first order.

        Parameters
        ----------
        loss_or_field, variables, h : as in :meth:`ScheduledEquation.on`

        Returns
        -------
        ExplicitField
            In the variables θ and, at order 2, θ' (named with primes), its components with t in them.

        Raises
        ------
        InvalidProblem

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x, t, h = sp.symbols("x t h")
        >>> field = mq.scheduled_time_derivative_form(mq.HeavyBall(momentum=0.5), sp.exp(-t)).on(x**2 / 2, [x], h=h)
        >>> field.variables, sp.expand(field.components[1])
        ((x, x'), -2*x'/3 - 4*x*exp(-t)/(3*h) - 2*x'/(3*h))
        """
        fields, symbols = _fields_and_variables(self, loss_or_field, variables)
        velocities = tuple(sp.Symbol(f"{v.name}'") for v in symbols) if self.order > 1 else ()
        step = checked_step(h, (*symbols, *velocities), divides=True)
        taken = self.method.free_symbols | self.schedule.free_symbols | set(symbols)
        if clash := taken & set(velocities):
            raise InvalidProblem(f"{sorted(map(str, clash))} would name derivatives of the variables: rename them")
        colour = next(c for c in range(self.method.colour_count) if c not in self.method.decay)
        known = [(step**p * c, k) for p, c, k in self._left(self.schedule, self.slope) if k < self.order]
        levels, scale = (symbols, velocities), step ** (self.order - 1) * self.coefficients[-1]
        highest = (
            (self.schedule * f - sp.Add(*(c * levels[k][i] for c, k in known))) / scale
            for i, f in enumerate(fields[colour])
        )
        return ExplicitField((*symbols, *velocities), (*velocities, *highest), step)

    def _left(self, phi: sp.Expr, slope: sp.Expr) -> list[tuple[int, sp.Expr, int]]:
        """The left-hand side: powers of h, the rest of the coefficients, and before which derivative of θ."""
        rate = self.autonomous.decay_rate
        e, e_decay = (*self.schedule_coefficients, sp.Integer(0), sp.Integer(0))[:2]
        terms = [(k, c, k + 1) for k, c in enumerate(self.coefficients)]
        terms += [(1, e * slope / phi, 1)]
        terms += [(k, phi * tidy(rate * d), k) for k, d in enumerate(self.autonomous.decay_coefficients)]
        return [*terms, (1, slope * tidy(rate * e_decay), 0)]

    def _sides(self, phi: sp.Expr, slope: sp.Expr, notation: Notation) -> tuple[Terms, Terms]:
        sign, symbol = printable(Tree([]), notation, {})
        return [(p, c, theta(k)) for p, c, k in self._left(phi, slope)], [(0, sign * phi, symbol)]


def _fields_and_variables(form: ScheduledForm, loss_or_field: Any, variables: Any) -> tuple[list[Any], tuple[Any, ...]]:
    """The field of each colour and the variables, after a check."""
    fields, symbols = concrete_fields(loss_or_field, variables, form.method)
    used = {symbol.name for symbol in form.schedule.free_symbols | {form.t}}
    if clash := sorted(used & {symbol.name for symbol in symbols}):
        raise InvalidProblem(f"the variables {clash} are also symbols of the schedule {form.schedule}: rename them")
    return fields, symbols
