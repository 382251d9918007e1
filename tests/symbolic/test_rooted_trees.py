"""Rooted trees: counts, symmetry, density, equality, identities, and the table against brute force."""

import copy
import math
import pickle
from collections import Counter
from fractions import Fraction
from itertools import pairwise, permutations, product

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import modeq as mq
from modeq.symbolic.rooted_trees import LARGEST_TABLE, tree_count, tree_table

# Rooted trees, and rooted trees with two colours of vertices: OEIS A000081 and A000151.
PLAIN = [1, 1, 2, 4, 9, 20, 48, 115, 286, 719]
TWO_COLOURS = [2, 4, 14, 52, 214, 916]

nested = st.recursive(st.just([]), lambda children: st.lists(children, max_size=4), max_leaves=12)
pairs = st.recursive(
    st.tuples(st.integers(0, 2), st.just([])),
    lambda children: st.tuples(st.integers(0, 2), st.lists(children, max_size=3)),
    max_leaves=8,
)


def shuffled(tree, random):
    children = [shuffled(child, random) for child in tree]
    random.shuffle(children)
    return children


def test_counts():
    assert [len(mq.trees(n)) for n in range(1, 11)] == PLAIN
    assert [len(mq.trees(n, colours=2)) for n in range(1, 7)] == TWO_COLOURS
    assert [len(mq.trees(n, colours=3)) for n in range(1, 4)] == [3, 9, 45]


def parent_maps(n):
    """All rooted trees on the labels 0…n−1 with root 0, as the parents of 1…n−1."""
    for parents in product(range(n), repeat=n - 1):
        children = [[] for _ in range(n)]
        for vertex, parent in enumerate(parents, start=1):
            children[parent].append(vertex)
        reached, stack = set(), [0]
        while stack:
            vertex = stack.pop()
            reached.add(vertex)
            stack += children[vertex]
        if len(reached) == n:
            yield children


def built(children, vertex=0):
    return mq.Tree([built(children, below) for below in children[vertex]])


