"""The laws of one charge run alongside a training, each from its own earlier value."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modeq.symmetry.continuous import Variant, continuous_rotation, continuous_start, continuous_step
from modeq.symmetry.laws import SGDStep, discrete_step, rotation_step

Array = NDArray[np.float64]


class RunningLaws:
    """Predictions of one charge, advanced step by step; only the forcing comes from the training.

    Parameters
    ----------
    charge, momentum : ndarray, shape [generators]
        ⟨ξ(θ), θ⟩ and ⟨ξ(θ), v⟩ where the laws start; a rotation, of degree 0, is ⟨ξ(θ), v⟩ itself.
    degree : {0, 1, 2}
        1 for a linear charge, 2 for a quadratic one, 0 for a rotation.
    laws : which of `modeq.symmetry.records.LAWS`

    Examples
    --------
    >>> laws = RunningLaws(np.ones(1), np.zeros(1), degree=1, laws=["discrete"])
    >>> laws.advance(SGDStep(0.5, weight_decay=0.1), 0.0, 0.0, first=True, defect=0.0)
    >>> laws.predictions()["discrete"].tolist(), laws.time
    ([0.95], 0.5)
    """

    def __init__(self, charge: Array, momentum: Array, degree: int, laws: Sequence[str]) -> None:
        self.degree = degree
        self.time = 0.0
        # law -> (charge, conjugate): the conjugate is the momentum of a discrete law, the rate of a
        # continuous one, nan before the oscillator has started
        unset = np.full_like(charge, np.nan)
        starts = {
            "discrete": (charge, momentum),
            "article": (charge, unset),
            "corrected": (charge, unset),
            "with_defect": (charge, momentum),
            "observed": (charge, unset),
        }
        self._laws = tuple(laws)
        kept = {"discrete", *laws} if set(laws) != {"observed"} else {"observed"}
        self._states: dict[str, tuple[Array, Array]] = {law: starts[law] for law in starts if law in kept}

    def advance(self, step: SGDStep, forcing: Any, cross: Any, *, first: bool, defect: Any) -> None:
        """Advance every law by one step; the arguments are those of `discrete_step`."""
        if self.degree == 0:
            self._turn(step, first, defect)
            return
        before = self._states["discrete"]
        for law in self._states:
            if law in ("article", "corrected"):
                self._states[law] = self._continuous(law, before, step, forcing, first)  # type: ignore[arg-type]
            elif law in ("discrete", "with_defect"):
                self._states[law] = discrete_step(
                    *self._states[law],
                    step,
                    forcing,
                    cross,
                    degree=self.degree,
                    first=first,
                    defect=defect if law == "with_defect" else 0.0,
                )
        self.time += step.h

    def _turn(self, step: SGDStep, first: bool, defect: Any) -> None:
        for law, (rotation, unset) in self._states.items():
            if law in ("article", "corrected"):
                turned = continuous_rotation(rotation, step, first=first, variant=law)  # type: ignore[arg-type]
            else:
                given = defect if law == "with_defect" else 0.0
                turned = rotation_step(rotation, step, first=first, defect=given)
            self._states[law] = turned, unset
        self.time += step.h

    def observe(self, along: Any, quadratic: Any, h: float) -> None:
        """Add what an update Δ of any optimizer changes: degree·⟨ξ(θ), Δ⟩, and ⟨ξ(Δ), Δ⟩ if quadratic."""
        charge, unset = self._states["observed"]
        change = along if self.degree == 1 else 2 * along + quadratic
        self._states["observed"] = charge + change, unset
        self.time += h

    def _continuous(
        self, variant: Variant, before: tuple[Array, Array], step: SGDStep, forcing: Any, first: bool
    ) -> tuple[Array, Array]:
        charge, rate = self._states[variant]
        unset = np.full_like(charge, np.nan)
        if variant == "article" and step.nesterov:
            return unset, unset
        if step.momentum == 0:
            rate = unset
        elif np.isnan(rate).all():
            rate = continuous_start(charge, before[1], step, degree=self.degree, variant=variant, first=first)
        return continuous_step(charge, rate, step, forcing, degree=self.degree, variant=variant)

    def predictions(self) -> dict[str, Array]:
        """Return the charge that each law predicts now, each of shape [generators]."""
        return {law: self._states[law][0] for law in self._laws}

    def state_dict(self) -> dict[str, Any]:
        """Return plain types and tensors that `load_state_dict` takes back exactly."""
        states = {law: torch.from_numpy(np.stack(pair)) for law, pair in self._states.items()}
        return {"time": self.time, "states": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.time = float(state["time"])
        self._states = {law: tuple(pair.numpy().copy()) for law, pair in state["states"].items()}
