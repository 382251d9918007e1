"""Where the modified flow must start: the slow part of the iterates, as a B-series at θ₀."""

from typing import Any

import sympy as sp

from modeq.errors import InvalidOrder
from modeq.methods.base import GeneralLinearMethod
from modeq.symbolic.b_series import Written
from modeq.symbolic.fields_and_maps import BSeriesMap
from modeq.symbolic.iterates import first_state, iterated, readout, recurrence_of
from modeq.symbolic.rooted_trees import checked_order, tree_table
from modeq.symbolic.series import Coefficients


class InitialLayer(BSeriesMap):
    """Σ_{|τ| ≤ order} h^{|τ|} ℓ(τ)/σ(τ) F(τ)(θ₀): what to add to θ₀ to get onto the flow.

    ``layer[tree]`` is ℓ(τ), *not* divided by σ(τ), with F(τ) of f = −∇L.
    """

    _left = Written("θ(0)", r"\theta(0)")
    _first = Written("θ₀", r"\theta_0")


def initial_layer(method: GeneralLinearMethod, order: int, buffers: Any = None) -> InitialLayer:
    """Return the slow part of the iterates at n = 0, through h^order.

    From given buffers the state is not on the slow manifold. The recursion of the modified equation is
    run on exponential polynomials in n, Σ μⁿ·poly(n) over products μ of the parasitic eigenvalues, from
    the actual first state; the flow starts where the part without parasitic factors is at n = 0. It is
    zero for one-step methods such as gradient descent.

    Parameters
    ----------
    method : GeneralLinearMethod
    order : int from 0
    buffers : None, 0, matrix states × colours, or "given"
        None: the method's own start. 0: all buffers zero. A matrix S: X₀ = u θ₀ + h Σ_c S_c f_c(θ₀);
        for the heavy ball from the momentum buffer v₀ = κ ∇L(θ₀) it is [[0], [κ]]. "given":
        X₀ = u θ₀ + h w with any vectors w_i; they are fields of their own, with the colours
        ``method.colour_count + i``.

    Raises
    ------
    NotZeroStable, InvalidOrder, InvalidMethod

    Notes
    -----
    Multistep methods and their parasitic components: Hairer, Lubich, Wanner, *Geometric Numerical
    Integration*, XV.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> beta = sp.Symbol("beta")
    >>> initial_layer(mq.HeavyBall(momentum=beta), 1)[[]]
    -beta/(1 - beta)**2

    A momentum buffer v₀, with w₁ = −v₀, moves the start by −hβ/(1 − β) v₀:

    >>> initial_layer(mq.HeavyBall(momentum=beta), 1, buffers="given")[mq.Tree(2, [])]
    beta/(1 - beta)
    """
    if order == 0 and not isinstance(order, bool):
        nothing = Coefficients(tree_table(1, method.colour_count).truncated(0), (), sp.QQ)
        return InitialLayer.of(method, nothing)
    try:
        number = checked_order(order)
    except InvalidOrder as error:
        raise InvalidOrder(f"the order of an initial layer is {order!r}: give an integer from 0") from error
    method.require_zero_stable()
    first = first_state(method, buffers)
    recurrence = recurrence_of(method, first)
    table, states = iterated(method, number, first, recurrence)
    values = tuple(path.slow_start for path in readout(method, states, recurrence))
    return InitialLayer.of(method, Coefficients(table, values, recurrence.field))