@pytest.mark.parametrize("n", range(1, 7))
def test_table_against_all_labelled_trees(n):
    """Every labelled tree occurs; a tree has (n−1)!/σ labellings with the root fixed (orbit and stabiliser)."""
    counts = Counter(built(children) for children in parent_maps(n))
    assert set(counts) == set(mq.trees(n))
    assert {tree: math.factorial(n - 1) // tree.symmetry for tree in counts} == dict(counts)


def automorphisms(tree, vertices=None):
    """|Aut| by trying all permutations of the vertices that keep the root."""
    parents = []

    def visit(current, parent):
        number = len(parents)
        parents.append(parent)
        for child in current.children:
            visit(child, number)

    visit(tree, None)
    below = range(1, len(parents))
    return sum(
        all(parents[image[v - 1]] == (0 if parents[v] == 0 else image[parents[v] - 1]) for v in below)
        for image in permutations(below)
    )


@pytest.mark.parametrize("n", range(1, 7))
def test_symmetry_is_the_number_of_automorphisms(n):
    for tree in mq.trees(n):
        assert tree.symmetry == automorphisms(tree)


@pytest.mark.parametrize("n", range(1, 9))
def test_identities_over_all_trees_of_an_order(n):
    trees = mq.trees(n)
    # Cayley: there are n^{n−1} labelled rooted trees, of which (n−1)! have labels that grow from the root.
    assert sum(Fraction(math.factorial(n), tree.symmetry) for tree in trees) == n ** (n - 1)
    assert sum(Fraction(math.factorial(n), tree.symmetry * tree.density) for tree in trees) == math.factorial(n - 1)
    # θ' = θ: only chains, θ = e^t.
    chain = [tree for tree in trees if all(len(t.children) <= 1 for t in subtrees(tree))]
    assert [tree.density for tree in chain] == [math.factorial(n)]


def subtrees(tree):
    yield tree
    for child in tree.children:
        yield from subtrees(child)


def linear_extensions(tree):
    """Orders of the vertices in which every parent precedes its children, counted one by one."""

    def count(available):
        if not available:
            return 1
        return sum(count(available[:i] + available[i + 1 :] + list(t.children)) for i, t in enumerate(available))

    return count([tree])


@given(nested)
def test_density_is_the_hook_length_formula(tree):
    tree = mq.Tree(tree)
    if tree.order <= 9:
        assert tree.density * linear_extensions(tree) == math.factorial(tree.order)


@given(nested, st.randoms(use_true_random=False))
def test_the_order_of_children_does_not_matter(tree, random):
    one, other = mq.Tree(tree), mq.Tree(shuffled(tree, random))
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == repr(other)
    assert not one < other
    assert not other < one


@given(pairs)
def test_text_forms_lead_back(pair):
    tree = mq.Tree(*pair)
    assert mq.Tree(tree) == tree
    assert eval(repr(tree), {"Tree": mq.Tree}) == tree
    assert pickle.loads(pickle.dumps(tree)) == tree
    assert copy.deepcopy(tree) == tree


@given(nested, nested)
def test_equality_is_equality_of_canonical_forms(a, b):
    def canonical(tree):
        return tuple(sorted(canonical(child) for child in tree))

    assert (mq.Tree(a) == mq.Tree(b)) == (canonical(a) == canonical(b))


@given(pairs, pairs)
def test_butcher_product(a, b):
    u, v = mq.Tree(*a), mq.Tree(*b)
    product = u.butcher_product(v)
    assert product.order == u.order + v.order
    assert product.colour == u.colour
    assert product.symmetry == u.symmetry * v.symmetry * (u.children.count(v) + 1)
    # γ(u∘v) = γ(u)γ(v)(|u|+|v|)/|u|
    assert product.density * u.order == u.density * v.density * product.order


@given(st.lists(pairs, min_size=2, max_size=5))
def test_the_order_among_trees_is_total(descriptions):
    trees = sorted(mq.Tree(*pair) for pair in descriptions)
    backwards = [mq.Tree(*pair) for pair in reversed(descriptions)]
    assert trees == sorted(backwards)
    assert all(a <= b for a, b in pairwise(trees))
    assert [tree.order for tree in trees] == sorted(tree.order for tree in trees)


def test_trees_cannot_change():
    tree = mq.Tree([[]])
    with pytest.raises(AttributeError, match="immutable"):
        tree.order = 3
    with pytest.raises(AttributeError, match="immutable"):
        tree.symmetry = 3
    assert tree != [[]]


@pytest.mark.parametrize(
    ("order", "colours", "linear"), [(7, 1, ()), (5, 2, ()), (6, 2, (1,)), (5, 3, (0, 2)), (4, 1, (0,))]
)
def test_table_of_trees(order, colours, linear):
    table = tree_table(order, colours, linear)
    trees = table.trees
    everything = [tree for n in range(1, order + 1) for tree in mq.trees(n, colours)]
    expected = {t for t in everything if all(len(s.children) < 2 or s.colour not in linear for s in subtrees(t))}
    assert len(set(trees)) == len(trees) == tree_count(order, colours, len(linear))
    assert set(trees) == expected
    for n in range(1, order + 1):
        assert {tree.order for tree in trees[table.level(n)]} == {n}
    assert [table.index[tree] for tree in trees] == list(range(len(trees)))


def test_the_refusal_of_absurd_orders_counts_what_a_table_would_hold():
    assert tree_count(16, 1, 0) < LARGEST_TABLE < tree_count(17, 1, 0) == 1_011_311
    with pytest.raises(mq.InvalidOrder, match=r"order is 17: there are 1,011,311 trees .* about 3 GB"):
        mq.trees(17)


@pytest.mark.parametrize(
    ("tree", "text", "latex"),
    [
        ([], "•", r"\bullet"),
        ([[[]], []], "[[•],•]", r"[[\bullet],\bullet]"),
        ((1, [(0, []), (2, [])]), "[•2,•]1", r"[\bullet_{2},\bullet]_{1}"),
    ],
)
def test_how_a_tree_prints(tree, text, latex):
    tree = mq.Tree(*tree) if isinstance(tree, tuple) else mq.Tree(tree)
    assert tree.text() == text
    assert tree.latex() == latex


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ((), r"Tree\(children\) or Tree\(colour, children\)"),
        ((1, [], []), r"Tree\(children\) or Tree\(colour, children\)"),
        ((1,), "children of a vertex are 1: give a list"),
        (("[]",), "children of a vertex are"),
        ((-1, []), "colour of a vertex is -1"),
        ((True, []), "colour of a vertex is True"),
        ((0.0, []), "colour of a vertex is 0.0"),
        (([1],), "1 is no tree"),
        (([[], "x"],), "'x' is no tree"),
        (([()],), r"\(\) is no tree"),
        (([(0,)],), r"\(0,\) is no tree"),
        (([(True, [])],), "colour of a vertex is True"),
        (([None],), "None is no tree"),
    ],
)
def test_malformed_trees(description, message):
    with pytest.raises(mq.InvalidTree, match=message):
        mq.Tree(*description)


def test_a_tree_goes_with_trees_only():
    with pytest.raises(mq.InvalidTree, match=r"other is \[\]: give a Tree"):
        mq.Tree([]).butcher_product([])
    with pytest.raises(TypeError, match="'<' not supported"):
        assert mq.Tree([]) < []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "order is 0: the lowest"),
        ((-1,), "order is -1: the lowest"),
        ((1.5,), "order is 1.5: give a positive integer"),
        ((2.0,), "order is 2.0: give a positive integer"),
        ((True,), "order is True: give a positive integer"),
        (("3",), "order is '3': give a positive integer"),
        (([1, 2],), r"order is \[1, 2\]: give a positive integer"),
        ((np.array([1, 2]),), r"order is array\(\[1, 2\]\): give a positive integer"),
        ((3, 0), "colours is 0: give at least 1"),
        ((3, 1.5), "colours is 1.5: give a positive integer"),
        ((3, 10**9), r"order is 3: there are [\d,]+ trees with up to 3 vertices in 1000000000 colour"),
        ((10**18,), r"order is 1000000000000000000: there are more than [\d,]+ trees .* GB; ask for a lower order"),
    ],
)
def test_orders_that_are_refused(arguments, message):
    with pytest.raises(mq.InvalidOrder, match=message):
        mq.trees(*arguments)


@given(st.sampled_from(mq.trees(6) + mq.trees(3, colours=2)))
def test_drawings_have_every_vertex(tree):
    assert len(tree.diagram().splitlines()) == tree.order
    assert tree.tikz().count("node {}") + tree.tikz().count("] {}") == tree.order
    assert tree.tikz().count("{") == tree.tikz().count("}")


def test_colours_are_drawn():
    tree = mq.Tree(1, [(0, []), (2, [])])
    assert tree.diagram() == "•1\n├─•2\n└─•"
    assert tree.tikz().endswith(r"\node[label=right:1] {} child {node[label=right:2] {}} child {node {}};")
