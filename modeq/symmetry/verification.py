"""Proof by numbers that charges are conserved: identities of the gradient and the Hessian, and finite moves."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from modeq.errors import InvalidCharge
from modeq.numeric.primitives import Elementary
from modeq.symmetry.charges import Charge
from modeq.symmetry.traced import loss_function

Parameters = dict[str, Tensor]
_ROUNDING = 1e-6  # of a gradient that is smaller than the whole by this nothing but rounding may be left


@dataclass(frozen=True)
class Verified:
    """What was measured of one charge, each largest over its generators.

    Attributes
    ----------
    charge : Charge
    gradient : float
        |⟨g, ξ⟩| / (‖g‖‖ξ‖), over the entries that ξ moves, or over all where the loss does not depend on these.
    hessian : float
        ‖Hξ + (∂ξ)ᵀg‖ / (‖Hη‖ + ‖(∂ξ)ᵀg‖) for a random combination ξ of the generators, and any η as long as ξ.
    action : float
        The relative change of the loss under a finite element of the group.
    left_out : float
        That change if a part of the entries is left where it is; nan if each generator moves but one.
    """

    charge: Charge
    gradient: float
    hessian: float
    action: float
    left_out: float

    def passed(self, tolerance: float = 1e-12) -> bool:
        """Whether all identities hold, and the action without a part does not.

        Examples
        --------
        >>> from modeq.symmetry.charges import Translation
        >>> Verified(Translation("b", {"b": 0}), 1e-16, 1e-15, 1e-16, 0.1).passed()
        True
        """
        identities = max(self.gradient, self.hessian / 100, self.action)
        return identities <= tolerance and not self.left_out <= 10 * max(tolerance, self.action)


class Verification(Sequence[Verified]):
    """The report of `verify`: one `Verified` for each charge.

    Examples
    --------
    >>> report = Verification([])
    >>> len(report), report.passed()
    (0, True)
    """

    def __init__(self, entries: Iterable[Verified]) -> None:
        self._entries = tuple(entries)

    def __getitem__(self, index: Any) -> Any:
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def passed(self, tolerance: float = 1e-12) -> bool:
        """Whether every charge passed; see :meth:`Verified.passed`."""
        return all(entry.passed(tolerance) for entry in self._entries)

    def table(self) -> str:
        """Return a line for each charge."""
        width = max([len("charge"), *(len(entry.charge.name) for entry in self._entries)])
        lines = [f"{'charge':{width}}  gradient  Hessian   action    with a part left out"]
        lines += [
            f"{e.charge.name:{width}}  {e.gradient:.1e}   {e.hessian:.1e}   {e.action:.1e}   {e.left_out:.1e}"
            for e in self._entries
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Verification({len(self)} charges)"


def verify(
    charges: Iterable[Charge],
    module: nn.Module,
    loss: Any,
    batch: tuple[Any, Any],
    *,
    seed: int = 0,
) -> Verification:
    """Measure how well charges are conserved at the parameters a module has now, on one batch.

    A symmetry along ξ means ⟨g, ξ⟩ = 0 and, differentiated, Hξ + (∂ξ)ᵀg = 0, at any parameters, for any data and any
    loss on the same outputs; and that a finite element, θ·eᵗ or θ + t, leaves the loss as it is.

    Parameters
    ----------
    charges : iterable of Charge
    module : nn.Module
        In float64 for residuals near 1e-15. Its parameters, buffers and the random state are left as they are.
    loss : "cross_entropy", "mse", or a callable on (output, target)
    batch : (input, target)
        A tuple of tensors as input is several arguments.
    seed : int
        Of the random combinations of generators; the same randomness of the network, of dropout say, is used at all
        evaluations.

    Returns
    -------
    Verification
        It costs one gradient, and for each charge two losses and two products with the Hessian.

    Raises
    ------
    InvalidCharge
        If a charge does not fit the module, or the loss is unknown.

    References
    ----------
    Kunin et al. 2021, arXiv 2012.04728, section 3.

    Examples
    --------
    >>> import torch
    >>> from modeq.symmetry.finding import find_charges
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()
    >>> inputs, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    >>> verify(find_charges(net, inputs, loss="cross_entropy"), net, "cross_entropy", (inputs, labels)).passed()
    True
    """
    if not isinstance(batch, tuple) or len(batch) != 2:
        raise InvalidCharge(f"batch is {type(batch).__name__}: give (input, target)")
    function = loss_function(loss)
    chosen = list(charges)
    for charge in chosen:
        charge.parameters_of(module)
    run = _Run(module, function, *batch)
    parameters = {name: p.detach().clone() for name, p in module.named_parameters()}
    aliases = _aliases(module)
    value, gradients = run.gradient(parameters)
    generator = torch.Generator().manual_seed(seed)
    return Verification(_verified(charge, run, parameters, aliases, value, gradients, generator) for charge in chosen)


def _aliases(module: nn.Module) -> dict[str, str]:
    """Each name of a parameter -> the one that torch lists."""
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    return {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}


def _verified(
    charge: Charge,
    run: "_Run",
    parameters: Parameters,
    aliases: dict[str, str],
    value: float,
    gradients: Parameters,
    generator: torch.Generator,
) -> Verified:
    own = {m.parameter: parameters[aliases[m.parameter]] for m in charge.members}
    g = {name: gradients[aliases[name]] for name in own}
    paired = charge.pairing(own, g).abs()
    # The gradient of what the loss does not depend on is rounding: it is compared with the whole gradient.
    slopes, whole = charge.norm(g), _length(gradients).cpu()
    slopes = torch.where(slopes < _ROUNDING * whole, whole, slopes)
    size = (slopes * charge.generator_norm(own)).clamp_min(torch.finfo(torch.float64).tiny)
    c = torch.rand(charge.count(own), generator=generator, dtype=torch.float64) - 0.5
    field = charge.moved(own, c)
    length = _length(field)
    drawn = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for name, p in parameters.items()
    }
    other = {name: v * (length / _length(drawn)).to(v) for name, v in drawn.items()}
    product, other = run.hessian_product(parameters, _named(field, aliases)), run.hessian_product(parameters, other)
    slope = _named(charge.moved_slope(g, c), aliases)
    missed = {name: product[name] + slope.get(name, 0) for name in product}
    scale = _length(other) + _length(slope)
    finite = charge.acted(own, c)
    change = abs(run.loss({**parameters, **_named(finite, aliases)}) - value)
    halves = {name: _half(v.shape, generator) for name, v in finite.items()}
    part = {name: torch.where(halves[name].to(v.device), v, own[name]) for name, v in finite.items()}
    left = abs(run.loss({**parameters, **_named(part, aliases)}) - value)
    unit = max(abs(value), torch.finfo(torch.float64).tiny)
    if charge.degree == 1 and float(charge.generator_norm(own).max()) == 1:
        left = float("nan")
    hessian = float(_length(missed) / scale) if scale > 0 else 0.0
    return Verified(charge, float((paired / size).max()), hessian, change / unit, left / unit)


def _half(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Some entries, neither all nor, of several, none."""
    drawn = torch.rand(shape, generator=generator)
    return (drawn == drawn.min()) | ((drawn < 0.5) & (drawn < drawn.max()))


