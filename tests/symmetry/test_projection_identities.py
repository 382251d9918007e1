"""Hypothesis and exact arithmetic: the projected equations are the derivatives of charges along the flows."""

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import modeq as mq
from modeq.symmetry.pairings import Pairing

alpha, beta, lam, h = sp.symbols("alpha beta lambda h")
x, y, z, w = sp.symbols("x y z w")
PLAIN, HALF = mq.GradientDescent(), sp.Rational(1, 2)
NUMBERS = st.integers(-3, 3)
COEFFICIENTS = st.lists(NUMBERS, min_size=6, max_size=6).filter(any)
POINTS = [(sp.Rational(2, 3), -HALF, sp.Rational(3, 5)), (sp.Rational(-1, 4), sp.Rational(5, 3), HALF)]
METHODS = {
    "descent": PLAIN,
    "descent, decay": PLAIN.with_weight_decay(sp.Rational(1, 3)),
    "heavy ball, decay": mq.HeavyBall(HALF, dampening=sp.Rational(1, 4)).with_weight_decay(sp.Rational(1, 3)),
    "heavy ball, decoupled": mq.HeavyBall(HALF).with_weight_decay(sp.Rational(1, 3), decoupled=True),
    "Nesterov, decay": mq.Nesterov(HALF).with_weight_decay(sp.Rational(1, 3)),
    "extragradient": mq.Extragradient().with_weight_decay(sp.Rational(1, 3)),
}


def polynomial(coefficients, a, b):
    monomials = (a, a**2, a * b, b**2, a**2 * b, a**3)
    return sum(c * m for c, m in zip(coefficients, monomials, strict=True))


# A family, the weights, and two invariants of (x, y, z).
SYMMETRIES = {
    "translation": ("translation", [1, 1, 0], (x - y, z)),
    "opposite translation": ("translation", [1, -1, 0], (x + y, z + z**2)),
    "rescale": ("rescale", [1, -1, 0], (x * y, z)),
    "rescale of three": ("rescale", [1, 1, -1], (x * z, y * z)),
    "unequal exponents": ("rescale", [1, -2, 0], (x**2 * y, z)),
    "scale": ("scale", [1, 1, 0], (x * y / (x**2 + y**2), z)),
    "whole scale": ("scale", [1, 1, 1], (x / z, y / z)),
}


def along_the_field(equation, family, loss, weights, point):
    """The derivative of the charge along the modified field written out, at one point."""
    variables = (x, y, z)
    components = equation.on(loss, variables, h=h).components
    generator = weights if family == "translation" else [2 * w * v for w, v in zip(weights, variables, strict=True)]
    total = sum(g * c for g, c in zip(generator, components, strict=True))
    return total.subs(dict(zip(variables, point, strict=True)))


def cases():
    """Each symmetry with each method; what many terms are differentiated for is slow, but for one method."""
    for symmetry in SYMMETRIES:
        for method in METHODS:
            long = symmetry in ("rescale of three", "unequal exponents") and method != "heavy ball, decay"
            yield pytest.param(symmetry, method, marks=pytest.mark.slow if long else (), id=f"{symmetry}-{method}")


@pytest.mark.some(3)
@pytest.mark.parametrize("symmetry, method", list(cases()))
@settings(max_examples=2)
@given(coefficients=COEFFICIENTS)
def test_the_equation_is_the_derivative_along_the_modified_field(method, symmetry, coefficients):
    family, weights, invariants = SYMMETRIES[symmetry]
    loss = polynomial(coefficients, *invariants)
    order = 2 if family == "scale" else 4
    equation = mq.modified_equation(METHODS[method], order=order)
    rate = mq.project(equation, family).on(loss, (x, y, z), weights, h=h)
    for point in POINTS:
        value = rate.subs(dict(zip((x, y, z), point, strict=True)))
        assert sp.expand(value - along_the_field(equation, family, loss, weights, point)) == 0


