"""The command line: a thin shell over the public functions."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from modeq import __version__
from modeq.errors import InvalidCharge, InvalidMethod, InvalidOrder, InvalidProblem, InvalidSetting, ModeqError

DONE, FAILED, USAGE = 0, 1, 2
METHODS = ("gd", "heavy-ball", "nesterov")
KINKED_SUBSTEPS = 2
MEASURED = ("gradient", "predicted", "unexplained", "hessian", "action", "left_out")  # of a charge
QUICK_STEPS, QUICK_ORDER, QUICK_CURVATURES, QUICK_EVALUATIONS = 10, 2, 3, 500


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> _Parser:
    parser = _Parser(prog="modeq", description="Modified equations of optimizers.")
    parser.add_argument("--version", action="version", version=f"modeq {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    _add_study(commands)
    _add_compare(commands)
    _add_symmetries(commands)
    return parser


def _add_optimizer(parser: argparse.ArgumentParser, lr: float) -> None:
    parser.add_argument("--lr", type=float, default=lr, help=f"learning rate h (default {lr})")
    parser.add_argument("--momentum", type=float, default=0.9, help="momentum β in [0, 1) (default 0.9)")


def _add_study(commands: Any) -> None:
    study = commands.add_parser(
        "study",
        help="derive, integrate, compare and project one optimizer on a real training",
        description="Train a network on handwritten digits with torch.optim.SGD, and write what continuous law the "
        "optimizer follows: report.md, trajectories.png, charges.png, charges.npz and study.json.",
        epilog="example: modeq study --momentum 0.9 --lr 0.05 --weight-decay 5e-4 --out my-study",
    )
    study.add_argument("--network", default="cnn", help="cnn (ReLU, batch norm) or mlp (ReLU); default cnn")
    _add_optimizer(study, lr=0.05)
    study.add_argument("--dampening", type=float, default=0.0, help="dampening α in [0, 1) (default 0)")
    study.add_argument("--nesterov", action="store_true", help="Nesterov momentum")
    study.add_argument("--weight-decay", type=float, default=5e-4, help="weight decay λ (default 5e-4)")
    study.add_argument("--batch-size", type=int, default=64, help="images per step (default 64)")
    study.add_argument("--steps", type=int, default=300, help="training steps (default 300)")
    study.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    study.add_argument("--out", default="modeq-study", help="folder for the results (default modeq-study)")
    study.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    study.set_defaults(run=_study)


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="integrate the modified equations of optimizers beside the optimizers themselves",
        description="Run optimizers on a problem, and every form of their modified equations beside them; write "
        "comparison.json, and figures of the errors, the losses and the curvature.",
        epilog="example: modeq compare --problem digits-cnn --methods gd heavy-ball --lr 0.01 --steps 50 --out my-run",
    )
    compare.add_argument("--problem", required=True, help="its name; an unknown one prints those there are")
    compare.add_argument("--methods", nargs="+", default=["heavy-ball"], help=f"{', '.join(METHODS)} (heavy-ball)")
    _add_optimizer(compare, lr=0.01)
    compare.add_argument("--steps", type=int, default=50, help="steps of the optimizer (default 50)")
    compare.add_argument("--orders", type=int, nargs="+", default=[1, 2, 3], help="truncation orders (default 1 2 3)")
    compare.add_argument(
        "--forms",
        nargs="+",
        default=["field", "time", "phase", "exact"],
        help="field, time, rest, phase, hermite, powers, state, exact (default field time phase exact)",
    )
    compare.add_argument("--weight-decay", type=float, default=0.0, help="coupled weight decay λ (default 0)")
    compare.add_argument("--rtol", type=float, default=1e-8, help="relative tolerance of the flows (default 1e-8)")
    compare.add_argument(
        "--max-evaluations",
        type=int,
        default=20_000,
        help="after which a flow is given up as too stiff (default 20000)",
    )
    compare.add_argument(
        "--substeps",
        type=int,
        help=f"fixed steps of RK4 in each step, for losses with kinks (by default {KINKED_SUBSTEPS} for networks with "
        "ReLU or max pooling, else the steps are chosen by their error)",
    )
    compare.add_argument("--seed", type=int, default=0, help="of the problem (default 0)")
    compare.add_argument("--out", default="modeq-compare", help="folder for the results (default modeq-compare)")
    compare.add_argument("--checkpoint", help="folder to keep finished parts in, and to go on from")
    compare.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    compare.add_argument(
        "--quick",
        action="store_true",
        help=f"at most {QUICK_STEPS} steps, order {QUICK_ORDER}, {QUICK_EVALUATIONS} evaluations, to see that it runs",
    )
    compare.set_defaults(run=_compare)


def _add_symmetries(commands: Any) -> None:
    symmetries = commands.add_parser(
        "symmetries",
        help="find and verify the symmetries of a network of your own",
        description="Build a network with a function of a Python file, whose code is run; print its translations, "
        "scales and rescales with the reason for each, and verify them in float64 on random data.",
        epilog="example: modeq symmetries my_network.py:build_model --input 8,3,64,64 --loss cross_entropy",
    )
    symmetries.add_argument(
        "builder", metavar="FILE:FUNCTION", help="a function without arguments that returns a module"
    )
    symmetries.add_argument("--input", required=True, help="the shape of a batch, as 8,3,64,64")
    symmetries.add_argument("--tokens", type=int, metavar="N", help="the input is token numbers below N")
    symmetries.add_argument("--loss", help="cross_entropy or mse; by default symmetries of the output itself")
    symmetries.add_argument("--evaluation", action="store_true", help="in evaluation mode, not in training mode")
    symmetries.add_argument("--seed", type=int, default=0, help="of the network and the data (default 0)")
    symmetries.add_argument("--figure", metavar="FILE", help="draw the charges on the network's graph, as file.png")
    symmetries.add_argument("--json", action="store_true", help="print JSON instead of tables")
    symmetries.set_defaults(run=_symmetries)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if done, 1 if the run failed, 2 if it was called wrongly.

    Examples
    --------
    >>> main(["study", "--lr", "-1"])
    2
    """
    options = vars(_parser().parse_args(arguments))
    command, run = options.pop("command"), options.pop("run")
    # A study checks its settings by themselves; what is left of its problems is no mistake in the call.
    usage: tuple[type[ModeqError], ...] = (InvalidSetting, InvalidMethod)
    if command == "compare":
        usage += (InvalidProblem, InvalidOrder)
    if command == "symmetries":
        usage += (InvalidCharge,)
    try:
        # The heavy imports come after the arguments are known to be well formed.
        import torch

        # Small networks run several times slower with torch's default number of threads.
        torch.set_num_threads(1)
        return run(options)
    except usage as error:
        return _fail(error, USAGE)
    except ModeqError as error:
        return _fail(error, FAILED)
    except KeyboardInterrupt:
        kept = options.get("out") if command == "study" else options.get("checkpoint")
        where = f"in {kept}" if kept else "lost"
        print(f"modeq: interrupted; what was found until then is {where}", file=sys.stderr)
        return FAILED


