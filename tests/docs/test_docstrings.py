"""Every public name says what it computes, from what, in which shapes and units, what it refuses, and after whom."""

import builtins
import dataclasses
import inspect
import re
from functools import cached_property
from importlib import import_module
from pathlib import Path

import modeq
from modeq import errors

ROOT = Path(modeq.__file__).parent
DOCS = Path(__file__).parents[2] / "docs"

# What a function returns has the source of the function.
RESULTS = {
    "Balance": "balance", "ChargeEquation": "project", "Charges": "find_charges", "Comparison": "compare",
    "Equilibrium": "equilibrium", "ExpectedEquation": "modified_equation", "GradientNoise": "gradient_noise",
    "MemorylessMap": "memoryless_map", "ModifiedEquation": "modified_equation",
    "ModifyingEquation": "modifying_equation", "ObservedOrder": "observed_order", "Paths": "simulate",
    "PhaseSpaceForm": "phase_space_form", "ScheduledEquation": "scheduled_equation",
    "ScheduledTimeDerivativeForm": "scheduled_time_derivative_form", "StateSpaceForm": "state_space_form",
    "StochasticEquation": "stochastic_equation", "Study": "study", "Sweep": "sweep",
    "TimeDerivativeForm": "time_derivative_form", "Tracker": "track", "Trajectory": "flow",
    "Verification": "verify",
}  # fmt: skip
# Names that stand for no result of the literature, and why.
WITHOUT_SOURCE = {
    "method_from": "reads an update rule",
    "method_from_torch": "reads the options of an optimizer",
    "iterate": "runs the optimizer itself",
    "sample_iterates": "runs the optimizer itself",
    "compare": "puts runs and flows side by side",
    "observed_order": "fits slopes to errors",
    "sweep": "calls a function many times",
    "track": "measures; the laws are those of its charges",
    "scheduled_equation": "derived in its notes",
    "scheduled_time_derivative_form": "derived in its notes",
    "Problem": "a protocol",
    "SymbolicProblem": "holds what a user wrote",
    "VectorField": "holds what a user wrote",
    "NumpyProblem": "holds what a user wrote",
    "TorchProblem": "holds what a user wrote",
    "SGDStep": "holds hyper-parameters",
    "Status": "names outcomes",
}
# Methods by which the parts of modeq speak with one another: they are documented, and need no example.
INNER = {
    "GeneralLinearMethod": {"require_numbers", "require_zero_stable"},
    "BSeries": {"of", "resolved", "draws", "averaged"},
    "ExpectedEquation": {"derived", "require_numbers"},
    "TimeDerivativeForm": {"require_well_posed"},
    "Problem": {"native", "checked_batches", "of_batch"},
    "TorchProblem": {"named", "data", "torch_module", "flat_parameters", "loss_tensor"},
    "Charge": {
        "conserved", "normaliser", "generator_norm", "moved", "moved_slope", "acted", "drawn", "owners", "norm",
        "require_law",
    },
    "Matrices": {"layout", "combined", "sides"},
    "AffineSymmetry": {"count", "form", "lengths", "pairing"},
    "Rotation": {"sizes"},
    "Tracker": {"to_xarray"},
    "Study": {"save"},
}  # fmt: skip

NAMES = [name for module, names in modeq._PUBLIC.items() if module != "errors" for name in names]
OBJECTS = {name: getattr(modeq, name) for name in NAMES}
FUNCTIONS = sorted(name for name in NAMES if inspect.isfunction(OBJECTS[name]))
CLASSES = sorted(set(NAMES) - set(FUNCTIONS))
CONSTRUCTED = sorted(set(CLASSES) - set(RESULTS) - {"BSeriesField", "BSeriesMap", "Problem", "Status"})
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]
    if "generated" not in path.parts
}
UNITS = {"h": "learning rate", "lr": "learning rate", "step_sizes": "learning rate", "time": "h·n"}
ARRAY = re.compile(r"\b(arrays?|tensors?|matrix|matrices)\b")
SHAPE = re.compile(r"×|\bshaped?\b|\baxis\b|\baxes\b|\blength\b|\([\w −-]+,[\w −,-]*\)|\[\w[\w, ]*\]")
SAME = re.compile(r"\bas (?:in|for) (?::\w+:)?`~?([\w.]+)`")
ROLE = re.compile(r":(?:func|class|meth|attr|mod):`~?([\w.]+)`")
ARXIV = re.compile(r"\b\d{4}\.\d{5}\b|(?<=arXiv )\d{4}\.\d{4}\b")
CITED = re.compile(r"\b((?:[A-ZÀ-Þ][\w’'-]+,? )+)(?:et al\. )?\(?((?:18|19|20)\d\d)\b")


