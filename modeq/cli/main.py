"""``modeq``: finds the command, runs it, and says with its exit status how that went."""

import os
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from modeq import __version__
from modeq.cli import compare, derive, study, symmetries
from modeq.cli.shared import DONE, ENDINGS, FAILED, INTERRUPTED, NO_READER, USAGE, Parser, tell
from modeq.errors import ModeqError, choice


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status, or leave with it if the arguments cannot be read.

    Examples
    --------
    >>> main(["derive", "gd", "--order", "2"])
    GradientDescent()
    <BLANKLINE>
    θ' = -g - h/2·H g
    <BLANKLINE>
    in h·λ: series limit 1, stability limit 2
    0
    """
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER


def _run(arguments: list[str]) -> int:
    options = _read(arguments)
    run, usage, kept = (options.pop(name) for name in ("run", "usage", "kept"))
    try:
        code: int = run(options)
        return code
    except ModeqError as error:
        tell(f"modeq: {error}")
        return USAGE if isinstance(error, usage) else FAILED
    except KeyboardInterrupt:
        folder = options.get(kept)
        tell(f"modeq: interrupted; {'nothing is kept' if folder is None else f'what was found is kept in {folder}'}")
        return INTERRUPTED


def _read(arguments: list[str]) -> dict[str, Any]:
    """The options of a command, after names that there are not have been answered with those that there are."""
    parser = Parser(prog="modeq", description="Modified equations of optimizers.", epilog=ENDINGS)
    parser.add_argument("--version", action="version", version=f"modeq {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)
    for module in (derive, compare, symmetries, study):
        module.add(commands)
    if not arguments:
        parser.print_help()
        sys.exit(DONE)
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    if name is not None and name not in commands.choices:
        parser.error(f"the command is {choice(name, commands.choices)}")
    chosen = parser if name is None else commands.choices[name]
    for option in (argument.partition("=")[0] for argument in takewhile(lambda argument: argument != "--", arguments)):
        if option.startswith("--") and not any(known.startswith(option) for known in chosen.options):
            chosen.error(f"the option is {choice(option, chosen.options)}")
    return vars(parser.parse_args(arguments))
