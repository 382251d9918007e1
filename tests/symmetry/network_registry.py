"""Small networks with their translations, scales and rescales, counted by hand: what a search must find, no more.

A generator here is a field ξ(θ) = a∘θ + c with fixed coefficients: diagonal, constant, or both. Each network lists
the charges (a family, parameters with axes, number of generators) and, as `Beyond`, the generators of this form that
no class of charge can name. Together they are all: the comment inside each builder says why, and the null space of the
gradients, which knows nothing of graphs, confirms every count. So the traps are here as well: a network that looks
like one with a symmetry and has none lists none.

Three things that every count has to mind:

- A translation of a single entry (a key bias, a bias before a batch norm) says that the loss does not depend on it at
  all, so multiplying the entry is a symmetry too. It is one generator of a charge and two fields: `dead` counts the
  second ones (and both where no charge names the entry).
- Fields may be linearly dependent though each is a charge of its own: `dependent` counts the relations.
- Rescaling needs all the entries that a channel is written by and read by: biases and norms' shifts among the writers,
  every branch among the readers. A parameter that does both, such as the recurrent matrix of an RNN, has exponents
  of both signs within one tensor, which no `Rescale` can say.

Where linear maps follow on each other a matrix acts between them. Such generators are not diagonal, `matrices` lists
them apart, and the diagonals of these matrices are among the rescales.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from modeq.symmetry.charges import Charge, Rescale, Scale, Translation
from modeq.symmetry.matrix_charges import GeneralLinear

F64 = torch.float64
Parameters = dict[str, Tensor]
Draw = Callable[[torch.Generator], Tensor]


@dataclass(frozen=True)
class Expected:
    """One charge, its number of generators, and whether a norm's ε breaks it."""

    charge: Charge
    generators: int
    approximate: bool = False


@dataclass(frozen=True)
class Field:
    """A generator ξ(θ) = linear∘θ + constant, written out entry by entry; a missing parameter has zeros."""

    linear: Parameters = field(default_factory=dict)
    constant: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class Beyond:
    """Generators of the form a∘θ + c that Translation, Scale and Rescale cannot name, and why they cannot."""

    name: str
    generators: int
    why: str
    fields: Callable[[Parameters], list[Field]]


@dataclass(frozen=True)
class Network:
    """A network, how to draw its batches, its loss, and its symmetries."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Draw
    targets: Draw
    loss: str | Callable[[Tensor, Tensor], Tensor]
    charges: tuple[Expected, ...]
    beyond: tuple[Beyond, ...]
    matrices: tuple[Expected, ...]
    dead: int
    nearly_dead: int
    dependent: int
    batched: bool
    finite: bool

    def batch(self, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.inputs(draw), self.targets(draw)

    def loss_of(self, output: Tensor, target: Tensor) -> Tensor:
        named = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
        return (named[self.loss] if isinstance(self.loss, str) else self.loss)(output, target)

    def dimension(self, *, approximate: bool) -> int:
        """The hand count of independent fields, with or without those that hold for ε → 0 only."""
        found = sum(e.generators for e in self.charges if approximate or not e.approximate)
        return found + sum(b.generators for b in self.beyond) + self.unlisted(approximate=approximate) - self.dependent

    def unlisted(self, *, approximate: bool) -> int:
        """The second field of each entry without effect, or both where no charge names it."""
        return self.dead + (self.nearly_dead if approximate else 0)


NETWORKS: dict[str, Network] = {}


def network(
    inputs,
    targets,
    loss="mse",
    charges=(),
    beyond=(),
    matrices=(),
    dead=0,
    nearly_dead=0,
    dependent=0,
    batched=True,
    finite=True,
):
    """Register a builder under its name.

    `dead` and `dependent` are explained above, `nearly_dead` holds for ε → 0. `batched` says that torch.func can run
    the network on many parameters at once, `finite` that a finite move leaves the loss, not only its gradient.
    """

    def register(build):
        def seeded():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return build().to(F64)

        NETWORKS[build.__name__] = Network(
            build.__name__,
            seeded,
            inputs,
            targets,
            loss,
            tuple(charges),
            tuple(beyond),
            tuple(matrices),
            dead,
            nearly_dead,
            dependent,
            batched,
            finite,
        )
        return build

    return register


# --- batches


def normal(*shape, batch=6, size=1) -> Draw:
    return lambda draw: size * torch.randn(batch, *shape, generator=draw, dtype=F64)


def integers(high, *shape, batch=6) -> Draw:
    return lambda draw: torch.randint(0, high, (batch, *shape), generator=draw)


def switches(*shape, batch=6) -> Draw:
    return lambda draw: torch.randint(0, 2, (batch, *shape), generator=draw).to(F64)


# --- charges in short


def exact(charge, generators):
    return Expected(charge, generators)


def nearly(charge, generators):
    return Expected(charge, generators, approximate=True)


def writes(*layers, axis=0):
    """Weight and bias of layers, both by their output channel."""
    return {f"{layer}.{part}": axis for layer in layers for part in ("weight", "bias")}


def reads(*layers, axis=1):
    return {f"{layer}.weight": axis for layer in layers}


def hidden(first, second, generators, axis=1):
    """The neurons between two layers: weight and bias of the first against the columns of the second."""
    return exact(Rescale(f"{first}-{second}", writes(first), reads(second, axis=axis)), generators)


def classifier(layer, features):
    """The rows of a last weight, one generator per feature, and its bias: softmax forgets a common constant."""
    return (
        exact(Translation(layer, {f"{layer}.weight": 1}), features),
        exact(Translation(f"{layer} bias", {f"{layer}.bias": None}), 1),
    )


def between(left, right, generators, **more):
    """The matrices that act between the parameters of two sides, from tables of axes."""
    return exact(GeneralLinear("matrices", left, right, **more), generators)


def constant_bias(parameter, generators):
    """A bias that does not matter: each coordinate is free."""
    return exact(Translation(f"{parameter} is free", {parameter: 0}), generators)


# --- fields in full


def marked(parameter, *places):
    """Zeros of a parameter's shape with values at places, each (index, value); values add up."""
    mask = torch.zeros(parameter.shape, dtype=F64)
    for index, value in places:
        mask[index] += value
    return mask


def opposite(plus, minus, channels, index=lambda c: (c,)):
    """Two biases that are added: what one gains the other may lose."""
    return Beyond(
        f"{plus} + {minus}",
        channels,
        "a Translation has no negative sign",
        lambda p: [
            Field(constant={plus: marked(p[plus], (index(c), 1.0)), minus: marked(p[minus], (index(c), -1.0))})
            for c in range(channels)
        ],
    )


ROW, ALL = (lambda c: (c,)), slice(None)


def column(c):
    return (ALL, c)


# --- dense networks


def stack(**layers):
    return nn.Sequential(OrderedDict(layers))


def perceptron(activation, hidden=4, outputs=2, bias=True):
    return stack(fc1=nn.Linear(3, hidden, bias), act=activation, fc2=nn.Linear(hidden, outputs, bias))


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Formula(nn.Module):
    """Named layers, parameters or buffers and a formula on them: forward(x) = formula(self, x)."""

    def __init__(self, formula, **parts):
        super().__init__()
        self.formula = formula
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x):
        return self.formula(self, x)


def parameter(*shape):
    return nn.Parameter(torch.randn(shape))


@network(normal(3), integers(3), "cross_entropy", [hidden("fc1", "fc2", 4), *classifier("fc2", 4)])
def relu():
    # ReLU is homogeneous in each of 4 neurons: row and bias of fc1 against a column of fc2. Softmax: 4 columns and the
    # bias of fc2 move freely by constants. Nothing else: the inputs are given, so a single weight of fc1 cannot move
    # without its whole row; the logits' scale matters to the loss, so fc2 cannot be scaled. 4 + 4 + 1 = 9.
    return perceptron(nn.ReLU(), outputs=3)


@network(
    normal(3),
    normal(2),
    charges=[
        exact(Rescale("first", {"fc1.weight": 0}, {"fc2.weight": 1}), 4),
        exact(Rescale("second", {"fc2.weight": 0}, {"fc3.weight": 1}), 5),
    ],
)
def relu_deep_without_biases():
    # 4 + 5 neurons. Squared error sees the absolute outputs: no translation of fc3. A rescale of fc1 against fc3 past
    # both ReLUs is the sum of all nine and no new one.
    return stack(
        fc1=nn.Linear(3, 4, False), a=nn.ReLU(), fc2=nn.Linear(4, 5, False), b=nn.ReLU(), fc3=nn.Linear(5, 2, False)
    )


@network(
    normal(3),
    integers(3),
    "cross_entropy",
    [hidden("fc1", "fc2", 4), hidden("fc2", "fc3", 4), *classifier("fc3", 4)],
)
def leaky_relu():
    # Leaky ReLU is as homogeneous as ReLU. fc2.bias is incoming to the second rescale only. 4 + 4 + 4 + 1.
    return stack(
        fc1=nn.Linear(3, 4), a=nn.LeakyReLU(0.2), fc2=nn.Linear(4, 4), b=nn.LeakyReLU(0.2), fc3=nn.Linear(4, 3)
    )


@network(normal(3), normal(2), charges=[hidden("fc1", "fc2", 4)])
def prelu():
    # The learned slopes multiply only the negative part: PReLU is homogeneous for every slope, and the slopes do not
    # move. A slope against fc2 is a look-alike: the positive part would have to move too.
    return perceptron(nn.PReLU(4))


@network(normal(3), normal(2), charges=[hidden("fc1", "fc2", 4)])
def absolute_value():
    # |λz| = λ|z| for λ > 0. A neuron's sign is a discrete symmetry.
    return perceptron(Apply(torch.abs))


@network(
    normal(3),
    normal(2),
    charges=[exact(Rescale("groups", {"fc1.weight": (0, 3), "fc1.bias": (0, 3)}, reads("fc2")), 3)],
)
def maxout():
    # A maximum over pairs of channels commutes with a common positive factor only: 3 generators, not 6. A common
    # constant passes through the maximum too, but only fc2.bias could take it back, by W₂c, which is no constant.
    return stack(fc1=nn.Linear(3, 6), max=Apply(lambda h: h.unflatten(-1, (3, 2)).amax(-1)), fc2=nn.Linear(3, 2))


@network(normal(3), integers(3), "cross_entropy", [hidden("fc1", "fc2", 4), *classifier("fc2", 4)])
def dropout():
    # A mask times 1/(1−p) is a factor that does not depend on θ: all of `relu` holds for every realised mask.
    return stack(fc1=nn.Linear(3, 4), act=nn.ReLU(), drop=nn.Dropout(0.3), fc2=nn.Linear(4, 3))


