"""The noise of minibatch gradients has no component along the generators of symmetries."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from modeq.displays import Table, Tabular
from modeq.errors import InvalidCharge
from modeq.numeric.primitives import Elementary
from modeq.symmetry.charges import Charge
from modeq.symmetry.traced import loss_function

_LARGEST = 400_000_000  # numbers in all gradients, or in all generators
_RANK = 1e-8  # eigenvalues of the generators' products below it, relative to the largest, count as 0
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class GradientNoise(Tabular):
    """The covariance of minibatch gradients, and where it vanishes; see `gradient_noise`.

    Attributes
    ----------
    projections : dict
        For each charge the largest |⟨g_i, ξ⟩| / (‖g_i‖‖ξ‖) over minibatches and generators.
    lost : int
        The rank that the covariance has lost: how many of the generators are independent at these parameters.
    parameters : int
        Entries of the gradient.
    spectrum : array, shape [min(minibatches, parameters)]
        Eigenvalues of the covariance (1/n) Σ (g_i − ḡ)(g_i − ḡ)ᵀ, the largest first. Those beyond are 0.

    Examples
    --------
    >>> import numpy as np
    >>> print(GradientNoise({"fc.bias": 1e-17}, 1, 3, np.array([2.0, 0.5, 1e-17])).table())
    charge   largest projection
    fc.bias  1.0e-17
    2 eigenvalues from 2.00e+00 to 5.00e-01, median 1.25e+00
    rank 2 of 3, of which symmetries take 1
    """

    projections: dict[str, float]
    lost: int
    parameters: int
    spectrum: NDArray[np.float64]

    @property
    def rank(self) -> int:
        """The number of eigenvalues above rounding; with enough minibatches at most parameters − lost.

        Examples
        --------
        >>> import numpy as np
        >>> GradientNoise({}, 1, 3, np.array([2.0, 0.5, 1e-17])).rank
        2
        """
        return int((self.spectrum > _ROUNDING * self.spectrum.max(initial=0.0)).sum())

    def table(self) -> str:
        """Return a line for each charge, and one on the spectrum."""
        return super().table()

    def _tables(self) -> list[Table]:
        rows = [(name, f"{value:.1e}") for name, value in self.projections.items()]
        notes = []
        positive = self.spectrum[: self.rank]
        if len(positive):
            middle = float(np.median(positive))
            size = f"from {positive[0]:.2e} to {positive[-1]:.2e}, median {middle:.2e}"
            notes.append(f"{len(positive)} eigenvalues {size}")
        notes.append(f"rank {self.rank} of {self.parameters}, of which symmetries take {self.lost}")
        return [Table(("charge", "largest projection"), rows, notes=notes)]

    def __repr__(self) -> str:
        return f"GradientNoise({len(self.projections)} charges, rank {self.rank} of {self.parameters})"


def gradient_noise(
    charges: Iterable[Charge],
    module: nn.Module,
    loss: Any,
    data: tuple[Any, Any],
    *,
    batch_size: int = 1,
    seed: int = 0,
) -> GradientNoise:
    """Project the gradients of single samples, or of minibatches, on the generators, and decompose their covariance.

    Each batch has the symmetry, so that ⟨g_i, ξ⟩ = 0 for each gradient by itself: the covariance of the gradients has
    the generators in its null space, and the noise of training does not move along them.

    Parameters
    ----------
    charges : iterable of Charge
    module : nn.Module
        In float64 for projections near 1e-15. Its parameters, buffers and the random state are left as they are.
    loss : "cross_entropy", "mse", or a callable on (output, target)
    data : (input, target)
        Samples along the first axis of both; what is left over at the end is not used.
    batch_size : int
        Samples in each gradient. Batch norm in training mode has no gradient of a single sample: at least 2 there.
    seed : int
        Of dropout and the like, which draw other numbers for each minibatch.

    Returns
    -------
    GradientNoise
        With the projection for each charge, and the spectrum of the covariance.

    Raises
    ------
    InvalidCharge
        If a charge does not fit the module, there are fewer than two minibatches, the gradients are too many to be
        kept, or one is not finite.

    References
    ----------
    Kunin et al. 2021, arXiv 2012.04728, section 3; Ziyin, Wang, Ueda 2023, arXiv 2308.06671.

    Examples
    --------
    >>> import torch
    >>> from modeq.symmetry.finding import find_charges
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()
    >>> inputs, labels = torch.randn(99, 3, dtype=torch.float64), torch.randint(0, 2, (99,))
    >>> charges = find_charges(net, inputs, loss="cross_entropy")
    >>> noise = gradient_noise(charges, net, "cross_entropy", (inputs, labels))
    >>> noise.lost, noise.parameters, max(noise.projections.values()) < 1e-14
    (9, 26, True)
    """
    if not isinstance(data, tuple) or len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        raise InvalidCharge(f"data is {type(data).__name__}: give (input, target), two tensors")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidCharge(f"batch_size is {batch_size!r}: give a number of samples from 1")
    function, chosen = loss_function(loss), list(charges)
    parameters = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    size, count = sum(p.numel() for p in parameters.values()), min(map(len, data)) // batch_size
    if count < 2:
        raise InvalidCharge(f"{min(map(len, data))} samples in batches of {batch_size}: give data for two at least")
    if count * size > _LARGEST:
        raise InvalidCharge(
            f"{count} gradients of {size} entries are {count * size} numbers: give at most {_LARGEST // size} batches"
        )
    gradients = _gradients(module, function, parameters, data, count, batch_size, seed)
    if not all(bool(g.isfinite().all()) for g in gradients.values()):
        raise InvalidCharge("a gradient is not finite: give data and parameters at which the loss is")
    known = {charge.name: charge.parameters_of(module) for charge in chosen}
    aliases = {id(p): name for name, p in module.named_parameters()}
    lengths = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
    projections = {}
    for charge in chosen:
        own = {name: p.detach() for name, p in known[charge.name].items()}
        slopes = {name: gradients[aliases[id(p)]] for name, p in known[charge.name].items()}
        paired = vmap(lambda y, charge=charge, own=own: charge.pairing(own, y))(slopes)
        sizes = lengths[:, None].to(paired) * charge.generator_norm(own)
        projections[charge.name] = float((paired.abs() / sizes.clamp_min(torch.finfo(torch.float64).tiny)).max())
    flat = torch.cat([g.flatten(1).double() for g in gradients.values()], 1)
    spectrum = torch.linalg.svdvals(flat - flat.mean(0)).square() / count
    lost = _independent(chosen, known, aliases, size)
    return GradientNoise(projections, lost, size, spectrum.cpu().numpy())


def _gradients(
    module: nn.Module, function: Any, parameters: dict[str, Tensor], data: Any, count: int, batch_size: int, seed: int
) -> dict[str, Tensor]:
    """The gradient of each minibatch, along the first axis."""
    inputs, targets = (part[: count * batch_size].reshape(count, batch_size, *part.shape[1:]) for part in data)
    fixed = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    buffers = {name: b.expand(count, *b.shape).clone() for name, b in module.named_buffers()}

    def value(theta: dict[str, Tensor], state: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        with Elementary():
            result: Tensor = function(functional_call(module, {**theta, **fixed, **state}, (x,)), y)
        return result

    random = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        each = vmap(grad(value), in_dims=(None, 0, 0, 0), randomness="different", chunk_size=64)
        found: dict[str, Tensor] = each(parameters, buffers, inputs, targets)
    except Exception as error:  # whatever a user's forward raises
        raise InvalidCharge(
            f"{type(module).__name__} fails on minibatches of {batch_size}: {type(error).__name__}: {error}"
        ) from error
    finally:
        torch.random.set_rng_state(random)
    return found


def _independent(charges: list[Charge], known: dict[str, Any], aliases: dict[int, str], size: int) -> int:
    """The rank of all generators, from their products with each other."""
    counts = [charge.count(known[charge.name]) for charge in charges]
    total = sum(counts)
    if total * size > 50 * _LARGEST:
        raise InvalidCharge(f"{total} generators of {size} entries are too many to be compared: give fewer charges")
    rows: dict[str, list[tuple[int, Tensor]]] = {}
    for charge, count, start in zip(charges, counts, np.cumsum([0, *counts]).tolist(), strict=False):
        own = {name: p.detach().double() for name, p in known[charge.name].items()}
        norms = charge.generator_norm(own)
        fields = vmap(lambda c, charge=charge, own=own: charge.moved(own, c))(torch.diag(1 / norms))
        for name, field in fields.items():
            rows.setdefault(aliases[id(known[charge.name][name])], []).append((start, field.reshape(count, -1)))
    products = torch.zeros(total, total, dtype=torch.float64)
    for parts in rows.values():
        for i, one in parts:
            for j, other in parts:
                products[i : i + len(one), j : j + len(other)] += one @ other.T
    return int((torch.linalg.eigvalsh(products) > _RANK).sum()) if total else 0
