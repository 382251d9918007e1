"""Epochs in random order: published coefficients, closed forms, and every order of the batches enumerated."""

from functools import cache

import pytest
import sympy as sp
from epochs_by_enumeration import averaged_logarithm, expected_by_enumeration, over_batches
from sympy import Rational as Q

import modeq as mq
from modeq.methods.minibatches import LARGEST_EPOCH

beta, lam, h = sp.symbols("beta lambda h")
m = sp.Symbol("m", positive=True)
x, y = sp.symbols("x y")
NOISE = mq.Tree(1, [(1, [])])  # E[δ'δ] = ½∇V for f = −∇L
s = 1 - beta


@cache
def expected(method, sampling, order, batches=m):
    return mq.modified_equation(mq.Epoch(method, batches=batches).expected(sampling), order)


def equal(a, b):
    return sp.simplify(a - b) == 0


def kappa(equation):
    """κ in L̃ = … + (hκ/2) V."""
    return -equation[NOISE]


def test_gradient_descent_reshuffled_is_that_of_smith_and_others():
    """Smith, Dherin, Barrett, De 2021, eq. (1): L̃ = L + (h/4)·(1/m) Σ |∇L_k|²."""
    loss = expected(mq.GradientDescent(), "reshuffling", 2).modified_loss()
    losses = [x**2 * y, sp.cos(x) + y**2, x * y**3]
    mean = sp.Add(*losses) / 3
    squares = sum(sp.diff(part, v) ** 2 for part in losses for v in (x, y)) / 3
    assert sp.expand(loss.on(losses, [x, y], h=h) - mean - h / 4 * squares) == 0


def test_the_variance_is_that_of_the_batches():
    """(1/m) Σ |∇L_k|² = |∇L|² + V."""
    loss = expected(mq.GradientDescent(), "reshuffling", 2).modified_loss()
    assert str(loss) == "L + h/4·|g|^2 + h/4·V"
    assert loss.latex() == r"\tilde L = L + \frac{1}{4}\,h\,|g|^2 + \frac{1}{4}\,h\,V"


def test_with_replacement_there_is_no_variance_at_this_order():
    assert str(expected(mq.GradientDescent(), "replacement", 2).modified_loss()) == "L + h/4·|g|^2"


def test_the_mean_of_the_logarithms_differs_with_replacement_from_order_two_on():
    equation = expected(mq.GradientDescent(), "replacement", 2)
    assert kappa(equation.average_of_logarithms) == Q(1, 2)
    assert kappa(equation) == 0


def test_without_replacement_the_two_agree_for_gradient_descent():
    """The first term of the logarithm of an epoch is the same in every order: their variance is of order h⁴."""
    equation = expected(mq.GradientDescent(), "reshuffling", 3)
    assert equation == equation.average_of_logarithms
    with_momentum = expected(mq.HeavyBall(momentum=Q(1, 2)), "reshuffling", 2)
    assert with_momentum != with_momentum.average_of_logarithms


def test_heavy_ball_reshuffled_every_epoch():
    """κ = (1/s²)[½ − β(ms − 1 + βᵐ)/(m(m−1)s²)]."""
    equation = expected(mq.HeavyBall(momentum=beta), "reshuffling", 2)
    closed = (Q(1, 2) - beta * (m * s - 1 + beta**m) / (m * (m - 1) * s**2)) / s**2
    assert equal(kappa(equation), closed)
    assert equation[[[]]] == mq.modified_equation(mq.HeavyBall(momentum=beta), 2)[[[]]]


def test_heavy_ball_in_one_fixed_random_order():
    """κ = (1/s²)[½ + (m/(m−1))βᵐ/(1−βᵐ) − β/((m−1)s)]."""
    equation = expected(mq.HeavyBall(momentum=beta), "fixed order, averaged", 2)
    closed = (Q(1, 2) + m / (m - 1) * beta**m / (1 - beta**m) - beta / ((m - 1) * s)) / s**2
    assert equal(kappa(equation), closed)


