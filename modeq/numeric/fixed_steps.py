"""Fixed-step Runge–Kutta methods, the method objects themselves; the step is given, or found by halving."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.integrate import DOP853

from modeq.methods.base import GeneralLinearMethod
from modeq.methods.runge_kutta import RK4, RungeKutta
from modeq.numeric.checkpoints import Segment
from modeq.numeric.iteration import iterate
from modeq.numeric.method_steps import as_numbers
from modeq.numeric.protocol import Vector
from modeq.numeric.segments import Budget, Stopped, bounds
from modeq.numeric.trajectory import Status, Trajectory

_SHARPEST_FOURTH_ORDER = 1e-7  # below this relative tolerance order 8 needs fewer evaluations


@cache
def runge_kutta_of(rtol: float) -> tuple[GeneralLinearMethod, int]:
    """Return the method for a relative tolerance, and its order: RK4, or the 12 stages of DOP853.

    Examples
    --------
    >>> runge_kutta_of(2e-6), runge_kutta_of(1e-10)[1]
    ((RK4(), 4), 8)
    """
    if rtol >= _SHARPEST_FOURTH_ORDER:
        return RK4(), 4
    return RungeKutta(DOP853.A.tolist(), DOP853.B.tolist(), name="RungeKutta of DOP853"), 8


@dataclass(frozen=True)
class _RightHandSide:
    """A right-hand side as the field of a problem, with the state in float64, if a tensor on the device of `like`.

    The sum over many small steps would otherwise lose what the right-hand side, in its own numbers, does not.
    """

    counted: Budget
    like: Any
    parts: int = 1
    epsilon: float = float(np.finfo(np.float64).eps)

    @property
    def _in_torch(self) -> bool:
        return isinstance(self.like, torch.Tensor)

    @property
    def size(self) -> int:
        return len(self.like)

    def start(self, start: Any = None) -> Vector:
        return start

    def native(self, theta: Any) -> Any:
        return torch.tensor(theta, dtype=torch.float64, device=self.like.device) if self._in_torch else theta

    def label(self, index: int) -> str:
        return f"entry {index}"

    def checked_batches(self, batches: Any = None) -> None:
        return None

    def of_batch(self, batch: Any) -> "_RightHandSide":
        return self

    def field(self, theta: Any, part: int | None = None) -> Any:
        if not self._in_torch:
            return self.counted(0.0, theta)
        slope = self.counted(0.0, theta.to(self.like.dtype))
        return torch.as_tensor(slope, dtype=torch.float64, device=self.like.device).detach()

    def derivative(self, theta: Any, vectors: Any, part: int | None = None) -> Any:
        raise NotImplementedError("a Runge-Kutta method takes the field alone")


def plain_segments(
    counted: Budget, start: Any, times: Vector, size: int, substeps: int, last: Segment | None = None
) -> Iterator[Segment]:
    """Yield the segments of an integration by RK4 with so many steps between two times, without an error estimate.

    Arguments, contents and errors are those of :func:`modeq.numeric.adaptive_steps.adaptive_segments`.

    Raises
    ------
    Stopped

    Examples
    --------
    >>> decay = Budget(lambda u: -u, limit=1000)
    >>> segments = list(plain_segments(decay, np.ones(1), np.linspace(0, 1, 5), 1, substeps=10))
    >>> bool(abs(segments[-1]["u"][0] - np.exp(-1)) < 1e-7), decay.spent
    (True, 160)
    """
    reached = 1 if last is None else int(last["reached"])
    u = as_numbers(start) if last is None else last["u"]
    counted.spent = 0 if last is None else int(last["spent"])
    problem = _RightHandSide(counted, start)
    for a, b in pairwise(bounds(times, even=True)):
        if b < reached:
            continue
        dt = (times[b] - times[a]) / ((b - a) * substeps)
        found = iterate(RK4(), problem, u, h=dt, steps=(b - a) * substeps, every=substeps, check=False)
        if not found.success:
            t = times[a] + found.t[-1]
            raise Stopped(
                Status.DIVERGED,
                f"the flow left the finite numbers after t = {t:.6g}; use more substeps, or a smaller learning rate",
                [row[None, :size] for row in found.y[1:]],
            )
        u = found.y[-1]
        yield _segment(found, size, times[b], substeps, counted, b)


def fixed_segments(
    counted: Budget,
    start: torch.Tensor,
    times: Vector,
    size: int,
    rtol: float,
    atol: float,
    last: Segment | None = None,
) -> Iterator[Segment]:
    """Yield the segments of an integration with fixed steps, from the start or after the segment `last`.

    In each segment N steps between two times are compared with N/2, and N is doubled until the largest difference,
    in the norm of SciPy's integrators, is below the tolerance; the finer solution is kept. The next segment starts
    from the same N, or from half of it if that would have done. Arguments, contents and errors are those of
    :func:`modeq.numeric.adaptive_steps.adaptive_segments`; `step` is N.

    Examples
    --------
    >>> decay = Budget(lambda u: -u, limit=10_000)
    >>> segments = list(fixed_segments(decay, torch.ones(1), np.linspace(0, 1, 5), 1, 2e-6, 1e-7))
    >>> bool(abs(segments[-1]["u"][0] - np.exp(-1)) < 1e-6), [int(segment["step"]) for segment in segments]
    (True, [4, 4, 4, 4])
    """
    ends = bounds(times, even=True)
    reached = 1 if last is None else int(last["reached"])
    u = as_numbers(start) if last is None else last["u"]
    counted.spent = 0 if last is None else int(last["spent"])
    search = _Halving(_RightHandSide(counted, start), rtol, atol)
    substeps = 1 if last is None else int(last["step"])
    for a, b in pairwise(ends):
        if b < reached:
            continue
        found, substeps = search(u, (times[b] - times[a]) / (b - a), b - a, substeps)
        u = found.y[-1]
        yield _segment(found, size, times[b], substeps, counted, b)


def _segment(found: Trajectory, size: int, t: float, substeps: int, counted: Budget, end: int) -> Segment:
    return {
        "y": found.y[1:, :size],
        "u": found.y[-1],
        "t": np.array(t),
        "step": np.array(substeps),
        "spent": np.array(counted.spent),
        "reached": np.array(end + 1),
    }


@dataclass(frozen=True)
class _Halving:
    problem: _RightHandSide
    rtol: float
    atol: float

    def __call__(self, u: Vector, dt: float, intervals: int, substeps: int) -> tuple[Trajectory, int]:
        """Return the solution after so many intervals dt, and the number of steps in one to begin the next with."""
        order = runge_kutta_of(self.rtol)[1]
        if substeps == 1 and intervals % 2:
            substeps = 2  # a step of two intervals would miss the end
        coarse, stalled, error = self._run(u, dt, intervals, substeps / 2), 0, np.inf
        while True:
            fine = self._run(u, dt, intervals, substeps)
            previous, error = error, self._difference(coarse, fine)
            if error <= 1:
                enough = error * 2.0 ** (order + 1) < 1
                return fine, max(1, substeps // 2) if enough else substeps
            stalled = stalled + 1 if previous / 2 < error < 1e3 else 0
            if stalled == 2:
                raise Stopped(
                    Status.TOO_STIFF,
                    f"halving the steps changes the flow no less any more: its differences are the rounding of "
                    f"{self.problem.like.dtype}; use a larger rtol, or a problem in float64",
                )
            coarse, substeps = fine, 2 * substeps

    def _run(self, u: Vector, dt: float, intervals: int, substeps: float) -> Trajectory:
        method, every = runge_kutta_of(self.rtol)[0], max(1, int(substeps))
        steps = round(intervals * substeps)
        return iterate(method, self.problem, u, h=dt / substeps, steps=steps, every=every, check=False)

    def _difference(self, coarse: Trajectory, fine: Trajectory) -> float:
        """The largest of the root mean squares of |coarse − fine| / (atol + rtol |fine|); inf if one ended early."""
        if not (coarse.success and fine.success):
            return np.inf
        y = fine.y[:: (len(fine.y) - 1) // (len(coarse.y) - 1)]
        scaled = (coarse.y - y) / (self.atol + self.rtol * abs(y))
        return float(np.sqrt(np.max(np.mean(scaled**2, axis=1))))
