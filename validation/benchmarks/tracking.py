"""The cost of tracking every step of a training: ``python -m validation.benchmarks.tracking --out results``.

Full VGG-16 with batch norm on 64×64 images in batches of 32, or (``--network gpt``) a GPT of 12 layers on one
sequence of its 1,024 tokens, whose charges are matrices for the most part; SGD with momentum and weight decay. Steps
without and with a tracker take turns, and so do steps beside which each gradient's square is kept in a running integral
as large as the parameters, as published code for these laws does: with momentum that is one integral and two copies of
the parameters. Time is what the hooks take over what the step takes without them, medians of all rounds; memory is the
most that the hooks hold at a time, beside the records, over what the parameters take.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import modeq as mq
from modeq.numeric.networks.gpt import gpt
from modeq.numeric.networks.vgg import vgg16
from validation.benchmarks.table import environment, report

# Asked of tracking, relative to the step, on a GPU too, and to the parameters.
TIME, TIME_CUDA, MEMORY = {"vgg": 0.03, "gpt": 0.05}, 0.02, {"vgg": 0.01, "gpt": 0.05}
TRACKED = {"one law": ["discrete"], "three laws": ["discrete", "article", "corrected"], "all laws": None}
WITHIN = ("one law", "three laws")  # of these it is asked; the fourth reads each gradient too


class Integrals:
    """What keeps ∫g² for each entry: an integral that decays, and copies of the last two parameters."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = list(module.parameters())
        self.sums = [torch.zeros_like(p) for p in self.parameters]
        self.last = [[p.detach().clone() for p in self.parameters] for _ in range(2)]

    @torch.no_grad()
    def step(self) -> None:
        """Add the squares of the parameters' velocity, as the laws with momentum need."""
        self.last = [self.last[1], [p.detach().clone() for p in self.parameters]]
        for total, new, old in zip(self.sums, self.last[1], self.last[0], strict=True):
            total.mul_(0.999).add_((new - old).square_())

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(t.numel() * t.element_size() for t in [*self.sums, *self.last[0], *self.last[1]])


def _vgg(quick: bool) -> tuple[nn.Module, Tensor, Tensor]:
    width, size, batch = (1 / 64, 32, 4) if quick else (1.0, 64, 32)
    network = vgg16(width=width, batch_norm=True, image_size=size)
    return network, torch.randn(batch, 3, size, size), torch.randint(0, 200, (batch,))


def _gpt(quick: bool) -> tuple[nn.Module, Tensor, Tensor]:
    network = gpt(layers=1, heads=2, dim=8, vocabulary=11, context=64) if quick else gpt()
    tokens = torch.randint(0, 11, (1, 65 if quick else 1025))
    return network, tokens[:, :-1], tokens[:, 1:]


NETWORKS: dict[str, Callable[[bool], tuple[nn.Module, Tensor, Tensor]]] = {"vgg": _vgg, "gpt": _gpt}


