"""Laws of rooted trees; see numbered_laws.py for the numbered list."""

import math
from collections import Counter

import hypothesis.strategies as st
import sympy as sp
from hypothesis import given, settings
from law_strategies import all_trees, coloured_trees, fractions, plain_trees
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic.algebra import partitions, root_subtrees
from modeq.symbolic.rooted_trees import rootings, tree_table


@given(coloured_trees)
def test_rootings_are_orbits_of_one_group(tree):
    """The vertices that look like v are the orbit of v under the automorphisms of the unrooted tree."""
    found = Counter(rooted for _, rooted in rootings(tree))
    assert sum(found.values()) == tree.order
    assert len({count * rooted.symmetry for rooted, count in found.items()}) == 1


@given(coloured_trees)
def test_an_unrooted_tree_is_known_from_any_vertex(tree):
    def unrooted(rooted):
        return Counter(other for _, other in rootings(rooted))

    assert all(unrooted(rooted) == unrooted(tree) for _, rooted in rootings(tree))


@given(coloured_trees)
def test_distances_of_rootings(tree):
    """They are the depths of the vertices, and as long on the way back."""

    def depths(branch, depth=0):
        yield depth
        for child in branch.children:
            yield from depths(child, depth + 1)

    found = list(rootings(tree))
    assert Counter(distance for distance, _ in found) == Counter(depths(tree))
    assert all((distance, tree) in list(rootings(rooted)) for distance, rooted in found)


@settings(max_examples=15)
@given(st.integers(1, 6), st.integers(1, 3))
def test_labelled_trees_are_counted_by_symmetry_and_density(order, colours):
    """Cayley: n^{n−1} rooted trees on n labels, of which (n−1)! have labels that grow from the root."""
    order = min(order, 8 - colours)
    trees, labels = mq.trees(order, colours), math.factorial(order)
    assert sum(Q(labels, tree.symmetry) for tree in trees) == colours**order * order ** (order - 1)
    assert sum(Q(labels, tree.symmetry * tree.density) for tree in trees) == colours**order * Q(labels, order)


@settings(max_examples=15)
@given(st.integers(1, 5), st.integers(2, 3), st.data())
def test_linear_colours_leave_their_branching_trees_out(order, colours, data):
    linear = data.draw(st.sets(st.integers(0, colours - 1)))

    def stays(tree):
        return all(map(stays, tree.children)) and (len(tree.children) < 2 or tree.colour not in linear)

    assert set(tree_table(order, colours, linear).index) == {t for t in all_trees(order, colours) if stays(t)}


@given(coloured_trees)
def test_partitions_choose_which_edges_to_cut(tree):
    found = partitions(tree)
    assert len(found) == 2 ** (tree.order - 1)
    for part, others, skeleton in found:
        assert part.order + sum(other.order for other in others) == tree.order
        assert skeleton.order == 1 + len(others)
        assert (part.colour, skeleton.colour) == (tree.colour, tree.colour)


@given(plain_trees, fractions(-2, 2), fractions(-2, 2))
def test_binomial_theorem_on_trees(tree, x, y):
    total = sum(
        y**kept.order / kept.density * sp.prod([x**t.order / Q(t.density) for t in cut])
        for kept, cut in root_subtrees(tree)
    ) + x**tree.order / Q(tree.density)
    assert total == (x + y) ** tree.order / tree.density
