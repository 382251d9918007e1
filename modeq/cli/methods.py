"""The methods that have a name on the command line, and their hyper-parameters."""

from collections.abc import Sequence
from fractions import Fraction
from importlib import import_module
from typing import Any, NamedTuple

from modeq.cli.shared import Parser
from modeq.errors import InvalidSetting, choice

# Name -> where it is built, and the options that are its arguments, in their order.
METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gd": ("descent.GradientDescent", ()),
    "heavy-ball": ("momentum.HeavyBall", ("momentum", "dampening")),
    "nesterov": ("momentum.Nesterov", ("momentum",)),
    "classical-nesterov": ("momentum.ClassicalNesterov", ("momentum",)),
    "quasi-hyperbolic": ("momentum.QuasiHyperbolic", ("momentum", "nu")),
    "triple-momentum": ("momentum.TripleMomentum", ("momentum", "gamma", "delta")),
    "pid": ("momentum.PID", ("momentum", "derivative", "integral", "proportional")),
    "optimistic-gradient": ("momentum.OptimisticGradient", ()),
    "extragradient": ("runge_kutta.Extragradient", ()),
    "explicit-midpoint": ("runge_kutta.ExplicitMidpoint", ()),
    "implicit-euler": ("runge_kutta.ImplicitEuler", ()),
    "rk4": ("runge_kutta.RK4", ()),
}
GAMES = {"simultaneous": "Simultaneous", "alternating": "Alternating"}


class HyperParameter(NamedTuple):
    """What an option is, and what it is if it is left out: a symbol where there may be one, and a number."""

    help: str
    symbol: str | None
    number: float | None


HYPERPARAMETERS = {
    "momentum": HyperParameter("momentum β in [0, 1)", "beta", 0.9),
    "dampening": HyperParameter("dampening α in [0, 1), of the heavy ball", None, 0),
    "nu": HyperParameter("ν of quasi-hyperbolic momentum", "nu", None),
    "gamma": HyperParameter("γ of triple momentum", "gamma", None),
    "delta": HyperParameter("δ of triple momentum", "delta", None),
    "derivative": HyperParameter("gain k_D of PID", "k_D", None),
    "integral": HyperParameter("gain k_I of PID", None, 1),
    "proportional": HyperParameter("gain k_P of PID", None, 0),
}


def add_hyperparameters(parser: Parser, symbolic: bool) -> None:
    """Add the options of all methods: numbers, or also the names of symbols."""
    kind: dict[str, Any] = {"metavar": "NUMBER|SYMBOL"} if symbolic else {"type": float, "metavar": "NUMBER"}
    for name, (text, symbol, number) in HYPERPARAMETERS.items():
        default = symbol if symbolic and symbol is not None else number
        parser.add_argument(f"--{name}", help=text if default is None else f"{text} (default {default})", **kind)
    parser.add_argument("--weight-decay", help="weight decay λ (default 0)", **kind)
    parser.add_argument("--decoupled", action="store_true", help="decay that bypasses the gradient and its buffers")
    parser.add_argument(
        "--game", metavar="|".join(GAMES), help="two players with the method each, who move at once or in turn"
    )


def methods_named(names: Sequence[str], options: dict[str, Any], symbolic: bool = False) -> list[Any]:
    """Return the methods of some names, with the hyper-parameters among the options.

    Raises
    ------
    InvalidSetting
        If a name is unknown, an option is missing, or none of the methods has an option that was given.

    Examples
    --------
    >>> methods_named(["gd", "heavy-ball"], {"momentum": 0.5})
    [GradientDescent(), HeavyBall(momentum=1/2)]
    >>> methods_named(["nesterov"], {}, symbolic=True)
    [Nesterov(momentum=beta)]
    """
    for name in names:
        if name not in METHODS:
            raise InvalidSetting(f"the method is {choice(name, METHODS)}")
    used = {option for name in names for option in METHODS[name][1]}
    for option in HYPERPARAMETERS:
        if options.get(option) is not None and option not in used:
            having = ", ".join(name for name, (_, arguments) in METHODS.items() if option in arguments)
            raise InvalidSetting(f"--{option} is given, which is for {having}, not for {', '.join(names)}")
    if options.get("decoupled") and options.get("weight_decay") is None:
        raise InvalidSetting("--decoupled is given without --weight-decay: give its rate")
    return [_built(name, options, symbolic) for name in names]


def _built(name: str, options: dict[str, Any], symbolic: bool) -> Any:
    path, arguments = METHODS[name]
    module, function = path.split(".")
    values = [_value(name, option, options.get(option), symbolic) for option in arguments]
    method = getattr(import_module(f"modeq.methods.{module}"), function)(*values)
    if options.get("game") is not None:
        from modeq.methods import games

        if options["game"] not in GAMES:
            raise InvalidSetting(f"--game is {choice(options['game'], GAMES)}")
        method = getattr(games, GAMES[options["game"]])([method, method])
    if options.get("weight_decay") is None:
        return method
    return method.with_weight_decay(exactly(options["weight_decay"], "weight-decay"), options["decoupled"])


def _value(name: str, option: str, given: Any, symbolic: bool) -> Any:
    _, symbol, number = HYPERPARAMETERS[option]
    if given is not None:
        return exactly(given, option)
    if symbolic and symbol is not None:
        return exactly(symbol, option)
    if number is None:
        raise InvalidSetting(f"{name} has no --{option}: give a number")
    return number


def exactly(value: Any, option: str) -> Any:
    """Return a number as it is, a decimal or a fraction in a text as a rational, and a name as a symbol.

    Raises
    ------
    InvalidSetting
        For a text that is neither, and for h, which is the learning rate.

    Examples
    --------
    >>> exactly("0.9", "momentum"), exactly("1/3", "momentum"), exactly("beta", "momentum")
    (9/10, 1/3, beta)
    """
    import sympy as sp

    if not isinstance(value, str):
        return value
    try:
        return sp.Rational(Fraction(value))
    except (ValueError, ZeroDivisionError):
        pass
    if value.isidentifier() and value.lower() not in ("h", "nan", "inf", "infinity"):
        return sp.Symbol(value)
    raise InvalidSetting(f"--{option} is {value!r}: give a number, 0.9 or 9/10, or the name of a symbol other than h")
