"""The tracker: what it measures and predicts, what it leaves alone, what it refuses, and how it goes on from a file."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from smooth_network import SMOOTH_CHARGES, SmoothNetwork, smooth_batch
from torch import nn
from torch.nn.functional import cross_entropy

from modeq.errors import Diverged, InvalidCharge, NoClosedLaw, UnsupportedOptimizer
from modeq.symmetry.charges import Rescale, Scale, Translation
from modeq.symmetry.reading import Readings
from modeq.symmetry.tracking import track

MOMENTUM = {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02}
CASES = {
    "no momentum": {"lr": 0.1, "weight_decay": 0.02},
    "no momentum, dampening ignored": {"lr": 0.1, "weight_decay": 0.02, "dampening": 0.5},
    "heavy ball": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02},
    "dampened": MOMENTUM,
    "no decay": {"lr": 0.1, "momentum": 0.9},
    "nesterov": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02, "nesterov": True},
    "nesterov, one by one": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "foreach": False},
    "nesterov, foreach": {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.02,
        "nesterov": True,
        "foreach": True,
    },
    "nesterov, fused": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02, "nesterov": True, "fused": True},
    "fused": {**MOMENTUM, "fused": True},
    "maximize": {**MOMENTUM, "maximize": True},
    "maximize nesterov": {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.02,
        "nesterov": True,
        "maximize": True,
    },
    "maximize without momentum": {"lr": 0.1, "weight_decay": 0.02, "maximize": True},
    "tensor learning rate": {**MOMENTUM, "lr": torch.tensor(0.1, dtype=torch.float64)},
}


def exact(tracker, bound=1e-13):
    assert max(tracker.residual().values()) < bound, tracker.residual()
    assert max(tracker.residual("with_defect").values()) < bound
    assert max(tracker.symmetry_defect().values()) < 1e-14


@pytest.mark.parametrize("name", CASES)
def test_the_discrete_laws_hold_for_every_kind_of_sgd(train, name):
    exact(train(60, **CASES[name]))


def test_schedules_of_every_hyperparameter(train):
    def change(k, _, optimizer):
        group = optimizer.param_groups[0]
        group["lr"] = 0.05 + 0.04 * np.sin(k)
        # through 0 and back: torch keeps the buffer meanwhile
        group["momentum"] = 0.0 if 10 <= k < 15 else 0.5 + 0.4 * np.cos(k / 3)
        group["dampening"], group["weight_decay"] = 0.2 * (k % 3), 0.01 * (k % 5)
        group["maximize"] = 20 <= k < 25

    tracker = train(60, before_step=change, lr=0.1)
    exact(tracker)
    hyperparameters = tracker.record["unit"].hyperparameters
    assert np.isnan(hyperparameters["h"][0])
    assert hyperparameters["h"][8] == pytest.approx(0.05 + 0.04 * np.sin(7))
    assert hyperparameters["dampening"][3] == pytest.approx(0.4)
    assert tracker.record["unit"].time[-1] == pytest.approx(np.nansum(hyperparameters["h"]))


def test_nesterov_switched_on_and_off(train):
    def change(k, _, optimizer):
        optimizer.param_groups[0]["nesterov"] = k % 7 < 3

    exact(train(60, before_step=change, lr=0.1, momentum=0.8, weight_decay=0.01))


def test_clipping_by_global_norm_keeps_the_laws(train):
    def clip(_, module, __):
        nn.utils.clip_grad_norm_(module.parameters(), 0.05)

    exact(train(60, before_step=clip, **MOMENTUM))


def test_late_unfreezing_starts_the_law_when_the_parameters_start(train):
    def freeze(k, module, _):
        if k < 12:
            module.unit.grad = None
        if 20 <= k < 30:
            module.inner.grad = module.outer.grad = None

    tracker = train(60, before_step=freeze, **MOMENTUM)
    exact(tracker)
    unit = tracker.record["unit"]
    assert np.ptp(unit.measured[:13], axis=0).max() == 0
    assert unit.time[12] == 0
    assert unit.time[-1] == pytest.approx(4.8)
    assert np.ptp(tracker.record["inner-outer"].measured[20:31], axis=0).max() == 0


def test_frozen_parameters_stay_where_they_are():
    module = SmoothNetwork()
    module.unit.requires_grad_(False)
    optimizer = torch.optim.SGD(module.parameters(), **MOMENTUM)
    with track(module, optimizer, SMOOTH_CHARGES) as tracker:
        for k in range(5):
            x, y = smooth_batch(k)
            optimizer.zero_grad()
            cross_entropy(module(x), y).backward()
            optimizer.step()
    exact(tracker)


@pytest.mark.parametrize("by_keyword", [False, True])
def test_closures(by_keyword):
    module = SmoothNetwork()
    optimizer = torch.optim.SGD(module.parameters(), **MOMENTUM)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(module(smooth_batch(len(losses))[0]), smooth_batch(len(losses))[1])
        loss.backward()
        return loss

    with track(module, optimizer, SMOOTH_CHARGES) as tracker:
        for _ in range(20):
            losses.append(optimizer.step(closure=closure) if by_keyword else optimizer.step(closure))
    assert all(torch.is_tensor(loss) for loss in losses)
    assert tracker.steps == 20
    exact(tracker)


def loop(module, optimizer, start, stop):
    for k in range(start, stop):
        x, y = smooth_batch(k)
        optimizer.zero_grad()
        cross_entropy(module(x), y).backward()
        optimizer.step()


def test_tracking_may_begin_in_mid_training():
    module = SmoothNetwork()
    optimizer = torch.optim.SGD(module.parameters(), **MOMENTUM)
    loop(module, optimizer, 0, 15)
    with track(module, optimizer, SMOOTH_CHARGES) as tracker:
        loop(module, optimizer, 15, 60)
    exact(tracker)
    assert max(tracker.residual("corrected").values()) < 0.05


def test_a_training_is_the_same_with_and_without_a_tracker():
    results = []
    for tracked in (False, True):
        module = SmoothNetwork()
        optimizer = torch.optim.SGD(module.parameters(), **MOMENTUM)
        torch.manual_seed(5)
        if tracked:
            tracker = track(module, optimizer, SMOOTH_CHARGES)
        loop(module, optimizer, 0, 10)
        results.append((copy.deepcopy(module.state_dict()), optimizer.state_dict(), torch.get_rng_state()))
    tracker.remove()
    (plain, plain_state, plain_random), (seen, seen_state, seen_random) = results
    assert all(torch.equal(plain[key], seen[key]) for key in plain)
    assert plain_state["param_groups"] == seen_state["param_groups"]
    assert all(
        torch.equal(plain_state["state"][key]["momentum_buffer"], seen_state["state"][key]["momentum_buffer"])
        for key in plain_state["state"]
    )
    assert torch.equal(plain_random, seen_random)


def test_removal_stops_the_record_and_may_be_repeated():
    module = SmoothNetwork()
    optimizer = torch.optim.SGD(module.parameters(), **MOMENTUM)
    with track(module, optimizer, SMOOTH_CHARGES) as tracker:
        loop(module, optimizer, 0, 3)
    tracker.remove()
    loop(module, optimizer, 3, 5)
    assert tracker.steps == 3
    assert tracker.record.step.tolist() == [0, 1, 2, 3]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_every_thins_the_record_and_not_the_laws(train):
    full, thin = train(20, **MOMENTUM), train(20, every=6, **MOMENTUM)
    assert thin.record.step.tolist() == [0, 6, 12, 18]
    for name in thin.record:
        for law in ("discrete", "article", "corrected", "with_defect"):
            rows = full.record[name].predicted[law][[0, 6, 12, 18]]
            np.testing.assert_array_equal(thin.record[name].predicted[law], rows)
        np.testing.assert_array_equal(thin.record[name].time, full.record[name].time[::6][:4])


def test_the_record_is_read_only_shaped_and_picklable(train):
    record = train(5, **MOMENTUM).record
    assert list(record) == ["unit", "inner-outer", "outer"]
    assert len(record) == 3
    assert record["inner-outer"].measured.shape == (6, 5)
    assert record["inner-outer"].normaliser.shape == (6, 5)
    assert record["outer"].measured.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        record["outer"].measured[0] = 1.0
    again = pickle.loads(pickle.dumps(record))
    np.testing.assert_array_equal(again["unit"].measured, record["unit"].measured)


def test_residuals_relative_to_the_charge(train):
    tracker = train(30, **MOMENTUM)
    record = tracker.record["inner-outer"]
    difference = np.abs(record.predicted["article"] - record.measured)
    expected = (difference / np.abs(record.measured)).max()
    assert tracker.residual("article", charge_relative=True)["inner-outer"] == pytest.approx(expected)
    assert tracker.residual("article")["inner-outer"] == pytest.approx((difference / record.normaliser).max())


def test_a_charge_that_starts_at_zero_has_no_residual_there():
    module = nn.Linear(2, 3, dtype=torch.float64)
    nn.init.zeros_(module.bias)
    optimizer = torch.optim.SGD(module.parameters(), **MOMENTUM)
    tracker = track(module, optimizer, [Translation("bias", {"bias": None})])
    assert tracker.residual() == {"bias": 0.0}


def resumed(module, optimizer, tracker_state, save):
    fresh = SmoothNetwork(seed=9)
    fresh.load_state_dict(save(module.state_dict()))
    again = torch.optim.SGD(fresh.parameters(), lr=0.5)
    again.load_state_dict(save(optimizer.state_dict()))
    tracker = track(fresh, again, SMOOTH_CHARGES)
    tracker.load_state_dict(save(tracker_state))
    return fresh, again, tracker


@pytest.mark.parametrize("every", [1, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(every):
    def save(state):
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    trackers = []
    for stop in (None, 13):
        module = SmoothNetwork()
        optimizer = torch.optim.SGD(module.parameters(), **MOMENTUM)
        tracker = track(module, optimizer, SMOOTH_CHARGES, every=every)
        if stop:
            loop(module, optimizer, 0, stop)
            module, optimizer, tracker = resumed(module, optimizer, tracker.state_dict(), save)
        loop(module, optimizer, stop or 0, 30)
        trackers.append(tracker)
    whole, parts = (tracker.record for tracker in trackers)
    np.testing.assert_array_equal(whole.step, parts.step)
    for name in whole:
        np.testing.assert_array_equal(whole[name].measured, parts[name].measured)
        np.testing.assert_array_equal(whole[name].time, parts[name].time)
        for law, rows in whole[name].predicted.items():
            np.testing.assert_array_equal(rows, parts[name].predicted[law])
        for key, rows in whole[name].hyperparameters.items():
            np.testing.assert_array_equal(rows, parts[name].hyperparameters[key])
    assert trackers[0].symmetry_defect() == trackers[1].symmetry_defect()
    assert trackers[0].explain() == trackers[1].explain()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 7}, "tracker state has version 7; this modeq reads 3"),
        ({"charges": [Scale("unit", {"unit": 0}).to_dict()]}, "tracker state is of the charges"),
    ],
)
def test_foreign_states_are_refused(train, change, message):
    tracker = train(2, **MOMENTUM)
    with pytest.raises(InvalidCharge, match=message):
        tracker.load_state_dict({**tracker.state_dict(), **change})


def test_rounding_is_called_rounding(train):
    for sentence in train(30, **MOMENTUM).explain().values():
        assert sentence.endswith("at the level of rounding.")


def shrunk(dtype, between=None):
    """A network whose parameters weight decay shrinks by orders of magnitude; tracked."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
    x, y = torch.randn(30, 3, dtype=dtype), torch.randint(0, 2, (30,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    charge = Rescale("hidden", {"0.weight": 0, "0.bias": 0}, {"2.weight": 1})
    with track(network, optimizer, [charge]) as tracker:
        for k in range(300):
            optimizer.zero_grad()
            cross_entropy(network(x), y).backward()
            if between is not None:
                between(k, network)
            optimizer.step()
    normaliser = tracker.record["hidden"].normaliser
    return tracker, (normaliser.max(axis=0) / normaliser[-1]).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rounding_that_outlives_the_parameters_is_called_rounding(dtype):
    tracker, shrinkage = shrunk(dtype)
    assert shrinkage > 1e3
    assert tracker.residual()["hidden"] > 32 * torch.finfo(dtype).eps * 301**0.5
    assert tracker.explain()["hidden"].endswith("at the level of rounding.")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_disturbance_of_shrinking_parameters_is_still_reported(dtype):
    def clip_gradients(_, network):
        nn.utils.clip_grad_value_(network.parameters(), 0.01)

    def clip_parameters(_, network):
        for parameter in network.parameters():
            parameter.data.clamp_(-0.3, 0.3)

    sentence = shrunk(dtype, clip_gradients)[0].explain()["hidden"]
    assert "the gradient is not orthogonal to the generator" in sentence
    assert "something else moves the parameters" in shrunk(dtype, clip_parameters)[0].explain()["hidden"]


def test_interference_with_the_parameters_is_told_from_a_broken_symmetry(train):
    def write(k, module, _):
        if k == 20:
            module.outer.data.mul_(1.01)

    sentence = train(30, before_step=write, **MOMENTUM).explain()["outer"]
    assert "something else moves the parameters" in sentence


def test_clipping_by_value_breaks_the_symmetry_of_the_gradient(train):
    def clip(_, module, __):
        nn.utils.clip_grad_value_(module.parameters(), 0.01)

    tracker = train(30, before_step=clip, **MOMENTUM)
    assert tracker.residual()["unit"] > 1e-5
    assert tracker.residual("with_defect")["unit"] < 1e-13
    assert "the gradient is not orthogonal to the generator" in tracker.explain()["unit"]


def test_a_diverged_training_is_reported_with_its_record(train):
    def explode(k, module, _):
        if k == 6:
            module.unit.grad.fill_(float("inf"))

    tracker = train(9, before_step=explode, **MOMENTUM)
    with pytest.raises(Diverged, match="charge 'unit' is not finite from step 7 on: the training diverged") as info:
        tracker.residual()
    assert np.isfinite(info.value.trajectory.measured[:7]).all()
    assert tracker.explain()["unit"] == "Scale 'unit': not finite from step 7 on; the training diverged."


def test_a_diverged_prediction_is_reported(train):
    def shift(k, module, _):
        if k == 3:
            module.unit.grad.mul_(1e200)  # its square is beyond the largest number

    tracker = train(4, before_step=shift, lr=1e-202)
    with pytest.raises(Diverged, match="the discrete law is not finite from step 4 on, although the charge is"):
        tracker.residual()
    assert tracker.explain()["unit"].endswith("the discrete law is not finite from step 4 on, yet the charge is.")


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}, {"momentum": 0.9, "nesterov": True}]
)
@pytest.mark.parametrize(
    "lr, dtype",
    [
        (1e35, torch.float32),
        (1e35, torch.float64),
        (1e200, torch.float64),  # torch takes no such learning rate in float32
        (float("inf"), torch.float32),
        (float("inf"), torch.float64),
        (float("nan"), torch.float64),
    ],
)
def test_a_diverging_training_is_not_interrupted(train, lr, options, dtype):
    with np.errstate(all="raise"):
        tracker = train(6, lr=lr, weight_decay=0.02, dtype=dtype, **options)
    assert tracker.steps == 6
    for law in ("discrete", "corrected"):
        with pytest.raises(Diverged, match=r"charge 'unit': the .* law is not finite|charge 'unit' is not finite"):
            tracker.residual(law)
    assert "not finite from step" in tracker.explain()["unit"]


