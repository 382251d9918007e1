"""What a long run has finished, on disk: one file for each segment, so that it goes on where it stopped."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from modeq.errors import InvalidProblem

Segment = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A folder with the finished segments of one run.

    Every file is written beside its place and then moved there, so that a run killed at any moment leaves whole
    segments only. A file that is damaged all the same ends what is there: it and those after it are computed again.

    Parameters
    ----------
    path : path of a folder, made if it is not there
    key : mapping of strings
        What the run is; see :func:`fingerprint`. It is kept in ``key.json``, and each segment names it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Checkpoint(folder, {"h": "0.1"}).append(0, y=np.ones(2))
    ...     Checkpoint(folder, {"h": "0.1"}).segments()[0]["y"].tolist()
    [1.0, 1.0]
    """

    path: Path
    key: Mapping[str, str]

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "path", Path(self.path))
        except TypeError as error:
            raise InvalidProblem(f"checkpoint is {self.path!r}: give the path of a folder") from error
        strings = isinstance(self.key, Mapping) and all(
            isinstance(item, str) for pair in self.key.items() for item in pair
        )
        if not strings:
            raise InvalidProblem(f"the key of a checkpoint is {self.key!r}: give a mapping of strings to strings")
        object.__setattr__(self, "key", dict(self.key))

    def including(self, more: Mapping[str, str]) -> "Checkpoint":
        """Return the checkpoint of the same folder with more entries in its key.

        Examples
        --------
        >>> Checkpoint("run", {"h": "0.1"}).including({"time": "2"}).key
        {'h': '0.1', 'time': '2'}
        """
        return Checkpoint(self.path, {**self.key, **more})

    def segments(self) -> list[Segment]:
        """Return the arrays of the segments 0, 1, … up to the first that is missing or damaged.

        Raises
        ------
        InvalidProblem
            If the folder is that of another run, or cannot be used.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Checkpoint(folder, {}).segments()
        []
        """
        self._open()
        found: list[Segment] = []
        while (segment := self._read(len(found))) is not None:
            found.append(segment)
        return found

    def append(self, number: int, **arrays: Any) -> None:
        """Write segment `number` with its arrays; one of that number that is there is replaced.

        Raises
        ------
        InvalidProblem
            If an array is one of objects, or the folder is that of another run or cannot be written to.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Checkpoint(folder, {}).append(0, t=np.arange(3.0), nfev=12)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['key.json', 'segment-00000.npz']
        """
        arrays = {name: np.asarray(value) for name, value in arrays.items()}
        objects = [name for name, value in arrays.items() if value.dtype.hasobject]
        if objects or "key" in arrays:
            raise InvalidProblem(
                f"segment {number} has the arrays {sorted(arrays)}: give numbers, under other names than key"
            )
        self._open()
        self._write(self._file(number), lambda stream: np.savez(stream, key=np.array(self._digest), **arrays))

    @property
    def _digest(self) -> str:
        return hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()

    def _file(self, number: int) -> Path:
        return self.path / f"segment-{number:05}.npz"

    def _open(self) -> None:
        """Make the folder, or see that it is that of this run."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            there = _key_in(self.path / "key.json")
        except OSError as error:
            raise InvalidProblem(
                f"checkpoint is {self.path}: it cannot be used as a folder ({error.strerror})"
            ) from error
        if there is None:  # a new folder, or a damaged key: the segments name their key, too
            text = json.dumps(self.key, indent=1, sort_keys=True) + "\n"
            self._write(self.path / "key.json", lambda stream: stream.write(text.encode()))
        elif there != self.key:
            changed = [name for name in sorted({*there, *self.key}) if there.get(name) != self.key.get(name)]
            shown = "; ".join(
                f"{n} is {_short(there.get(n))} there, {_short(self.key.get(n))} here" for n in changed[:3]
            )
            raise InvalidProblem(
                f"checkpoint {self.path} holds another run: {shown}; give a folder of its own to each run, or delete "
                "this one"
            )

    def _read(self, number: int) -> Segment | None:
        try:
            with open(self._file(number), "rb") as stream, np.load(stream, allow_pickle=False) as stored:
                segment = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError):
            return None
        return segment if str(segment.pop("key", "")) == self._digest else None

    def _write(self, target: Path, write: Callable[[IO[bytes]], Any]) -> None:
        try:
            write_whole(target, write)
        except OSError as error:
            raise InvalidProblem(
                f"checkpoint {target} cannot be written ({error.strerror}): free or change the folder"
            ) from error


def write_whole(target: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file beside its place and move it there: a run killed at any moment leaves it whole or not at all.

    Parameters
    ----------
    target : path of the file
    write : called with a stream of bytes

    Raises
    ------
    OSError

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(Path(folder) / "a", lambda stream: stream.write(b"b"))
    ...     (Path(folder) / "a").read_bytes()
    b'b'
    """
    beside = target.with_suffix(".partial")
    with open(beside, "wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, target)


def fingerprint(**values: Any) -> dict[str, str]:
    """Return a string for each value: a hash of the bytes of an array or a tensor, else what it prints as.

    Examples
    --------
    >>> fingerprint(h=0.1, start=np.zeros(2))
    {'h': '0.1', 'start': 'float64 (2,) 374708fff7719dd5979ec875d56cd228'}
    """
    return {name: _print(value) for name, value in values.items()}


def _print(value: Any) -> str:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"{value.dtype} {value.shape} {digest[:32]}"
    return value if isinstance(value, str) else repr(value)


def _key_in(file: Path) -> dict[str, str] | None:
    """The key that is kept there; None if there is none, or it is damaged."""
    try:
        there = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return there if isinstance(there, dict) else None


def _short(value: str | None) -> str:
    if value is None:
        return "absent"
    return value if len(value) <= 60 else value[:57] + "..."
