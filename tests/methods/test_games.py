"""Games as general linear methods, against the update rules of their players written out."""

import numpy as np
import pytest
import sympy as sp
from sympy import Rational as Q

import modeq as mq
from modeq.errors import InvalidMethod

beta, nu = sp.symbols("beta nu")
descent = mq.GradientDescent()


# One player's optimizer as in its own paper: an object with the parameters that the others see, the point of its
# gradient, and a step.


class Heavy:
    """torch's momentum; with beta = 0 gradient descent."""

    def __init__(self, start, beta=0.0, alpha=0.0):
        self.parameters, self.v, self.beta, self.alpha = start, None, beta, alpha

    @property
    def query(self):
        return self.parameters

    def step(self, gradient, rate):
        self.v = gradient if self.v is None else self.beta * self.v + (1 - self.alpha) * gradient
        self.parameters = self.parameters - rate * self.v


class Nesterov(Heavy):
    """torch's variables."""

    def step(self, gradient, rate):
        self.v = gradient if self.v is None else self.beta * self.v + gradient
        self.parameters = self.parameters - rate * (gradient + self.beta * self.v)


class Averaged(Heavy):
    """Quasi-hyperbolic momentum; alpha is its ν."""

    def step(self, gradient, rate):
        v = 0 * gradient if self.v is None else self.v
        self.v = self.beta * v + (1 - self.beta) * gradient
        self.parameters = self.parameters - rate * ((1 - self.alpha) * gradient + self.alpha * self.v)


class Triple:
    """Triple momentum: parameters, gradients and iterates at three points."""

    def __init__(self, start, beta, gamma, delta):
        self.now = self.last = start
        self.weights = beta, gamma, delta

    @property
    def query(self):
        return self.now + self.weights[1] * (self.now - self.last)

    @property
    def parameters(self):
        return self.now + self.weights[2] * (self.now - self.last)

    def step(self, gradient, rate):
        moved = self.now + self.weights[0] * (self.now - self.last) - rate * gradient
        self.now, self.last = moved, self.now


PLAYERS = {
    "descent": (descent, Heavy, ()),
    "heavy ball": (mq.HeavyBall(0.875), Heavy, (0.875,)),
    "dampened": (mq.HeavyBall(0.75, 0.5), Heavy, (0.75, 0.5)),
    "Nesterov": (mq.Nesterov(0.75), Nesterov, (0.75,)),
    "averaged": (mq.QuasiHyperbolic(0.75, 0.5), Averaged, (0.75, 0.5)),
    "triple": (mq.TripleMomentum(0.5, 0.25, 0.125), Triple, (0.5, 0.25, 0.125)),
    "classical": (mq.ClassicalNesterov(0.5), Triple, (0.5, 0.5, 0.0)),
}

# Three blocks of two, one and two parameters. Each loss is a quadratic in all of them and something beyond.
BLOCKS = (slice(0, 2), slice(2, 3), slice(3, 5))
START = np.array([0.7, -0.4, 0.5, 0.3, -0.6])
COUPLING = np.random.default_rng(5).normal(size=(5, 5))


def gradient(player, theta):
    """∇L_c in the parameters of player c, L_c = θᵀ K_c θ/2 + sin(θ₀θ₃) + θ₁θ₂ + Σθ⁴/4."""
    quadratic = (COUPLING + COUPLING.T) * (player + 1) / 2 + 2 * np.eye(5)
    quadratic[BLOCKS[player], :] += COUPLING[BLOCKS[player], :]
    mixed = np.array([np.cos(theta[0] * theta[3]) * theta[3], theta[2], theta[1], np.cos(theta[0] * theta[3]), 0])
    mixed[3] *= theta[0]
    return (quadratic @ theta + mixed + theta**3)[BLOCKS[player]]


