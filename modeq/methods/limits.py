"""How large h·λ may be: for the modified vector field to mean something, and for the method to be stable."""

from collections.abc import Callable

import numpy as np
import sympy as sp

from modeq.errors import InvalidMethod
from modeq.methods.base import GeneralLinearMethod, z
from modeq.methods.exact import tidy

x = sp.Symbol("x")


def characteristic_polynomial(method: GeneralLinearMethod) -> sp.Poly:
    """Return P(z, x), whose roots z are the eigenvalues of one step on a quadratic with h·λ = x.

    P = det [[zI − A, xB], [−C, I + xD]], with all gradients of the same curvature and weight decay
    left out.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> sp.factor(characteristic_polynomial(mq.GradientDescent()).as_expr())
    x + z - 1
    """
    keep = [j for j, colour in enumerate(method.colours) if colour not in method.decay]
    B = method.B.extract(list(range(method.state_count)), keep)
    C = method.C.extract(keep, list(range(method.state_count)))
    D = method.D.extract(keep, keep)
    block = sp.Matrix(
        sp.BlockMatrix([[z * sp.eye(method.state_count) - method.A, x * B], [-C, sp.eye(len(keep)) + x * D]])
    )
    numerator = sp.fraction(sp.together(block.det(method="berkowitz")))[0]
    return sp.Poly(sp.expand(numerator), z, x)


def series_limit(method: GeneralLinearMethod) -> sp.Expr:
    """Return the radius r of convergence, in x = h·λ, of the modified vector field on quadratics.

    The field's eigenvalue is log z₁(x)/h, with z₁ the principal root of the characteristic polynomial
    (z₁(0) = 1). Its series converges up to the first complex x at which z₁ meets another root, 0 or
    infinity; beyond, the truncated fields mean nothing. With weight decay coupled to the gradient, read
    h(λ_Hessian + λ_decay) for x; decoupled decay is left out.

    Returns
    -------
    A sympy number; for symbols the expression that equals it at sample values in (0, 1).

    Notes
    -----
    Gradient descent 1; heavy ball (1 − √β)²/(1 − α); Nesterov, as torch stores it, ((1 − β)/(1 + β))².

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> beta = sp.Symbol("beta", positive=True)
    >>> sp.factor(series_limit(mq.Nesterov(momentum=beta)))
    (beta - 1)**2/(beta + 1)**2
    """
    _require_no_players(method)
    return _limit(method, _series_candidates, _series_limit_number)


def stability_limit(method: GeneralLinearMethod) -> sp.Expr:
    """Return the largest x = h·λ up to which all roots of the characteristic polynomial stay in the unit circle.

    With weight decay coupled to the gradient, read h(λ_Hessian + λ_decay) for x; decoupled decay is left
    out. Infinite (``oo``) for a method that is stable for every x.

    Notes
    -----
    Gradient descent 2; heavy ball 2(1 + β)/(1 − α); Nesterov, as torch stores it, 2(1 + β)/(1 + 2β).

    Examples
    --------
    >>> import modeq as mq
    >>> stability_limit(mq.HeavyBall(momentum=0.9))
    19/5
    """
    _require_no_players(method)
    return _limit(method, _stability_candidates, _stability_limit_number)


def _require_no_players(method: GeneralLinearMethod) -> None:
    if method.players:
        raise InvalidMethod(f"{method} is a game: its players have curvatures of their own, and no limit in one h·λ")


_Candidates = Callable[[sp.Poly], list[sp.Expr]]
_Number = Callable[[sp.Poly, list[sp.Expr]], sp.Expr]


def _limit(method: GeneralLinearMethod, candidates: _Candidates, number: _Number) -> sp.Expr:
    """The limit as a number; for symbols, the candidate that agrees with it at sample points."""
    method.require_zero_stable()
    P = characteristic_polynomial(method)
    symbols = sorted(P.free_symbols_in_domain, key=lambda s: s.name)
    if not symbols:
        return number(P, candidates(P))
    left = [_simplified(candidate) for candidate in candidates(P)]
    for sample in range(1, 4):
        point = {s: sp.Rational(sample * (k + 3), 4 * (k + 4)) for k, s in enumerate(symbols)}
        at = sp.Poly(P.as_expr().subs(point), z, x)
        value = sp.N(number(at, candidates(at)))
        left = [c for c in left if abs(complex(sp.N(c.subs(point)) - value)) < 1e-9 * max(1, abs(complex(value)))]
    if not left:
        raise InvalidMethod(
            f"the limit of {method.name} is no single expression in {symbols}: substitute numbers with .subs first"
        )
    return left[0]


