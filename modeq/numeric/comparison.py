"""Trajectories side by side: the optimizer against the equations it is said to follow, and observed orders."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, zip_longest
from typing import Any, Literal

import numpy as np
import sympy as sp
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
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.exact_flow import exact_quadratic_flow
from modeq.numeric.fields import FieldName
from modeq.numeric.flows import Layer, decay_rate, flow, require_series_limit
from modeq.numeric.iteration import iterate
from modeq.numeric.protocol import Problem, Vector, largest_curvature, positive, whole
from modeq.numeric.trajectory import TOO_STIFF, Trajectory
from modeq.symbolic.equation import modified_equation
from modeq.symbolic.initial_layer import initial_layer as initial_layer_of
from modeq.symbolic.phase_space import phase_space_form
from modeq.symbolic.rooted_trees import checked_order
from modeq.symbolic.state_space import state_space_form
from modeq.symbolic.temporal import time_derivative_form

FormName = Literal["field", "time", "rest", "phase", "hermite", "powers", "state", "exact"]
_DERIVE: dict[str, Any] = {
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
    chosen = [methods] if isinstance(methods, GeneralLinearMethod) else list(methods)
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
                _DERIVE[form](method, order),
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
        stiff = isinstance(error.trajectory, Trajectory) and error.trajectory.status == TOO_STIFF
        return Entry(repr(method), form, order, note="too stiff" if stiff else "the flow diverges")
    except ModeqError as error:
        return Entry(repr(method), form, order, note=str(error))
    errors = step_errors(flowed, iterates)
    late = errors[len(errors) // 2 :]
    return Entry(repr(method), form, order, float(np.max(errors)), float(np.max(late)), flowed)


_NOISE = 1e-12  # rounding and integration errors, relative to the parameters


@dataclass(frozen=True)
class ObservedOrder:
    """How fast the error falls with the step size; see :func:`observed_order`.

    Attributes
    ----------
    step_sizes, errors : the learning rates, and the largest error of the trajectory at each
    slopes : log₂ ratios of successive errors (scaled to the ratio of the step sizes); nan where an error is
        below the noise floor
    expected : the slope that the coefficients predict
    window : the largest and the smallest h·λ_max used, as fractions of the series limit
    noise_floor : errors below this are rounding and integration errors, and have no slope

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> observed = mq.observed_order(mq.GradientDescent(), problem, [1.0], time=1.0, order=1)
    >>> observed.expected, len(observed.step_sizes), len(observed.slopes)
    (1, 5, 4)
    """

    step_sizes: tuple[float, ...]
    errors: tuple[float, ...]
    slopes: tuple[float, ...]
    expected: int
    window: tuple[float, float]
    noise_floor: float


def observed_order(
    method: GeneralLinearMethod,
    problem: Problem,
    start: Any = None,
    *,
    time: float,
    order: int,
    step_sizes: Sequence[float] | None = None,
    form: FormName = "field",
    field: FieldName = "auto",
    initial_layer: Layer = True,
    halvings: int = 4,
) -> ObservedOrder:
    """Measure the order with which a modified equation follows the optimizer itself.

    Parameters
    ----------
    method, problem, start : as in :func:`modeq.flow`
    time : positive number
        The length of the trajectories, in units of h·n. The largest error over each counts, for a vector
        field from the time on at which the initial layer has died out at the largest step size.
    order : positive int
        The truncation order.
    step_sizes : decreasing sequence, optional
        By default halvings from 0.2 times the series limit over λ_max, rounded so that `time` is a whole
        number of steps: as many as `halvings`, or, from two on, as keep the error ten times above the noise floor.
    form, field, initial_layer : as in :func:`modeq.flow`
    halvings : int

    Returns
    -------
    ObservedOrder

    Notes
    -----
    Only smooth losses have clean slopes (tanh, not ReLU). Flows are integrated to rtol = 1e-13.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(sp.cos(x) + x**2, [x])
    >>> result = observed_order(mq.GradientDescent(), problem, [1.0], time=1.0, order=2)
    >>> result.expected, [round(slope, 1) for slope in result.slopes]
    (2, [2.0, 2.0, 2.0, 2.0])
    """
    if form not in _DERIVE:
        raise InvalidProblem(f"form is {form!r}: it must be one of {list(_DERIVE)}")
    time, order = positive(time, "time"), checked_order(order)
    theta = problem.start(start)
    if problem.epsilon > 1e-12:
        raise InvalidProblem(
            f"{problem!r} computes with a rounding of {problem.epsilon:.1e}, which hides the slopes: use "
            "module.double()"
        )
    limit = float(method.series_limit())
    curvature = largest_curvature(problem, theta) + decay_rate(method)
    layer_steps = _layer_steps(method, form, order)
    chosen_here = step_sizes is None
    if chosen_here:
        if not curvature > 0:
            raise InvalidProblem("the Hessian at the start is zero: give step_sizes")
        steps = max(int(np.ceil(time * curvature / (0.2 * min(limit, 2.0)))), 2 * layer_steps)
        step_sizes = [time / (steps * 2**k) for k in range(halvings + 1)]
    sizes = _decreasing(step_sizes)
    settled = layer_steps * sizes[0]
    if settled > 0.8 * time:
        raise InvalidProblem(
            f"time is {time:g}, but at h = {sizes[0]:g} the initial layer of {method} lasts until {settled:.3g}: take "
            "a longer time or smaller step_sizes"
        )
    equation = _DERIVE[form](method, order)
    if (form == "field" and order > 1) or (form == "time" and order > 2):
        require_series_limit(method, problem, theta, sizes[0])
    expected = expected_order(method, order, initial_layer=initial_layer, form=form)
    layer = initial_layer if form != "rest" else False
    sharp_flow = partial(flow, equation, field=field, initial_layer=layer, rtol=1e-13, atol=1e-15, series_limit=False)
    errors, scale = [], 0.0
    for h in sizes:
        if chosen_here and len(errors) > 2 and errors[-1] < 2**expected * 10 * _NOISE * scale:
            break
        iterates = iterate(method, problem, theta, h=h, steps=round(time / h))
        flowed = sharp_flow(problem=problem, start=theta, h=h, time=float(iterates.t[-1]))
        counted = iterates.t >= settled * (1 - 1e-12)
        errors.append(float(np.max(step_errors(flowed, iterates)[counted])))
        scale = max(scale, float(np.max(abs(iterates.y))))
    sizes, floor = sizes[: len(errors)], _NOISE * scale
    window = (sizes[0] * curvature / limit, sizes[-1] * curvature / limit)
    return ObservedOrder(sizes, tuple(errors), _slopes(sizes, errors, floor), expected, window, floor)


def _decreasing(step_sizes: Any) -> tuple[float, ...]:
    """The step sizes, after a check."""
    sizes: tuple[float, ...] = ()
    if isinstance(step_sizes, Sequence | np.ndarray):
        sizes = tuple(positive(size, "a step size") for size in step_sizes)
    if len(sizes) < 2 or any(b >= a for a, b in pairwise(sizes)):
        raise InvalidProblem(f"step_sizes is {step_sizes!r}: give at least two, the largest first")
    return sizes


def _slopes(sizes: Sequence[float], errors: Sequence[float], floor: float) -> tuple[float, ...]:
    """The logarithmic slopes between successive errors; nan where one is at the noise floor."""
    return tuple(
        float(np.log(a / b) / np.log(g / h)) if min(a, b) > floor else float("nan")
        for (a, b), (g, h) in zip(pairwise(errors), pairwise(sizes), strict=True)
    )


def _layer_steps(method: GeneralLinearMethod, form: FormName, order: int) -> int:
    """The number of steps in which the transients that the form lacks fall below rounding, with some room.

    At h = 0 those of an eigenvalue 0 end after as many steps as there are further states, and each power of h
    that counts adds as many.
    """
    if form == "state":
        moduli = []
    elif form in PHASE_SPACE:
        moduli = [abs(complex(root)) for root in phase_space_form(method, 1).left_out]
    else:
        moduli = [method.parasitic_radius] if method.state_count > 1 else []
    radius = max(moduli, default=0.0)
    decayed = int(np.ceil(1.1 * np.log(1e-17) / np.log(radius))) if radius > 0 else 0
    return max(decayed, order * (method.state_count - 1)) if moduli else 0


def expected_order(
    method: GeneralLinearMethod, order: int, *, initial_layer: Layer = True, form: FormName = "field"
) -> int:
    """Return the k of the error O(hᵏ) of a form of truncation order p, from its exact coefficients.

    It is the order of the first neglected term. Of a vector field these are the terms with k + 1 vertices,
    and those of the initial layer (through h^{p−1}, or as given) with k vertices; of the forms in time
    derivatives and in phase space the first coefficient that is not the exact one; of the state-space form
    those with k + 1 fields and buffers together. Whatever the truncation is,
    there stay an error O(h) from rest, and in phase space from buffers off the slow manifold one O(h²), or
    O(h³) where r is interpolated at the poles.

    Examples
    --------
    >>> import modeq as mq
    >>> expected_order(mq.GradientDescent(), 2), expected_order(mq.HeavyBall(momentum=0.5), 3, initial_layer=1)
    (2, 2)
    >>> expected_order(mq.GradientDescent(), 3, form="phase")  # the third Bernoulli number is 0
    4
    """
    search = order + 4
    off_manifold = any(value != 0 for value in initial_layer_of(method, 1).values())
    if form in PHASE_SPACE:
        used, exact = _DERIVE[form](method, order), phase_space_form(method, search)
        found = []
        for colour, row in exact.r.items():
            pairs = zip_longest(row, used.r[colour][:search], fillvalue=sp.Integer(0))
            found += [k for k, (a, b) in enumerate(pairs) if abs(sp.N(a - b, 30, maxn=1000)) > 1e-25]
        if used.left_out:  # the flow starts by a series, of as many terms
            layer = initial_layer_of(method, order + 2)
            found += [tree.order for tree, value in layer.items() if tree.order > order and value != 0]
        if used.poles and off_manifold:
            # Interpolation removes the shift of the transients' own modes, not of their products and resonances.
            found.append(2 if form == "phase" else 3)
    elif form == "state":
        terms = state_space_form(method, order + 2)
        found = [tree.order - 1 for (_, tree), value in terms.items() if tree.order > order and value != 0]
    elif form in ("time", "rest"):
        c = time_derivative_form(method, search).coefficients
        found = [k for k in range(order, search) if c[k] != 0]
        if form == "rest" and order > 1:
            found.append(1)
        elif off_manifold and order < 3:
            found.append(order)
    else:
        included = order - 1 if initial_layer is True else int(initial_layer)
        equation = modified_equation(method, search)
        layer = initial_layer_of(method, included + 1)
        found = [tree.order - 1 for tree, value in equation.coefficients.items() if tree.order > order and value != 0]
        found += [tree.order for tree, value in layer.items() if tree.order > included and value != 0]
    if not found:
        raise InvalidMethod(
            f"{method} has no neglected term through order {search}: it may follow its equation exactly"
        )
    return min(found)
