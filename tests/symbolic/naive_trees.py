"""Coefficients of modified equations by brute force, one tree at a time, to orders beyond the reach of `Expansion`.

For each tree there is a field that isolates it: vertex v moves with the product of its children. On that field the
iteration is expanded, either by an update rule of `naive_expansion` or as a general linear method with all its states.
"""

from functools import cache, reduce
from operator import mul

import sympy as sp


class Multilinear:
    """A polynomial in the vertices of a tree, each at most to the first power: {bit mask of vertices: coefficient}."""

    def __init__(self, terms):
        self.terms = {mask: value for mask, value in terms.items() if value}

    def __add__(self, other):
        terms = dict(self.terms)
        for mask, value in other.terms.items() if isinstance(other, Multilinear) else [(0, other)]:
            terms[mask] = terms[mask] + value if mask in terms else value
        return Multilinear(terms)

    __radd__ = __add__

    def __neg__(self):
        return Multilinear({mask: -value for mask, value in self.terms.items()})

    def __sub__(self, other):
        return self + -other

    def __rsub__(self, other):
        return -self + other

    def __mul__(self, other):
        if not isinstance(other, Multilinear):
            return Multilinear({mask: value * other for mask, value in self.terms.items()})
        terms = {}
        for a, x in self.terms.items():
            for b, y in other.terms.items():
                assert not a & b, "a square, which no field of a tree leads to"
                terms[a | b] = terms.get(a | b, 0) + x * y
        return Multilinear(terms)

    __rmul__ = __mul__

    def at(self, points):
        """The polynomial with points[i] in place of vertex i."""
        total = Multilinear({})
        for mask, value in self.terms.items():
            total += reduce(mul, (points[i] for i in bits(mask)), Multilinear({0: value}))
        return total

    def derivative(self, F):
        """Along the field F."""
        total = Multilinear({})
        for mask, value in self.terms.items():
            for i in bits(mask):
                total += Multilinear({mask ^ 1 << i: value}) * F[i]
        return total


def bits(mask):
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


class TreeExpansion:
    """As `Expansion`, on the field that isolates one tree: vertex v moves with the product of its children.

    With the weight |subtree of v| for vertex v and 1 for h everything is homogeneous, so that h = 1 loses
    nothing; and Taylor series end, since each derivative makes the weight smaller.
    """

    def __init__(self, children, symbols=()):
        self.field = sp.QQ.frac_field(*symbols) if symbols else sp.QQ
        self.one = self.field.one
        self.order = len(children)
        self.h = Multilinear({0: self.one})
        self.theta = [Multilinear({1 << i: self.one}) for i in range(len(children))]
        self.function = [reduce(mul, (self.theta[c] for c in below), self.h) for below in children]

    def number(self, value):
        return Multilinear({0: self.field.from_sympy(sp.sympify(value))})

    def composed(self, function, points):
        return [component.at(points) for component in function]

    def later(self, function, F, shift):
        total, term = list(function), list(function)
        for k in range(1, self.order + 1):
            term = [component.derivative(F) * (shift * self.one / k) for component in term]
            total = [a + b for a, b in zip(total, term, strict=True)]
        return total

    def solve(self, rule, slope):
        F = [Multilinear({})] * self.order
        inverse = self.one / (slope.terms[0] if isinstance(slope, Multilinear) else self.field(slope))
        for _ in range(self.order):
            defect = rule(lambda function, shift, F=F: self.later(function, F, shift))
            F = [a - b * inverse for a, b in zip(F, defect, strict=True)]
        return F


def vertices(nested):
    """For each vertex of a tree in nested lists the numbers of its children; the root is 0."""
    children = [[]]

    def visit(tree, number):
        for child in tree:
            children.append([])
            below = len(children) - 1
            children[number].append(below)
            visit(child, below)

    visit(nested, 0)
    return children


def coefficient(nested, rule, symbols=(), **hyperparameters):
    """b(τ) of a rule above.

    At θ = 0 the elementary differential F(τ) has on the field of its own tree the root component σ(τ), and
    all others vanish there, so that the root component of a series is the coefficient, not divided by σ.
    """
    e = TreeExpansion(vertices(nested), symbols)
    root = rule(e, e.function, **hyperparameters)[0]
    return e.field.to_sympy(root.terms.get(0, e.field.zero))


