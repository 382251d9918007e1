"""The exact continuous law of a method on a quadratic loss, or on the quadratic model of a loss."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.linalg import block_diag, expm, logm

from modeq.errors import InvalidProblem, UnsupportedOptimizer
from modeq.methods.base import GeneralLinearMethod, require_method
from modeq.numeric.colours import ColourFields
from modeq.numeric.curvature import leading_eigenpairs
from modeq.numeric.protocol import Problem, Vector, positive, start_on, time_grid
from modeq.numeric.trajectory import Status, Trajectory

# From P, w, a state and the part of a step to the state at its end.
Finish = Callable[[Vector, Vector, Vector, float], Vector]


def exact_quadratic_flow(
    method: GeneralLinearMethod,
    problem: Problem,
    start: Any = None,
    *,
    h: float,
    time: float,
    eigenpairs: int | tuple[Any, Any] | None = None,
) -> Trajectory:
    """Return the exact continuous law of a method on a quadratic loss: the logarithm of its one-step map.

    With the affine one-step map X⁺ = M X in (states, 1), X(t) = exp((t/h) log M) X₀, which passes through
    every iterate, up to rounding. For gradient descent this is the principal flow h⁻¹ log(I − hH)(θ − θ*) of Rosca
    et al. 2023 (arXiv 2302.01952). It exists for affine fields too, and for an `Epoch` on quadratic minibatches; a
    method with one field sees the mean of minibatches.

    log M is the principal logarithm, and X is real and smooth in t while no eigenvalue μ of M is negative. Where one
    is, the real part is returned, |μ|ⁿ cos πn for n = t/h: in gradient descent for h·λ > 1, in heavy ball for h·λ
    from (1 + √β)² on. A little below that, two roots are about to meet on the negative axis, and X, while real,
    swings far out between the steps.

    Any other loss has this law on its quadratic model at the start, if `eigenpairs` are given: with δ = θ − θ₀, on
    L(θ₀) + g·δ + ½ δᵀH_kδ, H_k = Σ λ_i v_i v_iᵀ over the k leading eigenpairs of the Hessian H. Each v_i is a
    problem of one variable; across them the slope stays constant. What it leaves out is H − H_k, an error of order
    |λ_{k+1}|·|δ| in the slope, and how H changes along the way, an error of order |δ|²: it describes the first
    steps of a training, and one that has come near a minimum.

    Parameters
    ----------
    method : GeneralLinearMethod
        With numbers for all symbols. With `eigenpairs` it has one field, and weight decay or none.
    problem, start : a problem, and θ₀ in a form it takes
        With a true ``is_quadratic``, as a `SymbolicProblem`, a `VectorField` or :func:`modeq.problems.quadratic` has
        it, unless `eigenpairs` are given.
    h : positive number
        The learning rate.
    time : positive number
        The end, in units of h·n.
    eigenpairs : int k, or arrays (k,) and (d, k), optional
        How many leading eigenpairs of the Hessian at the start to take, or these themselves, as
        :func:`modeq.numeric.curvature.leading_eigenpairs` returns them. By default the loss must be quadratic.

    Returns
    -------
    Trajectory
        At the times 0, h, 2h, …, `time`, for an `Epoch` at its ends.

    Raises
    ------
    InvalidProblem
        If the loss is not quadratic and no eigenpairs are given, if these do not fit, or if M is singular, as for
        h·λ = 1 in gradient descent, or without momentum in a method that has a buffer.
    InvalidMethod
        If the method has free symbols.
    UnsupportedOptimizer
        If eigenpairs are given for a method of several fields.
    Diverged
        If the parameters leave the finite numbers; with the trajectory until then.

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> exact_quadratic_flow(mq.GradientDescent(), problem, [1.0], h=0.5, time=1.0).y.ravel().round(12).tolist()
    [1.0, 0.5, 0.25]

    With h·λ = 3/2 it turns by π at each step:

    >>> turning = exact_quadratic_flow(mq.GradientDescent(), problem, [1.0], h=1.5, time=2.25)
    >>> bool(abs(turning.y[-1, 0] - 0.5**1.5 * np.cos(1.5 * np.pi)) < 1e-12)
    True

    Where the gradient of cos x is −sin 1 and its derivative −cos 1, one step leads to 1 + h sin 1:

    >>> waves = mq.SymbolicProblem(sp.cos(x), [x])
    >>> model = exact_quadratic_flow(mq.GradientDescent(), waves, [1.0], h=0.1, time=0.1, eigenpairs=1)
    >>> bool(abs(model.y[-1, 0] - (1 + 0.1 * np.sin(1))) < 1e-12)
    True
    """
    require_method(method)
    method.require_numbers()
    h, time = positive(h, "h"), positive(time, "time")
    theta = start_on(problem, start)
    if eigenpairs is not None:
        return _on_the_model(method, problem, theta, h, time_grid(h, time), eigenpairs)
    if not getattr(problem, "is_quadratic", False):
        raise InvalidProblem(
            f"the exact flow exists on quadratic losses, and {problem!r} is not known as one: give eigenpairs, the "
            "number of directions in which to follow its quadratic model at the start"
        )
    colours = ColourFields(method, problem)
    zero, units = np.zeros(theta.size), np.eye(theta.size)
    slopes = [np.transpose([colours(colour, zero, (unit,)) for unit in units]) for colour in range(method.colour_count)]
    shifts = np.array([colours(colour, zero) for colour in range(method.colour_count)])
    times = time_grid(h * method.steps, time)
    step, drift, first = _coupled(method, slopes, shifts, theta, h)
    hessian = _shared_hessian(method, slopes)
    if hessian is None:
        _require_logarithm(method, step, h, None)
        finish: Finish = _part_of_a_step
    else:
        finish = _eigenvector_by_eigenvector(method, hessian, shifts, h)
    y = _evolved(method, step, drift, first, times / (h * method.steps), finish)[:, 0]
    return _finite(Trajectory(times, y, 0, 0, "evaluated", "exact flow"), method, h)


def _on_the_model(
    method: GeneralLinearMethod, problem: Problem, theta: Vector, h: float, times: Vector, eigenpairs: Any
) -> Trajectory:
    """The law on the quadratic model at θ₀: that of each eigenvector, and of the rest, where the slope is constant."""
    if method.colour_count - len(method.decay) != 1:
        raise UnsupportedOptimizer(
            f"{method!r} has several fields, and eigenpairs are of one Hessian: give a method with one field"
        )
    values, vectors = _checked_pairs(problem, theta, eigenpairs)
    force = np.asarray(problem.field(theta), dtype=np.float64)
    if not np.all(np.isfinite(force)):
        raise InvalidProblem(f"the gradient of {problem!r} at the start is not finite: give another start")
    own = np.array([float(colour not in method.decay) for colour in range(method.colour_count)])
    x, f = vectors.T @ theta, vectors.T @ force
    shifts = np.outer(own, f + values * x)[..., None]  # along v_i the field is f − λ(x − x₀)
    y = np.zeros((len(times), theta.size))
    with np.errstate(over="ignore", invalid="ignore"):
        if len(values):
            y += _modes(method, values, x[:, None], shifts, h, times / h)[..., 0] @ vectors.T
        if len(values) < theta.size:
            flat, constant = theta - vectors @ x, force - vectors @ f
            y += _modes(method, np.zeros(1), flat[None], np.outer(own, constant)[:, None], h, times / h)[:, 0]
    name = f"exact flow of the quadratic model along {len(values)} directions"
    return _finite(Trajectory(times, y, 1, 0, "evaluated", name), method, h)


def _checked_pairs(problem: Problem, theta: Vector, eigenpairs: Any) -> tuple[Vector, Vector]:
    """Eigenvalues (k,) and orthonormal eigenvectors (d, k)."""
    if not isinstance(eigenpairs, tuple | list):
        if hasattr(eigenpairs, "shape") and np.shape(eigenpairs):
            raise InvalidProblem(
                f"eigenpairs have the shape {np.shape(eigenpairs)}: give a number, or values (k,) and vectors "
                f"({theta.size}, k) as a pair"
            )
        return leading_eigenpairs(problem, theta, eigenpairs)
    try:
        values, vectors = (np.asarray(given) for given in eigenpairs)
        if np.iscomplexobj(values) or np.iscomplexobj(vectors):
            raise TypeError("complex numbers")
        values, vectors = (np.array(given, dtype=np.float64) for given in (values, vectors))
    except (TypeError, ValueError) as error:
        raise InvalidProblem(
            f"eigenpairs are {eigenpairs!r}: give a number, or values (k,) and vectors (d, k), real numbers"
        ) from error
    if values.ndim != 1 or vectors.shape != (theta.size, values.size):
        raise InvalidProblem(
            f"eigenpairs have the shapes {values.shape} and {vectors.shape}: give (k,) and ({theta.size}, k)"
        )
    if not np.all(np.isfinite(values)):
        raise InvalidProblem(f"the eigenvalues in eigenpairs are {values}: give finite numbers")
    if not np.allclose(vectors.T @ vectors, np.eye(values.size), atol=1e-6):
        raise InvalidProblem("the eigenvectors in eigenpairs are not orthonormal: normalise them")
    return values, vectors


def _shared_hessian(method: GeneralLinearMethod, slopes: Sequence[Vector]) -> Vector | None:
    """The Hessian that all fields of the problem have in common, if they are gradients and have one."""
    own = [slopes[colour] for colour in range(method.colour_count) if colour not in method.decay] or [0 * slopes[0]]
    rounding = 8 * np.finfo(np.float64).eps * max(np.max(abs(slope)) for slope in own)
    if all(np.max(abs(own[0] - other)) <= rounding for other in (own[0].T, *own)):
        return -(own[0] + own[0].T) / 2
    return None


def _modes(
    method: GeneralLinearMethod, curvatures: Vector, x: Vector, shifts: Vector, h: float, steps: Vector
) -> Vector:
    """The law of single variables with the fields shift_c − λx, as an array times × m × n.

    There are m curvatures λ, x starts at (m, n) numbers, and the shifts are (colours, m, n), 0 for weight decay.
    """
    step, drift = _modal_step(method, curvatures, shifts, h)
    rates = _rates(method, curvatures)
    u, layer = _matrices(method, "preconsistency", "start")
    first = u * x[:, None] + h * np.einsum("sc,cmn->msn", layer, shifts - rates[:, :, None] * x)
    return _evolved(method, step, drift, first, steps, _part_of_a_step)


def _rates(method: GeneralLinearMethod, curvatures: Vector) -> Vector:
    """The curvature that each colour sees, colours × m: the rate of a weight decay is the same everywhere."""
    rates = np.array([curvatures] * method.colour_count, dtype=np.float64)
    for colour, rate in method.decay.items():
        rates[colour] = float(rate)
    return rates


def _modal_step(method: GeneralLinearMethod, curvatures: Vector, shifts: Vector, h: float) -> tuple[Vector, Vector]:
    """P (m, states, states) and w (m, states, n) of one step X⁺ = P X + w on each of m curvatures."""
    rates = _rates(method, curvatures)
    slope = np.zeros((len(curvatures), method.query_count, method.query_count))
    for j, colour in enumerate(method.colours):
        slope[:, j, j] = -rates[colour]
    step, weights = _step_matrices(method, slope, h)
    _require_logarithm(method, step, h, curvatures)
    return step, np.einsum("msq,qmn->msn", weights, shifts[list(method.colours)])


def _eigenvector_by_eigenvector(method: GeneralLinearMethod, hessian: Vector, shifts: Vector, h: float) -> Finish:
    """How to flow over less than one step where all fields have one Hessian.

    A logarithm of the whole map could turn one eigenvector into another where an eigenvalue is repeated.
    """
    values, vectors = np.linalg.eigh(hessian)
    step, drift = _modal_step(method, values, (shifts @ vectors)[..., None], h)

    def finish(_step: Vector, _drift: Vector, state: Vector, part: float) -> Vector:
        along = (state.reshape(method.state_count, -1) @ vectors).T[..., None]
        ends = _part_of_a_step(step, drift, along, part)[..., 0]
        return np.reshape((vectors @ ends).T, state.shape)

    return finish


def _coupled(
    method: GeneralLinearMethod, slopes: Sequence[Vector], shifts: Vector, theta: Vector, h: float
) -> tuple[Vector, Vector, Vector]:
    """P, w and X₀ of one step X⁺ = P X + w of all variables, for affine fields f_c(θ) = slope_c θ + shift_c."""
    step, weights = _step_matrices(method, block_diag(*(slopes[colour] for colour in method.colours)), h)
    drift = weights @ np.concatenate([shifts[colour] for colour in method.colours])
    u, layer = _matrices(method, "preconsistency", "start")
    at_start = np.array([slope @ theta + shift for slope, shift in zip(slopes, shifts, strict=True)])
    first = (u * theta + h * layer @ at_start).ravel()
    return step[None], drift[None, :, None], first[None, :, None]


def _step_matrices(method: GeneralLinearMethod, slope: Vector, h: float) -> tuple[Vector, Vector]:
    """P and W of one step X⁺ = P X + W shift for the fields slope·y + shift at all queries; (m, …) for m slopes."""
    eye = np.eye(slope.shape[-1] // method.query_count)
    A, B, C, D = (np.kron(matrix, eye) for matrix in _matrices(method, "A", "B", "C", "D"))
    identity = np.eye(slope.shape[-1])
    try:
        # y = C X + hD(slope·y + shift)
        solved = np.linalg.inv(identity - h * D @ slope)
    except np.linalg.LinAlgError as error:
        raise InvalidProblem(
            f"the implicit step of {method} at h = {h} has no unique solution: take another h"
        ) from error
    return A + h * B @ slope @ solved @ C, h * B @ (identity + slope @ solved @ (h * D))


def _require_logarithm(method: GeneralLinearMethod, step: Vector, h: float, curvatures: Vector | None) -> None:
    """Raise `InvalidProblem` if one of the maps P (m, s, s), on curvatures if they have such, is singular."""
    values = abs(np.linalg.eigvals(step))
    k = int(np.argmin(np.min(values, axis=1)))
    if np.min(values) < 1e-14 * max(1.0, np.max(values)):
        where = "" if curvatures is None else f" where the Hessian has the eigenvalue {curvatures[k]:g}"
        raise InvalidProblem(
            f"the one-step map of {method} at h = {h} is singular, it forgets a part of its state at once{where}: it "
            "has no logarithm; take another h, or GradientDescent() if the momentum is 0"
        )


def _evolved(
    method: GeneralLinearMethod, step: Vector, drift: Vector, first: Vector, steps: Vector, finish: Finish
) -> Vector:
    """θ along the flow of X⁺ = P X + w, at the numbers of applications 0, 1, 2, … and perhaps a last one between.

    P is (m, s, s), w and X₀ are (m, s, n), the result times × m × (s·n/states). After n applications exp(n log P) is
    Pⁿ; the products lose fewer digits than powers of eigenvalues, whose eigenvectors may be nearly parallel.
    """
    whole, state = int(np.floor(steps[-1] + 1e-9)), first
    readout = _matrices(method, "readout")[0][0]

    def parameters() -> Vector:
        return np.asarray(readout @ state.reshape(len(step), method.state_count, -1))

    seen = [parameters()]
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(whole):
            state = step @ state + drift
            seen.append(parameters())
        if len(steps) > whole + 1:
            state = finish(step, drift, state, float(steps[-1]) - whole)
            seen.append(parameters())
    return np.array(seen)


def _part_of_a_step(step: Vector, drift: Vector, state: Vector, part: float) -> Vector:
    """Re exp(part · log) of the step, applied to a state: the flow over less than one step."""
    size = step.shape[-1]
    eye = np.broadcast_to(np.eye(size), step.shape)
    # Linear in (X, w): X⁺ = P X + w, and w stays.
    both = np.block([[step, eye], [np.zeros(step.shape), eye]])
    return (_power(both, part) @ np.concatenate([state, drift], axis=1))[:, :size]


def _power(matrices: Vector, exponent: float) -> Vector:
    """Re exp(exponent · log M) of each matrix M in (m, n, n)."""
    values, vectors = np.linalg.eig(matrices)
    # Rounding may split a negative eigenvalue of several eigenvectors into pairs: they keep one logarithm.
    real = abs(values.imag) < 1e-12 * abs(values)
    scaled = vectors * np.exp(exponent * np.log(np.where(real, values.real, values).astype(complex)))[:, None]
    # At a double root, or nearly one, a Jordan block has a logarithm, but no good basis of eigenvectors.
    good = np.linalg.cond(vectors) < 1e3
    powers = np.empty(matrices.shape)
    powers[good] = (scaled[good] @ np.linalg.inv(vectors[good])).real
    for k in np.flatnonzero(~good):
        powers[k] = np.asarray(expm(exponent * logm(matrices[k]))).real
    return powers


def _finite(trajectory: Trajectory, method: GeneralLinearMethod, h: float) -> Trajectory:
    """The trajectory, or `Diverged` with that up to the first point that is not finite."""
    finite = np.all(np.isfinite(trajectory.y), axis=1)
    if np.all(finite):
        return trajectory
    count = int(np.argmin(finite))
    message = (
        f"the parameters are not finite at t = {trajectory.t[count]:g}: {method} is not stable there, use a smaller "
        f"learning rate than {h:g}, or a shorter time"
    )
    t, y = trajectory.t[:count], trajectory.y[:count]
    return replace(trajectory, t=t, y=y, status=Status.DIVERGED, message=message).checked()


def _matrices(method: GeneralLinearMethod, *names: str) -> list[Vector]:
    return [np.array(getattr(method, name).tolist(), dtype=np.float64) for name in names]
