"""The projection of modified equations on generators: the printed laws, the identities, and the optimizer itself."""

import pickle

import pytest
import sympy as sp

import modeq as mq
from modeq.displays import lines
from modeq.symmetry.charge_solutions import LinearEquation, t, tau
from modeq.symmetry.continuous import continuous_rotation
from modeq.symmetry.pairings import MatrixPairing, Pairing, RotationPairing, Vector, family_of

alpha, beta, lam, h = sp.symbols("alpha beta lambda h")
x, y, z, w = sp.symbols("x y z w")
FAMILIES = ["translation", "scale", "rescale"]
QUADRATIC = FAMILIES[1:]
MATRICES = ["general_linear", "rotation"]
PLAIN = mq.GradientDescent()
DECAYED = mq.GradientDescent().with_weight_decay(lam)
MOMENTUM = mq.HeavyBall(beta, dampening=alpha).with_weight_decay(lam)
HALF = sp.Rational(1, 2)


def same(left, right):
    return sp.simplify(left - right) == 0


def pairing_of(law, a="g", b="g"):
    return next(p for p in law.forcing if {v.text for v in p.vectors} == {a, b})


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_flow_conserves(family):
    law = mq.project(PLAIN, family, order=1)
    assert law.coefficients == (0, 1)
    assert law.data == 0
    assert law.solution().rhs == law.initial[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [PLAIN, mq.HeavyBall(beta), mq.Nesterov(beta)])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_without_decay_charges_move_with_the_step_only(method, family, order):
    """At h = λ = 0 every charge is conserved, and without decay a linear charge is at any h."""
    law = mq.project(method, family, order=order)
    assert law.coefficients == (0, 1)
    assert sp.cancel(law.data).subs(h, 0) == 0
    if family == "translation":
        assert law.data == 0


def test_equation_18_translation():
    law = mq.project(DECAYED, "translation", variant="article")
    assert same(law.solution().rhs, sp.exp(-lam * t) * law.initial[0])


@pytest.mark.parametrize("family", QUADRATIC)
def test_equations_19_and_20_scale_and_rescale(family):
    law = mq.project(DECAYED, family, variant="article")
    g2 = pairing_of(law).subs(t, tau)
    solution = law.solution().rhs
    (integral,) = solution.atoms(sp.Integral)
    assert same(solution - integral, sp.exp(-2 * lam * t) * law.initial[0])
    assert same(integral.function, h * sp.exp(-2 * lam * (t - tau)) * g2)
    assert integral.limits == ((tau, 0, t),)


@pytest.mark.parametrize("family", QUADRATIC)
def test_the_term_that_the_article_drops(family):
    article, corrected = (mq.project(DECAYED, family, variant=v) for v in ("article", "corrected"))
    assert same(corrected.ode.rhs - article.ode.rhs, -h * lam**2 * corrected.charge)
    assert article.data == corrected.data


@pytest.mark.parametrize("family", FAMILIES)
def test_momentum_at_first_order_rescales_time(family):
    law = mq.project(MOMENTUM, family, order=1)
    descent = mq.project(DECAYED, family, order=1)
    assert same(law.in_time((1 - alpha) / (1 - beta)).ode.rhs, descent.ode.rhs)
    assert law.in_time((1 - alpha) / (1 - beta)).on(sp.Integer(0), [x], [1]) == descent.on(sp.Integer(0), [x], [1])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_oscillator_of_the_article(family):
    """In the article's time h(1 − α)n: γ, ω, the forcing 2|θ'|², from rest."""
    law = mq.project(MOMENTUM, family, form="time", variant="article")
    inertia = h * (1 - alpha) * (1 + beta)
    assert same(law.gamma, (1 - beta) / inertia)
    assert same(law.omega_squared, (2 if family == "translation" else 4) * lam / inertia)
    theta = Vector.path(1)
    assert law.data == (0 if family == "translation" else 2 * Pairing(theta, theta, t))
    assert list(law.start.values()) == [sp.Symbol(f"{law.family.letter}_0"), 0]
    assert law.time_unit == 1 - alpha


