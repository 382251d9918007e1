"""The dimension of the Lie algebra of a network's gradients, from automatic differentiation in float64.

The search is that of `lie_algebra`, with nested derivatives at a point instead of power series. A space is as large as
its singular values say, of columns of length 1 less what is there already. Where neurons are dead, or always active,
there are more laws than elsewhere; so the largest dimension at some points counts, once two have it.
"""

import warnings
from collections.abc import Callable, Sequence
from math import inf, prod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap
from torch.utils._pytree import tree_map

from modeq.errors import InvalidProblem
from modeq.symmetry.lie_algebra import Flow
from modeq.symmetry.programs import tokens
from modeq.symmetry.shapes import operation
from modeq.symmetry.traced import Traced

# Singular values below are taken for 0,
TOLERANCE = 1e-9
# and an answer needs such a gap around it.
LEAST_GAP = 1e3
LEAST_POINTS, MOST_POINTS = 4, 12
_DEEPEST = 5
_TINY = torch.finfo(torch.float64).tiny


class NumericalSpan(NamedTuple):
    """The space of all directions: its dimension, the factors of the longest bracket, the gap, and what is granted.

    The gap is the smallest singular value that counts over the largest that does not, infinite if that is 0.
    """

    dimension: int
    depth: int
    gap: float
    granted: tuple[str, ...] = ()


Field = Callable[[Tensor, Tensor], Tensor]
# Fields as differences of two, that their cancellation can be told from rounding.
Difference = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def numerical_span(
    traced: Traced, example: Sequence[Tensor], loss: str | None, flow: Flow, seed: int, tell: Callable[[str], None]
) -> NumericalSpan:
    """Return the dimension of the algebra at random points, for random inputs.

    Parameters
    ----------
    traced : Traced
        A network without a loss.
    example : tensors
        Its inputs; those of integers are drawn up to the largest here.
    loss : None, or "cross_entropy", of which a combination of outputs sums to 0 over the classes
    flow : Flow
    seed : int
    tell : callable
        Is told what is being done.

    Raises
    ------
    InvalidProblem
        If at no point the singular values have a gap, or brackets of more than five factors would be needed.
    """
    found: list[NumericalSpan] = []
    problems: list[InvalidProblem] = []
    for k in range(MOST_POINTS):
        if len(found) + len(problems) >= LEAST_POINTS and (not found or _times(found) > 1):
            break
        try:
            with warnings.catch_warnings():
                # torch compiles helpers with its own deprecated script compiler at the first forward derivative.
                warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
                warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
                found.append(_span(_Potential(traced, example, loss, 1000 * seed + k), flow, tell))
        except InvalidProblem as problem:
            problems.append(problem)
    if not found:
        raise problems[0]
    granted = [
        f"tokens are drawn from 0 to {int(x.max())}, the largest in the example"
        for x in example
        if not x.is_floating_point()
    ]
    if len({one.dimension for one in found}) > 1 or _times(found) == 1:
        granted.append(
            f"of {len(found)} points {_times(found)} had the largest dimension: where neurons are dead, or always "
            "active, there are more laws"
        )
    return max(found)._replace(granted=tuple(granted))


def _times(found: Sequence[NumericalSpan]) -> int:
    """At how many points the largest dimension was found."""
    dimensions = [one.dimension for one in found]
    return dimensions.count(max(dimensions))


