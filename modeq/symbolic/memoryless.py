"""The memoryless map: what one step of a method is on its slow manifold, as a map of the parameters alone."""

from modeq.methods.base import GeneralLinearMethod
from modeq.symbolic.fields_and_maps import BSeriesMap
from modeq.symbolic.rooted_trees import checked_order
from modeq.symbolic.series import map_coefficients


class MemorylessMap(BSeriesMap):
    """θ⁺ = θ + Σ_{|τ| ≤ order} h^{|τ|} a(τ)/σ(τ) F(τ)(θ): the optimizer without its memory.

    ``map[tree]`` is a(τ), *not* divided by the symmetry σ(τ). Where :meth:`gradient_test` holds, the
    optimizer on its slow manifold is plain gradient descent, θ⁺ = θ − h ∇L̃(θ), on :meth:`modified_loss`.

    Examples
    --------
    >>> import modeq as mq
    >>> print(mq.memoryless_map(mq.HeavyBall(momentum=0.5), order=2))
    θ⁺ = θ - 2*h·g - 4*h**2·H g
    """


def memoryless_map(method: GeneralLinearMethod, order: int) -> MemorylessMap:
    """Derive the one-step map of a method on its slow manifold, to any order, exactly.

    Parameters
    ----------
    method : GeneralLinearMethod
    order : positive int
        Terms through h^order.

    Returns
    -------
    MemorylessMap
        A mapping from trees to exact coefficients a(τ).

    Raises
    ------
    NotZeroStable, InvalidOrder

    Notes
    -----
    For the heavy ball its coefficients depend on the unrooted tree only, at every order computed: Eulerian
    polynomials on stars, Narayana polynomials on chains. Source: Cattaneo, Shigida 2025, for the heavy ball.

    Examples
    --------
    Heavy ball is gradient descent on a modified loss, here to order 3:

    >>> import modeq as mq, sympy as sp
    >>> step = memoryless_map(mq.HeavyBall(momentum=sp.Symbol("beta")), order=3)
    >>> step.gradient_test().holds
    True
    >>> step[[[], []]]
    beta*(beta + 1)/(1 - beta)**5
    """
    number = checked_order(order)
    return MemorylessMap.of(method, map_coefficients(method, number))
