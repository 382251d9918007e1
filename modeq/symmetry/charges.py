"""The charges of continuous symmetries: what gradient flow conserves, written by hand.

A one-parameter symmetry moves the parameters along a generator ξ(θ) without changing the loss,
so every gradient obeys ⟨g, ξ(θ)⟩ = 0. The families here have an affine generator, either constant
(translation) or linear (scale, rescale), and one value holds many generators: one per index of an axis.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modeq.errors import InvalidCharge

# An axis; an axis cut in so many contiguous pieces; an axis, or None for the flattened tensor, with the indices that
# each generator moves; None for one generator over the whole tensor.
Axis = int | tuple[int, int] | tuple[int | None, tuple[tuple[int, ...], ...]] | None


@dataclass(frozen=True)
class Member:
    """One parameter of a charge: which axis counts the generators, and the sign it enters with."""

    parameter: str
    axis: int | None
    groups: int | tuple[tuple[int, ...], ...] | None = None
    sign: int = 1

    def generators(self, shape: torch.Size, owner: str) -> int:
        """Return the number of generators that a tensor of this shape gives, or refuse it."""
        if isinstance(self.groups, tuple):
            return self._generators_of_table(shape, owner)
        if self.axis is None:
            return 1
        if not -len(shape) <= self.axis < len(shape):
            raise InvalidCharge(
                f"{owner}: {self.parameter!r} has shape {tuple(shape)} and no axis {self.axis}; "
                f"give an axis from 0 to {len(shape) - 1}, or None for one generator over the whole tensor"
            )
        size = shape[self.axis]
        if self.groups is None:
            return size
        if self.groups < 1 or size % self.groups:
            raise InvalidCharge(
                f"{owner}: axis {self.axis} of {self.parameter!r} has length {size}, which does not split "
                f"into {self.groups} equal groups; give a divisor of {size}"
            )
        return self.groups

    def _generators_of_table(self, shape: torch.Size, owner: str) -> int:
        assert isinstance(self.groups, tuple)
        if self.axis is not None and not -len(shape) <= self.axis < len(shape):
            raise InvalidCharge(f"{owner}: {self.parameter!r} has shape {tuple(shape)} and no axis {self.axis}")
        length = shape.numel() if self.axis is None else shape[self.axis]
        largest = max(max(indices) for indices in self.groups)
        if largest >= length:
            raise InvalidCharge(
                f"{owner}: {self.parameter!r} has shape {tuple(shape)}, where index {largest} lies outside; give "
                f"indices up to {length - 1}"
            )
        return len(self.groups)

    def reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor of the parameter's shape over all but the generators, shape [generators]."""
        if isinstance(self.groups, tuple):
            along = (
                tensor.flatten()
                if self.axis is None
                else tensor.movedim(self.axis, 0).flatten(1).sum(1)
                if tensor.dim() > 1
                else tensor
            )
            index = torch.tensor(self.groups, device=tensor.device)
            return along[index].sum(1)
        if self.axis is None:
            return tensor.sum().reshape(1)
        moved = tensor.movedim(self.axis, 0)
        return moved.reshape(self.groups or moved.shape[0], -1).sum(1)

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """Return for each entry of a tensor the sum of the values, shape [generators], of those that move it."""
        values = values.to(like)
        if isinstance(self.groups, tuple):
            length = like.numel() if self.axis is None else like.shape[self.axis]
            index = torch.tensor(self.groups, device=like.device)
            along = values.new_zeros(length).index_add_(0, index.flatten(), values.repeat_interleave(index.shape[1]))
            if self.axis is None:
                return along.reshape(like.shape)
        elif self.axis is None:
            return values.expand(like.shape)
        else:
            along = values if self.groups is None else values.repeat_interleave(like.shape[self.axis] // self.groups)
        return along.reshape([-1 if d == self.axis % like.dim() else 1 for d in range(like.dim())]).expand(like.shape)

    def __str__(self) -> str:
        if isinstance(self.groups, tuple):
            first, last = min(map(min, self.groups)), max(map(max, self.groups))
            return f"{self.parameter!r}: ({self.axis}, {len(self.groups)} × {len(self.groups[0])} in {first}…{last})"
        axis = self.axis if self.groups is None else (self.axis, self.groups)
        return f"{self.parameter!r}: {axis}"


def _members(owner: str, table: Mapping[str, Axis], sign: int = 1) -> tuple[Member, ...]:
    if not isinstance(table, Mapping):
        raise InvalidCharge(
            f"{owner} gets {table!r} for its parameters; give a mapping of names to axes, such as {{'fc.weight': 1}}"
        )
    if not table:
        raise InvalidCharge(f"{owner} names no parameter; give at least one, such as {{'fc.weight': 1}}")
    members = []
    for parameter, axis in table.items():
        if not isinstance(parameter, str):
            raise InvalidCharge(f"{owner} names the parameter {parameter!r}; give a string, such as 'fc.weight'")
        index, groups = axis if isinstance(axis, tuple | list) and len(axis) == 2 else (axis, None)
        if isinstance(groups, tuple | list):
            groups = _table(owner, parameter, groups)
        elif any(isinstance(part, bool) or not isinstance(part, int | None) for part in (index, groups)):
            raise InvalidCharge(
                f"{owner}: the axis of {parameter!r} is {axis!r}; give an integer, a pair (axis, groups), or None"
            )
        members.append(Member(parameter, index, groups, sign))
    return tuple(members)


def _both_sides(owner: str, sides: dict[str, Mapping[str, Axis]]) -> tuple[Member, ...]:
    """Members with the sign 1, then those with −1; a parameter that lies on both sides names its entries."""
    (one, plus), (other, minus) = sides.items()
    members = _members(f"{owner}, {one},", plus) + _members(f"{owner}, {other},", minus, sign=-1)
    tables = {m.parameter for m in members if isinstance(m.groups, tuple)}
    both = sorted((plus.keys() & minus.keys()) - tables)
    if both:
        raise InvalidCharge(f"{owner} has {both[0]!r} both {one} and {other}; a parameter lies on one side")
    return members


def _table(owner: str, parameter: str, rows: Any) -> tuple[tuple[int, ...], ...]:
    """Indices for each generator, as many for each."""
    table = tuple(tuple(row) if isinstance(row, tuple | list) else () for row in rows)
    whole = all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for row in table for i in row)
    if not table or not whole or len({len(row) for row in table}) != 1 or not table[0]:
        raise InvalidCharge(
            f"{owner}: the indices of {parameter!r} are {rows!r}; give for each generator as many integers from 0"
        )
    return table


