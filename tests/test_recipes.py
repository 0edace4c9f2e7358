"""Recipes: what is in them, what is refused, and that each setting is a flag."""

import argparse
from dataclasses import fields, replace

import pytest

from prunekit.cli import finetune
from prunekit.errors import TrainingError
from prunekit.recovery.recipes import HERE, Recipe, find, from_settings, names, settings_of


@pytest.mark.parametrize("name", names())
def test_every_recipe_loads_and_survives_being_reported(name):
    recipe = find(name)
    assert from_settings(settings_of(recipe), "a report") == recipe
    assert (HERE / f"{name}.toml").read_text().startswith("#")  # says where it is from


def test_dimap_is_what_the_paper_says():
    recipe = find("dimap")
    assert (recipe.optimizer, recipe.schedule, recipe.epochs) == ("adamw", "cosine", 30)
    assert (recipe.lr, recipe.min_lr, recipe.warmup_lr) == (2e-5, 2e-7, 2e-8)
    assert recipe.warmup * recipe.epochs == 15
    assert recipe.weight_decay == 1e-8
    assert recipe.augment == "rand-m9-mstd0.5-inc1"
    assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing) == (0.8, 1.0, 0.1)
    assert (recipe.random_erasing, recipe.color_jitter) == (0.25, 0.4)
    assert not recipe.distill


def test_isomorphic_trains_long_and_distils():
    recipe = find("isomorphic")
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (300, 2048, 5e-4)
    assert recipe.distill


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    finetune.add(parser)
    return parser.parse_args(["somewhere", *arguments])


@pytest.mark.parametrize("entry", fields(Recipe), ids=lambda entry: entry.name)
def test_every_setting_is_a_flag_that_overrides_it(entry):
    flag = f"--{entry.name.replace('_', '-')}"
    assert getattr(parsed(), entry.name) is None
    if isinstance(entry.default, bool):
        assert getattr(parsed(flag), entry.name) is True
        assert getattr(parsed(f"--no-{flag[2:]}"), entry.name) is False
        return
    value = {int: 4, float: 0.25, str: "no"}[type(entry.default)]
    given = getattr(parsed(flag, str(value)), entry.name)
    recipe = find("quick").with_(**{entry.name: given})
    assert getattr(recipe, entry.name) == value
    assert replace(recipe, **{entry.name: getattr(find("quick"), entry.name)}) == find("quick")


def test_a_recipe_of_ones_own_is_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('lr = 1\nepochs = 3\naugment = "rand-m5"\n')
    assert find(path) == Recipe(lr=1.0, epochs=3, augment="rand-m5")


BAD_FILES = {
    "unknown": ("learning_rate = 1.0", r"mine\.toml: No setting is called 'learning_rate'"),
    "near": ("epoch = 3", "Did you mean 'epochs'"),
    "type": ('epochs = "3"', "epochs = '3', which is str; expected int"),
    "fraction": ("epochs = 2.5", "epochs = 2.5, which is float; expected int"),
    "bool": ("distill = 1", "distill = 1, which is int; expected bool"),
    "syntax": ("epochs = ", "not a readable recipe"),
    "zero": ("epochs = 0", "epochs = 0; expected 1 or more"),
    "negative": ("lr = -1e-3", "lr = -0.001; expected a number above 0"),
    "nan": ("lr = nan", "lr = nan; expected"),
    "warmup": ("warmup = 1.0", "from 0 to below 1"),
    "validation": ("validation = 0", "between 0 and 1"),
    "precision": ('precision = "fp8"', "expected no, fp16 or bf16"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_clear_sentence(case, tmp_path):
    text, expected = BAD_FILES[case]
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(TrainingError, match=expected):
        find(tmp_path / "mine.toml")


def test_a_wrong_name_earns_a_suggestion(tmp_path):
    with pytest.raises(TrainingError, match="Did you mean 'dimap'"):
        find("dimpa")
    with pytest.raises(TrainingError, match="known: dimap, isomorphic, quick"):
        find("nothing-like-it")
    with pytest.raises(TrainingError, match="not a readable recipe"):
        find(tmp_path / "none.toml")


@pytest.mark.parametrize("entry", fields(Recipe), ids=lambda entry: entry.name)
def test_no_number_may_be_below_its_range(entry):
    if isinstance(entry.default, (str, bool)):
        return
    with pytest.raises(TrainingError, match=entry.name):
        Recipe(**{entry.name: type(entry.default)(-1)})
