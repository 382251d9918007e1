"""General linear methods: transfer functions, preconsistency, zero-stability, values, refusals."""

import pickle

import numpy as np
import pytest
import registry
import sympy as sp
from hypothesis import assume, given
from hypothesis import strategies as st
from sympy import Rational as Q

import modeq as mq
from modeq.methods.exact import coefficient_field, exact, tidy
from modeq.methods.shift_operator import ShiftOperator

beta, alpha, z = sp.symbols("beta alpha z")
GLM = mq.GeneralLinearMethod
GD = {"A": [[1]], "B": [[1]], "C": [[1]], "D": [[0]]}


def glm(**changes):
    return GLM(**{**GD, **changes})


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (mq.GradientDescent(), 1 / (z - 1)),
        (mq.HeavyBall(beta, alpha), (1 - alpha) * z / ((z - 1) * (z - beta))),
        (mq.Nesterov(beta), ((1 + beta) * z - beta) / ((z - 1) * (z - beta))),
        (mq.ClassicalNesterov(beta), ((1 + beta) * z - beta) / ((z - 1) * (z - beta))),
        (mq.OptimisticGradient(), (2 * z - 1) / (z * (z - 1))),
        (mq.ImplicitEuler(), z / (z - 1)),
    ],
    ids=repr,
)
def test_transfer_functions(method, expected):
    assert sp.cancel(method.transfer_function(z) - expected) == 0
    assert sp.cancel(method.transfer_function(sp.Integer(3)) - expected.subs(z, 3)) == 0
    assert method.transfer_function() == method.transfer_function(z)


def test_the_parameters_of_classical_nesterov_are_not_its_query():
    method = mq.ClassicalNesterov(beta)
    assert not method.queries_at_parameters
    assert sp.cancel(method.readout_transfer_function(z)[0] - z / ((z - 1) * (z - beta))) == 0


@pytest.mark.parametrize("name", registry.METHODS)
def test_transfer_functions_against_a_linear_solve(name):
    """At a number, and with the row of θ; and the response to a constant field is its first-order drift."""
    method = registry.METHODS[name]()
    A, B, C, D, e = (np.array(m, dtype=float) for m in (method.A, method.B, method.C, method.D, method.readout))
    inner = np.linalg.solve(2.5 * np.eye(len(A)) - A, B)
    found = method.transfer_function(Q(5, 2))
    found = np.array([[found]] if method.query_count == 1 else found, dtype=float)
    assert np.allclose(found, C @ inner + D, rtol=1e-12)
    assert np.allclose(np.array(method.readout_transfer_function(Q(5, 2)), dtype=float), e @ inner, rtol=1e-12)
    u = np.array(method.preconsistency, dtype=float)
    assert np.allclose(A @ u, u)
    assert np.allclose(C @ u, 1)
    assert np.allclose(e @ u, 1)


@pytest.mark.parametrize("name", registry.METHODS)
def test_registered_methods_are_zero_stable(name):
    assert registry.method(name).is_zero_stable is True


@pytest.mark.parametrize("name", registry.names(lambda m: m.is_explicit))
def test_the_queries_of_explicit_methods_have_an_order(name):
    method = registry.method(name)
    done = set()
    for query in method.query_order:
        assert all(method.D[query, j] == 0 for j in range(method.query_count) if j not in done)
        done.add(query)


@pytest.mark.parametrize("name", registry.METHODS)
def test_methods_are_explicit_if_the_pattern_of_D_is_nilpotent(name):
    method = registry.method(name)
    nilpotent = (method.D.applyfunc(abs) ** method.query_count).is_zero_matrix
    assert method.is_explicit is nilpotent
    assert (method.query_order is None) is not nilpotent


def test_which_registered_methods_are_implicit():
    implicit = registry.names(lambda m: not m.is_explicit and not m.decay)
    assert implicit == ["implicit Euler", "implicit midpoint", "Radau IIA", "BDF"]


def test_an_order_of_queries_other_than_that_of_the_rows():
    assert glm(B=[[Q(1, 2), Q(1, 2)]], C=[[1], [1]], D=[[0, 1], [0, 0]]).query_order == (1, 0)


def with_parasites(*eigenvalues):
    size = len(eigenvalues) + 1
    A = sp.diag(1, *eigenvalues)
    return GLM(A=A, B=[[1]] * size, C=[[1] + [0] * (size - 1)], D=[[0]])


def companion(*coefficients):
    """Parasitic eigenvalues: the roots of zᵐ + c₁zᵐ⁻¹ + … + c_m."""
    m = len(coefficients)
    block = sp.zeros(m, m)
    block[0, :] = -sp.Matrix([coefficients])
    for i in range(1, m):
        block[i, i - 1] = 1
    return GLM(A=sp.diag(1, block), B=[[1]] * (m + 1), C=[[1] + [0] * m], D=[[0]])


@pytest.mark.parametrize(
    ("method", "stable"),
    [
        (with_parasites(0), True),
        (with_parasites(Q(-99, 100)), True),
        (with_parasites(-1), False),
        (with_parasites(Q(1, 2), -1), False),
        (with_parasites(2), False),
        (companion(0, 1), False),  # ±i
        (companion(0, Q(99, 100)), True),
        (companion(-1, Q(99, 100)), True),
        (companion(Q(1, 2), -Q(1, 2)), False),  # −1 and 1/2
        (companion(0, 0, Q(-1, 8)), True),
        (companion(Q(3, 2), 0, 1), False),
        (GLM(A=[[1, 1], [0, 1]], B=[[1], [1]], C=[[1, 0]], D=[[0]]), False),  # a double 1
    ],
)
def test_zero_stability_of_numbers_is_decided_exactly(method, stable):
    assert method.is_zero_stable is stable
    if stable:
        assert mq.modified_equation(method, order=1)[[]] != 0
    else:
        with pytest.raises(mq.NotZeroStable, match=r"is not strictly zero-stable: .* eigenvalues of modulus"):
            mq.modified_equation(method, order=2)
        with pytest.raises(mq.NotZeroStable, match="is not strictly zero-stable"):
            method.stability_limit()


@given(st.lists(st.fractions(-2, 2, max_denominator=7), min_size=1, max_size=4))
def test_zero_stability_against_the_eigenvalues(coefficients):
    moduli = abs(np.roots([1.0, *map(float, coefficients)]))
    assume(all(abs(m - 1) > 1e-6 for m in moduli))
    assert companion(*map(Q, coefficients)).is_zero_stable is bool(all(moduli < 1))


def test_parasitic_radius():
    assert mq.GradientDescent().parasitic_radius == 0
    assert mq.HeavyBall(0.75).parasitic_radius == 0.75
    assert registry.method("Adams-Bashforth, 3 steps").parasitic_radius == 0  # twice the eigenvalue 0
    assert companion(0, 0, Q(-1, 8)).parasitic_radius == pytest.approx(0.5, abs=1e-15)
    assert with_parasites(Q(1, 2), Q(1, 2), Q(-3, 4)).parasitic_radius == 0.75


def test_zero_stability_of_symbols_is_a_condition():
    assert mq.HeavyBall(beta).is_zero_stable == (sp.Abs(beta) < 1)
    assert mq.Nesterov(beta).is_zero_stable == (sp.Abs(beta) < 1)
    c = sp.Symbol("c", real=True)
    condition = companion(0, c).is_zero_stable
    for value in (Q(1, 2), Q(-1, 2), Q(9, 10)):
        assert condition.subs(c, value) == sp.true
    for value in (1, -1, Q(3, 2), Q(-3, 2)):
        assert condition.subs(c, value) == sp.false


