"""Pairings with the generator of a symmetry: what its identities make of elementary differentials.

Let ξ(θ) = 𝒜θ with a symmetric 𝒜, and L(e^{s𝒜}θ) = L(θ) for every s. Then ⟨𝒜θ, g⟩ = 0, H𝒜θ = −𝒜g, and k times
differentiated

    ∇^{k+1}L[𝒜θ, u₁, …, u_k] = −Σ_i ∇ᵏL[u₁, …, 𝒜u_i, …, u_k].

For an elementary differential of f = −∇L with the root's children τ₁, …, τ_m it follows that

    ⟨𝒜θ, F(τ)⟩ = −Σ_i ⟨F(τ_i), F(τ without τ_i)⟩_𝒜,    ⟨a, b⟩_𝒜 = aᵀ𝒜b:

each edge at the root is cut once. For a translation, ξ = 1_A constant, ⟨1_A, F(τ)⟩ = 0.
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


@dataclass(frozen=True)
class Family:
    """A family of charges: its name, the letter of its charge, and whether that is linear or quadratic in θ."""

    name: str
    letter: str
    degree: int
    charge: Written
    generator: Written
    over: str  # what ⟨a, b⟩_𝒜 sums over

    def meaning(self, pairing: "Pairing") -> str:
        """Return in words what a pairing is."""
        a, b = pairing.vectors
        mean = ", averaged over the batches" if pairing.averaged else ""
        return f"{f'|{a.text}|²' if a == b else f'⟨{a.text}, {b.text}⟩'} {self.over}{mean}"


_QUADRATIC = Written("𝒜θ", r"\mathcal{A}\theta")
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
    )
}


def family_of(value: Any) -> Family:
    """Return the family that a name, a class of charges, or a charge stands for.

    Charges are known by the names of their classes, so that this needs no torch.

    Examples
    --------
    >>> family_of("scale").letter, family_of("translation").degree
    ('N', 1)
    """
    name = value if isinstance(value, str) else (value if isinstance(value, type) else type(value)).__name__.lower()
    if name not in FAMILIES:
        raise InvalidCharge(f"family is {choice(value, FAMILIES)}, or give a charge such as mq.Scale(…)")
    return FAMILIES[name]


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
    r"""⟨a, b⟩_𝒜 = aᵀ𝒜b at a time, as a sympy function of that time.

    Examples
    --------
    >>> t = sp.Symbol("t")
    >>> g = Vector("g", Tree([]))
    >>> pairing = Pairing(Vector("H g", Tree([[]])), g, t)
    >>> pairing, sp.latex(pairing), pairing.diff(t)
    (⟨g,H g⟩_𝒜(t), '\\langle g,H g\\rangle_{\\mathcal{A}}\\left(t\\right)', Derivative(⟨g,H g⟩_𝒜(t), t))
    """

    nargs = 3

    @classmethod
    def eval(cls, a: sp.Expr, b: sp.Expr, at: sp.Expr) -> "Pairing | None":  # noqa: D102
        if isinstance(a, Vector) and isinstance(b, Vector) and b.sort_key() < a.sort_key():
            return cls(b, a, at)
        return None

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
        text, latex = f"⟨{a.text},{b.text}⟩_𝒜", rf"\langle {a.latex},{b.latex}\rangle_{{\mathcal{{A}}}}"
        return Written(f"E{text}", rf"\mathbb{{E}}\,{latex}") if self.averaged else Written(text, latex)

    def _sympystr(self, printer: Any) -> str:
        return f"{self.written.text}({printer._print(self.args[2])})"

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"{self.written.latex}{power}\left({printer._print(self.args[2])}\right)"

    def _pretty(self, printer: Any) -> prettyForm:
        return prettyForm(str(self))


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


def along_generator(tree: Tree, decay: Decay, degree: int) -> Combination:
    """Return ⟨ξ(θ), F(τ)⟩ in the charge and pairings, for τ with weight decay in its leaves only.

    Examples
    --------
    Once its two equal edges are cut, ∇³L[g, g] = −F([•,•]) gives twice the same:

    >>> along_generator(Tree([[], []]), {}, degree=2)
    {(Tree([]), Tree([[]])): -2}
    """
    if tree.colour in decay:
        return {None: -decay[tree.colour]}
    if degree == 1:
        return {}
    children = tree.children
    rests = (Tree(tree.colour, children[:i] + children[i + 1 :]) for i in range(len(children)))
    return added((sp.Integer(-1), paired(child, rest, decay)) for child, rest in zip(children, rests, strict=True))


def paired(u: Tree, v: Tree, decay: Decay) -> Combination:
    """Return ⟨F(u), F(v)⟩_𝒜 in the charge and pairings, for trees with weight decay in their leaves only.

    Examples
    --------
    >>> lam = sp.Symbol("lambda")
    >>> paired(Tree(1, []), Tree([[]]), {1: lam})
    {(Tree([]), Tree([])): lambda}
    """
    for one, other in ((u, v), (v, u)):
        if one.colour in decay:
            return added([(-decay[one.colour], along_generator(other, decay, degree=2))])
    first, second = sorted((u, v))
    return {(first, second): sp.Integer(1)}


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

    def pairing(self, pair: tuple[Tree, Tree], at: sp.Expr) -> tuple[sp.Expr, Pairing]:
        """Return ⟨F(u), F(v)⟩_𝒜 as a factor and a pairing."""
        (a, u), (b, v) = (self.vector(tree) for tree in pair)
        return a * b, Pairing(u, v, at)


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