@pytest.mark.parametrize(
    "options",
    [{"momentum": 1.0}, {"momentum": 1.1}, {"momentum": 0.9, "dampening": -0.5}, {"momentum": 0.9, "dampening": 1.7}],
)
def test_whatever_torch_accepts_is_followed(train, options):
    tracker = train(20, lr=0.01, weight_decay=0.02, **options)
    exact(tracker, 1e-12)
    assert np.isfinite(list(tracker.residual("corrected").values())).all()


@pytest.mark.parametrize("changed", [{"lr": 0.0}, {"lr": -0.05}, {"momentum": -0.5}, {"weight_decay": -0.01}])
def test_groups_that_are_set_to_anything_are_followed(train, changed):
    def change(k, _, optimizer):
        optimizer.param_groups[0].update({**MOMENTUM, **(changed if k < 5 else {})})

    tracker = train(20, before_step=change, **MOMENTUM)
    exact(tracker)
    assert np.isfinite(list(tracker.residual("corrected").values())).all()


def test_the_article_has_no_nesterov(train):
    tracker = train(4, lr=0.1, momentum=0.9, nesterov=True)
    assert np.isfinite(tracker.record["unit"].predicted["corrected"]).all()
    with pytest.raises(NoClosedLaw, match="charge 'unit': the article has no law for Nesterov"):
        tracker.residual("article")
    with pytest.raises(NoClosedLaw, match="law is 'exact': choose from discrete, article, corrected, with_defect"):
        tracker.residual("exact")


