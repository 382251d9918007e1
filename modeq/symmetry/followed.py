"""One charge of a running training: where its numbers are read, its laws, its rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modeq.symmetry.charges import Charge
from modeq.symmetry.records import LAWS, ChargeRecord
from modeq.symmetry.running import RunningLaws
from modeq.symmetry.sgd_state import buffers_of, common_step, groups_of, moving

Array = NDArray[np.float64]

_HYPERPARAMETERS = ("h", "momentum", "dampening", "weight_decay", "nesterov")


class FollowedCharge:
    """A charge bound to a module and its optimizer, observed before and after each step.

    Attributes
    ----------
    charge : Charge
        What is followed.
    epsilon : float
        Machine precision of the least precise parameter.
    defect : ndarray, shape [generators]
        Largest |⟨ξ(θ), g⟩|/(‖ξ‖‖g‖) seen, g being the whole gradient.
    """

    def __init__(self, charge: Charge, module: nn.Module, optimizer: torch.optim.SGD) -> None:
        self.charge = charge
        self.parameters = charge.parameters_of(module)
        self.epsilon = max(torch.finfo(p.dtype).eps for p in self.parameters.values())
        self.groups = groups_of(optimizer, charge.name, self.parameters)
        step, _ = common_step(optimizer, charge.name, self.groups)
        buffers, _ = buffers_of(optimizer, charge.name, self.parameters, step.dampening)
        start = self._read(self.parameters, self.parameters)
        self.laws = RunningLaws(start, self._read(self.parameters, buffers), charge.degree)
        self.defect = np.zeros_like(start)
        self.last = np.full(len(_HYPERPARAMETERS), np.nan)
        self.rows: dict[str, list[Array]] = {}
        self.measure()

    def _read(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Array:
        with torch.no_grad():
            return self.charge.pairing(x, y).cpu().numpy()

    def before_step(self, optimizer: torch.optim.SGD, gradient_norm: float) -> None:
        """Read what the step will overwrite: torch's foreach Nesterov adds into the gradients."""
        self.moves = moving(self.charge.name, self.parameters)
        if not self.moves:
            return
        self.step, self.sign = common_step(optimizer, self.charge.name, self.groups)
        buffers, self.first = buffers_of(optimizer, self.charge.name, self.parameters, self.step.dampening)
        gradients = {name: p.grad for name, p in self.parameters.items()}
        along = self._read(self.parameters, gradients)
        self.along_gradient = self.sign * along
        if gradient_norm > 0:
            with np.errstate(all="ignore"):  # a training that diverges is reported by the record
                size = self.charge.generator_norm(self.parameters).cpu().numpy() * gradient_norm
                cosine = np.divide(np.abs(along), size, out=np.zeros_like(along), where=size > 0)
            self.defect = np.maximum(self.defect, cosine)
        if self.step.momentum == 0:
            self.forcing = self._read(gradients, gradients)
            self.cross = 0.0 if self.first else self.sign * self._read(gradients, buffers)
        elif self.step.nesterov:
            decay = self.step.weight_decay
            self.fresh = {n: self.sign * g + decay * self.parameters[n] for n, g in gradients.items()}

    def after_step(self, optimizer: torch.optim.SGD) -> None:
        """Advance the laws by the step just taken."""
        if not self.moves:
            return
        step = self.step
        if step.momentum != 0:
            buffers, _ = buffers_of(optimizer, self.charge.name, self.parameters, step.dampening)
            update = buffers
            if step.nesterov:
                update = {n: d + step.momentum * buffers[n] for n, d in self.fresh.items()}
                del self.fresh
            self.forcing = self._read(update, update)
            self.cross = self._read(update, buffers)
        with np.errstate(all="ignore"):
            self.laws.advance(step, self.forcing, self.cross, first=self.first, defect=self.along_gradient)
        self.last = np.array([getattr(step, key) for key in _HYPERPARAMETERS], dtype=float)

    def measure(self) -> None:
        """Append a row to the record."""
        with torch.no_grad():
            normaliser = self.charge.normaliser(self.parameters).cpu().numpy()
        row = {
            "measured": self._read(self.parameters, self.parameters),
            "normaliser": normaliser,
            "time": np.array(self.laws.time),
            "hyperparameters": self.last,
            **self.laws.predictions(),
        }
        for key, value in row.items():
            self.rows.setdefault(key, []).append(value)

    def record(self, step: NDArray[np.int64]) -> ChargeRecord:
        """Return the rows as arrays; `step` says at which steps they were taken."""
        arrays = {key: frozen(np.stack(rows)) for key, rows in self.rows.items()}
        return ChargeRecord(
            name=self.charge.name,
            step=step,
            time=arrays["time"],
            measured=arrays["measured"],
            normaliser=arrays["normaliser"],
            predicted={law: arrays[law] for law in LAWS},
            hyperparameters=dict(zip(_HYPERPARAMETERS, arrays["hyperparameters"].T, strict=True)),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return plain types and tensors that `load_state_dict` takes back exactly."""
        return {
            "laws": self.laws.state_dict(),
            "defect": torch.from_numpy(self.defect.copy()),
            "last": torch.from_numpy(self.last.copy()),
            "rows": {key: torch.from_numpy(np.stack(rows)) for key, rows in self.rows.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.laws.load_state_dict(state["laws"])
        self.defect = state["defect"].numpy().copy()
        self.last = state["last"].numpy().copy()
        self.rows = {key: list(rows.numpy().copy()) for key, rows in state["rows"].items()}


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array, made read-only."""
    array.flags.writeable = False
    return array
