"""The algebra of B-series on exact coefficients: flows and logarithms, composition, inverse, substitution.

A *map* has coefficients a(τ) in θ + Σ h^{|τ|} a(τ)/σ(τ) F(τ), a *field* b(τ) in Σ h^{|τ|−1} b(τ)/σ(τ) F(τ).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod

import sympy as sp

from modeq.errors import InvalidMethod
from modeq.methods.exact import tidy
from modeq.symbolic.rooted_trees import Tree, trees

Weights = Mapping[Tree, sp.Expr]
Forest = tuple[Tree, ...]


@lru_cache(maxsize=100_000)
def root_subtrees(tree: Tree) -> tuple[tuple[Tree, Forest], ...]:
    """Return every subtree that contains the root, with the forest that is left when it is taken away.

    Branches that look alike count separately.

    Examples
    --------
    >>> root_subtrees(Tree([[]]))
    ((Tree([]), (Tree([]),)), (Tree([[]]), ()))
    """
    choices: list[tuple[Forest, Forest]] = [((), ())]
    for child in tree.children:
        kept = [((part,), rest) for part, rest in root_subtrees(child)]
        choices = [
            (children + more, forest + cut) for children, forest in choices for more, cut in [((), (child,)), *kept]
        ]
    return tuple((Tree(tree.colour, children), forest) for children, forest in choices)


@lru_cache(maxsize=100_000)
def partitions(tree: Tree) -> tuple[tuple[Tree, Forest, Tree], ...]:
    """Return every partition of the vertices into connected parts: the root's part, the others, and the skeleton.

    The skeleton has one vertex for each part. There is one partition for each set of cut edges.

    Examples
    --------
    >>> partitions(Tree([[]]))
    ((Tree([]), (Tree([]),), Tree([[]])), (Tree([[]]), (), Tree([])))
    """
    choices: list[tuple[Forest, Forest, Forest]] = [((), (), ())]
    for child in tree.children:
        options: list[tuple[Forest, Forest, Forest]] = []
        for part, others, skeleton in partitions(child):
            options.append(((), (part, *others), (skeleton,)))
            options.append(((part,), others, skeleton.children))
        choices = [(a + d, b + e, c + f) for a, b, c in choices for d, e, f in options]
    return tuple((Tree(tree.colour, a), b, Tree(tree.colour, c)) for a, b, c in choices)


def compose(first: Weights, second: Weights, order: int) -> dict[Tree, sp.Expr]:
    r"""Return the map `second` after the map `first`: Σ over root subtrees s of second(s)·first(τ \ s).

    Examples
    --------
    Two steps of gradient descent:

    >>> euler = {tree: sp.Integer(tree.order == 1) for p in (1, 2, 3) for tree in trees(p)}
    >>> compose(euler, euler, 3)
    {Tree([]): 2, Tree([[]]): 1, Tree([[[]]]): 0, Tree([[], []]): 1}
    """
    return _each(order, lambda tree, _: first[tree] + _inserted(second, first, root_subtrees(tree)))


def inverse(weights: Weights, order: int) -> dict[Tree, sp.Expr]:
    """Return the inverse of a map.

    Examples
    --------
    The inverse of a step of gradient descent takes implicit steps back:

    >>> euler = {tree: sp.Integer(tree.order == 1) for p in (1, 2) for tree in trees(p)}
    >>> inverse(euler, 2)
    {Tree([]): -1, Tree([[]]): 1}
    """

    def solve(tree: Tree, known: dict[Tree, sp.Expr]) -> sp.Expr:
        smaller = [pair for pair in root_subtrees(tree) if pair[0] != tree]
        return -weights[tree] - _inserted(known, weights, smaller)

    return _each(order, solve)


def adjoint(weights: Weights, order: int) -> dict[Tree, sp.Expr]:
    """Return the adjoint of a map, its inverse with −h for h.

    Examples
    --------
    The adjoint of explicit Euler is implicit Euler, a(τ) = 1 for every tree:

    >>> euler = {tree: sp.Integer(tree.order == 1) for p in (1, 2, 3) for tree in trees(p)}
    >>> set(adjoint(euler, 3).values())
    {1}
    """
    return {tree: (-1) ** tree.order * value for tree, value in inverse(weights, order).items()}


def flow_map(field: Weights, order: int) -> dict[Tree, sp.Expr]:
    r"""Return the exponential of a field: the map of its flow over the time h.

    The coefficient p_τ(n) of θ(nh) obeys p_τ' = Σ over root subtrees s of b(s)·Π p(τ \ s), p_τ(0) = 0.

    Examples
    --------
    The exact flow of f has the coefficients 1/γ(τ):

    >>> field = {tree: sp.Integer(tree.order == 1) for p in (1, 2, 3) for tree in trees(p)}
    >>> all(value == sp.Rational(1, tree.density) for tree, value in flow_map(field, 3).items())
    True
    """
    n = sp.Symbol("n")
    polynomials: dict[Tree, sp.Expr] = {}
    for tree in _all(order):
        slope = _inserted(field, polynomials, root_subtrees(tree))
        polynomials[tree] = sp.integrate(sp.expand(slope), (n, 0, n))
    return {tree: tidy(p.subs(n, 1)) for tree, p in polynomials.items()}


def logarithm(weights: Weights, order: int) -> dict[Tree, sp.Expr]:
    """Return the field whose flow over the time h is the map: its modified equation.

    Examples
    --------
    >>> euler = {tree: sp.Integer(tree.order == 1) for p in (1, 2, 3) for tree in trees(p)}
    >>> logarithm(euler, 3)
    {Tree([]): 1, Tree([[]]): -1/2, Tree([[[]]]): 1/3, Tree([[], []]): 1/6}
    """
    n = sp.Symbol("n")
    polynomials: dict[Tree, sp.Expr] = {}
    field: dict[Tree, sp.Expr] = {}
    for tree in _all(order):
        smaller = [pair for pair in root_subtrees(tree) if pair[0] != tree]
        slope = sp.expand(_inserted(field, polynomials, smaller))
        field[tree] = tidy(weights[tree] - sp.integrate(slope, (n, 0, 1)))
        polynomials[tree] = sp.integrate(slope + field[tree], (n, 0, n))
    return field


def substitute(field: Weights, weights: Weights, order: int) -> dict[Tree, sp.Expr]:
    """Return the series `weights` of the modified vector field `field` instead of f.

    Σ over partitions of τ of weights(skeleton)·Π field(parts).

    Examples
    --------
    Explicit Euler applied to its own modified equation twice over, to second order:

    >>> field = {Tree([]): sp.Integer(1), Tree([[]]): sp.Rational(-1, 2)}
    >>> substitute(field, field, 2)
    {Tree([]): 1, Tree([[]]): -1}
    """

    def value(tree: Tree, _: dict[Tree, sp.Expr]) -> sp.Expr:
        return sum(
            weights[skeleton] * field[part] * prod((field[t] for t in others), start=sp.Integer(1))
            for part, others, skeleton in partitions(tree)
        )

    return _each(order, value)


def substitution_inverse(weights: Weights, order: int) -> dict[Tree, sp.Expr]:
    """Return the field m whose substitution into the field `weights` gives f itself.

    Raises
    ------
    InvalidMethod
        If the coefficient of the single vertex is 0.

    Examples
    --------
    >>> substitution_inverse({Tree([]): sp.Integer(1), Tree([[]]): sp.Rational(-1, 2)}, 2)
    {Tree([]): 1, Tree([[]]): 1/2}
    """
    single = weights[Tree([])]
    if single == 0:
        raise InvalidMethod("the series has no first-order term, so that nothing can be substituted back")

    def solve(tree: Tree, known: dict[Tree, sp.Expr]) -> sp.Expr:
        rest = sum(
            weights[skeleton] * known[part] * prod((known[t] for t in others), start=sp.Integer(1))
            for part, others, skeleton in partitions(tree)
            if part != tree
        )
        return (int(tree.order == 1) - rest) / single

    return _each(order, solve)


def _all(order: int) -> list[Tree]:
    return [tree for size in range(1, order + 1) for tree in trees(size)]


def _each(order: int, value: Callable[[Tree, dict[Tree, sp.Expr]], sp.Expr]) -> dict[Tree, sp.Expr]:
    known: dict[Tree, sp.Expr] = {}
    for tree in _all(order):
        known[tree] = tidy(sp.sympify(value(tree, known)))
    return known


def _inserted(
    outer: Weights, inner: Weights, pairs: list[tuple[Tree, Forest]] | tuple[tuple[Tree, Forest], ...]
) -> sp.Expr:
    """Σ outer(s)·Π inner(forest)."""
    return sp.Add(*(outer[s] * sp.Mul(*(inner[t] for t in forest)) for s, forest in pairs))