@network(normal(3), integers(3), "cross_entropy", classifier("fc2", 4))
def tanh():
    # Saturating: no rescale. The classifier does not care what comes before it: 4 + 1.
    return perceptron(nn.Tanh(), outputs=3)


@network(normal(3), normal(2))
def tanh_regression():
    return perceptron(nn.Tanh())  # neither: no symmetry at all (a sign flip is discrete)


@network(normal(3), normal(2))
def gelu():
    # Trap: GELU looks like ReLU from afar, but x·Φ(x) has a scale. Nothing.
    return perceptron(nn.GELU())


@network(normal(3), normal(2))
def elu():
    return perceptron(nn.ELU())  # homogeneous on the positive side only


@network(normal(3), normal(2))
def hardtanh():
    return perceptron(nn.Hardtanh())  # piecewise linear, but its kinks at ±1 are at places given


@network(normal(3, size=6), normal(2))
def relu6():
    return perceptron(nn.ReLU6())  # as hardtanh, where inputs are large enough to reach the kink at 6: else it is ReLU


@network(
    normal(3),
    normal(2),
    beyond=[
        Beyond(
            "degree 2",
            4,
            "exponents 1 and −2, a Rescale has ±1",
            lambda p: [
                Field(
                    {
                        "fc1.weight": marked(p["fc1.weight"], (c, 1.0)),
                        "fc1.bias": marked(p["fc1.bias"], (c, 1.0)),
                        "fc2.weight": marked(p["fc2.weight"], (column(c), -2.0)),
                    }
                )
                for c in range(4)
            ],
        )
    ],
)
def relu_squared():
    # Homogeneous of degree 2: λ on the neuron's inputs is undone by λ⁻² on its outputs. ‖θ₁‖² − ½‖θ₂‖² is conserved,
    # ‖θ₁‖² − ‖θ₂‖² is not.
    return perceptron(Apply(lambda h: F.relu(h) ** 2))


@network(
    normal(3),
    normal(2),
    charges=[hidden("fc1", "fc2", 4)],
    matrices=[between(writes("fc1"), reads("fc2"), 16)],
)
def linear_linear():
    # GL(4) acts between the two; its diagonal is 4 rescales, the rest is not diagonal. Shifting fc1.bias by c and
    # fc2.bias by −W₂c is a symmetry whose second part is linear in other parameters: neither diagonal nor constant.
    return perceptron(nn.Identity())


@network(
    normal(3),
    normal(2),
    charges=[
        exact(Rescale("first", {"0.weight": 0}, {"1.weight": 1}), 2),
        exact(Rescale("second", {"1.weight": 0}, {"2.weight": 1}), 3),
    ],
    matrices=[between({"0.weight": 0}, {"1.weight": 1}, 4), between({"1.weight": 0}, {"2.weight": 1}, 9)],
)
def deep_linear():
    # The diagonals of GL(2) and GL(3). All of the first against all of the third is a sum of these.
    return nn.Sequential(nn.Linear(3, 2, False), nn.Linear(2, 3, False), nn.Linear(3, 2, False))


@network(normal(3), normal(2), charges=[hidden("fc1", "fc2", 4)])
def skip_over_the_activation():
    # z + relu(z) is homogeneous in each channel, like a leaky ReLU: the rescale stays.
    return Formula(lambda m, x: m.fc2(torch.relu(m.fc1(x)) + m.fc1(x)), fc1=nn.Linear(3, 4), fc2=nn.Linear(4, 2))


@network(normal(3), normal(2))
def skip_over_tanh():
    # Trap: the skip is homogeneous, the other branch is not, and the sum is what counts.
    return Formula(lambda m, x: m.fc2(torch.tanh(m.fc1(x)) + m.fc1(x)), fc1=nn.Linear(3, 4), fc2=nn.Linear(4, 2))


@network(
    normal(3),
    normal(2),
    charges=[exact(Rescale("fc1, shift-fc2", {**writes("fc1"), "shift": 0}, reads("fc2")), 4)],
)
def shift_after_relu():
    # Trap: the shift is a writer of the channel too; without it the rescale fails.
    return Formula(
        lambda m, x: m.fc2(torch.relu(m.fc1(x)) + m.shift), fc1=nn.Linear(3, 4), shift=parameter(4), fc2=nn.Linear(4, 2)
    )


@network(normal(3), integers(3), "cross_entropy", classifier("fc2", 4))
def frozen_first_layer():
    # The loss as a function of all parameters has the rescale, but fc1 does not move and fc2 alone has no such
    # symmetry: gradient flow conserves nothing there. Only the trained parameters count.
    module = perceptron(nn.ReLU(), outputs=3)
    module.fc1.requires_grad_(False)
    return module


@network(
    normal(3),
    switches(3),
    F.binary_cross_entropy_with_logits,
    [hidden("fc1", "fc2", 4)],
)
def binary_cross_entropy():
    # Trap: a sigmoid for each output, not a softmax over them. No translation.
    return perceptron(nn.ReLU(), outputs=3)


@network(normal(3), normal(3), charges=[hidden("fc1", "fc2", 4), *classifier("fc2", 4)])
def softmax_then_squares():
    # The softmax is inside the network, so the translation holds for every loss.
    return nn.Sequential(
        OrderedDict(fc1=nn.Linear(3, 4), act=nn.ReLU(), fc2=nn.Linear(4, 3), softmax=nn.Softmax(dim=1))
    )


@network(normal(3), normal(3), charges=[hidden("fc1", "fc2", 4)])
def softmax_over_the_batch():
    # Trap: normalised over the batch, so only what is equal for all examples cancels: each bias of fc2 for itself.
    return nn.Sequential(
        OrderedDict(fc1=nn.Linear(3, 4), act=nn.ReLU(), fc2=nn.Linear(4, 3, bias=False), softmax=nn.Softmax(dim=0))
    )


@network(normal(3), normal(3), charges=[hidden("fc1", "fc2", 4), constant_bias("fc2.bias", 3)], dead=3)
def softmax_over_the_batch_with_bias():
    # A bias is equal for all examples and cancels: 3 free coordinates.
    return nn.Sequential(
        OrderedDict(fc1=nn.Linear(3, 4), act=nn.ReLU(), fc2=nn.Linear(4, 3), softmax=nn.Softmax(dim=0))
    )


@network(normal(3), normal(2), charges=classifier("gate", 3))
def softmax_gate():
    # A mixture: softmax(gate x) weighs three linear experts. The gate's logits move by a common constant: 3 columns and
    # the bias. An expert has no other reader to be rescaled against.
    return Formula(
        lambda m, x: (m.gate(x).softmax(-1).unsqueeze(-1) * m.experts(x).unflatten(-1, (3, 2))).sum(1),
        gate=nn.Linear(3, 3),
        experts=nn.Linear(3, 6),
    )


@network(
    normal(3),
    integers(3),
    "cross_entropy",
    classifier("fc", 3),
    [
        Beyond(
            "temperature",
            1,
            "linear in fc, constant in the temperature",
            lambda p: [
                Field(
                    {name: torch.ones_like(p[name]) for name in ("fc.weight", "fc.bias")},
                    {"temperature": -torch.ones(1, dtype=F64)},
                )
            ],
        )
    ],
)
def temperature_as_a_logarithm():
    # eᵗ(Wx + b): W and b times λ, t minus log λ. A constant added to t alone changes the loss. 3 + 1 + 1.
    return Formula(lambda m, x: m.temperature.exp() * m.fc(x), fc=nn.Linear(3, 3), temperature=parameter(1))


@network(
    normal(3),
    normal(2),
    charges=[
        hidden("a", "c", 4),
        exact(Rescale("b-d", {"b.weight": 0, "b.bias": 0}, {"d.weight": 1}), 3),
        exact(Rescale("gain-both", {"gain": None}, writes("a", "b", axis=None)), 1),
    ],
)
def gain_of_two_branches():
    # c(g·relu(a x)) + d(g·relu(b x)): 4 and 3 neurons, and g against both branches. Trap: g against one of them.
    return Formula(
        lambda m, x: m.c(m.gain * torch.relu(m.a(x))) + m.d(m.gain * torch.relu(m.b(x))),
        a=nn.Linear(3, 4),
        b=nn.Linear(3, 3),
        c=nn.Linear(4, 2),
        d=nn.Linear(3, 2, bias=False),
        gain=parameter(1),
    )


@network(
    normal(3),
    normal(2),
    charges=[exact(Rescale("hidden", {"w1": 1, "b1": 0}, {"w2": 1}), 4)],
)
def functional_style():
    # Parameters of the module itself, w1 stored as in × out: its channels are axis 1.
    return Formula(
        lambda m, x: F.linear(F.relu(x @ m.w1 + m.b1), m.w2), w1=parameter(3, 4), b1=parameter(4), w2=parameter(2, 4)
    )


@network(
    normal(3),
    normal(2),
    charges=[exact(Rescale("hidden", {"w1": 1}, {"w2": 0}), 4)],
)
def einsum():
    # Both weights stored as in × out: the first writes by axis 1, the second reads by axis 0.
    return Formula(
        lambda m, x: torch.einsum("bh,ho->bo", torch.einsum("bi,ih->bh", x, m.w1).relu(), m.w2),
        w1=parameter(3, 4),
        w2=parameter(4, 2),
    )


@network(normal(3), normal(2))
def constant_after_relu():
    # Trap: the number 1, which no parameter writes, fixes the scale of each channel.
    return Formula(lambda m, x: m.fc2(torch.relu(m.fc1(x)) + 1), fc1=nn.Linear(3, 4), fc2=nn.Linear(4, 2))


@network(normal(3), normal(2), charges=[exact(Rescale("a, b-c", writes("a", "b"), reads("c")), 4)])
def maximum_of_two():
    # Both arguments of a maximum scale together: 4, not 8.
    return Formula(
        lambda m, x: m.c(torch.maximum(m.a(x), m.b(x))), a=nn.Linear(3, 4), b=nn.Linear(3, 4), c=nn.Linear(4, 2)
    )


@network(
    normal(3),
    normal(2),
    charges=[hidden("a", "c", 4), exact(Scale("a and b", writes("a", "b", axis=None)), 1)],
    matrices=[between(writes("a"), reads("c"), 16)],
)
def ratio():
    # a(x)/‖b(x)‖: exponents of one sign, a scale, though no norm stands behind a: 4 + 1.
    return Formula(
        lambda m, x: m.c(m.a(x) / m.b(x).norm(dim=1, keepdim=True)),
        a=nn.Linear(3, 4),
        b=nn.Linear(3, 4),
        c=nn.Linear(4, 2),
    )


