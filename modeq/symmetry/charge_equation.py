"""The differential equation of a charge, as sympy has it, with its start, its solution and its derivation."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import sympy as sp

from modeq.displays import MOST, Formula
from modeq.errors import InvalidSetting, NoClosedLaw
from modeq.methods.exact import exact
from modeq.symbolic.b_series import BSeries, Written
from modeq.symbolic.differentials import h as default_step
from modeq.symbolic.equation import ModifiedEquation
from modeq.symbolic.expected_equation import ExpectedEquation
from modeq.symbolic.fields_and_maps import BSeriesField
from modeq.symbolic.temporal import TimeDerivativeForm
from modeq.symmetry.charge_solutions import LinearEquation, Regime, t
from modeq.symmetry.continuous import Variant
from modeq.symmetry.derivations import (
    Projected,
    Step,
    as_latex,
    as_text,
    differentiated,
    primed,
    solution_step,
    tidied,
)
from modeq.symmetry.pairings import Family, Pairing, written_sum
from modeq.symmetry.path_projection import PathForm
from modeq.symmetry.series_projection import explicit_rate, initial_values, project_series


@dataclass(frozen=True, eq=False, repr=False)
class ChargeEquation(Formula):
    r"""Σ_k a_k y⁽ᵏ⁾ = data, the equation of a charge: y = S = ⟨θ, 1_A⟩, or y = N = θᵀ𝒜θ (no factor ½).

    The data are pairings ⟨a, b⟩_𝒜 = aᵀ𝒜b of differentials of the loss (field form), or of g and time
    derivatives of θ (the other forms), as sympy functions of t. 𝒜 is I_A for a scale, I_{A₁} − I_{A₂} for a
    rescale; the equations hold for every symmetric 𝒜 along which the loss does not change.

    Of a matrix charge the equation is one for each entry, with y = M = UᵀU − VᵀV and ⟨a, b⟩_M the symmetric part of
    a_Uᵀb_U − a_Vᵀb_V; or y = R = ⟨θ, θ'⟩_R, with ⟨a, b⟩_R = a_Uᵀb_U + a_Vᵀb_V less its transpose.

    Attributes
    ----------
    source : the equation that was projected
    family : the family of charges, with its ``.name`` and ``.letter``
    variant : "corrected" or "article"
    projected : its terms on the generator, with their derivation
    coefficients : (a_0, …, a_m), exact, with a_m = 1; for m = 1 a_0 is the rate of decay, for m = 0 the data are y
    time_unit : t in units of h·n, 1 but for equations from :meth:`in_time`

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> law = mq.project(mq.GradientDescent().with_weight_decay(sp.Symbol("lambda")), "scale")
    >>> print(law)
    N' = -2*lambda·N - h*lambda**2·N + h·⟨g,g⟩_𝒜
    >>> law.solution().rhs
    N(0)*exp(t*(-h*lambda**2 - 2*lambda))
    + Integral(h*exp((t - tau)*(-h*lambda**2 - 2*lambda))*⟨g,g⟩_𝒜(tau), (tau, 0, t))
    """

    source: BSeriesField | PathForm
    family: Family
    variant: Variant
    projected: Projected
    time_unit: sp.Expr = sp.S.One

    @property
    def coefficients(self) -> tuple[sp.Expr, ...]:
        """The coefficients (a_0, …, a_m), with a_m = 1."""
        return self.projected.coefficients

    @property
    def order(self) -> int:
        """The truncation order of what was projected."""
        return self.source.order

    @property
    def charge(self) -> sp.Expr:
        """The charge as a function of the time, N(t), say."""
        return sp.Function(self.family.letter)(t)

    @property
    def data(self) -> sp.Expr:
        """The right-hand side: what the data contribute, as an expression in pairings of the time t."""
        return sp.Add(*(c * sp.diff(pairing, t, j) for (pairing, j), c in self.projected.terms.items()))

    @property
    def forcing(self) -> dict[Pairing, str]:
        """The pairings that occur, each with its meaning in words.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.project(mq.GradientDescent(), "rescale", order=3).forcing
        {⟨g,g⟩_𝒜(t): '|g|² over A₁, less that over A₂', ⟨g,H g⟩_𝒜(t): '⟨g, H g⟩ over A₁, less that over A₂'}
        """
        return {pairing: self.family.meaning(pairing) for pairing, _ in self.projected.terms}

    @property
    def ode(self) -> sp.Eq:
        """The equation as sympy has it: solved for N' if it is of first order, else with the data on the right."""
        slopes = [sp.diff(self.charge, t, k) for k in range(len(self.coefficients))]
        if len(slopes) == 2:
            return sp.Eq(slopes[1], -self.coefficients[0] * self.charge + self.data, evaluate=False)
        left = sp.Add(*(a * y for a, y in zip(self.coefficients, slopes, strict=True)))
        return sp.Eq(left, self.data, evaluate=False)

    @property
    def gamma(self) -> sp.Expr:
        """γ of N'' + 2γN' + ω²N = data, an equation of second order; raises `NoClosedLaw` for others."""
        self._require_oscillator()
        return tidied(self.coefficients[1] / 2)

    @property
    def omega_squared(self) -> sp.Expr:
        """ω² of N'' + 2γN' + ω²N = data, an equation of second order; raises `NoClosedLaw` for others."""
        self._require_oscillator()
        return self.coefficients[0]

    def _require_oscillator(self) -> None:
        if len(self.coefficients) != 3:
            raise NoClosedLaw(
                f"{self!r} is of order {len(self.coefficients) - 1} in time, no oscillator with γ and ω; "
                "read its coefficients"
            )

    @cached_property
    def initial(self) -> tuple[sp.Symbol, ...]:
        """The symbols N(0), N'(0), … that stand in the solution for the initial values."""
        return tuple(sp.Symbol(f"{primed(self.family.letter, k).text}(0)") for k in range(len(self.coefficients) - 1))

    @cached_property
    def start(self) -> dict[sp.Symbol, sp.Expr]:
        """The initial values from the method's own first step, to put into the solution with ``subs``.

        In N_0, the charge of the first parameters θ_0 (which N(0) differs from where there is an initial layer), and
        in pairings there. The article starts its oscillator at rest.

        Raises
        ------
        NoClosedLaw
            If the equation knows no method, or has a higher derivative at the start than its form gives.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> alpha, beta, lam = sp.symbols("alpha beta lambda")
        >>> method = mq.HeavyBall(beta, dampening=alpha).with_weight_decay(lam)
        >>> mq.project(method, "scale", form="time").start
        {N(0): N_0, N'(0): -2*N_0*lambda*(alpha + 1)/(beta + 1)}
        """
        first = sp.Symbol(f"{self.family.letter}_0")
        if self.variant == "article":
            at_rest = {symbol: sp.Integer(0) for symbol in self.initial}
            return at_rest if self.family.derivatives else {**at_rest, self.initial[0]: first}
        values = initial_values(self._start_vectors(), self.family, first)
        if len(values) < len(self.initial):
            raise NoClosedLaw(
                f"{self!r} needs {len(self.initial)} initial values, and its form gives {len(values)}: measure the "
                "others, or take a lower order"
            )
        pairs = zip(self.initial, values, strict=False)
        return {
            symbol: value / self.time_unit ** (k + self.family.derivatives) for k, (symbol, value) in enumerate(pairs)
        }

    def _start_vectors(self) -> tuple[BSeries, ...]:
        source = self.source
        if isinstance(source, TimeDerivativeForm) and source.order > 2:
            raise NoClosedLaw(f"{self!r} starts where derivatives are taken on the flow: measure its initial values")
        if isinstance(source, PathForm):
            return source.start if isinstance(source, TimeDerivativeForm) else source.start()
        if not isinstance(source, ModifiedEquation | ExpectedEquation):
            raise NoClosedLaw(f"{source!r} is no equation of a method, and has no start; give a ModifiedEquation")
        return (source.initial_layer(),)

    def solution(self, regime: Regime | None = None) -> sp.Eq:
        """Return the charge at time t: its free motion, and the data with the response to a unit impulse.

        Parameters
        ----------
        regime : {"under", "critical", "over"}, optional
            How an equation of second order is damped, by the sign of γ² − ω²; needed if that depends on symbols.
            For "critical" ω is put to γ.

        Raises
        ------
        InvalidSetting
            If a regime is needed, is not the one of the numbers, or is given for an equation of another order.

        Notes
        -----
        Equations of order 3 and higher, as those of the time-derivative form beyond θ'', are solved with sums over the
        roots of their characteristic polynomial, ``sympy.RootSum``, taken to be simple.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> method = mq.HeavyBall(momentum=0.5).with_weight_decay(0.1)
        >>> law = mq.project(method, "translation", form="time")
        >>> law.solution("critical").rhs
        (S(0) + t*(S'(0) + S(0)/(3*h)))*exp(-t/(3*h))
        """
        return sp.Eq(self.charge, self._linear().solution(regime), evaluate=False)

    def _linear(self) -> LinearEquation:
        return LinearEquation(self.coefficients, self.data, self.initial)

    def in_time(self, unit: Any) -> "ChargeEquation":
        """Return the equation in another time, t = `unit`·h·n.

        Examples
        --------
        The article's own time for heavy ball with dampening α is h(1 − α)n:

        >>> import modeq as mq, sympy as sp
        >>> alpha, beta, lam = sp.symbols("alpha beta lambda")
        >>> method = mq.HeavyBall(beta, dampening=alpha).with_weight_decay(lam)
        >>> law = mq.project(method, "scale", form="time").in_time(1 - alpha)
        >>> law.gamma, law.omega_squared
        ((1 - beta)/(h*(1 - alpha)*(beta + 1)), 4*lambda/(h*(1 - alpha)*(beta + 1)))
        """
        factor = exact(unit, "unit")
        if factor == 0:
            raise InvalidSetting("unit is 0: give how much of the new time passes in a unit of h·n")
        top, own = len(self.coefficients) - 1, self.family.derivatives
        terms = {
            (pairing, j): tidied(c * factor ** (j + sum(v.derivatives for v in pairing.vectors) - top - own))
            for (pairing, j), c in self.projected.terms.items()
        }
        coefficients = tuple(tidied(a * factor ** (k - top)) for k, a in enumerate(self.coefficients))
        total = tidied(self.time_unit * factor)
        step = Step(f"In the time t = ({total})·h·n", ())
        projected = Projected(coefficients, terms, (*self.projected.steps, step))
        return replace(self, projected=projected, time_unit=total)

    def on(self, loss: Any, variables: Any, weights: Any, h: Any = default_step) -> sp.Expr:
        """Return N' (or S', M', R) at the parameters of a concrete loss, the data written out; for the field form.

        Parameters
        ----------
        loss : sympy expression, or a list of them for a method with several fields
        variables : sequence of sympy symbols
            The parameters θ.
        weights : sequence of numbers, shape [variables], or matrix, shape [variables, variables]
            The entries of 1_A, or the diagonal of 𝒜; or the whole 𝒜, symmetric, antisymmetric for a rotation.
        h : symbol or number
            The learning rate.

        Raises
        ------
        NoClosedLaw
            For a form with time derivatives, whose data are no functions of θ alone.
        InvalidProblem, InvalidCharge
            If the loss is not invariant along the generator, or the weights do not fit the variables.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x, y = sp.symbols("x y")
        >>> law = mq.project(mq.GradientDescent(), "rescale")
        >>> law.on((x * y - 1)**2 / 2, [x, y], [1, -1])
        h*(-x**2*(x*y - 1)**2 + y**2*(x*y - 1)**2)

        An entry beside the diagonal of M, of U = (x, y) and V = (z, w), with X = (E₁₂ + E₂₁)/2:

        >>> z, w, half = *sp.symbols("z w"), sp.Rational(1, 2)
        >>> weights = [[0, half, 0, 0], [half, 0, 0, 0], [0, 0, 0, -half], [0, 0, -half, 0]]
        >>> law = mq.project(mq.GradientDescent(), "general_linear")
        >>> sp.factor(law.on((x * z + y * w - 1)**2 / 2, [x, y, z, w], weights))
        -h*(-w*z + x*y)*(w*y + x*z - 1)**2
        """
        if isinstance(self.source, PathForm):
            raise NoClosedLaw(f"{self!r} has time derivatives of θ among its data; use form='field'")
        rates = []
        source = self.source.resolved(loss)
        same = source is self.source and self.time_unit == 1
        projected = self.projected if same else project_series(source, self.family)
        for draw in source.draws(loss):
            rates.append(explicit_rate(source, projected, self.family, draw, variables, weights, h))
        return (rates[0] if len(rates) == 1 else sp.Add(*rates) / len(rates)) / self.time_unit

    def derivation(self, latex: bool = False) -> str:
        """Return the derivation step by step, as text, or as `latex`.

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.project(mq.GradientDescent(), "scale").derivation())
        1. The modified equation, in the time t = h·n
           θ' = -g - h/2·H g
        2. The symmetry, differentiated
           ⟨𝒜θ,g⟩ = 0
           H 𝒜θ = -𝒜g
        3. Each term on the generator
           ⟨𝒜θ,g⟩ = 0
           ⟨𝒜θ,H g⟩ = -⟨g,g⟩_𝒜
        4. Together, for N = |θ_A|²
           N' = h·⟨g,g⟩_𝒜
        5. Solved
           N(t) = N(0) + ∫₀ᵗ F(τ) dτ
           F = h·⟨g,g⟩_𝒜
        """
        letter, charge = self.family.letter, self.family.charge
        what = f"${letter} = {charge.latex}$" if latex else f"{letter} = {charge.text}"
        steps = (*self.projected.steps, Step(f"Together, for {what}", (self._written,)))
        if self.initial:
            steps = (*steps, solution_step(letter, self.coefficients, self._data if self.projected.terms else None))
        return as_latex(steps) if latex else as_text(steps)

    @property
    def _data(self) -> Written:
        return written_sum([(c, differentiated(p.written, j)) for (p, j), c in self.projected.terms.items()])

    @property
    def _written(self) -> Written:
        """The law as one line of text and LaTeX."""
        letter = self.family.letter
        slopes = [primed(letter, k) for k in range(len(self.coefficients))]
        if len(slopes) == 2:
            rate = sp.Add(*(-part for part in sp.Add.make_args(self.coefficients[0])))
            data = [(c, differentiated(p.written, j)) for (p, j), c in self.projected.terms.items()]
            left, right = slopes[1], written_sum([(rate, slopes[0]), *data])
        else:
            left, right = written_sum(list(zip(self.coefficients, slopes, strict=True))[::-1]), self._data
        return Written(f"{left.text} = {right.text}", f"{left.latex} = {right.latex}")

    def text(self) -> str:
        """Return the equation as one line of text; ``str`` gives it too.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.project(mq.GradientDescent(), "scale", order=3).text()
        "N' = h·⟨g,g⟩_𝒜 + h**2·⟨g,H g⟩_𝒜"
        """
        return self._written.text

    def latex(self) -> str:
        r"""Return the equation as LaTeX.

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.project(mq.GradientDescent(), "scale").latex())
        \dot N = h\,\langle g,g\rangle_{\mathcal{A}}
        """
        return self._written.latex

    def _shortened(self) -> tuple["ChargeEquation", int]:
        terms = self.projected.terms
        return replace(self, projected=replace(self.projected, terms=dict(islice(terms.items(), MOST)))), max(
            len(terms) - MOST, 0
        )

    def __repr__(self) -> str:
        variant = "" if self.variant == "corrected" else f", variant={self.variant!r}"
        unit = "" if self.time_unit == 1 else f", time_unit={self.time_unit}"
        return f"ChargeEquation({self.source!r}, {self.family.name!r}{variant}{unit})"
