"""Where the modified flow must start, against exact iterates and against a run of the optimizer."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import registry
import sympy as sp
from naive_trees import vertices
from scipy.integrate import solve_ivp
from sympy import Rational as Q
from sympy.polys.matrices import DomainMatrix

import modeq as mq
from modeq.symbolic.initial_layer import initial_layer

beta, alpha = sp.symbols("beta alpha")
TREES = ["[]", "[[]]", "[[[]]]", "[[],[]]", "[[[],[]]]", "[[],[],[]]"]


# The optimizers as their sources write them, on vectors (lists) with f = −∇L and h = 1.


def heavy_ball(f, beta, alpha=0, theta=0, buffer=None):
    """torch.optim.SGD: an undamped first step, unless a buffer is given."""
    theta, v = list(theta), buffer
    while True:
        yield list(theta)
        g = f(theta)
        v = g if v is None else [beta * a + (1 - alpha) * b for a, b in zip(v, g, strict=True)]
        theta = [a + b for a, b in zip(theta, v, strict=True)]


def torch_nesterov(f, beta, theta=0):
    theta, v = list(theta), [0] * len(theta)
    while True:
        yield list(theta)
        g = f(theta)
        v = [beta * a + b for a, b in zip(v, g, strict=True)]
        theta = [t + a + beta * b for t, a, b in zip(theta, g, v, strict=True)]


def classical_nesterov(f, beta, theta=0):
    x, before = list(theta), list(theta)
    while True:
        yield list(x)
        y = [a + beta * (a - b) for a, b in zip(x, before, strict=True)]
        x, before = [a + b for a, b in zip(y, f(y), strict=True)], x


def optimistic_gradient(f, beta, theta=0):
    theta, last = list(theta), [0] * len(theta)
    while True:
        yield list(theta)
        g = f(theta)
        theta = [t + 2 * a - b for t, a, b in zip(theta, g, last, strict=True)]
        last = g


def rational_matrix(rows):
    entries = [[sp.QQ.from_sympy(sp.sympify(x)) for x in row] for row in rows]
    return DomainMatrix(entries, (len(rows), len(rows[0])), sp.QQ)


def slow_start(nested, optimizer, mu, **hyperparameters):
    """ℓ(τ) from exact iterates: the fit of Σ_k μᵏⁿ·poly_k(n) to them, its part k = 0 at n = 0.

    On the field in which every vertex moves with the product of its children, the root's iterates are the
    coefficient of τ, as numbers.
    """
    children = vertices(nested)
    size = len(children)

    def f(theta):
        return [math.prod((theta[c] for c in below), start=Q(1)) for below in children]

    skip = size if mu == 0 else 0  # a shift register forgets in finitely many steps
    powers = [Q(1)] if mu == 0 else [mu**k for k in range(size + 1)]
    basis = [(power, j) for power in powers for j in range(size + 1)]
    run = optimizer(f, theta=[Q(0)] * size, **hyperparameters)
    iterates = [next(run)[0] for _ in range(skip + len(basis) + 5)]
    rows = [[power**n * n**j for power, j in basis] for n in range(skip, len(iterates))]
    system = DomainMatrix(
        [[sp.QQ.from_sympy(sp.sympify(x)) for x in row] for row in rows], (len(rows), len(basis)), sp.QQ
    )
    values = DomainMatrix([[sp.QQ.from_sympy(sp.sympify(x))] for x in iterates[skip:]], (len(rows), 1), sp.QQ)
    square, right = system[: len(basis), :], values[: len(basis), :]
    solution = square.lu_solve(right)
    assert system * solution == values, "the iterates are not of the form that the fit supposes"
    return sp.QQ.to_sympy(solution[0, 0].element)


OPTIMISTIC = replace(mq.OptimisticGradient(), start=None)  # from a buffer 0, not from the first gradient
CASES = {
    "heavy ball": (mq.HeavyBall(Q(1, 2)), heavy_ball, {"beta": Q(1, 2)}),
    "heavy ball, dampening": (mq.HeavyBall(Q(1, 3), Q(1, 5)), heavy_ball, {"beta": Q(1, 3), "alpha": Q(1, 5)}),
    "Nesterov": (mq.Nesterov(Q(2, 5)), torch_nesterov, {"beta": Q(2, 5)}),
    "classical Nesterov": (mq.ClassicalNesterov(Q(2, 5)), classical_nesterov, {"beta": Q(2, 5)}),
    "optimistic gradient": (OPTIMISTIC, optimistic_gradient, {"beta": Q(0)}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_layer_is_the_slow_part_of_exact_iterates(name):
    method, optimizer, hyperparameters = CASES[name]
    layer = mq.modified_equation(method, order=5).initial_layer()
    for tree in TREES:
        nested = json.loads(tree)
        assert layer[nested] == slow_start(nested, optimizer, hyperparameters["beta"], **hyperparameters)


def test_heavy_ball_one_half_from_zero_buffers():
    layer = mq.modified_equation(mq.HeavyBall(momentum=0.5), order=4).initial_layer()
    assert dict(layer) == {
        mq.Tree([]): -2,
        mq.Tree([[]]): 20,
        mq.Tree([[[]]]): -200,
        mq.Tree([[], []]): Q(-232, 3),
    }


@pytest.mark.parametrize(
    ("method", "buffers", "expected"),
    [
        (mq.HeavyBall(beta), None, -beta / (1 - beta) ** 2),
        (mq.HeavyBall(beta, alpha), None, -(beta - alpha) / (1 - beta) ** 2),
        (mq.HeavyBall(beta, alpha), 0, -beta * (1 - alpha) / (1 - beta) ** 2),
        (mq.Nesterov(beta), None, -(beta**2) / (1 - beta) ** 2),
        (mq.HeavyBall(beta), [[0], [1 / (1 - beta)]], 0),  # the slow buffer itself, to first order
    ],
)
def test_the_first_term_in_closed_form(method, buffers, expected):
    layer = mq.modified_equation(method, order=2).initial_layer(1, buffers)
    assert sp.cancel(layer[[]] - expected) == 0


@pytest.mark.parametrize("name", registry.METHODS)
def test_the_first_term_is_the_regular_part_of_the_transfer_function(name):
    """From zero buffers: G_c(z) = r/(z − 1) + a_c + … at z = 1, in other words a_c = g₀ + g₋₁/2 in z = e^ζ."""
    method = registry.METHODS[name]()
    layer = mq.modified_equation(method, order=2).initial_layer(1, 0)
    z = sp.Symbol("z")
    row = method.readout_transfer_function(z)
    for colour in range(method.colour_count):
        without_pole = sp.cancel((z - 1) * sum(row[j] for j, c in enumerate(method.colours) if c == colour))
        assert layer[mq.Tree(colour, [])] == sp.diff(without_pole, z).subs(z, 1)


@pytest.mark.parametrize("make", [mq.GradientDescent, registry.METHODS["RK4"], registry.METHODS["explicit midpoint"]])
def test_one_step_methods_have_no_layer(make):
    layer = mq.modified_equation(make(), order=5).initial_layer()
    assert len(layer) == 8
    assert set(layer.values()) == {0}


def test_from_the_slow_manifold_there_is_no_layer_on_a_quadratic():
    """With f = −κθ the slow buffer is known exactly: the momentum that multiplies θ by z₁ every step."""
    b = Q(1, 2)
    kappa, order = sp.Symbol("kappa"), 5
    # θ⁺ = z₁θ and −hv⁺ = (z₁ − 1)θ, so −hv = (1 − 1/z₁)θ, as a series Σ s_k κᵏ; s₁ is minus the buffer.
    z1 = (1 + b - kappa + sp.sqrt((1 + b - kappa) ** 2 - 4 * b)) / 2
    first = sp.series(1 - 1 / z1, kappa, 0, 2).removeO().coeff(kappa, 1)
    layer = mq.modified_equation(mq.HeavyBall(b), order=order).initial_layer(1, [[0], [-first]])
    assert layer[[]] == 0


def test_dampened_first_step_is_an_ordinary_step_from_a_buffer():
    """torch's undamped first step equals a damped one from v₀ = (α/β)g₀, in every term."""
    b, a = Q(1, 2), Q(3, 10)
    equation = mq.modified_equation(mq.HeavyBall(b, a), order=4)
    assert dict(equation.initial_layer()) == dict(equation.initial_layer(buffers=[[0], [a / b]]))
    assert dict(equation.initial_layer()) != dict(equation.initial_layer(buffers=0))


