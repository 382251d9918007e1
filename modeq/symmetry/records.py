"""What a tracked training leaves behind: read-only arrays, one set for each charge."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from modeq.displays import Table, Tabular, listed
from modeq.errors import Diverged, InvalidCharge, InvalidSetting, MissingDependency, NoClosedLaw, choice

Array = NDArray[np.float64]

LAWS = ("discrete", "article", "corrected", "with_defect")
OBSERVED = "observed"  # no law: the sum of what the updates changed
TITLES = {
    "discrete": "exact discrete law",
    "corrected": "continuous, corrected",
    "article": "continuous, article",
    "with_defect": "exact law with the measured ⟨ξ, g⟩",
    OBSERVED: "sum of the updates",
}


_ARRAYS = ("time", "measured", "normaliser")
_TABLES = ("predicted", "hyperparameters")
_SHOWN = 4


@dataclass(frozen=True, repr=False)
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
        Σ|θ_A| of a translation, ‖θ_A‖² of a scale or rescale charge; of a matrix charge ‖U‖² + ‖V‖², summed over the
        columns of its head, of a rotation the root of that for θ and for v, multiplied; of a diagonal symmetry
        Σ|a|‖θ_A‖², of an affine one ‖ξ(θ)‖‖θ_A‖, with v for the second θ where it is antisymmetric.
    predicted : mapping of str to ndarray, shape [rows, generators]
        By law, each carried on from its own earlier value and never from a measured charge.
    hyperparameters : mapping of str to ndarray, shape [rows]
        h, momentum, dampening, weight_decay and nesterov of the step that led to the row; nan where none did.
    matrices : (int, int), optional
        The number of heads of a matrix charge and the size r of their matrices, of which the generators are the upper
        triangles, one head after another; see `matrix`.

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
    matrices: tuple[int, int] | None = None

    def matrix(self, law: str | None = None) -> Array:
        """Return M = UᵀU − VᵀV of a matrix charge, measured or as a law predicts it, shape [rows, heads, r, r].

        Raises
        ------
        InvalidCharge
            If it is no matrix charge, or one of some matrices only, as between rotated queries and keys.
        NoClosedLaw
            If there is no such law.

        Examples
        --------
        >>> import numpy as np
        >>> row = np.array([[1.0, 2.0, 3.0]])
        >>> record = ChargeRecord("0-1", np.zeros(1), np.zeros(1), row, row, {}, {}, matrices=(1, 2))
        >>> record.matrix().tolist(), record.trace().tolist()
        ([[[[1.0, 2.0], [2.0, 3.0]]]], [[4.0]])
        >>> record.off_diagonal().round(3).tolist(), record.spectrum().round(3).tolist()
        ([[2.828]], [[[-0.236, 4.236]]])
        """
        if self.matrices is None:
            raise InvalidCharge(f"charge {self.name!r} is no whole matrix: read its entries, measured and predicted")
        if law is not None and law not in self.predicted:
            raise NoClosedLaw(f"law is {choice(law, self.predicted)}")
        values = self.measured if law is None else self.predicted[law]
        heads, size = self.matrices
        row, column = np.triu_indices(size)
        found = np.empty((len(values), heads, size, size))
        found[..., row, column] = found[..., column, row] = values.reshape(len(values), heads, -1)
        return found

    def trace(self, law: str | None = None) -> Array:
        """Return tr M of each head, the rescale charge of all its coordinates, shape [rows, heads]; see `matrix`."""
        return np.trace(self.matrix(law), axis1=-2, axis2=-1)

    def spectrum(self, law: str | None = None) -> Array:
        """Return the eigenvalues of M, the smallest first, shape [rows, heads, r]; see `matrix`."""
        return cast(Array, np.linalg.eigvalsh(self.matrix(law)))

    def off_diagonal(self, law: str | None = None) -> Array:
        """Return the norm of M without its diagonal, shape [rows, heads]; see `matrix`."""
        found = self.matrix(law)
        diagonal = np.arange(found.shape[-1])
        found[..., diagonal, diagonal] = 0.0
        return np.linalg.norm(found, axis=(-2, -1))

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
            raise NoClosedLaw(f"law is {choice(law, self.predicted)}")
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

    def __repr__(self) -> str:
        rows, generators = self.measured.shape
        return f"ChargeRecord({self.name!r}, {rows} rows of {generators} generators, laws {listed(self.predicted)})"

    def _repr_html_(self) -> str:
        return Record(self.step, {self.name: self})._repr_html_()


@dataclass(frozen=True, repr=False)
class Record(Tabular):
    """A tracked training: `record[name]` is the `ChargeRecord` of the charge of that name.

    It is saved with `save`, and handed on with `to_xarray`, `to_pandas` and `plot`.

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

    def save(self, path: Any) -> None:
        """Write everything to a numpy file, ``name.npz``, that `Record.load` reads.

        Raises
        ------
        InvalidSetting
            If it cannot be written.
        """
        arrays: dict[str, Any] = {"step": self.step, "charges": np.array(list(self.charges), dtype=str)}
        for k, charge in enumerate(self.charges.values()):
            arrays |= {f"{k}/{key}": getattr(charge, key) for key in _ARRAYS}
            for table in _TABLES:
                arrays |= {f"{k}/{table}/{key}": value for key, value in getattr(charge, table).items()}
            if charge.matrices is not None:
                arrays[f"{k}/matrices"] = np.array(charge.matrices)
        try:
            with Path(path).open("wb") as file:
                np.savez_compressed(file, **arrays)
        except OSError as error:
            raise InvalidSetting(f"path is {str(path)!r}, which cannot be written ({error.strerror})") from error

    @staticmethod
    def load(path: Any) -> "Record":
        """Read what `save` wrote.

        Raises
        ------
        InvalidSetting
            If there is no such file, or it is something else.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> row = np.ones((1, 1))
        >>> charge = ChargeRecord("fc", np.zeros(1), np.zeros(1), row, 4 * row, {"discrete": 3 * row}, {})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Record(np.zeros(1), {"fc": charge}).save(f"{folder}/record.npz")
        ...     again = Record.load(f"{folder}/record.npz")
        >>> again["fc"].predicted["discrete"].tolist()
        [[3.0]]
        """
        try:
            with np.load(path) as file:
                arrays = {key: file[key] for key in file.files}
            step, names = arrays["step"], arrays["charges"].tolist()
        except (OSError, ValueError, KeyError) as error:
            raise InvalidSetting(f"path is {str(path)!r}: no record that Record.save has written ({error})") from error
        charges = {}
        for k, name in enumerate(names):
            plain = [arrays[f"{k}/{key}"] for key in _ARRAYS]
            tables = [
                {key.rsplit("/", 1)[1]: value for key, value in arrays.items() if key.startswith(f"{k}/{table}/")}
                for table in _TABLES
            ]
            heads, size = arrays.get(f"{k}/matrices", (0, 0))
            stored: list[Any] = [*plain, *tables, (int(heads), int(size)) if size else None]
            charges[name] = ChargeRecord(name, step, *stored)
        return Record(step, charges)

    def to_xarray(self) -> Any:
        """Return an xarray.Dataset: for each charge its measured values, normaliser and predictions, by step.

        Raises
        ------
        MissingDependency
            Without xarray.
        """
        xarray = _needed("xarray")
        variables: dict[str, Any] = {}
        for name, charge in self.charges.items():
            over = ("step", f"generator of {name}")
            variables[name] = (over, charge.measured, {"long_name": "charge"})
            variables[f"{name}, normaliser"] = (over, charge.normaliser)
            for law, values in charge.predicted.items():
                variables[f"{name}, {law}"] = (over, values, {"long_name": TITLES[law]})
        time = next(iter(self.charges.values())).time
        return xarray.Dataset(variables, coords={"step": self.step, "time": ("step", time)})

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame with a row for each step, charge and generator.

        Raises
        ------
        MissingDependency
            Without pandas.
        """
        pandas = _needed("pandas")
        frames = []
        for name, charge in self.charges.items():
            rows, generators = charge.measured.shape
            columns = {
                "step": np.repeat(self.step, generators),
                "time": np.repeat(charge.time, generators),
                "charge": name,
                "generator": np.tile(np.arange(generators), rows),
                "measured": charge.measured.ravel(),
                "normaliser": charge.normaliser.ravel(),
                **{law: values.ravel() for law, values in charge.predicted.items()},
            }
            frames.append(pandas.DataFrame(columns))
        return pandas.concat(frames, ignore_index=True)

    def plot(self, names: Sequence[str] | None = None, figure: Any = None) -> Any:
        """Draw charges, measured in colour and predicted dashed, and below them the residuals; return the figure.

        Parameters
        ----------
        names : sequence of str, optional
            Which charges; by default the first ones, four at most.
        figure : matplotlib figure, optional
            It is cleared first, so that a running training may be drawn into the same again and again.

        Raises
        ------
        InvalidCharge
            If there is no charge of a name.
        """
        from matplotlib.figure import Figure

        from modeq import plots

        chosen = list(self.charges)[:_SHOWN] if names is None else list(names)
        missing = [name for name in chosen if name not in self.charges]
        if missing or not chosen:
            raise InvalidCharge(f"names is {names!r}: give some of {list(self.charges)}")
        if figure is None:
            figure = Figure(figsize=(4.8 * len(chosen), 6.8), layout="constrained")
        else:
            figure.clear()
        axes = figure.subplots(2, len(chosen), squeeze=False, height_ratios=(3, 2))
        for column, name in zip(axes.T, chosen, strict=True):
            entry = self.charges[name]
            rows = np.isfinite(entry.measured).all(axis=1)
            laws = {law: v[rows] for law, v in entry.predicted.items() if np.isfinite(v[rows]).all()}
            laws = {TITLES[law]: v for law, v in laws.items() if law != "with_defect"}
            drawn = {title: values for title, values in laws.items() if title != TITLES["corrected"]}
            plots.plot_charge(entry.time[rows], entry.measured[rows], drawn, name, ax=column[0])
            column[0].set_ylabel("charge ⟨ξ(θ), θ⟩")
            scale = np.maximum(entry.normaliser[rows], np.finfo(float).tiny)
            residuals = {title: np.max(abs(v - entry.measured[rows]) / scale, axis=1) for title, v in laws.items()}
            plots.plot_residuals(entry.time[rows], residuals, ax=column[1])
        for ax, place in ((axes[0, 0], "outside upper center"), (axes[1, 0], "outside lower center")):
            handles, labels = ax.get_legend_handles_labels()
            figure.legend(handles, labels, loc=place, ncols=3, frameon=False)
        return figure

    def table(self) -> str:
        """Return a line for each charge: its generators, and the largest residual of each law.

        Examples
        --------
        >>> import numpy as np
        >>> row = np.ones((1, 1))
        >>> charge = ChargeRecord("fc", np.zeros(1), np.zeros(1), row, 4 * row, {"discrete": 3 * row}, {})
        >>> print(Record(np.zeros(1), {"fc": charge}).table())
        charge  generators  exact discrete law
        fc      1           5.0e-01
        1 rows, from step 0 to 0
        """
        return super().table()

    def _tables(self) -> list[Table]:
        laws = list(dict.fromkeys(law for charge in self.charges.values() for law in charge.predicted))
        rows = [
            (name, str(charge.measured.shape[1]), *(_largest(charge, law) for law in laws))
            for name, charge in self.charges.items()
        ]
        notes = [f"{len(self.step)} rows, from step {self.step[0]:g} to {self.step[-1]:g}"] if len(self.step) else []
        return [Table(("charge", "generators", *(TITLES[law] for law in laws)), rows, notes=notes)]

    def __repr__(self) -> str:
        return f"Record({len(self.charges)} charges, {len(self.step)} rows)"

    def __getitem__(self, name: str) -> ChargeRecord:
        return self.charges[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.charges)

    def __len__(self) -> int:
        return len(self.charges)


def _largest(charge: ChargeRecord, law: str) -> str:
    """The largest residual of a law in words."""
    try:
        return f"{charge.residual(law).max(initial=0.0):.1e}"
    except NoClosedLaw:
        return "no law"
    except Diverged:
        return "diverged"


def _needed(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingDependency(f"this needs {package}: pip install 'modeq[records]'") from error
