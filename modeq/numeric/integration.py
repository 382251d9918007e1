"""Integrate a first-order system in segments: SciPy's DOP853 in numpy, a fixed-step Runge–Kutta method in torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modeq.errors import InvalidProblem
from modeq.numeric.adaptive_steps import adaptive_segments
from modeq.numeric.checkpoints import Checkpoint, Segment, fingerprint
from modeq.numeric.fixed_steps import fixed_segments, plain_segments
from modeq.numeric.method_steps import as_numbers, first_bad
from modeq.numeric.protocol import Vector
from modeq.numeric.segments import Budget, Stopped
from modeq.numeric.trajectory import Status, Trajectory


@dataclass(frozen=True)
class System:
    """A first-order system du/dt = rhs(u) and its start; the first `size` entries of u are θ.

    Attributes
    ----------
    right_hand_side : function of u, which returns a vector of its kind
    start : vector u(0), of numpy in float64, or of torch in any floating type on any device
    name : what is integrated
    label : optional, what parameter number i is called, in messages
    substeps : optional, so many steps of RK4 between two times, without an error estimate, for losses with kinks

    Examples
    --------
    >>> System(lambda u: -u, np.ones(1), "decay").right_hand_side(np.ones(1)).tolist()
    [-1.0]
    """

    right_hand_side: Callable[[Any], Any]
    start: Any
    name: str
    label: Callable[[int], str] | None = None
    substeps: int | None = None


def integrate(
    system: System,
    times: Vector,
    size: int,
    rtol: float,
    atol: float,
    max_evaluations: int,
    checkpoint: Checkpoint | None = None,
) -> Trajectory:
    """Return the first `size` components of the solution at `times`; its status says whether it is complete.

    A start of numpy is integrated by SciPy's DOP853, step for step as `scipy.integrate.solve_ivp` does it; one of
    torch by a Runge–Kutta method with fixed steps, which are halved until halving them changes nothing: see
    :func:`modeq.numeric.fixed_steps.fixed_segments`. Between two times alone nothing is interpolated and the first step
    that is tried is the whole of it.

    A system with `substeps` is integrated by RK4 with that many steps between two times.

    Parameters
    ----------
    system : what to integrate
    times : increasing array, the first that of the start
    size : how many entries of u are returned
    rtol, atol : tolerances, in each step of DOP853, in each segment of fixed steps
    max_evaluations : after so many evaluations the rest is given up
    checkpoint : optional
        Keeps some 20 segments as they are finished. A run that was interrupted goes on from there and returns the
        same numbers, bit for bit; one that spent its budget goes on with a larger one.

    Returns
    -------
    Trajectory
        In float64; up to the time that was reached. `nfev` counts right-hand sides, those of segments that were read
        from the checkpoint included.

    Raises
    ------
    InvalidProblem
        If the checkpoint is that of another run.

    Examples
    --------
    >>> decay = System(lambda u: -u, np.ones(1), "decay")
    >>> found = integrate(decay, np.linspace(0, 1, 11), 1, rtol=1e-10, atol=1e-12, max_evaluations=1000)
    >>> bool(abs(found.y[-1, 0] - np.exp(-1)) < 1e-11), found.success
    (True, True)
    """
    times = np.asarray(times, dtype=np.float64)
    rows, done = [np.array(as_numbers(system.start)[None, :size])], []
    if checkpoint is not None:
        checkpoint = _own(checkpoint, system, times, size, rtol, atol)
        done = checkpoint.segments()
        rows += [segment["y"] for segment in done]
    counted = Budget(_checked_at_start(system, size), max_evaluations)
    last: Segment | None = done[-1] if done else None
    state = (system.start, times, size)
    status, message = Status.DONE, "reached the last time"
    try:
        _require_start(system, times, size)
        if system.substeps is not None:
            segments = plain_segments(counted, *state, system.substeps, last)
        elif isinstance(system.start, torch.Tensor):
            segments = fixed_segments(counted, *state, rtol, atol, last)
        else:
            segments = adaptive_segments(counted, *state, rtol, atol, last)
        for number, segment in enumerate(segments, len(done)):
            rows.append(segment["y"])
            if checkpoint is not None:
                checkpoint.append(number, **segment)
    except Stopped as stop:
        status, message = stop.status, stop.message
        rows += stop.rows
    y = np.concatenate(rows)
    spent = max(counted.spent, int(last["spent"]) if last else 0)
    return Trajectory(times[: len(y)], y, spent, status, message, system.name)


def _own(checkpoint: Checkpoint, system: System, times: Vector, size: int, rtol: float, atol: float) -> Checkpoint:
    """The checkpoint with what the integrator itself depends on in its key."""
    if not isinstance(checkpoint, Checkpoint):
        raise InvalidProblem(f"checkpoint is {checkpoint!r}: give a Checkpoint(path, key)")
    steps = {} if system.substeps is None else {"substeps": system.substeps}
    return checkpoint.including(
        fingerprint(system=system.name, u0=system.start, times=times, size=size, rtol=rtol, atol=atol, **steps)
    )


def _named(system: System, index: int, size: int) -> str:
    """What entry number `index` of the state is called."""
    level, index = divmod(index, size)
    name = system.label(index) if system.label else f"entry {index}"
    return f"row {level} of {name}" if level else name


def _require_start(system: System, times: Vector, size: int) -> None:
    if len(times) < 2:
        raise Stopped(Status.DIVERGED, "the time is too short to leave the start: give a longer one")
    bad = first_bad(system.start)
    if bad is not None:
        name = _named(system, bad, size)
        raise Stopped(
            Status.DIVERGED, f"the start of the flow is not finite, first {name}; use a smaller learning rate"
        )


def _checked_at_start(system: System, size: int) -> Callable[[Any], Any]:
    """The right-hand side, which must be finite where it is evaluated first: at the start."""
    first = True

    def right_hand_side(u: Any) -> Any:
        nonlocal first
        value = system.right_hand_side(u)
        if first:
            first = False
            bad = first_bad(value)
            if bad is not None:
                raise Stopped(
                    Status.NON_FINITE_GRADIENT,
                    f"the right-hand side is not finite at the start, first in {_named(system, bad, size)}: look for "
                    "a division by 0, a logarithm or a root at 0, or data that are not finite; give another start",
                )
        return value

    return right_hand_side
