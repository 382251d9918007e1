"""The modified field from gradients alone, for methods that take their gradients at the parameters themselves."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from modeq.errors import NoTimeDerivativeForm
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.shift_operator import ShiftOperator
from modeq.numeric.arrays import combination, vector
from modeq.numeric.colours import ColourFields
from modeq.numeric.one_pass import HIGHEST, one_pass
from modeq.numeric.protocol import Problem

Array = NDArray[np.float64]
Colours = tuple[int, ...]


class GradientsOnlyField:
    """The modified field of order N from gradients alone, for a method with one query point.

    With nodes n_j (in steps), F_j = f(θ_j), the exact operator M of the method on polynomials of degree
    below N and its derivative d at n = 0,

        θ_j = θ + h Σ_l M_jl F_l,    f̃_N(θ) = Σ_l d_l F_l.

    Where M on the nodes 0, …, N − 1 is strictly lower triangular, as for gradient descent, the stages are explicit:
    N gradients. Elsewhere the nodes are −j/(1 − ρ), ρ the largest parasitic modulus (j, if there is none), which keeps
    rounding errors at 1e-16 for momentum 0.99 too, and the stages are grown one node at a time, 1 + N(N − 1)/2
    gradients in all. At the orders 3 and 4 `one_pass` finds explicit stages instead, again N gradients.

    Fields with the same operator, such as a gradient and the weight decay inside it, count as one. Decoupled weight
    decay has an operator of its own; as its field −λθ is linear, its values at the nodes are solved for from the
    gradients there, and it costs none.

    Parameters
    ----------
    method : GeneralLinearMethod
        With numbers, and all queries at θ.
    order : positive int
    problem : Problem
    h : positive number, the learning rate

    Attributes
    ----------
    gradients_per_call : how many gradients of the problem, or of its parts, one evaluation takes

    Raises
    ------
    InvalidMethod, NoTimeDerivativeForm, UnsupportedOptimizer

    Notes
    -----
    The result equals the truncated B-series up to O(hᴺ). N vectors are kept, one for each node and operator, and two
    more while they are combined.

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
        self.fields = ColourFields(method, problem)
        plan = _plan(method, order)
        self._groups = plan.groups
        rates = [sum(self.fields.decay[colour] for colour in colours) for colours in plan.linear]
        self._stages = [(stage.slot, stage.row.resolved(h, rates, position=True)) for stage in plan.stages]
        self._result = plan.result.resolved(h, rates, position=False)
        cost = sum(self.fields.gradient_count(colours) for colours in plan.groups)
        self.gradients_per_call = (1 + len(plan.stages)) * cost

    def __call__(self, theta: Any) -> Any:
        """f̃_N(θ), of the kind of θ, a numpy array or a torch tensor."""
        theta = vector(theta)
        values = [self._fields(theta)]
        for slot, (own, weights) in self._stages:
            position = _weighted(weights, values, own, theta)
            del values[slot : slot + 1]  # one vector less while the new one is found
            values.insert(slot, self._fields(position))
        return _weighted(self._result[1], values, self._result[0], theta)

    def _fields(self, theta: Any) -> list[Any]:
        return [self.fields.summed(colours, theta) for colours in self._groups]


def _weighted(weights: Array, values: list[list[Any]], own: float, theta: Any) -> Any:
    """own·θ + Σ over operators g and nodes l of weights[g, l] values[l][g]."""
    pairs = [(w, values[node][g]) for g, row in enumerate(weights) for node, w in enumerate(row)]
    # θ comes last: what is added to it is small.
    return combination([*(w for w, _ in pairs), own], [*(value for _, value in pairs), theta])


@dataclass(frozen=True)
class _Row:
    """θ_j − θ, in units of h, or f̃, from the k values of each operator: gradients first, then weight decay.

    Parameters
    ----------
    gradients, decay : of shape (operators, k)
    inner_gradients, inner_decay : of shape (operators, k, k)
        The same for θ at the k nodes themselves.
    """

    gradients: Array
    decay: Array
    inner_gradients: Array
    inner_decay: Array

    def resolved(self, h: float, rates: list[float], position: bool) -> tuple[float, Array]:
        """Return the weights of θ and of the gradients, with the decay −λθ_l at the nodes solved for.

        From Θ = θ·1 + h Σ M F − h Σ λ M' Θ follows Θ = (1 + h Σ λ M')⁻¹ (θ·1 + h Σ M F).
        """
        own, unit = (1.0, h) if position else (0.0, 1.0)
        if not rates:
            return own, unit * self.gradients
        implicit = np.eye(self.decay.shape[1]) + h * np.tensordot(rates, self.inner_decay, axes=1)
        share = np.linalg.solve(implicit.T, np.tensordot(rates, self.decay, axes=1))
        return own - unit * share.sum(), unit * (self.gradients - h * share @ self.inner_gradients)


