"""The stochastic model: its coefficients, its covariance on concrete losses, and what it refuses."""

import numpy as np
import pytest
import sympy as sp

import modeq as mq
from modeq.symbolic.stochastic import stochastic_equation

alpha, beta, lam, h, x, y = sp.symbols("alpha beta lambda h x y")
BATCHES = [x**4 / 4 + x * y, sp.cos(x) * y**2, sp.exp(x - y)]


def gradient(loss, variables=(x, y)):
    return sp.Matrix([sp.diff(loss, v) for v in variables])


def test_gradient_descent_is_the_model_of_li_tai_and_e():
    """Theorem 1 of arXiv 1511.06251: L + (h/4)|∇L|² drifts, √h Σ^(1/2) spreads."""
    mean = sum(BATCHES) / 3
    deviations = [gradient(loss - mean) for loss in BATCHES]
    sigma = sum((d * d.T for d in deviations), sp.zeros(2)) / 3
    for order in (1, 2):
        model = stochastic_equation(mq.GradientDescent(), order).on(BATCHES, [x, y], h=h)
        modified = mean + (order - 1) * h / 4 * gradient(mean).dot(gradient(mean))
        assert sp.simplify(sp.Matrix(model.drift.components) + gradient(modified)) == sp.zeros(2, 1)
        assert sp.simplify(model.covariance - h * sigma) == sp.zeros(2)


@pytest.mark.parametrize(
    "method, noise",
    [
        (mq.HeavyBall(momentum=beta), 1 / (1 - beta)),
        (mq.HeavyBall(momentum=beta, dampening=alpha), (1 - alpha) / (1 - beta)),
        (mq.Nesterov(momentum=beta), 1 / (1 - beta)),
        (mq.HeavyBall(momentum=beta).with_weight_decay(lam), 1 / (1 - beta)),
        (mq.HeavyBall(momentum=beta).with_weight_decay(lam, decoupled=True), 1 / (1 - beta)),
    ],
)
@pytest.mark.parametrize("order", [1, 2])
def test_momentum_gathers_the_noise_and_the_drift_is_the_modified_equation(method, noise, order):
    equation = stochastic_equation(method, order)
    assert sp.cancel(equation.noise - noise) == 0
    assert equation.drift == mq.modified_equation(method, order)
    losses = [x**2, x**3 - x]
    delta = sp.diff(losses[0] - losses[1], x) / 2
    model = equation.on(losses, [x], h=h)
    assert sp.cancel(model.covariance[0] - h * noise**2 * delta**2) == 0
    assert model.drift == mq.modified_equation(method, order).on(sum(losses) / 2, [x], h=h)


def test_fields_in_place_of_losses():
    rotation = [(-y, x), (-2 * y, x + y)]
    model = stochastic_equation(mq.GradientDescent()).on(rotation, [x, y], h=h)
    assert model.drift.components == (-3 * y / 2, x + y / 2)
    assert model.covariance == h * y**2 / 4 * sp.Matrix([[1, -1], [-1, 1]])


def test_losses_and_fields_in_arrays():
    equation = stochastic_equation(mq.GradientDescent(), order=2)
    expected = equation.on(BATCHES, [x, y], h=h)
    for losses in (sp.Matrix(BATCHES), sp.ImmutableMatrix(BATCHES), np.array(BATCHES), tuple(BATCHES)):
        assert equation.on(losses, [x, y], h=h) == expected
    fields = [tuple(-gradient(loss)) for loss in BATCHES]
    for given in (np.array(fields), [np.array(field) for field in fields], [sp.Matrix(field) for field in fields]):
        assert equation.on(given, [x, y], h=h) == equation.on(fields, [x, y], h=h)


GENERATORS = {
    "translation": (sp.Matrix([1, 1]), x - y),
    "scale": (sp.Matrix([x, y]), x / sp.sqrt(x**2 + y**2)),
    "rescale": (sp.Matrix([x, -y]), x * y),
}


@pytest.mark.some(1)
@pytest.mark.parametrize("family", GENERATORS)
@pytest.mark.parametrize("method", [mq.GradientDescent(), mq.HeavyBall(momentum=beta)], ids=str)
def test_the_noise_is_singular_along_the_generators(family, method):
    """⟨g_k, ξ⟩ = 0 for every batch, and so Σ(θ) ξ(θ) = 0, while Σ itself is not 0."""
    generator, invariant = GENERATORS[family]
    losses = [invariant**2, invariant**3 + 2 * invariant, sp.sin(invariant)]
    covariance = stochastic_equation(method).on(losses, [x, y], h=h).covariance
    assert sp.simplify(covariance * generator) == sp.zeros(2, 1)
    assert covariance.subs({x: 1, y: sp.Rational(1, 2)}) != sp.zeros(2)


