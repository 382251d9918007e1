"""What a tracked training leaves behind: read-only arrays, one set for each charge."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeq.errors import Diverged, NoClosedLaw

Array = NDArray[np.float64]

LAWS = ("discrete", "article", "corrected", "with_defect")


@dataclass(frozen=True)
class ChargeRecord:
    """One charge along a training; the first row is the moment at which tracking began.

    Attributes
    ----------
    name : str
        The name of the charge.
    step : ndarray, shape [rows]
        Steps taken since tracking began.
    time : ndarray, shape [rows]
        Sum of the learning rates of the steps that moved the charge, h·n at a constant one.
    measured : ndarray, shape [rows, generators]
        ⟨ξ(θ), θ⟩ of the parameters.
    normaliser : ndarray, shape [rows, generators]
        Σ|θ_A| of a translation, ‖θ_A‖² of a scale or rescale charge.
    predicted : mapping of str to ndarray, shape [rows, generators]
        By law, each carried on from its own earlier value and never from a measured charge.
    hyperparameters : mapping of str to ndarray, shape [rows]
        h, momentum, dampening, weight_decay and nesterov of the step that led to the row; nan where none did.

    Examples
    --------
    >>> import numpy as np
    >>> row = np.ones((1, 1))
    >>> record = ChargeRecord("fc", np.zeros(1), np.zeros(1), row, 4 * row, {"discrete": 3 * row}, {})
    >>> float(record.residual("discrete")[0, 0])
    0.5
    """

    name: str
    step: NDArray[np.int64]
    time: Array
    measured: Array
    normaliser: Array
    predicted: Mapping[str, Array]
    hyperparameters: Mapping[str, Array]

    def residual(self, law: str = "discrete", *, charge_relative: bool = False) -> Array:
        """Return |predicted − measured| over the normaliser, shape [rows, generators].

        Parameters
        ----------
        law : {"discrete", "article", "corrected", "with_defect"}
            Which prediction.
        charge_relative : bool
            Divide by |measured| instead, which for a rescale charge may be next to 0.

        Raises
        ------
        NoClosedLaw
            If there is no such law, or it does not cover the steps taken.
        Diverged
            If the charge, or its prediction, left the finite numbers.
        """
        if law not in self.predicted:
            raise NoClosedLaw(f"no law {law!r}; choose one of {', '.join(self.predicted)}")
        bad = ~np.isfinite(self.measured).all(axis=1)
        if bad.any():
            raise Diverged(
                f"charge {self.name!r} is not finite from step {self.step[bad.argmax()]} on: the training "
                "diverged; lower the learning rate, or read the record up to there",
                trajectory=self,
            )
        predicted = self.predicted[law]
        if law == "article" and np.isnan(predicted).any():
            raise NoClosedLaw(
                f"charge {self.name!r}: the article has no law for Nesterov momentum; use law='corrected'"
            )
        lost = ~np.isfinite(predicted).all(axis=1)
        if lost.any():
            raise Diverged(
                f"charge {self.name!r}: the {law} law is not finite from step {self.step[lost.argmax()]} on, "
                "although the charge is; its learning rate times weight decay is beyond the stability limit",
                trajectory=self,
            )
        with np.errstate(all="ignore"):  # finite numbers whose difference is not give inf
            difference = np.abs(predicted - self.measured)
            scale = np.abs(self.measured) if charge_relative else self.normaliser
            unscaled = np.where(difference == 0, 0.0, np.inf)
            return np.divide(difference, scale, out=unscaled, where=scale > 0)


@dataclass(frozen=True)
class Record:
    """A tracked training: `record[name]` is the `ChargeRecord` of the charge of that name.

    Attributes
    ----------
    step : ndarray, shape [rows]
        Steps taken since tracking began, 0 first.
    charges : mapping of str to ChargeRecord
        By the name of the charge.

    Examples
    --------
    >>> import numpy as np
    >>> list(Record(np.zeros(1), {}))
    []
    """

    step: NDArray[np.int64]
    charges: Mapping[str, ChargeRecord]

    def __getitem__(self, name: str) -> ChargeRecord:
        return self.charges[name]

    def __iter__(self):
        return iter(self.charges)

    def __len__(self) -> int:
        return len(self.charges)
