"""Epochs of minibatches: one pass of a method over m batches, each a field of its own."""

from dataclasses import dataclass
from typing import Any, Literal, get_args, overload

import sympy as sp

from modeq.errors import InvalidMethod, choice
from modeq.methods.base import RESERVED, GeneralLinearMethod, require_method
from modeq.methods.composition import Move, composed
from modeq.methods.exact import exact

Sampling = Literal["reshuffling", "replacement", "fixed order, averaged"]
LARGEST_EPOCH = 200  # in queries


@dataclass(frozen=True, repr=False)
class ExpectedEpoch:
    """An epoch of m minibatches in random order, for `modeq.modified_equation`; see :meth:`EpochMethod.expected`.

    Attributes
    ----------
    method : what takes each step
    batches : m, a positive integer or a sympy symbol
    sampling : "reshuffling", "replacement" or "fixed order, averaged"

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> mq.Epoch(mq.GradientDescent(), batches=sp.Symbol("m")).expected("reshuffling")
    Epoch(GradientDescent(), batches=m).expected('reshuffling')
    """

    method: GeneralLinearMethod
    batches: sp.Expr
    sampling: Sampling

    def __post_init__(self) -> None:
        if self.sampling not in get_args(Sampling):
            raise InvalidMethod(f"sampling is {choice(self.sampling, get_args(Sampling))}")

    def __repr__(self) -> str:
        return f"Epoch({self.method}, batches={self.batches}).expected({self.sampling!r})"


@dataclass(frozen=True, repr=False)
class UnlistedEpoch:
    """An epoch whose minibatches cannot be listed one by one, for their number m is a symbol or large.

    It has expected modified equations, and cannot be run.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> mq.Epoch(mq.GradientDescent(), batches=sp.Symbol("m"))
    Epoch(GradientDescent(), batches=m)
    """

    method: GeneralLinearMethod
    batches: sp.Expr

    def expected(self, sampling: Sampling) -> ExpectedEpoch:
        """Return the epoch in random order; see :meth:`EpochMethod.expected`."""
        return ExpectedEpoch(self.method, self.batches, sampling)

    def __repr__(self) -> str:
        return f"Epoch({self.method}, batches={self.batches})"


@dataclass(frozen=True, repr=False)
class EpochMethod(GeneralLinearMethod):
    """One pass over m minibatches in a given order as a general linear method; see :func:`Epoch`."""

    method: GeneralLinearMethod | None = None

    @property
    def batches(self) -> int:
        """The number m of minibatches."""
        return self.steps

    def expected(self, sampling: Sampling) -> ExpectedEpoch:
        """Return the epoch in random order, of which `modeq.modified_equation` gives the mean.

        Parameters
        ----------
        sampling : "reshuffling", "replacement" or "fixed order, averaged"
            "reshuffling": every epoch sees all batches in a new random order. "replacement": every step draws
            one of the m batches. Both give the modified equation of the expected one-epoch map, E over the
            draws. "fixed order, averaged": one random order is drawn and kept for all epochs; the modified
            equation itself is averaged over it.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.Epoch(mq.GradientDescent(), batches=3).expected("replacement").sampling
        'replacement'
        """
        assert self.method is not None
        return ExpectedEpoch(self.method, sp.Integer(self.batches), sampling)

    def subs(self, *substitution: Any) -> GeneralLinearMethod:
        """Return the epoch of the method with symbols replaced, as in sympy's ``subs``."""
        assert self.method is not None
        return epoch_in_order(self.method.subs(*substitution), self.batches)


