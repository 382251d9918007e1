"""A loss as it is typed: arithmetic and functions of sympy, with exact numbers, and nothing that runs."""

import ast
from collections.abc import Callable
from typing import Any

from modeq.errors import InvalidSetting, choice

FUNCTIONS = ("exp", "log", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asinh", "atan", "Abs")
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}


def expression(text: str) -> Any:
    """Return the sympy expression of a text; decimals become rationals, unknown names symbols.

    Raises
    ------
    InvalidSetting
        For anything but numbers, names, ``+ - * / **``, parentheses and the known functions.

    Examples
    --------
    >>> expression("0.5*x**2 + exp(-a*y)")
    x**2/2 + exp(-a*y)
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise InvalidSetting(f"--loss is {text!r}, which is no expression: give 'x**2/2 + y**4', say") from error
    return _value(tree.body, text)


def _value(node: ast.expr, text: str) -> Any:
    import sympy as sp

    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            # A decimal is read as it is typed, which its float no longer knows.
            exact = ast.get_source_segment(text.strip(), node) if isinstance(number, float) else number
            return sp.Rational(exact)
        case ast.Name(id=name):
            return sp.Symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, text)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            return _OPERATIONS[type(operation)](_value(left, text), _value(right, text))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            if name not in FUNCTIONS:
                raise InvalidSetting(f"--loss has the function {choice(name, FUNCTIONS)}")
            return getattr(sp, name)(_value(argument, text))
    raise InvalidSetting(f"--loss is {text!r}: only numbers, names, + - * / **, and functions of one number are read")
