"""The modified losses of the literature are what optimizers follow: coefficients derived, and measured from runs alone.

Gradient descent, momentum, minibatches in random order, two players at once and in turn. A coefficient is measured from
how far the iterates have come from gradient flow, divided by h, as h → 0; the modified equation takes no part in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import sympy as sp
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

import modeq as mq
from modeq.numeric import problems
from modeq.numeric.curvature import largest_curvature
from validation.claims import Cell, Merit, Numbers, Setting

Vector = NDArray[np.float64]
beta = sp.Symbol("beta")
BETA = sp.Rational(1, 2)  # the momentum of the runs
LENGTH = 2.0  # the time, times the curvature at the start; of games, which have none, the time itself
POINTS = 10  # times, evenly spaced, of which the second half counts: momentum has settled by then
HALF, GAME = sp.Rational(1, 2), ("game",)
PLAYERS = ("∂₁F₁·F₁", "∂₂F₁·F₂", "∂₁F₂·F₁", "∂₂F₂·F₂")


@dataclass(frozen=True)
class Paper:
    """What was published of an optimizer: the coefficients of h in the modified loss, or of games in the field.

    `steps` is the number of steps, of epochs where there are batches, at the largest step size.
    """

    source: str
    coefficients: Mapping[str, sp.Expr]
    steps: int
    problems: tuple[str, ...] = ("plane", "digits")


QUARTER = sp.Rational(1, 4)
PAPERS = {
    "gradient descent": Paper("Barrett, Dherin 2021, arXiv 2009.11162", {"|∇L|²": QUARTER}, 40),
    "heavy ball": Paper("Ghosh et al. 2023, arXiv 2302.00849", {"|∇L|²": (1 + beta) / (4 * (1 - beta) ** 3)}, 120),
    # The mean of |∇L_i|² is |∇L|² + V with the variance V.
    "reshuffled": Paper("Smith et al. 2021, arXiv 2101.12176", {"|∇L|²": QUARTER, "V": QUARTER}, 20),
    "simultaneous": Paper(
        "Rosca et al. 2021, arXiv 2105.13922", dict(zip(PLAYERS, (-HALF, -HALF, -HALF, -HALF), strict=True)), 40, GAME
    ),
    "alternating": Paper(
        "Rosca et al. 2021, arXiv 2105.13922", dict(zip(PLAYERS, (-HALF, -HALF, HALF, -HALF), strict=True)), 40, GAME
    ),
}
# Where the flow of the heavy ball starts: θ₀ + h·START·∇L(θ₀).
START = beta / (1 - beta) ** 2
MERITS = {
    "derived": Merit("modeq derives the published modified loss, or field", "|difference|, exact", 0),
    "measured": Merit(
        "Runs of the optimizer alone have the published coefficient", "|extrapolated estimate / published − 1|", 0.01
    ),
    "start": Merit(
        "Momentum leaves from θ₀ + hβ/(1−β)²·∇L(θ₀), measured from the same runs", "|estimate / predicted − 1|", 0.01
    ),
    "gradient flow": Merit("Gradient flow is off by O(h)", "largest |slope − 1|, of two", 0.15),
    "modified flow": Merit(
        "The flow of the modified loss, or field, is off by O(h²)", "largest |slope − 2|, of two", 0.15
    ),
}


@dataclass(frozen=True)
class Case:
    """One optimizer on one problem."""

    optimizer: str
    problem: str


def cases(setting: Setting) -> dict[str, Case]:
    """Each optimizer on a loss in the plane and on a network, or on a game; one on the network in a quick run."""
    return {
        f"{optimizer}, {problem}": Case(optimizer, problem)
        for optimizer, paper in PAPERS.items()
        for problem in paper.problems
        if problem != "digits" or optimizer == "gradient descent" or not setting.quick
    }


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """Run the optimizer at several step sizes; estimate its coefficients, and compare it with two flows."""
    problem, paper = _problem(case, setting), PAPERS[case.optimizer]
    theta = problem.start()
    curvature = 1.0 if case.problem == "game" else float(largest_curvature(problem, theta))
    time = LENGTH / curvature
    batches = problem.parts if case.optimizer == "reshuffled" else 1
    counts = [paper.steps * 2**k for k in range(setting.choose(3, 4))]
    sizes = [time / (count * batches) for count in counts]
    runs = [_iterates(case.optimizer, problem, h, count) for h, count in zip(sizes, counts, strict=True)]
    runs = [run[:: len(run) // POINTS][POINTS // 2 :] for run in runs]
    estimates = _estimates(case.optimizer, problem, time, sizes, runs)
    errors = {}
    for law, order in (("gradient flow", 1), ("modified flow", 2)):
        equation = mq.modified_equation(_method(case.optimizer, problem.parts), order)
        errors[law] = [_error(equation, problem, h, time, run) for h, run in zip(sizes, runs, strict=True)]
    return {
        **asdict(case),
        "data": _words(case, problem),
        "batches": batches,
        "curvature": curvature,
        "sizes": sizes,
        "estimates": estimates.tolist(),
        "extrapolated": [_extrapolated(sizes, values) for values in estimates.T],
        "errors": errors,
        "difference": None if case.problem == "digits" else _difference(case.optimizer, problem),
    }


def _problem(case: Case, setting: Setting) -> Any:
    x, y = sp.symbols("x y")
    if case.problem == "game":
        losses = [x * y + x**4 / 4 + x**2 * y / 2, y**2 / 2 - x * y + x * y**2 / 4]
        return mq.VectorField.of_losses(losses, players=[[x], [y]], default_start=[1.0, 0.5])
    shuffled = case.optimizer == "reshuffled"
    if case.problem == "digits":
        size = 16 if shuffled else None
        return problems.digits_tanh(widths=(8, 8), samples=32, batch_size=size, seed=setting.seed)
    losses = [sp.cos(x) + x**2 + y**2 / 2, sp.sin(x * y) / 2 + x**2 + y**2, (x - y) ** 2 / 2 + y**4 / 4]
    return mq.SymbolicProblem(losses if shuffled else sum(losses) / 3, [x, y], default_start=[0.8, -0.4])


def _words(case: Case, problem: Any) -> str:
    if case.problem == "digits":
        return f"a tanh network of {problem.size} parameters on 32 handwritten digits of scikit-learn"
    return "a game in two variables" if case.problem == "game" else "a loss in two variables"


def _iterates(optimizer: str, problem: Any, h: float, count: int) -> Vector:
    """The parameters after each of so many steps, rounds, or epochs."""
    if optimizer == "gradient descent":
        return mq.iterate(mq.GradientDescent(), problem, h=h, steps=count).y
    if optimizer == "heavy ball":
        return mq.iterate(mq.HeavyBall(BETA), problem, h=h, steps=count).y
    step = {"reshuffled": _mean_epoch, "simultaneous": _at_once, "alternating": _in_turn}[optimizer]
    points = [problem.start()]
    for _ in range(count):
        points.append(step(problem, points[-1], h))
    return np.array(points)


def _mean_epoch(problem: Any, theta: Vector, h: float, left: tuple[int, ...] | None = None) -> Vector:
    """The mean, over all orders of the batches that are left, of where gradient descent ends."""
    left = tuple(range(problem.parts)) if left is None else left
    if not left:
        return theta
    ends = [
        _mean_epoch(problem, theta + h * problem.field(theta, batch), h, tuple(b for b in left if b != batch))
        for batch in left
    ]
    return np.mean(ends, axis=0)


def _at_once(problem: Any, theta: Vector, h: float) -> Vector:
    return theta + h * (problem.field(theta, 0) + problem.field(theta, 1))


def _in_turn(problem: Any, theta: Vector, h: float) -> Vector:
    theta = theta + h * problem.field(theta, 0)
    return theta + h * problem.field(theta, 1)


def _directions(optimizer: str, problem: Any) -> list[Callable[[Vector], Vector]]:
    """What h times a coefficient of one adds to the field; a loss c·h·|∇L|² adds −2ch·Hg = −2ch·f'f."""

    def f_prime_f(theta: Vector, part: int | None = None, along: int | None = None) -> Vector:
        return problem.derivative(theta, [problem.field(theta, along)], part)

    def variance(theta: Vector) -> Vector:
        mean = np.mean([f_prime_f(theta, batch, batch) for batch in range(problem.parts)], axis=0)
        return -2 * (mean - f_prime_f(theta))

    if optimizer in ("simultaneous", "alternating"):
        return [lambda theta, c=c, d=d: f_prime_f(theta, c, d) for c, d in product((0, 1), (0, 1))]
    squares = [lambda theta: -2 * f_prime_f(theta)]
    return [*squares, variance] if optimizer == "reshuffled" else squares


