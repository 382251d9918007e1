"""The main job: one optimizer derived, integrated, compared and projected, on a real training.

A study writes ``report.md``, ``trajectories.png``, ``charges.png``, ``charges.npz`` and ``study.json`` into a folder.
Each stage is saved as soon as it is done, so that a failure or an interruption keeps what there is.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp
import torch
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from modeq import plots, report
from modeq.displays import preformatted
from modeq.errors import Diverged, InvalidSetting, ModeqError, choice
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.descent import GradientDescent
from modeq.methods.momentum import HeavyBall, Nesterov
from modeq.numeric.comparison import Comparison, FormName, compare
from modeq.numeric.curvature import largest_curvature
from modeq.numeric.data import digits, minibatches
from modeq.numeric.networks.small import digits_cnn, digits_mlp, tanh_network
from modeq.numeric.networks.vision import digits_vit
from modeq.numeric.protocol import Problem
from modeq.numeric.symbolic_problems import SymbolicProblem
from modeq.numeric.torch_problem import TorchProblem
from modeq.symbolic.equation import modified_equation
from modeq.symbolic.phase_space import phase_space_form
from modeq.symbolic.temporal import time_derivative_form
from modeq.symmetry.finding import find_charges
from modeq.symmetry.projection import project
from modeq.symmetry.tracking import Tracker, track

NETWORKS: dict[str, Callable[..., torch.nn.Module]] = {"cnn": digits_cnn, "mlp": digits_mlp, "vit": digits_vit}
LAWS = ("discrete", "corrected", "article")
LARGEST_GROWTH = 1e6  # of the loss, beyond which a training has diverged
IMAGES = 256  # of the full-batch comparison on the smooth network
ORDERS = {"field": (1, 2, 3), "time": (2,), "rest": (2,), "phase": (1, 3, 5)}
NAMES = {"quadratic": "quadratic", "network": "tanh network, full batch"}


@dataclass(frozen=True)
class Settings:
    """What a study trains, checked at construction; the arguments are those of :func:`study`."""

    network: str = "cnn"
    lr: float = 0.05
    momentum: float = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 5e-4
    batch_size: int = 64
    steps: int = 300
    seed: int = 0
    out: str = "modeq-study"

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise InvalidSetting(f"network is {choice(self.network, NETWORKS)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InvalidSetting(f"lr is {self.lr!r}: give a positive learning rate, 0.05 for instance")
        if self.nesterov and (self.dampening != 0 or self.momentum == 0):
            raise InvalidSetting(
                f"nesterov with momentum {self.momentum!r} and dampening {self.dampening!r}: Nesterov momentum needs a "
                "positive momentum and dampening 0"
            )
        if not str(self.out).strip():
            raise InvalidSetting("out is empty: give a folder, modeq-study for instance")
        for name, least in (("batch_size", 2), ("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidSetting(f"{name} is {value!r}: give an integer from {least}")
        method_of(self)

    def folder(self) -> Path:
        """Return the output folder, made if need be, after a check that it can be written."""
        path = Path(self.out)
        if path.exists() and not path.is_dir():
            raise InvalidSetting(f"out is {self.out!r}, which is a file: give a folder of your own")
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InvalidSetting(
                f"out is {self.out!r}, which cannot be written ({error.strerror}): give a folder of your own"
            ) from error
        return path


def method_of(settings: Settings) -> GeneralLinearMethod:
    """Return the method that the settings describe."""
    if settings.nesterov:
        method = Nesterov(momentum=settings.momentum)
    else:
        method = HeavyBall(momentum=settings.momentum, dampening=settings.dampening)
        if settings.momentum == 0:
            method = GradientDescent()
    return method.with_weight_decay(settings.weight_decay)


@dataclass(repr=False)
class Study:
    """What a study found; see :func:`study`.

    Attributes
    ----------
    settings : the settings
    folder : where the files are
    results : everything measured, as in ``study.json``: limits, comparisons, charges, and the failure, if any
    comparisons : the trajectories behind the tables, by "quadratic" and "network"
    tracker : the charges along the training

    Examples
    --------
    >>> from modeq.studies import Settings
    >>> print(Study(Settings(), Path("nowhere"), {"failure": "training: interrupted"}).table())
    <BLANKLINE>
    not finished: training: interrupted
    """

    settings: Settings
    folder: Path
    results: dict[str, Any] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    tracker: Tracker | None = None

    def table(self) -> str:
        """Return the summary that the command line prints."""
        return report.summary(self.results)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"Study({self.settings.network!r}, {len(self.results)} sections, in {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        return preformatted(self.table())

    def save(self) -> None:
        """Write ``study.json``, ``report.md`` and the figures from what there is so far."""
        text = json.dumps(self.results, indent=2, allow_nan=False)
        (self.folder / "study.json").write_text(text + "\n", encoding="utf-8")
        (self.folder / "report.md").write_text(report.markdown(self.results), encoding="utf-8")
        if self.comparisons:
            _draw_trajectories(self.comparisons).savefig(self.folder / "trajectories.png", dpi=150)
        if self.tracker is not None:
            _draw_charges(self.tracker).savefig(self.folder / "charges.png", dpi=150)
            self.tracker.record.save(self.folder / "charges.npz")


def study(
    network: str = "cnn",
    *,
    lr: float = 0.05,
    momentum: float = 0.9,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 5e-4,
    batch_size: int = 64,
    steps: int = 300,
    seed: int = 0,
    out: str = "modeq-study",
) -> Study:
    """Study one optimizer on a real training: derive its equations, integrate them, and test its laws.

    The optimizer is torch.optim.SGD with these hyper-parameters. Its equation is derived in all forms;
    gradient flow and each meaningful form are compared with it on the quadratic of Kunin et al. 2021
    (Figure 4, h = 0.01) and, full batch, on a smooth network; and a network is trained on handwritten
    digits while its charges are measured against the exact discrete and the continuous laws.

    Parameters
    ----------
    network : "cnn" (convolutions, ReLU, batch norm), "mlp" (ReLU) or "vit" (attention, layer norm)
        The network whose charges are followed, in float64.
    lr : positive number
        The learning rate.
    momentum, dampening, nesterov, weight_decay : as torch.optim.SGD has them
    batch_size : int from 2
        Samples in each minibatch of the training.
    steps : positive int
        Of the training; time is lr·steps.
    seed : int from 0
        Of the network and of the order of the samples.
    out : folder for the results, made if need be

    Returns
    -------
    Study
        What the files in the folder `out` say, as values.

    Raises
    ------
    InvalidSetting, InvalidMethod
        For settings that cannot be used.
    MissingDependency
        Without scikit-learn, whose digits are the data.
    Diverged
        If the training diverges; what was found until then is on disk.

    References
    ----------
    Kunin et al. 2021 (arXiv 2012.04728) for the quadratic, the network's charges, and their continuous laws.

    Examples
    --------
    >>> import modeq as mq
    >>> mq.study(momentum=1.5)
    Traceback (most recent call last):
    modeq.errors.InvalidMethod: momentum is 1.5: give a number in [0, 1), 0.9 for instance
    """
    settings = Settings(network, lr, momentum, dampening, nesterov, weight_decay, batch_size, steps, seed, str(out))
    images = len(digits("train")[0])
    if settings.batch_size > images:
        raise InvalidSetting(f"batch_size is {settings.batch_size}: there are {images} training images")
    result = Study(settings, settings.folder())
    result.results["settings"] = asdict(settings)
    stages: list[tuple[str, Callable[[Study], None]]] = [
        ("deriving", _derive),
        ("article's quadratic", _compare_quadratic),
        ("smooth network", _compare_network),
        ("training", _train),
    ]
    bar = tqdm(stages, disable=None)
    for name, stage in bar:
        bar.set_description(name)
        try:
            stage(result)
        except (ModeqError, KeyboardInterrupt) as error:
            result.results["failure"] = f"{name}: {error or 'interrupted'}"
            raise
        finally:
            result.save()
    return result


def _derive(result: Study) -> None:
    """The equation in all forms, and the limits in h·λ."""
    method = method_of(result.settings)
    equation = modified_equation(method, 3)
    test = equation.gradient_test()
    result.results["derivation"] = {
        "method": repr(method),
        "field": equation.latex(),
        "gradient_order": test.order,
        "modified_loss": equation.modified_loss().latex(),
        "initial_layer": equation.initial_layer(2).latex(),
        "time": time_derivative_form(method, 2).latex(),
        "phase": _rounded_latex(method),
        "series_limit": float(method.series_limit()),
        "stability_limit": float(method.stability_limit()),
    }


def _rounded_latex(method: GeneralLinearMethod) -> str:
    """The phase-space form of order 3 with its logarithms evaluated."""

    def rounded(row: tuple[sp.Expr, ...]) -> tuple[sp.Expr, ...]:
        return tuple(c if c.is_Rational else sp.Float(sp.re(sp.N(c, 40)), 6) for c in row)

    form = phase_space_form(method, 3)
    return replace(form, q=rounded(form.q), r={colour: rounded(row) for colour, row in form.r.items()}).latex()


def _compare_quadratic(result: Study) -> None:
    """The quadratic of the article's Figure 4: A = [[2.5, −1.5], [−1.5, 2.5]], h = 0.01, 50 steps from (1, 0)."""
    x, y = sp.symbols("theta_1 theta_2")
    problem = SymbolicProblem(sp.Rational(5, 4) * (x**2 + y**2) - sp.Rational(3, 2) * x * y, (x, y))
    _compare(result, "quadratic", problem, [1.0, 0.0], h=0.01, steps=50, rtol=1e-11)


