"""The result of an iteration or a flow."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from modeq.errors import Diverged


class Status(IntEnum):
    """How an iteration, a flow or a comparison ended.

    Examples
    --------
    >>> Status.DONE == 0, Status(-3).name
    (True, 'SERIES_DIVERGES')
    """

    DONE = 0
    DIVERGED = -1  # the parameters left the finite numbers
    TOO_STIFF = -2  # the budget of evaluations was spent
    SERIES_DIVERGES = -3  # h·λ is beyond the series limit
    ILL_POSED = -4  # the truncated equation is no well-posed initial-value problem
    NO_SUCH_FORM = -5  # the method has no equation of this form
    NON_FINITE_GRADIENT = -6  # the gradient is not finite at finite parameters


@dataclass(frozen=True, repr=False)
class Trajectory:
    """Parameters along a discrete or continuous trajectory.

    Attributes
    ----------
    t : array (points,), times h·n; with a schedule the running sum of the learning rates
    y : array (points, parameters), one row per time
    nfev : gradient evaluations, or evaluations of the modified field, as `name` says
    status : a `Status`, 0 if it reached the end
    message : what happened
    name : what was computed

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> trajectory = mq.iterate(mq.GradientDescent(), problem, [1.0], h=0.5, steps=2)
    >>> trajectory.t.tolist(), trajectory.y.ravel().tolist(), trajectory.success
    ([0.0, 0.5, 1.0], [1.0, 0.5, 0.25], True)
    """

    t: NDArray[np.float64]
    y: NDArray[np.float64]
    nfev: int
    status: int
    message: str
    name: str

    @property
    def success(self) -> bool:
        """Whether it reached the end."""
        return self.status == 0

    def checked(self) -> "Trajectory":
        """Return the trajectory, or raise `Diverged` with it if it did not reach the end.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x = sp.Symbol("x")
        >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
        >>> mq.iterate(mq.GradientDescent(), problem, [1.0], h=0.5, steps=2, check=False).checked().y[-1].tolist()
        [0.25]
        """
        if not self.success:
            raise Diverged(f"{self.name}: {self.message}", self)
        return self

    def __repr__(self) -> str:
        state = "" if self.success else f", failed: {self.message}"
        return f"Trajectory({self.name}, {len(self.t)} points to t = {self.t[-1]:.6g}{state})"
