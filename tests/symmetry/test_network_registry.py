"""The hand-written symmetries of the registry are symmetries, and there are no others.

Completeness needs no graph: a field a∘θ + c is a symmetry if and only if Σ a_i θ_i g_i + c_i g_i = 0 at every θ and
every batch, so the rows [g∘θ, g] of many random θ and batches have these fields as their null space.
"""

from functools import cache

import pytest
import torch
from network_registry import F64, LOOK_ALIKES, NETWORKS, Field
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeq.symmetry.charges import Translation

EXACT = 1e-12
BROKEN = 1e-14, 1e-3  # what ε = 1e-5 does to ⟨g, ξ⟩/(‖g‖‖ξ‖)
# Singular values, relative to the largest: those of symmetries lie below the first, all others above the second. The
# others begin at 1e-3 where nothing but symmetries is at stake, at 1e-7 where ε breaks one, at 3e-11 where two norms in
# a row break it by ε².
NULL, GAP = 1e-13, 1e-11
NO_EPS = 1e-30


def trained(module):
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def with_eps(module, eps):
    for part in module.modules():
        if getattr(part, "eps", None) is not None:
            part.eps = eps
    return module


def random_parameters(module, draw):
    """Of order one and away from zero; a matrix divided by the root of its inputs."""
    found = {}
    for name, p in trained(module).items():
        size = 0.4 + 1.2 * torch.rand(p.shape, generator=draw, dtype=F64)
        sign = torch.randint(0, 2, p.shape, generator=draw) * 2 - 1
        found[name] = size * sign / (p[0].numel() ** 0.5 if p.ndim > 1 else 1)
    return found


def put(module, parameters):
    with torch.no_grad():
        for name, p in trained(module).items():
            p.copy_(parameters[name])


def loss_of(network, module, batch, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout
        return network.loss_of(module(batch[0]), batch[1])


def gradients(network, module, batch):
    parameters = trained(module)
    found = torch.autograd.grad(loss_of(network, module, batch), list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


def fields_of(charge, parameters):
    """The generators of a charge, written out entry by entry."""
    found = [Field() for _ in range(charge.count(parameters))]
    for member in charge.members:
        shape = parameters[member.parameter].shape
        for j, one in enumerate(found):
            mask = torch.zeros(shape, dtype=F64)
            if member.axis is None:
                mask += member.sign
            else:
                block = shape[member.axis] // len(found)
                mask.movedim(member.axis, 0)[j * block : (j + 1) * block] = member.sign
            (one.constant if isinstance(charge, Translation) else one.linear)[member.parameter] = mask
    return found


def listed_fields(network, module, *, approximate):
    parameters = trained(module)
    kept = [e.charge for e in network.charges if approximate or not e.approximate]
    found = [one for charge in kept for one in fields_of(charge, parameters)]
    return found + [one for beyond in network.beyond for one in beyond.fields(parameters)]


def flat(field, parameters):
    """(a, c) of a field as one vector."""
    parts = (
        part.get(name, torch.zeros_like(p)) for part in (field.linear, field.constant) for name, p in parameters.items()
    )
    return torch.cat([part.flatten() for part in parts])


@cache
def samples(name):
    """A few random points: parameters, gradients."""
    network, module, found = NETWORKS[name], NETWORKS[name].build(), []
    draw = torch.Generator().manual_seed(1)
    for _ in range(4):
        theta = random_parameters(module, draw)
        put(module, theta)
        found.append((theta, gradients(network, module, network.batch(draw))))
    return found


def rows(network, module, count, seed=2):
    """[g∘θ, g]/‖g‖ at `count` random points and batches."""
    draw = torch.Generator().manual_seed(seed)
    points = [(random_parameters(module, draw), *network.batch(draw)) for _ in range(count)]
    if network.batched:
        many = {key: torch.stack([theta[key] for theta, _, _ in points]) for key in points[0][0]}
        x, y = (torch.stack([point[i] for point in points]) for i in (1, 2))
        fixed = {key: p.detach() for key, p in module.named_parameters() if not p.requires_grad}
        buffers = {key: b.expand(count, *b.shape).clone() for key, b in module.named_buffers()}

        def loss(theta, state, x, y):
            return network.loss_of(functional_call(module, {**theta, **fixed, **state}, (x,)), y)

        # the fused attention kernel has no batching rule
        with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH):
            torch.manual_seed(seed)
            slopes = vmap(grad(loss), randomness="different")(many, buffers, x, y)
    else:
        many, slopes = {}, {}
        for theta, *batch in points:
            put(module, theta)
            for key, g in gradients(network, module, batch).items():
                many.setdefault(key, []).append(theta[key])
                slopes.setdefault(key, []).append(g)
        many, slopes = ({key: torch.stack(values) for key, values in d.items()} for d in (many, slopes))
    theta, g = (torch.cat([values.flatten(1) for values in d.values()], 1) for d in (many, slopes))
    return torch.cat([g * theta, g], 1) / g.norm(dim=1, keepdim=True).clamp_min(
        1e-100
    )  # a batch may leave all neurons dead


@pytest.mark.parametrize("name", NETWORKS)
def test_every_listed_charge_is_orthogonal_to_the_gradient(name):
    module = NETWORKS[name].build()
    for expected in (*NETWORKS[name].charges, *NETWORKS[name].matrices):
        charge = expected.charge
        assert charge.count(charge.parameters_of(module)) == expected.generators
        worst = torch.zeros(expected.generators, dtype=F64)
        for theta, g in samples(name):
            size = torch.cat([part.flatten() for part in g.values()]).norm()
            worst = torch.maximum(worst, (charge.pairing(theta, g) / charge.generator_norm(theta) / size).abs())
        if expected.approximate:
            assert BROKEN[0] < worst.min(), charge
            assert worst.max() < BROKEN[1], charge
        else:
            assert worst.max() < EXACT, charge


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name].beyond])
def test_every_generator_beyond_the_charges_is_orthogonal_to_the_gradient(name):
    module = NETWORKS[name].build()
    for beyond in NETWORKS[name].beyond:
        fields = beyond.fields(trained(module))
        assert len(fields) == beyond.generators
        for theta, g in samples(name):
            theta, g = (torch.cat([part.flatten() for part in d.values()]) for d in (theta, g))
            for one in fields:
                linear, constant = flat(one, trained(module)).chunk(2)
                xi = linear * theta + constant
                assert abs(xi @ g) < EXACT * xi.norm() * g.norm(), beyond.name


