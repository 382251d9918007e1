"""SciPy's DOP853 in segments that can be taken up again."""

from collections.abc import Iterator

import numpy as np
from scipy.integrate import DOP853

from modeq.numeric.checkpoints import Segment
from modeq.numeric.protocol import Vector
from modeq.numeric.segments import Budget, Stopped, bounds
from modeq.numeric.trajectory import Status


def adaptive_segments(
    counted: Budget, start: Vector, times: Vector, size: int, rtol: float, atol: float, last: Segment | None = None
) -> Iterator[Segment]:
    """Yield the segments of an integration, from the start or after the segment `last`.

    A segment ends with the first step of the integrator past its last time, not at that time: the steps are those of
    one integration, and cost nothing more. It holds the rows `y` at its times, the state `u` of the integrator at its
    own time `t`, the size `step` of its next step, and the evaluations `spent` so far.

    Parameters
    ----------
    counted : the right-hand side
    start : vector u(0)
    times, size, rtol, atol : see :func:`modeq.numeric.integration.integrate`
    last : optional, the last segment that is known

    Raises
    ------
    Stopped

    Examples
    --------
    >>> decay = Budget(lambda u: -u, limit=1000)
    >>> segments = list(adaptive_segments(decay, np.ones(1), np.linspace(0, 1, 5), 1, 1e-8, 1e-10))
    >>> bool(abs(segments[-1]["u"][0] - np.exp(-1)) < 1e-8), sum(len(segment["y"]) for segment in segments)
    (True, 4)
    """
    reached = 1 if last is None else int(last["reached"])
    if reached == len(times):
        return
    solver = _solver(counted, start, times, rtol, atol, last)
    ends = bounds(times)
    while reached < len(times):
        end = next(end for end in ends if end >= reached)
        rows: list[Vector] = []
        while reached <= end:
            try:
                found = _step(solver, times, reached, size)
            except Stopped as stop:
                raise Stopped(stop.status, stop.message, rows) from None
            rows += found
            reached += sum(len(row) for row in found)
        yield {
            "y": np.concatenate(rows),
            "u": solver.y.copy(),
            "t": np.array(solver.t),
            "step": np.array(solver.h_abs),
            "spent": np.array(counted.spent),
            "reached": np.array(reached),
        }


def _solver(counted: Budget, start: Vector, times: Vector, rtol: float, atol: float, last: Segment | None) -> DOP853:
    if last is None:
        # Between two times alone the whole of it is tried first: that saves the search for a first step.
        first_step = times[1] - times[0] if len(times) == 2 else None
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return DOP853(counted, times[0], start, times[-1], rtol=rtol, atol=atol, first_step=first_step)
    t = float(last["t"])
    counted.spent = int(last["spent"]) - 1  # the last evaluation of the segment is made once more
    solver = DOP853(counted, t, last["u"], times[-1], rtol=rtol, atol=atol, first_step=times[-1] - t)
    solver.h_abs = float(last["step"])
    return solver


def _step(solver: DOP853, times: Vector, reached: int, size: int) -> list[Vector]:
    """Make one step; return the rows at the times that it passes."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        message = solver.step()
        if solver.status == "failed":
            raise Stopped(
                Status.DIVERGED,
                f"the flow left the finite numbers, or cannot be continued, at t = {solver.t:.6g} ({message})",
            )
        passed = times[reached : int(np.searchsorted(times, solver.t, side="right"))]
        if len(passed) == 0:
            return []
        if len(passed) == 1 and passed[0] == solver.t:
            return [solver.y[None, :size].copy()]
        return [solver.dense_output()(passed)[:size].T]
