"""Where gradient noise and weight decay drive the charge of a scale, rescale or general linear symmetry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modeq.displays import Table, Tabular
from modeq.errors import InvalidCharge, InvalidSetting, NoClosedLaw
from modeq.symmetry.charges import Charge, Rescale, Scale
from modeq.symmetry.laws import SGDStep
from modeq.symmetry.matrix_charges import GeneralLinear
from modeq.symmetry.traced import loss_function

Array = NDArray[np.float64]

_ROUNDING = 1e-13  # eigenvalues of what drives a charge below it, relative to the largest, count as 0


@dataclass(frozen=True, eq=False, repr=False)
class Balance(Tabular):
    """How a charge drifts on average, and where on its orbit it stands still.

    Attributes
    ----------
    mean : tuple of two arrays, shape [charges]
        ‖ḡ_{A₁}‖² and ‖ḡ_{A₂}‖² of the mean ḡ of the minibatch gradients; the second is 0 for a scale charge. Of a
        matrix charge the entries of ḡ_Uᵀḡ_U and ḡ_Vᵀḡ_V, in the order of its charges.
    noise : tuple of two arrays, shape [charges]
        E‖g − ḡ‖² over A₁, and over A₂; of a matrix charge the entries of E(g − ḡ)_Uᵀ(g − ḡ)_U, and of the same for V.
    drift : array, shape [charges]
        dN/dt of N = ‖θ_{A₁}‖² − ‖θ_{A₂}‖², or dM/dt, here, in the time t = h·n.
    shift : array, shape [generators]
        ℓ of (e^ℓ θ_{A₁}, e^{−ℓ} θ_{A₂}), where there is no drift; of a matrix charge the coefficients of symmetric X
        in (U e^X, V e^{−X}), then zeros. `charge.acted(parameters, torch.from_numpy(shift))` is there.
    charge : array, shape [charges]
        N or M there.

    Examples
    --------
    >>> one, zero = np.ones(1), np.zeros(1)
    >>> Balance((zero, zero), (one, one), zero, zero, np.array([0.5])).charge.tolist()
    [0.5]
    """

    mean: tuple[Array, Array]
    noise: tuple[Array, Array]
    drift: Array
    shift: Array
    charge: Array

    def _tables(self) -> list[Table]:
        head = ("charge", "‖ḡ‖² of A₁", "of A₂", "E‖g − ḡ‖² of A₁", "of A₂", "drift", "shift", "charge there")
        columns = (*self.mean, *self.noise, self.drift, self.shift[: len(self.drift)], self.charge)
        rows = [(f"{k}", *(f"{v:.3g}" for v in row)) for k, row in enumerate(zip(*columns, strict=True))]
        return [Table(head, rows)]

    def __repr__(self) -> str:
        return f"Balance({len(self.drift)} charges)"


def balance(
    charge: Charge, module: nn.Module, loss: Any, data: tuple[Any, Any], step: SGDStep, *, batch_size: int = 1
) -> Balance:
    r"""Return the drift of a charge under gradient noise and weight decay, and where on its orbit it vanishes.

    For minibatch gradients of mean ḡ that do not depend on each other, to first order in h,

        dN/dt = −2Λ(N₁ − N₂) + κ(G₁ − G₂),   G_i = E‖g_i − ḡ_i‖² + μ‖ḡ_i‖²,

    with N_i = ‖θ_{A_i}‖², κ = h(1 − α)²/(1 − β)², μ = (1 + β)/(1 − β), for Nesterov (1 − β + 2β²)/(1 − β), and Λ =
    λ(1 − α)/(1 − β), decoupled λ. Along the orbit (e^ℓ θ₁, e^{−ℓ} θ₂), on which the loss is the same, gradients change
    inversely to the parameters. So the drift falls with ℓ, and vanishes at one place only,

        e^{4ℓ} = (κG₁ + 2ΛN₂) / (κG₂ + 2ΛN₁).

    Without decay training thus balances the squared gradients, not the norms as gradient flow would keep them. A
    scale charge is the case N₂ = G₂ = 0; of many steps `equilibrium` says more.

    The same holds for each entry of a matrix charge M = UᵀU − VᵀV, with N₁ = UᵀU, N₂ = VᵀV, G₁ = E g_Uᵀg_U + …, of the
    matrices r × r. Along the orbit (U e^X, V e^{−X}), X symmetric, the only place without drift has

        e^{2X} F e^{2X} = E,   E = κG₁ + 2ΛN₂,   F = κG₂ + 2ΛN₁,

    so that e^{2X} = F^{−½}(F^½ E F^½)^½ F^{−½} is the geometric mean of F⁻¹ and E. It is one but for rotations of U
    and V together, which move M and no norm.

    Parameters
    ----------
    charge : Scale, Rescale or GeneralLinear
    module : nn.Module
        Its parameters, buffers and gradients are left as they are.
    loss : "cross_entropy", "mse", or a callable on (output, target)
    data : (input, target)
        Samples along the first axis of both; what is left over at the end is not used.
    step : SGDStep
        The hyper-parameters.
    batch_size : int
        Samples in each gradient.

    Returns
    -------
    Balance
        With arrays of shape [charges], and [generators] for the shift.

    Raises
    ------
    InvalidCharge
        If the charge is of another kind or does not fit the module, or there are fewer than two minibatches.
    InvalidSetting
        If `step` is no SGDStep.
    NoClosedLaw
        For a learning rate of 0, a momentum of 1 or more, or a dampening that takes all gradients; and if a generator
        has no place without drift, as its gradients vanish and nothing decays.

    References
    ----------
    Ziyin, Wang, Li, Wu 2024, Parameter symmetry and noise equilibrium of stochastic gradient descent, arXiv 2402.07193,
    for gradient descent; the terms of momentum follow from the discrete law of the charge.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    >>> hidden = Rescale("hidden", {"0.weight": 0, "0.bias": 0}, {"2.weight": 1})
    >>> data = torch.randn(50, 2, dtype=torch.float64), torch.randn(50, 1, dtype=torch.float64)
    >>> found = balance(hidden, net, "mse", data, SGDStep(0.1))
    >>> bool((np.sign(found.shift) == np.sign(found.drift)).all())
    True
    """
    if not isinstance(charge, Scale | Rescale | GeneralLinear):
        raise InvalidCharge(f"charge is {charge!r}: give a Scale, a Rescale or a GeneralLinear, whose charge can drift")
    if isinstance(charge, GeneralLinear) and charge.elements is not None:
        raise InvalidCharge(f"charge {charge.name!r} has a basis: give one without, of all matrices")
    decay, speed, persistence = _rates(step)
    mean, square = _gradients(charge, module, loss, data, batch_size)
    with torch.no_grad():
        parameters = {name: p.detach() for name, p in charge.parameters_of(module).items()}
        norms = _sides(charge, parameters)
    # E‖g − ḡ‖² + μ‖ḡ‖², without the difference
    first, second = (s + (persistence - 1) * m for m, s in zip(mean, square, strict=True))
    drift = -2 * decay * (norms[0] - norms[1]) + speed * (first - second)
    growing, falling = speed * first + 2 * decay * norms[1], speed * second + 2 * decay * norms[0]
    doubled = _doubled(charge, growing, falling)
    there, back = (_applied(function, doubled) for function in (np.sqrt, lambda squares: squares**-0.5))
    # off the diagonal X is c/2 for each coefficient c of (E_ij + E_ji)/2
    shift = _entries(_applied(np.log, doubled) * (2 - np.eye(doubled.shape[1]))) / 2
    return Balance(
        (_entries(mean[0]), _entries(mean[1])),
        (_entries(square[0] - mean[0]), _entries(square[1] - mean[1])),
        _entries(drift),
        np.concatenate([shift, np.zeros(charge.count(parameters) - len(shift))]),
        _entries(there @ norms[0] @ there - back @ norms[1] @ back),
    )


def _rates(step: SGDStep) -> tuple[float, float, float]:
    """Λ, κ and μ of `balance`."""
    if not isinstance(step, SGDStep):
        raise InvalidSetting(f"step is {step!r}: give an SGDStep, SGDStep(0.1, weight_decay=5e-4) for instance")
    beta = step.momentum
    keep = 1 - step.dampening if beta else 1.0
    if step.h <= 0 or beta >= 1 or keep <= 0 or step.weight_decay < 0:
        raise NoClosedLaw(
            f"no balance for {step}: give h above 0, momentum and dampening below 1, and no negative decay"
        )
    s = 1 - beta
    decay = step.weight_decay * (1.0 if step.decoupled else keep / s)
    persistence = (1 - beta + 2 * beta**2 if step.nesterov else 1 + beta) / s
    return decay, step.h * (keep / s) ** 2, persistence


def _sides(charge: Charge, tensors: dict[str, Tensor]) -> tuple[Array, Array]:
    """The squared norms of the two sides, as matrices: UᵀU and VᵀV; shape [generators, 1, 1] or [heads, r, r]."""
    if isinstance(charge, GeneralLinear):
        first, second = charge.sides(tensors)
    else:
        both, difference = charge.norm(tensors).square()[:, None, None], charge.value(tensors)[:, None, None]
        first, second = (both + difference) / 2, (both - difference) / 2
    return first.cpu().numpy(), second.cpu().numpy()


def _entries(matrices: Array) -> Array:
    """The upper triangles of symmetric matrices, in the order of the charges."""
    row, column = np.triu_indices(matrices.shape[-1])
    return matrices[:, row, column].reshape(-1)


def _applied(function: Callable[[Array], Array], matrices: Array) -> Array:
    """A function of symmetric matrices, by their eigenvalues."""
    values, vectors = np.linalg.eigh(matrices)
    found: Array = (vectors * function(values)[:, None]) @ vectors.swapaxes(1, 2)
    return found


def _doubled(charge: Charge, growing: Array, falling: Array) -> Array:
    """e^{2X} of `balance`, from E and F."""
    spectra = [np.linalg.eigvalsh(matrices) for matrices in (growing, falling)]
    lost = np.flatnonzero(np.any([values[:, 0] <= _ROUNDING * values[:, -1] for values in spectra], axis=0))
    if len(lost):
        raise NoClosedLaw(
            f"charge {charge.name!r}: {'head' if isinstance(charge, GeneralLinear) else 'generator'} {lost[0]} has no "
            "place without drift, since a side of it has neither gradients nor decay; give weight decay, or data that "
            "reach it"
        )
    half, inverse = _applied(np.sqrt, falling), _applied(lambda values: values**-0.5, falling)
    found: Array = inverse @ _applied(np.sqrt, half @ growing @ half) @ inverse
    return found


def _gradients(
    charge: Charge, module: nn.Module, loss: Any, data: Any, batch_size: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The squares of the mean gradient, and the mean ones of the gradients, on both sides."""
    if not isinstance(data, tuple) or len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        raise InvalidCharge(f"data is {type(data).__name__}: give (input, target), two tensors")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidCharge(f"batch_size is {batch_size!r}: give a number of samples from 1")
    count = min(map(len, data)) // batch_size
    if count < 2:
        raise InvalidCharge(f"{min(map(len, data))} samples in batches of {batch_size}: give data for two at least")
    function, parameters = loss_function(loss), charge.parameters_of(module)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    squares: list[tuple[Array, Array]] = []
    for k in range(count):
        inputs, targets = (part[k * batch_size : (k + 1) * batch_size] for part in data)
        found = torch.autograd.grad(function(module(inputs), targets), list(parameters.values()))
        gradients = {name: g.double() for name, g in zip(parameters, found, strict=True)}
        squares.append(_sides(charge, gradients))
        for name, g in gradients.items():
            total[name] += g / count
    for name, buffer in module.named_buffers():
        buffer.copy_(buffers[name])
    mean = _sides(charge, total)
    if not all(np.isfinite(part).all() for pair in squares for part in pair):
        raise InvalidCharge("a gradient is not finite: give data and parameters at which the loss is")
    return mean, (np.mean([pair[0] for pair in squares], axis=0), np.mean([pair[1] for pair in squares], axis=0))
