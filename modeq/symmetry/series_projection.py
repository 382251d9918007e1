"""A B-series projected on the generator of a symmetry: its terms, its start, and both on a concrete loss."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import comb
from typing import Any

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
from modeq.symmetry.pairings import Alphabet, Combination, Family, added, along_generator, paired, written_sum

THETA_0 = sp.Symbol("theta_0")


def with_plain_decay(series: BSeries) -> BSeries:
    """Return a field without the terms in which weight decay meets h: of f = −g, and −λθ beside it."""
    kept = {
        tree: value if tree.order == 1 or not tree.colours & series.decay.keys() else sp.Integer(0)
        for tree, value in series.items()
    }
    return replace(series, series=series_of(series.series.table, kept))


def project_series(series: BSeries, family: Family) -> Projected:
    """Return y' of the charge along a field, y = ⟨1_A, θ⟩ or θᵀ𝒜θ, and how each term was found."""
    decay, alphabet = series.decay, Alphabet.of(series)
    weights: dict[Tree, dict[int, list[sp.Expr]]] = defaultdict(lambda: defaultdict(list))
    for tree, value in series.items():
        if value != 0:
            factor, reduced = contracted(tree, decay)
            weights[reduced][tree.order - series.offset].append(factor * value / tree.symmetry)
    combinations = {tree: along_generator(tree, decay, family.degree) for tree in weights}
    powers: dict[Any, dict[int, list[sp.Expr]]] = defaultdict(lambda: defaultdict(list))
    for tree, by_power in weights.items():
        for pair, value in combinations[tree].items():
            for power, parts in by_power.items():
                powers[pair][power].append(family.degree * value * sp.Add(*parts))
    rate, terms = sp.Integer(0), {}
    for pair, by_power in powers.items():
        factor, pairing = (sp.Integer(-1), None) if pair is None else alphabet.pairing(pair, t)
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
    return Projected((rate, sp.Integer(1)), terms, steps)


def _identities(family: Family, order: int) -> tuple[Written, ...]:
    if family.degree == 1:
        lines = [
            Written("⟨1_A,g⟩ = 0", r"\langle 1_A,g\rangle = 0"),
            Written("H 1_A = 0", "H 1_A = 0"),
            Written("∇^kL[1_A,…] = 0", r"\nabla^kL[1_A,\dots] = 0"),
        ]
    else:
        lines = [
            Written("⟨𝒜θ,g⟩ = 0", r"\langle\mathcal{A}\theta,g\rangle = 0"),
            Written("H 𝒜θ = -𝒜g", r"H\mathcal{A}\theta = -\mathcal{A}g"),
            Written(
                "∇^kL[𝒜θ,u,v,…] = -∇^(k-1)L[𝒜u,v,…] - ∇^(k-1)L[u,𝒜v,…] - …",
                r"\nabla^kL[\mathcal{A}\theta,u,v,\dots] = "
                r"-\nabla^{k-1}L[\mathcal{A}u,v,\dots] - \nabla^{k-1}L[u,\mathcal{A}v,\dots] - \dots",
            ),
        ]
    return tuple(lines[:order])


def _on_generator(combinations: dict[Tree, Combination], family: Family, alphabet: Alphabet) -> tuple[Written, ...]:
    lines = []
    charge, generator = Written(family.letter, family.letter), family.generator
    for tree, combination in combinations.items():
        factor, vector = alphabet.vector(tree)
        terms = []
        for pair, value in combination.items():
            if pair is None:
                terms.append((sp.cancel(value / factor), charge))
            else:
                scale, pairing = alphabet.pairing(pair, t)
                terms.append((sp.cancel(value * scale / factor), pairing.written))
        right = written_sum(terms)
        lines.append(
            Written(
                f"⟨{generator.text},{vector.text}⟩ = {right.text}",
                rf"\langle {generator.latex},{vector.latex}\rangle = {right.latex}",
            )
        )
    return tuple(lines)


