"""What the problems of the zoo are built from: checks, losses that can be pickled, modules, data in batches."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import sympy as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeq.errors import InvalidProblem, choice
from modeq.numeric.data import digits, minibatches
from modeq.numeric.protocol import whole
from modeq.numeric.torch_problem import TorchProblem


def exact_number(value: Any, argument: str) -> sp.Expr:
    """Return a finite real number of Python, numpy or sympy as one of sympy, exact if it was, or raise.

    Examples
    --------
    >>> from fractions import Fraction
    >>> exact_number(Fraction(1, 3), "a"), exact_number(0.5, "a")
    (1/3, 0.500000000000000)
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction | sp.Expr):
        raise InvalidProblem(f"{argument} is {value!r}: give a real number")
    number = sp.sympify(value)
    if not number.is_number or not number.is_real or not number.is_finite:
        raise InvalidProblem(f"{argument} is {value!r}: give a finite real number")
    return number


def spectrum(eigenvalues: Any) -> list[sp.Expr]:
    """Return eigenvalues as numbers of sympy, or raise `InvalidProblem`.

    Examples
    --------
    >>> spectrum([1, 0.5, -2])
    [1, 0.500000000000000, -2]
    """
    if not isinstance(eigenvalues, Sequence | np.ndarray) or isinstance(eigenvalues, str) or len(eigenvalues) == 0:
        raise InvalidProblem(f"eigenvalues are {eigenvalues!r}: give a sequence of real numbers, [1, 10] for instance")
    return [exact_number(value, f"eigenvalues[{n}]") for n, value in enumerate(eigenvalues)]


def checked_seed(seed: Any, argument: str = "seed") -> int:
    """Return a seed that torch and numpy both take, or raise `InvalidProblem`.

    Examples
    --------
    >>> checked_seed(3)
    3
    """
    if whole(seed, argument, least=0) >= 2**63:
        raise InvalidProblem(f"{argument} is {seed!r}: give an integer below 2**63")
    return int(seed)


def coordinates(dimension: Any, least: int = 1) -> list[sp.Symbol]:
    """Return x, y for two dimensions, and x1, x2, … for another number of them.

    Examples
    --------
    >>> coordinates(2), coordinates(3)
    ([x, y], [x1, x2, x3])
    """
    dimension = whole(dimension, "dimension", least)
    return list(sp.symbols("x y" if dimension == 2 else f"x1:{dimension + 1}"))


def one_of(value: Any, names: Sequence[str], argument: str) -> Any:
    """Return one of some names, or raise `InvalidProblem`.

    Examples
    --------
    >>> one_of("digits", ["digits"], "data")
    'digits'
    """
    if value not in names:
        raise InvalidProblem(f"{argument} is {choice(value, names)}")
    return value


def half_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """½ |output − target|², the mean over the samples.

    Examples
    --------
    >>> half_squared_error(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2))
    tensor(6.2500)
    """
    return ((output - target) ** 2).sum() / (2 * len(output))


def logistic_loss(output: Tensor, target: Tensor) -> Tensor:
    """log(1 + exp(−z)) for label 1 and log(1 + exp(z)) for label 0, z the output; the mean over the samples.

    Examples
    --------
    >>> logistic_loss(torch.tensor([[0.0], [0.0]]), torch.tensor([[0.0], [1.0]]))
    tensor(0.6931)
    """
    return -F.logsigmoid((2 * target - 1) * output).mean()


class Factors(nn.Module):
    """X ↦ X U Vᵀ.

    Examples
    --------
    >>> Factors(torch.ones(2, 1), torch.ones(3, 1))(torch.eye(2))
    tensor([[1., 1., 1.],
            [1., 1., 1.]], grad_fn=<MmBackward0>)
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__()
        self.U, self.V = nn.Parameter(left), nn.Parameter(right)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return inputs U Vᵀ."""
        return inputs @ self.U @ self.V.T


def normal(generator: torch.Generator, *shape: int, std: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return normal numbers, drawn in float64 for every dtype.

    Examples
    --------
    >>> normal(torch.Generator().manual_seed(0), 2, 3).shape
    torch.Size([2, 3])
    """
    return (std * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def linear_layers(weights: Sequence[Tensor]) -> nn.Sequential:
    """Return linear layers without biases of given weights.

    Examples
    --------
    >>> linear_layers([torch.ones(3, 2), torch.ones(1, 3)])(torch.ones(1, 2)).item()
    6.0
    """
    layers = []
    for weight in weights:
        # On the meta device nothing is drawn, so that torch's global random state is left alone.
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight)
        layers.append(layer)
    return nn.Sequential(*layers)


def zero_linear(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Linear:
    """Return a linear layer of which weight and bias are 0.

    Examples
    --------
    >>> zero_linear(2, 1, torch.float64).weight.tolist()
    [[0.0, 0.0]]
    """
    layer = nn.Linear(inputs, outputs, dtype=dtype, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    return layer


def whitened_fit(module: nn.Module, target: Tensor) -> TorchProblem:
    """Return the problem ½‖W − target‖² of a linear map x ↦ Wx: the data are √d times the d unit vectors.

    Examples
    --------
    >>> target = torch.zeros(1, 2, dtype=torch.float64)
    >>> problem = whitened_fit(linear_layers([torch.tensor([[3.0, 4.0]], dtype=torch.float64)]), target)
    >>> round(problem.loss([3.0, 4.0]), 9)
    12.5
    """
    size = target.shape[1]
    inputs = size**0.5 * torch.eye(size, dtype=target.dtype)
    return TorchProblem(module, half_squared_error, inputs, inputs @ target.T)


def on_data(
    module: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    samples: int | None,
    batch_size: int | None,
    seed: int,
) -> TorchProblem:
    """Return a module's problem on the first samples; with a batch size, on the seeded minibatches of one epoch.

    Samples that do not fill a batch are left out, so that the loss is the mean over the minibatches.

    Examples
    --------
    >>> data = torch.zeros(7, 2, dtype=torch.float64), torch.ones(7, 1, dtype=torch.float64)
    >>> problem = on_data(zero_linear(2, 1, torch.float64), half_squared_error, data, None, 3, 0)
    >>> problem.parts, len(problem.inputs)
    (2, 6)
    """
    (inputs, targets), seed = data, checked_seed(seed)
    count = len(targets) if samples is None else whole(samples, "samples", least=1)
    if count > len(targets):
        raise InvalidProblem(f"samples is {samples}: there are {len(targets)}, give at most as many")
    if batch_size is None:
        return TorchProblem(module, loss_function, inputs[:count], targets[:count])
    size = whole(batch_size, "batch_size", least=1)
    used = count - count % size
    if used == 0:
        raise InvalidProblem(f"batch_size is {batch_size}: there are {count} samples, give at most as many")
    batches = list(minibatches(used, size, used // size, seed))
    return TorchProblem(module, loss_function, inputs[:used], targets[:used], batches=batches)


def on_digits(module: nn.Module, samples: int | None, batch_size: int | None, seed: int) -> TorchProblem:
    """Return the cross-entropy of a network on the standardised digits, in the dtype of its parameters.

    Examples
    --------
    >>> from modeq.numeric.networks.small import tanh_network
    >>> on_digits(tanh_network(), 20, 5, seed=0).parts
    4
    """
    dtype = next(module.parameters()).dtype
    data = digits("train", standardise=True, dtype=dtype)
    return on_data(module, F.cross_entropy, data, samples, batch_size, seed)
