"""Is the modified field a gradient, and of which loss?"""

import pytest
import registry
import sympy as sp
from sympy import Rational as Q

import modeq as mq

beta, lam, h = sp.symbols("beta lambda h")
s = 1 - beta
X = sp.symbols("u v w")


def gradient(expression, variables=X):
    return [sp.diff(expression, x) for x in variables]


def is_gradient(field, variables=X):
    """The Jacobian is symmetric."""
    jacobian = sp.Matrix(field).jacobian(variables)
    return all(sp.expand(entry) == 0 for entry in jacobian - jacobian.T)


def test_gradient_descent_is_a_gradient_flow_to_order_two_only():
    two, three = (mq.modified_equation(mq.GradientDescent(), order=p).gradient_test() for p in (2, 3))
    assert two
    assert (two.holds, two.order, two.witnesses) == (True, 2, ())
    assert not three
    assert (three.holds, three.order) == (False, 2)
    ((first, b), (second, c)) = three.witnesses[0]
    assert {first: b, second: c} == {mq.Tree([[[]]]): Q(1, 3), mq.Tree([[], []]): Q(1, 6)}


@pytest.mark.parametrize("make", [mq.HeavyBall, mq.Nesterov])
def test_momentum_is_a_gradient_flow_to_order_two_only(make):
    equation = mq.modified_equation(make(momentum=beta), order=3)
    test = equation.gradient_test()
    assert test.order == 2
    ((first, b), (second, c)) = test.witnesses[0]
    assert (b, c) == (equation[first], equation[second])


@pytest.mark.parametrize(("a", "order"), [(Q(2, 3), 3), (Q(1, 4), 2), (Q(1), 2)])
def test_a_method_that_is_a_gradient_flow_to_order_three(a, order):
    """Of second order, Σ bᵢcᵢ = 1/2, so that b(τ) = Φ(τ) − 1/γ(τ) at three vertices.

    Chain and bush agree iff Σ bᵢaᵢⱼcⱼ − 1/6 = Σ bᵢcᵢ² − 1/3: here a/2 − 1/6 = 1/2 − 1/3.
    """
    method = mq.RungeKutta([[0, 0], [1 - a, a]], [Q(1, 2), Q(1, 2)], "two stages")
    assert mq.modified_equation(method, order=3).gradient_test().order == order


def test_losses_in_closed_form():
    descent = mq.modified_equation(mq.GradientDescent(), order=2).modified_loss()
    assert descent.terms == {(0, mq.Tree([])): 1, (1, mq.Tree([[]])): Q(-1, 4)}  # S([•]) = −|g|²
    ball = mq.modified_equation(mq.HeavyBall(beta), order=2).modified_loss()
    assert sp.cancel(ball.terms[0, mq.Tree([])] - 1 / s) == 0
    assert sp.cancel(ball.terms[1, mq.Tree([[]])] + (1 + beta) / (4 * s**3)) == 0
    assert len(ball.terms) == 2


def expected_with_decay(loss, decoupled):
    """What integrating −f̃ by hand gives at order 2, for the heavy ball."""
    g = sp.Matrix(gradient(loss))
    theta = sp.Matrix(X)
    if not decoupled:  # the same as no decay, on L + (λ/2)|θ|²
        full = loss + lam / 2 * theta.dot(theta)
        G = sp.Matrix(gradient(full))
        return full / s + h * (1 + beta) / (4 * s**3) * G.dot(G)
    return (
        loss / s
        + lam / 2 * theta.dot(theta)
        + h
        * (
            (1 + beta) / (4 * s**3) * g.dot(g)
            + lam * (1 + beta) / (2 * s**2) * (theta.dot(g) - loss)
            + lam / (2 * s) * loss
            + lam**2 / 4 * theta.dot(theta)
        )
    )


@pytest.mark.parametrize("decoupled", [False, True])
def test_heavy_ball_with_weight_decay_at_order_two(decoupled):
    loss = X[0] ** 3 * X[1] + X[1] ** 2 * X[2] - X[2] ** 4 + X[0] * X[2]
    method = mq.HeavyBall(beta).with_weight_decay(lam, decoupled=decoupled)
    found = mq.modified_equation(method, order=2).modified_loss().on(loss, X, h=h)
    assert sp.cancel(sp.together(found - expected_with_decay(loss, decoupled))) == 0


