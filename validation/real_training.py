"""Every charge that is found in VGG-16, ResNet-18 and a GPT obeys its law through a training as it is really done.

With momentum, weight decay and a cosine schedule. Charges are found by modeq; nothing is named by hand.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn

import modeq as mq
from modeq.numeric.data import digits
from modeq.numeric.networks.gpt import gpt
from modeq.numeric.networks.resnet import resnet18
from validation.claims import Cell, Merit, Numbers, Setting
from validation.pictures import pictures
from validation.training import BATCH, QUICK_WIDTH, SGD, train, vgg

LAWS = ("discrete", "article", "corrected", "with_defect")
FAMILIES = ("translation", "scale", "rescale")
SIZES = {"translation": "Σ|θ|(0)", "scale": "‖θ‖²", "rescale": "(‖θ₁‖² + ‖θ₂‖²)"}
MERITS = {
    **{
        family: Merit(
            f"The article's {family} law, under momentum, decay and a schedule",
            f"largest |charge − law| / {size}",
            0.01 if family == "translation" else 0.05,
        )
        for family, size in SIZES.items()
    },
    "closer": Merit(
        "The corrected continuous laws are closer than the article's",
        "median over charges of corrected / median of article's deviation",
        1,
    ),
    "float32": Merit(
        "Exact laws with the measured ⟨g, ξ⟩, in float32", "largest deviation, relative to the weights", 1e-5
    ),
    "float64": Merit(
        "Exact laws with the measured ⟨g, ξ⟩, in float64", "largest deviation, relative to the weights", 1e-12
    ),
}


@dataclass(frozen=True)
class Case:
    """One training."""

    network: str
    sgd: SGD
    dtype: str


class Sequences:
    """Handwritten digits as rows of 64 tokens, one of 17 levels of grey each; each is predicted from those before."""

    name = "1,797 handwritten digits of scikit-learn as sequences of 64 pixels"

    def __init__(self) -> None:
        images, _ = digits()
        self.tokens = (images.flatten(1) * 16).round().long()

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: Tensor, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Return tokens, shape [k, 63], and what follows each."""
        tokens = self.tokens[indices].to(device)
        return tokens[:, :-1], tokens[:, 1:]


def cases(setting: Setting) -> dict[str, Case]:
    """Three networks in float32, as is usual, and in float64, where rounding is smaller than any deviation."""
    found = {}
    for network, rate in (("VGG-16 with batch norm", 0.1), ("ResNet-18", 0.1), ("GPT", 0.1)):
        for dtype in ("float32", "float64"):
            found[f"{network}, {dtype}"] = Case(network, SGD(rate, momentum=0.9, weight_decay=5e-4), dtype)
    return found


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """Train, and return how far each charge comes from each law."""
    dtype: torch.dtype = getattr(torch, case.dtype)
    data: Any = Sequences() if case.network == "GPT" else pictures(setting.data, setting.seed)
    network = _network(case.network, data, setting.seed, dtype)
    example, _ = data.batch(torch.arange(2), dtype=dtype)
    charges = [c for c in mq.find_charges(network, example, loss="cross_entropy") if _is_large(c, network)]
    optimizer = case.sgd.optimizer(network)
    steps = setting.choose(8, 400) if case.dtype == "float32" else setting.choose(5, 100)
    trained = train(
        network,
        optimizer,
        data,
        charges,
        steps=steps,
        seed=setting.seed,
        device=setting.device,
        laws=LAWS,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        loss=_cross_entropy,
    )
    record = trained.record
    return {
        "data": data.name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "sgd": asdict(case.sgd),
        "steps": steps,
        "losses": trained.losses,
        "charges": {
            c.name: {"family": type(c).__name__.lower(), **{law: _largest(record[c.name], law, c) for law in LAWS}}
            for c in charges
        },
        "courses": {law: _courses(record, charges, law) for law in LAWS},
    }


def _network(name: str, data: Any, seed: int, dtype: torch.dtype) -> nn.Module:
    build: dict[str, Callable[[], nn.Module]] = {
        "VGG-16 with batch norm": lambda: vgg(data.classes, batch_norm=True, seed=seed, dtype=dtype),
        "ResNet-18": lambda: resnet18(classes=data.classes, width=QUICK_WIDTH, seed=seed, dtype=dtype),
        "GPT": lambda: gpt(layers=2, heads=2, dim=32, vocabulary=17, context=64, seed=seed, dtype=dtype),
    }
    return build[name]()


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.flatten(0, -2), target.flatten())


