"""Trajectories side by side: the optimizer against the equations it is said to follow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from modeq.errors import (
    Diverged,
    IllPosed,
    InvalidMethod,
    InvalidProblem,
    ModeqError,
    NoTimeDerivativeForm,
    OutsideSeriesLimit,
)
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.numeric.exact_flow import exact_quadratic_flow
from modeq.numeric.flows import flow
from modeq.numeric.iteration import iterate
from modeq.numeric.protocol import Problem, Vector, positive, whole
from modeq.numeric.trajectory import Status, Trajectory
from modeq.symbolic.equation import modified_equation
from modeq.symbolic.phase_space import phase_space_form
from modeq.symbolic.rooted_trees import checked_order
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


@dataclass(frozen=True)
class Entry:
    """One continuous law beside the optimizer.

    Attributes
    ----------
    method, form, order : what was integrated ("exact" has order 0)
    error : the largest |θ_flow − θ_optimizer| over all steps and parameters; None if there is none
    late_error : the same over the second half of the steps, when the initial layer of a method with
        momentum, which no vector field on the parameters can follow, has died out
    trajectory : the flow at the steps; None if there is none
    note : why there is none, else empty
    """

    method: str
    form: FormName
    order: int
    error: float | None = None
    late_error: float | None = None
    trajectory: Trajectory | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """How tables and figures call it."""
        if self.form == "field" and self.order == 1:
            return "gradient flow"
        return TITLES[self.form].format(self.order)


@dataclass(frozen=True, repr=False)
class Comparison:
    """The optimizers and the laws that were compared with them; see :func:`compare`.

    Attributes
    ----------
    h, steps : learning rate and number of steps
    iterates : the optimizer's own trajectory, per method
    entries : one :class:`Entry` for each method and law

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> result = mq.compare(mq.GradientDescent(), problem, [1.0], h=0.1, steps=10, orders=(1,), forms=["field"])
    >>> [(entry.title, round(entry.error, 4)) for entry in result.entries]
    [('gradient flow', 0.0192)]
    """

    h: float
    steps: int
    iterates: dict[str, Trajectory]
    entries: tuple[Entry, ...]

    @property
    def errors(self) -> dict[tuple[str, str, int], float | None]:
        """The largest error of each (method, form, order); None where the law means nothing."""
        return {(entry.method, entry.form, entry.order): entry.error for entry in self.entries}

    def table(self) -> str:
        """Return the errors as a text table.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x = sp.Symbol("x")
        >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
        >>> result = mq.compare(mq.GradientDescent(), problem, [1.0], h=0.1, steps=10, orders=(1, 2), forms=["field"])
        >>> print(result.table())
        GradientDescent(), h = 0.1, 10 steps: largest error over all steps, over their second half
          gradient flow                          1.92e-02  1.92e-02
          vector field, order 2                  1.26e-03  1.26e-03
        """
        lines = []
        for method in self.iterates:
            lines.append(
                f"{method}, h = {self.h:g}, {self.steps} steps: largest error over all steps, over their second half"
            )
            for entry in self.entries:
                if entry.method == method:
                    value = entry.note if entry.error is None else f"{entry.error:.2e}  {entry.late_error:.2e}"
                    lines.append(f"  {entry.title:<38} {value}")
        return "\n".join(lines)

    def plot(self, ax: Any = None, **kwargs: Any) -> list[Any]:
        """Plot error against step, one line for each law; return the artists."""
        from modeq import plots

        curves = {}
        for entry in self.entries:
            if entry.trajectory is not None:
                label = entry.title if len(self.iterates) == 1 else f"{entry.method}: {entry.title}"
                curves[label] = step_errors(entry.trajectory, self.iterates[entry.method])
        return plots.plot_errors(curves, ax=ax, **kwargs)

    def __repr__(self) -> str:
        return f"Comparison({len(self.iterates)} method(s), {len(self.entries)} laws, h={self.h:g}, steps={self.steps})"


def step_errors(flowed: Trajectory, iterates: Trajectory) -> Vector:
    """The largest |θ_flow − θ_optimizer| over the parameters, at each step both have."""
    points = min(len(flowed.y), len(iterates.y))
    return np.max(abs(flowed.y[:points] - iterates.y[:points]), axis=1)


def compare(
    methods: GeneralLinearMethod | Sequence[GeneralLinearMethod],
    problem: Problem,
    start: Any = None,
    *,
    h: float,
    steps: int,
    orders: Sequence[int] | Mapping[str, Sequence[int]] = (1, 2, 3),
    forms: Sequence[FormName] = ("field", "time", "phase", "exact"),
    rtol: float = 1e-10,
    atol: float = 1e-12,
    max_evaluations: int = 200_000,
    progress: bool = True,
) -> Comparison:
    """Run optimizers, and every form of their modified equations beside them.

    Parameters
    ----------
    methods : one method, or several
    problem, start : the problem, and θ₀ in a form it takes
    h : positive number; steps : positive int
    orders : truncation orders, for all forms or for each; order p of the phase-space form keeps derivatives
        of f to D^{p−1}
    forms : which forms; "rest" is the time-derivative form started at rest, "hermite" the phase-space form
        interpolated at the parasitic poles, "powers" the one in powers of q, "state" the flow on parameters
        and buffers. A vector field of order ≥ 2 beyond the method's series limit is not integrated: its entry
        says so. Forms that a method has not are noted likewise, and "exact" is left out for losses that are
        not quadratic.
    rtol, atol, max_evaluations : tolerances and budget of the integrator, as in `modeq.flow`
    progress : bool
        Whether to show progress on stderr, if that is a terminal.

    Returns
    -------
    Comparison

    Raises
    ------
    InvalidMethod, InvalidProblem, Diverged
        The last if an optimizer itself leaves the finite numbers.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> result = compare(mq.HeavyBall(momentum=0.9), problem, [1.0], h=0.01, steps=50, forms=["field", "phase"])
    >>> result.errors["HeavyBall(momentum=9/10)", "field", 2] is None
    True
    >>> bool(result.errors["HeavyBall(momentum=9/10)", "phase", 3] < 1e-6)
    True
    """
    chosen = list(methods) if isinstance(methods, list | tuple) else [methods]
    for method in chosen:
        require_method(method)
    unknown = [form for form in forms if form not in TITLES]
    if unknown:
        raise InvalidProblem(f"forms has {unknown[0]!r}: choose from {list(TITLES)}")
    if len({repr(method) for method in chosen}) < len(chosen):
        raise InvalidMethod(f"methods repeats one of {chosen}: name each once")
    if not chosen:
        raise InvalidMethod("methods is empty: give at least one")
    if isinstance(orders, int):
        raise InvalidProblem(f"orders is {orders!r}: give a sequence of orders, or one for each form")
    h = positive(h, "h")
    steps = whole(steps, "steps", least=1)
    theta = problem.start(start)
    iterates, entries = {}, []
    cases = [(method, form, order) for method in chosen for form, order in _laws(forms, orders, problem)]
    for method in chosen:
        iterates[repr(method)] = iterate(method, problem, theta, h=h, steps=steps)
    for method, form, order in tqdm(cases, desc="comparing", disable=None if progress else True):
        entries.append(
            _entry(method, form, order, problem, theta, h, iterates[repr(method)], rtol, atol, max_evaluations)
        )
    return Comparison(h, steps, iterates, tuple(entries))


def _laws(
    forms: Sequence[FormName], orders: Sequence[int] | Mapping[str, Sequence[int]], problem: Problem
) -> Iterator[tuple[FormName, int]]:
    for form in forms:
        if form == "exact":
            if getattr(problem, "is_quadratic", False):
                yield form, 0
            continue
        chosen = orders.get(form, (1, 2, 3)) if isinstance(orders, Mapping) else orders
        for order in chosen:
            # To first order the time-derivative form is the gradient flow once more.
            if not (form in ("time", "rest") and checked_order(order) == 1 and "field" in forms):
                yield form, order


def _entry(
    method: GeneralLinearMethod,
    form: FormName,
    order: int,
    problem: Problem,
    theta: Vector,
    h: float,
    iterates: Trajectory,
    rtol: float,
    atol: float,
    max_evaluations: int,
) -> Entry:
    time = float(iterates.t[-1])
    try:
        if form == "exact":
            flowed = exact_quadratic_flow(method, problem, theta, h=h, time=time)
        else:
            flowed = flow(
                DERIVE[form](method, order),
                problem,
                theta,
                h=h,
                time=time,
                initial_layer=form != "rest",
                rtol=rtol,
                atol=atol,
                max_evaluations=max_evaluations,
            )
    except OutsideSeriesLimit:
        return Entry(repr(method), form, order, note="outside its series limit")
    except IllPosed:
        return Entry(repr(method), form, order, note="no well-posed equation")
    except NoTimeDerivativeForm:
        return Entry(repr(method), form, order, note="no such form")
    except Diverged as error:
        stiff = isinstance(error.trajectory, Trajectory) and error.trajectory.status == Status.TOO_STIFF
        return Entry(repr(method), form, order, note="too stiff" if stiff else "the flow diverges")
    except ModeqError as error:
        return Entry(repr(method), form, order, note=str(error))
    errors = step_errors(flowed, iterates)
    late = errors[len(errors) // 2 :]
    return Entry(repr(method), form, order, float(np.max(errors)), float(np.max(late)), flowed)
