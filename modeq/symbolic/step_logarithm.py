"""The logarithm of the one-step map on the state of a method, over trees with the buffers as leaves."""

from itertools import combinations_with_replacement

import sympy as sp

from modeq.errors import InvalidOrder, NoTimeDerivativeForm
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.exact import coefficient_field
from modeq.methods.shift_operator import Element
from modeq.symbolic.exponential_polynomials import LinearRecurrence, Sequence, combine
from modeq.symbolic.rooted_trees import Tree

LARGEST_NUMBER_OF_TREES = 20_000

Terms = tuple[Element, ...]  # the rational part, then the factor of the logarithm of each pole


class StepLogarithm:
    """d/dn at n = 0 of the iterates X(n) as series in f and the buffers, with μⁿ = e^{n ln μ}.

    Attributes
    ----------
    poles : the parasitic eigenvalues, each once
    trees : all trees up to the order, by their number of vertices; the buffer i is a leaf of the colour
        ``method.colour_count + i``
    terms : for θ and for each buffer w_i the coefficients of all trees
    field : the field that their rational parts are in
    """

    def __init__(self, method: GeneralLinearMethod, order: int) -> None:
        matrices = (method.A, method.B, method.C, method.D, method.readout)
        recurrence = LinearRecurrence(method.A, coefficient_field([entry for matrix in matrices for entry in matrix]))
        K = self.field = recurrence.field
        self.poles, exponents = _logarithms(method, recurrence, order)
        self.trees = tuple(_trees(method, order))
        states = _iterates(method, recurrence, self.trees)
        rows = [list(method.readout), *coordinates(method)[0].tolist()]
        self.terms: tuple[tuple[Terms, ...], ...] = tuple(
            tuple(_derivative(combine(row, states[tree], K), exponents, len(self.poles)) for tree in self.trees)
            for row in ([K.from_sympy(entry) for entry in row] for row in rows)
        )


def coordinates(method: GeneralLinearMethod) -> tuple[sp.ImmutableMatrix, sp.ImmutableMatrix]:
    """Return the rows P and the columns W of X = u θ + W w, w = P X.

    The buffers w are all states but the first one that enters θ, each less its u θ.

    Examples
    --------
    >>> import modeq as mq
    >>> coordinates(mq.TripleMomentum(0.5, 0.5, 0.25))
    (Matrix([[0, 1]]), Matrix([
    [-1/4],
    [   1]]))
    """
    states, readout = method.state_count, method.readout
    pivot = next(k for k in range(states) if readout[k] != 0)
    others = [k for k in range(states) if k != pivot]
    P, W = sp.zeros(states - 1, states), sp.zeros(states, states - 1)
    for i, k in enumerate(others):
        P[i, :] = -method.preconsistency[k] * readout
        P[i, k] += 1
        W[k, i] = 1
        W[pivot, i] = -readout[k] / readout[pivot]
    return sp.ImmutableMatrix(P), sp.ImmutableMatrix(W)


def _logarithms(
    method: GeneralLinearMethod, recurrence: LinearRecurrence, order: int
) -> tuple[tuple[sp.Expr, ...], dict[Element, tuple[int, ...]]]:
    """The parasitic eigenvalues λ, and for each product of up to `order` of them its exponents."""
    K = recurrence.field
    parasitic = [mu for mu in recurrence.eigenvalues if mu != K.one]
    poles = tuple(K.to_sympy(mu) for mu in parasitic)
    logs = []
    for pole in poles:
        value = complex(sp.N(pole, 30)) if pole.is_number else None
        if pole.is_nonpositive or (value is not None and abs(value.imag) < 1e-25 and value.real <= 0):
            raise NoTimeDerivativeForm(
                f"{method} has the parasitic eigenvalue {pole}: the one-step map has no real logarithm unless all "
                "are positive or complex pairs; use modified_equation or phase_space_form"
            )
        logs.append(complex(sp.log(value)) if value is not None else 0)
    exponents: dict[Element, tuple[int, ...]] = {}
    for size in range(order + 1):
        for choice in combinations_with_replacement(range(len(poles)), size):
            product, powers = K.one, tuple(choice.count(i) for i in range(len(poles)))
            for i in choice:
                product *= parasitic[i]
            known = exponents.setdefault(product, powers)
            if abs(sum((a - b) * log for a, b, log in zip(powers, known, logs, strict=True))) > 1e-6:
                raise NoTimeDerivativeForm(
                    f"{method} has complex eigenvalues {list(poles)} whose powers {powers} and {known} are equal, but "
                    f"not those of their logarithms: there is no state-space form of order {order}; ask for a lower one"
                )
    return poles, exponents


def _trees(method: GeneralLinearMethod, order: int) -> list[Tree]:
    """All trees up to an order, those of the buffers as leaves; decay vertices have at most one child."""
    fields = method.colour_count
    levels = [[Tree(colour, []) for colour in range(fields + method.state_count - 1)]]
    count = len(levels[0])
    for size in range(2, order + 1):
        level = []
        for u in (u for smaller in levels[: size - 1] for u in smaller):
            if u.colour >= fields or (u.colour in method.decay and u.children):
                continue
            # The largest child comes last, so that each tree occurs once.
            level += [
                u.butcher_product(v)
                for v in levels[size - u.order - 1]
                if not u.children or v == u.children[0] or v > u.children[0]
            ]
        levels.append(level)
        count += len(level)
        if count > LARGEST_NUMBER_OF_TREES:
            raise InvalidOrder(
                f"order is {order}: there are {count:,} trees with up to {size} vertices already; ask for a lower order"
            )
    return [tree for level in levels for tree in level]


def _iterates(
    method: GeneralLinearMethod, recurrence: LinearRecurrence, trees: tuple[Tree, ...]
) -> dict[Tree, list[Sequence]]:
    """The coefficient of each tree in the states X(n), as sequences in n."""
    K = recurrence.field
    B, C, D = (
        [[K.from_sympy(entry) for entry in matrix.row(i)] for i in range(matrix.rows)]
        for matrix in (method.B, method.C, method.D)
    )
    _, columns = coordinates(method)
    zero, one = Sequence((), {}, K), Sequence((), {K.one: [K.one]}, K)
    gradients: dict[Tree, list[Sequence]] = {}
    positions: dict[Tree, list[Sequence]] = {}
    states: dict[Tree, list[Sequence]] = {}
    for tree in trees:
        first = [K.zero] * method.state_count
        if tree.children:
            u, v = Tree(tree.colour, tree.children[1:]), tree.children[0]
            R = [a * b for a, b in zip(gradients[u], positions[v], strict=True)]
        else:
            R = [one if c == tree.colour else zero for c in method.colours]
            if tree.colour >= method.colour_count:
                first = [K.from_sympy(entry) for entry in columns.col(tree.colour - method.colour_count)]
        states[tree] = recurrence.solve(first, [combine(row, R, K) for row in B])
        gradients[tree] = R
        positions[tree] = [combine([*c, *d], [*states[tree], *R], K) for c, d in zip(C, D, strict=True)]
    return states


def _derivative(sequence: Sequence, exponents: dict[Element, tuple[int, ...]], poles: int) -> Terms:
    """d/dn at n = 0 with μⁿ = e^{n ln μ}: the rational part, and the factors of the logarithms of the poles."""
    K = sequence.field
    result = [K.zero] * (poles + 1)
    for mu, polynomial in sequence.tail.items():
        if len(polynomial) > 1:
            result[0] += polynomial[1]
        for i, power in enumerate(exponents[mu], start=1):
            result[i] += K(power) * polynomial[0]
    return tuple(result)
