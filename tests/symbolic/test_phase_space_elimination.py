"""The derivatives of f written out along the path: as text, and on a loss."""

import re

import numpy as np
import pytest
import sympy as sp

import modeq as mq
from modeq.numeric import phase_space_flow
from modeq.symbolic.phase_space_elimination import path_partitions

beta = sp.Symbol("beta", positive=True)
x, y, h = sp.symbols("x y h")
LOSS = (x**2 - y) ** 2 / 4 + sp.sin(x + y) / 2 + x**2 / 2 + y**2


def test_one_power_of_the_heavy_ball():
    """c(θ̈ + aθ̇) = h[f + S₁(f''(θ̇,θ̇) + f'(θ̈ + aθ̇))], with c = (1 − β)/a, a = −ln β."""
    form = mq.phase_space_form(mq.HeavyBall(0.9), 2, "powers")
    assert str(form) == ("0.949122·(θ̈ + 0.105361·θ̇) = h[f - 0.0833179·(f''(θ̇,θ̇) + f'(θ̈ + 0.105361·θ̇))], θ̇ = h·dθ/dt")
    symbolic = mq.phase_space_form(mq.HeavyBall(beta), 2, "powers")
    S = sp.latex(symbolic.powers[0][1][0])
    Q = r"\ddot\theta - \log{\left(\beta \right)}\,\dot\theta"
    assert symbolic.latex(eliminated=True) == (
        rf"-\frac{{1 - \beta}}{{\log{{\left(\beta \right)}}}}\,\left({Q}\right) = "
        rf"h\left[f + {S}\,\left(f''(\dot\theta,\dot\theta) + f'({Q})\right)\right]"
        r",\quad \dot\theta = h\,\tfrac{d\theta}{dt}"
    )


def test_other_methods_in_words():
    def text(method, *arguments):
        return str(mq.phase_space_form(method, *arguments)).removesuffix(", θ̇ = h·dθ/dt")

    assert text(mq.GradientDescent(), 4) == "θ̇ = h[f - 1/2·f'(θ̇) + 1/12·(f''(θ̇,θ̇) + f'(θ̈))]"
    # (D + aζ) acts on f: the term of D alone is f'(θ̇).
    assert text(mq.Nesterov(0.9), 1, "powers") == "0.949122·(θ̈ + 0.105361·θ̇) = h[f + 0.949122·f'(θ̇)]"
    decayed = mq.GradientDescent().with_weight_decay(sp.Symbol("lambda"))
    assert text(decayed, 2) == "θ̇ = h[f - 1/2·f'(θ̇) - lambda·θ + lambda/2·θ̇]"
    irrational = mq.GeneralLinearMethod(
        A=[[1, 1, 0], [0, 0.5, 0.25], [0, 0.5, 0.5]], B=[[1], [1], [0]], C=[[1, 0, 0]], D=[[0]]
    )
    form = mq.phase_space_form(irrational, 1)
    assert max(map(len, re.findall(r"\d+", form.latex() + form.latex(eliminated=True) + str(form)))) <= 6


@pytest.mark.parametrize("k", range(1, 7))
def test_partitions_are_the_derivatives_of_a_composition(k):
    """D^k f(θ(n)) of a scalar f along a polynomial path, by differentiating the composition itself."""
    n, t = sp.symbols("n t")
    path = 1 + 2 * n - n**2 / 3 + n**3 / 5 + n**4 - n**5 / 7 + n**6 / 2
    f = sp.exp(2 * t) + t**5
    total = 0
    for factor, parts in path_partitions(k):
        product = sp.prod([sp.diff(path, n, part).subs(n, 0) for part in parts])
        total += factor * sp.diff(f, t, len(parts)).subs(t, 1) * product
    assert sp.simplify(total - sp.diff(f.subs(t, path), n, k).subs(n, 0)) == 0


FORMS = {
    "gradient descent, 2": mq.phase_space_form(mq.GradientDescent(), 2),
    "heavy ball, 1": mq.phase_space_form(mq.HeavyBall(0.9), 1),
    "heavy ball, 3": mq.phase_space_form(mq.HeavyBall(0.9), 3),
    "heavy ball, 4": mq.phase_space_form(mq.HeavyBall(0.9), 4),
    "heavy ball, one power": mq.phase_space_form(mq.HeavyBall(0.99), 2, "powers"),
    "Nesterov, one power": mq.phase_space_form(mq.Nesterov(0.9), 2, "powers"),
    "decoupled": mq.phase_space_form(mq.HeavyBall(0.9).with_weight_decay(0.1, decoupled=True), 2, "hermite"),
}


@pytest.mark.some(1)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "heavy ball, 4" else ()) for name in FORMS]
)
def test_on_a_loss_it_is_the_right_hand_side_of_the_flow(name):
    form, step = FORMS[name], 0.05
    field = form.on(LOSS, [x, y], h=sp.Rational(1, 20))
    m = len(form.q)
    assert [v.name for v in field.variables] == [v + "'" * k for k in range(m) for v in ("x", "y")]
    problem = mq.SymbolicProblem(LOSS, [x, y])
    system = phase_space_flow.phase_space_system(form, problem, np.zeros(2), step, "auto", False, 1e-12, None)
    rng = np.random.default_rng(1)
    for _ in range(3):
        state = rng.normal(size=(m, 2))
        written = np.array(field.lambdify()(state.ravel())).reshape(m, 2)
        scales = step ** np.arange(m)[:, None]
        np.testing.assert_allclose(
            written * scales, system.right_hand_side((state * scales).ravel()).reshape(m, 2), rtol=1e-10
        )


def test_on_a_loss_with_symbols():
    """J = 1 on x²/2 in closed form: (c + hS)Y = −h x with Y = D²x + aDx."""
    field = mq.phase_space_form(mq.HeavyBall(beta), 2, "powers").on(x**2 / 2, [x], h=h)
    v = field.variables[1]
    a = -sp.log(beta)
    S = mq.phase_space_form(mq.HeavyBall(beta), 2, "powers").powers[0][1][0]
    Y = -h * x / ((1 - beta) / a + h * S)
    assert field.components[0] == v
    assert sp.simplify(field.components[1] - (Y - a * h * v) / h**2) == 0


def test_errors():
    form = mq.phase_space_form(mq.HeavyBall(0.9), 3, "powers")
    with pytest.raises(mq.InvalidOrder, match=r"derivatives of f up to D\^4, .* closed form exists for at most 3"):
        form.on(x**2, [x], h=h)
    form = mq.phase_space_form(mq.HeavyBall(0.9), 2, "powers")
    with pytest.raises(mq.InvalidProblem, match=r"\[\"x'\"\] would name derivatives of the variables: rename them"):
        form.on(x**2 + sp.Symbol("x'") ** 2, [x, sp.Symbol("x'")], h=h)
    with pytest.raises(mq.InvalidProblem, match="also a variable"):
        form.on(x**2, [x], h=x)