def test_heavy_ball_with_replacement_has_no_variance_at_order_two():
    assert kappa(expected(mq.HeavyBall(momentum=beta), "replacement", 2)) == 0


@pytest.mark.parametrize("sampling", ["reshuffling", "fixed order, averaged"])
def test_many_batches_are_half_of_the_momentum_squared(sampling):
    """For m → ∞ only the pairs far apart count: κ → 1/(2s²)."""
    value = kappa(expected(mq.HeavyBall(momentum=Q(1, 2)), sampling, 2))
    assert sp.limit(value, m, sp.oo) == 2


def test_dampening_scales_as_the_learning_rate():
    alpha = sp.Symbol("alpha")
    plain, dampened = (expected(mq.HeavyBall(momentum=beta, dampening=a), "reshuffling", 2) for a in (0, alpha))
    assert all(equal(dampened[t], (1 - alpha) ** t.order * plain[t]) for t in plain)


METHODS = {
    "gradient descent": mq.GradientDescent(),
    "heavy ball": mq.HeavyBall(momentum=Q(1, 2)),
    "dampened": mq.HeavyBall(momentum=Q(1, 2), dampening=Q(1, 3)),
    "Nesterov": mq.Nesterov(momentum=Q(1, 3)),
    "classical Nesterov": mq.ClassicalNesterov(momentum=Q(1, 2)),
    "triple momentum": mq.TripleMomentum(Q(1, 2), Q(1, 4), Q(1, 8)),
    "extragradient": mq.Extragradient(),
    "optimistic gradient": mq.OptimisticGradient(),
    "PID": mq.PID(momentum=Q(3, 5), derivative=10, integral=5, proportional=1),
    "implicit Euler": mq.ImplicitEuler(),
    "coupled decay": mq.HeavyBall(momentum=Q(1, 2)).with_weight_decay(Q(1, 4)),
    "decoupled decay": mq.HeavyBall(momentum=Q(1, 2)).with_weight_decay(Q(1, 4), decoupled=True),
    "symbolic momentum": mq.HeavyBall(momentum=beta),
}


def cases():
    """Three batches with replacement are 27 orders: by default for two methods, for those of one query slow."""
    for name, method in METHODS.items():
        for sampling in ("reshuffling", "replacement"):
            for batches in (2, 3):
                large = sampling == "replacement" and batches == 3
                if large and (method.query_count > 1 or method.free_symbols):
                    continue  # 162 queries, or symbols in 81: minutes
                default = name in ("gradient descent", "heavy ball") or not (large or (batches == 3 and name[0] == "s"))
                marks = () if default else pytest.mark.slow
                yield pytest.param(name, sampling, batches, marks=marks, id=f"{name}-{sampling}-{batches}")


@pytest.mark.some(6)
@pytest.mark.parametrize(("name", "sampling", "batches"), list(cases()))
def test_the_expected_map_is_that_of_all_orders_enumerated(name, sampling, batches):
    method = METHODS[name]
    order = 3
    equation = expected(method, sampling, order, batches)
    found, enumerated = over_batches(equation, batches), expected_by_enumeration(method, sampling, batches, order)
    assert all(equal(found[tree], value) for tree, value in enumerated.items())
    assert any(value != 0 for tree, value in equation.items() if 1 in tree.colours)


@pytest.mark.some(8)
@pytest.mark.parametrize("batches", [2, 3])
@pytest.mark.parametrize("sampling", ["reshuffling", "replacement"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "symbolic momentum"])
def test_the_mean_of_the_logarithms_is_that_of_all_orders_enumerated(name, sampling, batches):
    method = METHODS[name]
    equation = expected(method, sampling, 3, batches).average_of_logarithms
    found, enumerated = over_batches(equation, batches), averaged_logarithm(method, sampling, batches, 3)
    assert all(equal(found[tree], enumerated[tree]) for tree in found)
    if sampling == "reshuffling":
        assert equation == expected(method, "fixed order, averaged", 3, batches)


def test_four_batches_in_all_orders():
    method = mq.HeavyBall(momentum=Q(1, 2))
    found = over_batches(expected(method, "reshuffling", 2, 4), 4)
    enumerated = expected_by_enumeration(method, "reshuffling", 4, 2)
    assert all(equal(found[tree], value) for tree, value in enumerated.items())


