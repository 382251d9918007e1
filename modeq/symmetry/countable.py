"""Networks whose conservation laws can be counted: what is checked before, with what to give instead."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from modeq.errors import InvalidCharge, InvalidProblem
from modeq.symmetry.shapes import moves_entries, operation
from modeq.symmetry.traced import Traced, trace

# Entries of a value of the network, times parameters.
LARGEST_VALUE = 2**28


def moving_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient, by their names; a tied one has its first.

    Raises
    ------
    InvalidProblem

    Examples
    --------
    >>> list(moving_parameters(nn.Linear(2, 3)))
    ['weight', 'bias']
    """
    found = {name: p for name, p in module.named_parameters() if p.requires_grad}
    kind = type(module).__name__
    if not found:
        raise InvalidProblem(f"{kind} has no parameter that requires a gradient: there is nothing that could move")
    for name, p in found.items():
        if isinstance(p, UninitializedParameter):
            raise InvalidProblem(f"{name} of {kind} has no shape yet: call the module once on an example")
        if p.is_complex():
            raise InvalidProblem(f"{name} of {kind} is complex: give its real and imaginary part as two parameters")
    return found


def check_size(parameters: int, limit: int) -> None:
    """Raise InvalidProblem if there are more parameters than the limit."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidProblem(f"limit is {limit!r}: give the most parameters, a positive integer")
    if parameters > limit:
        raise InvalidProblem(
            f"there are {parameters} parameters, more than limit={limit}: count a narrower network, in which the laws "
            f"are the same families, or give limit={parameters}; the time grows like the cube"
        )


def check_value(entries: int, parameters: int) -> None:
    """Raise InvalidProblem if a value of the network is too large."""
    if entries * parameters > LARGEST_VALUE:
        raise InvalidProblem(
            f"a value of the network has {entries} entries, with what is drawn, and there are {parameters} parameters: "
            f"their product is more than {LARGEST_VALUE}; give fewer samples in input, smaller images or shorter "
            "sequences, or a smaller network"
        )


def traced_network(
    module: nn.Module, parameters: Mapping[str, Tensor], example: Any, loss: str | None
) -> tuple[Traced, tuple[Tensor, ...]]:
    """Return the graph of a network, and its inputs.

    Parameters
    ----------
    module : nn.Module
    parameters : those that move, by name
    example : tensor, or tuple of tensors
    loss : None, "mse" or "cross_entropy"

    Raises
    ------
    InvalidProblem
    """
    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise InvalidProblem(
            f"input is {example!r}: give an example of the network's input, a tensor or a tuple of tensors"
        )
    if any(x.numel() == 0 or x.is_complex() for x in inputs):
        kinds = [f"{tuple(x.shape)}, {x.dtype}" for x in inputs]
        raise InvalidProblem(f"input has the shapes and types {kinds}: give at least one sample, of real numbers")
    inputs = tuple(x.clone() for x in inputs)  # the tracer takes a tensor that is given twice for one input
    try:
        traced = trace(module, inputs, None)
    except InvalidCharge as problem:
        raise InvalidProblem(f"input does not fit the network, or the network cannot be traced: {problem}") from problem
    _check_output(module, traced, loss)
    _check_operations(traced, parameters)
    size = sum(p.numel() for p in parameters.values())
    for node in traced.nodes:
        if isinstance(node.meta.get("val"), Tensor):
            check_value(node.meta["val"].numel(), size)
    return traced, inputs


def _check_output(module: nn.Module, traced: Traced, loss: str | None) -> None:
    (outputs,) = traced.nodes[-1].args
    found = [node.meta["val"] for node in outputs if isinstance(node, torch.fx.Node)]  # type: ignore[union-attr]
    if len(found) != 1 or not found[0].is_floating_point():
        raise InvalidProblem(
            f"{type(module).__name__} returns {[str(x.dtype) for x in found]}: give a module that returns one tensor "
            "of real numbers, all that the loss sees"
        )
    if loss == "cross_entropy" and found[0].dim() < 2:
        raise InvalidProblem(
            f"loss is 'cross_entropy', and the output has the shape {tuple(found[0].shape)}: give an input with a "
            "batch, so that it is (batch, classes)"
        )


def _check_operations(traced: Traced, parameters: Mapping[str, Tensor]) -> None:
    nodes = list(traced.nodes[0].graph.nodes)  # also what changes a view in place, on which no output depends
    moved: set[torch.fx.Node] = set()
    place = {node: k for k, node in enumerate(nodes)}
    for node in nodes:
        if traced.parameters.get(node.name) not in parameters and not moved.intersection(node.all_input_nodes):
            continue
        moved.add(node)
        if operation(node) == "detach":
            raise InvalidProblem(
                f"a value that depends on the parameters is detached, {traced.module_of(node)}: what moves them is no "
                "gradient of a function; give the network without detach()"
            )
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            later = [user for seen in _same_memory(node.args[0]) for user in seen.users if user is not node]
            if any(place[user] > place[node] for user in later):
                raise InvalidProblem(
                    f"{node.target} changes in place a tensor that is used again, {traced.module_of(node)}: give the "
                    "network with an operation that returns a new tensor, torch.where or torch.cat for instance"
                )


def _same_memory(node: Any) -> list[torch.fx.Node]:
    """A node, what it is a view of, and all views of that."""
    while moves_entries(node):
        node = node.args[0]
    found = [node]
    for one in found:
        found += [user for user in one.users if moves_entries(user)]
    return found