def _compare_network(result: Study) -> None:
    """A tanh network, full batch, with the study's own learning rate."""
    images, labels = digits(dtype=torch.float64)
    problem = TorchProblem(tanh_network(result.settings.seed), cross_entropy, images[:IMAGES], labels[:IMAGES])
    steps = min(100, result.settings.steps)
    described = {"parameters": problem.size, "images": IMAGES}
    _compare(result, "network", problem, None, h=result.settings.lr, steps=steps, rtol=1e-8, described=described)


def _compare(
    result: Study,
    name: str,
    problem: Problem,
    start: Any,
    *,
    h: float,
    steps: int,
    rtol: float,
    described: dict[str, int] | None = None,
) -> None:
    """Every form beside the optimizer, and the time-derivative form from rest, as the article starts it."""
    method = method_of(result.settings)
    h_curvature = h * (largest_curvature(problem, problem.start(start)) + result.settings.weight_decay)
    limit = result.results["derivation"]["stability_limit"]
    result.results[name] = {"h": h, "steps": steps, "h_curvature": h_curvature, "rows": [], **(described or {})}
    if h_curvature >= limit:
        note = f"not compared: h·λ_max = {h_curvature:.3g} is beyond the stability limit {limit:.3g}"
        result.results[name]["rows"].append({"title": "every form", "error": None, "late_error": None, "note": note})
        return
    forms: list[FormName] = ["field", "time", "rest", "phase", "exact"]
    if method.state_count == 1:
        forms.remove("rest")
    comparison = compare(
        method,
        problem,
        start,
        h=h,
        steps=steps,
        orders=ORDERS,
        forms=forms,
        rtol=rtol,
        atol=1e-2 * rtol,
        max_evaluations=10_000,
        progress=False,
    )
    result.comparisons[name] = comparison
    result.results[name]["rows"] = [
        {"title": e.title, "error": e.error, "late_error": e.late_error, "note": e.note} for e in comparison.entries
    ]


