"""The paper's benchmark: that it counts, tests, draws and judges what it says."""

from __future__ import annotations

import doctest
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import write_digits
from PIL import Image
from timm.models.swin_transformer import SwinTransformer

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import dimap_paper
from paper import (
    claims,
    drawing,
    finetuned,
    judging,
    masked,
    parts,
    pictures,
    published,
    sizes,
    unstructured,
)
from paper.parts import Cells, Settings, read

TOY = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (2, 2)}
EPOCH = ("--epochs", "1", "--batch-size", "32")


@timm.models.register_model
def swin_toy(pretrained: bool = False, **options: object) -> SwinTransformer:
    """Return what timm would build by this name."""
    options = {key: value for key, value in options.items() if key == "num_classes"}
    model = SwinTransformer(**TOY, num_heads=(2, 4), **{"num_classes": 10, **options})
    model.pretrained_cfg = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return model


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file of weights, all of which are worth something."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "toy.pth"
    state = swin_toy().state_dict()
    noise = {
        name: value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value
        for name, value in state.items()
    }
    torch.save(noise, path)
    return path


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory) -> Path:
    """What the whole path for ImageNet makes, of a folder of digits."""
    out = tmp_path_factory.mktemp("made")
    images = write_digits(tmp_path_factory.mktemp("digits"))
    data = ("--data", str(images), "--out", str(out))
    wanted = ("--parts", "unstructured,finetuned,pictures")
    assert main("--arch", "swin_toy", "--weights", str(weights), *data, *wanted, *EPOCH) == 0
    return out


def main(*arguments: str) -> int:
    return dimap_paper.main(list(arguments))


def data_of(out: Path, name: str) -> dict:
    return read(out, name)["data"]


# The whole path, on images and weights of one's own


def test_the_report_has_every_part_with_what_it_was_made_with(made):
    report = (made / "report.md").read_text()

    for part in (claims.PART, unstructured.PART, finetuned.PART, pictures.PART):
        assert f"## {part.title}\n" in report
        kept = read(made, part.name)
        assert kept["made"]["seed"] == 0
        assert "torch" in kept["made"]["versions"]
        assert kept["made"]["command"] in report
    for figure in ("figure_5_swin_toy.svg", "figure_6_swin_toy.png"):
        assert f"({figure})" in report
        assert (made / figure).stat().st_size > 1000


def test_the_papers_ratios_are_all_there_and_no_others(made):
    third = data_of(made, "unstructured")["table_3"]

    assert third["ratios"] == list(published.TABLE_3_RATIOS)
    for line in third["models"]["swin_toy"].values():
        for ratio, one in zip(third["ratios"], line, strict=True):
            assert one["params"] == pytest.approx((1 - ratio) * one["dense_params"], abs=1)
            assert one["images"] == 20
            assert one["masked"]["low"] <= one["masked"]["top1"] <= one["masked"]["high"]


def test_fine_tuning_goes_by_the_papers_recipe_but_for_what_was_changed(made):
    found = data_of(made, "finetuned")

    assert found["recipe"] == "dimap"
    settings = found["settings"]
    assert (settings["epochs"], settings["batch_size"]) == (1, 32)
    assert (settings["lr"], settings["min_lr"], settings["warmup_lr"]) == (2e-5, 2e-7, 2e-8)
    rows = found["models"]["swin_toy"]["rows"]
    assert [row["name"] for row in rows] == ["DIMAP1", "DIMAP2", "DIMAP3", "DIMAP3, one module"]
    assert all(len(row["after"]) == 1 for row in rows)
    assert not list((made / "cells" / "finetuned").glob("*")), "checkpoints are cleared away"


