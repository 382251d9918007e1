"""The face of the expectations over an epoch: a modified equation in the mean loss and the batches' deviations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import sympy as sp

from modeq.errors import InvalidMethod, InvalidOrder, InvalidProblem, InvalidSeries
from modeq.methods.exact import FrozenMapping
from modeq.methods.minibatches import ExpectedEpoch
from modeq.symbolic.b_series import Written
from modeq.symbolic.differentials import h as default_step
from modeq.symbolic.expected import DEVIATION, MEAN, ExpectedRecursion, deviations_of
from modeq.symbolic.explicit_fields import ExplicitField, checked_expression, explicit
from modeq.symbolic.fields_and_maps import BSeriesField, BSeriesMap, series_of
from modeq.symbolic.initial_layer import InitialLayer, initial_layer
from modeq.symbolic.passes import has_moment
from modeq.symbolic.rooted_trees import Tree


@dataclass(frozen=True, eq=False, repr=False)
class ExpectedEquation(BSeriesField):
    """The modified equation of an epoch of m minibatches in random order, averaged over the order.

        θ' = Σ_{|τ| ≤ order} h^{|τ|−1} b(τ)/σ(τ) F(τ)(θ),    time = h·n, n counting steps.

    With the mean loss L = (1/m) Σ L_k and the deviations L_k − L: a vertex of colour 0 is the mean field
    −∇L, one of colour 1 the deviation −∇(L_k − L) of one batch, the same in the whole tree, and F(τ) is averaged over
    the batches k. A tree with a single deviation has b = 0, since their mean is 0. Colour 2, if there is one, is
    weight decay. In print g, H are those of L, and g_δ, H_δ those of a deviation; V = E|g_δ|² is the variance of the
    batches' gradients.

    For "reshuffling" and "replacement" it is the equation of the expected one-epoch map, log E;
    :attr:`average_of_logarithms` is E log, the mean of the equations of passes that are repeated for ever.

    Attributes
    ----------
    epoch : ExpectedEpoch
        What it was derived from: the method, the number of batches, and how they are drawn.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> epoch = mq.Epoch(mq.GradientDescent(), batches=sp.Symbol("m")).expected("reshuffling")
    >>> equation = mq.modified_equation(epoch, order=2)
    >>> print(equation)
    θ' = -g - h/2·H g - h/2·E[H_δ g_δ]
    >>> print(equation.modified_loss())
    L + h/4·|g|^2 + h/4·V
    """

    _left = Written("θ'", r"\dot\theta")
    labels: ClassVar[Mapping[int, str]] = MappingProxyType({MEAN: "", DEVIATION: r"_{\delta}"})

    epoch: ExpectedEpoch | None = None

    @classmethod
    def derived(cls, epoch: ExpectedEpoch, order: int, average_of_logarithms: bool | None = None) -> "ExpectedEquation":
        """Return the equation of an `epoch` to an `order`: log E, or E log for `average_of_logarithms`.

        By default E log for a fixed order of the batches, and log E otherwise.
        """
        fixed = epoch.sampling == "fixed order, averaged"
        recursion = ExpectedRecursion(epoch, order, fixed if average_of_logarithms is None else average_of_logarithms)
        return cls(recursion.series, 1, FrozenMapping(recursion.decay), epoch=epoch)

    @cached_property
    def average_of_logarithms(self) -> "ExpectedEquation":
        """E log: the modified equation of one drawn pass, repeated for ever, averaged over the draws.

        Examples
        --------
        With replacement it differs from log E at order 2: a repeated pass sees its batches as often as it drew them.

        >>> import modeq as mq, sympy as sp
        >>> epoch = mq.Epoch(mq.GradientDescent(), batches=sp.Symbol("m")).expected("replacement")
        >>> equation = mq.modified_equation(epoch, order=2)
        >>> print(equation)
        θ' = -g - h/2·H g
        >>> print(equation.average_of_logarithms)
        θ' = -g - h/2·H g - h/2·E[H_δ g_δ]
        """
        assert self.epoch is not None
        return ExpectedEquation.derived(self.epoch, self.order, average_of_logarithms=True)

    @property
    def meaning(self) -> tuple[Any, ...]:
        """The colours are mean and deviation of so many batches."""
        return "batches", self.batches

    def _result(self, coefficients: Mapping[Tree, sp.Expr], order: int) -> "ExpectedEquation":
        return replace(self, series=series_of(self.series.table.truncated(order), coefficients))

    def exponential(self) -> BSeriesMap:
        """Refused: a flow of an average is no average, unless the order of the batches is part of it."""
        raise InvalidSeries(
            f"{self!r} is averaged over the batches: sums and multiples of it are series of the kind, but not its "
            "flow map; integrate it with flow"
        )

    def for_batches(self, batches: int) -> "ExpectedEquation":
        """Return the equation with the number `batches` put in for the symbol m.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> epoch = mq.Epoch(mq.GradientDescent(), batches=sp.Symbol("m")).expected("reshuffling")
        >>> three = mq.modified_equation(mq.Epoch(mq.GradientDescent(), batches=3).expected("reshuffling"), order=3)
        >>> mq.modified_equation(epoch, order=3).for_batches(3) == three
        True
        """
        assert self.epoch is not None
        if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
            raise InvalidMethod(f"batches is {batches!r}: give a positive integer")
        if self.batches.is_Integer:
            if self.batches != batches:
                raise InvalidMethod(f"batches is {batches}: {self!r} is of {self.batches}, give these")
            return self

        def put(tree: Tree, value: sp.Expr) -> sp.Expr:
            # Where 1/(m − 1) or 1/(m − 2) has no value the moment beside it is 0.
            exists = has_moment(deviations_of(tree), sp.Integer(batches))
            return value.subs(self.batches, batches) if exists else sp.Integer(0)

        values = {tree: put(tree, value) for tree, value in self.items()}
        epoch = replace(self.epoch, batches=sp.Integer(batches))
        return replace(self, series=series_of(self.series.table, values), epoch=epoch)

    @property
    def batches(self) -> sp.Expr:
        """The number m of batches."""
        assert self.epoch is not None
        return self.epoch.batches

    def initial_layer(self, order: int | None = None) -> InitialLayer:
        """Return where the flow must start, as a series at θ₀ through h to the power `order`, by default as needed.

        To first order only the mean of the first steps counts, so that it is the layer of the method that takes
        them, on the mean loss.

        Raises
        ------
        InvalidOrder
            Beyond order 1, unless the method has no memory, so that there is no layer.

        Examples
        --------
        >>> import modeq as mq
        >>> epoch = mq.Epoch(mq.HeavyBall(momentum=0.5), batches=4).expected("reshuffling")
        >>> mq.modified_equation(epoch, order=2).initial_layer()[[]]
        -2
        """
        assert self.epoch is not None
        method, number = self.epoch.method, self.order - 1 if order is None else order
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise InvalidOrder(f"the order of an initial layer is {order!r}: give an integer from 0")
        layer = initial_layer(method, min(number, 1))
        if number > 1 and (method.state_count > 1 or any(layer.values())):
            raise InvalidOrder(
                f"the order of the initial layer is {number}: that of an expected epoch with memory is derived to "
                "order 1; give initial_layer=1, or start where the transients have died out with initial_layer=False"
            )
        return layer

    def require_numbers(self) -> None:
        """Raise `InvalidMethod` if the equation has free symbols, the number of batches among them."""
        if symbols := sorted(map(str, self.free_symbols)):
            raise InvalidMethod(f"{self!r} has the free symbols {symbols}: derive it for numbers")

    def __repr__(self) -> str:
        return f"ExpectedEquation({self.epoch}, order={self.order}, {len(self)} trees)"

    def averaged(self, tree: Tree, symbol: str) -> str:
        """Return the LaTeX `symbol` of a `tree`, with E for the mean over the batches, and V for the variance."""
        if DEVIATION not in tree.colours:
            return symbol
        return "V" if symbol == r"|g_{\delta}|^2" else rf"\mathbb{{E}}[{symbol}]"

    def on(self, loss_or_field: Any, variables: Any, h: Any = default_step) -> ExplicitField:
        """Return the equation written out on the losses, or fields, of the batches.

        Parameters
        ----------
        loss_or_field : sequence of sympy expressions L₁, …, L_m, or of m vectors of them
        variables : sequence of sympy symbols
            The parameters θ.
        h : symbol or number
            The learning rate.

        Raises
        ------
        InvalidProblem

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x, h = sp.symbols("x h")
        >>> epoch = mq.Epoch(mq.GradientDescent(), batches=2).expected("reshuffling")
        >>> mq.modified_equation(epoch, order=2).on([x**2, 2 * x**2], [x], h=h).components
        (-5*h*x - 3*x,)
        """
        numbered = self.resolved(loss_or_field)
        written = [explicit(numbered, draw, variables, h) for draw in numbered.draws(loss_or_field)]
        averaged = [sp.Add(*parts) / len(written) for parts in zip(*(one.components for one in written), strict=True)]
        polynomial = all(component.is_polynomial(*written[0].variables) for component in averaged)
        components = tuple(sp.expand(c) if polynomial else c for c in averaged)
        return ExplicitField(written[0].variables, components, written[0].h)

    def resolved(self, given: Any) -> "ExpectedEquation":
        """Return the equation for as many batches as there are `given` losses or fields."""
        fits = isinstance(given, list | tuple) and given
        if not fits or (self.batches.is_Integer and len(given) != self.batches):
            wanted = f"{self.batches} of them" if self.batches.is_Integer else "one for each batch"
            raise InvalidProblem(f"the losses of the batches are {given!r}: give a list, {wanted}")
        return self.for_batches(len(given))

    def draws(self, given: Any) -> list[list[Any]]:
        """Return for each batch the mean and its deviation from that: of `given` losses, or of vectors of fields."""
        vectors = [list(entry) for entry in given if isinstance(entry, Sequence | sp.MatrixBase)]
        if not vectors:
            return [[_mean(given), _deviation(loss, given)] for loss in given]
        if len(vectors) < len(given) or len({len(vector) for vector in vectors}) > 1:
            raise InvalidProblem(
                f"the fields of the batches are {given!r}: give a loss for each, or vectors of one length"
            )
        columns = list(zip(*vectors, strict=True))
        mean = [_mean(column) for column in columns]
        return [[mean, [_deviation(*pair) for pair in zip(vector, columns, strict=True)]] for vector in vectors]


def _mean(values: Sequence[Any]) -> sp.Expr:
    return sp.Add(*(checked_expression(value) for value in values)) / len(values)


def _deviation(value: Any, values: Sequence[Any]) -> sp.Expr:
    return checked_expression(value) - _mean(values)
