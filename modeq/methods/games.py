"""Games: players, each with a loss, parameters and an optimizer of its own, who move at once or in turn."""

from collections.abc import Sequence
from typing import Any

import sympy as sp

from modeq.errors import InvalidMethod
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.methods.composition import Move, composed, coordinates
from modeq.methods.exact import exact_row

LARGEST_ROUND = 200  # in queries


def Simultaneous(players: Any, rates: Any = None, updates: Any = None) -> GeneralLinearMethod:
    """Return one round of a game in which all players move at once.

    Player c has the block θ_c of the parameters, the field f_c = −∇_{θ_c} L_c, zero in all other blocks,
    and a method that moves it with the learning rate ν_c h, with the other players where they were at the
    start of the round. For gradient descent, and one update each:

        θ_c⁺ = θ_c + ν_c h f_c(θ).

    Parameters
    ----------
    players : sequence of at least two GeneralLinearMethod
        The optimizer of each player, with one field and one query per step; player c is colour c.
    rates : sequence of positive numbers or sympy expressions, optional
        The ν_c, each player's learning rate as a multiple of h; all 1 by default.
    updates : sequence of positive ints, optional
        How many steps each player makes in a round; all 1 by default.

    Returns
    -------
    GeneralLinearMethod
        With the states θ, shared by all, then the buffers of each player.

    Raises
    ------
    InvalidMethod
        If there is no more than one player, a player has several fields or queries or weight decay, or a rate
        or a number of updates is out of range.

    Notes
    -----
    n counts *rounds*, and the time is h·n. Equations print the first player's f_c as f_1 or −g_1, and write H_1
    for the derivative of g_1 in all parameters.
    Source for gradient descent to order 2: Rosca, Wu, Dherin, Barrett 2021, *Discretization drift in
    two-player games* (arXiv 2105.13922).

    Examples
    --------
    Self terms and interaction terms drift alike:

    >>> import modeq as mq, sympy as sp
    >>> a, b = sp.symbols("a b")
    >>> game = mq.Simultaneous([mq.GradientDescent(), mq.GradientDescent()], rates=[a, b])
    >>> equation = mq.modified_equation(game, order=2)
    >>> equation[mq.Tree(0, [])], equation[mq.Tree(0, [(0, [])])], equation[mq.Tree(0, [(1, [])])]
    (a, -a**2/2, -a*b/2)
    """
    methods, speeds = _checked_players(players), _checked_rates(rates, len(players))
    counts = _checked_updates(updates, len(methods))
    moves = [composed([move] * count) for move, count in zip(_moves(methods, speeds), counts, strict=True)]
    identity = sp.eye(moves[0].A.rows)
    together = Move(
        identity + sum((move.A - identity for move in moves), sp.zeros(*identity.shape)),
        sp.Matrix.hstack(*(move.B for move in moves)),
        sp.Matrix.vstack(*(move.C for move in moves)),
        sp.diag(*(move.D for move in moves)),
        tuple(colour for move in moves for colour in move.colours),
    )
    return _game(f"Simultaneous({_arguments(methods, speeds, counts)})", methods, speeds, together)


def Alternating(players: Any, rates: Any = None, updates: Any = None, turns: Any = None) -> GeneralLinearMethod:
    """Return one round of a game in which the players move one after the other.

    As :func:`Simultaneous`, but each player sees what those before it have done in the round. For two
    players with gradient descent, and one update each:

        θ_1⁺ = θ_1 + ν_1 h f_1(θ_1, θ_2),    θ_2⁺ = θ_2 + ν_2 h f_2(θ_1⁺, θ_2).

    Parameters
    ----------
    players : sequence of at least two GeneralLinearMethod
        The optimizer of each player, with one field and one query per step; player c is colour c.
    rates : sequence of positive numbers or sympy expressions, optional
        The ν_c, each player's learning rate as a multiple of h; all 1 by default.
    updates : sequence of positive ints, optional
        How many steps each player makes in a row; all 1 by default.
    turns : sequence of ints, optional
        Instead of `updates`, who makes each step of a round, counted from 0.

    Returns
    -------
    GeneralLinearMethod
        With the states of :func:`Simultaneous`.

    Raises
    ------
    InvalidMethod
        If there is no more than one player, a player has several fields or queries or weight decay, a rate or a
        number of updates is out of range, `turns` leaves a player out, or comes with `updates`.

    Notes
    -----
    n counts *rounds*, and the time is h·n. Where a player's first step is not an ordinary one (torch's
    undamped one with dampening), its buffer starts with the field at the start of the whole round, which for
    players who move later is not where they stand then. Source for gradient descent to order 2: Rosca, Wu,
    Dherin, Barrett 2021 (arXiv 2105.13922), whose learning rates are those of a whole round, updates·ν_c h.

    Examples
    --------
    Whoever moves second drifts the other way in the interaction:

    >>> import modeq as mq, sympy as sp
    >>> a, b = sp.symbols("a b")
    >>> descent = mq.GradientDescent()
    >>> equation = mq.modified_equation(mq.Alternating([descent, descent], rates=[a, b]), order=2)
    >>> equation[mq.Tree(0, [(1, [])])], equation[mq.Tree(1, [(0, [])])]
    (-a*b/2, a*b/2)

    With half a step of the one before and one after the other it is the scheme of Störmer and Verlet, whose
    two interactions cancel at this order:

    >>> verlet = mq.Alternating([descent, descent], rates=[0.5, 1], turns=[0, 1, 0])
    >>> mq.modified_equation(verlet, order=2)[mq.Tree(0, [(1, [])])]
    0
    """
    methods, speeds = _checked_players(players), _checked_rates(rates, len(players))
    if turns is None:
        counts = _checked_updates(updates, len(methods))
        order = [player for player, count in enumerate(counts) for _ in range(count)]
        text = _arguments(methods, speeds, counts)
    else:
        if updates is not None:
            raise InvalidMethod(f"updates is {updates!r} and turns {turns!r}: give one of them")
        order = _checked_turns(turns, len(methods))
        text = f"{_arguments(methods, speeds, [1] * len(methods))}, turns={tuple(order)}"
    moves = _moves(methods, speeds)
    return _game(f"Alternating({text})", methods, speeds, composed([moves[player] for player in order]))


