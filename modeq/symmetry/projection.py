"""A modified equation projected on the generator of a symmetry."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import sympy as sp

from modeq.errors import InvalidMethod, InvalidOrder, InvalidSetting, NoClosedLaw, choice
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.minibatches import ExpectedEpoch
from modeq.symbolic.equation import modified_equation
from modeq.symbolic.fields_and_maps import BSeriesField
from modeq.symbolic.phase_space import PhaseSpaceForm, phase_space_form
from modeq.symbolic.temporal import TimeDerivativeForm, time_derivative_form
from modeq.symmetry.charge_equation import ChargeEquation
from modeq.symmetry.charge_solutions import t, tau
from modeq.symmetry.continuous import Variant
from modeq.symmetry.pairings import family_of
from modeq.symmetry.path_projection import project_path
from modeq.symmetry.series_projection import project_series, with_plain_decay

FormName = Literal["field", "time", "phase"]
_DERIVED: dict[str, Callable[..., Any]] = {
    "field": modified_equation,
    "time": time_derivative_form,
    "phase": phase_space_form,
}


def project(
    equation: Any,
    family: Any,
    order: int | None = None,
    form: FormName | None = None,
    variant: Variant = "corrected",
) -> ChargeEquation:
    r"""Project a modified equation on the generator of a symmetry: the equation of the charge, and its solution.

    With N = θᵀ𝒜θ and ⟨𝒜θ, g⟩ = 0 for every batch, gradient descent at order 2 gives

        N' = −(2λ + hλ²) N + h⟨g, g⟩_𝒜,    time = h·n.

    Every elementary differential is projected, at any order: ⟨𝒜θ, F(τ)⟩ = −Σ_i ⟨F(τ_i), F(τ without τ_i)⟩_𝒜 over the
    root's children τ_i, and 0 for a translation.

    Where the loss sees U and V only as UVᵀ, these are the equations of each entry of M = UᵀU − VᵀV ("general_linear"),
    with the symmetric part of a_Uᵀb_U − a_Vᵀb_V for ⟨a, b⟩. Antisymmetric X have an antisymmetric pairing, for which N
    is 0; they have the equation of the angular momentum R = ⟨θ, θ'⟩_R = Uᵀθ'_U + Vᵀθ'_V less its transpose
    ("rotation"), which is of one order less in time:

        R' = −2(1 − β)/(h(1 + β)) R  (time form of order 2),    R' = ln β/h R  (phase-space form of order 1)

    under heavy ball, whatever the data. In the field form, and where a form leaves no velocity to choose, R is no
    unknown but a function of θ, and of order h²: the equation has no derivative.

    Parameters
    ----------
    equation : GeneralLinearMethod or ExpectedEpoch, or an equation already derived from one
        ModifiedEquation or another BSeriesField, ExpectedEquation, TimeDerivativeForm, PhaseSpaceForm.
    family : str, or a charge, or its class
        "translation", "scale", "rescale", "diagonal", "affine", "general_linear" or "rotation".
    order : positive int, optional
        The truncation order of the equation to derive from a method, 2 by default, which is the first order in h;
        1 is the gradient flow.
    form : {"field", "time", "phase"}, optional
        Which equation to derive from a method: :func:`modified_equation` by default, :func:`time_derivative_form` or
        :func:`phase_space_form`.
    variant : {"corrected", "article"}
        "article" are the laws as published. In the field form, weight decay is left out of the terms in h; in the
        time-derivative form of order 2 the time is h(1 − α)n, and the oscillator starts at rest. The article has no
        matrices, but each entry of M is a quadratic charge of its own, and R follows from its equation of motion.

    Returns
    -------
    ChargeEquation
        With exact coefficients, and the data as pairings.

    Raises
    ------
    InvalidMethod
        If a symbol of the method has the name of a time, t or tau, or for a game, whose players see different losses.
    InvalidCharge
        For an unknown family.
    InvalidOrder, InvalidSetting
        If an order or form is given for an equation that has one.
    NoClosedLaw
        If the article has no such law.
    NoTimeDerivativeForm, NotZeroStable

    Notes
    -----
    Source: Kunin, Sagastuy-Breña, Ganguli, Yamins, Tanaka 2021 (arXiv 2012.04728), equations 18 to 20 and the laws
    with momentum, there to first order in h without terms of order hλ². Marcotte, Gribonval, Peyré 2023 (arXiv
    2307.00144) for M along gradient flow; Tanaka, Kunin 2021 (arXiv 2105.02716) for what momentum makes of charges.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> beta, lam = sp.symbols("beta lambda")
    >>> print(mq.project(mq.GradientDescent().with_weight_decay(lam), "translation", order=4))
    S' = -lambda·S - h*lambda**2/2·S - h**2*lambda**3/3·S - h**3*lambda**4/4·S
    >>> print(mq.project(mq.HeavyBall(momentum=beta).with_weight_decay(lam), "scale", form="time"))
    N'' + 2*(1 - beta)/(h*(beta + 1))·N' + 4*lambda/(h*(beta + 1))·N = 2·⟨θ',θ'⟩_𝒜
    >>> print(mq.project(mq.GradientDescent().with_weight_decay(lam), "general_linear"))
    M' = -2*lambda·M - h*lambda**2·M + h·⟨g,g⟩_M
    >>> print(mq.project(mq.HeavyBall(momentum=beta).with_weight_decay(lam), "rotation", form="time"))
    R' = -2*(1 - beta)/(h*(beta + 1))·R
    """
    kind = family_of(family)
    if variant not in get_args(Variant):
        raise InvalidSetting(f"variant is {choice(variant, get_args(Variant))}")
    source = _source(equation, order, form)
    _require_names(source)
    if isinstance(source, BSeriesField):
        if source.players:
            raise InvalidMethod(
                f"{source!r} is of a game, whose players see different losses: project the equation of one"
            )
        chosen = with_plain_decay(source) if variant == "article" else source
        return ChargeEquation(chosen, kind, variant, project_series(chosen, kind))
    law = ChargeEquation(source, kind, variant, project_path(source, kind))
    return law.in_time(_time_of_the_article(source)) if variant == "article" else law


def _source(equation: Any, order: int | None, form: Any) -> BSeriesField | TimeDerivativeForm | PhaseSpaceForm:
    if isinstance(equation, BSeriesField | TimeDerivativeForm | PhaseSpaceForm):
        if order is not None and order != equation.order:
            raise InvalidOrder(f"order is {order!r}, but {equation!r} is given: derive it to that order")
        if form is not None:
            raise InvalidSetting(f"form is {form!r}, but {equation!r} is given: leave the form out, or give the method")
        return equation
    if not isinstance(equation, GeneralLinearMethod | ExpectedEpoch):
        raise InvalidMethod(
            f"{equation!r} is no method, nor an equation that can be projected: give mq.GradientDescent(), say, a "
            "ModifiedEquation, a TimeDerivativeForm or a PhaseSpaceForm"
        )
    name = "field" if form is None else form
    if name not in get_args(FormName):
        raise InvalidSetting(f"form is {choice(form, get_args(FormName))}")
    derived: BSeriesField | TimeDerivativeForm | PhaseSpaceForm = _DERIVED[name](
        equation, 2 if order is None else order
    )
    return derived


def _require_names(source: Any) -> None:
    symbols = source.free_symbols if isinstance(source, BSeriesField) else source.method.free_symbols
    if taken := sorted({symbol.name for symbol in symbols} & {t.name, tau.name}):
        raise InvalidMethod(
            f"{source!r} has the symbol {taken[0]}, which is a time in the equation of a charge: rename it"
        )


def _time_of_the_article(source: TimeDerivativeForm | PhaseSpaceForm) -> sp.Expr:
    sgd = source.method.sgd
    if isinstance(source, TimeDerivativeForm) and source.order == 2 and sgd is not None and not sgd["nesterov"]:
        return 1 - sp.sympify(sgd["dampening"])
    raise NoClosedLaw(
        f"the article has no law for {source!r}: it has the heavy ball with coupled decay, in the time-derivative form "
        "of order 2; use variant='corrected'"
    )
