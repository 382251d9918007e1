"""Charges of any affine symmetry that is given by its generators, matrices and constants."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import expm_multiply
from torch import Tensor

from modeq.displays import listed
from modeq.errors import InvalidCharge, NoClosedLaw
from modeq.symmetry.charges import Charge
from modeq.symmetry.matrix_basis import Sparse, entries_of, sign_of
from modeq.symmetry.members import Member

ONE = 0  # the key of the constant 1 beside parameters, by whose identity tensors are known; a velocity has none


@dataclass(frozen=True, init=False, repr=False)
class AffineSymmetry(Charge):
    r"""Any symmetry ξ(θ) = Aθ + c, θ being some parameters one after another; gradient flow conserves θᵀAθ + 2cᵀθ.

    For what no other family says: exponents that differ, parameters that are tied in a way that leaves a part of a
    group, what `modeq.testing.affine_symmetries` finds and nothing names. One value holds one generator or several, of
    one kind:

    ==================  ======================  ==============================================================
    A                   charge                  exact laws
    ==================  ======================  ==============================================================
    symmetric           θᵀAθ                    all, as for a scale or rescale charge
    symmetric, and a c  θᵀAθ + 2cᵀθ             without weight decay: with it they do not close
    0                   cᵀθ                     all, as for a translation
    antisymmetric       none, but ⟨Aθ, v⟩       that of a `Rotation`, with momentum v
    any other           none                    none: there is no quadratic charge, and `verify` is all
    ==================  ======================  ==============================================================

    Parameters
    ----------
    name : str
        What records and messages call it.
    parameters : sequence of str
        Those that θ consists of, flattened, in this order.
    generators : array_like or tensor, shape [D, D] or [generators, D, D], optional
        A: nested lists, arrays, dense or sparse tensors, or a list of these; or what `to_dict` gives.
    constants : the same, shape [D] or [generators, D], optional
        c.

    Raises
    ------
    InvalidCharge
        If these are no such, or a generator is 0.

    References
    ----------
    Marcotte, Gribonval, Peyré 2023, arXiv 2307.00144, for the conservation laws of linear actions.

    Examples
    --------
    Behind the square of ReLU, w may be multiplied by s and what reads it divided by s².

    >>> import torch
    >>> charge = AffineSymmetry("neuron", ["w", "a"], torch.tensor([1.0, 1.0, -2.0]).diag())
    >>> charge, charge.degree
    (AffineSymmetry('neuron', ['w', 'a'], 1 symmetric, of size 3), 2)
    >>> charge.value({"w": torch.tensor([1.0, 2.0]), "a": torch.tensor([[3.0]])}).tolist()
    [-13.0]
    """

    size: int
    elements: tuple[Sparse, ...]  # the entries of [A, c]

    kind = "affine"

    def __init__(self, name: str, parameters: Sequence[str], generators: Any = None, constants: Any = None) -> None:
        owner = f"charge {name!r}"
        super().__init__(name, tuple(Member(parameter, None) for parameter in _names(owner, parameters)))
        size, elements = _elements(owner, generators, constants)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "elements", elements)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """What each generator is: "symmetric", "shifted", "constant", "antisymmetric" or "mixed"."""
        return tuple(_kind(element, self.size) for element in self.elements)

    @cached_property
    def degree(self) -> int | None:  # type: ignore[override]
        """2, 1 or 0, as for all charges, or None for generators without a law."""
        return _DEGREES.get(frozenset(self.kinds))

    def require_law(self, weight_decay: float = 0.0) -> None:
        """Raise `NoClosedLaw` if there is nothing that obeys a law, or none under this `weight_decay`."""
        kinds = ", ".join(dict.fromkeys(self.kinds))
        if self.degree is None:
            raise NoClosedLaw(
                f"charge {self.name!r} has {kinds} generators, and no law for these together: what is mixed can be "
                "verified only; give symmetric matrices, constants and antisymmetric matrices as charges of their own"
            )
        if weight_decay and "shifted" in self.kinds:
            raise NoClosedLaw(
                f"charge {self.name!r} has {kinds} generators, a constant beside a matrix, and no closed law under "
                f"weight decay, which is {weight_decay!r}; train without, or leave the charge out"
            )

    def count(self, tensors: Mapping[str, Tensor]) -> int:
        """Return the number of generators; raises `InvalidCharge` if the parameters are not as large as they are."""
        sizes = {m.parameter: tensors[m.parameter].numel() for m in self.members}
        if sum(sizes.values()) != self.size:
            raise InvalidCharge(
                f"charge {self.name!r}: its parameters have {sum(sizes.values())} entries, {sizes}, and its generators "
                f"are of size {self.size}; give matrices for all of them"
            )
        return len(self.elements)

    def conserved(self, tensors: Mapping[str, Tensor]) -> int:
        """Return how many of the generators have a charge: all, or none."""
        return self.count(tensors) if self.degree else 0

    def form(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ⟨ξ(x), y⟩ per generator for x and y as one vector each, followed by 1 for a point, 0 for a velocity.

        With θ followed by 1 in both places it is the charge: Aθ + c is half the gradient of θᵀAθ + 2cᵀθ.
        """
        number, row, column, value = self._entries(y.device)
        if self.degree == 1:
            return _sums(number, value * y[row], len(self.elements))
        terms = value * x[column] * y[row]
        if self.degree == 2:
            terms = terms + torch.where(column == self.size, value * x[row] * y[-1], 0.0)
        return _sums(number, terms, len(self.elements))

    def pairing(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Tensor:
        """Return ⟨Ax + c, y⟩ per generator, shape [generators], summed in float64."""
        return self.form(self._extended(x), self._extended(y, 0.0))

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return θᵀAθ + 2cᵀθ, or cᵀθ without any A, per generator, shape [generators]."""
        theta = self._extended(parameters)
        return self.form(theta, theta)

    def norm(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return ‖x‖ over the entries that each generator moves, shape [generators]."""
        return self.lengths(self._extended(x))[1]

    def generator_norm(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ‖Aθ + c‖ per generator, shape [generators]."""
        return self.lengths(self._extended(parameters))[0]

    def normaliser(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ‖Aθ + c‖‖θ_A‖, θ_A being the entries that the generator moves, shape [generators]."""
        return self.lengths(self._extended(parameters)).prod(0)

    def lengths(self, x: Tensor) -> Tensor:
        """Return ‖ξ(x)‖, and ‖x‖ over the entries that move, shape [2, generators], for x as for `form`."""
        _, _, column, value = self._entries(x.device)
        number, row, place = (part.to(x.device) for part in self._moves)
        xi = _sums(place, value * x[column], len(row))
        return torch.stack([_sums(number, part.square(), len(self.elements)) for part in (xi, x[row])]).sqrt()

    def moved(self, parameters: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Return Σ_k c_k ξ_k(θ) by parameter, for one coefficient c_k for each generator."""
        theta = self._extended(parameters)
        number, row, column, value = self._entries(theta.device)
        return self._split(_sums(row, coefficients.to(theta)[number] * value * theta[column], self.size), parameters)

    def moved_slope(self, gradients: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Return (∂ξ)ᵀg for ξ = Σ_k c_k ξ_k."""
        g = self._extended(gradients)
        number, row, column, value = self._entries(g.device)
        slope = _sums(column, coefficients.to(g)[number] * value * g[row], self.size + 1)
        return self._split(slope[:-1], gradients)

    def acted(self, parameters: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Return the parameters moved for the time 1 along Σ_k c_k ξ_k, by the exponential of a matrix."""
        theta = self._extended(parameters)
        moved = expm_multiply(self._combined(coefficients), theta.detach().cpu().numpy())
        return self._split(torch.from_numpy(moved[:-1]).to(theta), parameters)

    def drawn(self, tensors: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return a random coefficient for each generator, with which the rows of [A, c] add up to ½ at most."""
        found = super().drawn(tensors, generator)
        return found / (2 * float(abs(self._combined(found)).sum(axis=1).max()))

    def owners(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return for each entry of each parameter a number, the same for all that generators move together, or 0."""
        number, row, _ = (part.numpy() for part in self._moves)
        moves = coo_array((np.ones(len(row)), (number, row)), shape=(len(self.elements), self.size))
        together = connected_components(moves.T @ moves, directed=False)[1]
        found = np.zeros(self.size)
        found[row] = together[row] + 1.0
        like = {name: p.detach().cpu().double() for name, p in parameters.items()}
        return {name: part.long() for name, part in self._split(torch.from_numpy(found), like).items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only; of [A, c] the entries (row, column, value) of each generator."""
        entries = [[list(entry) for entry in element] for element in self.elements]
        generators = {"size": self.size, "entries": entries}
        return {"kind": self.kind, "name": self.name, "parameters": self._names, "generators": generators}

    def __repr__(self) -> str:
        counts = {kind: self.kinds.count(kind) for kind in dict.fromkeys(self.kinds)}
        told = " and ".join(f"{n} {kind}" for kind, n in counts.items())
        names = listed(map(repr, self._names))
        return f"{type(self).__name__}({self.name!r}, [{names}], {told}, of size {self.size})"

    @property
    def _names(self) -> list[str]:
        return [m.parameter for m in self.members]

    @cached_property
    def _on_cpu(self) -> tuple[Tensor, ...]:
        return entries_of(self.elements, torch.device("cpu"))

    def _entries(self, device: torch.device) -> tuple[Tensor, ...]:
        """The number of the generator, row, column and value of all entries."""
        return tuple(part.to(device) for part in self._on_cpu)

    @cached_property
    def _moves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Which generator moves which entry, each pair once; for each entry of the matrices the number of its pair."""
        number, row, _, _ = self._on_cpu
        pairs, place = torch.unique(number * self.size + row, return_inverse=True)
        return pairs // self.size, pairs % self.size, place

    def _extended(self, tensors: Mapping[str, Tensor], last: float = 1.0) -> Tensor:
        flat = torch.cat([tensors[name].double().flatten() for name in self._names])
        return torch.cat([flat, flat.new_full((1,), last)])

    def _split(self, flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = flat.split([like[name].numel() for name in self._names])
        return {name: part.view(like[name].shape).to(like[name]) for name, part in zip(self._names, parts, strict=True)}

    def _combined(self, coefficients: Tensor) -> csr_array:
        """Σ c [A, c] with a row of zeros below: what (θ, 1) is multiplied by."""
        number, row, column, value = (part.numpy() for part in self._on_cpu)
        weights = coefficients.cpu().double().numpy()[number] * value
        return coo_array((weights, (row, column)), shape=(self.size + 1, self.size + 1)).tocsr()


class AffineReading:
    """What a tracker reads of an `AffineSymmetry`, as `MatrixReading` of a matrix charge.

    Parameters
    ----------
    charge : AffineSymmetry
    parameters : mapping of str to Tensor
        Those of the charge, by name.

    Attributes
    ----------
    count, sizes : int
        Numbers that a pairing has, and that say how large the terms are.

    Examples
    --------
    >>> w = torch.tensor([2.0])
    >>> reading = AffineReading(AffineSymmetry("shifted", ["w"], [[1.0]], [3.0]), {"w": w})
    >>> point, velocity = {id(w): w, ONE: torch.ones(())}, {id(w): torch.tensor([5.0])}
    >>> reading.pairing(point, point).tolist(), reading.pairing(point, velocity).tolist()
    ([16.0], [25.0])
    """

    def __init__(self, charge: AffineSymmetry, parameters: Mapping[str, Any]) -> None:
        self.count = charge.count(parameters)
        self.sizes = 2 * self.count
        self._charge = charge
        self._keys = [id(parameters[m.parameter]) for m in charge.members]

    def pairing(self, x: Mapping[int, Tensor], y: Mapping[int, Tensor], *, sizes: bool = False) -> Tensor:
        """Return ⟨ξ(x), y⟩, of points of which `ONE` is 1 the charge, shape [count], in float64.

        With `sizes` then ‖ξ(x)‖ of each generator, and ‖y‖ over the entries that it moves.
        """
        one, other = self._extended(x), self._extended(y)
        found = [self._charge.form(one, other)]
        if sizes:
            found += [self._charge.lengths(one)[0], self._charge.lengths(other)[1]]
        return torch.cat(found)

    def _extended(self, tensors: Mapping[int, Tensor]) -> Tensor:
        own = [tensors[key].detach() for key in self._keys]
        flat = torch.cat([(p.full_tensor() if hasattr(p, "full_tensor") else p).double().flatten() for p in own])
        return torch.cat([flat, tensors[ONE].to(flat).reshape(1) if ONE in tensors else flat.new_zeros(1)])


def _names(owner: str, parameters: Any) -> list[str]:
    names = list(parameters) if isinstance(parameters, Iterable) and not isinstance(parameters, str | Mapping) else []
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InvalidCharge(
            f"{owner} gets {parameters!r} for its parameters; give their names in the order of the generators' rows, "
            "each once, such as ['fc1.weight', 'fc2.weight']"
        )
    return names


def _elements(owner: str, generators: Any, constants: Any) -> tuple[int, tuple[Sparse, ...]]:
    """The size of the generators and the entries of each [A, c]."""
    if isinstance(generators, Mapping):
        size, elements = generators["size"], [[tuple(entry) for entry in one] for one in generators["entries"]]
        return size, tuple(map(tuple, elements))
    given = {"generators": (generators, 2), "constants": (constants, 1)}
    parts = [_stacked(owner, key, value, axes) for key, (value, axes) in given.items() if value is not None]
    counts, sizes = {len(part) for part in parts}, {size for part in parts for size in part.shape[1:]}
    if len(counts) != 1 or len(sizes) != 1:
        shapes = " and ".join(str(tuple(part.shape)) for part in parts) or "none"
        raise InvalidCharge(
            f"{owner}: the shapes of its generators and constants are {shapes}; give matrices [D, D] or constants [D], "
            "or as many of both, of one size"
        )
    (count,), (size,) = counts, sizes
    elements = [[] for _ in range(count)]
    for part in parts:
        for (number, *place), value in zip(part.indices().T.tolist(), part.values().tolist(), strict=True):
            if not isfinite(value):
                raise InvalidCharge(f"{owner}: its generator {number} has the entry {value}; give finite numbers")
            if value:
                elements[number].append((*(*place, size)[:2], value))  # of a constant the column is D
    zero = next((number for number, element in enumerate(elements) if not element), None)
    if not count or zero is not None:
        raise InvalidCharge(f"{owner}: its generator {zero or 0} is 0; give generators that move something")
    return size, tuple(tuple(sorted(element)) for element in elements)


def _stacked(owner: str, key: str, given: Any, axes: int) -> Tensor:
    """Matrices or constants, one or several, as a sparse tensor of several."""
    try:
        if isinstance(given, list | tuple) and isinstance(given[0], Tensor):
            given = torch.stack([one.to_sparse() for one in given])
        found = given if isinstance(given, Tensor) else torch.tensor(np.asarray(given, dtype=np.float64))
        found = found if found.dim() != axes else found.unsqueeze(0)
        if found.dim() == axes + 1 and not found.is_complex():
            return found.detach().cpu().double().to_sparse().coalesce()
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InvalidCharge(f"{owner}: {key} is {given!r}; give nested lists or tensors of numbers") from error
    raise InvalidCharge(
        f"{owner}: {key} has the shape {tuple(found.shape)} and the type {found.dtype}; give {_SHAPES[axes]}, in real "
        "numbers"
    )


_SHAPES = {2: "a matrix [D, D], or several, [generators, D, D]", 1: "a vector [D], or several, [generators, D]"}
_DEGREES = {
    frozenset({"constant"}): 1,
    frozenset({"symmetric"}): 2,
    frozenset({"shifted"}): 2,
    frozenset({"symmetric", "shifted"}): 2,
    frozenset({"antisymmetric"}): 0,
}


def _kind(element: Sparse, size: int) -> str:
    matrix = tuple(entry for entry in element if entry[1] < size)
    if not matrix:
        return "constant"
    shifted = len(matrix) < len(element)
    return {(1, False): "symmetric", (1, True): "shifted", (-1, False): "antisymmetric"}.get(
        (sign_of(matrix), shifted), "mixed"
    )


def _sums(index: Tensor, terms: Tensor, count: int) -> Tensor:
    """Sums of the terms with the same index."""
    return terms.new_zeros(count).index_add(0, index, terms)
