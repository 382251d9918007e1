"""Series as objects: what combines, to which order, and that coloured series obey the same algebra."""

import pickle

import numpy as np
import pytest
import registry
import sympy as sp
from sympy import Rational as Q

import modeq as mq

beta, lam, h = sp.symbols("beta lambda h")
X = sp.symbols("u v")
LOSS = X[0] ** 3 / 3 + X[0] * X[1] ** 2 + X[1] ** 4 / 4 + X[0] * X[1]
f = mq.Tree([])


def decayed(order, decoupled=True):
    return mq.HeavyBall(beta).with_weight_decay(lam, decoupled=decoupled), order


@pytest.mark.parametrize("decoupled", [True, False])
def test_the_flow_of_a_coloured_equation_is_its_map(decoupled):
    method, order = decayed(4, decoupled)
    equation, step = mq.modified_equation(method, order), mq.memoryless_map(method, order)
    assert equation.exponential() == step
    assert step.logarithm() == equation
    assert step.inverse() == (-equation).exponential()
    assert step @ step == (2 * equation).exponential()


def test_a_partitioned_method_after_its_adjoint_is_even():
    """Symplectic Euler in two colours, x first; its adjoint takes y first."""
    euler = mq.GeneralLinearMethod(
        A=[[1]], B=[[1, 1]], C=[[1], [1]], D=[[0, 0], [1, 0]], colours=(0, 1), name="one field after the other"
    )
    step = mq.memoryless_map(euler, 4)
    assert (step @ step.adjoint()).logarithm().is_even()
    assert not step.logarithm().is_even()


def test_combinations_have_the_lower_order():
    long, short = (mq.modified_equation(mq.GradientDescent(), order=p) for p in (4, 2))
    assert (long - short).order == 2
    assert set((long - short).values()) == {0}
    step = mq.memoryless_map(mq.GradientDescent(), order=3) @ mq.memoryless_map(mq.ImplicitEuler(), order=5)
    assert step.order == 3


def test_equality_is_that_of_coefficients():
    ball, descent = (mq.modified_equation(m, 3) for m in (mq.HeavyBall(0), mq.GradientDescent()))
    assert ball == descent
    assert hash(ball) == hash(descent)
    assert ball != mq.modified_equation(mq.GradientDescent(), 4)
    assert ball != mq.memoryless_map(mq.GradientDescent(), 3)
    assert ball != ball.coefficients
    assert mq.modified_equation(mq.HeavyBall(beta), 3) != descent
    # One function, written in two ways.
    one, other = (mq.BSeriesField.from_coefficients({f: c}, order=2) for c in ((1 - beta**2) / (1 - beta), 1 + beta))
    assert one == other
    assert mq.modified_equation(*decayed(2)) != mq.modified_equation(mq.HeavyBall(beta).with_weight_decay(1), 2)


def test_truncation_keeps_the_method():
    equation = mq.modified_equation(mq.HeavyBall(Q(1, 2)), order=4).truncated(2)
    assert equation == mq.modified_equation(mq.HeavyBall(Q(1, 2)), order=2)
    assert type(equation) is mq.ModifiedEquation
    assert equation.initial_layer().order == 1
    assert equation.truncated(9).order == 2


def test_rescaled_is_another_learning_rate():
    equation = mq.modified_equation(mq.Nesterov(beta), order=3)
    mine, other = equation.rescaled(Q(1, 3)).on(LOSS, X, h=h), equation.on(LOSS, X, h=h / 3)
    assert all(sp.simplify(a - b) == 0 for a, b in zip(mine.components, other.components, strict=True))


def test_the_modified_equation_of_an_exact_flow_is_the_field_itself():
    field = mq.BSeriesField.from_coefficients({f: 1}, order=5)
    assert set(field.exponential().values()) >= {Q(1, 120), Q(1, 20)}
    assert field.exponential().logarithm() == field


