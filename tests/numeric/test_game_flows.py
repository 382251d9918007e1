"""Games on their equations, and the problems that hold them."""

import numpy as np
import pytest
import sympy as sp
from sympy import Rational as Q

import modeq as mq

X, Y, Z = sp.symbols("x y z")
DUEL = mq.VectorField.of_losses(
    [X * Y + X**4 / 4 + sp.cos(X) / 3, Y**2 / 2 - X * Y + sp.sin(Y) / 4], players=[[X], [Y]]
)
TRIO = mq.VectorField.of_losses([X**2 * Y / 2 + X**2, Y**2 - sp.sin(Y * Z), Z**2 / 2 + X * Z], players=[[X], [Y], [Z]])
DESCENT, BALL = mq.GradientDescent(), mq.HeavyBall(momentum=Q(1, 4))
GAMES = {
    "at once": (mq.Simultaneous([DESCENT, DESCENT], rates=[1, 2]), DUEL),
    "in turn": (mq.Alternating([DESCENT, DESCENT], rates=[1, Q(1, 2)]), DUEL),
    "updates": (mq.Alternating([DESCENT, DESCENT], updates=[1, 3], rates=[1, Q(1, 3)]), DUEL),
    "momenta": (mq.Simultaneous([BALL, mq.Nesterov(Q(1, 3))], rates=[Q(1, 2), 1]), DUEL),
    "ball in turn": (mq.Alternating([BALL, DESCENT], updates=[2, 1]), DUEL),
    "three": (mq.Alternating([DESCENT, BALL, DESCENT], rates=[1, Q(1, 2), 1]), TRIO),
}
START = {2: [0.8, -0.5], 3: [0.6, -0.4, 0.5]}


@pytest.mark.some(9)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", GAMES)
def test_rounds_follow_their_equation_to_its_order(name, order):
    game, problem = GAMES[name]
    sizes = [0.04, 0.02, 0.01] if game.parasitic_radius == 0 else [0.01, 0.005, 0.0025]
    observed = mq.observed_order(game, problem, START[problem.size], time=1.2, order=order, step_sizes=sizes)
    assert observed.expected == order
    assert all(abs(slope - order) < 0.15 for slope in observed.slopes), observed.slopes


def test_evaluations_of_the_field_of_a_game_agree():
    game = mq.Simultaneous([DESCENT, BALL])
    equation = mq.modified_equation(game, order=3)
    flows = [mq.flow(equation, DUEL, START[2], h=0.01, time=0.5, field=field).y for field in ("lambdify", "autodiff")]
    np.testing.assert_allclose(flows[0], flows[1], atol=1e-11)
    # From gradients alone it is equal up to O(h³): all gradients are at the parameters.
    gradients = mq.flow(equation, DUEL, START[2], h=0.01, time=0.5, field="gradients").y
    assert 0 < np.max(abs(gradients - flows[0])) < 1e-4


def test_a_bilinear_game_is_followed_exactly():
    game = mq.VectorField([-Y, X], [X, Y], players=[[X], [Y]])
    for method in (mq.Simultaneous([DESCENT, DESCENT]), mq.Alternating([BALL, DESCENT])):
        iterates = mq.iterate(method, game, [1.0, 0.0], h=0.1, steps=50)
        exact = mq.exact_quadratic_flow(method, game, [1.0, 0.0], h=0.1, time=5.0)
        np.testing.assert_allclose(exact.y, iterates.y, atol=1e-12)


def test_in_turn_the_bilinear_game_stays_and_at_once_it_leaves():
    game = mq.VectorField([-Y, X], [X, Y], players=[[X], [Y]])
    ends = [
        np.linalg.norm(mq.iterate(play([DESCENT, DESCENT]), game, [1.0, 0.0], h=0.1, steps=500).y[-1])
        for play in (mq.Simultaneous, mq.Alternating)
    ]
    assert ends[0] == pytest.approx((1 + 0.1**2) ** 250)
    assert 0.9 < ends[1] < 1.1


def test_a_method_of_one_field_moves_on_the_whole_one():
    whole = mq.iterate(DESCENT, DUEL, START[2], h=0.1, steps=5).y
    np.testing.assert_allclose(whole, mq.iterate(mq.Simultaneous([DESCENT, DESCENT]), DUEL, START[2], h=0.1, steps=5).y)


def test_parts_add_up_to_the_field():
    theta, v = np.array([0.3, -0.7]), np.array([1.0, 2.0])
    assert DUEL.parts == 2
    np.testing.assert_allclose(sum(DUEL.field(theta, part=k) for k in range(2)), DUEL.field(theta))
    np.testing.assert_allclose(
        sum(DUEL.derivative(theta, [v], part=k) for k in range(2)), DUEL.derivative(theta, [v]), atol=1e-14
    )
    assert DUEL.field(theta, part=0)[1] == 0


def test_batches_of_losses_average_to_the_field():
    losses = [X**2 * Y, sp.cos(X), Y**2 * X]
    problem = mq.SymbolicProblem(losses, [X, Y])
    theta = np.array([0.3, -0.7])
    assert problem.parts == 3
    np.testing.assert_allclose(np.mean([problem.field(theta, part=k) for k in range(3)], axis=0), problem.field(theta))
    assert problem.loss(theta) == pytest.approx(np.mean([mq.SymbolicProblem(p, [X, Y]).loss(theta) for p in losses]))
    assert problem == mq.SymbolicProblem(list(losses), [X, Y])
    assert repr(mq.SymbolicProblem([X**2], [X])) == "SymbolicProblem(x**2, [x])"


