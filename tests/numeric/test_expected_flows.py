"""Epochs of minibatches against their equations: in order, in all orders enumerated, and in orders drawn at random."""

from itertools import permutations

import numpy as np
import pytest
import sympy as sp
import torch
from epochs_by_enumeration import averaged_method
from sympy import Rational as Q

import modeq as mq

X, Y, M = sp.symbols("x y m")
QUADRATIC = [
    X**2 + X * Y / 2 + Y**2 / 2,
    X**2 / 4 - X * Y / 3 + Y**2 + X / 2,
    3 * X**2 / 4 + Y**2 / 3 - Y,
    X**2 / 3 + Y**2 / 2 + X * Y / 5 + Y / 2,
]
NONLINEAR = [
    sp.cos(X) + X**2 + Y**2 / 2,
    sp.sin(X * Y) / 2 + X**2 + Y**2,
    (X - Y) ** 2 / 2 + Y**4 / 4,
    sp.log(1 + sp.exp(X + Y)) + X**2 / 2,
]
START = [0.8, -0.4]
METHODS = {"gradient descent": mq.GradientDescent(), "heavy ball": mq.HeavyBall(momentum=Q(1, 4))}
SETTLED = 0.78  # the time from which on the transients of momentum 1/4 are below 1e-15, at 26 steps or more


def flow_errors(method, equation, losses, sampling, step_sizes, time):
    """The largest distance between the flow and the expected map iterated, once that has settled."""
    m = len(losses)
    problem = mq.SymbolicProblem(losses, [X, Y])
    errors = []
    for h in step_sizes:
        settling = 0 if method.state_count == 1 else round(SETTLED / (h * m))
        epochs = round(time / (h * m))
        iterates = mq.iterate(averaged_method(method, sampling, m), problem, START, h=h, steps=m * (epochs + settling))
        settled = iterates.y[settling:]
        flow = mq.flow(equation, problem, settled[0], h=h, time=time, initial_layer=False, rtol=1e-13, atol=1e-15)
        points = flow.y if len(flow.y) == len(settled) else flow.y[::m]  # an equation of single steps
        errors.append(np.max(abs(points - settled)))
    return np.array(errors)


def slopes(errors):
    return np.log2(errors[:-1] / errors[1:])


@pytest.mark.some(5)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("losses", "sampling"),
    [
        (QUADRATIC[:3], "reshuffling"),
        (NONLINEAR[:2], "reshuffling"),
        (NONLINEAR[:3], "reshuffling"),
        (NONLINEAR[:2], "replacement"),
        pytest.param(QUADRATIC, "reshuffling", marks=pytest.mark.slow),
        pytest.param(NONLINEAR, "reshuffling", marks=pytest.mark.slow),
        pytest.param(NONLINEAR[:3], "replacement", marks=pytest.mark.slow),
    ],
    ids=["quadratic-3", "nonlinear-2", "nonlinear-3", "replacement-2", "quadratic-4", "nonlinear-4", "replacement-3"],
)
@pytest.mark.parametrize("name", METHODS)
def test_every_order_enumerated_follows_the_flow_to_its_order(name, losses, sampling, order):
    method, m = METHODS[name], len(losses)
    equation = mq.modified_equation(mq.Epoch(method, m).expected(sampling), order)
    h = 0.24 / m if method.state_count == 1 else 0.06 / m
    errors = flow_errors(method, equation, losses, sampling, [h, h / 2, h / 4], time=0.48)
    assert np.all(abs(slopes(errors) - order) < 0.15), (errors, slopes(errors))


@pytest.mark.parametrize("name", METHODS)
def test_without_the_variance_the_order_is_one(name):
    """The modified equation of the mean loss alone lacks a term of order h when the batches are reshuffled."""
    method = METHODS[name]
    mean_alone = mq.modified_equation(method, 2)
    errors = flow_errors(method, mean_alone, NONLINEAR[:3], "reshuffling", [0.01, 0.005, 0.0025], time=0.48)
    assert np.all(abs(slopes(errors) - 1) < 0.15), slopes(errors)