def test_masks_stay_while_the_rest_is_trained(weights, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        finetuned, "_tested", lambda model, _: trained.append(model) or {"top1": 0.0}
    )
    images = write_digits(tmp_path / "digits")
    settings = Settings(("swin_toy",), tmp_path, (str(weights),), str(images))
    way = finetuned.ways(settings)[2]
    fast = {"epochs": 4, "batch_size": 16, "lr": 1e-2, "ema_decay": 0.0, "validation": 0.3}
    recipe = finetuned.recipes.find("quick").with_(**fast)  # the best epoch is not the start

    finetuned._trained(settings, "swin_toy", way, recipe, tmp_path / "work")

    before = masked.mask(settings, "swin_toy", way.choice)
    after = dict(trained[0].named_parameters())
    for name, kept in before.masks.kept.items():
        assert not after[name][~kept].any()
        assert not torch.equal(after[name][kept], before.model.get_parameter(name)[kept])


def test_every_repeat_trains_with_a_seed_of_its_own(tmp_path, monkeypatch):
    seeds = []

    def trained(settings: Settings, *_: object) -> dict:
        seeds.append(settings.seed)
        return {"top1": float(settings.seed)}

    monkeypatch.setattr(finetuned, "_trained", trained)
    settings = Settings(("swin_toy",), tmp_path, seed=5, repeats=2)
    way, recipe = finetuned.ways(settings)[0], finetuned.recipes.find("quick")

    found = finetuned._trained_with_seeds(
        settings, "swin_toy", way, recipe, Cells(settings, "finetuned")
    )

    assert seeds == [5, 6]
    assert found == {5: {"top1": 5.0}, 6: {"top1": 6.0}}


def test_what_is_done_is_not_done_again(made, monkeypatch):
    def again(*_: object) -> None:
        raise AssertionError("it was there")

    monkeypatch.setattr(masked, "one_shot", again)
    monkeypatch.setattr(finetuned, "_trained", again)
    known = json.loads((made / "cells" / "finetuned.jsonl").read_text().splitlines()[-1])["cell"]
    before = read(made, "finetuned")["data"]

    same = ("--arch", "swin_toy", "--weights", known["weights"], "--data", known["data"])
    assert main(*same, *EPOCH, "--out", str(made), "--parts", "unstructured,finetuned") == 0

    assert read(made, "finetuned")["data"] == before


def test_the_page_alone_is_made_of_what_is_there(made, monkeypatch):
    before = (made / "report.md").read_text()
    (made / "report.md").unlink()

    assert main("--parts", "none", "--arch", "swin_toy", "--out", str(made)) == 0

    kept = read(made, "pictures")["made"]["command"]
    assert kept in (made / "report.md").read_text()
    assert len((made / "report.md").read_text()) == pytest.approx(len(before), rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--parts", "sizs"), "No part is called 'sizs'. Did you mean 'sizes'?"),
        (("--arch", "swim_t"), "No architecture is called 'swim_t'"),
        (("--arch", "swin_t", "--parts", "finetuned"), "there are no images; pass --data"),
        (("--arch", "swin_t", "--parts", "pictures"), "No pretrained weights of swin_tiny"),
        (("--arch", "swin_toy", "--weights", "a,b", "--parts", "pictures"), "2 --weights for 1"),
        (("--arch", "swin_toy", "--weights", "a.pth", "--parts", "pictures"), "weights file"),
        (("--parts", "sizes", "--finetune", "dimpa"), "No recipe is called 'dimpa'"),
        (("--parts", "sizes", "--epochs", "0"), "epochs = 0; expected 1 or more"),
        (("--parts", "sizes", "--device", "tpu"), "The device 'tpu' is not there"),
    ],
)
def test_bad_input_is_one_sentence(arguments, says, tmp_path, capsys):
    if "swim_t" in arguments:
        arguments = (*arguments, "--parts", "pictures")

    assert main(*arguments, "--out", str(tmp_path)) == 2

    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_wrong_flag_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        main("--ratios", "0.5")

    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# Cells


def test_a_line_that_was_cut_off_is_computed_again(tmp_path):
    settings = Settings((), tmp_path)
    Cells(settings, "one").once({"n": 1}, lambda: {"found": 10})
    Cells(settings, "one").once({"n": 2}, lambda: {"found": 20})
    path = tmp_path / "cells" / "one.jsonl"
    path.write_text(path.read_text()[:-5])

    cells = Cells(settings, "one")

    assert cells.once({"n": 1}, dict) == {"found": 10}
    assert cells.once({"n": 2}, lambda: {"found": 21}) == {"found": 21}
    assert Cells(settings, "one").once({"n": 2}, dict) == {"found": 21}


