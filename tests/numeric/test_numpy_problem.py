"""Problems of numpy callables, their differences, and starts and pickles of the written-out ones."""

import copy
import math
import pickle
from itertools import count

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

import modeq as mq
from modeq.numeric.differences import directional_derivative
from modeq.numeric.numpy_problem import NumpyProblem
from modeq.numeric.protocol import Problem

X, Y = sp.symbols("x y")
WRITTEN = mq.SymbolicProblem([sp.exp(X) * sp.cos(Y) + X**2, X * sp.sin(Y) + Y**4], [X, Y])


def first_loss(t):
    return np.exp(t[0]) * np.cos(t[1]) + t[0] ** 2


def second_loss(t):
    return t[0] * np.sin(t[1]) + t[1] ** 4


def first(t):
    return np.array([np.exp(t[0]) * np.cos(t[1]) + 2 * t[0], -np.exp(t[0]) * np.sin(t[1])])


def second(t):
    return np.array([np.sin(t[1]), t[0] * np.cos(t[1]) + 4 * t[1] ** 3])


def first_product(t, v):
    exponential = np.exp(t[0])
    mixed = -exponential * np.sin(t[1])
    return np.array(
        [
            (exponential * np.cos(t[1]) + 2) * v[0] + mixed * v[1],
            mixed * v[0] - exponential * np.cos(t[1]) * v[1],
        ]
    )


def second_product(t, v):
    return np.array([np.cos(t[1]) * v[1], np.cos(t[1]) * v[0] + (12 * t[1] ** 2 - t[0] * np.sin(t[1])) * v[1]])


def both(**options):
    return NumpyProblem([first, second], 2, loss=[first_loss, second_loss], **options)


def test_it_is_a_problem():
    problem = both()
    assert isinstance(problem, Problem)
    assert (problem.size, problem.parts, problem.epsilon) == (2, 2, np.finfo(float).eps)
    assert [problem.label(k) for k in range(2)] == ["θ[0]", "θ[1]"]
    theta = np.array([1.0, 2.0])
    assert problem.native(theta) is theta
    assert repr(problem) == "NumpyProblem(2 parameters, 2 minibatches)"
    assert repr(problem.of_batch(0)) == "NumpyProblem(2 parameters)"


@pytest.mark.parametrize("options", [{}, {"hessian_product": [first_product, second_product]}, {"scale": 1.5}])
@pytest.mark.parametrize("part", [None, 0, 1])
def test_derivatives_agree_with_the_exact_ones(options, part):
    problem, theta = both(**options), np.array([0.3, -0.7])
    vectors = np.random.default_rng(0).standard_normal((4, 2))
    chosen = [vectors[[0] * m] for m in range(5)] + [vectors[:m] for m in range(1, 5)] + [vectors[[0, 1, 0]]]
    for few in chosen:
        exact = WRITTEN.derivative(theta, few, part)
        error = np.max(abs(problem.derivative(theta, few, part) - exact)) / np.max(abs(exact))
        assert error < [1e-15, 1e-12, 1e-10, 1e-8, 2e-7][len(few)]
        if part is not None:
            single = problem.of_batch(part)
            np.testing.assert_array_equal(single.derivative(theta, few), problem.derivative(theta, few, part))


def test_losses_and_fields():
    problem, theta = both(), [0.3, -0.7]
    assert problem.loss(theta) == pytest.approx(WRITTEN.loss(theta), rel=1e-15)
    assert problem.of_batch(1).loss(theta) == pytest.approx(second_loss(theta), rel=1e-15)
    np.testing.assert_allclose(problem.field(theta), WRITTEN.field(theta), rtol=1e-15)
    np.testing.assert_allclose(problem.field(theta, 1), WRITTEN.field(theta, 1), rtol=1e-15)


@given(
    st.lists(st.lists(st.floats(-3, 3), min_size=3, max_size=3), min_size=1, max_size=4),
    st.lists(st.floats(-1, 1), min_size=3, max_size=3),
)
def test_differences_of_polynomials_are_exact_to_rounding(vectors, theta):
    weights = np.arange(1.0, 10).reshape(3, 3)

    def function(t):
        return (weights @ t) ** 4 / 1e3

    k, vectors, theta = len(vectors), [np.array(v) for v in vectors], np.array(theta)
    falling = math.prod(range(4, 4 - k, -1))
    exact = falling * (weights @ theta) ** (4 - k) * np.prod([weights @ v for v in vectors], axis=0) / 1e3
    size = math.prod(float(np.sum(abs(v))) for v in vectors)
    found = directional_derivative(function, theta, vectors, 1.0)
    assert np.max(abs(found - exact)) <= [1e-10, 1e-8, 1e-6, 1e-5][k - 1] * size


def test_a_zero_vector_costs_nothing():
    def never(theta):
        raise AssertionError

    assert directional_derivative(never, np.ones(2), [np.ones(2), np.zeros(2)], 1.0).tolist() == [0, 0]
    v = np.ones(2)
    opposite = directional_derivative(np.exp, np.zeros(2), [v, -v], 1.0)
    np.testing.assert_allclose(opposite, [-1, -1], rtol=1e-10)


