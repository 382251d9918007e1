"""The loss of a torch module on data, as a problem in flat float64 vectors."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, grad, jvp

from modeq.errors import InvalidProblem
from modeq.numeric.protocol import Vector, flat_start, named_start

# Their fused kernels give wrong third derivatives under nested differentiation.
_WRONG_THIRD_DERIVATIVES = (
    torch.nn.modules.batchnorm._BatchNorm,
    torch.nn.modules.instancenorm._InstanceNorm,
    torch.nn.LayerNorm,
)


class TorchProblem:
    """L(θ) = loss_function(module(inputs), targets), θ the module's trainable parameters.

    Parameters
    ----------
    module : torch.nn.Module
        Copied, so that the caller's module is never touched. Its dtype and device are kept; use float64
        (``module.double()``) where small errors matter.
    loss_function : callable of (output, targets)
        A mean over the samples.
    inputs, targets : tensors
    batches : sequence of index tensors, optional
        Step n of an optimizer sees ``batches[n % len(batches)]``, an `Epoch` of as many each of them in turn;
        flows, and optimizers without batches, the full data.

    Raises
    ------
    InvalidProblem
        If nothing is trainable, the loss is no finite scalar, or two evaluations differ (dropout or
        other randomness): then the loss is no function of θ.

    Examples
    --------
    >>> import modeq as mq, torch
    >>> module = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    >>> inputs, targets = torch.eye(2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    >>> problem = mq.TorchProblem(module, lambda y, t: ((y - t) ** 2).mean(), inputs, targets)
    >>> problem.field([1.0, -2.0]).tolist()
    [-1.0, 2.0]
    """

    def __init__(
        self,
        module: torch.nn.Module,
        loss_function: Callable[[Any, Any], torch.Tensor],
        inputs: Any,
        targets: Any,
        batches: Sequence[Any] | None = None,
    ) -> None:
        if not isinstance(module, torch.nn.Module):
            raise InvalidProblem(f"module is {module!r}: give a torch.nn.Module")
        lazy = [n for n, p in module.named_parameters() if isinstance(p, torch.nn.parameter.UninitializedParameter)]
        if lazy:
            raise InvalidProblem(f"the parameters {lazy} have no shape yet: run the module once on its inputs")
        self.module = copy.deepcopy(module)
        self.loss_function = loss_function
        self.inputs, self.targets = inputs, targets
        self.batches = None if batches is None else checked_batches(batches, len(targets))
        trainable = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        if not trainable:
            raise InvalidProblem(f"{type(module).__name__} has no trainable parameter")
        self._names = [name for name, _ in trainable]
        self._shapes = [tuple(p.shape) for _, p in trainable]
        self._sizes = [p.numel() for _, p in trainable]
        if any(p.is_complex() for _, p in trainable):
            raise InvalidProblem(f"{type(module).__name__} has complex parameters: split them into real parts")
        kinds = {(p.dtype, p.device) for _, p in trainable}
        if len(kinds) > 1:
            raise InvalidProblem(
                f"{type(module).__name__} has parameters of several dtypes or devices, {sorted(map(str, kinds))}: "
                "convert it to one, with module.double() for instance"
            )
        self._dtype, self._device = trainable[0][1].dtype, trainable[0][1].device
        self._own = torch.cat([p.detach().reshape(-1).to(torch.float64).cpu() for _, p in trainable]).numpy()
        self._frozen = {n: p.detach() for n, p in self.module.named_parameters() if not p.requires_grad}
        self._buffers = dict(self.module.named_buffers())
        self._probe()

    def _probe(self) -> None:
        flat = self._tensor(self._own).requires_grad_()
        try:
            first = self._loss_tensor(flat, self.inputs, self.targets)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InvalidProblem(
                f"the loss of {type(self.module).__name__} ({self._dtype}) cannot be computed on inputs "
                f"{_described(self.inputs)} and targets {_described(self.targets)}: {str(error).splitlines()[0]}"
            ) from error
        if not isinstance(first, torch.Tensor):
            raise InvalidProblem(f"the loss function returns {first!r}: it must return a tensor with one number")
        if first.numel() != 1:
            raise InvalidProblem(f"the loss function returns shape {tuple(first.shape)}: it must return one number")
        if not first.requires_grad:
            raise InvalidProblem("the loss does not depend on the parameters, or was detached from them")
        first = first.detach()
        second = self._loss_tensor(self._tensor(self._own), self.inputs, self.targets)
        if not torch.isfinite(first).all():
            raise InvalidProblem(f"the loss at the module's own parameters is {float(first)}")
        if not torch.equal(first, second):
            raise InvalidProblem(
                f"two evaluations of the loss differ ({float(first)!r} and {float(second)!r}): switch dropout and "
                "other randomness off, with module.eval() for instance"
            )

    @property
    def epsilon(self) -> float:
        """The relative rounding of the module's dtype."""
        return float(torch.finfo(self._dtype).eps)

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
        """Split a flat tensor into the module's parameters."""
        parts = theta.split(self._sizes)
        return {n: p.reshape(shape) for n, p, shape in zip(self._names, parts, self._shapes, strict=True)}

    def loss(self, theta: Vector) -> float:
        """L(θ) on the full data."""
        with torch.no_grad():
            return float(self._loss_tensor(self._tensor(theta), self.inputs, self.targets))

    @property
    def parts(self) -> int:
        """The number of batches, 1 without."""
        return 1 if self.batches is None else len(self.batches)

    def data(self, batch: Any = None) -> tuple[Any, Any]:
        """Return inputs and targets, all of them or the samples `batch`."""
        return (self.inputs, self.targets) if batch is None else (self.inputs[batch], self.targets[batch])

    def native(self, theta: Any) -> Any:
        """Return θ as a tensor of the module's dtype on its device; for float64 on the CPU θ itself."""
        if self._dtype == torch.float64 and self._device.type == "cpu":
            return theta
        return self._tensor(theta)

    def label(self, index: int) -> str:
        """Return the parameter's name and the indices of the entry."""
        for name, shape, size in zip(self._names, self._shapes, self._sizes, strict=True):
            if index < size:
                return f"{name}{[int(i) for i in np.unravel_index(index, shape)]}"
            index -= size
        raise IndexError(index)

    def checked_batches(self, batches: Any = None) -> Sequence[Any] | None:
        """Return the samples that each step sees, in turn: the module's own batches by default."""
        return self.batches if batches is None else checked_batches(batches, len(self.targets))

    def of_batch(self, batch: Any) -> "TorchProblem":
        """Return the problem on the samples `batch` alone; it shares the module."""
        problem = copy.copy(self)
        problem.inputs, problem.targets = self.data(batch)
        problem.batches = None
        return problem

    def _batch(self, part: int | None) -> Any:
        return None if part is None or self.batches is None else self.batches[part]

    def field(self, theta: Vector, part: int | None = None, batch: Any = None) -> Vector:
        """−∇L(θ), on the full data, on batch number `part`, or on the samples `batch`."""
        inputs, targets = self.data(self._batch(part) if batch is None else batch)
        flat = self._tensor(theta).requires_grad_()
        (gradient,) = torch.autograd.grad(self._loss_tensor(flat, inputs, targets), flat)
        return self._numpy(-gradient)

    def derivative(self, theta: Vector, vectors: Sequence[Vector], part: int | None = None) -> Vector:
        """f⁽ᵐ⁾(θ)[v₁, …, v_m] by nested forward mode over the gradient, on the full data or on batch number `part`.

        Raises
        ------
        InvalidProblem
            If torch cannot differentiate an operation, or is known to do it wrongly.
        """
        if not vectors:
            return self.field(theta, part)
        inputs, targets = self.data(self._batch(part))
        if len(vectors) > 1 and any(isinstance(m, _WRONG_THIRD_DERIVATIVES) for m in self.module.modules()):
            raise InvalidProblem(
                "the module has batch, instance or layer norms, whose fused kernels give wrong third derivatives: use "
                "field='gradients' and initial_layer=1"
            )

        def negative_gradient(flat: torch.Tensor) -> torch.Tensor:
            return -grad(lambda t: self._loss_tensor(t, inputs, targets))(flat)

        function = negative_gradient
        for vector in vectors:
            function = _directional(function, self._tensor(vector))
        try:
            with warnings.catch_warnings():
                # torch compiles helpers with its own deprecated script compiler at the first forward derivative.
                warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
                return self._numpy(function(self._tensor(theta)))
        except (RuntimeError, NotImplementedError) as error:
            raise InvalidProblem(
                f"torch cannot take derivative {len(vectors) + 1} of this loss ({str(error).splitlines()[0]}); write "
                "the operation with elementary ones, for a mean squared error ((output - target) ** 2).mean()"
            ) from error

    def torch_module(self, theta: Vector) -> torch.nn.Module:
        """Return a copy of the module with the parameters θ."""
        module = copy.deepcopy(self.module)
        values = self.named(self._tensor(theta))
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name in values:
                    parameter.copy_(values[name])
        return module

    def flat_parameters(self, module: torch.nn.Module) -> Vector:
        """Return the trainable parameters of a copy of the module as a flat vector."""
        values = dict(module.named_parameters())
        return self._numpy(torch.cat([values[name].detach().reshape(-1) for name in self._names]))

    def _loss_tensor(self, flat: torch.Tensor, inputs: Any, targets: Any) -> torch.Tensor:
        # Normalisation layers write running statistics in place: each call gets copies.
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        state = {**self.named(flat), **self._frozen, **buffers}
        return self.loss_function(functional_call(self.module, state, (inputs,)), targets)

    def _tensor(self, theta: Vector) -> torch.Tensor:
        return torch.as_tensor(np.asarray(theta, dtype=np.float64)).to(dtype=self._dtype, device=self._device)

    def _numpy(self, tensor: torch.Tensor) -> Vector:
        return tensor.detach().to(torch.float64).cpu().numpy()

    def __repr__(self) -> str:
        return f"TorchProblem({type(self.module).__name__}, {self.size} parameters)"


def checked_batches(batches: Any, samples: int) -> list[torch.Tensor]:
    """Return batches as index tensors; refuse empty ones, and indices that are no integers or out of range."""
    checked = []
    for n, batch in enumerate(batches):
        try:
            index = torch.as_tensor(batch)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidProblem(f"batch {n} is {batch!r}: give a tensor of sample indices") from error
        integers = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
        if index.dim() != 1 or not integers:
            raise InvalidProblem(f"batch {n} has dtype {index.dtype} and {index.dim()} axes: give a row of integers")
        if index.numel() == 0 or int(index.min()) < 0 or int(index.max()) >= samples:
            raise InvalidProblem(f"batch {n} is empty or has an index outside 0 to {samples - 1}: {index.tolist()[:8]}")
        checked.append(index)
    if not checked:
        raise InvalidProblem("batches is empty: give at least one batch, or None for the full data")
    return checked


def _described(data: Any) -> str:
    return f"{data.dtype} of shape {tuple(data.shape)}" if isinstance(data, torch.Tensor) else type(data).__name__


def _directional(
    function: Callable[[torch.Tensor], torch.Tensor], vector: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda theta: jvp(function, (theta,), (vector,))[1]
