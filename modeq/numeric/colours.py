"""The fields behind the colours of a method: the problem's own, one of its parts, or weight decay."""

from collections.abc import Sequence

import numpy as np

from modeq.errors import UnsupportedOptimizer
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.protocol import Problem, Vector
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

    def __call__(self, colour: int, theta: Vector, vectors: Sequence[Vector] = ()) -> Vector:
        """The derivative f_c⁽ᵐ⁾(θ)[v₁, …, v_m], f_c(θ) itself without vectors."""
        if colour in self.decay:
            return decay_field(self.decay[colour], theta, vectors)
        part = {} if self.parts[colour] is None else {"part": self.parts[colour]}
        return self.problem.derivative(theta, vectors, **part) if vectors else self.problem.field(theta, **part)


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

    def __call__(self, colour: int, theta: Vector, children: Sequence[Vector]) -> Vector:
        """The derivatives f_c⁽ᵐ⁾(θ)[v₁, …, v_m] of the rows of `children`, f_c(θ) without any."""
        rows = max((len(child) for child in children), default=1)
        seen = [[child[k % len(child)] for child in children] for k in range(rows)]
        if colour in self.decay:
            return np.array([decay_field(self.decay[colour], theta, vectors) for vectors in seen])
        parts = np.array([[self._part(k, theta, vectors) for k in range(self.problem.parts)] for vectors in seen])
        mean = parts.mean(axis=1)
        if colour == MEAN:
            return mean
        return np.array([parts[k % rows, k] - mean[k % rows] for k in range(self.problem.parts)])

    def _part(self, k: int, theta: Vector, vectors: Sequence[Vector]) -> Vector:
        return self.problem.derivative(theta, vectors, part=k) if vectors else self.problem.field(theta, part=k)


def decay_field(rate: float, theta: Vector, vectors: Sequence[Vector] = ()) -> Vector:
    """Return −λθ, or its derivative: −λv₁ for one vector, 0 for more.

    Examples
    --------
    >>> decay_field(0.5, [2.0]).tolist()
    [-1.0]
    """
    of = np.asarray(vectors[0] if vectors else theta, dtype=np.float64)
    return -rate * of if len(vectors) < 2 else np.zeros_like(of)
