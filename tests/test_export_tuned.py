"""A fine-tuned artifact is exported to every target, and its files say what was done."""

import json
import shlex
from dataclasses import replace

import pytest
import torch
from conftest import write_digits

from prunekit import export, load, prune
from prunekit.artifact import read_report
from prunekit.cli import main
from prunekit.exporting.exported import origin_of
from prunekit.exporting.hub_folder import command_of, training_of
from prunekit.exporting.source import source_of
from prunekit.recovery import recipes

SETTINGS = ["--epochs", "1", "--batch-size", "16", "--ema-decay", "0.5", "--distill"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a folder with digits, and a model that was trained on them: `tuned`."""
    home = tmp_path_factory.mktemp("tuned")
    write_digits(home / "digits")
    options = {"axes": ["mlp"], "uniform": True, "timed": False, "evaluate": False}
    prune("vit_micro", "magnitude", 0.3, **options).save(home / "small")
    told = ["--data", str(home / "digits"), "--device", "cpu", "--seed", "3", "--quiet"]
    assert (
        main(["finetune", str(home / "small"), *SETTINGS, *told, "--out", f"{home / 'tuned'}"]) == 0
    )
    return home


@pytest.fixture(scope="module")
def small(home):
    return source_of(home / "small")


@pytest.mark.parametrize("to", ["onnx", "torch-export", "timm", "hub-folder"])
def test_every_target_takes_it_and_says_that_it_was_trained(home, tmp_path, to):
    assert not torch.equal(load(home / "tuned").head.weight, load(home / "small").head.weight)
    found = export(home / "tuned", to, tmp_path / "out", timed=False)
    assert all(proof.holds for proof in found.proofs)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["origin"]["prunekit.finetuned"] == f"recipe quick, on {home / 'digits'}"


def test_what_was_not_trained_does_not_say_so(small):
    assert "prunekit.finetuned" not in origin_of(small)
    assert training_of(small) is None


def test_the_commands_on_the_card_train_alike(home, tmp_path):
    export(home / "tuned", "hub-folder", tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "and fine-tuned with the recipe `quick`" in card
    (line,) = [line for line in card.splitlines() if line.startswith("$ prunekit finetune")]
    words = shlex.split(line.removeprefix("$ prunekit "))
    words[1] = str(home / "small")
    assert main([*words, "--device", "cpu", "--quiet", "--out", str(tmp_path / "again")]) == 0
    told, again = (read_report(place)["finetune"] for place in (home / "tuned", tmp_path / "again"))
    assert again["settings"] == told["settings"]
    assert again["seed"] == told["seed"] == 3
    own, other = (load(place).state_dict() for place in (home / "tuned", tmp_path / "again"))
    assert all(torch.equal(own[name], other[name]) for name in own)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (None, ""),
        ({"name": "quick", "epochs": 3}, "--finetune 3"),
        ({"name": "quick", "epochs": 3, "distill": True}, "--finetune 3 --distill"),
        ({"name": "isomorphic", "epochs": 2}, "--finetune 2 --recipe isomorphic"),
        ({"name": "quick", "epochs": 3, "lr": 0.5}, "--finetune 3"),  # no flag says the rest
        ({"name": "isomorphic", "epochs": 2, "distill": False}, "--finetune 2"),
    ],
)
def test_the_command_says_how_it_was_trained_between_steps(small, settings, words):
    told = None
    if settings is not None:
        changed = {key: value for key, value in settings.items() if key != "name"}
        told = recipes.settings_of(recipes.find(settings["name"]).with_(**changed))
    report = {**small.report, "recipe": {**small.report["recipe"], "finetune": told}}
    command = command_of(replace(small, report=report))
    assert command.partition("--axes mlp ")[2].removesuffix("--uniform").strip() == words
