"""Gradient descent, the simplest method: one state, one query."""

from modeq.methods.base import GeneralLinearMethod


def GradientDescent() -> GeneralLinearMethod:
    """Return gradient descent, θ⁺ = θ − h ∇L(θ).

    The learning rate h is no part of a method; it is given where the method is run.

    Returns
    -------
    GeneralLinearMethod
        With the state θ.

    Notes
    -----
    Source: Cauchy 1847.

    Examples
    --------
    >>> import modeq as mq
    >>> mq.GradientDescent().stability_limit()
    2
    """
    return GeneralLinearMethod(
        A=[[1]],
        B=[[1]],
        C=[[1]],
        D=[[0]],
        name="GradientDescent()",
        sgd={"momentum": 0, "dampening": 0, "nesterov": False, "weight_decay": 0},
    )
