"""What users' own test suites are given: strategies draw what they say, and assertions fail when they must."""

import subprocess
import sys
from functools import partial

import pytest
import sympy as sp
import torch
from hypothesis import find, given, settings
from torch import nn

import modeq as mq
from modeq import testing

FEW = settings(max_examples=15)
FAMILIES = {
    "gradient_descent": "GradientDescent()",
    "heavy_ball": "HeavyBall(momentum=0)",
    "nesterov": "Nesterov(momentum=0)",
    "classical_nesterov": "ClassicalNesterov(momentum=0)",
    "quasi_hyperbolic": "QuasiHyperbolic(momentum=0, nu=0)",
    "triple_momentum": "TripleMomentum(beta=0, gamma=0, delta=0)",
    "pid": "PID(momentum=0, derivative=0, integral=1, proportional=0)",
    "optimistic_gradient": "OptimisticGradient()",
    "runge_kutta": "RungeKutta(A=[[0]], b=[1])",
    "multistep": "LinearMultistep(rho=[-1, 1], sigma=[1])",
}
X, Y = sp.symbols("x y")
F64 = torch.float64


def simplest(strategy, such_that=lambda drawn: True):
    return find(strategy, such_that, settings=settings(max_examples=200, database=None, derandomize=True))


# --- strategies -------------------------------------------------------------------------------------------------------


@FEW
@given(testing.methods(list(FAMILIES), max_momentum=0.5, weight_decay=True))
def test_methods_are_stable_and_follow_the_gradient(method):
    assert method.is_zero_stable
    assert method.parasitic_radius <= 0.5 + 1e-12
    assert method.is_explicit
    assert mq.modified_equation(method, 1)[mq.Tree([])] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_simplest_method_of_a_family_has_plain_hyperparameters(family):
    """The first example that Hypothesis tries is the simplest, as shrinking would only show again."""
    seen = []

    @settings(max_examples=1, database=None)
    @given(testing.methods([family]))
    def draw(method):
        seen.append(repr(method))

    draw()
    assert seen[0] == FAMILIES[family]


@pytest.mark.slow
def test_methods_shrink_to_round_numbers():
    assert repr(simplest(testing.methods(["nesterov"]), lambda method: method.A[1, 1] > sp.Rational(2, 5))) == (
        "Nesterov(momentum=1/2)"
    )


@pytest.mark.parametrize(
    ("weight_decay", "kinds"), [(False, set()), ("coupled", {True}), ("decoupled", {False}), (True, {True, False})]
)
def test_decay_is_of_the_kind_that_is_asked_for(weight_decay, kinds):
    seen = set()

    @given(testing.methods(["gradient_descent"], weight_decay=weight_decay))
    def draw(method):
        if method.decay:
            seen.add(method.sgd is not None)  # torch's SGD has the coupled kind only

    draw()
    assert seen == kinds


@FEW
@given(testing.methods(["multistep"]))
def test_multistep_methods_are_consistent_and_have_no_common_root(method):
    z = sp.Symbol("z")
    sigma, rho = method.transfer_function(z).as_numer_denom()
    assert sp.degree(rho, z) == method.state_count
    assert rho.subs(z, 1) == 0
    assert rho.diff(z).subs(z, 1) == sigma.subs(z, 1)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_tableaux_have_their_order(order, explicit):
    @settings(max_examples=8)
    @given(testing.tableaux(explicit=explicit, order=order))
    def check(method):
        assert method.is_explicit or not explicit
        assert method.query_count >= {1: 1, 2: 2, 3: 4}[order]
        equation = mq.modified_equation(method, order)
        assert equation.coefficients == {tree: int(tree.order == 1) for tree in equation}

    check()


@pytest.mark.parametrize("stages", [(1, 1), (2, 3)])
def test_tableaux_of_both_kinds_have_as_many_stages_as_asked_for(stages):
    seen = set()

    @given(testing.tableaux(stages, explicit=None))
    def draw(method):
        seen.add((method.query_count, method.is_explicit))

    draw()
    assert {count for count, _ in seen} == {*stages}
    assert {explicit for _, explicit in seen} == {True, False}


@pytest.mark.slow
def test_the_simplest_tableau_of_order_two_is_heuns():
    assert repr(simplest(testing.tableaux(order=2))) == "RungeKutta(A=[[0, 0], [1, 0]], b=[1/2, 1/2])"


def test_all_trees_are_drawn_and_no_others():
    seen = set()

    @settings(max_examples=400)
    @given(testing.trees(4, colours=2))
    def draw(tree):
        seen.add(tree)

    draw()
    known = {tree for order in range(1, 5) for tree in mq.trees(order, colours=2)}
    assert seen <= known
    assert {bare(tree) for tree in seen} == {bare(tree) for tree in known}
    assert {tree for tree in seen if tree.order < 3} == {tree for tree in known if tree.order < 3}


