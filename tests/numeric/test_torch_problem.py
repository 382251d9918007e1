"""Problems of torch modules: kinds of arrays, chunks, determinism, pickling and bad input."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import modeq as mq
from modeq.numeric import torch_problem
from modeq.numeric.torch_checks import flat_tensor


def mean_square(output, target):
    return ((output - target) ** 2).mean()


def network(*layers, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), *layers, nn.Linear(4, 2)).to(dtype)


def samples(count=10, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    return (
        torch.randn(count, 3, generator=generator, dtype=dtype),
        torch.randn(count, 2, generator=generator, dtype=dtype),
    )


def problem_of(module=None, loss=mean_square, dtype=torch.float64, **options):
    return mq.TorchProblem(module or network(dtype=dtype), loss, *samples(dtype=dtype), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_of_numpy_and_tensors_give_their_own_kind(dtype):
    problem = problem_of(dtype=dtype, batches=[[0, 1], [2, 3, 4]])
    theta, v = problem.start(), np.linspace(-1, 1, problem.size)
    tensor, w = torch.as_tensor(theta).to(dtype), torch.as_tensor(v).to(dtype)
    for part in (None, 1):
        for mine, its in [
            (problem.field(theta, part), problem.field(tensor, part)),
            (problem.derivative(theta, [v, v], part), problem.derivative(tensor, [w, w], part)),
            (problem.derivative(theta, [v], part), problem.derivative(tensor, w[None], part)),
        ]:
            assert isinstance(mine, np.ndarray)
            assert mine.dtype == np.float64
            assert isinstance(its, torch.Tensor)
            assert its.dtype == dtype
            assert not its.requires_grad
            np.testing.assert_array_equal(mine, its.double().numpy())
    assert problem.loss(theta) == problem.loss(tensor)


def test_the_caller_keeps_its_vectors_and_needs_no_gradients():
    problem = problem_of()
    theta = problem.start()
    theta.flags.writeable = False
    with torch.no_grad():
        field = problem.field(theta)
        hessian = problem.derivative(theta[::-1][::-1], [theta])
    leaf = torch.as_tensor(theta.copy()).requires_grad_()
    np.testing.assert_array_equal(problem.field(leaf).numpy(), field)
    np.testing.assert_array_equal(problem.derivative(leaf, [leaf]).numpy(), hessian)
    assert leaf.grad is None


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x):
        return x * self.weight


def test_loss_of_shape_one_is_one_number():
    problem = mq.TorchProblem(Plain(), lambda y, t: (y - t).square().sum()[None], torch.ones(2), torch.zeros(2))
    np.testing.assert_array_equal(problem.derivative([3.0, 1.0], [[1.0, 2.0]]), [-2.0, -4.0])


@pytest.mark.parametrize("chunk", [1, 3, 4, 10, 99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_give_the_full_loss(chunk, dtype):
    batches = [[0, 1, 2], [5]]
    whole, parted = problem_of(dtype=dtype, batches=batches), problem_of(dtype=dtype, batches=batches, chunk=chunk)
    theta, v = whole.start(), np.linspace(-1, 1, whole.size)
    tolerance = {"rtol": 0, "atol": 40 * whole.epsilon}
    np.testing.assert_allclose(parted.loss(theta), whole.loss(theta), **tolerance)
    np.testing.assert_allclose(parted.field(theta), whole.field(theta), **tolerance)
    np.testing.assert_allclose(parted.derivative(theta, [v, v]), whole.derivative(theta, [v, v]), **tolerance)
    np.testing.assert_array_equal(parted.field(theta, 0), whole.field(theta, 0))
    assert parted.field(torch.as_tensor(theta)).dtype == dtype
    assert parted.of_batch(torch.tensor([0, 1])).chunk is None
    np.testing.assert_array_equal(parted.of_batch([0, 1, 2]).field(theta), whole.field(theta, 0))


def test_chunks_are_added_in_float64(monkeypatch):
    seen = []
    monkeypatch.setattr(torch_problem, "tqdm", lambda chunks, *args, **options: seen.append(options) or chunks)
    module = nn.Linear(1, 1, bias=False)
    problem = mq.TorchProblem(module, lambda y, t: (y * t).mean(), torch.ones(3, 1), torch.ones(3, 1), chunk=2)
    problem.targets[2] = 1e-9  # lost beside 1 in float32
    assert problem.field([0.0])[0] == pytest.approx(-(2 + float(np.float32(1e-9))) / 3, rel=1e-15)
    assert seen[0]["disable"] is None
    assert seen[0]["delay"] > 0


def sum_of_squares(output, target):
    return ((output - target) ** 2).sum()


class ZeroAtFirst(nn.Module):
    """Batch norm before a last layer of zeros: only the gradient tells that the samples are coupled."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(3), nn.Linear(3, 2)
        nn.init.zeros_(self.last.weight)

    def forward(self, x):
        return self.last(self.norm(x))


@pytest.mark.parametrize(
    "module, loss, what",
    [
        (network(), sum_of_squares, "loss"),
        (network(nn.BatchNorm1d(4)), mean_square, "loss"),
        (ZeroAtFirst().double(), mean_square, "gradient"),
    ],
)
def test_chunks_need_a_mean_over_samples(module, loss, what):
    with pytest.raises(
        mq.InvalidProblem, match=f"chunk is 4, but the mean of the {what} over two chunks .*leave chunk"
    ):
        problem_of(module, loss, chunk=4)
    assert problem_of(network(nn.BatchNorm1d(4)).eval(), chunk=4).size == problem_of(network(nn.BatchNorm1d(4))).size


def test_bad_chunks():
    with pytest.raises(mq.InvalidProblem, match="chunk is 0: give a positive integer"):
        problem_of(chunk=0)
    with pytest.raises(mq.InvalidProblem, match="inputs are list: chunk divides the samples, give tensors"):
        mq.TorchProblem(network(), mean_square, [1.0], samples()[1], chunk=2)
    with pytest.raises(mq.InvalidProblem, match="there are 3 inputs and 2 targets"):
        mq.TorchProblem(network(), mean_square, samples(3)[0], samples(2)[1], chunk=2)
    one = mq.TorchProblem(network(), mean_square, *samples(1), chunk=2)
    expected = mean_square(network()(samples(1)[0]), samples(1)[1]).item()
    assert one.loss(one.start()) == pytest.approx(expected, rel=1e-14)


class Noise(nn.Module):
    """Random without torch; so small that only the comparison tells."""

    def __init__(self, draw, where):
        super().__init__()
        self.draw, self.where = draw, where

    def forward(self, x):
        noise = 1e-6 * self.draw()
        return x + noise if self.where == "loss" else Twisted.apply(x, noise)


class Twisted(torch.autograd.Function):
    """The identity with noise in its gradient alone."""

    @staticmethod
    def forward(ctx, x, noise):
        ctx.noise = noise
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (1 + ctx.noise), None


def torch_noise():
    return torch.rand(()).item()


def numpy_noise():
    return np.random.rand()  # noqa: NPY002 - what a careless module would do


@pytest.mark.parametrize("draw", [torch_noise, numpy_noise, random.random])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_randomness_is_refused_and_the_random_states_are_left_alone(draw, where):
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    threads = torch.get_num_threads()
    with pytest.raises(mq.InvalidProblem, match=rf"two evaluations of the {where} differ .*module\.eval\(\)"):
        problem_of(network(Noise(draw, where)))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert python_state == random.getstate()
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert threads == torch.get_num_threads()


def test_the_module_is_left_alone():
    module = network(nn.BatchNorm1d(4))
    before = copy.deepcopy(module.state_dict())
    problem = problem_of(module)
    problem.field(problem.start() + 1)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert module.training


def test_the_fast_path_of_a_transformer_is_no_randomness():
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, dtype=torch.float64).eval()
    inputs = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = mq.TorchProblem(layer, mean_square, inputs, torch.zeros_like(inputs))
    with torch.enable_grad():
        slow = problem.loss_tensor(torch.as_tensor(problem.start()).requires_grad_(), *problem.data())
    assert problem.loss(problem.start()) == pytest.approx(slow.item(), rel=1e-13)


