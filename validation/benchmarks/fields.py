"""The cost of modified fields in gradients, side by side in one run: ``python -m validation.benchmarks.fields``.

Every time is divided by that of one gradient of the same network, measured in the same rounds: gradient, field,
gradient, field, …; the median of the ratios of neighbours counts, so that a slow minute of the machine slows both.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch

import modeq as mq
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.data import digits
from modeq.numeric.fields import modified_field
from modeq.numeric.method_steps import TorchSteps
from modeq.numeric.networks.small import digits_cnn
from modeq.numeric.networks.vgg import vgg16

STEP = 1e-4
# Where Linux keeps the peak of a process, and where it is told to start anew.
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def digits_problem(quick: bool, device: str) -> mq.TorchProblem:
    """The loss of a convolutional network with some 300,000 parameters on 256 digits."""
    images, labels = digits(dtype=torch.float32)
    channels, count = ((8, 16), 32) if quick else ((128, 224), 256)
    network = digits_cnn(channels=channels).to(device)
    return mq.TorchProblem(
        network, torch.nn.functional.cross_entropy, images[:count].to(device), labels[:count].to(device)
    )


def vgg_problem(quick: bool, device: str) -> mq.TorchProblem:
    """The loss of VGG-16 (18 million parameters; an eighth of the width in a dry run) on 32 random images."""
    generator = torch.Generator().manual_seed(0)
    images, width = (8, 0.125) if quick else (32, 1.0)
    network = vgg16(width=width, dropout=0.0).to(device)
    inputs = torch.randn(images, 3, 64, 64, generator=generator).to(device)
    targets = torch.randint(0, 200, (images,), generator=generator).to(device)
    return mq.TorchProblem(network, torch.nn.functional.cross_entropy, inputs, targets)


def seconds(call: Callable[[], Any], device: str) -> float:
    """The time of one call, with the device's queue empty at both ends."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_units(call: Callable[[], Any], unit: Callable[[], Any], rounds: int, device: str) -> float:
    """The median ratio of a call to its neighbours' mean."""
    unit(), call()  # what is compiled or allocated once
    before, ratios = seconds(unit, device), []
    for _ in range(rounds):
        own, after = seconds(call, device), seconds(unit, device)
        ratios.append(2 * own / (before + after))
        before = after
    return median(ratios)


def gradient_counts(problem: mq.TorchProblem, rounds: int, device: str) -> list[dict[str, Any]]:
    """Fields from gradients alone: their cost in gradients beside what was asked."""
    theta = problem.native(problem.start())
    rows = []
    methods: list[tuple[str, GeneralLinearMethod]] = [
        ("gradient descent", mq.GradientDescent()),
        ("heavy ball, 0.9", mq.HeavyBall(momentum=0.9)),
    ]
    for name, method in methods:
        for order in range(1, 7):
            field = modified_field(mq.modified_equation(method, order), problem, STEP, "gradients")
            ratio = in_units(lambda field=field: field(theta), lambda: problem.field(theta), rounds, device)
            many = name != "gradient descent" and order > 4
            limit = 1 + order * (order - 1) / 2 if many else 1.1 * order
            rows.append({"field": f"{name}, gradients", "order": order, "in gradients": ratio, "asked": limit})
    return rows


def automatic_differentiation(problem: mq.TorchProblem, rounds: int, device: str) -> dict[str, Any]:
    """Order 2 by automatic differentiation beside one gradient and one Hessian-vector product."""
    theta = problem.native(problem.start())
    vector = problem.field(theta)
    product = in_units(lambda: problem.derivative(theta, (vector,)), lambda: problem.field(theta), rounds, device)
    field = modified_field(mq.modified_equation(mq.GradientDescent(), 2), problem, STEP, "autodiff")

    def unit() -> None:
        problem.field(theta)
        problem.derivative(theta, (vector,))

    ratio = in_units(lambda: field(theta), unit, rounds, device)
    return {
        "field": "gradient descent, automatic differentiation",
        "order": 2,
        "in gradients": ratio * (1 + product),
        "asked": 1.1 * (1 + product),
    }