def test_substitution():
    symbolic = mq.HeavyBall(beta, alpha).with_weight_decay(sp.Symbol("lambda"))
    numbers = symbolic.subs({beta: Q(1, 2), alpha: Q(1, 4), sp.Symbol("lambda"): Q(1, 10)})
    direct = mq.HeavyBall(Q(1, 2), Q(1, 4)).with_weight_decay(Q(1, 10))
    for part in ("A", "B", "C", "D", "start", "decay", "sgd", "colours"):
        assert getattr(numbers, part) == getattr(direct, part)
    assert numbers.name.endswith("[beta=1/2, alpha=1/4, lambda=1/10]")
    assert mq.HeavyBall(beta).subs([(beta, 0.9)]).A == mq.HeavyBall(0.9).A
    assert mq.HeavyBall(beta).subs(beta, 0.9).sgd["momentum"] == Q(9, 10)
    with pytest.raises(mq.InvalidMethod, match="is sqrt.2./2: entries must be rational"):
        mq.HeavyBall(beta).subs(beta, sp.sqrt(2) / 2)
    with pytest.raises(mq.NotZeroStable, match="eigenvalues of modulus 2; all must be below 1"):
        mq.modified_equation(mq.HeavyBall(beta).subs(beta, 2), order=2)


def test_methods_are_values():
    one, same = (mq.HeavyBall(0.9).with_weight_decay(0.01) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != mq.HeavyBall(0.9).with_weight_decay(0.02)
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(AttributeError, match="cannot assign"):
        one.A = sp.eye(2)
    for mapping in (one.decay, one.sgd):
        with pytest.raises(TypeError, match="item assignment"):
            mapping[1] = 0
    assert mq.GradientDescent().with_weight_decay(0) == mq.GradientDescent()
    assert repr(one) == "HeavyBall(momentum=9/10).with_weight_decay(1/100)"
    assert repr(mq.HeavyBall(0.5, 0.1)) == "HeavyBall(momentum=1/2, dampening=1/10)"


def test_torch_ignores_dampening_without_momentum():
    assert dict(mq.modified_equation(mq.HeavyBall(0, 0.5), order=3)) == dict(
        mq.modified_equation(mq.GradientDescent(), order=3)
    )


def test_given_arrays_and_rows():
    method = GLM(np.array([[1, 0.5], [0, 0.5]]), np.ones((2, 1)), sp.Matrix([[1, 0]]), [[0]], readout=(1, 0))
    assert method == GLM(mq.HeavyBall(0.5).A, mq.HeavyBall(0.5).B, [[1, 0]], [[0]], readout=[[1, 0]])
    for row in (np.array([1, 0]), sp.Matrix([[1, 0]]), [1, 0]):
        assert GLM(method.A, method.B, method.C, method.D, readout=row) == method


REFUSED = {
    "A not square": ({"A": [[1, 2]]}, "A has shape 1 x 2: give a square matrix"),
    "A empty": ({"A": []}, "A has shape 0 x 0"),
    "A ragged": ({"A": [[1, 0], [1]]}, r"A has rows of different lengths \[1, 2\]"),
    "A a number": ({"A": 1}, "A is 1: give a matrix"),
    "B too high": ({"B": [[1], [1]]}, "B has shape 2 x 1, it must be 1 x any"),
    "B without queries": ({"B": [[]], "C": [], "D": []}, "B has no column"),
    "C": ({"C": [[1, 0]]}, "C has shape 1 x 2, it must be 1 x 1"),
    "D": ({"D": [[0, 1]]}, "D has shape 1 x 2, it must be 1 x 1"),
    "start": ({"start": [[1, 2]]}, "start has shape 1 x 2, it must be 1 x 1"),
    "readout short": ({"readout": []}, "readout has shape 1 x 0, it must be 1 x 1"),
    "readout a number": ({"readout": 1}, "readout is 1: give a matrix"),
    "text": ({"A": [["1"]]}, r"A\[0, 0\] is '1': give a number or a sympy expression"),
    "bool": ({"A": [[True]]}, r"A\[0, 0\] is True"),
    "None": ({"D": [[None]]}, r"D\[0, 0\] is None"),
    "NaN": ({"D": [[float("nan")]]}, r"D\[0, 0\] is nan: give a finite number"),
    "infinite": ({"D": [[float("inf")]]}, r"D\[0, 0\] is inf: give a finite number"),
    "irrational": ({"D": [[sp.sqrt(2)]]}, r"D\[0, 0\] is sqrt\(2\): entries must be rational"),
    "complex": ({"D": [[1j]]}, r"D\[0, 0\] is 1j: entries must be rational"),
    "sympy NaN": ({"D": [[sp.nan]]}, r"D\[0, 0\] is nan: it must be finite"),
    "not rational in a symbol": ({"D": [[sp.sqrt(beta)]]}, r"D\[0, 0\] is sqrt\(beta\): entries must be rational"),
    "C u": ({"C": [[2]]}, r"is not preconsistent: .* it has C u = \[2\]"),
    "readout u": ({"A": [[1, 0], [0, 0]], "B": [[1], [1]], "C": [[1, 0]], "readout": [0, 1]}, "readout·u = 0 for"),
    "no motion": ({"B": [[0]]}, r"is not consistent: the field of colour 0 does not move"),
    "one colour without motion": (
        {"B": [[1, 0]], "C": [[1], [1]], "D": [[0, 1], [0, 0]], "colours": (0, 1)},
        "the field of colour 1 does not move",
    ),
    "colours short": ({"colours": (0, 0)}, r"colours is \(0, 0\): give one integer for each of the 1 queries"),
    "colours with a gap": ({"colours": (1,)}, r"colours is \(1,\): .* counted from 0 without gaps"),
    "colours no integers": ({"colours": (0.0,)}, r"colours is \(0.0,\): give one integer"),
    "colours bool": ({"colours": (False,)}, r"colours is \(False,\): give one integer"),
    "colours text": ({"colours": ("a",)}, r"colours is \('a',\): give one integer"),
    "unknown decay": ({"decay": {1: 0.1}}, r"decay names the colours \[1\]: give rates for colours of queries, \[0\]"),
    "negative decay": ({"decay": {0: -0.1}}, r"decay\[0\] is -0.1: give a number that is not negative"),
    "reserved h": ({"D": [[sp.Symbol("h")]]}, "has the symbol h: the names h, x, z, zeta are reserved"),
    "reserved in decay": ({"decay": {0: sp.Symbol("x")}}, "has the symbol x"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_coefficients(case):
    changes, message = REFUSED[case]
    with pytest.raises(mq.InvalidMethod, match=message):
        glm(**changes)


@pytest.mark.parametrize(("A", "dimension"), [([[Q(1, 2)]], 0), ([[1, 0], [0, 1]], 2)])
def test_refused_eigenvalue_one(A, dimension):
    size = len(A)
    with pytest.raises(mq.NotZeroStable, match=f"1 as a simple eigenvalue, its eigenspace has dimension {dimension}"):
        GLM(A=A, B=[[1]] * size, C=[[1] + [0] * (size - 1)], D=[[0]])


@pytest.mark.parametrize("make", [mq.HeavyBall, mq.Nesterov])
@pytest.mark.parametrize("value", [1, 1.0, 1.5, -0.1])
def test_refused_momentum(make, value):
    with pytest.raises(mq.InvalidMethod, match=rf"momentum is {value}: give a number in \[0, 1\)"):
        make(momentum=value)


@pytest.mark.parametrize("value", [1, -0.5, 2])
def test_refused_dampening(value):
    with pytest.raises(mq.InvalidMethod, match=rf"dampening is {value}: give a number in \[0, 1\)"):
        mq.HeavyBall(momentum=0.5, dampening=value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "nan: give a finite number"),
        ("0.9", "'0.9': give a number"),
        (None, "None: give a number"),
        (True, "True: give a number"),
        ([0.9], r"\[0.9\]: give a number"),
        (sp.I, "I: entries must be rational"),
        (sp.pi / 4, "pi/4: entries must be rational"),
        (sp.Symbol("z"), "has the symbol z"),
    ],
)
def test_refused_hyperparameters(value, message):
    for make in (mq.HeavyBall, mq.Nesterov):
        with pytest.raises(mq.InvalidMethod, match=message):
            make(momentum=value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, "weight decay is -1: give a number that is not negative"),
        (float("inf"), "weight decay is inf: give a finite number"),
        ("x", "weight decay is 'x'"),
        (True, "weight decay is True"),
    ],
)
@pytest.mark.parametrize("decoupled", [False, True])
def test_refused_weight_decay(value, message, decoupled):
    with pytest.raises(mq.InvalidMethod, match=message):
        mq.HeavyBall(0.5).with_weight_decay(value, decoupled=decoupled)