@pytest.mark.some(5)
@pytest.mark.parametrize("logarithms", [False, True])
@pytest.mark.parametrize("sampling", ["reshuffling", "replacement"])
@pytest.mark.parametrize(
    "name",
    [
        "gradient descent",
        "heavy ball",
        "extragradient",
        pytest.param("Nesterov", marks=pytest.mark.slow),
        pytest.param("decoupled decay", marks=pytest.mark.slow),
    ],
)
def test_a_symbolic_number_of_batches_is_every_number(name, sampling, logarithms):
    symbolic = expected(METHODS[name], sampling, 3)
    symbolic = symbolic.average_of_logarithms if logarithms else symbolic
    for number in (3, 4, 5, 7):
        numbered = expected(METHODS[name], sampling, 3, number)
        numbered = numbered.average_of_logarithms if logarithms else numbered
        assert all(equal(symbolic[tree].subs(m, number), numbered[tree]) for tree in numbered)


@pytest.mark.parametrize("method", [mq.GradientDescent(), mq.HeavyBall(momentum=Q(1, 2)), mq.HeavyBall(momentum=beta)])
def test_many_batches_are_not_summed_one_by_one(method, monkeypatch):
    """Beyond a few the closed form is used: the same numbers below it."""
    from modeq.symbolic import passes

    summed = expected(method, "reshuffling", 2, 7)
    monkeypatch.setattr(passes, "FEW_BATCHES", 7)
    closed, summed = summed, expected.__wrapped__(method, "reshuffling", 2, 7)
    assert closed == summed
    assert not closed.free_symbols & {m}


@pytest.mark.parametrize(
    "sampling", ["reshuffling", "replacement", pytest.param("fixed order, averaged", marks=pytest.mark.slow)]
)
def test_on_the_mean_alone_it_is_the_equation_of_the_method(sampling):
    method = mq.HeavyBall(momentum=beta)
    equation, plain = expected(method, sampling, 3), mq.modified_equation(method, 3)
    assert all(equal(equation[tree], plain[tree]) for tree in plain)


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_deviations_that_average_to_zero_have_no_coefficient(batches):
    equation = expected(mq.HeavyBall(momentum=Q(1, 2)), "reshuffling", 3, batches)
    for tree, value in equation.items():
        deviations = tree.nested() if isinstance(tree.nested(), tuple) else None
        count = str(deviations).count("(1,") if deviations else 0
        if count == 1 or (count and batches == 1) or (count == 3 and batches == 2):
            assert value == 0


def test_equal_batches_leave_the_equation_of_the_method():
    equation = expected(mq.HeavyBall(momentum=Q(1, 2)), "reshuffling", 3, 3)
    plain = mq.modified_equation(mq.HeavyBall(momentum=Q(1, 2)), 3)
    loss = x**3 * y + y**2
    assert equation.on([loss] * 3, [x, y], h=h).components == plain.on(loss, [x, y], h=h).components


def test_written_out_it_is_the_average_over_the_orders():
    """On three polynomial losses, beside the mean of the six equations of the epochs in each order."""
    from itertools import permutations

    losses = [x**3, x**2 * y + y**2, x * y**2 - x]
    one = mq.modified_equation(mq.Epoch(mq.GradientDescent(), 3), 3)
    each = [one.on(list(order), [x, y], h=h).components for order in permutations(losses)]
    mean = [sp.expand(sum(parts) / 6) for parts in zip(*each, strict=True)]
    equation = expected(mq.GradientDescent(), "fixed order, averaged", 3, 3)
    assert [sp.expand(c) for c in equation.on(losses, [x, y], h=h).components] == mean
    fields = [[-sp.diff(loss, v) for v in (x, y)] for loss in losses]
    assert equation.on(fields, [x, y], h=h).components == equation.on(losses, [x, y], h=h).components


