"""Legs followed through the graph of a network, operation by operation."""

from collections.abc import Callable, Sequence
from string import ascii_letters
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node

from modeq.symmetry.contractions import Operand, contracted
from modeq.symmetry.legs import Leg, paired, places, refines, together, varies
from modeq.symmetry.shapes import moved, moves_entries, operation, shape_of
from modeq.symmetry.spaces import Spaces
from modeq.symmetry.traced import Traced

Legs = tuple[Leg, ...]
_KEEP = {"to", "_to_copy", "type_as"}
_AVERAGES = {
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
}  # fmt: skip
_VIEWS = {"t", "numpy_T", "transpose", "permute", "unsqueeze", "expand", "slice", "select", "split"}
_LARGEST = 50_000_000  # entries of a value that is followed where it may be copied


class LegRules:
    """What each operation makes of legs; see `follow`.

    Attributes
    ----------
    traced : the graph
    spaces : what is known of the coordinates of all parameters
    """

    def __init__(self, traced: Traced) -> None:
        self.traced, self.spaces = traced, Spaces()
        self._values: dict[Node, Any] = {}
        self._fixed: set[Node] = set()  # what depends on nothing but constants
        self._constants: dict[Node, Any] = {}

    def follow(self) -> Spaces:
        """Walk through the graph."""
        for node in self.traced.nodes:
            if node.op == "placeholder":
                self._values[node] = self._parameter(node)
            elif node.op == "output":
                self._end(*(self._values[n] for n in node.all_input_nodes))
            elif any(map(_has_legs, (self._values[n] for n in node.all_input_nodes))):
                self._values[node] = self._apply(node)
            else:
                self._values[node] = ()
            if self._is_fixed(node):
                self._fixed.add(node)
        return self.spaces

    def _parameter(self, node: Node) -> Legs:
        name = self.traced.parameters.get(node.name)
        if name is None or name in self.traced.frozen:
            return ()
        shape, found = shape_of(node), []
        for axis, length in enumerate(shape):
            form = [length if k == axis else 1 for k in range(len(shape))]
            slots = self.spaces.slots(name, axis, length).reshape(form).expand(shape)
            found.append(Leg.of(slots, places(shape, [k for k in range(len(shape)) if k != axis])))
        return tuple(found)

    def _end(self, *values: Any) -> None:
        """What reads these would see any mixing."""
        for value in values:
            for entry in value:
                if isinstance(entry, Leg):
                    self.spaces.alone(entry.all_slots())
                else:
                    self._end(entry)

    def _apply(self, node: Node) -> Any:
        name = operation(node)
        if name == "getitem":
            found = self._values[node.args[0]]  # type: ignore[index]
            return found[node.args[1]] if len(found) and not isinstance(found[0], Leg) else ()
        rule: Callable[[Node], Any] | None = getattr(self, f"_of_{name.lstrip('_')}", None)
        found = None
        if rule is not None:
            found = rule(node)
        elif moves_entries(node):
            found = self._moved(node)
        elif name in _KEEP:
            found = self._of(node.args[0])
        elif name in _AVERAGES:
            found = self._averaged(node)
        if found is None:
            self._end(*(self._values[n] for n in node.all_input_nodes))
            return ()
        return found

    def _of(self, argument: Any) -> Legs:
        found: Legs = self._values[argument] if isinstance(argument, Node) else ()
        return found

    # --- what moves entries -------------------------------------------------------------------------------------------

    def _moved(self, node: Node) -> Any:
        first = node.args[0]
        if isinstance(first, list | tuple):
            return self._joined(node, list(first))
        others = [n for n in node.all_input_nodes if n is not first]
        known = {n: self._constant(n) for n in others}
        if any(_has_legs(self._values[n]) or known[n] is None for n in others):
            return None
        arguments, keywords = torch.fx.node.map_arg((node.args[1:], node.kwargs), known.__getitem__)

        def move(tensor: Tensor) -> Any:
            return moved(node, (tensor, *arguments), keywords)

        legs = self._of(first)
        if any(int(leg.position.numel()) > _LARGEST and not _viewed(node) for leg in legs):
            return None
        several = isinstance(node.meta.get("val"), list | tuple)
        if not several:
            return tuple(leg.mapped(move) for leg in legs)
        return [tuple(leg.mapped(lambda t, k=k: move(t)[k]) for leg in legs) for k in range(len(node.meta["val"]))]

    def _joined(self, node: Node, inputs: list[Any]) -> Any:
        """Concatenated or stacked values, of which each has one leg or none."""
        legs = [self._of(n) for n in inputs]
        if operation(node) == "broadcast_tensors":
            return [tuple(leg.expanded(v.shape) for leg in own) for own, v in zip(legs, node.meta["val"], strict=True)]
        if operation(node) not in ("cat", "stack") or any(len(own) > 1 or len(own[0].terms) > 1 for own in legs if own):
            return self._joined_sums(node, legs)
        sources = [own[0].source if own else -1 for own in legs]
        one_source = len(set(sources)) == 1
        slots, factors, positions = [], [], []
        for k, (own, n) in enumerate(zip(legs, inputs, strict=True)):
            shape = shape_of(n)
            zero = torch.zeros((), dtype=torch.long).expand(shape)
            slots.append(own[0].slots if own else zero)
            factors.append(own[0].terms[0][1] if own else zero.double())
            position = own[0].position if own else zero
            positions.append(position if one_source else position * len(legs) + k)
        if any(f is None for f in factors):
            if one_source or not all(own[0].plain for own in legs if own):
                return None
            known = None
        else:
            known = moved(node, (factors, *node.args[1:]), node.kwargs)
        slots, position = (moved(node, (part, *node.args[1:]), node.kwargs) for part in (slots, positions))
        leg = Leg.of(slots, position)
        return (Leg(sources[0] if one_source else leg.source, ((slots, known),), position),)

    def _joined_sums(self, node: Node, legs: list[Legs]) -> Legs | None:
        """The same for entries that are sums of as many coordinates of the same vectors."""
        if operation(node) not in ("cat", "stack") or any(len(own) != 1 for own in legs):
            return None
        parts = [own[0] for own in legs]
        if len({part.source for part in parts}) > 1 or any(f is None for part in parts for _, f in part.terms):
            return None
        most = max(len(part.terms) for part in parts)
        filled = [[*part.terms, *[(part.slots, torch.zeros_like(cast(Tensor, part.terms[0][1])))]
                   * (most - len(part.terms))] for part in parts]  # fmt: skip

        def join(tensors: list[Any]) -> Tensor:
            return moved(node, (tensors, *node.args[1:]), node.kwargs)

        terms = tuple(tuple(join([own[k][i] for own in filled]) for i in range(2)) for k in range(most))
        return (Leg(parts[0].source, terms, join([part.position for part in parts])),)  # type: ignore[arg-type]

    def _of_view_as_complex(self, node: Node) -> Legs | None:
        found = []
        for leg in self._of(node.args[0]):
            if any(f is None for _, f in leg.terms) or varies(leg.position, [leg.position.dim() - 1]):
                return None
            terms = [(slots[..., k], f[..., k] * unit) for slots, f in leg.terms for k, unit in ((0, 1), (1, 1j))]  # type: ignore[index]
            found.append(Leg(leg.source, tuple(terms), leg.position[..., 0]))
        return tuple(found)

    def _of_view_as_real(self, node: Node) -> Legs | None:
        found = []
        for leg in self._of(node.args[0]):
            if any(f is None for _, f in leg.terms):
                return None

            def doubled(tensor: Tensor) -> Tensor:
                return tensor.unsqueeze(-1).expand(*tensor.shape, 2)

            terms = [(doubled(slots), torch.view_as_real(f.to(torch.complex128))) for slots, f in leg.terms]  # type: ignore[union-attr]
            found.append(Leg(leg.source, tuple(terms), doubled(leg.position)))
        return tuple(found)

    # --- products with numbers, and sums ------------------------------------------------------------------------------

    def _is_fixed(self, node: Node) -> bool:
        if node.op == "placeholder":
            return node.name in self.traced.constants or node.name in self.traced.buffers
        random = "rand" in operation(node) or "dropout" in operation(node)
        return node.op == "call_function" and not random and self._fixed.issuperset(node.all_input_nodes)

    def _constant(self, node: Node) -> Any:
        """The value of a node that depends on nothing but constants; None of any other."""
        if node not in self._fixed:
            return None
        if node not in self._constants:
            self._constants[node] = self._evaluated(node)
        return self._constants[node]

    def _evaluated(self, node: Node) -> Any:
        if node.op == "placeholder":
            return self.traced.constants.get(node.name, self.traced.buffers.get(node.name))
        known = {n: self._constant(n) for n in node.all_input_nodes}
        if any(value is None for value in known.values()):
            return None
        arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        try:
            with torch.no_grad():
                return node.target(*arguments, **keywords)  # type: ignore[operator]
        except Exception:  # whatever an operation raises: nothing is claimed
            return None

    def _of_mul(self, node: Node) -> Any:
        one, other = node.args[:2]
        if self._of(one) and self._of(other) and all(operation(user) == "sum" for user in node.users):
            return [self._of(one), self._of(other)]  # a contraction in two steps
        if not self._of(one) or (self._of(other) and shape_numel(one) < shape_numel(other)):
            one, other = other, one
        return self._times(node, one, other)

    def _of_div(self, node: Node) -> Legs | None:
        return self._times(node, node.args[0], node.args[1], inverse=True) if self._of(node.args[0]) else None

    def _times(self, node: Node, value: Any, factor: Any, inverse: bool = False) -> Legs | None:
        """Entries of one position times one factor are still a vector; times known ones, known sums of coordinates."""
        legs, shape = [leg.expanded(shape_of(node)) for leg in self._of(value)], shape_of(node)
        if node.kwargs.get("rounding_mode") is not None:
            return None
        if not isinstance(factor, Node):
            return tuple(leg.scaled(1 / factor if inverse else factor) for leg in legs)
        self._end(self._of(factor))
        known = self._constant(factor)
        if isinstance(known, Tensor) and all(f is not None for leg in legs for _, f in leg.terms):
            number = known.to(torch.complex128 if known.is_complex() else torch.float64).cpu()
            number = (1 / number if inverse else number).expand(shape)
            return tuple(leg.scaled(number) for leg in legs)
        if not all(leg.plain for leg in legs):
            return None
        number = torch.arange(shape_numel(factor)).reshape(shape_of(factor)).expand(shape)
        found = []
        for leg in legs:
            position = leg.position if refines(leg.position, number) else paired(leg.position, number)
            found.append(Leg.of(leg.slots, position).forgotten())
        return tuple(found)

    def _of_neg(self, node: Node) -> Legs:
        return tuple(leg.scaled(-1) for leg in self._of(node.args[0]))

    def _of_add(self, node: Node) -> Legs | None:
        return self._sum(node, node.args[0], node.args[1], node.kwargs.get("alpha", 1))

    def _of_sub(self, node: Node) -> Legs | None:
        return self._sum(node, node.args[0], node.args[1], -node.kwargs.get("alpha", 1))  # type: ignore[operator]

    def _sum(self, node: Node, one: Any, other: Any, factor: Any) -> Legs | None:
        shape = shape_of(node)
        first = [leg.expanded(shape) for leg in self._of(one)]
        second = [leg.expanded(shape).scaled(factor) for leg in self._of(other)]
        if not first or not second:
            number = other if first else one
            known = self._constant(number) if isinstance(number, Node) else number
            zero = not bool(known.any()) if isinstance(known, Tensor) else known == 0
            return tuple(first or second) if zero else None
        return self._added(first, second)

    def _added(self, first: list[Leg], second: list[Leg]) -> Legs:
        """The legs of a sum: pairs of legs along the same axes."""
        found = []
        for leg in first:
            partner = next((other for other in second if _along_the_same_axes(leg, other)), None)
            both = None if partner is None else self._merged(leg, partner)
            if both is None:
                self._end((leg,))
                continue
            second = [other for other in second if other is not partner]
            found.append(both)
        self._end(second)
        return tuple(found)

    def _merged(self, one: Leg, other: Leg) -> Leg | None:
        if one.source == other.source:
            return _superposed(one, other)
        if not (one.plain and other.plain):
            self._end((other,))
            return None
        self.spaces.equate(one.slots, 1, other.slots)
        a, b = together(one.slots, other.slots)
        slots = torch.where(a > 0, a, b).expand(one.slots.shape)
        return Leg.of(slots, paired(one.position, other.position))

    # --- contractions -------------------------------------------------------------------------------------------------

    def _product(self, one: tuple[Any, str], other: tuple[Any, str], out: str) -> Legs:
        first, second = (
            Operand(self._of(n), shape_of(n), word) if isinstance(n, Node) else Operand(tuple(n), (), word)
            for n, word in (one, other)
        )
        return contracted(self.spaces, first, second, out)

    def _with_bias(self, node: Node, legs: Legs, bias: Any) -> Legs | None:
        if not isinstance(bias, Node):
            return legs
        return self._added(list(legs), [leg.expanded(shape_of(node)) for leg in self._of(bias)])

    def _of_linear(self, node: Node) -> Legs | None:
        x, weight = node.args[:2]
        dims = len(shape_of(x))  # type: ignore[arg-type]
        if len(shape_of(weight)) != 2:  # type: ignore[arg-type]
            return None
        word = ascii_letters[: dims - 1]
        found = self._product((x, f"{word}y"), (weight, "zy"), f"{word}z")
        return self._with_bias(node, found, node.args[2] if len(node.args) > 2 else node.kwargs.get("bias"))

    def _of_matmul(self, node: Node) -> Legs | None:
        return self._matrix_product(node, node.args[0], node.args[1])

    _of_mm = _of_bmm = _of_matmul

    def _of_addmm(self, node: Node) -> Legs | None:
        if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("beta", 1) != 1:
            return None
        found = self._matrix_product(node, node.args[1], node.args[2])
        return None if found is None else self._with_bias(node, found, node.args[0])

    def _matrix_product(self, node: Node, one: Any, other: Any) -> Legs | None:
        a, b = shape_of(one), shape_of(other)
        if min(len(a), len(b)) < 2:
            return self._vector_product(one, other)
        batch = ascii_letters[: max(len(a), len(b)) - 2]
        shape = torch.broadcast_shapes(a[:-2], b[:-2])
        words = []
        for n, own, end in ((one, a, "xy"), (other, b, "yz")):
            own_batch = batch[len(batch) - len(own) + 2 :]
            wanted = shape[len(shape) - len(own) + 2 :]
            legs = tuple(leg.expanded((*wanted, *own[-2:])) for leg in self._of(n))
            words.append(Operand(legs, (*wanted, *own[-2:]), own_batch + end))
        return contracted(self.spaces, words[0], words[1], f"{batch}xz")

    def _vector_product(self, one: Any, other: Any) -> Legs | None:
        a, b = len(shape_of(one)), len(shape_of(other))
        if b == 1:
            word = ascii_letters[: a - 1]
            return self._product((one, f"{word}y"), (other, "y"), word)
        if a == 1 and b == 2:
            return self._product((one, "y"), (other, "yz"), "z")
        return None

    def _of_einsum(self, node: Node) -> Legs | None:
        equation, operands = str(node.args[0]).replace(" ", ""), cast(list[Node], node.args[1])
        inputs, _, out = equation.partition("->")
        words = inputs.split(",")
        if len(words) != 2 or "." in equation or not _ or any(len(set(word)) < len(word) for word in (*words, out)):
            return None
        (a, b), (x, y) = words, operands
        return self._product((x, a), (y, b), out)

    def _of_embedding(self, node: Node) -> Legs | None:
        table, indices = cast(tuple[Node, Any], node.args[:2])
        padding, by_counts = cast(tuple[int | None, Any], (*node.args[2:4], None, None)[:2])
        name = self.traced.parameters.get(table.name)
        if by_counts or name is None or self._of(indices):  # its gradient would not be the derivative
            return None
        if padding not in (None, -1) and bool(self.traced.values[name][padding].any()):
            return None
        rows, columns = self._of(table)
        self._end((rows,))
        shape = shape_of(node)
        return (Leg.of(columns.slots[0].expand(shape), places(shape, range(len(shape) - 1))),)

    def _of_scaled_dot_product_attention(self, node: Node) -> Legs | None:
        query, key, value = node.args[:3]
        mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
        self._end(self._of(mask))
        shape, inner = shape_of(query), shape_of(key)  # type: ignore[arg-type]
        if len(shape) != len(inner) or len(shape) < 3:
            return None
        repeats = shape[-3] // inner[-3] if len(shape) > 3 else 1

        def grouped(leg: Leg) -> Leg:
            return leg.mapped(lambda tensor: tensor.repeat_interleave(repeats, -3)) if repeats > 1 else leg

        batch = ascii_letters[: len(shape) - 2]
        length, width = inner[-2], shape_of(value)[-1]  # type: ignore[arg-type]
        keys, values = (
            tuple(grouped(leg).expanded((*shape[:-2], length, last)) for leg in self._of(n))
            for n, last in ((key, shape[-1]), (value, width))
        )
        scores = contracted(
            self.spaces,
            Operand(self._of(query), shape, f"{batch}xy"),
            Operand(keys, (*shape[:-2], length, shape[-1]), f"{batch}zy"),
            f"{batch}xz",
        )
        self._end(scores)
        weights = Operand((), (*shape[:-1], length), f"{batch}xz")
        return contracted(
            self.spaces, weights, Operand(values, (*shape[:-2], length, width), f"{batch}zy"), f"{batch}xy"
        )

    # --- convolutions -------------------------------------------------------------------------------------------------

    def _of_conv1d(self, node: Node) -> Legs | None:
        x, weight, bias = (*node.args[:3], None)[:3]
        transposed = operation(node).startswith("conv_transpose")
        groups = node.args[6] if len(node.args) > 6 else 1
        shape, out = shape_of(weight), shape_of(node)  # type: ignore[arg-type]
        if groups != 1 or len(shape) != len(shape_of(x)) or weight.op != "placeholder":  # type: ignore[union-attr,arg-type]
            return None
        inputs = [self._without_places(leg) for leg in self._of(x)]
        if None in inputs:
            return None
        own = self._of(weight)
        self._end(own[2:])
        filters = tuple(leg.mapped(lambda t: t[(slice(None), slice(None), *[0] * (t.dim() - 2))]) for leg in own[:2])
        first = shape_of(x)[:2]  # type: ignore[arg-type]
        found = contracted(
            self.spaces,
            Operand(tuple(inputs), first, "nc"),  # type: ignore[arg-type]
            Operand(filters, shape[:2], "co" if transposed else "oc"),
            "no",
        )
        legs = []
        for leg in found:
            spread = leg.mapped(lambda t: t.reshape(*t.shape, *[1] * (len(out) - 2)).expand(out))
            legs.append(Leg.of(spread.slots, paired(spread.position, places(out, range(2, len(out))))))
        if not isinstance(bias, Node):
            return tuple(legs)
        form = [-1 if axis == 1 else 1 for axis in range(len(out))]
        return self._added(legs, [leg.mapped(lambda t: t.reshape(form).expand(out)) for leg in self._of(bias)])

    _of_conv2d = _of_conv3d = _of_conv_transpose1d = _of_conv_transpose2d = _of_conv_transpose3d = _of_conv1d

    def _without_places(self, leg: Leg) -> Leg | None:
        """A leg along channels as one of (batch, channel), if it is the same at all places."""
        rest = range(2, leg.slots.dim())
        first: tuple[slice | int, ...] = (slice(None), slice(None), *[0] * len(rest))
        position = leg.position[first]
        spread = position.reshape(*position.shape, *[1] * len(rest))
        difference = torch.sub(*together(leg.position, spread))
        if not leg.plain or varies(leg.slots, rest) or varies(difference, [1]):
            return None
        return Leg.of(leg.slots[first], position)

    def _averaged(self, node: Node) -> Legs | None:
        out, found = shape_of(node), []
        for leg in self._of(node.args[0]):
            channels = self._without_places(leg)
            if channels is None:
                return None
            spread = channels.mapped(lambda t: t.reshape(*t.shape, *[1] * (len(out) - 2)).expand(out))
            found.append(Leg.of(spread.slots, paired(spread.position, places(out, range(2, len(out))))))
        return tuple(found)

    # --- others -------------------------------------------------------------------------------------------------------

    def _of_mean(self, node: Node) -> Legs | None:
        """A sum over positions keeps a vector; of its coordinates it does not."""
        value = node.args[0]
        source, out = shape_of(value), shape_of(node)  # type: ignore[arg-type]
        dims = node.args[1] if len(node.args) > 1 else None
        if not isinstance(dims, int | list | tuple) or dims == []:
            return None
        axes = {int(d) % len(source) for d in (dims if isinstance(dims, list | tuple) else [dims])}
        word = ascii_letters[: len(source)]
        kept = "".join(letter for axis, letter in enumerate(word) if axis not in axes)
        legs: Any = self._of(value)
        if isinstance(legs, list):  # of a product
            one, other = (Operand(tuple(leg.expanded(source) for leg in own), source, word) for own in legs)
            found = contracted(self.spaces, one, other, kept)
        else:
            found = self._product((value, word), ((), ""), kept)
        return tuple(leg.mapped(lambda t: t.reshape(out)) for leg in found)

    _of_sum = _of_mean

    def _of_detach(self, node: Node) -> Legs:
        """No gradient passes."""
        return ()

    def _of_dropout(self, node: Node) -> Legs | None:
        probability, training = node.args[1:3]
        return None if probability and training else self._of(node.args[0])

    _of_feature_dropout = _of_alpha_dropout = _of_dropout

    def _of_rms_norm(self, node: Node) -> Legs | None:
        """A vector divided by its length may be turned."""
        if any(isinstance(n, Node) for n in node.args[2:]) or any(isinstance(n, Node) for n in node.kwargs.values()):
            return None
        return self._normalised(node, False)

    def _of_layer_norm(self, node: Node) -> Legs | None:
        if any(isinstance(n, Node) for n in node.args[2:]) or any(isinstance(n, Node) for n in node.kwargs.values()):
            return None
        return self._normalised(node, True)

    def _normalised(self, node: Node, centred: bool) -> Legs | None:
        legs = self._of(node.args[0])
        if len(legs) != 1 or not legs[0].plain:
            return None
        leg, axes = legs[0], range(-len(node.args[1]), 0)  # type: ignore[arg-type]
        last = [axis % leg.slots.dim() for axis in axes]
        rest = [axis for axis in range(leg.slots.dim()) if axis not in last]
        if varies(leg.position, last) or varies(leg.slots, rest) or bool((leg.slots == 0).any()):
            return None
        row = leg.slots.permute(*rest, *last).flatten(len(rest)).reshape(-1, _count(leg.slots.shape, last))[:1]
        self.spaces.side_by_side(row)
        self.spaces.equate(row, -1, row)
        if centred:
            size = row.shape[1]
            self.spaces.couple(row[0], torch.ones(1, size, size, dtype=torch.float64).numpy())
        return (leg.forgotten(),)


