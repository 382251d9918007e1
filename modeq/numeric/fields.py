"""Evaluations of a modified vector field: written out, by automatic differentiation, or from gradients alone."""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import sympy as sp

from modeq.errors import InvalidProblem, NoTimeDerivativeForm
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.shift_operator import ShiftOperator
from modeq.numeric.colours import ColourFields, MeanAndDeviations
from modeq.numeric.protocol import Problem, Vector
from modeq.numeric.symbolic_problems import WrittenOut
from modeq.symbolic.b_series import BSeries
from modeq.symbolic.equation import ModifiedEquation
from modeq.symbolic.expected_equation import ExpectedEquation
from modeq.symbolic.rooted_trees import Tree

FieldName = Literal["auto", "lambdify", "autodiff", "gradients"]
Field = Callable[[Vector], Vector]


def modified_field(
    equation: ModifiedEquation | ExpectedEquation, problem: Problem, h: float, field: FieldName = "auto"
) -> Field:
    """Return θ ↦ f̃(θ), the truncated modified field of an equation on a problem.

    Parameters
    ----------
    equation : ModifiedEquation or ExpectedEquation
        With numbers for all symbols.
    problem : Problem
    h : positive number
        The learning rate.
    field : "auto", "lambdify", "autodiff" or "gradients"
        "lambdify": the field written out with sympy (a `SymbolicProblem` or `VectorField`). "autodiff": elementary
        differentials from nested derivatives, each subtree once. "gradients": from gradients alone, for
        a method with one query point; not the truncated series itself, but equal to it up to O(h^order).
        An expected equation is not evaluated so. "auto": the first of these that applies, and for networks
        "gradients", or "autodiff" for epochs.

    Raises
    ------
    InvalidMethod, InvalidProblem, NoTimeDerivativeForm

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> equation = mq.modified_equation(mq.GradientDescent(), order=2)
    >>> modified_field(equation, mq.SymbolicProblem(x**2 / 2, [x]), h=0.1)([2.0]).tolist()
    [-2.1]
    """
    expected = isinstance(equation, ExpectedEquation)
    if expected:
        equation.require_numbers()
    else:
        equation.method.require_numbers()
    if field == "auto":
        nested = expected or (equation.method.steps > 1 and not equation.method.queries_at_parameters)
        field = "lambdify" if isinstance(problem, WrittenOut) else "autodiff" if nested else "gradients"
    if field == "gradients" and expected:
        raise InvalidProblem(f"field is 'gradients': {equation!r} takes 'lambdify' or 'autodiff'")
    if field == "lambdify":
        return _written_out(equation, problem, h)
    if field == "autodiff":
        return lambda theta: series_value(equation, problem, theta, h)
    if field == "gradients":
        return GradientsOnlyField(equation.method, equation.order, problem, h)
    raise InvalidProblem(f"field is {field!r}: give 'auto', 'lambdify', 'autodiff' or 'gradients'")


def _written_out(series: BSeries, problem: Problem, h: float) -> Field:
    if not isinstance(problem, WrittenOut):
        raise InvalidProblem(
            f"field='lambdify' needs a SymbolicProblem or VectorField, not {problem!r}: use 'gradients' or 'autodiff'"
        )
    if isinstance(series, ExpectedEquation):
        parts = problem.part_expressions
        MeanAndDeviations(series, problem)  # are there as many batches?
    else:
        several = len(ColourFields(series, problem).parts) > 1
        parts = problem.part_expressions if several else (problem.field_expressions,)
    function = _code(series, parts, problem.variables)
    return lambda theta: np.array(function(theta, h), dtype=np.float64)


@lru_cache(maxsize=32)
def _code(
    series: BSeries, fields: tuple[tuple[sp.Expr, ...], ...], variables: tuple[sp.Symbol, ...]
) -> Callable[..., Any]:
    """A function of (θ, h), kept since one equation is run at many learning rates."""
    step = sp.Dummy("h")
    given = [list(field) for field in fields]
    alone = len(given) == 1 and not isinstance(series, ExpectedEquation)
    components = list(series.on(given[0] if alone else given, variables, h=step).components)
    return sp.lambdify([list(variables), step], components, cse=True)


