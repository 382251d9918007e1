"""A network and its loss as a graph of torch's own operations."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeq.errors import InvalidCharge


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return torch's cross-entropy; of tokens, (batch, tokens, classes) and labels (batch, tokens), over all of them.

    Examples
    --------
    >>> labels = torch.tensor([[0, 1, 1]])
    >>> round(float(cross_entropy(torch.zeros(1, 3, 2), labels)), 4)
    0.6931
    """
    if output.dim() == 3 and target.shape == output.shape[:2] and not target.is_floating_point():
        return F.cross_entropy(output.flatten(0, 1), target.flatten())
    return F.cross_entropy(output, target)


LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {"cross_entropy": cross_entropy, "mse": F.mse_loss}


def loss_function(loss: Any) -> Callable[[Any, Any], Tensor]:
    """Return a loss, given by its name or as a callable on (output, target).

    Raises
    ------
    InvalidCharge

    Examples
    --------
    >>> loss_function("mse") is F.mse_loss
    True
    """
    if callable(loss):
        return loss  # type: ignore[no-any-return]
    if not isinstance(loss, str) or loss not in LOSSES:
        raise InvalidCharge(f"loss is {loss!r}: give one of {list(LOSSES)}, or a callable on (output, target)")
    return LOSSES[loss]


@dataclass(frozen=True, eq=False)
class Traced:
    """The graph of a module with its loss.

    Attributes
    ----------
    nodes : the nodes of a `torch.fx.Graph`, in the order of execution
    parameters : placeholder's name -> the parameter's name; a tied one has one name
    frozen : names of the parameters without a gradient
    buffers : placeholder's name -> a buffer
    """

    nodes: list[torch.fx.Node]
    parameters: dict[str, str]
    frozen: frozenset[str]
    buffers: dict[str, Tensor]

    def module_of(self, node: torch.fx.Node) -> str:
        """Return the path of the submodule that a node belongs to, and its class."""
        stack = node.meta.get("nn_module_stack") or {}
        paths = [(path, kind) for path, kind in stack.values() if path.startswith("module.")]
        if not paths:
            return str(node)
        path, kind = paths[-1]
        return f"{path.removeprefix('module.')} ({str(kind).rsplit('.', 1)[-1]})"


class _WithLoss(nn.Module):
    def __init__(self, module: nn.Module, loss: Callable[[Any, Any], Tensor] | None) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, inputs: tuple[Any, ...], target: Any) -> Any:
        output = self.module(*inputs)
        return output if self.loss is None else self.loss(output, target)


def trace(module: nn.Module, example_input: Any, loss: Any, target: Any = None) -> Traced:
    """Trace a module with its loss; weights, buffers and the random state stay as they are.

    Parameters
    ----------
    module : nn.Module
    example_input : tensor, or tuple of the arguments of ``forward``
    loss : "cross_entropy", "mse", a callable on (output, target), or None for the output itself
    target : what a callable loss takes beside the output

    Raises
    ------
    InvalidCharge
    """
    if not isinstance(module, nn.Module):
        raise InvalidCharge(f"module is {module!r}: give the network, a torch.nn.Module")
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    if not all(isinstance(value, Tensor) for value in inputs):
        raise InvalidCharge(f"example_input is {example_input!r}: give a tensor, or a tuple of tensors")
    random = torch.random.get_rng_state()
    try:
        function, target = _loss(module, inputs, loss, target)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own tracer
            exported = torch.export.export(_WithLoss(module, function), (inputs, target), strict=False)
    except InvalidCharge:
        raise
    except Exception as error:  # whatever a user's forward raises
        shapes = [tuple(value.shape) for value in inputs]
        raise InvalidCharge(
            f"{type(module).__name__} cannot be traced on example_input of the shapes {shapes}: "
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        ) from error
    finally:
        torch.random.set_rng_state(random)
    named = dict(module.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in reversed(named.items())}
    parameters = {
        placeholder: first[id(named[name.removeprefix("module.")])]
        for placeholder, name in exported.graph_signature.inputs_to_parameters.items()
    }
    frozen = frozenset(name for name, parameter in module.named_parameters() if not parameter.requires_grad)
    known = dict(module.named_buffers(remove_duplicate=False))
    buffers = {
        placeholder: known[name.removeprefix("module.")]
        for placeholder, name in exported.graph_signature.inputs_to_buffers.items()
        if name.removeprefix("module.") in known
    }
    return Traced(list(exported.graph.nodes), parameters, frozen, buffers)


def output_of(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Return the output of a module, whose buffers stay as they are.

    Raises
    ------
    InvalidCharge
        If its forward fails, or returns no tensor.

    Examples
    --------
    >>> output_of(nn.BatchNorm1d(2), torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        with torch.no_grad():
            output = module(*inputs)
    except Exception as error:  # whatever a user's forward raises
        shapes = [tuple(value.shape) for value in inputs]
        raise InvalidCharge(
            f"{type(module).__name__} fails on an input of the shapes {shapes}: {type(error).__name__}: {error}"
        ) from error
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])
    if not isinstance(output, Tensor):
        raise InvalidCharge(f"the output of {type(module).__name__} is {type(output).__name__}: give a callable loss")
    return output


def _loss(module: nn.Module, inputs: tuple[Tensor, ...], loss: Any, target: Any) -> tuple[Any, Any]:
    """The loss as a callable on (output, target), and a target of the right shape."""
    if loss is None:
        return None, torch.zeros(())
    function = loss_function(loss)
    if target is not None:
        return function, target
    if callable(loss):
        raise InvalidCharge("loss is a callable, and target is None: give a target that it takes")
    output = output_of(module, *inputs)
    if loss == "mse":
        return function, torch.zeros_like(output)
    if output.dim() < 2:
        raise InvalidCharge(f"the output has the shape {tuple(output.shape)}: cross-entropy needs (batch, classes)")
    if output.dim() == 3:  # tokens: (batch, tokens, classes)
        return function, torch.zeros(output.shape[:-1], dtype=torch.long, device=output.device)
    shape = (output.shape[0], *output.shape[2:])
    return function, torch.zeros(shape, dtype=torch.long, device=output.device)