# U = (x, y) and V = (z, w), with an antisymmetric and a symmetric X that is no diagonal: 𝒜 = (X, −Xᵀ).
TURN = sp.diag(sp.Matrix([[0, -1], [1, 0]]), sp.Matrix([[0, -1], [1, 0]]))
MIX = sp.diag(sp.Matrix([[1, 2], [2, -1]]), -sp.Matrix([[1, 2], [2, -1]]))
SYMMETRIC = {
    "general_linear": ((x, y, z, w), (x * z + y * w - 1) ** 2, MIX),
    "rotation": ((x, y, z, w), (x * z + y * w - 1) ** 2 + (x**2 + y**2) * (z**2 + w**2 + 1), TURN),
}


@pytest.mark.some(3)
@pytest.mark.parametrize("method", ["descent, decay", "heavy ball, decay", "extragradient"])
@pytest.mark.parametrize("family", SYMMETRIC)
def test_matrix_equations_are_derivatives_along_the_modified_field(method, family):
    """M' is the derivative of θᵀ𝒜θ; R is ⟨𝒜θ, θ'⟩."""
    variables, loss, action = SYMMETRIC[family]
    point = dict(zip(variables, (*POINTS[0], sp.Rational(-3, 4)), strict=True))
    equation = mq.modified_equation(METHODS[method], 3)
    value = mq.project(equation, family).on(loss, variables, action, h=h).subs(point)
    field = sp.Matrix([c.subs(point) for c in equation.on(loss, variables, h=h).components])
    expected = (2 if family == "general_linear" else 1) * (action * sp.Matrix(variables).subs(point)).dot(field)
    assert value.has(h)
    assert sp.expand(value - expected) == 0


@pytest.mark.parametrize("order", [3, 4])
def test_higher_orders_on_a_scale_invariant_loss(order):
    loss = x * y / (x**2 + y**2)
    equation = mq.modified_equation(METHODS["heavy ball, decay"], order=order)
    law = mq.project(equation, "scale")
    variables, point = (x, y), dict(zip((x, y), POINTS[0], strict=False))
    components = [c.subs(point) for c in equation.on(loss, variables, h=h).components]
    expected = sum(2 * point[v] * c for v, c in zip(variables, components, strict=True))
    assert sp.expand(law.on(loss, variables, [1, 1], h=h).subs(point) - expected) == 0


def test_symbolic_hyperparameters_agree_with_numbers():
    values = {alpha: sp.Rational(1, 4), beta: HALF, lam: sp.Rational(1, 3)}
    loss = (x * y - 1) ** 2 + x * y * z
    symbolic = mq.project(mq.HeavyBall(beta, dampening=alpha).with_weight_decay(lam), "rescale", order=4).on(
        loss, (x, y, z), [1, -1, 0]
    )
    numbers = mq.project(METHODS["heavy ball, decay"], "rescale", order=4).on(loss, (x, y, z), [1, -1, 0])
    assert sp.expand(symbolic.subs(values) - numbers) == 0


@pytest.mark.parametrize("inner", [PLAIN, mq.HeavyBall(HALF)], ids=str)
def test_batches_each_with_the_symmetry(inner):
    losses, variables, weights = [(x * y - 1) ** 2, x * y * z + z**2], (x, y, z), [1, -1, 0]
    decay = inner.with_weight_decay(sp.Rational(1, 3))
    for method in (mq.Epoch(decay, batches=2), mq.Epoch(decay, batches=2).expected("reshuffling")):
        equation = mq.modified_equation(method, order=3)
        rate = mq.project(equation, "rescale").on(losses, variables, weights)
        for point in POINTS:
            value = rate.subs(dict(zip(variables, point, strict=True)))
            assert sp.expand(value - along_the_field(equation, "rescale", losses, weights, point)) == 0


def lie_derivative(expression, field):
    return sum(sp.diff(expression, v) * c for v, c in field.items())