@pytest.mark.parametrize("family", FAMILIES)
def test_the_oscillator_in_the_time_hn(family):
    law = mq.project(MOMENTUM, family, form="time")
    degree = law.family.degree
    assert same(law.gamma, (1 - beta) / (h * (1 + beta)))
    assert same(law.omega_squared, 2 * degree * lam * (1 - alpha) / (h * (1 + beta)))
    charge, slope = law.start.values()
    assert same(slope, -degree * lam * charge * (1 + alpha) / (1 + beta))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_oscillator_agrees_with_the_continuous_law_of_tracking(family):
    method = mq.HeavyBall(0.9, dampening=0.3).with_weight_decay(0.01)
    law = mq.project(method, family, form="time")
    step = mq.SGDStep(0.1, momentum=0.9, dampening=0.3, weight_decay=0.01)
    known = mq.damping_regime(step, degree=law.family.degree)
    assert float(law.gamma.subs(h, 0.1)) == pytest.approx(known.gamma, rel=1e-14)
    assert float(sp.sqrt(law.omega_squared.subs(h, 0.1))) == pytest.approx(known.omega, rel=1e-14)


def test_the_decay_of_a_translation_is_the_logarithm_of_its_step():
    """The exact law is S ← (1 − hλ)S, so that S' = ln(1 − hλ)/h·S to any order, whatever the data."""
    law = mq.project(DECAYED, "translation", order=6)
    assert law.forcing == {}
    series = sp.series(sp.log(1 - h * lam) / h, h, 0, 6).removeO()
    assert sp.expand(law.ode.rhs - series * law.charge) == 0


@pytest.mark.some(3)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("decoupled", [False, True])
def test_the_rate_under_momentum_is_the_logarithm_of_the_principal_root(family, decoupled):
    """Each power of the charge itself: the root of μ² − (1 + β − hλ(1 − α))μ + β near 1, or 1 − hλ."""
    law = mq.project(mq.HeavyBall(HALF, dampening=sp.Rational(1, 4)).with_weight_decay(lam, decoupled), family, order=5)
    total = sp.Rational(3, 2) - sp.Rational(3, 4) * h * lam
    root = 1 - h * lam if decoupled else (total + sp.sqrt(total**2 - 2)) / 2
    series = sp.series(sp.log(root) / h, h, 0, 5).removeO()
    assert sp.expand(law.coefficients[0] + law.family.degree * series) == 0


def test_no_decay_of_a_translation_has_data_in_any_form():
    for method in (DECAYED, MOMENTUM, mq.Nesterov(beta).with_weight_decay(lam, decoupled=True)):
        for form in ("field", "time", "phase"):
            assert mq.project(method, "translation", order=3, form=form).data == 0


@pytest.mark.parametrize("family", QUADRATIC)
def test_noise_of_reshuffled_batches_enters_at_the_first_order(family):
    epoch = mq.Epoch(PLAIN, batches=sp.Symbol("m")).expected("reshuffling")
    law = mq.project(epoch, family)
    assert law.text() == "N' = h·⟨g,g⟩_𝒜 + h·E⟨g_δ,g_δ⟩_𝒜"
    assert "averaged over the batches" in law.forcing[pairing_of(law, "g_δ", "g_δ")]


@pytest.mark.parametrize(
    "regime, numbers", [("under", (1, 5)), ("critical", (2, 4)), ("over", (3, 5)), ("over", (3, 0))]
)
@pytest.mark.parametrize("asked", [False, True])
def test_every_regime_solves_the_equation(regime, numbers, asked):
    """Duhamel: the free motion has the initial values, and the response to an impulse starts as (0, 1)."""
    gamma, omega_squared = map(sp.Integer, numbers)
    start, slope, force = *sp.symbols("y_0 y_1"), sp.Function("F")
    equation = LinearEquation((omega_squared, 2 * gamma, sp.S.One), force(t), (start, slope))
    found = equation.solution(regime if asked else None)
    (integral,) = found.atoms(sp.Integral)
    assert integral.limits == ((tau, 0, t),)
    response = (integral.function / force(tau)).subs(tau, 0)
    assert same((integral.function / force(tau)).subs(t, t + tau), response)
    for motion, first, second in ((found - integral, start, slope), (response, 0, 1)):
        rewritten = motion.rewrite(sp.exp)
        assert same(rewritten.diff(t, 2) + 2 * gamma * rewritten.diff(t) + omega_squared * rewritten, 0)
        assert same(motion.subs(t, 0), first)
        assert same(motion.diff(t).subs(t, 0), second)


def test_a_first_order_equation_is_solved():
    law = mq.project(DECAYED, "scale", order=3)
    found = law.solution().rhs
    assert len(found.atoms(sp.Integral)) == 1
    assert same(found.diff(t) + law.coefficients[0] * found, law.data)


