"""``modeq symmetries``: those of a network of one's own."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeq.cli.shared import DONE, FAILED, add_command, print_json, tell, use_one_thread
from modeq.errors import InvalidCharge, InvalidSetting, choice

if TYPE_CHECKING:
    from modeq.symmetry.verification import Verified

MEASURED = ("gradient", "predicted", "unexplained", "hessian", "action", "left_out")  # of a charge


def add(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "symmetries",
        run,
        summary="find and verify the symmetries of a network of your own",
        description="Build a network with a function of a Python file, whose code is run; print its symmetries "
        "with the reason for each, and verify them in float64 on random data.",
        example="modeq symmetries my_network.py:build_model --input 8,5,16 --loss mse",
        usage=(InvalidCharge,),
    )
    parser.add_argument("builder", metavar="FILE:FUNCTION", help="a function without arguments that returns a module")
    parser.add_argument("--input", required=True, help="the shape of a batch, as 8,3,64,64")
    parser.add_argument("--tokens", type=int, metavar="N", help="the input is token numbers below N")
    parser.add_argument("--loss", help="cross_entropy or mse; by default symmetries of the output itself")
    parser.add_argument("--evaluation", action="store_true", help="in evaluation mode, not in training mode")
    parser.add_argument("--seed", type=int, default=0, help="of the network and the data (default 0)")
    parser.add_argument("--figure", metavar="FILE", help="draw the charges on the network's graph, as file.png")


def run(options: dict[str, Any]) -> int:
    """Find, verify, draw, and print the tables or the record."""
    import torch

    from modeq.symmetry.finding import find_charges
    from modeq.symmetry.verification import verify

    use_one_thread()
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
        print_json({"settings": {"command": "symmetries", **options}, **found})
    else:
        print(charges.table())
        if len(charges):
            print(f"\n{report.table()}")
    for name in failed:
        tell(f"modeq: {name} is not verified")
    return FAILED if failed else DONE


def _up_to_epsilon(entry: "Verified") -> bool:
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
        raise InvalidSetting(f"--loss is {choice(name, ['cross_entropy', 'mse'])}, or leave it out")
    return lambda o, t: (o * t).sum() + (o * o * t).sum(), torch.randn(output.shape, dtype=output.dtype)
