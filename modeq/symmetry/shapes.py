"""Operations that only move entries: they act on integers that stand for the entries as on the entries themselves."""

from operator import getitem
from typing import Any

import torch
from torch import Tensor

_MOVES = {
    "view", "reshape", "_unsafe_view", "transpose", "permute", "flatten", "unflatten", "squeeze", "unsqueeze", "expand",
    "expand_as", "select", "slice", "contiguous", "clone", "split", "split_with_sizes", "chunk", "unbind", "cat",
    "stack", "flip", "roll", "t", "movedim", "narrow", "repeat", "index_select", "tile", "view_as", "alias",
    "numpy_T", "mT", "swapaxes", "pixel_shuffle", "channel_shuffle", "unfold", "repeat_interleave", "lift_fresh_copy",
    "broadcast_tensors", "broadcast_to", "tensor_split",
}  # fmt: skip


def operation(node: torch.fx.Node) -> str:
    """Return the name of an operation, without its overload and a trailing underscore."""
    if node.target is getitem:
        return "getitem"
    return str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")


def moves_entries(node: torch.fx.Node) -> bool:
    """Whether an operation only moves, repeats or drops entries."""
    return operation(node) in _MOVES


def moved(node: torch.fx.Node, arguments: Any, keywords: Any) -> Any:
    """Return the result of such an operation on integers."""
    if operation(node) in ("view", "_unsafe_view") and isinstance(arguments[1], list | tuple):
        return arguments[0].reshape(arguments[1])  # which lie in memory in another way
    return node.target(*arguments, **keywords)  # type: ignore[operator]


def alike(one: Any, other: Any) -> bool:
    """Whether two nodes compute the same from the same, or two arguments are equal."""
    if not isinstance(one, torch.fx.Node) or not isinstance(other, torch.fx.Node):
        return type(one) is type(other) and bool(one == other)
    if one is other:
        return True
    if one.op != "call_function" or one.target != other.target or "dropout" in operation(one):
        return False
    return len(one.args) == len(other.args) and all(map(alike, one.args, other.args)) and one.kwargs == other.kwargs


def shape_of(node: torch.fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's value."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()
