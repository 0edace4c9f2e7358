"""What the README shows is what happens."""

import re
import shlex
from pathlib import Path

import pytest

from prunekit.cli import main
from prunekit.criteria import CRITERIA

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def own_criterion():
    yield
    CRITERIA._loaded.pop("l1", None)


def test_the_python_runs(own_criterion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["result"].got == pytest.approx(0.5, abs=0.005)
    small = sum(parameter.numel() for parameter in names["model"].parameters())
    assert small == names["result"].after.params


def test_the_typo_is_answered_as_shown(capsys):
    command, answer = next(block.split("\n")[:2] for block in blocks("console") if "dimpa" in block)
    assert main(shlex.split(command.removeprefix("$ prunekit "))) == 2
    assert capsys.readouterr().err == answer + "\n"


def test_the_figures_are_those_of_the_results_page():
    page = (Path(__file__).parents[1] / "benchmarks" / "results" / "zoo_accuracy.md").read_text()
    rows = re.findall(r"^\| (\w+) +\| ([\d. |]+)\|$", README, re.MULTILINE)
    assert len(rows) == len(CRITERIA.names())
    for _, figures in rows:
        for figure in figures.split("|"):
            assert figure.strip() in page