@pytest.mark.parametrize("m, calls", [(1, 6), (2, 7), (3, 8), (4, 9)])
def test_the_number_of_gradients(m, calls):
    counter = count()

    def counted(theta):
        next(counter)
        return theta**3

    problem = NumpyProblem(counted, 2)
    problem.derivative([1.0, 2.0], [[1.0, 1.0]] * m)
    assert next(counter) == calls + 1  # one more for the comparison of two calls


def test_starts():
    problem = both(default_start=[1, 2])
    problem.start()[:] = 9
    np.testing.assert_array_equal(problem.start(), [1, 2])
    np.testing.assert_array_equal(problem.of_batch(0).start(), [1, 2])
    np.testing.assert_array_equal(problem.start([3, 4]), [3, 4])
    with pytest.raises(mq.InvalidProblem, match="start is None: give 2 numbers, or the problem a default_start"):
        both().start()
    with pytest.raises(mq.InvalidProblem, match="default_start: start has 3 numbers, the problem has 2 parameters"):
        both(default_start=[1, 2, 3])


def test_batches():
    problem = both()
    assert list(problem.checked_batches()) == [0, 1]
    assert problem.checked_batches([1, 1]) == [1, 1]
    assert problem.of_batch(1) is problem.of_batch(1)
    single = problem.of_batch(1)
    assert single.checked_batches() is None
    with pytest.raises(mq.InvalidProblem, match="has no minibatches: give it a list of gradients"):
        single.checked_batches([0])
    with pytest.raises(mq.InvalidProblem, match="give numbers of the 2 losses"):
        problem.checked_batches([2])


def test_it_runs_in_flows_and_optimizers():
    problem, method = both(default_start=[0.3, -0.7]), mq.HeavyBall(momentum=sp.Rational(1, 2))
    written = mq.iterate(method, WRITTEN, [0.3, -0.7], h=0.01, steps=5)
    np.testing.assert_allclose(mq.iterate(method, problem, h=0.01, steps=5).y, written.y, rtol=1e-14)
    equation = mq.modified_equation(method, 3)
    flow = mq.flow(equation, problem, h=0.01, time=0.05, field="autodiff")
    exact = mq.flow(equation, WRITTEN, [0.3, -0.7], h=0.01, time=0.05)
    np.testing.assert_allclose(flow.y[-1], exact.y[-1], rtol=1e-11)


def test_callables_may_write_on_their_argument_and_reuse_their_result():
    buffer = np.zeros(2)

    def careless(theta):
        np.multiply(theta, 2, out=buffer)
        theta[:] = np.nan
        return buffer

    problem, theta = NumpyProblem(careless, 2), np.array([1.0, 2.0])
    before = problem.field(theta)
    problem.field(theta + 1)
    np.testing.assert_array_equal(before, [-2, -4])
    np.testing.assert_array_equal(theta, [1, 2])


def test_later_numbers_may_be_infinite():
    problem = NumpyProblem(lambda theta: theta / theta[0], 2)
    problem.field([1.0, 2.0])
    with np.errstate(invalid="ignore", divide="ignore"):
        assert not np.any(np.isfinite(problem.field([0.0, 2.0])))


NUMBERS = count()


@pytest.mark.parametrize(
    "gradient, message",
    [
        (lambda t: t[:1], r"gradient returns shape \(1,\): return real numbers of shape \(2,\)"),
        (lambda t: None, r"gradient returns shape \(\)"),
        (lambda t: t.astype(np.float32), "gradient returns float32: compute and return it in float64"),
        (lambda t: t * 1j, "gradient returns complex128"),
        (lambda t: ["a", "b"], "gradient returns <U1"),
        (lambda t: t > 0, "gradient returns bool"),
        (lambda t: [[1.0], [1.0, 2.0]], "gradient returns list: return real numbers"),
        (lambda t: np.array([None, None]), "gradient returns object"),
        (lambda t: t * np.nan, "gradient returns numbers that are not finite at theta"),
        (lambda t: t + next(NUMBERS), "two calls of gradient at one theta differ by 1: it must be a"),
    ],
)
def test_bad_gradients(gradient, message):
    problem = NumpyProblem(gradient, 2)
    with pytest.raises(mq.InvalidProblem, match=message):
        problem.field([1.0, 2.0])
    products = NumpyProblem(first, 2, hessian_product=lambda t, v: gradient(t))
    with pytest.raises(mq.InvalidProblem, match=message.replace("gradient", "hessian_product")):
        products.derivative([1.0, 2.0], [[1.0, 2.0]])


