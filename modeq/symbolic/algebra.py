"""The algebra of B-series on exact coefficients: flows and logarithms, composition, inverse, substitution.

A *map* has coefficients a(τ) in θ + Σ h^{|τ|} a(τ)/σ(τ) F(τ), a *field* b(τ) in Σ h^{|τ|−1} b(τ)/σ(τ) F(τ).
Both are mappings that hold every tree with at most `order` vertices, of any number of colours.

Sources: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, III.1.4 (composition) and IX.9.1 (logarithm);
Chartier, Hairer, Vilmart 2010, *Algebraic structures of B-series* (Found. Comput. Math. 10) (substitution).
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import zip_longest

import sympy as sp
from sympy.polys.domains.domain import Domain

from modeq.errors import InvalidMethod
from modeq.methods.arithmetic import Element, Vector, integral, product
from modeq.methods.exact import tidy_element
from modeq.symbolic.rooted_trees import Tree

Weights = Mapping[Tree, sp.Expr]
Forest = tuple[Tree, ...]
Elements = dict[Tree, Element]
Paths = dict[Tree, Vector]  # polynomials in the time n


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

    >>> from modeq.symbolic.rooted_trees import trees
    >>> euler = {tree: sp.Integer(tree.order == 1) for p in (1, 2, 3) for tree in trees(p)}
    >>> compose(euler, euler, 3)
    {Tree([]): 2, Tree([[]]): 1, Tree([[[]]]): 0, Tree([[], []]): 1}
    """
    K, (a, b) = _elements(order, first, second)
    return _written({tree: a[tree] + _inserted(b, a, root_subtrees(tree), K) for tree in a}, K)


def inverse(weights: Weights, order: int) -> dict[Tree, sp.Expr]:
    """Return the inverse of a map.

    Examples
    --------
    The inverse of a step of gradient descent takes implicit steps back:

    >>> from modeq.symbolic.rooted_trees import trees
    >>> euler = {tree: sp.Integer(tree.order == 1) for p in (1, 2) for tree in trees(p)}
    >>> inverse(euler, 2)
    {Tree([]): -1, Tree([[]]): 1}
    """
    K, (a,) = _elements(order, weights)
    result: Elements = {}
    for tree in a:
        result[tree] = -a[tree] - _inserted(result, a, root_subtrees(tree)[:-1], K)
    return _written(result, K)


def adjoint(weights: Weights, order: int) -> dict[Tree, sp.Expr]:
    """Return the adjoint of a map, its inverse with −h for h.

    Examples
    --------
    The adjoint of explicit Euler is implicit Euler, a(τ) = 1 for every tree:

    >>> from modeq.symbolic.rooted_trees import trees
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

    >>> from modeq.symbolic.rooted_trees import trees
    >>> field = {tree: sp.Integer(tree.order == 1) for p in (1, 2, 3) for tree in trees(p)}
    >>> all(value == sp.Rational(1, tree.density) for tree, value in flow_map(field, 3).items())
    True
    """
    K, (b,) = _elements(order, field)
    paths: Paths = {}
    for tree in b:
        paths[tree] = integral(slope(b, paths, root_subtrees(tree), K), K)
    return _written({tree: sum(path, K.zero) for tree, path in paths.items()}, K)


def logarithm(weights: Weights, order: int) -> dict[Tree, sp.Expr]:
    """Return the field whose flow over the time h is the map: its modified equation.

    Examples
    --------
    >>> from modeq.symbolic.rooted_trees import trees
    >>> euler = {tree: sp.Integer(tree.order == 1) for p in (1, 2, 3) for tree in trees(p)}
    >>> logarithm(euler, 3)
    {Tree([]): 1, Tree([[]]): -1/2, Tree([[[]]]): 1/3, Tree([[], []]): 1/6}
    """
    K, (a,) = _elements(order, weights)
    paths: Paths = {}
    field: Elements = {}
    for tree in a:
        path = integral(slope(field, paths, root_subtrees(tree)[:-1], K), K)
        field[tree] = a[tree] - sum(path, K.zero)
        path[1] += field[tree]
        paths[tree] = path
    return _written(field, K)


