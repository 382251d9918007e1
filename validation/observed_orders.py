"""How the error of the modified equations falls with the step size, on networks and on the zoo, beside what it should.

Run as ``python -m validation.observed_orders [--only NAME] [--quick] [--out DIR] [--jobs 2]``. Every method runs
without weight decay, with coupled and with decoupled decay, and is followed by the fields of truncation orders 1 to 4
from their initial layers. A slope is right if it is within 0.15 of the one that the exact coefficients predict, from
both sides. With ``--out`` each result is kept in observed_orders.json as it comes, and what is there already is not
computed again; the tables are in observed_orders.md beside it. In full it takes about an hour on one core.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import sympy as sp
import torch
from tqdm import tqdm

import modeq as mq
from modeq.numeric import problems
from modeq.numeric.comparison import step_errors
from modeq.numeric.curvature import largest_curvature

HALF = sp.Rational(1, 2)
TOLERANCE = 0.15
ORDERS = (1, 2, 3, 4)
# As long as 2/λ_max at the start: long enough to see the curvature, short enough for every step size.
LENGTH = 2.0
# h·λ_max at the largest step as a fraction of the series limit, and how often it is halved.
LARGEST, HALVINGS = 0.05, 3
# On the network with kinks: several initialisations, and steps of RK4 in each step of the optimizer.
SEEDS, SUBSTEPS, FRACTIONS = 6, 10, (0.4, 0.2, 0.1)

ZOO: dict[str, Callable[[], Any]] = {
    "rosenbrock, b = 10": partial(problems.rosenbrock, b=10),
    "himmelblau": problems.himmelblau,
    "beale": problems.beale,
    "styblinski-tang": problems.styblinski_tang,
    "matrix factorisation": problems.matrix_factorisation,
}
NETWORKS: dict[str, Callable[[], Any]] = {
    "dense, tanh": partial(problems.digits_tanh, widths=(8, 8), samples=32),
    "convolutional, tanh": partial(
        problems.digits_cnn, channels=(4, 8), batch_norm=False, activation="tanh", samples=32
    ),
    "transformer, gelu": partial(problems.digits_vit, dim=8, samples=16),
}
PROBLEMS = ZOO | NETWORKS
KINKED = "dense, relu"
METHODS: dict[str, Callable[[], mq.GeneralLinearMethod]] = {
    "gradient descent": mq.GradientDescent,
    "heavy ball 1/2": partial(mq.HeavyBall, HALF),
    "Nesterov 1/2": partial(mq.Nesterov, HALF),
    "quasi-hyperbolic 1/2, 1/2": partial(mq.QuasiHyperbolic, HALF, HALF),
    "extragradient": mq.Extragradient,
}
DECAYS = ("none", "coupled", "decoupled")
# Form, truncation order: what follows the network with kinks.
KINKED_FORMS = (("field", 1), ("field", 2), ("field", 3), ("time", 2), ("phase", 1), ("phase", 2))

_METHOD = f"""By `python -m validation.observed_orders --out DIR`. The error of a modified field is the largest
difference from the optimizer's own iterates in any parameter, after the initial layer has died out, over the time
2/λ_max. Here λ_max is the curvature at the start, and weight decay is a tenth of it. The largest step is {LARGEST}
times the series limit, rounded so that the time is a whole number of steps, and is halved {HALVINGS} times. The
networks see handwritten digits. Shown are the last two logarithmic slopes between successive errors that are above
rounding. Right are those within {TOLERANCE} of the order that the exact coefficients predict, which is the truncation
order unless stated; others are bold."""
_KINKS = f"""A network with kinks has no order. These are errors of several forms beside the heavy ball 1/2 on {SEEDS}
initialisations, over the second half of the time; the flows make {SUBSTEPS} fixed steps of RK4 in each step of the
optimizer. The column of gradient flow, “field 1”, is its median error, the others are by which factor theirs is
smaller: the median, and the smallest and largest. Behind each kink that is crossed the parameters of the optimizer
turn into their new direction over some 1/(1 − β) steps. Forms in time derivatives and in phase space carry the
velocity through it and turn alike. A field on the parameters alone turns at once, which shifts it by O(h) at each kink,
whatever its order; and its start, displaced by the initial layer, may lie on the other side of one."""


class Case(NamedTuple):
    """One measurement."""

    problem: str
    method: str
    decay: str
    order: int


def cases(only: str | None, quick: bool) -> list[Case]:
    """All measurements, those on networks last, and with weight decay after those without."""
    return sorted(_cases(only, quick), key=lambda case: (case.problem in NETWORKS, DECAYS.index(case.decay)))


def _cases(only: str | None, quick: bool) -> Iterator[Case]:
    for problem in PROBLEMS:
        if only is not None and only not in problem:
            continue
        if quick and only is None and problem not in ("himmelblau", "styblinski-tang"):
            continue
        for method in ("gradient descent", "heavy ball 1/2") if quick else METHODS:
            for decay in DECAYS[::2] if quick else DECAYS:
                for order in ORDERS[:2] if quick else ORDERS:
                    yield Case(problem, method, decay, order)


@cache
def _problem(name: str) -> tuple[Any, float]:
    problem = PROBLEMS[name]()
    return problem, largest_curvature(problem, problem.start())


def measured(case: Case) -> dict[str, Any]:
    """Return one measurement as numbers for a json file; a refusal of modeq's is noted, with its message."""
    problem, curvature = _problem(case.problem)
    method = METHODS[case.method]()
    # One figure of a tenth of the curvature, so that the decay counts on every loss alike.
    rate = sp.Rational(f"{curvature / 10:.0e}")
    if case.decay != "none":
        method = method.with_weight_decay(rate, decoupled=case.decay == "decoupled")
    began = perf_counter()
    result: dict[str, Any] = {**case._asdict(), "weight_decay": 0.0 if case.decay == "none" else float(rate)}
    time = LENGTH / curvature
    steps = int(np.ceil(LENGTH / (LARGEST * float(method.series_limit()))))
    sizes = [time / (steps * 2**k) for k in range(HALVINGS + 1)]
    # Several query points: nested derivatives of torch's own cost far more than those over subtrees.
    field: Any = "autodiff" if case.method == "extragradient" else "auto"
    try:
        found = mq.observed_order(method, problem, time=time, order=case.order, step_sizes=sizes, field=field)
    except mq.ModeqError as error:
        return {**result, "error": f"{type(error).__name__}: {error}", "within": False}
    return {
        **result,
        "expected": found.expected,
        "slopes": [slope if np.isfinite(slope) else None for slope in found.slopes],
        "within": bool(np.isfinite(found.slopes).sum() >= 2 and found.within(TOLERANCE)),
        "step_sizes": found.step_sizes,
        "errors": found.errors,
        "window": found.window,
        "noise_floor": found.noise_floor,
        "seconds": round(perf_counter() - began, 2),
    }