@pytest.mark.some(3)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_one_fixed_order_follows_the_equation_of_its_epoch(name, order):
    epoch = mq.Epoch(METHODS[name], 3)
    problem = mq.SymbolicProblem(NONLINEAR[:3], [X, Y])
    sizes = [0.04, 0.02, 0.01] if name == "gradient descent" else [0.01, 0.005, 0.0025]
    observed = mq.observed_order(epoch, problem, START, time=1.2, order=order, step_sizes=sizes)
    assert observed.expected == order
    assert all(abs(slope - order) < 0.15 for slope in observed.slopes), observed.slopes


def test_an_epoch_runs_as_the_method_on_batches_in_turn():
    for problem, start in (
        (mq.SymbolicProblem(NONLINEAR[:3], [X, Y]), START),
        (network_problem(), None),
    ):
        for method in (METHODS["heavy ball"], mq.Nesterov(Q(1, 2)).with_weight_decay(0.1)):
            single = mq.iterate(method, problem, start, h=0.05, steps=12)
            epochs = mq.iterate(mq.Epoch(method, 3), problem, start, h=0.05, steps=12)
            np.testing.assert_allclose(epochs.y, single.y[::3], atol=1e-14)
            np.testing.assert_allclose(epochs.t, single.t[::3], atol=1e-14)


