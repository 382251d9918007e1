"""Where weight decay and gradient noise leave the norm of scale-invariant weights, and how fast these then turn."""

from dataclasses import dataclass
from math import isfinite, sqrt
from numbers import Real

from modeq.errors import InvalidSetting, NoClosedLaw
from modeq.symmetry.laws import SGDStep


@dataclass(frozen=True)
class Equilibrium:
    """The stationary state of scale-invariant weights.

    Attributes
    ----------
    squared_norm : float
        ‖θ‖².
    angle : float
        The root of the mean squared angle between θ before and after a step, in radians.
    time : float
        t = h·n after which a deviation of ‖θ‖² has shrunk by e.

    Examples
    --------
    >>> equilibrium(SGDStep(0.5, weight_decay=0.25), 1.0)
    Equilibrium(squared_norm=1.0, angle=0.5, time=1.0)
    """

    squared_norm: float
    angle: float
    time: float


def equilibrium(step: SGDStep, squared_gradient: float) -> Equilibrium:
    r"""Return the norm at which weight decay and gradients balance, and the angle of a step there.

    With coupled decay, heavy ball and Nesterov have 2λ‖θ‖² = h(1 − α)/(1 − β)·E‖g‖². As the gradient of scale-invariant
    weights is inverse to their norm, G = E‖g‖²‖θ‖² is a number of its own, and ‖θ‖⁴ = h(1 − α)G/(2λ(1 − β)). The
    squared angle is 2hλ(1 − α)/(1 + β), for Nesterov 2hλ(1 + 2β − 2β³)/(1 + β). With decoupled decay ‖θ‖⁴ is
    h(1 − α)²G/(2λ(1 − β)²), and the squared angle has a factor 1 − β in place of 1 − α.

    Parameters
    ----------
    step : SGDStep
        With weight decay, and α < 1.
    squared_gradient : float
        G = E‖g‖²·‖θ‖², of minibatch gradients without weight decay.

    Returns
    -------
    Equilibrium
        With ‖θ‖², the angle, and the time in which it is reached.

    Raises
    ------
    NoClosedLaw
        Without weight decay or learning rate there is no equilibrium, nor for a momentum or dampening of 1 and more.
    InvalidSetting
        If `squared_gradient` is not a positive number, or `step` no SGDStep.

    Notes
    -----
    To first order in hλ, for gradients of different steps that do not depend on each other. In equilibrium the
    discrete law N ← N − 2ha + h²‖v‖², P ← a − h‖v‖² stands still. The deviation of ‖θ‖² shrinks with the rate
    4λ(1 − α)/(1 − β) per h·n, with decoupled decay 4λ: twice as fast as weight decay alone, since a smaller norm has
    larger gradients.

    Gradients of a real training do depend on each other: near a minimum they point against the last steps, which the
    buffer v, before the step, adds up. To first order that is all in G = E‖θ‖²(‖g‖² + 2β⟨g, v⟩/(1 − α)), for Nesterov
    E‖θ‖²(‖g‖² + 2β²⟨g, v⟩). The angle of heavy ball is the same all the same, that of Nesterov is not.

    References
    ----------
    Wan, Zhu, Zhang, Sun 2021 (arXiv 2006.08419) for the angle under heavy ball; Kunin et al. 2021 (arXiv 2012.04728)
    for the law.

    Examples
    --------
    >>> found = equilibrium(SGDStep(0.1, momentum=0.9, weight_decay=5e-4), 0.01)
    >>> round(found.squared_norm, 3), round(found.angle, 5)
    (3.162, 0.00725)
    """
    if not isinstance(step, SGDStep):
        raise InvalidSetting(f"step is {step!r}: give an SGDStep, SGDStep(0.1, weight_decay=5e-4) for instance")
    h, beta, decay = step.h, step.momentum, step.weight_decay
    if not isinstance(squared_gradient, Real) or not isfinite(squared_gradient) or squared_gradient <= 0:
        raise InvalidSetting(f"squared_gradient is {squared_gradient!r}: give a positive number, E‖g‖²·‖θ‖²")
    keep = 1.0 - step.dampening if beta else 1.0
    if h <= 0 or decay <= 0 or not beta < 1 or keep <= 0:
        raise NoClosedLaw(f"no equilibrium for {step}: give h and weight_decay above 0, momentum and dampening below 1")
    s = 1.0 - beta
    # v = Σ βᵏ(1 − α)g: what the decay is to the buffer, coupled it enters there too
    strength = decay * keep / s if not (step.decoupled and beta) else decay
    squared_norm = sqrt(h * keep**2 * float(squared_gradient) / (2 * strength * s**2))
    turned = 1 + 2 * beta - 2 * beta**3 if step.nesterov else 1.0
    angle = sqrt(2 * h * strength * s / (1 + beta) * turned)
    return Equilibrium(squared_norm, angle, 1 / (4 * strength))