def substitute(field: Weights, weights: Weights, order: int) -> dict[Tree, sp.Expr]:
    """Return the series `weights` of the modified vector field `field` instead of f, for one colour.

    Σ over partitions of τ of weights(skeleton)·Π field(parts).

    Examples
    --------
    Explicit Euler applied to its own modified equation twice over, to second order:

    >>> field = {Tree([]): sp.Integer(1), Tree([[]]): sp.Rational(-1, 2)}
    >>> substitute(field, field, 2)
    {Tree([]): 1, Tree([[]]): -1}
    """
    K, (b, c) = _elements(order, field, weights)
    return _written({tree: _substituted(b, c, partitions(tree), K) for tree in c}, K)


def substitution_inverse(weights: Weights, order: int) -> dict[Tree, sp.Expr]:
    """Return the field m whose substitution into the field `weights` gives f itself, for one colour.

    Raises
    ------
    InvalidMethod
        If the coefficient of the single vertex is 0.

    Examples
    --------
    >>> substitution_inverse({Tree([]): sp.Integer(1), Tree([[]]): sp.Rational(-1, 2)}, 2)
    {Tree([]): 1, Tree([[]]): 1/2}
    """
    K, (c,) = _elements(order, weights)
    single = c[Tree([])]
    if not single:
        raise InvalidMethod(
            "the series has no first-order term, so that nothing can be substituted back: give one with b(•) ≠ 0"
        )
    result: Elements = {}
    for tree in c:
        # The partition with a single part is the last one.
        rest = _substituted(result, c, partitions(tree)[:-1], K)
        result[tree] = (K(int(tree.order == 1)) - rest) / single
    return _written(result, K)


def in_one_field(values: list[sp.Expr]) -> tuple[Domain, list[Element]]:
    """Return the smallest field that holds all values, with their elements; expressions for powers like βᵐ.

    Examples
    --------
    >>> in_one_field([sp.Rational(1, 2), sp.sqrt(2)])[0], in_one_field([2 ** sp.Symbol("m")])[0]
    (QQ<sqrt(2)>, EX)
    """
    if any(not power.exp.is_number for value in values for power in value.atoms(sp.Pow)):
        return sp.EX, [sp.EX(value) for value in values]
    K, elements = sp.construct_domain(values, field=True, extension=True)
    return K, list(elements)


def _elements(order: int, *series: Weights) -> tuple[Domain, list[Elements]]:
    """The coefficients in one field, for the trees with at most `order` vertices, smaller trees first."""
    kept = [sorted(tree for tree in weights if tree.order <= order) for weights in series]
    values = [sp.sympify(weights[tree]) for weights, trees in zip(series, kept, strict=True) for tree in trees]
    K, elements = in_one_field(values)
    found = iter(elements)
    return K, [{tree: next(found) for tree in trees} for trees in kept]


def _written(elements: Elements, K: Domain) -> dict[Tree, sp.Expr]:
    return {tree: tidy_element(value, K) for tree, value in elements.items()}


def _inserted(outer: Elements, inner: Elements, pairs: Iterable[tuple[Tree, Forest]], K: Domain) -> Element:
    """Σ outer(s)·Π inner(forest)."""
    total = K.zero
    for subtree, forest in pairs:
        if term := outer[subtree]:
            for tree in forest:
                term *= inner[tree]
            total += term
    return total


def _substituted(field: Elements, outer: Elements, parted: Iterable[tuple[Tree, Forest, Tree]], K: Domain) -> Element:
    """Σ outer(skeleton)·Π field(parts)."""
    total = K.zero
    for part, others, skeleton in parted:
        if term := outer[skeleton] * field[part]:
            for tree in others:
                term *= field[tree]
            total += term
    return total


def slope(field: Elements, paths: Paths, pairs: Iterable[tuple[Tree, Forest]], K: Domain) -> Vector:
    """Return Σ field(s)·Π paths(forest) over pairs (s, forest), a polynomial with one coefficient at least.

    Over all root subtrees s of τ, with the forests that are left, it is p_τ', see :func:`flow_map`.

    Examples
    --------
    >>> tree, K = Tree([]), sp.ZZ
    >>> slope({tree: K(2)}, {tree: [K(0), K(2)]}, [(tree, (tree,))], K)
    [0, 4]
    """
    total = [K.zero]
    for subtree, forest in pairs:
        if field[subtree]:
            term = [field[subtree]]
            for tree in forest:
                term = product(term, paths[tree], K)
            total = [a + b for a, b in zip_longest(total, term, fillvalue=K.zero)]
    return total
