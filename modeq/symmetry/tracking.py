"""Measure the charges of a running training against their laws, through hooks on the optimizer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeq.displays import listed
from modeq.errors import InvalidCharge, NoClosedLaw, UnsupportedOptimizer
from modeq.symmetry.charges import Charge
from modeq.symmetry.explanation import explain_residual
from modeq.symmetry.followed import FollowedCharge, frozen
from modeq.symmetry.reading import Readings, whole
from modeq.symmetry.records import LAWS, OBSERVED, Record
from modeq.symmetry.sgd_state import is_sgd
from modeq.symmetry.steps import ObservedSteps, SGDSteps, Step, parameters_of

_VERSION = 3
_ROWS, _NUMBERS = 100_000, 2**27  # that are kept, 1 GB of them
_WAITING = 64  # steps that are read on another device before they are fetched


def track(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    charges: Sequence[Charge],
    *,
    every: int = 1,
    laws: Sequence[str] | None = None,
    keep: int | None = None,
    writer: Any = None,
) -> "Tracker":
    r"""Follow charges of a module while an unmodified optimizer trains it.

    From the moment of this call each charge is predicted open loop, N_{n+1} = law(N_n), where only the
    forcing ⟨ξ(u), u⟩ is read from the training, and compared with what the parameters say. Learning rate,
    momentum, dampening, weight decay, nesterov and maximize are read at every step, so schedulers may change
    them, and gradients may be clipped by their global norm. Nothing of the module, the optimizer or torch's
    global state is changed.

    The laws are those of `torch.optim.SGD` itself. Charges under any other optimizer are measured, and what its
    updates Δ change is added up, N ← N + 2⟨ξ(θ), Δ⟩ + ⟨ξ(Δ), Δ⟩, without a prediction.

    Parameters
    ----------
    module : torch.nn.Module
        The network; compiled, distributed or fully sharded ones too.
    optimizer : torch.optim.Optimizer
        Fresh or in mid-training; momentum buffers present count as the start.
    charges : sequence of Charge
        Values of the families of charges, with distinct names.
    every : int
        Record each `every`-th step; the laws themselves advance at all steps.
    laws : sequence of str, optional
        Some of "discrete", "article", "corrected" and "with_defect", by default all four; or ``["observed"]``, which
        adds up the updates, the only one under another optimizer than SGD, and for charges whose members lie in
        parameter groups with different hyper-parameters.
    keep : int, optional
        Rows that are kept, at least 2: when there are more, every second one is dropped and `every` doubles. By default
        100,000, or as many as take 1 GB, which the matrix charges of a large network are soon.
    writer : optional
        Something with ``add_scalar(tag, value, step)``, as TensorBoard's SummaryWriter: it gets the mean of each charge
        and the largest residual of its first law at each recorded step.

    Returns
    -------
    Tracker
        Active until `Tracker.remove`, or the end of a ``with`` block.

    Raises
    ------
    InvalidCharge
        If a charge does not fit the module or the optimizer, two have one name, or an argument is of the
        wrong kind.
    NoClosedLaw
        If members of one charge lie in parameter groups with different hyper-parameters; a later step raises
        it too, before anything moved, if a schedule parts them or only some members have a gradient. For a rotation
        under Nesterov, without momentum, or under another optimizer; for an `AffineSymmetry` without a law.
    UnsupportedOptimizer
        For what is no optimizer of torch, or if a law is asked for that the optimizer does not obey.

    Examples
    --------
    >>> import torch
    >>> from modeq.symmetry.charges import Translation
    >>> net = torch.nn.Linear(4, 3)
    >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    >>> with track(net, sgd, [Translation("classifier", {"weight": 1})]) as tracker:
    ...     for _ in range(5):
    ...         sgd.zero_grad()
    ...         torch.nn.functional.cross_entropy(net(torch.eye(4)), torch.tensor([0, 1, 2, 0])).backward()
    ...         sgd.step()
    >>> tracker.residual()["classifier"] < 1e-5, tracker.record["classifier"].measured.shape
    (True, (6, 4))
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UnsupportedOptimizer(f"optimizer is {type(optimizer).__name__}: give one of torch.optim")
    return Tracker(module, optimizer, charges, every=every, laws=laws, keep=keep, writer=writer)


@dataclass
class _Waiting:
    """What was read and not fetched yet, of a step or of the row after so many."""

    step: Step | None = None
    row: int | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)


