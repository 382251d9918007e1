"""The command ``modeq derive``: every named method, in numbers or symbols, in every form, as text, LaTeX and JSON."""

import importlib
import inspect
import json

import pytest
import sympy as sp

import modeq as mq
from modeq.cli.derive import FORMS
from modeq.cli.main import main
from modeq.cli.methods import METHODS

BETA = sp.Symbol("beta")
# Every option is given as another number, so that an exchanged one shows.
NUMBERS = {
    "momentum": "1/2", "dampening": "1/3", "nu": "0.7", "gamma": "1/4", "delta": "1/8", "derivative": "10",
    "integral": "5", "proportional": "2",
}  # fmt: skip


def run(capsys, *arguments):
    code = main(["derive", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def record(capsys, *arguments):
    def refused(name):
        raise AssertionError(f"{name} is no JSON")

    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out, parse_constant=refused)


def test_numbers_are_exact_and_what_is_left_out_is_a_symbol(capsys):
    code, out, err = run(capsys, "heavy-ball", "--momentum", "0.9", "--order", 2)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "HeavyBall(momentum=9/10)",
        "",
        "θ' = -10·g - 950*h·H g",
        "",
        "starts at θ(0) = θ₀ + 90*h·g",
        "",
        "in h·λ: series limit 19/10 - 3*sqrt(10)/5 = 0.002633, stability limit 19/5",
    ]
    out = run(capsys, "heavy-ball", "--order", 2, "--weight-decay", "lambda", "--decoupled")[1]
    assert out.startswith("HeavyBall(momentum=beta).with_weight_decay(lambda, decoupled=True)\n")
    assert run(capsys, "heavy-ball", "--momentum", "0.9", "--dampening", "alpha")[1].startswith(
        "HeavyBall(momentum=9/10, dampening=alpha)\n"
    )


def test_every_named_method_has_its_name():
    homes = [importlib.import_module(f"modeq.methods.{name}") for name in ("descent", "momentum", "runge_kutta")]
    functions = {
        name
        for home in homes
        for name, value in vars(home).items()
        if inspect.isfunction(value) and value.__module__ == home.__name__ and name[0].isupper()
    }
    # A tableau is no name.
    assert {path.split(".")[1] for path, _ in METHODS.values()} == functions - {"RungeKutta"}


@pytest.mark.parametrize("name", METHODS)
def test_every_option_reaches_its_argument(name, capsys):
    path, options = METHODS[name]
    module, function = path.split(".")
    build = getattr(importlib.import_module(f"modeq.methods.{module}"), function)
    arguments = [word for option in options for word in (f"--{option}", NUMBERS[option])]
    named = {"momentum": "beta"} if name == "triple-momentum" else {}
    method = build(**{named.get(option, option): sp.Rational(NUMBERS[option]) for option in options})
    found = record(capsys, name, *arguments)
    assert found["method"] == repr(method)
    expected = mq.modified_equation(method, 3)
    assert {key: sp.sympify(value) for key, value in found["coefficients"].items()} == {
        str(tree.nested()): value for tree, value in expected.coefficients.items()
    }


@pytest.mark.some(3)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_that_of_the_library(form, capsys):
    equation = getattr(mq, FORMS[form][0])(mq.HeavyBall(BETA), 2)
    found = record(capsys, "heavy-ball", "--form", form, "--order", 2)
    assert found["equations"] == [str(equation)]
    assert found["latex"] == [equation.latex()]
    assert found["settings"]["form"] == form
    assert (found["start"] is None) == (form != "field")
    assert run(capsys, "heavy-ball", "--form", form, "--order", 2, "--latex")[1] == equation.latex() + "\n"


def test_coefficients_of_the_other_forms(capsys):
    assert record(capsys, "heavy-ball", "--form", "time")["coefficients"] == [
        "1 - beta",
        "(beta + 1)/2",
        "(1 - beta)/6",
    ]
    phase = mq.phase_space_form(mq.HeavyBall(BETA), 3)
    found = record(capsys, "heavy-ball", "--form", "phase")["coefficients"]
    assert found == {"q": [str(c) for c in phase.q], "r": {"0": [str(c) for c in phase.r[0]]}}
    state = mq.state_space_form(mq.HeavyBall(sp.Rational(1, 2)), 1)
    found = record(capsys, "heavy-ball", "--momentum", "1/2", "--form", "state", "--order", 1)["coefficients"]
    assert {key: sp.sympify(value) for key, value in found.items()} == {
        "0 []": state[0, []], "0 (1, [])": state[0, mq.Tree(1, [])],
        "1 []": state[1, []], "1 (1, [])": state[1, mq.Tree(1, [])],
    }  # fmt: skip


