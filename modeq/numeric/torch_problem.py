"""The loss of a torch module on data, as a problem in flat vectors."""

import copy
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, grad, jvp
from tqdm import tqdm

from modeq.errors import InvalidProblem
from modeq.numeric.pickling import pickled
from modeq.numeric.primitives import Elementary
from modeq.numeric.protocol import Vector, flat_start, named_start, whole
from modeq.numeric.torch_checks import (
    checked_batches,
    checked_module,
    first_line,
    flat_tensor,
    probe,
    require_open,
    sample_count,
    unsupported,
)


class TorchProblem:
    """L(θ) = loss_function(module(inputs), targets), θ the module's trainable parameters.

    Vectors of numpy give vectors of numpy in float64; tensors give tensors of the module's dtype on its device,
    without a way over the host.

    Parameters
    ----------
    module : torch.nn.Module
        Copied, so that the caller's module is never touched. Its dtype and device are kept; use float64
        (``module.double()``) where small errors matter.
    loss_function : callable of (output, targets)
        A mean over the samples.
    inputs, targets : tensors
        What `module` and `loss_function` take, of any shape; with batches or a chunk, samples along the first axis.
        Moved to the module's device when they are needed.
    batches : sequence of index tensors, each of shape (samples,), optional
        Step n of an optimizer sees ``batches[n % len(batches)]``, an `Epoch` of as many each of them in turn;
        flows, and optimizers without batches, the full data.
    chunk : positive integer, optional
        Compute loss, field and derivatives on the full data in so many samples at a time, and add the results
        in float64: where the full data do not fit into memory. Batches are never divided.

    Raises
    ------
    InvalidProblem
        If nothing is trainable, the loss is no finite scalar, or two evaluations of it or its gradient differ
        (dropout or other randomness): then the loss is no function of θ. With `chunk`, if the loss is no mean over
        samples.

    Examples
    --------
    >>> import modeq as mq, torch
    >>> module = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    >>> inputs, targets = torch.eye(2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    >>> problem = mq.TorchProblem(module, lambda y, t: ((y - t) ** 2).mean(), inputs, targets)
    >>> problem.field([1.0, -2.0]).tolist()
    [-1.0, 2.0]
    >>> problem.derivative(torch.tensor([1.0, -2.0]), [torch.tensor([3.0, 1.0])])
    tensor([-3., -1.], dtype=torch.float64)
    """

    def __init__(
        self,
        module: torch.nn.Module,
        loss_function: Callable[[Any, Any], torch.Tensor],
        inputs: Any,
        targets: Any,
        batches: Sequence[Any] | None = None,
        *,
        chunk: int | None = None,
    ) -> None:
        checked_module(module)
        if not callable(loss_function):
            raise InvalidProblem(f"loss_function is {loss_function!r}: give a callable of (output, targets)")
        try:
            self.module = copy.deepcopy(module)
        except Exception as error:
            raise InvalidProblem(
                f"{type(module).__name__} cannot be copied ({first_line(error)}): for weight norm, use "
                "torch.nn.utils.parametrizations.weight_norm"
            ) from error
        self.loss_function = loss_function
        self.inputs, self.targets = inputs, targets
        self.batches = None if batches is None else self._index_tensors(batches)
        self.chunk = None if chunk is None else whole(chunk, "chunk", least=1)
        if chunk is not None:
            sample_count(inputs, targets, "chunk")
        self._read_module()
        self._own = self.flat_parameters(self.module)
        probe(self)

    def _read_module(self) -> None:
        trainable = checked_module(self.module)
        self._names = [name for name, _ in trainable]
        self._shapes = [tuple(p.shape) for _, p in trainable]
        self._sizes = [p.numel() for _, p in trainable]
        self.dtype, self.device = trainable[0][1].dtype, trainable[0][1].device
        self._frozen = {n: p.detach() for n, p in self.module.named_parameters() if not p.requires_grad}
        self._buffers = dict(self.module.named_buffers())

    def _index_tensors(self, batches: Any) -> list[torch.Tensor]:
        return checked_batches(batches, sample_count(self.inputs, self.targets, "batches"), self.targets.device)

    @property
    def epsilon(self) -> float:
        """The relative rounding of the module's dtype."""
        return float(torch.finfo(self.dtype).eps)

    @property
    def size(self) -> int:
        """The number of trainable parameters."""
        return sum(self._sizes)

    def start(self, start: Any = None) -> Vector:
        """Return a start as a flat vector: None for the module's own parameters, a dict of arrays, or a vector."""
        if start is None:
            return self._own.copy()
        if isinstance(start, Mapping):
            return named_start(start, self._names, self._shapes)
        return flat_start(start, self.size)

    def named(self, theta: Any) -> dict[str, torch.Tensor]:
        """Split a flat tensor `theta` into the module's parameters."""
        parts = theta.split(self._sizes)
        return {n: p.reshape(shape) for n, p, shape in zip(self._names, parts, self._shapes, strict=True)}

    def native(self, theta: Any) -> Any:
        """Return θ as a tensor of the module's dtype on its device; for float64 on the CPU θ itself."""
        if self.dtype == torch.float64 and self.device.type == "cpu":
            return theta
        return self._tensor(theta)

    def label(self, index: int) -> str:
        """Return the parameter's name and the indices of the entry."""
        for name, shape, size in zip(self._names, self._shapes, self._sizes, strict=True):
            if index < size:
                return f"{name}{[int(i) for i in np.unravel_index(index, shape)]}"
            index -= size
        raise IndexError(index)

    @property
    def parts(self) -> int:
        """The number of batches, 1 without."""
        return 1 if self.batches is None else len(self.batches)

    def data(self, batch: Any = None) -> tuple[Any, Any]:
        """Return inputs and targets on the module's device, all of them or the samples `batch`."""
        inputs, targets = (self._moved(x, batch) for x in (self.inputs, self.targets))
        return inputs, targets

    def checked_batches(self, batches: Any = None) -> Sequence[Any] | None:
        """Return the samples that each step sees, in turn: the module's own batches by default."""
        return self.batches if batches is None else self._index_tensors(batches)

    def of_batch(self, batch: Any) -> "TorchProblem":
        """Return the problem on the samples `batch` alone; it shares the module."""
        problem = copy.copy(self)
        problem.inputs, problem.targets = self.data(batch)
        problem.batches = problem.chunk = None
        return problem

    def loss(self, theta: Vector) -> float:
        """L(θ) on the full data."""
        flat = self._tensor(theta)
        with torch.no_grad():
            return float(self._mean(lambda inputs, targets: self.loss_tensor(flat, inputs, targets)))

    def field(self, theta: Any, part: int | None = None) -> Any:
        """−∇L(θ), on the full data, or on batch number `part`.

        Raises
        ------
        InvalidProblem
            If θ is no vector of as many numbers as there are parameters.
        """
        flat = self._tensor(theta)

        def negative_gradient(inputs: Any, targets: Any) -> torch.Tensor:
            leaf = flat.detach().requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(self.loss_tensor(leaf, inputs, targets), leaf)
            return -gradient

        return self._like(theta, self._mean(negative_gradient, self._batch(part)))

    def derivative(self, theta: Any, vectors: Sequence[Any], part: int | None = None) -> Any:
        """f⁽ᵐ⁾(θ)[v₁, …, v_m] by nested forward mode over the gradient, on the full data or on batch number `part`.

        Norms, attention and others run as elementary operations meanwhile, see `Elementary`: the rules of torch for
        their fused kernels end with the second derivative, and give wrong third ones.

        Raises
        ------
        InvalidProblem
            If torch cannot differentiate an operation, if the module or the loss function is compiled or scripted,
            or if θ or a vector is not of the problem's size.
        """
        if len(vectors) == 0:
            return self.field(theta, part)
        require_open(self.module, self.loss_function)
        flat, directions = self._tensor(theta), [self._tensor(vector, "a direction") for vector in vectors]

        def derivative(inputs: Any, targets: Any) -> torch.Tensor:
            def loss(point: torch.Tensor) -> torch.Tensor:
                with Elementary():
                    return self.loss_tensor(point, inputs, targets)

            function: Callable[[torch.Tensor], torch.Tensor] = grad(loss)
            for direction in directions:
                function = _directional(function, direction)
            return -function(flat)

        try:
            with warnings.catch_warnings():
                # torch compiles helpers with its own deprecated script compiler at the first forward derivative.
                warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
                return self._like(theta, self._mean(derivative, self._batch(part)).detach())
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise unsupported(error, len(vectors) + 1) from error

    def torch_module(self, theta: Any) -> torch.nn.Module:
        """Return a copy of the module with the parameters `theta`."""
        module = copy.deepcopy(self.module)
        values = self.named(self._tensor(theta))
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name in values:
                    parameter.copy_(values[name])
        return module

    def flat_parameters(self, module: torch.nn.Module) -> Vector:
        """Return the trainable parameters of a copy `module` of the module as a flat vector."""
        values = dict(module.named_parameters())
        return self._numpy(torch.cat([values[name].detach().reshape(-1) for name in self._names]))

    def loss_tensor(self, flat: torch.Tensor, inputs: Any, targets: Any) -> torch.Tensor:
        """L on `inputs` and `targets`, as a tensor that can be differentiated with respect to the `flat` parameters."""
        # Norms write running statistics in place: each call gets copies.
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        state = {**self.named(flat), **self._frozen, **buffers}
        loss = self.loss_function(functional_call(self.module, state, (inputs,)), targets)
        return loss.reshape(()) if isinstance(loss, torch.Tensor) and loss.numel() == 1 else loss

    def _mean(self, function: Callable[[Any, Any], torch.Tensor], batch: Any = None) -> torch.Tensor:
        """The function of a batch, or of the full data: in chunks, with weights and in float64 if asked for."""
        if batch is not None or self.chunk is None:
            return function(*self.data(batch))
        count = len(self.targets)
        total: Any = 0.0
        for first in tqdm(range(0, count, self.chunk), "full data", disable=None, leave=False, delay=2):
            last = min(first + self.chunk, count)
            total = total + function(*self.data(slice(first, last))).to(torch.float64) * ((last - first) / count)
        return total

    def _moved(self, data: Any, batch: Any) -> Any:
        if batch is not None:
            data = data[batch.to(data.device) if isinstance(batch, torch.Tensor) else batch]
        return data.to(self.device) if isinstance(data, torch.Tensor) else data

    def _batch(self, part: int | None) -> Any:
        return None if part is None or self.batches is None else self.batches[part]

    def _tensor(self, theta: Any, what: str = "theta") -> torch.Tensor:
        """Return a vector as a tensor of the module's dtype on its device."""
        return flat_tensor(theta, self.size, what).to(dtype=self.dtype, device=self.device)

    def _like(self, theta: Any, result: torch.Tensor) -> Any:
        return result.to(self.dtype) if isinstance(theta, torch.Tensor) else self._numpy(result)

    def _numpy(self, tensor: torch.Tensor) -> Vector:
        return tensor.detach().to(torch.float64).cpu().numpy()

    def __copy__(self) -> "TorchProblem":
        problem = object.__new__(type(self))
        problem.__dict__.update(self.__dict__)
        return problem

    def __deepcopy__(self, memo: dict[int, Any]) -> "TorchProblem":
        problem = object.__new__(type(self))
        problem.__dict__.update(copy.deepcopy(self.__dict__, memo))
        problem._read_module()
        return problem

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("_frozen", "_buffers")}
        for name in ("loss_function", "module"):
            state[name] = pickled(state[name], name)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        unpickled = {name: pickle.loads(state[name]) for name in ("loss_function", "module")}
        self.__dict__.update(state, **unpickled)
        self._read_module()

    def __repr__(self) -> str:
        return f"TorchProblem({type(self.module).__name__}, {self.size} parameters)"


def _directional(
    function: Callable[[torch.Tensor], torch.Tensor], vector: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda theta: jvp(function, (theta,), (vector,))[1]
