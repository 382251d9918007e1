"""For users' own test suites and for modeq's: assertions, and Hypothesis strategies.

The strategies need Hypothesis, which ``pip install 'modeq[test]'`` brings.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp

from modeq.errors import InvalidSetting, MissingDependency
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.descent import GradientDescent
from modeq.methods.exact import exact
from modeq.methods.momentum import HeavyBall, Nesterov
from modeq.numeric.comparison import FormName
from modeq.numeric.fields import FieldName
from modeq.numeric.flows import Layer
from modeq.numeric.orders import ObservedOrder, observed_order
from modeq.numeric.protocol import Problem
from modeq.symbolic.rooted_trees import checked_order
from modeq.symmetry.oracle import affine_symmetries, diagonal_symmetries

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["affine_symmetries", "assert_order", "diagonal_symmetries", "methods", "networks", "polynomial_losses"]


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
    tolerance : float

    Returns
    -------
    ObservedOrder

    Raises
    ------
    AssertionError
        With the slopes and errors.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(sp.cos(x) + x**2, [x])
    >>> assert_order(mq.GradientDescent(), problem, [1.0], order=3, time=1.0).expected
    3
    """
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
    slope = observed.expected if expected is None else expected
    report = (
        f"{method}, {form} form of order {order}: expected slope {slope}, observed "
        f"{[round(s, 3) for s in observed.slopes]}, errors {[f'{e:.2e}' for e in observed.errors]}"
    )
    if observed.errors[-1] < observed.noise_floor:
        raise AssertionError(f"{report}; the last error is below the noise floor {observed.noise_floor:.1e}")
    if not all(abs(s - slope) <= tolerance for s in observed.slopes[-2:]):
        raise AssertionError(f"{report}; the last two slopes must be within {tolerance} of it")
    return observed


def _strategies() -> Any:
    try:
        import hypothesis.strategies
    except ImportError as error:
        raise MissingDependency("the strategies need Hypothesis: pip install 'modeq[test]'") from error
    return hypothesis.strategies


def methods(max_momentum: Any = 0.9, weight_decay: bool = False) -> "SearchStrategy[Any]":
    """Return a strategy for methods of the SGD family with rational hyper-parameters.

    Gradient descent, heavy ball with and without dampening, and Nesterov; with `weight_decay` also with
    coupled and decoupled decay.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(methods())
    ... def preconsistent(method):
    ...     assert method.A * method.preconsistency == method.preconsistency
    >>> preconsistent()
    """
    st = _strategies()
    top = exact(max_momentum, "max_momentum")

    def fraction(largest: sp.Rational) -> Any:
        return st.integers(0, 20).map(lambda k: largest * sp.Rational(k, 20))

    base = st.one_of(
        st.builds(GradientDescent),
        st.builds(HeavyBall, momentum=fraction(top), dampening=fraction(sp.Rational(9, 10))),
        st.builds(Nesterov, momentum=fraction(top)),
    )
    if not weight_decay:
        return base
    return st.builds(
        lambda method, rate, decoupled: method.with_weight_decay(rate, decoupled=decoupled),
        base,
        fraction(sp.Rational(1, 5)),
        st.booleans(),
    )


def polynomial_losses(variables: Sequence[sp.Symbol], degree: int = 4) -> "SearchStrategy[Any]":
    """Return a strategy for polynomial losses with small rational coefficients in the given variables.

    Every loss has a positive definite quadratic part, so that gradient methods with small steps contract
    near 0, and terms up to `degree`.

    Examples
    --------
    >>> from hypothesis import given
    >>> x, y = sp.symbols("x y")
    >>> @given(polynomial_losses([x, y]))
    ... def convex_at_zero(loss):
    ...     assert sp.hessian(loss, (x, y)).subs({x: 0, y: 0}).is_positive_definite
    >>> convex_at_zero()
    """
    st = _strategies()
    symbols = tuple(variables)
    degree = checked_order(degree)
    monomials = [m for m in sp.itermonomials(symbols, degree) if sp.Poly(m, *symbols).total_degree() >= 3]
    monomials.sort(key=sp.default_sort_key)
    coefficient = st.integers(-4, 4).map(lambda k: sp.Rational(k, 8))

    def build(stiffness: list[int], coefficients: list[sp.Rational]) -> sp.Expr:
        quadratic = sum(sp.Rational(k, 4) * v**2 for k, v in zip(stiffness, symbols, strict=True))
        return quadratic + sum(c * m for c, m in zip(coefficients, monomials, strict=True))

    return st.builds(
        build,
        st.lists(st.integers(1, 6), min_size=len(symbols), max_size=len(symbols)),
        st.lists(coefficient, min_size=len(monomials), max_size=len(monomials)),
    )