def _moves(methods: Sequence[GeneralLinearMethod], rates: Sequence[sp.Expr]) -> list[Move]:
    """One step of each player alone, on the state of θ and all buffers.

    A player's own state is X = u θ + W w, with buffers w = P X. Fields and buffers live in its own block, so
    that in every other block its query is the shared θ, and its step leaves that as it is.
    """
    states = 1 + sum(method.state_count - 1 for method in methods)
    moves, first = [], 1
    for player, (method, rate) in enumerate(zip(methods, rates, strict=True)):
        P, W = coordinates(method)
        own = slice(first, first + P.rows)
        first += P.rows
        A, B = sp.eye(states), sp.zeros(states, 1)
        C = sp.Matrix([[1] + [0] * (states - 1)])
        A[0, own], A[own, own] = method.readout * method.A * W, P * method.A * W
        B[0, :], B[own, :] = rate * method.readout * method.B, rate * P * method.B
        C[0, own] = method.C * W
        moves.append(Move(A, B, C, rate * method.D, (player,)))
    return moves


def _game(
    name: str, methods: Sequence[GeneralLinearMethod], rates: Sequence[sp.Expr], whole: Move
) -> GeneralLinearMethod:
    start = sp.zeros(whole.A.rows, len(methods))
    powers: list[int] | None = [0]
    first = 1
    for player, (method, rate) in enumerate(zip(methods, rates, strict=True)):
        P, _ = coordinates(method)
        start[0, player] = rate * method.readout * method.start
        start[first : first + P.rows, player] = rate * P * method.start
        own = _buffer_powers(method, P)
        powers = None if powers is None or own is None else powers + own
        first += P.rows
    return GeneralLinearMethod(
        A=whole.A,
        B=whole.B,
        C=whole.C,
        D=whole.D,
        colours=whole.colours,
        start=start,
        name=name,
        step_powers=None if powers is None else tuple(powers),
        players=True,
    )


def _buffer_powers(method: GeneralLinearMethod, P: sp.MatrixBase) -> list[int] | None:
    """How each buffer w = P X scales with h; None where it mixes states that scale differently, or there is no rule."""
    if method.step_powers is None:
        return None
    found = [{method.step_powers[k] for k in range(P.cols) if P[i, k] != 0} for i in range(P.rows)]
    return [powers.pop() for powers in found] if all(len(powers) == 1 for powers in found) else None


def _checked_players(players: Any) -> list[GeneralLinearMethod]:
    if not isinstance(players, list | tuple) or len(players) < 2:
        raise InvalidMethod(f"players is {players!r}: give a list of at least two methods, one for each player")
    for method in players:
        require_method(method)
        if method.players or method.steps > 1:
            raise InvalidMethod(f"{method} is a game or an epoch itself: give the method that makes one player's step")
        if method.decay:
            raise InvalidMethod(f"{method} has weight decay: put λ/2·|θ_c|² into the loss of that player instead")
        if method.query_count > 1:
            raise InvalidMethod(
                f"{method} has {method.query_count} gradient queries per step: give each player a method with one, "
                "mq.HeavyBall(0.9) for instance"
            )
    return list(players)


def _checked_rates(rates: Any, players: int) -> list[sp.Expr]:
    found = [sp.Integer(1)] * players if rates is None else _row(rates, "rates")
    if len(found) != players or any(rate.is_positive is False for rate in found):
        raise InvalidMethod(f"rates is {rates!r}: give a positive number for each of the {players} players")
    return found


def _checked_updates(updates: Any, players: int) -> list[int]:
    found = [1] * players if updates is None else _integers(updates, "updates")
    if len(found) != players or min(found) < 1 or sum(found) > LARGEST_ROUND:
        raise InvalidMethod(
            f"updates is {updates!r}: give a positive integer for each of the {players} players, at most "
            f"{LARGEST_ROUND} in all"
        )
    return found


def _checked_turns(turns: Any, players: int) -> list[int]:
    found = _integers(turns, "turns")
    if set(found) != set(range(players)) or len(found) > LARGEST_ROUND:
        raise InvalidMethod(
            f"turns is {turns!r}: name each of the players 0 to {players - 1} at least once, in at most "
            f"{LARGEST_ROUND} turns"
        )
    return found


def _row(values: Any, argument: str) -> list[sp.Expr]:
    return exact_row(list(values) if isinstance(values, sp.MatrixBase) else values, argument)


def _integers(values: Any, argument: str) -> list[int]:
    found = _row(values, argument)
    if not all(value.is_Integer for value in found):
        raise InvalidMethod(f"{argument} is {values!r}: give a sequence of integers")
    return [int(value) for value in found]


def _arguments(methods: Sequence[GeneralLinearMethod], rates: Sequence[sp.Expr], updates: Sequence[int]) -> str:
    text = str(list(methods))
    text += f", rates={tuple(rates)}" if any(rate != 1 for rate in rates) else ""
    return text + (f", updates={tuple(updates)}" if any(count != 1 for count in updates) else "")
