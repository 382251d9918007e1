"""Which constants may be added to parameters: shifts that die in a softmax, a mean subtraction or a key.

A shift of a parameter is followed forward through the graph. Each entry of a value carries the number of the constant
by which it moves, 0 for none; operations that only move entries act on these numbers. A shift that reaches anything
which would see it fails, with all the numbers that it carries.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from modeq.symmetry.shapes import alike, moved, moves_entries, operation, shape_of
from modeq.symmetry.traced import Traced

_KEEP = {"to", "_to_copy", "type_as"}
_LOSSES = {"cross_entropy_loss": 1, "softmax": None, "_softmax": None, "log_softmax": None, "_log_softmax": None}
_POOLS = {"max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
_AVERAGES = {"avg_pool1d", "avg_pool2d", "avg_pool3d"}


@dataclass
class Shift:
    """What follows shifts through the graph.

    Attributes
    ----------
    traced : the graph
    failed : the numbers that something sees
    parents : of a number for several shifts on one entry, these
    mixed : whether numbers failed because they met, so that fewer at a time might pass
    reasons : for each number where it dies
    opposite : of numbers for constants that are taken off, the number of the same constant where it is added
    """

    traced: Traced
    failed: set[int] = field(default_factory=set)
    parents: dict[int, frozenset[int]] = field(default_factory=dict)
    reasons: dict[int, set[str]] = field(default_factory=dict)
    mixed: bool = False
    opposite: dict[int, int] = field(default_factory=dict)

    def follow(self, start: dict[Node, Tensor], count: int = 0) -> None:
        """Follow numbers on some nodes, each in place of the node's own value.

        It ends early once all of 1, …, count failed; or, for count = 0, any.
        """
        values: dict[Node, Any] = {}
        for node in self.traced.nodes:
            if node in start:
                values[node] = start[node]
                continue
            inputs = [values[n] for n in node.all_input_nodes if n in values]
            if not any(_carries(value) for value in inputs):
                continue
            if len(self.failed) >= max(1, count):
                return
            if node.op == "output":
                self._fail(*inputs)
                continue
            result = self.apply(node, values)
            if result is not None:
                values[node] = result

    def apply(self, node: Node, values: dict[Node, Any]) -> Any:
        """Return the numbers of a node from those of its inputs, of which some may fail."""
        name = operation(node)
        if name == "getitem":
            source, position = cast(tuple[Any, Any], node.args)
            found = values.get(source)
            return found[position] if isinstance(found, list | tuple) else found
        rule: Callable[..., Any] | None = None if name in _LOSSES else getattr(self, f"_{name.lstrip('_')}", None)
        if rule is not None:
            return rule(node, values)
        if moves_entries(node):

            def labels(n: Node) -> Any:
                return values[n] if n in values else torch.zeros(shape_of(n), dtype=torch.long)

            return moved(node, *torch.fx.node.map_arg((node.args, node.kwargs), labels))
        if name in _KEEP:
            return values[node.args[0]]  # type: ignore[index]
        if name in _LOSSES and node.args[0] in values:
            ids = values[node.args[0]]  # type: ignore[index]
            axis = _LOSSES[name] if _LOSSES[name] is not None else int(node.args[1])  # type: ignore[arg-type]
            self._die(node, ids.movedim(axis, -1) if ids.dim() > 1 else ids, "is shifted before the softmax of")
            return None
        if name in _POOLS or (name in _AVERAGES and _no_padding(node)):
            ids = values[node.args[0]]  # type: ignore[index]
            flat = ids.flatten(2)
            self._fail(
                torch.where(flat != flat[..., :1], flat, 0),
                torch.where((flat != flat[..., :1]).any(-1), flat[..., 0], 0),
            )
            return flat[..., 0].reshape(*flat.shape[:2], *[1] * (len(shape_of(node)) - 2)).expand(shape_of(node))
        self._fail(*(values[n] for n in node.all_input_nodes if n in values))
        return None

    def _fail(self, *carried: Any) -> None:
        for value in carried:
            for ids in value if isinstance(value, list | tuple) else [value]:
                self.failed.update(*self._all_origins(ids))

    def _die(self, node: Node, sets: Tensor, reason: str) -> None:
        """Numbers die where all entries of a set (the last axis) carry the same."""
        same = (sets == sets[..., :1]).all(-1)
        self._fail(sets[~same])
        text = f"{reason} {self.traced.module_of(node)}"
        for origin in frozenset[int]().union(*self._all_origins(sets[..., 0][same])):
            self.reasons.setdefault(origin, set()).add(text)

    def _note(self, number: int, reason: str) -> None:
        for origin in self._origins(number):
            self.reasons.setdefault(origin, set()).add(reason)

    def _add(self, node: Node, values: dict[Node, Any]) -> Tensor | None:
        found = [values[n] for n in node.all_input_nodes if n in values]
        shape = shape_of(node)
        if node.kwargs.get("alpha", 1) != 1:  # it multiplies the second
            self._fail(*found)
            return None
        if len(found) == 1:
            return found[0].expand(shape)
        one, other = (ids.expand(shape) for ids in found)
        pairs, inverse = torch.unique(torch.stack([one, other]).flatten(1), dim=1, return_inverse=True)
        names = []
        for a, b in pairs.T.tolist():
            if a and b and (self.opposite.get(a) == b or self.opposite.get(b) == a):
                self._note(min(a, b), f"cancels in {self.traced.module_of(node)}")
                names.append(0)
            elif a and b:
                names.append(self.derived(self._origins(a) | self._origins(b)))
            else:
                names.append(a or b)
        return torch.tensor(names)[inverse].reshape(shape)

    def _sub(self, node: Node, values: dict[Node, Any]) -> Any:
        one, other = (values.get(n) for n in node.args[:2])  # type: ignore[arg-type]
        mean = node.args[1]
        if (
            isinstance(mean, Node)
            and operation(mean) == "mean"
            and alike(mean.args[0], node.args[0])
            and one is not None
        ):
            # A mean subtraction that is written out.
            dims = mean.args[1] if len(mean.args) > 1 and mean.args[1] not in (None, []) else list(range(one.dim()))
            self._die(node, _sets(one, dims), "feeds the mean subtraction of")
            return None
        if one is not None and other is not None:
            one, other = one.expand(shape_of(node)), other.expand(shape_of(node))
            same = one == other  # the same constant on both sides
            for number in _numbers(torch.where(same, one, 0)):
                self._note(number, f"cancels in {self.traced.module_of(node)}")
            one, other = torch.where(same, 0, one), torch.where(same, 0, other)
            return self._add(node, {node.args[0]: one, mean: other})  # type: ignore[dict-item]
        return self._add(node, values)

    def _mul(self, node: Node, values: dict[Node, Any]) -> Any:
        """What is multiplied by the same factor moves by the same constant still."""
        labelled = [n for n in node.args[:2] if isinstance(n, Node) and n in values]
        if len(labelled) == 2 or (operation(node) == "div" and labelled[0] is not node.args[0]):
            self._fail(*(values[n] for n in labelled))
            return None
        factor = next(a for a in node.args[:2] if a is not labelled[0])
        ids, shape = values[labelled[0]], shape_of(node)
        if not isinstance(factor, Node):
            return self._other(ids)
        number = torch.arange(int(np.prod(shape_of(factor)))).reshape(shape_of(factor)).expand(shape)
        pairs, inverse = torch.unique(torch.stack([ids.expand(shape), number]).flatten(1), dim=1, return_inverse=True)
        names = []
        for label, _ in pairs.T.tolist():
            names.append(label if label == 0 else self.derived(self._origins(label)))
        return torch.tensor(names)[inverse].reshape(shape)

    _div = _mul

    def _neg(self, node: Node, values: dict[Node, Any]) -> Tensor:
        return self._other(values[node.args[0]])  # type: ignore[index]

    def _other(self, ids: Tensor) -> Tensor:
        """New numbers, one for each, for constants that are multiplied by the same."""
        known, inverse = torch.unique(ids, return_inverse=True)
        names = [self.derived(self._origins(k)) if k else 0 for k in known.tolist()]
        return torch.tensor(names)[inverse].reshape(ids.shape)

    def derived(self, origins: frozenset[int]) -> int:
        """Return a new number for a shift that goes back to others."""
        number = -len(self.parents) - 1
        self.parents[number] = origins
        return number

    def _all_origins(self, ids: Tensor) -> set[frozenset[int]]:
        return {self._origins(number) for number in _numbers(ids)}

    def _origins(self, number: int) -> frozenset[int]:
        return self.parents.get(number, frozenset({number}))

    def _detach(self, node: Node, values: dict[Node, Any]) -> None:
        """No gradient passes."""
        for number in _numbers(values[node.args[0]]):  # type: ignore[index]
            self._note(number, f"is detached in {self.traced.module_of(node)}")

    def _amax(self, node: Node, values: dict[Node, Any]) -> Any:
        dims = node.args[1] if len(node.args) > 1 else []
        if isinstance(dims, Node):  # the larger of two
            self._fail(*(values[n] for n in node.all_input_nodes if n in values))
            return None
        ids = values[node.args[0]]  # type: ignore[index]
        sets = _sets(ids, dims if dims not in (None, []) else list(range(ids.dim())))
        same = (sets == sets[..., :1]).all(-1)
        self._fail(torch.where(same[..., None], 0, sets))
        found = torch.where(same, sets[..., 0], 0).reshape(_shape(node))
        return (found, torch.zeros_like(found)) if operation(node) in ("max", "min") else found

    _amin = _max = _min = _amax

    def _var(self, node: Node, values: dict[Node, Any]) -> None:
        ids = values[node.args[0]]  # type: ignore[index]
        dims = node.args[1] if len(node.args) > 1 and node.args[1] not in (None, []) else list(range(ids.dim()))
        self._die(node, _sets(ids, dims), "feeds the variance of")

    _std = _var

    def _linear(self, node: Node, values: dict[Node, Any]) -> Any:
        """The shift of a bias passes, and one of the input becomes one of each output; a weight's is seen."""
        x, weight, bias = cast(tuple[Any, Any, Any], (*node.args[:3], None)[:3])
        self._fail(*(values[n] for n in (weight,) if n in values))
        shape, found = shape_of(node), None
        conv = operation(node).startswith("conv")
        if bias in values:
            ids = values[bias]
            found = (ids.reshape(-1, *[1] * (len(shape) - 2)) if conv else ids).expand(shape)
        if x not in values:
            return found
        mapped = self._mapped(values[x], node, conv)
        if mapped is None or found is None:
            return mapped if found is None else found
        self._fail(mapped, found)
        return None

    def _mapped(self, ids: Tensor, node: Node, conv: bool) -> Tensor | None:
        """Numbers of W·c for shifts c of the input: another for each output, the same where the input's are."""
        shape = shape_of(node)
        if conv:
            same = (ids == ids[(slice(None), slice(None), *[slice(0, 1)] * (ids.dim() - 2))]).all()
            if "transpose" in operation(node) or not _plain_convolution(node) or not bool(same):
                self._fail(ids)
                return None
            first: tuple[slice | int, ...] = (slice(None), slice(None), *[0] * (ids.dim() - 2))
            ids = ids[first]
        ids = compact(ids.movedim(-1, 0)).movedim(0, -1)
        rows, inverse = torch.unique(ids.reshape(-1, ids.shape[-1]), dim=0, return_inverse=True)
        outputs = shape[1] if conv else shape[-1]
        table = torch.zeros(len(rows), outputs, dtype=torch.long)
        for k, row in enumerate(rows):
            origins = frozenset[int]().union(*(self._origins(number) for number in _numbers(row)))
            if origins:
                table[k] = torch.tensor([self.derived(origins) for _ in range(outputs)])
        found = table[inverse.flatten()].reshape(*ids.shape[:-1], outputs)
        return (found.reshape(*found.shape, *[1] * (len(shape) - 2)) if conv else found).expand(shape)

    _conv1d = _conv2d = _conv3d = _conv_transpose1d = _conv_transpose2d = _conv_transpose3d = _linear

    def _addmm(self, node: Node, values: dict[Node, Any]) -> Any:
        self._fail(*(values[n] for n in node.args[1:3] if n in values))  # type: ignore[index]
        return values[node.args[0]].expand(shape_of(node)) if node.args[0] in values else None  # type: ignore[index]

    def _matmul(self, node: Node, values: dict[Node, Any]) -> Any:
        """A shift common to all columns of the second factor, as to all keys, is common to each row of the product.

        And one that is common to all rows of the first to each column. Each number is a shift of its own.
        """
        shape = shape_of(node)
        first, second = (values.get(n) for n in node.args[:2])  # type: ignore[arg-type]
        given = [(ids, axis) for ids, axis in ((first, -2), (second, -1)) if ids is not None]
        if len(shape) < 2 or any(ids.dim() < 2 for ids, _ in given):
            self._fail(*(ids for ids, _ in given))
            return None
        both = set(_numbers(given[0][0])) & set(_numbers(given[1][0])) if len(given) == 2 else set()
        self._fail(torch.tensor(sorted(both), dtype=torch.long))
        found = torch.zeros(shape, dtype=torch.long)
        for ids, axis in given:
            same = (ids == ids.narrow(axis, 0, 1)).all(axis, keepdim=True)
            self._fail(torch.where(same, 0, ids))
            origins = frozenset[int]().union(*(self._origins(k) for k in _numbers(torch.where(same, ids, 0))))
            if origins - self.failed:
                each = list(shape)
                each[axis] = 1
                labels = torch.tensor([self.derived(origins) for _ in range(int(np.prod(each)))]).reshape(each)
                if bool((found != 0).any()):
                    self.mixed = True  # two shifts on one entry, of which each might pass alone
                    self._fail(found, labels)
                else:
                    found = labels.expand(shape)
        return found

    _bmm = _matmul

    def _dropout(self, node: Node, values: dict[Node, Any]) -> Any:
        ids = values[node.args[0]]  # type: ignore[index]
        if node.args[1] and node.args[2]:
            self._fail(ids)
            return None
        return ids

    def _mean(self, node: Node, values: dict[Node, Any]) -> Any:
        ids, shape = values[node.args[0]], shape_of(node)  # type: ignore[index]
        dims = node.args[1] if len(node.args) > 1 else None
        if not isinstance(dims, list | tuple | int) or dims == []:
            self._fail(ids)
            return None
        flat = _sets(ids, dims)
        rows, inverse = torch.unique(flat.reshape(-1, flat.shape[-1]), dim=0, return_inverse=True)
        names = []
        for row in rows.tolist():
            if len(set(row)) == 1:
                names.append(row[0])
            else:
                names.append(self.derived(frozenset[int]().union(*(self._origins(a) for a in row if a))))
        return torch.tensor(names)[inverse].reshape(shape)

    def _masked_fill(self, node: Node, values: dict[Node, Any]) -> Any:
        ids = values.get(node.args[0])  # type: ignore[arg-type]
        if node.args[2] == -float("inf"):  # a softmax does not see these entries
            return ids
        self._fail(ids)
        return None

    def _batch_norm(self, node: Node, values: dict[Node, Any]) -> Any:
        ids = values.get(node.args[0])  # type: ignore[arg-type]
        if ids is not None:
            if node.args[5]:
                self._die(node, ids.movedim(1, 0).flatten(1), "feeds the mean subtraction of")
            else:
                self._fail(ids)
        return self._affine(node, values, channel=True)

    def _instance_norm(self, node: Node, values: dict[Node, Any]) -> Any:
        ids = values.get(node.args[0])  # type: ignore[arg-type]
        if ids is not None:
            self._die(node, ids.flatten(2), "feeds the mean subtraction of")
        return self._affine(node, values, channel=True)

    def _layer_norm(self, node: Node, values: dict[Node, Any]) -> Any:
        ids = values.get(node.args[0])  # type: ignore[arg-type]
        if ids is not None:
            normalised = len(node.args[1])  # type: ignore[arg-type]
            self._die(node, ids.flatten(ids.dim() - normalised), "feeds the mean subtraction of")
        return self._affine(node, values, channel=False, weight=2)

    def _group_norm(self, node: Node, values: dict[Node, Any]) -> Any:
        ids = values.get(node.args[0])  # type: ignore[arg-type]
        if ids is not None:
            grouped = ids.reshape(ids.shape[0], int(node.args[1]), -1)  # type: ignore[arg-type]
            self._die(node, grouped, "feeds the mean subtraction of")
        return self._affine(node, values, channel=True, weight=2)

    def _affine(self, node: Node, values: dict[Node, Any], channel: bool, weight: int = 1) -> Any:
        """The shift of the bias of a normalisation passes, that of its weight is seen."""
        gain, bias = (*node.args[weight : weight + 2], None, None)[:2]
        if gain in values:
            self._fail(values[gain])  # type: ignore[index]
        if bias not in values:
            return None
        ids, shape = values[bias], shape_of(node)  # type: ignore[index]
        return (ids.reshape(-1, *[1] * (len(shape) - 2)) if channel else ids).expand(shape)

    def _scaled_dot_product_attention(self, node: Node, values: dict[Node, Any]) -> Any:
        query, key, value = (values.get(n) for n in node.args[:3])  # type: ignore[arg-type]
        if query is not None:
            self._fail(query)
        if key is not None:
            self._die(node, key.transpose(-1, -2), "is added to all keys of")
        if value is None:
            return None
        shape = shape_of(node)
        if len(shape) > 3 and value.shape[-3] != shape[-3]:  # grouped queries
            value = value.repeat_interleave(shape[-3] // value.shape[-3], dim=-3)
        # The weights add up to 1, so that what is common to all values passes.
        same = (value == value[..., :1, :]).all(-2, keepdim=True)
        self._fail(torch.where(same, 0, value))
        return torch.where(same, value[..., :1, :], 0).expand(shape)


def _numbers(ids: Tensor) -> list[int]:
    """The numbers but 0 that occur."""
    array = compact(ids).numpy()
    return [number for number in np.unique(array).tolist() if number] if array.any() else []


def compact(ids: Tensor) -> Tensor:
    """Return a tensor without the repetitions of expanded axes.

    Examples
    --------
    >>> compact(torch.arange(3).expand(4, 3)).shape
    torch.Size([1, 3])
    """
    return ids[tuple(slice(0, 1) if not stride else slice(None) for stride in ids.stride())]


def _sets(ids: Tensor, dims: Any) -> Tensor:
    """The entries along some axes, as the last axis."""
    axes = sorted({int(d) % ids.dim() for d in (dims if isinstance(dims, list | tuple) else [dims])})
    rest = [axis for axis in range(ids.dim()) if axis not in axes]
    return ids.permute(*rest, *axes).flatten(len(rest)) if axes else ids[..., None]


def _shape(node: Node) -> tuple[int, ...]:
    """The shape of a reduction's result, or of its first."""
    value: Any = node.meta.get("val")
    return tuple((value[0] if isinstance(value, tuple | list) else value).shape)


def _carries(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_carries(item) for item in value)
    return bool((compact(value) != 0).any())


def _plain_convolution(node: Node) -> bool:
    """Whether a convolution sees no zeros around its input, and all channels at each output."""
    padding, groups = (node.args[k] if len(node.args) > k else default for k, default in ((4, 0), (6, 1)))
    whole = not any(padding) if isinstance(padding, list | tuple) else padding in (0, "valid")
    return whole and bool(groups == 1)


def _no_padding(node: Node) -> bool:
    padding = node.args[3] if len(node.args) > 3 else 0
    return not any(padding) if isinstance(padding, list | tuple) else not padding