class Tracker:
    """A running comparison of charges with their laws; made by `track`.

    Attributes
    ----------
    charges : tuple of Charge
        What is followed.
    laws : tuple of str
        What each is compared with.
    steps : int
        Optimizer steps seen.
    every : int
        A row is recorded each time this many steps have passed.

    Examples
    --------
    >>> import torch
    >>> from modeq.symmetry.charges import Translation
    >>> net = torch.nn.Linear(4, 3)
    >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> tracker = track(net, sgd, [Translation("classifier", {"weight": 1})])
    >>> tracker.steps, tracker.residual(), tracker.symmetry_defect()
    (0, {'classifier': 0.0}, {'classifier': 0.0})
    >>> tracker.load_state_dict(tracker.state_dict())
    >>> tracker.remove()
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        charges: Sequence[Charge],
        *,
        every: int,
        laws: Sequence[str] | None,
        keep: int | None,
        writer: Any,
    ) -> None:
        self.charges = _checked(module, charges)
        self.every = _integer("every", every, 1)
        self.laws = _chosen(laws, optimizer)
        self.steps = 0
        names = [charge.name for charge in self.charges]
        if not names or len(set(names)) < len(names):
            raise InvalidCharge(
                f"tracking needs charges with distinct names, got {names}; give others with charge.renamed"
            )
        if writer is not None and not callable(getattr(writer, "add_scalar", None)):
            raise InvalidCharge(f"writer is {writer!r}: give something with add_scalar(tag, value, step)")
        self._module, self._optimizer, self._writer = module, optimizer, writer
        self._followed = {charge.name: FollowedCharge(charge, module, self.laws) for charge in self.charges}
        row = sum(followed.numbers for followed in self._followed.values())
        self._keep = min(_ROWS, max(2, _NUMBERS // max(row, 1))) if keep is None else _integer("keep", keep, 2)
        self._readings = Readings({name: (f.charge, f.parameters) for name, f in self._followed.items()})
        watch: Any = ObservedSteps if self.laws == (OBSERVED,) else SGDSteps
        self._watch: SGDSteps | ObservedSteps = watch(optimizer, self._followed, self._readings)
        self._rows: list[int] = []
        self._waiting: list[_Waiting] = []
        with torch.no_grad():
            momenta = self._readings.split(self._watch.momenta().cpu().numpy(), self._followed)
            start = self._measured({key: tensor.cpu().numpy() for key, tensor in self._row().items()})
        for name, followed in self._followed.items():
            followed.start(start[name][0], momenta[name])
        self._append_row()
        self._fetch()
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def __repr__(self) -> str:
        return f"Tracker({len(self.charges)} charges, {self.steps} steps, laws {listed(self.laws, 4)})"

    def _repr_html_(self) -> str:
        return self.record._repr_html_()

    def remove(self) -> None:
        """Take the hooks off the optimizer; the record stays. May be called again."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _before_step(self, _: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None or self.laws == (OBSERVED,):
            self._observe()
            return None
        # gradients exist only once the closure has run inside of step, so look at them at its end
        return args[:1], {"closure": self._observed(closure)}

    def _observed(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            loss = closure()
            self._observe()
            return loss

        return run

    @torch.no_grad()
    def _observe(self) -> None:
        with_defect = "with_defect" in self.laws
        self._step = self._watch.before(with_defect)
        if with_defect and self.steps % self.every == 0:
            gradients = [
                p.grad for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            size = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
            self._step.values["size"] = whole(size).double().reshape(1)

    @torch.no_grad()
    def _after_step(self, *_: object) -> None:
        step = self._step
        del self._step
        self._watch.after(step)
        self._waiting.append(_Waiting(step=step, tensors=step.values))
        self.steps += 1
        del step
        waits = len(self._waiting) < _WAITING and self._on_device()
        if not waits:
            self._fetch()
        if self.steps % self.every == 0:
            self._append_row()
            if not waits:
                self._fetch()

    def _on_device(self) -> bool:
        return any(p.is_cuda for followed in self._followed.values() for p in followed.parameters.values())

    def _row(self) -> dict[str, Tensor]:
        theta, turning = parameters_of(self._followed), self._watch.rotations
        still = [name for name in self._followed if name not in turning]
        found = {"row": self._readings.pairing(theta, theta, still, sizes=True)}
        if turning:
            buffers = self._watch.held(turning)
            found["rotations"] = self._readings.pairing(theta, buffers, sorted(turning), sizes=True)
        return found

    @torch.no_grad()
    def _append_row(self) -> None:
        self._waiting.append(_Waiting(row=self.steps, tensors=self._row()))

    def _fetch(self) -> None:
        """Bring what was read to the host at once, and advance the laws and the record by it."""
        on_device = [t for waiting in self._waiting for t in waiting.tensors.values() if t.is_cuda]
        fetched = iter(torch.cat(on_device).cpu().split([len(t) for t in on_device])) if on_device else iter(())
        for waiting in self._waiting:
            values = {
                key: (next(fetched) if tensor.is_cuda else tensor).numpy() for key, tensor in waiting.tensors.items()
            }
            if waiting.step is not None:
                self._advance(waiting.step, values)
            else:
                self._record(waiting.row, values)
        self._waiting = []

    def _advance(self, step: Step, values: dict[str, Any]) -> None:
        size = values.pop("size", None)
        if size is not None:
            for name, along in self._readings.split(values["along"], step.of).items():
                self._followed[name].saw_gradient(along, float(size[0]))
        self._watch.advance(step, values)

    def _measured(self, row: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What a row says of each charge: its value, and how large its terms are."""
        turning = self._watch.rotations
        names = {"row": [name for name in self._followed if name not in turning], "rotations": sorted(turning)}
        found: dict[str, tuple[Any, Any]] = {}
        for key, packed in row.items():
            values = self._readings.split(packed, names[key])
            stop = sum(map(len, values.values()))
            sizes = self._readings.split(packed[stop:], names[key], sizes=True)
            found |= {name: (values[name].copy(), sizes[name].copy()) for name in names[key]}
        return found

    def _record(self, number: Any, row: Mapping[str, Any]) -> None:
        self._rows.append(number)
        for name, (measured, sizes) in self._measured(row).items():
            self._followed[name].saw_row(measured, sizes)
        self._write(number)
        if len(self._rows) > self._keep:
            self._rows = self._rows[::2]
            self.every *= 2
            for followed in self._followed.values():
                followed.thin()

    def _write(self, number: int) -> None:
        if self._writer is None:
            return
        for name, followed in self._followed.items():
            measured, predicted, sizes = (followed.rows[key][-1] for key in ("measured", self.laws[0], "sizes"))
            scale = followed.normaliser(sizes)
            with np.errstate(all="ignore"):
                residual = np.max(np.abs(predicted - measured) / np.where(scale > 0, scale, np.inf), initial=0.0)
            self._writer.add_scalar(f"charges/{name}", float(measured.mean()), number)
            self._writer.add_scalar(f"residuals/{name}", float(residual), number)

    @property
    def record(self) -> Record:
        """Everything recorded so far, as read-only arrays."""
        self._fetch()
        step = frozen(np.array(self._rows))
        return Record(step, {name: f.record(step) for name, f in self._followed.items()})

    def residual(self, law: str = "discrete", *, charge_relative: bool = False) -> dict[str, float]:
        """Return for each charge the largest relative residual over recorded steps and generators.

        Parameters
        ----------
        law : {"discrete", "article", "corrected", "with_defect", "observed"}
            The exact discrete law; the continuous law as published (Kunin et al. 2021, arXiv 2012.04728)
            or corrected; the discrete law with the measured ⟨ξ(θ), g⟩ inserted, which holds for any gradient; the
            sum of the observed updates, for any optimizer.
        charge_relative : bool
            Divide by |charge| instead of the normaliser of the record.

        Raises
        ------
        NoClosedLaw
            For an unknown law, one that is not followed, or the article's law under Nesterov.
        Diverged
            If a charge left the finite numbers; its `.trajectory` is the record of that charge.
        """
        return {
            name: float(charge.residual(law, charge_relative=charge_relative).max(initial=0.0))
            for name, charge in self.record.charges.items()
        }

    def symmetry_defect(self) -> dict[str, float]:
        """Return for each charge the largest |⟨ξ(θ), g⟩|/(‖ξ‖‖g‖) seen, g being the whole gradient.

        Zero up to rounding if the loss has the symmetry; taken at the recorded steps.

        Raises
        ------
        NoClosedLaw
            If the law "with_defect", for which ⟨ξ(θ), g⟩ is read, is not followed.
        """
        _require(self.laws, ("with_defect",), "the defect of a symmetry")
        self._fetch()
        return {name: float(f.defect.max(initial=0.0)) for name, f in self._followed.items()}

    def explain(self) -> dict[str, str]:
        """Return for each charge one sentence on its residual: rounding, a broken symmetry, or interference.

        The symmetry is blamed if inserting the measured ⟨ξ(θ), g⟩ into the discrete law makes the residual
        at least ten times smaller.
        """
        record = self.record
        if self.laws == (OBSERVED,):
            kind = type(self._optimizer).__name__
            missed = {name: float(record[name].residual(OBSERVED).max(initial=0.0)) for name in record}
            return {
                name: f"{type(f.charge).__name__} {name!r}: measured under {kind}, without a prediction; "
                f"the sum of what its updates change misses it by {missed[name]:.1e}."
                for name, f in self._followed.items()
            }
        _require(self.laws, ("discrete", "with_defect"), "an explanation")
        return {
            name: explain_residual(f.charge, record[name], float(f.defect.max(initial=0.0)), self._module, f.epsilon)
            for name, f in self._followed.items()
        }

    def to_xarray(self) -> Any:
        """Return the record as an xarray.Dataset; see :meth:`modeq.symmetry.records.Record.to_xarray`."""
        return self.record.to_xarray()

    def plot(self, names: Sequence[str] | None = None, figure: Any = None) -> Any:
        """Draw the record so far, of all charges or of some `names`; given a `figure`, into that one again.

        See :meth:`modeq.symmetry.records.Record.plot`.
        """
        return self.record.plot(names, figure)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as tensors and plain types, to be saved next to the optimizer's."""
        self._fetch()
        return {
            "version": _VERSION,
            "laws": list(self.laws),
            "charges": [charge.to_dict() for charge in self.charges],
            "every": self.every,
            "steps": self.steps,
            "rows": torch.tensor(self._rows),
            "followed": {name: f.state_dict() for name, f in self._followed.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state`, a `state_dict`, was taken, once module and optimizer are back at that point.

        Raises
        ------
        InvalidCharge
            If it was taken from other charges or laws, or by another version.
        """
        if state["version"] != _VERSION:
            raise InvalidCharge(
                f"tracker state has version {state['version']}; this modeq reads {_VERSION}, track anew"
            )
        saved = tuple(Charge.from_dict(data) for data in state["charges"])
        if saved != self.charges:
            raise InvalidCharge(f"tracker state is of the charges {saved}, this tracker follows {self.charges}")
        if tuple(state["laws"]) != self.laws:
            raise InvalidCharge(f"tracker state is of the laws {state['laws']}, this tracker follows {list(self.laws)}")
        self.every, self.steps = state["every"], state["steps"]
        self._rows = state["rows"].tolist()
        for name, followed in self._followed.items():
            followed.load_state_dict(state["followed"][name])


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        what = "a positive number of steps, an integer" if least == 1 else f"an integer of at least {least}"
        raise InvalidCharge(f"{name} is {value!r}; give {what}")
    return int(value)


def _chosen(laws: Any, optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """The laws to follow; raises if there are no such, or the optimizer does not obey them."""
    if laws is None:
        return LAWS if is_sgd(optimizer) else (OBSERVED,)
    chosen = tuple(laws) if isinstance(laws, Sequence) and not isinstance(laws, str) else ()
    if chosen != (OBSERVED,) and (not chosen or not set(chosen) <= set(LAWS) or len(set(chosen)) < len(chosen)):
        raise NoClosedLaw(f"laws is {laws!r}: give some of {list(LAWS)}, or [{OBSERVED!r}]")
    if chosen != (OBSERVED,) and not is_sgd(optimizer):
        raise UnsupportedOptimizer(
            f"laws is {laws!r}: {type(optimizer).__name__} does not obey them, which follow from the update rule of "
            f"torch.optim.SGD itself; measure with laws=[{OBSERVED!r}]"
        )
    return chosen


def _require(laws: tuple[str, ...], needed: tuple[str, ...], what: str) -> None:
    missing = [law for law in needed if law not in laws]
    if missing:
        raise NoClosedLaw(f"{what} needs the laws {list(needed)}, and {missing} are not followed")


def _checked(module: Any, charges: Any) -> tuple[Charge, ...]:
    """Return the charges as a tuple; raises `InvalidCharge` if these are no module and no charges."""
    if not isinstance(module, nn.Module):
        raise InvalidCharge(f"module is {module!r}; give the network that the optimizer trains, a torch.nn.Module")
    if not isinstance(charges, Iterable) or isinstance(charges, str | Mapping):
        raise InvalidCharge(f"charges is {charges!r}; give a sequence of charges, such as [Translation(...)]")
    listed = tuple(charges)
    for entry in listed:
        if not isinstance(entry, Charge):
            raise InvalidCharge(f"charges contains {entry!r}; give Translation, Scale, Rescale or GeneralLinear values")
    return listed
