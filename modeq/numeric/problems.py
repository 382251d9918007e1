"""The zoo: well-known problems with a start each, ready for `iterate`, `flow` and `compare`.

What is written out with sympy is a `SymbolicProblem`, games are a `VectorField`, and what has data a `TorchProblem`
in float64 by default. `NAMES` has all that need no argument.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp
import torch
from torch.nn import functional as F

from modeq.errors import InvalidProblem, choice
from modeq.numeric import data as loaders
from modeq.numeric.networks import small, vision
from modeq.numeric.problem_parts import (
    Factors,
    checked_seed,
    coordinates,
    exact_number,
    half_squared_error,
    linear_layers,
    logistic_loss,
    normal,
    on_data,
    on_digits,
    one_of,
    spectrum,
    whitened_fit,
    zero_linear,
)
from modeq.numeric.protocol import Problem, positive, whole
from modeq.numeric.quadratic_problem import QuadraticProblem, random_rotation, rational_rotation
from modeq.numeric.symbolic_problems import SymbolicProblem, VectorField
from modeq.numeric.torch_problem import TorchProblem

__all__ = [
    "NAMES",
    "beale",
    "bilinear_game",
    "by_name",
    "deep_linear",
    "digits_cnn",
    "digits_mlp",
    "digits_tanh",
    "digits_vit",
    "dirac_gan",
    "himmelblau",
    "linear_regression",
    "logistic_regression",
    "matrix_factorisation",
    "noisy_quadratic",
    "quadratic",
    "rosenbrock",
    "softmax_regression",
    "styblinski_tang",
    "two_layer_scalar",
]

# Up to here quadratics are written out with sympy, which takes longer for more variables.
_WRITTEN_OUT = 10


def quadratic(
    eigenvalues: Sequence[Any] = (1, 10), rotation_seed: int | None = None
) -> SymbolicProblem | QuadraticProblem:
    """Return L(θ) = ½ θᵀHθ for H of a given spectrum; its minimum, if all eigenvalues are positive, is 0 at 0.

    Parameters
    ----------
    eigenvalues : sequence of real numbers
        Of any sign. For up to ten the problem is a `SymbolicProblem`, exact where they are; for more it
        computes with numpy, and its derivatives are still exact.
    rotation_seed : int, optional
        Turn the eigenvectors away from the axes: up to ten by a rational rotation, more by a random one.

    Raises
    ------
    InvalidProblem
        If an eigenvalue is no finite real number.

    Examples
    --------
    >>> quadratic([1, 4]).loss_expression
    x**2/2 + 2*y**2
    >>> sorted(quadratic([1, 4], rotation_seed=3).hessian.eigenvals())
    [1, 4]
    >>> quadratic(range(1, 101)).size
    100
    """
    values = spectrum(eigenvalues)
    size = len(values)
    seed = None if rotation_seed is None else checked_seed(rotation_seed, "rotation_seed")
    if size > _WRITTEN_OUT:
        rotation = np.eye(size) if seed is None else random_rotation(size, seed)
        hessian = (rotation * np.array(values, dtype=np.float64)) @ rotation.T
        return QuadraticProblem((hessian + hessian.T) / 2, default_start=np.ones(size))
    variables = coordinates(size)
    turned = sp.Matrix(variables) if seed is None else rational_rotation(size, seed).T * sp.Matrix(variables)
    loss = sp.expand(sum(value * x**2 for value, x in zip(values, turned, strict=True)) / 2)
    return SymbolicProblem(loss, variables, default_start=[1.0] * size)


def rosenbrock(a: Any = 1, b: Any = 100, dimension: int = 2) -> SymbolicProblem:
    """Return L = Σ (a − x_i)² + b(x_{i+1} − x_i²)² over i < dimension, a curved valley.

    For two variables its minimum is 0 at (a, a²); for more, with a = 1, it is 0 at (1, …, 1). Rosenbrock 1960; the
    start (−1.2, 1, −1.2, …) is that of Moré, Garbow, Hillstrom 1981.

    Parameters
    ----------
    a, b : real numbers
    dimension : int from 2

    Raises
    ------
    InvalidProblem
        If a or b is no real number, or the dimension is below 2.

    Examples
    --------
    >>> problem = rosenbrock()
    >>> problem.start().tolist(), problem.loss([1.0, 1.0])
    ([-1.2, 1.0], 0.0)
    """
    a, b = exact_number(a, "a"), exact_number(b, "b")
    x = coordinates(dimension, least=2)
    loss = sum((a - u) ** 2 + b * (v - u**2) ** 2 for u, v in pairwise(x))
    return SymbolicProblem(loss, x, default_start=[-1.2 if n % 2 == 0 else 1.0 for n in range(len(x))])


def himmelblau() -> SymbolicProblem:
    """Return L = (x² + y − 11)² + (x + y² − 7)², with four minima of value 0.

    They are at (3, 2), (−2.805118, 3.131313), (−3.779310, −3.283186) and (3.584428, −1.848127). Himmelblau 1972.

    Examples
    --------
    >>> himmelblau().loss([3.0, 2.0])
    0.0
    """
    x, y = coordinates(2)
    return SymbolicProblem((x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2, [x, y], default_start=[0.0, 0.0])


def beale() -> SymbolicProblem:
    """Return L = (3/2 − x + xy)² + (9/4 − x + xy²)² + (21/8 − x + xy³)², with minimum 0 at (3, 1/2).

    Beale 1958; the start (1, 1) is that of Moré, Garbow, Hillstrom 1981.

    Examples
    --------
    >>> beale().loss([3.0, 0.5])
    0.0
    """
    x, y = coordinates(2)
    terms = [sp.Rational(3, 2), sp.Rational(9, 4), sp.Rational(21, 8)]
    loss = sum((c - x + x * y**n) ** 2 for n, c in enumerate(terms, start=1))
    return SymbolicProblem(loss, [x, y], default_start=[1.0, 1.0])


def styblinski_tang(dimension: int = 2) -> SymbolicProblem:
    """Return L = ½ Σ (x_i⁴ − 16x_i² + 5x_i), with 2^dimension local minima.

    The lowest is −39.166166·dimension where all x_i = −2.903534; the start is 0. Styblinski, Tang 1990.

    Parameters
    ----------
    dimension : positive int

    Raises
    ------
    InvalidProblem
        If the dimension is no positive integer.

    Examples
    --------
    >>> round(styblinski_tang().loss([-2.903534, -2.903534]), 6)
    -78.332331
    """
    x = coordinates(dimension)
    return SymbolicProblem(sum(u**4 - 16 * u**2 + 5 * u for u in x) / 2, x, default_start=[0.0] * len(x))


def two_layer_scalar(target: Any = 1) -> SymbolicProblem:
    """Return L = ½(w₁w₂ − y)², the smallest deep network; it is 0 on the hyperbola w₁w₂ = y.

    Gradient flow conserves w₁² − w₂² (Saxe, McClelland, Ganguli 2014, arXiv 1312.6120); the start
    (2, 1/4) is unbalanced.

    Parameters
    ----------
    target : real number y

    Raises
    ------
    InvalidProblem
        If the target is no real number.

    Examples
    --------
    >>> two_layer_scalar().field([2.0, 0.25]).tolist()
    [0.125, 1.0]
    """
    w1, w2 = sp.symbols("w1 w2")
    loss = (w1 * w2 - exact_number(target, "target")) ** 2 / 2
    return SymbolicProblem(loss, [w1, w2], default_start=[2.0, 0.25])


def deep_linear(
    widths: Sequence[int] = (4, 4, 4),
    *,
    target: Any = None,
    scale: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> TorchProblem:
    """Return L = ½‖W_N ⋯ W_1 − A‖², the loss of a deep linear network on whitened data (Saxe et al. 2014).

    Its minimum is 0 unless a layer is narrower than the rank of A. Gradient flow conserves W_k W_kᵀ − W_{k+1}ᵀ W_{k+1}.

    Parameters
    ----------
    widths : sequence of int
        Of input, hidden layers and output; layer k has the shape (widths[k], widths[k−1]).
    target : array, shape (widths[-1], widths[0]), optional
        A; by default a teacher of the same widths, drawn with scale 1, so that the minimum is 0.
    scale : positive number
        The first weights are normal with standard deviation scale/√inputs.
    seed : int
    dtype : torch.dtype

    Raises
    ------
    InvalidProblem
        If widths or the shape of the target do not fit.

    Examples
    --------
    >>> problem = deep_linear([3, 2, 4])
    >>> problem.size, problem.label(0)
    (14, '0.weight[0, 0]')
    """
    if not isinstance(widths, Sequence | np.ndarray) or len(widths) < 2:
        raise InvalidProblem(f"widths are {widths!r}: give at least two numbers, of inputs and outputs")
    widths = [whole(width, f"widths[{n}]", least=1) for n, width in enumerate(widths)]
    scale, generator = positive(scale, "scale"), torch.Generator().manual_seed(checked_seed(seed))
    shapes = [(outputs, inputs) for inputs, outputs in pairwise(widths)]
    weights = [normal(generator, *shape, std=scale * shape[1] ** -0.5, dtype=dtype) for shape in shapes]
    if target is None:
        teacher = [normal(generator, *shape, std=shape[1] ** -0.5) for shape in shapes]
        target = linear_layers(teacher)(torch.eye(widths[0], dtype=torch.float64)).detach().T
    try:
        target = torch.as_tensor(target, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidProblem(f"target is {target!r}: give an array of shape {widths[-1], widths[0]}") from error
    if tuple(target.shape) != (widths[-1], widths[0]):
        raise InvalidProblem(
            f"target has the shape {tuple(target.shape)}: give that of the network, {widths[-1], widths[0]}"
        )
    return whitened_fit(linear_layers(weights), target)


def matrix_factorisation(
    n: int = 4, m: int = 3, rank: int = 2, *, scale: float = 0.5, seed: int = 0, dtype: torch.dtype = torch.float64
) -> TorchProblem:
    """Return L = ½‖UVᵀ − A‖² for U of shape (n, rank), V of shape (m, rank) and A of that rank; its minimum is 0.

    A is the product of two normal matrices, divided by √rank. Gradient flow conserves UᵀU − VᵀV.

    Parameters
    ----------
    n, m, rank : positive int
    scale : positive number
        U and V start as normal numbers of this standard deviation.
    seed : int
        Of A, and of the start.
    dtype : torch.dtype

    Raises
    ------
    InvalidProblem
        If a size is no positive integer, or the rank exceeds n or m.

    Examples
    --------
    >>> matrix_factorisation(5, 4, 2).size
    18
    """
    n, m, rank = whole(n, "n", least=1), whole(m, "m", least=1), whole(rank, "rank", least=1)
    if rank > min(n, m):
        raise InvalidProblem(f"rank is {rank}: give at most the smaller of n = {n} and m = {m}")
    scale, generator = positive(scale, "scale"), torch.Generator().manual_seed(checked_seed(seed))
    left, right = (normal(generator, size, rank, std=scale, dtype=dtype) for size in (n, m))
    target = normal(generator, n, rank) @ normal(generator, m, rank).T / rank**0.5
    return whitened_fit(Factors(left, right), target.T.to(dtype))


def noisy_quadratic(
    eigenvalues: Sequence[Any] = (1, 10), noise: Any = 0.1, steps: int = 100, seed: int = 0
) -> QuadraticProblem:
    """Return ½ Σ λ_i θ_i² with the minibatch losses L(θ) + ⟨b_k, θ⟩, one for each of so many steps.

    The b_k are normal, uncorrelated, and centred so that the mean of the minibatches is L itself, a minimum 0 at 0 for
    a positive spectrum. The noisy quadratic model of Zhang et al. 2019 (arXiv 1907.04164).

    Parameters
    ----------
    eigenvalues : sequence of real numbers λ_i
    noise : number from 0, or a sequence of one for each eigenvalue
        The standard deviation of the entries of b_k.
    steps : int from 2
    seed : int

    Raises
    ------
    InvalidProblem

    Examples
    --------
    >>> problem = noisy_quadratic([1.0, 10.0], noise=0.5, steps=20)
    >>> problem.parts, problem.field([1.0, 1.0]).round(12).tolist()
    (20, [-1.0, -10.0])
    """
    values = np.array(spectrum(eigenvalues), dtype=np.float64)
    steps, generator = whole(steps, "steps", least=2), np.random.default_rng(checked_seed(seed))
    try:
        deviation = np.broadcast_to(np.asarray(noise, dtype=np.float64), values.shape)
    except (TypeError, ValueError) as error:
        raise InvalidProblem(f"noise is {noise!r}: give a number from 0, or {values.size} of them") from error
    if not np.all(np.isfinite(deviation)) or np.any(deviation < 0):
        raise InvalidProblem(f"noise is {noise!r}: give a number from 0, or {values.size} of them")
    drawn = generator.standard_normal((steps, values.size))
    # Centring takes the share 1/steps of the variance away; the factor restores it.
    centred = (drawn - drawn.mean(0)) * np.sqrt(steps / (steps - 1))
    return QuadraticProblem(np.diag(values), centred * deviation, default_start=np.ones(values.size))


def bilinear_game() -> VectorField:
    """Return the game min over x, max over y of x·y, with the equilibrium (0, 0), around which its flow circles.

    Examples
    --------
    >>> bilinear_game()
    VectorField((-y, x), [x, y], players=[[x], [y]])
    """
    x, y = coordinates(2)
    return VectorField([-y, x], [x, y], players=[[x], [y]], default_start=[1.0, 1.0])


def dirac_gan(penalty: Any = 0) -> VectorField:
    """Return the Dirac-GAN: generator x and discriminator y on data at 0, with the equilibrium (0, 0).

    With f(t) = −log(1 + exp(−t)) the generator lowers f(xy), which the discriminator raises, less the gradient
    penalty γy²/2. The Jacobian at the equilibrium has the eigenvalues (−γ ± √(γ² − 1))/2. Mescheder, Geiger, Nowozin
    2018 (arXiv 1801.04406).

    Parameters
    ----------
    penalty : real number γ from 0

    Raises
    ------
    InvalidProblem

    Examples
    --------
    >>> game = dirac_gan()
    >>> game.jacobian().subs({v: 0 for v in game.variables})
    Matrix([
    [  0, -1/2],
    [1/2,    0]])
    """
    gamma = exact_number(penalty, "penalty")
    if gamma < 0:
        raise InvalidProblem(f"penalty is {penalty!r}: give a number from 0")
    x, y = coordinates(2)
    # f'(t) = 1/(1 + exp(t)), written so that no exponential overflows.
    slope = (1 - sp.tanh(x * y / 2)) / 2
    return VectorField([-slope * y, slope * x - gamma * y], [x, y], players=[[x], [y]], default_start=[1.0, 1.0])


def linear_regression(
    data: str = "diabetes",
    *,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> TorchProblem:
    """Return L = ½ mean (w·x + b − y)², x and y standardised, on scikit-learn's diabetes data, from 0.

    Its minimum is the least-squares solution.

    Parameters
    ----------
    data : {"diabetes"}
        442 samples of 10 features.
    samples : int, optional
        Take the first so many.
    batch_size : int, optional
        Divide them into the minibatches of one epoch, in a random order; what does not fill one is left out.
    seed : int
        Of that order.
    dtype : torch.dtype

    Raises
    ------
    MissingDependency
        If scikit-learn is not installed.
    InvalidProblem

    Examples
    --------
    >>> problem = linear_regression(batch_size=50)
    >>> problem.size, problem.parts
    (11, 8)
    """
    one_of(data, ["diabetes"], "data")
    inputs, targets = loaders.diabetes(dtype=dtype)
    module = zero_linear(10, 1, dtype)
    return on_data(module, half_squared_error, (inputs, targets[:, None]), samples, batch_size, seed)


def logistic_regression(
    data: str = "breast cancer",
    *,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> TorchProblem:
    """Return L = mean log(1 + exp(−s(w·x + b))), s = ±1, on scikit-learn's breast cancer data, from 0.

    L(0) = log 2; it is convex.

    Parameters
    ----------
    data : {"breast cancer"}
        569 samples of 30 standardised features.
    samples, batch_size, seed, dtype : as in `linear_regression`

    Raises
    ------
    MissingDependency, InvalidProblem
        As `linear_regression`.

    Examples
    --------
    >>> problem = logistic_regression()
    >>> problem.size, round(problem.loss(problem.start()), 4)
    (31, 0.6931)
    """
    one_of(data, ["breast cancer"], "data")
    inputs, labels = loaders.breast_cancer(dtype=dtype)
    return on_data(zero_linear(30, 1, dtype), logistic_loss, (inputs, labels[:, None]), samples, batch_size, seed)


def softmax_regression(
    data: str = "digits",
    *,
    samples: int | None = 200,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> TorchProblem:
    """Return the cross-entropy of a linear classifier of the digits, from 0, where it is log 10; it is convex.

    Parameters
    ----------
    data : {"digits"}
        1437 standardised images of 64 pixels.
    samples : int, optional
        Take the first so many, None for all.
    batch_size, seed, dtype : as in `linear_regression`

    Raises
    ------
    MissingDependency, InvalidProblem
        As `linear_regression`.

    Examples
    --------
    >>> problem = softmax_regression()
    >>> problem.size, round(problem.loss(problem.start()), 4)
    (650, 2.3026)
    """
    one_of(data, ["digits"], "data")
    images, labels = loaders.digits("train", standardise=True, dtype=dtype)
    module = zero_linear(64, 10, dtype)
    return on_data(module, F.cross_entropy, (images.flatten(1), labels), samples, batch_size, seed)


def digits_mlp(
    *,
    widths: tuple[int, int] = (32, 16),
    activation: str = "relu",
    samples: int | None = 200,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> TorchProblem:
    """Return the cross-entropy of a network of three dense layers on the digits.

    Parameters
    ----------
    widths : (int, int)
        Numbers of hidden neurons.
    activation : {"relu", "tanh", "gelu", "softplus"}
        With another one than relu the loss is smooth.
    samples : int, optional
        Take the first so many of the 1437 standardised images, None for all.
    batch_size : int, optional
        Divide them into the minibatches of one epoch, in a random order; what does not fill one is left out.
    seed : int
        Of the weights, at which it starts, and of that order.
    dtype : torch.dtype

    Raises
    ------
    MissingDependency
        If scikit-learn is not installed.
    InvalidProblem

    Examples
    --------
    >>> digits_mlp(batch_size=50)
    TorchProblem(Sequential, 2778 parameters)
    """
    network = small.digits_mlp(checked_seed(seed), widths=widths, activation=activation, dtype=dtype)
    return on_digits(network, samples, batch_size, seed)


def digits_tanh(
    *,
    widths: tuple[int, int] = (16, 16),
    samples: int | None = 200,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> TorchProblem:
    """Return the cross-entropy of a small smooth network of three dense layers on the digits.

    Parameters
    ----------
    widths, samples, batch_size, seed, dtype : as in `digits_mlp`

    Examples
    --------
    >>> digits_tanh()
    TorchProblem(Sequential, 1482 parameters)
    """
    return on_digits(small.tanh_network(checked_seed(seed), widths=widths, dtype=dtype), samples, batch_size, seed)


def digits_cnn(
    *,
    channels: tuple[int, int] = (8, 16),
    batch_norm: bool = True,
    activation: str = "relu",
    samples: int | None = 200,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> TorchProblem:
    """Return the cross-entropy of a convolutional network on the digits.

    Batch norms normalise over the samples that a gradient is taken on, the minibatch or the full data: with them the
    loss is no mean over minibatches.

    Parameters
    ----------
    channels : (int, int)
        Width of the two convolutions; (128, 256) makes 300,000 parameters.
    batch_norm : bool
    activation, samples, batch_size, seed, dtype
        See `digits_mlp`.

    Examples
    --------
    >>> digits_cnn()
    TorchProblem(Sequential, 1922 parameters)
    >>> digits_cnn(batch_norm=False, activation="tanh")
    TorchProblem(Sequential, 1898 parameters)
    """
    network = small.digits_cnn(
        checked_seed(seed), channels=channels, batch_norm=batch_norm, activation=activation, dtype=dtype
    )
    return on_digits(network, samples, batch_size, seed)


def digits_vit(
    *,
    dim: int = 12,
    heads: int = 2,
    depth: int = 1,
    samples: int | None = 200,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> TorchProblem:
    """Return the cross-entropy of a small vision transformer on the digits, smooth in its parameters.

    Parameters
    ----------
    dim, heads, depth : int
        Width of the stream, attention heads, and blocks.
    samples, batch_size, seed, dtype
        See `digits_mlp`.

    Examples
    --------
    >>> digits_vit()
    TorchProblem(VisionTransformer, 1690 parameters)
    """
    dim = whole(dim, "dim", least=1)
    network = vision.digits_vit(checked_seed(seed), dim=dim, heads=heads, depth=depth, hidden=2 * dim, dtype=dtype)
    return on_digits(network, samples, batch_size, seed)


NAMES: dict[str, Callable[..., Problem]] = {
    "quadratic": quadratic,
    "noisy-quadratic": noisy_quadratic,
    "rosenbrock": rosenbrock,
    "himmelblau": himmelblau,
    "beale": beale,
    "styblinski-tang": styblinski_tang,
    "two-layer-scalar": two_layer_scalar,
    "deep-linear": deep_linear,
    "matrix-factorisation": matrix_factorisation,
    "bilinear-game": bilinear_game,
    "dirac-gan": dirac_gan,
    "linear-regression": linear_regression,
    "logistic-regression": logistic_regression,
    "softmax-regression": softmax_regression,
    "digits-mlp": digits_mlp,
    "digits-tanh": digits_tanh,
    "digits-cnn": digits_cnn,
    "digits-cnn-smooth": partial(digits_cnn, batch_norm=False, activation="tanh"),
    "digits-vit": digits_vit,
}


def by_name(name: str, seed: int | None = None) -> Problem:
    """Return the problem of a `name` in `NAMES`; a `seed` goes to those that draw anything, and is of no use to others.

    Raises
    ------
    InvalidProblem
        If there is no such name.

    Examples
    --------
    >>> by_name("rosenbrock").start().tolist()
    [-1.2, 1.0]
    >>> by_name("digits-tanh", seed=1)
    TorchProblem(Sequential, 1482 parameters)
    """
    if name not in NAMES:
        raise InvalidProblem(f"the problem is {choice(name, NAMES)}")
    build = NAMES[name]
    seeded = seed is not None and "seed" in inspect.signature(build).parameters
    return build(seed=seed) if seeded else build()
