"""Squared norms before a normalisation are only pushed up; the differences that rescaling keeps are pushed either way.

Gradient flow keeps both. Steps of finite size, and the noise in them, add h∫e^(−2λ(t−s))‖g‖²ds to the squared norms,
and h∫e^(−2λ(t−s))(‖g₁‖² − ‖g₂‖²)ds to the differences; here it is measured for every channel of every layer of
VGG-16, with batch norm and without.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import modeq as mq
from validation.claims import Cell, Merit, Numbers, Setting
from validation.pictures import pictures
from validation.training import BATCH, QUICK_WIDTH, SGD, first_example, train, vgg

DECAYS = (0.0, 5e-4)
# With the published 0.1 at batches of 256, the network without batch norm stops learning at batches of 32.
FAMILIES = {"scale": ("VGG-16 with batch norm", 0.1), "rescale": ("VGG-16", 0.03)}
KINDS = {"scale": mq.Scale, "rescale": mq.Rescale}
ROUNDING = 1e-6  # of float32: what is smaller, relative to the weights, has no sign
_EQUATION = "Kunin et al. 2021, equation"
MERITS = {
    "scale": Merit(
        f"What a training adds to squared norms is positive ({_EQUATION} 19)",
        "smallest (N − e^(−2λt)N(0)) / ‖θ‖² over all channels at the end",
        0,
        above=True,
    ),
    # On the way there it may be as small as the rounding of float32 that the exact laws are allowed.
    "always": Merit(
        f"It is positive at all times ({_EQUATION} 19)",
        "smallest (N − e^(−2λt)N(0)) / ‖θ‖² over all channels and steps",
        -1e-5,
        above=True,
    ),
    "rescale": Merit(
        f"What is added to differences of squared norms has either sign ({_EQUATION} 20)",
        f"share of all channels that have the rarer sign, beyond {ROUNDING:g} of ‖θ₁‖² + ‖θ₂‖²",
        0.05,
        above=True,
    ),
    "integral": Merit(
        f"It is the forcing integral of the article's laws ({_EQUATION}s 19 and 20)",
        "Σ|added − integral| / Σ|integral| over the channels of a layer",
        0.05,
    ),
}


@dataclass(frozen=True)
class Case:
    """One training."""

    family: str
    sgd: SGD


def cases(setting: Setting) -> dict[str, Case]:
    """Both families with and without weight decay."""
    return {
        f"{family}, λ = {decay:g}": Case(family, SGD(rate, weight_decay=decay))
        for family, (_, rate) in FAMILIES.items()
        for decay in DECAYS
    }


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """Train, and return what was added to each charge of the family, with what the article's law says."""
    data = pictures(setting.data, setting.seed)
    steps = setting.choose(20, 300)
    network = vgg(data.classes, batch_norm=case.family == "scale", seed=setting.seed)
    found = mq.find_charges(network, first_example(data), loss="cross_entropy")
    charges = [charge for charge in found if isinstance(charge, KINDS[case.family])]
    trained = train(
        network,
        case.sgd.optimizer(network),
        data,
        charges,
        steps=steps,
        seed=setting.seed,
        device=setting.device,
        laws=("article",),
    )
    return {
        "data": data.name,
        "width": QUICK_WIDTH,
        "steps": steps,
        "sgd": asdict(case.sgd),
        "loss": [trained.losses[0], trained.losses[-1]],
        "layers": {c.name: _added(trained.record[c.name], case.sgd.weight_decay) for c in charges},
    }


def _added(charge: Any, decay: float) -> dict[str, Any]:
    """What came on top of e^(−2λt)N(0), relative to ‖θ‖²: measured, and the integral; all channels at the end."""
    decayed = np.exp(-2 * decay * charge.time)[:, None] * charge.measured[0]
    added = (charge.measured - decayed) / charge.normaliser
    integral = (charge.predicted["article"] - decayed) / charge.normaliser
    return {"added": added[-1].tolist(), "integral": integral[-1].tolist(), "smallest": float(added[1:].min())}


def cells(numbers: Numbers) -> list[Cell]:
    """The smallest of the squared norms, the signs of the differences, and how far the integrals are from either."""
    found = []
    for name, one in numbers.items():
        layers = one["layers"]
        if name.startswith("scale"):
            layer = min(layers, key=lambda layer, layers=layers: min(layers[layer]["added"]))
            found.append(Cell("scale", f"{name}, worst of {len(layers)} layers: {layer}", min(layers[layer]["added"])))
            layer = min(layers, key=lambda layer, layers=layers: layers[layer]["smallest"])
            found.append(Cell("always", f"{name}, worst of {len(layers)} layers: {layer}", layers[layer]["smallest"]))
        else:
            found.append(Cell("rescale", name, min(_shares(layers))))
        missed = {layer: _missed(entry) for layer, entry in layers.items()}
        layer = max(missed, key=lambda layer, missed=missed: missed[layer])
        found.append(Cell("integral", f"{name}, worst of {len(layers)} layers: {layer}", missed[layer]))
    return found