def test_refused_combinations():
    with pytest.raises(mq.InvalidMethod, match="has weight decay already: give its whole rate at once"):
        mq.GradientDescent().with_weight_decay(0.1).with_weight_decay(0.1)
    twins = mq.HeavyBall(sp.Symbol("beta"), sp.Symbol("beta", positive=True))
    with pytest.raises(mq.InvalidMethod, match="two different symbols share a name"):
        mq.modified_equation(twins, order=2)


@pytest.mark.parametrize("value", [None, "GD", mq.GradientDescent, 3])
def test_what_is_no_method(value):
    with pytest.raises(mq.InvalidMethod, match="is no method: give one such as mq.GradientDescent"):
        mq.modified_equation(value, order=2)


def test_transfer_functions_want_a_point():
    with pytest.raises(mq.InvalidMethod, match="asked for at None"):
        mq.GradientDescent().transfer_function(None)


@given(st.floats(-1e6, 1e6, allow_nan=False))
def test_a_float_is_read_as_its_decimal_and_leads_back(value):
    assert float(exact(value)) == value
    assert exact(value).is_Rational


def test_exact_values():
    assert exact(0.1) == Q(1, 10)
    assert exact(np.float32(0.5)) == Q(1, 2)
    assert exact(sp.Float("0.25")) == Q(1, 4)
    assert exact(beta * 0.5) == beta / 2
    assert str(coefficient_field([Q(1), beta / alpha])) == "QQ(alpha,beta)"


