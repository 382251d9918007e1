"""Weight decay for every method: a linear field −λθ, coupled to the gradient or decoupled from it."""

from dataclasses import replace
from typing import Any

import sympy as sp

from modeq.errors import InvalidMethod
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import checked_rate


def with_weight_decay(method: GeneralLinearMethod, lam: Any, decoupled: bool = False) -> GeneralLinearMethod:
    """Return `method` with weight decay λ, as a colour of its own with the field −λθ.

    Coupled, every gradient query becomes g + λy, as torch.optim.SGD does: the decay passes through the
    momentum. Decoupled, θ⁺ = (1 − hλ) θ + (the step without decay), with gradients at the old θ; what the
    states hold beside θ (momentum, differences from earlier iterates) is the same as without decay.

    Parameters
    ----------
    lam : non-negative number or sympy expression
        The rate λ, per unit of time h·n.
    decoupled : bool
        Whether the decay bypasses the gradient and its buffers.

    Raises
    ------
    InvalidMethod
        If λ is negative, `decoupled` is no bool, the method has weight decay already, or it is an
        epoch or a game.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> method = mq.GradientDescent().with_weight_decay(sp.Symbol("lambda"))
    >>> method.colours, method.decay
    ((0, 1), {1: lambda})
    """
    rate = checked_rate(lam, "weight decay")
    if not isinstance(decoupled, bool):
        raise InvalidMethod(f"decoupled is {decoupled!r}: give True or False")
    if method.players:  # a field −λθ would move all blocks at every turn
        raise InvalidMethod(
            f"{method.name} is a game, and weight decay would pull at the parameters of all players at each turn: put "
            "λ/2·|θ_c|² into the loss of player c"
        )
    if method.steps > 1:  # n counts the steps inside
        raise InvalidMethod(f"{method.name} is an epoch: give weight decay to the method that takes its steps")
    if method.decay:
        raise InvalidMethod(f"{method.name} has weight decay already: give its whole rate at once")
    if rate == 0:
        return method
    if method.sgd is not None and method.sgd.get("maximize"):
        raise InvalidMethod(f"{method.name} has turned the sign of its gradients: apply weight decay before that")
    colour = method.colour_count
    decay = {colour: rate}
    sgd = None
    if decoupled:
        B, C, D, colours = _decoupled_matrices(method, colour)
        start = sp.Matrix.hstack(method.start, sp.zeros(method.state_count, 1))
    else:
        B = sp.Matrix.hstack(method.B, method.B)
        C = sp.Matrix.vstack(method.C, method.C)
        row = sp.Matrix.hstack(method.D, method.D)
        D = sp.Matrix.vstack(row, row)
        colours = method.colours + (colour,) * method.query_count
        start = sp.Matrix.hstack(
            method.start, sum((method.start[:, c] for c in range(colour)), sp.zeros(method.state_count, 1))
        )
        if method.sgd is not None:
            sgd = {**method.sgd, "weight_decay": rate}
    name = f"{method.name}.with_weight_decay({rate}{', decoupled=True' if decoupled else ''})"
    return replace(method, B=B, C=C, D=D, colours=colours, decay=decay, start=start, name=name, sgd=sgd)


def _decoupled_matrices(
    method: GeneralLinearMethod, colour: int
) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix, tuple[int, ...]]:
    # X = u θ + buffers: with θ all states move, the buffers stay.
    B = sp.Matrix.hstack(method.B, sp.Matrix(method.preconsistency))
    C = sp.Matrix.vstack(method.C, method.readout)
    D = sp.diag(method.D, sp.zeros(1, 1))
    return B, C, D, (*method.colours, colour)