@pytest.mark.parametrize("order", [3, 4])
def test_higher_forms_are_solved_by_sums_over_roots(order):
    law = mq.project(mq.HeavyBall(HALF).with_weight_decay(sp.Rational(1, 3)), "scale", order=order, form="time")
    values = dict(zip(law.initial, (2, -1, 3, 1), strict=False))
    solution = law.solution().rhs.subs(h, 1).subs(values)
    (integral,) = solution.atoms(sp.Integral)
    (motion,) = (solution - integral).atoms(sp.RootSum)
    (response,) = integral.function.subs(tau, 0).atoms(sp.RootSum)
    coefficients = [c.subs(h, 1) for c in law.coefficients]
    for found, start in ((motion, list(values.values())), (response, [0] * (order - 1) + [1])):
        assert found.poly.degree() == order

        def derivative(k, at, found=found):
            return sum(found.fun(root).diff(t, k).subs(t, at) for root in found.poly.nroots(n=30))

        for at in (0, HALF):
            assert abs(sp.N(sum(c * derivative(k, at) for k, c in enumerate(coefficients)), 30)) < 1e-20
        for k, value in enumerate(start):
            assert abs(sp.N(derivative(k, 0), 30) - value) < 1e-20


def test_a_regime_is_asked_for_and_checked():
    law = mq.project(MOMENTUM, "scale", form="time")
    with pytest.raises(mq.InvalidSetting, match="regime is None, and whether"):
        law.solution()
    with pytest.raises(mq.InvalidSetting, match="regime is 'none': choose from under, critical, over"):
        law.solution("none")
    with pytest.raises(mq.InvalidSetting, match="it is 'over'"):
        mq.project(mq.HeavyBall(beta), "scale", form="time").solution("under")
    with pytest.raises(mq.InvalidSetting, match="has no damping regimes"):
        mq.project(DECAYED, "scale").solution("over")


def test_families_are_known_by_name_class_or_charge():
    charge = mq.Scale("conv", {"weight": 0})
    for family in ("scale", mq.Scale, charge):
        assert family_of(family).name == "scale"
    assert mq.project(PLAIN, charge).text() == mq.project(PLAIN, "scale").text()
    matrix = mq.GeneralLinear("0-1", {"0.weight": 0}, {"1.weight": 1})
    for name, given in (("general_linear", matrix), ("rotation", matrix.rotation())):
        assert {family_of(name), family_of(type(given)), family_of(given)} == {family_of(given)}
        assert (family_of(given).name, family_of(given).degree) == (name, given.degree)


def test_equations_and_methods_give_the_same():
    for form, derive in [
        ("field", mq.modified_equation),
        ("time", mq.time_derivative_form),
        ("phase", mq.phase_space_form),
    ]:
        law = mq.project(derive(MOMENTUM, 2), "rescale")
        other = mq.project(MOMENTUM, "rescale", order=2, form=form)
        assert law.ode == other.ode


def test_any_b_series_field_can_be_projected():
    field = mq.modifying_equation(PLAIN, order=2)
    law = mq.project(field, "scale")
    assert law.text() == "N' = -h·⟨g,g⟩_𝒜"
    with pytest.raises(mq.NoClosedLaw, match="is no equation of a method, and has no start"):
        mq.project(2 * field, "scale").start  # noqa: B018


def test_derivations_print_and_pickle():
    for method in (DECAYED, MOMENTUM):
        for family in FAMILIES + MATRICES * (method is DECAYED):
            for form in ("field", "time", "phase"):
                law = mq.project(method, family, form=form)
                text, latex = law.derivation(), law.derivation(latex=True)
                assert law.text() in text
                assert text.startswith("1. The ")
                assert law.latex() in latex
                assert latex.count(r"\item") == text.count("\n") - text.count("\n   ") + 1
                assert law._repr_latex_() == lines(law.latex())
                assert "ChargeEquation(" in repr(law)
                again = pickle.loads(pickle.dumps(law))
                assert again.text() == law.text()
                assert again.ode == law.ode


@pytest.mark.parametrize(
    "method, form, order, variant",
    [
        *((m, "field", 4, "corrected") for m in (PLAIN, DECAYED)),
        *(
            (m, f, 3, "corrected")
            for m in (MOMENTUM, mq.Nesterov(beta).with_weight_decay(lam))
            for f in ("time", "phase")
        ),
        (DECAYED, "field", 3, "article"),
        (MOMENTUM, "time", 2, "article"),
    ],
)
def test_the_law_of_a_matrix_is_that_of_a_rescale_entry_by_entry(method, form, order, variant):
    """The diagonal entries of M are the charges of rescale symmetries."""
    matrix, rescale = (mq.project(method, f, order, form, variant) for f in ("general_linear", "rescale"))
    assert matrix.coefficients == rescale.coefficients
    renamed = {(MatrixPairing(*p.args), j): c for (p, j), c in rescale.projected.terms.items()}
    assert matrix.projected.terms == renamed
    assert matrix.time_unit == rescale.time_unit
    assert matrix.text() == rescale.text().replace("N", "M").replace("⟩_𝒜", "⟩_M")