@given(st.integers(-4, 4), st.integers(-4, 4), st.integers(1, 4))
def test_tidy_only_rearranges(a, b, n):
    expression = (beta - a) * (b - beta) / (beta - 5) ** n / 3
    assert sp.cancel(tidy(expression) - expression) == 0


@pytest.mark.parametrize("name", registry.METHODS)
def test_laurent_coefficients_sum_to_the_transfer_function(name):
    """G(e^ζ) = g₋₁/ζ + g₀ + …, with the row of θ last; checked by exact series of the numbers."""
    method = registry.METHODS[name]()
    terms, zeta = 14, Q(1, 1000)
    laurent = ShiftOperator(method).laurent(terms)
    point = sp.exp(sp.Float(1, 60) * zeta)
    matrix = method.transfer_function(z)
    rows = sp.Matrix([[matrix]]) if method.query_count == 1 else sp.Matrix(matrix)
    rows = sp.Matrix.vstack(rows, sp.Matrix(method.readout_transfer_function(z)))
    for i in range(rows.rows):
        for j in range(rows.cols):
            direct = sp.N(rows[i, j].subs(z, point), 50)
            series = sum(sp.sympify(laurent[k][i][j]) * zeta ** (k - 1) for k in range(terms))
            # 1/radius is at most 1/ln(1/0.99) ≈ 100 per order, so a tenth per term remains.
            assert abs(direct - series) < 1e5 * 10**-terms


@given(st.integers(2, 5), st.sampled_from(["gradient descent", "heavy ball 0.5", "Nesterov 0.5, decoupled decay"]))
def test_collocation_is_exact_on_polynomials(count, name):
    """If the field is n^k, θ(n) solves the recursion: checked by stepping the method itself on numbers."""
    method = registry.METHODS[name]()
    nodes = [Q(-j, 2) for j in range(count)]
    matrices, rows = ShiftOperator(method).collocation(nodes, positions=[0, 1])
    for k in range(count):
        for colour in range(method.colour_count):
            moved = sum(matrices[colour][1, j] * node**k for j, node in enumerate(nodes))
            assert matrices[colour][0, :].is_zero_matrix
            assert moved == slow_step(method, colour, k)
    assert rows[0].shape == (1, count)