def act(field, theta, amount):
    """The flow of ξ = aθ + c for a time, entry by entry: θ + (aθ + c)(e^{at} − 1)/a."""
    moved = dict(theta)
    for name in {*field.linear, *field.constant}:
        zero = torch.zeros_like(theta[name])
        a, c = field.linear.get(name, zero), field.constant.get(name, zero)
        moved[name] = theta[name] + (a * theta[name] + c) * torch.where(a == 0, amount, torch.expm1(a * amount) / a)
    return moved


@pytest.mark.parametrize("name", NETWORKS)
def test_finite_moves_along_all_generators_leave_the_loss(name):
    network = NETWORKS[name]
    module = with_eps(network.build(), NO_EPS)
    draw = torch.Generator().manual_seed(3)
    theta, batch = random_parameters(module, draw), network.batch(draw)
    put(module, theta)
    before = loss_of(network, module, batch).item()
    for one in listed_fields(network, module, approximate=True):
        theta = act(one, theta, float(torch.rand((), generator=draw)) - 0.5)
    put(module, theta)
    after = loss_of(network, module, batch).item()
    assert (after == pytest.approx(before, rel=1e-12)) == network.finite


LOOKS = [(name, charge) for name, charges in LOOK_ALIKES.items() for charge in charges]


@pytest.mark.parametrize("name, charge", LOOKS, ids=lambda value: getattr(value, "name", value))
def test_no_generator_of_a_look_alike_is_a_symmetry(name, charge):
    charge.parameters_of(NETWORKS[name].build())
    along = [(charge.pairing(theta, g) / charge.generator_norm(theta)).abs() for theta, g in samples(name)]
    assert torch.stack(along).amax(0).min() > 1e-4


@pytest.mark.some(21)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_null_space_of_the_gradients_has_the_counted_dimension(name):
    network = NETWORKS[name]
    module = network.build()
    parameters = trained(module)
    unknowns = 2 * sum(p.numel() for p in parameters.values())
    with_norm = any(e.approximate for e in network.charges)
    for eps in (None, NO_EPS) if with_norm else (None,):
        if eps:
            with_eps(module, eps)
        approximate = eps is not None
        matrix = rows(network, module, 2 * unknowns + 10)
        values = torch.linalg.svdvals(matrix)
        values = values / values[0]
        nullity, wanted = int((values < GAP).sum()), network.dimension(approximate=approximate)
        assert nullity == wanted, (nullity, wanted, values[-nullity - 3 :])
        assert nullity == 0 or values[-nullity] < NULL, values[-nullity]
        listed = listed_fields(network, module, approximate=approximate)
        if listed:
            span = torch.stack([flat(one, parameters) for one in listed])
            assert torch.linalg.matrix_rank(span) == wanted - network.unlisted(approximate=approximate)
