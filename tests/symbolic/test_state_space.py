"""The logarithm of the one-step map on parameters and buffers."""

import pickle
from functools import cache, partial

import mpmath
import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from sympy import Rational as Q

import modeq as mq
from modeq.displays import lines
from modeq.methods.composition import coordinates
from modeq.symbolic.state_space import state_space_form

beta, alpha, lam = sp.symbols("beta alpha lambda")
dot, v = mq.Tree([]), mq.Tree(1, [])
H_dot, H_v = mq.Tree([[]]), mq.Tree([(1, [])])


def two_poles(first, second):
    """Gradient descent with two buffers of decay rates `first` and `second`; one of them shifts the query."""
    A = [[1, 1, 1], [0, first, 0], [0, 0, second]]
    return mq.GeneralLinearMethod(A=A, B=[[1], [1], [Q(1, 4)]], C=[[1, 0, 1]], D=[[0]], name=f"poles {first}, {second}")


def double_pole(pole):
    A = [[1, 1, 0], [0, pole, 1], [0, 0, pole]]
    return mq.GeneralLinearMethod(A=A, B=[[1], [0], [1]], C=[[1, 0, 0]], D=[[0]], name=f"double pole {pole}")


def complex_pair(real, imaginary):
    A = [[1, 1, 0], [0, real, -imaginary], [0, imaginary, real]]
    return mq.GeneralLinearMethod(A=A, B=[[1], [1], [0]], C=[[1, 0, 0]], D=[[0]], name="complex pair")


def bdf2():
    return mq.LinearMultistep(rho=[Q(1, 2), -2, Q(3, 2)], sigma=[0, 0, 1])


CASES = {
    "heavy ball": mq.HeavyBall(Q(1, 2)),
    "dampening": mq.HeavyBall(Q(3, 4), Q(1, 3)),
    "Nesterov": mq.Nesterov(Q(1, 2)),
    "classical Nesterov": mq.ClassicalNesterov(Q(1, 2)),
    "triple momentum": mq.TripleMomentum(Q(1, 2), Q(1, 3), Q(1, 4)),
    "two poles": two_poles(Q(1, 2), Q(1, 3)),
    "resonant poles": two_poles(Q(1, 2), Q(1, 4)),
    "double pole": double_pole(Q(1, 3)),
    "complex pair": complex_pair(Q(1, 2), Q(1, 4)),
    "BDF2": bdf2(),
    "gradient descent": mq.GradientDescent(),
    "coupled decay": mq.HeavyBall(Q(1, 2)).with_weight_decay(Q(1, 5)),
    "decoupled decay": mq.HeavyBall(Q(1, 2)).with_weight_decay(Q(1, 5), decoupled=True),
}


def is_zero(expression):
    return sp.simplify(expression) == 0


def test_heavy_ball_to_second_order():
    """θ' = −κv − (1−κ)/s·g + hH(A₁v + A₂g), v' = −(a/h)(v − g/s) − H(B₁v + B₂g); f = −g, leaves −v."""
    s, a = 1 - beta, -sp.log(beta)
    kappa = a * beta / s
    A1 = beta * (2 * s - a * (1 + beta)) / s**3
    A2 = (2 * a * beta * (beta + 2) - s * (1 + 5 * beta)) / (2 * s**4)
    B1, B2 = (a * beta - s) / s**2, (2 * s - a * (1 + beta)) / s**3
    form = state_space_form(mq.HeavyBall(beta), order=2)
    expected = {
        (0, dot): (1 - kappa) / s,
        (0, v): kappa,
        (0, H_dot): A2,  # F = f'f = H g
        (0, H_v): A1,
        (1, dot): a / s,  # v' = −Σ c F
        (1, v): -a,
        (1, H_dot): B2,
        (1, H_v): B1,
    }
    assert set(form) == set(expected)
    assert all(is_zero(form[key] - value) for key, value in expected.items())


def test_nesterov_to_first_order():
    """The average of the first step's frozen flow: θ⁺ − θ = −h(g + βv⁺), v⁺ = βv + g."""
    s, a = 1 - beta, -sp.log(beta)
    form = state_space_form(mq.Nesterov(beta), order=1)
    assert is_zero(form[0, v] - a * beta**2 / s)
    assert is_zero(form[0, dot] - (1 - a * beta**2 / s) / s)
    assert is_zero(form[1, dot] - a / s)


