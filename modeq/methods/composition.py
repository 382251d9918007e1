"""Several moves in a row as one general linear method: an epoch of minibatches, players who take turns."""

from collections.abc import Sequence
from typing import NamedTuple

import sympy as sp

from modeq.methods.base import GeneralLinearMethod


class Move(NamedTuple):
    """One step's matrices: y = C X + h D F, X⁺ = A X + h B F, and the colour of each query."""

    A: sp.MatrixBase
    B: sp.MatrixBase
    C: sp.MatrixBase
    D: sp.MatrixBase
    colours: tuple[int, ...]


def composed(moves: Sequence[Move]) -> Move:
    """Return the moves done one after the other, on one state, as a single one.

    The queries of move k see the gradients F_l of the moves before it through the state:

        y_k = C_k A_{k−1}⋯A₁ X + h Σ_{l<k} C_k A_{k−1}⋯A_{l+1} B_l F_l + h D_k F_k.

    Examples
    --------
    Two steps of gradient descent; the second query sees the gradient of the first:

    >>> one = Move(*(sp.Matrix([[entry]]) for entry in (1, 1, 1, 0)), colours=(0,))
    >>> composed([one, one]).D
    Matrix([
    [0, 0],
    [1, 0]])
    """
    states = moves[0].A.rows
    A, B = sp.eye(states), sp.zeros(states, 0)
    C, D = sp.zeros(0, states), sp.zeros(0, 0)
    colours: tuple[int, ...] = ()
    for move in moves:
        seen = sp.Matrix.hstack(move.C * B, move.D)  # by the queries of this move, of all gradients so far
        D = sp.Matrix.vstack(sp.Matrix.hstack(D, sp.zeros(D.rows, move.D.cols)), seen)
        C = sp.Matrix.vstack(C, move.C * A)
        B = sp.Matrix.hstack(move.A * B, move.B)
        A = move.A * A
        colours += move.colours
    A, B, C, D = (matrix.applyfunc(sp.cancel) for matrix in (A, B, C, D))
    return Move(A, B, C, D, colours)


def coordinates(method: GeneralLinearMethod) -> tuple[sp.ImmutableMatrix, sp.ImmutableMatrix]:
    """Return the rows P and the columns W of X = u θ + W w, w = P X.

    The buffers w are all states but the first one that enters θ, each less its u θ.

    Examples
    --------
    >>> import modeq as mq
    >>> coordinates(mq.TripleMomentum(0.5, 0.5, 0.25))
    (Matrix([[0, 1]]), Matrix([
    [-1/4],
    [   1]]))
    """
    states, readout = method.state_count, method.readout
    pivot = next(k for k in range(states) if readout[k] != 0)
    others = [k for k in range(states) if k != pivot]
    P, W = sp.zeros(states - 1, states), sp.zeros(states, states - 1)
    for i, k in enumerate(others):
        P[i, :] = -method.preconsistency[k] * readout
        P[i, k] += 1
        W[k, i] = 1
        W[pivot, i] = -readout[k] / readout[pivot]
    return sp.ImmutableMatrix(P), sp.ImmutableMatrix(W)
