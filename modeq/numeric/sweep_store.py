"""The finished members of a sweep on disk: one pickle each, written beside its place and then moved there."""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modeq.errors import InvalidSetting
from modeq.numeric.checkpoints import fingerprint, write_whole


class Store:
    """A folder with a file for each member of a sweep.

    A file holds what it belongs to, the function's name and a hash of the case, and is taken up for nothing else. A
    case is told from another by what it prints as, and arrays in it by their bytes: of objects with a default
    ``repr`` that holds an address, no two runs agree, and they are computed again.

    Parameters
    ----------
    path : path of a folder, made if it is not there
    function : whose results they are

    Raises
    ------
    InvalidSetting
        If there can be no such folder.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Store(folder, abs).write(0, -1, "done", 1)
    ...     Store(folder, abs).read(0, -1), Store(folder, abs).read(0, -2), Store(folder, hash).read(0, -1)
    ((1,), None, None)
    """

    def __init__(self, path: Any, function: Callable[..., Any]) -> None:
        try:
            self.path = Path(path)
            self.path.mkdir(parents=True, exist_ok=True)
        except (TypeError, OSError) as error:
            raise InvalidSetting(f"checkpoint is {path!r}: it cannot be used as a folder ({error})") from error
        self.function = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"

    def read(self, number: int, case: Any) -> tuple[Any] | None:
        """Return the result of a member in a tuple; None if there is none, or it failed."""
        try:
            with open(self._file(number, case), "rb") as stream:
                kept = pickle.load(stream)
        except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError):
            return None
        same = isinstance(kept, dict) and kept.get("of") == (self.function, _key(case)) and kept.get("kind") == "done"
        return (kept["value"],) if same else None

    def write(self, number: int, case: Any, kind: str, value: Any) -> None:
        """Keep a result, or a failure for the record."""
        try:
            data = pickle.dumps({"of": (self.function, _key(case)), "kind": kind, "value": value})
        except Exception as error:
            raise InvalidSetting(
                f"the result {type(value).__name__} of {self.function} cannot be pickled ({error}), so no checkpoint "
                "can keep it: return numbers, arrays or plain objects"
            ) from error
        target = self._file(number, case)
        try:
            write_whole(target, lambda stream: stream.write(data))
        except OSError as error:
            raise InvalidSetting(
                f"checkpoint {target} cannot be written ({error.strerror}): free the folder"
            ) from error

    def _file(self, number: int, case: Any) -> Path:
        digest = hashlib.sha256(f"{self.function} {_key(case)}".encode()).hexdigest()
        return self.path / f"case-{number:05}-{digest[:12]}.pickle"


def _key(case: Any) -> str:
    """What tells one case from another."""
    values = dict(case) if isinstance(case, Mapping) else {"": case}
    return repr(sorted((str(name), fingerprint(value=value)["value"]) for name, value in values.items()))