class _Subclass(torch.optim.SGD):
    """It may update otherwise."""


OTHERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
    "subclass": lambda p: _Subclass(p, lr=0.1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_under_other_optimizers_what_the_updates_change_is_added_up(name):
    module = SmoothNetwork()
    optimizer = OTHERS[name](module.parameters())
    with track(module, optimizer, SMOOTH_CHARGES) as tracker:
        for k in range(30):
            x, y = smooth_batch(k)

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = cross_entropy(module(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    assert tracker.laws == ("observed",)
    assert max(tracker.residual("observed").values()) < 1e-13
    record = tracker.record["unit"]
    assert abs(record.measured[-1] - record.measured[0]).max() > 1e-4  # it moved
    with pytest.raises(NoClosedLaw, match="law is 'discrete': choose from observed"):
        tracker.residual()
    kind = type(optimizer).__name__
    assert f"Scale 'unit': measured under {kind}, without a prediction" in tracker.explain()["unit"]
    with pytest.raises(UnsupportedOptimizer, match=rf"laws is \['discrete'\]: {kind} does not obey them"):
        track(module, optimizer, SMOOTH_CHARGES, laws=["discrete"])
    with pytest.raises(UnsupportedOptimizer, match="optimizer is int: give one of torch.optim"):
        track(module, 3, SMOOTH_CHARGES)


def test_charges_across_groups_are_measured_where_nothing_is_predicted():
    module = SmoothNetwork()
    groups = [{"params": [module.unit, module.inner]}, {"params": [module.outer], "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    with pytest.raises(NoClosedLaw, match="parameter groups with different hyper-parameters"):
        track(module, optimizer, SMOOTH_CHARGES)
    with track(module, optimizer, SMOOTH_CHARGES, laws=["observed"]) as tracker:
        for k in range(20):
            x, y = smooth_batch(k)
            optimizer.zero_grad()
            cross_entropy(module(x), y).backward()
            optimizer.step()
    assert max(tracker.residual("observed").values()) < 1e-13


def test_parameters_outside_of_the_optimizer_are_refused():
    module = SmoothNetwork()
    optimizer = torch.optim.SGD([module.unit, module.inner], lr=0.1)
    with pytest.raises(InvalidCharge, match="charge 'inner-outer': 'outer' is not among the optimizer's parameters"):
        track(module, optimizer, SMOOTH_CHARGES)


@pytest.mark.parametrize(
    "charges, every, message",
    [
        ([], 1, r"charges with distinct names, got \[\]"),
        ([SMOOTH_CHARGES[0]] * 2, 1, r"distinct names, got \['unit', 'unit'\]"),
        (SMOOTH_CHARGES, 0, "every is 0; give a positive number of steps"),
        (SMOOTH_CHARGES, 1.5, "every is 1.5; give a positive number of steps, an integer"),
        (SMOOTH_CHARGES, True, "every is True; give a positive number of steps, an integer"),
        (SMOOTH_CHARGES, "2", "every is '2'; give a positive number of steps, an integer"),
        (SMOOTH_CHARGES[0], 1, r"charges is Scale\('unit', .*; give a sequence of charges"),
        ("unit", 1, "charges is 'unit'; give a sequence of charges"),
        ({"unit": 0}, 1, r"charges is \{'unit': 0\}; give a sequence of charges"),
        (None, 1, "charges is None; give a sequence of charges"),
        (
            [SMOOTH_CHARGES[0], "unit"],
            1,
            "charges contains 'unit'; give Translation, Scale, Rescale or GeneralLinear values",
        ),
    ],
)
def test_unusable_requests_are_refused(charges, every, message):
    module = SmoothNetwork()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(InvalidCharge, match=message):
        track(module, optimizer, charges, every=every)
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("module", [None, "net"])
def test_something_else_than_a_module_is_refused(module):
    optimizer = torch.optim.SGD(SmoothNetwork().parameters(), lr=0.1)
    with pytest.raises(InvalidCharge, match=f"module is {module!r}; give the network"):
        track(module, optimizer, SMOOTH_CHARGES)
    assert not optimizer._optimizer_step_pre_hooks


def test_every_may_be_an_integer_of_numpy(train):
    tracker = train(6, every=np.int64(3), **MOMENTUM)
    assert type(tracker.every) is int
    assert tracker.record.step.tolist() == [0, 3, 6]


def two_groups(module, **options):
    return torch.optim.SGD(
        [{"params": [module.unit, module.inner]}, {"params": [module.outer], **options}], lr=0.1, momentum=0.9
    )


@pytest.mark.parametrize(
    "options", [{"lr": 0.2}, {"momentum": 0.5}, {"dampening": 0.1}, {"weight_decay": 0.1}, {"nesterov": True}]
)
def test_a_charge_across_different_groups_is_refused_by_name(options):
    module = SmoothNetwork()
    message = r"charge 'inner-outer' has members in parameter groups .* group 0 \(inner\): .*; group 1 \(outer\): "
    with pytest.raises(NoClosedLaw, match=message):
        track(module, two_groups(module, **options), SMOOTH_CHARGES)


def test_charges_within_their_own_groups_are_exact():
    module = SmoothNetwork()
    optimizer = two_groups(module, lr=0.02, weight_decay=0.1)
    with track(module, optimizer, [SMOOTH_CHARGES[0], SMOOTH_CHARGES[2]]) as tracker:
        loop(module, optimizer, 0, 30)
    exact(tracker)
    assert tracker.record["outer"].time[-1] == pytest.approx(0.6)


def test_groups_that_agree_may_share_a_charge_until_a_schedule_parts_them():
    module = SmoothNetwork()
    optimizer = two_groups(module)
    with track(module, optimizer, SMOOTH_CHARGES) as tracker:
        loop(module, optimizer, 0, 5)
        optimizer.param_groups[1]["lr"] = 0.01
        before = module.unit.detach().clone()
        with pytest.raises(NoClosedLaw, match="charge 'inner-outer' has members in parameter groups"):
            loop(module, optimizer, 5, 6)
        assert torch.equal(module.unit, before)
    exact(tracker)


def test_half_of_a_charge_obeys_no_law(train):
    def freeze(_, module, __):
        module.inner.grad = None

    with pytest.raises(NoClosedLaw, match="charge 'inner-outer': inner got no gradient while its other members did"):
        train(1, before_step=freeze, **MOMENTUM)


def test_first_steps_at_different_times_obey_no_law_when_dampened():
    for dampening in (0.0, 0.3):
        module = SmoothNetwork()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, dampening=dampening)
        module.outer.requires_grad_(False)
        loop(module, optimizer, 0, 3)
        module.outer.requires_grad_(True)
        if dampening == 0:
            tracker = track(module, optimizer, SMOOTH_CHARGES)
            loop(module, optimizer, 3, 20)
            exact(tracker)
        else:
            with pytest.raises(NoClosedLaw, match="outer has no momentum buffer yet while its other members do"):
                track(module, optimizer, [Rescale("r", {"inner": 0}, {"outer": 1})])


def test_long_sums_in_float32_are_more_exact_than_float32():
    """Of weights that do not cancel: within less than half its ε of 1.2e-7, which one rounded number may be off by."""
    w = torch.randn(20_000, 300, generator=torch.Generator().manual_seed(0)) / 10 + 1
    readings = Readings({"columns": (Translation("columns", {"w": 1}), {"w": w})})
    found, sums = readings.pairing(None, {id(w): w}, ["columns"]), w.double().sum(0)
    assert (found / sums - 1).abs().max() < 4e-8
    assert (w.sum(0) / sums - 1).abs().max() > 6e-8


@pytest.mark.parametrize("name", ["no momentum", "heavy ball", "dampened", "nesterov"])
def test_translations_read_nothing_of_a_step(monkeypatch, name):
    """Their exact laws have no squares of updates: between two rows nothing is read."""
    module = SmoothNetwork()
    optimizer = torch.optim.SGD(module.parameters(), **CASES[name])
    translations = [charge for charge in SMOOTH_CHARGES if isinstance(charge, Translation)]
    tracker = track(module, optimizer, translations, laws=["discrete"], every=20)
    read = []
    pairing = Readings.pairing
    monkeypatch.setattr(Readings, "pairing", lambda *args, **keys: read.append(args) or pairing(*args, **keys))
    loop(module, optimizer, 0, 20)
    assert len(read) == 1
    assert len(tracker.record.step) == 2
    assert max(tracker.residual().values()) < 1e-13
