"""Pairings with the generator of a symmetry: what its identities make of elementary differentials.

Let ξ(θ) = 𝒜θ and L(e^{s𝒜}θ) = L(θ) for every s. Then ⟨𝒜θ, g⟩ = 0, H𝒜θ = −𝒜ᵀg, and k times differentiated

    ∇^{k+1}L[𝒜θ, u₁, …, u_k] = −Σ_i ∇ᵏL[u₁, …, 𝒜u_i, …, u_k].

For an elementary differential of f = −∇L with the root's children τ₁, …, τ_m it follows that

    ⟨𝒜θ, F(τ)⟩ = −Σ_i ⟨F(τ_i), F(τ without τ_i)⟩_𝒜,    ⟨a, b⟩_𝒜 = ⟨𝒜a, b⟩:

each edge at the root is cut once. For a translation, ξ = 1_A constant, ⟨1_A, F(τ)⟩ = 0.

The pairing is symmetric or antisymmetric as 𝒜 is. If the loss sees U and V only as UVᵀ, 𝒜θ = (UX, −VXᵀ) for any X, and
all these pairings are entries of one matrix, a_Uᵀb_U − b_Vᵀa_V: symmetric X have its symmetric part ⟨a, b⟩_M, with the
charge M = ⟨θ, θ⟩_M; antisymmetric ones have it less its transpose, ⟨a, b⟩_R. There ⟨θ, θ⟩_R = 0, and R = ⟨θ, θ'⟩_R is
followed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp
from sympy.printing.pretty.stringpict import prettyForm

from modeq.errors import InvalidCharge, choice
from modeq.symbolic.b_series import Written
from modeq.symbolic.differentials import contracted, latex_sum, plain, printable, text_sum, theta_latex
from modeq.symbolic.expected import DEVIATION
from modeq.symbolic.expected_equation import ExpectedEquation
from modeq.symbolic.rooted_trees import Tree

# Two trees whose differentials are paired, or None for the charge itself.
Pair = tuple[Tree, Tree] | None
Combination = dict[Pair, sp.Expr]
Decay = Mapping[int, sp.Expr]


class Vector(sp.AtomicExpr):  # type: ignore[misc]
    """One side of a pairing: a differential of the loss, or a derivative of θ along a path.

    Examples
    --------
    >>> Vector.path(2), Vector(r"H g", Tree([[]]))
    (θ'', H g)
    """

    is_commutative = True
    latex: str
    text: str
    tree: Tree | None
    derivatives: int  # with respect to time
    averaged: bool

    def __new__(  # noqa: D102
        cls, latex: str, tree: Tree | None = None, text: str = "", derivatives: int = 0, averaged: bool = False
    ) -> "Vector":
        self: Vector = super().__new__(cls)
        self.latex, self.text, self.tree = latex, text or plain(latex), tree
        self.derivatives, self.averaged = derivatives, averaged
        return self

    @classmethod
    def path(cls, k: int) -> "Vector":
        """Return θ⁽ᵏ⁾."""
        return cls(theta_latex(k), text="θ" + ("'" * k if k < 4 else f"^({k})"), derivatives=k)

    def _hashable_content(self) -> tuple[Any, ...]:
        return self.text, self.tree, self.derivatives, self.averaged

    def __reduce__(self) -> Any:
        return Vector, (self.latex, self.tree, self.text, self.derivatives, self.averaged)

    def sort_key(self, order: Any = None) -> Any:
        """Sort by length, so that the gradient comes first."""
        return self.class_key(), (1, (f"{len(self.text):4}{self.text}",)), sp.S.One.sort_key(), sp.S.One

    def _sympystr(self, printer: Any) -> str:
        return self.text

    def _latex(self, printer: Any) -> str:
        return self.latex


class Pairing(sp.Function):  # type: ignore[misc]
    r"""⟨a, b⟩_𝒜 = ⟨𝒜a, b⟩ at a time, as a sympy function of that time.

    Examples
    --------
    >>> t = sp.Symbol("t")
    >>> g = Vector("g", Tree([]))
    >>> pairing = Pairing(Vector("H g", Tree([[]])), g, t)
    >>> pairing, sp.latex(pairing), pairing.diff(t)
    (⟨g,H g⟩_𝒜(t), '\\langle g,H g\\rangle_{\\mathcal{A}}\\left(t\\right)', Derivative(⟨g,H g⟩_𝒜(t), t))
    """

    nargs = 3
    index = Written("𝒜", r"\mathcal{A}")
    sign = 1  # of ⟨b, a⟩ = ±⟨a, b⟩

    @classmethod
    def eval(cls, a: sp.Expr, b: sp.Expr, at: sp.Expr) -> sp.Expr | None:  # noqa: D102
        if not (isinstance(a, Vector) and isinstance(b, Vector)):
            return None
        if a == b and cls.sign < 0:
            return sp.Integer(0)
        return cls.sign * cls(b, a, at) if b.sort_key() < a.sort_key() else None

    @property
    def vectors(self) -> tuple[Vector, Vector]:
        """Both sides."""
        return self.args[0], self.args[1]

    @property
    def averaged(self) -> bool:
        """Whether it is a mean over the batches."""
        return any(vector.averaged for vector in self.vectors)

    @property
    def written(self) -> Written:
        """Text and LaTeX without the time."""
        a, b = self.vectors
        text = f"⟨{a.text},{b.text}⟩_{self.index.text}"
        latex = rf"\langle {a.latex},{b.latex}\rangle_{{{self.index.latex}}}"
        return Written(f"E{text}", rf"\mathbb{{E}}\,{latex}") if self.averaged else Written(text, latex)

    def _sympystr(self, printer: Any) -> str:
        return f"{self.written.text}({printer._print(self.args[2])})"

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"{self.written.latex}{power}\left({printer._print(self.args[2])}\right)"

    def _pretty(self, printer: Any) -> prettyForm:
        return prettyForm(str(self))


class MatrixPairing(Pairing):
    """⟨a, b⟩_M, the symmetric part of a_Uᵀb_U − a_Vᵀb_V."""

    nargs = 3
    index = Written("M", "M")


class RotationPairing(Pairing):
    """⟨a, b⟩_R = a_Uᵀb_U − b_Uᵀa_U + a_Vᵀb_V − b_Vᵀa_V.

    Examples
    --------
    >>> g, Hg, t = Vector("g", Tree([])), Vector("H g", Tree([[]])), sp.Symbol("t")
    >>> RotationPairing(Hg, g, t), RotationPairing(g, g, t)
    (-⟨g,H g⟩_R(t), 0)
    """

    nargs = 3
    index = Written("R", "R")
    sign = -1


@dataclass(frozen=True)
class Family:
    """A family of charges: its name, the letter of its charge, and how that depends on θ.

    Attributes
    ----------
    degree : 1 for a charge linear in θ, 2 for a quadratic one, 0 for one of θ and θ', as `Charge.degree`
    over : what ⟨a, b⟩_𝒜 sums over, or the matrix that it is
    definition : what 𝒜 is, if the pairings are matrices
    """

    name: str
    letter: str
    degree: int
    charge: Written
    generator: Written
    over: str
    pairing: type[Pairing] = Pairing
    definition: tuple[Written, ...] = ()

    @property
    def derivatives(self) -> int:
        """The k of the charge ⟨θ, θ⁽ᵏ⁾⟩."""
        return 1 if self.degree == 0 else 0

    def along(self, vector: Written) -> Written:
        """Return ⟨ξ(θ), a⟩ of a vector a, as text and LaTeX.

        Examples
        --------
        >>> g = Written("g", "g")
        >>> FAMILIES["scale"].along(g).text, FAMILIES["rotation"].along(g).text
        ('⟨𝒜θ,g⟩', '⟨θ,g⟩_R')
        """
        index = self.pairing.index if self.definition else None
        return Written(
            f"⟨{self.generator.text},{vector.text}⟩{f'_{index.text}' if index else ''}",
            rf"\langle {self.generator.latex},{vector.latex}\rangle{f'_{{{index.latex}}}' if index else ''}",
        )

    def meaning(self, pairing: Pairing) -> str:
        """Return in words what a pairing is."""
        a, b = pairing.vectors
        mean = ", averaged over the batches" if pairing.averaged else ""
        if self.definition:
            return f"{self.over}, with a = {a.text}, b = {b.text}{mean}"
        return f"{f'|{a.text}|²' if a == b else f'⟨{a.text}, {b.text}⟩'} {self.over}{mean}"


_QUADRATIC, _THETA = Written("𝒜θ", r"\mathcal{A}\theta"), Written("θ", r"\theta")
FAMILIES = {
    family.name: family
    for family in (
        Family("translation", "S", 1, Written("⟨1_A,θ⟩", r"\langle 1_A,\theta\rangle"), Written("1_A", "1_A"), ""),
        Family("scale", "N", 2, Written("|θ_A|²", r"|\theta_A|^2"), _QUADRATIC, "over A"),
        Family(
            "rescale",
            "N",
            2,
            Written("|θ_A₁|² - |θ_A₂|²", r"|\theta_{A_1}|^2 - |\theta_{A_2}|^2"),
            _QUADRATIC,
            "over A₁, less that over A₂",
        ),
        Family(
            "diagonal",
            "N",
            2,
            Written("Σ a·|θ_A|²", r"\sum_A a_A|\theta_A|^2"),
            _QUADRATIC,
            "over each A, times its exponent a",
        ),
        Family(
            "affine",
            "N",
            2,
            Written("⟨θ,𝒜θ⟩", r"\langle\theta,\mathcal{A}\theta\rangle"),
            _QUADRATIC,
            "weighted by 𝒜",
        ),
        Family(
            "general_linear",
            "M",
            2,
            Written("UᵀU - VᵀV", r"U^TU - V^TV"),
            _THETA,
            "the symmetric part of a_Uᵀb_U - a_Vᵀb_V",
            MatrixPairing,
            (
                Written(
                    "⟨𝒜a,b⟩ = tr X⟨a,b⟩_M for 𝒜a = (a_U X, -a_V X), X = Xᵀ",
                    r"\langle\mathcal{A}a,b\rangle = \operatorname{tr}X\langle a,b\rangle_{M}"
                    r"\text{ for }\mathcal{A}a = (a_UX, -a_VX),\ X = X^T",
                ),
            ),
        ),
        Family(
            "rotation",
            "R",
            0,
            Written("⟨θ,θ'⟩_R", r"\langle\theta,\dot\theta\rangle_{R}"),
            _THETA,
            "a_Uᵀb_U + a_Vᵀb_V less its transpose",
            RotationPairing,
            (
                Written(
                    "⟨𝒜a,b⟩ = -½ tr X⟨a,b⟩_R for 𝒜a = (a_U X, a_V X), X = -Xᵀ",
                    r"\langle\mathcal{A}a,b\rangle = -\tfrac12\operatorname{tr}X\langle a,b\rangle_{R}"
                    r"\text{ for }\mathcal{A}a = (a_UX, a_VX),\ X = -X^T",
                ),
            ),
        ),
    )
}


def family_of(value: Any) -> Family:
    """Return the family that a name, a class of charges, or a charge stands for.

    Raises
    ------
    InvalidCharge
        For anything else, and for an `AffineSymmetry` that is not quadratic, whose law is that of another family.

    Examples
    --------
    >>> family_of("scale").letter, family_of("translation").degree
    ('N', 1)
    """
    name = value if isinstance(value, str) else getattr(value, "kind", None)
    if name not in FAMILIES:
        raise InvalidCharge(f"family is {choice(value, FAMILIES)}, or give a charge such as mq.Scale(…)")
    if name == "affine" and not isinstance(value, str | type) and set(value.kinds) != {"symmetric"}:
        raise InvalidCharge(
            f"family is {value!r}: give one whose generators are symmetric matrices; the law of constants is that of "
            "'translation', that of antisymmetric matrices the one of 'rotation'"
        )
    return FAMILIES[name]


def added(parts: Iterable[tuple[sp.Expr, Combination]]) -> Combination:
    """Return Σ factor·combination.

    Examples
    --------
    >>> added([(sp.Integer(2), {None: sp.Integer(3)}), (sp.Integer(1), {None: sp.Integer(-6)})])
    {}
    """
    total: dict[Pair, list[sp.Expr]] = {}
    for factor, combination in parts:
        for pair, value in combination.items():
            total.setdefault(pair, []).append(factor * value)
    summed = {pair: sp.Add(*values) for pair, values in total.items()}
    return {pair: value for pair, value in summed.items() if value != 0}


def along_generator(tree: Tree, decay: Decay, family: Family) -> Combination:
    """Return ⟨ξ(θ), F(τ)⟩ in the charge and pairings, for τ with weight decay in its leaves only.

    Examples
    --------
    Once its two equal edges are cut, ∇³L[g, g] = −F([•,•]) gives twice the same:

    >>> scale, rotation = FAMILIES["scale"], FAMILIES["rotation"]
    >>> along_generator(Tree([[], []]), {}, scale)
    {(Tree([]), Tree([[]])): -2}

    F([•]) gives a square, which an antisymmetric pairing has not:

    >>> along_generator(Tree([[]]), {}, scale), along_generator(Tree([[]]), {}, rotation)
    ({(Tree([]), Tree([])): -1}, {})
    """
    if tree.colour in decay:
        return added([(-decay[tree.colour], of_theta(family))])
    if family.degree == 1:
        return {}
    children = tree.children
    rests = (Tree(tree.colour, children[:i] + children[i + 1 :]) for i in range(len(children)))
    return added(
        (sp.Integer(-1), paired(child, rest, decay, family)) for child, rest in zip(children, rests, strict=True)
    )


def of_theta(family: Family) -> Combination:
    """Return ⟨ξ(θ), θ⟩: the charge, or nothing for a rotation."""
    return {} if family.degree == 0 else {None: sp.Integer(1)}


def paired(u: Tree, v: Tree, decay: Decay, family: Family) -> Combination:
    """Return ⟨F(u), F(v)⟩_𝒜 in the charge and pairings, for trees with weight decay in their leaves only.

    Examples
    --------
    >>> lam = sp.Symbol("lambda")
    >>> paired(Tree(1, []), Tree([[]]), {1: lam}, FAMILIES["scale"])
    {(Tree([]), Tree([])): lambda}
    >>> paired(Tree([[]]), Tree([]), {}, FAMILIES["rotation"])
    {(Tree([]), Tree([[]])): -1}
    """
    swapped = family.pairing.sign
    for one, other, sign in ((u, v, 1), (v, u, swapped)):
        if one.colour in decay:
            return added([(-sign * decay[one.colour], along_generator(other, decay, family))])
    if u == v and swapped < 0:
        return {}
    return {(u, v): sp.Integer(1)} if u <= v else {(v, u): sp.Integer(swapped)}


@dataclass(frozen=True)
class Alphabet:
    """How the differentials of a B-series are written: in g, H, ∇ᵏL, with the indices of its colours."""

    decay: Decay
    single: bool
    labels: Mapping[int, str]
    expected: bool

    @classmethod
    def of(cls, series: Any) -> "Alphabet":
        """Return the one of a series."""
        single = series.method is not None and series.colour_count - len(series.decay) == 1
        alone = series.colour_count == 1
        return cls(series.decay, single or alone, series.labels, isinstance(series, ExpectedEquation))

    def vector(self, tree: Tree) -> tuple[sp.Expr, Vector]:
        """Return F(τ) as a factor and what it multiplies."""
        factor, latex = printable(tree, "loss", self.decay, self.single, labels=self.labels)
        averaged = self.expected and DEVIATION in tree.colours
        return factor, Vector(latex, contracted(tree, self.decay)[1], averaged=averaged)

    def pairing(self, pair: tuple[Tree, Tree], family: Family, at: sp.Expr) -> tuple[sp.Expr, Pairing]:
        """Return ⟨F(u), F(v)⟩_𝒜 as a factor and a pairing."""
        (a, u), (b, v) = (self.vector(tree) for tree in pair)
        sign, pairing = family.pairing(u, v, at).as_coeff_Mul()
        return sign * a * b, pairing


def written_sum(terms: Iterable[tuple[sp.Expr, Written]]) -> Written:
    """Return Σ coefficient·symbol as text and LaTeX, each summand of a coefficient by itself.

    Examples
    --------
    >>> h, lam = sp.symbols("h lambda")
    >>> written_sum([(-2 * lam - h * lam**2, Written("N", "N"))]).text
    '-2*lambda·N - h*lambda**2·N'
    """
    split = [(part, symbol) for coefficient, symbol in terms for part in _by_length(coefficient)]
    return Written(text_sum([(c, s.text) for c, s in split]), latex_sum([(c, s.latex) for c, s in split]))


def _by_length(coefficient: sp.Expr) -> list[sp.Expr]:
    """The summands, those in lower powers of h first."""
    step = sp.Symbol("h")
    return sorted(sp.Add.make_args(coefficient), key=lambda part: part.as_coeff_exponent(step)[1])
