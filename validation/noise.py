"""Noise of minibatches has no part along generators, and moves quadratic charges at the order that finite steps do.

Two convolutional networks on handwritten digits, without and with batch norm: the spectrum of the covariance of their
gradients, its zeros, and the expected change of each charge in a step of SGD with its term h²·tr(𝒜 Cov)/batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

import modeq as mq
from modeq.numeric.data import digits, minibatches
from modeq.numeric.networks.small import digits_cnn
from validation.claims import Cell, Merit, Numbers, Setting

NETWORKS = ("without batch norm", "with batch norm")
POINTS = ("at the start", "trained")
FAMILIES = ("translation", "scale", "rescale")
RATE, DECAY, BATCH = 0.1, 5e-4, 16
_SOURCE = "Kunin et al. 2021, section 3"
MERITS = {
    "zero": Merit(
        f"Minibatch gradients have no component along generators ({_SOURCE})",
        "largest |⟨g, ξ⟩| / (‖g‖‖ξ‖) over minibatches, float64",
        1e-12,
    ),
    "rank": Merit(
        "The covariance of gradients has a zero for each independent generator, and no other",
        "|zero eigenvalues − independent generators|",
        0,
    ),
    "control": Merit(
        "Along other fields of the same kind there is noise",
        "largest |⟨g, ξ⟩| / (‖g‖‖ξ‖) over minibatches",
        1e-3,
        above=True,
    ),
    "expectation": Merit(
        "The mean change of a charge in a step over all minibatches of a few digits is the exact law's",
        "largest |mean − (h²λ² − 2hλ)·charge − h²(ḡᵀ𝒜ḡ + tr(𝒜 Cov)/batch)| / size, float64",
        1e-12,
    ),
    "monte_carlo": Merit(
        "So it is over random minibatches of all digits", "largest |mean − law| / standard error over generators", 4
    ),
    # A tenth of the whole would be of the same order in any reading.
    "share": Merit(
        f"Noise enters at the order of discretization: share of the trace in h²gᵀ𝒜g, batch {BATCH}",
        "Σ|tr(𝒜 Cov)|/batch / (Σ|tr(𝒜 Cov)|/batch + Σ|ḡᵀ𝒜ḡ|) over generators",
        0.1,
        above=True,
    ),
}
# Fields that move the same weights, and change the loss: sums over the wrong axis, or a bias left out.
FALSE = {
    "translation": mq.Translation("sums of fc.weight over features", {"fc.weight": 0}),
    "scale": mq.Scale("norms of fc.weight by class", {"fc.weight": 0}),
    "rescale": mq.Rescale("conv1-conv2 without bias", {"conv1.weight": 0}, {"conv2.weight": 1}),
}

_SMALLEST = 1e-36  # what is drawn of an eigenvalue


@dataclass(frozen=True)
class Case:
    """A network at a point of its training."""

    network: str
    point: str


@dataclass(frozen=True)
class Sample:
    """What a step of SGD from the same weights does on each of several minibatches.

    Attributes
    ----------
    gradients : dict
        By parameter, the minibatches along the first axis.
    changes : dict
        Of each charge by name, shape [minibatches, generators].
    """

    gradients: dict[str, Tensor]
    changes: dict[str, Tensor]

    def terms(self, charge: Any, samples_in_batch: int = 1) -> tuple[Tensor, Tensor]:
        """Return ḡᵀ𝒜ḡ and tr(𝒜 Cov)/batch for each generator; 0 if the charge is linear."""
        if charge.degree == 1:
            none = torch.zeros(self.changes[charge.name].shape[1], dtype=torch.float64)
            return none, none
        mean = {name: g.mean(0) for name, g in self.gradients.items()}
        centred = {name: g - mean[name] for name, g in self.gradients.items()}
        trace = vmap(lambda y: charge.pairing(y, y))(centred).mean(0)
        return charge.pairing(mean, mean), trace / samples_in_batch


def cases(setting: Setting) -> dict[str, Case]:
    """Two networks, at the start and after a training."""
    return {f"{network}, {point}": Case(network, point) for network in NETWORKS for point in POINTS}


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """Return the spectrum of the covariance, and the mean change of each charge beside its law."""
    count = setting.choose(600, 1797)
    images, labels = (part[:count] for part in digits(standardise=True, dtype=torch.float64))
    data = (images, labels)
    normalised = case.network == "with batch norm"
    network = _network(normalised, setting.seed)
    loss = _train(network, data, setting) if case.point == "trained" else None
    charges = mq.find_charges(network, images[:2], loss="cross_entropy")
    # Of single samples where they have gradients; of more minibatches than there are parameters with batch norm.
    order = torch.cat(list(minibatches(len(images), BATCH, setting.choose(400, 800), setting.seed + 1)))
    sampled = ((images[order], labels[order]), BATCH) if normalised else (data, 1)
    noise = mq.gradient_noise(charges, network, "cross_entropy", sampled[0], batch_size=sampled[1])
    false = mq.gradient_noise(FALSE.values(), network, "cross_entropy", sampled[0], batch_size=sampled[1])
    return {
        "data": f"{len(images)} handwritten digits of scikit-learn",
        "loss": loss,
        "steps": _steps(setting),
        "gradients": f"{len(sampled[0][0]) // sampled[1]} gradients of {sampled[1]}",
        "parameters": noise.parameters,
        "generators": noise.lost,
        "zeros": noise.parameters - noise.rank,
        "spectrum": noise.spectrum.tolist(),
        "projections": _by_family(charges, noise.projections),
        "false": {family: false.projections[charge.name] for family, charge in FALSE.items()},
        "expectation": _enumerated(network, charges, data, normalised),
        "monte carlo": _drawn(network, charges, data, normalised, setting),
    }


def _network(batch_norm: bool, seed: int) -> nn.Sequential:
    """Two convolutions of 3 and 4 channels, leaky ReLUs and a linear layer.

    A channel that is dead or linear on all digits would have zeros of its own: hence leaky, and the convolutions with
    He's variance in place of torch's, a sixth of it.
    """
    network = digits_cnn(seed, eps=1e-30, bias=True, channels=(3, 4), batch_norm=batch_norm, dtype=torch.float64)
    for number in (1, 2):
        setattr(network, f"relu{number}", nn.LeakyReLU(0.1))
        with torch.no_grad():
            getattr(network, f"conv{number}").weight.mul_(6**0.5)
    return network


def _steps(setting: Setting) -> int:
    return setting.choose(100, 400)


def _train(network: nn.Module, data: tuple[Tensor, Tensor], setting: Setting) -> float:
    images, labels = data
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, weight_decay=DECAY)
    for indices in minibatches(len(images), BATCH, _steps(setting), setting.seed):
        optimizer.zero_grad()
        F.cross_entropy(network(images[indices]), labels[indices]).backward()
        optimizer.step()
    with torch.no_grad():
        return float(F.cross_entropy(network(images), labels))


def _stepped(network: nn.Module, charges: Sequence[Any], data: Any, batches: Sequence[Any]) -> Sample:
    """Make a step of SGD on each minibatch, from the same weights, which the network has again at the end."""
    images, labels = data
    parameters = dict(network.named_parameters())
    start = {name: p.detach().clone() for name, p in parameters.items()}
    before = {charge.name: charge.value(start) for charge in charges}
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, weight_decay=DECAY)
    gradients: dict[str, list[Tensor]] = {name: [] for name in parameters}
    changes: dict[str, list[Tensor]] = {charge.name: [] for charge in charges}
    for indices in batches:
        optimizer.zero_grad()
        F.cross_entropy(network(images[indices]), labels[indices]).backward()
        with torch.no_grad():
            for name, p in parameters.items():
                gradients[name].append(p.grad.clone())
            optimizer.step()
            for charge in charges:
                changes[charge.name].append(charge.value(parameters) - before[charge.name])
            for name, p in parameters.items():
                p.copy_(start[name])
    return Sample(
        {name: torch.stack(found) for name, found in gradients.items()},
        {name: torch.stack(found) for name, found in changes.items()},
    )


def _decay(charge: Any, network: nn.Module) -> Tensor:
    """What weight decay takes of a charge in a step: (h²λ² − 2hλ)·charge, −hλ·charge if it is linear."""
    kept = (1 - RATE * DECAY) ** charge.degree
    return (kept - 1) * charge.value(charge.parameters_of(network)).detach()


def _enumerated(network: nn.Module, charges: Any, data: Any, batch_norm: bool) -> dict[str, float]:
    """By family, how far the mean change over all minibatches of a few digits is from the law, relative to the size.

    Of a translation each change, as that has no noise.

    All pairs of 16 digits, drawn with replacement, where the law takes the covariance of single samples; with batch
    norm, where these have no gradient, all fours of 10 digits, and the covariance of their gradients.
    """
    batches = list(combinations(range(10), 4)) if batch_norm else list(product(range(16), repeat=2))
    sample = _stepped(network, charges, data, [list(batch) for batch in batches])
    known = sample if batch_norm else _stepped(network, charges, data, [[k] for k in range(16)])
    missed = {}
    for charge in charges:
        mean, trace = known.terms(charge, 1 if batch_norm else 2)
        law = _decay(charge, network) + RATE**2 * (mean + trace)
        changes = sample.changes[charge.name]
        error = changes - law if charge.degree == 1 else changes.mean(0) - law
        missed[charge.name] = float((error.abs() / charge.normaliser(charge.parameters_of(network)).detach()).max())
    return _by_family(charges, missed)


def _drawn(network: nn.Module, charges: Any, data: Any, batch_norm: bool, setting: Setting) -> dict[str, Any]:
    """The terms of the law of each charge, the mean change over random minibatches, and its standard error.

    The law takes mean and covariance of the gradients of all single samples; with batch norm those of as many random
    minibatches as there are steps, other ones, and the error is that of both.
    """
    count, size = setting.choose(200, 1000), len(data[0])
    random = torch.Generator().manual_seed(setting.seed + 2)
    sample = _stepped(network, charges, data, torch.randint(size, (count, BATCH), generator=random))
    if batch_norm:
        known = _stepped(network, charges, data, torch.randint(size, (count, BATCH), generator=random))
    else:
        known = _stepped(network, charges, data, torch.arange(size)[:, None])
    found = {}
    for charge in charges:
        mean, trace = known.terms(charge, 1 if batch_norm else BATCH)
        changes = sample.changes[charge.name]
        variance = changes.var(0) + (known.changes[charge.name].var(0) if batch_norm else 0)
        found[charge.name] = {
            "family": type(charge).__name__.lower(),
            "decay": _decay(charge, network).tolist(),
            "mean": (RATE**2 * mean).tolist(),
            "trace": (RATE**2 * trace).tolist(),
            "measured": changes.mean(0).tolist(),
            "error": (variance / count).sqrt().tolist(),
        }
    return found


def _by_family(charges: Any, values: Mapping[str, float]) -> dict[str, float]:
    """The largest value of each family."""
    found: dict[str, float] = {}
    for charge in charges:
        family = type(charge).__name__.lower()
        found[family] = max(found.get(family, 0.0), values[charge.name])
    return found


def cells(numbers: Numbers) -> list[Cell]:
    """One for each network, point and family; the worst over charges and generators."""
    found = []
    for name, one in numbers.items():
        found.append(Cell("rank", name, abs(one["zeros"] - one["generators"])))
        for family, projection in one["projections"].items():
            found.append(Cell("zero", f"{name}, {family}", projection))
            found.append(Cell("expectation", f"{name}, {family}", one["expectation"][family]))
        for family, projection in one["false"].items():
            found.append(Cell("control", f"{name}, {FALSE[family].name}", projection))
        for family in FAMILIES[1:]:
            if family in one["projections"]:
                terms = _joined(one, family)
                found.append(Cell("monte_carlo", f"{name}, {family}", float(np.max(np.abs(_deviations(terms))))))
                found.append(Cell("share", f"{name}, {family}", _share(terms)))
    return found


def _joined(one: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The terms of all generators of a family."""
    own = [charge for charge in one["monte carlo"].values() if charge["family"] == family]
    return {
        term: np.concatenate([charge[term] for charge in own])
        for term in ("decay", "mean", "trace", "measured", "error")
    }