@pytest.mark.some(18)
@pytest.mark.parametrize("name", [n for n in registry.METHODS if "0.9" not in n or "decay" in n])
def test_the_loss_integrates_the_field(name):
    """−∇L̃ = f̃ at the largest order that is a gradient, on one rich loss, for every registered method."""
    loss = X[0] ** 3 * X[1] + X[1] ** 2 * X[2] - X[2] ** 4 + X[0] * X[2] + X[0]
    method = registry.METHODS[name]()
    order = mq.modified_equation(method, order=3).gradient_test().order
    equation = mq.modified_equation(method, order=order)
    modified = equation.modified_loss()
    assert modified.order == order
    field = equation.on(loss, X).components
    for mine, theirs in zip(gradient(modified.on(loss, X)), field, strict=True):
        assert sp.expand(mine + theirs) == 0


@pytest.mark.some(2)
@pytest.mark.parametrize("name", ["gradient descent", "heavy ball 0.5", "heavy ball 0.5, decoupled decay", "RK4"])
def test_the_verdict_is_that_of_the_jacobian(name):
    """On a generic loss the field has a symmetric Jacobian exactly as far as the test says."""
    loss = X[0] ** 3 * X[1] + X[1] ** 2 * X[2] ** 2 - X[2] ** 4 + X[0] * X[2] + X[0] + X[0] ** 2
    method = registry.METHODS[name]()
    equation = mq.modified_equation(method, order=5 if name == "RK4" else 3)
    order = equation.gradient_test().order
    assert order == (4 if name == "RK4" else 2)
    for p in range(1, equation.order + 1):
        field = mq.modified_equation(method, order=p).on(loss, X, h=1).components
        assert is_gradient(field) == (p <= order)


def test_a_field_without_the_weight_decay_rule_would_be_refused():
    """Decoupled decay: the coefficients of [•₁] and [•]₁ differ, yet the field is a gradient since f' = −λI."""
    equation = mq.modified_equation(mq.HeavyBall(beta).with_weight_decay(lam, decoupled=True), order=2)
    inside, outside = mq.Tree(0, [(1, [])]), mq.Tree(1, [(0, [])])
    assert sp.cancel(equation[inside] - equation[outside]) != 0
    assert equation.gradient_test().holds


def test_two_players_on_one_loss_are_no_gradient_flow_when_they_alternate():
    alternating = mq.GeneralLinearMethod(
        A=[[1]], B=[[1, 1]], C=[[1], [1]], D=[[0, 0], [1, 0]], colours=(0, 1), name="alternating"
    )
    test = mq.modified_equation(alternating, order=2).gradient_test()
    assert test.order == 1
    assert {tree: value for pair in test.witnesses for tree, value in pair}[mq.Tree(1, [(0, [])])] == Q(1, 2)


@pytest.mark.parametrize(
    ("derived", "order", "error", "message"),
    [
        (4, 3, mq.NotAGradientFlow, r"no gradient at order 3: .* 1/3 and 1/6; ask for order=2 or lower"),
        (4, 4, mq.NotAGradientFlow, r"no gradient at order 3"),
        (2, 3, mq.NotAGradientFlow, r"derived to order 2: derive it to order=3"),
        (2, 0, mq.InvalidOrder, "order is 0: the lowest"),
        (2, 1.5, mq.InvalidOrder, "order is 1.5: give a positive integer"),
        (2, True, mq.InvalidOrder, "order is True"),
    ],
)
def test_orders_that_are_refused(derived, order, error, message):
    with pytest.raises(error, match=message):
        mq.modified_equation(mq.GradientDescent(), order=derived).modified_loss(order)


def test_a_modified_loss_needs_a_loss():
    modified = mq.modified_equation(mq.GradientDescent(), order=2).modified_loss()
    with pytest.raises(mq.InvalidProblem, match="a loss and not a vector field"):
        modified.on([X[0]], [X[0]])
    with pytest.raises(mq.InvalidProblem, match="h is u, which is also a variable"):
        modified.on(X[0] ** 2, [X[0]], h=X[0])


def test_how_losses_print():
    two = mq.modified_equation(mq.HeavyBall(beta).with_weight_decay(lam, decoupled=True), order=2).modified_loss()
    assert two.latex() == (
        r"\tilde L = \frac{\lambda}{2}\,|\theta|^2 + \frac{1}{1 - \beta}\,L + \frac{\lambda^{2}}{4}\,h\,|\theta|^2"
        r" + \frac{\lambda \left(\beta + 1\right)}{2 \left(1 - \beta\right)^{2}}\,h\,\langle \theta,g\rangle"
        r" - \frac{\beta \lambda}{\left(1 - \beta\right)^{2}}\,h\,L"
        r" + \frac{\beta + 1}{4 \left(1 - \beta\right)^{3}}\,h\,|g|^2"
    )
    assert repr(two).startswith("ModifiedLoss(of ModifiedEquation(HeavyBall(momentum=beta)")
    assert two._repr_latex_() == f"$\\displaystyle {two.latex()}$"
    four = mq.modified_equation(registry.METHODS["RK4"](), order=4).modified_loss()
    assert str(four) == "L"