def bare(tree):
    return mq.Tree([bare(child) for child in tree.children])


@pytest.mark.parametrize(
    ("such_that", "tree"),
    [
        (lambda tree: True, []),
        (lambda tree: tree.order > 2, [[], []]),
        (lambda tree: any(child.children for child in tree.children), [[[]]]),
    ],
)
def test_trees_shrink(such_that, tree):
    assert simplest(testing.trees(9, colours=3), such_that) == mq.Tree(tree)


def test_polynomial_losses_shrink_to_a_quadratic():
    assert simplest(testing.polynomial_losses([X, Y])) == X**2 / 4 + Y**2 / 4


def test_networks_shrink_to_one_hidden_layer():
    kinds = [type(layer) for layer in simplest(testing.networks())]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear]


def test_networks_are_the_same_again_whatever_torch_has_drawn_before():
    drawn = []

    @settings(max_examples=5, database=None)
    @given(testing.networks())
    def draw(network):
        drawn.append([p.tolist() for p in network.parameters()])

    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        draw()
        assert torch.equal(torch.get_rng_state(), before)
    assert drawn[: len(drawn) // 2] == drawn[len(drawn) // 2 :]


def batch_for(loss):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(8, 3, generator=generator, dtype=F64)
    if loss == "mse":
        return inputs, torch.randn(8, 3, generator=generator, dtype=F64)
    return inputs, torch.randint(0, 3, (8,), generator=generator)


def nameless(charges):
    return {charge.renamed("") for charge in charges}


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_what_a_construction_implies_is_what_is_found(loss):
    @settings(max_examples=6)
    @given(testing.networks_with_charges(loss=loss))
    def check(pair):
        network, charges = pair
        inputs, target = batch_for(loss)
        assert nameless(charges) == nameless(mq.find_charges(network, inputs, loss, target=target))
        assert len({charge.name for charge in charges}) == len(charges)
        testing.assert_conserved(charges, network, loss, (inputs, target), tolerance=1e-8)

    check()


# --- assertions -------------------------------------------------------------------------------------------------------


class PartlyTanh(nn.Module):
    """ReLU, but for one neuron."""

    def forward(self, x):
        return torch.cat([x[:, :2].relu(), x[:, 2:3].tanh(), x[:, 3:].relu()], 1)


def network(activation=nn.ReLU, norm=nn.Identity):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), norm(), activation(), nn.Linear(4, 3)).double()


HIDDEN = mq.Rescale("hidden", {"0.weight": 0, "0.bias": 0}, {"3.weight": 1})
BATCH = batch_for("cross_entropy")
conserved = partial(testing.assert_conserved, loss="cross_entropy", batch=BATCH)


def test_conserved_charges_are_reported():
    report = conserved([HIDDEN, mq.Translation("out", {"3.bias": None})], network())
    assert isinstance(report, mq.Verification)
    assert [entry.charge.name for entry in report] == ["hidden", "out"]


def test_of_no_charges_nothing_is_claimed():
    assert len(conserved([], network(nn.Tanh))) == 0


def test_a_broken_symmetry_is_named_with_its_generator():
    found = (
        r"1 of 2 charges not conserved to 1e-12:\nRescale 'hidden': \|⟨g, ξ⟩\|/\(‖g‖‖ξ‖\) = .*e-0\d along generator 2$"
    )
    with pytest.raises(AssertionError, match=found):
        conserved([mq.Translation("out", {"3.bias": None}), HIDDEN], network(PartlyTanh))


def test_the_worst_charge_comes_first():
    half = mq.Rescale("half", {"0.weight": 0}, {"3.weight": 1})
    none = mq.Scale("none", {"0.weight": 0})
    with pytest.raises(AssertionError, match=r"2 of 3 charges.*\nScale 'none'.*\nRescale 'half'"):
        conserved([half, HIDDEN, none], network())


def test_a_charge_that_falls_into_parts_is_none():
    """Each bias before a batch norm may move alone."""
    module = network(norm=partial(nn.BatchNorm1d, 4))
    conserved([mq.Translation("bias", {"0.bias": 0})], module)
    with pytest.raises(
        AssertionError, match="Translation 'bias': with a part of its entries left out .* by .* of it only"
    ):
        conserved([mq.Translation("bias", {"0.bias": None})], module)


