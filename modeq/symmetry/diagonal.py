"""Which diagonal maps of the parameters leave the output alone: each entry multiplied by its own e^s.

Every value of the graph gets the log-scales of its entries, unknowns of one system of linear relations: homogeneous
operations pass them on or equate them, products add them, normalisations absorb them, everything else and the loss
forces them to 0. Each solution is a scale or rescale symmetry, and there is no other diagonal one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from modeq.symmetry.log_scales import Ids, LogScales
from modeq.symmetry.shapes import moved, moves_entries, operation, shape_of
from modeq.symmetry.traced import Traced

_EPSILON = 1e-3  # at most so large is what keeps a norm that is written out from dividing by 0
_SIZES = {"var", "std", "mean", "sum", "linalg_vector_norm", "norm", "sqrt", "pow", "square", "clamp_min"}
_LARGEST_ELEMENTWISE = 4_000_000  # entries of a parameter that is used entry by entry
_HOMOGENEOUS = {"relu", "leaky_relu", "abs", "neg", "dropout", "feature_dropout", "to", "_to_copy", "type_as"}
# Known to keep no scale but that of 0: they make no claim, and are not unknown.
_BREAKING = {
    "gelu", "silu", "tanh", "sigmoid", "softmax", "_softmax", "log_softmax", "_log_softmax", "exp", "log", "elu",
    "celu", "selu", "softplus", "mish", "hardtanh", "hardswish", "hardsigmoid", "relu6", "logsigmoid", "softsign",
    "sin", "cos", "erf", "expm1", "log1p", "clamp_max", "logsumexp", "cross_entropy_loss",
    "mse_loss",
    "nll_loss", "nll_loss_nd", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "kl_div", "tanhshrink", "softshrink", "cumsum",
}  # fmt: skip
_REDUCING = {"mean", "sum", "amax", "amin", "max", "min", "linalg_vector_norm", "norm", "std"}
_POOLS = {
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d",
}  # fmt: skip


@dataclass
class Part:
    """A parameter, or some of its rows (axis 0), that was not used yet; with its two first axes swapped or not."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    swapped: bool = False
    frozen: bool = False


@dataclass
class Used:
    """Log-scales of some rows of a parameter: Σ sign·s[ids].

    Each ids has two axes, and varies along the one that is named, or along both for None.
    """

    name: str
    start: int
    stop: int
    terms: list[tuple[int, int | None, Ids]]


@dataclass(eq=False)
class Absorbed:
    """What a normalisation absorbs.

    Attributes
    ----------
    module : its path
    ids : unknowns, in the shape of its variance
    broken : whether its ε breaks the symmetry
    call : which of the network's normalisations it is, in their order; None if it is written out
    """

    module: str
    ids: Ids
    broken: bool
    call: int | None