def _named(values: Parameters, aliases: dict[str, str]) -> Parameters:
    return {aliases[name]: value for name, value in values.items()}


def _length(values: Parameters) -> Tensor:
    return torch.stack([v.double().square().sum() for v in values.values()] or [torch.zeros(())]).sum().sqrt()


class _Run:
    """The loss of a module on one batch, with the same randomness and the same buffers each time."""

    def __init__(self, module: nn.Module, loss: Callable[[Any, Any], Tensor], inputs: Any, target: Any) -> None:
        self.module, self.function, self.target = module, loss, target
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.random = torch.random.get_rng_state()

    def _value(self, parameters: Parameters) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        before = torch.random.get_rng_state()
        torch.random.set_rng_state(self.random)
        try:
            with Elementary():
                return self.function(functional_call(self.module, {**parameters, **buffers}, self.inputs), self.target)
        finally:
            torch.random.set_rng_state(before)

    def loss(self, parameters: Parameters) -> float:
        with torch.no_grad():
            return float(self._value(parameters))

    def gradient(self, parameters: Parameters) -> tuple[float, Parameters]:
        leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        value = self._value(leaves)
        return float(value.detach()), dict(zip(leaves, _gradient(value, list(leaves.values())), strict=True))

    def hessian_product(self, parameters: Parameters, direction: Parameters) -> Parameters:
        leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        slopes = _gradient(self._value(leaves), list(leaves.values()), create_graph=True)
        total = sum(
            ((slope * direction[name]).sum() for name, slope in zip(leaves, slopes, strict=True) if name in direction),
            torch.zeros(()),
        )
        return dict(zip(leaves, _gradient(total, list(leaves.values())), strict=True))


def _gradient(value: Tensor, leaves: list[Tensor], create_graph: bool = False) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(value, leaves, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]
