"""Train a network on pictures while its charges are tracked; what a record comes to, as plain numbers."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import modeq as mq
from modeq.numeric.data import minibatches
from modeq.numeric.networks.vgg import vgg16
from modeq.symmetry.records import Record
from validation.pictures import Pictures

LAWS = ("discrete", "article", "corrected")
QUICK_WIDTH, BATCH = 1 / 8, 32
_SAVE_EVERY = 60.0  # seconds


@dataclass(frozen=True)
class SGD:
    """The arguments of torch.optim.SGD, with the words for a caption."""

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def optimizer(self, network: nn.Module) -> torch.optim.SGD:
        """Return it for a network."""
        return torch.optim.SGD(network.parameters(), **self.__dict__)

    def __str__(self) -> str:
        words = [f"SGD, learning rate {self.lr:g}"]
        words += [f"momentum {self.momentum:g}"] if self.momentum else []
        words += [f"dampening {self.dampening:g}"] if self.dampening else []
        words += ["Nesterov"] if self.nesterov else []
        return ", ".join([*words, f"weight decay {self.weight_decay:g}"])


@dataclass(frozen=True)
class Trained:
    """A training: the record of its charges, and how the loss went."""

    record: Record
    losses: list[float]
    seconds: float
    watched: list[Any] = field(default_factory=list)


def vgg(
    classes: int, *, batch_norm: bool, width: float = QUICK_WIDTH, seed: int = 0, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Return the article's VGG-16 without dropout, linear layers drawn from N(0, 2/inputs).

    The published 0.01 in place of the latter keeps narrow networks at the loss of a guess for hundreds of steps.
    """
    network = vgg16(seed, width=width, batch_norm=batch_norm, dropout=0, classes=classes, dtype=dtype)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(math.sqrt(2 / layer.in_features) / 0.01)
    return network


def train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Pictures,
    charges: Sequence[Any],
    *,
    steps: int,
    batch: int = BATCH,
    seed: int = 0,
    device: str = "cpu",
    laws: Sequence[str] = LAWS,
    every: int = 1,
    scheduler: Any = None,
    watch: Callable[[nn.Module], Any] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    checkpoint: Path | None = None,
) -> Trained:
    """Train for a number of steps on minibatches reshuffled at every epoch.

    With a checkpoint, a file that is written each minute, an interrupted training goes on where it was, and ends with
    the numbers that it would have had. What `watch` returns of the network is noted before the first step and after
    each.
    """
    network.to(device).train()
    dtype = next(network.parameters()).dtype
    losses: list[float] = []
    watched = [watch(network)] if watch else []
    spent, began = 0.0, time.perf_counter()
    with mq.track(network, optimizer, charges, laws=laws, every=every) as tracker:
        if checkpoint is not None and checkpoint.exists():
            state = torch.load(checkpoint, weights_only=False)
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            if scheduler is not None:
                scheduler.load_state_dict(state["scheduler"])
            tracker.load_state_dict(state["tracker"])
            losses, watched, spent = state["losses"], state["watched"], state["seconds"]
        order = islice(minibatches(len(data), batch, steps, seed), len(losses), None)
        saved = time.perf_counter()
        for indices in tqdm(order, total=steps, initial=len(losses), leave=False, disable=None, desc="training"):
            images, labels = data.batch(indices, device, dtype)
            optimizer.zero_grad()
            value = loss(network(images), labels)
            value.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(value.item())
            if not math.isfinite(losses[-1]):
                raise mq.Diverged(f"the loss is {losses[-1]} at step {len(losses)}: lower the learning rate")
            if watch:
                watched.append(watch(network))
            if checkpoint is not None and time.perf_counter() - saved > _SAVE_EVERY:
                saved = time.perf_counter()
                state = {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": None if scheduler is None else scheduler.state_dict(),
                    "tracker": tracker.state_dict(),
                    "losses": losses,
                    "watched": watched,
                    "seconds": spent + saved - began,
                }
                fresh = checkpoint.with_suffix(".part")
                torch.save(state, fresh)
                fresh.replace(checkpoint)
        return Trained(tracker.record, losses, spent + time.perf_counter() - began, watched)


def first_example(data: Pictures, count: int = 2) -> Tensor:
    """Return a few images, for tracing a network."""
    return data.batch(torch.arange(count))[0]


def series(charge: Any, generators: int = 12, rows: int = 150) -> dict[str, Any]:
    """Return a charge's record as lists, thinned to so many rows and generators, evenly spread."""
    row = np.unique(np.linspace(0, len(charge.step) - 1, rows).round().astype(int))
    column = np.unique(np.linspace(0, charge.measured.shape[1] - 1, generators).round().astype(int))

    def thin(values: Any) -> Any:
        return np.asarray(values)[np.ix_(row, column)].tolist()

    return {
        "step": charge.step[row].tolist(),
        "time": charge.time[row].tolist(),
        "measured": thin(charge.measured),
        "normaliser": thin(charge.normaliser),
        "predicted": {law: thin(values) for law, values in charge.predicted.items()},
    }


def deviations(charge: Any, normaliser: str = "now") -> dict[str, float]:
    """Return the largest |predicted − measured| over the normaliser by law, over all steps and generators.

    The normaliser is Σ|θ_A| or ‖θ_A‖² at the step, or "start" for that of the first row.
    """
    scale = charge.normaliser if normaliser == "now" else charge.normaliser[:1]
    return {law: float(np.max(np.abs(values - charge.measured) / scale)) for law, values in charge.predicted.items()}


def worst(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the largest deviation of each law over several charges."""
    laws = next(iter(results.values()))
    return {law: max(found[law] for found in results.values()) for law in laws}
