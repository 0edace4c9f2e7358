"""What the README shows is what happens."""

import json
import re
import shlex
from pathlib import Path

import pytest

from prunekit.cli import main
from prunekit.comparison.grid import Grid
from prunekit.criteria import CRITERIA
from prunekit.repairs import REPAIRS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RECOVERY = (ROOT / "docs" / "recovery.md").read_text()
WEIGHTS = (ROOT / "docs" / "weight_level.md").read_text()
COMPARE = (ROOT / "docs" / "compare.md").read_text()
DIMAP = (ROOT / "docs" / "dimap.md").read_text()
ANY = (ROOT / "docs" / "any_model.md").read_text()
PARTS = (ROOT / "docs" / "parts.md").read_text()
WHICH = (ROOT / "docs" / "which_models.md").read_text()


def blocks(language, page=README):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


@pytest.fixture
def own_plugins():
    yield
    CRITERIA._loaded.pop("l1", None)
    REPAIRS._loaded.pop("half_bias", None)


def test_the_python_runs(own_plugins, tmp_path, monkeypatch):
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


def test_the_python_about_recovery_runs(own_plugins):
    names = {"__name__": "recovery"}
    for block in blocks("python", RECOVERY):
        exec(compile(block, "recovery.md", "exec"), names)
    gains = names["result"].rounds[0].repaired
    assert gains
    assert all(gain.after < gain.before for gain in gains.values())


def test_the_python_about_single_weights_runs(own_plugins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "weight_level"}
    for block in blocks("python", WEIGHTS):
        exec(compile(block, "weight_level.md", "exec"), names)
    assert names["result"].got == pytest.approx(0.5, abs=1e-6)
    assert len(names["masks"]) == 40


def test_the_python_about_any_model_runs():
    names = {"__name__": "any_model"}
    for block in blocks("python", ANY):
        exec(compile(block, "any_model.md", "exec"), names)
    assert names["result"].parity.holds


def test_the_python_about_which_models_work_prints_what_is_shown(capsys):
    (block,), (printed,) = blocks("python", WHICH), blocks("text", WHICH)
    exec(compile(block, "which_models.md", "exec"), {"__name__": "which_models"})
    assert capsys.readouterr().out == printed


@pytest.mark.filterwarnings("ignore:.*does not run without values")
def test_the_python_about_parts_runs(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "parts"}
    detectors, others = [], []
    for block in blocks("python", PARTS):
        exec(compile(block, "parts.md", "exec"), names)
        (detectors if "classifier" not in names else others).append(names["result"])
    found = detectors[0]
    assert found.got == pytest.approx(0.4, abs=0.005)
    assert found.part[1].params == sum(p.numel() for p in names["small"].backbone.body.parameters())
    assert all(result.parity.holds for result in (*detectors, *others))


def test_the_python_about_comparisons_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "compare"}
    for block in blocks("python", COMPARE):
        exec(compile(block, "compare.md", "exec"), names)
    assert names["failures"] == []
    assert "dimap leads on convnext_micro" in names["findings"].answer


def test_the_grid_written_in_toml_is_a_grid(tmp_path):
    (block,) = blocks("toml", COMPARE)
    (tmp_path / "zoo.toml").write_text(block)
    grid = Grid.read(tmp_path / "zoo.toml", {})
    assert len(grid.cells({"swin_micro": ("mlp",), "vit_micro": ("mlp",)})) == 192


def test_the_answer_is_that_of_the_report():
    command, *answer = next(
        block.strip().splitlines()[1:] for block in blocks("console") if "prunekit compare" in block
    )
    report = json.loads((ROOT / "benchmarks" / "results" / "zoo" / "report.json").read_text())
    assert " ".join(answer) == report["answer"]
    assert command.removeprefix("$ ") == report["origin"]["command"]
    assert report["origin"]["missing"] == 0


PAGES = {
    "readme": README,
    "recovery": RECOVERY,
    "weights": WEIGHTS,
    "compare": COMPARE,
    "dimap": DIMAP,
    "any_model": ANY,
    "parts": PARTS,
    "which_models": WHICH,
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_every_linked_file_is_there(page):
    home = ROOT if page is README else ROOT / "docs"
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page) if "://" not in link]
    assert links
    assert all((home / link).exists() for link in links)
