"""Properties of an optimizer, a loss and a network of one's own: ``python -m pytest test_my_optimizer.py``.

Replace the rule, the loss and the network by yours; the tests stay as they are.
"""

import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import modeq as mq
from modeq import testing

x, y = sp.symbols("x y")
FRACTIONS = st.integers(0, 8).map(lambda k: sp.Rational(k, 16))
QUICK = settings(max_examples=5, deadline=None, derandomize=True, database=None)


def rule(beta, nu):
    """Quasi-hyperbolic momentum: a step along a mix of the gradient and its running mean."""

    def step(theta, m, gradient, h):
        g = gradient(theta)
        m = beta * m + (1 - beta) * g
        return theta - h * ((1 - nu) * g + nu * m), m

    return mq.method_from(step)


def network():
    """Two layers with a rectifier between them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def batches(count, generator):
    """Random inputs and labels."""
    for _ in range(count):
        inputs = torch.randn(16, 4, generator=generator, dtype=torch.float64)
        yield inputs, torch.randint(0, 3, (16,), generator=generator)


@QUICK
@given(FRACTIONS, FRACTIONS)
def test_the_rule_is_the_published_one(beta, nu):
    """The traced rule and the method by its name have the same modified equation, coefficient for coefficient."""
    named = mq.QuasiHyperbolic(momentum=beta, nu=nu)
    assert mq.modified_equation(rule(beta, nu), order=4) == mq.modified_equation(named, order=4)


@QUICK
@given(FRACTIONS, FRACTIONS, testing.polynomial_losses([x, y]))
def test_the_equation_follows_the_optimizer(beta, nu, loss):
    """With the order that the exact coefficients predict, from above and from below."""
    problem = mq.SymbolicProblem(loss, [x, y])
    testing.assert_order(rule(beta, nu), problem, [0.3, -0.2], order=2, time=1.0, tolerance=0.3)


def test_the_network_has_its_symmetries():
    """At random data: one rescaling for each hidden neuron, and the shifts before the softmax."""
    net, batch = network(), next(batches(1, torch.Generator().manual_seed(1)))
    charges = mq.find_charges(net, batch[0], loss="cross_entropy")
    assert [type(charge).__name__ for charge in charges] == ["Rescale", "Translation", "Translation"]
    testing.assert_conserved(charges, net, "cross_entropy", batch)


def test_a_training_obeys_its_laws():
    """To rounding, over 100 minibatches with momentum and weight decay."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    charges = mq.find_charges(net, torch.randn(2, 4, dtype=torch.float64), loss="cross_entropy")
    with mq.track(net, optimizer, charges) as tracker:
        for inputs, labels in batches(100, torch.Generator().manual_seed(2)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), labels).backward()
            optimizer.step()
    testing.assert_law(tracker, "discrete", tolerance=1e-13)
