"""What the two integrators share: the cut of a run into segments, and a right-hand side with a budget."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeq.numeric.protocol import Vector
from modeq.numeric.trajectory import Status

SEGMENTS = 20


class Stopped(Exception):
    """An integration ends before its last time: with what status, why, and the rows it found since its last segment.

    Examples
    --------
    >>> Stopped(Status.TOO_STIFF, "too stiff").rows
    []
    """

    def __init__(self, status: Status, message: str, rows: list[Vector] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.rows = status, message, rows or []


@dataclass
class Budget:
    """A right-hand side that counts its evaluations and raises `Stopped` after so many.

    Examples
    --------
    >>> counted = Budget(lambda u: -u, limit=5)
    >>> counted(0.0, 1.0), counted.spent
    (-1.0, 1)
    """

    right_hand_side: Callable[[Any], Any]
    limit: int
    spent: int = 0

    def __call__(self, t: float, u: Any) -> Any:
        """Return the right-hand side at u; the time is not used."""
        if self.spent >= self.limit:
            raise Stopped(
                Status.TOO_STIFF,
                f"given up after {self.limit} evaluations, the equation is too stiff at this learning rate: use a "
                "smaller one, a larger rtol, or a larger max_evaluations, or substeps for a loss with kinks (ReLU)",
            )
        self.spent += 1
        return self.right_hand_side(u)


def bounds(times: Vector, even: bool = False) -> list[int]:
    """Return the indices of the times at which segments end, the first 0; there are about 20 segments.

    Parameters
    ----------
    times : increasing array
    even : whether the times within a segment shall be evenly spaced

    Examples
    --------
    >>> bounds(np.arange(5.0)), bounds(np.arange(41.0))[:4]
    ([0, 1, 2, 3, 4], [0, 2, 4, 6])
    >>> bounds(np.append(np.arange(41.0), 40.5), even=True)[-3:]
    [36, 40, 41]
    """
    last = len(times) - 1
    length = 2 * int(np.ceil(last / (2 * SEGMENTS))) if last > SEGMENTS else 1
    cuts = [*range(0, last, length), last]
    if even:
        spacing = np.diff(times)
        cuts += [int(i) + 1 for i in np.flatnonzero(abs(np.diff(spacing)) > 1e-9 * spacing[1:])]
    return sorted(set(cuts))
