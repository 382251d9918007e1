"""What all commands share: names that there are not, how they end, what they load, and the page that shows them."""

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import modeq as mq
from modeq import studies
from modeq.cli import compare, derive, study, symmetries
from modeq.cli.main import main
from modeq.cli.shared import ENDINGS

PAGE = (Path(__file__).parents[1] / "docs" / "command_line.md").read_text(encoding="utf-8")
COMMANDS = ("derive", "compare", "symmetries", "study")


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)


def ended(capsys, *arguments):
    """The exit status and both streams, however the command line ends."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_without_arguments_it_prints_its_help(capsys):
    code, out, err = ended(capsys)
    assert (code, err) == (0, "")
    assert out == ended(capsys, "--help")[1]
    assert all(f"\n    {command}" in out for command in COMMANDS)


def test_version(capsys):
    assert ended(capsys, "--version") == (0, f"modeq {mq.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_the_statuses_and_an_example_of_the_page(command, capsys):
    code, out, _ = ended(capsys, command, "--help")
    assert code == 0
    assert ENDINGS in out
    (example,) = re.findall(r"^example:\n  (.*)$", out, re.MULTILINE)
    assert f"$ {example}\n" in PAGE
    assert "  --json " in out


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from modeq.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'matplotlib', 'sympy', 'scipy', 'numpy') if m in sys.modules])"
    )
    for arguments in ([], ["--help"], ["study", "--help"], ["derive", "--help"], ["compare", "--speed"]):
        assert python("-c", code, *arguments).stdout.splitlines()[-1] == "[]"


def test_deriving_loads_no_torch():
    code = "import sys; from modeq.cli.main import main; main(['derive', 'gd', '--charge', 'scale'])"
    done = python("-c", f"{code}; print('torch' in sys.modules)")
    assert done.stdout.endswith("\nFalse\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["symetries"], "modeq: the command is 'symetries': did you mean symmetries? Choose from derive, compare, "),
        (["train"], "modeq: the command is 'train': choose from derive, compare, symmetries, study"),
        (["--versoin"], "modeq: the option is '--versoin': did you mean --version? Choose from --help, --version"),
        (["study", "--networks", "cnn"], "modeq study: the option is '--networks': did you mean --network? Choose"),
        (["study", "--network=cm", "--step-s=3"], "modeq study: the option is '--step-s': did you mean --steps?"),
        (["study", "--network", "mpl"], "modeq: network is 'mpl': did you mean mlp? Choose from cnn, mlp, vit"),
        (["compare", "--problem", "rosenbruck"], "modeq: the problem is 'rosenbruck': did you mean rosenbrock? Choose"),
        (["compare", "--problem", "beale", "--methods", "nestorov"], "modeq: the method is 'nestorov': did you"),
        (["compare", "--problem", "beale", "--forms", "hermit"], "modeq: forms has 'hermit': did you mean hermite?"),
        (["compare", "--problem", "beale", "--methods", "pid"], "modeq: pid has no --derivative: give a number"),
        (["--"], "modeq: the following arguments are required: command"),
        (["compare"], "modeq compare: the following arguments are required: --problem"),
        (["study", "--steps", "two"], "modeq study: argument --steps: invalid int value: 'two'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_wrong_name_is_answered_with_the_right_one(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = ended(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "module, arguments, kept",
    [
        (derive, ["derive", "gd"], "nothing is kept"),
        (symmetries, ["symmetries", "a.py:b", "--input", "2"], "nothing is kept"),
        (compare, ["compare", "--problem", "beale"], "nothing is kept"),
        (compare, ["compare", "--problem", "beale", "--checkpoint", "parts"], "what was found is kept in parts"),
        (study, ["study", "--out", "folder"], "what was found is kept in folder"),
    ],
)
def test_an_interruption_says_what_is_kept(module, arguments, kept, capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run", interrupted)
    assert ended(capsys, *arguments) == (130, "", f"modeq: interrupted; {kept}\n")


@pytest.mark.parametrize("arguments", [["derive", "gd"], ["derive", "--help"]])
def test_a_reader_that_leaves_is_no_error(arguments):
    # Only what is buffered meets the closed pipe when Python ends.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "modeq", *arguments]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    running.stdout.close()
    with running.stderr:
        assert running.stderr.read() == b""
    assert running.wait() == 141


# --- the page ---------------------------------------------------------------------------------------------------------


def printed(block):
    """The commands of a block, each with the output below it."""
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)


SESSIONS = [printed(block) for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session[0][0])
def test_the_page_is_what_is_printed(session, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(studies, "ORDERS", studies.ORDERS | {"phase": (1,)})  # the page leaves those rows out
    (name, source), *others = re.findall(r"^```\{code-block\} python\n:caption: (.*?)\n\n(.*?)^```$", PAGE, re.M | re.S)
    assert not others
    Path(name).write_text(source, encoding="utf-8")
    check, status = doctest.OutputChecker(), None
    for command, expected in session:
        if command == "echo $?":
            assert expected == f"{status}\n"
            continue
        program, *arguments = shlex.split(command)
        assert program == "modeq"
        status, out, err = ended(capsys, *arguments)
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert check.check_output(expected, out if status != 2 else err, flags), out + err
        if arguments[0] == "study":
            assert set(json.loads(Path("my-study", "study.json").read_text(encoding="utf-8"))) == KEYS["study"]


KEYS = {
    command: set(re.findall(r"`(\w+)`", keys))
    for command, keys in re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.MULTILINE)
}


@pytest.mark.parametrize(
    "arguments",
    [
        ["derive", "gd"],
        ["compare", "--problem", "two-layer-scalar", "--methods", "gd", "--forms", "field", "--quick"],
        ["symmetries", "network.py:build", "--input", "4,3", "--loss", "mse"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_page_has_the_keys_of_each_record(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("network.py").write_text("import torch\n\ndef build():\n    return torch.nn.Linear(3, 2)\n", encoding="utf-8")
    code, out, _ = ended(capsys, *arguments, "--json")
    assert code == 0
    assert set(json.loads(out)) == KEYS[arguments[0]]
