"""``modeq compare``: optimizers beside the equations that they are said to follow."""

import json
from pathlib import Path
from textwrap import fill
from typing import Any

from modeq.cli.methods import METHODS, add_hyperparameters, methods_named
from modeq.cli.shared import DONE, FAILED, add_command, folder_named, print_json, tell, use_one_thread
from modeq.errors import InvalidOrder, InvalidProblem

KINKED_SUBSTEPS = 2
QUICK_STEPS, QUICK_ORDER, QUICK_CURVATURES, QUICK_EVALUATIONS = 10, 2, 3, 500


def add(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "compare",
        run,
        summary="integrate the modified equations of optimizers beside the optimizers themselves",
        description="Run optimizers on a problem, and every form of their modified equations beside them; write "
        "comparison.json, and figures of the errors, the losses and the curvature.",
        example="modeq compare --problem two-layer-scalar --methods gd nesterov --lr 0.05 --steps 20 --orders 1 2",
        usage=(InvalidProblem, InvalidOrder),
        kept="checkpoint",
    )
    parser.add_argument("--problem", required=True, help="its name; an unknown one prints those there are")
    parser.add_argument(
        "--methods", nargs="+", default=["heavy-ball"], help=f"{', '.join(METHODS)} (default heavy-ball)"
    )
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate h (default 0.01)")
    add_hyperparameters(parser, symbolic=False)
    parser.add_argument("--steps", type=int, default=50, help="steps of the optimizer (default 50)")
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 2, 3], help="truncation orders (default 1 2 3)")
    parser.add_argument(
        "--forms",
        nargs="+",
        default=["field", "time", "phase", "exact"],
        help="field, time, rest, phase, hermite, powers, state, exact (default field time phase exact)",
    )
    parser.add_argument("--rtol", type=float, default=1e-8, help="relative tolerance of the flows (default 1e-8)")
    parser.add_argument(
        "--max-evaluations",
        type=int,
        default=20_000,
        help="after which a flow is given up as too stiff (default 20000)",
    )
    parser.add_argument(
        "--substeps",
        type=int,
        help=f"fixed steps of RK4 in each step, for losses with kinks (by default {KINKED_SUBSTEPS} for networks with "
        "ReLU or max pooling, else the steps are chosen by their error)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the problem (default 0)")
    parser.add_argument("--out", default="modeq-compare", help="folder for the results (default modeq-compare)")
    parser.add_argument("--checkpoint", help="folder to keep finished parts in, and to go on from")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"at most {QUICK_STEPS} steps, order {QUICK_ORDER}, {QUICK_EVALUATIONS} evaluations, to see that it runs",
    )


def run(options: dict[str, Any]) -> int:
    """Compare, draw, and print the table or the record."""
    # The heavy imports come after the arguments are known to be well formed.
    from modeq.numeric.comparison import compare
    from modeq.numeric.problems import by_name

    use_one_thread()
    methods = methods_named(options["methods"], options)
    folder = folder_named(options["out"])
    steps, orders, points, evaluations = options["steps"], options["orders"], 11, options["max_evaluations"]
    if options["quick"]:
        orders = [order for order in orders if order <= QUICK_ORDER] or [1]
        steps, points = min(steps, QUICK_STEPS), QUICK_CURVATURES
        evaluations = min(evaluations, QUICK_EVALUATIONS)
    problem = by_name(options["problem"], seed=options["seed"])
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
    (folder / "comparison.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    written = ["comparison.json", *_draw(result, folder)]
    if options["json"]:
        print_json(record)
    else:
        print(result.table())
    for method, sentences in result.flags.items():
        for sentence in sentences:
            tell(f"{method}: {sentence}")
    tell(f"\nwritten to {folder}: {', '.join(written)}")
    return FAILED if any(result.status.values()) else DONE


def _substeps(problem: Any) -> int | None:
    """How many fixed steps a network with kinks gets, at which steps that are chosen by their error never end."""
    from torch import nn

    kinds = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
    module = getattr(problem, "module", None)
    if module is None or not any(isinstance(layer, kinds) for layer in module.modules()):
        return None
    tell(f"modeq: the network has kinks; flows make {KINKED_SUBSTEPS} fixed steps in each step")
    return KINKED_SUBSTEPS


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
            ax.set_title(fill(f"{method}, h = {result.h:g}", 50), fontsize="medium")
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