def test_written_out_problems_survive_pickling():
    import pickle

    for problem in (DUEL, mq.SymbolicProblem([X**2, X * Y], [X, Y])):
        before = problem.field([0.1, 0.2], part=1)
        copy = pickle.loads(pickle.dumps(problem))
        np.testing.assert_array_equal(copy.field([0.1, 0.2], part=1), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mq.VectorField([X], [X, Y]), "give one expression for each of"),
        (lambda: mq.VectorField([X, Z], [X, Y]), r"the component has the free symbols \['z'\]"),
        (lambda: mq.VectorField([X, sp.oo], [X, Y]), "is not finite"),
        (lambda: mq.VectorField([X, "y +"], [X, Y]), "the component is 'y \\+'"),
        (lambda: mq.VectorField([X, Y], [X, X]), "give a sequence of distinct sympy symbols"),
        (lambda: mq.VectorField([X, Y], [X, Y], players=[[X]]), "so that each of .* occurs once"),
        (lambda: mq.VectorField([X, Y], [X, Y], players=[[X], [X, Y]]), "occurs once"),
        (lambda: mq.VectorField([X, Y], [X, Y], players=[[X, Y], []]), "occurs once"),
        (lambda: mq.VectorField([X, Y], [X, Y], players=2), "players are 2"),
        (lambda: mq.VectorField([X, Y], [X, Y], players=[[sp.Symbol("x", positive=True)], [Y]]), "occurs once"),
        (lambda: mq.VectorField([X, Y], [X, Y], players=[["x"], ["y"]]), "occurs once"),
        (lambda: mq.VectorField.of_losses(X * Y, [[X], [Y]]), "give a list of losses"),
        (lambda: mq.VectorField.of_losses([X, Y], None), "give a list of losses"),
        (lambda: mq.VectorField.of_losses([X * Y], [[X], [Y]]), "there are 1 losses for 2 players"),
        (lambda: mq.VectorField.of_losses([X * Y, Z], [[X], [Y]]), "the loss has the free symbols"),
        (lambda: DUEL.start(None), "start is None: give 2 numbers"),
    ],
)
def test_bad_fields_are_refused(make, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        make()


def test_losses_of_players_are_no_fields():
    equation = mq.modified_equation(mq.Simultaneous([DESCENT, DESCENT]), order=2)
    with pytest.raises(mq.InvalidProblem, match="zero outside its own parameters"):
        equation.on([X * Y, -X * Y], [X, Y])
    assert equation.on(list(DUEL.part_expressions), [X, Y]).variables == (X, Y)


def test_a_sum_of_equations_of_games_is_still_of_a_game():
    equation = 2 * mq.modified_equation(mq.Simultaneous([DESCENT, DESCENT]), order=2)
    with pytest.raises(mq.InvalidProblem, match="zero outside its own parameters"):
        equation.on([X * Y, -X * Y], [X, Y])
    for derived in (equation, equation.of_colour(0), equation.exponential()):
        with pytest.raises(mq.NotAGradientFlow, match="is of a game"):
            derived.gradient_test()
    with pytest.raises(mq.InvalidSeries, match="series of different fields"):
        equation + mq.modified_equation(mq.Epoch(DESCENT, 2), order=2)


def test_minibatches_are_no_players():
    problem = mq.SymbolicProblem([X * Y, -X * Y], [X, Y])
    with pytest.raises(mq.UnsupportedOptimizer, match="players, in a VectorField"):
        mq.iterate(mq.Alternating([DESCENT, DESCENT]), problem, START[2], h=0.1, steps=1)


def test_a_method_with_fields_of_its_own_runs_on_the_parts_of_a_game():
    """Symplectic Euler written out: implicit in the first field."""
    euler = mq.GeneralLinearMethod(A=[[1]], B=[[1, 1]], C=[[1], [1]], D=[[1, 0], [1, 0]], colours=(0, 1))
    game = mq.VectorField([-Y, X], [X, Y], players=[[Y], [X]])
    in_turn = mq.iterate(mq.Alternating([DESCENT, DESCENT]), game, [1.0, 0.5], h=0.1, steps=5)
    np.testing.assert_allclose(mq.iterate(euler, game, [1.0, 0.5], h=0.1, steps=5).y, in_turn.y, atol=1e-14)


@pytest.mark.parametrize("limit", ["series_limit", "stability_limit"])
def test_players_have_no_common_limit(limit):
    with pytest.raises(mq.InvalidMethod, match="no limit in one h·λ"):
        getattr(mq.Simultaneous([DESCENT, DESCENT]), limit)()
    with pytest.raises(mq.InvalidProblem, match="is a game, .* give step_sizes"):
        mq.observed_order(mq.Simultaneous([DESCENT, DESCENT]), DUEL, START[2], time=1, order=1)


def test_a_game_needs_as_many_players():
    with pytest.raises(mq.UnsupportedOptimizer, match="needs several fields, 3, .* has 2"):
        mq.iterate(mq.Simultaneous([DESCENT] * 3), DUEL, START[2], h=0.1, steps=1)