def measure(network: str, rounds: int, quick: bool, device: str) -> dict[str, Any]:
    """Return seconds of each kind of step in each round, and bytes."""
    torch.manual_seed(0)
    module, x, y = (part.to(device) for part in NETWORKS[network](quick))
    charges = mq.find_charges(module, x[:2], "cross_entropy")
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def step(after: Callable[[], None] | None = None) -> float:
        _wait(device)
        start = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(module(x).flatten(0, -2), y.flatten()).backward()
        optimizer.step()
        if after is not None:
            after()
        _wait(device)
        return time.perf_counter() - start

    integrals = Integrals(module)
    seconds: dict[str, list[float]] = {name: [] for name in ("plain", *TRACKED, "integrals")}
    hooks: dict[str, list[float]] = {name: [] for name in TRACKED}
    step(), step()
    for _ in range(rounds):
        seconds["plain"].append(step())
        for name, laws in TRACKED.items():
            with mq.track(module, optimizer, charges, laws=laws) as tracker:
                own = _clocked(tracker)
                seconds[name].append(step())
                hooks[name].append(sum(own))
        start = time.perf_counter()
        integrals.step()
        seconds["integrals"].append(time.perf_counter() - start)
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    bytes_held = {name: _largest(module, optimizer, charges, laws, step) for name, laws in TRACKED.items()}
    plain = median(seconds["plain"])
    return {
        "network": network,
        "parameters": sum(p.numel() for p in module.parameters()),
        "charges": len(charges),
        "generators": charges.generators,
        "seconds": seconds,
        "hooks": hooks,
        "step, s": plain,
        "time / step": {name: median(times) / plain for name, times in hooks.items()}
        | {"integrals": median(seconds["integrals"]) / plain},
        "memory / parameters": {name: held / size for name, held in bytes_held.items()}
        | {"integrals": integrals.size / size},
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _clocked(tracker: Any) -> list[float]:
    """The seconds that each call of the tracker's hooks takes from now on."""
    taken: list[float] = []

    def timed(hook: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = hook(*arguments)
            taken.append(time.perf_counter() - start)
            return result

        return run

    tracker.remove()
    optimizer = tracker._optimizer
    tracker._handles = [
        optimizer.register_step_pre_hook(timed(tracker._before_step)),
        optimizer.register_step_post_hook(timed(tracker._after_step)),
    ]
    return taken


def _largest(module: nn.Module, optimizer: Any, charges: Any, laws: Any, step: Callable[[], float]) -> int:
    """The most bytes that the hooks hold at a time during a step."""
    most = 0
    with mq.track(module, optimizer, charges, laws=laws) as tracker:
        step()
        kept = sum(t.numel() * t.element_size() for t in tracker._readings._scratch.values())
        before, after = tracker._before_step, tracker._after_step

        def profiled(hook: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                nonlocal most
                with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                    result = hook(*arguments)
                held = 0
                changes = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
                for change in sorted(changes, key=lambda change: change.start_ns()):
                    held += change.nbytes()
                    most = max(most, held)
                return result

            return run

        tracker.remove()
        tracker._handles = [
            optimizer.register_step_pre_hook(profiled(before)),
            optimizer.register_step_post_hook(profiled(after)),
        ]
        step()
    return most + kept


def markdown(results: dict[str, Any]) -> str:
    """Return the table."""
    titles = {
        "one law": "tracked, exact law",
        "three laws": "tracked, exact and continuous laws",
        "all laws": "tracked, all four laws: each gradient is read too",
        "integrals": "integrals, full size",
    }
    lines = ["| every step | time / step | memory / parameters |", "| --- | ---: | ---: |"]
    for name, title in titles.items():
        time_share, memory_share = (100 * results[key][name] for key in ("time / step", "memory / parameters"))
        lines.append(f"| {title} | {time_share:.2f} % | {memory_share:.2f} % |")
    found = results["environment"]
    where = ", ".join(f"{name} {value}" for name, value in found.items())
    network = (
        f"{results['parameters']:,} parameters, {results['charges']} charges with {results['generators']:,} generators"
    )
    lines += ["", f"{network}; a step takes {results['step, s']:.2f} s.", "", f"{where[0].upper()}{where[1:]}."]
    return "\n".join(lines) + "\n"


def missed(results: dict[str, Any], timed: bool, device: str) -> list[str]:
    """What is not as asked."""
    asked = TIME_CUDA if device == "cuda" else TIME[results["network"]]
    found = []
    for name in WITHIN:
        if timed and results["time / step"][name] > asked:
            found.append(f"{name}: {100 * results['time / step'][name]:.2f} % of the step's time")
        if timed and results["memory / parameters"][name] > MEMORY[results["network"]]:
            found.append(f"{name}: {100 * results['memory / parameters'][name]:.2f} % of the parameters' memory")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, and write tracking.json and tracking.md if asked to; 1 if something is missed."""
    parser = argparse.ArgumentParser(prog="python -m validation.benchmarks.tracking", description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="vgg", help="VGG-16 with batch norm by default")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="of each kind of step; the medians count")
    parser.add_argument("--quick", action="store_true", help="a dry run on a narrow network")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write tracking.json and tracking.md there")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}, and must be at least 1")
    results = measure(options.network, 1 if options.quick else options.rounds, options.quick, options.device)
    found = environment([])
    found.pop("processor time / elapsed time")
    results["environment"] = found | {
        "torch": torch.__version__,
        "modeq": mq.__version__,
        "device": options.device,
        "threads": str(torch.get_num_threads()),
    }
    results["missed"] = missed(results, not options.quick, options.device)
    stem = "tracking" if options.network == "vgg" else f"tracking_{options.network}"
    return report(results, markdown(results), options.out, stem)


if __name__ == "__main__":
    sys.exit(main())
