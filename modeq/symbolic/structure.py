"""Geometric structure of B-series, for f = J∇H with J constant and antisymmetric, whatever H is."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import sympy as sp

from modeq.errors import InvalidMethod
from modeq.symbolic.rooted_trees import Tree, rootings

Weights = Mapping[Tree, sp.Expr]


def one_field(series: Weights) -> Weights:
    """Return a series of one field as it is; refuse one of several, where these tests do not apply.

    Raises
    ------
    InvalidMethod

    Examples
    --------
    >>> one_field({Tree([]): 1})
    {Tree([]): 1}
    """
    colours = sorted(frozenset().union(*(tree.colours for tree in series)))
    if len(colours) > 1:
        raise InvalidMethod(f"the series has the fields {colours}: this test is for one field, leave out weight decay")
    return series


def is_hamiltonian(field: Weights, order: int) -> bool:
    """Whether a field is Hamiltonian again: b(u∘v) + b(v∘u) = 0 for all trees with |u| + |v| ≤ order.

    Notes
    -----
    Source: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, IX.9.2.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> midpoint = mq.RungeKutta([[sp.Rational(1, 2)]], [1])
    >>> is_hamiltonian(mq.modified_equation(midpoint, order=5), 5)
    True
    """
    return all(_zero(field[u.butcher_product(v)] + field[v.butcher_product(u)]) for u, v in _pairs(field, order))


def is_symplectic(step: Weights, order: int) -> bool:
    """Whether a map is symplectic: a(u∘v) + a(v∘u) = a(u) a(v) for all trees with |u| + |v| ≤ order.

    Notes
    -----
    Source: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, VI.7.2.

    Examples
    --------
    >>> import modeq as mq
    >>> is_symplectic(mq.memoryless_map(mq.GradientDescent(), order=2), 2)
    False
    """
    return all(
        _zero(step[u.butcher_product(v)] + step[v.butcher_product(u)] - step[u] * step[v])
        for u, v in _pairs(step, order)
    )


def is_energy_preserving(field: Weights, order: int) -> bool:
    """Whether ∇H·f̃ = 0 for a field f̃, up to trees with `order` vertices.

    ∇H·F(τ) is the scalar of the unrooted tree [τ]. Moving the root along an edge changes its sign, so that
    it vanishes if two rootings an odd distance apart are equal; of each other unrooted tree the weights
    b(τ)/σ(τ), with their signs, must add up to 0.

    Notes
    -----
    Source: Faou, Hairer, Pham 2004, *Energy conservation with non-symplectic methods* (BIT 44).

    Examples
    --------
    The averaged vector field method, a(•) = 1, a([τ₁,…,τ_m]) = Π a(τ_i)/(m + 1), preserves energy:

    >>> from modeq.symbolic.algebra import logarithm
    >>> from modeq.symbolic.rooted_trees import trees
    >>> averaged = {}
    >>> for tree in (t for size in range(1, 6) for t in trees(size)):
    ...     averaged[tree] = sp.prod([averaged[c] for c in tree.children]) / sp.Integer(len(tree.children) + 1)
    ...     if tree.order == 1:
    ...         averaged[tree] = sp.Integer(1)
    >>> is_energy_preserving(logarithm(averaged, 5), 5)
    True
    """
    totals: defaultdict[Tree, sp.Expr] = defaultdict(lambda: sp.Integer(0))
    for tree, value in field.items():
        if tree.order <= order:
            signed = _signed_class(Tree(tree.colour, [tree]))
            if signed is not None:
                sign, unrooted = signed
                totals[unrooted] += sign * value / tree.symmetry
    return all(_zero(total) for total in totals.values())


def is_even(field: Weights, order: int) -> bool:
    """Whether f̃ keeps its form under h → −h, as it does for symmetric methods: b(τ) = 0 for even |τ|.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> half = sp.Rational(1, 2)
    >>> is_even(mq.modified_equation(mq.RungeKutta([[0, 0], [half, half]], [half, half]), order=4), 4)
    True
    """
    return all(_zero(value) for tree, value in field.items() if tree.order <= order and tree.order % 2 == 0)


def is_exact_field(field: Weights, order: int) -> bool:
    """Whether f̃ = f, up to trees with `order` vertices: 1 for single vertices, 0 for the others.

    Examples
    --------
    >>> is_exact_field({Tree([]): sp.Integer(1), Tree([[]]): sp.Rational(-1, 2)}, 2)
    False
    """
    return all(_zero(value - int(tree.order == 1)) for tree, value in field.items() if tree.order <= order)


def is_exact_flow(step: Weights, order: int) -> bool:
    """Whether a map is the flow of f over the time h, up to trees with `order` vertices: a(τ) = 1/γ(τ).

    Notes
    -----
    Source: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, III.1.2.

    Examples
    --------
    >>> is_exact_flow({Tree([]): sp.Integer(1), Tree([[]]): sp.Rational(1, 2)}, 2)
    True
    """
    return all(_zero(value - sp.Rational(1, tree.density)) for tree, value in step.items() if tree.order <= order)


def largest_order(holds: Callable[[int], bool], order: int) -> int:
    """Return the largest p ≤ `order` to which a property holds, 0 if it fails for single vertices.

    Examples
    --------
    >>> largest_order(lambda p: p < 3, 5)
    2
    """
    return next((p for p in range(order, 0, -1) if holds(p)), 0)


def _zero(value: sp.Expr) -> bool:
    return bool(sp.cancel(value) == 0)


def _pairs(weights: Weights, order: int) -> Iterator[tuple[Tree, Tree]]:
    known = list(weights)
    for i, u in enumerate(known):
        for v in known[: i + 1]:
            if u.order + v.order <= order:
                yield u, v


def _signed_class(tree: Tree) -> tuple[int, Tree] | None:
    """The sign of a rooted tree relative to one that stands for its unrooted tree; None if the scalar is 0."""
    signs: dict[Tree, int] = {}
    for distance, rooted in rootings(tree):
        sign = (-1) ** distance
        if signs.setdefault(rooted, sign) != sign:
            return None
    first = max(signs)
    return signs[first], first
