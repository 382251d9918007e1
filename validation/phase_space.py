"""How closely the forms in time derivatives, phase space and state space follow the heavy ball, up to large steps.

Run as ``python -m validation.phase_space [--quick] [--out DIR]``. The error is the largest difference in any parameter
at any of 50 steps. h·λ_max at the start goes up to a quarter of the stability limit 2(1 + β), far beyond the series
limit of the modified vector field. Buffers are zero, or warm: v₀ = ∇L(θ₀)/(1 − β), the leading term of the slow one.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp
from tqdm import tqdm

import modeq as mq
from modeq.numeric.curvature import largest_curvature

x, y = sp.symbols("x y")
STEPS = 50
PROBLEMS = {
    # Kunin et al. 2021 (arXiv 2012.04728), Figure 4.
    "quadratic": (
        mq.SymbolicProblem(sp.Rational(5, 4) * (x**2 + y**2) - sp.Rational(3, 2) * x * y, [x, y]),
        [1.0, 0.0],
    ),
    "waves": (
        mq.SymbolicProblem(sp.sin(x + y) / 2 + sp.cos(x - 2 * y) / 4 + x**2 / 2 + y**2, [x, y]),
        [0.8, -0.4],
    ),
    "logistic": (
        mq.SymbolicProblem(sum(sp.log(1 + sp.exp(-(a * x + b * y))) for a, b in ((1, 2), (-2, 1), (1, -1))), [x, y]),
        [0.6, -0.9],
    ),
}
MOMENTA = ("0.5", "0.9", "0.99")
FRACTIONS = (1 / 4, 1 / 16, 1 / 64)  # of the stability limit
Derive = Callable[[mq.GeneralLinearMethod], Any]
# B: time derivatives up to θ''; K: the highest D^k f of the phase-space form, J: its highest power of q.
LAWS: dict[str, Derive] = {
    "B": partial(mq.time_derivative_form, order=2),
    **{f"K = {k}": partial(mq.phase_space_form, order=k + 1) for k in range(5)},
    **{f"Hermite {k}": partial(mq.phase_space_form, order=k, expansion="hermite") for k in (2, 3, 4)},
    **{f"J = {j}": partial(mq.phase_space_form, order=j + 1, expansion="powers") for j in (1, 2, 3)},
    **{f"state {p}": partial(mq.state_space_form, order=p) for p in (2, 3, 4, 5)},
}
QUICK = ("B", "K = 0", "K = 2", "J = 1", "state 3")


@dataclass(frozen=True)
class Row:
    """The errors of every law in one setting; None where the flow, or the optimizer, could not be computed."""

    problem: str
    momentum: float
    h: float
    curvature_step: float
    buffers: str
    errors: dict[str, float | None]


def settings(quick: bool) -> Iterator[tuple[str, str, float, str]]:
    """Problem, momentum, learning rate and buffers of each row; the last two rows are those of Figure 4."""
    for name, (problem, start) in PROBLEMS.items():
        curvature = largest_curvature(problem, np.array(start))
        for momentum in MOMENTA:
            for fraction in FRACTIONS:
                for buffers in ("zero", "warm"):
                    if not quick or (fraction == FRACTIONS[1] and momentum == "0.9"):
                        yield name, momentum, fraction * 2 * (1 + float(momentum)) / curvature, buffers
    for h in (0.01, 0.1):
        yield "quadratic", "0.9", h, "zero"


def row(name: str, momentum: str, h: float, buffers: str, laws: Sequence[str]) -> Row:
    """Run the optimizer, and every law beside it."""
    problem, start = PROBLEMS[name]
    beta = sp.Rational(momentum)
    method = mq.HeavyBall(beta)
    if buffers == "warm":
        method = replace(method, start=[[0], [1 / (1 - beta)]], sgd=None, name=f"{method.name}, warm")
    theta = np.array(start)
    iterates = mq.iterate(method, problem, theta, h=h, steps=STEPS, check=False)
    errors: dict[str, float | None] = dict.fromkeys(laws)
    for law in laws if iterates.success else ():  # from warm buffers the optimizer itself may overflow
        try:
            flowed = mq.flow(LAWS[law](method), problem, theta, h=h, time=h * STEPS, max_evaluations=20_000)
            errors[law] = float(np.max(abs(flowed.y - iterates.y)))
        except mq.Diverged:
            continue
    return Row(name, float(momentum), h, h * largest_curvature(problem, theta), buffers, errors)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    laws = list(rows[0].errors)
    head = ["loss", "β", "h", "h·λ", "buffers", *laws]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for entry in rows:
        cells = [entry.problem, f"{entry.momentum:g}", f"{entry.h:.3g}", f"{entry.curvature_step:.2g}", entry.buffers]
        cells += ["—" if error is None else f"{error:.1e}" for error in entry.errors.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Compute the table, print it, and write phase_space.json and phase_space.md if asked to."""
    parser = argparse.ArgumentParser(prog="python -m validation.phase_space", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="momentum 0.9, one step size, few forms")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write phase_space.json and phase_space.md")
    options = parser.parse_args(arguments)
    laws = QUICK if options.quick else tuple(LAWS)
    rows = []
    for setting in tqdm(list(settings(options.quick)), disable=None):
        rows.append(row(*setting, laws))
        if options.out is not None:  # after every row, so that an interruption loses none
            write(rows, options.out)
    print(markdown(rows))
    return rows


def write(rows: Sequence[Row], folder: Path) -> None:
    """Write phase_space.json and phase_space.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "phase_space.json").write_text(json.dumps([asdict(entry) for entry in rows], indent=1), encoding="utf-8")
    (folder / "phase_space.md").write_text(markdown(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