@pytest.mark.parametrize("options", [{}, {"chunk": 3}, {"batches": [[0, 1], [2, 5]]}])
def test_pickles_and_copies_compute_the_same(options):
    module = network(nn.BatchNorm1d(4).eval() if "chunk" in options else nn.BatchNorm1d(4))
    module[0].bias.requires_grad_(False)
    problem = problem_of(module, **options)
    theta = problem.start() + 0.1
    for other in (pickle.loads(pickle.dumps(problem)), copy.copy(problem), copy.deepcopy(problem)):
        np.testing.assert_array_equal(other.start(), problem.start())
        np.testing.assert_array_equal(other.field(theta), problem.field(theta))
        np.testing.assert_array_equal(other.derivative(theta, [theta] * 2), problem.derivative(theta, [theta] * 2))
        assert other.loss(theta) == problem.loss(theta)
        assert other.parts == problem.parts


def test_what_cannot_be_pickled_is_named():
    problem = problem_of(loss=lambda y, t: mean_square(y, t))
    with pytest.raises(
        mq.InvalidProblem, match="the loss_function function cannot be pickled .* top level of a module"
    ):
        pickle.dumps(problem)
    assert copy.deepcopy(problem).loss(problem.start()) == copy.copy(problem).loss(problem.start())
    assert problem.of_batch([0]).size == problem.size
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2, dtype=torch.float64))
    with pytest.raises(mq.InvalidProblem, match="the module ParametrizedLinear cannot be pickled"):
        pickle.dumps(problem_of(parametrized))


def test_modules_that_cannot_be_copied_are_refused():
    class Uncopied(Plain):
        def __deepcopy__(self, memo):
            raise RuntimeError("no")

    with pytest.raises(mq.InvalidProblem, match=r"Uncopied cannot be copied \(no\).*parametrizations\.weight_norm"):
        mq.TorchProblem(Uncopied(), mean_square, torch.ones(2), torch.ones(2))


WORDS = [None, {}, "x" * 26, ["1"] * 26, np.datetime64("2020"), np.full(26, None), lambda: 1]
SHAPES = [[1.0], [[1.0], [1.0, 2.0]], np.zeros((2, 13)), torch.zeros(25), torch.zeros(1, 26)]
KINDS = [np.zeros(26, complex), np.zeros(26, bool), torch.zeros(26, dtype=torch.bool), torch.zeros(26) * 1j]
BAD_VECTORS = st.sampled_from([*WORDS, *SHAPES, *KINDS])


@given(BAD_VECTORS)
def test_bad_vectors(bad):
    problem = problem_of()
    assert problem.size == 26
    theta = problem.start()
    with pytest.raises(mq.InvalidProblem, match=r"theta (is|has) .*: give .*26"):
        problem.field(bad)
    with pytest.raises(mq.InvalidProblem, match=r"theta (is|has) .*: give .*26"):
        problem.loss(bad)
    with pytest.raises(mq.InvalidProblem, match=r"a direction (is|has) .*: give .*26"):
        problem.derivative(theta, [theta, bad])


def test_integers_are_numbers():
    assert flat_tensor(range(3), 3, "theta").dtype == torch.float64
    problem = problem_of()
    np.testing.assert_array_equal(problem.field(np.ones(26, int)), problem.field(torch.ones(26, dtype=torch.int32)))


def test_points_that_are_not_finite_give_fields_that_are_not():
    problem = problem_of()
    assert np.all(np.isnan(problem.field(np.full(26, np.nan))[-2:]))
    assert np.isnan(problem.loss(np.full(26, np.nan)))


