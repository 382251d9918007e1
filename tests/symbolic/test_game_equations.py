"""Modified equations of games: published drifts, closed forms, laws, and brute force.

Players are counted from 0, and a tree is the colour of its root with its children.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from naive_expansion import Expansion
from sympy import Rational as Q

import modeq as mq
from modeq.errors import InvalidTree, NotAGradientFlow

a, b, beta, gamma, nu, k, m = sp.symbols("a b beta gamma nu k m")
descent = mq.GradientDescent()
EULER = [descent, descent]
MAKERS = pytest.mark.parametrize("make", [mq.Simultaneous, mq.Alternating])


def equal(x, y):
    return sp.cancel(x - y) == 0


def edge(parent, child):
    return mq.Tree(parent, [(child, [])])


def path(*colours):
    tree = mq.Tree(colours[-1], [])
    for colour in colours[-2::-1]:
        tree = mq.Tree(colour, [tree])
    return tree


def uncoloured(tree):
    return mq.Tree([uncoloured(child) for child in tree.children])


def relabelled(tree, names):
    return mq.Tree(names[tree.colour], [relabelled(child, names) for child in tree.children])


def vertices(tree):
    return [tree.colour] + [colour for child in tree.children for colour in vertices(child)]


# Rosca, Wu, Dherin, Barrett 2021 (arXiv 2105.13922), and drift_utils.py of their code (google-deepmind/
# discretisation_drift). Player c has the learning rate υ_c h for a whole round, thus υ_c h/m_c for each of its m_c
# updates. With f_c' f_d for the derivative of f_c along f_d it follows, up to O(h³) in one round,
#     θ_c' = f_c − (υ_c h/2) Σ_d p_cd f_c' f_d    for the time υ_c h,
# both in one and the same time. p_cc = 1/m_c, p_cd = 1 for a player who sees where the other was, and 1 − 2υ_d/υ_c for
# the one who sees where the other has moved to.


def published(c, d, rates, updates, alternating):
    if c == d:
        return Q(1, updates[c])
    return 1 - 2 * rates[d] / rates[c] if alternating and d < c else sp.Integer(1)


def published_game(make, rates, updates):
    return make(EULER, [rate / count for rate, count in zip(rates, updates, strict=True)], updates)


@pytest.mark.some(19)
@MAKERS
@pytest.mark.parametrize("updates", [(i, j) for i in range(1, 5) for j in range(1, 5)], ids=str)
def test_the_published_drift_with_one_learning_rate(make, updates):
    """Then all blocks run for the same time, and it is the modified equation, in the time υh for ours in h."""
    equation = mq.modified_equation(published_game(make, (a, a), updates), order=2)
    for c in (0, 1):
        assert equation[mq.Tree(c, [])] == a
        for d in (0, 1):
            p = published(c, d, (a, a), updates, make is mq.Alternating)
            assert equal(equation[edge(c, d)], -a * a / 2 * p)


@pytest.mark.some(19)
@MAKERS
@pytest.mark.parametrize("updates", [(i, j) for i in range(1, 5) for j in range(1, 5)], ids=str)
def test_the_published_drift_with_two_learning_rates_is_right_for_one_round(make, updates):
    """The blocks run for different times, so that it is a statement on the map of one round and no flow."""
    rates = (a, b)
    step = mq.memoryless_map(published_game(make, rates, updates), order=2)
    for c in (0, 1):
        assert step[mq.Tree(c, [])] == rates[c]
        for d in (0, 1):
            p = published(c, d, rates, updates, make is mq.Alternating)
            # υ_c h f_c − υ_c h·(υ_c h/2) p f_c' f_d, and from the flow itself (υ_c h)²/2 f_c' f_d.
            assert equal(step[edge(c, d)], rates[c] ** 2 / 2 * (1 - p))


def test_the_flow_with_two_learning_rates_has_the_product_of_both():
    equation = mq.modified_equation(published_game(mq.Alternating, (a, b), (2, 3)), order=2)
    assert [equal(equation[edge(c, d)], v) for c, d, v in ((0, 1, -a * b / 2), (1, 0, a * b / 2))] == [True, True]
    assert equal(equation[edge(0, 0)], -(a**2) / 4)
    assert equal(equation[edge(1, 1)], -(b**2) / 6)


# b(τ) of gradient descent with m updates of player 0, then k of player 1, at unit rates; those of player 1 in
# `Simultaneous` follow by exchanging the players.
BOTH = {
    path(0): m,
    path(0, 0): -m / 2,
    path(0, 1): -m * k / 2,
    path(0, 0, 0): m / 3,
    path(0, 0, 1): m * k * (m + 3) / 12,
    path(0, 1, 1): m * k * (k + 3) / 12,
    mq.Tree(0, [(0, []), (0, [])]): m / 6,
    mq.Tree(0, [(0, []), (1, [])]): -m * k * (m - 3) / 12,
    mq.Tree(0, [(1, []), (1, [])]): m * k**2 / 6,
}
SIMULTANEOUS = {**BOTH, path(0, 1, 0): m**2 * k / 3}
ALTERNATING = {
    **BOTH,
    path(0, 1, 0): -(m**2) * k / 6,
    path(1): k,
    path(1, 0): m * k / 2,
    path(1, 1): -k / 2,
    path(1, 0, 0): m * k * (m - 3) / 12,
    path(1, 0, 1): -m * k**2 / 6,
    path(1, 1, 0): m * k * (k - 3) / 12,
    path(1, 1, 1): k / 3,
    mq.Tree(1, [(0, []), (0, [])]): m**2 * k / 6,
    mq.Tree(1, [(0, []), (1, [])]): -m * k * (k + 3) / 12,
    mq.Tree(1, [(1, []), (1, [])]): k / 6,
}


@pytest.mark.parametrize("counts", [*((i, j) for i in range(1, 5) for j in range(1, 5)), (6, 5)], ids=str)
def test_any_number_of_updates_in_closed_form(counts):
    """Polynomials in m and k of at most third degree in each are settled by the 16 cases; the 17th is a check."""
    at = dict(zip((m, k), counts, strict=True))
    together = mq.modified_equation(mq.Simultaneous(EULER, updates=counts), order=3)
    in_turn = mq.modified_equation(mq.Alternating(EULER, updates=counts), order=3)
    assert {tree: value.subs(at) for tree, value in ALTERNATING.items()} == in_turn.coefficients
    swapped = {
        relabelled(tree, (1, 0)): value.subs({m: k, k: m}, simultaneous=True) for tree, value in SIMULTANEOUS.items()
    }
    assert {tree: value.subs(at) for tree, value in {**SIMULTANEOUS, **swapped}.items()} == together.coefficients


def test_the_interaction_of_heavy_balls_turns_at_a_momentum_of_one_third():
    """With 1/s_d for how far player d goes per round, and g₀ = −(1 + β)/(2s²) of a heavy ball at its own θ."""
    momenta = (beta, gamma)
    players = [mq.HeavyBall(momentum) for momentum in momenta]
    together = mq.modified_equation(mq.Simultaneous(players), order=2)
    in_turn = mq.modified_equation(mq.Alternating(players), order=2)
    for c, d in ((0, 0), (0, 1), (1, 0), (1, 1)):
        s, t = 1 - momenta[c], 1 - momenta[d]
        assert equal(together[edge(c, d)], -(1 + momenta[c]) / (2 * s**2 * t))
        late = sp.Integer(c > d) / (s * t)
        assert equal(in_turn[edge(c, d)], together[edge(c, d)] + late)
    assert equal(in_turn[edge(1, 0)], (1 - 3 * gamma) / (2 * (1 - gamma) ** 2 * (1 - beta)))


@MAKERS
@pytest.mark.parametrize("momentum", [0, 0.25, 0.5])
def test_heavy_balls_spiral_out_of_a_bilinear_game_as_fast_as_the_drift_says(make, momentum):
    """L_0 = θ₀θ₁ = −L_1: |θ| grows by the factor 1 − h²(b_01 + b_10)/2 in a round, b_cd the interactions."""
    game = make([mq.HeavyBall(momentum)] * 2)
    equation = mq.modified_equation(game, order=2)
    A, B, C, D = (np.array(getattr(game, name), dtype=float) for name in "ABCD")
    blocks = [np.array([[0, -1], [0, 0]]), np.array([[0, 0], [1, 0]])]
    jacobian = np.zeros((2 * len(C), 2 * len(C)))
    for i, colour in enumerate(game.colours):
        jacobian[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = blocks[colour]
    A, B, C, D = (np.kron(matrix, np.eye(2)) for matrix in (A, B, C, D))
    h = 1e-3
    step = A + h * B @ jacobian @ np.linalg.solve(np.eye(len(D)) - h * D @ jacobian, C)
    growth = (max(abs(np.linalg.eigvals(step))) - 1) / h**2
    assert growth == pytest.approx(float(-(equation[edge(0, 1)] + equation[edge(1, 0)]) / 2), rel=1e-3, abs=1e-8)
    closed = momentum if make is mq.Alternating else (1 + momentum) / 2
    assert growth == pytest.approx(closed / (1 - momentum) ** 3, rel=1e-3, abs=1e-8)


def test_each_pair_of_players_has_its_own_order():
    rates = sp.symbols("a:4")
    equation = mq.modified_equation(mq.Alternating([descent] * 4, rates), order=2)
    for c in range(4):
        for d in range(4):
            sign = 1 if d < c else -1
            assert equal(equation[edge(c, d)], sign * rates[c] * rates[d] / 2)


# Those whose gradient is taken at their parameters.
FAMILY = {
    "gradient descent": descent,
    "heavy ball": mq.HeavyBall(beta),
    "dampened": mq.HeavyBall(beta, nu),
    "Nesterov": mq.Nesterov(Q(2, 5)),
    "optimistic": mq.OptimisticGradient(),
    "Adams-Bashforth": mq.LinearMultistep(rho=[0, -1, 1], sigma=[Q(-1, 2), Q(3, 2)]),
}


@pytest.mark.parametrize("name", FAMILY)
def test_players_alike_who_move_at_once_are_one_method(name):
    game = mq.modified_equation(mq.Simultaneous([FAMILY[name]] * 2), order=4)
    plain = mq.modified_equation(FAMILY[name], order=4)
    assert all(equal(value, plain[uncoloured(tree)]) for tree, value in game.items())


@pytest.mark.parametrize("method", [mq.ClassicalNesterov(Q(2, 5)), mq.ImplicitEuler()], ids=str)
def test_players_alike_are_another_method_if_they_look_ahead(method):
    """Each looks ahead in its own block only, and sees the others at their parameters."""
    game = mq.modified_equation(mq.Simultaneous([method, method]), order=3)
    plain = mq.modified_equation(method, order=3)
    differ = {tree for tree, value in game.items() if value != plain[uncoloured(tree)]}
    assert differ
    assert all(len(tree.colours) == 2 for tree in differ)


def test_the_start_of_players_alike_is_that_of_the_method():
    method = mq.HeavyBall(beta, nu)
    layer = mq.modified_equation(mq.Simultaneous([method, method]), order=4).initial_layer()
    plain = mq.modified_equation(method, order=4).initial_layer()
    assert all(equal(value, plain[uncoloured(tree)]) for tree, value in layer.items())


@MAKERS
def test_the_terms_of_one_player_alone_are_those_of_its_method(make):
    methods = [mq.HeavyBall(beta), mq.TripleMomentum(Q(1, 2), Q(1, 3), Q(1, 5))]
    equation = mq.modified_equation(make(methods, rates=[a, b]), order=4)
    for c, rate in enumerate((a, b)):
        alone = mq.modified_equation(methods[c], order=4)
        for tree, value in equation.of_colour(c).items():
            if tree.colours == {c}:
                assert equal(value, rate**tree.order * alone[uncoloured(tree)])


@MAKERS
def test_rates_are_factors_of_the_fields(make):
    players = [mq.HeavyBall(Q(1, 2)), mq.Nesterov(Q(1, 3))]
    scaled = mq.modified_equation(make(players, rates=[a, b], updates=[2, 1]), order=4)
    plain = mq.modified_equation(make(players, updates=[2, 1]), order=4)
    for tree, value in scaled.items():
        colours = vertices(tree)
        assert equal(value, a ** colours.count(0) * b ** colours.count(1) * plain[tree])


def test_relabelling_players_who_move_at_once_relabels_the_trees():
    players, rates, updates = [mq.HeavyBall(beta), descent, mq.Nesterov(Q(1, 3))], [1, 2, a], [1, 3, 2]
    equation = mq.modified_equation(mq.Simultaneous(players, rates, updates), order=3)
    order = (2, 0, 1)  # who is player 0, 1, 2 in the other game
    other = mq.Simultaneous(*([list(row)[c] for c in order] for row in (players, rates, updates)))
    there = mq.modified_equation(other, order=3)
    names = [order.index(c) for c in range(3)]
    assert all(equal(value, there[relabelled(tree, names)]) for tree, value in equation.items())


def test_turns_and_updates_are_two_ways_to_say_one_thing():
    players = [mq.HeavyBall(beta), descent]
    by_turns = mq.modified_equation(mq.Alternating(players, turns=[0, 0, 1]), order=4)
    assert by_turns == mq.modified_equation(mq.Alternating(players, updates=[2, 1]), order=4)


TABLES = json.loads((Path(__file__).parents[1] / "reference" / "two_colour_coefficients.json").read_text("utf-8"))
PARTITIONED = {
    "symplectic Euler (IMEX)": mq.Alternating(EULER),
    "Stormer-Verlet": mq.Alternating(EULER, rates=[1, Q(1, 2)], turns=[1, 0, 1]),
}


def coloured(pair):
    colour, children = pair
    return mq.Tree(colour, [coloured(child) for child in children])


def bipartite(tree):
    """Whether no vertex has a child of its own colour: all that is left if no player's field depends on its block."""
    return all(child.colour != tree.colour and bipartite(child) for child in tree.children)