def test_the_layer_of_a_symbol_is_that_of_its_values():
    symbolic = mq.modified_equation(mq.HeavyBall(beta, alpha), order=4).initial_layer()
    for b, a in ((Q(1, 2), Q(1, 3)), (Q(9, 10), Q(0))):
        numbers = mq.modified_equation(mq.HeavyBall(b, a), order=4).initial_layer()
        assert {t: sp.cancel(v.subs({beta: b, alpha: a})) for t, v in symbolic.items()} == dict(numbers)


def test_denominators_contain_one_plus_beta():
    """The resonance β·β ≠ β leaves poles at β = −1, so no power of 1 − β clears the denominators."""
    layer = mq.modified_equation(mq.HeavyBall(beta), order=4).initial_layer()
    assert sp.denom(sp.together(layer[[[], []]])).subs(beta, -1) == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_irrational_eigenvalues(sign):
    """Two irrational or complex parasitic eigenvalues; the layer is rational and matches the iterates."""
    method = mq.GeneralLinearMethod(
        A=[[1, 1, 0], [0, Q(1, 2), Q(sign, 8)], [0, 1, 0]], B=[[1], [1], [0]], C=[[1, 0, 0]], D=[[0]]
    )
    layer = mq.modified_equation(method, order=4).initial_layer()
    assert all(value.is_Rational for value in layer.values())
    errors = []
    for h in (0.02, 0.01):
        state, steps = np.array([1.0, 0.0, 0.0]), round(1 / h)
        A, B = np.array(method.A, float), np.array(method.B, float)[:, 0]
        for _ in range(steps):
            state = A @ state + h * B * -math.sin(state[0])
        errors.append(abs(state[0] - flow(method, 4, layer, h, 1.0, steps)))
    assert 3.8 < math.log2(errors[0] / errors[1]) < 4.4


