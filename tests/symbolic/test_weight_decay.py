"""Weight decay of every method, with λ a symbol: it is the loss L + (λ/2)|θ|², or a shrinking of θ."""

import numpy as np
import pytest
import registry
import sympy as sp

import modeq as mq

lam, h, u, v = sp.symbols("lambda h u v")
LOSS = u**3 / 3 + u * v**2 + v**4 / 4 + u * v
PLAIN = [name for name, make in registry.METHODS.items() if not make().decay]


@pytest.mark.parametrize("name", PLAIN)
def test_coupled_decay_is_that_of_the_loss(name):
    method, order = registry.METHODS[name](), 3
    decayed = mq.modified_equation(method.with_weight_decay(lam), order).on(LOSS, [u, v], h=h)
    plain = mq.modified_equation(method, order).on(LOSS + lam / 2 * (u**2 + v**2), [u, v], h=h)
    assert all(sp.expand(a - b) == 0 for a, b in zip(decayed.components, plain.components, strict=True))


@pytest.mark.parametrize("name", PLAIN)
def test_decoupled_decay_shrinks_the_parameters(name):
    """Without a gradient θ⁺ = (1 − hλ)θ, whose modified equation is θ' = h⁻¹ log(1 − hλ) θ."""
    method, order = registry.METHODS[name]().with_weight_decay(lam, decoupled=True), 4
    field = mq.modified_equation(method, order).on(sp.Integer(0), [u], h=h).components[0]
    assert sp.expand(field - sp.series(sp.log(1 - h * lam) / h, h, 0, order).removeO() * u) == 0


@pytest.mark.parametrize("name", PLAIN)
def test_decoupled_decay_is_not_seen_by_the_gradient(name):
    """The first step is the step without decay, less hλ e X₀."""
    method = registry.METHODS[name]()
    if not method.is_explicit:
        pytest.skip("an implicit query sees the decayed state")
    problem, start = mq.SymbolicProblem(LOSS, [u, v]), np.array([0.4, -0.3])
    plain, decayed = (
        mq.iterate(m, problem, start, h=0.1, steps=1).y
        for m in (method, method.with_weight_decay(0.25, decoupled=True))
    )
    theta = start + 0.1 * float((method.readout * method.start)[0]) * problem.field(start)  # X₀ = u θ₀ + h S f
    np.testing.assert_allclose(decayed[1], plain[1] - 0.1 * 0.25 * theta, rtol=1e-14, atol=1e-15)


def test_decoupled_decay_does_not_depend_on_the_variables():
    """Heavy ball on (θ, v) as torch stores it, and on (θ, θ⁻), where the memory is a difference of iterates."""
    beta = sp.Symbol("beta")
    pair = mq.GeneralLinearMethod(A=[[1 + beta, -beta], [1, 0]], B=[[1], [0]], C=[[1, 0]], D=[[0]], name="in pairs")
    one, other = (
        mq.modified_equation(method.with_weight_decay(lam, decoupled=True), 4) for method in (pair, mq.HeavyBall(beta))
    )
    assert one == other
