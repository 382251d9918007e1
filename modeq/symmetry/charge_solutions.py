"""Solutions of linear equations with constant coefficients and any forcing, in closed form."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import sympy as sp

from modeq.errors import InvalidSetting, choice

t, tau = sp.symbols("t tau")
Motion = Callable[[sp.Expr], sp.Expr]
Regime = Literal["under", "critical", "over"]


@dataclass(frozen=True)
class LinearEquation:
    """Σ_k a_k y⁽ᵏ⁾(t) = forcing(t), the highest coefficient a_m = 1.

    Attributes
    ----------
    coefficients : (a_0, …, a_m); for m = 0 the forcing is y
    forcing : expression in t
    initial : (y(0), y'(0), …, y⁽ᵐ⁻¹⁾(0))

    Examples
    --------
    >>> k, y0 = sp.symbols("k y0")
    >>> LinearEquation((k, sp.Integer(1)), sp.Integer(0), (y0,)).solution(None)
    y0*exp(-k*t)
    """

    coefficients: tuple[sp.Expr, ...]
    forcing: sp.Expr
    initial: tuple[sp.Expr, ...]

    @property
    def gamma(self) -> sp.Expr:
        """γ of y'' + 2γy' + ω²y."""
        return self.coefficients[1] / 2

    @property
    def discriminant(self) -> sp.Expr:
        """γ² − ω²: negative under-damped, positive over-damped."""
        return self.gamma**2 - self.coefficients[0]

    def solution(self, regime: Regime | None) -> sp.Expr:
        """Return y(t): the free motion, and the integral of the forcing with the response to a unit impulse."""
        if len(self.coefficients) == 1 and regime is None:
            return self.forcing
        if len(self.coefficients) != 3:
            if regime is not None:
                raise InvalidSetting(
                    f"regime is {regime!r}: an equation of order {len(self.coefficients) - 1} has no damping regimes; "
                    "leave it out"
                )
            return self._first_order() if len(self.coefficients) == 2 else self._any_order()
        gamma, (start, slope) = self.gamma, self.initial
        cosine, sine = self._oscillation(self._regime(regime))
        free = sp.exp(-gamma * t) * (start * cosine(t) + (slope + gamma * start) * sine(t))
        return free + self._driven(sp.exp(-gamma * (t - tau)) * sine(t - tau))

    def _first_order(self) -> sp.Expr:
        rate = self.coefficients[0]
        return sp.exp(-rate * t) * self.initial[0] + self._driven(sp.exp(-rate * (t - tau)))

    def _any_order(self) -> sp.Expr:
        """Sums over the roots of χ(μ) = Σ a_k μᵏ, which must be simple."""
        root = sp.Dummy("mu")
        characteristic = sp.Add(*(a * root**k for k, a in enumerate(self.coefficients)))
        slope = sp.diff(characteristic, root)
        start = sp.Add(
            *(
                a * value * root ** (k - 1 - j)
                for k, a in enumerate(self.coefficients)
                for j, value in enumerate(self.initial[:k])
            )
        )

        def over_roots(numerator: sp.Expr, time: sp.Expr) -> sp.Expr:
            function = sp.Lambda(root, sp.exp(root * time) * numerator / slope)
            return sp.RootSum(sp.Poly(characteristic, root), function, auto=False)

        return over_roots(start, t) + self._driven(over_roots(sp.Integer(1), t - tau))

    def _driven(self, response: sp.Expr) -> sp.Expr:
        if self.forcing == 0:
            return sp.Integer(0)
        return sp.Integral(response * self.forcing.subs(t, tau), (tau, 0, t))

    def _regime(self, regime: Regime | None) -> Regime:
        found = self._decided()
        if regime is None and found is None:
            raise InvalidSetting(
                f"regime is None, and whether γ² − ω² = {sp.factor(self.discriminant)} is negative depends on its "
                "symbols: give regime='under', 'critical' or 'over'"
            )
        if regime is not None and regime not in get_args(Regime):
            raise InvalidSetting(f"regime is {choice(regime, get_args(Regime))}")
        if regime is not None and found is not None and regime != found:
            raise InvalidSetting(f"regime is {regime!r}, but γ² − ω² = {self.discriminant}: it is {found!r}")
        return regime or found or "over"

    def _decided(self) -> Regime | None:
        if self.coefficients[0] == 0:
            return "over"
        difference = sp.simplify(self.discriminant)
        if difference.is_zero:
            return "critical"
        return "over" if difference.is_positive else "under" if difference.is_negative else None

    def _oscillation(self, regime: Regime) -> tuple[Motion, Motion]:
        """The functions cos νt and sin νt/ν, ν² = ω² − γ², or their hyperbolic or limiting counterparts."""
        if regime == "critical":
            return (lambda time: sp.Integer(1)), (lambda time: time)
        under = regime == "under"
        if self.coefficients[0] == 0:
            rate = self.gamma
        else:
            rate = sp.sqrt(sp.factor(-self.discriminant if under else self.discriminant))
        cosine, sine = (sp.cos, sp.sin) if under else (sp.cosh, sp.sinh)
        return (lambda time: cosine(rate * time)), (lambda time: sine(rate * time) / rate)
