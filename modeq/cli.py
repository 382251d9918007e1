"""The command line: a thin shell over the public functions."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import NoReturn

from modeq import __version__
from modeq.errors import InvalidMethod, InvalidSetting, ModeqError

DONE, FAILED, USAGE = 0, 1, 2


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> _Parser:
    parser = _Parser(prog="modeq", description="Modified equations of optimizers.")
    parser.add_argument("--version", action="version", version=f"modeq {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    study = commands.add_parser(
        "study",
        help="derive, integrate, compare and project one optimizer on a real training",
        description="Train a network on handwritten digits with torch.optim.SGD, and write what continuous law the "
        "optimizer follows: report.md, trajectories.png, charges.png and study.json.",
        epilog="example: modeq study --momentum 0.9 --lr 0.05 --weight-decay 5e-4 --out my-study",
    )
    study.add_argument("--network", default="cnn", help="cnn (ReLU, batch norm) or mlp (ReLU); default cnn")
    study.add_argument("--lr", type=float, default=0.05, help="learning rate h (default 0.05)")
    study.add_argument("--momentum", type=float, default=0.9, help="momentum β in [0, 1) (default 0.9)")
    study.add_argument("--dampening", type=float, default=0.0, help="dampening α in [0, 1) (default 0)")
    study.add_argument("--nesterov", action="store_true", help="Nesterov momentum")
    study.add_argument("--weight-decay", type=float, default=5e-4, help="weight decay λ (default 5e-4)")
    study.add_argument("--batch-size", type=int, default=64, help="images per step (default 64)")
    study.add_argument("--steps", type=int, default=300, help="training steps (default 300)")
    study.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    study.add_argument("--out", default="modeq-study", help="folder for the results (default modeq-study)")
    study.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if done, 1 if the run failed, 2 if it was called wrongly.

    Examples
    --------
    >>> main(["study", "--lr", "-1"])
    2
    """
    options = vars(_parser().parse_args(arguments))
    options.pop("command")
    as_json = options.pop("json")
    try:
        # The heavy imports come after the arguments are known to be well formed.
        import torch

        from modeq.studies import Settings, study

        Settings(**options).folder()
        # Small networks run several times slower with torch's default number of threads.
        torch.set_num_threads(1)
        result = study(**options)
    except (InvalidSetting, InvalidMethod) as error:
        return _fail(error, USAGE)
    except ModeqError as error:
        return _fail(error, FAILED)
    except KeyboardInterrupt:
        print(f"modeq: interrupted; what was found until then is in {options['out']}", file=sys.stderr)
        return FAILED
    print(json.dumps(result.results, indent=2) if as_json else result.table())
    print(f"\nwritten to {result.folder}: report.md, trajectories.png, charges.png, study.json", file=sys.stderr)
    return DONE


def _fail(error: ModeqError, code: int) -> int:
    print(f"modeq: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