def test_a_modified_loss_has_the_field_as_its_gradient():
    equation = expected(mq.HeavyBall(momentum=Q(1, 2)), "reshuffling", 2, 3)
    losses = [x**3, x**2 * y + y**2, x * y**2 - x]
    loss = equation.modified_loss().on(losses, [x, y], h=h)
    for v, component in zip((x, y), equation.on(losses, [x, y], h=h).components, strict=True):
        assert sp.expand(sp.diff(loss, v) + component) == 0


def test_an_epoch_in_order_is_a_method_of_as_many_fields():
    epoch = mq.Epoch(mq.HeavyBall(momentum=beta).with_weight_decay(lam), batches=3)
    assert epoch.colours == (0, 3, 1, 3, 2, 3)
    assert epoch.steps == epoch.batches == 3
    assert dict(epoch.decay) == {3: lam}
    assert epoch.subs(beta, Q(1, 2)).A == mq.Epoch(mq.HeavyBall(Q(1, 2)).with_weight_decay(lam), 3).A
    single = mq.modified_equation(mq.Epoch(mq.HeavyBall(momentum=beta), 1), 3)
    assert single.coefficients == mq.modified_equation(mq.HeavyBall(momentum=beta), 3).coefficients


def test_an_epoch_of_equal_batches_is_the_method():
    """Summed over the colours that a tree can have, b is that of the method."""
    plain = mq.modified_equation(mq.HeavyBall(momentum=Q(1, 2)), 3)
    epoch = mq.modified_equation(mq.Epoch(mq.HeavyBall(momentum=Q(1, 2)), 2), 3)
    for tree in plain:
        total = sum(value / t.symmetry for t, value in epoch.items() if _plain(t) == tree)
        assert total == plain[tree] / tree.symmetry


def _plain(tree):
    return mq.Tree([_plain(child) for child in tree.children])


def test_an_undamped_first_step_is_of_the_first_batch():
    epoch = mq.Epoch(mq.HeavyBall(momentum=Q(1, 2), dampening=Q(1, 4)), batches=3)
    assert epoch.start == sp.Matrix([[0, 0, 0], [Q(1, 2), 0, 0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mq.Epoch(mq.GradientDescent(), 0), "batches is 0: give a positive integer"),
        (lambda: mq.Epoch(mq.GradientDescent(), 2.5), "batches is 2.5: give a positive integer"),
        (lambda: mq.Epoch(mq.GradientDescent(), sp.Symbol("h")), "whose name is taken"),
        (lambda: mq.Epoch(mq.HeavyBall(beta), sp.Symbol("beta")), "whose name is taken"),
        (lambda: mq.modified_equation(mq.Epoch(mq.GradientDescent(), LARGEST_EPOCH + 1), 2), "give a smaller integer"),
        (lambda: mq.iterate(mq.Epoch(mq.GradientDescent(), m), None, h=0.1, steps=1), "is no method"),
        (lambda: expected(mq.GradientDescent(), "reshuffling", 2, 3).for_batches(4), "is of 3"),
        (lambda: expected(mq.GradientDescent(), "reshuffling", 2).for_batches(0), "batches is 0"),
        (lambda: mq.Epoch(mq.GradientDescent, 2), "is no method"),
        (lambda: mq.Epoch(mq.Epoch(mq.GradientDescent(), 2), 2), "counts 2 steps already"),
        (lambda: mq.Epoch(mq.Simultaneous([mq.GradientDescent()] * 2), 2), "is a game"),
        (lambda: mq.Epoch(mq.GradientDescent(), 2).with_weight_decay(0.1), "give weight decay to the method"),
        (lambda: mq.Epoch(mq.GradientDescent(), 2).expected("shuffled"), "sampling is 'shuffled': choose from"),
        (lambda: expected(mq.OptimisticGradient(), "reshuffling", 2), "must be simple, not 0"),
        (lambda: expected(mq.OptimisticGradient(), "reshuffling", 2, 41), "give an integer up to 40"),
        (lambda: mq.modified_equation(mq.Epoch(mq.GradientDescent(), m), 2), "take its .expected"),
    ],
)
def test_what_is_no_epoch_is_refused(make, message):
    with pytest.raises(mq.InvalidMethod, match=message):
        make()