def test_near_momentum_one_it_is_symplectic_euler():
    """w⁺ = w + f, θ⁺ = θ + w⁺ is the symplectic Euler method for H = w²/2 + U, f = −U', with step 1.

    Its modified Hamiltonian is H − ½H_p H_q + (1/12)(H_pp H_q² + H_qq H_p²) − (1/12)H_pp H_qq H_p H_q + …
    (Hairer, Lubich, Wanner, *Geometric Numerical Integration*, IX.3).
    """
    numbers = state_space_form(mq.HeavyBall(1 - Q(1, 10**9)), order=3).numbers()
    limits = {(0, v): 1, (0, dot): 1 / 2, (0, H_v): -1 / 6, (0, H_dot): -1 / 12}
    limits |= {(1, v): 0, (1, dot): 1, (1, H_v): -1 / 2, (1, H_dot): -1 / 6, (1, mq.Tree([v, v])): 1 / 6}
    assert all(numbers[key] == pytest.approx(value, abs=1e-8) for key, value in limits.items())


def field_vertices(tree):
    return (tree.colour == 0) + sum(field_vertices(child) for child in tree.children)


def test_dampening_scales_the_field():
    damped = state_space_form(mq.HeavyBall(beta, alpha), order=3)
    plain = state_space_form(mq.HeavyBall(beta), order=3)
    assert all(is_zero(c - plain[i, t] * (1 - alpha) ** field_vertices(t)) for (i, t), c in damped.items())


@pytest.mark.parametrize("method", [mq.GradientDescent(), mq.Extragradient(), mq.ImplicitEuler()], ids=repr)
def test_without_buffers_it_is_the_modified_equation(method):
    form = state_space_form(method, order=5)
    assert {tree: c for (_, tree), c in form.items()} == mq.modified_equation(method, order=5).coefficients


def test_the_linear_part_is_the_logarithm_of_the_state_matrix():
    """For two poles on (θ, w): diag(0, ln p₁, ln p₂) in the basis of eigenvectors (exactly)."""
    p, q = sp.symbols("p q", positive=True)
    form = state_space_form(two_poles(p, q), order=1)
    leaves = [mq.Tree(1, []), mq.Tree(2, [])]
    table = sp.Matrix(3, 2, lambda i, j: form[i, leaves[j]])
    expected = sp.Matrix([[sp.log(p) / (p - 1), sp.log(q) / (q - 1)], [sp.log(p), 0], [0, sp.log(q)]])
    assert sp.simplify(table - expected) == sp.zeros(3, 2)


def chain(length, top):
    """`length` field vertices in a row, and above them a buffer if `top` is its colour."""
    tree = mq.Tree(top, []) if top is not None else None
    for _ in range(length):
        tree = mq.Tree(0, [] if tree is None else [tree])
    return tree


def step_matrix(method, x):
    """One step on (θ, w) for f(θ) = xθ, h = 1, in mpmath numbers."""
    P, W = coordinates(method)
    A, B, C, D, P, W, e, u = (
        mpmath.matrix(m.tolist()) if 0 not in m.shape else None
        for m in (method.A, method.B, method.C, method.D, P, W, method.readout, method.preconsistency)
    )
    inverse = (mpmath.eye(D.rows) - x * D) ** -1
    M = A + x * B * inverse * C
    to, back = mpmath.zeros(A.rows), mpmath.zeros(A.rows)
    for i in range(A.rows):
        for j in range(A.rows):
            to[i, j] = e[0, j] if i == 0 else P[i - 1, j]
            back[j, i] = u[j] if i == 0 else W[j, i - 1]
    return to * M * back


