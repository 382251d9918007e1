"""The exact laws of charges under the discrete optimizer: one-step recursions and closed forms.

The update is that of ``torch.optim.SGD``: d = g + λθ, v ← βv + (1 − α)d (the first step of a parameter
takes v = d), and θ ← θ − h·u with u = v, or u = d + βv (Nesterov), or u = d (no momentum). Because
⟨ξ(θ), g⟩ = 0 for every batch, the charge N = ⟨ξ(θ), θ⟩ and its momentum P = ⟨ξ(θ), v⟩ obey a recursion in
which the gradients appear only through the form of the update with itself, and for linear charges not at all.
No step is expanded in h: these are identities, for any schedule of the hyper-parameters.
"""

from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import toeplitz

from modeq.errors import InvalidSetting, NoClosedLaw


@dataclass(frozen=True)
class SGDStep:
    """The hyper-parameters of one step of stochastic gradient descent, as torch names them.

    Parameters
    ----------
    h : float
        Learning rate, at least 0; time is t = h·n.
    momentum, dampening, weight_decay : float
        β, at least 0, α (any; without effect at β = 0, as in torch) and λ.
    nesterov : bool
        Update along d + βv instead of v; torch allows it for α = 0 only.
    decoupled : bool
        Multiply θ by 1 − hλ outside of the gradient instead of adding λθ to it.

    Raises
    ------
    InvalidSetting
        If one of the numbers is not finite, or h or momentum is negative. The discrete laws hold for all
        others; `damping_regime` needs h > 0 and 0 < momentum < 1 besides.

    Examples
    --------
    >>> SGDStep(0.1, momentum=0.9)
    SGDStep(h=0.1, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False, decoupled=False)
    """

    h: float
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    decoupled: bool = False

    def __post_init__(self) -> None:
        """Refuse what no optimizer can be set to."""
        for key in ("h", "momentum", "dampening", "weight_decay"):
            value, positive = getattr(self, key), key in ("h", "momentum")
            if not isinstance(value, Real) or not isfinite(value) or (positive and value < 0):
                raise InvalidSetting(f"{key} is {value!r}; give a finite number{' of at least 0' if positive else ''}")


def discrete_step(
    charge: Any,
    momentum: Any,
    step: SGDStep,
    forcing: Any = 0.0,
    cross: Any = 0.0,
    *,
    degree: int,
    first: bool = False,
    defect: Any = 0.0,
) -> tuple[Any, Any]:
    r"""Advance a charge and its momentum by one step of the optimizer, exactly.

    Heavy ball on a quadratic charge, with a = βP + (1 − α)λN:
    N ← N − 2ha + h²⟨ξ(v⁺), v⁺⟩, P ← a − h⟨ξ(v⁺), v⁺⟩. Without momentum
    N ← (1 − hλ)²N + h²⟨ξ(g), g⟩. A linear charge: V ← βV + (1 − α)λS, S ← S − hV.

    Parameters
    ----------
    charge, momentum : float or array
        N = ⟨ξ(θ), θ⟩ and P = ⟨ξ(θ), v⟩ before the step (S and ⟨1, v⟩ for a linear charge), any shape;
        v is the buffer itself, not hv.
    step : SGDStep
        Its hyper-parameters, which may differ from step to step.
    forcing : float or array
        ⟨ξ(u), u⟩ of the update u; without momentum ⟨ξ(g), g⟩. Not used by linear charges.
    cross : float or array
        ⟨ξ(u), v⁺⟩ with the new buffer, the same as `forcing` for heavy ball; without momentum
        ⟨ξ(g), v⟩ with a buffer left over from earlier steps, or 0. Not used by linear charges.
    degree : {1, 2}
        1 for a linear charge (translation), 2 for a quadratic one (scale, rescale).
    first : bool
        True if there is no buffer yet: torch then takes v⁺ = d, without dampening.
    defect : float or array
        ⟨ξ(θ), g⟩ where the symmetry is broken; the recursion then holds for any gradient.

    Returns
    -------
    charge, momentum
        The same two after the step.

    Notes
    -----
    It follows from inserting the update into the form and dropping ⟨ξ(θ), g⟩ = 0. The continuous
    counterparts are equations 18 to 20 of Kunin et al. 2021, arXiv 2012.04728.

    Examples
    --------
    >>> discrete_step(2.0, 0.0, SGDStep(0.5, weight_decay=0.2), forcing=1.0, degree=2)
    (1.87, 0.0)
    """
    h, beta = step.h, step.momentum
    outside = step.decoupled or beta == 0  # without momentum the two kinds of decay are the same
    shrink = h * step.weight_decay if outside else 0.0
    keep = 1.0 - shrink
    along_gradient = defect if outside else step.weight_decay * charge + defect
    if beta == 0:
        along_buffer, along_update = momentum, along_gradient
    else:
        fresh, kept = (1.0, 0.0) if first else (1.0 - step.dampening, beta)
        along_buffer = fresh * along_gradient + kept * momentum
        along_update = along_gradient + beta * along_buffer if step.nesterov else along_buffer
    if degree == 1:
        return charge - shrink * charge - h * along_update, along_buffer
    # subtracting what is lost, not multiplying by keep²: the rounding of 1 − hλ is a bias that adds up
    return (
        charge - shrink * (1.0 + keep) * charge - 2 * h * keep * along_update + h * h * forcing,
        keep * along_buffer - h * cross,
    )