def series_value(series: BSeries, problem: Problem, theta: Vector, h: float) -> Vector:
    """Return Σ h^{|τ|−offset} c(τ)/σ(τ) F(τ)(θ) by nested derivatives of the problem's field.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> equation = mq.modified_equation(mq.GradientDescent(), order=2)
    >>> series_value(equation, mq.SymbolicProblem(x**2 / 2, [x]), np.array([2.0]), h=0.1).tolist()
    [-2.1]
    """
    theta = np.asarray(theta, dtype=np.float64)
    expected = isinstance(series, ExpectedEquation)
    fields = MeanAndDeviations(series, problem) if expected else ColourFields(series, problem)
    known: dict[Tree, Vector] = {}

    def differential(tree: Tree) -> Vector:
        if tree not in known:
            known[tree] = fields(tree.colour, theta, [differential(child) for child in tree.children])
        return known[tree]

    total = np.zeros_like(theta)
    for tree, value in series.coefficients.items():
        if value != 0:
            vector = differential(tree).mean(axis=0) if expected else differential(tree)
            total += h ** (tree.order - series.offset) * float(value / tree.symmetry) * vector
    return total


class GradientsOnlyField:
    """The modified field of order N from gradients alone, for a method with one query point.

    With nodes n_j (in steps), F_j = f(θ_j), the exact operator M of the method on polynomials of degree
    below N and its derivative d at n = 0,

        θ_j = θ + h Σ_l M_jl F_l,    f̃_N(θ) = Σ_l d_l F_l.

    Without parasitic eigenvalues the nodes are 0, …, N − 1, and the stages are explicit where M is
    triangular (gradient descent: exactly N gradients). With them the nodes are −j/(1 − ρ), ρ the largest
    parasitic modulus, which keeps rounding errors at 1e-16 for momentum 0.99 too; the stages are grown
    one node at a time, 1 + N(N − 1)/2 gradients in all. It equals the truncated B-series up to O(hᴺ).

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> field = GradientsOnlyField(mq.GradientDescent(), 2, mq.SymbolicProblem(x**2 / 2, [x]), h=0.1)
    >>> float(round(field([2.0])[0], 12)), field.gradients_per_call
    (-2.1, 2)
    """

    def __init__(self, method: GeneralLinearMethod, order: int, problem: Problem, h: float) -> None:
        method.require_numbers()
        if not method.queries_at_parameters:
            raise NoTimeDerivativeForm(
                f"{method} takes gradients at several points: the gradients-only field needs one query point; use "
                "field='lambdify' or 'autodiff'"
            )
        self.h, self.colours = h, range(method.colour_count)
        self.fields = ColourFields(method, problem)
        operator = ShiftOperator(method)
        nodes = _nodes(method, order)
        matrices, rows = operator.collocation(nodes)
        self._weights = np.array([_floats(row)[0] for row in rows])
        if all(matrix.is_lower and all(matrix[i, i] == 0 for i in range(order)) for matrix in matrices):
            self._stages = [(j, [np.array([_floats(matrix)[j][:j] for matrix in matrices])]) for j in range(1, order)]
        else:
            self._stages = []
            for known in range(1, order):
                grown, _ = operator.collocation(nodes[:known], nodes[1 : known + 1])
                values = np.array([_floats(matrix) for matrix in grown])
                self._stages.append((1, [values[:, j, :] for j in range(known)]))
        self.gradients_per_call = 1 + sum(len(stage) for _, stage in self._stages)

    def __call__(self, theta: Any) -> Vector:
        """f̃_N(θ)."""
        theta = np.asarray(theta, dtype=np.float64)
        values = [self._fields(theta)]
        for first, matrices in self._stages:
            known = np.array(values)  # nodes × colours × d
            moved = [theta + self.h * np.einsum("cl,lcd->d", matrix, known[: matrix.shape[1]]) for matrix in matrices]
            values[first:] = [self._fields(position) for position in moved]
        return np.einsum("cl,lcd->d", self._weights, np.array(values))

    def _fields(self, theta: Vector) -> Vector:
        return np.array([self.fields(colour, theta) for colour in self.colours])


def _floats(matrix: sp.MatrixBase) -> list[list[float]]:
    return [[float(entry) for entry in matrix.row(i)] for i in range(matrix.rows)]


def _nodes(method: GeneralLinearMethod, count: int) -> list[sp.Rational]:
    radius = method.parasitic_radius
    if radius == 0:
        return [sp.Integer(j) for j in range(count)]
    spacing = sp.Rational(Fraction(1 / (1 - radius)).limit_denominator(1000))
    return [-j * spacing for j in range(count)]
