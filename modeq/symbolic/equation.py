"""The face of the symbolic layer: the modified equation of a method, as a vector field on the parameters."""

from typing import Any, overload

from modeq.errors import InvalidMethod
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.minibatches import ExpectedEpoch, UnlistedEpoch
from modeq.symbolic.b_series import Written
from modeq.symbolic.expected_equation import ExpectedEquation
from modeq.symbolic.fields_and_maps import BSeriesField
from modeq.symbolic.initial_layer import InitialLayer, initial_layer
from modeq.symbolic.rooted_trees import checked_order
from modeq.symbolic.series import modified_coefficients


class ModifiedEquation(BSeriesField):
    """The differential equation that a method follows, truncated after `order` vertices.

        θ' = f̃(θ) = Σ_{|τ| ≤ order} h^{|τ|−1} b(τ)/σ(τ) F(τ)(θ),    time = h·n.

    ``equation[tree]`` is b(τ), *not* divided by the symmetry σ(τ). Its flow follows the iterates with
    error O(hᵏ), k ≥ order the smallest number with a non-zero coefficient at k + 1 vertices; for a
    method with momentum it must start where :meth:`initial_layer` says.

    Examples
    --------
    >>> import modeq as mq
    >>> equation = mq.modified_equation(mq.GradientDescent(), order=3)
    >>> len(equation), equation[[[]]], equation[mq.Tree([[], []])]
    (4, -1/2, 1/6)
    """

    _left = Written("θ'", r"\dot\theta")

    method: GeneralLinearMethod

    def initial_layer(self, order: int | None = None, buffers: Any = None) -> InitialLayer:
        """Return where the flow must start, as a B-series at θ₀; see :func:`~modeq.symbolic.initial_layer`.

        Parameters
        ----------
        order : int, optional
            Terms through h^order; by default one less than the equation's order, which is what the flow
            needs to follow the iterates to its order.
        buffers : optional
            None for the method's own first step (for torch's optimizers a new optimizer), 0 for zero
            buffers and ordinary steps, a matrix states × colours: state i starts at
            u_i θ₀ + h Σ_c buffers_ic f_c(θ₀), or "given" for any vectors, as fields of their own.

        Examples
        --------
        >>> import modeq as mq
        >>> layer = mq.modified_equation(mq.HeavyBall(momentum=0.5), order=3).initial_layer()
        >>> layer[[]], layer[[[]]]
        (-2, 20)
        """
        return initial_layer(self.method, self.order - 1 if order is None else order, buffers)


@overload
def modified_equation(method: GeneralLinearMethod, order: int) -> ModifiedEquation: ...
@overload
def modified_equation(method: ExpectedEpoch, order: int) -> ExpectedEquation: ...
def modified_equation(method: GeneralLinearMethod | ExpectedEpoch, order: int) -> ModifiedEquation | ExpectedEquation:
    """Derive the modified equation of a method to any truncation order, exactly.

    Parameters
    ----------
    method : GeneralLinearMethod, or ExpectedEpoch
        The latter is ``Epoch(method, batches=m).expected(sampling)``.
    order : positive int
        Every term with at most this many vertices is kept; 1 is the gradient flow (rescaled in time). Of an
        expected epoch at most 3.

    Returns
    -------
    ModifiedEquation, or ExpectedEquation for an expected epoch
        A mapping from trees to exact coefficients b(τ).

    Raises
    ------
    InvalidMethod, NotZeroStable, InvalidOrder

    Notes
    -----
    Source: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, IX.9; order 2 for gradient descent:
    Barrett, Dherin 2021 (arXiv 2009.11162).

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> equation = mq.modified_equation(mq.HeavyBall(momentum=sp.Symbol("beta")), order=4)
    >>> equation[[]], equation[[[]]]
    (1/(1 - beta), -(beta + 1)/(2*(1 - beta)**3))
    """
    number = checked_order(order)
    if isinstance(method, UnlistedEpoch):
        raise InvalidMethod(
            f"{method} has a symbol, or more than can be listed, for its number of batches: take its "
            ".expected('reshuffling'), say, or give a smaller integer"
        )
    if isinstance(method, ExpectedEpoch):
        return ExpectedEquation.derived(method, number)
    return ModifiedEquation.of(method, modified_coefficients(method, number))
