"""The errors of modeq: each also derives from the built-in exception that fits it."""

from collections.abc import Iterable
from difflib import get_close_matches


class ModeqError(Exception):
    """Base of every error that modeq raises on purpose."""


class InvalidMethod(ModeqError, ValueError):
    """The coefficients given do not form a method (shape, preconsistency, consistency, range)."""


class NotZeroStable(ModeqError, ValueError):
    """The method is not strictly zero-stable, so it has no slow manifold and no modified equation."""


class InvalidTree(ModeqError, ValueError):
    """A rooted tree was written in a form that is not a tree, or uses a colour the method lacks."""


class InvalidNotation(ModeqError, ValueError):
    """A notation for printing that does not exist."""


class InvalidSeries(ModeqError, ValueError):
    """Two B-series that cannot be combined: of different kinds or fields."""


class InvalidOrder(ModeqError, ValueError):
    """A truncation order that is not a positive integer, or one whose series would not fit in memory."""


class NotAGradientFlow(ModeqError, ValueError):
    """A modified loss was asked for at an order at which the modified field is not a gradient."""


class NoTimeDerivativeForm(ModeqError, ValueError):
    """The method has no form in time derivatives, in phase space or in state space; the message says why."""


class IllPosed(ModeqError, ValueError):
    """A truncated equation is no well-posed initial-value problem."""


class OutsideSeriesLimit(ModeqError, ValueError):
    """The step is beyond the radius inside which the modified vector field means anything."""


class InvalidProblem(ModeqError, ValueError):
    """A loss, field, network, data set or start that cannot be used as given."""


class InvalidSetting(ModeqError, ValueError):
    """A setting that cannot be used, such as a negative learning rate, or a folder that cannot be written."""


class UnsupportedOptimizer(ModeqError, TypeError):
    """An optimizer, or a combination of its options, that modeq has no method or law for."""


class InvalidCharge(ModeqError, ValueError):
    """A charge names a parameter, axis or index that the network does not have."""


class NoClosedLaw(ModeqError, ValueError):
    """No closed law exists for this charge under these hyper-parameters."""


class Diverged(ModeqError, ArithmeticError):
    """An iteration or a flow left the finite numbers; `.trajectory` holds what was computed until then."""

    def __init__(self, message: str, trajectory: object = None) -> None:
        super().__init__(message)
        self.trajectory = trajectory


class SweepFailed(ModeqError, RuntimeError):
    """Some members of a sweep failed; the message names the first, with its traceback."""


class MissingDependency(ModeqError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


def choice(value: object, names: Iterable[str]) -> str:
    """Return the end of a message about a name that there is not: its value, the closest name there is, and all.

    Examples
    --------
    >>> choice("HeavyBall", ["gd", "heavy-ball"])
    "'HeavyBall': did you mean heavy-ball? Choose from gd, heavy-ball"
    >>> choice(3, ["gd", "heavy-ball"])
    '3: choose from gd, heavy-ball'
    """
    known = {name.lower(): name for name in names}
    close = get_close_matches(value.lower(), known, n=1, cutoff=0.65) if isinstance(value, str) else []
    meant = f"did you mean {known[close[0]]}? Choose" if close else "choose"
    return f"{value!r}: {meant} from {', '.join(known.values())}"
