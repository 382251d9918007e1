"""modeq: modified equations of optimizers, derived, integrated, and projected on symmetries.

The whole public surface is the table below; each name is imported when it is first used,
so that ``import modeq`` loads neither sympy, scipy, torch nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

_PUBLIC = {
    "errors": (
        "Diverged",
        "IllPosed",
        "InvalidCharge",
        "InvalidMethod",
        "InvalidOrder",
        "InvalidProblem",
        "InvalidTree",
        "MissingDependency",
        "ModeqError",
        "NoClosedLaw",
        "NoTimeDerivativeForm",
        "NotAGradientFlow",
        "NotZeroStable",
        "OutsideSeriesLimit",
        "UnsupportedOptimizer",
    ),
}
_MODULES = ("plots", "testing")
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted([*_HOME, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from modeq.errors import *
