r"""A form in time derivatives projected on the generator of a symmetry, along its path.

The time-derivative and the phase-space form are Σ_k a_k θ⁽ᵏ⁾ = −Σ_k r_k (d/dt)ᵏ g(θ(t)), weight decay gathered in the
a_k. With N = θᵀ𝒜θ the product rule gives

    2⟨𝒜θ, θ⁽ᵏ⁾⟩ = Σ_j (−1)ʲ k/(k − j) C(k − j, j) (d/dt)^{k−2j} ⟨θ⁽ʲ⁾, θ⁽ʲ⁾⟩_𝒜,

which is how the power sum xᵏ + yᵏ is written in x + y and xy. Since ⟨𝒜θ, g⟩ = 0 along the whole path,

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


def product_rule(k: int) -> list[tuple[int, int, int]]:
    """Return 2⟨𝒜θ, θ⁽ᵏ⁾⟩ as (factor, j, derivatives) of factor·(d/dt)^derivatives ⟨θ⁽ʲ⁾, θ⁽ʲ⁾⟩_𝒜.

    Examples
    --------
    >>> product_rule(2), product_rule(3)
    ([(1, 0, 2), (-2, 1, 0)], [(1, 0, 3), (-3, 1, 1)])
    """
    if k == 0:
        return [(2, 0, 0)]
    return [((-1) ** j * k * comb(k - j, j) // (k - j), j, k - 2 * j) for j in range(k // 2 + 1)]


def project_path(form: PathForm, family: Family) -> Projected:
    """Return the equation of the charge along the path of a form, and how it was found."""
    left, right = sides(form)
    coefficients = list(left)
    terms: dict[tuple[Pairing, int], list[sp.Expr]] = defaultdict(list)
    if family.degree == 2:
        coefficients[0] = 2 * left[0]
        for k, a in enumerate(left):
            for factor, j, derivatives in product_rule(k)[1:]:
                terms[_square(j), derivatives].append(-factor * a)
        for k, r in enumerate(right):
            for i in range(1, k + 1):
                terms[_with_gradient(i), k - i].append(-2 * (-1) ** i * comb(k, i) * r)
    lead = coefficients[-1]
    summed = {key: tidied(sp.Add(*parts) / lead) for key, parts in terms.items()}
    steps = (
        Step("The form, in the time t = h·n", (_written_form(left, right),)),
        Step("The symmetry, along the path", _identities(len(right), family)),
        *([] if family.degree == 1 else [Step("The product rule", _rules(len(left)))]),
    )
    return Projected(tuple(tidied(a / lead) for a in coefficients), {k: v for k, v in summed.items() if v != 0}, steps)


def _square(j: int) -> Pairing:
    return Pairing(Vector.path(j), Vector.path(j), t)


def _with_gradient(i: int) -> Pairing:
    return Pairing(GRADIENT, Vector.path(i), t)


def _written_form(left: list[sp.Expr], right: list[sp.Expr]) -> Written:
    theta = [Vector.path(k) for k in range(len(left))]
    one = written_sum([(a, Written(v.text, v.latex)) for a, v in zip(left, theta, strict=True)][::-1])
    other = written_sum([(-r, differentiated(Written("g", "g"), k)) for k, r in enumerate(right)])
    return Written(f"{one.text} = {other.text}", f"{one.latex} = {other.latex}")


def _identities(count: int, family: Family) -> tuple[Written, ...]:
    generator, lines = family.generator, []
    for k in range(count):
        gradient = differentiated(Written("g", "g"), k)
        terms = [
            (sp.Integer((-1) ** i * comb(k, i)), differentiated(_with_gradient(i).written, k - i))
            for i in range(1, k + 1)
        ]
        value = written_sum(terms if family.degree == 2 else [])
        lines.append(
            Written(
                f"⟨{generator.text},{gradient.text}⟩ = {value.text}",
                rf"\langle {generator.latex},{gradient.latex}\rangle = {value.latex}",
            )
        )
    return tuple(lines)


def _rules(count: int) -> tuple[Written, ...]:
    lines = []
    for k in range(count):
        terms = [
            (
                sp.Integer(factor),
                primed("N", derivatives) if j == 0 else differentiated(_square(j).written, derivatives),
            )
            for factor, j, derivatives in product_rule(k)
        ]
        value, vector = written_sum(terms), Vector.path(k)
        lines.append(
            Written(
                f"2⟨𝒜θ,{vector.text}⟩ = {value.text}",
                rf"2\langle\mathcal{{A}}\theta,{vector.latex}\rangle = {value.latex}",
            )
        )
    return tuple(lines)
