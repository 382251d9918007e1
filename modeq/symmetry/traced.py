"""A network and its loss as a graph of torch's own operations."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from modeq.errors import InvalidCharge, choice
from modeq.symmetry.shapes import operation


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


NORMS = {"batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm"}
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
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise InvalidCharge(f"loss is {choice(loss, LOSSES)}, or give a callable on (output, target)")
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
    constants : placeholder's name -> a tensor that the module's code makes, the same at each call
    values : the parameter's name -> the parameter
    branches : numbers that the module read off tensors, so that its graph may be another on other data
    norms : the operations that normalise, also those that the output does not depend on
    """

    nodes: list[torch.fx.Node]
    parameters: dict[str, str]
    frozen: frozenset[str]
    buffers: dict[str, Tensor]
    constants: dict[str, Tensor]
    values: dict[str, nn.Parameter]
    branches: tuple[str, ...]
    norms: list[torch.fx.Node]

    def module_of(self, node: torch.fx.Node) -> str:
        """Return the path of the submodule that a node belongs to, and its class."""
        stack = node.meta.get("nn_module_stack") or {}
        paths = [(path, kind) for path, kind in stack.values() if path.startswith("module.")]
        if not paths:
            return str(node)
        path, kind = paths[-1]
        return f"{path.removeprefix('module.')} ({str(kind).rsplit('.', 1)[-1]})"


class _WithLoss(nn.Module):
    def __init__(self, module: nn.Module, loss: Callable[[Any, Any], Tensor] | None, read: Sequence[Any] = ()) -> None:
        super().__init__()
        self.module, self.loss, self.read = module, loss, read

    def forward(self, inputs: tuple[Any, ...], target: Any) -> Any:
        if self.read:
            with _Replayed(self.read):
                output = self.module(*inputs)
        else:
            output = self.module(*inputs)
        return output if self.loss is None else self.loss(output, target)


_READS: dict[Any, str] = {Tensor.__bool__: "bool", Tensor.__int__: "int", Tensor.__float__: "float"}
_READS |= {Tensor.__index__: "index", Tensor.item: "item", Tensor.tolist: "tolist"}


class _Recorded(TorchFunctionMode):
    """Within it the numbers that Python reads off tensors are kept, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Any] = []
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _READS:
            self.read += args[0].flatten().tolist() if func is Tensor.tolist else [result]
            self.names.append(f"{_READS[func]}: {result}")
        return result


class _Replayed(TorchFunctionMode):
    """Within it Python reads off tensors the numbers that were kept, though the tracer's have no values."""

    def __init__(self, read: Sequence[Any]) -> None:
        super().__init__()
        self.read = iter(read)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS and func is not Tensor.tolist:
            return next(self.read)
        return func(*args, **(kwargs or {}))


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
    function = None if loss is None else loss_function(loss)
    random = torch.random.get_rng_state()
    try:
        with _Recorded() as recorded:
            output = _result(module, inputs)
        target = _target(output, loss, target)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own tracer
            program = _WithLoss(module, function, recorded.read)
            exported = torch.export.export(program, (inputs, target), strict=False)
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
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and not all(isinstance(size, int) for size in value.shape):
            raise InvalidCharge(
                f"{type(module).__name__} has a value whose shape depends on the data, {node}: of such a network no "
                "graph can be drawn; give one in which masks keep the shape, torch.where for instance"
            )
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
    lifted = exported.graph_signature.inputs_to_lifted_tensor_constants
    constants = {node: exported.constants[name] for node, name in lifted.items()}
    values = {name: named[name] for name in parameters.values()}
    norms = [node for node in exported.graph.nodes if operation(node) in NORMS]
    nodes = _seen_by_the_output(exported.graph)
    return Traced(nodes, parameters, frozen, buffers, constants, values, tuple(recorded.names), norms)


def _seen_by_the_output(graph: torch.fx.Graph) -> list[torch.fx.Node]:
    """The nodes that the output depends on, in their order."""
    nodes = list(graph.nodes)
    wanted = {nodes[-1]}
    for node in reversed(nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    return [node for node in nodes if node in wanted]


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
    return _tensor(_result(module, inputs))


def _result(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        with torch.no_grad():
            return module(*inputs)
    except Exception as error:  # whatever a user's forward raises
        shapes = [tuple(value.shape) for value in inputs]
        places = {str(value.device) for value in (*inputs, *module.parameters())}
        hint = f"; tensors lie on {', '.join(sorted(places))}: put all on one device" if len(places) > 1 else ""
        raise InvalidCharge(
            f"{type(module).__name__} fails on an input of the shapes {shapes}: {type(error).__name__}: {error}{hint}"
        ) from error
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])


def _tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise InvalidCharge(f"the output is {type(output).__name__}, no tensor: give a callable loss, and a target")
    return output


def _target(output: Any, loss: Any, target: Any) -> Any:
    """A target of the right shape."""
    if loss is None:
        return torch.zeros(())
    if target is not None:
        return target
    if callable(loss):
        raise InvalidCharge("loss is a callable, and target is None: give a target that it takes")
    output = _tensor(output)
    if loss == "mse":
        return torch.zeros_like(output)
    if output.dim() < 2:
        raise InvalidCharge(f"the output has the shape {tuple(output.shape)}: cross-entropy needs (batch, classes)")
    if output.dim() == 3:  # tokens: (batch, tokens, classes)
        return torch.zeros(output.shape[:-1], dtype=torch.long, device=output.device)
    shape = (output.shape[0], *output.shape[2:])
    return torch.zeros(shape, dtype=torch.long, device=output.device)
