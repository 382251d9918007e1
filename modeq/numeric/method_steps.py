"""Step by step: a general linear method on a field, in numpy or in torch, and torch.optim.SGD on a module."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import NoConvergence, newton_krylov

from modeq.errors import Diverged, UnsupportedOptimizer
from modeq.methods.base import GeneralLinearMethod
from modeq.numeric.arrays import combination, namespace
from modeq.numeric.colours import ColourFields
from modeq.numeric.protocol import Problem, Vector
from modeq.numeric.torch_problem import TorchProblem

StepField = Callable[[Any, int], Any]

# Parameters so many times larger than the start are running away: a gradient that overflows there is no fault of its
# own. Training moves parameters by much less.
RUNAWAY = 1000.0


class NotFinite(Exception):
    """A step left the finite numbers, in entry `index`: by its gradient alone, or with the parameters.

    Examples
    --------
    >>> NotFinite(3, gradient=True).index
    3
    """

    def __init__(self, index: int, gradient: bool) -> None:
        super().__init__(index, gradient)
        self.index, self.gradient = index, gradient


def first_bad(vector: Any) -> int | None:
    """Return the index of the first entry that is not finite, None if all are.

    Examples
    --------
    >>> first_bad(np.array([1.0, np.nan])), first_bad(torch.ones(2))
    (1, None)
    """
    finite = namespace(vector).isfinite(vector)
    if finite.all():
        return None
    return int((~finite).nonzero()[0][0])


def as_numbers(vector: Any) -> Vector:
    """Return a vector of numpy or torch in float64 of numpy.

    Examples
    --------
    >>> as_numbers(torch.ones(2)).tolist()
    [1.0, 1.0]
    """
    return vector.detach().cpu().double().numpy() if isinstance(vector, torch.Tensor) else vector


def require_finite(theta: Any, gradient: Any, scale: float) -> None:
    """Raise `NotFinite` if the parameters are not finite, or the gradient at them is not.

    Examples
    --------
    >>> require_finite(np.ones(1), np.array([np.inf]), scale=1.0)
    Traceback (most recent call last):
        ...
    modeq.numeric.method_steps.NotFinite: (0, True)
    """
    bad = first_bad(theta)
    if bad is not None:
        raise NotFinite(bad, gradient=False)
    bad = first_bad(gradient)
    if bad is not None:
        raise NotFinite(bad, gradient=bool(abs(theta).max() <= RUNAWAY * scale))


class MethodSteps:
    """A general linear method: X⁺ = A X + h B F with F_i = f(C_i X + h D_i F), and θ = readout·X.

    The states are vectors of the kind that the problem computes with, so that a network in float32 or on a GPU stays
    there; an implicit method is solved in float64 of numpy.

    Parameters
    ----------
    method, problem : the method, with numbers, and what it runs on
    theta : float64 vector, θ₀
    batches : what each application sees, in turn, or None
    h : the first learning rate, which enters the first state

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> run = MethodSteps(mq.HeavyBall(0.5), mq.SymbolicProblem(x**2 / 2, [x]), np.array([1.0]), None, h=0.5)
    >>> [run.step(n, 0.5).tolist() for n in range(2)], run.gradients
    ([[0.5], [0.0]], 2)
    """

    def __init__(
        self, method: GeneralLinearMethod, problem: Problem, theta: Vector, batches: Sequence[Any] | None, h: float
    ) -> None:
        matrices = (method.A, method.B, method.C, method.D, method.readout)
        self.A, self.B, self.C, self.D, self.readout = (np.array(m.tolist(), dtype=np.float64) for m in matrices)
        self.method, self.h, self.gradients, self.epsilon = method, h, 0, problem.epsilon
        self.fields = _colour_fields(method, problem, batches)
        self.queried = sum(colour not in method.decay for colour in method.colours)
        self.scale = max(1.0, float(np.max(abs(theta), initial=0.0)))
        self.theta = theta if method.query_order is None else problem.native(theta)
        self.X: Any = None

    def _start(self, theta: Any) -> Any:
        """X₀ = u θ₀ + h·start·f(θ₀), as the rows of a matrix in numpy, as a list of vectors in torch."""
        method = self.method
        kicked = [c for c in range(method.colour_count) if any(entry != 0 for entry in method.start.col(c))]
        kicks = [self.fields[colour](theta, 0) for colour in kicked]
        for kick in kicks:
            require_finite(theta, kick, self.scale)
        X = [
            combination([u, *(self.h * float(method.start[i, c]) for c in kicked)], [theta, *kicks])
            for i, u in enumerate(float(u) for u in method.preconsistency)
        ]
        return X if isinstance(theta, torch.Tensor) else np.array(X)

    def step(self, n: int, h: float) -> Any:
        """Apply the method once more; return θ.

        Raises
        ------
        NotFinite
        UnsupportedOptimizer
            If the learning rate changes and the method has no rule for that.
        """
        if self.X is None:
            self.X, self.theta = self._start(self.theta), None
        if h != self.h:
            self._change_rate(h / self.h)
            self.h = h
        F, X = self._listed(n) if isinstance(self.X, list) else self._stacked(n)
        if not all(bool(namespace(x).isfinite(x).all()) for x in ([X] if isinstance(X, np.ndarray) else X)):
            self._diagnose(F, X)
        self.X = X
        return self._row(self.readout[0], X)

    def _stacked(self, n: int) -> tuple[Vector, Vector]:
        X, h, method = self.X, self.h, self.method
        if method.query_order is None:
            F, sweeps = _implicit_gradients(method, self.fields, self.C @ X, h * self.D, n, self.epsilon)
            self.gradients += sweeps * self.queried
        else:
            F = np.zeros((method.query_count, X.shape[1]))
            for i in method.query_order:
                F[i] = self.fields[method.colours[i]](self.C[i] @ X + h * (self.D[i] @ F), n)
            self.gradients += self.queried
        return F, self.A @ X + h * (self.B @ F)

    def _listed(self, n: int) -> tuple[list[Any], list[Any]]:
        F: list[Any] = [None] * self.method.query_count
        for i in self.method.query_order or ():
            F[i] = self.fields[self.method.colours[i]](self._query(i, F), n)
        self.gradients += self.queried
        return F, [self._row(a, self.X, b, F) for a, b in zip(self.A, self.B, strict=True)]

    def _query(self, i: int, F: Any) -> Any:
        done = [j for j in range(len(F)) if self.D[i, j] != 0]
        return self._row(self.C[i], self.X, self.D[i, done], [F[j] for j in done])

    def _row(self, weights: Vector, X: Any, of_fields: Iterable[float] = (), F: Sequence[Any] = ()) -> Any:
        """Σ w_k X_k + h Σ v_j F_j."""
        if isinstance(X, np.ndarray) and not len(F):
            return weights @ X
        return combination([*weights, *(self.h * w for w in of_fields)], [*X, *F])

    def _change_rate(self, factor: float) -> None:
        powers = self.method.step_powers
        if powers is None:
            raise UnsupportedOptimizer(f"{self.method} has no rule for a changing learning rate: give a constant h")
        for x, power in zip(self.X, powers, strict=True):
            if power:
                x *= factor**power

    def _diagnose(self, F: Any, X: Any) -> None:
        """Raise `NotFinite` for the first thing in this step that is not finite."""
        for i in self.method.query_order or range(len(F)):
            require_finite(self._query(i, F), F[i], self.scale)
        raise NotFinite(next(bad for x in X if (bad := first_bad(x)) is not None), gradient=False)


class TorchSteps:
    """torch.optim.SGD on a copy of the problem's module; the arguments are those of `MethodSteps`.

    Examples
    --------
    >>> import modeq as mq
    >>> module, data = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    >>> problem = mq.TorchProblem(module, lambda y, t: ((y - t) ** 2).sum() / 2, data, 0 * data)
    >>> TorchSteps(mq.GradientDescent(), problem, np.array([1.0]), None, h=0.5).step(0, 0.5).tolist()
    [0.5]
    """

    def __init__(
        self, method: GeneralLinearMethod, problem: TorchProblem, theta: Vector, batches: Sequence[Any] | None, h: float
    ) -> None:
        assert method.sgd is not None
        options: dict[str, Any] = {k: v if isinstance(v, bool) else float(v) for k, v in method.sgd.items()}
        self.problem, self.batches, self.gradients = problem, batches, 0
        self.module = problem.torch_module(theta)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(self.parameters, lr=h, **options)
        self.scale = max(1.0, float(np.max(abs(theta), initial=0.0)))
        self.theta = _flat(self.parameters)

    def step(self, n: int, h: float) -> torch.Tensor:
        """Make one step; return θ, or raise `NotFinite`."""
        self.optimizer.param_groups[0]["lr"] = h
        self.optimizer.zero_grad()
        inputs, targets = self.problem.data(self.batches[n % len(self.batches)] if self.batches else None)
        self.problem.loss_function(self.module(inputs), targets).backward()
        self.optimizer.step()
        self.gradients += 1
        theta = _flat(self.parameters)
        bad = first_bad(theta)
        if bad is not None:
            gradient = _flat([torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters])
            require_finite(self.theta, gradient, self.scale)
            raise NotFinite(bad, gradient=False)
        self.theta = theta
        return theta


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _colour_fields(method: GeneralLinearMethod, problem: Problem, batches: Sequence[Any] | None) -> list[StepField]:
    """For each colour a function of θ and the step n."""
    fields = ColourFields(method, problem)

    def seen(colour: int) -> StepField:
        if colour in fields.decay:
            rate = fields.decay[colour]
            return lambda theta, n: -rate * theta
        if batches and len(fields.parts) == 1:
            return lambda theta, n: problem.of_batch(batches[n % len(batches)]).field(theta)
        return lambda theta, n: fields(colour, theta)

    return [seen(colour) for colour in range(method.colour_count)]


def _implicit_gradients(
    method: GeneralLinearMethod, fields: list[StepField], known: Vector, hD: Vector, n: int, epsilon: float
) -> tuple[Vector, int]:
    """Solve y = known + hD f(y) to rounding: by sweeps, and where they do not contract by Newton–Krylov."""
    sweeps = 0

    def evaluate(y: Vector) -> Vector:
        nonlocal sweeps
        sweeps += 1
        return np.array([fields[c](row, n) for c, row in zip(method.colours, y, strict=True)])

    y, change = known, np.inf
    for _ in range(200):
        updated = known + hD @ evaluate(y)
        previous, change = change, float(np.max(abs(updated - y)))
        y = updated
        if change <= 2 * epsilon * np.max(abs(y)) or not change < previous:
            break
    rounding = 500 * epsilon * max(1.0, float(np.max(abs(y)))) if np.all(np.isfinite(y)) else 0.0
    if not change <= rounding:
        try:
            tolerance = max(1e-12, 500 * epsilon)
            y = newton_krylov(lambda y: y - known - hD @ evaluate(y), known, f_tol=tolerance, maxiter=200)
        except (NoConvergence, ValueError) as error:
            raise Diverged(
                f"{method}: the implicit equation of step {n} could not be solved; use a smaller learning rate"
            ) from error
    return evaluate(y), sweeps
