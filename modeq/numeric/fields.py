"""Evaluations of a modified vector field: written out, by automatic differentiation, or from gradients alone."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import sympy as sp
import torch

from modeq.errors import InvalidProblem, choice
from modeq.numeric.arrays import combination, namespace, vector
from modeq.numeric.colours import ColourFields, MeanAndDeviations
from modeq.numeric.compiled import compiled
from modeq.numeric.gradients_only import GradientsOnlyField
from modeq.numeric.protocol import Problem
from modeq.numeric.symbolic_problems import WrittenOut
from modeq.symbolic.b_series import BSeries
from modeq.symbolic.equation import ModifiedEquation
from modeq.symbolic.expected_equation import ExpectedEquation
from modeq.symbolic.rooted_trees import Tree

FieldName = Literal["auto", "lambdify", "autodiff", "gradients"]
FIELD_NAMES: tuple[FieldName, ...] = get_args(FieldName)
Field = Callable[[Any], Any]


def require_field_name(field: Any) -> None:
    """Raise `InvalidProblem` unless it names an evaluation of a field, or "auto".

    Examples
    --------
    >>> require_field_name("gradients")
    """
    if field not in FIELD_NAMES:
        raise InvalidProblem(f"field is {choice(field, FIELD_NAMES)}")


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
        differentials from nested derivatives, see `SeriesField`. "gradients": from gradients alone, for
        a method with one query point, see `GradientsOnlyField`; not the truncated series itself, but equal to it up
        to O(h^order). An expected equation is not evaluated so. "auto": "lambdify" if the problem is written out,
        else "gradients" if the method has one query point, else "autodiff".

    Returns
    -------
    A function of θ, a vector or a tensor, whose value is of the same kind.

    Raises
    ------
    InvalidMethod, InvalidProblem, NoTimeDerivativeForm, UnsupportedOptimizer

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> equation = mq.modified_equation(mq.GradientDescent(), order=2)
    >>> modified_field(equation, mq.SymbolicProblem(x**2 / 2, [x]), h=0.1)([2.0]).tolist()
    [-2.1]
    """
    require_field_name(field)
    (equation if isinstance(equation, ExpectedEquation) else equation.method).require_numbers()
    if field == "auto":
        alone = not isinstance(equation, ExpectedEquation) and equation.method.queries_at_parameters
        field = "lambdify" if isinstance(problem, WrittenOut) else "gradients" if alone else "autodiff"
    if field == "lambdify":
        return _written_out(equation, problem, h)
    if field == "autodiff":
        return SeriesField(equation, problem, h)
    if isinstance(equation, ExpectedEquation):
        raise InvalidProblem(f"field is 'gradients': {equation!r} takes 'lambdify' or 'autodiff'")
    return GradientsOnlyField(equation.method, equation.order, problem, h)


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

    def field(theta: Any) -> Any:
        if not isinstance(theta, torch.Tensor):
            return np.array(function(theta, h), dtype=np.float64)
        values = np.array(function(theta.detach().cpu().numpy(), h), dtype=np.float64)
        return torch.as_tensor(values, dtype=theta.dtype, device=theta.device)

    return field


@lru_cache(maxsize=32)
def _code(
    series: BSeries, fields: tuple[tuple[sp.Expr, ...], ...], variables: tuple[sp.Symbol, ...]
) -> Callable[..., Any]:
    """A function of (θ, h), kept since one equation is run at many learning rates."""
    step = sp.Dummy("h")
    given = [list(field) for field in fields]
    alone = len(given) == 1 and not isinstance(series, ExpectedEquation)
    components = list(series.on(given[0] if alone else given, variables, h=step).components)
    return compiled([list(variables), step], components)


def series_value(series: BSeries, problem: Problem, theta: Any, h: float) -> Any:
    """Return Σ h^{|τ|−offset} c(τ)/σ(τ) F(τ)(θ) by nested derivatives of the problem's field; see `SeriesField`.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> equation = mq.modified_equation(mq.GradientDescent(), order=2)
    >>> series_value(equation, mq.SymbolicProblem(x**2 / 2, [x]), np.array([2.0]), h=0.1).tolist()
    [-2.1]
    """
    return SeriesField(series, problem, h)(theta)