@pytest.mark.parametrize("entry", TABLES["methods"], ids=lambda entry: entry["name"])
def test_partitioned_methods_of_the_tables(entry):
    equation = mq.modified_equation(PARTITIONED[entry["name"]], order=3)
    rows = [(coloured(pair), Q(value)) for pair, value in entry["coefficients"]]
    rows = [(tree, value) for tree, value in rows if bipartite(tree)]
    assert len(rows) >= 4
    assert [equation[tree] for tree, _ in rows] == [value for _, value in rows]


def test_the_other_scheme_of_stormer_and_verlet_exchanges_the_players():
    one = mq.modified_equation(PARTITIONED["Stormer-Verlet"], order=5)
    other = mq.modified_equation(mq.Alternating(EULER, rates=[Q(1, 2), 1], turns=[0, 1, 0]), order=5)
    assert all(value == other[relabelled(tree, (1, 0))] for tree, value in one.items())
    assert all(value == 0 for tree, value in one.items() if bipartite(tree) and tree.order % 2 == 0)


def test_implicit_players_in_reverse_order_are_the_adjoint():
    game = mq.Alternating([descent] * 3, rates=[1, 2, a], updates=[1, 2, 1])
    turns = [2, 1, 1, 0]
    reverse = mq.Alternating([mq.ImplicitEuler()] * 3, rates=[1, 2, a], turns=turns)
    assert mq.modified_equation(game, order=4).adjoint() == mq.modified_equation(reverse, order=4)
    assert mq.memoryless_map(game, order=3).adjoint() == mq.memoryless_map(reverse, order=3)


