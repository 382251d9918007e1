"""The phase-space form: a differential equation that keeps the poles of the method.

It is the form for momentum near 1, where the vector field on the parameters alone means nothing.
"""

from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from modeq.errors import InvalidMethod, NoTimeDerivativeForm
from modeq.methods.base import GeneralLinearMethod, z
from modeq.methods.exact import tidy
from modeq.methods.shift_operator import ShiftOperator
from modeq.symbolic.differentials import latex_sum
from modeq.symbolic.temporal import checked_time_order, readout_series

SMALLEST_POLE = sp.exp(-2 * sp.pi)


@dataclass(frozen=True, repr=False)
class PhaseSpaceForm:
    """q(D) θ = h Σ_c Σ_{k<p} r_k^c D^k f_c(θ(t)), with D the derivative per step, h·d/dt.

    Attributes
    ----------
    q : coefficients (q₁, …, q_m) of ζ, …, ζᵐ
    r : mapping from colour to (r₀, …, r_{p−1}), r₀ = 1 for the gradient; with one more for each kept pole if
        they were interpolated
    poles : the kept poles of the transfer function besides 1; the equation has the modes ln(pole) per step
    left_out : the poles that are not kept (zero, negative, below e^{−2π}): their transient is lost

    Examples
    --------
    >>> import modeq as mq
    >>> form = mq.phase_space_form(mq.HeavyBall(momentum=0.9), order=2)
    >>> form.poles, form.left_out, len(form.q), len(form.r[0])
    ((9/10,), (), 2, 2)
    """

    method: GeneralLinearMethod
    order: int
    poles: tuple[sp.Expr, ...]
    left_out: tuple[sp.Expr, ...]
    q: tuple[sp.Expr, ...]
    r: dict[int, tuple[sp.Expr, ...]]

    @cached_property
    def radius(self) -> sp.Expr:
        """The radius of convergence of r in the rate per step ζ: the next branch of a logarithm of a pole."""
        branches = [2 * sp.pi]
        branches += [sp.Abs(sp.log(pole) + 2 * sp.pi * sp.I * sign) for pole in self.poles for sign in (1, -1)]
        return min(branches, key=lambda value: float(value)) if not self._symbols else sp.Min(*branches)

    @property
    def _symbols(self) -> frozenset[sp.Symbol]:
        return frozenset().union(*(pole.free_symbols for pole in self.poles))

    def numbers(self) -> tuple[list[float], dict[int, list[float]]]:
        """Return q and r as floats, evaluated with guard digits (r cancels heavily as a pole nears 1).

        Examples
        --------
        >>> import modeq as mq
        >>> q, r = mq.phase_space_form(mq.HeavyBall(momentum=0.9), order=2).numbers()
        >>> round(r[0][1], 4)
        -0.0088
        """
        if symbols := frozenset().union(*(c.free_symbols for c in self.q)):
            raise InvalidMethod(f"the coefficients depend on {sorted(map(str, symbols))}: substitute with method.subs")

        def number(expression: sp.Expr) -> float:
            return float(sp.re(sp.N(expression, 60)))

        return [number(c) for c in self.q], {colour: [number(c) for c in row] for colour, row in self.r.items()}

    def latex(self) -> str:
        r"""Return the equation as LaTeX, with a = −ln(pole) left in it as logarithms.

        Examples
        --------
        >>> import modeq as mq
        >>> print(mq.phase_space_form(mq.GradientDescent(), order=3).latex())
        D \theta = -h\left(g - \frac{1}{2}\,D g + \frac{1}{12}\,D^{2} g\right),\quad D = h\,\tfrac{d}{dt}
        """

        def power(k: int, symbol: str) -> str:
            return symbol if k == 0 else f"D {symbol}" if k == 1 else f"D^{{{k}}} {symbol}"

        left = latex_sum([(c, power(k + 1, r"\theta")) for k, c in enumerate(self.q)])
        right = []
        for colour, row in self.r.items():
            if colour in self.method.decay:
                rate = self.method.decay[colour]
                right += [(_tidy_product(rate, c), power(k, r"\theta")) for k, c in enumerate(row)]
            else:
                right += [(c, power(k, "g")) for k, c in enumerate(row)]
        return rf"{left} = -h\left({latex_sum(right)}\right),\quad D = h\,\tfrac{{d}}{{dt}}"

    def __repr__(self) -> str:
        return f"PhaseSpaceForm({self.method}, order={self.order}, poles={self.poles})"

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"


def _tidy_product(rate: sp.Expr, coefficient: sp.Expr) -> sp.Expr:
    """rate·coefficient, factored if it is rational."""
    product = rate * coefficient
    return tidy(product) if product.is_rational_function() else product


