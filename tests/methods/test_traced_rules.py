"""Plain Python update rules become the methods they are, and what is not linear is refused with its line."""

import pytest
import sympy as sp

import modeq as mq

beta, alpha, lam, nu = sp.symbols("beta alpha lambda nu")


def heavy_ball(theta, v, gradient, h):
    v = beta * v + (1 - alpha) * gradient(theta)
    return theta - h * v, v


def heavy_ball_with_a_buffer_in_units_of_theta(theta, v, gradient, h):
    v = beta * v - h * gradient(theta)
    return theta + v, v


def torch_nesterov_with_decay(theta, v, gradient, h):
    g = gradient(theta) + lam * theta
    v = beta * v + g
    return theta - h * (g + beta * v), v


def decoupled(theta, v, gradient, h):
    v = beta * v + gradient(theta)
    return (1 - h * lam) * theta - h * v, v


def classical_nesterov(x, y, gradient, h):
    new = y - h * gradient(y)
    return new, new + beta * (new - x)


def extragradient(theta, gradient, h):
    return theta - h * gradient(theta - h * gradient(theta))


def quasi_hyperbolic(v, theta, gradient, h):
    g = gradient(theta)
    v = beta * v + (1 - beta) * g
    return v, theta - h * ((1 - nu) * g + nu * v)


def optimistic(theta, last, gradient, h):
    g = gradient(theta)
    return theta - 2 * h * g + h * last, g


RULES = {
    heavy_ball: (mq.HeavyBall(beta, alpha), {}),
    heavy_ball_with_a_buffer_in_units_of_theta: (mq.HeavyBall(beta), {}),
    torch_nesterov_with_decay: (mq.Nesterov(beta).with_weight_decay(lam), {}),
    decoupled: (mq.HeavyBall(beta).with_weight_decay(lam, decoupled=True), {}),
    classical_nesterov: (mq.ClassicalNesterov(beta), {"parameters": "x"}),
    extragradient: (mq.Extragradient(), {}),
    quasi_hyperbolic: (mq.QuasiHyperbolic(beta, nu), {}),
    optimistic: (mq.OptimisticGradient(), {"start": {"last": 1}}),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_has_the_equation_of_its_method(rule):
    method, keywords = RULES[rule]
    traced, known = (mq.modified_equation(m, 3) for m in (mq.method_from(rule, **keywords), method))
    assert traced.coefficients.keys() == known.coefficients.keys()
    for tree in known:
        assert sp.cancel(traced[tree] - known[tree]) == 0, tree
    assert traced.method.decay == method.decay


def test_a_rule_runs_like_its_method():
    x = sp.Symbol("x")
    problem = mq.SymbolicProblem(x**4 / 4 + x**2, [x])
    values = {beta: 0.7, alpha: 0.2}
    traced = mq.method_from(heavy_ball, start={"v": sp.Rational(2, 7)}).subs(values)
    known = mq.HeavyBall(0.7, 0.2)
    first, second = (mq.iterate(m, problem, [1.0], h=0.05, steps=20).y for m in (traced, known))
    assert abs(first - second).max() < 1e-14


def test_an_optimizer_in_other_words_has_its_limits():
    assert mq.method_from(optimistic).stability_limit() == sp.Rational(2, 3)


def quadratic(theta, gradient, h):
    return theta - h * theta * gradient(theta)


def power(theta, gradient, h):
    step = gradient(theta) ** 2
    return theta - h * step


def normalised(theta, gradient, h):
    g = gradient(theta)
    return theta - h * g / abs(g)


def branch(theta, gradient, h):
    g = gradient(theta)
    if g > 0:
        return theta - h * g
    return theta + h * g


def constant(theta, gradient, h):
    return theta + 1 - h * gradient(theta)


def attribute(theta, gradient, h):
    return theta - h * gradient(theta).sign()


@pytest.mark.parametrize(
    "rule, message",
    [
        (quadratic, r"line 2, `return theta - h \* theta \* gradient\(theta\)`, multiplies states or gradients"),
        (power, r"line 2, `step = gradient\(theta\) \*\* 2`, is no sum of multiples"),
        (normalised, r"line 3, `return theta - h \* g / abs\(g\)`"),
        (branch, r"line 3, `if g > 0:`"),
        (constant, r"line 2, .*adds the constant 1"),
        (attribute, r"line 2, .*uses \.sign of a state or gradient"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_rules_that_are_not_linear(rule, message):
    with pytest.raises(mq.UnsupportedOptimizer, match=message):
        mq.method_from(rule)


def unbalanced(theta, v, gradient, h):
    v = beta * v + gradient(theta) + h * gradient(theta)
    return theta - h * v, v


def test_rules_that_do_not_fit():
    with pytest.raises(mq.InvalidMethod, match="parameters is 'w', but the rule has the arguments"):
        mq.method_from(heavy_ball, parameters="w")
    with pytest.raises(mq.InvalidMethod, match=r"start names \['u'\], the rule's buffers are \['v'\]"):
        mq.method_from(heavy_ball, start={"u": 1})
    with pytest.raises(mq.InvalidMethod, match=r"must return its 2 new states \['theta', 'v'\]"):
        mq.method_from(lambda theta, v, gradient, h: theta - h * gradient(theta))
    with pytest.raises(mq.InvalidMethod, match="takes no gradient"):
        mq.method_from(lambda theta, gradient, h: theta)
    with pytest.raises(mq.InvalidMethod, match="powers of h in the new .* cannot be balanced"):
        mq.method_from(unbalanced)
    with pytest.raises(mq.UnsupportedOptimizer, match=r"takes the gradient at 0"):
        mq.method_from(lambda theta, gradient, h: theta - h * gradient(0))