def played(names, rounds, h, rates, turns, at_once):
    """The parameters after each round; `turns` are player indices in order."""
    makers = [PLAYERS[name] for name in names]
    players = [make(START[block], *arguments) for (_, make, arguments), block in zip(makers, BLOCKS, strict=False)]
    theta, points = START.copy(), [START.copy()]
    for _ in range(rounds):
        before = theta.copy()
        for c in turns:
            seen = (before if at_once else theta).copy()
            seen[BLOCKS[c]] = players[c].query
            players[c].step(gradient(c, seen), h * rates[c])
            theta[BLOCKS[c]] = players[c].parameters
        points.append(theta.copy())
    return np.array(points)


def iterated(game, rounds, h):
    """y = C X + h D F, X⁺ = A X + h B F, for an explicit method, from its own start."""
    A, B, C, D, start, u = (
        np.array(getattr(game, name), dtype=float) for name in ("A", "B", "C", "D", "start", "preconsistency")
    )

    def field(colour, point):
        value = np.zeros(5)
        value[BLOCKS[colour]] = -gradient(colour, point)
        return value

    X = u * START + h * start @ np.array([field(c, START) for c in range(game.colour_count)])
    points = [START]
    for _ in range(rounds):
        F = np.zeros((game.query_count, 5))
        for i in game.query_order:
            F[i] = field(game.colours[i], C[i] @ X + h * D[i] @ F)
        X = A @ X + h * B @ F
        points.append((np.array(game.readout, dtype=float) @ X)[0])
    return np.array(points)


GAMES = [
    (("descent", "descent"), (1, 1), (1, 1)),
    (("heavy ball", "Nesterov"), (1, 0.5), (1, 1)),
    (("averaged", "heavy ball"), (0.25, 1), (3, 2)),
    (("triple", "classical"), (0.5, 1), (2, 3)),
    (("dampened", "triple"), (0.75, 1), (2, 1)),
    (("heavy ball", "descent", "Nesterov"), (1, 0.5, 0.75), (1, 1, 1)),
    (("classical", "averaged", "triple"), (0.5, 1, 0.25), (2, 1, 3)),
]