def _simplified(candidate: sp.Expr) -> sp.Expr:
    return tidy(candidate) if candidate.is_rational_function() else sp.factor(sp.simplify(candidate))


def _roots_in_x(expression: sp.Expr) -> list[sp.Expr]:
    """All complex roots x ≠ 0: closed forms where sympy has them, isolated algebraic numbers otherwise."""
    found: list[sp.Expr] = []
    for factor, _ in sp.factor_list(expression, x)[1]:
        polynomial = sp.Poly(factor, x)
        if polynomial.degree() in (1, 2):
            found += sp.roots(polynomial)
        elif polynomial.degree() > 2:
            if polynomial.free_symbols_in_domain:
                found += sp.roots(polynomial)
            else:
                found += polynomial.nroots(n=30, maxsteps=200)
    return [root for root in found if root != 0]


def _series_candidates(P: sp.Poly) -> list[sp.Expr]:
    in_z = sp.Poly(P.as_expr(), z)
    singular = [in_z.eval(0), in_z.LC()]
    if in_z.degree() > 1:
        singular.append(sp.discriminant(in_z))
    return [root for expression in singular for root in _roots_in_x(sp.expand(expression))]


def _roots_in_z(P: sp.Poly, at: complex) -> np.ndarray:
    coefficients = [complex(c.subs(x, at)) for c in sp.Poly(P.as_expr(), z).all_coeffs()]
    return np.roots(np.trim_zeros(coefficients, "f"))


def _series_limit_number(P: sp.Poly, candidates: list[sp.Expr]) -> sp.Expr:
    for candidate in sorted(candidates, key=lambda c: (round(abs(complex(c)), 12), complex(c).imag < 0)):
        if _principal_root_is_singular(P, complex(candidate)):
            return sp.Abs(candidate)
    return sp.oo


def _principal_root_is_singular(P: sp.Poly, end: complex) -> bool:
    """Follow the principal root from x = 0 almost to `end`, and see whether it meets 0, ∞ or another root there."""
    coefficients = [sp.lambdify(x, c, "numpy") for c in sp.Poly(P.as_expr(), z).all_coeffs()]
    derivative = [len(coefficients) - 1 - i for i in range(len(coefficients) - 1)]
    root: complex = 1.0 + 0.0j
    gap = 1e-4
    for fraction in 1 - np.geomspace(1, gap, 400):
        c = np.array([complex(f(end * fraction)) for f in coefficients])
        for _ in range(30):
            slope = np.polyval(c[:-1] * derivative, root)
            if slope == 0:
                break
            step = np.polyval(c, root) / slope
            root -= complex(step)
            if abs(step) < 1e-14 * max(1.0, abs(root)):
                break
    others = np.roots(np.trim_zeros(c, "f"))
    others = np.delete(others, np.argmin(abs(others - root)))
    # Near a branch point two roots differ like the square root of the distance that is left.
    near = 10 * np.sqrt(gap)
    meets = bool(len(others)) and np.min(abs(others - root)) < near * max(abs(root), 1e-300)
    return bool(meets or abs(root) < near * 0.1 or abs(root) > 10 / near)


def _stability_candidates(P: sp.Poly) -> list[sp.Expr]:
    in_z = sp.Poly(P.as_expr(), z)
    crossings = [in_z.eval(-1), in_z.eval(1)]
    if in_z.degree() > 1:
        mirrored = sp.Poly(in_z.all_coeffs()[::-1], z)
        crossings.append(sp.resultant(in_z, mirrored))
    return [root for expression in crossings for root in _roots_in_x(sp.expand(expression))]


def _stability_limit_number(P: sp.Poly, candidates: list[sp.Expr]) -> sp.Expr:
    real = [c for c in candidates if abs(complex(c).imag) < 1e-12 and complex(c).real > 0]
    for candidate in sorted(real, key=lambda c: complex(c).real):
        just_beyond = complex(candidate).real * (1 + 1e-6)
        if np.max(abs(_roots_in_z(P, just_beyond))) > 1 + 1e-9:
            return sp.re(candidate)
    return sp.oo
