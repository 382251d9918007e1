"""The command ``modeq compare``: its table, its files, its exit codes."""

import json

import matplotlib.image
import pytest
import sympy as sp

import modeq as mq
from modeq.cli import compare
from modeq.cli.main import main

X, Y = sp.symbols("x y")


class Plane(mq.SymbolicProblem):
    """A loss with a start of its own, as the problems of the command line have."""

    def start(self, start=None):
        return super().start([1.0, 0.0] if start is None else start)


@pytest.fixture
def plane(monkeypatch):
    problem = Plane(sp.Rational(5, 4) * (X**2 + Y**2) - sp.Rational(3, 2) * X * Y, [X, Y])
    monkeypatch.setattr("modeq.numeric.problems.by_name", lambda name, seed: problem)


def run(capsys, *arguments):
    code = main(["compare", "--problem", "plane", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_it_prints_a_table_and_writes_figures(plane, tmp_path, capsys):
    code, out, err = run(capsys, "--methods", "gd", "heavy-ball", "--steps", 20, "--out", tmp_path)
    assert code == 0
    assert "HeavyBall(momentum=9/10), h = 0.01, 20 steps: largest error" in out
    assert "vector field, order 2 outside its series limit" in " ".join(out.split())
    assert "h·λ_max = 0.04 at step 0 is beyond the series limit 0.002633" in err
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"comparison.json", "errors.png", "losses.png", "plane.png", "curvature.png"}
    assert all(name in err for name in written)
    for figure in tmp_path.glob("*.png"):
        assert matplotlib.image.imread(figure)[..., :3].std() > 0.02  # it shows something
    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert stored["settings"]["command"] == "compare"
    assert stored["methods"]["GradientDescent()"]["best_order"] == {"field": 3, "time": 3, "phase": 3, "exact": 0}


def test_a_law_has_one_colour_in_all_panels(tmp_path, monkeypatch, plane):
    import matplotlib.figure

    seen = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, path, **_: seen.append(self))
    result = mq.compare(
        [mq.GradientDescent(), mq.HeavyBall(0.9)], mq.problems.by_name("", 0), h=0.01, steps=5, progress=False
    )
    compare._draw(result, tmp_path)
    colours = {}
    for line in (line for ax in seen[0].axes for line in ax.get_lines()):
        colours.setdefault(line.get_label(), set()).add(line.get_color())
    assert all(len(shades) == 1 for shades in colours.values())
    assert len(set.union(*colours.values())) == len(colours)


def test_json_on_stdout_is_what_is_written(plane, tmp_path, capsys):
    code, out, _ = run(capsys, "--json", "--quick", "--out", tmp_path, "--forms", "field", "--weight-decay", 0.1)
    assert code == 0
    stored = json.loads(out)
    assert stored == json.loads((tmp_path / "comparison.json").read_text())
    assert stored["steps"] == 10
    assert [entry["order"] for entry in stored["entries"]] == [1, 2]
    assert "with_weight_decay(1/10)" in next(iter(stored["methods"]))


def test_players_of_a_game_and_decay_that_is_decoupled(plane, tmp_path, capsys, monkeypatch):
    code, out, _ = run(capsys, "--quick", "--forms", "field", "--weight-decay", 0.1, "--decoupled", "--out", tmp_path)
    assert code == 0
    assert out.startswith("HeavyBall(momentum=9/10).with_weight_decay(1/10, decoupled=True), h = 0.01")
    game = mq.problems.dirac_gan()
    monkeypatch.setattr("modeq.numeric.problems.by_name", lambda name, seed: game)
    options = ["--methods", "gd", "--game", "alternating", "--forms", "field", "--orders", 1, 2, "--json"]
    code, out, _ = run(capsys, *options, "--steps", 10, "--out", tmp_path)
    assert code == 0
    first, second = (entry["error"] for entry in json.loads(out)["entries"])
    assert second < first / 100


def test_a_checkpoint_is_taken_up(plane, tmp_path, capsys):
    arguments = ("--quick", "--methods", "nesterov", "--out", tmp_path / "out", "--checkpoint", tmp_path / "kept")
    first, second = run(capsys, *arguments), run(capsys, *arguments)
    assert first[:2] == second[:2]
    code, _, err = run(capsys, *arguments, "--lr", 0.02)
    assert code == 2
    assert "holds another run: h is 0.01 there, 0.02 here" in err


def test_an_optimizer_that_diverges_is_a_failed_run(plane, tmp_path, capsys):
    code, out, _ = run(capsys, "--methods", "gd", "--lr", 1e80, "--forms", "field", "--orders", 1, "--out", tmp_path)
    assert code == 1
    assert "the optimizer itself: the parameters are not finite after step" in out
    assert (
        json.loads((tmp_path / "comparison.json").read_text())["methods"]["GradientDescent()"]["status"] == "DIVERGED"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--lr", "-1"], "h is -1.0: give a positive number"),
        (["--steps", "0"], "steps is 0: give a positive integer"),
        (["--orders", "0"], "order is 0: the lowest"),
        (["--forms", "magic"], "forms has 'magic': choose from"),
        (["--methods", "adam"], "the method is 'adam': choose from gd, heavy-ball, nesterov"),
        (["--methods", "gd", "gd"], "methods repeats one of"),
        (["--momentum", "1.5"], "momentum"),
        (["--rtol", "0"], "rtol is 0.0"),
        (["--out", "/dev/null/x"], "--out is /dev/null/x: it cannot be used as a folder"),
    ],
)
def test_a_wrong_call_is_one_line_and_code_two(plane, tmp_path, capsys, arguments, message):
    code, out, err = run(capsys, "--out", tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--steps", "two"], ["--orders"], ["--speed", "3"]])
def test_arguments_that_cannot_be_read_end_the_same(plane, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        run(capsys, *arguments)
    assert ended.value.code == 2


def test_an_interruption_says_where_the_rest_is(plane, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("modeq.numeric.comparison.compare", interrupted)
    code, _, err = run(capsys, "--out", tmp_path)
    assert (code, err) == (130, "modeq: interrupted; nothing is kept\n")
    code, _, err = run(capsys, "--out", tmp_path, "--checkpoint", tmp_path / "kept")
    assert (code, err) == (130, f"modeq: interrupted; what was found is kept in {tmp_path / 'kept'}\n")


def test_networks_with_kinks_get_fixed_steps(monkeypatch, tmp_path, capsys):
    import torch

    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).double()
    problem = mq.TorchProblem(net, torch.nn.functional.mse_loss, x, x**2)
    monkeypatch.setattr("modeq.numeric.problems.by_name", lambda name, seed: problem)
    options = ["--steps", 6, "--forms", "field", "--orders", 1, "--methods", "gd", "--out", tmp_path]
    code, _, err = run(capsys, *options)
    assert code == 0
    assert "the network has kinks; flows make 2 fixed steps" in err
    assert "has kinks" not in run(capsys, *options, "--substeps", 5)[2]