class LeakyNorm(nn.BatchNorm1d):
    """A batch norm that may let a little of its input through."""

    leak = 0.0

    def __init__(self):
        super().__init__(4, eps=1e-3)

    def forward(self, x):
        normalised = super().forward(x)
        return normalised + self.leak * x if self.leak else normalised


def test_what_epsilon_predicts_is_taken_off():
    module = network(norm=LeakyNorm)
    charges = mq.find_charges(module, BATCH[0], "cross_entropy")
    report = conserved(charges, module)
    assert max(entry.gradient for entry in report) > 1e-4
    with pytest.raises(AssertionError, match=r"Scale '0': .* = \d.\de-0. along"):
        conserved(list(charges), module)  # as if written by hand: no ε is known
    module[1].leak = 1e-2
    with pytest.raises(AssertionError, match=r"Scale '0': .* less the .*e-0. of ε = .*e-0. along"):
        conserved(charges, module)


class WrittenOut(nn.Module):
    """A batch norm."""

    def forward(self, x):
        return (x - x.mean(0)) / (x.var(0) + 1e-6).sqrt()


def test_where_epsilon_cannot_be_predicted_the_message_says_so():
    module = network(norm=WrittenOut)
    charges = mq.find_charges(module, BATCH[0], "cross_entropy")
    with pytest.raises(AssertionError, match=r"Scale '0': .*; what ε makes of it is unknown$"):
        conserved(charges, module)
    conserved(charges, module, tolerance=1e-4)


class Overflowing(nn.Module):
    """Nothing, as long as its input is small."""

    def forward(self, x):
        return torch.where(x.abs().max() > 1e3, torch.nan, x)


def test_numbers_that_are_not_finite_are_no_proof():
    module = nn.Sequential(nn.Linear(3, 1), nn.ReLU(), Overflowing(), nn.Linear(1, 3)).double()
    with torch.no_grad():
        module[0].bias += 900.0
    charge = mq.Rescale("hidden", {"0.weight": 0, "0.bias": 0}, {"3.weight": 1})
    with pytest.raises(AssertionError, match="a finite move changes the loss by nan"):
        conserved([charge], module, seed=0)  # which makes the neuron larger


def trained(module, charges=(HIDDEN,), steps=8, between=None, lr=0.05, optimizer=None, **options):
    """A tracked training, with something done between the fifth step and the sixth."""
    optimizer = optimizer or partial(torch.optim.SGD, momentum=0.9, weight_decay=0.01)
    optimizer = optimizer(module.parameters(), lr=lr)
    with mq.track(module, optimizer, charges, **options) as tracker:
        for n in range(steps):
            if n == 5 and between is not None:
                between(module)
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(BATCH[0]), BATCH[1]).backward()
            optimizer.step()
    return tracker


def written(module):
    with torch.no_grad():
        module[0].weight[1] *= 1.01


def test_a_training_that_follows_its_law_is_reported():
    tracker = trained(network())
    record = testing.assert_law(tracker)
    assert record.step.tolist() == list(range(9))
    assert testing.assert_law(record, "with_defect")["hidden"].measured.shape == (9, 4)


def test_a_continuous_law_holds_to_what_is_claimed_and_no_better():
    tracker = trained(network(), lr=0.005)
    testing.assert_law(tracker, "corrected", tolerance=1e-3)
    with pytest.raises(AssertionError, match="1 of 1 charges do not follow the corrected law to 1e-12"):
        testing.assert_law(tracker, "corrected")


def test_a_write_between_two_steps_is_found():
    message = (
        r"1 of 1 charges do not follow the discrete law to 1e-12:\ncharge 'hidden': residual .*e-0. of generator 1 at "
        r"step \d, above 1e-12 from step 6 on. Rescale 'hidden': .*not by a broken symmetry.* a write between two steps"
    )
    with pytest.raises(AssertionError, match=message):
        testing.assert_law(trained(network(), between=written))


def test_a_broken_symmetry_leaves_the_law():
    tracker = trained(network(PartlyTanh))
    with pytest.raises(AssertionError, match=r"of generator 2 at step .* from step 1 on.* gradient is not orthogonal"):
        testing.assert_law(tracker)
    testing.assert_law(tracker, "with_defect")


def test_without_the_laws_of_an_explanation_there_is_none():
    with pytest.raises(AssertionError, match=r"from step 6 on$"):
        testing.assert_law(trained(network(), between=written, laws=["discrete"]))


def test_the_sum_of_updates_under_any_optimizer():
    testing.assert_law(trained(network(), optimizer=torch.optim.Adam), "observed")
    with pytest.raises(AssertionError, match="do not follow the observed law"):
        testing.assert_law(trained(network(), optimizer=torch.optim.Adam, between=written), "observed")