def networks(
    *,
    widths: tuple[int, int] = (3, 5),
    blocks: tuple[int, int] = (1, 3),
    features: int = 3,
    outputs: int = 3,
    adjacent: bool = True,
) -> "SearchStrategy[Any]":
    """Return a strategy for small networks of vectors, in float64 and in training mode, from a grammar.

    A network is a sequence of blocks, and a linear map at the end; a block is a linear map with or without a bias, then
    perhaps a batch or layer norm with or without affine parameters, then ReLU, leaky ReLU, abs, tanh, GELU or nothing;
    or a residual block of two linear maps, the second without a bias, around one of these. Normalisations have an ε of
    1e-30. A layer norm has three entries or more: of two it makes constants.

    Parameters
    ----------
    widths : pair of int
        The smallest and the largest number of neurons, those inside residual blocks included.
    blocks : pair of int
        The smallest and the largest number of blocks.
    features, outputs : int
        The sizes of an input and of an output.
    adjacent : bool
        Whether a linear map may follow on another, or on a norm, without an activation between them. If not, every
        block of the first kind ends with an activation. A residual block then adds to the input or to what comes out
        of an activation, which no parameter can turn, so that its second linear map and what reads the sum are bound.

    Raises
    ------
    InvalidSetting
        If a number is below 1 or a pair is not in order.

    Examples
    --------
    >>> import torch
    >>> from hypothesis import given
    >>> @given(networks(widths=(2, 3), features=2))
    ... def two_to_three(network):
    ...     assert network(torch.randn(6, 2, dtype=torch.float64)).shape == (6, 3)
    >>> two_to_three()
    """
    from torch import nn

    st = _strategies()
    ranges = {"widths": widths, "blocks": blocks, "features": (features,) * 2, "outputs": (outputs,) * 2}
    for name, (low, high) in ranges.items():
        if not 1 <= low <= high:
            raise InvalidSetting(f"{name} of networks is {low}…{high}; give positive numbers, the smaller first")

    class Absolute(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.abs()

    class Residual(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Any) -> Any:
            return x + self.block(x)

    kinds = (nn.ReLU, nn.LeakyReLU, Absolute, nn.Tanh, nn.GELU)
    norms = {
        "none": lambda width, affine: [],
        "batch": lambda width, affine: [nn.BatchNorm1d(width, eps=1e-30, affine=affine)],
        "layer": lambda width, affine: [nn.LayerNorm(width, eps=1e-30, elementwise_affine=affine)],
    }

    @st.composite
    def network(draw: Any) -> Any:
        layers: list[nn.Module] = []
        width = features
        for _ in range(draw(st.integers(*blocks))):
            kind = draw(st.sampled_from(kinds))
            if draw(st.integers(0, 3)) == 0:
                inner = draw(st.integers(*widths))
                first, second = nn.Linear(width, inner, draw(st.booleans())), nn.Linear(inner, width, bias=False)
                layers.append(Residual(nn.Sequential(first, kind(), second)))
                continue
            after = draw(st.integers(*widths))
            layers.append(nn.Linear(width, after, draw(st.booleans())))
            norm = draw(st.sampled_from(sorted(norms) if after > 2 else ["batch", "none"]))
            layers += norms[norm](after, draw(st.booleans()))
            if not adjacent or draw(st.integers(0, 7)):
                layers.append(kind())
            width = after
        return nn.Sequential(*layers, nn.Linear(width, outputs, draw(st.booleans()))).double()

    return network()
