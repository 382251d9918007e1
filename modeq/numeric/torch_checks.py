"""What is checked of a torch module, its loss and its data before anything is computed with them."""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from modeq.errors import InvalidProblem, ModeqError


def checked_module(module: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """Return the names and values of the trainable parameters of a module that can be flattened.

    Raises
    ------
    InvalidProblem
        If there is none, or one without a shape, or complex ones, or of several dtypes or devices.

    Examples
    --------
    >>> [name for name, _ in checked_module(torch.nn.Linear(2, 1))]
    ['weight', 'bias']
    """
    if not isinstance(module, torch.nn.Module):
        raise InvalidProblem(f"module is {module!r}: give a torch.nn.Module")
    lazy = [n for n, p in module.named_parameters() if isinstance(p, torch.nn.parameter.UninitializedParameter)]
    if lazy:
        raise InvalidProblem(f"the parameters {lazy} have no shape yet: run the module once on its inputs")
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not trainable:
        raise InvalidProblem(f"{type(module).__name__} has no trainable parameter: let one require gradients")
    if any(p.is_complex() for _, p in trainable):
        raise InvalidProblem(f"{type(module).__name__} has complex parameters: split them into real parts")
    kinds = {(p.dtype, p.device) for _, p in trainable}
    if len(kinds) > 1:
        raise InvalidProblem(
            f"{type(module).__name__} has parameters of several dtypes or devices, {sorted(map(str, kinds))}: "
            "convert it to one, with module.double() for instance"
        )
    return trainable


def checked_batches(batches: Any, samples: int, device: torch.device | None = None) -> list[torch.Tensor]:
    """Return batches as index tensors on a device, those of integers within the range of the samples.

    Raises
    ------
    InvalidProblem

    Examples
    --------
    >>> checked_batches([[0, 2], [1]], 3)
    [tensor([0, 2]), tensor([1])]
    """
    try:
        listed = list(batches)
    except TypeError as error:
        raise InvalidProblem(f"batches are {batches!r}: give a sequence of tensors of sample indices") from error
    checked = []
    for n, batch in enumerate(listed):
        try:
            index = torch.as_tensor(batch)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidProblem(f"batch {n} is {batch!r}: give a tensor of sample indices") from error
        integers = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
        if index.dim() != 1 or (index.numel() and not integers):
            raise InvalidProblem(f"batch {n} has dtype {index.dtype} and {index.dim()} axes: give a row of integers")
        if index.numel() == 0 or int(index.min()) < 0 or int(index.max()) >= samples:
            raise InvalidProblem(f"batch {n} is empty or has an index outside 0 to {samples - 1}: {index.tolist()[:8]}")
        checked.append(index.to(device))
    if not checked:
        raise InvalidProblem("batches is empty: give at least one batch, or None for the full data")
    return checked


def sample_count(inputs: Any, targets: Any, why: str) -> int:
    """Return how many samples two tensors have along their first axis.

    Raises
    ------
    InvalidProblem
        If they are no tensors, or not of one number of samples; `why` says what needs it.

    Examples
    --------
    >>> sample_count(torch.zeros(5, 2), torch.zeros(5), "chunk")
    5
    """
    for name, data in (("inputs", inputs), ("targets", targets)):
        if not isinstance(data, torch.Tensor) or data.dim() == 0:
            raise InvalidProblem(
                f"{name} are {described(data)}: {why} divides the samples, give tensors with the samples along axis 0"
            )
    if len(inputs) != len(targets):
        raise InvalidProblem(f"there are {len(inputs)} inputs and {len(targets)} targets: give as many of both")
    return len(targets)


def flat_tensor(theta: Any, size: int, what: str) -> torch.Tensor:
    """Return a vector of so many real numbers as a tensor, one of numpy in float64, or raise `InvalidProblem`.

    Examples
    --------
    >>> flat_tensor([1, 2], 2, "theta")
    tensor([1., 2.], dtype=torch.float64)
    """
    if not isinstance(theta, torch.Tensor):
        try:
            array = np.asarray(theta)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidProblem(f"{what} is {theta!r}: give {size} numbers") from error
        if array.dtype.kind not in "iuf":
            raise InvalidProblem(f"{what} has dtype {array.dtype}: give {size} real numbers")
        # A tensor cannot share the memory of an array that is read-only or runs backwards.
        theta = torch.as_tensor(np.require(array, np.float64, ["C", "W"]))
    elif theta.is_complex() or theta.dtype == torch.bool:
        raise InvalidProblem(f"{what} has dtype {theta.dtype}: give {size} real numbers")
    if theta.shape != (size,):
        raise InvalidProblem(f"{what} has shape {tuple(theta.shape)}: give a vector of {size} numbers")
    return theta.detach()


def described(data: Any) -> str:
    """Return dtype and shape of a tensor, or the type of anything else.

    Examples
    --------
    >>> described(torch.zeros(2, 3)), described([1])
    ('torch.float32 of shape (2, 3)', 'list')
    """
    return f"{data.dtype} of shape {tuple(data.shape)}" if isinstance(data, torch.Tensor) else type(data).__name__


@contextmanager
def same_random_state(device: torch.device) -> Iterator[None]:
    """Leave the random states of torch (on the CPU and the device), numpy and Python as they were.

    Examples
    --------
    >>> before = torch.get_rng_state()
    >>> with same_random_state(torch.device("cpu")):
    ...     _ = torch.rand(3)
    >>> bool((before == torch.get_rng_state()).all())
    True
    """
    devices = [device] if device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state of others is kept
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def probe(problem: Any) -> None:
    """Check that the loss of a `TorchProblem` is one finite number and a function of the parameters.

    Loss and gradient are taken twice, at the module's own parameters. The random state is left alone.

    Raises
    ------
    InvalidProblem

    Examples
    --------
    >>> import modeq as mq
    >>> module = torch.nn.Linear(2, 1)
    >>> probe(mq.TorchProblem(module, torch.nn.functional.mse_loss, torch.ones(3, 2), torch.ones(3, 1)))
    """
    with same_random_state(problem.device):
        first, gradient = _evaluated(problem)
        second, again = _evaluated(problem)
        if not torch.isfinite(first):
            raise InvalidProblem(
                f"the loss at the module's own parameters is {float(first)}: give data and parameters at which it is "
                "finite"
            )
        rounding = 64 * problem.epsilon
        # Kernels of a GPU may add in any order, so that only what exceeds rounding counts.
        scale = float(gradient.abs().max()) + (float(first.abs()) if problem.device.type != "cpu" else 0.0)
        if not torch.isclose(first, second, rtol=rounding, atol=0):
            shown = f"the loss differ ({float(first)!r} and {float(second)!r})"
        elif not torch.allclose(gradient, again, rtol=0, atol=rounding * scale, equal_nan=True):
            shown = f"the gradient differ by {float((gradient - again).abs().max()):.3g}"
        else:
            shown = ""
        if shown:
            raise InvalidProblem(
                f"two evaluations of {shown}: switch dropout and other randomness off, with module.eval() for instance"
            )
        if problem.chunk is not None:
            _probe_chunks(problem)
        if problem.batches is not None:
            _evaluated(problem, min(problem.batches, key=len))


def _evaluated(problem: Any, samples: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and its gradient at the module's own parameters; on the first chunk where there are chunks."""
    if samples is None and problem.chunk is not None:
        samples = slice(0, problem.chunk)
    flat = torch.as_tensor(problem.start()).to(device=problem.device, dtype=problem.dtype).requires_grad_()
    try:
        with torch.enable_grad():
            loss = problem.loss_tensor(flat, *problem.data(samples))
            _require_one_number(loss)
            (gradient,) = torch.autograd.grad(loss, flat)
    except (ModeqError, Warning, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InvalidProblem(
            f"the loss of {type(problem.module).__name__} ({problem.dtype}) cannot be computed on inputs "
            f"{described(problem.inputs)} and targets {described(problem.targets)}: {first_line(error)}"
        ) from error
    return loss.detach().to(torch.float64), gradient.to(torch.float64)


def _require_one_number(loss: Any) -> None:
    if not isinstance(loss, torch.Tensor):
        raise InvalidProblem(f"the loss function returns {loss!r}: it must return a tensor with one number")
    if loss.numel() != 1:
        raise InvalidProblem(f"the loss function returns shape {tuple(loss.shape)}: it must return one number")
    if not loss.requires_grad:
        raise InvalidProblem(
            "the loss does not depend on the parameters, or was detached from them: compute it from the module's output"
        )
    if not loss.is_floating_point():
        raise InvalidProblem(f"the loss function returns a number of {loss.dtype}: it must be a real one")


def _probe_chunks(problem: Any) -> None:
    """Compare the weighted mean over two chunks of some samples with their union, in loss and gradient."""
    count = len(problem.targets)
    size = min(count, max(2, problem.chunk))
    chosen = torch.arange(size, device=problem.targets.device) * count // size  # spread, for data in order of classes
    halves = [chosen[: (size + 1) // 2], chosen[(size + 1) // 2 :]]
    if size < 2:
        return
    union = _evaluated(problem, chosen)
    chunks = [(len(half) / size, _evaluated(problem, half)) for half in halves]
    tolerance = min(1e3 * problem.epsilon, 1e-2)
    floor = max(float(value[0].abs()) for _, value in chunks)
    for k, what in enumerate(("loss", "gradient")):
        mean = sum(weight * value[k] for weight, value in chunks)
        scale = max(float(value[k].abs().max()) for _, value in chunks) + k * problem.epsilon * floor
        error = float((mean - union[k]).abs().max())
        if error > tolerance * scale:
            raise InvalidProblem(
                f"chunk is {problem.chunk}, but the mean of the {what} over two chunks of samples differs from that of "
                f"both together, by {error / scale:.2g} of it: take a mean over samples as the loss, put batch norm "
                "into evaluation mode with module.eval(), or leave chunk out"
            )


def require_open(module: torch.nn.Module, loss_function: Any) -> None:
    """Raise `InvalidProblem` if a module or a loss function hides its operations, so that none can be replaced.

    Examples
    --------
    >>> require_open(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss)
    """
    scripted = (torch.jit.ScriptModule, torch.jit.ScriptFunction)
    for part in (*module.modules(), loss_function):
        if isinstance(part, scripted) or hasattr(part, "_orig_mod") or hasattr(part, "_torchdynamo_orig_callable"):
            raise InvalidProblem(
                f"{type(part).__name__} is compiled or scripted, and hides fused operations whose third derivatives "
                "are wrong in torch: give the original module and loss function, or use field='gradients'"
            )


def unsupported(error: Exception, order: int) -> InvalidProblem:
    """Return the error that says which operation torch cannot differentiate so often, and what to do.

    Examples
    --------
    >>> str(unsupported(RuntimeError("Trying to use forward AD with _cdist_forward that does not support it"), 2))[:60]
    'torch cannot take derivative 2 of this loss, it has no rule '
    """
    found = re.search(r"(?:forward AD with|derivative for|No forward AD.* for) '?([\w:.]+)", str(error))
    named = f", it has no rule for {found[1]}" if found else ""
    return InvalidProblem(
        f"torch cannot take derivative {order} of this loss{named} ({first_line(error)}): write the operation with "
        "elementary ones, or use field='gradients', which needs gradients only"
    )


def first_line(error: Exception) -> str:
    r"""Return the first line of an error's message, or its type's name.

    Examples
    --------
    >>> first_line(ValueError("one\ntwo")), first_line(ValueError())
    ('one', 'ValueError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]
