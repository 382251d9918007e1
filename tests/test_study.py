"""The main job and its command line: what it writes, what it finds, how it refuses and how it fails."""

import json
import subprocess
import sys

import pytest

import modeq as mq
from modeq import report, studies
from modeq.cli.main import main
from modeq.studies import Settings, method_of


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return mq.study(steps=20, out=tmp_path_factory.mktemp("study"))


def test_it_writes_its_four_files(short):
    names = {path.name for path in short.folder.iterdir()}
    assert names == {"report.md", "trajectories.png", "charges.png", "charges.npz", "study.json"}
    assert json.loads((short.folder / "study.json").read_text()) == json.loads(json.dumps(short.results))


def test_its_figures_of_the_quadratic(short):
    """Weight decay 5e-4 moves the published figures by less than their last digit."""
    rows = {row["title"]: row for row in short.results["quadratic"]["rows"]}
    assert rows["gradient flow"]["error"] == pytest.approx(0.349, abs=1e-3)
    assert rows["time derivatives, order 2"]["error"] == pytest.approx(0.00164, abs=1e-5)
    assert rows["time derivatives, order 2, from rest"]["error"] == pytest.approx(0.0488, abs=1e-4)
    assert rows["phase space, order 3"]["error"] < 1e-5
    assert rows["phase space, order 5"]["error"] < 1e-8
    assert rows["vector field, order 2"]["note"] == "outside its series limit"


def test_its_charges(short):
    for charge in short.results["training"]["charges"]:
        assert charge["discrete_without_epsilon"] < 1e-12
        if charge["family"] == "Scale":
            assert charge["discrete"] > 1e3 * charge["discrete_without_epsilon"]
            assert "An ε in the normalisation breaks scale symmetry" in charge["explanation"]
        else:
            assert charge["discrete"] < 1e-12


def test_the_report_says_which_forms_mean_anything(short):
    text = (short.folder / "report.md").read_text(encoding="utf-8")
    assert (
        "| quadratic of Figure 4 | 0.04 | 0.002633 | 3.8 | B and C; the vector field (A) only as gradient flow" in text
    )
    assert "| tanh network, at the start |" in text
    assert "| trained network, at the end |" in text
    assert "nan" not in text.lower()


def test_the_smooth_network_is_small(short):
    network = short.results["network"]
    assert network["parameters"] <= 2000
    assert network["images"] <= 256
    rows = {row["title"]: row["error"] for row in network["rows"]}
    assert rows["phase space, order 5"] < rows["phase space, order 3"] < rows["time derivatives, order 2"]
    assert rows["time derivatives, order 2"] < rows["gradient flow"] / 100


def test_the_table_fits_a_terminal(short):
    assert max(len(line) for line in short.table().splitlines()) <= 100


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"network": "mlp", "momentum": 0.0, "weight_decay": 0.0}, marks=pytest.mark.slow),
        pytest.param({"network": "mlp", "nesterov": True}, marks=pytest.mark.slow),
        {"network": "vit"},
        pytest.param({"network": "mlp", "momentum": 0.5, "lr": 0.02}, marks=pytest.mark.slow),
        pytest.param({"network": "mlp", "dampening": 0.3, "lr": 0.1}, marks=pytest.mark.slow),
    ],
    ids=["no momentum", "nesterov", "attention", "momentum 0.5", "dampening"],
)
def test_every_option_runs_to_the_end(options, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "ORDERS", studies.ORDERS | {"phase": (1,)})  # the higher ones are above
    result = mq.study(steps=12, out=tmp_path, **options)
    assert "failure" not in result.results
    charges = result.results["training"]["charges"]
    assert all(charge.get("discrete_without_epsilon", charge["discrete"]) < 1e-12 for charge in charges)
    assert (tmp_path / "charges.png").exists()
    if options["network"] == "vit":
        assert {charge["generators"] for charge in charges if charge["family"] == "GeneralLinear"} == {2 * 6 * 7 // 2}
        assert "GeneralLinear" in result.table()
        assert max(len(line) for line in result.table().splitlines()) <= 100
    if options.get("nesterov"):
        assert all(charge["article"] is None for charge in result.results["training"]["charges"])
    if options.get("momentum") == 0.0:
        rows = {row["title"]: row["error"] for row in result.results["quadratic"]["rows"]}
        assert rows["vector field, order 3"] < rows["vector field, order 2"] < rows["gradient flow"]


def test_a_diverging_training_keeps_what_there_is(tmp_path, capsys):
    code = main(["study", "--network", "mlp", "--lr", "1e6", "--steps", "40", "--out", str(tmp_path)])
    assert code == 1
    error = capsys.readouterr().err
    assert [line for line in error.splitlines() if line.startswith("modeq: ")]
    saved = json.loads((tmp_path / "study.json").read_text())
    assert saved["failure"]
    assert saved["derivation"]["series_limit"] == pytest.approx(0.002633, abs=1e-6)
    assert "did not finish" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "trajectories.png").exists()


