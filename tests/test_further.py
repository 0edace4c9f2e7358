"""A saved model is pruned further, and loads like any other."""

from dataclasses import replace

import pytest
import torch

from prunekit import PruneError, finetune, load, prune
from prunekit.cli import main
from prunekit.errors import DataError, RequestError
from prunekit.evaluate import evaluate
from prunekit.inputs.lineage import lineage_of

IMAGE = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    home = tmp_path_factory.mktemp("once") / "small"
    prune("vit_micro", "magnitude", 0.3, axes=("mlp", "width")).save(home)
    return home


def same(one, other):
    with torch.inference_mode():
        expected, found = one(IMAGE), other(IMAGE)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [("mlp",), ("head",), ("width", "mlp", "head_dim")])
def test_what_is_pruned_twice_loads_like_what_is_pruned_once(once, axes, tmp_path):
    result = prune(str(once), "magnitude", 0.3, axes=axes)
    assert result.before.params == sum(p.numel() for p in load(once).parameters())
    assert result.got == pytest.approx(0.3, abs=0.02)
    result.save(tmp_path / "twice")
    again = load(tmp_path / "twice")
    same(result.model, again)
    assert set(lineage_of(again).plan.kept) >= set(lineage_of(load(once)).plan.kept)


def test_a_loaded_model_that_is_pruned_and_saved_loads_again(once, tmp_path):
    result = prune(load(once), "magnitude", 0.2)
    result.save(tmp_path / "twice")
    same(result.model, load(tmp_path / "twice"))


def test_single_weights_of_a_small_model_become_zero(once, tmp_path):
    result = prune(load(once), "magnitude", 0.5, granularity="weight")
    result.save(tmp_path / "masked")
    same(result.model, load(tmp_path / "masked"))


def test_the_command_line_takes_a_directory(once, tmp_path, capsys):
    arguments = ["--criterion", "magnitude", "--ratio", "0.2", "--no-evaluation", "--no-timing"]
    assert main(["run", "--arch", str(once), *arguments, "--out", str(tmp_path / "twice")]) == 0
    assert "vit_micro  magnitude" in capsys.readouterr().out
    load(tmp_path / "twice")


def test_what_says_how_to_build_a_model_is_refused_for_one_that_is_there(once):
    with pytest.raises(RequestError, match="a saved model that has its own"):
        prune(str(once), weights="random")
    with pytest.raises(RequestError, match="in_chans is 3, but the model is built already"):
        prune(str(once), in_chans=3)


def test_a_directory_that_holds_no_model_is_one_sentence(tmp_path):
    with pytest.raises(PruneError, match="is not a whole artifact"):
        prune(str(tmp_path))


def test_a_model_is_evaluated_and_pruned_further_in_the_size_it_was_made_for(tmp_path):
    options = {"weights": "random", "img_size": 64, "in_chans": 1, "num_classes": 10}
    result = prune("test_convnext", "magnitude", 0.2, **options, data="fashion-mnist-mini")
    assert result.recipe["input_size"] == [1, 64, 64]
    result.save(tmp_path / "small")
    again = prune(str(tmp_path / "small"), "magnitude", 0.2)
    assert again.recipe["input_size"] == [1, 64, 64]
    assert again.before.macs == result.after.macs


def test_a_folder_that_only_a_report_names_is_not_opened(tmp_path):
    result = prune("vit_micro", "magnitude", 0.5)
    recipe = {**result.recipe, "data": "../../.."}
    replace(result, recipe=recipe).save(tmp_path / "small")
    with pytest.raises(DataError, match="if that is right, add --data"):
        evaluate(tmp_path / "small")
    with pytest.raises(DataError, match="if that is right, add --data"):
        finetune(tmp_path / "small", tmp_path / "tuned")
    assert not (tmp_path / "tuned.training").exists()
