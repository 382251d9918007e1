"""The stochastic model of minibatches drawn with replacement: an Itô equation of weak order 1 or 2."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from modeq.displays import Formula, Formulas
from modeq.errors import InvalidMethod, InvalidOrder, InvalidProblem
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.symbolic.differentials import Notation, h, text_term
from modeq.symbolic.equation import ModifiedEquation, modified_equation
from modeq.symbolic.explicit_fields import ExplicitField, checked_step, concrete_fields
from modeq.symbolic.rooted_trees import Tree, checked_order


@dataclass(frozen=True, repr=False)
class ExplicitStochasticEquation(Formulas):
    """A stochastic equation in explicit variables: dθ = drift(θ) dt + covariance(θ)^(1/2) dW.

    Attributes
    ----------
    drift : ExplicitField
    covariance : sympy matrix d × d
        h b₁² Σ(θ), the covariance of θ that the noise adds per unit of time.

    Examples
    --------
    >>> import modeq as mq
    >>> x = sp.Symbol("x")
    >>> stochastic_equation(mq.HeavyBall(momentum=0.5)).on([x**2, -(x**2)], [x], h=0.25).covariance
    Matrix([[4.0*x**2]])
    """

    drift: ExplicitField
    covariance: sp.ImmutableMatrix

    def text(self) -> str:
        """Return the equation as text: a line for each component of the drift, and one for the covariance.

        Examples
        --------
        >>> import modeq as mq
        >>> x = sp.Symbol("x")
        >>> print(stochastic_equation(mq.GradientDescent()).on([x**2, -(x**2)], [x], h=0.25))
        dx = (0) dt + (C^(1/2) dW)_1
        C = Matrix([[1.0*x**2]])
        """
        drift = zip(self.drift.variables, self.drift.components, strict=True)
        lines = [f"d{v} = ({c}) dt + (C^(1/2) dW)_{k}" for k, (v, c) in enumerate(drift, start=1)]
        return "\n".join([*lines, f"C = {self.covariance}"])

    def latex(self) -> str:
        r"""Return the equation as LaTeX.

        Examples
        --------
        >>> import modeq as mq
        >>> x = sp.Symbol("x")
        >>> print(stochastic_equation(mq.GradientDescent()).on([x**2, -(x**2)], [x]).latex())
        d\left[\begin{matrix}x\end{matrix}\right] = \left[\begin{matrix}0\end{matrix}\right] dt
            + \left[\begin{matrix}4 h x^{2}\end{matrix}\right]^{1/2} dW
        """
        theta, drift = (sp.latex(sp.Matrix(part)) for part in (self.drift.variables, self.drift.components))
        return rf"d{theta} = {drift} dt + {sp.latex(self.covariance)}^{{1/2}} dW"

    def __repr__(self) -> str:
        return f"ExplicitStochasticEquation(drift={self.drift!r})"


@dataclass(frozen=True, repr=False)
class StochasticEquation(Formula):
    """The Itô equation that a method follows on minibatches drawn with replacement.

        dθ = f̃(θ) dt + √h b₁ Σ(θ)^(1/2) dW,    Σ = (1/m) Σ_k (f_k − f̄)(f_k − f̄)ᵀ,    time = h·n.

    Attributes
    ----------
    method : GeneralLinearMethod
    order : 1 or 2, the weak order
    drift : ModifiedEquation
        f̃ on the mean field f̄, truncated at `order`.
    noise : sympy expression
        b₁, the coefficient of the single vertex: how far one gradient moves the parameters in the long run.

    Examples
    --------
    >>> import modeq as mq
    >>> equation = stochastic_equation(mq.HeavyBall(momentum=0.9))
    >>> equation.noise, print(equation)
    dθ = (-10·g) dt + √h·10·Σ^(1/2) dW
    (10, None)
    """

    method: GeneralLinearMethod
    order: int
    drift: ModifiedEquation
    noise: sp.Expr

    def on(self, losses: Any, variables: Any, h: Any = h) -> ExplicitStochasticEquation:
        """Return the equation written out on the losses of concrete minibatches.

        Parameters
        ----------
        losses : sequence of at least two sympy expressions L_k, or of fields
            One for each batch; a field f_k is a sequence of its components. Their mean is what drifts. A list, tuple
            or numpy array; of losses also a sympy column.
        variables : sequence of sympy symbols
            The parameters θ.
        h : symbol or positive number
            The learning rate.

        Raises
        ------
        InvalidProblem
            If there are fewer than two losses, one of them is no finite expression, some are fields and some are
            not, h is not positive, or symbols clash.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x = sp.Symbol("x")
        >>> model = stochastic_equation(mq.GradientDescent(), order=2).on([x**2, x**2 / 2 - x], [x])
        >>> model.drift.components, model.covariance
        ((-9*h*x/8 + 3*h/8 - 3*x/2 + 1/2,), Matrix([[h*x**2/4 + h*x/2 + h/4]]))
        """
        colour = field_colour(self.method)
        parts = []
        for loss in _one_for_each_batch(losses):
            fields, symbols = concrete_fields(loss, variables, self.method)
            parts.append(sp.Matrix(fields[colour]))
        step = checked_step(h, symbols)
        if step.is_positive is False:
            raise InvalidProblem(f"h is {h!r}: give a positive number, 0.01 for instance, or a symbol")
        mean = sum(parts, sp.zeros(len(symbols), 1)) / len(parts)
        drift = self.drift.on(list(mean), symbols, step)
        spread = [part - mean for part in parts]
        sigma = sum((delta * delta.T for delta in spread), sp.zeros(len(symbols))) / len(parts)
        scaled = step * self.noise**2 * sigma
        if all(entry.is_polynomial(*symbols) for entry in scaled):
            scaled = scaled.applyfunc(sp.expand)
        return ExplicitStochasticEquation(drift, sp.ImmutableMatrix(scaled))

    def text(self, notation: Notation = "loss") -> str:
        """Return the equation as one line of text, in a `notation` as :meth:`latex`; ``str`` gives it for a loss.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> equation = stochastic_equation(mq.HeavyBall(momentum=sp.Symbol("beta")))
        >>> print(equation.text("field"))
        dθ = (1/(1 - beta)·f) dt + √h·1/(1 - beta)·Σ^(1/2) dW
        """
        drift = self.drift.text(notation).partition(" = ")[2]
        return f"dθ = ({drift}) dt + √h·{text_term(self.noise, 'Σ^(1/2)')} dW"

    def latex(self, notation: Notation = "loss") -> str:
        r"""Return the equation as LaTeX, with g and H for f = −∇L, or with f and f' in the `notation` "field".

        Examples
        --------
        >>> import modeq as mq
        >>> print(stochastic_equation(mq.GradientDescent(), order=2).latex())
        d\theta = \left(-g - \frac{1}{2}\,h\,H g\right) dt + \sqrt{h}\,\Sigma^{1/2}\,dW
        """
        drift = self.drift.latex(notation).partition(" = ")[2]
        factor = sp.latex(self.noise)
        factor = "" if self.noise == 1 else (rf"\left({factor}\right)" if self.noise.is_Add else factor) + r"\,"
        return rf"d\theta = \left({drift}\right) dt + \sqrt{{h}}\,{factor}\Sigma^{{1/2}}\,dW"

    def __repr__(self) -> str:
        return f"StochasticEquation({self.method}, order={self.order})"


def _one_for_each_batch(losses: Any) -> list[Any]:
    """Losses, or fields as lists or matrices, after a check."""
    column = isinstance(losses, sp.MatrixBase) and losses.cols == 1
    given = losses.tolist() if isinstance(losses, np.ndarray) else list(losses) if column else losses
    if not isinstance(given, list | tuple) or len(given) < 2:
        raise InvalidProblem(f"losses are {losses!r}: give a list of at least two, one for each minibatch")
    given = [entry.tolist() if isinstance(entry, np.ndarray) else entry for entry in given]
    if len({isinstance(entry, list | tuple | sp.MatrixBase) for entry in given}) > 1:
        raise InvalidProblem(f"losses are {losses!r}: give a loss for each minibatch, or for each a field, not both")
    return given


def field_colour(method: GeneralLinearMethod) -> int:
    """Return the colour of the one field that is no weight decay, or raise `InvalidMethod` if it has more.

    Examples
    --------
    >>> import modeq as mq
    >>> field_colour(mq.GradientDescent().with_weight_decay(0.1))
    0
    """
    require_method(method)
    colours = [colour for colour in range(method.colour_count) if colour not in method.decay]
    if len(colours) > 1 or method.players or method.steps > 1:
        raise InvalidMethod(
            f"{method} is no single step on one field: batches drawn with replacement are modelled for the method that "
            "takes each step; give that, GradientDescent() rather than an Epoch or a game of it"
        )
    return colours[0]


def stochastic_equation(method: GeneralLinearMethod, order: int = 1) -> StochasticEquation:
    """Derive the stochastic model of a method on minibatches drawn with replacement.

    Every step draws one of m batches with equal probability. With f̄ the mean of their fields f_k,

        dθ = f̃(θ) dt + √h b₁ Σ(θ)^(1/2) dW,    |E φ(θ_n) − E φ(θ(hn))| = O(hᵖ)

    for smooth φ, p the weak order, f̃ the modified equation of order p on f̄, and Σ the covariance of f_k.

    Parameters
    ----------
    method : GeneralLinearMethod
        With one field, besides weight decay. Its own start is what :meth:`ModifiedEquation.initial_layer` of the
        drift says, from order 2 on.
    order : 1 or 2
        The weak order p.

    Returns
    -------
    StochasticEquation
        With the drift as a `ModifiedEquation`, and the exact number b₁.

    Raises
    ------
    InvalidOrder
        If the order is neither 1 nor 2.
    InvalidMethod
        If the method has several fields, or at order 2 several queries of one batch that depend on each other.
    NotZeroStable

    Notes
    -----
    Let w be the left eigenvector of A for 1, w·u = 1. The slow variable ψ = wᵀX moves by h Σ_i (wᵀB)_i f_k(y_i)
    in each step, Σ_i (wᵀB)_i = b₁, and differs from every query and from θ by O(h), namely by what the buffers
    remember of the last steps. The batch is independent of what they hold, so that the noise in the buffers
    has mean zero in f_k'(ψ)(y − ψ) and enters the drift per unit of time only through f'' at O(h²). Therefore,
    with δ = f_k − f̄, the mean of φ(ψ) moves by the generator

        f̃·∇ + (h/2) b₁² Σ:∇² + O(h²),

    f̃ through order 2. A gradient at a point that depends on another gradient of the same batch would add
    κ h E[δ'δ], κ = Σ_ij (wᵀB)_i D_ij, to the drift: extragradient and Runge–Kutta methods. In expectation that
    term is the one in ``modified_equation(Epoch(method, m).expected("replacement"))``. Weight decay is the same
    for every batch and belongs to the drift.

    Source for gradient descent: Li, Tai, E 2017 (arXiv 1511.06251) and, with proofs, 2019 (arXiv 1811.01558).

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> print(stochastic_equation(mq.GradientDescent(), order=2))
    dθ = (-g - h/2·H g) dt + √h·Σ^(1/2) dW
    >>> print(stochastic_equation(mq.HeavyBall(momentum=sp.Symbol("beta"), dampening=sp.Symbol("alpha"))))
    dθ = (-(1 - alpha)/(1 - beta)·g) dt + √h·(1 - alpha)/(1 - beta)·Σ^(1/2) dW
    """
    colour = field_colour(method)
    number = checked_order(order)
    if number > 2:
        raise InvalidOrder(
            f"order is {number}: give 1 or 2; beyond weak order 2 a modified drift is not enough: the covariance would "
            "need terms in h, and the third moments of the batches enter, which no Itô equation can have"
        )
    queries = [i for i, c in enumerate(method.colours) if c == colour]
    if number == 2 and any(method.D[i, j] != 0 for i in queries for j in queries):
        raise InvalidMethod(
            f"{method} takes gradients of one batch at points that depend on each other, whose noise enters the drift "
            "at order 2: use order=1, or for the mean alone modified_equation of "
            f"Epoch({method}, batches=m).expected('replacement')"
        )
    drift = modified_equation(method, number)
    return StochasticEquation(method, number, drift, drift[Tree(colour, [])])