def _is_large(charge: Any, network: nn.Module) -> bool:
    """Whether its weights are not 0 at the start, as biases are: relative to those no deviation is small."""
    parameters = dict(network.named_parameters())
    return any(bool(parameters[member.parameter].any()) for member in charge.members)


def _largest(record: Any, law: str, charge: Any) -> float:
    scale = record.normaliser[:1] if isinstance(charge, mq.Translation) else record.normaliser
    return float(np.max(np.abs(record.predicted[law] - record.measured) / scale))


def _courses(record: Any, charges: list[Any], law: str) -> dict[str, Any]:
    """The worst and the median residual of each family, step by step."""
    row = np.unique(np.linspace(0, len(record.step) - 1, 100).round().astype(int))
    found: dict[str, Any] = {"step": record.step[row].tolist()}
    for family in FAMILIES:
        own = [record[c.name].residual(law)[row] for c in charges if type(c).__name__.lower() == family]
        if own:
            joined = np.concatenate(own, axis=1)
            found[family] = {"worst": joined.max(axis=1).tolist(), "median": np.median(joined, axis=1).tolist()}
    return found


def cells(numbers: Numbers) -> list[Cell]:
    """The worst charge of each family in each training, and the medians of two laws."""
    found = []
    for name, one in numbers.items():
        dtype = name.split(", ")[-1]
        for family in FAMILIES:
            own = {charge: d for charge, d in one["charges"].items() if d["family"] == family}
            if not own:
                continue
            where = f"{name}, {family}, worst of {len(own)}"
            found.append(_worst(family, where, own, "article"))
            found.append(_worst(dtype, where, own, "with_defect"))
            corrected, article = (np.median([d[law] for d in own.values()]) for law in ("corrected", "article"))
            found.append(Cell("closer", f"{name}, {family}", float(corrected / article)))
    return found


def _worst(merit: str, where: str, charges: Mapping[str, Any], law: str) -> Cell:
    name = max(charges, key=lambda charge: charges[charge][law])
    return Cell(merit, f"{where}: {name}", charges[name][law])


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """Residuals of each law and family along each training in float32; worst full, median dotted."""
    shown = {name.removesuffix(", float32"): one for name, one in numbers.items() if name.endswith("float32")}
    figure, axes = plt.subplots(len(FAMILIES), len(shown), figsize=(13, 9), layout="constrained", sharex="col")
    labels = {"article": "article", "corrected": "corrected", "discrete": "exact", "with_defect": "exact with ⟨g, ξ⟩"}
    for column, (name, one) in enumerate(shown.items()):
        axes[0, column].set_title(f"{name}, {one['parameters']:,} parameters", fontsize=10)
        axes[-1, column].set_xlabel("step")
        for axis, family in zip(axes[:, column], FAMILIES, strict=True):
            _draw_family(axis, one["courses"], family, labels)
    for axis, family in zip(axes[:, 0], FAMILIES, strict=True):
        axis.set_ylabel(f"residual of {family}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    caption = (
        "Residuals relative to the weights: the worst charge of each family (full) and the median (dotted). "
        + "; ".join(f"{name}: {one['data']}, {SGD(**one['sgd'])}" for name, one in shown.items())
        + f"; cosine schedule over all steps, batch {BATCH}, width 1/8 (GPT: 2 layers of 32), seed {setting.seed}."
    )
    return {"real_training": (figure, caption)}


def _draw_family(axis: Any, courses: Mapping[str, Any], family: str, labels: Mapping[str, str]) -> None:
    for number, (law, label) in enumerate(labels.items()):
        course = courses[law]
        if family not in course:
            axis.text(0.5, 0.5, f"no {family} charges", ha="center", transform=axis.transAxes)
            axis.set_yticks([])
            return
        axis.semilogy(course["step"][1:], course[family]["worst"][1:], color=f"C{number}", label=label)
        axis.semilogy(course["step"][1:], course[family]["median"][1:], ":", color=f"C{number}")
    axis.set_ylim(1e-9, 1)