PROBLEM = mq.SymbolicProblem(sp.cos(X) + X**2, [X])


@pytest.mark.parametrize("options", [{"expected": 3}, {"initial_layer": False, "expected": 2}, {"tolerance": 1e-5}])
def test_another_order_than_the_observed_one_is_refused(options):
    observed = testing.assert_order(mq.HeavyBall(0.5), PROBLEM, [1.0], order=2, time=1.0)
    assert observed.expected == 2
    with pytest.raises(
        AssertionError, match=r"HeavyBall\(momentum=1/2\), field form of order 2: expected slope .* must be"
    ):
        testing.assert_order(mq.HeavyBall(0.5), PROBLEM, [1.0], order=2, time=1.0, **options)


# --- what is refused --------------------------------------------------------------------------------------------------

order = partial(testing.assert_order, mq.GradientDescent(), PROBLEM, [1.0], order=1, time=1.0)
REFUSED = [
    (lambda: testing.methods([]), mq.InvalidSetting, r"families is \[\]; give a sequence of some of gradient_descent"),
    (lambda: testing.methods("nesterov"), mq.InvalidSetting, "families is 'nesterov'"),
    (lambda: testing.methods(["adam"]), mq.InvalidSetting, "families is .'adam'."),
    (lambda: testing.methods(max_momentum=1), mq.InvalidSetting, r"max_momentum is 1: give a number in \[0, 1\)"),
    (lambda: testing.methods(max_momentum=X), mq.InvalidSetting, "max_momentum is x"),
    (lambda: testing.methods(weight_decay="both"), mq.InvalidSetting, "weight_decay is 'both'; give True, False"),
    (lambda: testing.methods(weight_decay=0.1), mq.InvalidSetting, "weight_decay is 0.1"),
    (lambda: testing.tableaux((0, 2)), mq.InvalidSetting, r"stages is \(0, 2\); give two positive integers"),
    (lambda: testing.tableaux(3), mq.InvalidSetting, "stages is 3"),
    (lambda: testing.tableaux((1, 3), order=2), mq.InvalidSetting, "order 2 has 2 conditions, give 2 stages or more"),
    (lambda: testing.tableaux(order=0), mq.InvalidOrder, "order is 0"),
    (lambda: testing.tableaux(explicit="no"), mq.InvalidSetting, "explicit is 'no'"),
    (lambda: testing.trees(0), mq.InvalidOrder, "max_order is 0"),
    (lambda: testing.trees(3, colours=0), mq.InvalidOrder, "colours is 0"),
    (lambda: testing.networks_with_charges(loss="l1"), mq.InvalidSetting, "loss is 'l1'; give 'mse' or"),
    (lambda: testing.networks_with_charges(widths=(4, 2)), mq.InvalidSetting, r"widths is \(4, 2\)"),
    (lambda: conserved([HIDDEN], network(), tolerance=0), mq.InvalidProblem, "tolerance is 0"),
    (lambda: conserved([HIDDEN], network(), batch=BATCH[0]), mq.InvalidCharge, "batch is Tensor"),
    (lambda: conserved([mq.Scale("s", {"9": 0})], network()), mq.InvalidCharge, "no parameter '9'"),
    (lambda: testing.assert_law(None), mq.InvalidSetting, "tracked is None: give a Tracker of mq.track"),
    (lambda: testing.assert_law(trained(network(), steps=0)), mq.InvalidSetting, "recorded no step"),
    (lambda: testing.assert_law(trained(network()), "linear"), mq.NoClosedLaw, "law is 'linear'"),
    (lambda: testing.assert_law(trained(network()), "observed"), mq.NoClosedLaw, "law is 'observed'"),
    (lambda: testing.assert_law(trained(network()), tolerance=float("nan")), mq.InvalidProblem, "tolerance is nan"),
    (lambda: order(tolerance=-1), mq.InvalidProblem, "tolerance is -1"),
    (lambda: order(expected=1.5), mq.InvalidProblem, "expected is 1.5"),
    (lambda: testing.assert_symmetry, AttributeError, "no attribute 'assert_symmetry'"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_bad_arguments_are_refused(case):
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call()


def test_without_hypothesis_assertions_are_there_and_strategies_say_what_is_missing():
    code = """
import sys
sys.modules["hypothesis"] = None
from modeq import MissingDependency, testing
for call in (testing.methods, testing.tableaux, lambda: testing.trees(3)):
    try:
        call()
    except MissingDependency as error:
        assert "modeq[test]" in str(error)
    else:
        raise AssertionError("no error")
assert "torch" not in sys.modules
assert dir(testing) == testing.__all__
assert all(callable(getattr(testing, name)) for name in testing.__all__)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
