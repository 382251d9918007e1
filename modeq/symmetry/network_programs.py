"""A network as a straight-line program in which each nonlinearity is as general as its kind allows.

What can be pushed at θ depends on the derivatives of the outputs at θ alone, for all inputs. There a ReLU multiplies
each of its entries by 0 or 1, a tanh gives some value and some slope, a softmax a value that sums to 1 and a symmetric
matrix that maps constants to 0. Here these are drawn for each sample, without regard to the input. So the fields of the
network are among those of the program, and a law of the program is one of the network; the converse needs inputs under
which the patterns, values and slopes do vary. For ReLU that is the path lifting of Marcotte, Gribonval, Peyré (2023,
2307.00144), for attention they are the products of queries with keys and of values with outputs (2025, 2506.06194).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from modeq.symmetry.programs import Add, Constant, Draw, Instruction, Inverse, Linear, Multiply, Program
from modeq.symmetry.shapes import moves_entries, operation
from modeq.symmetry.traced import Traced

# Each entry times a number that depends on its sign, or on chance.
_HOMOGENEOUS = {"relu", "leaky_relu", "abs", "rrelu", "dropout", "feature_dropout"}
_SAME = {"to", "_to_copy", "type_as", "clone", "contiguous", "alias"}
# Value and slope are unrelated.
_CURVED = {
    "gelu", "silu", "tanh", "sigmoid", "softplus", "elu", "celu", "selu", "mish", "hardswish", "hardsigmoid",
    "hardtanh", "relu6", "erf", "sin", "cos", "softsign", "tanhshrink", "softshrink",
}  # fmt: skip
_LINEAR = {
    "mean", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "constant_pad_nd", "pad", "upsample_nearest2d", "upsample_bilinear2d", "cumsum", "neg",
    "triu", "tril",
}  # fmt: skip
_LARGEST_MATRIX = 2**24


class Unlowered(Exception):
    """An operation without a rule."""


class Entries(NamedTuple):
    """A value of the program, and its shape in the network."""

    number: int
    shape: tuple[int, ...]


Value = Any  # Entries, or a tensor of fixed numbers


def program_of_network(traced: Traced, parameters: Sequence[str], loss: str | None) -> tuple[Program, tuple[str, ...]]:
    """Return the program of random combinations of the outputs, and what it takes for granted.

    Parameters
    ----------
    traced : Traced
        Without a loss.
    parameters : names of those that θ consists of, in this order
    loss : None, or "cross_entropy", of which a combination sums to 0 over the classes

    Raises
    ------
    Unlowered
    """
    lowering = _Lowering(traced, parameters)
    output = lowering.run()
    shape = output.shape
    weights = lowering.draw(*shape)
    if loss == "cross_entropy":
        weights = lowering.centred(weights, -1 if len(shape) == 3 else 1)
    count = prod(shape)
    lowering.emit(Multiply((output.number, weights.number), "in,in->i", ((1, count), (1, count))), (1,))
    return Program(lowering.size, tuple(lowering.instructions)), tuple(dict.fromkeys(lowering.granted))


def _numbers(tensor: Tensor) -> tuple[Fraction, ...]:
    return tuple(Fraction(float(x)) for x in tensor.detach().flatten())


@dataclass
class _Lowering:
    traced: Traced
    parameters: Sequence[str]
    instructions: list[Instruction] = field(default_factory=list)
    granted: list[str] = field(default_factory=list)
    blocked: dict[int, Tensor] = field(default_factory=dict)  # value -> where it is −∞
    tokens: dict[Node, Entries] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = self.traced.values
        starts, start = {}, 0
        for name in self.parameters:
            starts[name] = start
            start += values[name].numel() if name in values else 0
        self.starts, self.size = starts, start

    def emit(self, instruction: Instruction, shape: Sequence[int]) -> Entries:
        self.instructions.append(instruction)
        return Entries(len(self.instructions), tuple(shape))

    def run(self) -> Entries:
        values: dict[Node, Value] = {}
        for node in self.traced.nodes:
            if node.op == "placeholder":
                values[node] = self._placeholder(node)
            elif node.op == "output":
                return self.lifted(values[node.args[0][0]])  # type: ignore[index]
            else:
                values[node] = self._apply(node, values)
        raise Unlowered("no output")

    def _placeholder(self, node: Node) -> Value:
        name, value = self.traced.parameters.get(node.name), node.meta["val"]
        if name is not None:
            tensor = self.traced.values[name]
            if name in self.traced.frozen:
                return tensor.detach()
            take = self.starts[name] + torch.arange(tensor.numel())
            return self.emit(Linear((0,), tensor.numel(), take), tensor.shape)
        fixed = self.traced.buffers | self.traced.constants
        if node.name in fixed:
            return fixed[node.name]
        return self.draw(*value.shape) if value.is_floating_point() else node

    def _apply(self, node: Node, values: dict[Node, Value]) -> Value:
        name = operation(node)
        if name == "getitem":
            return values[node.args[0]][node.args[1]]
        given = _named(node, lambda n: values[n])
        flat = torch.utils._pytree.tree_leaves(given, is_leaf=_is_entries)
        if not any(isinstance(x, Entries | Node) for x in flat):
            arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
            return node.target(*arguments, **keywords)
        tokens = [x for x in flat if isinstance(x, Node)]
        masked = [x for x in flat if isinstance(x, Entries) and x.number in self.blocked]
        rule: Callable[..., Value] | None = getattr(self, f"_{name.lstrip('_')}", None)
        if tokens and name != "embedding":
            raise Unlowered(f"{name} of numbers of tokens")
        if masked and name not in {"softmax", "_softmax", *_SAME}:
            raise Unlowered(f"{name} of a masked value")
        if rule is not None:
            return rule(given, node)
        if moves_entries(node):
            return self._moved(node, values)
        first = given[next(iter(given))]
        if name in _SAME and node.meta["val"].is_floating_point():
            return first
        if name in _HOMOGENEOUS:
            plain = "dropout" in name and not (given["train"] and given["p"])
            return first if plain else self.times(self.draw(*first.shape), first)
        if name in _CURVED:
            return self.curved(first, name)
        if name in _LINEAR:
            return self.linear(first, lambda x: node.target(x, *node.args[1:], **node.kwargs))
        raise Unlowered(f"{name} in {self.traced.module_of(node)}")

    # --- building blocks ---------------------------------------------------------------------------------------------

    def draw(self, *shape: int) -> Entries:
        return self.emit(Draw(prod(shape)), shape)

    def lifted(self, value: Value) -> Entries:
        """Fixed numbers as a value of the program."""
        if isinstance(value, Entries):
            return value
        tensor = torch.as_tensor(value)
        if not torch.isfinite(tensor).all():
            raise Unlowered("a constant that is not finite")
        return self.emit(Constant(_numbers(tensor)), tensor.shape)

    def take(self, sources: Sequence[Entries], index: Tensor) -> Entries:
        """Entries of the concatenated sources; 0 where the index is −1."""
        flat = index.flatten()
        numbers, length = tuple(source.number for source in sources), sum(prod(source.shape) for source in sources)
        if (flat < 0).any():
            put = (flat >= 0).nonzero().flatten()
            return self.emit(Linear(numbers, len(flat), flat[put], put), index.shape)
        if len(sources) == 1 and len(flat) == length and torch.equal(flat, torch.arange(length)):
            return Entries(numbers[0], tuple(index.shape))
        return self.emit(Linear(numbers, len(flat), flat), index.shape)

    def reshaped(self, value: Entries, *shape: int) -> Entries:
        return Entries(value.number, tuple(shape))

    def expanded(self, value: Value, shape: Sequence[int]) -> Entries:
        value = self.lifted(value)
        return self.take([value], torch.arange(prod(value.shape)).reshape(value.shape).expand(*shape))

    def times(self, a: Value, b: Value) -> Entries:
        shape = torch.broadcast_shapes(self.lifted(a).shape, self.lifted(b).shape)
        a, b = self.expanded(a, shape), self.expanded(b, shape)
        count = (prod(shape),)
        return self.emit(Multiply((a.number, b.number), "n,n->n", (count, count)), shape)

    def plus(self, a: Value, b: Value) -> Entries:
        shape = torch.broadcast_shapes(self.lifted(a).shape, self.lifted(b).shape)
        a, b = self.expanded(a, shape), self.expanded(b, shape)
        return self.emit(Add((a.number, b.number), prod(shape)), shape)

    def product(self, equation: str, a: Entries, b: Entries) -> Entries:
        """`torch.einsum` without broadcasting."""
        inputs, out = equation.split("->")
        sizes = dict(zip(inputs.replace(",", ""), (*a.shape, *b.shape), strict=True))
        instruction = Multiply((a.number, b.number), equation, (a.shape, b.shape))
        return self.emit(instruction, [sizes[letter] for letter in out])

    def linear(self, value: Entries, function: Callable[[Tensor], Tensor]) -> Entries:
        """A linear function without parameters, with what it adds, from its matrix."""
        count = prod(value.shape)
        added = function(torch.zeros(value.shape, dtype=torch.float64))
        if added.any():
            return self.plus(self.linear(value, lambda x: function(x) - added), added)
        unit = torch.eye(count, dtype=torch.float64).reshape(count, *value.shape)
        image = torch.stack([function(x) for x in unit])
        shape = image.shape[1:]
        if image.numel() > _LARGEST_MATRIX:
            raise Unlowered(f"a linear map from {count} to {prod(shape)} entries")
        matrix = image.reshape(count, -1)
        take, put = matrix.nonzero(as_tuple=True)
        weights = tuple(Fraction(float(x)).limit_denominator(2**16) for x in matrix[take, put])
        plain = all(weight == 1 for weight in weights)
        return self.emit(Linear((value.number,), prod(shape), take, put, None if plain else weights), shape)

    def curved(self, value: Entries, name: str) -> Entries:
        """A function of each entry, whose value and slope there are unrelated."""
        self.granted.append(f"value and slope of {name} are unrelated")
        return self.plus(self.times(self.draw(*value.shape), value), self.draw(*value.shape))

    def centred(self, value: Entries, dim: int, allowed: Tensor | None = None) -> Entries:
        """Less the mean along an axis, of the allowed entries; the others are 0."""
        allowed = torch.ones(value.shape, dtype=torch.bool) if allowed is None else allowed.expand(value.shape)
        allowed = allowed.movedim(dim, -1).reshape(-1, value.shape[dim])
        index = torch.arange(prod(value.shape)).reshape(value.shape).movedim(dim, -1).reshape(allowed.shape)
        take, put, weights = [], [], []
        for row, open_ in zip(index, allowed, strict=True):
            row = row[open_]
            n = len(row)
            take.append(row.repeat(n))
            put.append(row.repeat_interleave(n))
            weights += [Fraction(int(i == j)) - Fraction(1, n) for i in range(n) for j in range(n)]
        linear = Linear((value.number,), prod(value.shape), torch.cat(take), torch.cat(put), tuple(weights))
        return self.emit(linear, value.shape)

    def _moved(self, node: Node, values: dict[Node, Value]) -> Value:
        """An operation that moves entries, from what it does to their numbers."""
        sources: list[Entries] = []

        def numbers(n: Node) -> Any:
            value = values[n]
            if isinstance(value, Tensor) and not value.is_floating_point():
                return value
            found = (
                [self.lifted(part) for part in value]
                if isinstance(value, list | tuple) and not _is_entries(value)
                else [self.lifted(value)]
            )
            result = []
            for entries in found:
                start = sum(prod(source.shape) for source in sources)
                sources.append(entries)
                result.append(start + torch.arange(prod(entries.shape)).reshape(entries.shape))
            return result[0] if _is_entries(value) or isinstance(value, Tensor) else result

        arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), numbers)
        found = node.target(*arguments, **keywords)
        if isinstance(found, list | tuple):
            return [self.take(sources, part) for part in found]
        return self.take(sources, found)

    # --- sums and products -------------------------------------------------------------------------------------------

    def _add(self, given: dict[str, Any], node: Node) -> Entries:
        a, b = given["self"], given["other"]
        if given.get("alpha", 1) != 1:
            b = self.times(b, given["alpha"])
        mask = next((x for x in (a, b) if isinstance(x, Tensor) and torch.isneginf(x).any()), None)
        if mask is not None:
            value = b if mask is a else a
            return self._mask(value, torch.isneginf(mask), self.plus(value, mask.masked_fill(torch.isneginf(mask), 0)))
        return self.plus(a, b)

    def _sub(self, given: dict[str, Any], node: Node) -> Entries:
        return self.plus(given["self"], self.times(given["other"], -given.get("alpha", 1)))

    def _rsub(self, given: dict[str, Any], node: Node) -> Entries:
        return self.plus(given["other"], self.times(given["self"], -given.get("alpha", 1)))

    def _mul(self, given: dict[str, Any], node: Node) -> Entries:
        return self.times(given["self"], given["other"])

    def _div(self, given: dict[str, Any], node: Node) -> Entries:
        if given.get("rounding_mode"):
            raise Unlowered("div with rounding")
        other = given["other"]
        if isinstance(other, Entries):
            return self.times(given["self"], self.inverse(other))
        return self.times(given["self"], 1 / torch.as_tensor(other, dtype=torch.float64))

    def inverse(self, value: Entries) -> Entries:
        return self.emit(Inverse((value.number,), prod(value.shape)), value.shape)

    def _pow(self, given: dict[str, Any], node: Node) -> Entries:
        value, exponent = given["self"], given["exponent"]
        if not isinstance(exponent, int | float) or exponent != int(exponent) or not 1 <= exponent <= 8:
            raise Unlowered(f"a power with exponent {exponent}")
        found = value
        for _ in range(int(exponent) - 1):
            found = self.times(found, value)
        return found

    def _square(self, given: dict[str, Any], node: Node) -> Entries:
        return self.times(given["self"], given["self"])

    def _glu(self, given: dict[str, Any], node: Node) -> Entries:
        x = given["self"]
        index = torch.arange(prod(x.shape)).reshape(x.shape)
        one, gate = (self.take([x], half) for half in index.chunk(2, given["dim"]))
        return self.times(one, self.curved(gate, "sigmoid"))

    def _bilinear(self, given: dict[str, Any], node: Node) -> Entries:
        a, b, weight = (self.lifted(given[name]) for name in ("input1", "input2", "weight"))
        a, b = (self.reshaped(x, prod(x.shape[:-1]), x.shape[-1]) for x in (a, b))
        found = self.product("roj,rj->ro", self.product("ri,oij->roj", a, weight), b)
        return self._affine(self.reshaped(found, *node.meta["val"].shape), None, given["bias"], (weight.shape[0],))

    def _matmul(self, given: dict[str, Any], node: Node) -> Entries:
        a, b = (self.lifted(given[name]) for name in _names(node)[:2])
        shape = torch.matmul(torch.empty(a.shape, device="meta"), torch.empty(b.shape, device="meta")).shape
        a = self.reshaped(a, 1, *a.shape) if len(a.shape) == 1 else a
        b = self.reshaped(b, *b.shape, 1) if len(b.shape) == 1 else b
        if len(b.shape) == 2:
            found = self.product("ik,kj->ij", self.reshaped(a, prod(a.shape[:-1]), a.shape[-1]), b)
        else:
            batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            a, b = (self.expanded(x, (*batch, *x.shape[-2:])) for x in (a, b))
            a, b = (self.reshaped(x, prod(batch), *x.shape[-2:]) for x in (a, b))
            found = self.product("pik,pkj->pij", a, b)
        return self.reshaped(found, *shape)

    _mm = _bmm = _matmul

    def _addmm(self, given: dict[str, Any], node: Node) -> Entries:
        if given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
            raise Unlowered("addmm with factors")
        a, b = self.lifted(given["mat1"]), self.lifted(given["mat2"])
        return self.plus(given["self"], self.product("ik,kj->ij", a, b))

    def _einsum(self, given: dict[str, Any], node: Node) -> Entries:
        equation, operands = given["equation"].replace(" ", ""), given["tensors"]
        inputs, arrow, out = equation.partition("->")
        words = inputs.split(",")
        odd = "." in equation or not arrow or len(words) != 2 or any(len(set(w)) < len(w) for w in (*words, out))
        if odd or set("".join(words)) - set(out) - (set(words[0]) & set(words[1])):
            raise Unlowered(f"einsum {equation}")
        return self.product(equation, *(self.lifted(x) for x in operands))

    def _linear(self, given: dict[str, Any], node: Node) -> Entries:
        x, weight = self.lifted(given["input"]), self.lifted(given["weight"])
        rows = self.reshaped(x, prod(x.shape[:-1]), x.shape[-1])
        found = self.reshaped(self.product("rk,ok->ro", rows, weight), *x.shape[:-1], weight.shape[0])
        return found if given["bias"] is None else self.plus(found, given["bias"])

    def _conv2d(self, given: dict[str, Any], node: Node) -> Entries:
        x, weight, groups = self.lifted(given["input"]), self.lifted(given["weight"]), given["groups"]
        stride, padding, dilation = (given[name] for name in ("stride", "padding", "dilation"))
        if isinstance(padding, str):
            raise Unlowered(f"a convolution with padding {padding!r}")
        one = len(weight.shape) == 3
        if one:  # of one dimension: an image of one row
            x, weight = (self.reshaped(v, *v.shape[:2], 1, v.shape[2]) for v in (x, weight))
            stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
        if len(x.shape) != 4:
            raise Unlowered("a convolution of this dimension, or without a batch")
        batch, outputs, kernel = x.shape[0], weight.shape[0], weight.shape[2:]
        columns = self.take([x], _windows(x.shape, kernel, stride, padding, dilation))
        columns = self.reshaped(columns, batch, groups, prod(weight.shape[1:]), columns.shape[-1])
        filters = self.reshaped(weight, groups, outputs // groups, prod(weight.shape[1:]))
        found = self.product("ngkl,gok->ngol", columns, filters)
        shape = tuple(node.meta["val"].shape)
        found = self.reshaped(found, *shape)
        if given["bias"] is None:
            return found
        bias = self.lifted(given["bias"])
        return self.plus(found, self.reshaped(bias, outputs, *[1] * (len(shape) - 2)))

    _conv1d = _conv2d

    def _embedding(self, given: dict[str, Any], node: Node) -> Entries:
        weight, index = self.lifted(given["weight"]), given["indices"]
        rows = torch.arange(prod(weight.shape)).reshape(weight.shape)
        if isinstance(index, Tensor):
            return self.take([weight], rows[index])
        if given["padding_idx"] not in (-1, None) or given["scale_grad_by_freq"]:
            raise Unlowered("an embedding with a row for padding")
        shape = tuple(index.meta["val"].shape)
        if index not in self.tokens:
            count = prod(shape)
            drawn = self.emit(Draw(count * weight.shape[0], choices=weight.shape[0]), (count, weight.shape[0]))
            self.tokens[index] = drawn
            self.granted.append("the sequences of tokens that are drawn stand for all")
        if self.tokens[index].shape[1] != weight.shape[0]:
            raise Unlowered("tokens of two vocabularies")
        found = self.product("tv,vd->td", self.tokens[index], weight)
        return self.reshaped(found, *shape, weight.shape[1])

    # --- the largest of some entries ---------------------------------------------------------------------------------

    def _max_pool2d(self, given: dict[str, Any], node: Node) -> Entries:
        x, kernel, padding, dilation = (given[name] for name in ("self", "kernel_size", "padding", "dilation"))
        one = operation(node) == "max_pool1d"
        pairs = [[n] * (1 if one else 2) if isinstance(n, int) else list(n) for n in (kernel, padding, dilation)]
        kernel, padding, dilation = (n * 2 if len(n) == 1 and not one else n for n in pairs)
        stride = list(given["stride"]) or kernel
        if given["ceil_mode"] or len(x.shape) != (3 if one else 4):
            raise Unlowered("a max-pool with ceil_mode, or without a batch")
        shape = (prod(x.shape[:2]), 1, 1, x.shape[2]) if one else (prod(x.shape[:2]), 1, *x.shape[2:])
        if one:
            kernel, stride, padding, dilation = [1, *kernel], [1, *stride], [0, *padding], [1, *dilation]
        outside = _windows(shape, kernel, stride, padding, dilation)
        windows = self.take([x], outside)
        return self.reshaped(self.chosen(windows, 1, outside < 0), *node.meta["val"].shape)

    _max_pool1d = _max_pool2d

    def chosen(self, x: Entries, dim: int, outside: Tensor | None = None) -> Entries:
        """One of the entries along an axis: their sum with weights that sum to 1, and are 0 outside."""
        allowed = torch.ones(x.shape, dtype=torch.bool) if outside is None else ~outside
        weights = self.plus(self.centred(self.draw(*x.shape), dim, allowed), self.shares(allowed, dim))
        return self.linear(self.times(x, weights), lambda v: v.sum(dim))

    def shares(self, allowed: Tensor, dim: int) -> Entries:
        """Equal numbers that sum to 1 along an axis."""
        counts = allowed.sum(dim, keepdim=True).expand(allowed.shape)
        pairs = zip(allowed.flatten().tolist(), counts.flatten().tolist(), strict=True)
        return self.emit(Constant(tuple(Fraction(int(one), count) for one, count in pairs)), allowed.shape)

    def _amax(self, given: dict[str, Any], node: Node) -> Entries:
        x = given["self"]
        dims = tuple(dim % len(x.shape) for dim in given["dim"]) or tuple(range(len(x.shape)))
        moved = torch.arange(prod(x.shape)).reshape(x.shape).movedim(dims, tuple(range(-len(dims), 0)))
        found = self.chosen(self.take([x], moved.flatten(-len(dims))), -1)
        return self.reshaped(found, *node.meta["val"].shape)

    _amin = _amax

    # --- softmax and norms -------------------------------------------------------------------------------------------

    def _mask(self, value: Entries, blocked: Tensor, found: Entries) -> Entries:
        self.blocked[found.number] = blocked.expand(value.shape)
        return found

    def _masked_fill(self, given: dict[str, Any], node: Node) -> Entries:
        x, mask, value = given["self"], given["mask"], given["value"]
        if not isinstance(mask, Tensor):
            raise Unlowered("a mask that depends on the data")
        kept = self.times(x, (~mask).to(torch.float64))
        if float(value) == -float("inf"):
            return self._mask(x, mask, kept)
        return self.plus(kept, mask * float(value))

    def _softmax(self, given: dict[str, Any], node: Node) -> Entries:
        x, dim = given["self"], given["dim"] % len(given["self"].shape)
        blocked = self.blocked.get(x.number)
        allowed = torch.ones(x.shape, dtype=torch.bool) if blocked is None else ~blocked
        return self.softmax(x, dim, allowed)

    def softmax(self, x: Entries, dim: int, allowed: Tensor) -> Entries:
        """A value that sums to 1, and a slope that neither sees nor changes sums."""
        if not allowed.any(dim).all():
            raise Unlowered("a softmax over nothing")
        n = x.shape[dim]
        moved = torch.arange(prod(x.shape)).reshape(x.shape).movedim(dim, -1)
        rows = self.take([self.centred(x, dim, allowed)], moved.reshape(-1, n))
        mixed = self.product("rmn,rn->rm", self.draw(len(moved.reshape(-1, n)), n, n), rows)
        sloped = self.take([mixed], moved.flatten().argsort().reshape(x.shape))
        both = self.centred(self.plus(sloped, self.draw(*x.shape)), dim, allowed)
        return self.plus(both, self.shares(allowed, dim))

    def _scaled_dot_product_attention(self, given: dict[str, Any], node: Node) -> Entries:
        query, key, value = (self.lifted(given[name]) for name in ("query", "key", "value"))
        mask = given["attn_mask"]
        if given["enable_gqa"] or given["dropout_p"] or not (mask is None or isinstance(mask, Tensor)):
            raise Unlowered("attention with grouped queries, dropout or a mask that depends on the data")
        batch = query.shape[:-2]
        if key.shape[:-2] != batch or value.shape[:-2] != batch:
            raise Unlowered("attention that broadcasts")
        query, key, value = (self.reshaped(v, prod(batch), *v.shape[-2:]) for v in (query, key, value))
        scores = self.product("pik,pjk->pij", query, key)  # a factor would change nothing
        n, m = scores.shape[1:]
        allowed = torch.ones(*batch, n, m, dtype=torch.bool)
        if given["is_causal"]:
            allowed = allowed.tril()
        if mask is not None:
            if mask.dtype != torch.bool:
                scores = self.plus(
                    scores,
                    self.reshaped(
                        self.expanded(mask.masked_fill(torch.isneginf(mask), 0), allowed.shape), *scores.shape
                    ),
                )
            allowed = allowed & (mask if mask.dtype == torch.bool else ~torch.isneginf(mask))
        attended = self.softmax(scores, 2, allowed.reshape(-1, n, m))
        found = self.product("pij,pjd->pid", attended, value)
        return self.reshaped(found, *batch, n, value.shape[-1])

    def normalised(self, x: Entries, groups: Tensor, centre: bool) -> Entries:
        """Each group (G, n) of entries z divided by its size |z|.

        It is z⟨c,z⟩/⟨z,z⟩ with a random c, whose value and derivative are those of z/|z| where c = z/|z|.
        """
        if centre and groups.shape[1] == 1:
            return self.lifted(torch.zeros(x.shape))
        self.granted.append("norms divide by the size alone: ε is 0")
        z = self.take([x], groups)
        z = self.centred(z, 1) if centre else z
        along = self.product("gn,gn->g", z, self.draw(*z.shape))
        factor = self.times(along, self.inverse(self.product("gn,gn->g", z, z)))
        found = self.product("gn,g->gn", z, factor)
        return self.take([found], groups.flatten().argsort().reshape(x.shape))

    def _affine(self, value: Entries, weight: Value, bias: Value, shape: Sequence[int]) -> Entries:
        if weight is not None:
            value = self.times(value, self.reshaped(self.lifted(weight), *shape))
        return value if bias is None else self.plus(value, self.reshaped(self.lifted(bias), *shape))

    def _layer_norm(self, given: dict[str, Any], node: Node) -> Entries:
        x, shape = given["input"], tuple(given["normalized_shape"])
        groups = torch.arange(prod(x.shape)).reshape(-1, prod(shape))
        found = self.normalised(x, groups, centre=operation(node) == "layer_norm")
        return self._affine(found, given["weight"], given.get("bias"), shape)

    _rms_norm = _layer_norm

    def _group_norm(self, given: dict[str, Any], node: Node) -> Entries:
        x = given["input"]
        groups = torch.arange(prod(x.shape)).reshape(x.shape[0] * given["num_groups"], -1)
        found = self.normalised(x, groups, centre=True)
        return self._affine(found, given["weight"], given["bias"], (x.shape[1], *[1] * (len(x.shape) - 2)))

    def _instance_norm(self, given: dict[str, Any], node: Node) -> Entries:
        x = given["input"]
        if not given["use_input_stats"]:
            raise Unlowered("instance norm with statistics of its own")
        groups = torch.arange(prod(x.shape)).reshape(prod(x.shape[:2]), -1)
        found = self.normalised(x, groups, centre=True)
        return self._affine(found, given["weight"], given["bias"], (x.shape[1], *[1] * (len(x.shape) - 2)))

    def _weight_norm(self, given: dict[str, Any], node: Node) -> Entries:
        v, dim = given["v"], given["dim"]
        index = torch.arange(prod(v.shape)).reshape(v.shape).movedim(dim, 0).reshape(v.shape[dim], -1)
        return self.times(self.normalised(v, index, centre=False), given["g"])

    def _batch_norm(self, given: dict[str, Any], node: Node) -> Entries:
        x, shape = given["input"], (given["input"].shape[1], *[1] * (len(given["input"].shape) - 2))
        if given["training"]:
            index = torch.arange(prod(x.shape)).reshape(x.shape).movedim(1, 0)
            found = self.normalised(x, index.reshape(x.shape[1], -1), centre=True)
        else:
            mean, var = (given[name].to(torch.float64).reshape(shape) for name in ("running_mean", "running_var"))
            found = self.times(self.plus(x, -mean), (var + given["eps"]).rsqrt())
        return self._affine(found, given["weight"], given["bias"], shape)


def _is_entries(value: Any) -> bool:
    return isinstance(value, Entries)


def _names(node: Node) -> list[str]:
    return [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]


def _named(node: Node, of: Callable[[Node], Any]) -> dict[str, Any]:
    """The arguments by their names, defaults included."""
    found = {a.name: a.default_value for a in node.target._schema.arguments if a.has_default_value()}  # type: ignore[union-attr]
    found |= dict(zip(_names(node), node.args, strict=False)) | node.kwargs
    return {name: torch.fx.node.map_arg(found[name], of) for name in _names(node) if name in found}


def _windows(
    shape: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """The numbers of the entries in each window (batch, channel·kernel, place) of an image; −1 in the padding."""
    numbers = 1 + torch.arange(prod(shape), dtype=torch.float64).reshape(*shape)
    stride, padding, dilation = (tuple(n) * (2 // len(n)) for n in (stride, padding, dilation))
    return F.unfold(numbers, tuple(kernel), dilation=dilation, padding=padding, stride=stride).long() - 1
