"""Trajectories side by side: the optimizer against the equations it is said to follow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from modeq.errors import InvalidMethod, InvalidProblem, ModeqError, choice
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.numeric.comparing import CurvatureAlong, Run, law_entry, optimizer_run
from modeq.numeric.comparison_result import Comparison
from modeq.numeric.entries import DERIVE, PHASE_SPACE, TITLES, Entry, FormName, step_errors
from modeq.numeric.fields import FieldName, require_field_name
from modeq.numeric.protocol import Problem, positive, start_on, whole
from modeq.numeric.trajectory import Trajectory
from modeq.symbolic.rooted_trees import checked_order

__all__ = ["DERIVE", "PHASE_SPACE", "Comparison", "Entry", "FormName", "compare", "step_errors"]


def compare(
    methods: GeneralLinearMethod | Sequence[GeneralLinearMethod],
    problem: Problem,
    start: Any = None,
    *,
    h: float,
    steps: int,
    orders: Sequence[int] | Mapping[str, Sequence[int]] = (1, 2, 3),
    forms: Sequence[FormName] = ("field", "time", "phase", "exact"),
    batches: Sequence[Any] | None = None,
    every: int = 1,
    curvature_points: int = 11,
    field: FieldName = "auto",
    rtol: float = 1e-10,
    atol: float = 1e-12,
    max_evaluations: int = 200_000,
    substeps: int | None = None,
    check: bool = True,
    checkpoint: Any = None,
    progress: bool = True,
) -> Comparison:
    """Run optimizers, and every form of their modified equations beside them.

    Parameters
    ----------
    methods : one method, or several
    problem, start : the problem, and θ₀ in a form it takes
    h : positive number
        The learning rate.
    steps : positive int
    orders : truncation orders, for all forms or for each; order p of the phase-space form keeps derivatives
        of f to D^{p−1}
    forms : which forms; "rest" is the time-derivative form started at rest, "hermite" the phase-space form
        interpolated at the parasitic poles, "powers" the one in powers of q, "state" the flow on parameters
        and buffers. A vector field of order ≥ 2 beyond the method's series limit is not integrated: its entry
        says so, and which forms hold there. Forms that a method has not have an entry that says why, and "exact" is
        left out for losses that are not quadratic.
    batches : what step n sees, taken in turn, as in `modeq.iterate` and `modeq.flow`
        Forms without a law for minibatches have an entry that says why. By default the flows see the whole field.
    every : positive int
        Parameters, losses and errors are recorded every so many points, and at the last.
    curvature_points : int from 0
        At how many of the recorded iterates h·λ_max is measured.
    field : as in `modeq.flow`, for vector fields and phase-space forms
    rtol, atol, max_evaluations : tolerances and budget of the integrator, as in `modeq.flow`
    substeps : as in `modeq.flow`, for losses with kinks (ReLU)
    check : bool
        Whether to raise `Diverged` if an optimizer itself leaves the finite numbers, or to compare as far as it goes.
    checkpoint : path of a folder, optional
        Where optimizers and laws are kept when they are finished, and flows on the way, so that the same call after
        an interruption goes on there. More orders, forms or methods may be added; all else must be as it was.
    progress : bool
        Whether to show progress on stderr, if that is a terminal.

    Returns
    -------
    Comparison
        With an entry for each method, form and order.

    Raises
    ------
    InvalidMethod, InvalidProblem, InvalidOrder, Diverged
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
    chosen = _checked_methods(methods)
    laws = list(_laws(_checked_forms(forms), orders, problem))
    require_field_name(field)
    integrator = {
        "rtol": positive(rtol, "rtol"),
        "atol": positive(atol, "atol"),
        "max_evaluations": whole(max_evaluations, "max_evaluations", least=1),
    }
    if substeps is not None:
        integrator["substeps"] = whole(substeps, "substeps", least=1)
    if batches is not None:
        batches = problem.checked_batches(batches)
    run = Run(
        problem,
        start_on(problem, start),
        positive(h, "h"),
        whole(steps, "steps", least=1),
        whole(every, "every", least=1),
        batches,
        field,
        integrator,
        _folder(checkpoint),
    )
    points = whole(curvature_points, "curvature_points", least=0)
    run.require_checkpoint()
    result = Comparison(run.h, run.steps, {}, (), problem)
    entries = []
    for method in chosen:
        iterates = _add_optimizer(result, run, method, points, check)
        along = result.curvature.get(repr(method))
        h_curvature = None if along is None else float(along.values[0])
        quiet = None if progress else True
        for form, order in tqdm(laws, desc=f"comparing {method}", disable=quiet):
            entries.append(law_entry(run, method, form, order, iterates, h_curvature))
    return replace(result, entries=tuple(entries))