def test_orders_beyond_three_are_refused():
    with pytest.raises(mq.InvalidOrder, match="derived to order 3"):
        expected(mq.GradientDescent(), "reshuffling", 4)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([x**2], "give a list, 2 of them"),
        (x**2, "give a list, 2 of them"),
        ([x**2, "x"], "vectors of one length"),
        ([x**2, None], "the loss is None"),
        ([x**2, [x]], "give a loss for each, or vectors of one length"),
        ([x**2, sp.nan], "give a finite sympy expression"),
    ],
)
def test_losses_that_do_not_fit_are_refused(losses, message):
    equation = expected(mq.GradientDescent(), "reshuffling", 2, 2)
    with pytest.raises(mq.InvalidProblem, match=message):
        equation.on(losses, [x])


@pytest.mark.parametrize("derive", [mq.time_derivative_form, mq.phase_space_form, mq.state_space_form])
def test_other_forms_are_of_single_steps(derive):
    with pytest.raises(mq.NoTimeDerivativeForm, match="counts 2 steps in one application"):
        derive(mq.Epoch(mq.GradientDescent(), 2), 2)


def test_sums_and_multiples_are_averaged_too():
    equation = expected(mq.GradientDescent(), "reshuffling", 2, 2)
    losses = [x**2, 2 * x**2]
    (single,), (double,) = (e.on(losses, [x], h=h).components for e in (equation, 2 * equation))
    assert sp.expand(double - 2 * single) == 0
    assert equation + equation == 2 * equation
    assert (equation - equation.of_colour(0)).of_colour(1) == equation.of_colour(1)
    assert str(2 * equation) == "θ' = -2·g - h·H g - h·E[H_δ g_δ]"
    _, remainder = expected(mq.GradientDescent(), "reshuffling", 3, 2).gradient_part()
    assert isinstance(remainder, mq.ExpectedEquation)
    assert any(remainder.values())
    with pytest.raises(mq.InvalidSeries, match="averaged over the batches"):
        equation.exponential()
    for other in (
        mq.modified_equation(mq.Epoch(mq.GradientDescent(), 2), 2),
        expected(mq.GradientDescent(), "reshuffling", 2, 3),
    ):
        with pytest.raises(mq.InvalidSeries, match="series of different fields"):
            equation + other


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_a_number_put_in_for_the_symbol(batches):
    symbolic = expected(mq.HeavyBall(momentum=Q(1, 2)), "reshuffling", 3)
    assert symbolic.for_batches(batches) == expected(mq.HeavyBall(momentum=Q(1, 2)), "reshuffling", 3, batches)


def test_losses_put_in_their_number():
    symbolic, losses = expected(mq.HeavyBall(momentum=Q(1, 2)), "reshuffling", 3), [sp.cos(x) + x, 3 * x**2 - x]
    numbered = expected(mq.HeavyBall(momentum=Q(1, 2)), "reshuffling", 3, 2)
    at = {x: Q(3, 10), h: Q(1, 10)}
    (a,), (b,) = (e.on(losses, [x], h=h).components for e in (symbolic, numbered))
    assert abs(sp.N((a - b).subs(at))) < 1e-12
    a, b = (e.modified_loss(2).on(losses, [x], h=h) for e in (symbolic, numbered))
    assert sp.simplify(a - b) == 0


def test_large_numbers_of_batches():
    many = mq.Epoch(mq.GradientDescent(), LARGEST_EPOCH + 300)
    assert mq.modified_equation(many.expected("reshuffling"), 3)[mq.Tree(0, [(1, []), (1, [])])] == Q(501, 6)


def test_equations_are_values():
    import pickle

    equation = expected(mq.HeavyBall(momentum=Q(1, 2)), "reshuffling", 2)
    assert pickle.loads(pickle.dumps(equation)) == equation
    assert equation.truncated(1).batches == m
    assert "Epoch(HeavyBall(momentum=1/2), batches=m).expected('reshuffling')" in repr(equation)
    assert (equation - equation)[NOISE] == 0
