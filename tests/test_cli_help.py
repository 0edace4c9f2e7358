"""What --help shows can be typed, and the shell is told what may follow."""

import argparse
import os
import shlex
import subprocess
import sys

import pytest

from prunekit.cli import _parser, main
from prunekit.criteria import CRITERIA

(_COMMANDS,) = (
    action.choices
    for action in _parser()._actions
    if isinstance(action, argparse._SubParsersAction)
)
EXAMPLES = [
    line.strip()
    for parser in _COMMANDS.values()
    for line in (parser.epilog or "").splitlines()
    if "prunekit" in line
]


def test_the_long_commands_have_examples():
    assert {line.partition("prunekit ")[2].split()[0] for line in EXAMPLES} == {
        "run", "compare", "export", "finetune", "sensitivity",
    }  # fmt: skip


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_can_be_typed(line):
    command = line.partition("&&")[0].partition("prunekit ")[2]
    assert _parser().parse_args(shlex.split(command)).run


def completed(typed: str) -> list[str]:
    """Ask prunekit what may follow, as a shell does through argcomplete."""
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": typed, "COMP_POINT": str(len(typed))}
    script = (
        "import os, sys; os.dup2(1, 8); os.dup2(2, 9); sys.argv[0] = 'prunekit'; "
        "from prunekit.cli import main; main()"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **asked, "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SHELL": "bash"},
        capture_output=True,
        text=True,
    )
    return [word.strip() for word in answer.stdout.splitlines()]


def test_the_shell_completes_commands_options_and_names():
    assert completed("prunekit exp") == ["export"]
    assert "--criterion" in completed("prunekit run --cri")
    assert completed("prunekit run --criterion ") == CRITERIA.names()
    assert {"vit_micro", "vit_b"} <= set(completed("prunekit run --arch vit_"))
    assert completed("prunekit export there --to t") == ["torch-export", "timm"]


def test_quiet_prints_warnings_only(tmp_path, capsys):
    prune = ["run", "--criterion", "magnitude", "--ratio", "0.3", "--no-timing"]
    prune += ["--no-evaluation", "--quiet", "--out", str(tmp_path / "small")]
    assert main([*prune, "--arch", "vit_micro"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "small" / "report.json").exists()
    assert main([*prune, "--arch", "vit_micro", "--num-classes", "3"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("prunekit: RANDOM WEIGHTS in the classifier")
    assert main(["export", str(tmp_path / "small"), "--to", "hub-folder", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_quiet_and_json_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--arch", "vit_micro", "--quiet", "--json"])
    assert "not allowed with argument" in capsys.readouterr().err
