"""Pickling of what a caller defined: with an error that says what to change."""

import pickle
from typing import Any

from modeq.errors import InvalidProblem


def pickled(value: Any, name: str) -> bytes:
    """Return the bytes that `pickle` makes of an argument called `name`.

    Raises
    ------
    InvalidProblem
        If it cannot be pickled: a lambda, a closure, a module with parametrizations.

    Examples
    --------
    >>> pickle.loads(pickled(max, "loss_function")) is max
    True
    """
    try:
        return pickle.dumps(value)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidProblem(
            f"the {name} {type(value).__name__} cannot be pickled ({reason}): define it at the top level of a module, "
            "by def and not as a lambda or within a function"
        ) from error
