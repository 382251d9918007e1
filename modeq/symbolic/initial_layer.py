"""Where the modified flow must start: the slow part of the iterates, as a B-series at θ₀."""

from typing import Any

import sympy as sp

from modeq.errors import InvalidOrder
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import coefficient_field, exact_matrix
from modeq.symbolic.b_series import Written
from modeq.symbolic.exponential_polynomials import LinearRecurrence, Sequence, combine
from modeq.symbolic.fields_and_maps import BSeriesMap
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
    buffers : None, 0, or matrix states × colours
        None: the method's own start. 0: all buffers zero. A matrix S: X₀ = u θ₀ + h Σ_c S_c f_c(θ₀);
        for the heavy ball from the momentum buffer v₀ = κ ∇L(θ₀) it is [[0], [κ]].

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
    """
    if order == 0 and not isinstance(order, bool):
        nothing = Coefficients(tree_table(1, method.colour_count).truncated(0), (), sp.QQ)
        return InitialLayer.of(method, nothing)
    try:
        number = checked_order(order)
    except InvalidOrder as error:
        raise InvalidOrder(f"the order of an initial layer is {order!r}: give an integer from 0") from error
    states, colours = method.state_count, method.colour_count
    start = method.start if buffers is None else sp.zeros(states, colours)
    if not (buffers is None or (isinstance(buffers, int) and buffers == 0)):
        start = exact_matrix(buffers, "buffers", (states, colours))
    method.require_zero_stable()
    recurrence = LinearRecurrence(method.A, coefficient_field([*method.entries, *start]))
    K = recurrence.field
    B, C, D = (
        [[K.from_sympy(entry) for entry in matrix.row(i)] for i in range(matrix.rows)]
        for matrix in (method.B, method.C, method.D)
    )
    readout = [K.from_sympy(entry) for entry in method.readout]
    table = tree_table(number, colours, method.decay.keys())
    zero, one = Sequence((), {}, K), Sequence((), {K.one: [K.one]}, K)
    gradients: list[list[Sequence]] = []
    positions: list[list[Sequence]] = []
    values = []
    for u, v, colour in zip(table.left.tolist(), table.right.tolist(), table.root.tolist(), strict=True):
        if u < 0:
            R = [one if c == colour else zero for c in method.colours]
            first = [K.from_sympy(entry) for entry in start.col(colour)]
        else:
            R = [a * b for a, b in zip(gradients[u], positions[v], strict=True)]
            first = [K.zero] * states
        gradients.append(R)
        state = recurrence.solve(first, [combine(row, R, K) for row in B])
        positions.append([combine([*c, *d], [*state, *R], K) for c, d in zip(C, D, strict=True)])
        values.append(combine(readout, state, K).slow_start)
    return InitialLayer.of(method, Coefficients(table, tuple(values), K))
