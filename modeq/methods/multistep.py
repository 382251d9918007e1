"""Linear multistep methods, in as few states as they have steps."""

from collections.abc import Sequence
from typing import Any

import sympy as sp

from modeq.errors import InvalidMethod
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import exact_row


def LinearMultistep(rho: Sequence[Any], sigma: Sequence[Any], name: str | None = None) -> GeneralLinearMethod:
    """Return the linear multistep method Σ_j ρ_j θ_{n+j} = h Σ_j σ_j f(θ_{n+j}).

    Parameters
    ----------
    rho, sigma : sequences ρ₀, …, ρ_k and σ₀, …, σ_k, from the constant term up
        `sigma` may be shorter; the method is implicit if σ_k ≠ 0.
    name : str, optional
        How the method prints.

    Returns
    -------
    GeneralLinearMethod
        With the states θ_n and k − 1 combinations of earlier parameters and fields.

    Raises
    ------
    InvalidMethod
        If ρ_k = 0, ρ(1) ≠ 0, or `sigma` is longer than `rho`.

    Notes
    -----
    Started from zero buffers, all earlier parameters are θ₀ and all earlier fields are 0. Source: Hairer,
    Nørsett, Wanner, *Solving Ordinary Differential Equations I*, III.2.

    Examples
    --------
    The two-step Adams–Bashforth method:

    >>> import modeq as mq, sympy as sp
    >>> half = sp.Rational(1, 2)
    >>> adams = mq.LinearMultistep(rho=[0, -1, 1], sigma=[-half, 3 * half])
    >>> adams.transfer_function(sp.Symbol("z"))
    (3*z - 1)/(2*z*(z - 1))
    """
    p, s = exact_row(rho, "rho"), exact_row(sigma, "sigma")
    text = name or f"LinearMultistep(rho={p}, sigma={s})"
    steps = len(p) - 1
    if steps < 1 or len(s) > len(p) or not s:
        raise InvalidMethod(
            f"rho has {len(p)} and sigma {len(s)} coefficients: give k + 1 and at most k + 1 of them, k ≥ 1, from the "
            "constant term up"
        )
    if p[-1] == 0:
        raise InvalidMethod("the last coefficient of rho is 0: leave it out, coefficients go from the constant term up")
    if sp.simplify(sum(p)) != 0:
        raise InvalidMethod(
            f"rho(1) = {sp.simplify(sum(p))}, it must be 0 for the method to be consistent: give a rho of sum 0"
        )
    p, s = [c / p[-1] for c in p], [c / p[-1] for c in s] + [sp.Integer(0)] * (len(p) - len(s))
    # x₁ = θ; x_j⁺ = −ρ_{k−j} θ + x_{j+1} + h σ_{k−j} f(θ), and σ_k f(θ⁺) in the first row.
    A = sp.Matrix(steps, steps, lambda i, j: (-p[steps - 1 - i] if j == 0 else 0) + (1 if j == i + 1 else 0))
    now = sp.Matrix(steps, 1, lambda i, j: s[steps - 1 - i])
    first = sp.Matrix([[1] + [0] * (steps - 1)])
    powers = (0,) if steps == 1 else None  # further states mix parameters and h·f
    if s[-1] == 0:
        return GeneralLinearMethod(A=A, B=now, C=first, D=[[0]], name=text, step_powers=powers)
    next_query = sp.Matrix(steps, 1, lambda i, j: s[-1] if i == 0 else 0)
    B = sp.Matrix.hstack(now, next_query)
    C = sp.Matrix.vstack(first, A.row(0))
    return GeneralLinearMethod(A=A, B=B, C=C, D=[[0, 0], [s[steps - 1], s[-1]]], name=text, step_powers=powers)