@pytest.mark.parametrize("name", [name for name in registry.METHODS if "decay" not in name])
def test_running_a_method_on_its_modifying_equation_is_exact(name):
    method, order = registry.METHODS[name](), 4
    field = mq.BSeriesField.from_coefficients({f: 1}, order)
    assert mq.modified_equation(method, order).substitute(mq.modifying_equation(method, order)) == field
    assert mq.memoryless_map(method, order).substitute(mq.modifying_equation(method, order)) == field.exponential()


GRADIENT_PARTS = {
    "heavy ball": mq.HeavyBall(beta),
    "coupled": mq.HeavyBall(beta).with_weight_decay(lam),
    "decoupled": mq.HeavyBall(beta).with_weight_decay(lam, decoupled=True),
    "Nesterov, decay": mq.Nesterov(Q(1, 2)).with_weight_decay(lam),
}


@pytest.mark.some(1)
@pytest.mark.parametrize("name", GRADIENT_PARTS)
def test_gradient_part_and_remainder_add_up(name):
    equation = mq.modified_equation(GRADIENT_PARTS[name], 3)
    loss, remainder = equation.gradient_part()
    written = loss.on(LOSS, X, h=h)
    assert not equation.gradient_test()
    assert any(remainder.values())
    for whole, rest, x in zip(
        equation.on(LOSS, X, h=h).components, remainder.on(LOSS, X, h=h).components, X, strict=True
    ):
        assert sp.cancel(whole + sp.diff(written, x) - rest) == 0


@pytest.mark.parametrize("name", GRADIENT_PARTS)
def test_a_gradient_leaves_no_remainder(name):
    equation = mq.modified_equation(GRADIENT_PARTS[name], 2)
    loss, remainder = equation.gradient_part()
    assert equation.gradient_test()
    assert set(remainder.values()) == {0}
    assert loss.terms == equation.modified_loss().terms


def test_the_remainder_is_orthogonal_to_gradients():
    """Σ over the rootings of one unrooted tree of b(τ)/σ(τ) vanishes: the mean over its vertices."""
    _, remainder = mq.modified_equation(mq.HeavyBall(beta), 3).gradient_part()
    assert sp.cancel(sum(remainder[tree] / tree.symmetry for tree in mq.trees(3))) == 0


def test_what_does_not_combine_is_refused():
    equation, step = mq.modified_equation(mq.GradientDescent(), 2), mq.memoryless_map(mq.GradientDescent(), 2)
    with pytest.raises(
        mq.InvalidSeries, match=r"MemorylessMap.* is no BSeriesField: build one with BSeriesField\.from"
    ):
        equation + step
    with pytest.raises(mq.InvalidSeries, match=r"1 is no BSeriesField"):
        equation - 1
    with pytest.raises(mq.InvalidSeries, match=r"is no BSeriesMap"):
        step @ equation
    with pytest.raises(mq.InvalidSeries, match=r"are series of different fields: give them the same number of colours"):
        equation + mq.modified_equation(*decayed(2))
    with pytest.raises(mq.InvalidMethod, match=r"series has the fields \[0, 1\]: this test is for one field"):
        mq.modified_equation(*decayed(2)).substitution_inverse()
    with pytest.raises(mq.InvalidMethod, match=r"factor is 'a': give a number or a sympy expression"):
        equation * "a"
    with pytest.raises(mq.InvalidOrder, match="order is 0"):
        equation.truncated(0)
    nothing = mq.BSeriesField.from_coefficients({}, order=2)
    with pytest.raises(mq.InvalidMethod, match="no first-order term"):
        nothing.substitution_inverse()


def test_coefficients_that_make_no_series_are_refused():
    with pytest.raises(mq.InvalidTree, match=r"Tree\(\[\[\[\]\]\]\) is not among the trees with at most 2 vertices"):
        mq.BSeriesField.from_coefficients({mq.Tree([[[]]]): 1}, order=2)
    with pytest.raises(mq.InvalidTree, match="in 1 colour"):
        mq.BSeriesMap.from_coefficients({mq.Tree(1, []): 1}, order=2)
    with pytest.raises(mq.InvalidMethod, match=r"the coefficient of Tree\(\[\]\) is nan: give a finite number"):
        mq.BSeriesMap.from_coefficients({f: float("nan")}, order=1)
    with pytest.raises(mq.InvalidMethod, match=r"is 'x': give a number"):
        mq.BSeriesMap.from_coefficients({f: "x"}, order=1)
    with pytest.raises(mq.InvalidSeries, match="coefficients is None: give a mapping from trees to numbers"):
        mq.BSeriesMap.from_coefficients(None, order=1)
    with pytest.raises(mq.InvalidSeries, match="a coefficient has the symbol h: the names h, x, z, zeta are reserved"):
        h * mq.modified_equation(mq.GradientDescent(), 2)


