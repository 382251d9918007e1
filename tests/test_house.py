"""The house itself: one-way imports, a light import, and a public surface that is what it says."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import modeq

ROOT = Path(modeq.__file__).parent
LAYERS = ("errors", "methods", "symbolic", "numeric", "symmetry", "studies", "testing", "cli", "__main__")
# What a layer may import besides the layers before it.
ANYWHERE = {"displays", "plots", "report"}


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def imports(path: Path) -> set[str]:
    """Every module of modeq that a file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "modeq":
            names = [f"modeq.{alias.name}" for alias in node.names] if node.module == "modeq" else [node.module]
            found |= set(names)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "modeq"}
    return found


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_points_back(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for module in imports(path) - {"modeq", "modeq.__version__"}:
        target = layer(module)
        if own in ANYWHERE:
            pytest.fail(f"{own} imports {module}, but must import nothing of modeq")
        if target not in ANYWHERE:
            assert LAYERS.index(target) <= LAYERS.index(own), f"{own} imports {module}"


@pytest.mark.parametrize("name", ["methods", "symbolic"])
def test_the_symbolic_layers_know_no_torch(name):
    for path in (ROOT / name).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        modules |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not {m for m in modules if m.split(".")[0] == "torch"}, path


def test_import_is_light():
    code = (
        "import sys, modeq; print([m for m in ('torch', 'matplotlib', 'sympy', 'scipy', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


METHODS = {name for room, names in modeq._PUBLIC.items() if room.startswith("methods.") for name in names}
FUNCTIONS = {
    "balance", "compare", "count_conservation_laws",
    "damping_regime", "equilibrium",
    "exact_quadratic_flow",
    "find_charges", "flow", "gradient_noise", "verify",
    "iterate", "memoryless_map", "modified_equation", "modifying_equation",
    "observed_order", "phase_space_form", "project", "sample_iterates", "scheduled_equation",
    "scheduled_time_derivative_form", "simulate", "state_space_form", "stochastic_equation", "study", "sweep",
    "time_derivative_form", "track", "trees",
}  # fmt: skip
CLASSES = {
    "AffineSymmetry", "BSeriesField", "BSeriesMap", "Balance", "ChargeEquation", "Charges", "Comparison",
    "DiagonalSymmetry", "Equilibrium",
    "ExpectedEquation", "GeneralLinear", "GradientNoise", "MemorylessMap",
    "ModifiedEquation", "ModifyingEquation", "NumpyProblem", "ObservedOrder", "Paths", "PhaseSpaceForm", "Problem",
    "Rescale", "Rotation",
    "SGDStep", "Scale", "ScheduledEquation", "ScheduledTimeDerivativeForm", "StateSpaceForm", "Status",
    "StochasticEquation", "Study", "Sweep", "SymbolicProblem", "TimeDerivativeForm", "TorchProblem", "Tracker",
    "Trajectory", "Translation", "Tree", "VectorField", "Verification",
}  # fmt: skip
ERRORS = {
    "Diverged", "IllPosed", "InvalidCharge", "InvalidMethod", "InvalidNotation", "InvalidOrder", "InvalidProblem",
    "InvalidSetting", "InvalidSeries", "InvalidTree", "MissingDependency", "ModeqError", "NoClosedLaw",
    "NoTimeDerivativeForm", "NotAGradientFlow", "NotZeroStable", "OutsideSeriesLimit", "SweepFailed",
    "UnsupportedOptimizer",
}  # fmt: skip
MODULES = {"plots", "problems", "testing"}


def test_every_public_name_is_what_it_says():
    assert set(modeq.__all__) == METHODS | FUNCTIONS | CLASSES | ERRORS | MODULES | {"__version__"}
    assert all(inspect.isfunction(getattr(modeq, name)) for name in FUNCTIONS)
    assert [name for name in METHODS if not inspect.isfunction(getattr(modeq, name))] == ["GeneralLinearMethod"]
    assert all(inspect.isclass(getattr(modeq, name)) for name in CLASSES)
    assert all(issubclass(getattr(modeq, name), modeq.ModeqError) for name in ERRORS)
    assert all(inspect.ismodule(getattr(modeq, name)) for name in MODULES)
    assert dir(modeq) == modeq.__all__


def test_every_method_is_in_the_registry():
    """All but those that are made of other methods."""
    registry = (Path(__file__).parent / "registry.py").read_text(encoding="utf-8")
    without = {name for name in METHODS if f"mq.{name}" not in registry}
    assert without == {"Alternating", "Epoch", "Simultaneous", "method_from", "method_from_torch"}


def test_no_public_function_hides_a_module():
    modules = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert not modules & (set(modeq.__all__) - MODULES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Adam'"):
        modeq.Adam  # noqa: B018


@pytest.mark.parametrize("name", sorted(METHODS | FUNCTIONS | CLASSES))
def test_every_public_name_has_a_docstring_with_an_example(name):
    assert ">>> " in (inspect.getdoc(getattr(modeq, name)) or ""), "a public name shows an example"


@pytest.mark.parametrize("name", sorted(ERRORS - {"ModeqError"}))
def test_every_error_derives_from_a_built_in_too(name):
    bases = getattr(modeq, name).__mro__
    assert {ValueError, TypeError, ArithmeticError, ImportError, RuntimeError} & set(bases)


def test_every_file_says_what_it_is_for():
    others = [Path(__file__).parents[1] / folder for folder in ("docs", "tests", "validation")]
    files = [path for folder in (ROOT, *others) for path in folder.rglob("*.py")]
    assert [path for path in files if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []
