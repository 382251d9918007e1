"""Derivatives of the field along a path: written out, nested and from gradients alone agree, in both kinds of array."""

import numpy as np
import pytest
import torch
from registry import NETWORKS, PROBLEMS

import modeq as mq
from modeq.numeric.jets import path_derivatives


def path(start, size, rows, seed=0):
    """u₀, u₁, …, falling as on a path that moves by `size` in a step."""
    draws = np.random.default_rng(seed).normal(size=(rows, len(start)))
    return np.array([start, *(size**k * draws[k] for k in range(1, rows))])


class Counted:
    def __init__(self, problem, epsilon=None):
        self.problem, self.epsilon, self.gradients = problem, epsilon or problem.epsilon, 0

    def field(self, theta):
        self.gradients += 1
        return self.problem.field(theta)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_nested_derivatives_are_those_written_out(name, rows):
    problem, start = PROBLEMS[name]
    u = path(start, 0.5, rows)
    written, nested = (path_derivatives(problem, 4, field)(u) for field in ("lambdify", "autodiff"))
    assert nested.shape == (5, problem.size)
    np.testing.assert_allclose(nested, written, rtol=1e-12, atol=1e-13)


@pytest.mark.some(9)
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("highest, tolerance", [(0, 0.0), (1, 4e-9), (2, 4e-9), (3, 1e-8), (4, 1e-8)])
def test_differences_of_gradients_are_close(name, highest, tolerance):
    """Far below the terms that the form itself leaves out, D^{highest+1} f / (2π)^highest."""
    problem, start = PROBLEMS[name]
    for seed in range(3):
        u = path(start, 0.05, 3, seed)
        written, measured = (path_derivatives(problem, highest, field)(u) for field in ("lambdify", "gradients"))
        np.testing.assert_array_less(abs(measured - written), tolerance + 1e-15)


@pytest.mark.parametrize("highest, double, single", [(0, 1, 1), (1, 5, 5), (2, 5, 5), (3, 7, 7), (4, 7, 7)])
def test_how_many_gradients_are_taken(highest, double, single):
    problem, start = PROBLEMS["two variables"]
    for epsilon, expected in ((None, double), (1.2e-7, single)):
        counted = Counted(problem, epsilon)
        path_derivatives(counted, highest, "gradients")(path(start, 0.1, 3))
        assert counted.gradients == expected


def test_paths_of_polynomials_of_the_degree_of_the_stencil_have_no_truncation_error():
    """On a quadratic loss and a path of degree 2, differences of gradients give D² f to rounding."""
    x, y = mq.problems.quadratic([1.0, 3.0]), path([0.5, -1.0], 0.1, 3)
    exact = -np.array([1.0, 3.0]) * y
    np.testing.assert_allclose(path_derivatives(x, 2, "gradients")(y), exact, atol=1e-9)


@pytest.mark.parametrize("field", ["autodiff", "gradients"])
def test_tensors_give_tensors_with_the_same_numbers(field):
    problem = NETWORKS["softplus regression"]()
    u = path(problem.start(), 0.1, 3)
    function = path_derivatives(problem, 2, field)
    tensor = function(torch.from_numpy(u))
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float64
    np.testing.assert_allclose(tensor.numpy(), function(u), rtol=1e-12, atol=1e-9)


def test_written_out_derivatives_of_tensors_are_tensors():
    problem, start = PROBLEMS["two variables"]
    u = path(start, 0.1, 2)
    function = path_derivatives(problem, 2)
    tensor = function(torch.from_numpy(u).float())
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), function(u), rtol=1e-5)


def test_a_network_has_the_same_derivatives_nested_and_from_gradients():
    problem = NETWORKS["softplus regression"]()
    u = path(problem.start(), 0.02, 3)
    nested, measured = (path_derivatives(problem, 2, field)(u) for field in ("autodiff", "gradients"))
    np.testing.assert_allclose(measured, nested, atol=1e-7)
    assert np.max(abs(nested[2])) > 1e-3


@pytest.mark.parametrize("field", ["autodiff", "gradients"])
def test_flows_in_phase_space_agree(field):
    problem, start = PROBLEMS["two variables"]
    form = mq.phase_space_form(mq.HeavyBall(0.9), 3)
    ends = [mq.flow(form, problem, start, h=0.02, time=0.4, field=f).y[-1] for f in ("lambdify", field)]
    np.testing.assert_allclose(*ends, atol=1e-8)


def test_what_is_refused():
    problem = NETWORKS["softplus regression"]()
    with pytest.raises(mq.InvalidProblem, match="needs a SymbolicProblem or VectorField, .*use 'gradients' or 'autodi"):
        path_derivatives(problem, 1, "lambdify")
    with pytest.raises(mq.InvalidProblem, match="field is 'magic': choose from auto, lambdify, autodiff, gradients"):
        path_derivatives(problem, 1, "magic")
