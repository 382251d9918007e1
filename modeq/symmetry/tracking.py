"""Measure the charges of a running training against their laws, through hooks on the optimizer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

from modeq.errors import InvalidCharge
from modeq.symmetry.charges import Charge
from modeq.symmetry.explanation import explain_residual
from modeq.symmetry.followed import FollowedCharge, frozen
from modeq.symmetry.records import Record
from modeq.symmetry.sgd_state import require_sgd

_VERSION = 1


def track(module: nn.Module, optimizer: torch.optim.SGD, charges: Sequence[Charge], *, every: int = 1) -> "Tracker":
    r"""Follow charges of a module while an unmodified `torch.optim.SGD` trains it.

    From the moment of this call each charge is predicted open loop, N_{n+1} = law(N_n), where only the
    forcing ⟨ξ(u), u⟩ is read from the training, and compared with what the parameters say. Learning rate,
    momentum, dampening, weight decay, nesterov and maximize are read at every step, so schedulers may change
    them, and gradients may be clipped by their global norm. Nothing of the module, the optimizer or torch's
    global state is changed.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    optimizer : torch.optim.SGD
        Its optimizer, fresh or in mid-training; momentum buffers present count as the start.
    charges : sequence of Charge
        `Translation`, `Scale`, `Rescale` values with distinct names.
    every : int
        Record each `every`-th step; the laws themselves advance at all steps.

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
        it too, before anything moved, if a schedule parts them or only some members have a gradient.
    UnsupportedOptimizer
        For any optimizer but `torch.optim.SGD` itself.

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
    return Tracker(module, require_sgd(optimizer), charges, every=every)


class Tracker:
    """A running comparison of charges with their laws; made by `track`.

    Attributes
    ----------
    charges : tuple of Charge
        What is followed.
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
    >>> tracker.steps, tracker.residual()
    (0, {'classifier': 0.0})
    >>> tracker.remove()
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.SGD, charges: Sequence[Charge], *, every: int) -> None:
        self.charges = _checked(module, charges)
        if isinstance(every, bool) or not isinstance(every, Integral) or every < 1:
            raise InvalidCharge(f"every is {every!r}; give a positive number of steps, an integer")
        self.every = int(every)
        self.steps = 0
        names = [charge.name for charge in self.charges]
        if not names or len(set(names)) < len(names):
            raise InvalidCharge(f"tracking needs charges with distinct names, got {names}")
        self._module, self._optimizer = module, optimizer
        self._followed = {charge.name: FollowedCharge(charge, module, optimizer) for charge in self.charges}
        self._rows = [0]
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

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
        if closure is None:
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
        gradients = [p.grad for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None]
        size = 0.0
        if self.steps % self.every == 0:
            size = float(torch.nn.utils.get_total_norm(gradients))
        for followed in self._followed.values():
            followed.before_step(self._optimizer, size)

    @torch.no_grad()
    def _after_step(self, *_: object) -> None:
        for followed in self._followed.values():
            followed.after_step(self._optimizer)
        self.steps += 1
        if self.steps % self.every == 0:
            self._rows.append(self.steps)
            for followed in self._followed.values():
                followed.measure()

    @property
    def record(self) -> Record:
        """Everything recorded so far, as read-only arrays."""
        step = frozen(np.array(self._rows))
        return Record(step, {name: f.record(step) for name, f in self._followed.items()})

    def residual(self, law: str = "discrete", *, charge_relative: bool = False) -> dict[str, float]:
        """Return for each charge the largest relative residual over recorded steps and generators.

        Parameters
        ----------
        law : {"discrete", "article", "corrected", "with_defect"}
            The exact discrete law; the continuous law as published (Kunin et al. 2021, arXiv 2012.04728)
            or corrected; the discrete law with the measured ⟨ξ(θ), g⟩ inserted, which holds for any gradient.
        charge_relative : bool
            Divide by |charge| instead of Σ|θ_A| (translation) or ‖θ_A‖² (scale, rescale).

        Raises
        ------
        NoClosedLaw
            For an unknown law, or the article's law under Nesterov.
        Diverged
            If a charge left the finite numbers; its `.trajectory` is the record of that charge.
        """
        return {
            name: float(charge.residual(law, charge_relative=charge_relative).max())
            for name, charge in self.record.charges.items()
        }

    def symmetry_defect(self) -> dict[str, float]:
        """Return for each charge the largest |⟨ξ(θ), g⟩|/(‖ξ‖‖g‖) seen, g being the whole gradient.

        Zero up to rounding if the loss has the symmetry; taken at the recorded steps.
        """
        return {name: float(f.defect.max()) for name, f in self._followed.items()}

    def explain(self) -> dict[str, str]:
        """Return for each charge one sentence on its residual: rounding, a broken symmetry, or interference.

        The symmetry is blamed if inserting the measured ⟨ξ(θ), g⟩ into the discrete law makes the residual
        at least ten times smaller.
        """
        record = self.record
        return {
            name: explain_residual(f.charge, record[name], float(f.defect.max()), self._module, f.epsilon)
            for name, f in self._followed.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as tensors and plain types, to be saved next to the optimizer's."""
        return {
            "version": _VERSION,
            "charges": [charge.to_dict() for charge in self.charges],
            "every": self.every,
            "steps": self.steps,
            "rows": torch.tensor(self._rows),
            "followed": {name: f.state_dict() for name, f in self._followed.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken, once module and optimizer are back at that point.

        Raises
        ------
        InvalidCharge
            If it was taken from other charges or by another version.
        """
        if state["version"] != _VERSION:
            raise InvalidCharge(f"tracker state has version {state['version']}; this modeq reads {_VERSION}")
        saved = tuple(Charge.from_dict(data) for data in state["charges"])
        if saved != self.charges:
            raise InvalidCharge(f"tracker state is of the charges {saved}, this tracker follows {self.charges}")
        self.every, self.steps = state["every"], state["steps"]
        self._rows = state["rows"].tolist()
        for name, followed in self._followed.items():
            followed.load_state_dict(state["followed"][name])


def _checked(module: Any, charges: Any) -> tuple[Charge, ...]:
    """Return the charges as a tuple; raises `InvalidCharge` if these are no module and no charges."""
    if not isinstance(module, nn.Module):
        raise InvalidCharge(f"module is {module!r}; give the network that the optimizer trains, a torch.nn.Module")
    if not isinstance(charges, Iterable) or isinstance(charges, str | Mapping):
        raise InvalidCharge(f"charges is {charges!r}; give a sequence of charges, such as [Translation(...)]")
    listed = tuple(charges)
    for entry in listed:
        if not isinstance(entry, Charge):
            raise InvalidCharge(f"charges contains {entry!r}; give Translation, Scale or Rescale values")
    return listed