def _span(potential: "_Potential", flow: Flow, tell: Callable[[str], None]) -> NumericalSpan:
    size, blocks = potential.size, flow.blocks
    drift = _drift(flow, potential.generator)
    push = torch.zeros(blocks, 1, dtype=torch.float64)
    push[-1] = 1
    state = torch.cat([potential.start, *[potential.random(size)] * (blocks - 1)])

    def moving(s: Tensor, t: Tensor) -> Tensor:
        gradient = grad(lambda theta: (potential.weights(t) * potential(theta)).sum())(s[:size])
        return (drift @ s.view(blocks, size) + push * gradient).flatten()

    def gradients(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        found = potential.gradients(s[:size])
        found = torch.cat([*[torch.zeros_like(found)] * (blocks - 1), found], 1)
        return found, torch.zeros_like(found)

    return _closure(gradients, moving, state, tell)


def _closure(columns: Difference, moving: Field, state: Tensor, tell: Callable[[str], None]) -> NumericalSpan:
    zero = torch.zeros((), dtype=torch.float64)
    basis = torch.zeros(len(state), 0, dtype=torch.float64)
    kept, dropped = 1.0, 0.0
    for depth in range(_DEEPEST + 1):
        plus, minus = columns(state, zero)
        lengths = (plus.norm(dim=1, keepdim=True) + minus.norm(dim=1, keepdim=True)).clamp_min(_TINY)
        rest = (plus - minus) / lengths
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            rest = rest - rest @ basis @ basis.T
        left, singular, right = torch.linalg.svd(rest, full_matrices=False)
        rank = int((singular > TOLERANCE).sum())
        kept = min([kept, *singular[:rank].tolist()])
        dropped = max([dropped, *singular[rank:].tolist()])
        tell(f"depth {depth + 1}: dimension {basis.shape[1] + rank}")
        if rank == 0:
            return NumericalSpan(basis.shape[1], depth, _judged(kept, dropped))
        basis = torch.cat([basis, right[:rank].T], 1)
        columns = _bracketed(_mixed(columns, left[:, :rank].T / lengths.T), moving)
    raise InvalidProblem(
        f"brackets of {_DEEPEST} factors still add directions, so that no dimension can be told in float64: give a "
        "smaller network, or one that can be counted exactly"
    )


def _judged(kept: float, dropped: float) -> float:
    if kept < LEAST_GAP * dropped:
        raise InvalidProblem(
            f"the singular values go from {kept:.1e} to {dropped:.1e} without a gap, so that no dimension can be told: "
            "give a smaller network, another seed or, if its operations have rules, exact=True"
        )
    return kept / dropped if dropped else inf


def _mixed(columns: Difference, weights: Tensor) -> Field:
    def found(s: Tensor, t: Tensor) -> Tensor:
        plus, minus = columns(s, t)
        return weights @ (plus - minus)

    return found


def _bracketed(columns: Field, moving: Field) -> Difference:
    def found(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        velocity, one = moving(s, t), torch.ones_like(t)
        values, change = cast(tuple[Tensor, Tensor], jvp(columns, (s, t), (velocity, one)))
        return vmap(lambda b: jvp(lambda x: moving(x, t), (s,), (b,))[1])(values), change

    return found


def _drift(flow: Flow, generator: torch.Generator) -> Tensor:
    friction, decay = 0.5 + torch.rand(2, generator=generator, dtype=torch.float64)
    decay = decay if flow.weight_decay else 0 * decay
    if not flow.momentum:
        return -decay.reshape(1, 1)
    return torch.tensor([[0.0, 1.0], [-float(decay), -float(friction)]], dtype=torch.float64)


class _Potential:
    """ψ_s(θ) for a few more samples than parameters, with random inputs and weights of outputs."""

    def __init__(self, traced: Traced, example: Sequence[Tensor], loss: str | None, seed: int) -> None:
        self.traced = traced
        self.generator = torch.Generator().manual_seed(seed)
        self.fixed = traced.buffers | traced.constants
        self.moved = {name: p for name, p in traced.values.items() if name not in traced.frozen}
        self.sizes = [p.numel() for p in self.moved.values()]
        self.size = sum(self.sizes)
        self.start = torch.cat([self._initial(p) for p in self.moved.values()])
        self.samples = self.size + 8 if all(x.is_floating_point() for x in example) else 8 * (self.size + 1)
        self.inputs = [self._like(example[int(node.name.rpartition("_")[2])]) for node in self._placeholders()]
        one = self._outputs(self.start, *(x[0] for x in self.inputs))
        self.outputs = self.random(self.samples, *one.shape)
        if loss == "cross_entropy":
            self.outputs -= self.outputs.mean(-1 if one.dim() == 3 else 2, keepdim=True)
        self.streams = self.random(_DEEPEST + 2, self.samples)

    def _placeholders(self) -> list[torch.fx.Node]:
        known = {*self.traced.parameters, *self.fixed}
        return [node for node in self.traced.nodes if node.op == "placeholder" and node.name not in known]

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def _initial(self, p: Tensor) -> Tensor:
        """Of order one and away from 0, a matrix divided by the root of its inputs."""
        size = 0.4 + 1.2 * torch.rand(p.numel(), generator=self.generator, dtype=torch.float64)
        return size * self.random(p.numel()).sign() / (p[0].numel() ** 0.5 if p.dim() > 1 else 1.0)

    def _like(self, x: Tensor) -> Tensor:
        shape = (self.samples, *x.shape)
        if x.is_floating_point():
            return 1.5 * self.random(*shape)
        return tokens(self.generator, self.samples, prod(x.shape), int(x.max()) + 1).reshape(shape)

    def _outputs(self, theta: Tensor, *inputs: Tensor) -> Tensor:
        parts = zip(self.moved.items(), theta.split(self.sizes), strict=True)
        parameters = {name: part.view(p.shape) for (name, p), part in parts}
        values: dict[torch.fx.Node, Any] = dict(zip(self._placeholders(), inputs, strict=True))
        for node in self.traced.nodes:
            if node.op == "placeholder" and node not in values:
                name = self.traced.parameters.get(node.name)
                held = self.fixed[node.name] if name is None else self.traced.values[name]
                values[node] = parameters[name] if name in parameters else _double(held.detach())
            elif node.op == "call_function":
                values[node] = _run(node, values)
        (outputs,) = cast(tuple[Any], self.traced.nodes[-1].args)
        return values[outputs[0]]

    def _one(self, theta: Tensor, weights: Tensor, *x: Tensor) -> Tensor:
        return (weights * self._outputs(theta, *x)).sum()

    def _all(self, function: Callable[..., Tensor], theta: Tensor) -> Tensor:
        return vmap(function, (None, 0, *[0] * len(self.inputs)))(theta, self.outputs, *self.inputs)

    def __call__(self, theta: Tensor) -> Tensor:
        return self._all(self._one, theta)

    def gradients(self, theta: Tensor) -> Tensor:
        return self._all(grad(self._one), theta)

    def weights(self, t: Tensor) -> Tensor:
        """u_s(t), with independent Taylor coefficients."""
        found = self.streams[-1]
        for coefficients in self.streams.flip(0)[1:]:
            found = coefficients + t * found
        return found


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _run(node: torch.fx.Node, values: dict[torch.fx.Node, Any]) -> Any:
    """The value of a node; third derivatives of torch's own norms are wrong, and its fused attention has no second."""
    arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
    if "dropout" in operation(node) and arguments[1] and arguments[2]:
        raise InvalidProblem("the network draws random numbers for dropout: give module.eval()")
    function: Any = _WRITTEN_OUT.get(operation(node), node.target)
    schema = getattr(node.target, "_schema", None)
    if schema is not None and schema.is_mutable:  # which vmap refuses for what samples share
        function = getattr(torch.ops.aten, operation(node))
    try:
        found = function(*arguments, **keywords)
    except (RuntimeError, NotImplementedError) as error:
        raise InvalidProblem(
            f"torch has no nested derivatives of {operation(node)}: give the network with other operations "
            f"({str(error).splitlines()[0]})"
        ) from error
    return tree_map(_double, found)


def _normalised(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * (centred.square().mean(axes, keepdim=True) + epsilon).rsqrt()


def _layer_norm(
    x: Tensor, shape: list[int], weight: Any = None, bias: Any = None, epsilon: float = 1e-5, _: bool = False
) -> Tensor:
    found = _normalised(x, list(range(x.dim() - len(shape), x.dim())), epsilon)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, _: float, epsilon: float, __: bool
) -> Tensor:
    shape = (1, -1, *[1] * (x.dim() - 2))
    if training:
        found = _normalised(x, [0, *range(2, x.dim())], epsilon)
    else:
        found = (x - mean.reshape(shape)) * (variance.reshape(shape) + epsilon).rsqrt()
    found = found if weight is None else found * weight.reshape(shape)
    return found if bias is None else found + bias.reshape(shape)


def _instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, own: bool, _: float, *others: Any
) -> Tensor:
    if not own:
        return _batch_norm(x, weight, bias, mean, variance, False, 0.0, others[0], False)
    found, shape = _normalised(x, list(range(2, x.dim())), others[0]), (1, -1, *[1] * (x.dim() - 2))
    found = found if weight is None else found * weight.reshape(shape)
    return found if bias is None else found + bias.reshape(shape)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any = None,
    dropout: float = 0.0,
    causal: bool = False,
    **keywords: Any,
) -> Tensor:
    if dropout or keywords.get("enable_gqa"):
        raise InvalidProblem("attention with dropout, or with grouped queries, is not counted: give module.eval()")
    factor = keywords.get("scale") or query.shape[-1] ** -0.5
    scores = query @ key.transpose(-1, -2) * factor
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).tril().logical_not(), -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


_WRITTEN_OUT: dict[str, Callable[..., Tensor]] = {
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "scaled_dot_product_attention": _attention,
}
