"""Proof by numbers that charges are conserved: identities of the gradient and the Hessian, and finite moves."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from modeq.displays import Table, Tabular
from modeq.errors import InvalidCharge
from modeq.numeric.primitives import SUBSTITUTES, Elementary
from modeq.symmetry.charges import Charge
from modeq.symmetry.found import Charges, Epsilon
from modeq.symmetry.traced import loss_function

Parameters = dict[str, Tensor]
_ROUNDING = 1e-6  # of a gradient that is smaller than the whole by this nothing but rounding may be left


@dataclass(frozen=True, repr=False)
class Verified:
    """What was measured of one charge, each largest over its generators.

    Attributes
    ----------
    charge : Charge
    gradient : float
        |⟨g, ξ⟩| / (‖g‖‖ξ‖), over the entries that ξ moves, or over all where the loss does not depend on these.
    predicted : float
        What the ε of normalisations predict for it: batch norm gives ε/(σ² + ε)·⟨∂L/∂y, y⟩ for each channel. 0 for a
        charge that holds exactly, nan where nothing is predicted, as for a norm that is written out.
    unexplained : float
        That of ⟨g, ξ⟩ less the prediction: rounding, if nothing but ε breaks the symmetry.
    hessian : float
        ‖Hξ + (∂ξ)ᵀg‖ / (‖Hη‖ + ‖(∂ξ)ᵀg‖) for a random combination ξ of the generators, and any η as long as ξ.
    action : float
        The relative change of the loss under a finite element of the group.
    left_out : float
        That change if a part of the entries is left where it is; nan if each generator moves but one.
    generator : int
        Of which generator `unexplained` was the largest, counted from 0.
    """

    charge: Charge
    gradient: float
    predicted: float
    unexplained: float
    hessian: float
    action: float
    left_out: float
    generator: int = 0

    def passed(self, tolerance: float = 1e-12) -> bool:
        """Whether all identities hold, and the action without a part does not.

        Examples
        --------
        >>> from modeq.symmetry.charges import Translation
        >>> Verified(Translation("b", {"b": 0}), 1e-16, 0.0, 1e-16, 1e-15, 1e-16, 0.1).passed()
        True
        """
        identities = max(self.gradient, self.hessian / 100, self.action)
        return identities <= tolerance and not self.left_out <= 10 * max(tolerance, self.action)

    def __repr__(self) -> str:
        numbers = f"gradient {self.gradient:.1e}, Hessian {self.hessian:.1e}, action {self.action:.1e}"
        return f"Verified({self.charge.name!r}, {numbers})"

    def explained(self, tolerance: float = 1e-12) -> bool:
        """Whether nothing but what norms' ε predict is left of ⟨g, ξ⟩.

        Examples
        --------
        >>> from modeq.symmetry.charges import Scale
        >>> Verified(Scale("conv", {"weight": 0}), 1e-6, 1e-6, 1e-16, 1e-6, 1e-7, 0.1).explained()
        True
        """
        return self.unexplained <= tolerance


class Verification(Tabular, Sequence[Verified]):
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
        """Whether every charge passed, to a `tolerance`; see :meth:`Verified.passed`."""
        return all(entry.passed(tolerance) for entry in self._entries)

    def table(self) -> str:
        """Return a line for each charge."""
        return super().table()

    def _tables(self) -> list[Table]:
        rows = []
        for e in self._entries:
            of_epsilon = {0.0: "exact"}.get(e.predicted, f"{e.predicted:.1e}").replace("nan", "unknown")
            gradient, *others = (f"{value:.1e}" for value in (e.gradient, e.hessian, e.action, e.left_out))
            rows.append((e.charge.name, gradient, of_epsilon, *(text.replace("nan", "–") for text in others)))
        return [Table(("charge", "gradient", "of ε", "Hessian", "action", "with a part left out"), rows)]

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
    charges : Charges, or iterable of Charge
        `find_charges` knows besides which normalisations hold a charge up to their ε only.
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
    if isinstance(charges, Charges):
        chosen = [(entry.charge, entry.epsilons) for entry in charges.found]
    else:
        chosen = [(charge, ()) for charge in charges]
    for charge, _ in chosen:
        charge.parameters_of(module)
    run = _Run(module, function, *batch)
    parameters = {name: p.detach().clone() for name, p in module.named_parameters()}
    point = _Point(run, parameters, _aliases(module), *run.gradient(parameters))
    generator = torch.Generator().manual_seed(seed)
    return Verification(_verified(charge, epsilons, point, generator) for charge, epsilons in chosen)


def _aliases(module: nn.Module) -> dict[str, str]:
    """Each name of a parameter -> the one that torch lists."""
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    return {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}


@dataclass(frozen=True)
class _Point:
    """Where charges are verified: the loss, its gradient, and its derivatives −2ε∂L/∂ε in each normalisation."""

    run: "_Run"
    parameters: Parameters
    aliases: dict[str, str]
    value: float
    gradients: Parameters
    stretches: list[Tensor]


def _verified(charge: Charge, epsilons: tuple[Epsilon, ...], point: _Point, generator: torch.Generator) -> Verified:
    run, parameters, aliases, value = point.run, point.parameters, point.aliases, point.value
    own = {m.parameter: parameters[aliases[m.parameter]] for m in charge.members}
    g = {name: point.gradients[aliases[name]] for name in own}
    paired = charge.pairing(own, g)
    predicted = sum((_predicted(epsilon, point.stretches) for epsilon in epsilons), torch.zeros_like(paired))
    # The gradient of what the loss does not depend on is rounding: it is compared with the whole gradient.
    slopes, whole = charge.norm(g), _length(point.gradients).cpu()
    slopes = torch.where(slopes < _ROUNDING * whole, whole, slopes)
    size = (slopes * charge.generator_norm(own)).clamp_min(torch.finfo(torch.float64).tiny)
    relative = [values.abs() / size for values in (paired, predicted, paired - predicted)]
    measured, expected, unexplained = (float(values.max()) for values in relative)
    c = charge.drawn(own, generator)
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
    halves = _halves(charge, own, generator)
    part = {name: torch.where(halves[name].to(v.device), v, own[name]) for name, v in finite.items()}
    left = abs(run.loss({**parameters, **_named(part, aliases)}) - value)
    unit = max(abs(value), torch.finfo(torch.float64).tiny)
    if all(torch.equal(part[name], finite[name]) for name in part):  # nothing could be left out
        left = float("nan")
    hessian = float(_length(missed) / scale) if scale > 0 else 0.0
    worst = int(relative[-1].argmax())
    return Verified(charge, measured, expected, unexplained, hessian, change / unit, left / unit, worst)


def _predicted(epsilon: Epsilon, stretches: list[Tensor]) -> Tensor:
    """Σ c·(−2ε ∂L/∂ε) over what a normalisation divides: the change of x is one of ε; nan if it was not seen."""
    coefficients = torch.from_numpy(epsilon.coefficients).double()
    unknown = torch.full((len(coefficients),), torch.nan, dtype=torch.float64)
    if epsilon.call is None or epsilon.call >= len(stretches):
        return unknown
    stretch = stretches[epsilon.call].double().cpu()
    if coefficients.dim() != stretch.dim() + 1:  # another branch of the network
        return unknown
    for axis in range(1, coefficients.dim()):  # another number of samples, all alike
        if coefficients.shape[axis] != stretch.shape[axis - 1]:
            first = coefficients.narrow(axis, 0, 1)
            if not bool((coefficients == first).all()):
                return unknown
            coefficients = first
    return (coefficients * stretch).flatten(1).sum(1)


def _halves(charge: Charge, own: Parameters, generator: torch.Generator) -> dict[str, Tensor]:
    """Some of the entries that each generator moves, neither all nor, of several, none."""
    of = charge.owners(own)
    drawn = {name: torch.rand(number.shape, generator=generator) for name, number in of.items()}
    groups, flat = (torch.cat([part[name].flatten() for name in of]) for part in (of, drawn))
    least, most = (
        torch.zeros(int(groups.max()) + 1).scatter_reduce(0, groups, flat, kind, include_self=False)
        for kind in ("amin", "amax")
    )
    return {
        name: (drawn[name] == least[number]) | ((drawn[name] < 0.5) & (drawn[name] < most[number]))
        for name, number in of.items()
    }


def _named(values: Parameters, aliases: dict[str, str]) -> Parameters:
    return {aliases[name]: value for name, value in values.items()}


def _length(values: Parameters) -> Tensor:
    return torch.stack([v.double().square().sum() for v in values.values()] or [torch.zeros(())]).sum().sqrt()


class _Normalised(Elementary):
    """Within it each ε is a tensor, one for each variance, to which derivatives can be taken."""

    def __init__(self) -> None:
        super().__init__()
        self.epsilons: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written_out = SUBSTITUTES.get(func)
        if written_out is None or func not in _NORMS:
            return super().__torch_function__(func, types, args, kwargs)
        bound = signature(written_out).bind(*args, **(kwargs or {}))
        bound.apply_defaults()
        given = bound.arguments
        x = next(iter(given.values()))
        if not given.get("use_input_stats", True) or (not given.get("training", True) and _kept(given)):
            self.epsilons.append(x.new_zeros(()))
            return written_out(*bound.args, **bound.kwargs)
        eps = torch.finfo(x.dtype).eps if given["eps"] is None else given["eps"]
        self.epsilons.append(x.new_full(_NORMS[func](x, given), eps).requires_grad_())
        given["eps"] = self.epsilons[-1]
        return written_out(*bound.args, **bound.kwargs)


def _kept(given: dict[str, Any]) -> bool:
    """Whether there are statistics from earlier batches."""
    return given["running_mean"] is not None and given["running_var"] is not None


def _over_channels(x: Tensor, _: Any) -> list[int]:
    return [1, x.shape[1], *[1] * (x.dim() - 2)]


def _over_samples(x: Tensor, _: Any) -> list[int]:
    return [*x.shape[:2], *[1] * (x.dim() - 2)]


def _over_rows(x: Tensor, given: dict[str, Any]) -> list[int]:
    kept = x.dim() - len(given["normalized_shape"])
    return [*x.shape[:kept], *[1] * (x.dim() - kept)]


def _over_groups(x: Tensor, given: dict[str, Any]) -> list[int]:
    return [x.shape[0], given["num_groups"], 1]


# The shape of the variance by which each divides.
_NORMS: dict[Any, Callable[[Tensor, dict[str, Any]], list[int]]] = {
    **dict.fromkeys((F.batch_norm, torch.batch_norm), _over_channels),
    **dict.fromkeys((F.instance_norm, torch.instance_norm), _over_samples),
    **dict.fromkeys((F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm), _over_rows),
    **dict.fromkeys((F.group_norm, torch.group_norm), _over_groups),
}


class _Run:
    """The loss of a module on one batch, with the same randomness and the same buffers each time."""

    def __init__(self, module: nn.Module, loss: Callable[[Any, Any], Tensor], inputs: Any, target: Any) -> None:
        self.module, self.function, self.target = module, loss, target
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.random = torch.random.get_rng_state()

    def _value(self, parameters: Parameters, mode: Elementary | None = None) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        before = torch.random.get_rng_state()
        torch.random.set_rng_state(self.random)
        try:
            with mode or Elementary():
                return self.function(functional_call(self.module, {**parameters, **buffers}, self.inputs), self.target)
        finally:
            torch.random.set_rng_state(before)

    def loss(self, parameters: Parameters) -> float:
        with torch.no_grad():
            return float(self._value(parameters))

    def gradient(self, parameters: Parameters) -> tuple[float, Parameters, list[Tensor]]:
        """The loss, its gradient, and −2ε∂L/∂ε for each normalisation."""
        leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        mode = _Normalised()
        value = self._value(leaves, mode)
        found = _gradient(value, [*leaves.values(), *mode.epsilons])
        stretches = [-2 * e.detach() * d for e, d in zip(mode.epsilons, found[len(leaves) :], strict=True)]
        return float(value.detach()), dict(zip(leaves, found, strict=False)), stretches

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
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    slopes = iter(torch.autograd.grad(value, wanted, create_graph=create_graph, allow_unused=True))
    found = [next(slopes) if leaf.requires_grad else None for leaf in leaves]
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]
