"""Assertions on the order of an equation, the symmetries of a loss, and the laws of charges in training."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

from modeq.errors import InvalidSetting
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.comparison import FormName
from modeq.numeric.fields import FieldName
from modeq.numeric.flow_settings import Layer
from modeq.numeric.orders import ObservedOrder, observed_order
from modeq.numeric.protocol import Problem, positive, whole
from modeq.symmetry.charges import Charge
from modeq.symmetry.records import Record
from modeq.symmetry.tracking import Tracker
from modeq.symmetry.verification import Verification, Verified, verify

_ROUNDING = float(np.finfo(np.float64).eps)


def assert_order(
    method: GeneralLinearMethod,
    problem: Problem,
    start: Any = None,
    *,
    order: int,
    time: float,
    expected: int | None = None,
    tolerance: float = 0.15,
    form: FormName = "field",
    field: FieldName = "auto",
    initial_layer: Layer = True,
    step_sizes: Sequence[float] | None = None,
    halvings: int = 4,
) -> ObservedOrder:
    """Assert that a modified equation follows the optimizer with the predicted order, no less and no more.

    The slopes of the last two halvings of the step size must lie within `tolerance` of the expected
    order, from both sides, and the errors must be above the noise of rounding and integration.

    Parameters
    ----------
    method, problem, start, time, form, field, initial_layer, step_sizes, halvings : as in `modeq.observed_order`
    order : truncation order
    expected : int, optional
        The slope; by default what the exact coefficients predict.
    tolerance : positive float

    Returns
    -------
    ObservedOrder

    Raises
    ------
    AssertionError
        With the slopes and errors.
    InvalidProblem
        If `tolerance` or `expected` is no such number, or an argument of `modeq.observed_order` cannot be used.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(sp.cos(x) + x**2, [x])
    >>> assert_order(mq.GradientDescent(), problem, [1.0], order=3, time=1.0).expected
    3
    """
    tolerance = positive(tolerance, "tolerance")
    slope = None if expected is None else whole(expected, "expected", least=0)
    observed = observed_order(
        method,
        problem,
        start,
        time=time,
        order=order,
        step_sizes=step_sizes,
        form=form,
        field=field,
        initial_layer=initial_layer,
        halvings=halvings,
    )
    slope = observed.expected if slope is None else slope
    report = (
        f"{method}, {form} form of order {order}: expected slope {slope}, observed "
        f"{[round(s, 3) for s in observed.slopes]}, errors {[f'{e:.2e}' for e in observed.errors]}"
    )
    if observed.errors[-1] < observed.noise_floor:
        raise AssertionError(f"{report}; the last error is below the noise floor {observed.noise_floor:.1e}")
    if not all(abs(s - slope) <= tolerance for s in observed.slopes[-2:]):
        raise AssertionError(f"{report}; the last two slopes must be within {tolerance} of it")
    return observed


def assert_conserved(
    charges: Iterable[Charge],
    module: nn.Module,
    loss: Any,
    batch: tuple[Any, Any],
    *,
    tolerance: float = 1e-12,
    seed: int = 0,
) -> Verification:
    """Assert that a loss has the symmetries of charges, at the parameters that a module has now.

    The identities are those of `modeq.verify`: ⟨g, ξ⟩ = 0, Hξ + (∂ξ)ᵀg = 0, and a finite element of the group leaves
    the loss as it is, while with a part of its entries left out it does not.

    Where a normalisation's ε breaks a symmetry, as `find_charges` knows, none of these hold to rounding. What the ε
    predicts for ⟨g, ξ⟩ is then taken off, and what is left must be below `tolerance`, so that an ε of 1e-5 needs no
    tolerance of 1e-5 under which anything might pass. Where nothing is predicted, the identities themselves must hold.

    Parameters
    ----------
    charges : Charges, or iterable of Charge
        Of charges written by hand no ε is known.
    module, loss, batch, seed : as in `modeq.verify`
    tolerance : positive float
        Of relative numbers: 1e-12 for a module in float64, some 1e-5 in float32. The Hessian may miss its identity by
        100 times as much, as it is rounded more.

    Returns
    -------
    Verification

    Raises
    ------
    AssertionError
        With a line for each charge that is not conserved, the worst first: the generator that misses most, what was
        measured along it, and how large ε makes it.
    InvalidProblem
        If `tolerance` is no positive number.
    InvalidCharge
        If a charge does not fit the module, or the loss is unknown.

    Examples
    --------
    >>> import torch
    >>> from modeq.symmetry.charges import Rescale
    >>> layers = torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)
    >>> net = torch.nn.Sequential(*layers).double()
    >>> batch = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    >>> charge = Rescale("hidden", {"0.weight": 0, "0.bias": 0}, {"2.weight": 1})
    >>> assert_conserved([charge], net, "mse", batch)
    Verification(1 charges)
    >>> assert_conserved([Rescale("hidden", {"0.weight": 0}, {"2.weight": 1})], net, "mse", batch)
    Traceback (most recent call last):
    AssertionError: 1 of 1 charges not conserved to 1e-12:
    Rescale 'hidden': |⟨g, ξ⟩|/(‖g‖‖ξ‖) = ... along generator ...
    """
    tolerance = positive(tolerance, "tolerance")
    report = verify(charges, module, loss, batch, seed=seed)
    broken = [found for entry in report if (found := _violation(entry, tolerance)) is not None]
    if broken:
        lines = [line for _, line in sorted(broken, key=lambda found: -found[0])]
        raise AssertionError(
            "\n".join([f"{len(broken)} of {len(report)} charges not conserved to {tolerance}:", *lines])
        )
    return report


def _violation(entry: Verified, tolerance: float) -> tuple[float, str] | None:
    """How much a charge misses, and a line that says so; None for one that is conserved."""
    cosine, along = "|⟨g, ξ⟩|/(‖g‖‖ξ‖)", f"along generator {entry.generator}"
    if entry.predicted > _ROUNDING:  # ε shows
        text = f"{cosine} less the {entry.predicted:.1e} of ε = {entry.unexplained:.1e} {along}"
        missed = {text: entry.unexplained}
    else:
        missed = {
            f"{cosine} = {entry.gradient:.1e} {along}": entry.gradient,
            f"‖Hξ + (∂ξ)ᵀg‖ = {entry.hessian:.1e} of its terms": entry.hessian / 100,
            f"a finite move changes the loss by {entry.action:.1e} of it": entry.action,
        }
    text, largest = max(missed.items(), key=lambda item: np.nan_to_num(item[1], nan=np.inf))
    if largest <= tolerance:
        if not entry.left_out <= 10 * max(tolerance, entry.action):
            return None
        text = f"with a part of its entries left out it changes the loss by {entry.left_out:.1e} of it only"
    unknown = "; what ε makes of it is unknown" if np.isnan(entry.predicted) else ""
    return largest, f"{type(entry.charge).__name__} {entry.charge.name!r}: {text}{unknown}"


def assert_law(
    tracked: Tracker | Record,
    law: str = "discrete",
    *,
    tolerance: float = 1e-12,
    charge_relative: bool = False,
) -> Record:
    """Assert that the charges of a tracked training followed a law, at all recorded steps.

    The law ran open loop beside the training (see `modeq.track`), so that one write to the weights between two steps,
    or gradients clipped by their values, leave a residual for good.

    Parameters
    ----------
    tracked : Tracker or Record
        Of `modeq.track`, after some steps.
    law : {"discrete", "article", "corrected", "with_defect", "observed"}
        As in `Tracker.residual`. The exact laws, "discrete" and "with_defect", hold to rounding; the continuous ones,
        "article" and "corrected", to some power of the learning rate.
    tolerance : positive float
        Of residuals, which are relative to the size of the terms that a charge adds up. In float64 1e-12 leaves room
        for the rounding of thousands of steps; in float32 take some 1e-5, for a continuous law what you claim.
    charge_relative : bool
        Whether residuals are relative to the charges themselves.

    Returns
    -------
    Record

    Raises
    ------
    AssertionError
        With a line for each charge that left the law, the worst first: the largest residual, its generator and step,
        and the step from which on residuals were too large; for the discrete law of a `Tracker` also why.
    InvalidSetting
        If `tracked` is something else, or no step was recorded.
    InvalidProblem
        If `tolerance` is no positive number.
    NoClosedLaw
        For an unknown law, or one that was not followed.
    Diverged
        If a charge left the finite numbers.

    Examples
    --------
    >>> import torch
    >>> from modeq.symmetry.charges import Translation
    >>> from modeq.symmetry.tracking import track
    >>> net = torch.nn.Linear(4, 3).double()
    >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    >>> inputs, labels = torch.eye(4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    >>> with track(net, sgd, [Translation("classifier", {"weight": 1})]) as tracker:
    ...     for _ in range(5):
    ...         sgd.zero_grad()
    ...         torch.nn.functional.cross_entropy(net(inputs), labels).backward()
    ...         sgd.step()
    >>> len(assert_law(tracker).step), len(assert_law(tracker, "corrected", tolerance=0.01))
    (6, 1)
    """
    tolerance = positive(tolerance, "tolerance")
    if not isinstance(tracked, Tracker | Record):
        raise InvalidSetting(f"tracked is {tracked!r}: give a Tracker of mq.track, or its record")
    record = tracked.record if isinstance(tracked, Tracker) else tracked
    if len(record.step) < 2:
        raise InvalidSetting("tracked has recorded no step: train between mq.track and the assertion")
    reasons = tracked.explain() if isinstance(tracked, Tracker) and law == "discrete" and _explains(tracked) else {}
    broken = []
    for name, charge in record.charges.items():
        residual = charge.residual(law, charge_relative=charge_relative)
        if residual.max(initial=0.0) <= tolerance:
            continue
        row, generator = np.unravel_index(residual.argmax(), residual.shape)
        first = record.step[(residual > tolerance).any(axis=1).argmax()]
        largest = float(residual[row, generator])
        line = (
            f"charge {name!r}: residual {largest:.1e} of generator {generator} at step {record.step[row]}, above "
            f"{tolerance} from step {first} on"
        )
        broken.append((largest, f"{line}. {reasons[name]}" if name in reasons else line))
    if broken:
        lines = [line for _, line in sorted(broken, key=lambda found: -found[0])]
        raise AssertionError(
            "\n".join([f"{len(broken)} of {len(record)} charges do not follow the {law} law to {tolerance}:", *lines])
        )
    return record


def _explains(tracker: Tracker) -> bool:
    return {"discrete", "with_defect"} <= set(tracker.laws)
