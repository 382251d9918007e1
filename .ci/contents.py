"""Check what a wheel and a source archive hold: ``python .ci/contents.py dist/*``."""

import sys
import tarfile
import zipfile
from pathlib import PurePosixPath

SOURCE = {".py", ".typed"}
WITH_SOURCE = ("tests", "docs", "validation", "modeq")


def main(paths: list[str]) -> None:
    """Stop at the first archive that lacks something or holds too much."""
    if sorted(path.rpartition(".")[2] for path in paths) != ["gz", "whl"]:
        sys.exit(f"{paths}: a wheel and a source archive are expected")
    for path in paths:
        problem = _wheel(path) if path.endswith(".whl") else _source(path)
        if problem:
            sys.exit(f"{path}: {problem}")
        print(path.rpartition("/")[2], "holds what it should")


def _wheel(path: str) -> str | None:
    with zipfile.ZipFile(path) as archive:
        names = [PurePosixPath(name) for name in archive.namelist()]
    strange = [str(name) for name in names if not _expected(name)]
    if strange:
        return f"holds {strange}"
    needed = ("modeq/__init__.py", "modeq/py.typed", "modeq/symbolic/series.py")
    return next((f"lacks {name}" for name in needed if PurePosixPath(name) not in names), None)


def _expected(name: PurePosixPath) -> bool:
    """Whether it is source of the package, or what describes it; no tests, no data."""
    return name.parts[0].endswith(".dist-info") or (name.parts[0] == "modeq" and name.suffix in SOURCE)


def _source(path: str) -> str | None:
    with tarfile.open(path) as archive:
        names = [PurePosixPath(*PurePosixPath(name).parts[1:]) for name in archive.getnames()]
    folders = {name.parts[0] for name in names if len(name.parts) > 1}
    missing = [folder for folder in WITH_SOURCE if folder not in folders]
    return f"lacks {missing}" if missing else None


if __name__ == "__main__":
    main(sys.argv[1:])