def residual_on_path(law, loss, variables, weights, field, names):
    """Left less right of a law, every derivative taken along the explicit field of the path."""
    gradient = [sp.diff(loss, v) for v in variables]
    linear = law.family.degree == 1
    action = sp.Matrix(weights)
    if action.shape[1] == 1:
        action = sp.diag(*weights)

    def vector(v):
        return gradient if v.text == "g" else names[v.derivatives]

    def derived(expression, count):
        for _ in range(count):
            expression = lie_derivative(expression, field)
        return expression

    def paired(a, b):
        return (action * sp.Matrix(a)).dot(sp.Matrix(b))

    if linear:
        charge = sum(w * v for w, v in zip(weights, variables, strict=True))
    else:
        charge = paired(variables, names[law.family.derivatives])
    total = sum(a * derived(charge, k) for k, a in enumerate(law.coefficients))
    for (pairing, j), c in law.projected.terms.items():
        a, b = map(vector, pairing.vectors)
        total -= c * derived(paired(a, b), j)
    return total


LOSS = (x * y - 1) ** 2 / 2 + (x - z) ** 2 * y**2  # invariant under (x, z) → (cx, cz), y → y/c
WEIGHTS = [1, -1, 1]
TRANSLATED = (x - y) ** 3 + (x - z) * (y - z) ** 2
SMALL = {
    "translation": ((x, y, z), TRANSLATED, [1, 1, 1]),
    "rescale": ((x, y, z), LOSS, WEIGHTS),
    "plane rotation": ((x, y), (x**2 + y**2 - 1) ** 2, [[0, -1], [1, 0]]),
}


def up_to(small, whole):
    """Each symmetry with each order, the higher ones with few variables only."""
    return [(s, k) for given, top in ((SMALL, small), (SYMMETRIC, whole)) for s in given for k in range(1, top + 1)]


@pytest.mark.some(27)
@pytest.mark.parametrize("symmetry, order", up_to(small=4, whole=3))
@pytest.mark.parametrize("name", ["descent, decay", "heavy ball, decay", "heavy ball, decoupled", "Nesterov, decay"])
def test_the_equation_holds_along_the_time_derivative_form(name, order, symmetry):
    method, (variables, loss, weights) = METHODS[name], (SMALL | SYMMETRIC)[symmetry]
    form = mq.time_derivative_form(method, order)
    weight_decay = [form.decay_rate * d * h**k for k, d in enumerate(form.decay_coefficients)]
    sums = [c * h**k for k, c in enumerate(form.coefficients)]
    names = [variables, *(sp.symbols([f"{v}{k}" for v in variables]) for k in range(1, order))]
    top = []
    for i, v in enumerate(variables):
        rest = -sp.diff(loss, v)
        rest -= sum(sums[k - 1] * names[k][i] for k in range(1, order))
        rest -= sum(d * names[k][i] for k, d in enumerate(weight_decay[:order]))
        top.append(rest / sums[order - 1])
    field = {
        v: s for row, slopes in zip(names, [*names[1:], top], strict=True) for v, s in zip(row, slopes, strict=True)
    }
    law = mq.project(form, symmetry.split()[-1])
    values = {s: sp.Rational(i + 2, 2 * i + 5) for i, s in enumerate(s for row in names for s in row)}
    residual = residual_on_path(law, loss, variables, weights, field, [*names, tuple(top)])
    assert sp.simplify(residual.subs(values).subs(h, sp.Rational(1, 7))) == 0


@pytest.mark.some(3)
@pytest.mark.parametrize("symmetry, order", up_to(small=3, whole=2))
@pytest.mark.parametrize(
    "name",
    [
        "heavy ball, decay",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("heavy ball, decoupled", "Nesterov, decay")),
    ],
)
def test_the_equation_holds_along_the_phase_space_form(name, symmetry, order):
    variables, loss, weights = (SMALL | SYMMETRIC)[symmetry]
    form, step = mq.phase_space_form(METHODS[name], order), sp.Rational(1, 7)
    written = form.on(loss, variables, h=step)
    field = dict(zip(written.variables, written.components, strict=True))
    names = [variables, written.variables[len(variables) :], written.components[len(variables) :]]
    values = {s: sp.Rational(i + 2, 2 * i + 5) for i, s in enumerate(written.variables)}
    law = mq.project(form, symmetry.split()[-1])
    residual = residual_on_path(law, loss, variables, weights, field, names).subs(h, step)
    scale = abs(sp.N(law.coefficients[1].subs(h, step), 50))
    assert abs(sp.N(residual.subs(values), 50, maxn=400)) < 1e-40 * scale


