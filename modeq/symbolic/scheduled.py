"""Learning-rate schedules h(n) = h·φ(hn): the terms in φ' of the vector field and of the form in time derivatives."""

from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.polys.domains.domain import Domain
from sympy.polys.matrices import DomainMatrix

from modeq.errors import InvalidOrder, InvalidProblem, UnsupportedOptimizer
from modeq.methods.arithmetic import Vector, elements
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.methods.exact import tidy
from modeq.methods.shift_operator import ShiftOperator
from modeq.symbolic.equation import modified_equation
from modeq.symbolic.rooted_trees import checked_order
from modeq.symbolic.scheduled_forms import ScheduledEquation, ScheduledTimeDerivativeForm
from modeq.symbolic.temporal import time_derivative_form


def scheduled_equation(
    method: GeneralLinearMethod, schedule: Any = None, t: sp.Symbol | None = None, order: int = 2
) -> ScheduledEquation:
    """Derive the modified equation of a method whose learning rate follows a schedule h·φ(t), t = h·n.

    To order 1 the schedule scales the field, to order 2 there is a new term h φ' Σ_c k_c f_c besides: see
    :class:`ScheduledEquation`. Where all buffers are in units of the field, as torch's are, k = −b/2: with
    frozen fields θ moves by h_n b in step n. Of one-step methods that is −1/2; of classical Nesterov, whose
    buffer is the last move of θ, k = −(1 + β)/(2(1 − β)²).

    Parameters
    ----------
    method : GeneralLinearMethod
        With ``step_powers``: what a change of the rate does to its buffers. torch's optimizers keep their
        momentum in units of the gradient.
    schedule : sympy expression φ in t, optional
        Positive and smooth: the learning rate as a multiple of the base rate h. By default any function φ(t).
        It may jump from one step to the next, written as a `Piecewise`, if all buffers are in units of the field;
        otherwise a jump costs one order. For an `Epoch`, whose rate stays that of its first step, a jump must fall on
        the end of an epoch: inside of one the error is O(h), and need not shrink from one h to the next.
    t : symbol, optional
        The symbol of the time in φ; the one named t by default. With ``real=True`` where φ has ``sp.Abs`` in it.
    order : 1 or 2

    Returns
    -------
    ScheduledEquation
        With the exact coefficients b(τ) and k_c.

    Raises
    ------
    NotZeroStable, InvalidOrder, InvalidProblem, UnsupportedOptimizer

    Notes
    -----
    With all fields frozen and h_n = h(1 + εn), X_{n+1} = A(I + εP)X_n + h(1 + εn)BF to first order in ε, P the
    diagonal matrix of the step powers. The slow solution of order ε⁰ is θ = h b n with the buffers hp,
    (I − A)p = B1_c − u b; that of order ε sees the source APp + nB1_c, whence k = g₀ + wPp, with g₀ from
    G(e^ζ) = g₋₁/ζ + g₀ + … and w A = w. The flow starts, to this order, at the initial layer of the
    method with the first rate, θ₀ + h φ(0) Σ_c a_c f_c(θ₀). Derived here; for a constant rate it is
    :func:`modeq.modified_equation`.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> print(mq.scheduled_equation(mq.GradientDescent()))
    θ' = -φ·g - h*φ**2/2·H g + h*φ'/2·g
    >>> beta = sp.Symbol("beta")
    >>> print(mq.scheduled_equation(mq.HeavyBall(momentum=beta)))
    θ' = -φ/(1 - beta)·g - h*φ**2*(beta + 1)/(2*(1 - beta)**3)·H g + h*φ'/(2*(1 - beta))·g
    """
    phi, time, number = _checked(method, schedule, t, order)
    equation = modified_equation(method, number)
    K, _, slopes = schedule_terms(method)
    coefficients = tuple(tidy(K.to_sympy(k)) for k in slopes) if number > 1 else ()
    return ScheduledEquation(method, number, phi, time, equation, coefficients)


def scheduled_time_derivative_form(
    method: GeneralLinearMethod, schedule: Any = None, t: sp.Symbol | None = None, order: int = 2
) -> ScheduledTimeDerivativeForm:
    """Derive the form in time derivatives of a method whose learning rate follows a schedule h·φ(t), t = h·n.

    To order 2 it is a damped oscillator whose damping changes by e φ'/φ: see
    :class:`ScheduledTimeDerivativeForm`.

    Parameters
    ----------
    method : GeneralLinearMethod
        All its gradients are taken at θ; with ``step_powers``.
    schedule, t, order : as in :func:`scheduled_equation`
        Where φ jumps so does θ', which this form cannot follow: a jump costs one order. Epochs have no such form.

    Returns
    -------
    ScheduledTimeDerivativeForm
        With the exact coefficients c₁, c₂, d₀, d₁, e and e_λ.

    Raises
    ------
    NoTimeDerivativeForm, NotZeroStable, InvalidOrder, InvalidProblem, UnsupportedOptimizer

    Notes
    -----
    e and e_λ are those for which the slow manifold of the form is :class:`ScheduledEquation`: with b and k of
    the field, b_λ and k_λ of weight decay, e = −k/b² − c₂ and e_λ = (k_λ − k b_λ/b)/b. For the heavy ball
    it can be read off the update rule: (1/φ)(e^D − 1)θ = h(1 − βe^{−D})⁻¹ f, D = h d/dt, has e = −β. The
    flow starts at θ₀ with θ'(0) = φ(0) Σ_c (b_c + (c₁/c₂) a_c) f_c, a the initial layer.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> print(mq.scheduled_time_derivative_form(mq.HeavyBall(momentum=sp.Symbol("beta"))))
    (1 - beta)·θ' + h*(beta + 1)/2·θ'' - beta*h*φ'/φ·θ' = -φ·g
    """
    phi, time, number = _checked(method, schedule, t, order)
    form = time_derivative_form(method, number)
    K, drifts, slopes = schedule_terms(method)
    colour = next(c for c in range(method.colour_count) if c not in method.decay)
    b, k = drifts[colour], slopes[colour]
    values = [-k / b**2 - K.from_sympy(form.coefficients[-1])]
    values += [(slopes[c] - k * drifts[c] / b) / b for c in method.decay]
    coefficients = tuple(tidy(K.to_sympy(value)) for value in values) if number > 1 else ()
    return ScheduledTimeDerivativeForm(method, number, phi, time, form, coefficients)


