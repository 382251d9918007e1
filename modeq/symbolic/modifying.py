"""The modifying equation: the field whose discretization by a method is the exact flow of f."""

from modeq.errors import InvalidMethod
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.symbolic.b_series import Written
from modeq.symbolic.equation import modified_equation
from modeq.symbolic.fields_and_maps import BSeriesField


class ModifyingEquation(BSeriesField):
    """f̂ = Σ_{|τ| ≤ order} h^{|τ|−1} m(τ)/σ(τ) F(τ): run the method on f̂ to follow the exact flow of f.

    ``field[tree]`` is m(τ), *not* divided by the symmetry σ(τ).

    Examples
    --------
    >>> import modeq as mq
    >>> print(mq.modifying_equation(mq.GradientDescent(), order=2))
    f̂ = -g + h/2·H g
    """

    _left = Written("f̂", r"\hat f")


def modifying_equation(method: GeneralLinearMethod, order: int) -> ModifyingEquation:
    """Derive the field f̂ that a method must be run on so that it follows the exact flow of f, in time h·n.

    It inverts the modified equation under substitution: the modified equation of the method applied to f̂
    is f itself. With momentum the iterates lie on the flow once the initial layer has died out.

    Parameters
    ----------
    method : GeneralLinearMethod
        With one field (no weight decay).
    order : positive int
        Every term with at most this many vertices is kept.

    Returns
    -------
    ModifyingEquation
        A mapping from trees to exact coefficients m(τ).

    Raises
    ------
    InvalidMethod
        If the method has several fields.
    NotZeroStable, InvalidOrder

    Notes
    -----
    Source: Chartier, Hairer, Vilmart 2007, *Numerical integrators based on modified differential equations*
    (Math. Comp. 76).

    Examples
    --------
    For explicit Euler f̂ = (e^{hD} − 1)/(hD) f, D the derivative along f: 1/(k + 1)! for each of the chains

    >>> import modeq as mq
    >>> modifying_equation(mq.GradientDescent(), order=3).coefficients
    {Tree([]): 1, Tree([[]]): 1/2, Tree([[[]]]): 1/6, Tree([[], []]): 1/3}
    """
    require_method(method)
    if method.colour_count > 1:
        raise InvalidMethod(
            f"{method} has {method.colour_count} fields: a modifying equation is derived for one field, leave out "
            "weight decay"
        )
    equation = modified_equation(method, order)
    return ModifyingEquation.of(method, equation.substitution_inverse().series)
