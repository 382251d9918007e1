"""How claims are judged, run in parts, taken up again, and shown."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def validation(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def run(*arguments, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "validation", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or not check, done.stderr
    return done


def test_bounds_are_kept_from_the_right_side():
    from validation.claims import Merit

    below, above = Merit("", "", 0.1), Merit("", "", 0.1, above=True)
    assert [below.kept_by(v) for v in (0.1, 0.11, -5.0, float("nan"), float("inf"), -float("inf"))] == [
        True, False, True, False, False, False,
    ]  # fmt: skip
    assert [above.kept_by(v) for v in (0.1, 0.09, float("nan"), float("inf"))] == [True, False, False, False]


def test_verdicts_say_in_how_many_cells_and_name_the_worst():
    from validation.claims import Cell, Merit, verdicts

    merits = {"small": Merit("", "x", 1.0), "large": Merit("", "y", 1.0, above=True)}
    cells = [Cell("small", "a", 0.5), Cell("small", "b", 2.0), Cell("large", "c", 3.0), Cell("large", "d", 2.0)]
    found = verdicts(merits, cells)
    assert str(found["small"]) == "holds in 1 of 2 cells"
    assert found["small"].worst.name == "b"
    assert str(found["large"]) == "holds in all 2 cells"
    assert found["large"].worst.name == "d"
    assert str(merits["large"]) == "y ≥ 1"


def test_a_number_that_is_none_is_the_worst():
    from validation.claims import Cell, Merit, verdicts

    cells = [Cell("m", "a", 5.0), Cell("m", "b", float("nan"))]
    found = verdicts({"m": Merit("", "", 1.0)}, cells)["m"]
    assert found.worst.name == "b"
    assert str(found) == "does not hold"


@pytest.mark.parametrize("merit", ["announced", "other"])
def test_what_was_announced_must_be_measured(merit):
    from validation.claims import Cell, Merit, verdicts

    merits = {"announced": Merit("", "", 1.0), "second": Merit("", "", 1.0)}
    with pytest.raises(ValueError, match="second"):
        verdicts(merits, [Cell(merit, "a", 0.0)])


def test_every_script_follows_the_protocol():
    from importlib import import_module

    from validation.__main__ import LONG, SCRIPTS
    from validation.claims import Merit, Setting

    for name in SCRIPTS + LONG:
        script = import_module(f"validation.{name}")
        assert len(script.__doc__.splitlines()[0]) > 30, name
        assert script.MERITS, name
        assert all(isinstance(merit, Merit) and merit.claim and merit.measure for merit in script.MERITS.values())
        for quick in (True, False):
            assert script.cases(Setting(quick=quick)), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a quick run of one script."""
    folder = tmp_path_factory.mktemp("claims")
    run("--only", "figure3", "--quick", "--jobs", "1", "--out", str(folder))
    return folder


def test_a_script_leaves_numbers_figures_and_verdicts(folder):
    content = json.loads((folder / "figure3.json").read_text(encoding="utf-8"))
    assert content["setting"] == {"quick": True, "device": "cpu", "data": None, "seed": 0}
    assert set(content["seconds"]) == set(content["cases"])
    for verdict in content["verdicts"]:
        assert {"claim", "merit", "worst", "worst cell", "verdict", "cells"} == set(verdict)
        assert all(cell["kept"] for cell in verdict["cells"]), verdict
    for stem in content["captions"]:
        assert (folder / f"{stem}.png").stat().st_size > 10_000
    table = (folder / "verdicts.md").read_text(encoding="utf-8")
    assert table.startswith("| claim | script | figure of merit | worst | verdict |")
    assert "| figure3 |" in table


@pytest.mark.slow
def test_what_is_there_is_not_computed_again_and_the_same_seed_gives_the_same_numbers(folder, tmp_path):
    from validation.claims import Setting
    from validation.running import Store, run_case

    store = Store("figure3", folder, Setting(quick=True))
    assert store.missing() == []
    for name, case in store.cases.items():
        again, _ = run_case("figure3", case, Setting(quick=True))
        assert json.loads(json.dumps(again)) == store.numbers[name]


def test_numbers_of_another_setting_or_another_text_are_not_taken_over(folder, monkeypatch):
    from validation import running
    from validation.claims import Setting

    assert running.Store("figure3", folder, Setting(quick=True, seed=1)).missing()
    monkeypatch.setattr(running, "_source", lambda script: "another")
    assert running.Store("figure3", folder, Setting(quick=True)).missing()


@pytest.mark.slow
def test_a_part_that_fails_is_named_and_the_others_are_kept(tmp_path, monkeypatch):
    from validation import figure3
    from validation.claims import Setting
    from validation.running import Store, run

    good = dict(figure3.cases(Setting(quick=True)))
    monkeypatch.setattr(figure3, "cases", lambda setting: {**good, "nonsense": None})
    store = Store("figure3", tmp_path, Setting(quick=True))
    failed = run([store], jobs=1)
    assert list(failed) == ["figure3: nonsense"]
    assert store.missing() == ["nonsense"]
    assert Store("figure3", tmp_path, Setting(quick=True)).missing() == ["nonsense"]


def test_training_goes_on_from_a_checkpoint_with_the_numbers_that_it_would_have_had(tmp_path, monkeypatch):
    import torch

    import modeq as mq
    from validation import training
    from validation.pictures import photographs

    data = photographs(crops=4)
    sgd = training.SGD(0.05, momentum=0.9, weight_decay=1e-3)

    def trained(**options):
        network = training.vgg(data.classes, batch_norm=True, width=1 / 32)
        charges = mq.find_charges(network, training.first_example(data), loss="cross_entropy")[:3]
        optimizer = sgd.optimizer(network)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
        return training.train(network, optimizer, data, charges, steps=6, batch=8, scheduler=schedule, **options)

    whole = trained()
    monkeypatch.setattr(training, "_SAVE_EVERY", 0.0)
    seen = []

    def interrupting(output, target):
        seen.append(None)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return torch.nn.functional.cross_entropy(output, target)

    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=tmp_path / "a.checkpoint", loss=interrupting)
    resumed = trained(checkpoint=tmp_path / "a.checkpoint")
    assert resumed.losses == whole.losses
    for name in whole.record.charges:
        assert (resumed.record[name].measured == whole.record[name].measured).all()
        for law, values in whole.record[name].predicted.items():
            assert (resumed.record[name].predicted[law] == values).all(), law


def test_a_training_repeats_exactly(tmp_path):
    import modeq as mq
    from validation import training
    from validation.pictures import photographs

    def losses(seed):
        data = photographs(crops=4, seed=seed)
        network = training.vgg(data.classes, batch_norm=False, width=1 / 32, seed=seed)
        charges = mq.find_charges(network, training.first_example(data), loss="cross_entropy")[:1]
        optimizer = training.SGD(0.05).optimizer(network)
        return training.train(network, optimizer, data, charges, steps=4, batch=8, seed=seed).losses

    assert losses(0) == losses(0) != losses(1)


def test_an_unknown_script_is_refused():
    done = run("--only", "figure9", check=False)
    assert done.returncode == 2
    assert "invalid choice: 'figure9'" in done.stderr


@pytest.mark.slow
def test_everything_quickly(tmp_path):
    done = run("--quick", "--out", str(tmp_path))
    from validation.__main__ import SCRIPTS

    for name in SCRIPTS:
        assert f"| {name} |" in done.stdout
