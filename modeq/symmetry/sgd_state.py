"""What a running `torch.optim.SGD` says about its next step: hyper-parameters, groups and buffers."""

from collections.abc import Mapping

import torch
from torch import Tensor

from modeq.errors import InvalidCharge, NoClosedLaw
from modeq.symmetry.laws import SGDStep

_SHARED = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")


class _RunningStep(SGDStep):
    """A step as an optimizer takes it: whatever its groups say, it is going to be taken."""

    def __post_init__(self) -> None:
        """Accept everything that torch runs."""


def is_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is exactly torch's SGD, whose update the laws are made for; a subclass may update otherwise.

    Examples
    --------
    >>> is_sgd(torch.optim.AdamW([torch.zeros(1)]))
    False
    """
    return type(optimizer) is torch.optim.SGD


def groups_of(optimizer: torch.optim.Optimizer, charge: str, parameters: Mapping[str, Tensor]) -> dict[int, list[str]]:
    """Return which parameter groups hold the parameters of a charge; raises `InvalidCharge`."""
    owner = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
    found: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        if id(parameter) not in owner:
            raise InvalidCharge(
                f"charge {charge!r}: {name!r} is not among the optimizer's parameters; hand it to the "
                "optimizer (it may stay frozen) or leave the charge out"
            )
        found.setdefault(owner[id(parameter)], []).append(name)
    return found


def common_step(optimizer: torch.optim.SGD, charge: str, groups: Mapping[int, list[str]]) -> tuple[SGDStep, float]:
    """Return the step that all members of a charge take and the sign of its gradients (−1: maximize).

    Raises `NoClosedLaw` if the groups differ.
    """
    options = {
        index: {key: float(optimizer.param_groups[index].get(key, False)) for key in _SHARED} for index in groups
    }
    first, *rest = options.values()
    if any(other != first for other in rest):
        told = "; ".join(f"group {index} ({', '.join(groups[index])}): {options[index]}" for index in groups)
        raise NoClosedLaw(
            f"charge {charge!r} has members in parameter groups with different hyper-parameters and obeys no "
            f"closed law: {told}; put them in one group or leave the charge out"
        )
    step = _RunningStep(
        h=first["lr"],
        momentum=first["momentum"],
        dampening=first["dampening"],
        weight_decay=first["weight_decay"],
        nesterov=bool(first["nesterov"]),
    )
    return step, -1.0 if first["maximize"] else 1.0


def moving(charge: str, parameters: Mapping[str, Tensor]) -> bool:
    """Return whether the next step moves the members: all or none; raises `NoClosedLaw` if only some."""
    still = [name for name, parameter in parameters.items() if parameter.grad is None]
    if still and len(still) < len(parameters):
        raise NoClosedLaw(
            f"charge {charge!r}: {', '.join(still)} got no gradient while its other members did, and half "
            "of a charge obeys no law; freeze its members together or leave the charge out"
        )
    return not still


def buffers_of(
    optimizer: torch.optim.SGD, charge: str, parameters: Mapping[str, Tensor], dampening: float
) -> tuple[dict[str, Tensor], bool]:
    """Return the momentum buffers, zeros where there is none yet, and whether the next step is the first.

    Raises `NoClosedLaw` if it is the first for some members only and dampening makes that step different.
    """
    held = {
        name: optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None
        for name, p in parameters.items()
    }
    missing = [name for name, buffer in held.items() if buffer is None]
    if missing and len(missing) < len(held) and dampening != 0:
        raise NoClosedLaw(
            f"charge {charge!r}: {', '.join(missing)} has no momentum buffer yet while its other members do, "
            "and torch does not dampen a first step; use dampening=0, or start its members together"
        )
    filled = {name: torch.zeros_like(parameters[name]) if b is None else b for name, b in held.items()}
    return filled, len(missing) == len(held)
