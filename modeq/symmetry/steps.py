"""What is read of each step of an optimizer: of SGD what its laws need, of any other the update itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeq.errors import NoClosedLaw
from modeq.symmetry.affine_charges import ONE
from modeq.symmetry.followed import FollowedCharge
from modeq.symmetry.laws import SGDStep
from modeq.symmetry.reading import Readings
from modeq.symmetry.sgd_state import buffers_of, common_step, groups_of, moving

Followed = Mapping[str, FollowedCharge]


@dataclass
class Step:
    """One step: its hyper-parameters for each charge that moved, and what was read, one charge after another.

    Attributes
    ----------
    of : charge's name -> (hyper-parameters, sign of its gradients, whether it is the first step)
    quadratic : names of those whose laws contain squares of the updates; of the others nothing but ⟨ξ(θ), g⟩ is read
    values : what was read -> tensor over all generators of these charges
    """

    of: dict[str, tuple[SGDStep, float, bool]]
    quadratic: frozenset[str] = frozenset()
    values: dict[str, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, list[str]]:
        """The charges for which each is read: ⟨ξ(θ), g⟩, and the products of gradients, parameters and buffers."""
        driven = {name: hyper for name, (hyper, _, _) in self.of.items() if name in self.quadratic}
        nesterov = [name for name, hyper in driven.items() if hyper.nesterov and hyper.momentum]
        plain = [name for name, hyper in driven.items() if hyper.momentum == 0]
        left = [name for name in plain if not self.of[name][2]]  # buffers from earlier steps
        kept = [name for name, hyper in driven.items() if hyper.momentum != 0]
        return {
            "along": list(self.of),
            "gg": plain + nesterov,
            "gv": left + nesterov,
            "tt": nesterov,
            "tv": nesterov,
            "vv": kept,
        }


class SGDSteps:
    """Reads ⟨ξ(θ), g⟩ before a step of torch.optim.SGD, and what its update gives after it."""

    def __init__(self, optimizer: torch.optim.SGD, followed: Followed, readings: Readings) -> None:
        self.optimizer, self.followed, self.readings = optimizer, followed, readings
        self.groups = {name: groups_of(optimizer, name, f.parameters) for name, f in followed.items()}
        self.rotations, self.quadratic = (_of_degree(degree, followed) for degree in (0, 2))
        for name in self.groups:
            self._common_step(name)

    def _common_step(self, name: str) -> tuple[SGDStep, float]:
        step, sign = common_step(self.optimizer, name, self.groups[name])
        self.followed[name].charge.require_law(step.weight_decay)
        if name in self.rotations and (step.nesterov or step.momentum == 0):
            raise NoClosedLaw(
                f"charge {name!r} is a rotation, and has no closed law under {step}; train with momentum, without "
                "nesterov, or leave the charge out"
            )
        return step, sign

    def momenta(self) -> Tensor:
        """⟨ξ(θ), v⟩ of the buffers that there are."""
        return self.readings.pairing(parameters_of(self.followed), self.held(self.followed), self.followed)

    def held(self, names: Iterable[str]) -> dict[int, Tensor]:
        """The buffers of some charges, zeros where there are none yet."""
        buffers: dict[int, Tensor] = {}
        for name in names:
            parameters = self.followed[name].parameters
            step, _ = common_step(self.optimizer, name, self.groups[name])
            held, _ = buffers_of(self.optimizer, name, parameters, step.dampening)
            buffers |= {id(p): held[n] for n, p in parameters.items()}
        return buffers

    def before(self, along: bool) -> Step:
        """Read what the step will overwrite, ⟨ξ(θ), g⟩ if asked; raises `NoClosedLaw` before anything moved."""
        moved = {n: f for n, f in self.followed.items() if moving(n, f.parameters)}
        step = Step({}, self.quadratic)
        theta = parameters_of(moved)
        gradients: dict[int, Any] = {}
        self.buffers: dict[int, Tensor] = {}
        for name, followed in moved.items():
            hyper, sign = self._common_step(name)
            held, first = buffers_of(self.optimizer, name, followed.parameters, hyper.dampening)
            step.of[name] = hyper, sign, first
            gradients |= {id(p): p.grad for p in followed.parameters.values()}
            self.buffers |= {id(p): held[n] for n, p in followed.parameters.items()}
        names, tensors = step.names, {"g": gradients, "t": theta, "v": self.buffers}
        for key in ("gg", "gv", "tt", "tv"):
            if names[key]:
                one, other = (tensors[letter] for letter in key)
                step.values[key] = self.readings.pairing(one, other, names[key])
        if along or names["tt"]:
            step.values["along"] = self.readings.pairing(theta, gradients, moved)
        return step

    def after(self, step: Step) -> None:
        """Read the new buffers."""
        kept = step.names["vv"]
        buffers: dict[int, Tensor] = {}
        for name in kept:
            held, _ = buffers_of(self.optimizer, name, self.followed[name].parameters, 0.0)
            buffers |= {id(p): held[n] for n, p in self.followed[name].parameters.items()}
        if kept:
            step.values["vv"] = self.readings.pairing(buffers, buffers, kept)
        del self.buffers

    def advance(self, step: Step, values: dict[str, Any]) -> None:
        """Advance the laws, given what was read."""
        names = step.names
        read = {key: self.readings.split(value, names[key]) for key, value in values.items()}
        for name, (hyper, sign, first) in step.of.items():
            along = sign * read["along"][name] if "along" in read else np.nan
            forcing: Any
            cross: Any
            if name not in step.quadratic:
                forcing = cross = 0.0
            elif hyper.momentum == 0:
                forcing, cross = read["gg"][name], 0.0 if first else sign * read["gv"][name]
            else:
                forcing = cross = read["vv"][name]
                if hyper.nesterov:
                    gg, tt, tv = (read[key][name] for key in ("gg", "tt", "tv"))
                    gv = sign * read["gv"][name]
                    forcing, cross = _nesterov(hyper, first, along, gg, tt, forcing, gv, tv)
            self.followed[name].advance(hyper, forcing, cross, along, first=first)


def _nesterov(step: SGDStep, first: bool, along: Any, gg: Any, tt: Any, new: Any, gv: Any, tv: Any) -> tuple[Any, Any]:
    """⟨ξ(u), u⟩ and ⟨ξ(u), v⁺⟩ of u = d + βv⁺ with d = g + λθ and v⁺ = βv + (1 − α)d, from products of its parts."""
    decay, beta = step.weight_decay, step.momentum
    kept, fresh = (0.0, 1.0) if first else (beta, 1.0 - step.dampening)
    dd = gg + 2 * decay * along + decay * decay * tt
    dv = kept * (gv + decay * tv) + fresh * dd
    return dd + 2 * beta * dv + beta * beta * new, dv + beta * new


class ObservedSteps:
    """Reads ⟨ξ(θ), Δ⟩ and ⟨ξ(Δ), Δ⟩ of the update Δ of any optimizer; it keeps a copy of θ during the step."""

    def __init__(self, optimizer: torch.optim.Optimizer, followed: Followed, readings: Readings) -> None:
        self.optimizer, self.followed, self.readings = optimizer, followed, readings
        self.rotations: frozenset[str] = frozenset()
        self.quadratic = _of_degree(2, followed)
        for name, f in followed.items():
            groups_of(optimizer, name, f.parameters)
            f.charge.require_law()
            if f.charge.degree == 0:
                raise NoClosedLaw(
                    f"charge {name!r} is a rotation, one of parameters and momentum buffers, and only the laws of "
                    "torch.optim.SGD read these; leave it out"
                )

    def momenta(self) -> Tensor:
        """Nothing is predicted: zeros."""
        return torch.zeros(sum(self.readings.counts[name] for name in self.followed), dtype=torch.float64)

    def held(self, _: Iterable[str]) -> dict[int, Tensor]:
        """No buffers are read."""
        return {}

    def before(self, _: bool) -> Step:
        """Copy the parameters."""
        self.start = {key: p.detach().clone() for key, p in parameters_of(self.followed).items()}
        rate = float(self.optimizer.param_groups[0].get("lr", 0.0))
        return Step(dict.fromkeys(self.followed, (SGDStep(max(rate, 0.0)), 1.0, False)), self.quadratic)

    def after(self, step: Step) -> None:
        """Compare."""
        theta = parameters_of(self.followed)
        update = {key: theta[key].detach() - before for key, before in self.start.items()}
        step.values["drift"] = self.readings.pairing(self.start, update, self.followed)
        step.values["square"] = self.readings.pairing(update, update, sorted(step.quadratic))
        del self.start

    def advance(self, step: Step, values: dict[str, Any]) -> None:
        """Add up the changes."""
        drift = self.readings.split(values["drift"], self.followed)
        square = self.readings.split(values["square"], sorted(step.quadratic))
        for name, followed in self.followed.items():
            followed.laws.observe(drift[name], square.get(name, 0.0), step.of[name][0].h)


def _of_degree(degree: int, followed: Followed) -> frozenset[str]:
    return frozenset(name for name, f in followed.items() if f.charge.degree == degree)


def parameters_of(followed: Followed) -> dict[int, Tensor]:
    """Return the parameters of some charges by their identity, and a 1 as in homogeneous coordinates.

    Examples
    --------
    >>> parameters_of({})
    {0: tensor(1.)}
    """
    return {**{id(p): p for f in followed.values() for p in f.parameters.values()}, ONE: torch.ones(())}