@dataclass(frozen=True, repr=False)
class Charge:
    r"""A family of generators ξ(θ) and the quantities they pair with; build one of the subclasses.

    Every number is a vector with one entry per generator, in float64. With the pairing
    ⟨ξ(x), y⟩ the charge itself is ⟨ξ(θ), θ⟩ and its momentum ⟨ξ(θ), v⟩, for all families alike.

    Parameters
    ----------
    name : str
        What records and messages call it.
    members : tuple of Member
        The parameters; use the constructor of a subclass instead of writing them out.

    Attributes
    ----------
    degree : int
        1 if the charge is linear in θ (translation), 2 if it is quadratic (scale, rescale).

    Examples
    --------
    >>> charge = Charge.from_dict({"kind": "scale", "name": "conv", "parameters": {"conv.weight": 0}})
    >>> charge, charge.degree
    (Scale('conv', {'conv.weight': 0}), 2)
    """

    name: str
    members: tuple[Member, ...]

    degree: ClassVar[int]

    def parameters_of(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return the parameters of the charge in a module, checked; raises `InvalidCharge`."""
        if not isinstance(module, nn.Module):
            raise InvalidCharge(f"module is {module!r}; give the network, a torch.nn.Module")
        known = unwrapped(module, module.named_parameters(remove_duplicate=False))
        buffers = unwrapped(module, module.named_buffers(remove_duplicate=False))
        found: dict[str, nn.Parameter] = {}
        for member in self.members:
            name = member.parameter
            if name in buffers:
                raise InvalidCharge(
                    f"charge {self.name!r}: {name!r} is a buffer, which no optimizer moves; name a parameter"
                )
            if name not in known:
                raise InvalidCharge(
                    f"charge {self.name!r}: the module has no parameter {name!r}; it has {', '.join(known)}"
                )
            if not known[name].is_floating_point():
                raise InvalidCharge(
                    f"charge {self.name!r}: {name!r} has dtype {known[name].dtype}; charges need real "
                    "floating-point parameters"
                )
            tied = [other for other, seen in found.items() if seen is known[name] and other != name]
            if tied:
                raise InvalidCharge(f"charge {self.name!r}: {tied[0]!r} and {name!r} are the same tensor; name it once")
            found[name] = known[name]
        self.count(found)
        return found

    def count(self, tensors: Mapping[str, Tensor]) -> int:
        """Return the number of generators for tensors of these shapes; raises `InvalidCharge`."""
        owner = f"charge {self.name!r}"
        found = [(m.parameter, m.generators(tensors[m.parameter].shape, owner)) for m in self.members]
        counts = dict(found)
        if len({number for _, number in found}) > 1:
            raise InvalidCharge(
                f"{owner}: its parameters give different numbers of generators, {counts}; choose axes of one "
                "length, or (axis, groups) where an axis was flattened"
            )
        return next(iter(counts.values()))

    def pairing(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Tensor:
        r"""Return ⟨ξ(x), y⟩ per generator, shape [generators], summed in float64.

        Parameters
        ----------
        x, y : mapping of str to Tensor
            Tensors shaped as the parameters: the parameters themselves, gradients, momentum buffers.
        """
        raise NotImplementedError

    def normaliser(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the size of the terms that the charge adds up, the denominator of residuals."""
        raise NotImplementedError

    def generator_norm(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ‖ξ(θ)‖ per generator, shape [generators]."""
        raise NotImplementedError

    def moved(self, parameters: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Return Σ_k c_k ξ_k(θ) by parameter, for one coefficient c_k for each generator."""
        rates = self._rates(parameters, coefficients)
        return {name: rate * parameters[name] if self.degree == 2 else rate for name, rate in rates.items()}

    def moved_slope(self, gradients: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Return (∂ξ)ᵀg for ξ = Σ_k c_k ξ_k; nothing for constant generators."""
        return self.moved(gradients, coefficients) if self.degree == 2 else {}

    def acted(self, parameters: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Return the parameters moved for the time 1 along Σ_k c_k ξ_k: θ·eᶜ, or θ + c."""
        rates = self._rates(parameters, coefficients)
        if self.degree == 2:
            return {name: parameters[name] * rate.exp() for name, rate in rates.items()}
        return {name: parameters[name] + rate for name, rate in rates.items()}

    def _rates(self, like: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        rates: dict[str, Tensor] = {}
        for member in self.members:
            rate = member.sign * member.spread(coefficients, like[member.parameter])
            rates[member.parameter] = rates[member.parameter] + rate if member.parameter in rates else rate
        return rates

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the charge ⟨ξ(θ), θ⟩ per generator, shape [generators]."""
        return self.pairing(parameters, parameters)

    def norm(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return ‖x‖ over the entries that each generator moves, shape [generators]."""
        return self._total(lambda m: x[m.parameter].double().square()).sqrt()

    def _total(self, term: Any, signed: bool = False) -> Tensor:
        parts: Iterator[Tensor] = (m.reduce(term(m)) * (m.sign if signed else 1) for m in self.members)
        return torch.stack(list(parts)).sum(0)

    def renamed(self, name: str) -> "Charge":
        """Return the same charge under another name.

        Examples
        --------
        >>> Scale("conv", {"conv.weight": 0}).renamed("first")
        Scale('first', {'conv.weight': 0})
        """
        return Charge.from_dict({**self.to_dict(), "name": name})

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only: kind, name and the tables of axes (a pair becomes a list)."""
        tables = {
            key: {m.parameter: m.axis if m.groups is None else [m.axis, m.groups] for m in members}
            for key, members in self._tables().items()
        }
        return {"kind": type(self).__name__.lower(), "name": self.name, **tables}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Charge":
        """Rebuild a charge from `to_dict`; raises `InvalidCharge` for an unknown kind."""
        kinds = {kind.__name__.lower(): kind for kind in (Translation, Scale, Rescale)}
        fields = dict(data)
        kind = fields.pop("kind", None)
        if kind not in kinds:
            raise InvalidCharge(f"unknown kind of charge {kind!r}; known are {', '.join(kinds)}")
        return kinds[kind](**fields)

    def _tables(self) -> dict[str, tuple[Member, ...]]:
        return {"parameters": self.members}

    def __repr__(self) -> str:
        first, *rest = ((key, "{" + ", ".join(map(str, members)) + "}") for key, members in self._tables().items())
        tables = [
            first[1] if not rest else f"{first[0]}={first[1]}",
            *(f"{key}={text}" for key, text in rest),
        ]
        return f"{type(self).__name__}({self.name!r}, {', '.join(tables)})"


# The attribute under which a wrapper holds the user's module: a compiled, a distributed and a sharded one.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
}


def unwrapped(module: nn.Module, named: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return named tensors under the names that they have without torch's wrappers around the modules.

    Examples
    --------
    >>> compiled = torch.compile(nn.Linear(2, 3), backend="eager")
    >>> list(compiled.state_dict()), list(unwrapped(compiled, compiled.named_parameters()))
    (['_orig_mod.weight', '_orig_mod.bias'], ['weight', 'bias'])
    """
    wrapped = [
        (f"{path}.{attribute}." if path else f"{attribute}.", f"{path}." if path else "")
        for path, part in module.named_modules()
        for attribute in [_WRAPPERS.get(type(part).__name__)]
        if attribute is not None
    ]
    found = {}
    for name, tensor in named:
        for prefix, plain in reversed(wrapped):  # the inner ones first
            if name.startswith(prefix):
                name = plain + name.removeprefix(prefix)
        found[name] = tensor
    return found


class Translation(Charge):
    r"""The loss does not change when a constant is added: ξ = 1_A − 1_B, conserved S = ⟨θ, 1_A⟩ − ⟨θ, 1_B⟩.

    Holds for the weights of a classifier before a softmax (one generator per input feature: the sum over
    the classes), for its bias (one generator), for a bias before a batch norm (one per channel), all with an empty B;
    and for two biases that are added to each other, of which one gains what the other loses.

    Parameters
    ----------
    name : str
        What records and messages call it.
    parameters : mapping of str to axis
        For each parameter of A the axis that counts the generators, summed over all others; None for one generator
        over the whole tensor; (axis, groups) for an axis cut in that many contiguous pieces.
    opposite : mapping of str to axis, optional
        The same for those of B, from which the constant is taken off.

    References
    ----------
    Kunin et al. 2021, arXiv 2012.04728 (translation symmetry).

    Examples
    --------
    >>> import torch
    >>> charge = Translation("classifier", {"weight": 1})
    >>> fc = torch.nn.Linear(2, 3)
    >>> _ = torch.nn.init.constant_(fc.weight, 0.5)
    >>> charge.value(charge.parameters_of(fc)).tolist()
    [1.5, 1.5]
    >>> Translation("recurrent", {"bias_ih": 0}, {"bias_hh": 0})
    Translation('recurrent', parameters={'bias_ih': 0}, opposite={'bias_hh': 0})
    """

    degree = 1

    def __init__(self, name: str, parameters: Mapping[str, Axis], opposite: Mapping[str, Axis] | None = None) -> None:
        owner = f"charge {name!r}"
        if opposite is None:
            super().__init__(name, _members(owner, parameters))
        else:
            super().__init__(name, _both_sides(owner, {"parameters": parameters, "opposite": opposite}))

    def pairing(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Tensor:
        """Return ⟨1_A − 1_B, y⟩ per generator; x does not enter, as the generator is constant."""
        return self._total(lambda m: y[m.parameter].double(), signed=True)

    def normaliser(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return Σ|θ| over A and B per generator, shape [generators]."""
        return self._total(lambda m: parameters[m.parameter].double().abs())

    def generator_norm(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ‖1_A − 1_B‖, the root of the number of entries, shape [generators]."""
        return self._total(lambda m: torch.ones_like(parameters[m.parameter], dtype=torch.float64)).sqrt()

    def _tables(self) -> dict[str, tuple[Member, ...]]:
        plus, minus = (tuple(m for m in self.members if m.sign * sign > 0) for sign in (1, -1))
        return {"parameters": plus, "opposite": minus} if minus else {"parameters": plus}


class _Quadratic(Charge):
    """A linear generator ξ(θ) = 𝒜θ with a diagonal 𝒜 of entries ±1."""

    degree = 2

    def pairing(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Tensor:
        """Return the bilinear form xᵀ𝒜y per generator, shape [generators]."""
        return self._total(lambda m: x[m.parameter].double() * y[m.parameter].double(), signed=True)

    def normaliser(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ‖θ_A‖², over incoming and outgoing entries together, per generator, shape [generators]."""
        return self.norm(parameters).square()

    def generator_norm(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ‖𝒜θ‖ = ‖θ_A‖ per generator, shape [generators]."""
        return self.norm(parameters)


class Scale(_Quadratic):
    r"""The loss does not change when a group is multiplied: ξ = θ_A, conserved N = ‖θ_A‖² (no factor ½).

    Holds for weights before a normalisation layer, up to the layer's ε.

    Parameters
    ----------
    name : str
        What records and messages call it.
    parameters : mapping of str to axis
        As for `Translation`; for a convolution before a batch norm axis 0, one generator per channel.

    References
    ----------
    Kunin et al. 2021, arXiv 2012.04728 (scale symmetry).

    Examples
    --------
    >>> import torch
    >>> charge = Scale("conv", {"weight": 0})
    >>> conv = torch.nn.Conv2d(1, 2, 3)
    >>> _ = torch.nn.init.ones_(conv.weight)
    >>> charge.value(charge.parameters_of(conv)).tolist()
    [9.0, 9.0]
    """

    def __init__(self, name: str, parameters: Mapping[str, Axis]) -> None:
        super().__init__(name, _members(f"charge {name!r}", parameters))


class Rescale(_Quadratic):
    r"""The loss does not change when A₁ is multiplied and A₂ divided: conserved N = ‖θ_{A₁}‖² − ‖θ_{A₂}‖².

    Holds across a homogeneous activation (ReLU, leaky ReLU, identity): A₁ is what comes into a neuron,
    its bias included, A₂ what leaves it. The generator is ξ = θ_{A₁} − θ_{A₂}; no factor ½ in N.

    Parameters
    ----------
    name : str
        What records and messages call it.
    incoming, outgoing : mapping of str to axis
        As for `Translation`: the axis of each that runs over the neurons between the two. Where a feature map
        is flattened between a convolution and a linear map, give (1, channels) for the linear weight.

    References
    ----------
    Kunin et al. 2021, arXiv 2012.04728 (rescale symmetry).

    Examples
    --------
    >>> import torch
    >>> charge = Rescale("hidden", incoming={"0.weight": 0, "0.bias": 0}, outgoing={"2.weight": 1})
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 5))
    >>> _ = [torch.nn.init.ones_(p) for p in net.parameters()]
    >>> charge.value(charge.parameters_of(net)).tolist()
    [-1.0, -1.0]
    """

    def __init__(self, name: str, incoming: Mapping[str, Axis], outgoing: Mapping[str, Axis]) -> None:
        super().__init__(name, _both_sides(f"charge {name!r}", {"incoming": incoming, "outgoing": outgoing}))

    def _tables(self) -> dict[str, tuple[Member, ...]]:
        return {
            "incoming": tuple(m for m in self.members if m.sign > 0),
            "outgoing": tuple(m for m in self.members if m.sign < 0),
        }