def test_matrix_laws_as_they_are_printed():
    law = mq.project(DECAYED, "general_linear")
    assert law.latex() == r"\dot M = -2 \lambda\,M - h \lambda^{2}\,M + h\,\langle g,g\rangle_{M}"
    assert list(law.forcing.values()) == ["the symmetric part of a_Uᵀb_U - a_Vᵀb_V, with a = g, b = g"]
    assert "Together, for M = UᵀU - VᵀV" in law.derivation()
    law = mq.project(mq.HeavyBall(beta), "rotation", order=3, form="time")
    assert law.text() == "R'' + 3*(beta + 1)/(h*(1 - beta))·R' + 6/h**2·R = ⟨θ',θ''⟩_R"
    assert "⟨θ,θ'''⟩_R = R'' - ⟨θ',θ''⟩_R" in law.derivation()


def test_the_angular_momentum_of_gradient_descent():
    """A step along −g has none, ⟨θ, (exp(h d/dt) − 1)θ⟩_R = 0.

    By the product rule hR + h²R'/2 + … = h³F/6 + h⁴F'/12 + … with F = ⟨θ', θ''⟩_R, solved by R = h²F/6 + O(h⁴), and
    θ' = −g − h/2·H g, θ'' = H g + h(H H g + ∇³L[g, g]/2).
    """
    assert [mq.project(PLAIN, "rotation", order).data for order in (1, 2)] == [0, 0]
    found = mq.project(PLAIN, "rotation", 4)
    assert found.text() == "R = -h**2/6·⟨g,H g⟩_R - h**3/6·⟨g,H H g⟩_R - h**3/12·⟨g,∇^3L[g,g]⟩_R"
    assert (found.initial, found.start, found.coefficients) == ((), {}, (1,))
    assert found.solution() == found.ode == sp.Eq(found.charge, found.data, evaluate=False)
    with pytest.raises(mq.InvalidSetting, match="an equation of order 0 has no damping regimes"):
        found.solution("over")


def test_rotations_decay_by_the_kept_pole():
    """By β at each step, whatever the weight decay, in the phase-space form; as in tracking in both variants."""
    method, step = mq.HeavyBall(sp.Rational(3, 4), dampening=HALF), mq.SGDStep(0.5, momentum=0.75, dampening=0.5)
    for form, order, variant in (("phase", 1, "corrected"), ("time", 2, "article")):
        law = mq.project(method.with_weight_decay(lam), "rotation", order, form)
        assert law.data == 0
        value = law.solution().rhs.subs({law.initial[0]: 1, t: h})
        assert float(value) == pytest.approx(continuous_rotation(1.0, step, variant=variant), rel=1e-14)


def test_the_time_derivative_form_of_a_rotation():
    law = mq.project(MOMENTUM, "rotation", form="time")
    assert same(law.coefficients[0], 2 * (1 - beta) / (h * (1 + beta)))
    assert (law.data, list(law.start.values())) == (0, [0])
    article = mq.project(MOMENTUM, "rotation", form="time", variant="article")
    assert article.time_unit == 1 - alpha
    assert list(article.start.values()) == [0]
    third = mq.project(MOMENTUM, "rotation", 3, "time").in_time(2)
    (((pairing, derivatives), factor),) = third.projected.terms.items()
    assert (pairing, derivatives, factor) == (RotationPairing(Vector.path(1), Vector.path(2), t), 0, 1)


def test_a_derivation_in_another_time_says_so():
    law = mq.project(MOMENTUM, "scale", form="time", variant="article")
    assert "In the time t = (1 - alpha)·h·n" in law.derivation()
    assert law.derivation(latex=True).count(r"\item") == law.derivation(latex=True).count(r"\begin{align*}") + 1


def test_pairings_are_symmetric_functions_of_time():
    law = mq.project(DECAYED, "scale", order=3)
    pairing = pairing_of(law, "g", "H g")
    a, b = pairing.vectors
    assert Pairing(b, a, t) == pairing
    assert pairing.subs(t, 2).diff(t) == 0
    assert sp.latex(pairing**2) == r"\langle g,H g\rangle_{\mathcal{A}}^{2}\left(t\right)"
    assert sp.pretty(pairing) == "⟨g,H g⟩_𝒜(t)"