def test_numbers_of_numpy_multiply_a_field_from_either_side():
    equation = mq.modified_equation(mq.HeavyBall(0.5), 3)
    assert np.float64(0.5) * equation == equation * Q(1, 2)
    assert np.int64(2) * equation == equation + equation


@pytest.mark.parametrize("method", [mq.HeavyBall(0.5), decayed(2)[0]], ids=str)
@pytest.mark.parametrize(
    "derive",
    [
        mq.modified_equation,
        mq.time_derivative_form,
        mq.phase_space_form,
        mq.state_space_form,
        lambda method, order: mq.memoryless_map(method, order).modified_loss(order),
    ],
)
def test_what_is_derived_is_a_value(method, derive):
    """It survives a copy through bytes, with the same hash."""
    value = derive(method, 2)
    copied = pickle.loads(pickle.dumps(value))
    assert copied == value
    assert hash(copied) == hash(value)
    assert value != derive(method, 1)


def test_how_series_print():
    equation = mq.modified_equation(mq.HeavyBall(beta), 2)
    assert str(equation) == equation.text() == "θ' = -1/(1 - beta)·g - h*(beta + 1)/(2*(1 - beta)**3)·H g"
    assert equation.text("field") == "θ' = 1/(1 - beta)·f - h*(beta + 1)/(2*(1 - beta)**3)·f'(f)"
    assert "β" in equation.pretty()
    assert equation.pretty().count("\n") >= 2
    step = mq.memoryless_map(mq.HeavyBall(Q(1, 2)), 2)
    assert step.latex() == r"\theta^+ = \theta - 2\,h\,g - 4\,h^{2}\,H g"
    assert (step @ step).text() == "θ⁺ = θ - 4*h·g - 4*h**2·H g"
    assert mq.modifying_equation(mq.GradientDescent(), 2).latex() == r"\hat f = -g + \frac{1}{2}\,h\,H g"
    layer = mq.modified_equation(mq.HeavyBall(Q(1, 2)), 2).initial_layer()
    assert layer.latex() == r"\theta(0) = \theta_0 + 2\,h\,g"
    assert layer._repr_latex_() == rf"$\displaystyle {layer.latex()}$"
    with pytest.raises(mq.InvalidNotation, match="notation is 'hessian'"):
        equation.pretty("hessian")


def test_given_vectors_are_no_fields():
    """Their colours are leaves only: a series of as many fields has other trees, and is another series."""
    layer = mq.modified_equation(mq.HeavyBall(Q(1, 2)), 3).initial_layer(2, buffers="given")
    fields = mq.BSeriesMap.from_coefficients({}, order=2, colours=layer.colour_count)
    assert layer != fields
    assert layer == layer.truncated(2)
    with pytest.raises(mq.InvalidSeries, match="different fields: .* the same given vectors"):
        layer @ fields
    assert set((layer.inverse() @ layer).values()) == {0}


def test_a_layer_without_terms():
    nothing = mq.modified_equation(mq.HeavyBall(beta), 1).initial_layer()
    assert len(nothing) == nothing.order == 0
    assert nothing == nothing.inverse() == nothing @ nothing


def test_equal_series_have_one_hash_however_they_are_written():
    one = mq.phase_space_form(mq.HeavyBall(Q(1, 2)), order=3).vector_field(3)
    other = mq.modified_equation(mq.HeavyBall(Q(1, 2)), order=3)
    assert one == other
    assert hash(one) == hash(other)
