"""The continuous laws of charges: an exponential without momentum, a driven oscillator with it.

Everything here is in the time t = h·n. Two variants are kept apart:

- ``"article"``: the equations as published by Kunin et al. 2021 (arXiv 2012.04728), in whose own time
  t' = h(1 − α)n the oscillator starts at rest and is driven by 2‖v‖²; terms of order hλ² are left out.
- ``"corrected"``: the same equations with the terms that make them one order more accurate in h: the start of
  torch's first step, the factor (1 − α)⁻² between ‖dθ/dt'‖² and ‖v‖², and λ + hλ²/2 for λ without momentum.
  With momentum this holds once the start has relaxed; while it does, after some 1/(1 − β) steps, both
  variants are within O(h), as the oscillator relaxes at a rate slightly different from the iteration's.

Forcing is held constant over each step and the 2×2 system is then propagated exactly, so nothing overflows
and hyper-parameters may follow a schedule.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modeq.errors import NoClosedLaw
from modeq.symmetry.laws import SGDStep, rotation_step

Variant = Literal["article", "corrected"]


@dataclass(frozen=True)
class Damping:
    """How a charge returns to rest: Q'' + 2γQ' + ω²Q = forcing, in the time t = h·n.

    Attributes
    ----------
    gamma, omega : float
        Damping rate and frequency, in units of 1/t.
    regime : {"under", "critical", "over"}
        By the sign of ω − γ.
    """

    gamma: float
    omega: float
    regime: Literal["under", "critical", "over"]


def damping_regime(step: SGDStep, *, degree: int) -> Damping:
    r"""Return γ, ω and the damping regime of a charge under momentum.

    γ = (1 − β)/(h(1 + β)) and ω² = 2cλ(1 − α)/(h(1 + β)) with c the degree of the charge;
    for Nesterov 1 − β + 2β² takes the place of 1 + β.

    Parameters
    ----------
    step : SGDStep
        The hyper-parameters; needs momentum, coupled decay.
    degree : {1, 2}
        1 for a linear charge (translation), 2 for a quadratic one (scale, rescale).

    Returns
    -------
    Damping
        Rates per unit of t = h·n; those in the article's time t' = h(1 − α)n are larger by
        1/(1 − α), which leaves the regime the same.

    Raises
    ------
    NoClosedLaw
        Without momentum (no oscillator), from momentum 1 on (no damping), at h = 0 (no time passes), for
        (1 − α)λ < 0 (no frequency) or with decoupled decay.

    References
    ----------
    Kunin et al. 2021, arXiv 2012.04728, the laws with momentum.

    Examples
    --------
    >>> damping_regime(SGDStep(0.1, momentum=0.99, weight_decay=5e-4), degree=2)
    Damping(gamma=0.0502..., omega=0.1002..., regime='under')
    """
    _refuse_decoupled(step)
    if step.momentum == 0:
        raise NoClosedLaw(
            f"no oscillator without momentum, got {step}; give one above 0, the law is else a plain exponential"
        )
    if step.momentum >= 1:
        raise NoClosedLaw(f"momentum {step.momentum:g} damps nothing, got {step}; give one below 1")
    if step.h == 0:
        raise NoClosedLaw(f"h is 0, at which no time t = h·n passes and γ and ω mean nothing, got {step}; give h > 0")
    if (1.0 - step.dampening) * step.weight_decay < 0:
        raise NoClosedLaw(
            f"(1 − dampening)·weight_decay is negative, which drives a charge away from rest, got {step}; "
            "give a dampening of at most 1 and a weight_decay of at least 0"
        )
    friction, stiffness = _oscillator(step, degree)
    with np.errstate(all="ignore"):
        gamma, omega = float(friction / (2 * step.h)), float(np.sqrt(stiffness * step.h) / step.h)
    if np.isclose(gamma, omega, rtol=1e-12, atol=0.0):
        return Damping(gamma, omega, "critical")
    return Damping(gamma, omega, "under" if omega > gamma else "over")


def continuous_start(
    charge: Any,
    momentum: Any,
    step: SGDStep,
    *,
    degree: int,
    variant: Variant = "corrected",
    first: bool = True,
) -> Any:
    r"""Return Q'(0) = dQ/dt at which the oscillator starts.

    Corrected: −c[λ'Q/s + (κ/c₂)(P − λ'Q/s)] with s = 1 − β, λ' = (1 − α)λ, c the degree and heavy ball
    κ = β, c₂ = (1 + β)/2, Nesterov κ = β², c₂ = (1 − β + 2β²)/2. With torch's first step, P = (α/β)λQ,
    heavy ball starts at −cλQ(1 + α)/(1 + β). The article starts at rest.

    Parameters
    ----------
    charge, momentum : float or array
        Q(0) and P = ⟨ξ(θ), v⟩ of the buffer at that time (not read when `first`).
    step : SGDStep
        The hyper-parameters of the first step; needs momentum.
    degree : {1, 2}
        1 for a linear charge, 2 for a quadratic one.
    variant : {"corrected", "article"}
        Which start.
    first : bool
        True if there is no buffer yet.

    Notes
    -----
    The oscillator and the iteration relax at different rates (2(1 − β)/(1 + β) and −ln β per step); the start
    is the one for which both have moved by the same amount once they have relaxed.

    Examples
    --------
    >>> continuous_start(1.0, 0.0, SGDStep(0.1, momentum=0.5, weight_decay=0.75), degree=2)
    -1.0
    """
    _refuse_decoupled(step)
    if step.momentum == 0:
        raise NoClosedLaw(f"no oscillator starts without momentum, got {step}; continuous_step needs no rate then")
    beta = step.momentum
    with np.errstate(all="ignore"):
        if variant == "article":
            return 0.0 * charge
        shed = beta * beta if step.nesterov else beta
        if first:
            momentum = step.dampening / beta * step.weight_decay * charge
        # λ'Q(1/s)(1 − κ/c₂) is (1 − α)λQ/(2c₂) for both kinds, without the division by 1 − β
        settled = (1.0 - step.dampening) * step.weight_decay * charge / 2
        return float(-degree / _inertia(step)) * (settled + shed * momentum)


def continuous_step(
    charge: Any,
    rate: Any,
    step: SGDStep,
    forcing: Any = 0.0,
    *,
    degree: int,
    variant: Variant = "corrected",
) -> tuple[Any, Any]:
    r"""Advance the continuous law of a charge by one step, t → t + h, with the forcing held constant.

    Without momentum Q' = −c(λ + hλ²/2)Q + h⟨ξ(g), g⟩ (article: without hλ²/2). With momentum
    Q'' + 2γQ' + ω²Q = 2⟨ξ(u), u⟩ (article: times (1 − α)², the factor its forcing lacks), γ and ω as in
    `damping_regime`. Linear charges have no forcing.

    Parameters
    ----------
    charge, rate : float or array
        Q and dQ/dt before the step; without momentum `rate` is handed back unchanged.
    step : SGDStep
        The hyper-parameters of this step.
    forcing : float or array
        ⟨ξ(u), u⟩ of the update u; without momentum ⟨ξ(g), g⟩.
    degree : {1, 2}
        1 for a linear charge, 2 for a quadratic one.
    variant : {"corrected", "article"}
        Which law.

    Returns
    -------
    charge, rate
        Both after the step; inf or nan, silently, where a training that diverges takes them.

    Raises
    ------
    NoClosedLaw
        For decoupled decay, and for the article's law under Nesterov, which the article does not treat.

    References
    ----------
    Kunin et al. 2021, arXiv 2012.04728, equations 18 to 20, and the laws with momentum.

    Examples
    --------
    >>> import math
    >>> charge, _ = continuous_step(1.0, 0.0, SGDStep(0.5, weight_decay=0.1), degree=1, variant="article")
    >>> math.isclose(charge, math.exp(-0.05))
    True
    """
    _refuse_decoupled(step)
    if variant == "article" and step.nesterov:
        raise NoClosedLaw("the article has no law for Nesterov momentum; use variant='corrected'")
    h, decay = np.float64(step.h), np.float64(step.weight_decay)
    with np.errstate(all="ignore"):
        drive = forcing if degree == 2 else 0.0 * charge
        if step.momentum == 0:
            exponent = degree * h * decay * (1.0 if variant == "article" else 1.0 + h * decay / 2)
            held = -np.expm1(-exponent) / exponent if exponent else 1.0
            return np.exp(-exponent) * charge + h**2 * held * drive, rate
        if variant == "article":
            drive = (1.0 - np.float64(step.dampening)) ** 2 * drive
        friction, stiffness = _oscillator(step, degree)
        p = _propagator(float(friction), float(h * stiffness))
        # p[1, 0] = −hk·p[0, 1] and p[1, 2] = p[0, 1], so that nothing is divided by h, which may be 0
        return (
            p[0, 0] * charge + p[0, 1] * h * rate + p[0, 2] * 2 * h**2 * drive,
            p[0, 1] * (2 * h * drive - stiffness * charge) + p[1, 1] * rate,
        )


def continuous_rotation(rotation: Any, step: SGDStep, *, first: bool = False, variant: Variant = "corrected") -> Any:
    r"""Advance the continuous law of a rotation R = ⟨ξ(θ), v⟩ of an antisymmetric generator by one step, t → t + h.

    The motion of the article, h(1 + β)/2·θ'' + (1 − β)θ' = −g, has R' = −2(1 − β)/(h(1 + β))·R. In the phase-space
    form, which keeps the pole of the method, it is R' = (ln β/h)·R, the discrete law itself.

    Parameters
    ----------
    rotation : float or array
        R before the step.
    step : SGDStep
        Heavy ball with coupled decay.
    first : bool
        True if there is no buffer yet: R is 0 then.
    variant : {"corrected", "article"}
        The phase-space form, or the article's.

    Raises
    ------
    NoClosedLaw
        For decoupled decay, Nesterov, and without momentum.

    References
    ----------
    Kunin et al. 2021, arXiv 2012.04728, for the motion; Tanaka, Kunin 2021, arXiv 2105.02716.

    Examples
    --------
    >>> round(float(continuous_rotation(1.0, SGDStep(0.5, momentum=0.75), variant="article")), 5)
    0.75148
    """
    _refuse_decoupled(step)
    exact = rotation_step(rotation, step, first=first)
    if variant == "corrected" or first:
        return exact
    return rotation * np.exp(-2 * (1 - step.momentum) / (1 + step.momentum))


def _inertia(step: SGDStep) -> np.float64:
    beta = np.float64(step.momentum)
    return (1 - beta + 2 * beta**2) / 2 if step.nesterov else (1 + beta) / 2


def _oscillator(step: SGDStep, degree: int) -> tuple[np.float64, np.float64]:
    """Return 2γh and ω²h: the oscillator with time counted in steps has friction 2γh and stiffness h·ω²h."""
    with np.errstate(all="ignore"):
        inertia = _inertia(step)
        damped = (1.0 - step.dampening) * step.weight_decay
        return (1.0 - step.momentum) / inertia, degree * damped / inertia


@lru_cache(maxsize=64)
def _propagator(friction: float, stiffness: float) -> NDArray[np.float64]:
    """Return the flow of (Q, Q̇, F) over one step of unit length; F is the forcing, held constant.

    A matrix exponential treats all damping regimes alike: closed forms by regime would divide by
    γ² − ω², which vanishes at critical damping, and by ω², which vanishes without decay. Its Taylor series is
    summed after halving its entries below ½, and squared back; `scipy.linalg.expm` gives the same many
    times slower, which a schedule would feel, as it asks for a new one at every step.
    """
    if not np.isfinite([friction, stiffness]).all():
        return np.full((3, 3), np.nan)
    generator = np.array([[0.0, 1.0, 0.0], [-stiffness, -friction, 1.0], [0.0, 0.0, 0.0]])
    halvings = max(0, 2 + int(np.ceil(np.log2(np.abs(generator).max()))))
    small, identity = np.ldexp(generator, -halvings), np.eye(3)
    flow = identity
    for power in range(16, 0, -1):
        flow = identity + small @ flow / power
    for _ in range(halvings):
        flow = flow @ flow
    return flow


def _refuse_decoupled(step: SGDStep) -> None:
    if step.decoupled and step.weight_decay:
        raise NoClosedLaw(f"no continuous law is known here for decoupled decay, got {step}; use discrete_step")
