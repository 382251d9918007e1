r"""A form in time derivatives projected on the generator of a symmetry, along its path.

The time-derivative and the phase-space form are Σ_k a_k θ⁽ᵏ⁾ = −Σ_k r_k (d/dt)ᵏ g(θ(t)), weight decay gathered in the
a_k. With N = θᵀ𝒜θ the product rule gives

    2⟨𝒜θ, θ⁽ᵏ⁾⟩ = Σ_j (−1)ʲ k/(k − j) C(k − j, j) (d/dt)^{k−2j} ⟨θ⁽ʲ⁾, θ⁽ʲ⁾⟩_𝒜,

which is how the power sum xᵏ + yᵏ is written in x + y and xy. With the antisymmetric pairing of a rotation

    ⟨θ, θ⁽ᵏ⁾⟩_R = Σ_j (−1)ʲ C(k − 1 − j, j) (d/dt)^{k−1−2j} ⟨θ⁽ʲ⁾, θ⁽ʲ⁺¹⁾⟩_R,

as (yᵏ − xᵏ)/(y − x) is written, and the equation of R = ⟨θ, θ'⟩_R is of an order less. Since ⟨𝒜θ, g⟩ = 0 along the
whole path,

    ⟨𝒜θ, (d/dt)ᵏ g⟩ = Σ_{i ≥ 1} (−1)ⁱ C(k, i) (d/dt)^{k−i} ⟨θ⁽ⁱ⁾, g⟩_𝒜.
"""

from collections import defaultdict
from math import comb

import sympy as sp

from modeq.symbolic.b_series import Written
from modeq.symbolic.differentials import h
from modeq.symbolic.phase_space import PhaseSpaceForm
from modeq.symbolic.rooted_trees import Tree
from modeq.symbolic.temporal import TimeDerivativeForm
from modeq.symmetry.charge_solutions import t
from modeq.symmetry.derivations import Projected, Step, differentiated, primed, tidied
from modeq.symmetry.pairings import Family, Pairing, Vector, written_sum

PathForm = TimeDerivativeForm | PhaseSpaceForm
Terms = dict[tuple[Pairing, int], sp.Expr]

GRADIENT = Vector("g", Tree([]))


def sides(form: PathForm) -> tuple[list[sp.Expr], list[sp.Expr]]:
    """Return (a_0, a_1, …) and (r_0, r_1, …) of Σ a_k θ⁽ᵏ⁾ = −Σ r_k (d/dt)ᵏ g, in the time t = h·n.

    Examples
    --------
    >>> import modeq as mq
    >>> sides(mq.time_derivative_form(mq.GradientDescent().with_weight_decay(0.5), order=2))
    ([1/2, 1, h/2], [1])
    """
    if isinstance(form, TimeDerivativeForm):
        main, right = form.coefficients, [sp.Integer(1)]
        decay, rate = form.decay_coefficients, form.decay_rate
    else:
        (colour,) = set(form.r) - form.method.decay.keys()
        main, right = form.q, [h**k * c for k, c in enumerate(form.r[colour])]
        decay, rate = (), sp.Integer(0)
        for other, value in form.method.decay.items():
            decay, rate = form.r[other], value
    left = [sp.Integer(0)] * max(len(main) + 1, len(decay))
    for k, c in enumerate(main, start=1):
        left[k] += c * h ** (k - 1)
    for k, d in enumerate(decay):
        left[k] += rate * d * h**k
    left = [tidied(a) for a in left]
    while left[-1] == 0:
        left.pop()
    return left, right


