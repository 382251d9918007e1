"""The logarithm of the one-step map on the state of a method, over trees with the buffers as leaves."""

from itertools import combinations_with_replacement

import sympy as sp

from modeq.errors import InvalidOrder, NoTimeDerivativeForm
from modeq.methods.arithmetic import Element, elements
from modeq.methods.base import GeneralLinearMethod
from modeq.methods.composition import coordinates
from modeq.symbolic.exponential_polynomials import LinearRecurrence, Sequence, combine
from modeq.symbolic.iterates import iterated, recurrence_of
from modeq.symbolic.rooted_trees import tree_count

LARGEST_NUMBER_OF_TREES = 20_000  # at some milliseconds each

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
        P, W = coordinates(method)
        first = sp.Matrix.hstack(sp.zeros(method.state_count, method.colour_count), W)
        recurrence = recurrence_of(method, first)
        K = self.field = recurrence.field
        # Counting would take long at orders far beyond the limit.
        if tree_count(min(order, 60), first.cols, len(method.decay), W.cols) > LARGEST_NUMBER_OF_TREES:
            raise InvalidOrder(
                f"order is {order}: there are more than {LARGEST_NUMBER_OF_TREES:,} trees with up to {order} vertices; "
                "ask for a lower order"
            )
        self.poles, exponents = _logarithms(method, recurrence, order)
        table, states = iterated(method, order, first, recurrence)
        self.trees = tuple(table.trees)
        self.terms: tuple[tuple[Terms, ...], ...] = tuple(
            tuple(_derivative(combine(row, X, K), exponents, len(self.poles)) for X in states)
            for row in elements(sp.Matrix.vstack(method.readout, P), K)
        )


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
