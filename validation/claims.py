"""What every script of a claim has: settings, figures of merit fixed before the run, cells measured, and a verdict.

A script is a module with

- its docstring, the first line of which is the claim in words,
- ``MERITS``, the figures of merit by name,
- ``cases(setting)``, the parts it consists of, by name, as picklable values,
- ``measure(case, setting)``, which runs one part and returns numbers for a json file,
- ``cells(numbers)``, what the numbers of all parts come to, cell by cell,
- ``draw(numbers, setting)``, its figures with their captions, by name; figures read numbers only.

Parts run in processes of their own, and are kept as they come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from matplotlib.figure import Figure

Numbers = Mapping[str, Mapping[str, Any]]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Setting:
    """How much is run, on what, with which random numbers, and where an unfinished training is kept."""

    quick: bool = False
    device: str = "cpu"
    data: Path | None = None
    seed: int = 0
    folder: Path | None = None

    def choose(self, quick: Value, default: Value) -> Value:
        """Return the first in a quick run, the second otherwise."""
        return quick if self.quick else default

    def as_json(self) -> dict[str, Any]:
        """Return plain values that tell one setting from another."""
        return {
            "quick": self.quick,
            "device": self.device,
            "data": None if self.data is None else str(self.data),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Merit:
    """A figure of merit: what is measured in each cell, and the bound it must keep.

    Attributes
    ----------
    claim : str
        What is claimed, with its source.
    measure : str
        What the number of a cell is.
    bound : float
        The largest number that keeps the claim, or the smallest if `above`.
    above : bool
        Whether numbers must be at least the bound.
    """

    claim: str
    measure: str
    bound: float
    above: bool = False

    def kept_by(self, value: float) -> bool:
        """Whether a number keeps the bound; one that is not finite does not."""
        return bool(value >= self.bound if self.above else value <= self.bound) and abs(value) != float("inf")

    def __str__(self) -> str:
        return f"{self.measure} {'≥' if self.above else '≤'} {self.bound:g}"


class Cell(NamedTuple):
    """One number, measured for one figure of merit."""

    merit: str
    name: str
    value: float


@dataclass(frozen=True)
class Verdict:
    """What the cells of one figure of merit say together."""

    merit: Merit
    kept: int
    cells: int
    worst: Cell

    def __str__(self) -> str:
        if self.kept == self.cells:
            return "holds" if self.cells == 1 else f"holds in all {self.cells} cells"
        return "does not hold" if not self.kept else f"holds in {self.kept} of {self.cells} cells"


class Script(Protocol):
    """A module that checks one claim; see the top of this file."""

    __doc__: str
    __name__: str
    MERITS: Mapping[str, Merit]

    def cases(self, setting: Setting) -> Mapping[str, Any]:
        """Return the parts by name."""

    def measure(self, case: Any, setting: Setting) -> dict[str, Any]:
        """Run one part."""

    def cells(self, numbers: Numbers) -> Sequence[Cell]:
        """Return what was measured for each figure of merit."""

    def draw(self, numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
        """Return figures and captions by file name, without the extension."""


def verdicts(merits: Mapping[str, Merit], cells: Sequence[Cell]) -> dict[str, Verdict]:
    """Return a verdict for each figure of merit.

    Raises
    ------
    ValueError
        If one has no cell, or a cell belongs to none: then the script did not measure what it announced.
    """
    if unknown := {cell.merit for cell in cells} ^ set(merits):
        raise ValueError(f"figures of merit without cells, or cells without one: {', '.join(sorted(unknown))}")
    found = {}
    for name, merit in merits.items():
        own = [cell for cell in cells if cell.merit == name]
        kept = [merit.kept_by(cell.value) for cell in own]
        # Numbers that are not finite are the worst; nan would otherwise hide.
        found[name] = Verdict(merit, sum(kept), len(own), max(own, key=lambda cell, m=merit: _badness(m, cell.value)))
    return found


def _badness(merit: Merit, value: float) -> float:
    if value != value:
        return float("inf")
    return -value if merit.above else value