def test_a_loss(capsys):
    x, y, a = sp.symbols("x y a")
    loss = "x**2/2 + 0.25*y**4 - exp(-a*x)"
    found = record(capsys, "nesterov", "--momentum", "1/2", "--loss", loss, "--variables", "x", "y")
    equation = mq.modified_equation(mq.Nesterov(sp.Rational(1, 2)), 3)
    for line, variable, component in zip(
        found["equations"], (x, y), equation.on(x**2 / 2 + y**4 / 4 - sp.exp(-a * x), [x, y]).components, strict=True
    ):
        left, right = line.split(" = ")
        assert left == f"{variable}'"
        assert sp.simplify(sp.sympify(right) - component) == 0
    # One step of the map on ½x² is 1 − h exactly.
    assert record(capsys, "gd", "--form", "map", "--loss", "x**2/2", "--variables", "x")["equations"] == [
        "x⁺ - x = -h*x"
    ]


def test_a_charge(capsys):
    found = record(
        capsys, "heavy-ball", "--weight-decay", "lambda", "--form", "time", "--order", 2, "--charge", "scale"
    )
    law = mq.project(mq.HeavyBall(BETA).with_weight_decay(sp.Symbol("lambda")), "scale", form="time")
    assert found["equations"] == [str(law)]
    assert found["coefficients"] == [str(c) for c in law.coefficients]


def test_games(capsys):
    out = run(capsys, "gd", "--game", "alternating", "--order", 2)[1]
    assert out.startswith("Alternating([GradientDescent(), GradientDescent()])\n")
    # Whoever moves second drifts the other way in the interaction.
    assert "- h/2·H_1 g_2 + h/2·H_2 g_1" in out
    assert "series limit" not in out


def test_limits_that_are_no_fractions(capsys):
    assert "series limit 1, stability limit oo" in run(capsys, "implicit-euler", "--order", 1)[1]
    assert "series limit 1.945, stability limit 2.785" in run(capsys, "rk4", "--order", 1)[1]


WRONG = [
    (["heavyball"], 2, "the method is 'heavyball': did you mean heavy-ball? Choose from gd, heavy-ball, nesterov"),
    (["gd", "--form", "feild"], 2, "--form is 'feild': did you mean field? Choose from field, time"),
    (["gd", "--game", "alternate"], 2, "--game is 'alternate': did you mean alternating? Choose from simultaneous"),
    (["gd", "--charge", "rescal"], 2, "family is 'rescal': did you mean rescale? Choose from translation"),
    (["gd", "--charge", "scale", "--form", "map"], 2, "--form is 'map', which is not projected on charges"),
    (["gd", "--momentum", "0.9"], 2, "--momentum is given, which is for heavy-ball, nesterov, classical"),
    (["gd", "--decoupled"], 2, "--decoupled is given without --weight-decay"),
    (["nesterov", "--momentum", "1.5"], 2, "momentum is 3/2: give a number in [0, 1)"),
    *((["nesterov", "--momentum", wrong], 2, f"--momentum is {wrong!r}: give a number, 0.9 or 9/10, or the name of a")
      for wrong in ("h", "nan", "1/0", "a b", "")),
    (["gd", "--order", "0"], 2, "order is 0: the lowest"),
    (["gd", "--loss", "x**2"], 2, "--loss and --variables belong together"),
    (["gd", "--loss", "x", "--variables", "x", "--charge", "scale"], 2, "--loss and --charge are given: choose one"),
    (["gd", "--loss", "x", "--variables", "x y"], 2, "--variables has 'x y': give names"),
    (["gd", "--loss", "x", "--variables", "x", "--form", "time"], 2, "--form is 'time', which is not written out"),
    (["gd", "--loss", "sine(x)", "--variables", "x"], 2, "--loss has the function 'sine': did you mean sin? Choose"),
    (["gd", "--loss", "x +", "--variables", "x"], 2, "--loss is 'x +', which is no expression"),
    (["gd", "--loss", "1/0*x", "--variables", "x"], 2, "the loss is zoo*x: give a finite"),
    *((["gd", "--loss", wrong, "--variables", "x"], 2, f"--loss is {wrong!r}: only numbers, names")
      for wrong in ("x.real", "[x]", "1j", "'x'", "x if x else 1", "True", "f(x)(x)", "exp(x, 2)")),
    (["gd", "--loss", "__import__('os')", "--variables", "x"], 2, "--loss has the function '__import__': choose"),
    (["rk4", "--form", "time"], 1, "has no form in time derivatives"),
]  # fmt: skip


@pytest.mark.parametrize("arguments, status, message", WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_one_line(arguments, status, message, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (status, "")
    assert err.startswith("modeq: ")
    assert message in err
    assert err.count("\n") == 1