def written_out(law, symbol, loss, variables, weights):
    """An initial value of a law as an expression in the parameters at the start."""
    gradient = sp.Matrix([sp.diff(loss, v) for v in variables])
    hessian, theta = sp.hessian(loss, variables), sp.Matrix(variables)
    vectors = {"g": gradient, "H g": hessian * gradient, "H θ": hessian * theta}
    value = law.start[symbol].subs(sp.Symbol("N_0"), sum(w * v**2 for w, v in zip(weights, variables, strict=True)))
    for pairing in value.atoms(Pairing):
        a, b = (vectors[v.text] for v in pairing.vectors)
        value = value.subs(pairing, sum(w * p * q for w, p, q in zip(weights, a, b, strict=True)))
    return value


@pytest.mark.parametrize("name", ["heavy ball, decay", "heavy ball, decoupled", "Nesterov, decay"])
def test_the_field_starts_at_the_charge_of_its_initial_layer(name):
    variables, order = (x, y, z), 3
    equation = mq.modified_equation(METHODS[name], order)
    law = mq.project(equation, "rescale")
    layer = equation.initial_layer().on(LOSS, variables, h=h).components
    charge = sum(w * (v + a) ** 2 for w, v, a in zip(WEIGHTS, variables, layer, strict=True))
    found = written_out(law, law.initial[0], LOSS, variables, WEIGHTS)
    difference = sp.Poly((charge - found).subs(dict(zip(variables, POINTS[0], strict=True))), h)
    assert min(power for (power,) in difference.monoms()) == order


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", ["heavy ball, decay", "heavy ball, decoupled", "Nesterov, decay"])
def test_the_phase_space_form_starts_with_the_rate_of_its_velocity(name, order):
    variables = (x, y, z)
    form = mq.phase_space_form(METHODS[name], order)
    law, (position, velocity) = mq.project(form, "rescale"), form.start()
    rate = sum(
        2 * w * (v + a) * b
        for w, v, a, b in zip(
            WEIGHTS,
            variables,
            position.on(LOSS, variables, h=h).components,
            velocity.on(LOSS, variables, h=h).components,
            strict=True,
        )
    )
    found = written_out(law, law.initial[1], LOSS, variables, WEIGHTS)
    difference = sp.expand((rate - found).subs(dict(zip(variables, POINTS[0], strict=True))))
    for power in range(order):
        assert abs(sp.N(difference.coeff(h, power), 40)) < 1e-30


def test_the_phase_space_form_starts_with_its_angular_momentum():
    variables, loss, action = SYMMETRIC["rotation"]
    point = dict(zip(variables, (*POINTS[0], sp.Rational(-3, 4)), strict=True))
    form = mq.phase_space_form(METHODS["heavy ball, decay"], 3)
    law, start = mq.project(form, "rotation"), [s.on(loss, variables, h=h).components for s in form.start()]
    gradient, theta = sp.Matrix([sp.diff(loss, v) for v in variables]).subs(point), sp.Matrix(variables).subs(point)
    hessian = sp.hessian(loss, variables).subs(point)
    position, velocity = (sp.Matrix(components).subs(point) for components in start)
    vectors, found = {"g": gradient, "H g": hessian * gradient, "H θ": hessian * theta}, law.start[law.initial[0]]
    for pairing in found.atoms(Pairing):
        a, b = (vectors[v.text] for v in pairing.vectors)
        found = found.subs(pairing, (action * a).dot(b))
    difference = sp.expand((action * (theta + position)).dot(velocity) - found)
    assert abs(sp.N(found.subs(h, 1))) > 0.01
    for power in range(3):
        assert abs(sp.N(difference.coeff(h, power), 40)) < 1e-30
