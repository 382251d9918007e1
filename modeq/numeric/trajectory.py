"""The result of an iteration or a flow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeq.errors import Diverged

TOO_STIFF = -2


@dataclass(frozen=True, repr=False)
class Trajectory:
    """Parameters along a discrete or continuous trajectory.

    Attributes
    ----------
    t : array (points,), times h·n; with a schedule the running sum of the learning rates
    y : array (points, parameters), one row per time
    nfev : gradient evaluations, or evaluations of the modified field, as `name` says
    status : 0 if it reached the end, −1 if not, −2 if it was given up as too stiff
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
        """Return the trajectory, or raise `Diverged` with it if it did not reach the end."""
        if not self.success:
            raise Diverged(f"{self.name}: {self.message}", self)
        return self

    def __repr__(self) -> str:
        state = "" if self.success else f", failed: {self.message}"
        return f"Trajectory({self.name}, {len(self.t)} points to t = {self.t[-1]:.6g}{state})"
