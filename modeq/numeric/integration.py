"""Integrate a first-order system with SciPy's DOP853, within a budget of evaluations."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from modeq.numeric.protocol import Vector
from modeq.numeric.trajectory import Status, Trajectory


@dataclass(frozen=True)
class System:
    """A first-order system du/dt = rhs(u) and its start; the first `size` entries of u are θ."""

    right_hand_side: Callable[[Vector], Vector]
    start: Vector
    name: str


class _TooStiff(Exception):
    """The budget of evaluations is spent."""


def integrate(system: System, times: Vector, size: int, rtol: float, atol: float, max_evaluations: int) -> Trajectory:
    """Return the first `size` components of the solution at `times`; its status says whether it is complete."""
    evaluations = 0

    def counted(t: float, u: Vector) -> Vector:
        nonlocal evaluations
        evaluations += 1
        if evaluations > max_evaluations:
            raise _TooStiff
        return system.right_hand_side(u)

    try:
        return _solved(system, counted, times, size, rtol, atol)
    except _TooStiff:
        message = (
            f"given up after {max_evaluations} evaluations, the equation is too stiff at this learning rate: use a "
            "smaller one, a larger rtol, or a larger max_evaluations"
        )
        start = system.start[None, :size]
        return Trajectory(times[:1], start, max_evaluations, Status.TOO_STIFF, message, system.name)


def _solved(
    system: System,
    right_hand_side: Callable[[float, Vector], Vector],
    times: Vector,
    size: int,
    rtol: float,
    atol: float,
) -> Trajectory:
    with np.errstate(over="ignore", invalid="ignore"):
        solution = solve_ivp(
            right_hand_side,
            (times[0], times[-1]),
            system.start,
            method="DOP853",
            t_eval=times,
            rtol=rtol,
            atol=atol,
        )
    if len(solution.y) == 0:
        return Trajectory(
            times[:1], system.start[None, :size], int(solution.nfev), -1, str(solution.message), system.name
        )
    y = solution.y[:size].T
    finite = bool(np.all(np.isfinite(y))) and len(y) == len(times)
    status = 0 if solution.success and finite else -1
    message = str(solution.message) if finite or not solution.success else "the flow left the finite numbers"
    return Trajectory(solution.t, y, int(solution.nfev), status, message, system.name)
