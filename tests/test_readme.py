"""What the README shows is what happens."""

import json
import shlex

import pytest
from pages import README, ROOT, blocks, own_plugins, run

from prunekit.cli import main


def console(word):
    """Return the lines of the first console block that holds a word."""
    return next(b.text for b in blocks(README, "console") if word in b.text).strip().splitlines()


def test_the_python_runs(tmp_path):
    with own_plugins():
        names = run(README, tmp_path)
    assert names["result"].got == pytest.approx(0.5, abs=0.005)
    small = sum(parameter.numel() for parameter in names["model"].parameters())
    assert small == names["result"].after.params


def test_the_typo_is_answered_as_shown(capsys):
    command, answer = console("dimpa")
    assert main(shlex.split(command.removeprefix("$ prunekit "))) == 2
    assert capsys.readouterr().err == answer + "\n"


def test_the_answer_is_that_of_the_report():
    _, command, *answer = console("prunekit compare")
    report = json.loads((ROOT / "benchmarks" / "results" / "zoo" / "report.json").read_text())
    assert " ".join(answer) == report["answer"]
    assert command.removeprefix("$ ") == report["origin"]["command"]
    assert report["origin"]["missing"] == 0