def product_rule(k: int, family: Family) -> list[tuple[int, int, int]]:
    """Return 2⟨𝒜θ, θ⁽ᵏ⁾⟩, or ⟨θ, θ⁽ᵏ⁾⟩_R, as (factor, j, derivatives) of factor·(d/dt)^derivatives ⟨θ⁽ʲ⁾, θ⁽ʲ⁾⟩_𝒜.

    Of ⟨θ⁽ʲ⁾, θ⁽ʲ⁺¹⁾⟩_R for a rotation. The first, j = 0, is of the charge.

    Examples
    --------
    >>> from modeq.symmetry.pairings import FAMILIES
    >>> product_rule(2, FAMILIES["scale"]), product_rule(3, FAMILIES["scale"])
    ([(1, 0, 2), (-2, 1, 0)], [(1, 0, 3), (-3, 1, 1)])
    >>> product_rule(2, FAMILIES["rotation"]), product_rule(3, FAMILIES["rotation"])
    ([(1, 0, 1)], [(1, 0, 2), (-1, 1, 0)])
    """
    if family.degree == 0:
        return [((-1) ** j * comb(k - 1 - j, j), j, k - 1 - 2 * j) for j in range((k + 1) // 2)]
    if k == 0:
        return [(2, 0, 0)]
    return [((-1) ** j * k * comb(k - j, j) // (k - j), j, k - 2 * j) for j in range(k // 2 + 1)]


def project_path(form: PathForm, family: Family) -> Projected:
    """Return the equation of the charge along the path of a form, and how it was found."""
    left, right = sides(form)
    coefficients = left[family.derivatives :]
    terms: dict[tuple[Pairing, int], list[sp.Expr]] = defaultdict(list)
    if family.degree != 1:
        coefficients[0] *= family.degree or 1
        for k, a in enumerate(left):
            for factor, j, derivatives in product_rule(k, family)[1:]:
                terms[_of_path(j, family), derivatives].append(-factor * a)
        for k, r in enumerate(right):
            for factor, pairing, derivatives in _gradient_rule(k, family):
                terms[pairing, derivatives].append(-(family.degree or 1) * factor * r)
    lead = coefficients[-1]
    summed = {key: tidied(sp.Add(*parts) / lead) for key, parts in terms.items()}
    steps = (
        Step("The form, in the time t = h·n", (_written_form(left, right),)),
        Step("The symmetry, along the path", _identities(len(right), family)),
        *([] if family.degree == 1 else [Step("The product rule", _rules(len(left), family))]),
    )
    return Projected(tuple(tidied(a / lead) for a in coefficients), {k: v for k, v in summed.items() if v != 0}, steps)


def _of_path(j: int, family: Family) -> Pairing:
    """⟨θ⁽ʲ⁾, θ⁽ʲ⁾⟩_𝒜, or ⟨θ⁽ʲ⁾, θ⁽ʲ⁺¹⁾⟩_R."""
    return family.pairing(Vector.path(j), Vector.path(j + family.derivatives), t)


def _gradient_rule(k: int, family: Family) -> list[tuple[sp.Expr, Pairing, int]]:
    """⟨𝒜θ, (d/dt)ᵏ g⟩ as (factor, pairing, derivatives)."""
    if family.degree == 1:
        return []
    return [
        (sp.Integer(family.pairing.sign * (-1) ** i * comb(k, i)), family.pairing(GRADIENT, Vector.path(i), t), k - i)
        for i in range(1, k + 1)
    ]


def _written_form(left: list[sp.Expr], right: list[sp.Expr]) -> Written:
    theta = [Vector.path(k) for k in range(len(left))]
    one = written_sum([(a, Written(v.text, v.latex)) for a, v in zip(left, theta, strict=True)][::-1])
    other = written_sum([(-r, differentiated(Written("g", "g"), k)) for k, r in enumerate(right)])
    return Written(f"{one.text} = {other.text}", f"{one.latex} = {other.latex}")


def _identities(count: int, family: Family) -> tuple[Written, ...]:
    lines = list(family.definition)
    for k in range(count):
        left = family.along(differentiated(Written("g", "g"), k))
        right = written_sum([(c, differentiated(p.written, n)) for c, p, n in _gradient_rule(k, family)])
        lines.append(Written(f"{left.text} = {right.text}", f"{left.latex} = {right.latex}"))
    return tuple(lines)


def _rules(count: int, family: Family) -> tuple[Written, ...]:
    lines, twice = [], str(family.degree or "")
    for k in range(family.derivatives, count):
        terms = [
            (
                sp.Integer(factor),
                primed(family.letter, derivatives)
                if j == 0
                else differentiated(_of_path(j, family).written, derivatives),
            )
            for factor, j, derivatives in product_rule(k, family)
        ]
        vector = Vector.path(k)
        left, right = family.along(Written(vector.text, vector.latex)), written_sum(terms)
        lines.append(Written(f"{twice}{left.text} = {right.text}", f"{twice}{left.latex} = {right.latex}"))
    return tuple(lines)