ARRAYS = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64]).flatmap(
    lambda dtype: st.lists(st.integers(0, 4), max_size=3).map(lambda shape: torch.ones(shape, dtype=dtype))
)
DATA = ARRAYS | st.sampled_from([None, "data", 1, 1.5, [1.0, 2.0], {"a": 1}, np.ones((3, 3)), (torch.ones(3, 3),)])
RETURNED = {
    "vector": lambda y, t: y - t,
    "nothing": lambda y, t: None,
    "number": lambda y, t: 1.0,
    "text": lambda y, t: "loss",
    "nan": lambda y, t: mean_square(y, t) * torch.nan,
    "infinity": lambda y, t: mean_square(y, t) / 0,
    "integer": lambda y, t: mean_square(y, t).long(),
    "complex": lambda y, t: mean_square(y, t) * 1j,
    "constant": lambda y, t: torch.tensor(1.0),
    "detached": lambda y, t: mean_square(y, t).detach(),
    "failing": lambda y, t: y.no_such_attribute,
    "random": lambda y, t: mean_square(y, t) + torch.rand(()),
    "not callable": 3,
    "missing": None,
}


@given(st.sampled_from(list(RETURNED)), DATA, DATA)
def test_bad_losses(name, inputs, targets):
    with pytest.raises(mq.ModeqError):
        mq.TorchProblem(network(), RETURNED[name], *samples())
    with pytest.raises(mq.ModeqError):
        mq.TorchProblem(network(), RETURNED[name], inputs, targets)


@pytest.mark.filterwarnings("ignore:Using a target size")
@given(DATA, DATA, st.none() | st.integers(-1, 4), st.none() | st.lists(st.integers(-1, 3), max_size=2))
def test_bad_data(inputs, targets, chunk, batch):
    try:
        problem = mq.TorchProblem(
            network(), F.mse_loss, inputs, targets, chunk=chunk, batches=None if batch is None else [batch]
        )
    except mq.ModeqError:
        return
    assert np.all(np.isfinite(problem.field(problem.start())))


@pytest.mark.parametrize(
    "batches, message",
    [
        (3, "batches are 3: give a sequence of tensors"),
        ([], "batches is empty"),
        ([[]], "batch 0 is empty or has an index"),
        ([[0], [10]], "batch 1 is empty or has an index outside 0 to 9"),
        ([[0.5]], "batch 0 has dtype torch.float32"),
        ([[[0]]], "and 2 axes: give a row of integers"),
        (["ab"], "batch 0 is 'ab'"),
    ],
)
def test_bad_batches(batches, message):
    with pytest.raises(mq.InvalidProblem, match=message):
        problem_of(batches=batches)
    with pytest.raises(mq.InvalidProblem, match=message):
        problem_of().checked_batches(batches)


def test_batches_are_tried_at_once():
    with pytest.raises(mq.InvalidProblem, match="Expected more than 1 value per channel"):
        problem_of(network(nn.BatchNorm1d(4)), batches=[[0, 1, 2], [3]])


def test_data_that_is_not_finite_is_refused():
    inputs, targets = samples()
    for bad in (torch.nan, torch.inf):
        with pytest.raises(mq.InvalidProblem, match="the loss at the module's own parameters is (nan|inf)"):
            mq.TorchProblem(network(), mean_square, inputs, targets * bad)


def test_bad_modules():
    with pytest.raises(mq.InvalidProblem, match=r"the parameters \['weight', 'bias'\] have no shape yet"):
        problem_of(nn.LazyLinear(2))
    with pytest.raises(mq.InvalidProblem, match="Linear has complex parameters"):
        problem_of(nn.Linear(3, 2, dtype=torch.complex64))
    with pytest.raises(mq.InvalidProblem, match="Linear has no trainable parameter"):
        problem_of(nn.Linear(3, 2).requires_grad_(False))
    with pytest.raises(mq.InvalidProblem, match="loss_function is 3: give a callable"):
        problem_of(loss=3)


def test_labels():
    problem = problem_of()
    assert [problem.label(k) for k in (0, 5, 12, 25)] == ["0.weight[0, 0]", "0.weight[1, 2]", "0.bias[0]", "2.bias[1]"]
    with pytest.raises(IndexError):
        problem.label(26)
