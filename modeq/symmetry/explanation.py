"""Say in words why a charge departs from its exact law."""

import numpy as np
from torch import nn

from modeq.symmetry.charges import Charge, Scale
from modeq.symmetry.records import ChargeRecord

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm, nn.GroupNorm)


def explain_residual(charge: Charge, record: ChargeRecord, defect: float, module: nn.Module, epsilon: float) -> str:
    """Return one sentence on the largest residual of a charge against its exact discrete law.

    Parameters
    ----------
    charge : Charge
        The charge.
    record : ChargeRecord
        Its record.
    defect : float
        Largest |⟨ξ(θ), g⟩|/(‖ξ‖‖g‖) seen.
    module : torch.nn.Module
        The network, searched for normalisation layers with an ε.
    epsilon : float
        Machine precision of the parameters.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from modeq.symmetry.charges import Scale
    >>> row = np.ones((2, 1))
    >>> laws = {"discrete": 1.5 * row, "with_defect": row}
    >>> record = ChargeRecord("conv", np.arange(2), np.zeros(2), row, row, laws, {})
    >>> norm = torch.nn.BatchNorm1d(3)
    >>> print(explain_residual(Scale("conv", {"weight": 0}), record, 1e-3, norm, 1e-16))
    Scale 'conv': residual 5.0e-01, above rounding because the gradient is not orthogonal to the generator
    (defect 1.0e-03); with the measured ⟨ξ, g⟩ inserted the law leaves 0.0e+00. An ε in the normalisation
    breaks scale symmetry, ⟨g, w⟩ = ε/(σ² + ε)·⟨∂L/∂y, y⟩ per channel; here: BatchNorm1d (ε = 1e-05).
    """
    head = f"{type(charge).__name__} {charge.name!r}: "
    finite = np.isfinite(record.measured).all(axis=1)
    if not finite.all():
        return f"{head}not finite from step {record.step[(~finite).argmax()]} on; the training diverged."
    for law in ("discrete", "with_defect"):
        lost = ~np.isfinite(record.predicted[law]).all(axis=1)
        if lost.any():
            return f"{head}the {law} law is not finite from step {record.step[lost.argmax()]} on, yet the charge is."
    residual = float(record.residual("discrete").max(initial=0.0))
    explained = float(record.residual("with_defect").max(initial=0.0))
    head += f"residual {residual:.1e}, "
    if _of_earlier_size(record) <= 32 * epsilon * np.sqrt(len(record.step)):
        return f"{head}at the level of rounding."
    if explained > residual / 10:
        return (
            f"{head}above rounding, yet not by a broken symmetry (defect {defect:.1e}): something else moves "
            "the parameters, such as clipping by value, scaling per parameter, or a write between two steps."
        )
    cause = f"the gradient is not orthogonal to the generator (defect {defect:.1e})"
    inserted = f"with the measured ⟨ξ, g⟩ inserted the law leaves {explained:.1e}"
    if defect <= 64 * epsilon:
        return f"{head}because {cause}, which is the rounding of the gradient itself; {inserted}."
    return f"{head}above rounding because {cause}; {inserted}.{_blame_epsilon(charge, module)}"


def _of_earlier_size(record: ChargeRecord) -> float:
    """Return the largest |predicted − measured| relative to the largest normaliser up to that row.

    Each step rounds each entry once, relative to its size at that time; the errors add up like a random walk,
    and under decay they may outlive the parameters that they were made on.
    """
    with np.errstate(all="ignore"):
        difference = np.abs(record.predicted["discrete"] - record.measured)
        largest = np.maximum.accumulate(record.normaliser, axis=0)
        unscaled = np.where(difference == 0, 0.0, np.inf)
        return float(np.divide(difference, largest, out=unscaled, where=largest > 0).max(initial=0.0))


def _blame_epsilon(charge: Charge, module: nn.Module) -> str:
    found = [
        f"{name or type(layer).__name__} (ε = {layer.eps:g})"
        for name, layer in module.named_modules()
        if isinstance(layer, _NORMS) and layer.eps > 0
    ]
    if not found or not isinstance(charge, Scale):
        return ""
    return (
        " An ε in the normalisation breaks scale symmetry, ⟨g, w⟩ = ε/(σ² + ε)·⟨∂L/∂y, y⟩ per channel; "
        f"here: {', '.join(found)}."
    )
