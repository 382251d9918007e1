"""The tracker in trainings as they are: compiled, distributed, in mixed precision, interrupted, long."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from smooth_network import SMOOTH_CHARGES, SmoothNetwork, smooth_batch
from torch import nn
from torch.nn import functional as F

from modeq.errors import InvalidCharge, InvalidSetting, MissingDependency, NoClosedLaw
from modeq.symmetry.finding import find_charges
from modeq.symmetry.records import Record
from modeq.symmetry.tracking import track

HERE = Path(__file__).parent


def steps(module, optimizer, count, first=0, **options):
    with track(module, optimizer, SMOOTH_CHARGES, **options) as tracker:
        for k in range(first, first + count):
            x, y = smooth_batch(k)
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
    return tracker


def smooth(lr=0.1, **options):
    module = SmoothNetwork()
    return module, torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9, weight_decay=0.01, **options)


def test_gradient_accumulation():
    module, optimizer = smooth()
    with track(module, optimizer, SMOOTH_CHARGES) as tracker:
        for k in range(40):
            x, y = smooth_batch(k)
            (F.cross_entropy(module(x), y) / 4).backward()
            if k % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    assert tracker.steps == 10
    assert max(tracker.residual().values()) < 1e-13


def test_compiled_modules():
    module, optimizer = smooth()
    tracker = steps(torch.compile(module, backend="eager"), optimizer, 20)
    assert max(tracker.residual().values()) < 1e-13
    assert tracker.record["unit"].measured.shape == (21, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_with_a_gradient_scaler(dtype):
    """The laws see the gradients as they are applied; what low precision breaks is explained by the defect."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)  # the first steps overflow and are skipped in float16
    x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
    with track(module, optimizer, find_charges(module, x, "cross_entropy")) as tracker:
        for _ in range(60):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype):
                loss = F.cross_entropy(module(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert tracker.steps > 30
    assert max(tracker.residual("with_defect").values()) < 1e-6
    assert max(tracker.residual().values()) < 1e-2


@pytest.mark.parametrize("kind", ["data_parallel", pytest.param("fully_sharded", marks=pytest.mark.slow)])
def test_two_processes(kind, tmp_path):
    command = [sys.executable, str(HERE / "distributed_worker.py"), str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((tmp_path / f"{kind}_{rank}.json").read_text()) for rank in range(2))
    assert one["residual"] < 1e-13
    assert one["defect"] < 1e-13
    assert one["moved"] > 1e-6
    assert one["measured"] == other["measured"]


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path):
    def run(folder, *arguments):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, str(HERE / "resumed_training.py"), str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert run(tmp_path / "whole").returncode == 0
    assert run(tmp_path / "killed", "25").returncode == -9
    assert not (tmp_path / "killed" / "record.npz").exists()
    assert run(tmp_path / "killed").returncode == 0
    whole, killed = (np.load(tmp_path / name / "record.npz") for name in ("whole", "killed"))
    assert whole.files == killed.files
    assert all(np.array_equal(whole[key], killed[key], equal_nan=whole[key].dtype.kind == "f") for key in whole.files)
    assert whole["step"].tolist() == list(range(0, 40, 3))


def test_a_long_record_keeps_every_second_row():
    module, optimizer = smooth()
    tracker = steps(module, optimizer, 100, keep=9)
    step = tracker.record.step
    assert len(step) <= 9
    assert tracker.every == 16
    assert step.tolist() == list(range(0, 97, 16))
    whole = steps(*smooth(), 100)
    assert np.array_equal(tracker.record["unit"].measured, whole.record["unit"].measured[::16])
    assert np.array_equal(tracker.record["unit"].predicted["article"], whole.record["unit"].predicted["article"][::16])


def test_some_laws():
    module, optimizer = smooth()
    tracker = steps(module, optimizer, 10, laws=["discrete"])
    assert list(tracker.record["unit"].predicted) == ["discrete"]
    assert max(tracker.residual().values()) < 1e-13
    with pytest.raises(NoClosedLaw, match="law is 'article': choose from discrete"):
        tracker.residual("article")
    with pytest.raises(NoClosedLaw, match=r"an explanation needs the laws .* \['with_defect'\] are not followed"):
        tracker.explain()
    article = steps(*smooth(), 10, laws=["article"])
    every = steps(*smooth(), 10)
    for name in every.record:
        assert np.array_equal(every.record[name].predicted["article"], article.record[name].predicted["article"])


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"laws": []}, NoClosedLaw, r"laws is \[\]: give some of"),
        ({"laws": "discrete"}, NoClosedLaw, "laws is 'discrete': give some of"),
        ({"laws": ["discrete", "observed"]}, NoClosedLaw, "give some of"),
        ({"laws": ["discrete", "discrete"]}, NoClosedLaw, "give some of"),
        ({"keep": 1}, InvalidCharge, "keep is 1; give an integer of at least 2"),
        ({"writer": 3}, InvalidCharge, "writer is 3: give something with add_scalar"),
    ],
)
def test_what_is_refused(options, error, message):
    module, optimizer = smooth()
    with pytest.raises(error, match=message):
        track(module, optimizer, SMOOTH_CHARGES, **options)