def initial_values(vectors: Sequence[BSeries], family: Family, charge: sp.Symbol) -> list[sp.Expr]:
    """Return y(0), y'(0), … from θ(0) − θ₀, θ'(0), … as B-series at θ₀: in the charge and pairings of θ₀.

    Each y⁽ᵐ⁾(0) = Σ_i C(m, i) ⟨θ⁽ⁱ⁾, θ⁽ᵐ⁻ⁱ⁾⟩_𝒜 is cut where the series are.
    """
    order = max(series.order for series in vectors)
    alphabet = Alphabet.of(vectors[-1])
    expanded = [_expanded(series, k) for k, series in enumerate(vectors)]
    result = []
    for m in range(len(vectors)):
        parts: dict[int, list[tuple[sp.Expr, Combination]]] = defaultdict(list)
        if family.degree == 1:
            for tree, weight in expanded[m]:
                combination = {None: sp.Integer(1)} if tree is None else along_generator(tree[1], alphabet.decay, 1)
                parts[tree[0] if tree else 0].append((weight, combination))
        else:
            for i in range(m + 1):
                for u, a in expanded[i]:
                    for v, b in expanded[m - i]:
                        size = (u[0] if u else 0) + (v[0] if v else 0)
                        if size <= order:
                            product = _inner(u and u[1], v and v[1], alphabet)
                            parts[size].append((comb(m, i) * a * b, product))
        total = []
        for size, given in parts.items():
            for pair, value in added(given).items():
                factor, atom = (sp.Integer(1), charge) if pair is None else alphabet.pairing(pair, THETA_0)
                total.append(h ** (size - m) * tidied(factor * value) * atom)
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


def _inner(u: Tree | None, v: Tree | None, alphabet: Alphabet) -> Combination:
    if u is None and v is None:
        return {None: sp.Integer(1)}
    if u is None or v is None:
        return along_generator(v if u is None else u, alphabet.decay, 2)
    return paired(u, v, alphabet.decay)


def explicit_rate(
    series: BSeries, projected: Projected, family: Family, loss: Any, variables: Any, weights: Any, step: Any
) -> sp.Expr:
    """Return y' on a concrete loss, with the charge and the pairings written out."""
    fields, symbols = concrete_fields(loss, variables, series)
    number = checked_step(step, symbols)
    entries = _entries(weights, symbols)
    generator = entries if family.degree == 1 else [w * v for w, v in zip(entries, symbols, strict=True)]
    signed = [
        symbols if colour in series.decay else tuple(-component for component in vector)
        for colour, vector in enumerate(fields)
    ]
    for colour, gradient in enumerate(signed):
        if colour not in series.decay:
            _require_symmetry(gradient, generator, family)
    differentials = ExplicitDifferentials(signed, symbols)
    charge = sp.Add(*(x * v for x, v in zip(generator, symbols, strict=True)))
    total = [-projected.coefficients[0] * charge]
    for (pairing, _), value in projected.terms.items():
        u, v = (differentials.vector(vector.tree) for vector in pairing.vectors)
        total.append(value * sp.Add(*(w * a * b for w, a, b in zip(entries, u, v, strict=True))))
    return sp.Add(*total).subs(h, number)


def _entries(weights: Any, symbols: Sequence[sp.Symbol]) -> list[sp.Expr]:
    try:
        entries = [exact(w, "weights") for w in weights]
    except TypeError as error:
        raise InvalidCharge(f"weights are {weights!r}: give one number for each variable") from error
    if len(entries) != len(symbols) or not any(entries):
        raise InvalidCharge(
            f"weights are {weights!r}: give one number for each of the {len(symbols)} variables, not all 0: the "
            "entries of 1_A, or the diagonal of 𝒜"
        )
    return entries


def _require_symmetry(gradient: Sequence[sp.Expr], generator: Sequence[sp.Expr], family: Family) -> None:
    product = sp.Add(*(g * x for g, x in zip(gradient, generator, strict=True)))
    if product.equals(0) is False:
        raise InvalidProblem(
            f"the loss is not invariant: its gradient on the generator is {product}, not 0; give weights along which "
            f"it has a {family.name} symmetry"
        )
