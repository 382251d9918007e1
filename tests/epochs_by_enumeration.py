"""The same expectations by enumeration: every order of the batches written out as one general linear method.

The expected one-epoch map of m batches, X⁺ = mean over all orders of the epoch's X_m, is a general linear method
itself, with the queries of every order; its coefficients over trees coloured by batches come from the recursion of any
method. Nothing of the sums over steps in modeq/symbolic/expected.py and passes.py is used.
"""

from collections import defaultdict
from itertools import permutations, product

import sympy as sp

import modeq as mq
from modeq.methods.composition import Move, composed
from modeq.symbolic.rooted_trees import Tree


def orders(sampling, m):
    """Every order of m batches that can be drawn, each as likely."""
    return list(product(range(m), repeat=m) if sampling == "replacement" else permutations(range(m)))


def epoch_in_order(method, order):
    """The matrices of one pass in a given order; colour k is batch k, colour m weight decay."""
    m = len(order)
    colour = dict.fromkeys(method.decay, m)
    return composed(
        [
            Move(method.A, method.B, method.C, method.D, tuple(colour.get(c, batch) for c in method.colours))
            for batch in order
        ]
    )


def _decay(method, colour):
    """The rate of weight decay by its colour here; there is one at most."""
    return dict(zip([colour], method.decay.values(), strict=False))


def averaged_method(method, sampling, m):
    """X⁺ = the mean over all orders of one pass, as one method that counts m steps."""
    passes = [epoch_in_order(method, order) for order in orders(sampling, m)]
    return mq.GeneralLinearMethod(
        A=passes[0].A,
        B=sp.Matrix.hstack(*(p.B for p in passes)) / len(passes),
        C=sp.Matrix.vstack(*(p.C for p in passes)),
        D=sp.diag(*(p.D for p in passes)),
        readout=method.readout,
        colours=sum((p.colours for p in passes), ()),
        decay=_decay(method, m),
        steps=m,
        name=f"{method} averaged over {len(passes)} orders",
    )


def expected_by_enumeration(method, sampling, m, order):
    """log E, over trees coloured by batches."""
    return mq.modified_equation(averaged_method(method, sampling, m), order).coefficients


def averaged_logarithm(method, sampling, m, order):
    """E log, over trees coloured by batches: each pass as a method of its own, whose batches may repeat."""
    total = defaultdict(lambda: sp.Integer(0))
    drawn = orders(sampling, m)
    for sequence in drawn:
        one = epoch_in_order(method, sequence)
        present = sorted(set(one.colours))  # colours must be numbered without gaps
        names = {colour: k for k, colour in enumerate(present)}
        glm = mq.GeneralLinearMethod(
            A=one.A,
            B=one.B,
            C=one.C,
            D=one.D,
            readout=method.readout,
            colours=tuple(names[c] for c in one.colours),
            decay=_decay(method, names.get(m)),
            steps=m,
        )
        for tree, value in mq.modified_equation(glm, order).items():
            total[_recoloured(tree, present)] += value / len(drawn)
    return total


def _recoloured(tree, names):
    return Tree(names[tree.colour], [_recoloured(child, names) for child in tree.children])


def over_batches(equation, m):
    """The coefficients of an equation in mean and deviations, over trees coloured by batches.

    Mean: Σ_k f_k/m; deviation: Σ_k (1[k = j] − 1/m) f_k, averaged over j.
    """
    decay = 2 in equation.decay
    result = {}
    for order in range(1, equation.order + 1):
        for tree in mq.trees(order, colours=m + decay):
            if any(v.colour == m and len(v.children) > 1 for v in _vertices(tree)):
                continue  # a linear field
            result[tree] = sum(
                (equation[typed] * weight for typed, weight in _typed(tree, m) if weight), start=sp.Integer(0)
            )
    return result


def _typed(tree, m):
    """Each choice of mean or deviation for the vertices, with the weight of this colouring in it."""
    count = sum(1 for _ in _vertices(tree))
    for types in product((0, 1), repeat=count):
        colours = [v.colour for v in _vertices(tree)]
        if any(t == 1 and c == m for t, c in zip(types, colours, strict=True)):
            continue
        weight = sp.Integer(1)
        for t, c in zip(types, colours, strict=True):
            weight *= sp.Rational(1, m) if t == 0 and c < m else 1
        deviations = [c for t, c in zip(types, colours, strict=True) if t == 1]
        if deviations:
            weight *= sum(
                sp.prod([(sp.Integer(c == j) - sp.Rational(1, m)) for c in deviations]) for j in range(m)
            ) / sp.Integer(m)
        labels = iter(2 if c == m else t for t, c in zip(types, colours, strict=True))
        yield _labelled(tree, labels), weight


def _labelled(tree, labels):
    own = next(labels)
    return Tree(own, [_labelled(child, labels) for child in tree.children])


def _vertices(tree):
    yield tree
    for child in tree.children:
        yield from _vertices(child)
