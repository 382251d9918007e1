"""The cost of finding and verifying charges: ``python -m validation.benchmarks.symmetries --out results``.

Finding is timed in seconds, for each network in a fresh process: the first call, in which torch loads its tracer, and
those after it. Verifying is timed in gradients and products with the Hessian of the same network, by torch alone,
before and after in the same round; beside that the evaluations are counted.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import modeq as mq
from modeq.numeric.networks.building import seeded
from modeq.numeric.networks.densenet import densenet
from modeq.numeric.networks.gpt import gpt
from modeq.numeric.networks.resnet import resnet18
from modeq.numeric.networks.vgg import vgg16
from modeq.numeric.networks.vision import VisionTransformer
from modeq.symmetry.verification import _Run
from validation.benchmarks.table import environment, report

ROOT = Path(__file__).parents[2]
SECONDS = 5.0  # asked of finding
GRADIENTS, PRODUCTS = 6, 4  # asked of verifying, for each charge
_TOKENS = 11  # no vocabulary has less
COUNTED = ("loss", "gradient", "hessian_product")


@dataclass(frozen=True)
class Network:
    """A network and the shape of its input, as they are measured and as they are in a dry run."""

    name: str
    module: Callable[[], nn.Module]
    shape: tuple[int, ...]
    quick_module: Callable[[], nn.Module]
    quick_shape: tuple[int, ...]
    classes: int  # 0 for tokens
    asked: float | None = None
    double: bool = False

    def build(self, quick: bool) -> tuple[nn.Module, Tensor]:
        """Return the network in training mode, and random images or tokens."""
        build, shape = (self.quick_module, self.quick_shape) if quick else (self.module, self.shape)
        module = seeded(build, 0, torch.float64 if self.double else torch.float32)
        generator = torch.Generator().manual_seed(0)
        if not self.classes:
            return module, torch.randint(0, _TOKENS, shape, generator=generator)
        return module, torch.randn(shape, generator=generator).to(next(module.parameters()).dtype)

    def targets(self, inputs: Tensor) -> Tensor:
        """Return random labels, one for each image or each token."""
        generator = torch.Generator().manual_seed(1)
        high, shape = (self.classes, inputs.shape[:1]) if self.classes else (_TOKENS, inputs.shape)
        return torch.randint(0, high, shape, generator=generator)


def _narrow_gpt() -> nn.Module:
    return gpt(layers=1, heads=2, dim=8, vocabulary=11, context=6)


_IMAGES, _SMALL = (2, 3, 64, 64), (2, 3, 32, 32)
FOUND = [
    Network("VGG-16", vgg16, _IMAGES, lambda: vgg16(width=1 / 64, image_size=32), _SMALL, 200, SECONDS),
    Network(
        "VGG-16, batch norm",
        lambda: vgg16(batch_norm=True),
        _IMAGES,
        lambda: vgg16(width=1 / 64, batch_norm=True, image_size=32),
        _SMALL,
        200,
        SECONDS,
    ),
    Network("ResNet-18", resnet18, _IMAGES, lambda: resnet18(width=1 / 32), _SMALL, 200, SECONDS),
    Network("GPT, 64 tokens", gpt, (1, 64), _narrow_gpt, (1, 3), 0, SECONDS),
    Network("GPT, 1,024 tokens", gpt, (1, 1024), _narrow_gpt, (1, 6), 0),
    Network(
        "DenseNet-100",
        lambda: densenet(blocks=(16, 16, 16)),
        (2, 3, 32, 32),
        lambda: densenet(growth=2, blocks=(1, 1)),
        (2, 3, 8, 8),
        10,
    ),
    Network(
        "vision transformer",
        lambda: VisionTransformer(side=32, patch=4, dim=192, heads=3, depth=12, hidden=768),
        (2, 1, 32, 32),
        VisionTransformer,
        (2, 1, 8, 8),
        10,
    ),
]
# Torch has no second derivative of its fused attention, so that the unit needs an explicit softmax.
VERIFIED = [
    Network(
        "VGG-16, batch norm, 1/8 of the width",
        lambda: vgg16(width=1 / 8, batch_norm=True, dropout=0),
        (8, 3, 64, 64),
        lambda: vgg16(width=1 / 32, batch_norm=True, dropout=0, image_size=32),
        (4, 3, 32, 32),
        200,
        double=True,
    ),
    Network(
        "ResNet-18, 1/8 of the width",
        lambda: resnet18(width=1 / 8),
        (8, 3, 64, 64),
        lambda: resnet18(width=1 / 32),
        (4, 3, 32, 32),
        200,
        double=True,
    ),
    Network(
        "GPT, 4 layers of width 64",
        lambda: gpt(layers=4, heads=4, dim=64, vocabulary=256, context=64, fused=False),
        (4, 64),
        lambda: gpt(layers=1, heads=2, dim=8, vocabulary=11, context=6, fused=False),
        (3, 6),
        0,
        double=True,
    ),
]


def find(network: Network, quick: bool, repeats: int) -> dict[str, Any]:
    """Time the first call of `find_charges` in this process, and more."""
    module, inputs = network.build(quick)
    seconds, processor = [], []
    for _ in range(1 + repeats):
        start, own = time.perf_counter(), time.process_time()
        charges = mq.find_charges(module, inputs, loss="cross_entropy")
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - own)
    return {
        "network": network.name,
        "parameters": sum(p.numel() for p in module.parameters()),
        "charges": len(charges),
        "generators": charges.generators,
        "first, s": seconds[0],
        "first, processor s": processor[0],
        "repeats, s": seconds[1:],
        "repeats, processor s": processor[1:],
        "median, s": median(seconds[1:]),
        "median, processor s": median(processor[1:]),
        "asked, s": network.asked,
    }


def find_in_a_fresh_process(network: Network, repeats: int) -> dict[str, Any]:
    """Call `find` in another process, so that its first call is the first there."""
    command = [sys.executable, "-m", "validation.benchmarks.symmetries", "--find", network.name]
    command += ["--repeats", str(repeats)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


class Unit:
    """One gradient and one product with the Hessian, by torch alone."""

    def __init__(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        self.module, self.inputs, self.targets = module, inputs, targets
        self.leaves = list(module.parameters())
        self.direction = [torch.randn_like(leaf) for leaf in self.leaves]

    def _slopes(self, again: bool) -> tuple[Tensor, ...]:
        output = self.module(self.inputs)
        loss = F.cross_entropy(output.flatten(0, -2), self.targets.flatten())
        return torch.autograd.grad(loss, self.leaves, create_graph=again)

    def gradient(self) -> None:
        """A pass forward and one backward."""
        self._slopes(False)

    def product(self) -> None:
        """A pass forward and two backward."""
        slopes = self._slopes(True)
        along = sum((g * v).sum() for g, v in zip(slopes, self.direction, strict=True))
        torch.autograd.grad(along, self.leaves, allow_unused=True)

    def seconds(self, calls: int) -> tuple[float, float]:
        """Return the median time of a gradient and of a product, called in turns."""
        times = [(_seconds(self.gradient), _seconds(self.product)) for _ in range(calls)]
        return median(t[0] for t in times), median(t[1] for t in times)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def counted(call: Callable[[], Any]) -> tuple[Any, dict[str, int]]:
    """Return what a call returns, and how many evaluations of each kind `verify` made in it."""
    counts = dict.fromkeys(COUNTED, 0)

    def wrapped(name: str) -> Callable[..., Any]:
        inner = getattr(_Run, name)

        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            counts[name] += 1
            return inner(*arguments, **keywords)

        return wrapper

    with mock.patch.multiple(_Run, **{name: wrapped(name) for name in COUNTED}):
        result = call()
    return result, counts


def verified(network: Network, quick: bool, rounds: int) -> dict[str, Any]:
    """Count and time what `verify` does for each charge; the time of the whole is shared among the charges."""
    module, inputs = network.build(quick)
    targets = network.targets(inputs)
    charges = mq.find_charges(module, inputs, loss="cross_entropy")

    def call() -> Any:
        return mq.verify(charges, module, "cross_entropy", (inputs, targets))

    report, counts = counted(call)
    unit, calls = Unit(module, inputs, targets), 1 if quick else 10
    unit.seconds(1)  # what is allocated once
    repeats, before = [], unit.seconds(calls)
    for _ in range(rounds):
        own, after = _seconds(call) / len(charges), unit.seconds(calls)
        gradient, product = (mean(pair) for pair in zip(before, after, strict=True))
        repeats.append({"per charge, s": own, "gradient, s": gradient, "product, s": product})
        before = after
    budgets = [GRADIENTS * r["gradient, s"] + PRODUCTS * r["product, s"] for r in repeats]
    return {
        "network": network.name,
        "parameters": sum(p.numel() for p in module.parameters()),
        "charges": len(charges),
        "exact charges": sum(found.exact for found in charges.found),
        "exact charges passed": sum(
            entry.passed() for entry, found in zip(report, charges.found, strict=True) if found.exact
        ),
        "counts": counts,
        "losses and gradients per charge": (counts["loss"] + counts["gradient"]) / len(charges),
        "products per charge": counts["hessian_product"] / len(charges),
        "asked": {"gradients": GRADIENTS, "products": PRODUCTS},
        "repeats": repeats,
        "product in gradients": median(r["product, s"] / r["gradient, s"] for r in repeats),
        "in gradients": median(r["per charge, s"] / r["gradient, s"] for r in repeats),
        "of what is asked": median(r["per charge, s"] / b for r, b in zip(repeats, budgets, strict=True)),
    }


def missed(results: dict[str, Any], timed: bool) -> list[str]:
    """Return what is not as asked: evaluations, exact charges that fail, and if timed, times."""
    lines = []
    for row in results["verifying"]:
        evaluations = (row["losses and gradients per charge"], row["products per charge"])
        if evaluations[0] > GRADIENTS or evaluations[1] > PRODUCTS:
            lines.append(f"verifying {row['network']}: {evaluations[0]:.2f} gradients, {evaluations[1]:.2f} products")
        if row["exact charges passed"] < row["exact charges"]:
            lines.append(f"verifying {row['network']}: {row['exact charges passed']} of {row['exact charges']} passed")
        if timed and row["of what is asked"] > 1:
            lines.append(f"verifying {row['network']}: {row['of what is asked']:.2f} of the time asked")
    for row in results["finding"]:
        if timed and row["asked, s"] is not None and row["median, s"] > row["asked, s"]:
            lines.append(f"finding those of {row['network']}: {row['median, s']:.2f} s")
    return lines


def _rows(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(results: dict[str, Any]) -> str:
    """Return a table of finding, one of verifying, and where they were measured."""
    finding = _rows(
        ["find_charges", "parameters", "charges", "generators", "first call, s", "s", "processor s", "asked"],
        [
            [
                row["network"],
                *(f"{row[key]:,}" for key in ("parameters", "charges", "generators")),
                *(f"{row[key]:.2f}" for key in ("first, s", "median, s", "median, processor s")),
                f"{row['asked, s']:g} s" if row["asked, s"] else "",
            ]
            for row in results["finding"]
        ],
    )
    verifying = _rows(
        [
            "verify, for each charge",
            "charges",
            "losses",
            "gradients",
            "products",
            "time in gradients",
            "asked",
            "time / asked",
        ],
        [
            [
                row["network"],
                str(row["charges"]),
                *(f"{row['counts'][name] / row['charges']:.2f}" for name in COUNTED),
                f"{row['in gradients']:.1f}",
                f"{GRADIENTS} + {PRODUCTS} · {row['product in gradients']:.1f}",
                f"{row['of what is asked']:.2f}",
            ]
            for row in results["verifying"]
        ],
    )
    where = ", ".join(f"{name} {value}" for name, value in results["environment"].items())
    return f"{finding}\n\n{verifying}\n\n{where[0].upper()}{where[1:]}.\n"


def _environment(finding: list[dict[str, Any]]) -> dict[str, str]:
    processor, elapsed = (
        sum(sum(row[f"repeats, {unit}"]) + row[f"first, {unit}"] for row in finding) for unit in ("processor s", "s")
    )
    found = environment([])
    found.pop("processor time / elapsed time")
    return found | {
        "torch": torch.__version__,
        "modeq": mq.__version__,
        "threads": "1",
        "processor time / elapsed time": f"{processor / elapsed:.2f}",
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, and write symmetries.json and symmetries.md if asked to; 1 if something is missed."""
    parser = argparse.ArgumentParser(prog="python -m validation.benchmarks.symmetries", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="for each figure; the median counts")
    parser.add_argument("--quick", action="store_true", help="a dry run on narrow networks, in one process")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write symmetries.json and symmetries.md there")
    parser.add_argument("--find", choices=[network.name for network in FOUND], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    torch.set_num_threads(1)
    repeats = 1 if options.quick else options.repeats
    if options.find:
        network = next(network for network in FOUND if network.name == options.find)
        print(json.dumps(find(network, options.quick, repeats)))
        return 0
    finding, verifying = [], []
    for network in FOUND:
        row = find(network, True, repeats) if options.quick else find_in_a_fresh_process(network, repeats)
        print(f"finding, {network.name}: {row['median, s']:.2f} s", file=sys.stderr, flush=True)
        finding.append(row)
    for network in VERIFIED:
        row = verified(network, options.quick, repeats)
        print(f"verifying, {network.name}: {row['in gradients']:.1f} gradients", file=sys.stderr, flush=True)
        verifying.append(row)
    results = {"environment": _environment(finding), "finding": finding, "verifying": verifying}
    results["missed"] = missed(results, timed=not options.quick)
    return report(results, markdown(results), options.out, "symmetries")


if __name__ == "__main__":
    sys.exit(main())