@pytest.mark.slow
def test_a_training_that_diverges_late_keeps_its_charges(tmp_path):
    with pytest.raises(mq.Diverged, match=r"the loss is .* at step .*: use a smaller learning rate"):
        mq.study("mlp", lr=6.0, momentum=0.9, weight_decay=1.0, steps=300, out=tmp_path)
    assert (tmp_path / "charges.png").exists()


USAGE = [
    (["--network", "resnet"], "network is 'resnet': choose from cnn, mlp, vit"),
    (["--lr", "-0.1"], "lr is -0.1: give a positive learning rate"),
    (["--lr", "nan"], "lr is nan: give a positive learning rate"),
    (["--momentum", "1"], r"momentum is 1.0: give a number in [0, 1)"),
    (["--momentum", "1.2"], r"momentum is 1.2: give a number in [0, 1)"),
    (["--dampening", "1"], r"dampening is 1.0: give a number in [0, 1)"),
    (["--nesterov", "--dampening", "0.1"], "Nesterov momentum needs a positive momentum and dampening 0"),
    (["--weight-decay", "-1"], "weight decay is -1.0: give a number that is not negative"),
    (["--batch-size", "1"], "batch_size is 1: give an integer from 2"),
    (["--steps", "0"], "steps is 0: give an integer from 1"),
    (["--out", "/proc/modeq"], "out is '/proc/modeq', which cannot be written"),
    (["--out", ""], "out is empty: give a folder"),
    (["--out", __file__], "which is a file: give a folder of your own"),
    (["--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
    (["--learning"], "modeq study: the option is '--learning': did you mean"),
]


@pytest.mark.parametrize(
    "arguments, message", USAGE, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments, message, capsys):
    try:
        code = main(["study", *arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


def test_too_large_batches_are_a_usage_error(tmp_path, capsys):
    assert main(["study", "--batch-size", "5000", "--out", str(tmp_path)]) == 2
    assert "there are 1437 training images" in capsys.readouterr().err


def test_missing_digits_name_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["study", "--out", str(tmp_path)]) == 1
    assert "modeq[examples]" in capsys.readouterr().err


def test_the_module_runs_as_a_command():
    done = subprocess.run([sys.executable, "-m", "modeq", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"modeq {mq.__version__}"
    help_text = subprocess.run(
        [sys.executable, "-m", "modeq", "study", "--help"], capture_output=True, text=True, check=True
    )
    assert "example:\n  modeq study --network mlp" in help_text.stdout


@pytest.mark.parametrize(
    "value, expected",
    [(0.001, "A, B and C"), (0.05, "B and C; the vector field (A) only as gradient flow, to order 1"), (5.0, "none")],
)
def test_regimes(value, expected):
    assert report.regime(value, 0.0026, 3.8).startswith(expected)


def test_the_method_of_the_settings():
    assert repr(method_of(Settings(momentum=0.0, weight_decay=0.0))) == "GradientDescent()"
    assert (
        repr(method_of(Settings(dampening=0.1))) == "HeavyBall(momentum=9/10, dampening=1/10).with_weight_decay(1/2000)"
    )
    assert repr(method_of(Settings(nesterov=True, weight_decay=0))) == "Nesterov(momentum=9/10)"
    assert list(studies.NETWORKS) == ["cnn", "mlp", "vit"]
