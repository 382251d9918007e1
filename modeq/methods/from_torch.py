"""Read a method off a torch optimizer, and write one as a torch optimizer.

Everything is duck-typed: torch is imported only when an optimizer is to be made.
"""

from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from typing import Any

import sympy as sp

from modeq.errors import InvalidMethod, UnsupportedOptimizer
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.descent import GradientDescent
from modeq.methods.momentum import HeavyBall, Nesterov


def method_from_torch(optimizer: Any, group: int = 0) -> GeneralLinearMethod:
    """Return the method that a torch.optim.SGD runs on one of its parameter groups.

    Momentum, dampening, weight_decay, nesterov and maximize are read as they are now; the learning rate
    is no part of a method. With maximize the gradient changes its sign, weight decay does not.

    Parameters
    ----------
    optimizer : torch.optim.SGD
    group : int
        Which of its ``param_groups``, counted from 0.

    Returns
    -------
    GeneralLinearMethod

    Raises
    ------
    UnsupportedOptimizer
        For any other optimizer: its update is not linear in the gradients, or is not known here.
    InvalidMethod
        If there is no such group, or its values make no method.

    Examples
    --------
    >>> import modeq as mq, torch
    >>> sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1, momentum=0.9, weight_decay=0.01)
    >>> method_from_torch(sgd)
    HeavyBall(momentum=9/10).with_weight_decay(1/100)
    """
    kind = type(optimizer)
    if (kind.__module__, kind.__name__) != ("torch.optim.sgd", "SGD"):
        raise UnsupportedOptimizer(
            f"{kind.__module__}.{kind.__name__} has no method here: a method's update must be linear in its states and "
            "gradients, as torch.optim.SGD's is; an update rule of your own that is linear goes through "
            "modeq.method_from"
        )
    groups = optimizer.param_groups
    if not 0 <= group < len(groups):
        raise InvalidMethod(
            f"group is {group}: the optimizer has {len(groups)} parameter groups, give 0 to {len(groups) - 1}"
        )
    options = groups[group]
    if options["nesterov"]:
        method = Nesterov(momentum=options["momentum"])
    elif options["momentum"] == 0:
        method = GradientDescent()
    else:
        method = HeavyBall(momentum=options["momentum"], dampening=options["dampening"])
    method = method.with_weight_decay(options["weight_decay"])
    return ascending(method) if options["maximize"] else method


def ascending(method: GeneralLinearMethod) -> GeneralLinearMethod:
    """Return the method with the sign of every gradient changed, weight decay as it is: torch's ``maximize=True``.

    Examples
    --------
    >>> ascending(GradientDescent()).transfer_function()
    -1/(z - 1)
    """
    signs = sp.diag(*(1 if colour in method.decay else -1 for colour in method.colours))
    start = method.start * sp.diag(*(1 if c in method.decay else -1 for c in range(method.colour_count)))
    sgd = None if method.sgd is None else {**method.sgd, "maximize": True}
    return replace(
        method, B=method.B * signs, D=method.D * signs, start=start, name=f"{method.name}[maximize]", sgd=sgd
    )


def to_torch(method: GeneralLinearMethod, parameters: Iterable[Any], h: float) -> Any:
    """Return torch.optim.SGD over `parameters` with learning rate `h`, which runs `method`.

    Raises
    ------
    UnsupportedOptimizer
        If torch.optim.SGD cannot run it.
    InvalidMethod
        If it has free symbols.

    Examples
    --------
    >>> import modeq as mq, torch
    >>> sgd = to_torch(mq.Nesterov(momentum=0.9), [torch.zeros(2, requires_grad=True)], h=0.1)
    >>> sgd.param_groups[0]["nesterov"], method_from_torch(sgd)
    (True, Nesterov(momentum=9/10))
    """
    if method.sgd is None:
        raise UnsupportedOptimizer(
            f"{method} is no torch.optim.SGD (gradient descent, heavy ball or Nesterov, with weight decay inside the "
            "gradient): run it with modeq.iterate"
        )
    method.require_numbers()
    options = {key: value if isinstance(value, bool) else float(value) for key, value in method.sgd.items()}
    return import_module("torch.optim").SGD(parameters, lr=h, **options)
