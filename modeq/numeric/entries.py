"""The laws that can stand beside an optimizer, and what became of each: a trajectory, or a status and a reason."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from modeq.errors import (
    Diverged,
    IllPosed,
    InvalidMethod,
    InvalidOrder,
    ModeqError,
    NoTimeDerivativeForm,
    NotZeroStable,
    OutsideSeriesLimit,
    UnsupportedOptimizer,
)
from modeq.numeric.protocol import Vector
from modeq.numeric.trajectory import Status, Trajectory
from modeq.symbolic.equation import modified_equation
from modeq.symbolic.phase_space import phase_space_form
from modeq.symbolic.state_space import state_space_form
from modeq.symbolic.temporal import time_derivative_form

FormName = Literal["field", "time", "rest", "phase", "hermite", "powers", "state", "exact"]
DERIVE: dict[str, Any] = {
    "field": modified_equation,
    "time": time_derivative_form,
    "rest": time_derivative_form,
    "phase": phase_space_form,
    "hermite": partial(phase_space_form, expansion="hermite"),
    "powers": partial(phase_space_form, expansion="powers"),
    "state": state_space_form,
}
PHASE_SPACE = ("phase", "hermite", "powers")
TITLES = {
    "field": "vector field, order {}",
    "time": "time derivatives, order {}",
    "rest": "time derivatives, order {}, from rest",
    "phase": "phase space, order {}",
    "hermite": "phase space, order {}, Hermite",
    "powers": "phase space, order {}, powers",
    "state": "state space, order {}",
    "exact": "exact on quadratics",
}
NOTES = {
    Status.DONE: "",
    Status.DIVERGED: "the flow diverges",
    Status.TOO_STIFF: "too stiff",
    Status.SERIES_DIVERGES: "outside its series limit",
    Status.ILL_POSED: "no well-posed equation",
    Status.NO_SUCH_FORM: "no such form",
    Status.NON_FINITE_GRADIENT: "the gradient is not finite",
}
# Errors that say something of a method, a form or a problem, not of the arguments of a call.
FAILURES: dict[type[ModeqError], Status] = {
    OutsideSeriesLimit: Status.SERIES_DIVERGES,
    IllPosed: Status.ILL_POSED,
    NoTimeDerivativeForm: Status.NO_SUCH_FORM,
    UnsupportedOptimizer: Status.NO_SUCH_FORM,
    NotZeroStable: Status.NO_SUCH_FORM,
    InvalidMethod: Status.NO_SUCH_FORM,
    InvalidOrder: Status.NO_SUCH_FORM,
    Diverged: Status.DIVERGED,
}


@dataclass(frozen=True, repr=False, eq=False)
class Entry:
    """One continuous law beside the optimizer.

    Attributes
    ----------
    method, form, order : what was integrated ("exact" has order 0)
    error : the largest |θ_flow − θ_optimizer| over all steps and parameters; None if there is none
    late_error : the same over the second half of the steps, when the initial layer of a method with
        momentum, which no vector field on the parameters can follow, has died out
    trajectory : the flow at the recorded steps, as far as it got; None if it has no start
    status : a `Status`, 0 if it reached the end
    message : why it did not, else empty
    errors : array (points,), the largest |θ_flow − θ_optimizer| at each recorded step that both have
    losses, gradient_norms : arrays (points,), L and |f| along the flow, without weight decay; None if the problem
        has no loss, or there is no flow

    Examples
    --------
    >>> entry = Entry("HeavyBall(momentum=9/10)", "phase", 3, status=Status.TOO_STIFF, message="given up after 10 ...")
    >>> entry.title, entry.note
    ('phase space, order 3', 'too stiff')
    """

    method: str
    form: FormName
    order: int
    error: float | None = None
    late_error: float | None = None
    trajectory: Trajectory | None = None
    status: Status = Status.DONE
    message: str = ""
    errors: Vector | None = None
    losses: Vector | None = None
    gradient_norms: Vector | None = None

    @property
    def title(self) -> str:
        """How tables and figures call it."""
        if self.form == "field" and self.order == 1:
            return "gradient flow"
        return TITLES[self.form].format(self.order)

    @property
    def note(self) -> str:
        """The status in a few words, for tables; empty if the flow reached the end."""
        return NOTES[self.status]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the trajectory, ready for JSON.

        Examples
        --------
        >>> Entry("GradientDescent()", "field", 1, error=0.5).to_dict()["error"]
        0.5
        """
        return {
            "method": self.method,
            "form": self.form,
            "order": self.order,
            "title": self.title,
            "status": self.status.name,
            "message": self.message,
            "error": json_ready(self.error),
            "late_error": json_ready(self.late_error),
            "errors": json_ready(self.errors),
            "losses": json_ready(self.losses),
            "gradient_norms": json_ready(self.gradient_norms),
        }

    def __repr__(self) -> str:
        state = self.note if self.error is None else f"error {self.error:.3g}"
        return f"Entry({self.method}, {self.title}: {state})"


def json_ready(value: Any) -> Any:
    """Return numbers and arrays as what JSON has: numbers that are not finite become None.

    Examples
    --------
    >>> json_ready(np.array([1.0, np.inf])), json_ready(None)
    ([1.0, None], None)
    """
    if value is None:
        return None
    if np.ndim(value):
        return [json_ready(item) for item in np.asarray(value)]
    return float(value) if np.isfinite(value) else None


def step_errors(flowed: Trajectory, iterates: Trajectory) -> Vector:
    """Return the largest |θ_flow − θ_optimizer| over the parameters, at each step both have.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> short, long = (mq.iterate(mq.GradientDescent(), problem, [1.0], h=0.1, steps=n) for n in (1, 2))
    >>> step_errors(short, long).tolist()
    [0.0, 0.0]
    """
    points = min(len(flowed.y), len(iterates.y))
    return np.max(abs(flowed.y[:points] - iterates.y[:points]), axis=1)


def failure(error: ModeqError) -> tuple[Status, str]:
    """Return the status that stands for an error, and its message; raise the error if it is one of the arguments.

    Examples
    --------
    >>> failure(IllPosed("no initial-value problem"))
    (<Status.ILL_POSED: -4>, 'no initial-value problem')
    """
    status = next((status for kind, status in FAILURES.items() if isinstance(error, kind)), None)
    if status is None:
        raise error
    reached = getattr(error, "trajectory", None)
    return Status(reached.status) if isinstance(reached, Trajectory) else status, str(error)