def memory(problem: mq.TorchProblem, order: int, device: str) -> dict[str, Any]:
    """The peak of a field evaluation above that of one gradient, in parameter vectors of the module's dtype."""
    theta = problem.native(problem.start())
    field = modified_field(mq.modified_equation(mq.HeavyBall(momentum=0.9), order), problem, STEP, "gradients")
    vector = problem.size * torch.finfo(torch.float32).bits // 8

    def peak(call: Callable[[], Any]) -> int:
        call()
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            call()
            return int(torch.cuda.max_memory_allocated())
        gc.collect()
        RESET.write_text("5")  # the largest memory from now on
        call()
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    if device == "cpu" and not RESET.exists():
        return {"order": order, "vectors": None, "asked": order + 4}
    first = peak(lambda: problem.field(theta))
    return {"order": order, "vectors": (peak(lambda: field(theta)) - first) / vector, "asked": order + 4}


def share_of_gradients(problem: mq.TorchProblem, steps: int) -> dict[str, Any]:
    """Which part of the time of a comparison at order 4 is spent in gradients of the network and their derivatives.

    The optimizer's own steps count as gradients, the losses that are recorded do not.
    """
    spent = 0.0

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            nonlocal spent
            start = time.perf_counter()
            try:
                return call(*arguments, **keywords)
            finally:
                spent += time.perf_counter() - start

        return wrapper

    def compared(count: int) -> tuple[float, str]:
        start = time.perf_counter()
        result = mq.compare(mq.GradientDescent(), problem, h=1e-3, steps=count, orders=(4,), forms=["field"])
        return time.perf_counter() - start, result.entries[0].status.name

    compared(1)  # what is imported once
    with mock.patch.object(TorchSteps, "step", timed(TorchSteps.step)):
        problem.field, problem.derivative = timed(problem.field), timed(problem.derivative)  # type: ignore[method-assign]
        total, status = compared(steps)
        del problem.field, problem.derivative
    return {"steps": steps, "seconds": total, "share": spent / total, "asked": 0.9, "status": status}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write fields.json if asked to."""
    parser = argparse.ArgumentParser(prog="python -m validation.benchmarks.fields", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of measurements for each figure")
    parser.add_argument("--vgg", action="store_true", help="also VGG-16 on the CPU; on a GPU it is always run")
    parser.add_argument("--quick", action="store_true", help="a dry run on small networks")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write fields.json there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rounds, device = 1 if options.quick else options.rounds, options.device
    problem = digits_problem(options.quick, device)
    results: dict[str, Any] = {"device": device, "parameters": problem.size}
    results["memory"] = memory(problem, 4, device)
    results["fields"] = [
        *gradient_counts(problem, rounds, device),
        automatic_differentiation(problem, rounds, device),
    ]
    results["comparison"] = share_of_gradients(problem, 3 if options.quick else 100)
    if device != "cpu" or options.vgg:
        large = vgg_problem(options.quick, device)
        results["VGG-16"] = {"parameters": large.size, "memory": memory(large, 4, device)}
        results["VGG-16"]["fields"] = gradient_counts(large, rounds, device)
    for row in [*results["fields"], *results.get("VGG-16", {}).get("fields", [])]:
        print(f"{row['field']}, order {row['order']}: {row['in gradients']:.2f} gradients, asked {row['asked']:.2f}")
    for part in (results, results.get("VGG-16", {})):
        if part.get("memory", {}).get("vectors") is not None:
            print(f"memory at order 4: {part['memory']['vectors']:.1f} parameter vectors over a gradient, asked 8")
    print(f"gradients in a comparison: {results['comparison']['share']:.0%} of its time, asked 90%")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "fields.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
