"""All affine symmetries of a small network, the diagonal ones among them, without a look at its graph."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from modeq.errors import InvalidCharge
from modeq.symmetry.charges import Charge
from modeq.symmetry.naming import Explanation, explain

Loss = Callable[[Any, Any], Tensor]
Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]

TINY = torch.finfo(torch.float64).tiny
# A gradient is used if differences of the loss over such a step agree with it so well, relative to its length,
STEP, AGREEMENT = 1e-6, 1e-7
# and if it changes no more than so much where θ is changed by some roundings, relative too.
ROUNDINGS, CHANGE = 2.0**-48, 3e-14
# A direction is used at a θ if the gradients there reach it so well, relative to the best.
REACH = 1e-3
# How many sets of D + 1 points the affine null space may take.
SETS = 16


class NullSpace(NamedTuple):
    """The fields of one kind along which no gradient points.

    Attributes
    ----------
    fields : tensor (dimension, unknowns), orthonormal rows
        (a, c) for a∘θ + c, with 2D unknowns; the rows of the matrix [M, c] for Mθ + c, with D(D + 1).
    gap : the smallest singular value that counts over the largest that does not; what is far below 1e6 is no answer
    """

    fields: Tensor
    gap: float

    def explained_by(self, charges: Iterable[Charge], module: nn.Module) -> Explanation:
        """Return which dimensions known charges explain, and what is left as charges of its own.

        Parameters
        ----------
        charges : iterable of Charge
            Those of `find_charges`, for instance; the order says to which of them a dimension is counted that is in
            several.
        module : nn.Module
            That whose null space it is.

        Returns
        -------
        Explanation
            `.table()`, and `.unexplained`, a tuple of `AffineSymmetry` for `verify`.

        Raises
        ------
        InvalidCharge
            If a charge or the null space does not fit the module.

        Examples
        --------
        >>> from modeq.symmetry.finding import find_charges
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2)).double()
        >>> def draw(generator):
        ...     return tuple(torch.randn(6, 2, generator=generator, dtype=torch.float64) for _ in range(2))
        >>> null = affine_symmetries(net, torch.nn.functional.mse_loss, draw)
        >>> print(null.explained_by(find_charges(net, torch.zeros(1, 2).double(), loss="mse"), net).table())
        kind            charge                        dimension
        rescale         0-2                           2
        general linear  2-3                           4
        unexplained                                   2
                        mixed 2.bias+3.weight+3.bias  2          2.bias, 3.weight, 3.bias
        """
        return explain(self.fields, charges, module)

    def __repr__(self) -> str:
        dimension, unknowns = self.fields.shape
        return f"NullSpace(dimension {dimension}, {unknowns} unknowns, gap {self.gap:.1e})"


def diagonal_symmetries(
    module: nn.Module, loss: Loss, draw: Draw, *, seed: int = 0, tolerance: float = 1e-10
) -> NullSpace:
    """Return every field ξ(θ) = a∘θ + c with ⟨g(θ), ξ(θ)⟩ = 0 at all θ for all batches.

    It is the null space of the rows (g∘θ, g) at twice as many random θ and batches as there are unknowns. Gradients
    that differences of the loss do not confirm, or that rounding changes, make no row; see `affine_symmetries`.

    Parameters
    ----------
    module : nn.Module
        In float64, with few parameters: the rows are decomposed as one matrix.
    loss : callable on (output, target)
    draw : callable
        From a generator to a random (input, target), always of the same shapes.
    seed : int
    tolerance : float
        Singular values below it, relative to the largest, count as 0.

    Raises
    ------
    InvalidCharge
        If the module is not in float64.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    >>> def draw(generator):
    ...     return tuple(torch.randn(6, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    >>> len(diagonal_symmetries(net, torch.nn.functional.mse_loss, draw).fields)
    3
    """
    function = _Function(module, loss)
    generator = torch.Generator().manual_seed(seed)
    drawn = [(function.parameters(generator), *draw(generator)) for _ in range(4 * function.size + 16)]
    points, inputs, targets = (torch.stack([point[k] for point in drawn]) for k in range(3))

    def everywhere(value: Any, points: Tensor) -> Tensor:
        return vmap(value, randomness="different")(points, function.buffers(len(points)), inputs, targets)

    g = _unit_gradients(function, everywhere, points, generator)
    _, fields, gap = _split(torch.cat([g * points, g], 1), tolerance)
    return NullSpace(fields, gap)


def affine_symmetries(
    module: nn.Module, loss: Loss, draw: Draw, *, seed: int = 0, tolerance: float = 1e-6
) -> NullSpace:
    """Return every field ξ(θ) = Mθ + c with ⟨g(θ), ξ(θ)⟩ = 0 at all θ for all batches; M is any D×D matrix.

    It is the null space of the rows vec(g ⊗ (θ, 1)). Beside the generators of scales, rescales and translations it
    holds

    - every translation times every affine function of θ, D + 1 fields for each;
    - GL(d) between adjacent linear maps with d values between them, or what a norm between them leaves of it;
    - for a scalar output w·(x + Va) the fields δV with columns A_k w, where all A_k are antisymmetric; and their like.

    Parameters
    ----------
    module : nn.Module
        In float64, with D ≲ 40 parameters: there are D(D + 1) unknowns.
    loss : callable on (output, target)
    draw : callable
        From a generator to a random (input, target), always of the same shapes.
    seed : int
    tolerance : float
        Singular values below it, relative to the largest, count as 0.

    Raises
    ------
    InvalidCharge
        If the module is not in float64, no gradient can be used, or more points always bring more conditions.

    Notes
    -----
    At each θ the gradients of many batches span a space; the field lies in its complement N(θ). At D + 1 points θ_k,
    close to the corners of a regular simplex but for scales, a field may take any values n_k ∈ N(θ_k), and these
    determine it: what is unknown are the coordinates of all n_k, some D·dim N rather than D². Each further θ gives the
    conditions that ξ(θ), a known combination of the n_k, lies in N(θ). Translations, which lie in all N(θ), are split
    off first. Points are added until a fresh set of D + 1 of them tells nothing new.

    Gradients that differences of the loss do not confirm, or that change when θ is rounded otherwise, are left out: so
    where all neurons are dead and a norm divides a constant by its size, and next to a kink. So are directions that
    the gradients at a θ hardly reach. What is left out makes no condition: it can only make the null space larger.

    Examples
    --------
    >>> def draw(generator):
    ...     return tuple(torch.randn(6, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    >>> layers = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    >>> linear = nn.Sequential(*layers).double()
    >>> len(affine_symmetries(linear, torch.nn.functional.mse_loss, draw).fields)  # GL(3)
    9
    >>> nonlinear = nn.Sequential(layers[0], nn.ReLU(), layers[1]).double()
    >>> len(affine_symmetries(nonlinear, torch.nn.functional.mse_loss, draw).fields)  # one for each neuron
    3
    """
    function = _Function(module, loss)
    generator = torch.Generator().manual_seed(seed)
    sets = [_gradients(function, draw, generator) for _ in range(3)]
    if not any(rank for known in sets for rank in known.ranks):
        raise InvalidCharge("no gradient can be used: each is 0, or rounding decides it")
    while len(sets) <= SETS:
        moving, translations, gap = _split(torch.cat([known.along() for known in sets]), tolerance)
        base, *rest = sorted(sets[:-1], key=lambda known: -sum(known.ranks))
        unknown = _Unknown(base, moving)
        conditions = torch.cat([unknown.conditions(known) for known in rest])
        _, solutions, own_gap = _split(conditions, tolerance)
        if (unknown.conditions(sets[-1]) @ solutions.T).norm() < tolerance:
            break
        sets.append(_gradients(function, draw, generator))
    else:
        raise InvalidCharge(
            f"{SETS} sets of points do not suffice, as each brings new conditions: give a smaller network, or a `draw` "
            "whose batches are smooth and of order one"
        )
    size = function.size
    multiples = torch.einsum("td,ef->tedf", translations, torch.eye(size + 1, dtype=torch.float64))
    others = torch.linalg.qr(unknown.fields(solutions).T)[0].T
    return NullSpace(torch.cat([multiples.reshape(-1, size * (size + 1)), others]), min(gap, own_gap))


class _Gradients(NamedTuple):
    """At D + 1 points θ orthonormal vectors, of which the first span what the gradients of all batches do."""

    points: Tensor
    vectors: Tensor
    ranks: list[int]

    def along(self) -> Tensor:
        return torch.cat([vectors[:rank] for vectors, rank in zip(self.vectors, self.ranks, strict=True)])

    def across(self) -> list[Tensor]:
        return [vectors[rank:] for vectors, rank in zip(self.vectors, self.ranks, strict=True)]

    def extended(self) -> Tensor:
        return torch.cat([self.points, torch.ones_like(self.points[:, :1])], 1)


class _Unknown:
    """A field's values at the D + 1 points of a base, where it may be anything that no gradient sees.

    They are taken modulo translations, as coordinates along orthonormal rows `moving`.
    """

    def __init__(self, base: _Gradients, moving: Tensor) -> None:
        values = []
        for across in base.across():  # these hold the translations, so that the singular values are 0 or 1
            _, singular, vectors = torch.linalg.svd(across @ moving.T, full_matrices=False)
            values.append(vectors[singular > 0.5])
        self.moving = moving
        self.values = torch.cat(values).T
        self.point = torch.cat([torch.full((len(rows),), k) for k, rows in enumerate(values)])
        self.inverse = torch.linalg.inv(base.extended())

    def conditions(self, known: _Gradients) -> Tensor:
        """The rows that say that no gradient at other points sees the field."""
        values = self.moving.T @ self.values
        weights = (known.extended() @ self.inverse)[:, self.point]
        counts = torch.tensor(known.ranks)
        return (known.along() @ values) * weights.repeat_interleave(counts, 0)

    def fields(self, solutions: Tensor) -> Tensor:
        """The matrices [M, c] of solutions, flat."""
        values = self.moving.T @ self.values
        return torch.einsum("du,zu,eu->zde", values, solutions, self.inverse[:, self.point]).flatten(1)


class _Function:
    """The loss of a module as a function of one vector of all parameters that require a gradient."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        self.module, self.loss = module, loss
        self.moved = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.fixed = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
        if any(p.dtype != torch.float64 for p in self.moved.values()):
            raise InvalidCharge("the null space of gradients needs float64: give module.double()")
        self.sizes = [p.numel() for p in self.moved.values()]
        self.size = sum(self.sizes)

    def __call__(self, theta: Tensor, buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        parts = zip(self.moved.items(), theta.split(self.sizes), strict=True)
        moved = {name: part.view(p.shape) for (name, p), part in parts}
        return self.loss(functional_call(self.module, {**moved, **self.fixed, **buffers}, (x,)), y)

    def buffers(self, *counts: int) -> dict[str, Tensor]:
        """Copies for each of so many calls, which may write into them."""
        return {name: b.expand(*counts, *b.shape).clone() for name, b in self.module.named_buffers()}

    def parameters(self, generator: torch.Generator) -> Tensor:
        """Of order one and away from 0, a matrix divided by the root of its inputs."""
        found = []
        for p in self.moved.values():
            size = 0.4 + 1.2 * torch.rand(p.shape, generator=generator, dtype=torch.float64)
            sign = torch.randint(0, 2, p.shape, generator=generator) * 2 - 1
            found.append((size * sign / _root_of_inputs(p)).flatten())
        return torch.cat(found)

    def simplex(self, generator: torch.Generator) -> Tensor:
        """The D + 1 corners of a simplex turned at random, pushed away from 0; a matrix by the root of its inputs.

        But for the last, the rows (θ, 1) are almost orthogonal, as those of a regular simplex are.
        """
        start = torch.randn(self.size + 1, self.size + 1, generator=generator, dtype=torch.float64)
        start[:, 0] = 1
        corners = torch.linalg.qr(start)[0][:, 1:] * (self.size + 1) ** 0.5
        corners = 0.6 * corners + 0.4 * corners.sign()
        return corners / torch.cat(
            [torch.full_like(p, _root_of_inputs(p)).detach().flatten() for p in self.moved.values()]
        )


def _root_of_inputs(p: Tensor) -> float:
    return p[0].numel() ** 0.5 if p.dim() > 1 else 1.0


def _gradients(function: _Function, draw: Draw, generator: torch.Generator) -> _Gradients:
    """What the gradients of a few more batches than parameters span at the corners of a simplex."""
    points = function.simplex(generator)
    batches = [draw(generator) for _ in range(function.size + 8)]
    inputs, targets = (torch.stack([batch[k] for batch in batches]) for k in range(2))

    def everywhere(value: Any, points: Tensor) -> Tensor:
        of_batches = vmap(value, (None, 0, 0, 0), randomness="different")
        of_points = vmap(of_batches, (0, 0, None, None), randomness="different")
        return of_points(points, function.buffers(len(points), len(batches)), inputs, targets)

    g = _unit_gradients(function, everywhere, points, generator)
    _, singular, vectors = torch.linalg.svd(g)
    return _Gradients(points, vectors, (singular > REACH * singular[:, :1]).sum(1).tolist())


def _unit_gradients(
    function: _Function, everywhere: Callable[[Any, Tensor], Tensor], points: Tensor, generator: torch.Generator
) -> Tensor:
    """Gradients divided by their lengths; 0 where they are 0 or cannot be used."""
    direction = torch.randn(function.size, generator=generator, dtype=torch.float64)
    shift = ROUNDINGS * (0.5 + torch.rand(points.shape, generator=generator, dtype=torch.float64))
    g = everywhere(grad(function), points)
    ahead, behind = (everywhere(function, points + step * direction) for step in (STEP, -STEP))
    length = g.norm(dim=-1)
    error = (g @ direction - (ahead - behind) / (2 * STEP)).abs()
    kept = (length > 0) & (error < AGREEMENT * length * direction.norm())
    for near in (points * (1 + shift), points * (1 - shift)):
        kept &= (everywhere(grad(function), near) - g).norm(dim=-1) < CHANGE * length
    return torch.where(kept[..., None], g / length.clamp_min(TINY)[..., None], 0.0)


def _split(rows: Tensor, tolerance: float) -> tuple[Tensor, Tensor, float]:
    """Orthonormal rows that span what the rows span; those that span the rest; and the gap between the two."""
    _, singular, vectors = torch.linalg.svd(rows, full_matrices=len(rows) < rows.shape[1])
    rank = int((singular > tolerance * singular[:1]).sum())
    below = float(singular[rank]) if rank < len(singular) else 0.0
    return vectors[:rank], vectors[rank:], float(singular[rank - 1]) / max(below, TINY) if rank else math.inf
