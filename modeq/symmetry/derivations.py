"""A derivation as steps of text and LaTeX, and what a projection yields."""

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from modeq.methods.exact import tidy
from modeq.symbolic.b_series import Written
from modeq.symmetry.pairings import Pairing


@dataclass(frozen=True)
class Step:
    """One step: what is done, and the equations that it gives."""

    title: str
    lines: tuple[Written, ...]


@dataclass(frozen=True)
class Projected:
    """Σ_k a_k y⁽ᵏ⁾ = Σ c·(d/dt)ʲ pairing, the highest a = 1, and how it was found.

    Attributes
    ----------
    coefficients : (a_0, …, a_m)
    terms : mapping from (pairing at time t, j) to c
    steps : the derivation
    """

    coefficients: tuple[sp.Expr, ...]
    terms: Mapping[tuple[Pairing, int], sp.Expr]
    steps: tuple[Step, ...]


def tidied(expression: sp.Expr) -> sp.Expr:
    """Return an expression factored if it is rational in its symbols and logarithms, else as it is.

    Examples
    --------
    >>> beta = sp.Symbol("beta")
    >>> tidied((sp.log(beta) * beta - sp.log(beta)) / (beta - 1) ** 2)
    -log(beta)/(1 - beta)
    """
    names = {logarithm: sp.Dummy("log") for logarithm in expression.atoms(sp.log)}
    plain = expression.xreplace(names)
    if not plain.is_rational_function(*plain.free_symbols) or plain.atoms(sp.Float):
        return expression
    return tidy(plain).xreplace({name: logarithm for logarithm, name in names.items()})


def as_text(steps: tuple[Step, ...]) -> str:
    r"""Return a derivation as numbered text.

    Examples
    --------
    >>> print(as_text((Step("the law", (Written("N' = 0", r"\dot N = 0"),)),)))
    1. the law
       N' = 0
    """
    return "\n".join(
        "\n".join([f"{k}. {step.title}", *(f"   {line.text}" for line in step.lines)])
        for k, step in enumerate(steps, start=1)
    )


def as_latex(steps: tuple[Step, ...]) -> str:
    """Return a derivation as LaTeX: a numbered list with an aligned display in each item."""
    items = []
    for step in steps:
        lines = " \\\\\n".join("& " + line.latex for line in step.lines)
        display = f"\n\\begin{{align*}}\n{lines}\n\\end{{align*}}" if lines else ""
        items.append(f"\\item {step.title}{display}")
    return "\\begin{enumerate}\n" + "\n".join(items) + "\n\\end{enumerate}"


def differentiated(symbol: Written, k: int) -> Written:
    """Return (d/dt)ᵏ of something that is written.

    Examples
    --------
    >>> differentiated(Written("g", "g"), 2).text
    '(d/dt)^2 g'
    """
    if k == 0:
        return symbol
    power = f"^{{{k}}}" if k > 1 else ""
    return Written(
        f"{'d/dt' if k == 1 else f'(d/dt)^{k}'} {symbol.text}", rf"\tfrac{{d{power}}}{{dt{power}}} {symbol.latex}"
    )


def primed(letter: str, k: int) -> Written:
    """Return the k-th time derivative of a charge.

    Examples
    --------
    >>> primed("N", 2).text, primed("N", 4).latex
    ("N''", 'N^{(4)}')
    """
    text = letter + ("'" * k if k < 4 else f"^({k})")
    return Written(text, letter if k == 0 else rf"\{'d' * k}ot {letter}" if k < 4 else f"{letter}^{{({k})}}")


_OSCILLATIONS = (
    ("under-damped, γ < ω, ν² = ω² - γ²", r"\gamma < \omega,\ \nu^2 = \omega^2 - \gamma^2", "cos", "sin"),
    ("over-damped, γ > ω, ν² = γ² - ω²", r"\gamma > \omega,\ \nu^2 = \gamma^2 - \omega^2", "cosh", "sinh"),
)


def solution_step(letter: str, coefficients: tuple[sp.Expr, ...], data: Written | None) -> Step:
    """Return the last step: the solution in γ, ω or the rate, and what these and the forcing F are.

    Examples
    --------
    >>> print(solution_step("S", (sp.Symbol("k"), sp.Integer(1)), None).lines[0].text)
    S(t) = exp(-Λt) S(0)
    """
    solve = {2: _first_order_lines, 3: _oscillator_lines}.get(len(coefficients), _higher_lines)
    lines = solve(letter, coefficients, data is not None)
    if data is not None:
        lines.append(Written(f"F = {data.text}", f"F = {data.latex}"))
    return Step("Solved", tuple(lines))


