"""A B-series projected on the generator of a symmetry: its terms, its start, and both on a concrete loss."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import comb
from typing import Any, TypeVar, cast

import sympy as sp

from modeq.errors import InvalidCharge, InvalidProblem
from modeq.methods.exact import exact, tidy
from modeq.symbolic.b_series import BSeries, Written
from modeq.symbolic.differentials import contracted, h
from modeq.symbolic.explicit_fields import ExplicitDifferentials, checked_step, concrete_fields
from modeq.symbolic.fields_and_maps import series_of
from modeq.symbolic.rooted_trees import Tree
from modeq.symmetry.charge_solutions import t
from modeq.symmetry.derivations import Projected, Step, tidied
from modeq.symmetry.pairings import (
    Alphabet,
    Combination,
    Decay,
    Family,
    added,
    along_generator,
    of_theta,
    paired,
    written_sum,
)

THETA_0 = sp.Symbol("theta_0")


Series = TypeVar("Series", bound=BSeries)


def with_plain_decay(series: Series) -> Series:
    """Return a field without the terms in which weight decay meets h: of f = −g, and −λθ beside it."""
    kept = {
        tree: value if tree.order == 1 or not tree.colours & series.decay.keys() else sp.Integer(0)
        for tree, value in series.items()
    }
    return replace(series, series=series_of(series.series.table, kept))


def project_series(series: BSeries, family: Family) -> Projected:
    """Return y' of the charge along a field, or R = ⟨θ, θ'⟩_R of a rotation itself, and how each term was found."""
    decay, alphabet = series.decay, Alphabet.of(series)
    weights: dict[Tree, dict[int, list[sp.Expr]]] = defaultdict(lambda: defaultdict(list))
    for tree, value in series.items():
        if value != 0:
            factor, reduced = contracted(tree, decay)
            weights[reduced][tree.order - series.offset].append(factor * value / tree.symmetry)
    combinations = {tree: along_generator(tree, decay, family) for tree in weights}
    powers: dict[Any, dict[int, list[sp.Expr]]] = defaultdict(lambda: defaultdict(list))
    for tree, by_power in weights.items():
        for pair, value in combinations[tree].items():
            for power, parts in by_power.items():
                powers[pair][power].append((family.degree or 1) * value * sp.Add(*parts))
    rate, terms = sp.Integer(0), {}
    for pair, by_power in powers.items():
        factor, pairing = (sp.Integer(-1), None) if pair is None else alphabet.pairing(pair, family, t)
        value = sp.Add(*(h**power * tidy(factor * sp.Add(*parts)) for power, parts in by_power.items()))
        if pairing is None:
            rate = value
        elif value != 0:
            terms[pairing, 0] = value
    steps = (
        Step("The modified equation, in the time t = h·n", (Written(series.text(), series.latex()),)),
        Step("The symmetry, differentiated", _identities(family, series.order)),
        Step("Each term on the generator", _on_generator(combinations, family, alphabet)),
    )
    # R is a function of θ along a field, so that there is nothing to solve
    coefficients = (sp.Integer(1),) if family.degree == 0 else (rate, sp.Integer(1))
    return Projected(coefficients, terms, steps)


def _identities(family: Family, order: int) -> tuple[Written, ...]:
    if family.degree == 1:
        lines = [
            Written("⟨1_A,g⟩ = 0", r"\langle 1_A,g\rangle = 0"),
            Written("H 1_A = 0", "H 1_A = 0"),
            Written("∇^kL[1_A,…] = 0", r"\nabla^kL[1_A,\dots] = 0"),
        ]
    else:
        along, sign = family.along(Written("g", "g")), "-" if family.pairing.sign > 0 else ""
        lines = [
            Written(f"{along.text} = 0", f"{along.latex} = 0"),
            Written(f"H 𝒜θ = {sign}𝒜g", rf"H\mathcal{{A}}\theta = {sign}\mathcal{{A}}g"),
            Written(
                "∇^kL[𝒜θ,u,v,…] = -∇^(k-1)L[𝒜u,v,…] - ∇^(k-1)L[u,𝒜v,…] - …",
                r"\nabla^kL[\mathcal{A}\theta,u,v,\dots] = "
                r"-\nabla^{k-1}L[\mathcal{A}u,v,\dots] - \nabla^{k-1}L[u,\mathcal{A}v,\dots] - \dots",
            ),
        ]
    return (*family.definition, *lines[:order])


def _on_generator(combinations: dict[Tree, Combination], family: Family, alphabet: Alphabet) -> tuple[Written, ...]:
    lines = []
    charge = Written(family.letter, family.letter)
    for tree, combination in combinations.items():
        factor, vector = alphabet.vector(tree)
        terms = []
        for pair, value in combination.items():
            if pair is None:
                terms.append((sp.cancel(value / factor), charge))
            else:
                scale, pairing = alphabet.pairing(pair, family, t)
                terms.append((sp.cancel(value * scale / factor), pairing.written))
        left, right = family.along(Written(vector.text, vector.latex)), written_sum(terms)
        lines.append(Written(f"{left.text} = {right.text}", f"{left.latex} = {right.latex}"))
    return tuple(lines)


def initial_values(vectors: Sequence[BSeries], family: Family, charge: sp.Symbol) -> list[sp.Expr]:
    """Return y(0), y'(0), … from θ(0) − θ₀, θ'(0), … as B-series at θ₀: in the charge and pairings of θ₀.

    Each y⁽ᵐ⁾(0) = Σ_i C(m, i) ⟨θ⁽ⁱ⁾, θ⁽ᵐ⁺ᵈ⁻ⁱ⁾⟩_𝒜, with d = 1 for a rotation and else 0, is cut where the series are.
    """
    order = max(series.order for series in vectors)
    alphabet = Alphabet.of(vectors[-1])
    expanded = [_expanded(series, k) for k, series in enumerate(vectors)]
    result = []
    for m in range(len(vectors) - family.derivatives):
        top = m + family.derivatives
        parts: dict[int, list[tuple[sp.Expr, Combination]]] = defaultdict(list)
        if family.degree == 1:
            for tree, weight in expanded[m]:
                combination: Combination = (
                    {None: sp.Integer(1)} if tree is None else along_generator(tree[1], alphabet.decay, family)
                )
                parts[tree[0] if tree else 0].append((weight, combination))
        else:
            for i in range(m + 1):
                for u, a in expanded[i]:
                    for v, b in expanded[top - i]:
                        size = (u[0] if u else 0) + (v[0] if v else 0)
                        if size <= order:
                            product = _inner(u and u[1], v and v[1], alphabet.decay, family)
                            parts[size].append((comb(m, i) * a * b, product))
        total = []
        for size, given in parts.items():
            for pair, value in added(given).items():
                factor, atom = (sp.Integer(1), charge) if pair is None else alphabet.pairing(pair, family, THETA_0)
                total.append(h ** (size - top) * tidied(factor * value) * atom)
        result.append(sp.Add(*total))
    return result


Placed = tuple[int, Tree] | None  # a contracted tree with the number of vertices before; None for θ₀ itself


def _expanded(series: BSeries, derivative: int) -> list[tuple[Placed, sp.Expr]]:
    terms: list[tuple[Placed, sp.Expr]] = [(None, sp.Integer(1))] if derivative == 0 else []
    for tree, value in series.items():
        if value != 0:
            factor, reduced = contracted(tree, series.decay)
            terms.append(((tree.order, reduced), factor * value / tree.symmetry))
    return terms


def _inner(u: Tree | None, v: Tree | None, decay: Decay, family: Family) -> Combination:
    if u is None:
        return of_theta(family) if v is None else along_generator(v, decay, family)
    if v is None:
        return added([(sp.Integer(family.pairing.sign), along_generator(u, decay, family))])
    return paired(u, v, decay, family)


def explicit_rate(
    series: BSeries, projected: Projected, family: Family, loss: Any, variables: Any, weights: Any, step: Any
) -> sp.Expr:
    """Return y' on a concrete loss, or R for a rotation, with the charge and the pairings written out."""
    fields, symbols = concrete_fields(loss, variables, series)
    number = checked_step(step, symbols)
    action = _action(weights, symbols, family)
    generator = list(action if family.degree == 1 else action * sp.Matrix(symbols))
    signed = [
        symbols if colour in series.decay else tuple(-component for component in vector)
        for colour, vector in enumerate(fields)
    ]
    for colour, gradient in enumerate(signed):
        if colour not in series.decay:
            _require_symmetry(gradient, generator, family)
    differentials = ExplicitDifferentials(signed, symbols)
    charge = sp.Add(*(x * v for x, v in zip(generator, symbols, strict=True)))
    total = [-a * charge for a in projected.coefficients[:-1]]
    for (pairing, _), value in projected.terms.items():
        u, v = (differentials.vector(cast(Tree, vector.tree)) for vector in pairing.vectors)
        total.append(value * (action * sp.Matrix(u)).dot(sp.Matrix(v)))
    return sp.Add(*total).subs(h, number)


