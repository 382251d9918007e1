"""Every law is a Hypothesis property that holds, and fails when the source is wrong in one place."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test
from numbered_laws import LAWS

import modeq

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PACKAGE = Path(modeq.__file__).parent
SPENT = 120  # seconds, for one law


def test_laws_are_properties_and_every_property_of_this_folder_is_a_law():
    tests = [law.test for law in LAWS]
    assert len(set(tests)) == len(tests) >= 40
    for test in tests:
        file, name = test.split("::")
        source = (ROOT / file).read_text(encoding="utf-8").split(f"\ndef {name}(")
        assert len(source) == 2, f"there is no test {test}"
        assert "@given(" in source[0].rpartition("\n\n\n")[2], f"{test} is no Hypothesis property"
    for path in HERE.glob("test_laws_*.py"):
        functions = vars(import_module(path.stem)).items()
        properties = {f"tests/symbolic/laws/{path.name}::{name}" for name, f in functions if is_hypothesis_test(f)}
        assert properties == {test for test in tests if path.name in test}


@pytest.mark.parametrize("number", range(1, len(LAWS) + 1))
def test_a_mutation_has_its_place(number):
    law = LAWS[number - 1]
    found = (PACKAGE / law.file).read_text(encoding="utf-8").count(law.text)
    assert found == 1, f"mutation of law {number}: text found {found} times, not once, in modeq/{law.file}: {law.text}"


def run(copy, tests):
    """Whether the tests pass on the copy, and the last lines of the report; without the house's conftest and torch."""
    path = os.pathsep.join([str(copy), str(copy / "tests" / HERE.relative_to(ROOT / "tests"))])
    options = [
        "--noconftest",
        "-p",
        "without_shrinking",
        "--hypothesis-profile",
        "without shrinking",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",  # under several workers -x interrupts, which is no verdict
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", *options, *tests]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=SPENT * len(tests)
    )
    assert done.returncode in (0, 1), f"no test was run: {done.stdout}\n{done.stderr}"
    return done.returncode == 0, "\n".join(done.stdout.splitlines()[-3:])


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package and of its tests."""
    folder = tmp_path_factory.mktemp("mutated")
    shutil.copytree(PACKAGE, folder / "modeq", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.slow
def test_without_mutation_every_law_holds(copy):
    holds, report = run(copy, [law.test for law in LAWS])
    assert holds, report


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, len(LAWS) + 1))
def test_a_mutation_breaks_the_law(copy, number):
    law = LAWS[number - 1]
    path = copy / "modeq" / law.file
    source = path.read_text(encoding="utf-8")
    path.write_text(source.replace(law.text, law.replacement), encoding="utf-8")
    try:
        holds, _ = run(copy, [law.test])
    finally:
        path.write_text(source, encoding="utf-8")
    assert not holds, f"law {number}, {law.test}, goes on to hold with {law.replacement!r} for {law.text!r}"