def flow(method, order, layer, h, start, steps):
    """θ at t = h·steps along the modified flow of f = −sin θ from start + layer."""
    x = sp.Symbol("theta")
    field = mq.modified_equation(method, order=order).on([-sp.sin(x)], [x], h=h).lambdify()
    begin = start + (layer.on([-sp.sin(x)], [x], h=h).lambdify()([start])[0] if len(layer) else 0.0)
    solution = solve_ivp(lambda t, y: field(y), (0, h * steps), [begin], method="DOP853", rtol=1e-13, atol=1e-14)
    return solution.y[0, -1]


def slope(method, optimizer, order, layer_order, hyperparameters):
    layer = mq.modified_equation(method, order=order).initial_layer(layer_order)
    errors = []
    for h in (1 / 160, 1 / 320):
        steps = round(1 / h)
        run = optimizer(lambda y, h=h: [-h * math.sin(y[0])], theta=[1.0], **hyperparameters)
        iterate = [next(run)[0] for _ in range(steps + 1)][-1]
        errors.append(abs(iterate - flow(method, order, layer, h, 1.0, steps)))
    return math.log2(errors[0] / errors[1])


RUNS = {
    "heavy ball": (mq.HeavyBall(0.5), heavy_ball, {"beta": 0.5}),
    "torch dampening": (mq.HeavyBall(0.5, 0.2), heavy_ball, {"beta": 0.5, "alpha": 0.2}),
    "Nesterov": (mq.Nesterov(0.4), torch_nesterov, {"beta": 0.4}),
    "optimistic": (OPTIMISTIC, optimistic_gradient, {"beta": 0}),
}


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", RUNS)
def test_flow_after_layer_follows_the_iterates(name, order):
    method, optimizer, hyperparameters = RUNS[name]
    assert abs(slope(method, optimizer, order, order - 1, hyperparameters) - order) < 0.15


@pytest.mark.parametrize("missing", [1, 2])
def test_with_a_shorter_layer_the_order_stops_early(missing):
    method, optimizer, hyperparameters = RUNS["heavy ball"]
    assert abs(slope(method, optimizer, 4, 3 - missing, hyperparameters) - (4 - missing)) < 0.15