def kinked(fraction: float, seed: int) -> dict[str, Any]:
    """Return the errors of several forms on a network with kinks, at h·λ_max = fraction · series limit."""
    problem = problems.digits_mlp(widths=(8, 8), activation="relu", samples=16, seed=seed)
    method = mq.HeavyBall(HALF)
    curvature = largest_curvature(problem, problem.start())
    h = fraction * float(method.series_limit()) / curvature
    steps = round(LENGTH / curvature / h)
    iterates = mq.iterate(method, problem, h=h, steps=steps)
    derive = {"field": mq.modified_equation, "time": mq.time_derivative_form, "phase": mq.phase_space_form}
    errors = {}
    for form, order in KINKED_FORMS:
        law = derive[form](method, order)
        flowed = mq.flow(law, problem, h=h, time=float(iterates.t[-1]), substeps=SUBSTEPS)
        errors[f"{form} {order}"] = float(np.max(step_errors(flowed, iterates)[steps // 2 :]))
    return {"problem": KINKED, "fraction": fraction, "seed": seed, "h": h, "steps": steps, "errors": errors}


def table(results: Sequence[dict[str, Any]], problem: str) -> list[str]:
    """The last two slopes of every method on one problem, wrong ones in bold."""
    lines = ["| method | weight decay | " + " | ".join(f"order {order}" for order in ORDERS) + " |", "|---" * 6 + "|"]
    found = {Case(r["problem"], r["method"], r["decay"], r["order"]): r for r in results if "order" in r}
    for method in METHODS:
        for decay in DECAYS:
            row = [found.get(Case(problem, method, decay, order)) for order in ORDERS]
            if any(row):
                cells = [method, decay, *(_cell(r, order) for r, order in zip(row, ORDERS, strict=True))]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(result: dict[str, Any] | None, order: int) -> str:
    if result is None:
        return ""
    if "error" in result:
        return f"**{result['error'].split(':')[0]}**"
    slopes = [f"{slope:.2f}" for slope in result["slopes"] if slope is not None][-2:] or ["noise"]
    shown = ", ".join(slopes) if result["within"] else f"**{', '.join(slopes)}**"
    return shown + ("" if result["expected"] == order else f" (expected {result['expected']})")


def kinked_table(results: Sequence[dict[str, Any]]) -> list[str]:
    """On the network with kinks: the error of gradient flow, and how many times smaller those of other forms are."""
    first, *others = (f"{form} {order}" for form, order in KINKED_FORMS)
    lines = [f"| h·λ_max / series limit | {first} | {' | '.join(others)} |", "|---" * (2 + len(others)) + "|"]
    for fraction in sorted({r["fraction"] for r in results}, reverse=True):
        errors = [r["errors"] for r in results if r["fraction"] == fraction]
        cells = [f"{np.median([found[first] for found in errors]):.1e}"]
        for form in others:
            ratios = [found[first] / found[form] for found in errors]
            cells.append(f"{np.median(ratios):.2g} ({min(ratios):.2g}–{max(ratios):.2g})")
        lines.append(f"| {fraction:g} | {' | '.join(cells)} |")
    return lines


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """All results as a page."""
    slopes = [r for r in results if "order" in r]
    kinks = [r for r in results if r["problem"] == KINKED]
    right = sum(r["within"] for r in slopes)
    lines = ["# Observed orders", "", _METHOD, ""]
    if slopes:
        lines += [f"**{right} of {len(slopes)} measurements have the expected slopes.**", ""]
    for problem in PROBLEMS:
        if any(r["problem"] == problem for r in slopes):
            lines += [f"## {problem}", "", *table(slopes, problem), ""]
    if failed := [r for r in slopes if "error" in r]:
        lines += ["## Refused", "", *(f"- {r['problem']}, {r['method']}: {r['error']}" for r in failed), ""]
    if kinks:
        lines += [f"## {KINKED}", "", _KINKS, "", *kinked_table(kinks), ""]
    return "\n".join(lines)


def write(results: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write observed_orders.json, through a second file so that an interruption spoils none, and observed_orders.md."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "observed_orders.json.part"
    fresh.write_text(json.dumps(results, indent=1), encoding="utf-8")
    fresh.replace(folder / "observed_orders.json")
    (folder / "observed_orders.md").write_text(markdown(results), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure what is missing, print the tables, and write them if asked to."""
    parser = argparse.ArgumentParser(prog="python -m validation.observed_orders", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="the problems with this in their names")
    parser.add_argument("--quick", action="store_true", help="two losses, two methods, two orders")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for observed_orders.json and observed_orders.md")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many processes, 2 by default")
    options = parser.parse_args(arguments)
    stored = options.out / "observed_orders.json" if options.out else None
    results = json.loads(stored.read_text(encoding="utf-8")) if stored and stored.exists() else []
    done = {Case(r["problem"], r["method"], r["decay"], r["order"]) for r in results if "order" in r}
    known = {(r["fraction"], r["seed"]) for r in results if "fraction" in r}
    kinks = () if options.quick or (options.only and options.only not in KINKED) else FRACTIONS
    runs = [run for run in product(kinks, range(SEEDS)) if run not in known]
    # One thread for each process; a fork of a process in which torch has threads can hang.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        waiting = [pool.submit(measured, case) for case in cases(options.only, options.quick) if case not in done]
        waiting += [pool.submit(kinked, fraction, seed) for fraction, seed in runs]
        for future in tqdm(as_completed(waiting), total=len(waiting), disable=None):
            results.append(future.result())
            if options.out:
                write(results, options.out)
    print(markdown(results))
    return results


if __name__ == "__main__":
    main()
