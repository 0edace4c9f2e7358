"""From masks to small models: that the table compares like with like, and says what it found."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_weights import counted, zeros

import prunekit.inputs.fashion
from prunekit.artifact import MASKS, WEIGHTS, load
from prunekit.inputs.architectures import build
from prunekit.measuring.counting import Latency, stats

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from paper import to_small
from paper.parts import Settings, pack

ARCH = "vit_micro"
IMAGES = 300  # of test


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A small run: its data, and the models it is about."""
    made, make, read = [], to_small._made, prunekit.inputs.fashion._idx

    def recorded(*arguments):
        for one in make(*arguments):
            made.append(one)
            yield one

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prunekit.inputs.fashion, "_idx", lambda root, stem: read(root, stem)[:IMAGES])
        patch.setattr(to_small, "FURTHER_TARGETS", (0.3,))
        patch.setattr(to_small, "CALIBRATION", 64)
        patch.setattr(to_small, "SEEDS", 2)
        patch.setattr(to_small, "GOES", 2)
        patch.setattr(to_small, "_made", recorded)
        settings = Settings((ARCH,), tmp_path_factory.mktemp("small"))
        data = to_small.run(settings)
        assert to_small.run(settings) == data
    return data, made


@pytest.fixture
def rows(ran):
    return ran[0]["models"][ARCH]["rows"]


def test_all_ways_to_a_target_remove_the_same_macs_by_an_independent_count(ran, rows):
    whole = stats(build(ARCH).model, torch.zeros(1, 1, 28, 28)).macs
    targets = {}
    for row, one in zip(rows, ran[1], strict=True):
        masked = one.way.granularity != "slice"
        _, _, macs, zero = counted(one.model)
        left = macs - zero if masked else macs
        assert row["macs"] == pytest.approx(1 - left / whole, abs=1e-5)
        targets.setdefault(row["target"], []).append((row["way"], row["macs"]))
    assert list(targets) == sorted(targets)
    low, implied = targets
    ways = ["single weights", "slices", "slices + lstsq"]
    assert [way for way, _ in targets[low]] == ways
    assert [way for way, _ in targets[implied]] == [ways[0], "2:4", *ways[1:]]
    assert low == 0.3
    assert dict(targets[implied])["2:4"] == implied
    for target, found in targets.items():
        assert all(abs(macs - target) < 0.005 for _, macs in found)


def test_sizes_are_those_of_the_files(ran, rows, tmp_path):
    dense = ran[0]["models"][ARCH]["dense"]
    save_file(build(ARCH).model.state_dict(), tmp_path / "dense")
    assert dense["bytes"] == (tmp_path / "dense").stat().st_size
    for row, one in zip(rows, ran[1], strict=True):
        one.results[0].save(tmp_path / "saved")
        files = [tmp_path / "saved" / name for name in (WEIGHTS, MASKS)]
        found = sum(file.stat().st_size for file in files if file.exists())
        assert row["bytes"] == found
        if one.way.granularity == "slice":
            assert row["sparse_bytes"] is None
            assert row["params"] == row["held"] < dense["held"]
            assert row["bytes"] < 0.8 * dense["bytes"]
        else:
            gone = sum(map(zeros, one.results[0].masks.kept.values()))
            assert row["sparse_bytes"] == found - 4 * gone
            assert row["params"] == dense["params"] - gone
            assert (row["held"], found > dense["bytes"]) == (dense["held"], True)
        model = load(tmp_path / "saved")
        assert row["params"] == sum(int(p.count_nonzero()) for p in model.parameters())


def test_accuracies_are_of_the_models_and_with_draws_their_mean(ran, rows):
    for row, one in zip(rows, ran[1], strict=True):
        repaired = one.way.repair == "lstsq"
        assert len(row["each"]) == len(one.results) == (2 if repaired else 1)
        assert row["each"] == pytest.approx([result.after.top1 for result in one.results], abs=1e-3)
        assert row["top1"] == pytest.approx(np.mean(row["each"]))
        assert row["low"] < row["top1"] < row["high"]
        assert row["images"] == IMAGES
        assert [result.recipe["seed"] for result in one.results] == list(range(len(one.results)))
        assert {result.recipe["repair"] for result in one.results} == {one.way.repair}