def rotation_step(rotation: Any, step: SGDStep, *, first: bool = False, defect: Any = 0.0) -> Any:
    r"""Advance the rotation ⟨ξ(θ), v⟩ of an antisymmetric generator by one step of heavy ball, exactly: R ← βR.

    Neither the gradients enter nor coupled weight decay, as ⟨ξ(v), v⟩ = 0 and ⟨ξ(θ), θ⟩ = 0; under decoupled decay
    R ← (1 − hλ)βR.

    Parameters
    ----------
    rotation : float or array
        R before the step; v is the buffer itself.
    step : SGDStep
        Heavy ball, with coupled or decoupled decay.
    first : bool
        True if there is no buffer yet: v⁺ = d then, along which R is 0.
    defect : float or array
        ⟨ξ(θ), g⟩ where the symmetry is broken; the recursion then holds for any gradient.

    Raises
    ------
    NoClosedLaw
        For Nesterov, where the update is another vector than the buffer, and without momentum, where the buffer, if
        there is one, stays as it is.

    Examples
    --------
    >>> rotation_step(1.0, SGDStep(0.5, momentum=0.75, weight_decay=0.25, decoupled=True))
    0.65625
    """
    if step.nesterov or step.momentum == 0:
        raise NoClosedLaw(f"a rotation has no closed law under {step}: it has one for momentum, without nesterov")
    fresh, kept = (1.0, 0.0) if first else (1.0 - step.dampening, step.momentum)
    keep = 1.0 - step.h * step.weight_decay if step.decoupled else 1.0
    return keep * (kept * rotation + fresh * defect)


def discrete_response(step: SGDStep, steps: int, *, degree: int) -> NDArray[np.float64]:
    r"""Return D_0 … D_n, the response of a charge to one kick under constant hyper-parameters.

    D_j = (μ₊ʲ − μ₋ʲ)/(μ₊ − μ₋) with the roots μ± of μ² − (1 + β − x)μ + β = 0, x = c·h(1 − α)λ and c the
    degree of the charge; jμ^{j−1} at a double root. Oscillating (complex roots) iff
    (1 − √β)² < x < (1 + √β)².

    Parameters
    ----------
    step : SGDStep
        Heavy ball or gradient descent with coupled decay.
    steps : int
        n, the last index.
    degree : {1, 2}
        1 for a linear charge, 2 for a quadratic one.

    Returns
    -------
    ndarray, shape [n + 1]

    Raises
    ------
    NoClosedLaw
        For Nesterov or decoupled decay, whose recursions have other roots; iterate `discrete_step`.

    Notes
    -----
    Written with μ± = √β·e^{±ψ} and ψ from cosh ψ − 1, which is formed without cancellation, so that
    nothing is lost near the double root and nothing overflows far from it.

    Examples
    --------
    >>> discrete_response(SGDStep(0.1, momentum=0.25), 3, degree=2).round(12).tolist()
    [0.0, 1.0, 1.25, 1.3125]
    """
    if step.nesterov or (step.decoupled and step.weight_decay):
        raise NoClosedLaw(f"closed form asked for {step}; it covers coupled heavy ball: iterate discrete_step")
    beta, x = _beta_and_x(step, degree)
    j = np.arange(steps + 1.0)
    if beta == 0:
        return np.where(j == 0, 0.0, (1.0 - x) ** np.maximum(j - 1, 0))
    root = np.sqrt(beta)
    above = ((1 - root) ** 2 - x) / (2 * root)  # cosh ψ − 1
    sign = 1.0
    if above < -1:  # negative real parts: mirror them, so that the double root −√β is as safe as +√β
        above, sign = (x - (1 + root) ** 2) / (2 * root), -1.0
    powers = (sign * root) ** np.maximum(j - 1, 0)
    if above < 0:
        angle = 2 * np.arcsin(np.sqrt(-above / 2))
        return powers * np.sin(j * angle) / np.sin(angle)
    psi = 2 * np.arcsinh(np.sqrt(above / 2))
    if psi == 0:
        return powers * j
    growth = np.exp((j - 1) * (psi + np.log(root))) * sign ** (j - 1)
    return growth * np.expm1(-2 * j * psi) / np.expm1(-2 * psi)