@dataclass(frozen=True)
class _Stage:
    """The gradients at θ_j, to be kept as number `slot`, in the place of earlier ones if there are some."""

    slot: int
    row: _Row


@dataclass(frozen=True)
class _Plan:
    """Which colours have one operator, gradients and weight decay apart, and what is computed one after the other."""

    groups: tuple[Colours, ...]
    linear: tuple[Colours, ...]
    stages: tuple[_Stage, ...]
    result: _Row


@lru_cache(maxsize=128)
def _plan(method: GeneralLinearMethod, order: int) -> _Plan:
    """Kept, since one method is run at many learning rates."""
    operator = ShiftOperator(method)
    alike: dict[tuple[Any, ...], list[int]] = {}
    for colour, row in operator.readout_laurent(order + 1).items():
        alike.setdefault(tuple(row), []).append(colour)
    operators = [tuple(colours) for colours in alike.values()]
    groups = tuple(colours for colours in operators if not set(colours) <= set(method.decay))
    linear = tuple(colours for colours in operators if set(colours) <= set(method.decay))
    if (explicit := _explicit(operator, groups, linear, order)) is not None:
        return _Plan(groups, linear, *explicit)
    if len(operators) == 1 and 2 < order <= HIGHEST and (tableau := one_pass(method, order)) is not None:
        stages = tuple(_Stage(j, _alone([row])) for j, row in enumerate(tableau.a) if j)
        return _Plan(groups, linear, stages, _alone([tableau.b]))
    return _Plan(groups, linear, *_grown(operator, groups, linear, order, method.parasitic_radius))


Steps = tuple[tuple[_Stage, ...], _Row]


def _explicit(
    operator: ShiftOperator, groups: tuple[Colours, ...], linear: tuple[Colours, ...], order: int
) -> Steps | None:
    """The stages at the nodes 0, …, N − 1, if each needs only those before it."""
    matrices, rows = operator.collocation([sp.Integer(j) for j in range(order)])
    inner, result = _floats(matrices, groups, linear), _floats(rows, groups, linear)
    if np.any(np.triu(inner)):
        return None
    count = len(groups)
    stages = tuple(_Stage(j, _row(inner[:, j, :j], inner[:, :j, :j], count)) for j in range(1, order))
    return stages, _row(result[:, 0], inner, count)


def _grown(
    operator: ShiftOperator, groups: tuple[Colours, ...], linear: tuple[Colours, ...], order: int, radius: float
) -> Steps:
    """For k = 1, …, N − 1, from k known nodes the gradients at one more, and those at the others better than before."""
    spacing = sp.Integer(1) if radius == 0 else -sp.Rational(Fraction(1 / (1 - radius)).limit_denominator(1000))
    nodes = [j * spacing for j in range(order)]
    stages: list[_Stage] = []
    for k in range(1, order):
        at_nodes = _floats(operator.collocation(nodes[:k], nodes[: k + 1])[0], groups, linear)
        inner = at_nodes[:, :k]
        # In the order of the nodes: values that are better already serve for the next ones.
        stages += [_Stage(j, _row(at_nodes[:, j], inner, len(groups))) for j in range(1, k + 1)]
    matrices, rows = operator.collocation(nodes)
    inner, result = _floats(matrices, groups, linear), _floats(rows, groups, linear)
    return tuple(stages), _row(result[:, 0], inner, len(groups))


def _floats(matrices: list[sp.Matrix], groups: tuple[Colours, ...], linear: tuple[Colours, ...]) -> Array:
    """The matrices of one colour of each operator, one above the other."""
    chosen = [matrices[colours[0]] for colours in (*groups, *linear)]
    return np.array([[[float(entry) for entry in m.row(i)] for i in range(m.rows)] for m in chosen])


def _row(row: Array, inner: Array, gradients: int) -> _Row:
    return _Row(row[:gradients], row[gradients:], inner[:gradients], inner[gradients:])


def _alone(weights: Any) -> _Row:
    """A row of one operator without weight decay of another."""
    row = np.array(weights, dtype=np.float64)
    nothing = np.zeros((0, row.shape[1]))
    return _Row(row, nothing, nothing[:, None], nothing[:, None])
