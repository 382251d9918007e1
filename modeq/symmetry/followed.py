"""One charge of a running training: its laws and its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeq.symmetry.affine_charges import AffineSymmetry
from modeq.symmetry.charges import Charge
from modeq.symmetry.laws import SGDStep
from modeq.symmetry.matrix_charges import GeneralLinear, Matrices
from modeq.symmetry.records import ChargeRecord
from modeq.symmetry.running import RunningLaws

Array = NDArray[np.float64]

_HYPERPARAMETERS = ("h", "momentum", "dampening", "weight_decay", "nesterov")


class FollowedCharge:
    """A charge bound to the parameters of a module, with what was read of it.

    Attributes
    ----------
    charge : Charge
        What is followed.
    parameters : dict of str to Parameter
    epsilon : float
        Machine precision of the least precise parameter.
    defect : ndarray, shape [generators]
        Largest |⟨ξ(θ), g⟩|/(‖ξ‖‖g‖) seen, g being the whole gradient; of a matrix charge with the ‖θ_A‖ of its head, of
        a diagonal symmetry with (Σ|a|‖θ_A‖²)^½, for ‖ξ‖.
    numbers : int
        How many a row of the record takes.
    laws : RunningLaws
    """

    def __init__(self, charge: Charge, module: nn.Module, laws: Sequence[str]) -> None:
        self.charge = charge
        self.parameters = charge.parameters_of(module)
        self.epsilon = max(torch.finfo(p.dtype).eps for p in self.parameters.values())
        count, each = _generators(charge, self.parameters)
        self.defect, self._each = np.zeros(count), each
        self.numbers = count * (1 + len(laws))
        self.last = np.full(len(_HYPERPARAMETERS), np.nan)
        self.rows: dict[str, list[Array]] = {}
        self._kinds = tuple(laws)
        # Whether sizes are ‖ξ(x)‖ and ‖y‖, or ‖x‖ and ‖y‖, whose product is what the terms are compared with.
        self._factors = charge.degree == 0 or isinstance(charge, AffineSymmetry)
        self._unit = np.zeros(0)
        if charge.degree == 1:  # ‖ξ‖ of a constant generator
            ones = {name: torch.ones((), dtype=torch.float64).expand(p.shape) for name, p in self.parameters.items()}
            self._unit = charge.generator_norm(ones).numpy()

    def start(self, charge: Array, momentum: Array) -> None:
        """Set the laws to where they begin."""
        self.laws = RunningLaws(charge, momentum, self.charge.degree, self._kinds)

    def saw_gradient(self, along: Array, size: float) -> None:
        """Compare ⟨ξ(θ), g⟩ with ‖ξ‖‖g‖, at the parameters of the last row."""
        if size > 0:
            with np.errstate(all="ignore"):  # a training that diverges is reported by the record
                sizes = self.rows["sizes"][-1]
                if self._factors:
                    norm = np.repeat(np.split(sizes, 2)[0], self._each)
                else:
                    norm = self._unit if self.charge.degree == 1 else np.sqrt(np.repeat(sizes, self._each))
                whole = norm * size
                cosine = np.divide(np.abs(along), whole, out=np.zeros_like(along), where=whole > 0)
            self.defect = np.maximum(self.defect, cosine)

    def advance(self, step: SGDStep, forcing: Array, cross: Any, along: Any, *, first: bool) -> None:
        """Advance the laws by a step of gradient descent."""
        with np.errstate(all="ignore"):
            self.laws.advance(step, forcing, cross, first=first, defect=along)
        self.last = np.array([getattr(step, key) for key in _HYPERPARAMETERS], dtype=float)

    def saw_row(self, measured: Array, sizes: Array) -> None:
        """Append a row to the record."""
        row = {
            "measured": measured,
            "sizes": sizes,
            "time": np.array(self.laws.time),
            "hyperparameters": self.last,
            **self.laws.predictions(),
        }
        for key, value in row.items():
            self.rows.setdefault(key, []).append(value)

    def normaliser(self, sizes: Array) -> Array:
        """Return the sizes of the terms for each generator, from those that were read, along the last axis."""
        if self._factors:
            one, other = np.split(sizes, 2, axis=-1)
            sizes = one * other
        return np.repeat(sizes, self._each, axis=-1) if self._each > 1 else sizes

    def thin(self) -> None:
        """Keep every second row."""
        self.rows = {key: rows[::2] for key, rows in self.rows.items()}

    def record(self, step: NDArray[np.int64]) -> ChargeRecord:
        """Return the rows as arrays; `step` says at which steps they were taken."""
        arrays = {key: frozen(np.stack(rows)) for key, rows in self.rows.items()}
        return ChargeRecord(
            name=self.charge.name,
            step=step,
            time=arrays["time"],
            measured=arrays["measured"],
            normaliser=frozen(self.normaliser(arrays["sizes"])),
            predicted={law: arrays[law] for law in self._kinds},
            hyperparameters=dict(zip(_HYPERPARAMETERS, arrays["hyperparameters"].T, strict=True)),
            matrices=_matrices(self.charge, self.parameters),
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


def _generators(charge: Charge, parameters: Mapping[str, Any]) -> tuple[int, int]:
    """How many generators are followed, and how many of them share the size of their terms."""
    if not isinstance(charge, Matrices):
        return charge.count(parameters), 1
    heads, basis = charge.layout(parameters)
    each = basis.number("s" if charge.degree else "a")
    return heads * each, each


def _matrices(charge: Charge, parameters: Mapping[str, Any]) -> tuple[int, int] | None:
    """The heads of a matrix charge that is followed as a whole, and the size of their matrices."""
    if not isinstance(charge, GeneralLinear) or charge.elements is not None:
        return None
    heads, basis = charge.layout(parameters)
    return heads, basis.size


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array, made read-only."""
    array.flags.writeable = False
    return array