@pytest.mark.parametrize(
    "loss, message",
    [
        (lambda t: t, r"loss returns shape \(2,\): return real numbers of shape \(\)"),
        (lambda t: np.nan, "loss returns numbers that are not finite"),
        (lambda t: float(next(NUMBERS)), "two calls of loss at one theta differ by 1"),
    ],
)
def test_bad_losses(loss, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        NumpyProblem(first, 2, loss=loss).loss([1.0, 2.0])


def test_no_loss():
    with pytest.raises(mq.InvalidProblem, match=r"has no loss: give it one, NumpyProblem\(gradient, 2, loss=...\)"):
        NumpyProblem(first, 2).loss([1.0, 2.0])


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((first, 0), {}, "size is 0: give a positive integer"),
        ((3, 2), {}, "gradient is 3: give a callable, or a list"),
        (([], 2), {}, r"gradient is \[\]: give a callable"),
        (([first, second], 2), {"loss": first_loss}, "loss is <function .*: give a list of 2, one for each gradient"),
        (([first, second], 2), {"loss": [first_loss]}, "give a list of 2, one for each gradient"),
        ((first, 2), {"hessian_product": [first_product]}, "give one callable, as for the gradient"),
        ((first, 2), {"scale": 0}, "scale is 0: give a positive number"),
        ((first, 2), {"scale": "1"}, "scale is '1': give a positive number"),
        ((first, 2), {"default_start": ["a"]}, "default_start: start is .*give 2 numbers"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        NumpyProblem(*arguments, **options)


@given(
    st.sampled_from(
        [None, "ab", ["1", "2"], [1.0], np.zeros((1, 2)), [[1.0], [1.0, 2.0]], [None, None], [1j, 2], [True, False]]
    )
)
def test_bad_vectors(bad):
    problem = both()
    with pytest.raises(mq.InvalidProblem, match=r"theta (has dtype|is) .*2 (real )?numbers"):
        problem.field(bad)
    with pytest.raises(mq.InvalidProblem, match=r"a direction (has dtype|is) .*2 (real )?numbers"):
        problem.derivative([1.0, 2.0], [bad])


GAME = mq.VectorField([-Y * X, X], [X, Y], players=[[X], [Y]])


@pytest.mark.parametrize(
    "problem",
    [both(default_start=[1, 2]), both(hessian_product=[first_product, second_product]), WRITTEN, GAME],
    ids=["numpy", "products", "symbolic", "game"],
)
@pytest.mark.parametrize("used", [False, True])
def test_pickles_and_copies_compute_the_same(problem, used):
    theta, v = np.array([0.3, -0.7]), np.array([1.0, 2.0])
    if used:
        problem.derivative(theta, [v, v], 1)
    for other in (pickle.loads(pickle.dumps(problem)), copy.copy(problem), copy.deepcopy(problem)):
        np.testing.assert_array_equal(other.derivative(theta, [v, v]), problem.derivative(theta, [v, v]))
        np.testing.assert_array_equal(other.field(theta, 1), problem.field(theta, 1))
        if problem is not GAME:
            assert other.of_batch(1).loss(theta) == problem.of_batch(1).loss(theta)
        if not isinstance(problem, NumpyProblem):
            assert other == problem


def test_what_cannot_be_pickled_is_named():
    with pytest.raises(mq.InvalidProblem, match="the gradient list cannot be pickled .*define it at the top level"):
        pickle.dumps(NumpyProblem(lambda t: t, 2))
    with pytest.raises(mq.InvalidProblem, match="the loss list cannot be pickled"):
        pickle.dumps(NumpyProblem(first, 2, loss=lambda t: t[0]))


def test_default_starts_of_written_out_problems():
    problem = mq.SymbolicProblem([X**2, Y**2], [X, Y], default_start=np.array([1, 2]))
    plain = mq.SymbolicProblem([X**2, Y**2], [X, Y])
    np.testing.assert_array_equal(problem.start(), [1, 2])
    np.testing.assert_array_equal(problem.start([3, 4]), [3, 4])
    np.testing.assert_array_equal(problem.of_batch(1).start(), [1, 2])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(problem)).start(), [1, 2])
    assert problem == plain
    assert hash(problem) == hash(plain)
    assert repr(problem) == repr(plain)
    game = mq.VectorField.of_losses([X * Y, -X * Y], [[X], [Y]], default_start=[1.0, 2.0])
    np.testing.assert_array_equal(game.start(), [1, 2])
    assert game == mq.VectorField([-Y, X], [X, Y], [[X], [Y]])
    assert {game: 1}[mq.VectorField([-Y, X], [X, Y], [[X], [Y]])] == 1
    for bad in ([1.0], ["a", "b"], [np.nan, 1.0]):
        with pytest.raises(mq.InvalidProblem, match="default_start: start"):
            mq.SymbolicProblem(X * Y, [X, Y], default_start=bad)
        with pytest.raises(mq.InvalidProblem, match="default_start: start"):
            mq.VectorField([X, Y], [X, Y], default_start=bad)
    with pytest.raises(mq.InvalidProblem, match=r"start is None: .*\[x, y\], or the problem a default_start"):
        plain.start()