def _deviations(terms: Mapping[str, Any]) -> Any:
    """(measured − law) / standard error."""
    return (terms["measured"] - terms["decay"] - terms["mean"] - terms["trace"]) / terms["error"]


def _share(terms: Mapping[str, Any], factor: float = 1.0) -> float:
    """The share of the trace term if it is multiplied, as by another batch size."""
    trace, mean = factor * np.sum(np.abs(terms["trace"])), np.sum(np.abs(terms["mean"]))
    return float(trace / (trace + mean))


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """Spectra with their zeros, the share of the noise, and the terms of the mean change of three charges."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.6), layout="constrained")
    for axis, network in zip(axes[0], NETWORKS, strict=False):
        _draw_spectra(axis, network, numbers)
    _draw_shares(axes[0, 2], numbers)
    shown = {"translation": NETWORKS[0], "scale": NETWORKS[1], "rescale": NETWORKS[0]}
    for axis, (family, network) in zip(axes[1], shown.items(), strict=True):
        _draw_terms(axis, _joined(numbers[f"{network}, {POINTS[1]}"], family))
        axis.set_title(f"{family}: change in a step, {network}", fontsize=10)
    axes[0, 0].set_ylabel("eigenvalue of the gradients' covariance")
    axes[1, 0].set_ylabel("mean change of the charge")
    axes[1, 0].set_ylim(top=1.8 * axes[1, 0].get_ylim()[1])
    axes[1, 0].legend(fontsize=8, loc="upper right")
    return {"noise": (figure, _caption(numbers, setting))}


def _draw_spectra(axis: Any, network: str, numbers: Numbers) -> None:
    for point, colour in zip(POINTS, ("0.65", "C0"), strict=True):
        one = numbers[f"{network}, {point}"]
        spectrum = np.array(one["spectrum"])
        others = one["parameters"] - one["zeros"]
        axis.semilogy(range(1, others + 1), spectrum[:others], ".", color=colour, markersize=3, label=point)
        zeros = range(others + 1, len(spectrum) + 1)
        label = f"zeros: {one['zeros']} for {one['generators']} generators" if point == POINTS[1] else None
        axis.semilogy(zeros, np.maximum(spectrum[others:], _SMALLEST), ".", color="C3", markersize=3, label=label)
    axis.set_title(f"{network}, {one['parameters']} parameters", fontsize=10)
    axis.set_xlabel("number of the eigenvalue")
    axis.set_ylim(_SMALLEST / 10, None)
    axis.legend(fontsize=8, loc="center left")


def _draw_shares(axis: Any, numbers: Numbers) -> None:
    """Over batch sizes where gradients are means of those of samples; else at the one that was measured."""
    sizes = np.geomspace(1, 1024, 60)
    for point, style in zip(POINTS, ("--", "-"), strict=True):
        terms = _joined(numbers[f"{NETWORKS[0]}, {point}"], "rescale")
        shares = [_share(terms, BATCH / size) for size in sizes]
        axis.semilogx(sizes, shares, style, color="C2", label=f"rescale, {NETWORKS[0]}, {point}")
        for family, marker in (("scale", "o"), ("rescale", "s")):
            share = _share(_joined(numbers[f"{NETWORKS[1]}, {point}"], family))
            filled = "C1" if point == POINTS[1] else "none"
            label = f"{family}, {NETWORKS[1]}, {point}"
            axis.plot(BATCH, share, marker, color="C1", markerfacecolor=filled, linestyle="", label=label)
    axis.axhline(MERITS["share"].bound, color="black", linestyle=":", linewidth=1)
    axis.set_ylim(0, 1.8)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.set_title("share of noise in h²gᵀAg", fontsize=10)
    axis.set_xlabel("batch size")
    axis.legend(fontsize=8, loc="upper left", ncols=1)


def _draw_terms(axis: Any, terms: Mapping[str, Any]) -> None:
    places = np.arange(len(terms["measured"]))
    bars = {"decay": ("0.6", "weight decay"), "mean": ("C0", "mean gradient"), "trace": ("C1", "noise")}
    for number, (term, (colour, label)) in enumerate(bars.items()):
        axis.bar(places + (number - 1.5) * 0.2, terms[term], 0.2, color=colour, label=label)
    law = terms["decay"] + terms["mean"] + terms["trace"]
    axis.bar(places + 0.3, law, 0.2, color="none", edgecolor="black", linewidth=0.8, label="sum")
    axis.errorbar(
        places + 0.3, terms["measured"], 4 * terms["error"], fmt=".", color="C3", capsize=2, label="measured ± 4 s.e."
    )
    axis.axhline(0, color="black", linewidth=0.5)
    axis.set_xticks(places)
    axis.tick_params(labelsize=8)
    axis.set_xlabel("generator")
    axis.ticklabel_format(axis="y", scilimits=(0, 0))


def _caption(numbers: Numbers, setting: Setting) -> str:
    first: Mapping[str, Any] = next(iter(numbers.values()))
    losses = "; ".join(
        f"{network}: {numbers[f'{network}, {POINTS[1]}']['gradients']} samples, loss "
        f"{numbers[f'{network}, {POINTS[1]}']['loss']:.2g} after training"
        for network in NETWORKS
    )
    return (
        f"Above, eigenvalues of the covariance of minibatch gradients, those of 0 red, none drawn below "
        f"{_SMALLEST:.0e}, and the share of h²tr(A Cov)/batch in the mean of h²gᵀAg, where Aθ is the generator; dotted "
        f"the bound. Below, the mean change of charges in one step of SGD from the trained weights, by terms of the "
        f"law, a cluster for each generator, and measured on {setting.choose(200, 1000)} random minibatches. "
        f"{first['data']}; two convolutions of 3 and 4 channels and a linear layer, leaky ReLU; {losses}; learning "
        f"rate {RATE:g}, weight decay {DECAY:g}, "
        f"batch {BATCH}, {first['steps']} steps; batch norm with ε = 1e-30; float64; seed {setting.seed}."
    )
