"""What was found on a network: charges, and why each is one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from modeq.displays import Table, Tabular
from modeq.errors import InvalidCharge
from modeq.symmetry.charges import Charge
from modeq.symmetry.graph import Graph, drawing
from modeq.symmetry.members import Axis


@dataclass(frozen=True, eq=False)
class Epsilon:
    """What a normalisation absorbs of the generators of a charge, up to its ε.

    Attributes
    ----------
    call : int or None
        Which of the network's normalisations it is, in the order in which they run; None if it is written out in
        elementary operations.
    coefficients : integer array, shape [generators, *shape of the variance]
        Each generator multiplies what is normalised by 1 + coefficient·t at first order.
    """

    call: int | None
    coefficients: NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Found:
    """One charge, and why it is one.

    Attributes
    ----------
    charge : Charge
    generators : int
    reason : str
    exact : bool
        Whether the symmetry holds to rounding; if not, a normalisation's ε breaks it.
    epsilons : tuple of Epsilon
        Those normalisations; from them `modeq.verify` predicts how large ⟨g, ξ⟩ is.
    """

    charge: Charge
    generators: int
    reason: str
    exact: bool
    epsilons: tuple[Epsilon, ...] = ()

    def __repr__(self) -> str:
        exact = "exact" if self.exact else "up to ε"
        return f"Found({self.charge.kind} {self.charge.name!r}, {self.generators} generators, {exact})"


class Charges(Tabular, Sequence[Charge]):
    """The charges of a network; see `find_charges`.

    Attributes
    ----------
    found : tuple of Found
    others : tuple of str
        Diagonal symmetries of other kinds, with exponents that differ.
    unknown : tuple of str
        Operations for which there is no rule: of what they see nothing is claimed.
    branches : tuple of str
        Numbers that the network read off tensors on its way, such as "bool: True": the charges hold wherever it
        reads the same.
    graph : Graph
        The operations of the network, for `plot`.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> from modeq.symmetry.finding import find_charges
    >>> charges = find_charges(net, torch.zeros(1, 3), loss="cross_entropy")
    >>> len(charges), charges.generators
    (3, 9)
    """

    def __init__(
        self,
        found: Sequence[Found],
        others: Sequence[str] = (),
        unknown: Sequence[str] = (),
        *,
        branches: Sequence[str] = (),
        graph: Graph | None = None,
    ) -> None:
        self.found, self.others, self.unknown = tuple(found), tuple(others), tuple(unknown)
        self.branches = tuple(branches)
        self.graph = Graph((), ()) if graph is None else graph

    @property
    def generators(self) -> int:
        """How many one-parameter symmetries there are in all."""
        return sum(entry.generators for entry in self.found)

    @overload
    def __getitem__(self, index: int) -> Charge: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Charge, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        charges = tuple(entry.charge for entry in self.found)
        return charges[index]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Charge]:
        return iter(entry.charge for entry in self.found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only.

        Examples
        --------
        >>> import torch
        >>> from modeq.symmetry.finding import find_charges
        >>> find_charges(torch.nn.Linear(1, 2), torch.zeros(1, 1), loss="mse").to_dict()
        {'charges': [], 'others': [], 'unknown': [], 'branches': [], 'graph': {'vertices': [...], 'edges': [...]}}
        """
        charges = [
            {**e.charge.to_dict(), "generators": e.generators, "reason": e.reason, "exact": e.exact} for e in self.found
        ]
        others, unknown, branches = map(list, (self.others, self.unknown, self.branches))
        graph = self.graph.to_dict()
        return {"charges": charges, "others": others, "unknown": unknown, "branches": branches, "graph": graph}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Charges":
        """Rebuild from the `data` of `to_dict`; what was known of norms' ε is not kept.

        Raises
        ------
        InvalidCharge
            For a kind of charge that there is not, or something that `to_dict` does not give.

        Examples
        --------
        >>> import torch
        >>> from modeq.symmetry.finding import find_charges
        >>> charges = find_charges(torch.nn.Linear(1, 2), torch.zeros(1, 1), loss="cross_entropy")
        >>> Charges.from_dict(charges.to_dict()).table() == charges.table()
        True
        """
        try:
            found = []
            for fields in data["charges"]:
                entry = dict(fields)
                generators, reason, exact = (entry.pop(key) for key in ("generators", "reason", "exact"))
                found.append(Found(Charge.from_dict(entry), generators, reason, exact))
            graph = Graph.from_dict(data["graph"])
            return Charges(found, data["others"], data["unknown"], branches=data["branches"], graph=graph)
        except (KeyError, TypeError) as error:
            raise InvalidCharge(f"data is not what Charges.to_dict gives ({type(error).__name__}: {error})") from error

    def table(self) -> str:
        """Return a line for each charge: its kind, what it moves, how many generators, why."""
        return super().table()

    def _tables(self) -> list[Table]:
        rows = [
            (
                e.charge.kind.replace("_", " "),
                e.charge.name,
                str(e.generators),
                "exact" if e.exact else "up to ε",
                e.reason,
            )
            for e in self.found
        ]
        notes = [f"another diagonal symmetry: {text}" for text in self.others]
        if self.branches:
            read = ", ".join(self.branches[:3]) + (", …" if len(self.branches) > 3 else "")
            notes.append(f"one branch was seen: the network read {read} off its data, and these hold where it does so")
        notes += [f"no rule for {text}: nothing is claimed of what it sees" for text in self.unknown]
        head = ("kind", "charge", "generators", "", "why")
        return [Table(head, rows, notes=notes) if rows else Table((), [("no symmetry found",)], notes=notes)]

    def plot(self, ax: Any = None, **kwargs: Any) -> list[Any]:
        """Draw the charges on the network's graph; return the artists.

        A row for each operation, from the input down to the loss. A charge is a marker at each operation whose
        parameters it moves, joined by a line, which is dashed where a normalisation's ε breaks it. Incoming markers
        are filled, outgoing ones hollow. Three or more blocks in a row that are alike are drawn once.

        Parameters
        ----------
        ax : matplotlib axes, optional
            By default new ones, as large as the network asks for.
        **kwargs : for the lines of the network, as those of ``PathPatch``

        Examples
        --------
        >>> import matplotlib, torch
        >>> matplotlib.use("agg")
        >>> from modeq.symmetry.finding import find_charges
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> artists = find_charges(net, torch.zeros(1, 3), loss="cross_entropy").plot()
        >>> [artist.get_text() for artist in artists if hasattr(artist, "get_text")]
        ['input', '0 (Linear)', '1 (ReLU)', '2 (Linear)', 'cross_entropy', '0-2 × 4', '2.weight × 4, bias × 1']
        """
        from modeq import plots

        return plots.plot_network(**drawing(self.graph, self.found), ax=ax, **kwargs)

    def __repr__(self) -> str:
        return f"Charges({len(self)} charges, {self.generators} generators)"


def axis_of(axis: int | None, rows: list[list[int]], shape: tuple[int, ...]) -> Axis:
    """Return the shortest way to write which indices of an axis each generator moves.

    Examples
    --------
    >>> axis_of(0, [[0], [1], [2]], (3, 4)), axis_of(0, [[0, 1], [2, 3]], (4,)), axis_of(0, [[1]], (3,))
    (0, (0, 2), (0, ((1,),)))
    """
    length = int(np.prod(shape)) if axis is None else shape[axis]
    if len(rows) == 1 and len(rows[0]) == length:
        return None
    if axis is not None and rows == [[i] for i in range(length)]:
        return axis
    width = len(rows[0])
    pieces = [list(range(k * width, (k + 1) * width)) for k in range(len(rows))]
    if axis is not None and rows == pieces and width * len(rows) == length:
        return (axis, len(rows))
    return (axis, tuple(map(tuple, rows)))
