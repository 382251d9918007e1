"""What the commands share: how they are described, what they end with, and how they write."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn

from modeq.errors import InvalidMethod, InvalidSetting, ModeqError

DONE, FAILED, USAGE = 0, 1, 2
INTERRUPTED, NO_READER = 130, 141  # 128 and the signal's number, as shells have it
ENDINGS = """exit status:
  0    done
  1    something that was computed failed, or is not verified
  2    called wrongly
  130  interrupted with Ctrl-C
  141  nobody read the output to its end"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that knows the names of its options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.options: list[str] = []
        super().__init__(*args, **{**kwargs, "formatter_class": argparse.RawDescriptionHelpFormatter})

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Add an argument, and remember what it is called."""
        action = super().add_argument(*args, **kwargs)
        self.options += [name for name in action.option_strings if name.startswith("--")]
        return action

    def error(self, message: str) -> NoReturn:
        """Leave with one line on stderr."""
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_command(
    commands: Any,
    name: str,
    run: Callable[[dict[str, Any]], int],
    *,
    summary: str,
    description: str,
    example: str,
    usage: tuple[type[ModeqError], ...] = (),
    kept: str | None = None,
) -> Parser:
    """Add a command, and return its parser.

    Parameters
    ----------
    run : called with the options, returns the exit status
    usage : the errors, besides those of a setting or a method, that are the caller's
    kept : the option that names the folder in which an interrupted run leaves what it has
    """
    parser: Parser = commands.add_parser(
        name, help=summary, description=fill(description, 100), epilog=f"example:\n  {example}\n\n{ENDINGS}"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on stdout")
    parser.set_defaults(run=run, usage=(InvalidSetting, InvalidMethod, *usage), kept=kept)
    return parser


def print_json(record: dict[str, Any]) -> None:
    """Print a record that has no number that JSON lacks."""
    print(json.dumps(record, indent=2, allow_nan=False))


def tell(message: str) -> None:
    """Say something on stderr."""
    print(message, file=sys.stderr)


def use_one_thread() -> None:
    """Small networks run several times slower with torch's default number of threads."""
    import torch

    torch.set_num_threads(1)


def folder_named(out: str) -> Path:
    """Return the folder for the results, made if need be."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(f"--out is {out}: it cannot be used as a folder ({error.strerror})") from error
    return Path(out)