def test_reversing_the_order_is_the_adjoint_where_no_field_depends_on_its_own_block():
    one, other = (mq.modified_equation(mq.Alternating(EULER, turns=t), order=5) for t in ((0, 1), (1, 0)))
    back = one.adjoint()
    assert all(back[tree] == other[tree] for tree in one if bipartite(tree))
    assert back[path(0, 0)] != other[path(0, 0)]


def test_a_palindrome_of_symmetric_players_is_even():
    midpoint = mq.RungeKutta([[Q(1, 2)]], [1], name="midpoint")
    game = mq.Alternating([midpoint, midpoint], rates=[Q(1, 2), 1], turns=[0, 1, 0])
    assert mq.modified_equation(game, order=5).is_even()


# Brute force: the modified field F and the buffers on the slow manifold, w = W(θ), by Taylor expansion of one round on
# polynomial fields. Nothing here knows of trees or of general linear methods.


class Player:
    """A buffer w = h(…) and the move θ_c⁺ = θ_c + w·kept + field·now, w⁺ = βw + field."""

    def __init__(self, beta=0, lookahead=False):
        self.beta, self.lookahead = beta, lookahead

    def move(self, e, theta, w, force):
        """One step of torch's heavy ball or Nesterov momentum, or of gradient descent; `force` is h·rate·f."""
        beta = e.number(self.beta)
        w = beta * w + force
        return theta + (force + beta * w if self.lookahead else w), w