@pytest.mark.parametrize(("names", "rates", "updates"), GAMES, ids=str)
@pytest.mark.parametrize("make", [mq.Simultaneous, mq.Alternating])
def test_iterates_are_those_of_the_update_rules(make, names, rates, updates):
    game = make([PLAYERS[name][0] for name in names], rates, updates)
    turns = [c for c, count in enumerate(updates) for _ in range(count)]
    expected = played(names, 15, 0.05, rates, turns, at_once=make is mq.Simultaneous)
    assert np.abs(expected).max() < 3
    np.testing.assert_allclose(iterated(game, 15, 0.05), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("turns", [(0, 1, 0), (1, 0, 0, 1), (2, 0, 1, 0, 2)], ids=str)
def test_turns_are_taken_in_order(turns):
    names, rates = ("heavy ball", "triple", "Nesterov")[: max(turns) + 1], (0.5, 1, 0.25)[: max(turns) + 1]
    game = mq.Alternating([PLAYERS[name][0] for name in names], rates, turns=turns)
    expected = played(names, 15, 0.05, rates, turns, at_once=False)
    np.testing.assert_allclose(iterated(game, 15, 0.05), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("updates", [(1, 1, 1), (2, 3, 1)], ids=str)
def test_each_dampened_player_of_a_simultaneous_game_has_its_own_first_step(updates):
    names, rates = ("dampened",) * 3, (0.5, 1, 0.75)
    game = mq.Simultaneous([PLAYERS["dampened"][0]] * 3, rates, updates)
    turns = [c for c, count in enumerate(updates) for _ in range(count)]
    expected = played(names, 10, 0.05, rates, turns, at_once=True)
    np.testing.assert_allclose(iterated(game, 10, 0.05), expected, rtol=0, atol=1e-14)


def test_a_dampened_player_who_moves_later_starts_from_the_field_at_the_start_of_the_round():
    """Its buffer is α/β·g(θ₀), while torch would have g where the player stands: O(h²) apart after one round."""
    game = mq.Alternating([descent, PLAYERS["dampened"][0]])
    gaps = []
    for h in (1e-2, 1e-3):
        expected = played(("descent", "dampened"), 1, h, (1, 1), (0, 1), at_once=False)
        gaps.append(np.abs(iterated(game, 1, h) - expected).max())
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.05)


def test_an_implicit_player_is_implicit_in_its_own_parameters_only():
    game = mq.Alternating([mq.ImplicitEuler(), descent], rates=[nu, 1])
    assert game.D.tolist() == [[nu, 0], [nu, 0]]
    assert game.A.tolist() == [[1]]


def test_the_parts_of_a_game():
    game = mq.Alternating([mq.HeavyBall(beta), descent], rates=(Q(1, 2), 1), updates=(2, 1))
    assert game.colours == (0, 0, 1)
    assert game.players
    assert game.steps == 1
    assert not game.decay
    assert game.readout == sp.Matrix([[1, 0]])
    assert game.A.tolist() == [[1, beta + beta**2], [0, beta**2]]
    assert game.D.expand().tolist() == [[0, 0, 0], [Q(1, 2), 0, 0], [Q(1, 2) + beta / 2, Q(1, 2), 0]]
    assert game.subs(beta, Q(1, 2)).players
    assert not descent.players


def test_the_start_of_each_player_is_scaled_by_its_rate():
    game = mq.Simultaneous([mq.HeavyBall(beta, Q(1, 4)), mq.OptimisticGradient()], rates=[nu, 3])
    assert game.start == sp.Matrix([[0, 0], [nu / (4 * beta), 0], [0, 3]])


def test_step_powers_are_those_of_the_players_buffers():
    players = [mq.HeavyBall(0.5), mq.ClassicalNesterov(0.5), mq.TripleMomentum(0.5, 0.25, 0.125)]
    assert mq.Alternating(players).step_powers == (0, 1, 0, 0)
    no_rule = mq.LinearMultistep(rho=[0, -1, 1], sigma=[Q(-1, 2), Q(3, 2)])
    assert no_rule.step_powers is None
    assert mq.Alternating([descent, no_rule]).step_powers is None
    mixed = mq.GeneralLinearMethod(
        A=[[1, 0], [1, Q(1, 2)]], B=[[1], [1]], C=[[1, 0]], D=[[0]], step_powers=(0, 1), name="mixed"
    )
    assert mixed.preconsistency[1] == 2  # its buffer X₁ − 2θ has no one power
    assert mq.Simultaneous([mixed, descent]).step_powers is None


def test_momentum_of_a_player_decays_with_each_of_its_updates():
    game = mq.Simultaneous([mq.HeavyBall(0.5), mq.HeavyBall(0.75)], updates=[3, 2])
    assert game.parasitic_radius == pytest.approx(0.75**2, abs=1e-14)
    assert game.is_zero_stable is True


@pytest.mark.parametrize(
    ("game", "name"),
    [
        (mq.Simultaneous([descent, descent]), "Simultaneous([GradientDescent(), GradientDescent()])"),
        (
            mq.Alternating([descent, mq.HeavyBall(0.5)], rates=[0.5, nu], updates=[1, 2]),
            "Alternating([GradientDescent(), HeavyBall(momentum=1/2)], rates=(1/2, nu), updates=(1, 2))",
        ),
        (
            mq.Alternating((descent, descent), turns=(0, 1, 0)),
            "Alternating([GradientDescent(), GradientDescent()], turns=(0, 1, 0))",
        ),
    ],
)
def test_a_game_prints_what_was_given(game, name):
    assert repr(game) == name


MAKERS = pytest.mark.parametrize("make", [mq.Simultaneous, mq.Alternating])


@MAKERS
@pytest.mark.parametrize("players", [[descent], [], descent, None, "ab"], ids=str)
def test_a_game_needs_two_players(make, players):
    with pytest.raises(InvalidMethod, match="players is .*: give a list of at least two methods"):
        make(players)


@MAKERS
@pytest.mark.parametrize(
    ("player", "message"),
    [
        (mq.GradientDescent, "is no method: give one such as mq.GradientDescent"),
        (
            mq.Simultaneous([descent, descent]),
            "Simultaneous.* is a game or an epoch itself: give the method that makes",
        ),
        (mq.GeneralLinearMethod([[1]], [[2]], [[1]], [[0]], steps=2, name="two"), "two is a game or an epoch itself"),
        (mq.HeavyBall(0.5).with_weight_decay(0.1), r"HeavyBall.* has weight decay: put λ/2·\|θ_c\|² into the loss"),
        (mq.Extragradient(), r"Extragradient\(\) has 2 gradient queries per step: give each player a method with one"),
    ],
)
def test_players_that_are_refused(make, player, message):
    with pytest.raises(InvalidMethod, match=message):
        make([descent, player])


@MAKERS
@pytest.mark.parametrize(
    "rates",
    [
        [1],
        [1, 1, 1],
        [1, 0],
        [1, -0.5],
        [sp.Symbol("a", negative=True), 1],
        [1, sp.Symbol("a", nonpositive=True)],
        [1, -sp.Symbol("a", positive=True) / 2],
        np.array([1.0, -1.0]),
        sp.Matrix([1, 0]),
        sp.eye(2),
    ],
    ids=str,
)
def test_rates_that_are_refused(make, rates):
    with pytest.raises(InvalidMethod, match="(?s)rates is .*: give a positive number for each of the 2 players"):
        make([descent, descent], rates)


@MAKERS
def test_rates_and_updates_in_arrays(make):
    expected = make([descent, descent], [Q(1, 2), nu], [1, 2])
    for kind in (tuple, sp.Matrix, sp.ImmutableMatrix, lambda values: sp.Matrix([values]), np.array):
        assert make([descent, descent], kind([Q(1, 2), nu]), kind([1, 2])) == expected
    with pytest.raises(InvalidMethod, match=r"rates\[0\] is array\(\[1, 1\]\): give a number or a sympy expression"):
        make([descent, descent], np.ones((2, 2), dtype=int))


@MAKERS
def test_rates_must_be_a_row_of_numbers(make):
    with pytest.raises(InvalidMethod, match="rates is 2: give a sequence of numbers"):
        make([descent, descent], 2)
    with pytest.raises(InvalidMethod, match=r"rates\[1\] is 'fast': give a number"):
        make([descent, descent], [1, "fast"])
    with pytest.raises(InvalidMethod, match="has the symbol h: the names .* are reserved"):
        make([descent, descent], [1, sp.Symbol("h")])


@MAKERS
@pytest.mark.parametrize("updates", [[1], [1, 0], [1, 2, 3], [1, -1], [100, 101]], ids=str)
def test_updates_that_are_refused(make, updates):
    with pytest.raises(
        InvalidMethod, match="updates is .*: give a positive integer for each of the 2 players, at most"
    ):
        make([descent, descent], updates=updates)


@MAKERS
@pytest.mark.parametrize("updates", [[1, 1.5], [nu, 1]], ids=str)
def test_updates_must_be_integers(make, updates):
    with pytest.raises(InvalidMethod, match="updates is .*: give a sequence of integers"):
        make([descent, descent], updates=updates)


@pytest.mark.parametrize("turns", [(0, 0), (0, 1, 2), (0, -1), (), (0, 1) * 101], ids=lambda turns: str(turns[:3]))
def test_turns_that_are_refused(turns):
    with pytest.raises(InvalidMethod, match="turns is .*: name each of the players 0 to 1 at least once, in at most"):
        mq.Alternating([descent, descent], turns=turns)


def test_turns_or_updates():
    with pytest.raises(InvalidMethod, match=r"updates is \[1, 1\] and turns \[0, 1\]: give one of them"):
        mq.Alternating([descent, descent], updates=[1, 1], turns=[0, 1])
    with pytest.raises(InvalidMethod, match="turns is .*: give a sequence of integers"):
        mq.Alternating([descent, descent], turns=[0, 0.5])


@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay_of_a_whole_game_is_refused(decoupled):
    game = mq.Alternating([descent, descent])
    with pytest.raises(InvalidMethod, match=r"Alternating.* is a game, and weight decay .* into the loss of player c"):
        game.with_weight_decay(0.1, decoupled=decoupled)