def _study(options: dict[str, Any]) -> int:
    from modeq.studies import Settings, study

    settings = {name: value for name, value in options.items() if name != "json"}
    Settings(**settings).folder()
    result = study(**settings)
    print(json.dumps(result.results, indent=2) if options["json"] else result.table())
    written = "report.md, trajectories.png, charges.png, charges.npz, study.json"
    print(f"\nwritten to {result.folder}: {written}", file=sys.stderr)
    return DONE


def _compare(options: dict[str, Any]) -> int:
    from modeq.numeric.comparison import compare

    methods = [_method(name, options["momentum"], options["weight_decay"]) for name in options["methods"]]
    folder = _folder(options["out"])
    steps, orders, points, evaluations = options["steps"], options["orders"], 11, options["max_evaluations"]
    if options["quick"]:
        orders = [order for order in orders if order <= QUICK_ORDER] or [1]
        steps, points = min(steps, QUICK_STEPS), QUICK_CURVATURES
        evaluations = min(evaluations, QUICK_EVALUATIONS)
    problem = _problem(options["problem"], options["seed"])
    result = compare(
        methods,
        problem,
        h=options["lr"],
        steps=steps,
        orders=orders,
        forms=options["forms"],
        curvature_points=points,
        rtol=options["rtol"],
        atol=1e-2 * options["rtol"],
        max_evaluations=evaluations,
        substeps=_substeps(problem) if options["substeps"] is None else options["substeps"],
        check=False,
        checkpoint=options["checkpoint"],
    )
    record = {"settings": {"command": "compare", **options}, **result.to_dict()}
    (folder / "comparison.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    written = ["comparison.json", *_draw(result, folder)]
    print(json.dumps(record, indent=2) if options["json"] else result.table())
    for method, sentences in result.flags.items():
        for sentence in sentences:
            print(f"{method}: {sentence}", file=sys.stderr)
    print(f"\nwritten to {folder}: {', '.join(written)}", file=sys.stderr)
    return FAILED if any(result.status.values()) else DONE


def _substeps(problem: Any) -> int | None:
    """How many fixed steps a network with kinks gets, at which steps that are chosen by their error never end."""
    from torch import nn

    kinds = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
    module = getattr(problem, "module", None)
    if module is None or not any(isinstance(layer, kinds) for layer in module.modules()):
        return None
    print(f"modeq: the network has kinks; flows make {KINKED_SUBSTEPS} fixed steps in each step", file=sys.stderr)
    return KINKED_SUBSTEPS


def _symmetries(options: dict[str, Any]) -> int:
    import torch

    from modeq.symmetry.finding import find_charges
    from modeq.symmetry.verification import verify

    shape = _shape(options["input"])
    torch.manual_seed(options["seed"])
    module = _built(options["builder"]).double().train(not options["evaluation"])
    if options["tokens"] is None:
        inputs = torch.randn(shape, dtype=torch.float64)
    else:
        inputs = torch.randint(0, options["tokens"], shape)
    loss, target = _loss_on(module, inputs, options["loss"])
    charges = find_charges(module, inputs, loss, target=target)
    report = verify(charges, module, loss, (inputs, target))
    verified = [
        e.passed() if found.exact else _up_to_epsilon(e) for e, found in zip(report, charges.found, strict=True)
    ]
    failed = [entry.charge.name for entry, fine in zip(report, verified, strict=True) if not fine]
    if options["figure"]:
        _save_figure(charges, options["figure"])
    if options["json"]:
        found = charges.to_dict()
        for charge, entry in zip(found["charges"], report, strict=True):
            numbers = {name: getattr(entry, name) for name in MEASURED}
            charge.update({name: value if math.isfinite(value) else None for name, value in numbers.items()})
        print(json.dumps({"settings": {"command": "symmetries", **options}, **found}, indent=2))
    else:
        print(charges.table())
        if len(charges):
            print(f"\n{report.table()}")
    for name in failed:
        print(f"modeq: {name} is not verified", file=sys.stderr)
    return FAILED if failed else DONE


def _up_to_epsilon(entry: Any) -> bool:
    """Whether a charge misses by what the norms' ε predict; where nothing is predicted, by little."""
    return entry.explained() if math.isfinite(entry.predicted) else max(entry.gradient, entry.action) <= 1e-2


def _save_figure(charges: Any, path: str) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    figure = charges.plot()[0].figure
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"--figure is {path!r}, which cannot be written ({error}): give a file.png") from error


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise InvalidSetting(f"--input is {text!r}: give sizes from 1, as 8,3,64,64")
    return shape


