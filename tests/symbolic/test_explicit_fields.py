"""Series written out on concrete fields: published examples, code, refusals, and how things print."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import registry
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Rational as Q

import modeq as mq
from modeq.symbolic.differentials import ElementaryDifferential

FIELDS = json.loads((Path(__file__).parents[1] / "reference" / "modified_fields.json").read_text(encoding="utf-8"))[
    "fields"
]
h, p, q, u, v = sp.symbols("h p q u v")
beta, lam = sp.symbols("beta lambda")
LOTKA_VOLTERRA = [p * (2 - q), q * (p - 1)]


@pytest.mark.parametrize("order", range(1, 7))
def test_lotka_volterra_under_explicit_euler(order):
    entry = next(e for e in FIELDS if e["method"] == "explicit Euler")
    equation = mq.modified_equation(mq.GradientDescent(), order=order)
    for mine, text in zip(equation.on(LOTKA_VOLTERRA, [p, q], h=h).components, entry["field"], strict=True):
        reference = sp.Poly(sp.sympify(text), h)
        kept = sum(c * h**k for (k,), c in reference.terms() if k < order)
        assert sp.expand(mine - kept) == 0


def test_lotka_volterra_under_symplectic_euler():
    """Implicit in f₀ = (0, p(2 − q)), explicit in f₁ = (q(p − 1), 0), on (q, p)."""
    entry = next(e for e in FIELDS if e["method"].startswith("symplectic"))
    method = mq.GeneralLinearMethod(
        A=[[1]], B=[[1, 1]], C=[[1], [1]], D=[[1, 0], [1, 0]], colours=(0, 1), name="symplectic Euler"
    )
    explicit = mq.modified_equation(method, order=2).on([[0, p * (2 - q)], [q * (p - 1), 0]], [q, p], h=h)
    for mine, text in zip(explicit.components, entry["field"], strict=True):
        assert sp.expand(mine - sp.sympify(text)) == 0


@pytest.mark.parametrize("name", ["heavy ball 0.5", "Nesterov 0.5, decoupled decay", "RK4"])
@pytest.mark.parametrize("loss", [sp.sin(u) * sp.exp(v) + u**2 * v, u**4 / 4 + u * v**2], ids=["smooth", "polynomial"])
def test_code_equals_substitution(name, loss):
    explicit = mq.modified_equation(registry.METHODS[name](), order=3).on(loss, [u, v], h=h)
    assert explicit.parameters == (h,)
    function = explicit.lambdify()
    for point in ((0.3, -0.7), (1.1, 0.2)):
        exact = [c.subs({u: sp.Float(point[0]), v: sp.Float(point[1]), h: 0.1}) for c in explicit.components]
        assert np.allclose(function(point, 0.1), np.array(exact, dtype=float), rtol=1e-12)


def test_the_step_is_a_parameter_even_where_it_drops_out():
    field = mq.modified_equation(mq.GradientDescent(), order=1).on(u**2, [u], h=h)
    assert field.lambdify()([3.0], 0.1) == [-6.0]
    assert field.parameters == (h,)
    assert mq.modified_equation(mq.GradientDescent(), order=2).on(u**2, [u], h=0.1).parameters == ()


def test_parameters_follow_by_name():
    explicit = mq.modified_equation(mq.HeavyBall(beta).with_weight_decay(lam), order=2).on(p * u**2 / 2, [u], h=h)
    assert explicit.parameters == (beta, h, lam, p)
    value = explicit.lambdify()([2.0], 0.5, 0.1, 0.01, 3.0)[0]
    x = 3.01  # curvature + decay
    assert value == pytest.approx(-2 * (x / 0.5 + 0.1 * 1.5 / (2 * 0.5**3) * x**2))


def test_a_loss_and_its_field_are_the_same():
    loss = u**3 * v - v**2
    equation = mq.modified_equation(mq.HeavyBall(Q(1, 2)), order=3)
    assert equation.on(loss, [u, v]) == equation.on([-sp.diff(loss, u), -sp.diff(loss, v)], [u, v])


@settings(max_examples=10)
@given(st.lists(st.integers(-3, 3), min_size=4, max_size=4).filter(lambda m: m[0] * m[3] != m[1] * m[2]))
def test_linear_changes_of_variables(entries):
    """With θ = Mη, a field f becomes M⁻¹f(Mη), and so does its modified field."""
    M = sp.Matrix(2, 2, entries)
    field = sp.Matrix([u**2 - v, u * v + u - 1])
    new = {u: (M * sp.Matrix([u, v]))[0], v: (M * sp.Matrix([u, v]))[1]}

    def moved(vector):
        return M.inv() * sp.Matrix(vector).subs(new, simultaneous=True)

    equation = mq.modified_equation(mq.Nesterov(Q(1, 3)), order=3)
    before = equation.on(list(field), [u, v]).components
    after = equation.on(list(moved(field)), [u, v]).components
    assert (moved(before) - sp.Matrix(after)).applyfunc(sp.expand).is_zero_matrix


@settings(max_examples=10)
@given(st.fractions(Q(-3), Q(3), max_denominator=5).filter(bool))
def test_rescaling_time(c):
    """The field cf at step h is c times the modified field of f at step ch."""
    c = Q(c)
    field = [u**2 - v, u * v + u - 1]
    equation = mq.modified_equation(mq.HeavyBall(Q(1, 2), Q(1, 5)), order=4)
    scaled = equation.on([c * f for f in field], [u, v], h=h).components
    plain = equation.on(field, [u, v], h=c * h).components
    for a, b in zip(scaled, plain, strict=True):
        assert sp.expand(a - c * b) == 0


def test_the_layer_is_written_out_as_well():
    layer = mq.modified_equation(mq.HeavyBall(Q(1, 2)), order=3).initial_layer()
    # −2hf + 20h²f'f on f = −u².
    assert layer.on([-(u**2)], [u], h=h).components == (sp.expand(2 * h * u**2 + 20 * h**2 * 2 * u**3),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((u**2, u), "variables are u: give a sequence of distinct sympy symbols"),
        ((u**2, []), r"variables are \[\]: give a sequence"),
        ((u**2, [u, u]), r"variables are \[u, u\]"),
        ((u**2, [u**2]), r"variables are \[u\*\*2\]"),
        ((u**2, ["u"]), r"variables are \['u'\]"),
        (([u], [u, v]), "the field has 1 components for 2 variables"),
        (([u, u], [u]), "the field has 2 components for 1 variables"),
        ((None, [u]), "the loss is None: give a finite sympy expression"),
        (("u +", [u]), "the loss is 'u \\+'"),
        (("u**2", [u]), "the loss is 'u\\*\\*2': give a finite sympy expression"),
        (([None], [u]), r"the field is \[None\]: give finite sympy expressions"),
        (([sp.nan], [u]), r"the field is \[nan\]: give finite sympy expressions"),
        ((sp.Symbol("u", real=True) ** 2, [u]), "two different symbols share the name u: create it once"),
        ((u**2, [u], sp.Symbol("u", positive=True)), "two different symbols share the name u"),
        ((u**2, [u], "h"), "h is 'h': give a symbol or a finite number"),
        ((u**2, [u], math.nan), "h is nan: give a symbol or a finite number"),
        ((u > 0, [u]), "the loss is u > 0"),
        ((sp.nan, [u]), "the loss is nan: give a finite sympy expression"),
        ((u + sp.oo, [u]), "the loss is u \\+ oo: give a finite sympy expression"),
        ((u**2, [u], u), "h is u, which is also a variable"),
        ((u**2, [u], 2 * u), r"h is 2\*u, which is also a variable"),
        ((h**2, [h]), "h is h, which is also a variable"),
        ((u**2, [u], None), "h is None: give a symbol or a finite number"),
    ],
)
def test_refused_problems(arguments, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        mq.modified_equation(mq.GradientDescent(), order=2).on(*arguments)


def test_refused_problems_of_methods_with_symbols_or_colours():
    with pytest.raises(mq.InvalidProblem, match=r"variables \['beta'\] are also coefficients of .*HeavyBall"):
        mq.modified_equation(mq.HeavyBall(beta), order=2).on(beta**2, [beta])
    with pytest.raises(mq.InvalidProblem, match=r"variables \['lambda'\] are also coefficients"):
        mq.modified_equation(mq.GradientDescent().with_weight_decay(lam), order=2).on(lam**2, [lam])
    two = mq.GeneralLinearMethod(A=[[1]], B=[[1, 1]], C=[[1], [1]], D=[[0, 0], [0, 0]], colours=(0, 1))
    with pytest.raises(mq.InvalidProblem, match="needs 2 losses or fields, 1 were given"):
        mq.modified_equation(two, order=2).on([u**2], [u])
    with pytest.raises(mq.InvalidProblem, match="the fields are None: .* needs a list of 2 losses or fields"):
        mq.modified_equation(two, order=2).on(None, [u])
    with pytest.raises(mq.InvalidProblem, match="two different symbols share the name beta"):
        mq.modified_equation(mq.HeavyBall(beta), order=2).on(sp.Symbol("beta", positive=True) * u**2, [u])


@pytest.mark.parametrize("derive", [mq.phase_space_form, mq.state_space_form])
def test_forms_that_divide_by_the_learning_rate_refuse_zero(derive):
    with pytest.raises(mq.InvalidProblem, match="h is 0: give a symbol or a finite number, not 0"):
        derive(mq.HeavyBall(0.5), order=2).on(u**2, [u], h=0)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ([[[]]], "has 3 vertices, beyond the truncation order 2: ask for order=3"),
        ((1, []), "has the colour 1, but .*GradientDescent.* has the colours 0 to 0"),
        ("[]", "'\\[\\]' is no tree"),
        (3, "3 is no tree"),
    ],
)
def test_refused_trees(key, message):
    with pytest.raises(mq.InvalidTree, match=message):
        mq.modified_equation(mq.GradientDescent(), order=2)[key]


def test_trees_that_weight_decay_annihilates_have_coefficient_zero():
    equation = mq.modified_equation(mq.GradientDescent().with_weight_decay(lam), order=3)
    annihilated = mq.Tree(1, [(0, []), (0, [])])
    assert annihilated not in equation
    assert equation[annihilated] == 0


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (0, "order is 0: the lowest truncation order is 1"),
        (-1, "order is -1: the lowest"),
        (1.5, "order is 1.5: give a positive integer"),
        (True, "order is True: give a positive integer"),
        (None, "order is None: give a positive integer"),
        (
            30,
            r"order is 30: there are 550,695,545,884 trees with up to 30 vertices in 1 colour\(s\), about 1,817,295 GB",
        ),
        (10**9, r"order is 1000000000: there are more than [\d,]+ trees"),
    ],
)
def test_refused_orders(order, message):
    with pytest.raises(mq.InvalidOrder, match=message):
        mq.modified_equation(mq.GradientDescent(), order=order)


def test_weight_decay_counts_among_the_trees():
    with pytest.raises(mq.InvalidOrder, match=r"order is 13: there are [\d,]+ trees .* in 2 colour"):
        mq.modified_equation(mq.GradientDescent().with_weight_decay(0.1), order=13)


@pytest.mark.parametrize(
    ("order", "buffers", "error", "message"),
    [
        (-1, None, mq.InvalidOrder, "order of an initial layer is -1: give an integer from 0"),
        (1.5, None, mq.InvalidOrder, "order of an initial layer is 1.5"),
        (False, None, mq.InvalidOrder, "order of an initial layer is False"),
        (1, [[1]], mq.InvalidMethod, "buffers has shape 1 x 1, it must be 2 x 1"),
        (1, [0, 1], mq.InvalidMethod, r"buffers is \[0, 1\]: give a matrix"),
        (1, 1, mq.InvalidMethod, "buffers is 1: give a matrix"),
        (1, [[0], ["a"]], mq.InvalidMethod, r"buffers\[1, 0\] is 'a'"),
    ],
)
def test_refused_layers(order, buffers, error, message):
    with pytest.raises(error, match=message):
        mq.modified_equation(mq.HeavyBall(0.5), order=2).initial_layer(order, buffers)


def test_eigenvalues_that_are_no_rational_functions_of_symbols():
    method = mq.GeneralLinearMethod(
        A=[[1, 1, 0], [0, 0, beta], [0, 1, 0]], B=[[1], [1], [0]], C=[[1, 0, 0]], D=[[0]], name="a root"
    )
    assert mq.modified_equation(method, order=2)[[]] != 0
    with pytest.raises(mq.InvalidMethod, match="no rational functions of the symbols: substitute numbers with .subs"):
        mq.modified_equation(method, order=2).initial_layer()


def test_equations_are_mappings_and_values():
    equation = mq.modified_equation(mq.HeavyBall(beta), order=3)
    assert equation.coefficients == dict(equation)
    assert list(equation) == [mq.Tree([]), mq.Tree([[]]), mq.Tree([[[]]]), mq.Tree([[], []])]
    assert mq.Tree([]) in equation
    assert equation.free_symbols == {beta}
    for series in (equation, equation.initial_layer()):
        again = pickle.loads(pickle.dumps(series))
        assert again == series
        assert repr(again) == repr(series)
    irrational = mq.GeneralLinearMethod(
        A=[[1, 1, 0], [0, Q(1, 2), Q(1, 8)], [0, 1, 0]], B=[[1], [1], [0]], C=[[1, 0, 0]], D=[[0]]
    )
    layer = mq.modified_equation(irrational, order=3).initial_layer()
    assert pickle.loads(pickle.dumps(layer)) == layer


def test_the_field_as_an_expression():
    field = mq.modified_equation(mq.GradientDescent(), order=3).field
    f, Hf, HHf, third = (ElementaryDifferential(mq.Tree(tree)) for tree in ([], [[]], [[[]]], [[], []]))
    assert field == f - h * Hf / 2 + h**2 * HHf / 3 + h**2 * third / 12
    assert str(third) == "f''(f,f)"
    assert pickle.loads(pickle.dumps(field)) == field


PRINTED = {
    "gradient descent": (
        mq.GradientDescent(),
        4,
        r"\dot\theta = -g - \frac{1}{2}\,h\,H g - h^{2}\,\left(\frac{1}{3}\,H H g + \frac{1}{12}\,\nabla^3L[g,g]\right)"
        r" - h^{3}\,\left(\frac{1}{4}\,H H H g + \frac{1}{12}\,H \nabla^3L[g,g]"
        r" + \frac{1}{12}\,\nabla^3L[H g,g]\right)",
        "θ' = -g - h/2·H g - h**2/3·H H g - h**2/12·∇^3L[g,g] - h**3/4·H H H g - h**3/12·H ∇^3L[g,g]"
        " - h**3/12·∇^3L[H g,g]",
    ),
    "heavy ball": (
        mq.HeavyBall(beta),
        2,
        r"\dot\theta = -\frac{1}{1 - \beta}\,g - \frac{\beta + 1}{2 \left(1 - \beta\right)^{3}}\,h\,H g",
        "θ' = -1/(1 - beta)·g - h*(beta + 1)/(2*(1 - beta)**3)·H g",
    ),
    "decay": (
        mq.GradientDescent().with_weight_decay(lam),
        2,
        r"\dot\theta = -g - \lambda\,\theta - h\,\left(\frac{1}{2}\,H g + \frac{\lambda}{2}\,H \theta"
        r" + \frac{\lambda}{2}\,g + \frac{\lambda^{2}}{2}\,\theta\right)",
        "θ' = -g - lambda·θ - h/2·H g - h*lambda/2·H θ - h*lambda/2·g - h*lambda**2/2·θ",
    ),
    "RK4": (registry.METHODS["RK4"](), 4, r"\dot\theta = -g", "θ' = -g"),
}


@pytest.mark.parametrize("name", PRINTED)
def test_how_equations_print(name):
    method, order, latex, text = PRINTED[name]
    equation = mq.modified_equation(method, order=order)
    assert equation.latex() == latex
    assert equation._repr_latex_() == f"$\\displaystyle {latex}$"
    assert str(equation) == text
    assert repr(equation) == f"ModifiedEquation({method}, order={order}, {len(equation)} trees)"


def test_how_fields_and_colours_print():
    equation = mq.modified_equation(mq.GradientDescent(), order=3)
    assert equation.latex("field") == (
        r"\dot\theta = f - \frac{1}{2}\,h\,f'(f) + h^{2}\,\left(\frac{1}{3}\,f'(f'(f)) + \frac{1}{12}\,f''(f,f)\right)"
    )
    alternating = mq.GeneralLinearMethod(
        A=[[1]], B=[[1, 1]], C=[[1], [1]], D=[[0, 0], [1, 0]], colours=(0, 1), name="alternating"
    )
    assert mq.modified_equation(alternating, order=2).latex() == (
        r"\dot\theta = -g_{1} - g_{2} + h\,\left(-\frac{1}{2}\,H_{1} g_{1} - \frac{1}{2}\,H_{1} g_{2}"
        r" + \frac{1}{2}\,H_{2} g_{1} - \frac{1}{2}\,H_{2} g_{2}\right)"
    )
    layer = mq.modified_equation(mq.HeavyBall(0.5), order=3).initial_layer()
    assert layer.latex() == r"\theta(0) = \theta_0 + 2\,h\,g + 20\,h^{2}\,H g"
    assert str(layer) == "θ(0) = θ₀ + 2*h·g + 20*h**2·H g"
    assert repr(layer) == "InitialLayer(HeavyBall(momentum=1/2), order=2, 2 trees)"


def test_code_for_torch_agrees_with_numpy_and_can_be_differentiated():
    """Constants like √2 and parameters given as plain numbers too; a further axis is a batch."""
    torch = pytest.importorskip("torch")
    a, beta, h = sp.symbols("a beta h")
    u, v = sp.symbols("u v")
    loss = sp.sin(u) * sp.exp(v) + sp.sqrt(2 + u**2) + sp.sqrt(2) * sp.tanh(v) + sp.sin(a) * u * sp.pi + v**4 / 4
    explicit = mq.modified_equation(mq.HeavyBall(beta), 3).on(loss, [u, v], h=h)
    points = np.array([[0.3, -0.5, 1.0], [0.2, 0.7, -0.4]])
    expected = np.array(explicit.lambdify()(points, 0.2, 0.5, 0.01))
    theta = torch.tensor(points, requires_grad=True)
    found = explicit.lambdify("torch")(theta, 0.2, 0.5, 0.01)
    np.testing.assert_allclose(torch.stack(found).detach().numpy(), expected, rtol=1e-13)
    (slope,) = torch.autograd.grad(found[0].sum(), theta)
    exact = sp.lambdify([u, v], sp.diff(explicit.components[0], v).subs({a: 0.2, beta: 0.5, h: 0.01}))
    np.testing.assert_allclose(slope[1].numpy(), exact(*points), rtol=1e-12)


def test_code_for_anything_else_is_refused():
    x = sp.Symbol("x")
    with pytest.raises(mq.InvalidNotation, match="modules is 'jax': give 'numpy' or 'torch'"):
        mq.modified_equation(mq.GradientDescent(), 1).on(x**2, [x]).lambdify("jax")