def shape_numel(node: Any) -> int:
    """Return the number of entries of a node's value.

    Examples
    --------
    >>> graph = torch.fx.Graph()
    >>> node = graph.placeholder("x")
    >>> node.meta["val"] = torch.zeros(2, 3)
    >>> shape_numel(node)
    6
    """
    return _count(shape_of(node), range(len(shape_of(node))))


def _count(shape: Sequence[int], axes: Sequence[int]) -> int:
    size = 1
    for axis in axes:
        size *= shape[axis]
    return size


def _has_legs(value: Any) -> bool:
    return any(isinstance(entry, Leg) or _has_legs(entry) for entry in value)


def _viewed(node: Node) -> bool:
    """Whether an operation copies nothing, so that what repeats itself takes no memory."""
    return operation(node) in (
        "t",
        "numpy_T",
        "transpose",
        "permute",
        "unsqueeze",
        "expand",
        "slice",
        "select",
        "split",
    )


def _along_the_same_axes(one: Leg, other: Leg) -> bool:
    if one.source == other.source:
        return True
    axes = [axis for axis in range(one.slots.dim()) if varies(one.slots, [axis])]
    return any(varies(other.slots, [axis]) for axis in axes)


def _superposed(one: Leg, other: Leg) -> Leg | None:
    """The sum of two legs of the same vectors."""
    if not _equal(one.position, other.position):
        return None
    if any(f is None for leg in (one, other) for _, f in leg.terms):
        return one.forgotten() if one.plain and other.plain and _equal(one.slots, other.slots) else None
    terms = list(one.terms)
    for slots, factors in other.terms:
        k = next((k for k, (known, _) in enumerate(terms) if _equal(known, slots)), None)
        if k is None:
            terms.append((slots, factors))
        else:
            terms[k] = slots, terms[k][1] + factors  # type: ignore[operator]
    return Leg(one.source, tuple(terms), one.position)


def _equal(one: Tensor, other: Tensor) -> bool:
    return not bool(torch.ne(*together(one, other)).any())