def test_examples_hold():
    for module in (parts, pictures):
        assert doctest.testmod(module).attempted
        assert not doctest.testmod(module).failed


def test_each_architecture_may_have_weights_of_its_own(tmp_path):
    several = Settings(("a", "b"), tmp_path, weights=("1", "2"))
    one = Settings(("a", "b"), tmp_path, weights=("1",))

    assert [several.of(name)["weights"] for name in "ab"] == ["1", "2"]
    assert [one.of(name)["weights"] for name in "ab"] == ["1", "1"]


# Sizes


@pytest.fixture(scope="module")
def swin_t(tmp_path_factory) -> list[dict]:
    return sizes._rows(Settings((), tmp_path_factory.mktemp("sizes")), "swin_t")


def test_parameters_are_the_papers_and_macs_are_if_densities_are_even(swin_t):
    assert [row["row"] for row in swin_t] == ["dense", "DIMAP1", "DIMAP2", "DIMAP3"]
    for row in swin_t:
        assert sizes.agrees(row, "params", 0.1)
        assert sizes.agrees(row, "macs", 0.2, even=True)
    prunable = 25_878_528  # 12 C^2 of every block
    for row, fraction in zip(swin_t[1:], published.FRACTIONS.values(), strict=True):
        removed = 1e6 * (swin_t[0]["params"] - row["params"])
        assert removed == pytest.approx(fraction * prunable, abs=1)


def test_early_layers_keep_more_so_macs_fall_less(swin_t):
    kept = [stage["kept"] for stage in swin_t[3]["stages"]]
    costs = [stage["macs_per_weight"] for stage in swin_t[3]["stages"]]

    assert kept == sorted(kept, reverse=True)
    assert costs == [3136, 784, 196, 49]  # places: 56, 28, 14 and 7 squared
    assert swin_t[3]["macs"] > swin_t[3]["even_macs"] + 0.5
    assert swin_t[3]["size_ratio"] == 64


def test_the_papers_parameters_follow_from_its_fractions():
    for rows in published.TABLE_1.values():
        removed = [1 - rows[name].params / rows["dense"].params for name in published.FRACTIONS]
        for (name, fraction), found in zip(published.FRACTIONS.items(), removed, strict=True):
            assert found == pytest.approx(fraction, abs=0.05), name


# Tables 3 and 4


def answers(right: int, images: int = 1000) -> dict:
    correct = np.arange(images) < right
    return {"correct": parts.pack(correct), "images": images}


def test_pairs_are_ours_over_the_others_adjusted_over_the_whole_table():
    rows = {
        "first": {"other": [answers(800), answers(500)], "ours": [answers(806), answers(900)]},
        "second": {"other": [answers(700)], "ours": [answers(600)]},
    }

    pairs = unstructured._pairs(rows, "ours")

    assert [pair["difference"] for pair in pairs] == pytest.approx([0.6, 40.0, -10.0])
    assert [pair["verdict"] for pair in pairs] == ["better", "better", "worse"]
    assert pairs[0]["p"] == 2 * 0.5**6
    assert pairs[0]["adjusted"] == pairs[0]["p"]  # the largest of three
    assert pairs[1]["adjusted"] / pairs[1]["p"] == pytest.approx(3)


def test_what_is_out_of_reach_is_said_and_not_tested():
    one = {"problem": "A ratio of 0.99 by params is out of reach"}

    assert unstructured._pairs({"m": {"ours": [one], "other": [answers(5)]}}, "ours") == []
    assert unstructured._top1(one) == "out of reach"


# Pictures


def block(**changed: np.ndarray) -> dict:
    qkv = np.ones((12, 4), dtype=bool)
    qkv[8:] = False
    qkv[8, 0] = True
    fc1 = np.zeros((16, 4), dtype=bool)
    for row in range(8):
        fc1[row, : 1 + row % 4] = True
    masks = {"attn.qkv": qkv, "attn.proj": np.eye(4, dtype=bool), "mlp.fc1": fc1}
    return {**masks, "mlp.fc2": fc1.T.copy(), **changed}