def test_the_page_shows_every_row_and_the_step_at_every_target(ran, rows):
    data = ran[0]
    page = to_small.page(data)
    lines = page.splitlines()
    dense = data["models"][ARCH]["dense"]
    for row in rows:
        start = f"| {100 * row['target']:.1f} %: {row['way']} |"
        (line,) = (line for line in lines if line.startswith(start))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1] == f"{100 * row['macs']:.1f} %" + " implied" * bool(row["sparse_bytes"])
        assert cells[2].startswith(f"{row['top1']:.2f} (")
        assert cells[3] == f"{row['top1'] - dense['top1']:+.2f}"
        assert cells[5].startswith(f"{row['latency']['1']['ratio']:.2f} (")
        assert cells[6].startswith(f"{row['latency']['8']['ratio']:.2f} (")
        assert cells[7] == f"{row['bytes'] / dense['bytes']:.2f}"
    for target in {row["target"] for row in rows}:
        assert sum(line.startswith(f"- {100 * target:.1f} % of the MACs") for line in lines) == 1
    for pair in data["pairs"]:
        assert f"{pair['difference']:+.2f} against {pair['against']}, " in page
    assert len(data["pairs"]) == 3
    assert "*single weights* in qkv+proj+mlp, *slices* in mlp+head, " in page
    assert "That was not measured" in page


def test_single_weights_have_a_row_without_the_modules_that_the_others_spare(monkeypatch):
    def pruned(model, criterion, ratio, *, granularity, axes, **_):
        found = axes or {"weight": ["conv", "mlp"]}.get(granularity, ["mlp"])
        after = SimpleNamespace(top1=90.0)
        return SimpleNamespace(got=0.2, after=after, recipe={"axes": found})

    monkeypatch.setattr(to_small, "prune", pruned)
    made = list(to_small._made(Settings(("m",), Path()), "m"))
    assert [(one.target, one.way.name, one.axes) for one in made[:4]] == [
        (0.2, "single weights", ["conv", "mlp"]),
        (0.2, "single weights where 2:4 is", ["mlp"]),
        (0.2, "2:4", ["mlp"]),
        (0.2, "slices", ["mlp"]),
    ]


def test_latencies_are_relative_to_the_dense_model_of_the_same_go(monkeypatch):
    goes = iter([(2.0, 1.0), (4.0, 3.0), (10.0, 4.0)])

    def timed(models, example):
        return [{batch: Latency(batch * own, 0.0, 99.0) for batch in (1, 8)} for own in next(goes)]

    monkeypatch.setattr(to_small, "latencies", timed)
    monkeypatch.setattr(to_small, "GOES", 3)
    dense, small = to_small._times([torch.nn.Identity()] * 2, torch.zeros(1))
    assert dense["8"] == {"ms": 32.0, "ratio": 1.0, "low": 1.0, "high": 1.0}
    assert small["1"] == {"ms": 3.0, "ratio": 0.5, "low": 0.4, "high": 0.75}


def test_repaired_slices_are_compared_with_masks_of_the_same_target_only():
    def row(way, target, *right):
        answers = [pack(np.arange(100) < each) for each in right]
        return {"way": way, "target": target, "answers": answers, "images": 100}

    rows = [
        *(row("single weights", 0.3, 50), row("slices + lstsq", 0.3, 90, 80, 85)),
        *(row("single weights", 0.4, 50), row("slices + lstsq", 0.4, 51, 52, 49)),
        *(row("2:4", 0.4, 90), row("slices", 0.4, 0)),
    ]
    pairs = to_small._pairs({"m": {"rows": rows}})
    assert [(p["target"], p["against"], p["verdict"]) for p in pairs] == [
        (0.3, "single weights", "better"),
        (0.4, "single weights", "tie"),
        (0.4, "2:4", "worse"),
    ]
    assert pairs[0]["difference"] == pytest.approx(35)
    assert pairs[0]["adjusted"] == pytest.approx(2 * 2 * 2 * 0.5**35)
