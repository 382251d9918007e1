"""One function at many settings, in any executor, kept on disk, with the failures recorded."""

import pickle
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future, as_completed
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from modeq.displays import Table, Tabular, cut
from modeq.errors import InvalidSetting, SweepFailed
from modeq.numeric.sweep_store import Store


@dataclass(frozen=True)
class Failure:
    """Why one member of a sweep has no result.

    Attributes
    ----------
    kind : the name of the exception's class
    message : its message
    traceback : where it was raised, as text

    Examples
    --------
    >>> Failure("ValueError", "no root", "Traceback ...").kind
    'ValueError'
    """

    kind: str
    message: str
    traceback: str = field(repr=False)


@dataclass(frozen=True, repr=False, eq=False)
class Sweep(Tabular):
    """What a function returned at each case; see :func:`sweep`.

    Attributes
    ----------
    cases : as they were given
    results : one for each case, in their order; None for one that failed or was not reached
    failures : by the number of the case
    interrupted : whether the sweep was stopped before it had tried every case

    Examples
    --------
    >>> found = sweep(lambda h: 1 / h, [{"h": 2.0}, {"h": 0}], progress=False)
    >>> found.results, found.failures[1].kind
    ([0.5, None], 'ZeroDivisionError')
    """

    cases: tuple[Any, ...]
    results: list[Any]
    failures: dict[int, Failure]
    interrupted: bool = False

    def table(self) -> str:
        """Return a text table with one line for each case.

        Examples
        --------
        >>> print(sweep(lambda h: 1 / h, [{"h": 2.0}, {"h": 0}], progress=False).table())
        h=2.0  0.5
        h=0    failed: ZeroDivisionError: division by zero
        """
        return super().table()

    def _tables(self) -> list[Table]:
        return [Table((), [(_label(case), self._shown(number)) for number, case in enumerate(self.cases)])]

    def _shown(self, number: int) -> str:
        failed = self.failures.get(number)
        return cut(repr(self.results[number]) if failed is None else f"failed: {failed.kind}: {failed.message}", 300)

    def raise_failures(self) -> "Sweep":
        """Return the sweep, or raise `SweepFailed` if a member failed.

        Examples
        --------
        >>> sweep(abs, [-1], progress=False).raise_failures().results
        [1]
        """
        if self.failures:
            number, first = min(self.failures.items())
            raise SweepFailed(
                f"{len(self.failures)} of {len(self.cases)} members failed, the first at {_label(self.cases[number])}: "
                f"{first.kind}: {first.message}\n{first.traceback}"
            )
        return self

    def __repr__(self) -> str:
        stopped = ", interrupted" if self.interrupted else ""
        return f"Sweep({len(self.cases)} cases, {len(self.failures)} failed{stopped})"


def sweep(
    function: Callable[..., Any],
    cases: Sequence[Any],
    *,
    executor: Any = None,
    checkpoint: Any = None,
    progress: bool = True,
) -> Sweep:
    """Call a function at each of many cases, and keep what it returns.

    A member that fails is recorded, and the rest goes on. An interruption by the keyboard ends the sweep with what is
    finished.

    Parameters
    ----------
    function : of the case
        For a process pool one that can be pickled: defined at the top of a module.
    cases : sequence
        Mappings are keyword arguments, anything else is the one argument.
    executor : an executor in the manner of ``concurrent.futures``, optional
        Anything with ``submit``: a thread or process pool, dask's client, mpi4py's pool. One case after the other in
        this process by default.
    checkpoint : path of a folder, optional
        Where each result is kept, pickled, when it is finished. A later call with the same function takes it up for
        the same case at the same place; members that failed are tried again. Load none that you do not trust.
    progress : bool
        Whether to show progress on stderr, if that is a terminal.

    Returns
    -------
    Sweep
        In the order of the cases, whatever the executor.

    Raises
    ------
    InvalidSetting
        If the arguments are none of these, or the function or a case cannot be sent to another process.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     sweep(pow, [2, 3], executor=pool, progress=False).failures[0].kind
    'TypeError'
    >>> sweep(lambda h, beta: h / (1 - beta), [{"h": 0.1, "beta": 0.5}], progress=False).results
    [0.2]
    """
    chosen = _checked(function, cases, executor)
    store = None if checkpoint is None else Store(checkpoint, function)
    found = Sweep(chosen, [None] * len(chosen), {})
    left = []
    for number, case in enumerate(chosen):
        kept = None if store is None else store.read(number, case)
        if kept is None:
            left.append(number)
        else:
            found.results[number] = kept[0]
    bar = tqdm(total=len(chosen), initial=len(chosen) - len(left), desc="sweep", disable=None if progress else True)
    outcomes = _in_turn(function, chosen, left) if executor is None else _submitted(executor, function, chosen, left)
    with bar:
        try:
            for number, outcome in outcomes:
                _record(found, store, number, outcome)
                bar.update()
        except KeyboardInterrupt:
            return Sweep(found.cases, found.results, found.failures, interrupted=True)
        finally:
            outcomes.close()
    return found


