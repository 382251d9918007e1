"""Elementary differentials: as sympy atoms, as text, and in the notation of papers."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import sympy as sp

from modeq.errors import InvalidNotation
from modeq.methods.exact import scaled
from modeq.symbolic.rooted_trees import Tree

Notation = Literal["loss", "field"]
h = sp.Symbol("h")  # the learning rate in what is printed


class ElementaryDifferential(sp.AtomicExpr):  # type: ignore[misc]
    """F(τ) as a commuting sympy atom: F([τ₁,…,τ_m]) = f⁽ᵐ⁾(F(τ₁),…,F(τ_m)).

    Examples
    --------
    >>> 2 * ElementaryDifferential(Tree([[], []]))
    2*f''(f,f)
    """

    is_commutative = True
    tree: Tree

    def __new__(cls, tree: Tree) -> "ElementaryDifferential":  # noqa: D102
        self: ElementaryDifferential = super().__new__(cls)
        self.tree = tree
        return self

    def _hashable_content(self) -> tuple[Tree]:
        return (self.tree,)

    def __getnewargs__(self) -> tuple[Tree]:
        return (self.tree,)

    def __reduce__(self) -> Any:
        return ElementaryDifferential, (self.tree,)

    def sort_key(self, order: Any = None) -> Any:
        """Sort by the tree, so that sums print in a fixed order."""
        text = (len(self.tree.text()), self.tree.text())
        return self.class_key(), (1, (str(text),)), sp.S.One.sort_key(), sp.S.One

    def _sympystr(self, printer: Any) -> str:
        return field_text(self.tree)

    def _latex(self, printer: Any) -> str:
        return printable(self.tree, "field", {}, single=not any(self.tree.colours))[1]


def field_text(tree: Tree) -> str:
    """Return F(τ) as text, with f primed.

    Examples
    --------
    >>> field_text(Tree([[[]], []]))
    "f''(f'(f),f)"
    """
    name = "f" if tree.colour == 0 else f"f{tree.colour}"
    if not tree.children:
        return name
    primes = "'" * len(tree.children) if len(tree.children) < 4 else f"^({len(tree.children)})"
    return f"{name}{primes}({','.join(field_text(child) for child in tree.children)})"


def contracted(tree: Tree, decay: Mapping[int, sp.Expr]) -> tuple[sp.Expr, Tree]:
    """Return a factor and a tree in which vertices of weight decay are leaves only, by f' = −λI.

    Examples
    --------
    >>> contracted(Tree(1, [(0, [])]), {1: sp.Symbol("lambda")})
    (-lambda, Tree([]))
    """
    factor = sp.Integer(1)
    while tree.colour in decay and tree.children:
        factor *= -decay[tree.colour]
        tree = tree.children[0]
    parts = [contracted(child, decay) for child in tree.children]
    return factor * sp.Mul(*(f for f, _ in parts)), Tree(tree.colour, [t for _, t in parts])


def checked_notation(notation: Any) -> Notation:
    """Return the name of a notation, or raise `InvalidNotation`."""
    if not any(isinstance(notation, str) and notation == known for known in ("loss", "field")):
        raise InvalidNotation(f"notation is {notation!r}: give 'loss' for g, H, ∇ᵏL, or 'field' for f, f', f''")
    name: Notation = notation
    return name


def printable(
    tree: Tree,
    notation: Notation,
    decay: Mapping[int, sp.Expr],
    single: bool = True,
    vectors: Mapping[int, tuple[int, str]] = MappingProxyType({}),
    labels: Mapping[int, str] = MappingProxyType({}),
) -> tuple[sp.Expr, str]:
    r"""Return F(τ) as a scalar factor and LaTeX.

    In the notation of losses (f = −∇L) with g, H and ∇ᵏL, the signs in the factor; in the notation of
    fields with f, f', f''. Weight decay puts its rate into the factor and leaves θ; the colours of
    constant `vectors` have a sign and a name. `single`: there is one field only, so that it needs no index;
    `labels`: the indices of colours that are not numbered.

    Examples
    --------
    >>> print(*printable(Tree([[[]], []]), "loss", {}))
    1 \nabla^3L[H g,g]
    >>> print(*printable(Tree([(1, [])]), "loss", {1: sp.Symbol("lambda")}))
    lambda H \theta
    """
    factor, reduced = contracted(tree, decay)
    leaves = {**vectors, **{colour: (-rate, r"\theta") for colour, rate in decay.items()}}
    inner, symbol = _symbol(reduced, notation, leaves, partial(colour_index, single=single, labels=labels))
    return factor * inner, symbol


def colour_index(colour: int, single: bool, labels: Mapping[int, str]) -> str:
    r"""Return the index, in LaTeX, of what belongs to a colour.

    Examples
    --------
    >>> colour_index(1, single=False, labels={}), colour_index(0, single=True, labels={})
    ('_{2}', '')
    """
    return labels.get(colour, "" if single else f"_{{{colour + 1}}}")


def _symbol(
    tree: Tree, notation: Notation, leaves: Mapping[int, tuple[sp.Expr, str]], index_of: Callable[[int], str]
) -> tuple[sp.Expr, str]:
    if tree.colour in leaves:
        return leaves[tree.colour]
    index = index_of(tree.colour)
    parts = [_symbol(child, notation, leaves, index_of) for child in tree.children]
    factor = sp.Mul(*(f for f, _ in parts))
    children = ",".join(symbol for _, symbol in parts)
    degree = len(parts)
    if notation == "field":
        primes = "'" * degree if degree < 4 else f"^{{({degree})}}"
        return factor, f"f{index}{primes}({children})" if parts else f"f{index}"
    if degree == 0:
        return -factor, f"g{index}"
    if degree == 1:
        return -factor, f"H{index} {children}"
    power = f"{degree + 1}" if degree < 9 else f"{{{degree + 1}}}"
    return -factor, rf"\nabla^{power}L{index}[{children}]"


def plain(latex: str) -> str:
    r"""Return the LaTeX of a differential as plain text.

    Examples
    --------
    >>> plain(r"\nabla^3L[\theta,g]")
    '∇^3L[θ,g]'
    """
    for old, new in (
        (r"\nabla", "∇"),
        (r"\theta", "θ"),
        (r"\delta", "δ"),
        (r"\mathbb", ""),
        (r"\langle ", "⟨"),
        (r"\rangle", "⟩"),
        ("{", ""),
        ("}", ""),
    ):
        latex = latex.replace(old, new)
    return latex


def text_term(coefficient: sp.Expr, latex: str) -> str:
    """Return coefficient·differential as plain text.

    Examples
    --------
    >>> text_term(-sp.Symbol("h") / 2, "H g")
    '-h/2·H g'
    """
    symbol = plain(latex)
    if coefficient in (1, -1):
        return symbol if coefficient == 1 else f"-{symbol}"
    factor = f"({coefficient})" if coefficient.is_Add else str(coefficient)
    return f"{factor}·{symbol}"


def text_sum(terms: Iterable[tuple[sp.Expr, str]]) -> str:
    """Return Σ coefficient·differential as plain text; zero terms are left out.

    Examples
    --------
    >>> text_sum([(sp.Integer(1), "g"), (-sp.Symbol("h") / 2, "H g")])
    'g - h/2·H g'
    """
    pieces = [text_term(coefficient, latex) for coefficient, latex in terms if coefficient != 0]
    return " + ".join(pieces or ["0"]).replace("+ -", "- ")


def step_latex(power: int) -> str:
    r"""Return h^power as a factor in LaTeX, nothing for the power 0.

    Examples
    --------
    >>> print(step_latex(2), step_latex(-1))
    h^{2}\, \frac{1}{h}\,
    """
    return {-1: r"\frac{1}{h}\,", 0: "", 1: r"h\,"}.get(power, rf"h^{{{power}}}\,")


def theta_latex(k: int) -> str:
    r"""Return the k-th derivative of θ in LaTeX, with dots up to the third.

    Examples
    --------
    >>> print(theta_latex(0), theta_latex(2), theta_latex(4))
    \theta \ddot\theta \theta^{(4)}
    """
    return r"\theta" if k == 0 else rf"\{'d' * k}ot\theta" if k < 4 else rf"\theta^{{({k})}}"


def theta_text(k: int) -> str:
    """Return the k-th derivative of θ as text.

    Examples
    --------
    >>> theta_text(0), theta_text(2), theta_text(4)
    ('θ', "θ''", 'θ^(4)')
    """
    return "θ" + "'" * k if k < 4 else f"θ^({k})"


def latex_sum(terms: list[tuple[sp.Expr, str]]) -> str:
    """Return Σ coefficient·symbol as LaTeX, each sign in front of its term; zero terms are left out."""
    pieces: list[str] = []
    for coefficient, symbol in terms:
        if coefficient == 0:
            continue
        number, rest = coefficient.as_coeff_Mul()
        negative = number < 0
        size = scaled(-number, rest) if negative else coefficient
        text = rf"\left({sp.latex(size)}\right)" if size.is_Add else sp.latex(size)
        factor = "" if size == 1 else text + r"\,"
        sign = "-" if negative else "+" if pieces else ""
        pieces.append(f"{sign}{' ' if pieces else ''}{factor}{symbol}")
    return " ".join(pieces) if pieces else "0"
