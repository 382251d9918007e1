"""The field of a state-space form, on parameters and buffers, and its start."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modeq.errors import InvalidProblem
from modeq.numeric.arrays import combination, namespace
from modeq.numeric.colours import ColourFields
from modeq.numeric.protocol import Problem, Vector, positive
from modeq.symbolic.state_space import StateSpaceForm


class StateSpaceField:
    """u ↦ u', the truncated field of a state-space form on u = (θ, v₁, …, v_m), laid end to end.

    The elementary differentials are found from derivatives of the problem's field, each tree once.

    Parameters
    ----------
    form : StateSpaceForm
        With numbers for the symbols of its method.
    problem : Problem of d parameters
    h : positive number
        The learning rate.

    Raises
    ------
    InvalidMethod, InvalidProblem, UnsupportedOptimizer

    Examples
    --------
    On a constant gradient the flow of the buffer is exact at order 1:

    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> form = mq.state_space_form(mq.HeavyBall(momentum=0.5), order=1)
    >>> field = StateSpaceField(form, mq.SymbolicProblem(x, [x]), h=0.1)
    >>> (field(np.array([0.0, 0.0])) / np.log(2)).round(12).tolist()
    [-0.885390081778, 20.0]
    """

    def __init__(self, form: StateSpaceForm, problem: Problem, h: float) -> None:
        self.form, self.problem, self.h = form, problem, positive(h, "h")
        self._fields = ColourFields(form.method, problem)
        numbers = form.numbers()
        index = {tree: i for i, tree in enumerate(form.trees)}
        weights = np.zeros((form.buffer_count + 1, len(index)))
        for (component, tree), value in numbers.items():
            if component == 0:
                weights[0, index[tree]] = self.h ** (tree.order - 1) * value / tree.symmetry
            else:
                weights[component, index[tree]] = -(self.h ** (tree.order - 2)) * value / tree.symmetry
        self._weights = weights
        self._trees = [(tree.colour, [index[child] for child in tree.children]) for tree in form.trees]

    def __call__(self, u: Any) -> Any:
        """(θ', v₁', …, v_m') at u = (θ, v₁, …, v_m), a numpy array or a torch tensor."""
        xp = namespace(u)
        u = u if xp is not np else np.asarray(u, dtype=np.float64)
        theta, *buffers = u.reshape(self.form.buffer_count + 1, self.problem.size)
        values = self._values(theta, buffers)
        return xp.concatenate([combination(row, values) for row in self._weights])

    def velocity(self, theta: Any, buffers: Sequence[Any]) -> Any:
        """Return θ' alone, the part of the field in which the buffers v₁, …, v_m drive θ.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x = sp.Symbol("x")
        >>> form = mq.state_space_form(mq.HeavyBall(momentum=0.5), order=1)
        >>> field = StateSpaceField(form, mq.SymbolicProblem(x, [x]), h=0.1)
        >>> (field.velocity(np.array([0.0]), [np.array([1.0])]) + 2).round(12).tolist()  # −v ln 2 − 2(1 − ln 2)
        [0.69314718056]
        """
        return combination(self._weights[0], self._values(theta, buffers))

    def _values(self, theta: Any, buffers: Sequence[Any]) -> list[Any]:
        """The elementary differentials of all trees."""
        values: list[Any] = []
        count = self.form.method.colour_count
        for colour, children in self._trees:
            if colour >= count:
                values.append(-buffers[colour - count])
            else:
                values.append(self._fields(colour, theta, [values[child] for child in children]))
        return values

    def start(self, theta: Vector, buffers: Any = None) -> Vector:
        """Return (θ, v₁, …, v_m) at step 0.

        Parameters
        ----------
        theta : vector of size d, θ₀
        buffers : None, 0, or array of shape (m, d) or, with one buffer, (d,)
            None: the method's own first state (for torch's optimizers a new optimizer). 0: zero buffers.
            An array: v₁, …, v_m; for torch's optimizers its momentum buffer.

        Raises
        ------
        InvalidProblem
        """
        method, count, size = self.form.method, self.form.buffer_count, self.problem.size
        if buffers is None:
            fields = [self._fields(colour, theta) for colour in range(method.colour_count)]
            kick = np.array(method.start.tolist(), dtype=np.float64) @ np.array(fields)  # X₀ = u θ₀ + h·kick
            rows, readout = (np.array(m.tolist(), dtype=np.float64) for m in (self.form.buffer_rows, method.readout))
            moved = theta + self.h * (readout @ kick)[0]
            return np.concatenate([moved, -(rows.reshape(count, method.state_count) @ kick).ravel()])
        if isinstance(buffers, int | float) and buffers == 0:
            return np.concatenate([theta, np.zeros(count * size)])
        try:
            values = np.array(buffers, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidProblem(f"buffers are {buffers!r}: give {count} buffers of {size} numbers each") from error
        if values.shape != (count, size) and not (count == 1 and values.shape == (size,)):
            raise InvalidProblem(
                f"buffers have shape {values.shape}: give None, 0, or an array of shape ({count}, {size})"
            )
        if not np.all(np.isfinite(values)):
            raise InvalidProblem(
                f"buffers have entries that are not finite, {values[~np.isfinite(values)][:3]}: give finite numbers"
            )
        return np.concatenate([theta, values.ravel()])