def test_a_block_is_measured():
    found = pictures.measure(block())

    assert (found["queries_keys"], found["values"]) == (1, 1 / 16)
    assert found["gone_in_fc1"] == found["gone_in_fc2"] == 0.5
    assert found["gone_by_chance"] == pytest.approx((1 - 20 / 64) ** 4)
    assert found["alike"] == pytest.approx(1)
    reversed_fc2 = block()["mlp.fc2"][:, ::-1].copy()
    assert pictures.measure(block(**{"mlp.fc2": reversed_fc2}))["alike"] < 0


def test_every_weight_is_drawn_where_it_is(tmp_path):
    masks = block()
    drawing.draw_masks(masks, "title", tmp_path / "masks.png")

    drawn = np.asarray(Image.open(tmp_path / "masks.png").convert("RGB")).astype(int)
    pixels = round(drawing.TALL / 16)
    canvas = drawing._Canvas(4 * pixels)
    assert drawn.shape[:2] == (canvas.high, canvas.wide)
    ground = drawn[2, 2]
    for number, mask in enumerate((masks["attn.qkv"], masks["mlp.fc1"], masks["mlp.fc2"].T)):
        left, top = canvas.left(number), canvas.TOP
        for inset in (1, pixels - 2):  # both edges of every square
            rows = top + inset + pixels * np.arange(mask.shape[0])
            columns = left + inset + pixels * np.arange(mask.shape[1])
            colours = drawn[np.ix_(rows, columns)]
            dark = np.abs(colours - ground).sum(2) > 100
            np.testing.assert_array_equal(dark, mask)


# Claims


def pair(model: str, column: int, verdict: str, difference: float = 1.0, **more: object) -> dict:
    known = {"model": model, "column": column, "verdict": verdict, "difference": difference}
    return {"against": "uniform magnitude", **known, **more}


def table_3(*pairs: dict) -> dict:
    models = {one["model"]: {} for one in pairs}
    ratios = [*published.TABLE_3_RATIOS, 0.6]
    return {"unstructured": {"table_3": {"ratios": ratios, "models": models, "pairs": pairs}}}


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("better", "better", "better"), judging.SMALL),
        (("better", "better", "tie"), judging.SMALL),
        (("better", "better", "worse"), judging.NOT),  # against on one model is enough
        (("better", "tie", "tie"), judging.NOT),
        (("tie", "tie", "tie"), judging.NOT),
    ],
)
def test_better_needs_two_of_three_models_and_none_against(verdicts, expected):
    found = table_3(*(pair(name, 3, one) for name, one in zip("abc", verdicts, strict=True)))

    assert judging.better_at_the_papers_ratios(found).verdict == expected


def test_our_own_ratios_do_not_count_as_the_papers():
    found = table_3(*(pair(name, 4, "better") for name in "abc"))

    assert judging.better_at_the_papers_ratios(found).verdict == judging.NOT
    assert judging.better_at_any_ratio(found).verdict == judging.SMALL


def test_on_the_papers_models_a_claim_is_reproduced_outright():
    found = table_3(*(pair(name, 0, "better") for name in published.TABLE_1))

    assert judging.better_at_the_papers_ratios(found).verdict == judging.REPRODUCED


@pytest.mark.parametrize(
    ("last", "verdict", "expected"),
    [(9, "better", judging.SMALL), (9, "tie", judging.NOT), (1, "better", judging.NOT)],
)
def test_an_advantage_grows_only_to_a_significant_largest(last, verdict, expected):
    pairs = [
        one
        for name in "abc"
        for one in (pair(name, 0, "better", 2.0), pair(name, 4, verdict, float(last)))
    ]

    assert judging.grows(table_3(*pairs)).verdict == expected


