"""The charges of continuous symmetries: what gradient flow conserves, written by hand.

A one-parameter symmetry moves the parameters along a generator ξ(θ) without changing the loss,
so every gradient obeys ⟨g, ξ(θ)⟩ = 0. The families here have an affine generator, either constant
(translation) or linear (scale, rescale), and one value holds many generators: one per index of an axis. Those of
`matrix_charges` have one for each matrix.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from numbers import Real
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from modeq.displays import Table, listed
from modeq.errors import InvalidCharge
from modeq.symmetry.factors import Factor
from modeq.symmetry.members import Axis, Member, both_sides, members_of

_KINDS: dict[Any, Any] = {}  # the families by their kinds


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
    kind : str
        The name of the family, as in `to_dict`.
    degree : int
        1 if the charge is linear in θ (translation), 2 if it is quadratic, 0 if it is one of θ and a velocity
        (rotation).

    Notes
    -----
    In the methods, `tensors`, `parameters`, `gradients`, `x` and `y` map the names of the parameters of `module` to
    tensors of their shapes: the parameters themselves, gradients, or momentum buffers. `coefficients`, of shape
    [generators], are the c_k of Σ_k c_k ξ_k.

    Examples
    --------
    >>> charge = Charge.from_dict({"kind": "scale", "name": "conv", "parameters": {"conv.weight": 0}})
    >>> charge, charge.degree
    (Scale('conv', {'conv.weight': 0}), 2)
    """

    name: str
    members: tuple[Member | Factor, ...]

    kind: ClassVar[str]
    degree: ClassVar[int]

    def __init_subclass__(cls) -> None:
        """Let `from_dict` know a family by its kind."""
        if "kind" in vars(cls):
            _KINDS[cls.kind] = cls

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

    def require_law(self, weight_decay: float = 0.0) -> None:
        """Raise `NoClosedLaw` if the charge has no law under this `weight_decay`; here each has one."""

    @property
    def _along_axes(self) -> tuple[Member, ...]:
        """The members; those of a family of matrices are factors, and its methods others."""
        return cast(tuple[Member, ...], self.members)

    def count(self, tensors: Mapping[str, Tensor]) -> int:
        """Return the number of generators for tensors of these shapes; raises `InvalidCharge`."""
        owner = f"charge {self.name!r}"
        found = [(m.parameter, m.generators(tensors[m.parameter].shape, owner)) for m in self._along_axes]
        counts = dict(found)
        if len({number for _, number in found}) > 1:
            raise InvalidCharge(
                f"{owner}: its parameters give different numbers of generators, {counts}; choose axes of one "
                "length, or (axis, groups) where an axis was flattened"
            )
        return next(iter(counts.values()))

    def conserved(self, tensors: Mapping[str, Tensor]) -> int:
        """Return how many of the generators, the first ones, have a charge: all, but for those of a rotation."""
        return self.count(tensors)

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
        for member in self._along_axes:
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
        parts: Iterator[Tensor] = (m.reduce(term(m)) * (m.sign if signed else 1) for m in self._along_axes)
        return torch.stack(list(parts)).sum(0)

    def renamed(self, name: str) -> "Charge":
        """Return the same charge under another `name`.

        Examples
        --------
        >>> Scale("conv", {"conv.weight": 0}).renamed("first")
        Scale('first', {'conv.weight': 0})
        """
        return Charge.from_dict({**self.to_dict(), "name": name})

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only: kind, name and the tables of axes (a pair becomes a list)."""
        tables = {
            key: {m.parameter: m.axis if m.groups is None else [m.axis, _plain(m.groups)] for m in members}
            for key, members in self._tables().items()
        }
        return {"kind": self.kind, "name": self.name, **tables}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Charge":
        """Rebuild a charge from the `data` of `to_dict`; raises `InvalidCharge` for an unknown kind."""
        fields = dict(data)
        kind = fields.pop("kind", None)
        if kind not in _KINDS:
            raise InvalidCharge(f"unknown kind of charge {kind!r}; known are {', '.join(_KINDS)}")
        return _KINDS[kind](**fields)

    def drawn(self, tensors: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return a random coefficient from a `generator` for each of the charge's own, fit for a move with `acted`."""
        return torch.rand(self.count(tensors), generator=generator, dtype=torch.float64) - 0.5

    def owners(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return for each entry of each parameter a number from 1, the same for all that the same generators move."""
        numbers = torch.arange(1, self.count(parameters) + 1, dtype=torch.float64)
        found: dict[str, Tensor] = {}
        for member in self.members:
            assert isinstance(member, Member)
            number = member.spread(numbers, parameters[member.parameter].cpu().double()).long()
            known = found.get(member.parameter)
            found[member.parameter] = number if known is None else known + number
        return found

    def _tables(self) -> dict[str, tuple[Member | Factor, ...]]:
        return {"parameters": self.members}

    def __repr__(self) -> str:
        first, *rest = ((key, "{" + listed(members) + "}") for key, members in self._tables().items())
        tables = [
            first[1] if not rest else f"{first[0]}={first[1]}",
            *(f"{key}={text}" for key, text in rest),
        ]
        return f"{type(self).__name__}({self.name!r}, {', '.join(tables)})"

    def _repr_html_(self) -> str:
        rows = [(key, *str(m).rsplit(": ", 1)) for key, members in self._tables().items() for m in members]
        return Table(("", "parameter", "axis"), rows, f"{self.kind} {self.name!r}").shortened().html()


def _plain(groups: Any) -> Any:
    """Groups as integers and lists, or as they are."""
    return [list(row) for row in groups] if isinstance(groups, tuple) else groups


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

    Raises
    ------
    InvalidCharge
        If no parameter is named, one has an axis that is none, or one is on both sides.

    References
    ----------
    Kunin et al. 2021, arXiv 2012.04728 (translation symmetry).

    Examples
    --------
    >>> import torch
    >>> charge = Translation("classifier", {"weight": 1})
    >>> fc = torch.nn.Linear(2, 3)
    >>> _ = torch.nn.init.constant_(fc.weight, 0.5)
    >>> theta = charge.parameters_of(fc)
    >>> charge.value(theta).tolist(), charge.pairing(theta, theta).tolist(), charge.count(theta)
    ([1.5, 1.5], [1.5, 1.5], 2)
    >>> Translation("recurrent", {"bias_ih": 0}, {"bias_hh": 0})
    Translation('recurrent', parameters={'bias_ih': 0}, opposite={'bias_hh': 0})
    """

    kind = "translation"
    degree = 1

    def __init__(self, name: str, parameters: Mapping[str, Axis], opposite: Mapping[str, Axis] | None = None) -> None:
        owner = f"charge {name!r}"
        if opposite is None:
            super().__init__(name, members_of(owner, parameters))
        else:
            super().__init__(name, both_sides(owner, {"parameters": parameters, "opposite": opposite}))

    def pairing(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Tensor:
        """Return ⟨1_A − 1_B, y⟩ per generator; `x` does not enter, as the generator is constant."""
        return self._total(lambda m: y[m.parameter].double(), signed=True)

    def normaliser(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return Σ|θ| over A and B per generator, shape [generators]."""
        return self._total(lambda m: parameters[m.parameter].double().abs())

    def generator_norm(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ‖1_A − 1_B‖, the root of the number of entries, shape [generators]."""
        return self._total(lambda m: torch.ones_like(parameters[m.parameter], dtype=torch.float64)).sqrt()

    def _tables(self) -> dict[str, tuple[Member | Factor, ...]]:
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

    Raises
    ------
    InvalidCharge
        If no parameter is named, or one with an axis that is none.

    References
    ----------
    Kunin et al. 2021, arXiv 2012.04728 (scale symmetry).

    Examples
    --------
    >>> import torch
    >>> charge = Scale("conv", {"weight": 0})
    >>> conv = torch.nn.Conv2d(1, 2, 3)
    >>> _ = torch.nn.init.ones_(conv.weight)
    >>> theta = charge.parameters_of(conv)
    >>> charge.value(theta).tolist(), charge.pairing(theta, theta).tolist()
    ([9.0, 9.0], [9.0, 9.0])
    """

    kind = "scale"

    def __init__(self, name: str, parameters: Mapping[str, Axis]) -> None:
        super().__init__(name, members_of(f"charge {name!r}", parameters))


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

    Raises
    ------
    InvalidCharge
        If no parameter is named, or one with an axis that is none.

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

    kind = "rescale"

    def __init__(self, name: str, incoming: Mapping[str, Axis], outgoing: Mapping[str, Axis]) -> None:
        super().__init__(name, both_sides(f"charge {name!r}", {"incoming": incoming, "outgoing": outgoing}))

    def _tables(self) -> dict[str, tuple[Member | Factor, ...]]:
        return {
            "incoming": tuple(m for m in self.members if m.sign > 0),
            "outgoing": tuple(m for m in self.members if m.sign < 0),
        }


class DiagonalSymmetry(_Quadratic):
    r"""The loss does not change when each parameter is multiplied by a power of a factor: conserved N = Σ_A a_A‖θ_A‖².

    Holds across an activation of another degree than 1: behind the square of ReLU, what comes into a neuron has the
    exponent 1 and what leaves it −2, so that ‖θ₁‖² − 2‖θ₂‖² is conserved. With exponents ±1 it is a `Rescale`.

    Parameters
    ----------
    name : str
        What records and messages call it.
    parameters : mapping of str to axis
        As for `Translation`.
    exponents : mapping of str to float
        The a of each parameter, not 0.

    Raises
    ------
    InvalidCharge
        If the exponents are not finite numbers other than 0, one for each parameter, or an axis is no such.

    References
    ----------
    Du, Hu, Lee 2018, arXiv 1806.00900, for homogeneous activations.

    Examples
    --------
    >>> import torch
    >>> charge = DiagonalSymmetry("hidden", {"0.weight": 0, "2.weight": 1}, {"0.weight": 1, "2.weight": -2})
    >>> charge.value({"0.weight": torch.ones(2, 3), "2.weight": torch.ones(5, 2)}).tolist()
    [-7.0, -7.0]
    """

    kind = "diagonal"

    def __init__(self, name: str, parameters: Mapping[str, Axis], exponents: Mapping[str, float]) -> None:
        owner = f"charge {name!r}"
        members = members_of(owner, parameters)
        given = dict(exponents) if isinstance(exponents, Mapping) else {}
        real = all(isinstance(a, Real) and not isinstance(a, bool) and isfinite(a) and a for a in given.values())
        if not real or given.keys() != parameters.keys():
            raise InvalidCharge(
                f"{owner} gets {exponents!r} for its exponents; give a number, not 0, for each of {list(parameters)}"
            )
        super().__init__(name, tuple(replace(m, sign=given[m.parameter]) for m in members))

    def normaliser(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return Σ_A |a_A|‖θ_A‖² per generator, shape [generators]."""
        return self._total(lambda m: abs(m.sign) * parameters[m.parameter].double().square())

    def generator_norm(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return (Σ_A a_A²‖θ_A‖²)^½ per generator, shape [generators]."""
        return self._total(lambda m: (m.sign * parameters[m.parameter].double()).square()).sqrt()

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only: kind, name, the table of axes and that of exponents."""
        return {**super().to_dict(), "exponents": self._exponents}

    def __repr__(self) -> str:
        exponents = listed(f"{parameter!r}: {exponent}" for parameter, exponent in self._exponents.items())
        return f"{super().__repr__()[:-1]}, {{{exponents}}})"

    @property
    def _exponents(self) -> dict[str, float]:
        return {m.parameter: m.sign for m in self.members}
