"""The iterates themselves, from any first state, as series whose coefficients are sequences in the step number."""

from typing import Any

import sympy as sp

from modeq.errors import InvalidMethod
from modeq.methods.arithmetic import elements
from modeq.methods.base import RESERVED, GeneralLinearMethod
from modeq.methods.exact import coefficient_field, exact_matrix
from modeq.symbolic.exponential_polynomials import LinearRecurrence, Sequence, combine
from modeq.symbolic.rooted_trees import TreeTable, tree_table


def first_state(method: GeneralLinearMethod, buffers: Any) -> sp.ImmutableMatrix:
    """Return S in X₀ = u θ₀ + h Σ_c S_c f_c(θ₀): a column for each colour, and for each given vector.

    Parameters
    ----------
    buffers : None, 0, matrix states × colours, or "given"
        None: the method's own start. 0: zero buffers. "given": one more column for each state, X₀ = u θ₀ + h w
        with any vectors w_i; they are fields of their own, of the colours ``method.colour_count + i``.

    Examples
    --------
    >>> import modeq as mq
    >>> first_state(mq.HeavyBall(momentum=0.5, dampening=0.25), None), first_state(mq.HeavyBall(0.5), "given")
    (Matrix([
    [  0],
    [1/2]]), Matrix([
    [0, 1, 0],
    [0, 0, 1]]))
    """
    states, colours = method.state_count, method.colour_count
    if buffers is None:
        return method.start
    if isinstance(buffers, str):
        if buffers != "given":
            raise InvalidMethod(f"buffers is {buffers!r}: give None, 0, a matrix, or 'given'")
        return sp.ImmutableMatrix.hstack(sp.zeros(states, colours), sp.eye(states))
    if isinstance(buffers, int) and buffers == 0:
        return sp.ImmutableMatrix.zeros(states, colours)
    first = exact_matrix(buffers, "buffers", (states, colours))
    taken = sorted({symbol.name for symbol in first.free_symbols} & RESERVED)
    if taken:
        raise InvalidMethod(f"buffers has the symbol {taken[0]}, a reserved name: rename the symbol")
    return first


def recurrence_of(method: GeneralLinearMethod, first: sp.MatrixBase) -> LinearRecurrence:
    """Return X(n+1) = A X(n) + V(n), over a field with the entries of the method, of `first`, and all eigenvalues."""
    return LinearRecurrence(method.A, coefficient_field([*method.entries, *first]))


def iterated(
    method: GeneralLinearMethod, order: int, first: sp.MatrixBase, recurrence: LinearRecurrence
) -> tuple[TreeTable, list[list[Sequence]]]:
    """Return the trees with at most `order` vertices, and the coefficient of each in every state X(n).

    For τ = [τ₁,…,τ_m] the gradient at a query has the coefficient Π_k of the query's own for τ_k, and the
    states follow from the method's recurrence, from their first values: zero but for single vertices.
    Colours beyond the method's are those of given vectors, and leaves only.
    """
    K = recurrence.field
    B, C, D = (elements(matrix, K) for matrix in (method.B, method.C, method.D))
    given = range(method.colour_count, first.cols)
    table = tree_table(order, first.cols, method.decay.keys(), given)
    nothing, one = Sequence((), {}, K), Sequence((), {recurrence.one: [K.one]}, K)
    gradients: list[list[Sequence]] = []
    positions: list[list[Sequence]] = []
    states: list[list[Sequence]] = []
    for u, v, colour in zip(table.left.tolist(), table.right.tolist(), table.root.tolist(), strict=True):
        start = [K.zero] * method.state_count
        if u < 0:
            R = [one if c == colour else nothing for c in method.colours]
            start = [K.from_sympy(entry) for entry in first.col(colour)]
        else:
            R = [a * b for a, b in zip(gradients[u], positions[v], strict=True)]
        X = recurrence.solve(start, [combine(row, R, K) for row in B])
        gradients.append(R)
        positions.append([combine([*c, *d], [*X, *R], K) for c, d in zip(C, D, strict=True)])
        states.append(X)
    return table, states


def readout(method: GeneralLinearMethod, states: list[list[Sequence]], recurrence: LinearRecurrence) -> list[Sequence]:
    """Return the coefficient of each tree in the parameters θ_n."""
    row = elements(method.readout, recurrence.field)[0]
    return [combine(row, X, recurrence.field) for X in states]