def test_text_and_latex():
    damped = stochastic_equation(mq.HeavyBall(momentum=beta, dampening=alpha))
    assert str(damped) == "dθ = (-(1 - alpha)/(1 - beta)·g) dt + √h·(1 - alpha)/(1 - beta)·Σ^(1/2) dW"
    plain = stochastic_equation(mq.GradientDescent(), order=2)
    assert plain.text("field") == "dθ = (f - h/2·f'(f)) dt + √h·Σ^(1/2) dW"
    assert repr(plain) == "StochasticEquation(GradientDescent(), order=2)"
    assert plain._repr_latex_().startswith(r"$\displaystyle d\theta = \left(-g - \frac{1}{2}\,h\,H g\right) dt")
    decayed = stochastic_equation(mq.HeavyBall(momentum=beta).with_weight_decay(lam))
    assert decayed.latex() == (
        r"d\theta = \left(-\frac{1}{1 - \beta}\,g - \frac{\lambda}{1 - \beta}\,\theta\right) dt"
        r" + \sqrt{h}\,\frac{1}{1 - \beta}\,\Sigma^{1/2}\,dW"
    )


def test_equal_models_are_equal():
    one, other = (stochastic_equation(mq.HeavyBall(momentum=0.5), 2) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != stochastic_equation(mq.HeavyBall(momentum=0.5), 1)


def test_orders_beyond_two_are_refused():
    with pytest.raises(mq.InvalidOrder, match="order is 3: give 1 or 2; beyond weak order 2 a modified drift is not"):
        stochastic_equation(mq.GradientDescent(), order=3)
    with pytest.raises(mq.InvalidOrder, match="order"):
        stochastic_equation(mq.GradientDescent(), order=0)


@pytest.mark.parametrize("method", [mq.Extragradient(), mq.ImplicitEuler()], ids=str)
def test_queries_that_depend_on_each_other_are_refused_at_order_two(method):
    assert stochastic_equation(method, order=1).noise == 1
    with pytest.raises(mq.InvalidMethod, match=r"noise enters the drift at order 2: use order=1, .* modified_equation"):
        stochastic_equation(method, order=2)


@pytest.mark.parametrize(
    "method",
    [
        mq.Epoch(mq.GradientDescent(), batches=2),
        mq.Simultaneous([mq.GradientDescent(), mq.GradientDescent()]),
    ],
    ids=str,
)
def test_several_fields_are_refused(method):
    with pytest.raises(mq.InvalidMethod, match="is no single step on one field"):
        stochastic_equation(method)


def test_what_is_no_method_is_refused():
    with pytest.raises(mq.InvalidMethod, match="is no method"):
        stochastic_equation("sgd")


@pytest.mark.parametrize(
    "losses, variables, rate, message",
    [
        (x**2, [x], h, "give a list of at least two, one for each minibatch"),
        ([x**2], [x], h, "give a list of at least two, one for each minibatch"),
        ([x**2, "x"], [x], h, "the loss is 'x'"),
        ([x**2, x], [], h, "variables are"),
        ([beta**2, beta], [beta], h, "are also coefficients"),
        ([x**2, sp.Symbol("x", positive=True)], [x], h, "share the name x"),
        ([x**2, x], [x], x, "which is also a variable"),
        ([x**2, x], [x], sp.oo, "h is oo"),
        ([x**2, x], [x], -1, "h is -1: give a positive number, 0.01 for instance, or a symbol"),
        ([x**2, x], [x], 0.0, "h is 0.0: give a positive number"),
        ([x**2, x], [x], sp.I, "h is I: give a positive number"),
        ([x**2, x], [x], sp.Symbol("h", negative=True), "h is h: give a positive number"),
        (
            [x**2, [x]],
            [x],
            h,
            r"losses are \[x\*\*2, \[x\]\]: give a loss for each minibatch, or for each a field, not",
        ),
        (sp.Matrix([[x, x**2]]), [x], h, "give a list of at least two, one for each minibatch"),
        (np.array(x), [x], h, "give a list of at least two, one for each minibatch"),
        ("xx", [x], h, "give a list of at least two, one for each minibatch"),
    ],
)
def test_losses_that_cannot_be_used_are_refused(losses, variables, rate, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        stochastic_equation(mq.HeavyBall(momentum=beta)).on(losses, variables, h=rate)