def _shares(layers: Mapping[str, Any]) -> tuple[float, float]:
    """The shares of channels to which something positive, and something negative, was added, beyond rounding."""
    added = np.concatenate([entry["added"] for entry in layers.values()])
    return float(np.mean(added > ROUNDING)), float(np.mean(added < -ROUNDING))


def _missed(entry: Mapping[str, Any]) -> float:
    added, integral = np.array(entry["added"]), np.array(entry["integral"])
    return float(np.abs(added - integral).sum() / np.abs(integral).sum())


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """What was added, channel by channel in each layer; below, against the integral."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained", height_ratios=[1.1, 1])
    for column, (family, (network, _)) in enumerate(FAMILIES.items()):
        own = {decay: numbers[f"{family}, λ = {decay:g}"]["layers"] for decay in DECAYS}
        axes[0, column].set_title(f"{network}: {family} charges", fontsize=11)
        _draw_layers(axes[0, column], own)
        _draw_integrals(axes[1, column], own)
    axes[0, 0].set_ylabel("added / ‖θ‖²")
    axes[0, 1].set_ylabel("added / (‖θ₁‖² + ‖θ₂‖²)")
    axes[0, 0].legend(loc="lower left", fontsize=9)
    axes[1, 0].legend(loc="upper left", fontsize=9)
    return {"scale_against_rescale": (figure, _caption(numbers, setting))}


def _draw_layers(axis: Any, layers: Mapping[float, Mapping[str, Any]]) -> None:
    smallest, largest = _range(layers)
    for side, (decay, entries) in enumerate(layers.items()):
        for place, entry in enumerate(entries.values()):
            added = np.sort(entry["added"])
            across = place + 0.42 * (side - 1) + 0.38 * np.linspace(0, 1, len(added))
            label = f"λ = {decay:g}" if place == 0 else None
            axis.plot(across, added, ".", markersize=3, color=f"C{side}", label=label)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_yscale("symlog", linthresh=smallest)
    axis.set_ylim(-largest, largest)
    names = list(next(iter(layers.values())))
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)


def _draw_integrals(axis: Any, layers: Mapping[float, Mapping[str, Any]]) -> None:
    smallest, largest = _range(layers)
    axis.plot([-largest, largest], [-largest, largest], color="black", linewidth=0.8, label="equal")
    for side, (decay, entries) in enumerate(layers.items()):
        added, integral = (np.concatenate([e[key] for e in entries.values()]) for key in ("added", "integral"))
        axis.plot(integral, added, ".", markersize=3, color=f"C{side}", label=f"λ = {decay:g}")
    for scale, limits in ((axis.set_xscale, axis.set_xlim), (axis.set_yscale, axis.set_ylim)):
        scale("symlog", linthresh=smallest)
        limits(-largest, largest)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel("forcing integral of the article's law, relative to the weights")
    axis.set_ylabel("added, measured")


def _range(layers: Mapping[float, Mapping[str, Any]]) -> tuple[float, float]:
    """Where the logarithmic part of the axes begins and ends."""
    sizes = np.abs(np.concatenate([e["added"] for entries in layers.values() for e in entries.values()]))
    usual = np.quantile(sizes[sizes > 0], 0.02)
    return max(ROUNDING, float(10 ** np.floor(np.log10(usual)))), 2 * float(sizes.max())


def _caption(numbers: Numbers, setting: Setting) -> str:
    first: Mapping[str, Any] = next(iter(numbers.values()))
    signs = [
        f"{name}: {up:.0%} of {sum(len(e['added']) for e in one['layers'].values())} channels up, {down:.0%} down"
        for name, one in numbers.items()
        for up, down in [_shares(one["layers"])]
    ]
    rates = ", ".join(f"{rate:g} for {network}" for network, rate in FAMILIES.values())
    return (
        f"What a training added to e^(−2λt)N(0), relative to the size of the weights: a point for each channel, "
        f"sorted within its layer; below, against the integral of the squared gradients. {'; '.join(signs)}. "
        f"{first['data']}; width {first['width']:g}; SGD without momentum, learning rate {rates}, batch {BATCH}, "
        f"{first['steps']} steps; axes are linear near 0, logarithmic beyond; up and down are counted beyond "
        f"{ROUNDING:g}; seed {setting.seed}."
    )
