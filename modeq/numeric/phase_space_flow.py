"""The phase-space form as a first-order system: its implicit highest derivative, and its start."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg import expm

from modeq.errors import Diverged
from modeq.numeric.arrays import namespace
from modeq.numeric.fields import FieldName, series_value
from modeq.numeric.integration import System, integrate
from modeq.numeric.iteration import iterate
from modeq.numeric.jets import PathDerivatives, path_derivatives
from modeq.numeric.native_states import native_state
from modeq.numeric.protocol import Problem, Vector, flat_start
from modeq.symbolic.phase_space import PhaseSpaceForm

RightHandSide = Callable[[Any], Any]


def phase_space_right_hand_side(
    form: PhaseSpaceForm, problem: Problem, h: float, field: FieldName, rtol: float
) -> RightHandSide:
    """Return u ↦ u' for the state u = (θ, Dθ, …, D^{m−1}θ), D the derivative per step, laid end to end.

    Parameters
    ----------
    form, problem, h : the form, and what it is taken on
    field : "auto", "lambdify", "autodiff" or "gradients", how f is differentiated along the path
    rtol : the implicit equation for D^mθ is solved to a hundredth of it

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> form = mq.phase_space_form(mq.GradientDescent(), order=1)
    >>> right = phase_space_right_hand_side(form, mq.SymbolicProblem(x**2, [x]), 0.1, "auto", 1e-10)
    >>> right(np.array([3.0])).round(12).tolist()
    [-6.0]
    """
    q, r = form.numbers()
    m, size = len(q), problem.size
    highest = len(r[0]) - 1
    derivatives = path_derivatives(problem, highest, field) if highest else lambda path: [problem.field(path[0])]
    solver = HighestDerivative(q, r, form, derivatives, h, tolerance=1e-2 * rtol)

    def right_hand_side(u: Any) -> Any:
        levels = u.reshape(m, size)
        return namespace(u).concatenate([*levels[1:], solver(levels)]) / h

    return right_hand_side


def phase_space_system(
    form: PhaseSpaceForm,
    problem: Problem,
    theta: Vector,
    h: float,
    field: FieldName = "auto",
    initial_layer: bool | int = True,
    rtol: float = 1e-10,
    points: Vector | None = None,
    right_hand_side: RightHandSide | None = None,
    substeps: int | None = None,
) -> System:
    """Return a phase-space form on a problem as a first-order system with its start.

    Parameters
    ----------
    form, problem, h, field, rtol : as in `phase_space_right_hand_side`
    theta : θ₀
    initial_layer : whether to start as the method does, or at rest
    points : array m × d, optional
        θ₀ and the iterates that the flow shall pass through, if not the method's own first ones.
    right_hand_side : optional, that of the form, if it is known already
    substeps : optional, that of the system

    Raises
    ------
    Diverged
        If the highest derivative cannot be solved for at the start, or no start leads through the iterates.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> form = mq.phase_space_form(mq.HeavyBall(0.9), order=1)
    >>> system = phase_space_system(form, mq.SymbolicProblem(x**2, [x]), np.array([3.0]), 0.1, initial_layer=False)
    >>> system.start.tolist(), system.name
    ([3.0, 0.0], 'phase-space form of order 1')
    """
    if right_hand_side is None:
        right_hand_side = phase_space_right_hand_side(form, problem, h, field, rtol)
    q = form.numbers()[0]
    m, name = len(q), f"phase-space form of order {form.order}"
    start = np.zeros((m, theta.size))
    start[0] = theta

    def system() -> System:
        return System(right_hand_side, native_state(problem, start.ravel()), name, problem.label, substeps)

    highest = right_hand_side(system().start)
    if not bool(namespace(highest).isfinite(highest).all()):
        raise Diverged(
            f"{name}: at the start its highest derivative cannot be solved for, the sweeps do not contract at "
            f"h = {h:g}; use a smaller learning rate or a lower order"
        )
    if points is None and initial_layer and form.left_out:
        for k, series in enumerate(form.start()):
            start[k] += h**k * series_value(series, problem, theta, h)
    elif m > 1 and (initial_layer or points is not None):
        if points is None:
            points = iterate(form.method, problem, theta, h=h, steps=m - 1).y
        start = through_iterates(system(), points, q, h, rtol, partial(native_state, problem)).reshape(m, theta.size)
    return system()


class HighestDerivative:
    """Solve q(D)θ = h Σ_c Σ_k r_k^c D^k f_c for D^mθ, the derivatives of f taken along the flow itself.

    The unknown derivatives D^mθ, …, D^Kθ of the path obey the equation and its derivatives, cut where
    D^{K+1} f would be needed; the system is solved by fixed-point sweeps, which contract like h·r_k·λ/q_m, λ the
    curvature. Where they do not, the value is nan.

    Examples
    --------
    Of the leading order D²θ = (h f − q₁ Dθ)/q₂ is explicit:

    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> form = mq.phase_space_form(mq.HeavyBall(0.5), order=1)
    >>> derivatives = path_derivatives(mq.SymbolicProblem(x**2 / 2, [x]), 1)
    >>> solve = HighestDerivative([0.5, 0.25], {0: [1.0]}, form, derivatives, h=0.1, tolerance=1e-12)
    >>> solve(np.array([[1.0], [2.0]])).round(12).tolist()
    [-4.4]
    """

    def __init__(
        self,
        q: list[float],
        r: dict[int, list[float]],
        form: PhaseSpaceForm,
        derivatives: PathDerivatives,
        h: float,
        tolerance: float,
    ) -> None:
        self.q, self.r, self.h, self.derivatives, self.tolerance = q, r, h, derivatives, tolerance
        self.decay = {colour: float(rate) for colour, rate in form.method.decay.items()}
        self.levels = max(len(r[0]) - 1, len(q))  # highest derivative of the path that is kept

    def __call__(self, known: Any) -> Any:
        """D^mθ from the rows θ, Dθ, …, D^{m−1}θ."""
        m, top, xp = len(self.q), self.levels, namespace(known)
        path = xp.concatenate([known, *[xp.zeros_like(known[:1])] * (top + 1 - m)])
        change = np.inf
        for sweep in range(100):
            moved = self._sweep(path)
            if len(self.r[0]) <= m:  # nothing is implicit
                return moved[m]
            previous, change = change, float(abs(moved[m:] - path[m:]).max())
            path, scale = moved, float(abs(moved[1:]).max())
            # The first sweeps reach one derivative after the other; the last ones only move rounding.
            if change <= self.tolerance * scale or (sweep > top and change >= previous):
                break
            # What is left of a geometric series of changes; the first changes are of no such series yet.
            if sweep > top - m + 1 and change**2 <= self.tolerance * scale * (previous - change):
                return path[m]
        return path[m] if change <= 1e-6 * scale else xp.full_like(path[m], np.nan)  # nan: take a smaller step

    def _sweep(self, path: Any) -> Any:
        """The derivatives D^mθ, …, one after the other, with f differentiated along the path as it was."""
        m, top, xp = len(self.q), self.levels, namespace(path)
        F = self.derivatives(path[: len(self.r[0])])
        rows = list(path[:m])
        for j in range(top - m + 1):
            total = sum((-self.q[i] * rows[i + 1 + j] for i in range(m - 1)), xp.zeros_like(path[0]))
            for colour, r in self.r.items():
                for k in range(len(r) - j):  # derivatives of f up to the form's own highest
                    if colour in self.decay:
                        value = -self.decay[colour] * (rows[k + j] if k < m else path[k + j])
                    else:
                        value = F[k + j]
                    total = total + self.h * r[k] * value
            rows.append(total / self.q[-1])
        return xp.stack(rows)


def through_iterates(
    system: System,
    points: Vector,
    q: list[float],
    h: float,
    rtol: float,
    native: Callable[[Vector], Any] = lambda start: start,
) -> Vector:
    """Return the start from which the flow passes through the first iterates, by a simplified Newton iteration.

    The derivative of the flow at n = 1, …, m − 1 with respect to Dθ, …, D^{m−1}θ is that of q(D)θ = 0.

    Parameters
    ----------
    system : with θ₀ and a first guess of the derivatives as its start
    points : array m × d, the iterates
    q, h, rtol : the polynomial, the learning rate, and the tolerance relative to the distance of the points
    native : turns a start into the kind of array that the system takes

    Raises
    ------
    Diverged
        If the iteration stalls far from the points: more than a thousandth of their distance, or, for a system with
        `substeps`, whose kinks the iteration may not pass, a tenth.

    Examples
    --------
    Dθ = v, Dv = 0 reaches θ₀ + v at n = 1:

    >>> system = System(lambda u: np.array([u[1], 0.0]) / 0.1, np.zeros(2), "free motion")
    >>> through_iterates(system, np.array([[0.0], [2.0]]), [0.0, 1.0], h=0.1, rtol=1e-8).round(8).tolist()
    [0.0, 2.0]
    """
    m, size = len(q), points.shape[1]
    companion = np.diag(np.ones(m - 1), 1)
    companion[-1, 1:] = [-c / q[-1] for c in q[:-1]]
    jacobian = np.array([expm(n * companion)[0, 1:] for n in range(1, m)])
    correction = np.linalg.inv(jacobian)
    start = flat_start(system.start, m * size).reshape(m, size)
    scale = np.max(abs(points[1:] - points[0]))
    if scale <= np.finfo(np.float64).eps * np.max(abs(points)):
        return start.ravel()  # nothing moves
    times = h * np.arange(m, dtype=np.float64)
    best, found = np.inf, start
    # SciPy's integrators take no tolerance below 100 ulp; a loose one would hide what a correction does.
    inner = min(max(0.1 * rtol, 5e-14), 1e-6)
    for _ in range(60):
        trial = replace(system, start=native(start.ravel()))
        reached = integrate(trial, times, size, inner, 0.1 * inner * scale, max_evaluations=20_000).checked()
        miss = points[1:] - reached.y[1:]
        if not np.max(abs(miss)) < 0.9 * best:
            break
        best, found = float(np.max(abs(miss))), start.copy()
        if best <= 0.1 * rtol * scale:
            break
        start[1:] += correction @ miss
    if not best <= (1e-3 if system.substeps is None else 0.1) * scale:
        raise Diverged(
            f"{system.name}: no start was found from which the flow passes through the first iterates (it misses them "
            f"by {best / scale:.1e} of their distance); use a smaller learning rate"
        )
    return found.ravel()
