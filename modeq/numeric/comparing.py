"""One law beside the optimizer: integrate it, measure it, and keep it in a checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeq.errors import Diverged, InvalidProblem, ModeqError, NoTimeDerivativeForm
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.checkpoints import Checkpoint, Segment, fingerprint
from modeq.numeric.curvature import curvature_seen, require_series_limit
from modeq.numeric.entries import DERIVE, PHASE_SPACE, Entry, FormName, failure, step_errors
from modeq.numeric.exact_flow import exact_quadratic_flow
from modeq.numeric.fields import FieldName
from modeq.numeric.flow_settings import has_series_limit, require_batch_form
from modeq.numeric.flows import flow
from modeq.numeric.iteration import iterate
from modeq.numeric.protocol import Problem, Vector, loss_of
from modeq.numeric.trajectory import Status, Trajectory


@dataclass(frozen=True, eq=False, repr=False)
class CurvatureAlong:
    """h·λ_max of the Hessian along an optimizer's iterates, and the limits of the method.

    Attributes
    ----------
    steps : array (points,), the steps n
    values : array (points,), h times the largest |eigenvalue| of the Hessian, with the rate of weight decay; for an
        epoch the largest over its minibatches
    series_limit, stability_limit : those of the method

    Examples
    --------
    >>> along = CurvatureAlong(np.array([0, 10]), np.array([0.5, 2.5]), 1.0, 2.0)
    >>> along.first_beyond(along.series_limit), along.flags()
    (10, ['h·λ_max = 2.5 at step 10 is beyond the series limit 1', 'h·λ_max = 2.5 at step 10 is beyond the stability ...
    """

    steps: Vector
    values: Vector
    series_limit: float
    stability_limit: float

    def first_beyond(self, limit: float) -> int | None:
        """Return the first of the steps at which h·λ_max reaches a limit; None if it does not."""
        beyond = self.steps[self.values >= limit]
        return int(beyond[0]) if len(beyond) else None

    def __repr__(self) -> str:
        limits = f"series limit {self.series_limit:.4g}, stability limit {self.stability_limit:.4g}"
        return f"CurvatureAlong({len(self.steps)} steps, {limits})"

    def flags(self) -> list[str]:
        """Return one sentence for each limit that is reached."""
        found = []
        for name, limit in (("series", self.series_limit), ("stability", self.stability_limit)):
            step = self.first_beyond(limit)
            if step is not None:
                value = float(self.values[self.steps == step][0])
                found.append(f"h·λ_max = {value:.4g} at step {step} is beyond the {name} limit {limit:.4g}")
        return found


@dataclass(frozen=True, eq=False)
class Run:
    """What every law of one comparison shares; see :func:`modeq.compare` for the fields."""

    problem: Problem
    theta: Vector
    h: float
    steps: int
    every: int
    batches: Sequence[Any] | None
    field: FieldName
    integrator: dict[str, Any]
    checkpoint: Path | None = None

    def require_checkpoint(self) -> None:
        """Raise `InvalidProblem` if the checkpoint is one of another comparison."""
        if self.checkpoint is None:
            return
        slope = np.asarray(self.problem.field(self.theta), dtype=np.float64)
        stored = Checkpoint(self.checkpoint / "problem", self._key())
        segments = stored.segments()
        # The gradient tells losses and data apart that print alike; it may differ by rounding between machines.
        if segments and not np.allclose(segments[0]["slope"], slope, rtol=1e-3, atol=1e-6 * np.max(abs(slope))):
            raise InvalidProblem(
                f"checkpoint {self.checkpoint} holds another run: the gradient of {self.problem!r} at the start is "
                "another there; give a folder of its own to each run, or delete this one"
            )
        if not segments:
            stored.append(0, slope=slope)

    def _key(self) -> dict[str, str]:
        batches = None if self.batches is None else [fingerprint(batch=batch)["batch"] for batch in self.batches]
        numbers = {"h": self.h, "steps": self.steps, "every": self.every, "field": self.field}
        given = {"problem": repr(self.problem), "start": self.theta, "batches": repr(batches)}
        return fingerprint(**numbers, **given, **self.integrator)

    def kept(self, name: str, law: dict[str, str], compute: Callable[[Path | None], Segment]) -> Segment:
        """Return the arrays of a finished part from the checkpoint, or compute them and keep them there."""
        if self.checkpoint is None:
            return {key: np.asarray(value) for key, value in compute(None).items()}
        folder = self.checkpoint / name
        stored = Checkpoint(folder, {**self._key(), **law})
        segments = stored.segments()
        if not segments:
            stored.append(0, **compute(folder / "flow"))
            segments = stored.segments()
        return segments[0]


def optimizer_run(run: Run, method: GeneralLinearMethod, points: int) -> tuple[Trajectory, Trajectory, Segment]:
    """Return the iterates, those of them that are recorded, and their losses, gradient norms and curvatures."""

    def compute(_: Path | None) -> Segment:
        try:
            iterates = iterate(
                method, run.problem, run.theta, h=run.h, steps=run.steps, batches=run.batches, check=False
            )
        except Diverged as error:  # an implicit step that could not be solved
            iterates = _no_flow(run, Status.DIVERGED, str(error))
        recorded = _thinned(iterates, run.every)
        chosen = np.unique(np.linspace(0, len(recorded.y) - 1, points).round().astype(int))
        curved = run.h * _curvatures(method, run.problem, recorded.y[chosen])
        steps = np.round(recorded.t[chosen] / run.h).astype(int)[: len(curved)]
        return {**_arrays(iterates), **_measured(run.problem, recorded), "curvature": curved, "at": steps}

    found = run.kept(_folder("iterates", method), {"curvature_points": str(points)}, compute)
    iterates = _trajectory(found)
    return iterates, _thinned(iterates, run.every), found


def _curvatures(method: GeneralLinearMethod, problem: Problem, points: Vector) -> Vector:
    """λ_max at each point; empty for a game, whose players share no curvature."""
    if method.players:
        return np.zeros(0)
    with np.errstate(over="ignore", invalid="ignore"):  # near the end of a run that diverges
        return np.array([curvature_seen(method, problem, theta, epoch=method.steps > 1) for theta in points])


def law_entry(
    run: Run, method: GeneralLinearMethod, form: FormName, order: int, iterates: Trajectory, h_curvature: float | None
) -> Entry:
    """Return one law beside the iterates, integrated as far as these go.

    Parameters
    ----------
    run, method, form, order : what to integrate
    iterates : all iterates of the method
    h_curvature : h·λ_max at the start, if it is known
    """

    def compute(folder: Path | None) -> Segment:
        flowed = _flowed(run, method, form, order, iterates, h_curvature, folder)
        y = flowed.y[: _finite_points(flowed.y)]
        flowed = Trajectory(flowed.t[: len(y)], y, flowed.nfev, flowed.status, flowed.message, flowed.name)
        errors = step_errors(flowed, iterates)
        whole: dict[str, Any] = {"error": np.max(errors), "late_error": np.max(errors[len(errors) // 2 :])}
        recorded = _thinned(flowed, run.every, len(iterates.y))
        return {**_arrays(recorded), **_measured(run.problem, recorded), **whole}

    found = run.kept(_folder(f"{form}-{order}", method), {"law": f"{method} {form} {order}"}, compute)
    return _entry(method, form, order, found, _thinned(iterates, run.every))


def _entry(method: GeneralLinearMethod, form: FormName, order: int, found: Segment, recorded: Trajectory) -> Entry:
    flowed = _trajectory(found)
    status = Status(flowed.status)
    done = status == Status.DONE
    if not done and len(flowed.y) == 1:  # the start alone
        return Entry(repr(method), form, order, status=status, message=flowed.message)
    return Entry(
        repr(method),
        form,
        order,
        error=float(found["error"]) if done else None,
        late_error=float(found["late_error"]) if done else None,
        trajectory=flowed,
        status=status,
        message="" if done else flowed.message,
        errors=step_errors(flowed, recorded),
        losses=found.get("losses"),
        gradient_norms=found["gradient_norms"],
    )


def _flowed(
    run: Run,
    method: GeneralLinearMethod,
    form: FormName,
    order: int,
    iterates: Trajectory,
    h_curvature: float | None,
    folder: Path | None,
) -> Trajectory:
    """The flow, or the start alone with a status that says why there is none."""
    time = float(iterates.t[-1])
    try:
        if time == 0:
            return _no_flow(run, Status(iterates.status), f"the optimizer itself made no step: {iterates.message}")
        if form == "exact":
            return _exact(run, method, time)
        equation = DERIVE[form](method, order)
        known = h_curvature if run.batches is None else None
        if known is not None and has_series_limit(equation):
            require_series_limit(method, run.problem, run.theta, run.h, curvature=known / run.h)
        if run.batches is not None:
            _require_law_of_batches(equation)
        return flow(
            equation,
            run.problem,
            run.theta,
            h=run.h,
            time=time,
            field=run.field if form == "field" or form in PHASE_SPACE else "auto",
            initial_layer=form != "rest",
            series_limit=known is None,
            check=False,
            batches=run.batches,
            checkpoint=folder,
            **run.integrator,
        )
    except ModeqError as error:
        return _no_flow(run, *failure(error))


def _require_law_of_batches(equation: Any) -> None:
    try:
        require_batch_form(equation)
    except InvalidProblem as error:
        raise NoTimeDerivativeForm(str(error)) from error


def _exact(run: Run, method: GeneralLinearMethod, time: float) -> Trajectory:
    if run.batches is not None:
        reason = "the exact flow is that of one quadratic, and batches are given: leave out 'exact'"
        return _no_flow(run, Status.NO_SUCH_FORM, reason)
    try:
        return exact_quadratic_flow(method, run.problem, run.theta, h=run.h, time=time)
    except InvalidProblem as error:  # the one-step map has no logarithm
        return _no_flow(run, Status.NO_SUCH_FORM, str(error))


def _no_flow(run: Run, status: Status, message: str) -> Trajectory:
    return Trajectory(np.zeros(1), run.theta[None, :], 0, status, message, "no flow")


def _measured(problem: Problem, trajectory: Trajectory) -> Segment:
    """The losses, if the problem has any, and the norms of the field along a trajectory."""
    loss = loss_of(problem)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.array([np.linalg.norm(problem.field(theta)) for theta in trajectory.y])
        if loss is None:
            return {"gradient_norms": norms}
        return {"gradient_norms": norms, "losses": np.array([float(loss(theta)) for theta in trajectory.y])}


def _finite_points(y: Vector) -> int:
    """The number of points before the first that is not finite; the start always counts."""
    finite = np.all(np.isfinite(y), axis=1)
    return len(y) if np.all(finite) else max(1, int(np.argmin(finite)))


def _thinned(trajectory: Trajectory, every: int, length: int | None = None) -> Trajectory:
    """Every so many-th point, and the last of `length` points."""
    length = len(trajectory.y) if length is None else length
    chosen = np.unique([*range(0, length, every), length - 1])
    chosen = chosen[chosen < len(trajectory.y)]
    t, y = trajectory.t[chosen], trajectory.y[chosen]
    return Trajectory(t, y, trajectory.nfev, trajectory.status, trajectory.message, trajectory.name)


def _arrays(trajectory: Trajectory) -> Segment:
    return {key: np.asarray(getattr(trajectory, key)) for key in ("t", "y", "nfev", "status", "message", "name")}


def _trajectory(found: Segment) -> Trajectory:
    numbers = (int(found["nfev"]), int(found["status"]))
    return Trajectory(found["t"], found["y"], *numbers, str(found["message"]), str(found["name"]))


def _folder(law: str, method: GeneralLinearMethod) -> str:
    digest = fingerprint(method=np.frombuffer(repr(method).encode(), dtype=np.uint8))["method"]
    return f"entry-{law}-{digest[-8:]}"