def round_of(e, players, fields, rates, turns, at_once, theta, buffers):
    start, theta, buffers = list(theta), list(theta), list(buffers)
    for c in turns:
        seen = list(start if at_once else theta)
        seen[c] = theta[c]
        force = e.truncated(e.h * e.number(rates[c]) * e.composed([fields[c]], seen)[0])
        theta[c], buffers[c] = players[c].move(e, theta[c], buffers[c], force)
    return theta, [e.truncated(buffer) for buffer in buffers]


def expanded(fields, players, rates, turns, at_once, order):
    """F through h^(order − 1), one variable for each player."""
    e = Expansion(["u", "v", "w"][: len(players)], order)
    fields = [e.ring.from_expr(sp.sympify(f)) for f in fields]
    F, W = [e.ring.zero] * len(players), [e.ring.zero] * len(players)
    decays = [e.field.from_sympy(1 - sp.Rational(p.beta) ** turns.count(c)) for c, p in enumerate(players)]
    for _ in range(order + 1):
        # W(θ(h)) = w⁺ settles one more power of h, as w⁺ = β^updates w + (terms that W enters later) …
        _, after = round_of(e, players, fields, rates, turns, at_once, e.theta, W)
        late = e.later(W, F, 1)
        W = [w - e.truncated(x - y).quo_ground(s) for w, x, y, s in zip(W, late, after, decays, strict=True)]
        # … and θ(h) = θ⁺ then one more of F.
        moved, _ = round_of(e, players, fields, rates, turns, at_once, e.theta, W)
        defects = zip(F, e.later(e.theta, F, 1), moved, strict=True)
        F = [f - e.truncated(x - y).exquo(e.h) for f, x, y in defects]
    return [f.as_expr() for f in F]