@dataclass
class DiagonalRelations:
    """The unknowns of one graph; see `collect`.

    Attributes
    ----------
    used : log-scales of weights, by rows and columns
    elementwise : parameter's name -> log-scales of its entries
    absorbed : what each normalisation absorbs
    unknown : operations without a rule
    """

    traced: Traced
    scales: LogScales = field(default_factory=LogScales)
    used: list[Used] = field(default_factory=list)
    elementwise: dict[str, Ids] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    absorbed: list[Absorbed] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def collect(self) -> "DiagonalRelations":
        """Walk through the graph."""
        values: dict[Node, Any] = {}
        for node in self.traced.nodes:
            if node.op == "placeholder":
                name = self.traced.parameters.get(node.name)
                shape = shape_of(node)
                if name is None:
                    values[node] = None
                else:
                    self.shapes[name] = shape
                    frozen = name in self.traced.frozen
                    values[node] = Part(name, shape, 0, shape[0] if shape else 1, frozen=frozen)
            elif node.op == "output":
                for value in node.all_input_nodes:
                    self._vanish(values[value])
            else:
                values[node] = self._apply(node, values)
        for use in self.used:
            for _, _, ids in use.terms:
                self.scales.mention(ids)
        return self

    # --- values: None where nothing scales, a Part, or a tensor of unknowns -------------------------------------------

    def _apply(self, node: Node, values: dict[Node, Any]) -> Any:
        def of(argument: Any) -> Any:
            return values[argument] if isinstance(argument, Node) else None

        name = operation(node)
        inputs = [values[n] for n in node.all_input_nodes]
        if all(value is None for value in inputs):
            return None
        if name == "getitem":
            source, position = cast(tuple[Any, Any], node.args)
            found = of(source)
            return found[position] if isinstance(found, list | tuple) else found
        rule: Callable[..., Any] | None = getattr(self, f"_{name.lstrip('_')}", None)
        if rule is not None and name not in _BREAKING:
            return rule(node, of)
        if moves_entries(node):
            return self._move(node, values)
        if name in _HOMOGENEOUS:
            return self._ids(of(node.args[0]), node.args[0])
        if name in _REDUCING:
            return self._reduce(node, of)
        if name in _POOLS:
            return self._pool(node, of)
        if name not in _BREAKING:
            self.unknown.append(f"{name} in {self.traced.module_of(node)}")
        for value in inputs:
            self._vanish(value)
        return None

    def _ids(self, value: Any, node: Any) -> Tensor | None:
        """Unknowns of all entries."""
        if isinstance(value, Part):
            return self._entries(value)
        if value is None and isinstance(node, Node):
            return torch.zeros(shape_of(node), dtype=torch.long)
        return value

    def _entries(self, part: Part) -> Tensor:
        name, shape = part.name, self.shapes[part.name]
        if part.frozen:
            return torch.zeros(part.shape, dtype=torch.long)
        if name not in self.elementwise:
            if int(np.prod(shape)) > _LARGEST_ELEMENTWISE:
                self.elementwise[name] = np.zeros(shape, dtype=np.int64)
            else:
                self.elementwise[name] = self.scales.fresh(*shape)
            for other in [use for use in self.used if use.name == name]:
                self._forget(other)
        ids = torch.from_numpy(self.elementwise[name])
        ids = ids[part.start : part.stop] if shape else ids
        return ids.transpose(0, 1) if part.swapped else ids

    def _forget(self, use: Used) -> None:
        """A parameter that is used in ways which do not fit together is left alone: no claim."""
        for _, _, ids in use.terms:
            self.scales.vanish(ids)
        self.scales.vanish(self.elementwise.get(use.name, np.zeros(1, dtype=np.int64)))

    def _vanish(self, value: Any) -> None:
        if isinstance(value, Part):
            value = self._entries(value)
        if isinstance(value, list | tuple):
            for item in value:
                self._vanish(item)
        elif value is not None:
            self.scales.vanish(value.numpy())

    def _equal_along(self, ids: Tensor, dims: Any) -> Tensor:
        """State that entries along some axes scale alike; return the first of each."""
        for dim in dims:
            first = ids.select(dim, 0).unsqueeze(dim)
            self.scales.equate(ids.numpy(), 1, first.numpy())
            ids = first
        return ids

    def _move(self, node: Node, values: dict[Node, Any]) -> Any:
        first = node.args[0]
        part = values[first] if isinstance(first, Node) else None
        if isinstance(part, Part):
            kept = self._part(node, part)
            if kept is not None:
                return kept

        def argument(n: Node) -> Any:
            return self._ids(values[n], n)

        arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), argument)
        return moved(node, arguments, keywords)

    def _part(self, node: Node, part: Part) -> Any:
        """Rows of a weight, and its transposed, are weights of their own."""
        name, rows = operation(node), part.stop - part.start
        if len(part.shape) != 2:
            return part if name in ("contiguous", "clone", "alias") else None
        if name in ("contiguous", "clone", "alias"):
            return part
        if name in ("t", "numpy_T", "mT") or (
            name in ("transpose", "swapaxes") and {d % 2 for d in cast(tuple[int, ...], node.args[1:3])} == {0, 1}
        ):
            return replace(part, shape=part.shape[::-1], swapped=not part.swapped)
        axis = 1 if part.swapped else 0
        index = torch.arange(rows).reshape((rows, 1) if axis == 0 else (1, rows)).expand(part.shape)

        def cut(block: Tensor) -> Part | None:
            moved_axis = block[:, 0] if axis == 0 else block[0] if block.numel() else block.flatten()
            whole = block.dim() == 2 and block.shape[1 - axis] == part.shape[1 - axis] and block.numel() > 0
            if not whole or not bool((moved_axis.diff() == 1).all()):
                return None
            start = part.start + int(moved_axis[0])
            return replace(part, shape=tuple(block.shape), start=start, stop=start + len(moved_axis))

        if name in ("slice", "narrow", "split", "chunk", "split_with_sizes"):
            found = moved(node, (index, *node.args[1:]), node.kwargs)
            parts = [cut(block) for block in found] if isinstance(found, list | tuple) else cut(found)
            return None if parts is None or (isinstance(parts, list) and None in parts) else parts
        return None

    # --- contractions -------------------------------------------------------------------------------------------------

    def _contract(self, x: Tensor | None, width: int, part: Part, outputs: int) -> Ids:
        """Unknowns of Σ_i W_oi x_i from those of x_i, one for each i; W is (outputs, width), or swapped."""
        given = np.zeros(width, dtype=np.int64) if x is None else x.numpy()
        if part.frozen:  # it mixes all inputs
            self.scales.equate(given, 1, given[:1])
            return np.full(outputs, given[0])
        out_axis = 1 if part.swapped else 0
        found = self._earlier(part)
        out = self.scales.fresh(outputs)
        if found is None:
            terms: list[tuple[int, int | None, Ids]] = [
                (1, out_axis, _on_axis(out, out_axis)),
                (-1, 1 - out_axis, _on_axis(given, 1 - out_axis)),
            ]
            self.used.append(Used(part.name, part.start, part.stop, terms))
            return out
        if not found.terms:
            self.scales.vanish(given)
            self.scales.vanish(out)
            return out
        common = self.scales.fresh(1)
        if any(axis is None for _, axis, _ in found.terms):
            self._forget(found)
            self.scales.vanish(given)
            self.scales.vanish(out)
            return out
        inner = [(s, ids.ravel()) for s, axis, ids in found.terms if axis != out_axis]
        outer = [(s, ids.ravel()) for s, axis, ids in found.terms if axis == out_axis]
        self.scales.relate([given, common, *(ids for _, ids in inner)], [1, -1, *(s for s, _ in inner)])
        self.scales.relate([out, common, *(ids for _, ids in outer)], [1, -1, *(-s for s, _ in outer)])
        return out

    def _earlier(self, part: Part) -> Used | None:
        """An earlier use of the same rows; one that overlaps them otherwise makes both unusable."""
        if part.name in self.elementwise:
            nothing = Used(part.name, part.start, part.stop, [])
            self._forget(nothing)
            return nothing
        for use in self.used:
            if use.name == part.name and use.start < part.stop and part.start < use.stop:
                if (use.start, use.stop) == (part.start, part.stop):
                    return use
                self._forget(use)
                return Used(part.name, part.start, part.stop, [])
        return None

    def _rows(self, value: Any, node: Any) -> Tensor | None:
        """Unknowns of the last axis, the same in all others."""
        ids = self._ids(value, node)
        return None if ids is None else self._equal_along(ids, range(ids.dim() - 1)).reshape(-1)

    def _linear(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        x, weight = node.args[0], node.args[1]
        bias = node.args[2] if len(node.args) > 2 else None
        part = of(weight)
        if not isinstance(part, Part):
            return self._product(node, self._ids(of(x), x), _swapped(self._ids(part, weight)), bias, of)
        outputs, width = part.shape[0], part.shape[1]
        out = self._contract(self._rows(of(x), x), width, part, outputs)
        self._add_bias(out, of(bias), bias)
        return torch.from_numpy(out).expand(shape_of(node))

    def _add_bias(self, out: Ids, value: Any, node: Any) -> None:
        if not isinstance(node, Node):
            return
        ids = self._ids(value, node)
        assert ids is not None
        self.scales.equate(out, 1, ids.numpy().reshape(-1))

    def _product(self, node: Node, a: Any, b: Any, bias: Any, of: Callable[[Any], Any]) -> Tensor:
        """Unknowns of a matrix product Σ_k a_ik b_kj."""
        vector = b.dim() == 1
        b = b.unsqueeze(-1) if vector else b
        a = a.unsqueeze(-2) if a.dim() == 1 else a
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = a.expand(*batch, *a.shape[-2:]), b.expand(*batch, *b.shape[-2:])
        out = torch.from_numpy(self.scales.fresh(*batch, a.shape[-2], b.shape[-1]))
        # a_ik + b_kj = out_ij: enough for the first j and the first i if a and b vary along k and one more axis.
        full = [a.unsqueeze(-1), b.unsqueeze(-3), out.unsqueeze(-2)]
        if a.shape[-2] * a.shape[-1] * b.shape[-1] * max(1, int(np.prod(batch))) > 2_000_000:
            self.unknown.append(f"a large product in {self.traced.module_of(node)}")
            self._vanish(a.contiguous())
            self._vanish(b.contiguous())
            self._vanish(out)
        else:
            self.scales.relate([ids.numpy() for ids in full], [1, 1, -1])
        out = out.reshape(shape_of(node))
        if isinstance(bias, Node):
            ids = self._ids(of(bias), bias)
            assert ids is not None
            self.scales.equate(out.numpy(), 1, ids.numpy())
        return out

    def _matmul(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        a, b = node.args[0], node.args[1]
        part = of(b)
        if isinstance(part, Part) and len(part.shape) == 2:
            width, outputs = part.shape
            swapped = replace(part, shape=part.shape[::-1], swapped=not part.swapped)
            out = self._contract(self._rows(of(a), a), width, swapped, outputs)
            return torch.from_numpy(out).expand(shape_of(node))
        return self._product(node, self._ids(of(a), a), self._ids(part, b), None, of)

    _mm = _bmm = _matmul

    def _addmm(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        bias, a, b = node.args[:3]
        part = of(b)
        if isinstance(part, Part):
            swapped = replace(part, shape=part.shape[::-1], swapped=not part.swapped)
            out = self._contract(self._rows(of(a), a), part.shape[0], swapped, part.shape[1])
            self._add_bias(out, of(bias), bias)
            return torch.from_numpy(out).expand(shape_of(node))
        return self._product(node, self._ids(of(a), a), self._ids(part, b), bias, of)

    def _conv(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        x, weight, bias = node.args[0], node.args[1], node.args[2] if len(node.args) > 2 else None
        groups = cast(int, node.args[6]) if len(node.args) > 6 else 1
        part, ids = of(weight), self._ids(of(x), x)
        assert ids is not None
        channels = self._equal_along(ids, [0, *range(2, ids.dim())]).reshape(-1).numpy()
        if not isinstance(part, Part) or part.swapped or part.stop - part.start != self.shapes[part.name][0]:
            self._vanish(part)
            self._vanish(ids)
            self.unknown.append(f"a computed kernel in {self.traced.module_of(node)}")
            return None
        outputs, width = part.shape[0], part.shape[1]
        if operation(node).startswith("conv_transpose"):
            outputs, width, part = width, outputs, replace(part, swapped=True)
            if groups != 1:
                self._vanish(ids)
                self._vanish(part)
                self.unknown.append(f"a grouped transposed convolution in {self.traced.module_of(node)}")
                return None
        if groups == 1:
            out = self._contract(torch.from_numpy(channels), width, part, outputs)
        elif part.frozen:
            grouped = channels.reshape(groups, -1)
            self.scales.equate(grouped, 1, grouped[:, :1])
            out = np.repeat(grouped[:, 0], outputs // groups)
        else:
            out = self.scales.fresh(outputs)
            group = np.arange(outputs) // (outputs // groups)
            inner = channels[group[:, None] * width + np.arange(width)[None]]
            if self._earlier(part) is not None:
                self.scales.vanish(channels)
                self.scales.vanish(out)
            self.used.append(
                Used(part.name, part.start, part.stop, [(1, 0, out[:, None]), (-1, 0 if width == 1 else None, inner)])
            )
        self._add_bias(out, of(bias), bias)
        shape = shape_of(node)
        return torch.from_numpy(out).reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)

    def _conv1d(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        return self._conv(node, of)

    _conv2d = _conv3d = _conv_transpose1d = _conv_transpose2d = _conv_transpose3d = _conv1d

    # --- sums, products, powers ---------------------------------------------------------------------------------------

    def _add(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        a, b = cast(tuple[Any, Any], node.args[:2])
        one, other = self._ids(of(a), a), self._ids(of(b), b)
        if one is None or other is None:  # a number
            number, node_in = (b, a) if other is None else (a, b)
            ids = one if other is None else other
            if number != 0 and ids is not None:
                if isinstance(number, float) and 0 < number <= _EPSILON and operation(node_in) in _SIZES:
                    self._absorb(node, ids, number)  # the ε of a norm that is written out
                else:
                    self._vanish(ids)
            return ids
        one, other = torch.broadcast_tensors(one, other)
        self.scales.equate(one.numpy(), 1, other.numpy())
        return torch.where(one != 0, one, other)

    _sub = _maximum = _minimum = _add

    def _mul(self, node: Node, of: Callable[[Any], Any], sign: int = 1) -> Tensor | None:
        a, b = node.args[0], node.args[1]
        one, other = self._ids(of(a), a), self._ids(of(b), b)
        if other is None:
            return one
        if one is None:
            one = torch.zeros_like(other)
        one, other = torch.broadcast_tensors(one, other)
        return self._combined([(1, one), (sign, other)])

    def _div(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        return self._mul(node, of, sign=-1)

    def _combined(self, terms: list[tuple[int, Tensor]]) -> Tensor:
        """Unknowns of Σ c·s, for coefficients c; where all but one term vanish these are that one itself."""
        terms = [(c, ids) for c, ids in terms if bool((ids != 0).any())]
        if not terms:
            return torch.zeros((), dtype=torch.long)
        if len(terms) == 1 and terms[0][0] == 1:
            return terms[0][1].clone()
        stacked = np.stack([ids.numpy().ravel() for _, ids in terms], axis=1)
        rows, inverse = np.unique(stacked, axis=0, return_inverse=True)
        fresh = self.scales.fresh(len(rows))
        self.scales.relate([fresh, *rows.T], [-1, *(c for c, _ in terms)])
        return torch.from_numpy(fresh[np.ravel(inverse)]).reshape(terms[0][1].shape)

    def _pow(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        ids, power = self._ids(of(node.args[0]), node.args[0]), node.args[1]
        if isinstance(power, int | float) and float(power).is_integer() and power != 0:
            return self._combined([(int(power), ids)])  # type: ignore[list-item]
        self._vanish(ids)
        return None

    def _square(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        return self._combined([(2, self._ids(of(node.args[0]), node.args[0]))])  # type: ignore[list-item]

    def _reciprocal(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        return self._combined([(-1, self._ids(of(node.args[0]), node.args[0]))])  # type: ignore[list-item]

    def _sqrt(self, node: Node, of: Callable[[Any], Any], sign: int = 1) -> Tensor | None:
        ids = self._ids(of(node.args[0]), node.args[0])
        assert ids is not None
        known, inverse = np.unique(ids.numpy(), return_inverse=True)
        fresh = self.scales.fresh(len(known))
        self.scales.relate([fresh, known], [2 * sign, -1])
        return torch.from_numpy(fresh[np.ravel(inverse)]).reshape(ids.shape)

    def _rsqrt(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        return self._sqrt(node, of, sign=-1)

    def _clamp_min(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        ids, least = self._ids(of(node.args[0]), node.args[0]), node.args[1]
        if not (isinstance(least, int | float) and 0 <= least <= _EPSILON):
            self._vanish(ids)
        return ids

    def _clamp(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        ids = self._ids(of(node.args[0]), node.args[0])
        if tuple(node.args[1:]) not in ((0,), (0, None), (None, 0)):  # a bound at 0 alone keeps the scale
            self._vanish(ids)
        return ids

    def _var(self, node: Node, of: Callable[[Any], Any]) -> Any:
        ids = self._reduce(node, of)
        return None if ids is None else self._combined([(2, ids)])

    def _detach(self, node: Node, of: Callable[[Any], Any]) -> None:
        """No gradient passes: what comes after sees data."""

    def _einsum(self, node: Node, of: Callable[[Any], Any]) -> Any:
        equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
        inputs, _, output = equation.partition("->")
        letters = inputs.split(",")
        assert isinstance(operands, list | tuple)
        if len(letters) != 2 or "." in equation or not output or any(len(set(word)) < len(word) for word in letters):
            for operand in operands:
                self._vanish(of(operand))
            self.unknown.append(f"einsum {equation}")
            return None
        (a, b), (x, y) = letters, operands
        part = of(y)
        if (
            isinstance(part, Part)
            and len(b) == 2
            and b[0] in a
            and b[0] not in output
            and output == a.replace(b[0], b[1])
        ):
            ids = self._ids(of(x), x)
            assert ids is not None
            rows = self._rows(ids.movedim(a.index(b[0]), -1), None)
            swapped = replace(part, shape=part.shape[::-1], swapped=not part.swapped)
            found = torch.from_numpy(self._contract(rows, part.shape[0], swapped, part.shape[1]))
            form = [-1 if letter == b[1] else 1 for letter in output]
            return found.reshape(form).expand(shape_of(node))
        names = "".join(dict.fromkeys(a + b))
        one, other = self._ids(of(x), x), self._ids(part, y)
        assert one is not None
        assert other is not None
        out = torch.from_numpy(self.scales.fresh(*shape_of(node)))

        def spread(ids: Tensor, word: str) -> Ids:
            order = [word.index(letter) for letter in names if letter in word]
            form = [ids.shape[word.index(letter)] if letter in word else 1 for letter in names]
            return ids.permute(order).reshape(form).numpy()

        self.scales.relate([spread(one, a), spread(other, b), spread(out, output)], [1, 1, -1])
        return out

    def _prelu(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        self._vanish(of(node.args[1]))
        return self._ids(of(node.args[0]), node.args[0])

    def _glu(self, node: Node, of: Callable[[Any], Any]) -> Tensor:
        """The first half, times the sigmoid of the second."""
        ids = self._ids(of(node.args[0]), node.args[0])
        assert ids is not None
        kept, gate = ids.chunk(2, int(node.args[1]) if len(node.args) > 1 else -1)  # type: ignore[arg-type]
        self._vanish(gate)
        return kept.clone()

    def _view_as_complex(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        ids = self._ids(of(node.args[0]), node.args[0])
        return None if ids is None else self._equal_along(ids, [ids.dim() - 1])[..., 0].clone()

    def _view_as_real(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        ids = self._ids(of(node.args[0]), node.args[0])
        return None if ids is None else ids.unsqueeze(-1).expand(shape_of(node))

    def _masked_fill(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        ids = self._ids(of(node.args[0]), node.args[0])
        if node.args[2] not in (0, float("inf"), -float("inf")):
            self._vanish(ids)
        return ids

    def _reduce(self, node: Node, of: Callable[[Any], Any]) -> Any:
        ids, shape = self._ids(of(node.args[0]), node.args[0]), shape_of(node)
        assert ids is not None
        if isinstance(node.meta.get("val"), tuple | list):  # the largest, and where they are
            shape = tuple(node.meta["val"][0].shape)
        elif len(node.args) > 1 and isinstance(node.args[1], Node):  # the larger of two
            return self._add(node, of)
        source = ids.shape
        kept = len(shape) == len(source)
        dims = [d for d in range(len(source)) if source[d] != 1 and (not shape or (kept and shape[d] == 1))]
        if shape and not kept:
            named: Any = next((a for a in node.args[1:] if isinstance(a, int | list | tuple) and a != []), None)
            if named is None or (operation(node) in ("linalg_vector_norm", "norm") and len(node.args) > 2):
                named = node.args[2] if len(node.args) > 2 else None
            if named is None:
                self._vanish(ids)
                return None
            dims = [int(d) % len(source) for d in (named if isinstance(named, list | tuple) else [named])]
        found = self._equal_along(ids, dims).reshape(shape).clone()
        return (found, None) if isinstance(node.meta.get("val"), tuple | list) else found

    def _pad(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        ids = self._ids(of(node.args[0]), node.args[0])
        assert ids is not None
        constant = operation(node) == "constant_pad_nd" or len(node.args) < 3 or node.args[2] == "constant"
        value = node.args[-1] if constant and isinstance(node.args[-1], int | float) else 0
        if not constant or value != 0 or len(node.args[1]) > 2 * (ids.dim() - 2):  # type: ignore[arg-type]
            self._vanish(ids)
            return None
        return self._pool(node, of)

    _constant_pad_nd = _pad

    def _pool(self, node: Node, of: Callable[[Any], Any]) -> Tensor:
        ids, shape = self._ids(of(node.args[0]), node.args[0]), shape_of(node)
        assert ids is not None
        first = self._equal_along(ids, range(2, ids.dim()))
        return first.expand(*first.shape[:2], *shape[2:])

    # --- normalisations and attention ---------------------------------------------------------------------------------

    def _absorb(self, node: Node, ids: Tensor, epsilon: Any) -> None:
        self.scales.mention(np.unique(ids.numpy()))
        call = self.traced.norms.index(node) if node in self.traced.norms else None
        self.absorbed.append(Absorbed(self.traced.module_of(node), ids.numpy(), bool(epsilon), call))

    def _affine(self, node: Node, weight: Any, bias: Any, of: Callable[[Any], Any], channel: bool) -> Tensor | None:
        """Unknowns of weight · normalised + bias."""
        shape = shape_of(node)

        def spread(argument: Any) -> Tensor | None:
            ids = self._ids(of(argument), argument)
            if ids is None:
                return None
            return (ids.reshape(-1, *[1] * (len(shape) - 2)) if channel else ids).expand(shape)

        scale = spread(weight) if isinstance(weight, Node) else None
        shift = spread(bias) if isinstance(bias, Node) else None
        if shift is not None:
            self.scales.equate(shift.numpy(), 1, np.zeros(1, dtype=np.int64) if scale is None else scale.numpy())
        return None if scale is None else scale.clone()

    def _batch_norm(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        x, weight, bias, _mean, _var, training, _momentum, epsilon = node.args[:8]
        ids = self._ids(of(x), x)
        assert ids is not None
        if training:
            self._absorb(node, self._equal_along(ids, [0, *range(2, ids.dim())]), epsilon)
            return self._affine(node, weight, bias, of, channel=True)
        # An affine map of each channel: linear where the mean that was kept is 0.
        mean = self.traced.buffers.get(_mean.name) if isinstance(_mean, Node) else None
        centred = torch.zeros(ids.shape[1], dtype=torch.bool) if mean is None else mean.cpu() == 0
        self._vanish(ids[:, ~centred])
        gain = self._ids(of(weight), weight) if isinstance(weight, Node) else None
        out = (
            ids
            if gain is None
            else self._combined([(1, ids), (1, gain.reshape(-1, *[1] * (ids.dim() - 2)).expand(ids.shape))])
        )
        if isinstance(bias, Node):
            shift = self._ids(of(bias), bias)
            assert shift is not None
            self.scales.equate(out.numpy(), 1, shift.reshape(-1, *[1] * (ids.dim() - 2)).expand(ids.shape).numpy())
        return out

    def _instance_norm(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        x, weight, bias, _mean, _var, use_input, _momentum, epsilon = node.args[:8]
        ids = self._ids(of(x), x)
        assert ids is not None
        if use_input:
            self._absorb(node, self._equal_along(ids, range(2, ids.dim())), epsilon)
        else:
            self._vanish(ids)
        return self._affine(node, weight, bias, of, channel=True)

    def _layer_norm(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        x, normalised = node.args[0], node.args[1]
        weight, bias, epsilon = (*node.args[2:5], *[None] * 3)[:3]
        ids = self._ids(of(x), x)
        assert ids is not None
        axes = range(ids.dim() - len(normalised), ids.dim())  # type: ignore[arg-type]
        self._absorb(node, self._equal_along(ids, axes), 1e-5 if epsilon is None else epsilon)
        return self._affine(node, weight, bias, of, channel=False)

    def _rms_norm(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        x, normalised = node.args[0], node.args[1]
        weight, epsilon = (*node.args[2:4], *[None] * 2)[:2]
        ids = self._ids(of(x), x)
        assert ids is not None
        axes = range(ids.dim() - len(normalised), ids.dim())  # type: ignore[arg-type]
        self._absorb(node, self._equal_along(ids, axes), True if epsilon is None else epsilon)
        return self._affine(node, weight, None, of, channel=False)

    def _group_norm(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        x, groups = node.args[0], int(node.args[1])  # type: ignore[arg-type]
        weight, bias, epsilon = (*node.args[2:5], *[None] * 3)[:3]
        ids = self._ids(of(x), x)
        assert ids is not None
        grouped = ids.reshape(ids.shape[0], groups, -1)
        self._absorb(node, self._equal_along(grouped, [2]), 1e-5 if epsilon is None else epsilon)
        return self._affine(node, weight, bias, of, channel=True)

    def _weight_norm(self, node: Node, of: Callable[[Any], Any]) -> Any:
        v, g = node.args[0], node.args[1]
        dim = int(node.args[2]) if len(node.args) > 2 else 0  # type: ignore[arg-type]
        ids, length = self._ids(of(v), v), self._ids(of(g), g)
        assert ids is not None
        assert length is not None
        axes = [axis for axis in range(ids.dim()) if axis != dim]
        self._absorb(node, self._equal_along(ids, axes), 0)
        result = length.expand(ids.shape)
        return (result, None) if operation(node) == "_weight_norm_interface" else result

    _weight_norm_interface = _weight_norm

    def _embedding(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        part = of(node.args[0])
        if not isinstance(part, Part) or not self._scales_with_its_gradient(part, node):
            self._vanish(part)
            return None
        # Rows scale alike: which are seen depends on the data.
        one = np.zeros(1, dtype=np.int64)
        if self._earlier(part) is not None:
            self._forget(Used(part.name, part.start, part.stop, []))
            for use in self.used:
                if use.name == part.name:
                    self._forget(use)
            return None
        columns = self.scales.fresh(part.shape[1])
        self.used.append(Used(part.name, part.start, part.stop, [(1, 0, one[:, None]), (1, 1, columns[None])]))
        return torch.from_numpy(columns).expand(shape_of(node))

    def _scales_with_its_gradient(self, part: Part, node: Node) -> bool:
        """Whether the gradient of a table is its derivative: it is not where divided by counts, or on a padding row."""
        padding, by_counts = cast(tuple[int | None, Any], (*node.args[2:4], *[None] * 2)[:2])
        if padding is None or padding == -1:
            return not by_counts
        return not by_counts and not bool(self.traced.values[part.name][padding].any())

    def _scaled_dot_product_attention(self, node: Node, of: Callable[[Any], Any]) -> Tensor | None:
        query, key, value = (self._ids(of(n), n) for n in node.args[:3])
        assert query is not None
        assert key is not None
        assert value is not None
        if key.shape[-3:-2] != query.shape[-3:-2] and query.dim() > 3:  # grouped queries
            repeats = query.shape[-3] // key.shape[-3]
            key, value = (ids.repeat_interleave(repeats, dim=-3) for ids in (key, value))
        first_query, first_key = self._equal_along(query, [-2]), self._equal_along(key, [-2])
        self.scales.equate(first_query.numpy(), -1, first_key.numpy())
        return self._equal_along(value, [-2]).expand(shape_of(node))


def _on_axis(ids: Ids, axis: int) -> Ids:
    return ids[:, None] if axis == 0 else ids[None]


def _swapped(ids: Tensor | None) -> Tensor | None:
    return None if ids is None else ids.transpose(-1, -2)