def _checked(function: Any, cases: Any, executor: Any) -> tuple[Any, ...]:
    if not callable(function):
        raise InvalidSetting(f"function is {function!r}: give a function of one case")
    if isinstance(cases, str | Mapping) or not hasattr(cases, "__iter__"):
        raise InvalidSetting(f"cases is {cases!r}: give a sequence of them, such as [{{'h': 0.1}}, {{'h': 0.05}}]")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise InvalidSetting(
            f"executor is {executor!r}: give one with submit, such as concurrent.futures.ProcessPoolExecutor()"
        )
    chosen = tuple(cases)
    for number, case in enumerate(chosen):
        if isinstance(case, Mapping) and not all(isinstance(name, str) for name in case):
            raise InvalidSetting(f"cases[{number}] is {case!r}: its keys are keyword arguments, give strings")
    return chosen


Outcome = tuple[str, Any]  # ("done", result), ("failed", Failure)
Outcomes = Generator[tuple[int, Outcome], None, None]


def _member(function: Callable[..., Any], case: Any) -> Outcome:
    """Call the function; what it raises becomes a value that any executor can carry."""
    try:
        return "done", function(**case) if isinstance(case, Mapping) else function(case)
    except (Exception, SystemExit) as error:
        return "failed", _failure(error)


def _failure(error: BaseException) -> Failure:
    return Failure(type(error).__name__, str(error), "".join(traceback.format_exception(error)))


def _in_turn(function: Callable[..., Any], cases: Sequence[Any], left: Sequence[int]) -> Outcomes:
    for number in left:
        yield number, _member(function, cases[number])


def _submitted(executor: Any, function: Callable[..., Any], cases: Sequence[Any], left: Sequence[int]) -> Outcomes:
    """The outcomes as they finish; those that have not begun are cancelled if nobody waits for them any more."""
    futures: dict[Any, int] = {}
    try:
        for number in left:
            try:
                futures[_submit(executor, function, cases[number])] = number
            except BrokenExecutor as error:  # a worker died while work was still handed out
                yield number, ("failed", _failure(error))
        for future in _finished(futures):
            yield futures[future], _outcome(future, function, cases[futures[future]])
    finally:
        for future in futures:
            if hasattr(future, "cancel"):
                future.cancel()


def _submit(executor: Any, function: Callable[..., Any], case: Any) -> Any:
    try:
        return executor.submit(_member, function, case)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise _unpicklable(function, case, error) from error
    except BrokenExecutor:
        raise
    except RuntimeError as error:
        raise InvalidSetting(f"executor {executor!r} takes no work ({error}): give one that is running") from error


def _finished(futures: Mapping[Any, int]) -> Iterator[Any]:
    if all(isinstance(future, Future) for future in futures):
        yield from as_completed(futures)
    else:  # futures of another kind have a result() that waits, and no more is asked of them
        yield from futures


def _outcome(future: Any, function: Callable[..., Any], case: Any) -> Outcome:
    try:
        return future.result()
    except (Exception, CancelledError) as error:
        # Members return what they raise: this is the executor's own. A process pool pickles behind submit.
        try:
            pickle.dumps((function, case))
        except Exception as reason:
            raise _unpicklable(function, case, reason) from error
        return "failed", _failure(error)


def _unpicklable(function: Any, case: Any, error: Exception) -> InvalidSetting:
    return InvalidSetting(
        f"{function!r} or its case {_label(case)} cannot be sent to another process ({error}): define the function at "
        "the top of a module and give plain values, or use a thread pool"
    )


def _record(found: Sweep, store: Store | None, number: int, outcome: Outcome) -> None:
    kind, value = outcome
    if kind == "failed":
        found.failures[number] = value
    else:
        found.results[number] = value
    if store is not None:
        store.write(number, found.cases[number], kind, value)


def _label(case: Any) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in case.items()) if isinstance(case, Mapping) else repr(case)
