"""``modeq derive``: the modified equation of a named method, exactly."""

from collections.abc import Mapping
from typing import Any

from modeq.cli.expressions import expression
from modeq.cli.methods import METHODS, add_hyperparameters, methods_named
from modeq.cli.shared import DONE, add_command, print_json
from modeq.errors import InvalidCharge, InvalidOrder, InvalidProblem, InvalidSetting, ModeqError, choice

# Name -> the public function that derives it, and what its components give on a loss.
FORMS = {
    "field": ("modified_equation", "{}'"),
    "time": ("time_derivative_form", None),
    "phase": ("phase_space_form", "{}'"),
    "state": ("state_space_form", "{}'"),
    "map": ("memoryless_map", "{0}⁺ - {0}"),
    "modifying": ("modifying_equation", "f̂_{}"),
}


def add(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "derive",
        run,
        summary="derive the modified equation of an optimizer, exactly",
        description="Derive the equation that an optimizer follows, to any truncation order. Numbers are read as the "
        "decimals or fractions that they are, names as symbols, and what is left out stays a symbol where it can. "
        f"Methods: {', '.join(METHODS)}.",
        example="modeq derive heavy-ball --momentum 0.9 --order 3",
        usage=(InvalidProblem, InvalidOrder, InvalidCharge),
    )
    parser.add_argument("method", metavar="METHOD", help="its name")
    add_hyperparameters(parser, symbolic=True)
    parser.add_argument("--order", type=int, default=3, help="truncation order (default 3)")
    parser.add_argument("--form", default="field", help=f"{', '.join(FORMS)} (default field)")
    parser.add_argument("--latex", action="store_true", help="print the equation as LaTeX, and nothing else")
    parser.add_argument("--loss", help="write the equation out on a loss, as 'x**2/2 + y**4'")
    parser.add_argument("--charge", metavar="FAMILY", help="project it on a symmetry, such as rescale")
    parser.add_argument("--variables", nargs="+", metavar="NAME", help="the parameters of the loss")


def run(options: dict[str, Any]) -> int:
    """Print an equation."""
    import modeq

    form = options["form"]
    if form not in FORMS:
        raise InvalidSetting(f"--form is {choice(form, FORMS)}")
    if (options["loss"] is None) != (options["variables"] is None):
        raise InvalidSetting("--loss and --variables belong together: give both or none")
    if options["loss"] is not None and options["charge"] is not None:
        raise InvalidSetting("--loss and --charge are given: choose one")
    (method,) = methods_named([options["method"]], options, symbolic=True)
    equation = getattr(modeq, FORMS[form][0])(method, options["order"])
    start = _start(equation) if form == "field" else None
    if options["charge"] is not None:
        if form not in ("field", "time", "phase"):
            raise InvalidSetting(f"--form is {form!r}, which is not projected on charges: give field, time or phase")
        equation = modeq.project(equation, options["charge"])
    lines = _on_loss(equation, options) if options["loss"] is not None else {str(equation): equation.latex()}
    limits = {f"{kind}_limit": _limit(method, kind) for kind in ("series", "stability")}
    if options["json"]:
        record: dict[str, Any] = {"method": repr(method), "equations": list(lines), "latex": list(lines.values())}
        record |= {"coefficients": _coefficients(equation), "start": start}
        record |= {name: None if limit is None else str(limit) for name, limit in limits.items()}
        print_json({"settings": {"command": "derive", **options}, **record})
        return DONE
    if options["latex"]:
        print("\n".join(lines.values()))
        return DONE
    print(f"{method!r}\n")
    print("\n".join(lines))
    if start is not None:
        print(f"\nstarts at {start}")
    found = [f"{name.replace('_', ' ')} {_with_decimals(limit)}" for name, limit in limits.items() if limit is not None]
    if found:
        print(f"\nin h·λ: {', '.join(found)}")
    return DONE


def _coefficients(equation: Any) -> Any:
    """The coefficients as exact text: of a series by tree, else by the power of the derivative, from the lowest."""
    if hasattr(equation, "q"):
        return {"q": _texts(equation.q), "r": {str(colour): _texts(row) for colour, row in equation.r.items()}}
    if not isinstance(equation, Mapping):
        return _texts(equation.coefficients)
    # The keys of the state-space form are (component, tree).
    return {
        str(key.nested()) if hasattr(key, "nested") else f"{key[0]} {key[1].nested()}": str(value)
        for key, value in equation.items()
    }


def _texts(values: Any) -> list[str]:
    return [str(value) for value in values]


def _on_loss(equation: Any, options: dict[str, Any]) -> dict[str, str]:
    """The components on a loss, as text, each with its LaTeX."""
    import sympy as sp

    name = FORMS[options["form"]][1]
    if name is None:
        raise InvalidSetting(f"--form is {options['form']!r}, which is not written out on a loss: give another")
    for variable in options["variables"]:
        if not variable.isidentifier():
            raise InvalidSetting(f"--variables has {variable!r}: give names, as x y")
    field = equation.on(expression(options["loss"]), sp.symbols(options["variables"]))
    return {
        f"{name.format(variable)} = {component}": f"{name.format(sp.latex(variable))} = {sp.latex(component)}"
        for variable, component in zip(field.variables, field.components, strict=True)
    }


def _limit(method: Any, kind: str) -> Any:
    """A limit in h·λ, exactly; None for a method that has none."""
    try:
        return getattr(method, f"{kind}_limit")()
    except ModeqError:
        return None


def _with_decimals(limit: Any) -> str:
    if limit.free_symbols or limit.is_Rational or limit.is_infinite:
        return str(limit)
    return f"{limit:.4g}" if limit.is_Float else f"{limit} = {float(limit):.4g}"


def _start(equation: Any) -> str | None:
    """Where the flow must start, if that is not θ₀."""
    layer = equation.initial_layer()
    return str(layer) if any(value != 0 for value in layer.coefficients.values()) else None
