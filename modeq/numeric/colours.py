"""The fields behind the colours of a method: the problem's own, one of its parts, or weight decay."""

from collections.abc import Sequence
from typing import Any

from modeq.errors import UnsupportedOptimizer
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.arrays import combination, namespace, vector
from modeq.numeric.protocol import Problem
from modeq.symbolic.b_series import BSeries
from modeq.symbolic.expected import MEAN
from modeq.symbolic.expected_equation import ExpectedEquation


class ColourFields:
    """The field of each colour of a method, or of a series, on a problem.

    One field is the problem's whole one. Of several the k-th, weight decay not counted, is part k of the
    problem: minibatch or player.

    Raises
    ------
    UnsupportedOptimizer
        If there are several fields, and not as many parts.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x, y = sp.symbols("x y")
    >>> game = mq.VectorField([-y, x], [x, y], players=[[x], [y]])
    >>> fields = ColourFields(mq.Simultaneous([mq.GradientDescent(), mq.GradientDescent()]), game)
    >>> fields(1, [1.0, 2.0]).tolist()
    [0.0, 1.0]
    """

    def __init__(self, method: GeneralLinearMethod | BSeries, problem: Problem) -> None:
        self.problem = problem
        self.decay = {colour: float(rate) for colour, rate in method.decay.items()}
        colours = [colour for colour in range(method.colour_count) if colour not in method.decay]
        wanted = "players, in a VectorField" if method.players else "minibatches, a list of losses or batches="
        if len(colours) > 1 and (problem.parts != len(colours) or not _fits(method, problem)):
            raise UnsupportedOptimizer(
                f"{method!r} needs several fields, {len(colours)}, and {problem!r} has {problem.parts} parts: give it "
                f"as many {wanted}"
            )
        self.parts = {colour: k if len(colours) > 1 else None for k, colour in enumerate(colours)}

    def __call__(self, colour: int, theta: Any, vectors: Sequence[Any] = ()) -> Any:
        """The derivative f_c⁽ᵐ⁾(θ)[v₁, …, v_m], f_c(θ) itself without vectors; of the kind of θ."""
        if colour in self.decay:
            return decay_field(self.decay[colour], theta, vectors)
        part = {} if self.parts[colour] is None else {"part": self.parts[colour]}
        return self.problem.derivative(theta, vectors, **part) if vectors else self.problem.field(theta, **part)

    def summed(self, colours: Sequence[int], theta: Any) -> Any:
        """Return Σ f_c(θ) over some colours, from `gradient_count` gradients of the problem.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x = sp.Symbol("x")
        >>> method = mq.GradientDescent().with_weight_decay(0.5)
        >>> ColourFields(method, mq.SymbolicProblem(x**2, [x])).summed([0, 1], [1.0]).tolist()
        [-2.5]
        """
        theta = vector(theta)
        rate = sum(self.decay.get(colour, 0.0) for colour in colours)
        own = [colour for colour in colours if colour not in self.decay]
        if self._are_all_players(own):
            gradients = [self.problem.field(theta)]
        else:
            gradients = [self(colour, theta) for colour in own]
        if len(gradients) == 1 and not rate:
            return gradients[0]
        return combination([*[1.0] * len(gradients), -rate], [*gradients, theta])

    def gradient_count(self, colours: Sequence[int]) -> int:
        """Return how many gradients of the problem, or of its parts, the sum over some colours costs."""
        own = [colour for colour in colours if colour not in self.decay]
        return 1 if self._are_all_players(own) else len(own)

    def _are_all_players(self, colours: Sequence[int]) -> bool:
        """Whether the sum is the whole field of a game; that of minibatches is their mean."""
        return len(colours) > 1 and len(colours) == len(self.parts) and is_game(self.problem)


def is_game(problem: Problem) -> bool:
    """Return whether the parts of a problem are players.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x, y = sp.symbols("x y")
    >>> is_game(mq.VectorField([-y, x], [x, y], players=[[x], [y]])), is_game(mq.SymbolicProblem([x, y], [x, y]))
    (True, False)
    """
    return getattr(problem, "players", None) is not None


def _fits(method: GeneralLinearMethod | BSeries, problem: Problem) -> bool:
    """Whether players meet players, and the batches of an epoch batches; a method with fields of its own takes any."""
    source = method.method if isinstance(method, BSeries) else method
    if method.players:
        return is_game(problem)
    return source is None or source.steps == 1 or not is_game(problem)


class MeanAndDeviations:
    """The fields of an `ExpectedEquation`: the mean over all batches, and the deviation of each batch from it.

    Everything is computed for all batches at once, as an array with one row for each, or with a single row for what is
    the same for all.

    Raises
    ------
    UnsupportedOptimizer
        If the problem has not as many batches as the equation.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> equation = mq.modified_equation(mq.Epoch(mq.GradientDescent(), 2).expected("reshuffling"), order=2)
    >>> fields = MeanAndDeviations(equation, mq.SymbolicProblem([x**2, 2 * x**2], [x]))
    >>> [fields(colour, [1.0], []).tolist() for colour in (0, 1)]
    [[[-3.0]], [[1.0], [-1.0]]]
    """

    def __init__(self, equation: ExpectedEquation, problem: Problem) -> None:
        if problem.parts != equation.batches or is_game(problem):
            raise UnsupportedOptimizer(
                f"{equation!r} is of {equation.batches} batches, {problem!r} has {problem.parts}: derive it for as "
                "many, with numbers for all symbols"
            )
        self.problem = problem
        self.decay = {colour: float(rate) for colour, rate in equation.decay.items()}

    def __call__(self, colour: int, theta: Any, children: Sequence[Any]) -> Any:
        """The derivatives f_c⁽ᵐ⁾(θ)[v₁, …, v_m] of the rows of `children`, f_c(θ) without any."""
        rows = max((len(child) for child in children), default=1)
        seen = [[child[k % len(child)] for child in children] for k in range(rows)]
        stack = namespace(theta).stack
        if colour in self.decay:
            return stack([decay_field(self.decay[colour], theta, vectors) for vectors in seen])
        count = self.problem.parts
        if colour == MEAN:
            return stack([self._mean([self._part(k, theta, row) for k in range(count)]) for row in seen])
        if rows == 1:
            parts = [self._part(k, theta, seen[0]) for k in range(count)]
            mean = self._mean(parts)
            return stack([part - mean for part in parts])
        # Each batch has vectors of its own, and its deviation is that from the mean of all batches at these.
        return stack([self._deviation(k, theta, seen[k]) for k in range(count)])

    def _deviation(self, k: int, theta: Any, vectors: Sequence[Any]) -> Any:
        parts = [self._part(j, theta, vectors) for j in range(self.problem.parts)]
        return parts[k] - self._mean(parts)

    def _mean(self, parts: Sequence[Any]) -> Any:
        return combination([1 / len(parts)] * len(parts), parts)

    def _part(self, k: int, theta: Any, vectors: Sequence[Any]) -> Any:
        return self.problem.derivative(theta, vectors, part=k) if vectors else self.problem.field(theta, part=k)


def decay_field(rate: float, theta: Any, vectors: Sequence[Any] = ()) -> Any:
    """Return −λθ, or its derivative: −λv₁ for one vector, 0 for more.

    Examples
    --------
    >>> decay_field(0.5, [2.0]).tolist()
    [-1.0]
    """
    of = vector(vectors[0] if vectors else theta)
    return -rate * of if len(vectors) < 2 else namespace(of).zeros_like(of)
