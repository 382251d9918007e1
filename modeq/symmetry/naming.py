"""What known charges explain of all affine symmetries of a network, and what is left, as charges of its own."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import qr
from scipy.optimize import linprog
from torch import Tensor, nn
from torch.func import vmap

from modeq.displays import Table, Tabular
from modeq.errors import InvalidCharge
from modeq.symmetry.affine_charges import AffineSymmetry
from modeq.symmetry.charges import Charge

# Of a unit vector so much may lie outside a space that it is in; of what is outside of all, at least so much does.
_WITHIN = 1e-6
_WHOLE = 12  # numbers that are fractions with denominators up to this are made so


@dataclass(frozen=True)
class Named:
    """A charge, and how many dimensions of the null space it explains beyond those listed before it.

    Attributes
    ----------
    charge : Charge
    dimension : int
        A translation times every affine function is a field too: with D parameters that makes D + 1 for each.
    false : int
        How many of its generators do not lie in the null space.
    """

    charge: Charge
    dimension: int
    false: int = 0


@dataclass(frozen=True, repr=False)
class Explanation(Tabular):
    """The null space of `modeq.testing.affine_symmetries` or `diagonal_symmetries` in terms of charges.

    Attributes
    ----------
    dimension : int
        Of the null space.
    named : tuple of Named
        The charges that were given.
    rest : tuple of Named
        What they leave, as `AffineSymmetry` values by kind and parameters, which `modeq.verify` can check. Those that
        are "symmetric" or "constant" have charges that were missed.

    Examples
    --------
    >>> from modeq.symmetry.charges import Scale
    >>> print(Explanation(4, (Named(Scale("conv", {"weight": 0}), 3, false=1),), ()).table())
    kind         charge  dimension
    scale        conv    3          1 of its generators not in the null space
    unexplained          1
    """

    dimension: int
    named: tuple[Named, ...]
    rest: tuple[Named, ...]

    @property
    def explained(self) -> int:
        """The dimension of what the charges explain together."""
        return sum(entry.dimension for entry in self.named)

    @property
    def unexplained(self) -> tuple[AffineSymmetry, ...]:
        """The charges of the rest."""
        return tuple(entry.charge for entry in self.rest)  # type: ignore[misc]

    def table(self) -> str:
        """Return a line for each charge, and for each family of generators that no charge explains."""
        return super().table()

    def _tables(self) -> list[Table]:
        rows: list[tuple[str, ...]] = []
        for entry in self.named:
            false = f"{entry.false} of its generators not in the null space" if entry.false else ""
            rows.append((entry.charge.kind.replace("_", " "), entry.charge.name, str(entry.dimension), false))
        rows.append(("unexplained", "", str(self.dimension - self.explained), ""))
        for entry in self.rest:
            touched = ", ".join(m.parameter for m in entry.charge.members)
            rows.append(("", entry.charge.name, str(entry.dimension), touched))
        return [Table(("kind", "charge", "dimension", ""), rows)]

    def __repr__(self) -> str:
        return f"Explanation({self.explained} of {self.dimension} dimensions)"


def explain(fields: Tensor, charges: Iterable[Charge], module: nn.Module) -> Explanation:
    """Return what charges explain of the fields in a null space, and the rest in a basis with few entries.

    Parameters
    ----------
    fields : tensor, orthonormal rows
        As those of `modeq.symmetry.oracle.NullSpace`.
    charges : iterable of Charge
    module : nn.Module

    Raises
    ------
    InvalidCharge
        If a charge does not fit the module, or moves what needs no gradient, or the fields are of another module.

    Examples
    --------
    The loss sees u·v only: the field (u, −v), in two entries of the matrix [M, c].

    >>> class Product(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.u, self.v = (nn.Parameter(torch.ones(1)) for _ in range(2))
    >>> field = torch.tensor([[1.0, 0, 0, 0, -1, 0]], dtype=torch.float64) / 2**0.5
    >>> found = explain(field, [], Product())
    >>> found.unexplained, found.dimension
    ((AffineSymmetry('symmetric u+v', ['u', 'v'], 1 symmetric, of size 2),), 1)
    """
    space = _Space(fields, module)
    known = fields[:0]
    named = []
    for charge in charges:
        rows = space.rows_of(charge)
        outside = (rows - rows @ fields.T @ fields).norm(dim=1) > _WITHIN
        new = _beyond(rows[~outside], known)
        known = torch.cat([known, new])
        named.append(Named(charge, len(new), int(outside.sum())))
    return Explanation(len(fields), tuple(named), tuple(space.rest(known)))


class _Space:
    """Fields over the parameters of a module that require a gradient, affine ones or only diagonal ones."""

    def __init__(self, fields: Tensor, module: nn.Module) -> None:
        self.fields, self.module = fields, module
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        ends = np.cumsum([p.numel() for p in self.parameters.values()]).tolist()
        self.places = {
            id(p): slice(end - p.numel(), end) for p, end in zip(self.parameters.values(), ends, strict=True)
        }
        self.size = ends[-1] if ends else 0
        self.affine = fields.shape[1] == self.size * (self.size + 1)
        if not self.affine and fields.shape[1] != 2 * self.size:
            raise InvalidCharge(
                f"fields have {fields.shape[1]} unknowns, and the module {self.size} parameters with a gradient: give "
                "the module whose null space it is"
            )

    # --- charges

    def rows_of(self, charge: Charge) -> Tensor:
        """The fields that a charge stands for, each of length 1."""
        generators = self._generators(charge)
        still = generators[:, :, :-1].flatten(1).norm(dim=1) == 0
        shifts, moving = generators[still, :, -1], generators[~still]
        if self.affine:
            rows = [torch.einsum("kd,ef->kedf", shifts, torch.eye(self.size + 1).double()).flatten(0, 1), moving]
            found = torch.cat(rows).flatten(1)
        else:
            matrices = moving[:, :, :-1]
            diagonals = matrices.diagonal(dim1=1, dim2=2)
            combined = _vanishing((matrices - torch.diag_embed(diagonals)).flatten(1))
            alone = torch.eye(self.size).double()[(_beyond(shifts, shifts[:0]).norm(dim=0) - 1).abs() < _WITHIN]
            found = torch.cat(
                [
                    torch.cat([combined @ diagonals, combined @ moving[:, :, -1]], 1),
                    torch.cat([torch.zeros_like(shifts), shifts], 1),
                    torch.cat([alone, torch.zeros_like(alone)], 1),
                ]
            )
        return found / found.norm(dim=1, keepdim=True)

    def _generators(self, charge: Charge) -> Tensor:
        """Each generator of a charge as a matrix [M, c], shape [generators, D, D + 1]."""
        own = charge.parameters_of(self.module)
        frozen = [name for name, p in own.items() if id(p) not in self.places]
        if frozen:
            raise InvalidCharge(f"charge {charge.name!r} moves {frozen[0]!r}, which requires no gradient; leave it out")
        places = torch.cat([torch.arange(self.size)[self.places[id(p)]] for p in own.values()])
        sizes = [p.numel() for p in own.values()]

        def field(theta: Tensor, c: Tensor) -> Tensor:
            point = {n: part.view(p.shape) for (n, p), part in zip(own.items(), theta.split(sizes), strict=True)}
            moved = charge.moved(point, c)
            return torch.cat([moved[name].flatten() for name in own])

        units, points = torch.eye(charge.count(own)).double(), torch.eye(len(places)).double()
        constants = vmap(lambda c: field(torch.zeros(len(places)).double(), c))(units)
        columns = vmap(lambda theta: vmap(lambda c: field(theta, c))(units))(points) - constants
        found = torch.zeros(len(units), self.size, self.size + 1).double()
        found[:, places[:, None], places] = columns.permute(1, 2, 0)
        found[:, places, -1] = constants
        return found

    # --- the rest

    def rest(self, known: Tensor) -> Iterator[Named]:
        """Generators that are not known, the simplest kinds first."""
        for kind, conditions in self._kinds():
            if len(known) == len(self.fields):
                return
            together: dict[tuple[str, ...], list[Tensor]] = defaultdict(list)
            dimensions: dict[tuple[str, ...], int] = defaultdict(int)
            for row in _sparse(_vanishing(conditions) @ self.fields, known):
                matrix = self._matrix(row)
                added = row[None]
                if kind == "constant" and self.affine:
                    added = torch.einsum("d,ef->edf", matrix[:, -1], torch.eye(self.size + 1).double()).flatten(1)
                new = _beyond(added / added.norm(dim=1, keepdim=True), known)
                known = torch.cat([known, new])
                touched = self._touched(matrix)
                together[touched].append(matrix)
                dimensions[touched] += len(new)
            for touched, matrices in together.items():
                yield Named(self._charge(kind, touched, torch.stack(matrices)), dimensions[touched])

    def _kinds(self) -> Iterator[tuple[str, Tensor]]:
        """Of each kind what must vanish, for each of the fields."""
        if not self.affine:
            factors, constants = self.fields.split(self.size, 1)
            yield from {"constant": factors, "symmetric": constants, "shifted": factors[:, :0]}.items()
            return
        fields = self.fields.view(-1, self.size, self.size + 1)
        matrices, constants = fields[:, :, :-1], fields[:, :, -1]
        skew, even = (matrices - matrices.mT).flatten(1), (matrices + matrices.mT).flatten(1)
        yield "constant", matrices.flatten(1)
        yield "symmetric", torch.cat([skew, constants], 1)
        yield "shifted", skew
        yield "antisymmetric", torch.cat([even, constants], 1)
        yield "mixed", skew[:, :0]

    def _matrix(self, row: Tensor) -> Tensor:
        """A field as [M, c]."""
        if self.affine:
            return row.view(self.size, self.size + 1)
        factors, constants = row.split(self.size)
        return torch.cat([factors.diag(), constants[:, None]], 1)

    def _touched(self, matrix: Tensor) -> tuple[str, ...]:
        """The parameters that a field moves, or reads."""
        touched = matrix.any(1) | matrix[:, :-1].any(0)
        return tuple(name for name, p in self.parameters.items() if touched[self.places[id(p)]].any())

    def _charge(self, kind: str, touched: tuple[str, ...], matrices: Tensor) -> AffineSymmetry:
        places = torch.cat([torch.arange(self.size)[self.places[id(self.parameters[name])]] for name in touched])
        sign = {"symmetric": 1, "shifted": 1, "antisymmetric": -1}.get(kind)
        if sign is not None:  # up to rounding they are
            squares = matrices[:, :, :-1]
            matrices = torch.cat([(squares + sign * squares.mT) / 2, matrices[:, :, -1:]], 2)
        parts: dict[str, Any] = {
            "generators": matrices[:, places[:, None], places],
            "constants": matrices[:, places, -1],
        }
        return AffineSymmetry(f"{kind} {'+'.join(touched)}", touched, **parts)


def _beyond(rows: Tensor, known: Tensor) -> Tensor:
    """Orthonormal rows for what unit vectors add to the span of others, which are orthonormal."""
    for _ in range(2):  # the second time for what rounding has left of the first
        rows = rows - rows @ known.T @ known
    _, singular, vectors = torch.linalg.svd(rows, full_matrices=False)
    return vectors[singular > _WITHIN]


def _vanishing(values: Tensor) -> Tensor:
    """An orthonormal basis of the combinations of some rows that vanish."""
    squares, vectors = torch.linalg.eigh(values @ values.T)
    return vectors.T[squares < _WITHIN**2]


def _sparse(rows: Tensor, known: Tensor) -> list[Tensor]:
    """What the span of rows has beyond what is known, as vectors with few entries."""
    if not len(rows):
        return []
    pivots = torch.from_numpy(qr(rows.numpy(), mode="r", pivoting=True)[1][: len(rows)].astype(np.int64))
    basis = torch.linalg.solve(rows[:, pivots], rows)  # each has an entry where the others have 0
    basis = torch.where(basis.abs() < _WITHIN / 10, 0.0, basis)
    found = []
    for k in torch.argsort((basis != 0).sum(1), stable=True).tolist():
        others = torch.cat([basis[:k], basis[k + 1 :]])
        while _is_new(basis[k], known):
            alone = _fewest(basis[k], others)
            row = alone if _is_new(alone, known) else basis[k]
            row = _fewest(row, _vanishing(rows - rows @ known.T @ known) @ rows)
            whole = _plain(row)
            row = whole if not _is_new(whole, rows) else row
            known = torch.cat([known, _beyond(row[None] / row.norm(), known)])
            found.append(row)
    return found


def _is_new(row: Tensor, known: Tensor) -> bool:
    return len(_beyond(row[None] / row.norm(), known)) > 0


def _fewest(row: Tensor, others: Tensor) -> Tensor:
    """A vector, with that combination of others added for which the sum of absolute values is least.

    It is the dual of max ⟨row, y⟩ over |y| ≤ 1 orthogonal to the others, so that most entries are exactly 0.
    """
    if not len(others):
        return row
    solved = linprog(-row.numpy(), A_eq=others.numpy(), b_eq=np.zeros(len(others)), bounds=(-1, 1), method="highs-ds")
    return row + torch.from_numpy(solved.eqlin.marginals) @ others if solved.status == 0 else row


def _plain(row: Tensor) -> Tensor:
    """A multiple of a vector in whole numbers, if there is one; without what is rounding in any case."""
    row = torch.where(row.abs() < _WITHIN * row.abs().max(), 0.0, row / row.abs().max())
    for scale in range(1, _WHOLE + 1):
        whole = (scale * row).round()
        if bool(((scale * row - whole).abs() < _WITHIN).all()):
            return whole
    return row