def _first_order_lines(letter: str, coefficients: tuple[sp.Expr, ...], driven: bool) -> list[Written]:
    rate = coefficients[0]
    if rate == 0:
        integral = Written(" + ∫₀ᵗ F(τ) dτ", r" + \int_0^t F(\tau)\,d\tau") if driven else Written("", "")
        return [Written(f"{letter}(t) = {letter}(0){integral.text}", f"{letter}(t) = {letter}(0){integral.latex}")]
    integral = Written(
        " + ∫₀ᵗ exp(-Λ(t-τ)) F(τ) dτ" if driven else "",
        r" + \int_0^t e^{-\Lambda(t-\tau)} F(\tau)\,d\tau" if driven else "",
    )
    return [
        Written(
            f"{letter}(t) = exp(-Λt) {letter}(0){integral.text}",
            rf"{letter}(t) = e^{{-\Lambda t}} {letter}(0){integral.latex}",
        ),
        Written(f"Λ = {rate}", rf"\Lambda = {sp.latex(rate)}"),
    ]


def _oscillator_lines(letter: str, coefficients: tuple[sp.Expr, ...], driven: bool) -> list[Written]:
    gamma, omega_squared = tidied(coefficients[1] / 2), coefficients[0]
    lines = []
    for condition, latex_condition, cosine, sine in _OSCILLATIONS:
        slope = f"({letter}'(0) + γ{letter}(0)) {sine}(νt)/ν"
        text = f"{condition}: {letter}(t) = exp(-γt) [{letter}(0) {cosine}(νt) + {slope}]"
        latex = (
            rf"{latex_condition}:\quad {letter}(t) = e^{{-\gamma t}}\left[{letter}(0)\{cosine}\nu t + "
            rf"(\dot {letter}(0) + \gamma {letter}(0))\frac{{\{sine}\nu t}}{{\nu}}\right]"
        )
        if driven:
            text += f" + ∫₀ᵗ exp(-γ(t-τ)) {sine}(ν(t-τ))/ν F(τ) dτ"
            latex += rf" + \int_0^t e^{{-\gamma(t-\tau)}}\frac{{\{sine}\nu(t-\tau)}}{{\nu}} F(\tau)\,d\tau"
        lines.append(Written(text, latex))
    critical = f"critically damped, γ = ω: {letter}(t) = exp(-γt) [{letter}(0) + ({letter}'(0) + γ{letter}(0)) t]"
    latex = (
        rf"\gamma = \omega:\quad {letter}(t) = e^{{-\gamma t}}\left[{letter}(0) + "
        rf"(\dot {letter}(0) + \gamma {letter}(0))\,t\right]"
    )
    if driven:
        critical += " + ∫₀ᵗ exp(-γ(t-τ)) (t-τ) F(τ) dτ"
        latex += r" + \int_0^t e^{-\gamma(t-\tau)}(t-\tau) F(\tau)\,d\tau"
    lines.insert(1, Written(critical, latex))
    lines.append(Written(f"γ = {gamma}", rf"\gamma = {sp.latex(gamma)}"))
    lines.append(Written(f"ω² = {omega_squared}", rf"\omega^2 = {sp.latex(omega_squared)}"))
    return lines


def _higher_lines(letter: str, coefficients: tuple[sp.Expr, ...], driven: bool) -> list[Written]:
    root = sp.Symbol("mu")
    characteristic = sp.Add(*(a * root**k for k, a in enumerate(coefficients)))
    text = f"{letter}(t) = Σ_μ exp(μt) P(μ)/χ'(μ)"
    latex = rf"{letter}(t) = \sum_\mu e^{{\mu t}}\frac{{P(\mu)}}{{\chi'(\mu)}}"
    if driven:
        text += " + ∫₀ᵗ Σ_μ exp(μ(t-τ))/χ'(μ) F(τ) dτ"
        latex += r" + \int_0^t \sum_\mu \frac{e^{\mu(t-\tau)}}{\chi'(\mu)} F(\tau)\,d\tau"
    return [
        Written(text, latex),
        Written(f"over the roots of χ(μ) = {characteristic}", rf"\chi(\mu) = {sp.latex(characteristic)}"),
        Written(
            f"P(μ) = Σ_k a_k Σ_(j<k) {letter}^(j)(0) μ^(k-1-j)",
            rf"P(\mu) = \sum_k a_k \sum_{{j<k}} {letter}^{{(j)}}(0)\,\mu^{{k-1-j}}",
        ),
    ]