def sections(doc):
    """The sections of a numpydoc docstring by their headings; what stands before the first is under ""."""
    found, heading = {"": []}, ""
    lines = inspect.cleandoc(doc or "").splitlines()
    for line, below in zip(lines, [*lines, ""][1:], strict=True):
        if line and re.fullmatch(r"-{3,}", below):
            heading = line
            found[heading] = []
        elif not re.fullmatch(r"-{3,}", line):
            found[heading].append(line)
    return {heading: "\n".join(lines).strip("\n") for heading, lines in found.items()}


def entries(section):
    """What a section says of each name: ``a, b : type`` with the indented lines below stands for both."""
    found, names = {}, []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            names = [name.strip(" *") for name in line.split(" : ")[0].split(",")]
            found |= dict.fromkeys(names, "")
        found |= {name: f"{found[name]}{line}\n" for name in names}
    return found


def test_sections_and_grouped_entries_are_read():
    doc = "Return x.\n\nParameters\n----------\na, *b : int\n    Both.\nc\n\nReturns\n-------\nint\n"
    found = sections(doc)
    assert found == {"": "Return x.", "Parameters": "a, *b : int\n    Both.\nc", "Returns": "int"}
    assert entries(found["Parameters"]) == {
        "a": "a, *b : int\n    Both.\n",
        "b": "a, *b : int\n    Both.\n",
        "c": "c\n",
    }


def members():
    """The public methods and properties of public classes by their paths, inherited ones once; and their classes."""
    found = {}
    for cls in {base for name in CLASSES for base in OBJECTS[name].__mro__ if base.__module__.startswith("modeq")}:
        for name, value in vars(cls).items():
            plain = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            known = inspect.isfunction(plain) or isinstance(plain, (property, cached_property))
            if known and not name.startswith("_"):
                found[f"{cls.__module__}.{cls.__qualname__}.{name}"] = plain, cls
    return found


MEMBERS = members()
METHODS = {path: found for path, found in MEMBERS.items() if inspect.isfunction(found[0])}
TOOLS = {
    f"{module.__name__}.{name}": thing
    for module in (modeq.problems, modeq.plots, modeq.testing)
    for name, thing in ((name, getattr(module, name)) for name in dir(module))
    if inspect.isfunction(thing) and f"{thing.__module__}.".startswith(f"{module.__name__}.") and name[0] != "_"
}
DOCUMENTED = OBJECTS | TOOLS | {path: member for path, (member, _) in MEMBERS.items()}


def section(name, heading):
    return sections(inspect.getdoc(DOCUMENTED[name])).get(heading, "")


def parameters(function):
    return set(inspect.signature(function).parameters) - {"self", "cls"}


def ancestors(cls):
    """The classes of modeq that a class is made of, and the protocol that the problems share."""
    found = [base for base in cls.__mro__ if base.__module__.startswith("modeq")]
    return [*found, modeq.Problem] if hasattr(cls, "checked_batches") else found


