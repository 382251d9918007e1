"""Charges of symmetries with a matrix: linear maps that are seen only in their product."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from modeq.errors import InvalidCharge
from modeq.symmetry.charges import Charge
from modeq.symmetry.factors import Factor, Mixed, factors_of
from modeq.symmetry.matrix_basis import MatrixBasis, Sparse, basis_of
from modeq.symmetry.members import Member


@dataclass(frozen=True, init=False, repr=False)
class Matrices(Charge):
    """Generators ξ_X(θ) = (UX, −VXᵀ), for the matrices X of a basis and each of some heads; see the subclasses."""

    elements: tuple[Sparse, ...] | None

    parts: ClassVar[str]  # which matrices have generators here: "s", symmetric, and "a", antisymmetric

    def __init__(
        self, name: str, left: Mapping[str, Mixed], right: Mapping[str, Mixed], basis: Iterable[Any] | None = None
    ) -> None:
        owner = f"charge {name!r}"
        members = (*factors_of(f"{owner}, left,", left, 1), *factors_of(f"{owner}, right,", right, -1))
        if not members:
            raise InvalidCharge(f"{owner} names no parameter; give at least one, such as {{'q.weight': 0}}")
        super().__init__(name, members)
        object.__setattr__(self, "elements", basis_of(owner, basis))

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The members."""
        return tuple(member for member in self.members if isinstance(member, Factor))

    def layout(self, tensors: Mapping[str, Tensor]) -> tuple[int, MatrixBasis]:
        """Return the number of heads and the basis of their matrices; raises `InvalidCharge` if nothing fits."""
        owner = f"charge {self.name!r}"
        found = {f: f.lengths(tensors[f.parameter].shape, owner) for f in self.factors}
        heads, size = next(iter(found.values()))[0], min(length for _, length in found.values())
        if any(count != heads or length % size for count, length in found.values()):
            told = {factor.parameter: lengths for factor, lengths in found.items()}
            raise InvalidCharge(
                f"{owner}: its parameters have heads of different numbers or lengths, {told}; choose axes that agree"
            )
        largest = max((max(i, j) for element in self.elements or () for i, j, _ in element), default=0)
        if largest >= size:
            raise InvalidCharge(
                f"{owner}: its basis has an index {largest}, and its matrices are {size} × {size}; give indices up to "
                f"{size - 1}"
            )
        return heads, MatrixBasis(size, self.elements)

    def count(self, tensors: Mapping[str, Tensor]) -> int:
        """Return the number of generators for tensors of these shapes; raises `InvalidCharge`."""
        heads, basis = self.layout(tensors)
        return heads * sum(basis.number(part) for part in self.parts)

    def matrix(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Tensor:
        """Return x_Uᵀy_U − y_Vᵀx_V, shape [heads, r, r], whose entry (i, j) is ⟨ξ(x), y⟩ for X = E_ij, in float64."""
        _, basis = self.layout(x)
        total: Any = sum(factor.sign * gram for factor, gram in self._grams(basis.size, x, y))
        return total

    def sides(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return x_Uᵀx_U and x_Vᵀx_V, shape [heads, r, r] each, in float64."""
        _, basis = self.layout(x)
        found: dict[int, Any] = {1: 0.0, -1: 0.0}
        for factor, gram in self._grams(basis.size, x, x):
            found[factor.sign] = found[factor.sign] + gram
        whole = found[1] + found[-1]
        return found[1] + 0 * whole, found[-1] + 0 * whole

    def _grams(self, size: int, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Iterator[tuple[Factor, Tensor]]:
        """x_Uᵀy_U of each left factor, y_Vᵀx_V of each right one."""
        for factor in self.factors:
            one, other = (factor.stack(tensors[factor.parameter], size).double() for tensors in (x, y))
            yield factor, one @ other.mT if factor.sign > 0 else other @ one.mT

    def pairing(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Tensor:
        """Return ⟨ξ(x), y⟩ per generator, shape [generators], summed in float64."""
        _, basis = self.layout(x)
        matrix = self.matrix(x, y)
        return torch.cat([basis.coordinates(matrix, part).flatten() for part in self.parts])

    def norm(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return ‖x‖ over the entries of each generator's head, shape [generators]."""
        return self._each(x, self.parts).sqrt()

    def _each(self, x: Mapping[str, Tensor], parts: str) -> Tensor:
        """‖x‖² of each head, for each of its generators."""
        _, basis = self.layout(x)
        squares = [f.stack(x[f.parameter], basis.size).double().square().sum((1, 2)) for f in self.factors]
        total = torch.stack(squares).sum(0)
        return torch.cat([total.repeat_interleave(basis.number(part)) for part in parts])

    def generator_norm(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ‖ξ_X(θ)‖ = (‖UX‖² + ‖VXᵀ‖²)^½ per generator, shape [generators]."""
        _, basis = self.layout(parameters)
        squares = basis.squared_lengths(*self.sides(parameters))
        own = {"s": squares[..., : basis.number("s")], "a": squares[..., basis.number("s") :]}
        return torch.cat([own[part].flatten() for part in self.parts]).clamp_min(0).sqrt()

    def moved(self, parameters: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Return Σ c ξ_X(θ) by parameter, for a coefficient c for each generator."""
        return self._mixed(parameters, coefficients, lambda x, sign: x.mT if sign > 0 else -x)

    def moved_slope(self, gradients: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Return (∂ξ)ᵀg for ξ = Σ c ξ_X."""
        return self._mixed(gradients, coefficients, lambda x, sign: x if sign > 0 else -x.mT)

    def _mixed(self, tensors: Mapping[str, Tensor], coefficients: Tensor, mixing: Any) -> dict[str, Tensor]:
        _, basis = self.layout(tensors)
        x = self.combined(tensors, coefficients)
        found: dict[str, Tensor] = {}
        for factor in self.factors:
            tensor = tensors[factor.parameter]
            stack = factor.stack(tensor, basis.size)
            part = factor.placed(mixing(x, factor.sign).to(stack) @ stack, tensor)
            found[factor.parameter] = found[factor.parameter] + part if factor.parameter in found else part
        return found

    def acted(self, parameters: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Return the parameters moved for the time 1 along Σ c ξ_X: U·e^X and V·e^(−Xᵀ)."""
        _, basis = self.layout(parameters)
        x = self.combined(parameters, coefficients)
        found: dict[str, Tensor] = {}
        for factor in self.factors:
            now = found.get(factor.parameter, parameters[factor.parameter])
            stack = factor.stack(now, basis.size)
            mixing = torch.matrix_exp(x.mT if factor.sign > 0 else -x).to(stack)
            found[factor.parameter] = now + factor.placed(mixing @ stack - stack, now)
        return found

    def combined(self, tensors: Mapping[str, Tensor], coefficients: Tensor) -> Tensor:
        """Return Σ c X of each head, shape [heads, r, r]."""
        heads, basis = self.layout(tensors)
        numbers = {part: heads * basis.number(part) for part in self.parts}
        given = dict(zip(self.parts, coefficients.split(list(numbers.values())), strict=True))
        parts = [
            given[part].reshape(heads, -1) if part in given else coefficients.new_zeros(heads, basis.number(part))
            for part in "sa"
        ]
        return basis.combined(torch.cat(parts, -1))

    def drawn(self, tensors: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return a random coefficient for each generator, with which ‖Σ c X‖ is at most ½ in each head."""
        found = super().drawn(tensors, generator)
        largest = torch.linalg.matrix_norm(self.combined(tensors, found), 2).max()
        return found / (2 * largest).clamp_min(1)

    def owners(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return for each entry of each parameter the number of its head, from 1; 0 if it has none."""
        found: dict[str, Tensor] = {}
        for factor in self.factors:
            number = factor.heads(parameters[factor.parameter])
            known = found.get(factor.parameter, number)
            found[factor.parameter] = torch.maximum(known, number)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only; the basis, if there is one, as lists of entries (row, column, value)."""
        basis = {} if self.elements is None else {"basis": [[list(e) for e in element] for element in self.elements]}
        return {**super().to_dict(), **basis}

    def _tables(self) -> dict[str, tuple[Member | Factor, ...]]:
        return {
            "left": tuple(m for m in self.members if m.sign > 0),
            "right": tuple(m for m in self.members if m.sign < 0),
        }

    def __repr__(self) -> str:
        text = super().__repr__()
        return text if self.elements is None else f"{text[:-1]}, basis={len(self.elements)} matrices)"


class GeneralLinear(Matrices):
    r"""The loss sees U and V only as UVᵀ: ξ_X = (UX, −VXᵀ) for every matrix X, conserved M = UᵀU − VᵀV.

    Holds for linear maps with nothing between them, for queries and keys, and values and output, in each head of
    attention, for low-rank adapters and factorisations. Wᵀ and the bias of a map that writes the r values between the
    two are rows of U, those that read them are rows of V: with torch's out × in weights, in each head, M is
    QQᵀ + b_q b_qᵀ − KKᵀ − b_k b_kᵀ and VVᵀ + b_v b_vᵀ − OᵀO.

    The generators are those of symmetric X = (E_ij + E_ji)/2, i ≤ j, one head after another, whose charges are the M_ij
    of the upper triangle; then those of X = E_ij − E_ji, i < j, which have no charge but a `Rotation`.

    Parameters
    ----------
    name : str
        What records and messages call it.
    left, right : mapping of str to axis
        For each parameter of U, and of V, the axis that X mixes; (axis, heads) for an axis cut in so many contiguous
        heads; (axis, indices of each head) otherwise. Where a head of a parameter has several times as many indices as
        the smallest of all, it is mixed in so many pieces, each alike, as the queries of one group are.
    basis : sequence of matrices, optional
        The X that are symmetries, each symmetric or antisymmetric, given by its entries (row, column, value); all by
        default. Between queries and keys that are rotated by their positions these are the complex numbers of each
        plane, for instance.

    Raises
    ------
    InvalidCharge
        If no parameter is named, one has an axis that is none, or a matrix of the basis is neither symmetric nor
        antisymmetric.

    References
    ----------
    Marcotte, Gribonval, Peyré 2023, arXiv 2307.00144, for linear networks.

    Examples
    --------
    >>> import torch
    >>> charge = GeneralLinear("0-1", {"0.weight": 0}, {"1.weight": 1})
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(2, 4, bias=False))
    >>> _ = [torch.nn.init.ones_(p) for p in net.parameters()]
    >>> charge.matrix(charge.parameters_of(net), charge.parameters_of(net)).tolist()
    [[[-1.0, -1.0], [-1.0, -1.0]]]
    >>> charge.count(charge.parameters_of(net)), charge.value(charge.parameters_of(net)).tolist()
    (4, [-1.0, -1.0, -1.0])
    """

    kind = "general_linear"
    degree = 2
    parts = "sa"

    def conserved(self, tensors: Mapping[str, Tensor]) -> int:
        """Return how many of the generators have a charge: r(r + 1)/2 for each head if all X are symmetries."""
        heads, basis = self.layout(tensors)
        return heads * basis.number("s")

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the entries of M, those of the upper triangle, for each head; shape [charges]."""
        return super().value(parameters)[: self.conserved(parameters)]

    def normaliser(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ‖U‖² + ‖V‖², the traces of UᵀU and VᵀV together, of each head, for each charge; shape [charges]."""
        return self._each(parameters, "s")

    def rotation(self) -> "Rotation":
        """Return what antisymmetric X conserve but for friction, with the same parameters.

        Examples
        --------
        >>> GeneralLinear("0-1", {"0.weight": 0}, {"1.weight": 1}).rotation()
        Rotation('0-1 rotation', left={'0.weight': 0}, right={'1.weight': 1})
        """
        return Charge.from_dict({**self.to_dict(), "kind": "rotation", "name": f"{self.name} rotation"})  # type: ignore[return-value]


class Rotation(Matrices):
    r"""What antisymmetric X conserve, but for friction: R = Uᵀv_U − v_UᵀU + Vᵀv_V − v_VᵀV, with the buffer v.

    The symmetry is that of `GeneralLinear`. R is no function of the parameters alone: along gradient flow it vanishes,
    as the angular momentum of what has no inertia. Under heavy ball it shrinks by β at each step, noise and coupled
    weight decay notwithstanding, under decoupled decay by (1 − hλ)β. From buffers that are 0 it stays 0.

    Parameters
    ----------
    name, left, right, basis : as for `GeneralLinear`
        Of a basis the antisymmetric matrices count.

    Raises
    ------
    InvalidCharge
        As for `GeneralLinear`.

    References
    ----------
    Tanaka, Kunin 2021, arXiv 2105.02716, for what momentum makes of charges.

    Examples
    --------
    >>> import torch
    >>> charge = Rotation("0-1 rotation", {"0.weight": 0}, {"1.weight": 1})
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False))
    >>> parameters = charge.parameters_of(net)
    >>> theta = {"0.weight": torch.tensor([[1.0], [2.0]]), "1.weight": torch.zeros(1, 2)}
    >>> buffers = {"0.weight": torch.tensor([[3.0], [5.0]]), "1.weight": torch.ones(1, 2)}
    >>> charge.count(theta), charge.pairing(theta, buffers).tolist()  # 1·5 − 2·3
    (1, [-1.0])
    """

    kind = "rotation"
    degree = 0
    parts = "a"

    def count(self, tensors: Mapping[str, Tensor]) -> int:
        """Return the number of generators; raises `InvalidCharge` if none of its matrices is antisymmetric."""
        found = super().count(tensors)
        if not found:
            raise InvalidCharge(f"charge {self.name!r}: no antisymmetric matrix is among its symmetries; leave it out")
        return found

    def sizes(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Tensor:
        """Return ‖x‖‖y‖ over the entries of each generator's head, shape [generators]."""
        return self.norm(x) * self.norm(y)