class SeriesField:
    """θ ↦ Σ h^{|τ|−offset} c(τ)/σ(τ) F(τ)(θ) by nested derivatives of the problem's field.

    Each F(τ) that occurs in another one is found once, and forgotten after its last use. Of all others those that
    differ in one child of the root are found together, since a derivative is linear in each direction:

        Σ_i w_i f⁽ᵐ⁾(v₁, …, v_{m−1}, u_i) = f⁽ᵐ⁾(v₁, …, v_{m−1}, Σ_i w_i u_i).

    At order 2 this takes one gradient and one Hessian-vector product, with weight decay too.

    Parameters
    ----------
    series : BSeries
        With numbers for all symbols.
    problem : Problem
    h : positive number
        The learning rate.

    Raises
    ------
    UnsupportedOptimizer

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> equation = mq.modified_equation(mq.GradientDescent(), order=2)
    >>> SeriesField(equation, mq.SymbolicProblem(x**2 / 2, [x]), h=0.1)([2.0]).tolist()
    [-2.1]
    """

    def __init__(self, series: BSeries, problem: Problem, h: float) -> None:
        self._expected = isinstance(series, ExpectedEquation)
        self._fields = (
            MeanAndDeviations(series, problem)
            if isinstance(series, ExpectedEquation)
            else ColourFields(series, problem)
        )
        self._weights = {
            tree: h ** (tree.order - series.offset) * float(value / tree.symmetry)
            for tree, value in series.coefficients.items()
            if value != 0
        }
        self._inner = _subtrees(self._weights)
        self._groups: dict[tuple[Any, ...], list[Tree]] = {}
        for tree in self._weights:
            if tree not in self._inner:
                # The rows of an expected equation, one for each batch, are averaged last.
                key = (tree,) if self._expected else (tree.colour, tree.children[1:], bool(tree.children))
                self._groups.setdefault(key, []).append(tree)
        needed = [child for tree in self._inner for child in tree.children]
        for group in self._groups.values():
            needed += [*group[0].children[1:], *(tree.children[0] for tree in group if tree.children)]
        self._uses = Counter(needed)

    def __call__(self, theta: Any) -> Any:
        """The value at θ, of the kind of θ, a numpy array or a torch tensor."""
        theta = vector(theta)
        known: dict[Tree, Any] = {}
        left = self._uses.copy()

        def take(tree: Tree) -> Any:
            left[tree] -= 1
            return known[tree] if left[tree] else known.pop(tree)

        total = namespace(theta).zeros_like(theta)
        for tree in self._inner:
            known[tree] = self._fields(tree.colour, theta, [take(child) for child in tree.children])
            if tree in self._weights:
                total += self._weights[tree] * self._mean(known[tree])
        for group in self._groups.values():
            total += self._of_group(group, theta, take)
        return total

    def _of_group(self, group: list[Tree], theta: Any, take: Callable[[Tree], Any]) -> Any:
        """Σ weight·F(τ) over trees that differ in one child of the root."""
        weights, tree = [self._weights[tree] for tree in group], group[0]
        others = [take(child) for child in tree.children[1:]]
        if not tree.children or self._expected:
            first = [take(child) for child in tree.children[:1]]
            return weights[0] * self._mean(self._fields(tree.colour, theta, [*first, *others]))
        together = combination(weights, [take(tree.children[0]) for tree in group])
        return self._fields(tree.colour, theta, [together, *others])

    def _mean(self, value: Any) -> Any:
        return value.mean(axis=0) if self._expected else value


def _subtrees(trees: Iterable[Tree]) -> list[Tree]:
    """All trees that others have as children, after their own children."""
    found: dict[Tree, None] = {}

    def visit(tree: Tree) -> None:
        for child in tree.children:
            if child not in found:
                visit(child)
                found[child] = None

    for tree in trees:
        visit(tree)
    return list(found)
