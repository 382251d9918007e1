"""The command ``modeq symmetries``: its tables, its exit codes."""

import json

import pytest

from modeq.cli.main import main

NETWORKS = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))

def tokens():
    return nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 5))

def nothing():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

number = 3

def no_module():
    return 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "networks.py"
    path.write_text(NETWORKS)
    return path


def run(capsys, *arguments):
    code = main(["symmetries", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_it_prints_what_it_found_and_measured(file, capsys):
    code, out, err = run(capsys, f"{file}:build", "--input", "6,1,6,6", "--loss", "cross_entropy")
    assert (code, err) == (0, "")
    assert "scale        0         2           up to ε  0.weight, 0.bias feeds 1 (BatchNorm2d)" in out
    assert "translation  4.weight  32          exact    4.weight is shifted before the softmax" in out
    assert "with a part left out" in out


def test_tokens_and_json(file, capsys):
    code, out, _ = run(capsys, f"{file}:tokens", "--input", "3,4", "--tokens", 5, "--loss", "cross_entropy", "--json")
    assert code == 0
    charges = json.loads(out)["charges"]
    assert {"translation", "rescale"} <= {charge["kind"] for charge in charges}
    assert all(charge["action"] < 1e-4 for charge in charges)


def test_what_epsilon_breaks_is_verified_against_its_prediction(file, capsys, tmp_path):
    code, out, _ = run(capsys, f"{file}:build", "--input", "6,1,6,6", "--figure", tmp_path / "a.png", "--json")
    assert code == 0
    scale = next(charge for charge in json.loads(out)["charges"] if charge["kind"] == "scale")
    assert scale["unexplained"] < 1e-13 < scale["gradient"] == pytest.approx(scale["predicted"], rel=1e-6)
    assert (tmp_path / "a.png").stat().st_size > 5_000
    code, _, err = run(capsys, f"{file}:build", "--input", "6,1,6,6", "--figure", tmp_path / "none" / "a.png")
    assert code == 2
    assert "which cannot be written" in err


def test_no_symmetry(file, capsys):
    code, out, _ = run(capsys, f"{file}:nothing", "--input", "4,3", "--loss", "mse")
    assert (code, out.strip()) == (0, "no symmetry found")
    assert run(capsys, f"{file}:nothing", "--input", "4,3")[0] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{}:build", "--input", "6,2,6,6"], "fails on an input of the shapes [(6, 2, 6, 6)]: RuntimeError"),
        (["{}:build", "--input", "6,x"], "--input is '6,x': give sizes from 1"),
        (["{}:none", "--input", "6"], "has no function 'none'"),
        (["{}:number", "--input", "6"], "has no function 'number'"),
        (["{}:no_module", "--input", "6"], "returns int: it must return a torch.nn.Module"),
        (["nowhere.py:build", "--input", "6"], "'nowhere.py:build' names no file"),
        (["{}:build", "--input", "6,1,6,6", "--loss", "hinge"], "--loss is 'hinge'"),
    ],
)
def test_wrong_calls(arguments, message, file, capsys):
    code, _, err = run(capsys, *(argument.format(file) for argument in arguments))
    assert code == 2
    assert message in err