def examples(text):
    return "\n".join(re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", text, re.MULTILINE))


def resolved(target, home):
    """What a docstring calls so: by its path in modeq, or from the module or class where the docstring stands."""
    parts = home.split(".")
    nearby = [".".join([*parts[:k], target]) for k in range(1, len(parts) + 1)]
    for path in [f"modeq.{target.removeprefix('modeq.')}", *nearby]:
        names = path.split(".")
        for cut in range(len(names), 0, -1):
            try:
                found = import_module(".".join(names[:cut]))
                for name in names[cut:]:
                    found = getattr(found, name)
                return found
            except (ImportError, AttributeError):
                continue
    return None


def home(name):
    thing = DOCUMENTED[name]
    return name.rpartition(".")[0] if name in MEMBERS else f"{thing.__module__}.{thing.__qualname__}"


def told(doc, parameter, where):
    """What a docstring says of a parameter, with what it refers to for it."""
    found = sections(doc)
    text = entries(found.get("Attributes", "") + "\n" + found.get("Parameters", "")).get(parameter, "")
    return text + "".join(
        told(inspect.getdoc(resolved(target, where)), parameter, where) for target in SAME.findall(text)
    )


def test_every_docstring_begins_with_a_sentence():
    first = {name: sections(inspect.getdoc(thing))[""].partition("\n\n")[0] for name, thing in DOCUMENTED.items()}
    assert {name: text for name, text in first.items() if not text.endswith(".")} == {}


def test_functions_say_what_they_take_return_refuse_and_show():
    for name in FUNCTIONS:
        assert set(entries(section(name, "Parameters"))) == parameters(OBJECTS[name]), name
        assert section(name, "Returns"), name
        assert section(name, "Raises") or not parameters(OBJECTS[name]), name
        assert ">>> " in section(name, "Examples"), name


def test_problems_and_plots_say_what_they_take_and_show():
    assert len(TOOLS) > 20
    for name, function in TOOLS.items():
        listed = entries(section(name, "Parameters"))
        silent = {parameter for parameter in parameters(function) if parameter not in listed}
        assert {parameter for parameter in silent if f"`{parameter}`" not in inspect.getdoc(function)} == set(), name
        assert ">>> " in section(name, "Examples"), name


def test_classes_that_users_construct_say_what_they_take_refuse_and_show():
    for name in CONSTRUCTED:
        assert set(entries(section(name, "Parameters"))) == parameters(OBJECTS[name]), name
        assert section(name, "Raises"), name
        assert ">>> " in section(name, "Examples"), name


def test_results_document_their_fields_and_are_named_by_the_function_that_returns_them():
    for name in sorted(set(CLASSES) - set(CONSTRUCTED)):
        cls = OBJECTS[name]
        fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
        listed = {
            entry for base in cls.__mro__ for entry in entries(sections(base.__doc__ or "").get("Attributes", ""))
        }
        assert {field for field in fields if not field.startswith("_")} <= listed, name
        assert ">>> " in section(name, "Examples"), name
        assert name not in RESULTS or name in section(RESULTS[name], "Returns"), name


def test_methods_say_what_they_take():
    """In their parameters, or by name in backticks; or where a method that they override, or their class, does."""
    silent = {}
    for path, (method, cls) in METHODS.items():
        said = [thing for base in ancestors(cls) for thing in (base, getattr(base, method.__name__, None))]
        docs = [inspect.getdoc(thing) or "" for thing in said]
        listed = {name for doc in docs for name in entries(sections(doc).get("Parameters", ""))}
        missing = {name for name in parameters(method) - listed if f"`{name}`" not in " ".join(docs)}
        silent |= {path: missing} if missing else {}
    assert silent == {}


def test_methods_are_shown_at_work():
    """In an example of their own, of their class, of one that it is made of or that is made of it, or on a page."""
    pages, unseen = examples("\n".join(PAGES.values())), []
    for path, (method, cls) in METHODS.items():
        if not any(method.__name__ in INNER.get(base.__name__, ()) for base in ancestors(cls)):
            family = [cls, *ancestors(cls), *(OBJECTS[name] for name in CLASSES if cls in OBJECTS[name].__mro__)]
            docs = [method.__doc__ or "", *(base.__doc__ or "" for base in family)]
            if not re.search(rf"\b{method.__name__}\(", examples("\n".join(docs)) + pages):
                unseen.append(path)
    assert unseen == []


def test_rates_and_times_have_their_units():
    without = []
    for name, thing in DOCUMENTED.items():
        taken = {} if isinstance(thing, (property, cached_property)) else inspect.signature(thing).parameters
        for parameter in UNITS.keys() & set(taken):
            if UNITS[parameter] not in told(inspect.getdoc(thing), parameter, home(name)).lower():
                without.append((name, parameter))
    assert without == []


def test_arrays_have_their_shapes():
    without = []
    for name in DOCUMENTED:
        for heading in ("Parameters", "Attributes", "Returns"):
            for entry, text in entries(section(name, heading)).items():
                if ARRAY.search(text.partition("\n")[0]) and not SHAPE.search(text):
                    without.append((name, entry))
    assert without == []


def test_results_of_the_literature_have_their_source():
    assert set(WITHOUT_SOURCE) <= set(NAMES) - set(RESULTS)
    named = {name: inspect.getdoc(OBJECTS[name]) for name in set(NAMES) - set(RESULTS) - set(WITHOUT_SOURCE)}
    assert {name for name, doc in named.items() if not re.search(r"\bSources?\b[^:.]*:|arXiv", doc)} == set()


def test_the_errors_and_names_that_docstrings_refer_to_exist():
    broken = {}
    for name, thing in DOCUMENTED.items():
        doc = inspect.getdoc(thing)
        raised = set(entries(section(name, "Raises")))
        lost = {error for error in raised if not hasattr(errors, error) and not hasattr(builtins, error)}
        lost |= {target for target in {*ROLE.findall(doc), *SAME.findall(doc)} if not resolved(target, home(name))}
        broken |= {name: lost} if lost else {}
    assert broken == {}


def test_what_is_cited_is_among_the_sources():
    listed = PAGES[DOCS / "theory" / "sources.md"]
    files = PAGES | {path: path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    cited = {number: path for path, text in files.items() for number in ARXIV.findall(text)}
    assert len(cited) > 20
    assert {number: path for number, path in cited.items() if number not in listed} == {}
    sources = re.split(r"^- ", listed, flags=re.MULTILINE)
    unknown = set()
    for name, thing in DOCUMENTED.items():
        text, _, _ = inspect.getdoc(thing).partition("Examples\n---")
        for authors, year in CITED.findall(" ".join(text.split())):
            first = re.split(r",? ", authors)[0]
            if not any(first in source and year in source for source in sources):
                unknown.add((name, authors, year))
    assert unknown == set()