def _add_optimizer(result: Comparison, run: Run, method: GeneralLinearMethod, points: int, check: bool) -> Trajectory:
    """Put one optimizer into the result; return all its iterates."""
    iterates, recorded, found = optimizer_run(run, method, points)
    if check:
        iterates.checked()
    name = repr(method)
    result.iterates[name] = recorded
    result.losses[name], result.gradient_norms[name] = found.get("losses"), found["gradient_norms"]
    if len(found["curvature"]):
        limits = _limit(method.series_limit), _limit(method.stability_limit)
        result.curvature[name] = CurvatureAlong(found["at"], found["curvature"], *limits)
    return iterates


def _limit(limit: Any) -> float:
    """A limit as a number; nan for a method that has none."""
    try:
        return float(limit())
    except (ModeqError, TypeError):
        return float("nan")


def _checked_methods(methods: Any) -> list[GeneralLinearMethod]:
    chosen = list(methods) if isinstance(methods, list | tuple) else [methods]
    for method in chosen:
        require_method(method)
        method.require_numbers()
    if len({repr(method) for method in chosen}) < len(chosen):
        raise InvalidMethod(f"methods repeats one of {chosen}: name each once")
    if not chosen:
        raise InvalidMethod("methods is empty: give at least one")
    return chosen


def _checked_forms(forms: Any) -> list[FormName]:
    if isinstance(forms, str) or not isinstance(forms, Sequence):
        raise InvalidProblem(f"forms is {forms!r}: give a sequence of names from {list(TITLES)}")
    unknown = [form for form in forms if not isinstance(form, str) or form not in TITLES]
    if unknown:
        raise InvalidProblem(f"forms has {choice(unknown[0], TITLES)}")
    return list(dict.fromkeys(forms))


def _folder(checkpoint: Any) -> Path | None:
    try:
        return None if checkpoint is None else Path(checkpoint)
    except TypeError as error:
        raise InvalidProblem(f"checkpoint is {checkpoint!r}: give the path of a folder") from error


def _laws(forms: Sequence[FormName], orders: Any, problem: Problem) -> Iterator[tuple[FormName, int]]:
    wanted = orders.values() if isinstance(orders, Mapping) else [orders]
    if any(isinstance(some, str | Mapping) or not hasattr(some, "__iter__") for some in wanted):
        raise InvalidProblem(f"orders is {orders!r}: give a sequence of orders, or one for each form")
    if isinstance(orders, Mapping) and (unknown := [form for form in orders if form not in TITLES]):
        raise InvalidProblem(f"orders names the form {choice(unknown[0], TITLES)}")
    for form in forms:
        if form == "exact":
            if getattr(problem, "is_quadratic", False):
                yield form, 0
            continue
        chosen = orders.get(form, (1, 2, 3)) if isinstance(orders, Mapping) else orders
        for order in dict.fromkeys(checked_order(order) for order in chosen):
            # To first order the time-derivative form is the gradient flow once more.
            if not (form in ("time", "rest") and order == 1 and "field" in forms):
                yield form, order
