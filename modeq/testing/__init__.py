"""For users' own test suites and for modeq's: assertions, and Hypothesis strategies.

The strategies need Hypothesis, which ``pip install 'modeq[test]'`` brings; the assertions do not. Each name is imported
when it is first used, so that tests of methods and series alone load no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "modeq.testing.assertions": ("assert_conserved", "assert_law", "assert_order"),
    "modeq.testing.strategies": ("methods", "polynomial_losses", "tableaux", "trees"),
    "modeq.testing.random_networks": ("networks", "networks_with_charges"),
    "modeq.symmetry.oracle": ("affine_symmetries", "diagonal_symmetries"),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from modeq.symmetry.oracle import affine_symmetries as affine_symmetries
    from modeq.symmetry.oracle import diagonal_symmetries as diagonal_symmetries
    from modeq.testing.assertions import assert_conserved as assert_conserved
    from modeq.testing.assertions import assert_law as assert_law
    from modeq.testing.assertions import assert_order as assert_order
    from modeq.testing.random_networks import networks as networks
    from modeq.testing.random_networks import networks_with_charges as networks_with_charges
    from modeq.testing.strategies import methods as methods
    from modeq.testing.strategies import polynomial_losses as polynomial_losses
    from modeq.testing.strategies import tableaux as tableaux
    from modeq.testing.strategies import trees as trees