def discrete_solution(
    charge: ArrayLike, momentum: ArrayLike, step: SGDStep, forcing: ArrayLike, *, degree: int
) -> NDArray[np.float64]:
    r"""Return the charge at steps 0 … n in closed form, for constant hyper-parameters.

    N_n = N₀(D_{n+1} − βD_n) − c·hβP₀D_n + h² Σ_{k<n} (D_{n−k} + βD_{n−1−k}) F_k, with c the degree,
    F_k = ⟨ξ(v_{k+1}), v_{k+1}⟩ and D from `discrete_response`; without momentum
    N_n = (1 − hλ)^{cn}N₀ + h² Σ_{k<n} (1 − hλ)^{c(n−1−k)}F_k with F_k = ⟨ξ(g_k), g_k⟩.

    Parameters
    ----------
    charge, momentum : array_like, shape [generators]
        N₀ and P₀ = ⟨ξ(θ₀), v₀⟩. A torch optimizer that has not stepped yet behaves as one with
        P₀ = (α/β)λN₀ (from v₀ = (α/β)d₀), since its first step is not dampened.
    step : SGDStep
        Heavy ball or gradient descent with coupled decay, the same at all steps.
    forcing : array_like, shape [n, generators]
        F_0 … F_{n−1}; for a linear charge only its length counts.
    degree : {1, 2}
        1 for a linear charge, 2 for a quadratic one.

    Returns
    -------
    ndarray, shape [n + 1, generators]

    Raises
    ------
    NoClosedLaw
        For Nesterov or decoupled decay.

    Examples
    --------
    >>> import numpy as np
    >>> step = SGDStep(0.1, momentum=0.5, weight_decay=0.1)
    >>> discrete_solution([1.0], [0.0], step, np.zeros((2, 1)), degree=1)[:, 0].round(12).tolist()
    [1.0, 0.99, 0.9751]
    """
    forces = np.asarray(forcing, dtype=float)
    start = np.asarray(charge, dtype=float)
    n, h, beta = len(forces), step.h, step.momentum
    if beta == 0:
        decay = (1.0 - h * step.weight_decay) ** (degree * np.arange(n + 1.0))
        homogeneous, kernel = decay[:, None] * start, decay[:n]
    else:
        d = discrete_response(step, n + 1, degree=degree)
        kick = degree * h * beta * np.asarray(momentum, dtype=float)
        homogeneous = (d[1:] - beta * d[:-1])[:, None] * start - d[:-1, None] * kick
        kernel = d[1 : n + 1] + beta * d[:n]
    if degree == 1 or n == 0:
        return homogeneous
    driven = h * h * toeplitz(kernel, np.zeros(n)) @ forces
    return homogeneous + np.concatenate([np.zeros_like(driven[:1]), driven])


def _beta_and_x(step: SGDStep, degree: int) -> tuple[float, float]:
    damped = (1.0 - step.dampening) if step.momentum else 1.0
    return step.momentum, degree * step.h * damped * step.weight_decay
