"""Scale-invariant weights under noise settle where the formulas say, and turn as they say."""

import numpy as np
import pytest

from modeq.errors import InvalidSetting, NoClosedLaw
from modeq.symmetry.equilibrium import equilibrium
from modeq.symmetry.laws import SGDStep

STEPS = {
    "gradient descent": SGDStep(0.1, weight_decay=0.02),
    "heavy ball": SGDStep(0.1, momentum=0.9, weight_decay=0.002),
    "dampened": SGDStep(0.2, momentum=0.8, dampening=0.5, weight_decay=0.004),
    "nesterov": SGDStep(0.1, momentum=0.8, weight_decay=0.004, nesterov=True),
    "decoupled": SGDStep(0.1, momentum=0.8, weight_decay=0.02, decoupled=True),
    "decoupled nesterov": SGDStep(0.1, momentum=0.8, weight_decay=0.02, decoupled=True, nesterov=True),
}


def simulated(step, squared_gradient, start, steps, chains=64, dimension=40):
    """‖θ‖² at each step, and the last squared angles; gradients are orthogonal to θ, and inverse to its norm."""
    draw = np.random.default_rng(0)
    theta = draw.standard_normal((chains, dimension))
    theta *= np.sqrt(start) / np.linalg.norm(theta, axis=1, keepdims=True)
    v, norms, angles = np.zeros_like(theta), [], []
    for n in range(steps):
        norm = np.linalg.norm(theta, axis=1, keepdims=True)
        g = draw.standard_normal(theta.shape) * np.sqrt(squared_gradient / (dimension - 1)) / norm
        g -= (g * theta).sum(1, keepdims=True) * theta / norm**2
        before, h, decay = theta, step.h, step.weight_decay
        d = g if step.decoupled else g + decay * theta
        fresh = 1.0 if n == 0 or not step.momentum else 1 - step.dampening
        v = step.momentum * v + fresh * d
        u = d + step.momentum * v if step.nesterov else v
        theta = (1 - h * decay if step.decoupled else 1.0) * theta - h * u
        norms.append((theta**2).sum(1).mean())
        if n > 2 * steps // 3:
            size = np.linalg.norm(theta, axis=1) * np.linalg.norm(before, axis=1)
            cosine = (theta * before).sum(1) / size
            angles.append(np.mean(2 * (1 - cosine)))
    return np.array(norms), np.mean(angles)


@pytest.mark.parametrize("name", STEPS)
def test_weights_settle_and_turn_as_predicted(name):
    step = STEPS[name]
    expected = equilibrium(step, 0.3)
    steps = int(12 * expected.time / step.h)
    norms, squared_angle = simulated(step, 0.3, 1.5 * expected.squared_norm, steps)
    assert norms[-steps // 3 :].mean() == pytest.approx(expected.squared_norm, rel=0.02)
    assert squared_angle == pytest.approx(expected.angle**2, rel=0.02)
    # after the time `time` the deviation, then a third, is e times as small; the law is linear for small ones only
    n = int(expected.time / step.h)
    deviation = norms / expected.squared_norm - 1
    assert deviation[4 * n] / deviation[2 * n] < 0.25
    assert deviation[n] == pytest.approx(0.5 * np.exp(-1), rel=0.2)


@pytest.mark.parametrize(
    "step",
    [
        SGDStep(0.1),
        SGDStep(0.0, weight_decay=0.1),
        SGDStep(0.1, momentum=1.0, weight_decay=0.1),
        SGDStep(0.1, momentum=0.5, dampening=1.0, weight_decay=0.1),
    ],
)
def test_without_equilibrium(step):
    with pytest.raises(NoClosedLaw, match="no equilibrium for"):
        equilibrium(step, 1.0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), "1"])
def test_no_gradient(value):
    with pytest.raises(InvalidSetting, match="squared_gradient is"):
        equilibrium(SGDStep(0.1, weight_decay=0.1), value)


def test_no_step():
    with pytest.raises(InvalidSetting, match="step is 3: give an SGDStep"):
        equilibrium(3, 1.0)