def phase_space_form(method: GeneralLinearMethod, order: int, hermite: bool = False) -> PhaseSpaceForm:
    """Derive the equation that keeps every pole of the method: q(D) θ = h Σ r_k D^k f.

    With poles 1, p₁, … of the transfer function G: q(ζ) = c ζ Π(ζ − ln p_i), scaled so that
    q'(0) = 1/g₋₁, and r(ζ) = q(ζ) G(e^ζ) = 1 + r₁ζ + …, of which `order` terms are kept. The derivatives
    of f are taken along the flow itself. From a slow start the error is O(h^order); from buffers off the
    slow manifold a shift O(h²) stays, unless r is interpolated at the parasitic ln p_i too.

    Parameters
    ----------
    method : GeneralLinearMethod
        All its gradients are taken at θ.
    order : positive int
        The number of terms of r: the highest is D^{order − 1} f.
    hermite : bool
        Whether to add one term for each kept pole, chosen so that the truncated r is exact at every
        ζ = ln p_i, where the transients live. Then the shift from any buffers is O(h³) only, with a small
        constant: it comes from products of transients, at other ζ.

    Raises
    ------
    NoTimeDerivativeForm, NotZeroStable, InvalidOrder

    Notes
    -----
    For gradient descent θ' = Σ B_k/k! h^k (d/dt)^k f with Bernoulli numbers; for the heavy ball with
    a = −ln β, q = c ζ(ζ + a), c = (1 − β)/a. Neighbours: the high-resolution equations of Shi, Du,
    Jordan, Su 2018 (arXiv 1810.08907).

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> form = mq.phase_space_form(mq.HeavyBall(momentum=sp.Symbol("beta", positive=True)), order=2)
    >>> form.q
    (1 - beta, (beta - 1)/log(beta))
    >>> [round(value, 4) for value in phase_space_form(mq.HeavyBall(momentum=0.9), 2, hermite=True).numbers()[1][0]]
    [1.0, -0.0088, -0.0833]
    """
    order = checked_time_order(order)
    series = readout_series(method, order + 1)
    K = ShiftOperator(method).field
    kept, left_out = _poles(method)
    zeta = sp.Symbol("zeta")
    logs = [sp.log(pole) for pole in kept]
    scale = 1 / K.to_sympy(series[0][0])
    shape = sp.Poly(zeta * sp.Mul(*(zeta - log for log in logs)), zeta)
    # q'(0) = 1/g₋₁; the linear coefficient of the shape is Π(−ln p_i).
    q = [_clean(scale * c / sp.Mul(*(-log for log in logs))) for c in shape.all_coeffs()[::-1][1:]]
    r: dict[int, tuple[sp.Expr, ...]] = {}
    for colour, laurent in series.items():
        g = [K.to_sympy(c) for c in laurent]
        r[colour] = tuple(_clean(sp.Add(*(q[j] * g[k - j] for j in range(min(k + 1, len(q)))))) for k in range(order))
        if hermite and kept:
            r[colour] += _interpolated(
                method, colour, kept, sp.Add(*(c * zeta ** (k + 1) for k, c in enumerate(q))), r[colour]
            )
    return PhaseSpaceForm(method, order, kept, left_out, tuple(q), r)


def _interpolated(
    method: GeneralLinearMethod,
    colour: int,
    poles: tuple[sp.Expr, ...],
    q: sp.Expr,
    taylor: tuple[sp.Expr, ...],
) -> tuple[sp.Expr, ...]:
    """The further coefficients that make r exact at ζ_i = ln p_i: r(ζ_i) = q'(ζ_i)·Res_{z = p_i} G/p_i."""
    if len(set(poles)) < len(poles):
        raise NoTimeDerivativeForm(f"{method} has a multiple pole among {list(poles)}: use hermite=False")
    zeta = sp.Symbol("zeta")
    row = method.readout_transfer_function(z)
    transfer = sp.together(sp.Add(*(row[j] for j, c in enumerate(method.colours) if c == colour)))
    numerator, denominator = (sp.Poly(part, z) for part in sp.fraction(sp.cancel(transfer)))
    count, order = len(poles), len(taylor)
    system, right = sp.zeros(count, count), sp.zeros(count, 1)
    for i, pole in enumerate(poles):
        at = sp.log(pole)
        slope = denominator.diff(z).eval(pole)
        is_pole = sp.simplify(denominator.eval(pole)) == 0 or abs(sp.N(denominator.eval(pole), 30)) < 1e-20
        exact = sp.diff(q, zeta).subs(zeta, at) * numerator.eval(pole) / slope / pole if is_pole else sp.Integer(0)
        right[i] = exact - sp.Add(*(c * at**k for k, c in enumerate(taylor)))
        for k in range(count):
            system[i, k] = at ** (order + k)
    return tuple(_clean(value) for value in system.LUsolve(right))


def _clean(expression: sp.Expr) -> sp.Expr:
    return sp.factor(expression) if expression.free_symbols else sp.together(expression)


def _poles(method: GeneralLinearMethod) -> tuple[tuple[sp.Expr, ...], tuple[sp.Expr, ...]]:
    """The poles of the transfer functions to θ besides 1: those kept and those left out."""
    kept: list[sp.Expr] = []
    left_out: list[sp.Expr] = []
    denominators = [sp.fraction(sp.cancel(entry))[1] for entry in method.readout_transfer_function(z)]
    common = sp.cancel(sp.lcm_list(denominators) / (z - 1))
    for factor, multiplicity in sp.factor_list(common, z)[1]:
        polynomial = sp.Poly(factor, z)
        roots = sp.roots(polynomial) or dict.fromkeys(polynomial.nroots(n=60), 1)
        for root, count in roots.items():
            negligible = root.is_number and (
                (abs(sp.im(root)) < 1e-40 and sp.re(root) <= 0) or sp.N(abs(root) - SMALLEST_POLE, 30) < 0
            )
            (left_out if negligible else kept).extend([root] * (count * multiplicity))
    return tuple(kept), tuple(left_out)
