"""How many independent conservation laws training has, and which of them are polynomials."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import sympy as sp
from torch import nn
from tqdm import tqdm

from modeq.displays import Formulas, preformatted
from modeq.errors import InvalidProblem, choice
from modeq.symmetry.countable import check_size, check_value, moving_parameters, traced_network
from modeq.symmetry.law_polynomials import expression, independent, vanish
from modeq.symmetry.lie_algebra import Flow, span
from modeq.symmetry.network_programs import program_of_network
from modeq.symmetry.numerical_brackets import numerical_span
from modeq.symmetry.polynomial_laws import polynomial_laws
from modeq.symmetry.program_builder import Unlowered
from modeq.symmetry.programs import Program
from modeq.symmetry.reparametrisation import polynomials, program_of
from modeq.symmetry.traced import LOSSES

_FLOWS = {"gradient": "gradient flow", "momentum": "momentum flow"}


class PolynomialLaws(Formulas, Sequence[sp.Expr]):
    """Polynomial conservation laws up to a degree, as sympy expressions; all others are combinations of their products.

    Attributes
    ----------
    degree : int
    independent : int
        The rank of their gradients: so many are no functions of the others.
    complete : bool
        Whether that is all there are. Then the count itself is certain: so many laws exist, and no more can.
    """

    def __init__(self, expressions: Sequence[sp.Expr], degree: int, independent: int, asked: int) -> None:
        self.expressions, self.degree = tuple(expressions), degree
        self.independent, self.asked = independent, asked

    @property
    def complete(self) -> bool:
        """Whether there are as many independent ones as independent laws."""
        return self.independent == self.asked

    def __len__(self) -> int:
        return len(self.expressions)

    def __getitem__(self, index: Any) -> Any:
        return self.expressions[index]

    def __repr__(self) -> str:
        complete = "all" if self.complete else f"{self.asked - self.independent} fewer than there are"
        return f"<{len(self)} polynomial laws of degree ≤ {self.degree}, {self.independent} independent: {complete}>"

    def text(self) -> str:
        """Return what they are in a line, and a line for each."""
        return "\n".join([repr(self).strip("<>"), *map(str, self)])

    def latex(self) -> str:
        """Return the laws as LaTeX."""
        return r",\qquad ".join(map(sp.latex, self))


@dataclass(frozen=True)
class _Asked:
    """What the polynomial laws are computed from."""

    program: Program
    variables: tuple[sp.Symbol, ...]
    reparametrisation: tuple[sp.Poly, ...] | None
    flow: Flow
    seed: int


@dataclass(frozen=True, repr=False)
class LawCount:
    """The number of independent conservation laws; see `count_conservation_laws`.

    Attributes
    ----------
    independent : int
        The dimension of the space that the flow moves in, less that of the Lie algebra.
    dimension : int
        Of the Lie algebra at a generic point.
    parameters : int
        D. The space is that of θ in a gradient flow, of (t, θ) with weight decay, of (t, θ, θ') with momentum.
    depth : int
        So many gradients are in the longest bracket that is needed.
    exact : bool
        Whether it was found modulo primes; otherwise from singular values in float64.
    probability : float or None
        If exact, a bound of the probability that the random points and primes show so many laws where there are fewer.
        That there are not more is certain.
    gap : float or None
        If not exact, the smallest singular value that counts over the largest that does not; infinite if that is 0.
    flow : "gradient" or "momentum"
    weight_decay : bool
    granted : tuple of str
        What is taken for granted about a network. A law of an exact count is one of the network in any case, but for
        what is said of ε in norms, which breaks laws of scale by as little as ε is, and of tokens.
    """

    independent: int
    dimension: int
    parameters: int
    depth: int
    exact: bool
    flow: str
    weight_decay: bool
    probability: float | None = None
    gap: float | None = None
    granted: tuple[str, ...] = ()
    _asked: _Asked | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        decay = " with weight decay" if self.weight_decay else ""
        sure = f"wrong with probability at most {self.probability:.1e}" if self.exact else f"gap {self.gap:.1e}"
        lines = [
            f"{self.independent} independent conservation laws of the {_FLOWS[self.flow]}{decay}; "
            f"{self.parameters} parameters",
            f"dimension {self.dimension} of the Lie algebra, from brackets of up to {self.depth} gradients; "
            f"{'exact' if self.exact else 'numerical'}, {sure}",
        ]
        return "\n".join([*lines, *(f"granted: {what}" for what in self.granted)])

    def __repr__(self) -> str:
        found = f"{self.independent} independent laws of the {_FLOWS[self.flow]}"
        return f"<{found}, {self.parameters} parameters, {'exact' if self.exact else 'numerical'}>"

    def _repr_html_(self) -> str:
        return preformatted(str(self))

    def polynomials(self, degree: int) -> PolynomialLaws:
        """Return the polynomial laws up to a degree, without constants and products of others.

        With momentum they are e^{jτt} times polynomials in θ and θ', with weight decay e^{dλt} times homogeneous ones
        of degree d; with both, laws that hold for every λ. They solve linear equations at random points modulo primes,
        and are verified: those of a given φ symbolically, those of a network at further points modulo a further prime.

        Parameters
        ----------
        degree : int, 1 or more

        Returns
        -------
        PolynomialLaws
            A sequence of sympy expressions, in the variables of φ, or in symbols such as ``0.weight[1,2]`` for a
            network, in `t`, in `tau` and `x'` of each variable x with momentum, and in `lambda`. Rational laws and the
            like are not among them.

        Raises
        ------
        InvalidProblem
            If a polynomial of this degree has too many coefficients, or the count is not exact.

        Examples
        --------
        >>> u, v = sp.symbols("u v")
        >>> count_conservation_laws([u * v], (u, v)).polynomials(2)[0]
        u**2 - v**2
        """
        if self._asked is None:
            raise InvalidProblem(
                "this count was made in float64, and polynomial laws need an exact one: give a network whose "
                "operations have rules, and leave exact out"
            )
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
            raise InvalidProblem(f"degree is {degree!r}: give a positive integer")
        asked = self._asked
        laws = _told("polynomial laws", partial(polynomial_laws, asked.program, asked.flow, degree, asked.seed))
        if asked.reparametrisation is not None and not vanish(laws, asked.reparametrisation, asked.flow):
            raise ArithmeticError("a law that holds modulo primes is none: please report this reparametrisation")
        rank = independent(laws, asked.program.parameters, asked.flow, asked.seed)
        found = [expression(law, asked.variables, asked.flow) for law in laws]
        return PolynomialLaws(found, degree, rank, self.independent)


def count_conservation_laws(
    module_or_reparametrisation: Any,
    input: Any = None,
    loss: str | None = None,
    *,
    flow: str = "gradient",
    weight_decay: bool = False,
    exact: bool | None = None,
    seed: int = 0,
    limit: int = 1000,
) -> LawCount:
    """Return the number of independent functions of the parameters that training conserves, for any data.

    A function h is conserved if ⟨∇h, ∇φ_i⟩ = 0 for all entries of the reparametrisation φ through which the loss sees
    θ. Then it does not change along brackets of these gradients either, and by the theorem of Frobenius there are

        D − dim Lie(∇φ)(θ)

    independent ones near a generic θ. The dimension is found at random points, modulo random primes.

    Parameters
    ----------
    module_or_reparametrisation : nn.Module, or sympy expressions
        A network, of which each nonlinearity becomes as general as its kind allows: for ReLU that is the path lifting.
        Frozen parameters and buffers are fixed numbers; a parameter that the output does not depend on is conserved.
        Or the entries of a polynomial φ with rational coefficients, as a list, a Matrix, or one expression.
    input : tensor or tuple of tensors; for φ its variables
        An example for the network, samples along the first axis, of which the shape counts alone; one sample is enough,
        and fastest, unless it has batch norm. By default the variables are the symbols in φ, by name.
    loss : None, "mse" or "cross_entropy"
        "cross_entropy" does not see a constant added to all classes; the others see all that φ or the output tell.
    flow : "gradient" or "momentum"
        θ' = −∇L, or θ'' + τθ' = −∇L with laws h(t, θ, θ'), for almost every friction τ.
    weight_decay : bool
        Whether −λθ is added to −∇L; laws h(t, θ), for almost every λ.
    exact : bool, optional
        False asks for singular values of nested derivatives of the network itself, in float64, where its tokens are
        those up to the largest in input. By default this is done only if it has an operation without a rule; True
        refuses that.
    seed : int
        Of the random points and primes.
    limit : int
        The most parameters, as the time grows like their cube.

    Returns
    -------
    LawCount
        `.independent`, the number; `.polynomials(degree)`, the laws.

    Raises
    ------
    InvalidProblem
        If φ is no polynomial, an argument or the network cannot be used, something is too large, or there is no gap
        between singular values.

    References
    ----------
    Marcotte, Gribonval, Peyré: Abide by the law and follow the flow (2023, arXiv 2307.00144), Keep the momentum (2024,
    2405.12888), Transformative or conservative? (2025, 2506.06194).

    Examples
    --------
    Of UVᵀ with U, V of two columns each: the entries of UᵀU − VᵀV.

    >>> U, V = (sp.Matrix(2, 2, sp.symbols(f"{name}:4")) for name in "uv")
    >>> count = count_conservation_laws(list(U * V.T), [*U, *V])
    >>> count.independent, count.dimension, count.depth
    (3, 5, 2)
    >>> print(count.polynomials(2))
    3 polynomial laws of degree ≤ 2, 3 independent: all
    u0*u1 + u2*u3 - v0*v1 - v2*v3
    u0**2 + u2**2 - v0**2 - v2**2
    u1**2 + u3**2 - v1**2 - v3**2

    A ReLU network has one for each hidden neuron, and none in a momentum flow.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [count_conservation_laws(net, torch.zeros(1, 2), flow=flow).independent for flow in ("gradient", "momentum")]
    [3, 0]
    """
    if flow not in list(_FLOWS):
        raise InvalidProblem(f"flow is {choice(flow, _FLOWS)}")
    if loss is not None and not (isinstance(loss, str) and loss in LOSSES):
        raise InvalidProblem(f"loss is {loss!r}: give None or one of {list(LOSSES)}")
    if not isinstance(weight_decay, bool):
        raise InvalidProblem(
            f"weight_decay is {weight_decay!r}: give True or False, as the laws are those of almost all λ"
        )
    if exact not in (None, True, False):
        raise InvalidProblem(f"exact is {exact!r}: give None, True or False")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidProblem(f"seed is {seed!r}: give an integer")
    moving = Flow(flow == "momentum", weight_decay)
    if isinstance(module_or_reparametrisation, nn.Module):
        return _of_network(module_or_reparametrisation, input, loss, moving, exact, seed, limit)
    if loss is not None or exact is False:
        raise InvalidProblem(
            "loss and exact=False are for networks: leave them out, and give a φ that the loss depends on"
        )
    phi, variables = polynomials(module_or_reparametrisation, input)
    check_size(len(variables), limit)
    return _exactly(_Asked(program_of(phi, len(variables)), variables, tuple(phi), moving, seed), ())


def _of_network(
    module: nn.Module, example: Any, loss: str | None, flow: Flow, exact: bool | None, seed: int, limit: int
) -> LawCount:
    parameters = moving_parameters(module)
    size = sum(p.numel() for p in parameters.values())
    check_size(size, limit)
    traced, inputs = traced_network(module, parameters, example, loss)
    if exact is not False:
        try:
            program, granted = program_of_network(traced, parameters, loss)
        except Unlowered as problem:
            if exact:
                raise InvalidProblem(f"no exact count: there is no rule for {problem}; leave exact out") from problem
        else:
            check_value(program.longest, size)
            return _exactly(_Asked(program, _symbols(parameters), None, flow, seed), granted)
    found = _told("conservation laws", partial(numerical_span, traced, inputs, loss, flow, seed))
    return _count(size, found.dimension, found.depth, flow, exact=False, gap=found.gap, granted=found.granted)


def _symbols(parameters: dict[str, nn.Parameter]) -> tuple[sp.Symbol, ...]:
    """A symbol for each entry, such as 0.weight[1,2]."""
    found = []
    for name, p in parameters.items():
        indices = [",".join(map(str, index)) for index in product(*map(range, p.shape))]
        found += [sp.Symbol(f"{name}[{index}]" if index else name) for index in indices]
    return tuple(found)


def _exactly(asked: _Asked, granted: tuple[str, ...]) -> LawCount:
    found = _told("conservation laws", partial(span, asked.program, asked.flow, asked.seed))
    size = asked.program.parameters
    return _count(
        size,
        found.dimension,
        found.depth,
        asked.flow,
        exact=True,
        probability=found.probability,
        granted=granted,
        _asked=asked,
    )


def _count(parameters: int, directions: int, depth: int, flow: Flow, **others: Any) -> LawCount:
    # The drift is a direction of its own where there is one, beside time as a variable.
    autonomous = not (flow.momentum or flow.weight_decay)
    return LawCount(
        independent=flow.blocks * parameters - directions,
        dimension=directions if autonomous else directions + 1,
        parameters=parameters,
        depth=depth,
        flow="momentum" if flow.momentum else "gradient",
        weight_decay=flow.weight_decay,
        **others,
    )


def _told(what: str, search: Callable[..., Any]) -> Any:
    """Search, with what it says shown on a terminal."""
    with tqdm(desc=what, disable=None, leave=False, bar_format="{desc}: {postfix} [{elapsed}]") as bar:
        return search(tell=bar.set_postfix_str)