def test_a_state_of_other_laws_is_refused():
    module, optimizer = smooth()
    state = steps(module, optimizer, 3, laws=["discrete"]).state_dict()
    with pytest.raises(InvalidCharge, match=r"of the laws \['discrete'\], this tracker follows"):
        track(module, optimizer, SMOOTH_CHARGES).load_state_dict(state)


class Writer:
    def __init__(self):
        self.seen = []

    def add_scalar(self, tag, value, step):
        self.seen.append((tag, value, step))


def test_a_summary_writer_gets_each_row():
    writer = Writer()
    module, optimizer = smooth()
    tracker = steps(module, optimizer, 6, every=2, writer=writer)
    assert [step for tag, _, step in writer.seen if tag == "charges/unit"] == [0, 2, 4, 6]
    values = [value for tag, value, _ in writer.seen if tag == "charges/unit"]
    assert values == pytest.approx(tracker.record["unit"].measured.mean(1).tolist())
    assert max(value for tag, value, _ in writer.seen if tag.startswith("residuals/")) < 1e-13


def test_records_are_saved_and_read(tmp_path):
    module, optimizer = smooth()
    record = steps(module, optimizer, 12, every=3).record
    record.save(tmp_path / "a.npz")
    again = Record.load(tmp_path / "a.npz")
    assert list(again) == list(record)
    assert np.array_equal(again.step, record.step)
    for name in record:
        assert np.array_equal(again[name].residual(), record[name].residual())
        assert list(again[name].hyperparameters) == list(record[name].hyperparameters)
    with pytest.raises(InvalidSetting, match="which cannot be written"):
        record.save(tmp_path / "none" / "a.npz")
    (tmp_path / "b.npz").write_text("no")
    for path in (tmp_path / "none.npz", tmp_path / "b.npz"):
        with pytest.raises(InvalidSetting, match=r"no record that Record\.save has written"):
            Record.load(path)


def test_records_become_datasets_and_frames(monkeypatch):
    module, optimizer = smooth()
    tracker = steps(module, optimizer, 12, every=3)
    record = tracker.record
    dataset = tracker.to_xarray()
    assert dataset["unit"].dims == ("step", "generator of unit")
    assert np.array_equal(dataset["unit, discrete"].values, record["unit"].predicted["discrete"])
    assert float(dataset["inner-outer"].sel(step=6)[2]) == record["inner-outer"].measured[2, 2]
    frame = record.to_pandas()
    part = frame[(frame.charge == "unit") & (frame.step == 9)]
    assert part.measured.tolist() == record["unit"].measured[3].tolist()
    assert len(frame) == 5 * sum(charge.measured.shape[1] for charge in record.charges.values())
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(MissingDependency, match=r"pip install 'modeq\[records\]'"):
        record.to_xarray()


def test_the_figure_is_drawn_again_into_the_same():
    module, optimizer = smooth()
    tracker = steps(module, optimizer, 12)
    figure = tracker.plot(["unit", "inner-outer"])
    assert len(figure.axes) == 4
    dashed = [line for line in figure.axes[0].get_lines() if line.get_linestyle() == "--"]
    assert len(dashed) == 4
    assert tracker.plot(["unit"], figure) is figure
    assert len(figure.axes) == 2
    with pytest.raises(InvalidCharge, match=r"names is \['none'\]: give some of"):
        tracker.plot(["none"])