def test_charges_with_exponents_and_by_generators_have_the_laws_of_quadratic_ones():
    """N = x² − 2y² of a loss of x²y, on which the equation is as its definition says."""
    diagonal = mq.DiagonalSymmetry("neuron", {"w": 0, "a": 1}, {"w": 1, "a": -2})
    affine = mq.AffineSymmetry("neuron", ["w", "a"], [[1, 0], [0, -2]])
    loss = (x**2 * y - 1) ** 2 / 2
    g = [sp.diff(loss, v) for v in (x, y)]
    lam = sp.Symbol("lambda")
    charge, forcing = x**2 - 2 * y**2, g[0] ** 2 - 2 * g[1] ** 2
    expected = -(2 * lam + h * lam**2) * charge + h * forcing
    for family in (diagonal, affine):
        law = mq.project(DECAYED, family)
        assert sp.expand(law.on(loss, (x, y), [1, -2]) - expected) == 0
    assert "times its exponent a" in next(iter(mq.project(DECAYED, diagonal).forcing.values()))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            (PLAIN, mq.AffineSymmetry("c", ["w"], constants=[1, 1])),
            mq.InvalidCharge,
            "give one whose generators are symm",
        ),
        (("descent", "scale"), mq.InvalidMethod, "'descent' is no method, nor an equation"),
        ((PLAIN, "shift"), mq.InvalidCharge, "family is 'shift': choose from translation, scale, rescale, dia"),
        ((PLAIN, mq.Charges), mq.InvalidCharge, "family is <class"),
        ((mq.Nesterov(beta), "rotation", 2, "time", "article"), mq.NoClosedLaw, "the article has no law for"),
        ((PLAIN, "scale", 0), mq.InvalidOrder, "order is 0"),
        ((PLAIN, "scale", 2, "space"), mq.InvalidSetting, "form is 'space': choose from field, time, phase"),
        ((PLAIN, "scale", 2, "field", "theirs"), mq.InvalidSetting, "variant is 'theirs'"),
        ((mq.modified_equation(PLAIN, 3), "scale", 2), mq.InvalidOrder, "order is 2, but"),
        ((mq.modified_equation(PLAIN, 3), "scale", None, "time"), mq.InvalidSetting, "form is 'time', but"),
        ((mq.HeavyBall(sp.Symbol("t")), "scale"), mq.InvalidMethod, "has the symbol t, which is a time"),
        ((mq.Alternating([PLAIN, PLAIN]), "scale"), mq.InvalidMethod, "is of a game"),
        ((mq.Extragradient(), "scale", 2, "time"), mq.NoTimeDerivativeForm, "takes gradients at other points"),
        ((mq.Nesterov(beta), "scale", 2, "time", "article"), mq.NoClosedLaw, "the article has no law for"),
        ((PLAIN, "scale", 2, "phase", "article"), mq.NoClosedLaw, "the article has no law for"),
    ],
)
def test_what_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        mq.project(*arguments)


def test_what_an_equation_refuses():
    law, oscillator = mq.project(DECAYED, "rescale"), mq.project(MOMENTUM, "rescale", form="time")
    with pytest.raises(mq.NoClosedLaw, match="is of order 1 in time, no oscillator"):
        law.gamma  # noqa: B018
    with pytest.raises(mq.NoClosedLaw, match="has time derivatives of θ among its data"):
        oscillator.on(x * y, (x, y), [1, -1])
    with pytest.raises(mq.InvalidProblem, match="the loss is not invariant"):
        law.on(x**2 + y, (x, y), [1, -1])
    for weights in ([1], [0, 0], None):
        with pytest.raises(mq.InvalidCharge, match="weights are"):
            law.on(x * y, (x, y), weights)
    rotation, turn = mq.project(PLAIN, "rotation", 3), [[0, 1], [-1, 0]]
    for found, weights in (
        (rotation, [1, -1]),
        (rotation, [[0, 1], [1, 0]]),
        (law, turn),
        (law, [[1, 0, 0], [0, 1, 0]]),
    ):
        with pytest.raises(mq.InvalidCharge, match="or 𝒜 with its transpose"):
            found.on(x * y, (x, y), weights)
    with pytest.raises(mq.InvalidProblem, match="it has a rotation symmetry"):
        rotation.on(x**2 + y, (x, y), turn)
    with pytest.raises(mq.InvalidSetting, match="unit is 0"):
        law.in_time(0)
    with pytest.raises(mq.NoClosedLaw, match="measure its initial values"):
        mq.project(MOMENTUM, "rescale", order=3, form="time").start  # noqa: B018
    with pytest.raises(mq.NoClosedLaw, match="needs 2 initial values, and its form gives 1"):
        mq.project(DECAYED, "rescale", order=3, form="phase").start  # noqa: B018