@network(
    normal(3),
    normal(2),
    charges=[
        exact(Rescale("branches-head", writes("a", "b", "c"), reads("head")), 4),
        exact(Translation("mixture", {"mixture": None}), 1),
    ],
)
def softmax_of_parameters():
    # A softmax of parameters themselves: one translation. The branches are added, so they scale together; their biases
    # are added with weights that move, so none can give to another by a constant (unlike `projection_skip`).
    def formula(m, x):
        a, b, c = m.mixture.softmax(0)
        return m.head(torch.relu(a * m.a(x) + b * m.b(x) + c * m.c(x)))

    return Formula(
        formula, a=nn.Linear(3, 4), b=nn.Linear(3, 4), c=nn.Linear(3, 4), head=nn.Linear(4, 2), mixture=parameter(3)
    )


@network(normal(3), normal(2), charges=[exact(Rescale("hidden", {"w1": 0, "b1": 0}, {"w2": 1}), 4)], dead=6)
def masked_weights():
    # Pruned: three entries of w1 never reach the loss, two fields each. They may ride along with their rows.
    mask = torch.ones(4, 3)
    mask[0, 1] = mask[2, 0] = mask[2, 2] = 0
    return Formula(
        lambda m, x: F.linear(torch.relu(F.linear(x, m.w1 * m.mask, m.b1)), m.w2),
        mask=mask,
        w1=parameter(4, 3),
        b1=parameter(4),
        w2=parameter(2, 4),
    )


@network(normal(3), normal(2), charges=[hidden("fc1", "fc2", 4)], dead=6)
def layer_without_use():
    # Three entries of a layer that is never called.
    return Formula(
        lambda m, x: m.fc2(torch.relu(m.fc1(x))), fc1=nn.Linear(3, 4), fc2=nn.Linear(4, 2), unused=nn.Linear(2, 1)
    )


@network(
    normal(3),
    normal(2),
    charges=[exact(Rescale("a-b", {"a.weight": 0}, {"b.weight": 1}), 2)],
    matrices=[between({"a.weight": 0}, {"b.weight": 1}, 4)],
)
def low_rank_update():
    # A frozen layer and a trained product of two small ones: the diagonal of GL(2).
    module = Formula(
        lambda m, x: m.base(x) + m.b(m.a(x)),
        base=nn.Linear(3, 2),
        a=nn.Linear(3, 2, bias=False),
        b=nn.Linear(2, 2, bias=False),
    )
    module.base.requires_grad_(False)
    return module


@network(normal(3), normal(2), charges=[hidden("fc1", "fc2", 4)], finite=False)
def detached_branch():
    # Trap: fc1 is read by fc2 and, without a gradient, by `probe`. Rescaling fc1 against fc2 changes the loss, and yet
    # what autograd calls the gradient is orthogonal to it, so a training conserves the charge. Rescaling fc1 against
    # both leaves the loss, and is no charge.
    return Formula(
        lambda m, x: m.fc2(torch.relu(m.fc1(x))) + m.probe(m.fc1(x).detach()),
        fc1=nn.Linear(3, 4),
        fc2=nn.Linear(4, 2),
        probe=nn.Linear(4, 2, bias=False),
    )


# --- the way from a classifier to its softmax


def weighted_and_smoothed(output, target):
    return F.cross_entropy(output, target, label_smoothing=0.2, weight=output.new_tensor([1.0, 2.0, 0.5]))


@network(
    normal(3),
    integers(3),
    weighted_and_smoothed,
    [hidden("fc1", "fc2", 4), *classifier("fc2", 4)],
)
def smoothed_labels():
    # Smoothing and weights of classes change what log-probabilities are added up, not that they are normalised.
    return perceptron(nn.ReLU(), outputs=3)


@network(normal(3), integers(3), F.nll_loss, [hidden("fc1", "fc2", 4), *classifier("fc2", 4)])
def log_softmax_inside():
    # Cross-entropy in two parts. The negative log-likelihood alone, linear in its input, has no translation.
    return stack(fc1=nn.Linear(3, 4), act=nn.ReLU(), fc2=nn.Linear(4, 3), log=nn.LogSoftmax(dim=1))


@network(normal(3), normal(3), charges=[hidden("fc1", "fc2", 4)])
def sigmoid_then_squares():
    # Trap: probabilities, but each on its own.
    return stack(fc1=nn.Linear(3, 4), act=nn.ReLU(), fc2=nn.Linear(4, 3), sigmoid=nn.Sigmoid())


@network(normal(3), integers(3), "cross_entropy", [hidden("fc1", "fc2", 4)])
def tanh_of_logits():
    # Trap: capped logits. A common constant does not pass through tanh.
    return stack(fc1=nn.Linear(3, 4), act=nn.ReLU(), fc2=nn.Linear(4, 3), cap=nn.Tanh())


@network(normal(4, 3), integers(3), "cross_entropy", [hidden("fc1", "fc2", 4), *classifier("fc2", 4)])
def mean_over_tokens():
    # A mean over tokens keeps what all classes share.
    return Formula(lambda m, x: m.fc2(torch.relu(m.fc1(x))).mean(1), fc1=nn.Linear(3, 4), fc2=nn.Linear(4, 3))


@network(
    normal(4, 3),
    integers(3),
    "cross_entropy",
    [hidden("fc1", "fc2", 4), exact(Translation("fc2 bias", {"fc2.bias": None}), 1)],
)
def maximum_over_tokens():
    # Trap: a vector v added to all rows shifts the logits of a token by v·h, equal for its classes, different for each
    # token. Each class then takes its maximum at a token of its own, and what they gain is no longer common. The bias
    # shifts all tokens alike and stays free.
    return Formula(lambda m, x: m.fc2(torch.relu(m.fc1(x))).amax(1), fc1=nn.Linear(3, 4), fc2=nn.Linear(4, 3))


@network(
    normal(3),
    integers(4),
    "cross_entropy",
    [
        exact(Translation("fc", {"fc.weight": 1}), 3),
        exact(Translation("fc bias", {"fc.bias": None}), 1),
        nearly(Scale("fc", writes("fc", axis=None)), 1),
        exact(Translation("norm bias", {"norm.bias": None}), 1),
    ],
)
def layer_norm_before_softmax():
    # The norm's shift is what stands before the softmax: one translation of β; γ has none (a constant on γ adds the
    # normalised input). fc's mean shift comes from the norm, and would survive without the softmax.
    return stack(fc=nn.Linear(3, 4), norm=nn.LayerNorm(4))


# --- shared weights


def _stream_of_w(name, writers, readers, channels):
    """Channels that `w` both writes and reads: exponent +1 in its row, −1 in its column, 0 where they cross."""
    return Beyond(
        name,
        channels,
        "one matrix writes and reads the channel",
        lambda p: [
            Field(
                {
                    **{key: marked(p[key], (c, 1.0)) for key in writers},
                    **{key: marked(p[key], (column(c), -1.0)) for key in readers},
                    "w.weight": marked(p["w.weight"], (c, 1.0), (column(c), -1.0)),
                }
            )
            for c in range(channels)
        ],
    )


@network(
    normal(3),
    normal(2),
    charges=[exact(Rescale("one against two", {"u.weight": None, "v.weight": None}, {"w.weight": None}), 1)],
    beyond=[_stream_of_w("channels", ["u.weight"], ["v.weight"], 4)],
)
def layer_used_twice():
    # v relu(w relu(w relu(u x))). Factors s, t, r of the three hidden vectors ask of w[o, i] the exponents t_o − s_i
    # and r_o − t_i. Equal for all o and i: s = t + k, r = t − k. 4 generators t, and one k that multiplies u and v and
    # divides w, which counts twice (1 − 2 + 1 = 0). Trap: 4 for each of the three vectors, as if w were not shared.
    return Formula(
        lambda m, x: m.v(torch.relu(m.w(torch.relu(m.w(torch.relu(m.u(x))))))),
        u=nn.Linear(3, 4, False),
        w=nn.Linear(4, 4, False),
        v=nn.Linear(4, 2, False),
    )


@network(
    normal(3),
    normal(2),
    beyond=[_stream_of_w("channels", ["u.weight", "u.bias", "w.bias"], ["v.weight"], 4)],
)
def layer_used_twice_with_bias():
    # The bias of w has to scale as both of its outputs, t = r, so k = 0 and 4 generators remain.
    return Formula(
        lambda m, x: m.v(torch.relu(m.w(torch.relu(m.w(torch.relu(m.u(x))))))),
        u=nn.Linear(3, 4),
        w=nn.Linear(4, 4),
        v=nn.Linear(4, 2),
    )


@network(normal(2, 3), normal(2), charges=[hidden("encoder", "head", 4)])
def siamese():
    # One encoder on two inputs, |difference|: both outputs scale alike.
    def formula(m, x):
        first, second = torch.relu(m.encoder(x[:, 0])), torch.relu(m.encoder(x[:, 1]))
        return m.head((first - second).abs())

    return Formula(formula, encoder=nn.Linear(3, 4), head=nn.Linear(4, 2))


@network(
    normal(2, 3),
    normal(2),
    charges=[
        exact(Rescale("encoder-head", {"encoder.weight": 0}, {"head.weight": 1}), 4),
        constant_bias("encoder.bias", 4),
    ],
    dead=4,
)
def siamese_linear():
    # Without the ReLU the encoder's bias cancels in the difference.
    return Formula(
        lambda m, x: m.head((m.encoder(x[:, 0]) - m.encoder(x[:, 1])).abs()),
        encoder=nn.Linear(3, 4),
        head=nn.Linear(4, 2),
    )


# --- convolutions


