"""Is a modified field a gradient, and of which loss? Decided on unrooted trees."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import sympy as sp

from modeq.displays import MOST, Formula
from modeq.errors import InvalidProblem, NotAGradientFlow
from modeq.methods.exact import tidy
from modeq.symbolic.differentials import colour_index, contracted, h, latex_sum, printable, step_latex, text_sum
from modeq.symbolic.explicit_fields import ExplicitDifferentials, checked_step, concrete_fields
from modeq.symbolic.rooted_trees import Tree, checked_order, rootings

if TYPE_CHECKING:
    from modeq.symbolic.b_series import BSeries

Weights = dict[Tree, sp.Expr]


@dataclass(frozen=True)
class GradientTest:
    """The answer of :func:`gradient_test`.

    Attributes
    ----------
    holds : whether the truncated field is a gradient for every loss
    order : the largest truncation order at which it is
    witnesses : pairs ((tree, weight), (tree, weight)) of the first order that fails: two rootings of one
        unrooted tree whose weights differ, although every gradient gives them the same
    """

    holds: bool
    order: int
    witnesses: tuple[tuple[tuple[Tree, sp.Expr], tuple[Tree, sp.Expr]], ...]

    def __bool__(self) -> bool:
        return self.holds


@dataclass(frozen=True, repr=False)
class ModifiedLoss(Formula):
    """L̃ = Σ h^k C(φ) S(φ) over unrooted trees φ, with f̃ = −∇L̃.

    S(φ) contracts the derivatives of L along the edges of φ: rooted as φ = [τ₁,…,τ_m],
    S = ∇ᵐL[F(τ₁),…,F(τ_m)] with f = −∇L, and S = L for the single vertex. A vertex of weight decay is
    a factor −λθ; alone it stands for (λ/2)|θ|².

    Attributes
    ----------
    terms : mapping from (k, φ), φ given by one of its rootings, to the exact coefficient C(φ)
    order : the truncation order
    """

    series: "BSeries"
    order: int
    terms: Mapping[tuple[int, Tree], sp.Expr] = field(compare=False)

    def on(self, loss: Any, variables: Any, h: Any = h) -> sp.Expr:
        """Return L̃ written out on a concrete loss.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x, h = sp.symbols("x h")
        >>> sp.expand(mq.modified_equation(mq.GradientDescent(), order=2).modified_loss().on(x**2, [x], h=h))
        h*x**2 + x**2
        """
        resolved = self.series.resolved(loss)
        if resolved is not self.series:
            return modified_loss(resolved, self.order).on(loss, variables, h)
        draws = self.series.draws(loss)
        return sp.Add(*(self._on_one(draw, variables, h) for draw in draws)) / len(draws)

    def _on_one(self, loss: Any, variables: Any, h: Any) -> sp.Expr:
        series = self.series
        if isinstance(loss, list | tuple) and series.colour_count - len(series.decay) == 1:
            raise InvalidProblem(f"loss is {loss!r}: give one sympy expression, a loss and not a vector field")
        fields, symbols = concrete_fields(loss, variables, series)
        step = checked_step(h, symbols)
        losses = [sp.sympify(entry) for entry in (loss if isinstance(loss, list | tuple) else [loss])]
        colours = [c for c in range(series.colour_count) if c not in series.decay]
        differentials = ExplicitDifferentials(fields, symbols)
        total = sp.Integer(0)
        for (power, tree), weight in self.terms.items():
            if tree.colour in series.decay:
                scalar = series.decay[tree.colour] / 2 * sp.Add(*(v**2 for v in symbols))
            else:
                scalar_loss = losses[colours.index(tree.colour)]
                children = [differentials.vector(child) for child in tree.children]
                scalar = differentials.multilinear(partial(_partial_derivative, scalar_loss, symbols), children)
            total += step**power * weight * scalar
        return total

    def latex(self) -> str:
        r"""Return L̃ as LaTeX.

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.modified_equation(mq.GradientDescent(), order=2).modified_loss().latex())
        \tilde L = L + \frac{1}{4}\,h\,|g|^2
        """
        pieces = []
        for (power, tree), weight in self.terms.items():
            factor, symbol = self._scalar(tree)
            pieces.append((tidy(factor * weight), step_latex(power) + symbol))
        return rf"\tilde L = {latex_sum(pieces)}"

    def _scalar(self, tree: Tree) -> tuple[sp.Expr, str]:
        """S(φ) as a factor and LaTeX."""
        factor, symbol = self._contraction(tree)
        return factor, self.series.averaged(tree, symbol)

    def _contraction(self, tree: Tree) -> tuple[sp.Expr, str]:
        decay = self.series.decay
        single = self.series.colour_count - len(decay) == 1
        if tree.colour in decay:
            return decay[tree.colour] / 2, r"|\theta|^2"
        labels = self.series.labels
        index = colour_index(tree.colour, single, labels)
        parts = [printable(c, "loss", decay, single, labels=labels) for c in tree.children]
        factor = sp.Mul(*(f for f, _ in parts))
        children = [symbol for _, symbol in parts]
        g = f"g{index}"
        if not children:
            return factor, f"L{index}"
        if children == [g]:
            return factor, f"|{g}|^2"
        if len(children) == 1:
            return factor, rf"\langle {children[0]},{g}\rangle"
        if len(children) == 2:
            return factor, rf"\langle {children[0]},H{index} {children[1]}\rangle"
        return factor, rf"\nabla^{len(children)}L{index}[{','.join(children)}]"

    def text(self) -> str:
        """Return L̃ as one line of text; ``str`` gives it too.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.modified_equation(mq.GradientDescent(), order=2).modified_loss().text()
        'L + h/4·|g|^2'
        """
        pieces = []
        for (power, tree), weight in self.terms.items():
            factor, symbol = self._scalar(tree)
            pieces.append((h**power * tidy(factor * weight), symbol))
        return text_sum(pieces)

    def __repr__(self) -> str:
        return f"ModifiedLoss(of {self.series!r}, order={self.order})"

    def _shortened(self) -> tuple["ModifiedLoss", int]:
        return replace(self, terms=dict(islice(self.terms.items(), MOST))), max(len(self.terms) - MOST, 0)


def _partial_derivative(of: sp.Expr, symbols: tuple[sp.Symbol, ...], axes: tuple[int, ...]) -> sp.Expr:
    return sp.diff(of, *(symbols[axis] for axis in axes)) if axes else of


def gradient_test(series: "BSeries") -> GradientTest:
    """Decide whether the truncated modified field is a gradient for every loss.

    For f = −∇L the field is a gradient iff b(u∘v) = b(v∘u) for all trees u, v with at most p vertices
    together: b depends only on the unrooted tree. With weight decay, f' = −λI is put in first: vertices
    of decay with a child are contracted, so that only leaves θ remain, and the field is a gradient iff it
    lies in the image of −∇ on unrooted trees with such leaves.

    Notes
    -----
    For special losses (and always in one dimension) the condition is sufficient only. The fields of a game
    are no gradients, each being zero outside its own player's parameters, so that a game raises
    `NotAGradientFlow`. Source: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, IX.9.3, with −I
    for the structure matrix.
    """
    _require_no_players(series)
    passed = 0
    for power in range(series.order):
        _, _, witnesses = _projected(_reduced_weights(series, power), series.decay)
        if witnesses:
            return GradientTest(False, passed, tuple(witnesses))
        passed = power + 1
    return GradientTest(True, passed, ())


def modified_loss(series: "BSeries", order: int | None = None) -> ModifiedLoss:
    """Return the loss whose gradient flow the truncated modified equation is."""
    test = gradient_test(series)
    wanted = test.order if order is None else checked_order(order)
    if wanted > series.order:
        raise NotAGradientFlow(
            f"order is {wanted}, but the series was derived to order {series.order}: derive it to order={wanted}"
        )
    if wanted > test.order:
        (u, bu), (v, bv) = test.witnesses[0]
        raise NotAGradientFlow(
            f"{series!r} is no gradient at order {test.order + 1}: {u!r} and {v!r} are "
            f"one unrooted tree, but their weights are {bu} and {bv}; ask for order={test.order} or lower"
        )
    terms: dict[tuple[int, Tree], sp.Expr] = {}
    for power in range(wanted):
        scalars, _, _ = _projected(_reduced_weights(series, power), series.decay)
        terms.update({(power, tree): tidy(weight) for tree, weight in scalars.items()})
    return ModifiedLoss(series, wanted, terms)


def gradient_part(series: "BSeries") -> tuple[ModifiedLoss, dict[Tree, sp.Expr]]:
    """Return L̃ and the coefficients of a remainder, f̃ = −∇L̃ + remainder, through the order of the series.

    On each unrooted tree the gradient part has the mean of b over all vertices taken as the root, which is the
    orthogonal projection in Σ b(τ)²/σ(τ). With weight decay this is done after vertices of decay have been
    contracted, from the trees with most leaves θ down; a factor (−λ)ʲ of the remainder is written as a chain of
    j vertices of decay below the root.
    """
    _require_no_players(series)
    terms: dict[tuple[int, Tree], sp.Expr] = {}
    remainder: dict[Tree, sp.Expr] = {}
    for power in range(series.order):
        scalars, rest, _ = _projected(_reduced_weights(series, power), series.decay)
        terms.update({(power, tree): tidy(weight) for tree, weight in scalars.items()})
        for tree, weight in rest.items():
            if sp.cancel(weight) != 0:
                for _ in range(power + 1 - tree.order):
                    colour = next(iter(series.decay))
                    tree, weight = Tree(colour, [tree]), -weight / series.decay[colour]
                remainder[tree] = tidy(weight * tree.symmetry)
    return ModifiedLoss(series, series.order, terms), remainder


def _require_no_players(series: "BSeries") -> None:
    if series.players:
        raise NotAGradientFlow(
            f"{series!r} is of a game: the field of each player is the gradient of a loss of its own in its own "
            "parameters, and the whole field is no gradient of one loss; read the terms of player c with "
            "equation.of_colour(c)"
        )


def _reduced_weights(series: "BSeries", power: int) -> Weights:
    """The weights of F(τ) at h^power, with vertices of decay contracted unless they are leaves."""
    weights: defaultdict[Tree, sp.Expr] = defaultdict(lambda: sp.Integer(0))
    decay = series.decay
    for tree, value in series.coefficients.items():
        if tree.order == power + 1 and value != 0:
            factor, reduced = contracted(tree, decay)
            weights[reduced] += factor * value / tree.symmetry
    return dict(weights)


def _projected(
    weights: Weights, decay: Mapping[int, sp.Expr]
) -> tuple[Weights, Weights, list[tuple[tuple[Tree, sp.Expr], tuple[Tree, sp.Expr]]]]:
    """Solve −∇ Σ C(φ) S(φ) = Σ weights(τ) F(τ), from the trees with most leaves θ down.

    −∇S(φ) is the sum of φ rooted at each vertex of a loss, and of −λ·(φ without a leaf θ, rooted at its
    neighbour) over the leaves. Returns the C(φ), the weights that are left where rootings of one tree
    disagree (C is then the mean over the vertices), and pairs of rootings that do.
    """
    left: defaultdict[Tree, sp.Expr] = defaultdict(lambda: sp.Integer(0), weights)
    scalars: Weights = {}
    rest: Weights = {}
    witnesses = []
    for leaves in range(max((_leaves(tree, decay) for tree in left), default=0), -1, -1):
        classes = {_unrooted(tree, decay) for tree in left if _leaves(tree, decay) == leaves}
        for unrooted in sorted(classes):
            if unrooted.colour in decay:  # −λθ itself, the gradient of −(λ/2)|θ|²
                scalars[unrooted] = left[unrooted]
                continue
            counts: defaultdict[Tree, int] = defaultdict(int)
            for _, tree in rootings(unrooted):
                if tree.colour not in decay:
                    counts[tree] += 1
            found = [(tree, tidy(left[tree] / counts[tree])) for tree in sorted(counts)]
            mean = found[0][1]
            if any(sp.cancel(weight - found[0][1]) != 0 for _, weight in found):
                pair = next(entry for entry in found if sp.cancel(entry[1] - mean) != 0)
                # Per rooting: weight·σ, so that for a plain series the two coefficients b(τ) are shown.
                size = counts[pair[0]] * pair[0].symmetry
                witnesses.append(((found[0][0], tidy(found[0][1] * size)), (pair[0], tidy(pair[1] * size))))
                mean = tidy(sp.Add(*(left[tree] for tree in counts)) / sum(counts.values()))
                rest.update({tree: left[tree] - count * mean for tree, count in counts.items()})
            if mean != 0:
                scalars[unrooted] = mean
            for rate, smaller in _without_a_leaf(unrooted, decay):
                left[smaller] -= rate * mean
    return scalars, rest, witnesses


def _leaves(tree: Tree, decay: Mapping[int, sp.Expr]) -> int:
    own = tree.colour in decay and not tree.children
    return int(own) + sum(_leaves(child, decay) for child in tree.children)


def _unrooted(tree: Tree, decay: Mapping[int, sp.Expr]) -> Tree:
    """One rooting that stands for all: at a vertex of a loss, with the largest degree."""
    inner = [t for _, t in rootings(tree) if t.colour not in decay]
    return max(inner, key=lambda t: (len(t.children) if len(t.children) > 2 else 0, -_depth(t), t)) if inner else tree


def _depth(tree: Tree) -> int:
    return 1 + max((_depth(child) for child in tree.children), default=0)


def _without_a_leaf(tree: Tree, decay: Mapping[int, sp.Expr]) -> Iterator[tuple[sp.Expr, Tree]]:
    for _, rooted in rootings(tree):
        if rooted.colour in decay and len(rooted.children) == 1:
            yield -decay[rooted.colour], rooted.children[0]
