"""``modeq study``: the main job."""

from typing import Any

from modeq.cli.shared import DONE, add_command, print_json, tell, use_one_thread


def add(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "study",
        run,
        summary="derive, integrate, compare and project one optimizer on a real training",
        description="Train a network on handwritten digits with torch.optim.SGD, and write what continuous law the "
        "optimizer follows: report.md, trajectories.png, charges.png, charges.npz and study.json.",
        example="modeq study --network mlp --momentum 0.9 --lr 0.05 --steps 20 --out my-study",
        kept="out",
    )
    parser.add_argument(
        "--network",
        default="cnn",
        help="cnn (ReLU, batch norm), mlp (ReLU) or vit (attention, layer norm); default cnn",
    )
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate h (default 0.05)")
    parser.add_argument("--momentum", type=float, default=0.9, help="momentum β in [0, 1) (default 0.9)")
    parser.add_argument("--dampening", type=float, default=0.0, help="dampening α in [0, 1) (default 0)")
    parser.add_argument("--nesterov", action="store_true", help="Nesterov momentum")
    parser.add_argument("--weight-decay", type=float, default=5e-4, help="weight decay λ (default 5e-4)")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step (default 64)")
    parser.add_argument("--steps", type=int, default=300, help="training steps (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    parser.add_argument("--out", default="modeq-study", help="folder for the results (default modeq-study)")


def run(options: dict[str, Any]) -> int:
    """Make the study, and print its table or its record."""
    # The heavy imports come after the arguments are known to be well formed.
    from modeq.studies import Settings, study

    use_one_thread()
    settings = {name: value for name, value in options.items() if name != "json"}
    Settings(**settings).folder()
    result = study(**settings)
    if options["json"]:
        print_json(result.results)
    else:
        print(result.table())
    tell(f"\nwritten to {result.folder}: report.md, trajectories.png, charges.png, charges.npz, study.json")
    return DONE