def schedule_terms(method: GeneralLinearMethod) -> tuple[Domain, Vector, Vector]:
    """Return the coefficient field, b_c and k_c of each colour per application; see :func:`scheduled_equation`.

    Examples
    --------
    >>> import modeq as mq
    >>> [[str(value) for value in values] for values in schedule_terms(mq.HeavyBall(momentum=0.5))[1:]]
    [['2'], ['-1']]
    """
    operator = ShiftOperator(method)
    K, laurent = operator.field, operator.readout_laurent(2)
    u, e = method.preconsistency, method.readout
    if method.step_powers is None or any(p and x != 0 for p, x in zip(method.step_powers, u, strict=True)):
        raise UnsupportedOptimizer(
            f"{method} has step_powers={method.step_powers}, no rule for what a changing learning rate does to its "
            "buffers: give step_powers, 0 for each state that holds parameters, or keep the rate constant"
        )

    def matrix(values: sp.MatrixBase) -> DomainMatrix:
        return DomainMatrix(elements(values, K), values.shape, K)

    # With M = (I − A + u e)⁻¹, w = e M and p = M(B1_c − u b) has e·p = 0; P u = 0.
    colours = sp.Matrix(method.query_count, method.colour_count, lambda j, c: int(method.colours[j] == c))
    M = matrix(sp.eye(method.state_count) - method.A + u * e).inv()
    buffers = (matrix(e) * M * matrix(sp.diag(*method.step_powers)) * M * matrix(method.B * colours)).to_list()[0]
    drifts = [laurent[c][0] for c in range(method.colour_count)]
    return K, drifts, [laurent[c][1] + buffers[c] for c in range(method.colour_count)]


def _checked(method: Any, schedule: Any, t: Any, order: Any) -> tuple[sp.Expr, sp.Symbol, int]:
    """φ, its symbol and the truncation order, or the error that fits."""
    require_method(method)
    if (number := checked_order(order)) > 2:
        raise InvalidOrder(f"order is {number}: learning-rate schedules are derived to order 2, give 1 or 2")
    if t is not None and not isinstance(t, sp.Symbol):
        raise InvalidProblem(f"t is {t!r}: give the symbol of the time, sp.Symbol('t') for instance")
    try:
        phi = sp.Function("phi")(t or sp.Symbol("t")) if schedule is None else sp.sympify(schedule, strict=True)
    except sp.SympifyError:
        phi = None
    if not isinstance(phi, sp.Expr) or not phi.is_commutative or phi.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
        raise InvalidProblem(f"schedule is {schedule!r}: give a finite sympy expression in t, sp.exp(-t) for instance")
    symbols = sorted(phi.free_symbols, key=str)
    time = t or next((symbol for symbol in symbols if symbol.name == "t"), sp.Symbol("t"))
    if twin := next((symbol for symbol in symbols if symbol.name == time.name and symbol != time), None):
        raise InvalidProblem(
            f"schedule is {phi}, in which {sp.srepr(twin)} is another symbol than {sp.srepr(time)}: create the time "
            "once, with the same assumptions, for the schedule and t"
        )
    if symbols and time not in symbols and t is None:
        raise InvalidProblem(f"schedule is {phi}, without the symbol {time} of the time: give t={symbols[0]}, its own")
    if "h" in map(str, (*symbols, time)) or time in method.free_symbols:
        raise InvalidProblem(f"schedule is {phi} with the time {time}: h and the symbols of {method} are taken, rename")
    if phi.has(AppliedUndef):
        return phi, time, number
    if _has_no_slope(phi, time):
        real = sp.Dummy(real=True)
        if not time.is_extended_real and not _has_no_slope(phi.subs(time, real), real):
            raise InvalidProblem(
                f"schedule is {phi}, which has no derivative in a complex {time}: create it as "
                f"sp.Symbol({time.name!r}, real=True), or write a sympy Piecewise"
            )
        raise InvalidProblem(f"schedule is {phi}, which has no derivative: write what jumps as a sympy Piecewise")
    first = phi.subs(time, 0)
    if not first.free_symbols and not (first.is_extended_real and first.is_finite and first > 0):
        raise InvalidProblem(f"schedule is {phi}, at {time} = 0 it is {first}: give a positive multiple of h")
    return phi, time, number


def _has_no_slope(phi: sp.Expr, time: sp.Symbol) -> bool:
    return bool(phi.diff(time).has(sp.Derivative, sp.Subs, sp.DiracDelta))