@overload
def Epoch(method: GeneralLinearMethod, batches: int) -> EpochMethod: ...
@overload
def Epoch(method: GeneralLinearMethod, batches: Any) -> EpochMethod | UnlistedEpoch: ...
def Epoch(method: GeneralLinearMethod, batches: Any) -> EpochMethod | UnlistedEpoch:
    """Return one pass of a method over m minibatches, in order; each batch is a colour.

        X_{k+1} = A X_k + h B f_k(y_k),    k = 0, …, m − 1,    f_k = −∇L_k.

    n counts *steps*, not epochs, and the time is h·n. Buffers are carried from one step, and from one epoch,
    to the next. Weight decay of the method stays one field for all batches.

    Parameters
    ----------
    method : GeneralLinearMethod
        What takes each step; with weight decay, if any, inside.
    batches : positive int, or sympy symbol
        m. Of a symbol, and of more batches than make 200 queries, only :meth:`EpochMethod.expected` can be asked.

    Returns
    -------
    EpochMethod or, for a symbol or many batches, UnlistedEpoch
        With ``.expected(sampling)``. The colours are the fields of batch 0, of batch 1, …, and the last one is
        weight decay.

    Raises
    ------
    InvalidMethod
        If m is neither a positive integer nor a symbol, the symbol has a name that is taken, or the method is an
        epoch or a game itself.

    Notes
    -----
    Source for gradient descent to order 2: Smith, Dherin, Barrett, De 2021 (arXiv 2101.12176).

    Examples
    --------
    Every batch contributes 1/m to the drift, and later batches see the steps of earlier ones:

    >>> import modeq as mq
    >>> equation = mq.modified_equation(mq.Epoch(mq.GradientDescent(), batches=3), order=2)
    >>> [equation[mq.Tree(batch, [])] for batch in range(3)]
    [1/3, 1/3, 1/3]
    >>> equation[mq.Tree(1, [(0, [])])], equation[mq.Tree(0, [(1, [])])]
    (1/6, -1/6)
    """
    require_method(method)
    if isinstance(batches, sp.Symbol):
        if batches.name in RESERVED | {symbol.name for symbol in method.free_symbols}:
            raise InvalidMethod(f"batches is the symbol {batches}, whose name is taken: rename it")
        _require_single_step(method)
        return UnlistedEpoch(method, batches)
    number = exact(batches, "batches")
    if not number.is_Integer or number < 1:
        raise InvalidMethod(f"batches is {batches!r}: give a positive integer, or a sympy symbol")
    if number * method.query_count > LARGEST_EPOCH:
        _require_single_step(method)
        return UnlistedEpoch(method, number)
    return epoch_in_order(method, int(number))


def _require_single_step(method: GeneralLinearMethod) -> None:
    if method.players:
        raise InvalidMethod(f"{method} is a game: an epoch is of one loss, give the method of a single player")
    if method.steps > 1:
        raise InvalidMethod(f"{method} counts {method.steps} steps already: give the method of a single step")


def epoch_in_order(method: GeneralLinearMethod, batches: int) -> EpochMethod:
    """Return the general linear method of one pass over so many batches; see :func:`Epoch`.

    Examples
    --------
    >>> import modeq as mq
    >>> epoch_in_order(mq.HeavyBall(momentum=0.5).with_weight_decay(0.25), 2).colours
    (0, 2, 1, 2)
    """
    _require_single_step(method)
    fields = [colour for colour in range(method.colour_count) if colour not in method.decay]
    rates = list(method.decay)

    def colour_of(colour: int, batch: int) -> int:
        if colour in method.decay:
            return batches * len(fields) + rates.index(colour)
        return batch * len(fields) + fields.index(colour)

    moves = [
        Move(method.A, method.B, method.C, method.D, tuple(colour_of(c, batch) for c in method.colours))
        for batch in range(batches)
    ]
    whole = composed(moves)
    start = sp.zeros(method.state_count, batches * len(fields) + len(rates))
    for colour in range(method.colour_count):
        start[:, colour_of(colour, 0)] = method.start.col(colour)
    return EpochMethod(
        A=whole.A,
        B=whole.B,
        C=whole.C,
        D=whole.D,
        readout=method.readout,
        colours=whole.colours,
        decay={colour_of(colour, 0): rate for colour, rate in method.decay.items()},
        start=start,
        name=f"Epoch({method}, batches={batches})",
        step_powers=method.step_powers,
        steps=batches,
        method=method,
    )
