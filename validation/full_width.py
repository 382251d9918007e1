"""The article's network at its full width keeps every law that it was found to have.

Run as ``python -m validation --only full_width``; 500 steps of each of the two networks take some twenty minutes on two
free cores, one for each. An interrupted training goes on from its last minute.
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
from validation.training import QUICK_WIDTH, SGD, deviations, first_example, series, train, vgg

BATCH = 16
LAWS = ("discrete", "article", "corrected", "with_defect")
MERITS = {
    "translation": Merit("Translation law of the article, full VGG-16", "largest |S − law| / Σ|θ|(0)", 0.01),
    "scale": Merit("Scale law of the article, full VGG-16", "largest |N − law| / ‖θ‖²", 0.05),
    "rescale": Merit("Rescale law of the article, full VGG-16", "largest |N − law| / (‖θ₁‖² + ‖θ₂‖²)", 0.05),
    "exact": Merit("Exact laws with the measured ⟨g, ξ⟩, in float32", "largest deviation, relative as above", 1e-5),
}
# The biases start at 0, and those before a batch norm stay there: a deviation relative to them would mean nothing.
_BIASES = "bias"


@dataclass(frozen=True)
class Case:
    """One training."""

    network: str
    sgd: SGD


def cases(setting: Setting) -> dict[str, Case]:
    """VGG-16 without and with batch norm."""
    return {
        "VGG-16": Case("vgg16", SGD(0.01, momentum=0.9, weight_decay=5e-4)),
        "VGG-16 with batch norm": Case("vgg16_bn", SGD(0.1, weight_decay=1e-4)),
    }


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """Train, following every charge of the weights."""
    data = pictures(setting.data, setting.seed)
    width, steps = setting.choose(QUICK_WIDTH, 1.0), setting.choose(10, 500)
    network = vgg(data.classes, batch_norm=case.network.endswith("bn"), width=width, seed=setting.seed)
    found = mq.find_charges(network, first_example(data), loss="cross_entropy")
    charges = [charge for charge in found if not charge.name.endswith(_BIASES)]
    checkpoint = None if setting.folder is None else setting.folder / f"{case.network}.checkpoint"
    trained = train(
        network,
        case.sgd.optimizer(network),
        data,
        charges,
        steps=steps,
        batch=BATCH,
        seed=setting.seed,
        device=setting.device,
        laws=LAWS,
        checkpoint=checkpoint,
    )
    families: dict[str, dict[str, dict[str, float]]] = {}
    for charge in charges:
        start = "start" if isinstance(charge, mq.Translation) else "now"
        measured = deviations(trained.record[charge.name], start)
        families.setdefault(type(charge).__name__.lower(), {})[charge.name] = measured
    shown = ("fc3.weight", "conv2" if case.network.endswith("bn") else "conv4-conv5")
    return {
        "data": data.name,
        "width": width,
        "steps": steps,
        "parameters": sum(p.numel() for p in network.parameters()),
        "sgd": asdict(case.sgd),
        "losses": trained.losses,
        "seconds": trained.seconds,
        "deviations": families,
        "charges": {name: series(trained.record[name]) for name in shown},
    }


def cells(numbers: Numbers) -> list[Cell]:
    """The largest deviation in each family of each network."""
    found = []
    for network, one in numbers.items():
        for family, charges in one["deviations"].items():
            for merit, law in ((family, "article"), ("exact", "with_defect")):
                name = max(charges, key=lambda charge, law=law: charges[charge][law])
                found.append(Cell(merit, f"{network}, {family}, worst of {len(charges)}: {name}", charges[name][law]))
    return found


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """The loss, and two charges of each network with what is predicted."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    words = []
    for row, (network, one) in zip(axes, numbers.items(), strict=True):
        row[0].semilogy(one["losses"], linewidth=1)
        row[0].set_title(f"{network}: loss", fontsize=10)
        for axis, (name, charge) in zip(row[1:], one["charges"].items(), strict=True):
            measured = np.array(charge["measured"])
            for generator in range(measured.shape[1]):
                axis.plot(charge["step"], measured[:, generator], linewidth=1.5, color=f"C{generator % 10}")
            for law, style, label in (("article", "k--", "the article's law"), ("discrete", "k:", "exact law")):
                lines = axis.plot(charge["step"], charge["predicted"][law], style, linewidth=0.8)
                lines[0].set_label(label)
            axis.set_title(f"{network}: {name}", fontsize=10)
            axis.legend(fontsize=8)
        row[0].set_xlabel("step")
        words.append(f"{network}: {one['parameters']:,} parameters, {SGD(**one['sgd'])}, {one['seconds']:.0f} s")
    first: Mapping[str, Any] = next(iter(numbers.values()))
    caption = (
        f"Charges measured (coloured), by the article's law (dashed) and by the exact one (dotted). {first['data']}; "
        f"width {first['width']:g}, batch {BATCH}, {first['steps']} steps; {'; '.join(words)}; seed {setting.seed}."
    )
    return {"full_width": (figure, caption)}
