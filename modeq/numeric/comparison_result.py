"""What a comparison found: its table, its figures, and what they rest on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from modeq.displays import Table, Tabular
from modeq.errors import InvalidMethod, InvalidProblem
from modeq.numeric.comparing import CurvatureAlong
from modeq.numeric.entries import Entry, json_ready
from modeq.numeric.protocol import Problem, Vector, loss_of
from modeq.numeric.symbolic_problems import WrittenOut
from modeq.numeric.trajectory import Status, Trajectory


@dataclass(frozen=True, repr=False, eq=False)
class Comparison(Tabular):
    """The optimizers and the laws that were compared with them; see :func:`compare`.

    Attributes
    ----------
    h, steps : learning rate and number of steps
    iterates : the optimizer's own trajectory at the recorded steps, per method
    entries : one :class:`Entry` for each method and law
    problem : what was minimised
    losses, gradient_norms : L and |f| at the recorded iterates, without weight decay, per method; losses are None
        where the problem has none
    curvature : h·λ_max along the iterates and the limits of the method, per method; a game has none

    Examples
    --------
    >>> import modeq as mq, sympy as sp
    >>> x = sp.Symbol("x")
    >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
    >>> result = mq.compare(mq.GradientDescent(), problem, [1.0], h=0.1, steps=10, orders=(1,), forms=["field"])
    >>> [(entry.title, round(entry.error, 4)) for entry in result.entries]
    [('gradient flow', 0.0192)]
    """

    h: float
    steps: int
    iterates: dict[str, Trajectory]
    entries: tuple[Entry, ...]
    problem: Problem
    losses: dict[str, Vector | None] = field(default_factory=dict)
    gradient_norms: dict[str, Vector] = field(default_factory=dict)
    curvature: dict[str, CurvatureAlong] = field(default_factory=dict)

    @property
    def errors(self) -> dict[tuple[str, str, int], float | None]:
        """The largest error of each (method, form, order); None where the law means nothing."""
        return {(entry.method, entry.form, entry.order): entry.error for entry in self.entries}

    @property
    def status(self) -> dict[str, Status]:
        """How the optimizer itself ended, per method."""
        return {method: Status(trajectory.status) for method, trajectory in self.iterates.items()}

    @property
    def best_order(self) -> dict[tuple[str, str], int | None]:
        """The order at which more terms stop helping, per (method, form).

        The first order whose next larger one that was computed has no smaller error, or no flow; the largest if each
        helps; None if none has a flow.
        """
        found: dict[tuple[str, str], dict[int, float | None]] = {}
        for entry in self.entries:
            found.setdefault((entry.method, entry.form), {})[entry.order] = entry.error
        return {law: _best(errors) for law, errors in found.items()}

    @property
    def flags(self) -> dict[str, list[str]]:
        """Where h·λ_max reaches a limit on the way, a sentence each, per method."""
        return {method: along.flags() for method, along in self.curvature.items()}

    def table(self) -> str:
        """Return the errors as a text table, with a few words in place of an error where a law has none.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x = sp.Symbol("x")
        >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
        >>> result = mq.compare(mq.GradientDescent(), problem, [1.0], h=0.1, steps=10, orders=(1, 2), forms=["field"])
        >>> print(result.table())
        GradientDescent(), h = 0.1, 10 steps: largest error over all steps, over their second half
          gradient flow                          1.92e-02  1.92e-02
          vector field, order 2                  1.26e-03  1.26e-03
        """
        return super().table()

    def _tables(self) -> list[Table]:
        return [self._table(method, iterates) for method, iterates in self.iterates.items()]

    def _table(self, method: str, iterates: Trajectory) -> Table:
        rows = []
        for entry in self.entries:
            if entry.method == method:
                failed = entry.error is None
                cells = [entry.note] if failed else [f"{entry.error:.2e}", f"{entry.late_error:.2e}"]
                rows.append((entry.title, *cells))
        notes = [] if iterates.success else [f"the optimizer itself: {iterates.message}"]
        said = f"{method}, h = {self.h:g}, {self.steps} steps: largest error over all steps, over their second half"
        return Table((), rows, said, notes)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the parameters, ready for JSON.

        Examples
        --------
        >>> import modeq as mq, sympy as sp
        >>> x = sp.Symbol("x")
        >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
        >>> result = mq.compare(mq.GradientDescent(), problem, [1.0], h=0.1, steps=10, orders=(1, 2), forms=["field"])
        >>> result.to_dict()["methods"]["GradientDescent()"]["best_order"]
        {'field': 2}
        """
        methods = {}
        for method, iterates in self.iterates.items():
            along = self.curvature.get(method)
            methods[method] = {
                "status": self.status[method].name,
                "message": iterates.message,
                "recorded_steps": np.round(iterates.t / self.h).astype(int).tolist(),
                "losses": json_ready(self.losses.get(method)),
                "gradient_norms": json_ready(self.gradient_norms.get(method)),
                "curvature": None if along is None else {k: json_ready(v) for k, v in vars(along).items()},
                "flags": self.flags.get(method, []),
                "best_order": {form: order for (name, form), order in self.best_order.items() if name == method},
            }
        entries = [entry.to_dict() for entry in self.entries]
        written = self.problem.description if isinstance(self.problem, WrittenOut) else repr(self.problem)
        return {"problem": written, "h": self.h, "steps": self.steps, "methods": methods, "entries": entries}

    def plot(self, ax: Any = None, method: Any = None, **kwargs: Any) -> list[Any]:
        """Plot error against step, one line for each law, of all methods or of one; return the artists.

        Parameters
        ----------
        ax : matplotlib axes, optional
        method : which, or how it prints; all by default
        **kwargs : passed to ``Axes.plot``

        Examples
        --------
        >>> import matplotlib, modeq as mq, sympy as sp
        >>> matplotlib.use("agg")
        >>> x = sp.Symbol("x")
        >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
        >>> result = mq.compare(mq.GradientDescent(), problem, [1.0], h=0.1, steps=9, orders=(1,), forms=["field"])
        >>> len(result.plot())
        1
        """
        from modeq import plots

        chosen = self._chosen(method)
        curves = {
            _label(e.method, e.title, chosen): e.errors
            for e in self.entries
            if e.method in chosen and e.errors is not None
        }
        return plots.plot_errors(curves, ax=ax, steps=self._steps(), **kwargs)

    def plot_losses(self, ax: Any = None, method: Any = None, **kwargs: Any) -> list[Any]:
        """Plot the loss against the step, the optimizer's as dots and the flows' as lines, of all methods or of one.

        Parameters
        ----------
        ax : matplotlib axes, optional
        method : which, or how it prints; all by default
        **kwargs : passed to ``Axes.plot``

        Examples
        --------
        >>> import matplotlib, modeq as mq, sympy as sp
        >>> matplotlib.use("agg")
        >>> x = sp.Symbol("x")
        >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
        >>> result = mq.compare(mq.GradientDescent(), problem, [1.0], h=0.1, steps=9, orders=(1,), forms=["field"])
        >>> len(result.plot_losses())
        2
        """
        from modeq import plots

        chosen = self._chosen(method)
        if all(self.losses[name] is None for name in chosen):
            raise InvalidProblem(f"{self.problem!r} has no loss to plot: see gradient_norms")
        flows = {
            _label(e.method, e.title, chosen): e.losses
            for e in self.entries
            if e.method in chosen and e.losses is not None
        }
        dots = {_label(name, "optimizer", chosen): self.losses[name] for name in chosen}
        return plots.plot_losses(flows, points=dots, steps=self._steps(), ax=ax, **kwargs)

    def plot_curvature(self, ax: Any = None, method: Any = None, **kwargs: Any) -> list[Any]:
        """Plot h·λ_max against the step with the limits as horizontal lines, of all methods or of one.

        Parameters
        ----------
        ax : matplotlib axes, optional
        method : which, or how it prints; all by default
        **kwargs : passed to ``Axes.plot``

        Examples
        --------
        >>> import matplotlib, modeq as mq, sympy as sp
        >>> matplotlib.use("agg")
        >>> x = sp.Symbol("x")
        >>> problem = mq.SymbolicProblem(x**2 / 2, [x])
        >>> result = mq.compare(mq.GradientDescent(), problem, [1.0], h=0.1, steps=9, orders=(1,), forms=["field"])
        >>> len(result.plot_curvature())
        3
        """
        from modeq import plots

        measured = {name: self.curvature[name] for name in self._chosen(method) if name in self.curvature}
        if not measured:
            raise InvalidProblem("no curvature was measured: give curvature_points, and methods that are no games")
        curves = {name: (along.steps, along.values) for name, along in measured.items()}
        limits = {
            f"{kind} limit" + ("" if len(curves) == 1 else f", {name},"): getattr(along, f"{kind}_limit")
            for name, along in measured.items()
            for kind in ("series", "stability")
        }
        return plots.plot_curvature(curves, limits, ax=ax, **kwargs)

    def plot_plane(self, ax: Any = None, method: Any = None, **kwargs: Any) -> list[Any]:
        """Plot the trajectories of one method on the contours of a loss of two parameters.

        Parameters
        ----------
        ax : matplotlib axes, optional
        method : which, or how it prints; the first by default
        **kwargs : passed to ``Axes.plot`` for the flows
        """
        from modeq import plots

        name = self._chosen(method)[0]
        points = self.iterates[name].y
        if points.shape[1] != 2:
            raise InvalidProblem(
                f"{self.problem!r} has {points.shape[1]} parameters: a plane has two, take plot or plot_losses"
            )
        curves = {e.title: e.trajectory.y for e in self.entries if e.method == name and e.trajectory is not None}
        surface = _surface(self.problem, np.vstack([points, *curves.values()]))
        labels = (self.problem.label(0), self.problem.label(1))
        return plots.plot_plane(curves, points=points, ax=ax, surface=surface, labels=labels, **kwargs)

    def _chosen(self, method: Any) -> list[str]:
        """The names of one method, or of all."""
        if method is not None and str(method) not in self.iterates:
            raise InvalidMethod(f"method is {str(method)!r}: give one of {list(self.iterates)}")
        return list(self.iterates) if method is None else [str(method)]

    def _steps(self) -> Vector:
        """The recorded steps of the optimizer that went farthest."""
        longest = max((trajectory.t for trajectory in self.iterates.values()), key=len)
        return np.round(longest / self.h)

    def __repr__(self) -> str:
        return f"Comparison({len(self.iterates)} method(s), {len(self.entries)} laws, h={self.h:g}, steps={self.steps})"


def _label(method: str, title: str, chosen: list[str]) -> str:
    return title if len(chosen) == 1 else f"{method}: {title}"


def _best(errors: Mapping[int, float | None]) -> int | None:
    orders = sorted(errors)
    for order, following in pairwise(orders):
        error, finer = errors[order], errors[following]
        if error is not None and (finer is None or not finer < error):
            return order
    return orders[-1] if errors[orders[-1]] is not None else None


def _surface(problem: Problem, points: Vector) -> tuple[Vector, Vector, Vector] | None:
    """The loss on a grid around some points; None if there is no loss."""
    loss = loss_of(problem)
    if loss is None:
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.15 * max(high - low) or 1.0
    x, y = (np.linspace(a - margin, b + margin, 60) for a, b in zip(low, high, strict=True))
    X, Y = np.meshgrid(x, y)
    with np.errstate(over="ignore", invalid="ignore"):
        values = [float(loss(np.array(point))) for point in zip(X.ravel(), Y.ravel(), strict=True)]
    return X, Y, np.reshape(values, X.shape)