def _train(result: Study) -> None:
    """Train on minibatches with torch.optim.SGD, and follow the charges."""
    settings = result.settings
    build = NETWORKS[settings.network]
    images, labels = digits("train", dtype=torch.float64)
    module = build(settings.seed, dtype=torch.float64)
    before = _largest_curvature(module, images, labels)
    losses = _run_training(result, module, images, labels)
    assert result.tracker is not None
    tracker = result.tracker
    record: dict[str, Any] = {
        "network": settings.network,
        "parameters": sum(p.numel() for p in module.parameters()),
        "losses": [losses[0], losses[-1]],
        "h_curvature": [
            settings.lr * (curvature + settings.weight_decay)
            for curvature in (before, _largest_curvature(module, images, labels))
        ],
        "charges": _charge_rows(tracker),
        "equations": {
            family: project(method_of(settings), family, form="time" if settings.momentum else "field").latex()
            for family in dict.fromkeys(charge.kind for charge in tracker.charges)
        },
    }
    with torch.no_grad():
        test_images, test_labels = digits("test", dtype=torch.float64)
        module.eval()
        record["test_accuracy"] = float((module(test_images).argmax(1) == test_labels).double().mean())
    module = build(settings.seed, dtype=torch.float64)
    norms: list[Any] = [layer for layer in module.modules() if hasattr(layer, "eps")]
    if norms:
        # The same training with a vanishing ε, where the scale symmetry is exact.
        for layer in norms:
            layer.eps = 1e-30
        _run_training(result, module, images, labels)
        for row, residual in zip(record["charges"], result.tracker.residual().values(), strict=True):
            row["discrete_without_epsilon"] = residual
        result.tracker = tracker
    result.results["training"] = record


