"""Which score of slices is DIMAP's: the variants are what they say, and the rule is kept."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import references
import torch
from conftest import FAMILIES, traced

from prunekit.axis import Axis, matrix_axis
from prunekit.criteria import CRITERIA
from prunekit.planning.left import of_positions

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from paper import slice_score
from paper.blame import blame, blame_page
from paper.parts import Settings
from paper.slice_cells import Bench, Row
from paper.variants import VARIANTS, of_product, of_readers

BY_NAME = {variant.name: variant for variant in VARIANTS}


def scored(name: str, axes: list[Axis]) -> list[torch.Tensor]:
    return BY_NAME[name].criterion("model")(axes)


@pytest.mark.parametrize("name", [name for name in BY_NAME if "whole" not in name])
def test_with_single_weights_every_variant_orders_them_as_equation_10_does(name):
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    (score,) = scored(name, [matrix_axis("w", "mlp", weight)])
    expected = references.eq10([float(w) ** 2 for w in weight.double().flatten()])
    assert score.argsort().tolist() == np.argsort(expected).tolist()


@pytest.mark.parametrize(("name", "options"), [("plain", {"plain": True}), ("readers/weight", {})])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_one_and_the_choice_are_what_prunekit_has(family, name, options):
    axes = of_positions(traced(family)[2])
    built_in = CRITERIA.get("dimap").configure(**options)(axes)
    for own, found in zip(scored(name, axes), built_in, strict=True):
        torch.testing.assert_close(own, found)


@pytest.mark.parametrize("family", FAMILIES)
def test_added_layers_are_lamp_s_but_for_the_price(family):
    axes = of_positions(traced(family)[2])
    for axis, own, lamp in zip(
        axes, scored("added/weight", axes), CRITERIA.get("lamp")(axes), strict=True
    ):
        torch.testing.assert_close(own * axis.weights_per_slice, lamp)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_least_is_below_the_mean_and_a_whole_layer_below_what_is_held(family):
    axes = of_positions(traced(family)[2])
    for least, mean in zip(scored("least/weight", axes), scored("plain/weight", axes), strict=True):
        assert (least <= mean * (1 + 1e-6)).all()
    for whole, held in zip(
        scored("readers/weight, whole", axes), scored("readers/weight", axes), strict=True
    ):
        assert (whole <= held * (1 + 1e-6)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_product_is_the_energy_of_the_map_through_a_channel(family):
    axis = next(axis for axis in traced(family)[2] if axis.kind == "mlp")
    column, row = (m.weight.double().flatten(1) for m in sorted(axis.voters, key=lambda m: -m.dim))
    paths = [torch.outer(column[:, i], row[i]).square().sum() for i in range(axis.size)]
    torch.testing.assert_close(of_product(axis), torch.stack(paths), rtol=1e-5, atol=0)


def row(train: list[bool], test: list[bool]) -> Row:
    where = ("toy", 0.5)
    both = {"train": np.array(train), "test": np.array(test)}
    return Row(
        {split: {where: {0: found}} for split, found in both.items()},
        {split: {"toy": np.ones(len(found), bool)} for split, found in both.items()},
        {where: {"mlp": 0.5}},
        {where: 0.5},
    )


def test_the_choice_looks_at_training_images_only():
    good, bad = [True] * 3 + [False], [False] * 4
    rows = {("a", "kind"): row(bad, good), ("b", "model"): row(good, bad)}
    assert slice_score._best(rows) == ("b", "model")
    assert rows["b", "model"].mean_lost("train") == 25
    assert rows["b", "model"].mean_lost("test") == 100


def test_margins_are_of_training_images_and_equal_rows_are_no_difference():
    rng = np.random.default_rng(0)
    first = (rng.random(400) < 0.9).tolist()
    worse = [right and n % 4 > 0 for n, right in enumerate(first)]
    rows = {
        ("a", "kind"): row(first, worse),
        ("b", "kind"): row(worse, first),
        ("c", "kind"): row(first, first),
    }
    found = {m["score"]: m for m in slice_score._margins(("a", "kind"), rows)}
    assert found["b"]["points"] == pytest.approx(100 * (np.mean(first) - np.mean(worse)))
    assert found["b"]["p"] < 1e-6
    assert (found["c"]["points"], found["c"]["p"]) == (0, 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Settings:
    return Settings(("vit_micro",), tmp_path_factory.mktemp("slices"))


@pytest.fixture
def few(monkeypatch):
    """Evaluate on few images, so that this takes seconds."""
    from prunekit.inputs.data import batches

    for module in ("slice_cells", "blame"):
        monkeypatch.setattr(
            f"paper.{module}.batches", lambda images, size: batches(images, size, limit=100)
        )
    monkeypatch.setattr(Bench, "images", lambda self, split: 100)


def test_the_part_runs_resumes_and_shows_every_row(tiny, few, monkeypatch):
    monkeypatch.setattr(slice_score, "VARIANTS", (BY_NAME["plain"], BY_NAME["readers/weight"]))
    monkeypatch.setattr(slice_score, "OTHERS", ("random",))
    monkeypatch.setattr(slice_score, "SEEDS", (0, 1))
    monkeypatch.setattr(slice_score, "REPAIR", "bias")  # takes less time than lstsq
    monkeypatch.setattr("paper.slice_cells.RATIOS", (0.5,))
    data = slice_score.run(tiny)
    text = slice_score.page(data)
    for name in ("plain", "readers/weight", "random"):
        assert f"| `{name}` | kind |" in text
        assert f"| `{name}` | model |" in text
    assert len(data["margins"]) == 3
    assert {kind: len(duels) for kind, duels in data["duels"].items()} == {"none": 2, "bias": 2}
    chosen = min(
        (r for r in data["rows"] if r["score"] in ("plain", "readers/weight")),
        key=lambda r: r["mean_lost"]["train"],
    )
    assert list(data["chosen"]) == [chosen["score"], chosen["scope"]]
    monkeypatch.setattr("paper.slice_cells.prune", None)  # nothing is pruned again
    monkeypatch.setattr(slice_score, "blame", lambda *_: data["blame"]["vit_micro"])
    assert slice_score.run(tiny) == data


def test_blame_is_put_on_axes_one_by_one(tiny, few):
    entries = (("plain", "kind"), ("readers/weight", "model"))
    found = blame(tiny.of("vit_micro"), entries)
    assert {axis["kind"]: axis["size"] for axis in found["axes"]} == {"mlp": 256, "head": 4}
    uncut = [own for axis in found["axes"] for own in axis["alone"] if own["kept"] == 1]
    assert uncut
    assert all(own["lost"] == 0 for own in uncut)
    assert any(own["lost"] != 0 for axis in found["axes"] for own in axis["alone"])
    text = blame_page({"vit_micro": found})
    assert "head" in text
    assert "mlp" in text


def test_readers_are_the_layers_that_take_the_slices_in():
    axis = next(axis for axis in traced("swin")[2] if axis.kind == "mlp")
    (reader,) = [m for m in axis.voters if m.name.endswith("fc2.weight")]
    torch.testing.assert_close(
        of_readers(axis)[0], reader.weight.double().square().sum(0), rtol=1e-6, atol=0
    )
