"""The modified equation of an epoch in random order: expectations over the draws of minibatches, exactly.

Each minibatch is the mean field and a deviation, f_k = f̄ + δ_k. A vertex of a tree is one or the other, and all
deviations in one tree are of the same batch, averaged over the batches; with up to three vertices there is room for
no more. Which steps of the epoch the vertices are in decides which batches they see: for each ordering of the vertices
into steps k₁ < k₂ < … the coefficient is a sum over the steps of products of powers of A, done in closed form.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from math import comb
from typing import Any

from modeq.errors import InvalidMethod, InvalidOrder
from modeq.methods.minibatches import ExpectedEpoch
from modeq.symbolic.passes import Number, Places, apply, has_moment, passes_of, same, times, total
from modeq.symbolic.rooted_trees import Tree, checked_order, tree_table

LARGEST_ORDER = 3
MEAN, DEVIATION = 0, 1  # colours; those after them are weight decay


@dataclass(frozen=True)
class _Vertex:
    """A vertex of a tree laid out in preorder: the subtree at it, and the number of its parent (−1 for the root)."""

    tree: Tree
    parent: int


class ExpectedRecursion:
    """The recursion of the modified equation with expectations over the draws of one epoch.

    On the slow manifold of the expected map the state x = (s, y) at the start of epoch N (see :class:`SplitMethod`) is
    a series whose coefficients are polynomials x_τ(N), kept as their values at N = 0, …, order − 1, with

        s_τ(N + 1) = s_τ(N) + Σ E[slow·R],    y_τ(N + 1) = A^m y_τ(N) + Σ E[A^{m−1−k} B R],

    k the step of the root in epoch N and R the gradient's coefficient there. The vertices next to the root may be in
    the same epoch, at steps of their own, or in earlier ones: then they enter through x at its start. The sum is over
    all such divisions, and over all orders of the steps.

    Parameters
    ----------
    epoch : ExpectedEpoch
    order : positive int, at most 3
    average_logarithms : bool
        Whether to average the modified equation of one pass that is repeated for ever (E log), instead of the
        one-epoch map (log E): then all epochs have the same order of batches, and no vertex is in an earlier one.

    Attributes
    ----------
    series : the coefficients b(τ), over trees of the colours 0 (mean), 1 (deviation), 2, … (weight decay)
    decay : the rates of weight decay by colour

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> epoch = mq.Epoch(mq.GradientDescent(), batches=sp.Symbol("m")).expected("reshuffling")
    >>> recursion = ExpectedRecursion(epoch, 2, average_logarithms=False)
    >>> dict(zip(recursion.series.table.trees, recursion.series.expressions))[Tree(1, [(1, [])])]
    -1/2
    """

    def __init__(self, epoch: ExpectedEpoch, order: int, average_logarithms: bool) -> None:
        method = epoch.method
        rates = list(method.decay)
        if method.colour_count - len(rates) > 1:
            raise InvalidMethod(
                f"{method} has several fields: give the method of one loss, whose minibatches are averaged"
            )
        if (number := checked_order(order)) > LARGEST_ORDER:
            raise InvalidOrder(
                f"order is {number}: expectations over an epoch are derived to order {LARGEST_ORDER}, give at most that"
            )
        self.order, self.average_logarithms = number, average_logarithms
        self.replacement = epoch.sampling == "replacement"
        self.decay = {2 + i: method.decay[colour] for i, colour in enumerate(rates)}
        self._kinds = [2 + rates.index(c) if c in method.decay else MEAN for c in method.colours]
        self._batches = epoch.batches
        self.passes = passes_of(method, epoch.batches)
        self._states: dict[Tree, list[list[Number]]] = {}  # x_τ at the nodes
        self._known: dict[Any, list[list[Number]] | None] = {}
        table = tree_table(number, 2 + len(rates), self.decay)
        self.series = self.passes.coefficients(table, [self._coefficient(tree) for tree in table.trees])

    def _coefficient(self, tree: Tree) -> Number:
        """b(τ); x_τ is kept."""
        vertices = list(_laid_out(tree, -1, [0]))
        deviations = deviations_of(tree)
        forcing: list[list[Number]] = [[0] * (1 + len(self.passes.split.A)) for _ in range(self.order)]
        if not has_moment(deviations, self._batches):
            self._states[tree] = forcing
            return self.passes.field.zero
        for steps, inside in self._orderings(vertices, deviations):
            if added := self._summed(vertices, steps):
                weight = self.passes.moment(len(set(inside)))
                for n, row in enumerate(forcing):
                    forcing[n] = [total([x, times(weight, y)]) for x, y in zip(row, added[n % len(added)], strict=True)]
        self._states[tree], slope = self._slow(forcing)
        return times(slope, self.passes.per_step)

    def _summed(self, vertices: list[_Vertex], steps: dict[int, int]) -> list[list[Number]] | None:
        """What the root adds to (s, y), summed over the steps; None if there are too few steps in an epoch.

        Mean and deviation see the same steps, so that many trees share this.
        """
        key = self._key(0, vertices, steps)
        if key not in self._known:
            found = None
            for places in self.passes.places(1 + max(steps.values())):
                rows = [[places.total(x) for x in row] for row in self._forcing(0, vertices, steps, places)]
                pairs = zip(found or rows, rows, strict=True)
                found = [[total(pair) for pair in zip(*both, strict=True)] for both in pairs] if found else rows
            self._known[key] = found
        return self._known[key]

    def _key(self, v: int, vertices: list[_Vertex], steps: dict[int, int]) -> tuple[Any, ...]:
        """Names the steps and kinds of a vertex and of what is below it, whatever the order of the children."""
        if v not in steps:
            return (-1, 0, vertices[v].tree)
        children = [self._key(c, vertices, steps) for c, vertex in enumerate(vertices) if vertex.parent == v]
        return (steps[v], self._kind(vertices[v].tree), *sorted(children))

    @staticmethod
    def _kind(tree: Tree) -> int:
        """The colour of a vertex, the same for mean and deviation."""
        return MEAN if tree.colour == DEVIATION else tree.colour

    def _orderings(self, vertices: list[_Vertex], deviations: int) -> Iterator[tuple[dict[int, int], list[int]]]:
        """The vertices in the current epoch, each with the rank of its step, and the ranks of the deviations."""
        for current in self._divisions(vertices):
            inside = [v for v in current if vertices[v].tree.colour == DEVIATION]
            if inside and len(inside) < deviations:
                continue  # the batches of two epochs are independent
            for ranks in product(range(len(current)), repeat=len(current)):
                if set(ranks) != set(range(1 + max(ranks))):
                    continue
                steps = dict(zip(current, ranks, strict=True))
                if not self.average_logarithms and any(steps[v] > steps[vertices[v].parent] for v in current[1:]):
                    continue
                seen = [steps[v] for v in inside]
                # Of two or three deviations drawn with replacement at different steps one is alone.
                if not (self.replacement and len(set(seen)) > 1):
                    yield steps, seen

    def _divisions(self, vertices: list[_Vertex]) -> Iterator[tuple[int, ...]]:
        """The sets of vertices that are in the current epoch: with each one its parent."""
        numbers = range(len(vertices))
        sizes = [len(vertices)] if self.average_logarithms else range(1, len(vertices) + 1)
        for size in sizes:
            for chosen in combinations(numbers, size):
                if chosen[0] == 0 and all(vertices[v].parent in chosen for v in chosen[1:]):
                    yield chosen

    def _forcing(self, v: int, vertices: list[_Vertex], steps: dict[int, int], places: Places) -> list[list[Number]]:
        """What a vertex at its step k adds to (s, y) by the end of the epoch, at the nodes N."""
        split = self.passes.split
        return [
            [*apply([split.slow], R), *places.after[steps[v]](apply(split.B, R))]
            for R in self._gradient(v, vertices, steps, places)
        ]

    def _gradient(self, v: int, vertices: list[_Vertex], steps: dict[int, int], places: Places) -> list[list[Number]]:
        """R of a vertex, for each query, at the nodes N; a single one where it does not depend on N."""
        kind, split = self._kind(vertices[v].tree), self.passes.split
        result: list[list[Number]] = [[places.one if kind == k else 0 for k in self._kinds]]
        for child in (c for c, vertex in enumerate(vertices) if vertex.parent == v):
            moved = []  # what the child adds to each query
            states = None  # at the start of the epoch
            if child not in steps:
                states = [[places.constant(e) for e in x] for x in self._states[vertices[child].tree]]
            else:
                seen = self._gradient(child, vertices, steps, places)
                if steps[child] == steps[v]:
                    moved.append([apply(split.D, R) for R in seen])
                elif steps[child] < steps[v]:
                    power = places.between[steps[v], steps[child]]
                    moved.append([self._seen(apply([split.slow], R)[0], power(apply(split.B, R))) for R in seen])
                if self.average_logarithms:
                    states, _ = self._slow(self._forcing(child, vertices, steps, places), places.constant)
            if states is not None:
                moved.append([self._seen(s, places.before[steps[v]](y)) for s, *y in states])
            length = max(len(part) for part in (result, *moved))
            result = [
                [
                    times(value, total([part[n % len(part)][j] for part in moved]))
                    for j, value in enumerate(result[n % len(result)])
                ]
                for n in range(length)
            ]
        return result

    def _seen(self, s: Number, y: list[Number]) -> list[Number]:
        """The queries at the state (s, y)."""
        return [total([s, value]) for value in apply(self.passes.split.C, y)] if y else [s] * len(self._kinds)

    def _slow(
        self, forcing: list[list[Number]], lift: Callable[[Number], Number] = same
    ) -> tuple[list[list[Number]], Number]:
        """The polynomials s⁺ = s + F₀, y⁺ = A^m y + F, θ(0) = 0, at the nodes, and dθ/dN at 0; `lift` is for constants.

        With the difference Δ in N and Γ = (I − A^m)⁻¹, y = Γ (F − Δ y) and Δ s = F₀.
        """
        K, readout = self.passes.field, self.passes.split.readout
        settling = [[lift(entry) for entry in row] for row in self.passes.settling]
        minus = -K.one
        newton: list[list[Number]] = []  # ΔᵏF(0)
        level = forcing
        while level:
            newton.append(level[0])
            level = [[total([b, times(a, minus)]) for a, b in zip(*rows, strict=True)] for rows in pairwise(level)]
        count = len(newton)
        y: list[list[Number]] = [[0] * len(readout)] * (count + 1)  # Δᵏy(0)
        for k in range(count - 1, -1, -1):
            y[k] = apply(settling, [total([f, times(d, minus)]) for f, d in zip(newton[k][1:], y[k + 1], strict=True)])
        fast = [apply([readout], values)[0] if values else 0 for values in y]
        s = [times(fast[0], minus), *(row[0] for row in newton)]  # Δᵏs(0)
        slope = total(times(total([s[k], fast[k]]), K((-1) ** (k - 1)) / K(k)) for k in range(1, count + 1))
        states = []
        for n in range(self.order):
            at = [K(comb(n, k)) for k in range(min(n, count) + 1)]
            columns = zip(*([s[k], *y[k]] for k in range(len(at))), strict=True)
            states.append([total(times(x, c) for x, c in zip(column, at, strict=True)) for column in columns])
        return states, slope


def deviations_of(tree: Tree) -> int:
    """Return the number of deviations in a tree.

    Examples
    --------
    >>> deviations_of(Tree(1, [(0, []), (1, [])]))
    2
    """
    return int(tree.colour == DEVIATION) + sum(deviations_of(child) for child in tree.children)


def _laid_out(tree: Tree, parent: int, counter: list[int]) -> Iterator[_Vertex]:
    own = counter[0]
    counter[0] += 1
    yield _Vertex(tree, parent)
    for child in tree.children:
        yield from _laid_out(child, own, counter)
