"""A network as a straight-line program in which each nonlinearity is as general as its kind allows.

What can be pushed at θ depends on the derivatives of the outputs at θ alone, for all inputs. There a ReLU multiplies
each of its entries by 0 or 1, a tanh gives some value and some slope, a softmax a value that sums to 1 and a symmetric
matrix that maps constants to 0. Here these are drawn for each sample, without regard to the input. So the fields of the
network are among those of the program, and a law of the program is one of the network; the converse needs inputs under
which the patterns, values and slopes do vary. For ReLU that is the path lifting of Marcotte, Gribonval, Peyré (2023,
2307.00144), for attention they are the products of queries with keys and of values with outputs (2025, 2506.06194).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from modeq.symmetry.program_builder import Builder, Entries, Unlowered, Value
from modeq.symmetry.programs import Draw, Linear, Program
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


def program_of_network(
    traced: Traced, parameters: Mapping[str, Tensor], loss: str | None
) -> tuple[Program, tuple[str, ...]]:
    """Return the program of random combinations of the outputs, and what it takes for granted.

    Parameters
    ----------
    traced : Traced
        Without a loss.
    parameters : those that θ consists of, in this order, by name
    loss : None, or "cross_entropy", of which a combination sums to 0 over the classes

    Raises
    ------
    Unlowered
    """
    lowering = _Lowering(traced, parameters)
    output = lowering.run()
    weights = lowering.draw(*output.shape)
    if loss == "cross_entropy":
        weights = lowering.centred(weights, -1 if len(output.shape) == 3 else 1)
    row = (1, prod(output.shape))
    lowering.product("in,in->i", output.reshaped(*row), weights.reshaped(*row))
    size = sum(p.numel() for p in parameters.values())
    return Program(size, tuple(lowering.instructions)), tuple(dict.fromkeys(lowering.granted))


class _Lowering(Builder):
    def __init__(self, traced: Traced, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.traced = traced
        self.blocked: dict[int, Tensor] = {}  # value -> where it is −∞
        self.tokens: dict[Node, Entries] = {}
        starts = accumulate((p.numel() for p in parameters.values()), initial=0)
        self.starts = dict(zip(parameters, starts, strict=False))

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
            source, position = cast(tuple[Node, Any], node.args)
            return values[source][position]
        given = _named(node, lambda n: values[n])
        flat = torch.utils._pytree.tree_leaves(given, is_leaf=_is_entries)
        if not any(isinstance(x, Entries | Node) for x in flat):
            arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
            return cast(Any, node.target)(*arguments, **keywords)
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
            return self.linear(first, lambda x: cast(Any, node.target)(x, *node.args[1:], **node.kwargs))
        raise Unlowered(f"{name} in {self.traced.module_of(node)}")

    # --- entries that are moved --------------------------------------------------------------------------------------

    def _moved(self, node: Node, values: dict[Node, Value]) -> Value:
        """An operation that moves entries, from what it does to their numbers."""
        sources: list[Entries] = []

        def numbers(n: Node) -> Any:
            value = values[n]
            if isinstance(value, Tensor) and not value.is_floating_point():
                return value
            several = isinstance(value, list | tuple) and not _is_entries(value)
            result = []
            for entries in map(self.lifted, value if several else [value]):
                result.append(sum(prod(source.shape) for source in sources) + entries.positions())
                sources.append(entries)
            return result if several else result[0]

        arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), numbers)
        found = cast(Any, node.target)(*arguments, **keywords)
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
        a, b = (x.reshaped(prod(x.shape[:-1]), x.shape[-1]) for x in (a, b))
        found = self.product("roj,rj->ro", self.product("ri,oij->roj", a, weight), b)
        return self.affine(found.reshaped(*node.meta["val"].shape), None, given["bias"], (weight.shape[0],))

    def _matmul(self, given: dict[str, Any], node: Node) -> Entries:
        a, b = (self.lifted(given[name]) for name in _names(node)[:2])
        shape = torch.matmul(torch.empty(a.shape, device="meta"), torch.empty(b.shape, device="meta")).shape
        a = a.reshaped(1, *a.shape) if len(a.shape) == 1 else a
        b = b.reshaped(*b.shape, 1) if len(b.shape) == 1 else b
        if len(b.shape) == 2:
            found = self.product("ik,kj->ij", a.reshaped(prod(a.shape[:-1]), a.shape[-1]), b)
        else:
            batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            a, b = (self.expanded(x, (*batch, *x.shape[-2:])) for x in (a, b))
            a, b = (x.reshaped(prod(batch), *x.shape[-2:]) for x in (a, b))
            found = self.product("pik,pkj->pij", a, b)
        return found.reshaped(*shape)

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
        rows = x.reshaped(prod(x.shape[:-1]), x.shape[-1])
        found = self.product("rk,ok->ro", rows, weight).reshaped(*x.shape[:-1], weight.shape[0])
        return found if given["bias"] is None else self.plus(found, given["bias"])

    def _conv2d(self, given: dict[str, Any], node: Node) -> Entries:
        x, weight, groups = self.lifted(given["input"]), self.lifted(given["weight"]), given["groups"]
        if isinstance(given["padding"], str):
            raise Unlowered(f"a convolution with padding {given['padding']!r}")
        if len(x.shape) != len(weight.shape):
            raise Unlowered("a convolution without a batch")
        columns, _ = self._windows(x, weight.shape[2:], given)
        columns = columns.reshaped(x.shape[0], groups, prod(weight.shape[1:]), columns.shape[-1])
        filters = weight.reshaped(groups, weight.shape[0] // groups, prod(weight.shape[1:]))
        found = self.product("ngkl,gok->ngol", columns, filters).reshaped(*node.meta["val"].shape)
        return self.affine(found, None, given["bias"], (weight.shape[0], *[1] * (len(x.shape) - 2)))

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
        return found.reshaped(*shape, weight.shape[1])

    # --- the largest of some entries ---------------------------------------------------------------------------------

    def _max_pool2d(self, given: dict[str, Any], node: Node) -> Entries:
        x, dims = given["self"], 1 if operation(node) == "max_pool1d" else 2
        if given["ceil_mode"] or len(x.shape) != 2 + dims:
            raise Unlowered("a max-pool with ceil_mode, or without a batch")
        kernel = given["kernel_size"]
        images = x.reshaped(prod(x.shape[:2]), 1, *x.shape[2:])
        windows, inside = self._windows(images, kernel, given | {"stride": given["stride"] or kernel})
        return self.chosen(windows, 1, inside).reshaped(*node.meta["val"].shape)

    def _windows(self, x: Entries, kernel: Sequence[int], given: dict[str, Any]) -> tuple[Entries, Tensor]:
        """The entries in each window (batch, channel·kernel, place) of an image; which are not in the padding."""
        dims = len(x.shape) - 2  # one dimension is an image of one row
        sizes = {"kernel_size": kernel, **{name: given[name] for name in ("stride", "padding", "dilation")}}
        for name, n in sizes.items():
            each = [n] if isinstance(n, int) else list(n)
            sizes[name] = [int(name != "padding"), *each] if dims == 1 else each * (2 // len(each))
        numbers = 1 + x.positions().reshape(*x.shape[:2], -1, x.shape[-1]).to(torch.float64)
        index = F.unfold(numbers, **sizes).long() - 1
        return self.take([x], index), index >= 0

    _max_pool1d = _max_pool2d

    def _amax(self, given: dict[str, Any], node: Node) -> Entries:
        x = given["self"]
        dims = tuple(dim % len(x.shape) for dim in given["dim"]) or tuple(range(len(x.shape)))
        moved = torch.arange(prod(x.shape)).reshape(x.shape).movedim(dims, tuple(range(-len(dims), 0)))
        windows = self.take([x], moved.flatten(-len(dims)))
        found = self.chosen(windows, -1, torch.ones(windows.shape, dtype=torch.bool))
        return found.reshaped(*node.meta["val"].shape)

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

    def _scaled_dot_product_attention(self, given: dict[str, Any], node: Node) -> Entries:
        query, key, value = (self.lifted(given[name]) for name in ("query", "key", "value"))
        mask = given["attn_mask"]
        if given["enable_gqa"] or given["dropout_p"] or not (mask is None or isinstance(mask, Tensor)):
            raise Unlowered("attention with grouped queries, dropout or a mask that depends on the data")
        batch = query.shape[:-2]
        if key.shape[:-2] != batch or value.shape[:-2] != batch:
            raise Unlowered("attention that broadcasts")
        query, key, value = (v.reshaped(prod(batch), *v.shape[-2:]) for v in (query, key, value))
        scores = self.product("pik,pjk->pij", query, key)  # a factor would change nothing
        n, m = scores.shape[1:]
        allowed = torch.ones(*batch, n, m, dtype=torch.bool)
        if given["is_causal"]:
            allowed = allowed.tril()
        if mask is not None and mask.dtype == torch.bool:
            allowed = allowed & mask
        elif mask is not None:
            allowed = allowed & ~torch.isneginf(mask)
            added = mask.masked_fill(torch.isneginf(mask), 0).expand(allowed.shape)
            scores = self.plus(scores, added.reshape(scores.shape))
        attended = self.softmax(scores, 2, allowed.reshape(-1, n, m))
        found = self.product("pij,pjd->pid", attended, value)
        return found.reshaped(*batch, n, value.shape[-1])

    def _layer_norm(self, given: dict[str, Any], node: Node) -> Entries:
        x, shape = given["input"], tuple(given["normalized_shape"])
        groups = torch.arange(prod(x.shape)).reshape(-1, prod(shape))
        found = self.normalised(x, groups, centre=operation(node) == "layer_norm")
        return self.affine(found, given["weight"], given.get("bias"), shape)

    _rms_norm = _layer_norm

    def _group_norm(self, given: dict[str, Any], node: Node) -> Entries:
        x = given["input"]
        groups = torch.arange(prod(x.shape)).reshape(x.shape[0] * given["num_groups"], -1)
        found = self.normalised(x, groups, centre=True)
        return self.affine(found, given["weight"], given["bias"], (x.shape[1], *[1] * (len(x.shape) - 2)))

    def _instance_norm(self, given: dict[str, Any], node: Node) -> Entries:
        x = given["input"]
        if not given["use_input_stats"]:
            raise Unlowered("instance norm with statistics of its own")
        groups = torch.arange(prod(x.shape)).reshape(prod(x.shape[:2]), -1)
        found = self.normalised(x, groups, centre=True)
        return self.affine(found, given["weight"], given["bias"], (x.shape[1], *[1] * (len(x.shape) - 2)))

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
        return self.affine(found, given["weight"], given["bias"], shape)


def _is_entries(value: Any) -> bool:
    return isinstance(value, Entries)


def _names(node: Node) -> list[str]:
    return [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]


def _named(node: Node, of: Callable[[Node], Any]) -> dict[str, Any]:
    """The arguments by their names, defaults included."""
    found = {a.name: a.default_value for a in node.target._schema.arguments if a.has_default_value()}  # type: ignore[union-attr]
    found |= dict(zip(_names(node), node.args, strict=False)) | node.kwargs
    return {name: torch.fx.node.map_arg(found[name], of) for name in _names(node) if name in found}