@pytest.mark.some(2)
@pytest.mark.parametrize("name", [name for name in CASES if "decay" not in name])
def test_linear_fields_against_the_matrix_logarithm(name):
    """Taylor coefficients in x of log M(x), by Cauchy's integral inside its radius of convergence."""
    method, order = CASES[name], 4
    form = state_space_form(method, order)
    numbers = form.numbers()
    with mpmath.workdps(30):
        points, circle = 32, mpmath.mpf("0.005")
        at = [circle * mpmath.expjpi(mpmath.mpf(2 * k + 1) / points) for k in range(points // 2)]
        logs = [mpmath.logm(step_matrix(method, x)) for x in at]

        def taylor(i, j, power):  # the other half of the circle is conjugate
            return 2 * mpmath.fsum((m[i, j] * x**-power).real for m, x in zip(logs, at, strict=True)) / points

        for i in range(form.buffer_count + 1):
            for length in range(1, order + 1):
                expected = taylor(i, 0, length)
                assert abs(numbers[i, chain(length, None)] - expected) < 1e-12 * max(1, abs(expected))
            for j in range(form.buffer_count):
                for length in range(order):
                    expected = taylor(i, 1 + j, length)
                    found = numbers[i, chain(length, method.colour_count + j)]
                    assert abs(found - expected) < 1e-12 * max(1, abs(expected))


class Truncated:
    """A power series in ε, truncated."""

    def __init__(self, coefficients):
        self.c = np.asarray(coefficients, dtype=np.float64)

    def _other(self, other):
        return other.c if isinstance(other, Truncated) else np.concatenate([[float(other)], np.zeros(len(self.c) - 1)])

    def __add__(self, other):
        return Truncated(self.c + self._other(other))

    def __mul__(self, other):
        return Truncated(np.convolve(self.c, self._other(other))[: len(self.c)])

    def __sub__(self, other):
        return self + other * -1.0

    def __neg__(self):
        return self * -1.0

    def __pow__(self, power):
        return self if power == 1 else self * self ** (power - 1)

    def __rsub__(self, other):
        return -self + other

    __radd__, __rmul__ = __add__, __mul__


x, y, step = sp.symbols("x y h")
FIELD = (x**2 * y - 2 * y + x / 3, x * y**2 / 2 - x**3 / 4 - y + 1)


def epsilon(length):
    return Truncated(np.eye(length)[1])


VALUES = sp.lambdify([x, y], FIELD)


def series_step(method, state, length):
    """One step on (θ, w), rows of truncated series, with f of size ε."""
    P, W = (np.array(m.tolist(), dtype=float).reshape(m.shape) for m in coordinates(method))
    A, B, C, D, e, u = (
        np.array(m.tolist(), dtype=float)
        for m in (method.A, method.B, method.C, method.D, method.readout, method.preconsistency)
    )
    X = [
        [u[k, 0] * state[0][i] + sum(W[k, j] * state[1 + j][i] for j in range(len(P))) for i in range(2)]
        for k in range(len(A))
    ]
    F = [[0 * state[0][0], 0 * state[0][0]] for _ in C]
    for _ in range(length):  # each sweep is right to one more order
        queries = [
            [
                sum(C[q, k] * X[k][i] for k in range(len(A))) + sum(D[q, r] * F[r][i] for r in range(len(F)))
                for i in range(2)
            ]
            for q in range(len(C))
        ]
        F = [
            [
                epsilon(length) * value
                for value in (VALUES(*point) if c not in method.decay else [-float(method.decay[c]) * p for p in point])
            ]
            for c, point in zip(method.colours, queries, strict=True)
        ]
    X = [
        [
            sum(A[k, m] * X[m][i] for m in range(len(A))) + sum(B[k, q] * F[q][i] for q in range(len(F)))
            for i in range(2)
        ]
        for k in range(len(A))
    ]
    return [[sum(row[k] * X[k][i] for k in range(len(A))) for i in range(2)] for row in [e[0], *P]]


def series_field(form):
    """(dθ/dn, dw/dn) as a function of rows of truncated series (θ, w), w = −h v; f of size ε."""
    explicit = form.on(FIELD, [x, y], h=step)
    w = [sp.Symbol(f"w{i}") for i in range(2 * form.buffer_count)]
    swap = {name: -new / step for name, new in zip(explicit.variables[2:], w, strict=True)}
    scale = [step, step] + [-(step**2)] * len(w)
    rates = [sp.expand(factor * sp.N(c, 30).subs(swap)) for factor, c in zip(scale, explicit.components, strict=True)]
    function = sp.lambdify([[x, y], w, step], rates, cse=True)

    def evaluate(state):
        values = function(state[0], [entry for row in state[1:] for entry in row], epsilon(len(state[0][0].c)))
        return [values[i : i + 2] for i in range(0, len(values), 2)]

    return evaluate


@cache
def form_and_series_field(name, order):
    form = state_space_form(CASES[name], order)
    return form, series_field(form)


def first_state(form, length):
    state = [[Truncated(np.eye(length)[0] * value) for value in (0.7, -0.4)]]
    for i in range(form.buffer_count):
        state.append([epsilon(length) * value for value in (0.3 + i, -0.5)])
    return state


def coefficients(state):
    return np.array([[entry.c for entry in row] for row in state])


@pytest.mark.some(2)
@pytest.mark.parametrize("name", CASES)
def test_its_flow_gives_back_the_step(name):
    """exp(log) on a nonlinear field, in power series: all terms of the order, and not those beyond."""
    method, order = CASES[name], 3
    (form, field), length = form_and_series_field(name, order), order + 2
    start = first_state(form, length)
    shape = coefficients(start).shape

    def right_hand_side(n, u):
        rows = [[Truncated(c) for c in row] for row in u.reshape(shape)]
        return coefficients(field(rows)).ravel()

    end = solve_ivp(right_hand_side, (0, 1), coefficients(start).ravel(), method="DOP853", rtol=1e-12, atol=1e-13).y[
        :, -1
    ]
    miss = abs(end.reshape(shape) - coefficients(series_step(method, start, length)))
    assert np.max(miss[..., : order + 1]) < 1e-10
    assert np.max(miss[..., order + 1]) > 1e-4


@pytest.mark.parametrize(
    "name", ["heavy ball", "Nesterov", "triple momentum", "two poles", "complex pair", "BDF2", "coupled decay"]
)
def test_on_the_slow_manifold_it_is_the_modified_equation(name):
    """Many steps lead onto the slow manifold; there dθ/dn is h times the modified field."""
    method, order = CASES[name], 3
    form, field = form_and_series_field(name, order)
    state = first_state(form, order + 1)
    for _ in range(60):
        state = series_step(method, state, order + 1)
    rates = mq.modified_equation(method, order).on(FIELD, [x, y], h=step).components
    expected = sp.lambdify([x, y, step], [sp.expand(step * rate) for rate in rates])(*state[0], epsilon(order + 1))
    found = field(state)[0]
    scale = np.max(abs(coefficients(state)[0]), axis=0)
    difference = abs(np.array([a.c - b.c for a, b in zip(found, expected, strict=True)]))
    assert np.max(difference / scale) < 1e-11
    assert all(entry.c[order] != 0 for entry in expected)


@pytest.mark.parametrize("momentum", ["0.5", "0.99", "0.9999999"])
def test_floats_are_right_to_the_last_digit(momentum):
    form = state_space_form(mq.HeavyBall(Q(momentum)), order=4)
    for key, value in form.numbers().items():
        assert value == pytest.approx(float(sp.N(form[key], 20, maxn=500)), rel=1e-15)


def test_floats_of_complex_poles_are_real_parts():
    form = state_space_form(CASES["complex pair"], order=2)
    assert all(value == pytest.approx(float(form[key]), abs=1e-13) for key, value in form.numbers().items())
    assert not any(c.has(sp.I) for c in form.values())


def test_symbols_and_numbers_agree():
    symbolic = state_space_form(mq.QuasiHyperbolic(beta, alpha), order=3)
    values = {beta: Q(7, 10), alpha: Q(2, 3)}
    numeric = state_space_form(mq.QuasiHyperbolic(beta, alpha).subs(values), order=3).numbers()
    assert all(float(c.subs(values)) == pytest.approx(numeric[key], rel=1e-11) for key, c in symbolic.items())


def test_it_is_a_mapping():
    form = state_space_form(mq.HeavyBall(Q(1, 2)).with_weight_decay(lam), order=3)
    assert len(form) == len(list(form)) == 2 * len(form.trees)
    assert len(set(form.trees)) == len(form.trees)
    assert (0, mq.Tree([[]])) in form
    assert (2, mq.Tree([[]])) not in form
    assert "tree" not in form
    twice = mq.Tree(1, [mq.Tree(0, []), mq.Tree(0, [])])  # the second derivative of −λθ
    assert form[0, twice] == 0
    assert pickle.loads(pickle.dumps(form)) == form
    assert repr(form) == "StateSpaceForm(HeavyBall(momentum=1/2).with_weight_decay(lambda), order=3, 1 buffers)"


def test_how_it_prints():
    form = state_space_form(mq.HeavyBall(beta), order=2)
    theta, buffer = str(form).splitlines()
    assert theta.startswith("θ' = -(beta*log(beta) - beta + 1)/(1 - beta)**2·g + beta*log(beta)/(1 - beta)·v - h*(")
    assert theta.endswith("·H v")
    assert buffer.startswith("v' = -log(beta)/(h*(1 - beta))·g + log(beta)/h·v - (")
    field = state_space_form(CASES["two poles"], order=1).latex("field")
    assert field.count(r"\dot{v_{2}} = ") == 1
    assert r"\frac{1}{h}\,f" in field
    decayed = state_space_form(mq.HeavyBall(beta).with_weight_decay(lam), order=1)
    assert str(decayed).count("·θ") == 2
    assert form._repr_latex_() == lines(form.latex())


def test_equal_differentials_are_added():
    """Decay below and between two gradients is −λ f'f = −λ H g from two trees, printed as one term."""
    form = state_space_form(mq.HeavyBall(Q(1, 2)).with_weight_decay(lam), order=3)
    below, between = mq.Tree(1, [H_dot]), mq.Tree(0, [mq.Tree(1, [dot])])
    assert is_zero(form[0, below] + form[0, between] - 16 * (52 - 75 * sp.log(2)) / 3)
    theta = form.text().splitlines()[0]
    assert theta.count("·H g ") == 2  # with h, and with h²λ
    assert " - 16*h**2*lambda*(52 - 75*log(2))/3·H g " in theta


@pytest.mark.parametrize(
    "method, pole",
    [
        (mq.OptimisticGradient(), "0"),
        (mq.HeavyBall(0), "0"),
        (two_poles(Q(1, 2), Q(-1, 3)), "-1/3"),
    ],
    ids=str,
)
def test_no_logarithm(method, pole):
    with pytest.raises(mq.NoTimeDerivativeForm, match=f"has the parasitic eigenvalue {pole}: the one-step map has no"):
        state_space_form(method, order=2)


def test_a_symbol_known_to_be_negative():
    with pytest.raises(mq.NoTimeDerivativeForm, match="parasitic eigenvalue -p"):
        state_space_form(two_poles(Q(1, 2), -sp.Symbol("p", positive=True)), order=2)


def test_complex_poles_with_a_common_power():
    """(i/2)² = (−i/2)², but twice their logarithms differ by 2πi."""
    method = complex_pair(0, Q(1, 2))
    assert float(state_space_form(method, order=1)[1, mq.Tree(2, [])]) == pytest.approx(-np.pi / 2)
    with pytest.raises(mq.NoTimeDerivativeForm, match=r"powers \(0, 2\) and \(2, 0\) are equal.*ask for a lower one"):
        state_space_form(method, order=2)


def test_errors():
    form = state_space_form(mq.HeavyBall(beta), order=2)
    with pytest.raises(mq.InvalidOrder, match="order is 0: the lowest"):
        state_space_form(mq.HeavyBall(beta), order=0)
    with pytest.raises(mq.InvalidOrder, match="order is 40: there are .* trees with up to 40 vertices; ask"):
        state_space_form(mq.HeavyBall(Q(1, 2)), order=40)
    with pytest.raises(mq.InvalidMethod, match="'heavy ball' is no method"):
        state_space_form("heavy ball", order=2)
    with pytest.raises(mq.NotZeroStable, match="modulus 2"):
        state_space_form(two_poles(Q(1, 2), 2), order=2)
    with pytest.raises(mq.InvalidMethod, match="free symbols: substitute"):
        form.numbers()
    with pytest.raises(mq.InvalidTree, match=r"is no coefficient of StateSpaceForm.*component 0 for θ, or 1 to 1"):
        form[2, [[]]]
    with pytest.raises(mq.InvalidTree, match="give \\(component, tree\\)"):
        form[mq.Tree([])]
    with pytest.raises(mq.InvalidTree, match="beyond the truncation order 2: ask for order=3"):
        form[0, [[[]]]]
    with pytest.raises(mq.InvalidTree, match="has the colour 2, but .* has 1 for the fields, counted from 0, and 1"):
        form[0, mq.Tree(2, [])]
    with pytest.raises(mq.InvalidTree, match="a buffer is a leaf"):
        form[0, mq.Tree(1, [mq.Tree([])])]
    with pytest.raises(mq.InvalidNotation, match="notation is 'gradient'"):
        form.latex("gradient")


def test_errors_of_explicit_fields():
    on = partial(state_space_form(mq.HeavyBall(beta), order=1).on, x**2, [x])
    assert on(buffers=[[y]]).variables == (x, y)
    with pytest.raises(mq.InvalidProblem, match="buffers are 3: give one sequence"):
        on(buffers=3)
    with pytest.raises(mq.InvalidProblem, match="give 1 sequences of 1 symbols each"):
        on(buffers=[[y], [y]])
    with pytest.raises(mq.InvalidProblem, match="must be distinct"):
        on(buffers=[[x]])
    with pytest.raises(mq.InvalidProblem, match="must be distinct"):
        on(buffers=[[beta]])
    with pytest.raises(mq.InvalidProblem, match="h is v_x, which is also a variable"):
        on(h=sp.Symbol("v_x"))