u, v, w = sp.symbols("u v w")
TWO = [1 - v + 3 * u * v + u**3 - u * v**2, 2 + u - 2 * u**2 + u * v**2 + v / 3]
THREE = [1 + u - v + 2 * u * w + v**2, u * v - w + u**2 / 2, v - 2 * u * v + w**2]
ball, ahead = (mq.HeavyBall(Q(2, 5)), Player(Q(2, 5))), (mq.Nesterov(Q(1, 3)), Player(Q(1, 3), lookahead=True))
plain = (descent, Player())
CASES = {
    "heavy ball, then descent": ((ball, plain), (1, 1), (0, 1), False, 4),
    "descent, then heavy ball": ((plain, ball), (1, 1), (0, 1), False, 4),
    "heavy ball and descent at once": ((ball, plain), (1, 2), (0, 1), True, 4),
    "Nesterov, twice the heavy ball": ((ahead, ball), (2, Q(1, 2)), (0, 1, 1), False, 4),
    "twice and three times at once": ((ball, ahead), (1, Q(1, 3)), (0, 0, 1, 1, 1), True, 3),
    "Verlet with momentum": ((ball, ahead), (Q(1, 2), 1), (0, 1, 0), False, 3),
    "three players": ((ball, plain, ahead), (1, Q(1, 2), 1), (0, 1, 2), False, 3),
    "three players, mixed turns": ((ball, ahead, plain), (1, Q(1, 2), 2), (2, 0, 1, 0), False, 3),
    "three players at once": ((ball, plain, ahead), (1, 2, 1), (0, 0, 1, 2), True, 3),
}


