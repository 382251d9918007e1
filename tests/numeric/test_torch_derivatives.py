"""Derivatives through every kind of layer against high-order differences of the gradient, in float64."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import modeq as mq
from modeq.numeric.differences import directional_derivative
from modeq.numeric.primitives import SUBSTITUTES, Elementary


class ExplicitAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(4, 12)

    def forward(self, x):
        q, k, v = self.project(x).chunk(3, -1)
        return torch.softmax(q @ k.transpose(-2, -1) / 2, -1) @ v


class FusedAttention(nn.Module):
    def __init__(self, mask=None, **options):
        super().__init__()
        self.project = nn.Linear(4, 12)
        self.mask, self.options = mask, options

    def forward(self, x):
        q, k, v = self.project(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, **self.options)


class SelfAttention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.options = options

    def forward(self, x):
        return self.attention(x, x, x, **self.options)[0]


class GroupedQueries(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(4, 8), nn.Linear(4, 4)

    def forward(self, x):
        q = self.q(x).reshape(*x.shape[:2], 4, 2).transpose(1, 2)
        k = self.k(x).reshape(*x.shape[:2], 2, 2).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, k, enable_gqa=True)


class Solved(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.matrix = nn.Linear(4, 4, bias=False)
        self.operation = operation

    def forward(self, x):
        return self.operation(self.matrix.weight + 3 * torch.eye(4), x)


VISIBLE = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])
VECTOR, IMAGE, TOKENS = (5, 4), (4, 2, 4, 4), (2, 3, 4)


def ending(*layers, out=4):
    return lambda: nn.Sequential(*[layer() for layer in layers], nn.Tanh(), nn.Linear(out, 2))


def image(layer):
    return lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), layer(), nn.Tanh(), nn.Flatten(), nn.Linear(64, 2))


def weight_normed(dim=0):
    return lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4), dim=dim), nn.Tanh(), nn.Linear(4, 2)
    )


def evaluated(build):
    def module():
        built = build()
        for layer in built.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.InstanceNorm2d):
                layer.running_mean.copy_(torch.linspace(-0.5, 0.5, layer.num_features))
                layer.running_var.copy_(torch.linspace(0.5, 2, layer.num_features))
        return built.eval()

    return module


def linear():
    return nn.Linear(4, 4)


LAYERS = {
    "linear": (ending(linear), VECTOR),
    "conv2d": (image(nn.Identity), IMAGE),
    "BatchNorm1d": (ending(linear, lambda: nn.BatchNorm1d(4)), VECTOR),
    "BatchNorm1d-no-affine": (ending(linear, lambda: nn.BatchNorm1d(4, affine=False)), VECTOR),
    "BatchNorm1d-no-statistics": (ending(linear, lambda: nn.BatchNorm1d(4, track_running_stats=False)), VECTOR),
    "BatchNorm1d-eval": (evaluated(ending(linear, lambda: nn.BatchNorm1d(4))), VECTOR),
    "BatchNorm2d": (image(lambda: nn.BatchNorm2d(4)), IMAGE),
    "BatchNorm2d-eval": (evaluated(image(lambda: nn.BatchNorm2d(4))), IMAGE),
    "LayerNorm": (ending(linear, lambda: nn.LayerNorm(4)), VECTOR),
    "LayerNorm-two-axes": (image(lambda: nn.LayerNorm((4, 4), bias=False)), IMAGE),
    "GroupNorm": (image(lambda: nn.GroupNorm(2, 4)), IMAGE),
    "InstanceNorm2d": (image(lambda: nn.InstanceNorm2d(4, affine=True)), IMAGE),
    "InstanceNorm2d-eval": (evaluated(image(lambda: nn.InstanceNorm2d(4, track_running_stats=True))), IMAGE),
    "RMSNorm": (ending(linear, lambda: nn.RMSNorm(4)), VECTOR),
    "weight_norm": (weight_normed(), VECTOR),
    "weight_norm-whole": (weight_normed(None), VECTOR),
    "explicit-attention": (ending(ExplicitAttention), TOKENS),
    "fused-attention": (ending(FusedAttention), TOKENS),
    "fused-attention-causal": (ending(lambda: FusedAttention(is_causal=True, scale=0.7)), TOKENS),
    "fused-attention-mask": (ending(lambda: FusedAttention(VISIBLE)), TOKENS),
    "fused-attention-bias": (ending(lambda: FusedAttention(torch.eye(3))), TOKENS),
    "grouped-queries": (ending(GroupedQueries, out=2), TOKENS),
    "MultiheadAttention": (ending(lambda: SelfAttention(need_weights=False)), TOKENS),
    "MultiheadAttention-weights": (ending(SelfAttention), TOKENS),
    "MultiheadAttention-causal": (
        ending(
            lambda: SelfAttention(
                attn_mask=nn.Transformer.generate_square_subsequent_mask(3), is_causal=True, need_weights=False
            )
        ),
        TOKENS,
    ),
    "TransformerEncoderLayer": (
        ending(lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, activation="gelu", batch_first=True)),
        TOKENS,
    ),
    "TransformerEncoderLayer-eval": (
        lambda: ending(lambda: nn.TransformerEncoderLayer(4, 2, 6, activation="gelu", batch_first=True))().eval(),
        TOKENS,
    ),
    "gelu": (ending(linear, nn.GELU), VECTOR),
    "softplus": (ending(linear, nn.Softplus), VECTOR),
    "silu": (ending(linear, nn.SiLU), VECTOR),
    "glu": (ending(linear, nn.GLU, out=2), VECTOR),
    "AvgPool2d": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)),
        IMAGE,
    ),
    "MaxPool2d-ReLU": (
        lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)),
        IMAGE,
    ),
    "embedding": (lambda: nn.Sequential(nn.Embedding(6, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)), "words"),
    "LSTM": (lambda: nn.Sequential(nn.LSTM(4, 4), First(), nn.Linear(4, 2)), TOKENS),
    "solve": (ending(lambda: Solved(lambda A, x: torch.linalg.solve(A, x.T).T)), VECTOR),
    "solve-right": (ending(lambda: Solved(lambda A, x: torch.linalg.solve(A, x, left=False))), VECTOR),
    "solve-vector": (ending(lambda: Solved(lambda A, x: torch.linalg.solve(A, x[0]))), VECTOR),
    "det": (ending(lambda: Solved(lambda A, x: x * torch.linalg.det(A) / 81)), VECTOR),
    "logdet": (ending(lambda: Solved(lambda A, x: x * torch.logdet(A))), VECTOR),
    "slogdet": (ending(lambda: Solved(lambda A, x: x * A.slogdet()[1])), VECTOR),
}


class First(nn.Module):
    def forward(self, pair):
        return pair[0]


def data(shape, generator):
    if shape == "words":
        return torch.randint(6, (5, 3), generator=generator)
    return torch.randn(shape, generator=generator)


def built(build, shape=VECTOR, loss_function=None, targets=None):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(3)
            module = build()
            for parameter in module.parameters():  # ones and zeros are too special
                parameter.add_(0.1 * torch.randn(parameter.shape))
            inputs = data(shape, torch.Generator().manual_seed(5))
            output = module(inputs)
            goal = torch.randn(output.shape, generator=torch.Generator().manual_seed(7)) if targets is None else targets
        return mq.TorchProblem(module, loss_function or mean_square, inputs, goal)
    finally:
        torch.set_default_dtype(before)


def mean_square(output, target):
    return ((output - target) ** 2).mean()


def compare(problem, scale=1.0, orders=(1, 2, 3), tolerance=(1e-10, 1e-8, 1e-7)):
    theta = problem.start()
    rng = np.random.default_rng(1)
    vectors = [v / np.linalg.norm(v) for v in rng.standard_normal((3, problem.size))]
    for order in orders:
        computed = problem.derivative(theta, vectors[:order])
        expected = directional_derivative(problem.field, theta, vectors[:order], scale)
        bound = tolerance[order - 1] * np.max(abs(expected))
        assert np.max(abs(computed - expected)) <= bound, (order, np.max(abs(computed - expected)) / bound)


@pytest.mark.some(14)
@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_through_layers(name):
    compare(built(*LAYERS[name]), scale=0.25 if "Norm" in name or "Transformer" in name else 1.0)


@pytest.mark.parametrize("name", LAYERS)
def test_elementary_operations_agree_with_fused_kernels(name):
    problem = built(*LAYERS[name])
    flat = torch.as_tensor(problem.start())
    fused = problem.loss_tensor(flat, *problem.data())
    with Elementary():
        elementary = problem.loss_tensor(flat, *problem.data())
    assert elementary.item() == pytest.approx(fused.item(), rel=1e-13)


CLASSES = torch.tensor([0, 1, 0, 1, 1])
LOSSES = {
    "cross_entropy": (F.cross_entropy, CLASSES),
    "cross_entropy-smooth": (nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES),
    "bce_with_logits": (F.binary_cross_entropy_with_logits, torch.full((5, 2), 0.3, dtype=torch.float64)),
    "mse": (F.mse_loss, None),
    "MSELoss": (nn.MSELoss(), None),
    "mse-sum": (lambda y, t: F.mse_loss(y, t, reduction="sum") / 10, None),
    "mse-none": (lambda y, t: F.mse_loss(y, t, reduction="none").mean(), None),
    "mse-legacy": (lambda y, t: F.mse_loss(y, t, size_average=False), None),
    "mse-weighted": (lambda y, t: F.mse_loss(y, t, weight=torch.arange(1.0, 6)[:, None].expand(5, 2)), None),
    "huber": (lambda y, t: F.huber_loss(y, t, delta=9.0) + F.huber_loss(y, t - 5, delta=0.1) ** 2, None),
    "smooth_l1": (lambda y, t: F.smooth_l1_loss(y, t, beta=9.0) + F.smooth_l1_loss(y, t - 5, beta=0.1) ** 2, None),
    "smooth_l1-legacy": (lambda y, t: F.smooth_l1_loss(y, t - 9, size_average=False, beta=0) ** 2 / 100, None),
    "soft_margin": (F.soft_margin_loss, 2.0 * CLASSES[:, None].expand(5, 2) - 1),
    "soft_margin-legacy": (lambda y, t: F.soft_margin_loss(y, t, reduce=False).mean(), CLASSES[:, None] * 2.0 - 1),
}


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_through_losses(name):
    compare(built(ending(linear), VECTOR, *LOSSES[name]))


def test_functions_below_the_layers_agree():
    x = torch.linspace(-1, 2, 48, dtype=torch.float64).reshape(2, 4, 6) ** 2
    weight, bias, mean = (torch.linspace(a, a + 1, 4, dtype=torch.float64) for a in (1.0, -1.0, 0.5))
    calls = [
        lambda: torch.batch_norm(x, weight, bias, None, None, True, 0.1, 1e-3, False),
        lambda: torch.batch_norm(x, weight, None, mean, mean, False, 0.1, 1e-3, False),
        lambda: torch.instance_norm(x, weight, bias, None, None, True, 0.1, 1e-3, False),
        lambda: torch.instance_norm(x, weight, bias, mean, mean, False, 0.1, 1e-3, False),
        lambda: torch.layer_norm(x, (4, 6), None, None, 1e-3),
        lambda: torch.group_norm(x, 2, weight, bias, 1e-3),
        lambda: torch.rms_norm(x, (6,)),
        lambda: torch._weight_norm(x, torch.ones(1, 4, 1, dtype=torch.float64), 1),
        lambda: torch.norm_except_dim(x, 3, -1),
        lambda: torch.norm_except_dim(x, 2, 0),
        lambda: torch.logdet(-torch.eye(3, dtype=torch.float64)),
        lambda: torch.det(torch.flip(torch.eye(3, dtype=torch.float64), [0])),
    ]
    for call in calls:
        fused = call()
        with Elementary():
            torch.testing.assert_close(call(), fused, rtol=1e-14, atol=1e-15, equal_nan=True)
    assert all(callable(function) for function in SUBSTITUTES.values())


@pytest.mark.parametrize("name", ["BatchNorm1d", "LayerNorm", "MultiheadAttention"])
def test_the_fifth_derivative(name):
    problem = built(*LAYERS[name])
    theta = problem.start()
    vectors = np.random.default_rng(1).standard_normal((4, problem.size)) / 5
    computed = problem.derivative(theta, vectors)
    expected = directional_derivative(lambda point: problem.derivative(point, vectors[:3]), theta, vectors[3:], 0.25)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-9 * np.max(abs(expected)))


def test_statistics_stay_as_they_are():
    problem = built(*LAYERS["BatchNorm1d"])
    before = {name: buffer.clone() for name, buffer in problem.module.named_buffers()}
    problem.derivative(problem.start(), [np.ones(problem.size)] * 2)
    problem.field(problem.start())
    problem.loss(problem.start())
    assert all(torch.equal(buffer, before[name]) for name, buffer in problem.module.named_buffers())


def test_batch_norm_needs_two_numbers_a_channel():
    problem = built(*LAYERS["BatchNorm1d"])
    with pytest.raises(mq.InvalidProblem, match="Expected more than 1 value per channel"):
        mq.TorchProblem(problem.module, mean_square, problem.inputs[:1], problem.targets[:1])


class Written(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


UNSUPPORTED = {
    "_embedding_bag": lambda y, t: F.embedding_bag(torch.tensor([[0, 1]]), y).sum(),
    "_cdist_forward": lambda y, t: torch.cdist(y, t).mean(),
    "multi_margin_loss": lambda y, t: F.multi_margin_loss(y, CLASSES, p=2),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_operations_without_a_rule_are_named(name):
    problem = built(ending(linear), VECTOR, UNSUPPORTED[name])
    message = rf"derivative 2 of this loss, it has no rule for {name} \(.*write the operation with elementary ones, or"
    with pytest.raises(mq.InvalidProblem, match=message):
        problem.derivative(problem.start(), [np.ones(problem.size)])


def test_functions_with_a_written_backward_are_refused():
    problem = built(ending(linear), VECTOR, lambda y, t: Written.apply(y).mean())
    with pytest.raises(mq.InvalidProblem, match="torch cannot take derivative 2 of this loss.*field='gradients'"):
        problem.derivative(problem.start(), [np.ones(problem.size)])


@pytest.mark.filterwarnings("ignore")  # of torch's own tracers
def test_code_that_hides_its_operations_is_refused():
    problem = built(*LAYERS["linear"])
    scripted = torch.jit.trace(problem.module, problem.inputs)
    hidden = [
        mq.TorchProblem(nn.Sequential(scripted), mean_square, problem.inputs, problem.targets),
        mq.TorchProblem(problem.module, torch.compile(mean_square, backend="eager"), problem.inputs, problem.targets),
        mq.TorchProblem(torch.compile(problem.module, backend="eager"), mean_square, problem.inputs, problem.targets),
    ]
    for other in hidden:
        np.testing.assert_allclose(other.field(problem.start()), problem.field(problem.start()), rtol=0, atol=1e-15)
        with pytest.raises(mq.InvalidProblem, match="is compiled or scripted, and hides fused operations .* original"):
            other.derivative(problem.start(), [problem.start()])
