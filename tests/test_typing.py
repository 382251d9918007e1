"""What a user's type checker sees of the package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import modeq as mq

# The types of sympy are unknown, and those of torch are left out for speed.
_CONFIGURATION = """
[mypy]
strict = True
follow_imports = silent
[mypy-sympy.*,torch.*]
ignore_missing_imports = True
follow_imports = skip
"""
_PROGRAM = """
from typing import assert_type
import sympy as sp
import torch
import modeq as mq

x = sp.Symbol("x")
method = mq.HeavyBall(momentum=0.9)
equation = mq.modified_equation(method, order=2)
assert_type(equation, mq.ModifiedEquation)
assert_type(equation.method, mq.GeneralLinearMethod)
epoch = mq.Epoch(method, batches=2)
assert_type(mq.modified_equation(epoch, order=2), mq.ModifiedEquation)
assert_type(mq.modified_equation(epoch.expected("reshuffling"), order=2), mq.ExpectedEquation)
problem = mq.SymbolicProblem(x**2 / 2, [x])
assert_type(mq.iterate(method, problem, [1.0], h=0.1, steps=10), mq.Trajectory)
assert_type(mq.flow(equation, problem, [1.0], h=0.1, time=1.0), mq.Trajectory)
assert_type(mq.compare(method, problem, [1.0], h=0.1, steps=10), mq.Comparison)
module = torch.nn.Linear(3, 2)
game = mq.VectorField([x], [x], players=[[x]])
network = mq.TorchProblem(module, torch.nn.functional.mse_loss, torch.ones(1, 3), torch.ones(1, 2))
problems: list[mq.Problem] = [problem, game, network, mq.NumpyProblem(lambda theta: theta, 1)]
optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
charges = mq.find_charges(module, torch.zeros(1, 3), loss="cross_entropy")
assert_type(charges, mq.Charges)
assert_type(mq.track(module, optimizer, charges), mq.Tracker)
assert_type(mq.project(method, "scale", form="time"), mq.ChargeEquation)

mq.modified_equation(method, order="2")  # refused: call-overload
mq.iterate("sgd", problem, [1.0], h=0.1, steps=10)  # refused: arg-type
mq.flow(equation, x**2, [1.0], h=0.1, time="1")  # refused: arg-type
mq.flow(equation, "x**2", [1.0], h=0.1, time=1.0)  # refused: arg-type
mq.flow(equation, problem, [1.0], h=0.1)  # refused: call-arg
mq.track(module, optimizer, ["0.weight"])  # refused: list-item
mq.project(method, "scale", form="space")  # refused: arg-type
mq.modified_equations  # refused: attr-defined
"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """What mypy says of the program, with the type of each public name after it: lines and messages."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("typing")
    names = "".join(f"reveal_type(mq.{name})\n" for name in mq.__all__)
    (folder / "program.py").write_text(_PROGRAM + names, encoding="utf-8")
    (folder / "mypy.ini").write_text(_CONFIGURATION, encoding="utf-8")
    (folder / "modeq").symlink_to(Path(mq.__file__).parent)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-error-summary", "program.py"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = re.findall(r"^program\.py:(\d+): (?:error|note): (.*)$", run.stdout, re.MULTILINE)
    assert found, run.stdout + run.stderr
    return [(int(line), message) for line, message in found]


def test_calls_have_types_and_wrong_arguments_are_refused(reported: list[tuple[int, str]]) -> None:
    lines = _PROGRAM.splitlines()
    wanted = {(n, f"[{line.partition('# refused: ')[2]}]") for n, line in enumerate(lines, 1) if "# refused: " in line}
    assert {(n, said.split()[-1]) for n, said in reported if n <= len(lines) and said.endswith("]")} == wanted


def test_each_public_name_has_a_type(reported: list[tuple[int, str]]) -> None:
    first = len(_PROGRAM.splitlines()) + 1
    types = {mq.__all__[n - first]: said for n, said in reported if n >= first}
    assert types.keys() == set(mq.__all__)
    assert [name for name, said in types.items() if said.endswith('"Any"')] == []