@network(
    normal(2, 6, 6, batch=3),
    integers(3, batch=3),
    "cross_entropy",
    [
        hidden("conv1", "conv2", 3),
        exact(Rescale("conv2-fc", writes("conv2"), {"fc.weight": (1, 2)}), 2),
        *classifier("fc", 8),
    ],
)
def convolutions():
    # Max pooling, average pooling and flattening commute with a factor per channel; flattening makes a channel a block
    # of 4 features of fc. Classifier: 8 features and the bias. 3 + 2 + 8 + 1.
    return stack(
        conv1=nn.Conv2d(2, 3, 3, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(3, 2, 2),
        relu2=nn.ReLU(),
        pool2=nn.AvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(8, 3),
    )


@network(
    normal(2, 4, batch=4),
    integers(3, batch=4),
    "cross_entropy",
    [
        constant_bias("conv1.bias", 4),
        nearly(Scale("conv1", {"conv1.weight": 0}), 4),
        hidden("bn1", "conv2", 4),
        nearly(Scale("conv2", {"conv2.weight": 0}), 3),
        exact(Rescale("bn2-fc", writes("bn2"), {"fc.weight": (1, 3)}), 3),
        *classifier("fc", 6),
    ],
    dead=4,
)
def convolutions_with_batch_norm():
    # The mean over batch and positions takes conv1.bias away, the variance the factor of each filter. The weights of
    # conv1 have no translation: a constant on one tap adds a shifted input, which is not constant. γ and β write a
    # channel that conv2 (or, flattened, fc) reads; conv2 stands on both sides, in different axes.
    # Trap: conv1 against conv2 is no new one, conv1 scales alone and conv2's columns go with γ and β.
    return stack(
        conv1=nn.Conv1d(2, 4, 3, padding=1),
        bn1=nn.BatchNorm1d(4),
        relu1=nn.ReLU(),
        conv2=nn.Conv1d(4, 3, 3, padding=1, bias=False),
        bn2=nn.BatchNorm1d(3),
        relu2=nn.ReLU(),
        pool=nn.AvgPool1d(2),
        flatten=nn.Flatten(),
        fc=nn.Linear(6, 3),
    )


@network(
    normal(2, 5, batch=4),
    normal(2, batch=4),
    charges=[
        exact(Rescale("conv-depthwise", writes("conv"), {"depthwise.weight": 0}), 3),
        hidden("depthwise", "pointwise", 3),
    ],
)
def depthwise_convolution():
    # A depthwise filter reads the channel it writes: both by axis 0, its bias is written only. 3 + 3.
    return stack(
        conv=nn.Conv1d(2, 3, 3),
        relu1=nn.ReLU(),
        depthwise=nn.Conv1d(3, 3, 2, groups=3),
        relu2=nn.ReLU(),
        pointwise=nn.Conv1d(3, 2, 1),
        pool=nn.AdaptiveAvgPool1d(1),
        flatten=nn.Flatten(),
    )


@network(
    normal(2, 4, batch=4),
    normal(2, batch=4),
    charges=[exact(Rescale("grouped-fc", writes("grouped"), {"fc.weight": (1, 4)}), 4)],
    beyond=[
        Beyond(
            "conv-grouped",
            4,
            "a channel is read by one group's filters only, at its place within the group",
            lambda p: [
                Field(
                    {
                        "conv.weight": marked(p["conv.weight"], (c, 1.0)),
                        "conv.bias": marked(p["conv.bias"], (c, 1.0)),
                        "grouped.weight": marked(
                            p["grouped.weight"], ((slice(2 * (c // 2), 2 * (c // 2) + 2), c % 2), -1.0)
                        ),
                    }
                )
                for c in range(4)
            ],
        )
    ],
)
def grouped_convolution():
    # Trap: {"grouped.weight": 1} has 2 generators, which mix channels of both groups; there are 4.
    return stack(
        conv=nn.Conv1d(2, 4, 3, padding=1),
        relu1=nn.ReLU(),
        grouped=nn.Conv1d(4, 4, 3, padding=1, groups=2),
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(16, 2),
    )


@network(
    normal(2, 5, batch=4),
    normal(2, 5, batch=4),
    charges=[
        exact(Rescale("conv-up1", writes("conv"), {"up1.weight": 0}), 3),
        exact(Rescale("up1-up2", {"up1.weight": 1, "up1.bias": 0}, {"up2.weight": 0}), 4),
    ],
)
def transposed_convolution():
    # Stored as in × out × taps: a transposed convolution reads by axis 0 and writes by axis 1.
    return stack(
        conv=nn.Conv1d(2, 3, 3),
        relu1=nn.ReLU(),
        up1=nn.ConvTranspose1d(3, 4, 2),
        relu2=nn.ReLU(),
        up2=nn.ConvTranspose1d(4, 2, 2),
    )


@network(
    normal(2, 2, 2, batch=4),
    normal(2, 4, 4, batch=4),
    charges=[exact(Rescale("conv1-conv2", {"conv1.weight": (0, 2), "conv1.bias": (0, 2)}, reads("conv2")), 2)],
)
def pixel_shuffle():
    # Four channels become the pixels of one: they share its factor. 2 generators, not 8.
    return stack(conv1=nn.Conv2d(2, 8, 1), shuffle=nn.PixelShuffle(2), relu=nn.ReLU(), conv2=nn.Conv2d(2, 2, 1))


@network(
    normal(3),
    normal(2),
    beyond=[
        Beyond(
            "first block",
            3,
            "read by part of an axis",
            lambda p: [
                Field(
                    {
                        "fc1.weight": marked(p["fc1.weight"], (c, 1.0)),
                        "fc1.bias": marked(p["fc1.bias"], (c, 1.0)),
                        "fc2.weight": marked(p["fc2.weight"], (column(3 + c), -1.0)),
                        "head.weight": marked(p["head.weight"], (column(3 + c), -1.0)),
                    }
                )
                for c in range(3)
            ],
        ),
        Beyond(
            "second block",
            4,
            "read by part of an axis",
            lambda p: [
                Field(
                    {
                        "fc2.weight": marked(p["fc2.weight"], (c, 1.0)),
                        "fc2.bias": marked(p["fc2.bias"], (c, 1.0)),
                        "head.weight": marked(p["head.weight"], (column(6 + c), -1.0)),
                    }
                )
                for c in range(4)
            ],
        ),
    ],
)
def concatenation():
    # Dense blocks: [x, h₁, h₂]. The columns that read x itself cannot move.
    def formula(m, x):
        x = torch.cat([x, torch.relu(m.fc1(x))], 1)
        return m.head(torch.cat([x, torch.relu(m.fc2(x))], 1))

    return Formula(formula, fc1=nn.Linear(3, 3), fc2=nn.Linear(6, 4), head=nn.Linear(10, 2))


# --- normalisation


def normed(norm, activation=None, *, bias=True, width=4):
    return stack(fc1=nn.Linear(3, width, bias), norm=norm, act=activation or nn.ReLU(), fc2=nn.Linear(width, 2))


@network(normal(3), normal(2), charges=[nearly(Scale("fc1", {"fc1.weight": 0}), 4)])
def batch_norm_without_affine():
    # Each row of fc1 scales by itself. Trap: fc1 against fc2, as if there were no norm: fc2 cannot move.
    return normed(nn.BatchNorm1d(4, affine=False), bias=False)


@network(
    normal(3),
    normal(2),
    charges=[
        nearly(Scale("fc1", writes("fc1")), 4),
        exact(Rescale("norm-fc2", writes("norm"), reads("fc2")), 4),
    ],
)
def batch_norm_after_relu():
    # Trap: a ReLU between bias and batch norm. The bias is not free, and the scale takes it along.
    return stack(fc1=nn.Linear(3, 4), act=nn.ReLU(), norm=nn.BatchNorm1d(4), fc2=nn.Linear(4, 2))


@network(normal(3), normal(2), charges=[nearly(Scale("fc1", {"fc1.weight": 0}), 4)])
def bias_after_batch_norm():
    # Trap: this bias comes after the norm and matters; without a γ that scales with it there is no rescale either.
    return Formula(
        lambda m, x: m.fc2(torch.relu(m.norm(m.fc1(x)) + m.shift)),
        fc1=nn.Linear(3, 4, False),
        norm=nn.BatchNorm1d(4, affine=False),
        shift=parameter(4),
        fc2=nn.Linear(4, 2),
    )


@network(
    normal(3),
    normal(2),
    charges=[
        constant_bias("fc1.bias", 4),
        constant_bias("bn1.bias", 4),
        nearly(Scale("fc1", {"fc1.weight": 0}), 4),
        nearly(Scale("bn1", {"bn1.weight": 0}), 4),
        hidden("bn2", "fc2", 4),
    ],
    dead=8,
    nearly_dead=4,
)
def batch_norm_twice():
    # The second norm makes γ₁ scale free and β₁ irrelevant: a norm's own parameters are weights before a norm.
    # A scale of one entry says that its gradient is zero, so γ₁ has its second field as well (until it changes sign),
    # up to ε. The first norm's ε breaks the scale of fc1 by a factor of its output alone, which the second forgets but
    # for its own ε: 1e-5 twice, 1e-10 in all.
    return stack(fc1=nn.Linear(3, 4), bn1=nn.BatchNorm1d(4), bn2=nn.BatchNorm1d(4), act=nn.ReLU(), fc2=nn.Linear(4, 2))


def evaluated(bias, mean):
    """A batch norm in evaluation mode: an affine map with fixed statistics."""
    module = normed(nn.BatchNorm1d(4), bias=bias)
    if mean:
        module.norm.running_mean.copy_(torch.tensor([0.5, -0.3, 0.8, -1.1]))
    module.norm.running_var.copy_(torch.tensor([0.5, 1.3, 0.8, 1.1]))
    return module.eval()


@network(normal(3), normal(2), charges=[hidden("norm", "fc2", 4)])
def batch_norm_in_evaluation():
    # γ(Wx − μ)/σ + β with μ, σ fixed: W cannot scale alone, and against γ only if −γμ/σ moved along, which β could do
    # only by an amount linear in γ. γ and β against fc2 remains.
    return evaluated(bias=False, mean=True)


@network(
    normal(3),
    normal(2),
    charges=[exact(Rescale("fc1-norm", {"fc1.weight": 0}, {"norm.weight": 0}), 4), hidden("norm", "fc2", 4)],
)
def batch_norm_in_evaluation_of_mean_zero():
    # With μ = 0, as in a network that never trained, γ multiplies Wx: a rescale that depends on a buffer's value.
    return evaluated(bias=False, mean=False)


@network(
    normal(3),
    normal(2),
    charges=[hidden("norm", "fc2", 4)],
    beyond=[
        Beyond(
            "fc1-norm about the running mean",
            4,
            "the bias scales about μ, not about 0: linear and constant at once",
            lambda p: [
                Field(
                    {
                        "fc1.weight": marked(p["fc1.weight"], (c, 1.0)),
                        "fc1.bias": marked(p["fc1.bias"], (c, 1.0)),
                        "norm.weight": marked(p["norm.weight"], (c, -1.0)),
                    },
                    {"fc1.bias": marked(p["fc1.bias"], (c, -mean))},
                )
                for c, mean in enumerate(torch.tensor([0.5, -0.3, 0.8, -1.1]).tolist())
            ],
        )
    ],
)
def batch_norm_in_evaluation_with_bias():
    # γ(Wx + b − μ)/σ + β: W and b − μ times λ, γ divided by it.
    return evaluated(bias=True, mean=True)


@network(
    normal(2, 5, batch=3),
    normal(2, batch=3),
    charges=[constant_bias("conv.bias", 4), nearly(Scale("conv", {"conv.weight": 0}), 4)],
    dead=4,
)
def instance_norm():
    # As batch norm, per example. No affine part (torch's default): fc has nothing to be rescaled against.
    return stack(
        conv=nn.Conv1d(2, 4, 3), norm=nn.InstanceNorm1d(4), act=nn.ReLU(), flatten=nn.Flatten(), fc=nn.Linear(12, 2)
    )


@network(
    normal(2, 5, batch=3),
    normal(2, batch=3),
    charges=[
        nearly(Scale("conv", {"conv.weight": (0, 2), "conv.bias": (0, 2)}), 2),
        exact(Translation("conv bias", {"conv.bias": (0, 2)}), 2),
        exact(Rescale("norm-fc", writes("norm"), {"fc.weight": (1, 4)}), 4),
    ],
)
def group_norm():
    # Two groups of two channels, normalised over channels and positions: one factor and one constant per group, the
    # bias within the scale. Trap: the same map added to both channels of a group varies over positions and stays, so
    # the weights have no translation (without positions they do: `group_norm_of_vectors`).
    return stack(
        conv=nn.Conv1d(2, 4, 3), norm=nn.GroupNorm(2, 4), act=nn.ReLU(), flatten=nn.Flatten(), fc=nn.Linear(12, 2)
    )


@network(
    normal(3),
    normal(2),
    charges=[
        nearly(Scale("fc1", {"fc1.weight": (0, 2), "fc1.bias": (0, 2)}), 2),
        exact(Translation("fc1 bias", {"fc1.bias": (0, 2)}), 2),
        exact(Rescale("norm-fc2", writes("norm"), reads("fc2")), 8),
    ],
    beyond=[
        Beyond(
            "means of the groups",
            6,
            "one per group and input: two axes count the generators",
            lambda p: [
                Field(constant={"fc1.weight": marked(p["fc1.weight"], ((slice(4 * group, 4 * group + 4), i), 1.0))})
                for group in range(2)
                for i in range(3)
            ],
        )
    ],
)
def group_norm_of_vectors():
    # Layer norm of each half: its four rows of fc1 may gain the same vector. 2 groups × 3 inputs.
    return normed(nn.GroupNorm(2, 8), width=8)


LAYER_NORMED = (
    exact(Translation("fc1", {"fc1.weight": 1}), 3),
    exact(Translation("fc1 bias", {"fc1.bias": None}), 1),
    nearly(Scale("fc1", {"fc1.weight": None, "fc1.bias": None}), 1),
)


@network(normal(3), normal(2), charges=[*LAYER_NORMED, hidden("norm", "fc2", 4)])
def layer_norm():
    # The mean over channels takes a vector common to all rows (3 inputs and the bias), the variance one factor for
    # weight and bias together. Trap: a scale of each row, as under batch norm.
    return normed(nn.LayerNorm(4))


@network(normal(3), normal(2), charges=LAYER_NORMED)
def bias_after_layer_norm():
    # Trap: no γ; the shift after the norm neither is free nor can be rescaled, GELU would not let it anyway.
    return Formula(
        lambda m, x: m.fc2(F.gelu(m.norm(m.fc1(x)) + m.shift)),
        fc1=nn.Linear(3, 4),
        norm=nn.LayerNorm(4, elementwise_affine=False),
        shift=parameter(4),
        fc2=nn.Linear(4, 2),
    )


@network(
    normal(3),
    normal(2),
    charges=[
        nearly(Scale("fc1", {"fc1.weight": None, "fc1.bias": None}), 1),
        exact(Rescale("norm-fc2", {"norm.weight": 0}, reads("fc2")), 4),
    ],
)
def rms_norm():
    # No mean is subtracted, so no translation (the look-alike of layer norm); there is no shift to scale with γ.
    # torch's default ε here is that of the dtype, 2e-16, which would break nothing visible.
    return normed(nn.RMSNorm(4, eps=1e-5))


@network(
    normal(3),
    normal(2),
    charges=[
        exact(Scale("direction", {"fc1.parametrizations.weight.original1": 0}), 4),
        exact(Rescale("length-fc2", {"fc1.parametrizations.weight.original0": 0, "fc1.bias": 0}, {"fc2.weight": 1}), 4),
    ],
    batched=False,
)
def weight_norm_then_linear():
    # g v/‖v‖ by rows: each v scales freely (no ε: exact), and g with the bias is what writes the neuron.
    return stack(fc1=weight_norm(nn.Linear(3, 4)), act=nn.ReLU(), fc2=nn.Linear(4, 2))


@network(
    normal(3),
    normal(2),
    charges=[
        exact(Scale("first", {"fc1.parametrizations.weight.original1": 0}), 4),
        exact(Scale("second", {"fc2.parametrizations.weight.original1": 0}), 2),
        exact(
            Rescale(
                "lengths",
                {"fc1.parametrizations.weight.original0": None, "fc1.bias": None},
                {"fc2.parametrizations.weight.original0": None},
            ),
            1,
        ),
    ],
    batched=False,
)
def weight_norm_twice():
    # Trap: a column of the second v changes the lengths of all its rows, so nothing reads one neuron homogeneously.
    # All neurons together are read by the lengths g of the second layer: one factor for all of g₁ and b₁ against all
    # of g₂. A first count by neurons missed it.
    return stack(fc1=weight_norm(nn.Linear(3, 4)), act=nn.ReLU(), fc2=weight_norm(nn.Linear(4, 2)))


class Standardised(nn.Module):
    """Rows of the weight with mean 0 and variance 1."""

    def __init__(self):
        super().__init__()
        self.w, self.head, self.eps = parameter(4, 3), nn.Linear(4, 2), 1e-5

    def forward(self, x):
        centred = self.w - self.w.mean(1, keepdim=True)
        return self.head(torch.tanh(F.linear(x, centred / (centred.square().mean(1, keepdim=True) + self.eps).sqrt())))


@network(
    normal(3),
    normal(2),
    charges=[exact(Translation("w", {"w": 0}), 4), nearly(Scale("w", {"w": 0}), 4)],
)
def standardised_weights():
    # The mean is over the inputs of each row, so the translation is per row (under layer norm: per column).
    return Standardised()


@network(
    normal(3),
    integers(3),
    "cross_entropy",
    [
        exact(Scale("prototypes", {"prototypes": 0}), 3),
        exact(Scale("fc", {"fc.weight": None, "fc.bias": None}), 1),
    ],
)
def cosine_classifier():
    # Both sides divided by their length; F.normalize clamps it by 1e-12 and adds no ε: exact. Trap: the last layer
    # before a softmax, but no translation, a common vector changes the lengths.
    return Formula(
        lambda m, x: 5 * F.linear(F.normalize(m.fc(x), dim=1), F.normalize(m.prototypes, dim=1)),
        fc=nn.Linear(3, 4),
        prototypes=parameter(3, 4),
    )


@network(
    normal(3),
    normal(2),
    charges=[exact(Translation("fc1", {"fc1.weight": 1}), 3), exact(Translation("fc1 bias", {"fc1.bias": None}), 1)],
)
def mean_subtracted_by_hand():
    # Half of a layer norm: translations and no scale.
    return Formula(
        lambda m, x: m.fc2(torch.tanh(m.fc1(x) - m.fc1(x).mean(1, keepdim=True))),
        fc1=nn.Linear(3, 4),
        fc2=nn.Linear(4, 2),
    )


@network(
    normal(3),
    normal(2),
    charges=[constant_bias("fc1.bias", 4), exact(Scale("fc1", {"fc1.weight": 0}), 4)],
    dead=4,
)
def batch_standardised_by_hand():
    # Batch norm without ε: exact.
    def formula(m, x):
        h = m.fc1(x)
        return m.fc2(torch.tanh((h - h.mean(0)) / h.std(0)))

    return Formula(formula, fc1=nn.Linear(3, 4), fc2=nn.Linear(4, 2))


@network(
    normal(3),
    normal(2),
    charges=[
        nearly(Scale("fc1", {"fc1.weight": 0}), 4),
        exact(Rescale("norm, shift-fc2", {**writes("norm"), "shift": 0}, reads("fc2")), 4),
    ],
    beyond=[opposite("norm.bias", "shift", 4)],
)
def shift_after_batch_norm_with_affine():
    # With γ and β before it the shift is one more writer, and a second β: they trade.
    return Formula(
        lambda m, x: m.fc2(torch.relu(m.norm(m.fc1(x)) + m.shift)),
        fc1=nn.Linear(3, 4, False),
        norm=nn.BatchNorm1d(4),
        shift=parameter(4),
        fc2=nn.Linear(4, 2),
    )


# --- residual networks


STREAM = exact(Rescale("stream", writes("stem", "fc2"), reads("fc1", "head")), 4)


def residual(formula, **more):
    return Formula(
        formula, stem=nn.Linear(3, 4), fc1=nn.Linear(4, 5), fc2=nn.Linear(5, 4), head=nn.Linear(4, 2), **more
    )


@network(
    normal(3),
    normal(2),
    charges=[hidden("fc1", "fc2", 5), STREAM],
    matrices=[between(writes("stem", "fc2"), reads("fc1", "head"), 16)],
)
def residual_block():
    # 5 neurons inside the block. A channel of the stream is written by stem and fc2, biases included, and read by fc1
    # and head: 4. Trap: stem against fc1 alone, which forgets the skip.
    def formula(m, x):
        h = m.stem(x)
        return m.head(h + m.fc2(torch.relu(m.fc1(h))))

    return residual(formula)


@network(normal(3), normal(2), charges=[hidden("fc1", "fc2", 5)])
def residual_block_on_tanh():
    # Trap: the stream starts at a tanh, which fixes its scale for all later writers. The block's neurons remain.
    def formula(m, x):
        h = torch.tanh(m.stem(x))
        return m.head(h + m.fc2(torch.relu(m.fc1(h))))

    return residual(formula)


@network(normal(3), normal(2), charges=[hidden("fc1", "fc2", 5)])
def residual_block_on_the_input():
    # Trap: the stream starts at the data.
    return Formula(
        lambda m, x: m.head(x + m.fc2(torch.relu(m.fc1(x)))),
        fc1=nn.Linear(3, 5),
        fc2=nn.Linear(5, 3),
        head=nn.Linear(3, 2),
    )


@network(
    normal(3),
    normal(2),
    beyond=[_stream_of_w("stream", ["stem.weight", "stem.bias", "w.bias"], ["head.weight"], 4)],
)
def residual_block_of_one_layer():
    # h + relu(w h): the block has no inner neuron and w stands on both sides of the stream.
    return Formula(
        lambda m, x: m.head(m.stem(x) + torch.relu(m.w(m.stem(x)))),
        stem=nn.Linear(3, 4),
        w=nn.Linear(4, 4),
        head=nn.Linear(4, 2),
    )


@network(
    normal(3),
    normal(2),
    charges=[
        hidden("fc1", "fc2", 4),
        exact(Rescale("sum-head", writes("fc2", "projection"), reads("head")), 5),
    ],
    beyond=[opposite("fc2.bias", "projection.bias", 5)],
)
def projection_skip():
    # Both writers of the sum scale together; their biases only enter as a sum, one may give to the other.
    return Formula(
        lambda m, x: m.head(torch.relu(m.fc2(torch.relu(m.fc1(x))) + m.projection(x))),
        fc1=nn.Linear(3, 4),
        fc2=nn.Linear(4, 5),
        projection=nn.Linear(3, 5),
        head=nn.Linear(5, 2),
    )


@network(
    normal(3),
    normal(2),
    charges=[
        hidden("fc1", "fc2", 5),
        STREAM,
        exact(Rescale("gain-fc2", {"gain": None}, writes("fc2", axis=None)), 1),
    ],
    matrices=[between(writes("stem", "fc2"), reads("fc1", "head"), 16)],
)
def residual_gain():
    # h + g·fc2(…): one number against the whole of fc2.
    def formula(m, x):
        h = m.stem(x)
        return m.head(h + m.gain * m.fc2(torch.relu(m.fc1(h))))

    return residual(formula, gain=parameter(1))


@network(
    normal(3),
    normal(2),
    charges=[
        hidden("fc1", "fc2", 5),
        exact(Rescale("stream", {**writes("stem"), "gain": 0}, reads("fc1", "head")), 4),
        exact(Rescale("gain-fc2", {"gain": 0}, writes("fc2")), 4),
    ],
)
def residual_gain_per_channel():
    # The gain of a channel is its writer; against fc2 it is a rescale of its own.
    def formula(m, x):
        h = m.stem(x)
        return m.head(h + m.gain * m.fc2(torch.relu(m.fc1(h))))

    return residual(formula, gain=parameter(4))


@network(
    normal(1, 4, batch=4),
    integers(3, batch=4),
    "cross_entropy",
    [
        nearly(Scale("stem", {"stem.weight": 0}), 3),
        nearly(Scale("conv1", {"conv1.weight": 0}), 4),
        nearly(Scale("conv2", {"conv2.weight": 0}), 3),
        hidden("bn1", "conv2", 4),
        exact(Rescale("stream", writes("bn0", "bn2"), reads("conv1", "fc")), 3),
        *classifier("fc", 3),
    ],
)
def residual_batch_norm():
    # The stream is written by norms: γ and β of both against conv1 and fc.
    def formula(m, x):
        h = torch.relu(m.bn0(m.stem(x)))
        h = torch.relu(h + m.bn2(m.conv2(torch.relu(m.bn1(m.conv1(h))))))
        return m.fc(h.mean(-1))

    return Formula(
        formula,
        stem=nn.Conv1d(1, 3, 3, padding=1, bias=False),
        bn0=nn.BatchNorm1d(3),
        conv1=nn.Conv1d(3, 4, 3, padding=1, bias=False),
        bn1=nn.BatchNorm1d(4),
        conv2=nn.Conv1d(4, 3, 3, padding=1, bias=False),
        bn2=nn.BatchNorm1d(3),
        fc=nn.Linear(3, 3),
    )


@network(
    normal(3),
    normal(2),
    charges=[
        exact(Translation("stem", {"stem.weight": 1}), 3),
        exact(Translation("stem bias", {"stem.bias": None}), 1),
        nearly(Scale("stem", writes("stem", axis=None)), 1),
        nearly(Rescale("stream-fc1", writes("norm1", "fc2", axis=None), {"fc1.weight": None}), 1),
        exact(Translation("fc2", {"fc2.weight": 1}), 5),
        exact(Translation("fc2 bias", {"fc2.bias": None}), 1),
        hidden("norm2", "head", 4),
    ],
)
def post_norm_block():
    # n = norm1(stem x); head(norm2(n + fc2(gelu(fc1 n)))). The stream between the norms has one common factor, written
    # by γ₁, β₁ and fc2, read by fc1 and forgotten by norm2. fc2 may add a constant to all channels; β₁ may not (trap),
    # fc1 reads it. γ₁ and β₁ per channel against fc1 fails at the skip.
    def formula(m, x):
        h = m.norm1(m.stem(x))
        return m.head(m.norm2(h + m.fc2(F.gelu(m.fc1(h)))))

    return residual(formula, norm1=nn.LayerNorm(4), norm2=nn.LayerNorm(4))


# --- gates


@network(normal(3), normal(2), charges=[hidden("up", "down", 4)])
def swiglu():
    # silu(gate)·up: linear in up, not homogeneous in gate.
    return Formula(
        lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)), gate=nn.Linear(3, 4), up=nn.Linear(3, 4), down=nn.Linear(4, 2)
    )


@network(
    normal(3),
    normal(2),
    beyond=[
        Beyond(
            "values-down",
            4,
            "half of an axis of the packed layer",
            lambda p: [
                Field(
                    {
                        "packed.weight": marked(p["packed.weight"], (c, 1.0)),
                        "packed.bias": marked(p["packed.bias"], (c, 1.0)),
                        "down.weight": marked(p["down.weight"], (column(c), -1.0)),
                    }
                )
                for c in range(4)
            ],
        )
    ],
)
def glu():
    # torch's glu: the first half times the sigmoid of the second; the second has no symmetry.
    return stack(packed=nn.Linear(3, 8), glu=nn.GLU(), down=nn.Linear(4, 2))


@network(
    normal(3),
    normal(2),
    charges=[exact(Rescale("a-b", writes("a"), writes("b")), 4), hidden("a", "c", 4)],
)
def product_of_two():
    # c(a(x)·relu(b(x))): factors s, t and −s−t: two generators per neuron.
    return Formula(
        lambda m, x: m.c(m.a(x) * torch.relu(m.b(x))), a=nn.Linear(3, 4), b=nn.Linear(3, 4), c=nn.Linear(4, 2)
    )


# --- embeddings and recurrent networks


@network(
    integers(5, 3),
    integers(3),
    "cross_entropy",
    [exact(Rescale("embedding-fc", {"embedding.weight": 1}, {"fc.weight": 1}), 4), *classifier("fc", 4)],
)
def embedding():
    # A table is read by rows: its channels are axis 1.
    return Formula(
        lambda m, x: m.fc(torch.relu(m.embedding(x)).sum(1)), embedding=nn.Embedding(5, 4), fc=nn.Linear(4, 3)
    )


@network(
    integers(5, 3),
    normal(2),
    beyond=[opposite("token.weight", "position.weight", 4, index=column)],
)
def token_and_position():
    # Every input adds one row of each table, so a vector added to all rows of one is taken from all rows of the other.
    return Formula(
        lambda m, x: m.fc(torch.tanh(m.token(x) + m.position.weight).sum(1)),
        token=nn.Embedding(5, 4),
        position=nn.Embedding(3, 4),
        fc=nn.Linear(4, 2),
    )


@network(
    normal(3, 2),
    normal(2),
    beyond=[
        opposite("rnn.bias_ih_l0", "rnn.bias_hh_l0", 4),
        Beyond(
            "neurons",
            4,
            "the recurrent matrix writes and reads the channel",
            lambda p: [
                Field(
                    {
                        **{
                            f"rnn.{key}_l0": marked(p[f"rnn.{key}_l0"], (c, 1.0))
                            for key in ("weight_ih", "bias_ih", "bias_hh")
                        },
                        "rnn.weight_hh_l0": marked(p["rnn.weight_hh_l0"], (c, 1.0), (column(c), -1.0)),
                        "head.weight": marked(p["head.weight"], (column(c), -1.0)),
                    }
                )
                for c in range(4)
            ],
        ),
    ],
    batched=False,
)
def recurrent_relu():
    # A neuron is written by its rows and both biases, read by a column of the recurrent matrix and of head: 4. The two
    # biases are added: 4 more. A factor per time step, as in `layer_used_twice`, is ruled out by inputs at every step.
    return Formula(
        lambda m, x: m.head(m.rnn(x)[0][:, -1]),
        rnn=nn.RNN(2, 4, nonlinearity="relu", batch_first=True),
        head=nn.Linear(4, 2),
    )


@network(
    normal(3, 2),
    normal(2),
    beyond=[opposite("rnn.bias_ih_l0", "rnn.bias_hh_l0", 6)],
    batched=False,
)
def gated_recurrent():
    # The two biases of the reset and the update gate are added (2 × 3); of the candidate's, one is multiplied by the
    # reset gate first: trap, 6 and not 9.
    return Formula(lambda m, x: m.head(m.rnn(x)[0][:, -1]), rnn=nn.GRU(2, 3, batch_first=True), head=nn.Linear(3, 2))


# --- attention

KEY_QUERY = exact(Rescale("q-k", writes("q"), writes("k")), 4)
VALUE_OUTPUT = exact(Rescale("v-o", writes("v"), reads("o")), 4)
TOKENS = {"inputs": normal(4, 3, batch=3), "targets": normal(4, 2, batch=3)}


def heads(x, n):
    return x.unflatten(-1, (n, -1)).transpose(-3, -2)


def attend(attention, n=1):
    """Linear q, k, v and o around a function of the three."""

    def formula(m, x):
        mixed = attention(heads(m.q(x), n), heads(m.k(x), n), heads(m.v(x), n))
        return m.o(mixed.transpose(-3, -2).flatten(-2))

    return Formula(formula, q=nn.Linear(3, 4), k=nn.Linear(3, 4), v=nn.Linear(3, 4), o=nn.Linear(4, 2))


@network(
    **TOKENS,
    charges=[KEY_QUERY, VALUE_OUTPUT, constant_bias("k.bias", 4)],
    dead=4,
    matrices=[
        between(writes("q", axis=(0, 2)), writes("k", axis=(0, 2)), 8),
        between(writes("v", axis=(0, 2)), {"o.weight": (1, 2)}, 8),
    ],
)
def attention():
    # Scores are Σ q_i k_i within a head: each of 4 coordinates rescales q against k (GL(2) per head, of which this is
    # the diagonal). b_k adds q·b_k to all keys of a query, which softmax forgets. b_q does not cancel: it weighs keys.
    # b_v adds W_o b_v to every output, as weights sum to 1, and could trade with b_o only by amounts linear in W_o.
    return attend(F.scaled_dot_product_attention, n=2)


@network(
    **TOKENS,
    charges=[KEY_QUERY, VALUE_OUTPUT, constant_bias("k.bias", 4)],
    dead=4,
    matrices=[between(writes("q"), writes("k"), 16), between(writes("v"), reads("o"), 16)],
)
def causal_attention_written_out():
    # As `attention`, one head of 4. The mask hides keys, the others still share q·b_k.

    def mix(q, k, v):
        scores = q @ k.transpose(-2, -1) / 2
        scores = scores.masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), -torch.inf)
        return scores.softmax(-1) @ v

    return attend(mix)


@network(
    **TOKENS,
    charges=[KEY_QUERY, VALUE_OUTPUT, constant_bias("q.bias", 4)],
    dead=4,
    matrices=[between(writes("q"), writes("k"), 16), between(writes("v"), reads("o"), 16)],
)
def attention_over_the_wrong_axis():
    # Trap: normalised over the queries, it is the query's bias that cancels, and the key's stays.
    return attend(lambda q, k, v: (q @ k.transpose(-2, -1)).softmax(-2) @ v)


@network(
    **TOKENS,
    charges=[
        KEY_QUERY,
        VALUE_OUTPUT,
        exact(Rescale("q-o", writes("q", axis=None), {"o.weight": None}), 1),
    ],
    matrices=[between(writes("q"), writes("k"), 16), between(writes("v"), reads("o"), 16)],
)
def attention_without_softmax():
    # Scores are homogeneous now: all of q against all of o, one more. The key bias does not cancel.
    return attend(lambda q, k, v: q @ k.transpose(-2, -1) @ v / 4)


def rotate(x, angles, halves):
    """Turn pairs of coordinates, neighbours or (i, i + half), by angles that grow with the position."""
    turn = torch.arange(x.shape[-2], dtype=x.dtype).unsqueeze(1) * angles.to(x.dtype)
    first, second = x.chunk(2, -1) if halves else (x[..., ::2], x[..., 1::2])
    turned = first * turn.cos() - second * turn.sin(), first * turn.sin() + second * turn.cos()
    return torch.cat(turned, -1) if halves else torch.stack(turned, -1).flatten(-2)


def rotary(halves):
    angles = torch.tensor([1.0, 0.3])
    return attend(
        lambda q, k, v: F.scaled_dot_product_attention(rotate(q, angles, halves), rotate(k, angles, halves), v)
    )


PAIRS = ("q.weight", "q.bias"), ("k.weight", "k.bias")


def complex_numbers(*planes):
    """What commutes with the rotations of some planes by angles that differ."""
    return [element for i, j in planes for element in ([(i, i, 1), (j, j, 1)], [(i, j, 1), (j, i, -1)])]


@network(
    **TOKENS,
    charges=[
        exact(Rescale("q-k", *(dict.fromkeys(side, (0, 2)) for side in PAIRS)), 2),
        VALUE_OUTPUT,
    ],
    matrices=[
        between(writes("q"), writes("k"), 4, basis=complex_numbers((0, 1), (2, 3))),
        between(writes("v"), reads("o"), 16),
    ],
)
def rotary_attention():
    # A rotation mixes two coordinates: they share a factor, 2 generators and not 4. It turns the key bias by the key's
    # position, so its scores differ from key to key: not free. Of all matrices between q and k the complex numbers of
    # each plane commute with it.
    return rotary(halves=False)


@network(
    **TOKENS,
    charges=[VALUE_OUTPUT],
    beyond=[
        Beyond(
            "q-k",
            2,
            "the pairs are not contiguous",
            lambda p: [
                Field(
                    {
                        name: marked(p[name], (c, s), (c + 2, s))
                        for side, s in zip(PAIRS, (1.0, -1.0), strict=True)
                        for name in side
                    }
                )
                for c in range(2)
            ],
        )
    ],
    matrices=[
        between(writes("q"), writes("k"), 4, basis=complex_numbers((0, 2), (1, 3))),
        between(writes("v"), reads("o"), 16),
    ],
)
def rotary_attention_by_halves():
    # The same with pairs (i, i + 2). Trap: (0, 2) as for neighbours is no symmetry here.
    return rotary(halves=True)


@network(
    **TOKENS,
    charges=[constant_bias("k.bias", 2)],
    beyond=[
        Beyond(
            "q-k",
            2,
            "a key coordinate meets one query coordinate of each head",
            lambda p: [
                Field(
                    {
                        **{f"q.{key}": marked(p[f"q.{key}"], (c, 1.0), (c + 2, 1.0)) for key in ("weight", "bias")},
                        **{f"k.{key}": marked(p[f"k.{key}"], (c, -1.0)) for key in ("weight", "bias")},
                    }
                )
                for c in range(2)
            ],
        ),
        Beyond(
            "v-o",
            2,
            "a value coordinate is read at one place of each head",
            lambda p: [
                Field(
                    {
                        **{f"v.{key}": marked(p[f"v.{key}"], (c, 1.0)) for key in ("weight", "bias")},
                        "o.weight": marked(p["o.weight"], (column(c), -1.0), (column(c + 2), -1.0)),
                    }
                )
                for c in range(2)
            ],
        ),
    ],
    dead=2,
    matrices=[between(writes("k"), writes("q"), 4), between(writes("v"), reads("o"), 4)],
)
def multi_query_attention():
    # Two heads of queries, one of keys and values: 2 + 2 and the key bias, 2.
    def formula(m, x):
        k, v = m.k(x).unsqueeze(1), m.v(x).unsqueeze(1)
        mixed = (heads(m.q(x), 2) @ k.transpose(-2, -1)).softmax(-1) @ v
        return m.o(mixed.transpose(-3, -2).flatten(-2))

    return Formula(formula, q=nn.Linear(3, 4), k=nn.Linear(3, 2), v=nn.Linear(3, 2), o=nn.Linear(4, 2))


def _packed(p, c):
    weight, bias, out = (p[f"attention.{name}"] for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight"))
    names = "attention.in_proj_weight", "attention.in_proj_bias"
    return (
        Field({name: marked(x, (c, 1.0), (4 + c, -1.0)) for name, x in zip(names, (weight, bias), strict=True)}),
        Field(constant={names[1]: marked(bias, (4 + c, 1.0))}),
        Field(
            {
                **{name: marked(x, (8 + c, 1.0)) for name, x in zip(names, (weight, bias), strict=True)},
                "attention.out_proj.weight": marked(out, (column(c), -1.0)),
            }
        ),
    )


@network(
    normal(4, 4, batch=3),
    normal(4, 4, batch=3),
    beyond=[
        Beyond(name, 4, "q, k and v are thirds of one tensor", lambda p, i=i: [_packed(p, c)[i] for c in range(4)])
        for i, name in enumerate(("q-k", "key bias", "v-o"))
    ],
    dead=4,
    matrices=[
        between(
            {f"attention.in_proj_{part}": (0, ((0, 1), (2, 3))) for part in ("weight", "bias")},
            {f"attention.in_proj_{part}": (0, ((4, 5), (6, 7))) for part in ("weight", "bias")},
            8,
        ),
        between(
            {f"attention.in_proj_{part}": (0, ((8, 9), (10, 11))) for part in ("weight", "bias")},
            {"attention.out_proj.weight": (1, 2)},
            8,
        ),
    ],
)
def packed_attention():
    # nn.MultiheadAttention: as `attention`, q on rows 0–3, k on rows 4–7 and v on rows 8–11 of in_proj.
    return Formula(
        lambda m, x: m.attention(x, x, x, need_weights=False)[0],
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
    )


@network(
    normal(4, 3, batch=5),
    normal(2, batch=5),
    charges=[hidden("v", "head", 4), constant_bias("score.bias", 1)],
    dead=1,
    matrices=[between(writes("v"), reads("head"), 16)],
)
def attention_pooling():
    # Softmax over the tokens of one score each: its bias cancels (one entry), its weights have no symmetry.
    return Formula(
        lambda m, x: m.head((m.score(x).softmax(1) * m.v(x)).sum(1)),
        score=nn.Linear(3, 1),
        v=nn.Linear(3, 4),
        head=nn.Linear(4, 2),
    )


@network(
    **TOKENS,
    charges=[exact(Rescale("k-q, o", writes("k"), {**writes("q"), **reads("o")}), 4)],
    matrices=[between(writes("k"), {**writes("q"), **reads("o")}, 16)],
)
def attention_with_keys_as_values():
    # Trap: k also writes what o reads, so q and o take its factor back together; its bias is a value and not free.
    return Formula(
        lambda m, x: m.o(F.scaled_dot_product_attention(m.q(x), m.k(x), m.k(x))),
        q=nn.Linear(3, 4),
        k=nn.Linear(3, 4),
        o=nn.Linear(4, 2),
    )


@network(
    **TOKENS,
    charges=[
        nearly(Scale("q", writes("q", axis=None)), 1),
        nearly(Scale("k", writes("k", axis=None)), 1),
        exact(Rescale("norms", {"query_norm.weight": 0}, {"key_norm.weight": 0}), 4),
        VALUE_OUTPUT,
    ],
    matrices=[between(writes("v"), reads("o"), 16)],
)
def attention_with_normed_keys():
    # RMS norms on queries and keys: each layer before them has one factor, q and k no longer meet by coordinates, their
    # γ do. The key bias is inside the norm: not free.
    return Formula(
        lambda m, x: m.o(F.scaled_dot_product_attention(m.query_norm(m.q(x)), m.key_norm(m.k(x)), m.v(x), scale=0.5)),
        **{name: nn.Linear(3, 4) for name in "qkv"},
        o=nn.Linear(4, 2),
        query_norm=nn.RMSNorm(4, eps=1e-5),
        key_norm=nn.RMSNorm(4, eps=1e-5),
    )


# --- transformers


class Transformer(nn.Module):
    """One pre-norm block on tokens and positions, with learned positions."""

    def __init__(self, tied, vocabulary=6, length=4, width=4):
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 5), nn.Linear(5, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, x):
        h = self.token(x) + self.position.weight
        n = self.norm1(h)
        q, k, v = (heads(layer(n), 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.o(mixed.transpose(-3, -2).flatten(-2))
        h = h + self.fc2(F.gelu(self.fc1(self.norm2(h))))
        return self.head(self.norm3(h)).flatten(0, 1)


STREAM_TABLES = {"token.weight": None, "position.weight": None}
TRANSFORMER = (
    KEY_QUERY,
    VALUE_OUTPUT,
    constant_bias("k.bias", 4),
    exact(Rescale("norm1-qkv", writes("norm1"), reads("q", "k", "v")), 4),
    hidden("norm2", "fc1", 4),
    exact(Translation("position", {"position.weight": 0}), 4),
    exact(Translation("o", {"o.weight": 1}), 4),
    exact(Translation("o bias", {"o.bias": None}), 1),
    exact(Translation("fc2", {"fc2.weight": 1}), 5),
    exact(Translation("fc2 bias", {"fc2.bias": None}), 1),
)
TEXT = {"inputs": integers(6, 4, batch=4), "targets": integers(6, batch=16), "loss": "cross_entropy"}


@network(
    **TEXT,
    charges=[
        *TRANSFORMER,
        exact(Translation("token", {"token.weight": 0}), 6),
        nearly(Scale("stream", {**STREAM_TABLES, **writes("o", "fc2", axis=None)}), 1),
        exact(Rescale("norm3-head", writes("norm3"), reads("head")), 4),
        exact(Translation("head", {"head.weight": 1}), 4),
    ],
    beyond=[opposite("token.weight", "position.weight", 4, index=column)],
    dead=4,
    dependent=1,
    matrices=[
        between(writes("q", axis=(0, 2)), writes("k", axis=(0, 2)), 8),
        between(writes("v", axis=(0, 2)), {"o.weight": (1, 2)}, 8),
    ],
)
def transformer():
    # Every reader of the stream is a layer norm, which forgets the mean over channels and one common factor. So each
    # writer may add a constant to all channels: 6 tokens, 4 positions, 4 columns and the bias of o, 5 columns and the
    # bias of fc2; and all writers scale together (per channel they cannot, nor one of them alone). γ, β of each norm
    # against all its readers: 4 + 4 + 4. Attention: 4 + 4 + 4. Softmax: 4 columns of head. GELU: nothing.
    # Tokens and positions are added: 4 vectors from one table to the other. Summed over channels, this is what the mean
    # shifts of all tokens less those of all positions do: one relation.
    return Transformer(tied=False)


@network(
    **TEXT,
    charges=[
        *TRANSFORMER,
        nearly(Rescale("stream", {**STREAM_TABLES, **writes("o", "fc2", axis=None)}, writes("norm3", axis=None)), 1),
    ],
    beyond=[opposite("token.weight", "position.weight", 4, index=column)],
    dead=4,
    matrices=[
        between(writes("q", axis=(0, 2)), writes("k", axis=(0, 2)), 8),
        between(writes("v", axis=(0, 2)), {"o.weight": (1, 2)}, 8),
    ],
)
def tied_transformer():
    # The token table is a writer of the stream and the last reader: a mean shift of a token's row would change its
    # logit, and norm3 per channel against head would change the stream; both are gone. The common factor stays if γ₃
    # and β₃ take it back at the head. A vector added to all rows shifts all logits alike, which softmax forgets, and
    # adds to the stream, which the positions take back: the classifier's translation, saved by the positions.
    return Transformer(tied=True)


@network(
    **TEXT,
    charges=[
        exact(Rescale("q-k", {"q.weight": (0, 2)}, {"k.weight": (0, 2)}), 2),
        exact(Rescale("v-o", {"v.weight": 0}, reads("o")), 4),
        exact(Rescale("up-down", {"up.weight": 0}, reads("down")), 5),
        exact(Rescale("norm1-qkv", {"norm1.weight": 0}, reads("q", "k", "v")), 4),
        exact(Rescale("norm2-gate, up", {"norm2.weight": 0}, reads("gate", "up")), 4),
        exact(Rescale("norm3-head", {"norm3.weight": 0}, reads("head")), 4),
        nearly(Scale("stream", {"token.weight": None, "o.weight": None, "down.weight": None}), 1),
        exact(Translation("head", {"head.weight": 1}), 4),
    ],
    matrices=[
        between({"q.weight": 0}, {"k.weight": 0}, 4, basis=complex_numbers((0, 1), (2, 3))),
        between({"v.weight": 0}, reads("o"), 16),
    ],
)
def transformer_with_rms_norm():
    # RMS norms, rotary positions, a SwiGLU, no biases: the common factor of the stream, no mean shifts.
    def formula(m, x):
        h, angles = m.token(x), torch.tensor([1.0, 0.3])
        n = m.norm1(h)
        q, k = (rotate(layer(n), angles, False) for layer in (m.q, m.k))
        h = h + m.o(F.scaled_dot_product_attention(q, k, m.v(n), is_causal=True))
        n = m.norm2(h)
        h = h + m.down(F.silu(m.gate(n)) * m.up(n))
        return m.head(m.norm3(h)).flatten(0, 1)

    return Formula(
        formula,
        token=nn.Embedding(6, 4),
        **{f"norm{i}": nn.RMSNorm(4, eps=1e-5) for i in (1, 2, 3)},
        **{name: nn.Linear(4, 4, bias=False) for name in "qkvo"},
        gate=nn.Linear(4, 5, bias=False),
        up=nn.Linear(4, 5, bias=False),
        down=nn.Linear(5, 4, bias=False),
        head=nn.Linear(4, 6, bias=False),
    )


NEURONS, CLASSIFIER = hidden("fc1", "fc2", 4).charge, tuple(e.charge for e in classifier("fc2", 4))

# Charges that look right and are not, in no single generator; the comments in the builders say why.
LOOK_ALIKES: dict[str, tuple[Charge, ...]] = {
    "relu": (
        Rescale("bias forgotten", {"fc1.weight": 0}, {"fc2.weight": 1}),
        Scale("logits", writes("fc2", axis=None)),
    ),
    "relu_deep_without_biases": (Translation("no softmax", {"fc3.weight": 1}),),
    "prelu": (Rescale("slopes", {"act.weight": 0}, {"fc2.weight": 1}),),
    "maxout": (Rescale("bias forgotten", {"fc1.weight": (0, 3)}, {"fc2.weight": 1}),),
    "tanh": (NEURONS,),
    "gelu": (NEURONS,),
    "elu": (NEURONS,),
    "hardtanh": (NEURONS,),
    "relu6": (NEURONS,),
    "relu_squared": (NEURONS,),
    "skip_over_tanh": (NEURONS,),
    "shift_after_relu": (NEURONS,),
    "binary_cross_entropy": CLASSIFIER,
    "softmax_over_the_batch": (Translation("fc2", {"fc2.weight": 1}),),
    "temperature_as_a_logarithm": (Translation("temperature", {"temperature": None}),),
    "gain_of_two_branches": (Rescale("one branch", {"gain": None}, writes("a", axis=None)),),
    "constant_after_relu": (NEURONS,),
    "maximum_of_two": (hidden("a", "c", 4).charge,),
    "detached_branch": (Rescale("both", writes("fc1"), reads("fc2", "probe")),),
    "sigmoid_then_squares": CLASSIFIER,
    "tanh_of_logits": CLASSIFIER,
    "maximum_over_tokens": (Translation("fc2", {"fc2.weight": 1}),),
    "convolutions_with_batch_norm": (Translation("filters", {"conv1.weight": 0}),),
    "pixel_shuffle": (Rescale("bias forgotten", {"conv1.weight": (0, 2)}, {"conv2.weight": 1}),),
    "grouped_convolution": (Rescale("axis 1", {"conv.weight": (0, 2), "conv.bias": (0, 2)}, {"grouped.weight": 1}),),
    "batch_norm_without_affine": (Rescale("no norm", {"fc1.weight": 0}, {"fc2.weight": 1}),),
    "batch_norm_after_relu": (Translation("bias", {"fc1.bias": 0}), Scale("weight alone", {"fc1.weight": 0})),
    "bias_after_batch_norm": (Translation("shift", {"shift": 0}), Rescale("shift-fc2", {"shift": 0}, reads("fc2"))),
    "batch_norm_in_evaluation": (
        Scale("fc1", {"fc1.weight": 0}),
        Rescale("about 0", {"fc1.weight": 0}, {"norm.weight": 0}),
    ),
    "batch_norm_in_evaluation_with_bias": (
        Translation("bias", {"fc1.bias": 0}),
        Rescale("about 0", writes("fc1"), {"norm.weight": 0}),
    ),
    "group_norm": (Translation("weights", {"conv.weight": (0, 2)}), Scale("channels", writes("conv"))),
    "layer_norm": (Scale("rows", writes("fc1")), Translation("biases", {"fc1.bias": 0})),
    "bias_after_layer_norm": (Translation("shift", {"shift": None}),),
    "rms_norm": (Translation("fc1", {"fc1.weight": 1}), Translation("fc1 bias", {"fc1.bias": None})),
    "weight_norm_twice": (
        Rescale(
            "neurons",
            {"fc1.parametrizations.weight.original0": 0, "fc1.bias": 0},
            {"fc2.parametrizations.weight.original1": 1},
        ),
    ),
    "standardised_weights": (Translation("columns", {"w": 1}),),
    "cosine_classifier": (Translation("prototypes", {"prototypes": 1}), Scale("rows", writes("fc"))),
    "mean_subtracted_by_hand": (Scale("fc1", writes("fc1", axis=None)),),
    "residual_block": (hidden("stem", "fc1", 4).charge,),
    "residual_block_on_tanh": (STREAM.charge,),
    "residual_block_of_one_layer": (hidden("stem", "head", 4).charge,),
    "projection_skip": (hidden("projection", "head", 5).charge,),
    "residual_gain": (Rescale("gain-fc1", {"gain": None}, {"fc1.weight": None}),),
    "residual_batch_norm": (hidden("bn0", "conv1", 3).charge,),
    "post_norm_block": (Translation("β of norm1", {"norm1.bias": None}), hidden("norm1", "fc1", 4).charge),
    "swiglu": (hidden("gate", "down", 4).charge,),
    "token_and_position": (Translation("token", {"token.weight": 1}),),
    "gated_recurrent": (Translation("bias", {"rnn.bias_hh_l0": None}),),
    "attention": (Translation("query bias", {"q.bias": 0}), Scale("q", writes("q"))),
    "attention_over_the_wrong_axis": (Translation("key bias", {"k.bias": 0}),),
    "attention_without_softmax": (Translation("key bias", {"k.bias": 0}),),
    "rotary_attention": (KEY_QUERY.charge, Translation("key bias", {"k.bias": 0})),
    "rotary_attention_by_halves": (
        KEY_QUERY.charge,
        Rescale("neighbours", *(dict.fromkeys(side, (0, 2)) for side in PAIRS)),
    ),
    "attention_with_keys_as_values": (KEY_QUERY.charge, Translation("key bias", {"k.bias": 0})),
    "attention_with_normed_keys": (KEY_QUERY.charge, Translation("key bias", {"k.bias": 0})),
    "attention_pooling": (Translation("score", {"score.weight": None}),),
    "transformer": (
        Translation("fc1", {"fc1.bias": None}),
        Scale("o", writes("o", axis=None)),
        Rescale("norm1-q", writes("norm1"), reads("q")),
    ),
    "tied_transformer": (
        Translation("token", {"token.weight": 0}),
        Translation("classifier", {"token.weight": 1}),
        Rescale("norm3-token", writes("norm3"), reads("token")),
        Scale("stream", {**STREAM_TABLES, **writes("o", "fc2", axis=None)}),
    ),
    "transformer_with_rms_norm": (
        Translation("token", {"token.weight": 0}),
        Rescale("q-k", {"q.weight": 0}, {"k.weight": 0}),
        Rescale("norm2-up", {"norm2.weight": 0}, reads("up")),
    ),
}