def _built(builder: str) -> Any:
    """The network that a function of a file returns."""
    import runpy

    import torch

    path, _, name = builder.rpartition(":")
    if not path or not Path(path).is_file():
        raise InvalidSetting(f"{builder!r} names no file: give FILE.py:FUNCTION")
    function = runpy.run_path(path).get(name)
    if not callable(function):
        raise InvalidSetting(f"{path} has no function {name!r}: give the name of one that returns the network")
    module = function()
    if not isinstance(module, torch.nn.Module):
        raise InvalidSetting(f"{name} of {path} returns {type(module).__name__}: it must return a torch.nn.Module")
    return module


def _loss_on(module: Any, inputs: Any, name: str | None) -> tuple[Any, Any]:
    """A loss, and random targets for it; without a name a random linear function of the output."""
    import torch

    from modeq.symmetry.traced import output_of

    output = output_of(module, inputs)
    if name == "cross_entropy":
        classes = output.shape[-1] if output.dim() == 3 else output.shape[1] if output.dim() > 1 else 0
        if not classes:
            raise InvalidSetting(
                f"the output has the shape {tuple(output.shape)}: cross_entropy needs (batch, classes)"
            )
        if output.dim() == 3:
            return name, torch.randint(0, classes, output.shape[:2])
        return name, torch.randint(0, classes, (output.shape[0], *output.shape[2:]))
    if name == "mse":
        return name, torch.randn(output.shape, dtype=output.dtype)
    if name is not None:
        raise InvalidSetting(f"--loss is {name!r}: give cross_entropy or mse, or leave it out")
    return lambda o, t: (o * t).sum() + (o * o * t).sum(), torch.randn(output.shape, dtype=output.dtype)