@pytest.mark.some(1)
@pytest.mark.parametrize("name", CASES)
def test_games_against_taylor_expansion(name):
    pairs, rates, turns, at_once, order = CASES[name]
    methods, players = zip(*pairs, strict=True)
    variables, fields = ((u, v, w), THREE) if len(pairs) == 3 else ((u, v), TWO)
    if at_once:
        game = mq.Simultaneous(methods, rates, [turns.count(c) for c in range(len(pairs))])
    else:
        game = mq.Alternating(methods, rates, turns=turns)
    padded = [[f if c == d else sp.Integer(0) for d in range(len(pairs))] for c, f in enumerate(fields)]
    found = mq.modified_equation(game, order).on(padded, variables, h=sp.Symbol("step")).components
    expected = expanded(fields, players, rates, turns, at_once, order)
    assert [sp.expand(x - y) for x, y in zip(found, expected, strict=True)] == [0] * len(pairs)


def test_the_part_of_one_player():
    equation = mq.modified_equation(mq.Alternating(EULER), order=3)
    parts = [equation.of_colour(c) for c in (0, 1)]
    assert parts[0] + parts[1] == equation
    assert parts[1][path(1, 0)] == equation[path(1, 0)]
    assert parts[1][path(0, 1)] == 0
    step = mq.memoryless_map(mq.Alternating(EULER), order=3)
    assert step.of_colour(0)[path(0, 1)] == step[path(0, 1)]


@pytest.mark.parametrize("colour", [2, -1, "0", True, 0.0], ids=repr)
def test_the_part_of_no_player(colour):
    equation = mq.modified_equation(mq.Alternating(EULER), order=2)
    with pytest.raises(InvalidTree, match="colour is .* has the colours 0 to 1"):
        equation.of_colour(colour)


def test_how_a_game_is_printed():
    """g_1 is the gradient of the first player's loss in its own parameters, H_1 the derivative of that in all."""
    equation = mq.modified_equation(mq.Alternating(EULER, rates=[a, 1]), order=2)
    assert str(equation) == "θ' = -a·g_1 - g_2 - a**2*h/2·H_1 g_1 - a*h/2·H_1 g_2 + a*h/2·H_2 g_1 - h/2·H_2 g_2"
    part = equation.of_colour(1)
    assert part.text("field") == "f̃ = f_2 + a*h/2·f_2'(f_1) - h/2·f_2'(f_2)"
    assert part.latex("field").startswith(r"\tilde f = f_{2}")


@MAKERS
@pytest.mark.parametrize("question", ["gradient_test", "modified_loss"])
def test_a_game_is_not_asked_for_one_loss(make, question):
    game = make(EULER)
    for series in (
        mq.modified_equation(game, 2),
        mq.memoryless_map(game, 2),
        mq.modified_equation(game, 2).of_colour(0),
    ):
        with pytest.raises(NotAGradientFlow, match=r"is of a game: .* with equation.of_colour\(c\)"):
            getattr(series, question)()
    with pytest.raises(NotAGradientFlow, match="is of a game"):
        mq.modified_equation(game, order=2).gradient_part()