@cache
def trees(order, colours=1):
    """All rooted trees with `order` vertices, as (colour of the root, subtrees)."""
    smaller = [tree for n in range(1, order) for tree in trees(n, colours)]
    return [(colour, forest) for forest in forests(order - 1, smaller) for colour in range(colours)]


def forests(order, allowed):
    """All multisets of the allowed trees with `order` vertices in all."""
    if order == 0:
        yield ()
    for i, tree in enumerate(allowed):
        if size(tree) <= order:
            yield from ((tree, *rest) for rest in forests(order - size(tree), allowed[i:]))


def size(tree):
    return 1 + sum(map(size, tree[1]))


def nested(tree):
    """A tree of one colour as nested lists."""
    return [nested(child) for child in tree[1]]


class SlowManifold:
    """The slow manifold of the general linear method (A, B, C, D) with its readout, on the field of one tree.

    States are X_s = u_s θ + W_s(θ) there, with e·W = 0. One step takes θ along F for the time h, thus

        u (θ(h) − θ) + W(θ(h)) = A W(θ) + h B f(y),    y = θ + C W(θ) + h D f(y),

    which is solved from the leaves to the root: at a vertex f(y) holds the queries of its children only.
    """

    def __init__(self, method, symbols=()):
        self.field = sp.QQ.frac_field(*symbols) if symbols else sp.QQ
        rows = {key: self._rows(getattr(method, key)) for key in ("A", "B", "C", "D", "preconsistency")}
        self.A, self.B, self.C, self.D, u = rows.values()
        self.u = [row[0] for row in u]
        self.colours = method.colours
        states = len(self.A)
        bordered = sp.Matrix(
            sp.BlockMatrix([[sp.eye(states) - method.A, method.preconsistency], [method.readout, sp.zeros(1, 1)]])
        )
        self.inverse = self._rows(bordered.inv())

    def _rows(self, matrix):
        return [[self.field.from_sympy(entry) for entry in matrix.row(i)] for i in range(matrix.rows)]

    def coefficient(self, tree):
        """b(τ): the root component of F at θ = 0."""
        shape, self.F, self.queries = self._numbered(tree), {}, {}
        for vertex in reversed(range(len(shape))):  # children have larger numbers
            self._settle(vertex, *shape[vertex])
        return self.field.to_sympy(self.F[0].terms.get(0, self.field.zero))

    @staticmethod
    def _numbered(tree):
        """(colour, numbers of the children) of each vertex, the root first."""
        shape = []

        def visit(colour, subtrees):
            number = len(shape)
            shape.append(None)
            shape[number] = (colour, [visit(*child) for child in subtrees])
            return number

        visit(*tree)
        return shape

    def _settle(self, vertex, colour, children):
        """F, and the queries, at one vertex; power by power, as each derivative along F brings one more."""
        zero, one = Multilinear({}), Multilinear({0: self.field.one})
        states, order = range(len(self.A)), len(self.F) + 1
        f = [
            reduce(mul, (self.queries[child][j] for child in children), one) if seen == colour else zero
            for j, seen in enumerate(self.colours)
        ]
        moved = [combined(row, f) for row in self.B]
        F, W = zero, [zero] * len(self.A)
        for _ in range(order):
            late = self._ahead(F, 1) - F
            right = [moved[s] - late * self.u[s] - (self._ahead(W[s], 0) - W[s]) for s in states]
            *W, F = (combined(row, [*right, zero]) for row in self.inverse)
        self.F[vertex] = F
        here = Multilinear({1 << vertex: self.field.one})
        self.queries[vertex] = [
            here + combined(self.C[i], W) + combined(self.D[i], f) for i in range(len(self.colours))
        ]

    def _ahead(self, polynomial, offset):
        """Σ_k Dᵏ/(k + offset)!: the polynomial one step later for 0, its average over the step for 1."""
        total, term, k = polynomial, polynomial, 0
        while term.terms:
            k += 1
            term = term.derivative(self.F) * (self.field.one / (k + offset))
            total += term
        return total


def combined(row, vectors):
    return sum((vector * entry for entry, vector in zip(row, vectors, strict=True) if entry), Multilinear({}))