def slow_step(method, colour, k):
    """θ(1) − θ(0) of the polynomial solution of X(n+1) = A X(n) + B n^k (one colour)."""
    n = sp.Symbol("n")
    size, degree = method.state_count, k + 2
    unknowns = sp.symbols(f"a0:{size * degree}")
    X = sp.Matrix([sum(unknowns[i * degree + j] * n**j for j in range(degree)) for i in range(size)])
    column = sum((method.B[:, j] for j, c in enumerate(method.colours) if c == colour), sp.zeros(size, 1))
    defect = X.subs(n, n + 1) - method.A * X - column * n**k
    equations = [c for entry in defect for c in sp.Poly(sp.expand(entry), n).all_coeffs()]
    solution = sp.solve(equations, unknowns, dict=True)[0]
    theta = (method.readout * X.subs(solution))[0]
    return sp.expand(theta.subs(n, 1) - theta.subs(n, 0))


def test_a_substitution_that_divides_by_zero_is_refused():
    """torch ignores dampening without momentum; the start α/β of the general case cannot tell."""
    beta = sp.Symbol("beta")
    with pytest.raises(mq.InvalidMethod, match=r"start\[1, 0\] is zoo: it must be finite; .* build the method with"):
        mq.HeavyBall(beta, 0.5).subs(beta, 0)
    with pytest.raises(mq.InvalidMethod, match="it must be finite"):
        mq.HeavyBall(sp.oo)


EULER = {"A": [[1]], "B": [[1]], "C": [[1]], "D": [[0]]}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mq.GeneralLinearMethod(**EULER, colours=None), "colours is None and decay {}: give a tuple"),
        (
            lambda: mq.GeneralLinearMethod(**EULER, decay=[0.1]),
            r"decay \[0.1\]: give .* a mapping from colours to rates",
        ),
        (
            lambda: mq.GeneralLinearMethod(**EULER, step_powers=1),
            "step_powers is 1: give one integer for each of the 1",
        ),
        (lambda: mq.GeneralLinearMethod(**EULER, step_powers=(0.5,)), r"step_powers is \(0.5,\): give one integer"),
        (lambda: mq.HeavyBall(sp.Matrix([[1]])), r"momentum is Matrix\(\[\[1\]\]\): give a number"),
        (lambda: mq.HeavyBall(sp.Symbol("b", commutative=False)), "momentum is b: give a number or a sympy expression"),
        (lambda: mq.RungeKutta([[0]], None), "b is None: give a sequence of numbers"),
        (lambda: mq.LinearMultistep(None, [1]), "rho is None: give a sequence of numbers"),
        (lambda: mq.LinearMultistep([-1, 1], "1"), "sigma is '1': give a sequence of numbers"),
        (lambda: mq.GradientDescent().with_weight_decay(0.1, "no"), "decoupled is 'no': give True or False"),
        (lambda: mq.HeavyBall(beta).subs(None), r"the substitution is \(None,\): give a symbol and a value"),
        (lambda: mq.HeavyBall(beta).subs(beta, None), r"the substitution is \(beta, None\): give a symbol and a value"),
        (lambda: mq.GradientDescent().transfer_function("z"), "asked for at 'z': give a symbol or a finite number"),
        (lambda: mq.GradientDescent().transfer_function(sp.oo), "asked for at oo: give a symbol or a finite number"),
        (lambda: mq.method_from(None), "rule is None: give a Python function"),
        (lambda: mq.method_from(lambda theta, gradient, h: theta, start=1), "start is 1: give a mapping"),
        (lambda: mq.modifying_equation(None, 2), "None is no method"),
        (
            lambda: mq.modified_equation(mq.HeavyBall(0.5), 1).initial_layer(1, [[0], [sp.Symbol("h")]]),
            "symbol h, a res",
        ),
    ],
)
def test_refused_types(build, message):
    with pytest.raises(mq.InvalidMethod, match=message):
        build()
