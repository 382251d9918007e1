"""Run the parts of scripts in processes of their own, and keep what they come to."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from tqdm import tqdm

from validation import pictures, training
from validation.claims import Numbers, Script, Setting
from validation.pages import page, save_figure


class Store:
    """The numbers of one script in a folder: NAME.json."""

    def __init__(self, name: str, folder: Path, setting: Setting) -> None:
        self.script: Script = import_module(f"validation.{name}")  # type: ignore[assignment]
        self.name, self.folder, self.setting = name, folder, setting
        self.cases = dict(self.script.cases(setting))
        self._label = {"setting": setting.as_json(), "source": _source(self.script)}
        self.numbers: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        if self._file.exists():
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            if {key: kept.get(key) for key in self._label} == self._label:
                self.numbers = {case: found for case, found in kept["cases"].items() if case in self.cases}
                self.seconds = {case: kept["seconds"][case] for case in self.numbers}
            else:
                tqdm.write(f"{self._file} is of another setting or version, and is made anew", file=sys.stderr)

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.json"

    def missing(self) -> list[str]:
        """Return the parts that are still to be run."""
        return [case for case in self.cases if case not in self.numbers]

    def keep(self, case: str, numbers: Mapping[str, Any], seconds: float) -> None:
        """Take in what one part came to, and write all that there is."""
        self.numbers[case], self.seconds[case] = dict(numbers), round(seconds, 1)
        self._write({})

    def finish(self) -> dict[str, Any]:
        """Judge and draw, when no part is missing."""
        numbers: Numbers = {case: self.numbers[case] for case in self.cases}
        judged = page(self.script, self.script.cells(numbers))
        captions = {}
        for stem, (figure, caption) in self.script.draw(numbers, self.setting).items():
            save_figure(figure, caption, self.folder / f"{stem}.png")
            captions[stem] = caption
        judged |= {"captions": captions, "seconds": sum(self.seconds.values())}
        self._write(judged)
        return judged

    def _write(self, judged: Mapping[str, Any]) -> None:
        content = {**self._label, **judged, "seconds": self.seconds, "cases": self.numbers}
        fresh = self._file.with_suffix(".part")
        fresh.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        fresh.replace(self._file)


def _source(script: Script) -> str:
    """A mark of the texts that numbers come from: those of older ones are not taken over."""
    files = (script.__file__, pictures.__file__, training.__file__)  # type: ignore[attr-defined]
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()[:16]


def run_case(name: str, case: Any, setting: Setting) -> tuple[dict[str, Any], float]:
    """Run one part of a script, in this process, and say how long it took."""
    began = perf_counter()
    found = import_module(f"validation.{name}").measure(case, setting)
    return found, perf_counter() - began


def run(stores: Sequence[Store], jobs: int) -> dict[str, str]:
    """Run what is missing, each part in a process with one thread; return what failed, by part."""
    # Numbers do not depend on how many threads there are, since there is one; forks of torch's threads can hang.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    failed: dict[str, str] = {}
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        waiting: dict[Future[Any], tuple[Store, str]] = {
            pool.submit(run_case, store.name, store.cases[case], store.setting): (store, case)
            for store in stores
            for case in store.missing()
        }
        with tqdm(as_completed(waiting), total=len(waiting), disable=None) as bar:
            try:
                for future in bar:
                    store, case = waiting[future]
                    bar.set_description(store.name)
                    if error := future.exception():
                        failed[f"{store.name}: {case}"] = f"{type(error).__name__}: {error}"
                    else:
                        store.keep(case, *future.result())
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return failed