@pytest.mark.parametrize("make", [mq.HeavyBall, mq.Nesterov])
def test_given_buffers_hold_every_start(make):
    """To first order they add up; trees without them are those of zero buffers."""
    method = make(momentum=beta)
    given = initial_layer(method, 3, buffers="given")
    assert given.colour_count == 1 + method.state_count
    # To first order w₁ = κ·f counts like a matrix.
    kappa = sp.Symbol("kappa")
    matrix = initial_layer(method, 1, buffers=[[0], [kappa]])
    assert sp.cancel(matrix[[]] - given[[]] - kappa * given[mq.Tree(2, [])]) == 0
    zero = initial_layer(method, 3, buffers=0)
    assert all(given[tree] == value for tree, value in zero.items())


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_flow_from_any_buffer(order):
    """Heavy ball from a buffer that is no gradient: written out, the layer puts the flow onto the iterates."""
    x, y = sp.symbols("x y")
    loss = sp.cos(x) + x**2 + x * y / 2 + y**2
    equation = mq.modified_equation(mq.HeavyBall(Q(1, 2)), order)
    layer = initial_layer(equation.method, order, buffers="given")
    problem, buffer, start = mq.SymbolicProblem(loss, [x, y]), np.array([0.7, -0.4]), np.array([0.8, -0.3])
    fields = [[-sp.diff(loss, x), -sp.diff(loss, y)], [0, 0], [-Q(7, 10), Q(2, 5)]]  # f, w₀ = 0, w₁ = −v₀
    errors = []
    for steps in (40, 80, 160):
        h = 1 / steps
        moved = layer.on(fields, [x, y], h=sp.Rational(1, steps)).lambdify()(start)
        flow = mq.flow(equation, problem, start + moved, h=h, time=1, initial_layer=False, rtol=1e-13, atol=1e-15)
        theta, momentum = start.copy(), buffer.copy()
        for _ in range(steps):
            momentum = 0.5 * momentum - problem.field(theta)
            theta = theta - h * momentum
        errors.append(np.max(abs(flow.y[-1] - theta)))
    slopes = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.allclose(slopes, order, atol=0.15), slopes


def test_given_vectors_print_by_name():
    layer = initial_layer(mq.HeavyBall(Q(1, 2)), 1, buffers="given")
    assert str(layer) == "θ(0) = θ₀ + 2*h·g + h·w_0 + h·w_1"
    assert layer.latex() == r"\theta(0) = \theta_0 + h\,\left(2\,g + w_{0} + w_{1}\right)"


def parasitic(*coefficients):
    """A method of one buffer per parasitic eigenvalue, the roots of z^m + c₁ z^{m−1} + … + c_m."""
    m = len(coefficients)
    companion = sp.zeros(m + 1)
    companion[0, 0], companion[0, 1] = 1, 1
    for i in range(m):
        companion[1, 1 + i] = -coefficients[i]
    for i in range(1, m):
        companion[1 + i, i] = 1
    return mq.GeneralLinearMethod(
        A=companion, B=[[1], [1], *[[0]] * (m - 1)], C=[[1, *[0] * m]], D=[[0]], name="several buffers"
    )


def test_eigenvalues_in_two_quadratic_fields():
    """(z² − z/2 + 1/8)(z² − 1/3): the layer is rational."""
    layer = mq.modified_equation(parasitic(Q(-1, 2), Q(-5, 24), Q(1, 6), Q(-1, 24)), 2).initial_layer()
    assert layer[[]].is_Rational


def test_number_fields_that_are_too_large_are_refused():
    bdf4 = mq.LinearMultistep([Q(3, 25), Q(-16, 25), Q(36, 25), Q(-48, 25), 1], [0, 0, 0, 0, Q(12, 25)])
    equation = mq.modified_equation(bdf4, 3)
    with pytest.raises(mq.InvalidMethod, match="number field too large .* pass initial_layer=False to flow"):
        equation.initial_layer()
    cyclic = parasitic(0, Q(-3, 4), Q(1, 8))  # 8z³ − 6z + 1 has the roots cos(2π/9), cos(4π/9), cos(8π/9)
    assert mq.modified_equation(cyclic, 2).initial_layer()[[]].is_Rational