def network_problem(batches=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
        inputs, targets = torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 2
    parts = torch.arange(3 * batches).reshape(batches, 3)
    return mq.TorchProblem(network, torch.nn.functional.cross_entropy, inputs, targets, batches=list(parts))


@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_network_on_three_batches(order):
    problem = network_problem()
    observed = mq.observed_order(
        mq.Epoch(mq.GradientDescent(), 3), problem, time=1.2, order=order, field="autodiff", step_sizes=[0.2, 0.1, 0.05]
    )
    assert all(abs(slope - order) < 0.15 for slope in observed.slopes), observed.slopes


def test_a_network_in_random_order():
    """The mean over all orders of one epoch, from one point: local error h^{p+1}."""
    problem = network_problem(batches=2)
    theta = problem.start()
    for order in (1, 2):
        equation = mq.modified_equation(mq.Epoch(mq.GradientDescent(), 2).expected("reshuffling"), order)
        errors = []
        for h in (0.2, 0.1, 0.05):
            ends = [
                mq.iterate(mq.GradientDescent(), problem, h=h, steps=2, batches=[problem.batches[k] for k in one]).y[-1]
                for one in permutations(range(2))
            ]
            flow = mq.flow(equation, problem, theta, h=h, time=2 * h, rtol=1e-9, atol=1e-11)
            errors.append(np.max(abs(flow.y[-1] - np.mean(ends, axis=0))))
        assert np.all(abs(slopes(np.array(errors)) - order - 1) < 0.3), (order, slopes(np.array(errors)))


def shuffled(rng, m, epochs, paths):
    """Batch numbers, steps × paths: a new random order in every epoch."""
    return np.concatenate([rng.permuted(np.tile(np.arange(m)[:, None], paths), axis=0) for _ in range(epochs)])


@pytest.mark.parametrize("losses", [QUADRATIC, NONLINEAR], ids=["quadratic", "nonlinear"])
def test_one_epoch_of_gradient_descent_in_random_orders(losses):
    """200,000 orders of six batches: the mean is that of the flow, and not that of the mean loss alone."""
    m, h, paths = 6, 0.02, 200_000
    losses = [*losses, X * Y / 2 + Y**2, X**2 / 2 - Y]
    problem = mq.SymbolicProblem(losses, [X, Y])
    choices = shuffled(np.random.default_rng(1), m, 1, paths)
    drawn = mq.sample_iterates(mq.GradientDescent(), problem, START, h=h, steps=m, paths=paths, choices=choices)
    mean, error = drawn.y[-1].mean(axis=0), drawn.y[-1].std(axis=0) / np.sqrt(paths)
    equation = mq.modified_equation(mq.Epoch(mq.GradientDescent(), m).expected("reshuffling"), 3)
    alone = mq.modified_equation(mq.GradientDescent(), 3)
    ends = [mq.flow(form, problem, START, h=h, time=m * h).y[-1] for form in (equation, alone)]
    assert np.max(abs(mean - ends[0]) / error) < 3.5
    assert np.max(abs(mean - ends[1]) / error) > 10


@pytest.mark.parametrize("losses", [QUADRATIC, NONLINEAR], ids=["quadratic", "nonlinear"])
def test_epochs_of_the_heavy_ball_in_random_orders(losses):
    """50,000 paths: how far they move, on the mean, in four epochs of four batches after the transients."""
    method, m, h, paths = METHODS["heavy ball"], 4, 0.01, 50_000
    problem = mq.SymbolicProblem(losses, [X, Y])
    settling, counted = 10, 4
    choices = shuffled(np.random.default_rng(2), m, settling + counted, paths)
    steps = m * (settling + counted)
    drawn = mq.sample_iterates(method, problem, START, h=h, steps=steps, paths=paths, choices=choices, every=m)
    first, last = drawn.y[settling], drawn.y[-1]
    moved = last - first
    mean, error = moved.mean(axis=0), moved.std(axis=0) / np.sqrt(paths)
    equation = mq.modified_equation(mq.Epoch(method, m).expected("reshuffling"), 3)
    alone = mq.modified_equation(method, 3)
    start = first.mean(axis=0)
    predicted = [
        mq.flow(form, problem, start, h=h, time=counted * m * h, initial_layer=False).y[-1] - start
        for form in (equation, alone)
    ]
    assert np.max(abs(mean - predicted[0]) / error) < 3.5
    assert np.max(abs(mean - predicted[1]) / error) > 10


def test_the_evaluations_of_an_expected_equation_agree():
    equation = mq.modified_equation(mq.Epoch(METHODS["heavy ball"], 3).expected("reshuffling"), 3)
    problem = mq.SymbolicProblem(NONLINEAR[:3], [X, Y])
    flows = [
        mq.flow(equation, problem, START, h=0.005, time=0.15, field=field, initial_layer=1)
        for field in ("lambdify", "autodiff")
    ]
    np.testing.assert_allclose(flows[0].y, flows[1].y, atol=1e-12)
    np.testing.assert_allclose(flows[0].t, 0.015 * np.arange(11), atol=1e-15)


def test_the_series_limit_counts_the_curvature_of_each_batch():
    """The mean of these two is nearly flat, and each of them far beyond the limit."""
    problem = mq.SymbolicProblem([50 * X**2, -50 * X**2 + X**2 / 100], [X])
    for method in (mq.Epoch(mq.GradientDescent(), 2), mq.Epoch(mq.GradientDescent(), 2).expected("reshuffling")):
        with pytest.raises(mq.OutsideSeriesLimit, match="use order=1 or h < 0.01"):
            mq.flow(mq.modified_equation(method, 2), problem, [1.0], h=0.1, time=0.4)


def test_an_epoch_of_many_batches_has_an_expected_slope():
    from modeq.numeric.orders import expected_order

    assert expected_order(mq.Epoch(mq.GradientDescent(), 8), 2) == 2


def test_epochs_flow_on_a_network_by_default():
    problem = network_problem()
    for method in (mq.Epoch(mq.GradientDescent(), 3), mq.Epoch(mq.GradientDescent(), 3).expected("reshuffling")):
        equation = mq.modified_equation(method, 2)
        default = mq.flow(equation, problem, h=0.05, time=0.15, rtol=1e-6).y
        np.testing.assert_array_equal(
            default, mq.flow(equation, problem, h=0.05, time=0.15, rtol=1e-6, field="autodiff").y
        )


def test_the_exact_flow_on_quadratic_batches_passes_through_the_epochs():
    problem = mq.SymbolicProblem(QUADRATIC, [X, Y])
    for method in METHODS.values():
        epoch = mq.Epoch(method, 4)
        iterates = mq.iterate(epoch, problem, START, h=0.1, steps=40)
        exact = mq.exact_quadratic_flow(epoch, problem, START, h=0.1, time=4.0)
        np.testing.assert_allclose(exact.y, iterates.y, atol=1e-12)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (
            lambda e, p: mq.flow(e, mq.SymbolicProblem(NONLINEAR[:2], [X, Y]), START, h=0.1, time=1),
            mq.UnsupportedOptimizer,
            "is of 3 batches, .* has 2",
        ),
        (lambda e, p: mq.flow(e, p, START, h=0.1, time=1, field="gradients"), mq.InvalidProblem, "takes 'lambdify'"),
        (lambda e, p: mq.iterate(mq.Epoch(mq.GradientDescent(), 3), p, START, h=0.1, steps=4), mq.InvalidProblem,
         "counts 3 steps in one application"),
        (lambda e, p: mq.iterate(mq.Epoch(mq.GradientDescent(), 3), p, START, h=lambda n: 0.1 / (n + 1), steps=6),
         mq.InvalidProblem, "constant within each"),
        (lambda e, p: mq.iterate(mq.Epoch(mq.GradientDescent(), 2), p, START, h=0.1, steps=4), mq.UnsupportedOptimizer,
         "needs several fields, 2, .* has 3"),
        (lambda e, p: mq.iterate(mq.GradientDescent(), p, START, h=0.1, steps=4, batches=[0, 3]), mq.InvalidProblem,
         "numbers of the 3 losses"),
        (lambda e, p: mq.iterate(mq.GradientDescent(), p, START, h=0.1, steps=4, batches=[0.5]), mq.InvalidProblem,
         r"batches\[0\] is 0.5"),
        (lambda e, p: mq.flow(mq.modified_equation(mq.Epoch(mq.HeavyBall(0.5), 3).expected("reshuffling"), 3), p, START,
                              h=0.001, time=1), mq.InvalidOrder, "derived to order 1"),
        (lambda e, p: mq.flow(mq.modified_equation(mq.Epoch(mq.GradientDescent(), M).expected("reshuffling"), 2), p,
                              START, h=0.001, time=1), mq.InvalidMethod, "free symbols"),
        (lambda e, p: mq.iterate(mq.Epoch(mq.GradientDescent(), 3), p, START, h=0.1, steps=3, batches=[2, 1, 0]),
         mq.InvalidProblem, "leave batches out"),
        (lambda e, p: mq.iterate(mq.GradientDescent(), p, START, h=0.1, steps=3, batches=5), mq.InvalidProblem,
         "batches are 5: give a sequence"),
        (lambda e, p: mq.observed_order(mq.GradientDescent(), p, START, time=1, order=1), mq.InvalidProblem,
         r"its law is that of Epoch\(method, batches=3\)"),
        (lambda e, p: mq.observed_order(mq.Epoch(mq.GradientDescent(), 3), p, START, time=1, order=1,
                                        step_sizes=[0.1, 0.05]), mq.InvalidProblem, "no multiple of the 3"),
        (lambda e, p: mq.observed_order(mq.Epoch(mq.GradientDescent(), 3).expected("reshuffling"), p, START, time=1,
                                        order=1), mq.InvalidMethod, "is no method"),
        (lambda e, p: mq.compare(mq.Epoch(mq.GradientDescent(), 3).expected("reshuffling"), p, START, h=0.1, steps=3),
         mq.InvalidMethod, "is no method"),
        (lambda e, p: mq.flow(e, mq.VectorField([X, Y, M], [X, Y, M], players=[[X], [Y], [M]]), [1, 1, 1], h=0.1,
                              time=1), mq.UnsupportedOptimizer, "derive it for as many"),
        (lambda e, p: mq.iterate(mq.Epoch(mq.GradientDescent(), 2), mq.VectorField([X, Y], [X, Y], players=[[X], [Y]]),
                                 START, h=0.1, steps=2), mq.UnsupportedOptimizer, "minibatches, a list of losses"),
        (lambda e, p: e.initial_layer("a"), mq.InvalidOrder, "give an integer from 0"),
        (lambda e, p: mq.SymbolicProblem([], [X, Y]), mq.InvalidProblem, "losses are empty"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(run, error, message):
    equation = mq.modified_equation(mq.Epoch(mq.GradientDescent(), 3).expected("reshuffling"), 2)
    with pytest.raises(error, match=message):
        run(equation, mq.SymbolicProblem(NONLINEAR[:3], [X, Y]))