def tuned(
    verdict: str, difference: float = -0.5, against: str = "one", kept_start: int = 0
) -> dict:
    one = {"model": "swin_micro", "name": "DIMAP3", "against": against, "adjusted": 0.01}
    rows = [{"name": "DIMAP3", "kept_start": kept_start}]
    known = {"settings": {"epochs": 2}, "seeds": [0], "recipe": "quick"}
    known["models"] = {"swin_micro": {"rows": rows}}
    return {
        "finetuned": {**known, "pairs": [{**one, "verdict": verdict, "difference": difference}]}
    }


def test_claims_of_fine_tuning_follow_the_tests():
    assert judging.three_better_after_training(tuned("better")).verdict == judging.SMALL
    assert judging.three_better_after_training(tuned("tie")).verdict == judging.NOT
    assert judging.little_lost(tuned("worse", -0.81, "dense")).verdict == judging.SMALL
    assert judging.little_lost(tuned("worse", -0.82, "dense")).verdict == judging.NOT
    unmoved = tuned("tie", -0.1, "dense", kept_start=1)
    assert judging.little_lost(unmoved).verdict == judging.UNCHECKED
    nothing = {"finetuned": {"pairs": [], "models": {}}}
    assert judging.three_better_after_training(nothing).verdict == judging.UNCHECKED
    assert judging.table_1_accuracies(nothing).verdict == judging.UNCHECKED


def test_accuracies_of_the_papers_models_are_held_against_its_table():
    def found(top1: float) -> dict:
        row = {"name": "DIMAP3", "after": [{"top1": top1}]}
        return {"finetuned": {"models": {"swin_b": {"rows": [row]}}}}

    assert judging.table_1_accuracies(found(83.1)).verdict == judging.REPRODUCED
    assert judging.table_1_accuracies(found(82.9)).verdict == judging.NOT


def seen(*alike: float) -> dict:
    blocks = [
        {"block": f"{n}", **pictures.measure(block()), "alike": one, "alike_p": 1e-3}
        for n, one in enumerate(alike)
    ]
    return {"pictures": {"models": {"swin_micro": {"blocks": blocks, "shown": "0"}}}}


def test_what_is_seen_must_hold_where_it_was_drawn_and_on_average():
    assert judging.same_pattern(seen(0.9, 0.8)).verdict == judging.SMALL
    assert judging.same_pattern(seen(-0.1, 0.8)).verdict == judging.NOT
    assert judging.same_pattern(seen(0.1, -0.8)).verdict == judging.NOT
    assert judging.queries_denser(seen(0.5)).verdict == judging.SMALL
    assert judging.rows_vanish(seen(0.5)).verdict == judging.SMALL


def test_macs_are_judged_by_the_masks_not_by_what_would_fit(swin_t):
    found = {"sizes": {"rows": swin_t, "within": {"params": 0.1, "macs": 0.2}}}

    assert judging.params(found).verdict == judging.REPRODUCED
    assert judging.masked_macs(found).verdict == judging.NOT
    assert "3 with equal densities" in judging.masked_macs(found).numbers


def test_the_abstract_is_held_against_the_papers_own_table():
    assert judging.swapped({}).verdict == judging.NOT
    assert judging.relative_top5({}).verdict == judging.NOT


def test_the_largest_weight_scores_1_and_every_layer_keeps_something(made):
    found = {"pictures": data_of(made, "pictures")}

    assert judging.largest_scores_1(found).verdict == judging.REPRODUCED
    assert judging.no_layer_vanishes(found).verdict == judging.SMALL
    found["pictures"]["models"]["swin_toy"]["largest_score"][0] = 0.99
    found["pictures"]["models"]["swin_toy"]["least_of_1_percent"] = 0
    assert judging.largest_scores_1(found).verdict == judging.NOT
    assert judging.no_layer_vanishes(found).verdict == judging.NOT


def test_a_claim_whose_part_was_not_run_has_no_verdict(tmp_path):
    found = claims.run(Settings((), tmp_path))["claims"]

    verdicts = {one["says"]: one["verdict"] for one in found}
    assert verdicts["no data is needed"] == judging.REPRODUCED
    assert verdicts["fc1 and fc2 show the same pattern"] == claims.NOT_RUN
