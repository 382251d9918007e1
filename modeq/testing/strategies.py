"""Hypothesis strategies for methods, Runge–Kutta tableaux, rooted trees and polynomial losses."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp
from sympy import Rational as Q

from modeq.errors import InvalidSetting, MissingDependency
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.descent import GradientDescent
from modeq.methods.exact import exact
from modeq.methods.momentum import (
    PID,
    ClassicalNesterov,
    HeavyBall,
    Nesterov,
    OptimisticGradient,
    QuasiHyperbolic,
    TripleMomentum,
)
from modeq.methods.multistep import LinearMultistep
from modeq.methods.runge_kutta import RungeKutta
from modeq.symbolic.rooted_trees import Tree, checked_order
from modeq.symbolic.rooted_trees import trees as trees_of_order

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

z = sp.Symbol("z")


def hypothesis_strategies() -> Any:
    """Return the module ``hypothesis.strategies``; raises `MissingDependency` without Hypothesis."""
    try:
        import hypothesis.strategies
    except ImportError as error:
        raise MissingDependency("the strategies need Hypothesis: pip install 'modeq[test]'") from error
    return hypothesis.strategies


def require_range(pair: Any, name: str) -> None:
    """Raise `InvalidSetting` unless `pair` is two positive integers, the smaller first."""
    numbers = pair if isinstance(pair, tuple | list) and len(pair) == 2 else (0, 0)
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers) or not 1 <= numbers[0] <= numbers[1]:
        raise InvalidSetting(f"{name} is {pair!r}; give two positive integers, the smaller first")


def _fractions(low: Any, high: Any, denominator: int = 20) -> Any:
    """Rational numbers; the simplest is 0, or what has the smallest denominator."""
    return hypothesis_strategies().fractions(low, high, max_denominator=denominator).map(Q)


def methods(
    families: Sequence[str] = ("gradient_descent", "heavy_ball", "nesterov"),
    *,
    max_momentum: Any = 0.9,
    weight_decay: bool | str = False,
) -> "SearchStrategy[GeneralLinearMethod]":
    """Return a strategy for methods with rational hyper-parameters, strictly zero-stable all of them.

    It shrinks towards the first family, and to hyper-parameters with small denominators, next to 0.

    Parameters
    ----------
    families : sequence of str
        Some of "gradient_descent", "heavy_ball" (with and without dampening) and "nesterov", which together are
        torch.optim.SGD; "classical_nesterov", "quasi_hyperbolic", "triple_momentum", "pid", "optimistic_gradient";
        "runge_kutta", explicit ones, see `tableaux`; and "multistep", explicit linear methods of up to three steps
        with ρ(1) = 0 and ρ′(1) = σ(1), whose parasitic roots are rational and no roots of σ.
    max_momentum : number in [0, 1)
        The largest momentum β, and modulus of a parasitic root of a multistep method.
    weight_decay : bool, "coupled" or "decoupled"
        Whether methods have a decay of up to 1/5; True for both kinds.

    Raises
    ------
    InvalidSetting
        If there is no such family or kind of decay, or `max_momentum` is no number in [0, 1).

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(methods(["quasi_hyperbolic", "multistep"], weight_decay="coupled"))
    ... def preconsistent(method):
    ...     assert method.A * method.preconsistency == method.preconsistency
    >>> preconsistent()
    """
    st = hypothesis_strategies()
    top = exact(max_momentum, "max_momentum")
    if not (top.is_number and 0 <= top < 1):
        raise InvalidSetting(f"max_momentum is {max_momentum!r}: give a number in [0, 1), 0.9 for instance")
    momenta = _fractions(0, top, max(20, top.q))
    makers = {
        "gradient_descent": st.builds(GradientDescent),
        "heavy_ball": st.builds(HeavyBall, momenta, _fractions(0, Q(9, 10))),
        "nesterov": st.builds(Nesterov, momenta),
        "classical_nesterov": st.builds(ClassicalNesterov, momenta),
        "quasi_hyperbolic": st.builds(QuasiHyperbolic, momenta, _fractions(0, 1)),
        "triple_momentum": st.builds(TripleMomentum, momenta, momenta, momenta),
        "pid": st.builds(PID, momenta, _fractions(0, 1)),
        "optimistic_gradient": st.builds(OptimisticGradient),
        "runge_kutta": tableaux(),
        "multistep": _multisteps(_fractions(-top, top, max(20, top.q))),
    }
    listed = list(families) if isinstance(families, Sequence) and not isinstance(families, str) else []
    if not listed or any(family not in makers for family in listed):
        raise InvalidSetting(f"families is {families!r}; give a sequence of some of {', '.join(makers)}")
    kinds = {False: [], True: [False, True], "coupled": [False], "decoupled": [True]}
    if not isinstance(weight_decay, bool | str) or weight_decay not in kinds:
        raise InvalidSetting(f"weight_decay is {weight_decay!r}; give True, False, 'coupled' or 'decoupled'")
    method = st.sampled_from(listed).flatmap(makers.__getitem__)
    if not weight_decay:
        return method
    return st.builds(
        GeneralLinearMethod.with_weight_decay, method, _fractions(0, Q(1, 5)), st.sampled_from(kinds[weight_decay])
    )


def _multisteps(roots: Any) -> Any:
    """Methods with ρ = (z − 1) Π (z − r) for parasitic roots r, and σ of a lower degree that shares no root with ρ."""
    st = hypothesis_strategies()

    @st.composite
    def multistep(draw: Any) -> GeneralLinearMethod:
        zeros = [Q(1), *draw(st.lists(roots, max_size=2))]
        rho = sp.Poly.from_expr(sp.prod([z - root for root in zeros]), z)
        entries = st.lists(_fractions(-2, 2, 6), min_size=len(zeros), max_size=len(zeros))
        drawn = entries.map(lambda row: sp.Poly([row[0] + 1, *row[1:]], z))  # the simplest is a power of z
        sigma = draw(drawn.filter(lambda s: all(s.eval(root) for root in zeros)))
        sigma *= rho.diff(z).eval(1) / sigma.eval(1)
        return LinearMultistep(rho.all_coeffs()[::-1], sigma.all_coeffs()[::-1])

    return multistep()


def tableaux(
    stages: tuple[int, int] | None = None, *, explicit: bool | None = True, order: int = 1
) -> "SearchStrategy[GeneralLinearMethod]":
    """Return a strategy for Runge–Kutta methods with rational tableaux of a given order.

    A is drawn, and the weights b are moved as little as it takes to meet the order conditions Σ_i b_i Φ_i(τ) = 1/γ(τ)
    of all trees τ up to the order, which are linear in b: Σ b = 1, Σ b_i c_i = 1/2, …. The simplest methods are
    Euler's, and Heun's of order 2.

    Parameters
    ----------
    stages : pair of int, optional
        The smallest and the largest number of stages. By default from as many as there are order conditions, 1, 2 or 4
        for the orders 1, 2 and 3, to two more.
    explicit : bool or None
        Whether A is strictly lower triangular; None for tableaux of both kinds.
    order : positive int
        The least order of accuracy; some tableaux have a higher one.

    Raises
    ------
    InvalidSetting
        If `stages` is no such pair, there are fewer stages than order conditions, or `explicit` is no bool.
    InvalidOrder
        If `order` is no positive integer.

    Notes
    -----
    Source of the order conditions: Hairer, Nørsett, Wanner, *Solving Ordinary Differential Equations I*, II.2.

    Examples
    --------
    >>> import modeq as mq
    >>> from hypothesis import given, settings
    >>> @settings(max_examples=10)
    ... @given(tableaux(order=2))
    ... def second_order(method):
    ...     assert mq.modified_equation(method, order=2)[[[]]] == 0
    >>> second_order()
    """
    st = hypothesis_strategies()
    conditions = [tree for size in range(1, checked_order(order) + 1) for tree in trees_of_order(size)]
    least = len(conditions)
    stages = (least, least + 2) if stages is None else stages
    require_range(stages, "stages")
    if stages[0] < least:
        raise InvalidSetting(f"stages is {stages!r}: order {order} has {least} conditions, give {least} stages or more")
    if explicit is not None and not isinstance(explicit, bool):
        raise InvalidSetting(f"explicit is {explicit!r}; give True, False, or None for both")
    wanted = sp.Matrix([Q(1, tree.density) for tree in conditions])
    numbers = _fractions(-2, 2, 3)

    @st.composite
    def tableau(draw: Any) -> GeneralLinearMethod:
        size = draw(st.integers(*stages))
        lower = draw(st.booleans()) if explicit is None else explicit
        lengths = range(size) if lower else [size] * size
        rows = st.tuples(*(st.lists(numbers, min_size=length, max_size=length) for length in lengths))
        squares = rows.map(lambda rows: sp.Matrix([[*row, *[0] * (size - len(row))] for row in rows]))
        A = draw(squares.filter(lambda A: _stage_weights(A, conditions).rank() == least))
        weights = _stage_weights(A, conditions)
        b = sp.Matrix(draw(st.lists(numbers, min_size=size, max_size=size)))
        b += weights.T * (weights * weights.T).LUsolve(wanted - weights * b)
        return RungeKutta(A, list(b))

    return tableau()


def _stage_weights(A: sp.Matrix, conditions: Sequence[Tree]) -> sp.Matrix:
    """Φ_i(τ) in a row for each tree: Φ([τ₁, …, τ_m]) = Π_k A Φ(τ_k), entry by entry."""

    def column(tree: Tree) -> sp.Matrix:
        below = [A * column(child) for child in tree.children]
        return sp.Matrix([sp.prod(entries) for entries in zip(*below, strict=True)] if below else [1] * A.rows)

    return sp.Matrix.hstack(*map(column, conditions)).T


def trees(max_order: int, colours: int = 1) -> "SearchStrategy[Tree]":
    """Return a strategy for rooted trees with at most `max_order` vertices, each vertex with one of some colours.

    Every vertex but the root chooses its parent among the earlier ones, so that a tree comes in as many ways as it has
    increasing labels, |τ|!/(γ(τ) σ(τ)), its weight in Taylor's series. The simplest tree is the single vertex.

    Parameters
    ----------
    max_order : positive int
    colours : positive int

    Raises
    ------
    InvalidOrder
        If an argument is no positive integer.

    Examples
    --------
    >>> from math import factorial
    >>> from hypothesis import given
    >>> @given(trees(8, colours=2))
    ... def has_a_whole_number_of_increasing_labellings(tree):
    ...     assert factorial(tree.order) % (tree.density * tree.symmetry) == 0
    >>> has_a_whole_number_of_increasing_labellings()
    """
    st = hypothesis_strategies()
    largest, colour = checked_order(max_order, "max_order"), st.integers(0, checked_order(colours, "colours") - 1)

    @st.composite
    def tree(draw: Any) -> Tree:
        order = draw(st.integers(1, largest))
        parents = [draw(st.integers(0, vertex - 1)) for vertex in range(1, order)]
        children: list[list[Tree]] = [[] for _ in range(order)]
        for vertex in reversed(range(order)):
            built = Tree(draw(colour), children[vertex])
            if vertex:
                children[parents[vertex - 1]].append(built)
        return built

    return tree()


def polynomial_losses(variables: Sequence[sp.Symbol], degree: int = 4) -> "SearchStrategy[Any]":
    """Return a strategy for polynomial losses with small rational coefficients in the given variables.

    Every loss has a positive definite quadratic part, so that gradient methods with small steps contract
    near 0, and terms up to `degree`.

    Parameters
    ----------
    variables : sequence of Symbol
        At least one.
    degree : int
        Of the largest monomials, from 1.

    Raises
    ------
    InvalidOrder
        If the degree is no positive integer.
    InvalidSetting
        If there are no variables, or not all are symbols.

    Examples
    --------
    >>> from hypothesis import given
    >>> x, y = sp.symbols("x y")
    >>> @given(polynomial_losses([x, y]))
    ... def convex_at_zero(loss):
    ...     assert sp.hessian(loss, (x, y)).subs({x: 0, y: 0}).is_positive_definite
    >>> convex_at_zero()
    """
    st = hypothesis_strategies()
    symbols = tuple(variables)
    if not symbols or not all(isinstance(variable, sp.Symbol) for variable in symbols):
        raise InvalidSetting(f"variables is {variables!r}: give one sympy Symbol or more, as sp.symbols('x y')")
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
