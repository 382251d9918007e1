"""What an optimizer is: a general linear method with exact entries, checked at construction."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import sympy as sp
from sympy.logic.boolalg import BooleanAtom
from sympy.polys.matrices import DomainMatrix

from modeq.errors import InvalidMethod, NotZeroStable
from modeq.methods.exact import FrozenMapping, checked_rate, exact, exact_matrix

z = sp.Symbol("z")
_SHOWN = 8  # rows of the matrices in a notebook
RESERVED = frozenset({"h", "x", "z", "zeta"})


@dataclass(frozen=True, repr=False)
class GeneralLinearMethod:
    """An optimizer of the SGD family, as a general linear method with exact entries.

    With the internal state X, queries y_i, the learning rate h, and vector fields f_c ("colours";
    for a loss f = −∇L):

        y_i = (C X)_i + h Σ_j D_ij f_{c_j}(y_j),    X⁺ = A X + h Σ_j B_ij f_{c_j}(y_j),    θ = e·X.

    Parameters
    ----------
    A, B, C, D : matrices
        Of shapes states × states, states × queries, queries × states, queries × queries. Entries are
        numbers or rational functions of sympy symbols; a float is read as its decimal value.
    readout : row of length ``states``, optional
        The row e that reads the parameters from the state; the first state by default.
    colours : tuple of int, optional
        The colour c_j of each query, counted from 0; all queries have colour 0 by default.
    decay : mapping from colour to rate, optional
        Colours that are weight decay rather than a field of the problem: f_c(θ) = −λθ.
    start : matrix of shape states × colours, optional
        The first state is X₀ = u θ₀ + h Σ_c start_c f_c(θ₀), u the vector of preconsistency.
        Zero buffers by default; torch's undamped first step is one of the others.
    sgd : mapping, optional
        What torch.optim.SGD calls the hyper-parameters, if it can run the method.
    step_powers : tuple of int, or None, optional
        How each state scales with h when a schedule changes it: as h to this power. By default 1 for a
        buffer (u_i = 0), measured in h·f, and 0 for the others; None if there is no such rule.
    steps : positive int
        How many steps n one application counts, 1 by default; an epoch of m minibatches counts m. The time
        is h·n.
    players : bool
        Whether the colours are players, each field being zero outside its own block of the parameters; see
        :func:`modeq.methods.games.Simultaneous`.
    name : str, optional
        How the method prints.

    Attributes
    ----------
    preconsistency : the vector u with A u = u, C u = 1, e·u = 1.

    Raises
    ------
    InvalidMethod
        If shapes disagree, or the method is not preconsistent or not consistent.

    Notes
    -----
    Source: J. C. Butcher, *B-Series* (2021), ch. 4; Hairer, Nørsett, Wanner, *Solving ODEs I*, III.8.
    Optimizers as linear systems: Lessard, Recht, Packard 2016 (arXiv 1408.3595).

    Examples
    --------
    Heavy ball, with states θ and −h·(momentum buffer):

    >>> import modeq as mq, sympy as sp
    >>> beta = sp.Symbol("beta")
    >>> method = mq.GeneralLinearMethod(A=[[1, beta], [0, beta]], B=[[1], [1]], C=[[1, 0]], D=[[0]])
    >>> method.transfer_function(sp.Symbol("z"))
    z/((-beta + z)*(z - 1))
    """

    A: sp.ImmutableMatrix
    B: sp.ImmutableMatrix
    C: sp.ImmutableMatrix
    D: sp.ImmutableMatrix
    readout: Any = None
    colours: tuple[int, ...] = ()
    decay: Mapping[int, sp.Expr] = field(default_factory=dict, hash=False)
    start: Any = None
    name: str = "GeneralLinearMethod"
    sgd: Mapping[str, Any] | None = field(default=None, hash=False, compare=False)
    step_powers: tuple[int, ...] | None = ()
    steps: int = 1
    players: bool = False

    def __post_init__(self) -> None:
        def put(attribute: str, value: Any) -> None:
            object.__setattr__(self, attribute, value)

        put("A", exact_matrix(self.A, "A", (None, None)))
        states = self.A.rows
        if states == 0 or self.A.cols != states:
            raise InvalidMethod(
                f"A has shape {states} x {self.A.cols}: give a square matrix, with a row for each state"
            )
        put("B", exact_matrix(self.B, "B", (states, None)))
        queries = self.B.cols
        if queries == 0:
            raise InvalidMethod("B has no column: a method needs at least one gradient query; give a column for each")
        put("C", exact_matrix(self.C, "C", (queries, states)))
        put("D", exact_matrix(self.D, "D", (queries, queries)))
        first = [[1] + [0] * (states - 1)]
        row = self.readout if self.readout is not None else first
        row = row.tolist() if hasattr(row, "tolist") else row
        if isinstance(row, list | tuple) and not any(isinstance(entry, list | tuple) for entry in row):
            row = [row]
        put("readout", exact_matrix(row, "readout", (1, states)))
        put("colours", self._checked_colours(queries))
        put("decay", FrozenMapping({int(c): checked_rate(rate, f"decay[{c}]") for c, rate in self.decay.items()}))
        put("sgd", None if self.sgd is None else FrozenMapping(self.sgd))
        start = self.start if self.start is not None else sp.zeros(states, self.colour_count)
        put("start", exact_matrix(start, "start", (states, self.colour_count)))
        self._check_names()
        self._check_consistency()
        powers = tuple(self.step_powers) if isinstance(self.step_powers, list | tuple) else self.step_powers
        put("step_powers", powers)
        if isinstance(powers, tuple) and not powers:
            put("step_powers", tuple(int(entry == 0) for entry in self.preconsistency))
        elif powers is not None and not _are_integers(powers, states):
            raise InvalidMethod(f"step_powers is {self.step_powers}: give one integer for each of the {states} states")
        if not _are_integers((self.steps,), 1) or self.steps < 1:
            raise InvalidMethod(f"steps is {self.steps!r}: give the number of steps that one application counts")

    def _checked_colours(self, queries: int) -> tuple[int, ...]:
        if not isinstance(self.colours, list | tuple) or not isinstance(self.decay, Mapping):
            raise InvalidMethod(
                f"colours is {self.colours!r} and decay {self.decay!r}: give a tuple of integers, and a mapping from "
                "colours to rates"
            )
        colours = tuple(self.colours) or (0,) * queries
        if not _are_integers(colours, queries) or set(colours) != set(range(len(set(colours)))):
            raise InvalidMethod(
                f"colours is {colours}: give one integer for each of the {queries} queries, counted from 0 without gaps"
            )
        unknown = set(self.decay) - set(colours)
        if unknown:
            raise InvalidMethod(
                f"decay names the colours {sorted(unknown)}: give rates for colours of queries, {sorted(set(colours))}"
            )
        return colours

    def _check_names(self) -> None:
        taken = sorted({symbol.name for symbol in self.free_symbols} & RESERVED)
        if taken:
            raise InvalidMethod(
                f"{self.name} has the symbol {taken[0]}: the names {', '.join(sorted(RESERVED))} are reserved for the "
                "learning rate and for variables of its equations; rename the symbol"
            )

    def _check_consistency(self) -> None:
        u = self.preconsistency
        if any(sp.simplify(entry - 1) != 0 for entry in [*(self.C * u), *(self.readout * u)]):
            raise InvalidMethod(
                f"{self.name} is not preconsistent: with A u = u, u = {list(u)}, the method must have C u = 1 and "
                f"readout·u = 1, it has C u = {list(self.C * u)} and readout·u = {list(self.readout * u)}"
            )
        for colour in range(self.colour_count):
            if self.is_simple_at_one and sp.simplify(self._residue(colour)) == 0:
                raise InvalidMethod(
                    f"{self.name} is not consistent: the field of colour {colour} does not move the parameters to "
                    "first order in h, wᵀ B 1 = 0; give a B with which it does"
                )

    def _residue(self, colour: int) -> sp.Expr:
        """g₋₁ of one colour: how far θ moves per step and per h·f on the slow manifold."""
        weight = self.slow_row * self.B
        return sum(weight[j] for j, c in enumerate(self.colours) if c == colour)

    @cached_property
    def slow_row(self) -> sp.ImmutableMatrix:
        """The row w with w A = w and w·u = 1: w X is the part of a state that parasitic eigenvalues do not touch."""
        left = (self.A.T - sp.eye(self.A.rows)).nullspace()[0].T
        return sp.ImmutableMatrix((left / (left * self.preconsistency)[0]).applyfunc(sp.cancel))

    @cached_property
    def preconsistency(self) -> sp.ImmutableMatrix:
        """The column u with A u = u and readout·u = 1."""
        space = (self.A - sp.eye(self.A.rows)).nullspace()
        if len(space) != 1:
            raise NotZeroStable(
                f"{self.name}: the state matrix A must have 1 as a simple eigenvalue, its eigenspace has dimension "
                f"{len(space)}"
            )
        scale = (self.readout * space[0])[0]
        if sp.simplify(scale) == 0:
            raise InvalidMethod(
                f"{self.name} is not preconsistent: readout is {list(self.readout)}, and readout·u = 0 for the vector "
                "with A u = u; give the row that reads the parameters from the states"
            )
        return sp.ImmutableMatrix(sp.simplify(space[0] / scale))

    @property
    def state_count(self) -> int:
        """The number of internal states."""
        return int(self.A.rows)

    @property
    def query_count(self) -> int:
        """The number of gradient queries in one step."""
        return int(self.B.cols)

    @property
    def colour_count(self) -> int:
        """The number of vector fields, weight decay included."""
        return max(self.colours) + 1

    @property
    def free_symbols(self) -> frozenset[sp.Symbol]:
        """The sympy symbols that occur in the entries and in the rates of weight decay."""
        return frozenset().union(*(entry.free_symbols for entry in (*self.entries, *self.decay.values())))

    @property
    def entries(self) -> tuple[sp.Expr, ...]:
        """All entries of all matrices, in a row."""
        return tuple(entry for m in (self.A, self.B, self.C, self.D, self.readout, self.start) for entry in m)

    @cached_property
    def query_order(self) -> tuple[int, ...] | None:
        """An order in which the queries can be computed one after the other; None for an implicit method."""
        done: list[int] = []
        left = set(range(self.query_count))
        while left:
            ready = [i for i in sorted(left) if all(self.D[i, j] == 0 for j in left)]
            if not ready:
                return None
            done += ready
            left -= set(ready)
        return tuple(done)

    @property
    def is_explicit(self) -> bool:
        """Whether the queries can be computed one after the other."""
        return self.query_order is not None

    @property
    def queries_at_parameters(self) -> bool:
        """Whether every gradient is taken at the parameters θ themselves."""
        at_theta = all(self.C.row(i) == self.readout for i in range(self.query_count))
        return at_theta and all(entry == 0 for entry in self.D)

    def transfer_function(self, at: Any = z) -> sp.Expr | sp.ImmutableMatrix:
        """Return G(z) = C (zI − A)⁻¹ B + D, from h·f to the queries.

        Parameters
        ----------
        at : symbol or number
            The point z.

        Returns
        -------
        A sympy expression for a method with one query, else the matrix queries × queries.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> mq.GradientDescent().transfer_function(sp.Symbol("z"))
        1/(z - 1)
        """
        matrix = (self.C * self.resolvent * self.B + self.D).applyfunc(sp.cancel)
        matrix = sp.ImmutableMatrix(matrix.subs(z, _point(at)).applyfunc(sp.factor))
        return matrix[0] if self.query_count == 1 else matrix

    def readout_transfer_function(self, at: Any = z) -> sp.ImmutableMatrix:
        """Return the row e (zI − A)⁻¹ B, from h·f of each query to the parameters θ.

        Parameters
        ----------
        at : symbol or number
            The point z.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> mq.GradientDescent().readout_transfer_function(sp.Symbol("z"))
        Matrix([[1/(z - 1)]])
        """
        row = (self.readout * self.resolvent * self.B).applyfunc(sp.cancel)
        return sp.ImmutableMatrix(row.subs(z, _point(at)).applyfunc(sp.factor))

    @cached_property
    def resolvent(self) -> sp.ImmutableMatrix:
        """The matrix (zI − A)⁻¹, computed in the field of rational functions.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.GradientDescent().resolvent
        Matrix([[1/(z - 1)]])
        """
        matrix = z * sp.eye(self.state_count) - self.A
        return DomainMatrix.from_Matrix(matrix).to_field().inv().to_Matrix().as_immutable()

    @cached_property
    def parasitic_polynomial(self) -> sp.Poly:
        """det(zI − A)/(z − 1): its roots are the parasitic eigenvalues."""
        matrix = DomainMatrix.from_Matrix(self.A).to_field()
        polynomial = sp.Poly.from_list(matrix.charpoly(), z, domain=matrix.domain)
        return sp.Poly(polynomial.exquo(sp.Poly(z - 1, z, domain=matrix.domain)).as_expr(), z)

    @cached_property
    def parasitic_radius(self) -> float:
        """The largest modulus of a parasitic eigenvalue of a method with numbers, 0 if it has none.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.HeavyBall(momentum=0.9).parasitic_radius, mq.GradientDescent().parasitic_radius
        (0.9, 0.0)
        """
        roots = self.parasitic_polynomial.sqf_part().nroots(n=30)  # multiple roots do not converge
        return max((abs(complex(root)) for root in roots), default=0.0)

    @property
    def is_simple_at_one(self) -> bool:
        """Whether 1 is a simple eigenvalue of A (for symbols: in general position)."""
        return bool(sp.simplify(self.parasitic_polynomial.eval(1)) != 0)

    @cached_property
    def is_zero_stable(self) -> bool | sp.Basic:
        """Strict zero-stability: 1 is a simple eigenvalue of A and all others are inside the unit circle.

        For numbers a bool, decided in exact arithmetic by the Schur–Cohn test; for symbols the sympy
        condition under which it holds.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> mq.HeavyBall(momentum=0.9).is_zero_stable
        True
        >>> mq.HeavyBall(momentum=sp.Symbol("beta")).is_zero_stable
        Abs(beta) < 1
        """
        if not self.is_simple_at_one:
            return False
        conditions = []
        for factor, _ in sp.factor_list(self.parasitic_polynomial.as_expr(), z)[1]:
            conditions += _inside_unit_circle(sp.Poly(factor, z))
        verdict = sp.And(*conditions)
        return bool(verdict) if isinstance(verdict, BooleanAtom) else verdict

    def require_numbers(self) -> None:
        """Raise `InvalidMethod` if the method has free symbols."""
        if self.free_symbols:
            raise InvalidMethod(f"{self.name} has free symbols: substitute numbers with method.subs")

    def require_zero_stable(self) -> None:
        """Raise `NotZeroStable` unless the method is, or for symbols can be, strictly zero-stable."""
        if self.is_zero_stable is False:
            roots = sorted((abs(complex(r)) for r in sp.nroots(self.parasitic_polynomial.as_expr())), reverse=True)
            raise NotZeroStable(
                f"{self.name} is not strictly zero-stable: besides the simple eigenvalue 1, the state matrix A has "
                f"eigenvalues of modulus {', '.join(f'{root:.6g}' for root in roots)}; all must be below 1 (reduce the "
                "momentum)"
            )

    def series_limit(self) -> sp.Expr:
        """Return the radius r: the modified vector field means something only for |h·λ| < r.

        See :func:`modeq.methods.limits.series_limit`.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> mq.GradientDescent().series_limit()
        1
        >>> round(float(mq.HeavyBall(momentum=0.9).series_limit()), 6)
        0.002633
        """
        from modeq.methods.limits import series_limit

        return series_limit(self)

    def stability_limit(self) -> sp.Expr:
        """Return the largest h·λ up to which the method is stable on a quadratic of curvature λ.

        See :func:`modeq.methods.limits.stability_limit`.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> mq.HeavyBall(momentum=sp.Symbol("beta")).stability_limit()
        2*(beta + 1)
        """
        from modeq.methods.limits import stability_limit

        return stability_limit(self)

    def with_weight_decay(self, lam: Any, decoupled: bool = False) -> "GeneralLinearMethod":
        """Return the method with weight decay λ; see :func:`modeq.methods.weight_decay.with_weight_decay`.

        Parameters
        ----------
        lam : number from 0, or sympy expression
            The rate λ, per unit of time h·n.
        decoupled : bool
            Whether the decay bypasses the gradient and its buffers.

        Examples
        --------
        >>> import modeq as mq
        >>> mq.HeavyBall(momentum=0.9).with_weight_decay(0.01)
        HeavyBall(momentum=9/10).with_weight_decay(1/100)
        """
        from modeq.methods.weight_decay import with_weight_decay

        return with_weight_decay(self, lam, decoupled)

    def to_torch(self, parameters: Any, h: float) -> Any:
        """Return torch.optim.SGD that runs this method; see :func:`modeq.methods.from_torch.to_torch`.

        Parameters
        ----------
        parameters : iterable of parameters, or of parameter groups, as torch.optim.SGD takes it
        h : number from 0
            The learning rate.

        Examples
        --------
        >>> import modeq as mq, torch
        >>> mq.HeavyBall(momentum=0.9).to_torch([torch.zeros(2, requires_grad=True)], h=0.1).param_groups[0]["momentum"]
        0.9
        """
        from modeq.methods.from_torch import to_torch

        return to_torch(self, parameters, h)

    def subs(self, *substitution: Any) -> "GeneralLinearMethod":
        """Return the method with symbols replaced, as in sympy's ``subs``.

        Parameters
        ----------
        *substitution : a symbol and its value, or one mapping from symbols to values

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> beta = sp.Symbol("beta")
        >>> mq.HeavyBall(momentum=beta).subs(beta, sp.Rational(1, 2)).A
        Matrix([
        [1, 1/2],
        [0, 1/2]])
        """

        def put(value: Any) -> sp.Expr:
            return exact(sp.sympify(value).subs(*substitution), "sgd")

        try:
            pairs = dict(substitution[0]).items() if len(substitution) == 1 else [substitution]
            values = ", ".join(f"{old}={new}" for old, new in pairs)
            matrices = {key: getattr(self, key).subs(*substitution) for key in ("A", "B", "C", "D", "readout", "start")}
        except (TypeError, ValueError) as error:
            raise InvalidMethod(
                f"the substitution is {substitution!r}: give a symbol and a value, or a mapping from symbols to values"
            ) from error
        sgd = None
        if self.sgd is not None:
            sgd = {k: v if isinstance(v, bool) else put(v) for k, v in self.sgd.items()}
        decay = {colour: rate.subs(*substitution) for colour, rate in self.decay.items()}
        return replace(self, **matrices, decay=decay, sgd=sgd, name=f"{self.name}[{values}]")

    def __repr__(self) -> str:
        return self.name

    def latex(self) -> str:
        r"""Return the matrices of the method as LaTeX: the queries above, the next state below.

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.GradientDescent().latex())
        \begin{pmatrix} y \\ X^+ \end{pmatrix} =
        \left(\begin{array}{c|c} 1 & 0 \\ \hline 1 & 1 \end{array}\right)
        \begin{pmatrix} X \\ h f(y) \end{pmatrix},\quad \theta = X_{1}
        """
        above, below = (
            r" \\ ".join(" & ".join(map(sp.latex, row)) for row in left.row_join(right).tolist())
            for left, right in ((self.C, self.D), (self.A, self.B))
        )
        columns = "c" * self.state_count + "|" + "c" * self.query_count
        theta = sum(e * sp.Symbol(f"X_{i + 1}") for i, e in enumerate(self.readout))
        return (
            rf"\begin{{pmatrix}} y \\ X^+ \end{{pmatrix}} = "
            rf"\left(\begin{{array}}{{{columns}}} {above} \\ \hline {below} \end{{array}}\right) "
            rf"\begin{{pmatrix}} X \\ h f(y) \end{{pmatrix}},\quad \theta = {sp.latex(theta)}"
        )

    def _repr_markdown_(self) -> str:
        if self.state_count + self.query_count > _SHOWN:
            return f"`{self.name}`, {self.state_count} states, {self.query_count} queries"
        return f"`{self.name}`\n\n$$\n{self.latex()}\n$$"


def _are_integers(values: Any, count: int) -> bool:
    if not isinstance(values, tuple) or len(values) != count:
        return False
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def require_method(value: Any) -> None:
    """Raise `InvalidMethod` unless `value` is a method (and not, say, the function that makes one)."""
    if not isinstance(value, GeneralLinearMethod):
        raise InvalidMethod(f"{value!r} is no method: give one such as mq.GradientDescent() or mq.HeavyBall(0.9)")


def _point(at: Any) -> sp.Expr:
    try:
        point = None if isinstance(at, str) else sp.sympify(at)
    except sp.SympifyError:
        point = None
    if not isinstance(point, sp.Expr) or not point.is_commutative or point.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
        raise InvalidMethod(f"a transfer function is asked for at {at!r}: give a symbol or a finite number")
    return point


def _inside_unit_circle(polynomial: sp.Poly) -> list[sp.Basic]:
    """Conditions for all roots of an irreducible factor to lie inside the unit circle (Schur–Cohn)."""
    if polynomial.degree() == 0:
        return []
    if polynomial.degree() == 1:
        lead, constant = polynomial.all_coeffs()
        return [sp.Abs(sp.cancel(-constant / lead)) < 1]
    conditions = []
    coefficients = polynomial.all_coeffs()
    while len(coefficients) > 1:
        lead, last = coefficients[0], coefficients[-1]
        conditions.append(sp.factor(lead**2 - last**2) > 0)
        coefficients = [sp.expand(lead * a - last * b) for a, b in zip(coefficients, coefficients[::-1], strict=True)]
        coefficients.pop()
        if conditions[-1] == sp.false:
            break
    return conditions