def _problem(name: str, seed: int) -> Any:
    from modeq.numeric.problems import by_name

    return by_name(name, seed=seed)


def _method(name: str, momentum: float, weight_decay: float) -> Any:
    from modeq.methods.descent import GradientDescent
    from modeq.methods.momentum import HeavyBall, Nesterov

    if name not in METHODS:
        raise InvalidSetting(f"--methods names {name!r}: choose from {', '.join(METHODS)}")
    made = {"gd": GradientDescent, "heavy-ball": HeavyBall, "nesterov": Nesterov}[name]
    method = made() if name == "gd" else made(momentum=momentum)
    return method.with_weight_decay(weight_decay) if weight_decay else method


def _folder(out: str) -> Path:
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(f"--out is {out}: it cannot be used as a folder ({error.strerror})") from error
    return Path(out)


def _draw(result: Any, folder: Path) -> list[str]:
    """Write one figure of each kind, with a panel for each method; return their names."""
    kinds = {"errors": result.plot}
    if any(losses is not None for losses in result.losses.values()):
        kinds["losses"] = result.plot_losses
    if result.problem.size == 2:
        kinds["plane"] = result.plot_plane
    if result.curvature:
        kinds["curvature"] = result.plot_curvature
    colours = _colours([entry.title for entry in result.entries])
    for name, plot in kinds.items():
        shown = list(result.curvature if name == "curvature" else result.iterates)
        figure, axes = _panels(len(shown))
        for ax, method in zip(axes, shown, strict=True):
            plot(ax=ax, method=method)
            ax.set_title(f"{method}, h = {result.h:g}", fontsize="medium")
            if name == "curvature":  # its limits are those of one method
                ax.legend(frameon=False)
        if name != "curvature":
            _one_legend(figure, axes, colours)
        figure.savefig(folder / f"{name}.png", dpi=150)
    return [f"{name}.png" for name in kinds]


def _one_legend(figure: Any, axes: Any, colours: dict[str, Any]) -> None:
    """Give each law one colour in all panels, and the figure one legend."""
    for line in (line for ax in axes for line in ax.get_lines()):
        line.set_color(colours.get(line.get_label(), "black"))
    handles = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 * len(axes), frameon=False)


def _colours(titles: list[str]) -> dict[str, Any]:
    import matplotlib

    laws = list(dict.fromkeys(titles))
    # Neighbours of "tab20" are pairs of one hue: its strong colours first.
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    return {law: matplotlib.colormaps["tab20"](order[k % 20]) for k, law in enumerate(laws)}


def _panels(count: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * count, 5.4), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _fail(error: ModeqError, code: int) -> int:
    print(f"modeq: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
