"""The command line: a thin shell over the public functions."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from modeq import __version__
from modeq.errors import InvalidMethod, InvalidOrder, InvalidProblem, InvalidSetting, ModeqError

DONE, FAILED, USAGE = 0, 1, 2
METHODS = ("gd", "heavy-ball", "nesterov")
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
    return parser


def _add_optimizer(parser: argparse.ArgumentParser, lr: float) -> None:
    parser.add_argument("--lr", type=float, default=lr, help=f"learning rate h (default {lr})")
    parser.add_argument("--momentum", type=float, default=0.9, help="momentum β in [0, 1) (default 0.9)")


def _add_study(commands: Any) -> None:
    study = commands.add_parser(
        "study",
        help="derive, integrate, compare and project one optimizer on a real training",
        description="Train a network on handwritten digits with torch.optim.SGD, and write what continuous law the "
        "optimizer follows: report.md, trajectories.png, charges.png and study.json.",
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
    compare.add_argument("--substeps", type=int, help="fixed steps of RK4 in each step, for losses with kinks (ReLU)")
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
        kept = options["out"] if command == "study" else options["checkpoint"] or "lost: give --checkpoint to keep it"
        print(f"modeq: interrupted; what was found until then is in {kept}", file=sys.stderr)
        return FAILED


def _study(options: dict[str, Any]) -> int:
    from modeq.studies import Settings, study

    settings = {name: value for name, value in options.items() if name != "json"}
    Settings(**settings).folder()
    result = study(**settings)
    print(json.dumps(result.results, indent=2) if options["json"] else result.table())
    print(f"\nwritten to {result.folder}: report.md, trajectories.png, charges.png, study.json", file=sys.stderr)
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
        substeps=options["substeps"],
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