def _estimates(optimizer: str, problem: Any, time: float, sizes: Sequence[float], runs: Sequence[Vector]) -> Vector:
    """The coefficients, and with momentum that of the start, of each run, by least squares.

    (θ_h − θ)/h → E on the gradient flow θ' = b f(θ), where E' = b f'(θ)E + Σ c_k d_k(θ) and, with momentum, E(0) is a
    multiple of f(θ₀), which the linear flow carries along to the same multiple of f(θ).
    """
    momentum = optimizer == "heavy ball"
    rate = 1 / (1 - float(BETA)) if momentum else 1.0
    directions, size = _directions(optimizer, problem), problem.size

    def right_hand_side(_: float, state: Vector) -> Vector:
        theta, *columns = state.reshape(-1, size)
        slopes = [rate * problem.field(theta)]
        for column, direction in zip(columns, directions, strict=True):
            slopes.append(rate * problem.derivative(theta, [column]) + direction(theta))
        return np.concatenate(slopes)

    start = np.concatenate([problem.start(), np.zeros(size * len(directions))])
    at = np.linspace(0, time, POINTS + 1)[POINTS // 2 :]
    solved = solve_ivp(right_hand_side, (0, time), start, "DOP853", at, rtol=1e-10, atol=1e-12)
    paths = solved.y.T.reshape(len(at), -1, size)
    basis = [paths[:, k + 1] for k in range(len(directions))]
    if momentum:
        basis.append(np.array([problem.field(theta) for theta in paths[:, 0]]))
    matrix = np.stack([path.ravel() for path in basis], axis=1)
    defects = [((run - paths[:, 0]) / h).ravel() for run, h in zip(runs, sizes, strict=True)]
    return np.array([np.linalg.lstsq(matrix, defect, rcond=None)[0] for defect in defects])


def _extrapolated(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The polynomial in h through the values, at h = 0."""
    return float(np.polynomial.Polynomial.fit(sizes, values, len(sizes) - 1)(0.0))


def _method(optimizer: str, batches: int) -> Any:
    players = [mq.GradientDescent(), mq.GradientDescent()]
    return {
        "gradient descent": mq.GradientDescent,
        "heavy ball": lambda: mq.HeavyBall(BETA),
        "reshuffled": lambda: mq.Epoch(mq.GradientDescent(), batches=batches).expected("reshuffling"),
        "simultaneous": lambda: mq.Simultaneous(players),
        "alternating": lambda: mq.Alternating(players),
    }[optimizer]()


def _error(equation: Any, problem: Any, h: float, time: float, run: Vector) -> float:
    """The largest difference of any parameter at the times that count."""
    flowed = mq.flow(equation, problem, h=h, time=time).y
    return float(np.max(np.abs(flowed[:: len(flowed) // POINTS][POINTS // 2 :] - run)))


def _difference(optimizer: str, problem: Any) -> float:
    """What modeq derives less what is published, both written out on the problem, with a symbol for the momentum."""
    h, variables, paper = sp.Symbol("h"), sp.Matrix(problem.variables), PAPERS[optimizer]
    if paper.problems == GAME:
        fields = [sp.Matrix(part) for part in problem.part_expressions]
        terms = [c.jacobian(variables) * d for c, d in product(fields, fields)]
        published = sum(fields, sp.zeros(*variables.shape))
        published += h * sum((c * d for c, d in zip(paper.coefficients.values(), terms, strict=True)), 0 * published)
        equation = mq.modified_equation(_method(optimizer, 2), 2)
        derived = sp.Matrix(equation.on([list(field) for field in fields], list(variables), h=h).components)
        return _largest(derived - published)
    losses = list(problem.losses)
    loss = sum(losses) / len(losses)
    squares = [sum(sp.diff(L, v) ** 2 for v in variables) for L in (loss, *losses)]
    terms = [squares[0], sum(squares[1:]) / len(losses) - squares[0]]  # |∇L|², V
    momentum = beta if optimizer == "heavy ball" else 0
    published = loss / (1 - momentum) + h * sum(c * d for c, d in zip(paper.coefficients.values(), terms, strict=False))
    method = mq.HeavyBall(beta) if momentum else _method(optimizer, len(losses))
    modified = mq.modified_equation(method, 2).modified_loss()
    derived = modified.on(losses if len(losses) > 1 else loss, list(variables), h)
    return _largest(sp.Matrix([derived - published]))


def _largest(difference: sp.Matrix) -> float:
    """0 if all entries are 0 identically, else the largest at one point."""
    exact = difference.applyfunc(lambda entry: sp.simplify(sp.expand(entry)))
    point = {symbol: sp.Rational(1, n + 2) for n, symbol in enumerate(sorted(exact.free_symbols, key=str))}
    return max(abs(float(entry.subs(point))) for entry in exact)


def _published(optimizer: str) -> list[float]:
    return [float(c.subs(beta, BETA)) for c in PAPERS[optimizer].coefficients.values()]


def cells(numbers: Numbers) -> list[Cell]:
    """Coefficients derived and measured, and how the errors of two flows fall."""
    found = []
    for name, case in numbers.items():
        paper, values = PAPERS[case["optimizer"]], case["extrapolated"]
        if case["difference"] is not None:
            found.append(Cell("derived", f"{case['optimizer']}: {paper.source}", case["difference"]))
        for term, published, value in zip(paper.coefficients, _published(case["optimizer"]), values, strict=False):
            found.append(
                Cell("measured", f"{name}, {term}: {value:.5g}, published {published:g}", abs(value / published - 1))
            )
        if case["optimizer"] == "heavy ball":
            # The last estimate is that of the multiple of f = −∇L.
            start = float(START.subs(beta, BETA))
            found.append(Cell("start", f"{name}: {-values[-1]:.5g}, predicted {start:g}", abs(-values[-1] / start - 1)))
        for law, expected in (("gradient flow", 1), ("modified flow", 2)):
            slopes = _slopes(case, law)
            shown = ", ".join(f"{slope:.2f}" for slope in slopes)
            found.append(Cell(law, f"{name}: {shown}", max(abs(slope - expected) for slope in slopes)))
    return found


def _slopes(case: Mapping[str, Any], law: str) -> list[float]:
    """The last two."""
    pairs = pairwise(zip(case["sizes"], case["errors"][law], strict=True))
    return [float(np.log(a / b) / np.log(g / h)) for (g, a), (h, b) in pairs][-2:]


def draw(numbers: Numbers, setting: Setting) -> Mapping[str, tuple[Figure, str]]:
    """Estimates against the step size, with the published coefficients dashed; errors of the flows below."""
    figure, axes = plt.subplots(2, len(PAPERS), figsize=(17, 7.5), layout="constrained")
    for (optimizer, paper), (above, below) in zip(PAPERS.items(), axes.T, strict=True):
        for marker, problem in zip("os", paper.problems, strict=False):
            if (name := f"{optimizer}, {problem}") in numbers:
                _draw_estimates(above, numbers[name], marker)
                _draw_errors(below, numbers[name], marker)
        above.set_title(f"{optimizer}\n{paper.source}", fontsize=9)
        above.legend(fontsize=7)
        below.legend(fontsize=7, loc="lower right")
        below.set_ylim(bottom=below.get_ylim()[0] / 12)
        for axis in (above, below):
            axis.set_xlabel("h·λ" if paper.problems != GAME else "h")
    axes[0, 0].set_ylabel("coefficient of h")
    axes[1, 0].set_ylabel("largest difference from the iterates")
    words = "; ".join(dict.fromkeys(f"{case['problem']}: {case['data']}" for case in numbers.values()))
    batches = " and ".join(str(case["batches"]) for case in numbers.values() if case["optimizer"] == "reshuffled")
    caption = (
        "Above: coefficients estimated from (θ_h − θ)/h, θ on gradient flow, at each step size and extrapolated to "
        "h = 0 (stars); published values dashed. Below: the largest difference of any parameter from the iterates, "
        f"with lines of slopes 1 and 2 through the smallest step. {words}. Momentum {float(BETA):g}; reshuffled: "
        f"gradient descent on {batches} batches, the mean over all orders in each epoch. λ: the curvature at the "
        "start. The time is 2/λ, in games 2, and its second half counts. Float64, seed "
        f"{setting.seed}."
    )
    return {"implicit_regularization": (figure, caption)}


def _draw_estimates(axis: Any, case: Mapping[str, Any], marker: str) -> None:
    h = np.array(case["sizes"]) * case["curvature"]
    estimates = np.array(case["estimates"])
    labels = PAPERS[case["optimizer"]].coefficients
    for k, (label, published) in enumerate(zip(labels, _published(case["optimizer"]), strict=True)):
        axis.axhline(published, color="0.5", linestyle="--", linewidth=0.8)
        axis.plot(h, estimates[:, k], marker, color=f"C{k}", markersize=5, label=f"{label}, {case['problem']}")
        axis.plot(0, case["extrapolated"][k], "*", color=f"C{k}", markersize=10)


def _draw_errors(axis: Any, case: Mapping[str, Any], marker: str) -> None:
    h = np.array(case["sizes"]) * case["curvature"]
    for k, (law, slope) in enumerate((("gradient flow", 1), ("modified flow", 2))):
        errors = np.array(case["errors"][law])
        axis.loglog(h, errors, marker, color=f"C{k}", markersize=5, label=f"{law}, {case['problem']}")
        axis.loglog(h, errors[-1] * (h / h[-1]) ** slope, color=f"C{k}", linewidth=0.8)
    axis.set_xticks(h, [f"{step:.2g}" for step in h])
    axis.xaxis.set_minor_locator(NullLocator())