def _action(weights: Any, symbols: Sequence[sp.Symbol], family: Family) -> sp.Matrix:
    """Return 𝒜, or 1_A as a column."""
    n, sign = len(symbols), family.pairing.sign
    told = f"weights are {weights!r}: give one number for each of the {n} variables, not all 0, the "
    told += "entries of 1_A" if family.degree == 1 else f"diagonal of 𝒜, or 𝒜 with its transpose {'-' * (sign < 0)}𝒜"
    try:
        matrix = sp.Matrix(weights).applyfunc(lambda w: exact(w, "weights"))
    except (TypeError, ValueError) as error:
        raise InvalidCharge(told) from error
    shape, fits = (n, 1), True
    if family.degree != 1:
        matrix = sp.diag(*matrix) if matrix.shape == (n, 1) else matrix
        shape, fits = (n, n), sign * matrix == matrix.T
    if matrix.shape != shape or not fits or not any(matrix):
        raise InvalidCharge(told)
    return matrix


def _require_symmetry(gradient: Sequence[sp.Expr], generator: Sequence[sp.Expr], family: Family) -> None:
    product = sp.Add(*(g * x for g, x in zip(gradient, generator, strict=True)))
    if product.equals(0) is False:
        raise InvalidProblem(
            f"the loss is not invariant: its gradient on the generator is {product}, not 0; give weights along which "
            f"it has a {family.name} symmetry"
        )