def _run_training(result: Study, module: torch.nn.Module, images: Any, labels: Any) -> list[float]:
    settings = result.settings
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        dampening=settings.dampening,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )
    charges = find_charges(module, images[: settings.batch_size], "cross_entropy")
    losses = []
    batches = minibatches(len(images), settings.batch_size, settings.steps, settings.seed)
    with track(module, optimizer, charges) as result.tracker:
        for n, batch in enumerate(tqdm(batches, total=settings.steps, desc="training", disable=None, leave=False)):
            optimizer.zero_grad()
            loss = cross_entropy(module(images[batch]), labels[batch])
            losses.append(float(loss.detach()))
            if not losses[-1] < LARGEST_GROWTH * max(losses[0], 1.0):
                raise Diverged(
                    f"the loss is {losses[-1]:.3g} at step {n}, with lr {settings.lr:g} and momentum "
                    f"{settings.momentum:g}: use a smaller learning rate, {settings.lr / 10:g} for instance",
                    result.tracker.record,
                )
            loss.backward()
            optimizer.step()
    return losses


def _largest_curvature(module: torch.nn.Module, images: Any, labels: Any) -> float:
    """λ_max of the Hessian on one batch of images, in training mode."""
    problem = TorchProblem(module, cross_entropy, images[:IMAGES], labels[:IMAGES])
    return largest_curvature(problem, problem.start())


def _charge_rows(tracker: Tracker) -> list[dict[str, Any]]:
    sentences = tracker.explain()
    record = tracker.record
    rows = []
    for charge in tracker.charges:
        entry = record[charge.name]
        row: dict[str, Any] = {
            "name": charge.name,
            "family": type(charge).__name__,
            "generators": int(entry.measured.shape[1]),
            "explanation": sentences[charge.name],
        }
        for law in LAWS:
            available = law in entry.predicted and bool(np.isfinite(entry.predicted[law]).all())
            row[law] = float(entry.residual(law).max()) if available else None
        rows.append(row)
    return rows


def _draw_trajectories(comparisons: dict[str, Comparison]) -> Figure:
    """The plane of the quadratic, and the errors on each problem; one legend for all."""
    figure = Figure(figsize=(4.8 * (1 + len(comparisons)), 5.2), layout="constrained")
    axes = figure.subplots(1, 1 + len(comparisons))
    quadratic = comparisons["quadratic"]
    (method, iterates), *_ = quadratic.iterates.items()
    colours = {entry.title: f"C{k}" for k, entry in enumerate(quadratic.entries)}
    curves = {e.title: e.trajectory.y for e in quadratic.entries if e.trajectory and e.form != "exact" and e.order <= 3}
    plots.plot_plane(curves, points=iterates.y, ax=axes[0])
    axes[0].set_title(f"quadratic, h = {quadratic.h:g}", fontsize="medium")
    for ax, (name, comparison) in zip(axes[1:], comparisons.items(), strict=True):
        comparison.plot(ax=ax)
        ax.set_title(f"error, {NAMES[name]}, h = {comparison.h:g}", fontsize="medium")
    for line in (line for ax in axes for line in ax.get_lines()):
        line.set_color(colours.get(line.get_label(), "black"))
    handles = {line.get_label(): line for ax in axes[:2] for line in ax.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(method, fontsize="large")
    return figure


def _draw_charges(tracker: Tracker) -> Figure:
    """One charge of each family."""
    families = {type(charge).__name__: charge.name for charge in reversed(tracker.charges)}
    return tracker.plot(list(families.values()))
