"""The files of a comparison: what was damaged or is foreign is refused in a sentence."""

import errno
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from records import KINDS
from records import record as made

import prunekit
from prunekit.cli import main
from prunekit.comparison.arrays import LARGEST, packed, unpacked
from prunekit.comparison.compare import compare, report
from prunekit.comparison.grid import Grid
from prunekit.comparison.store import ARRAYS, CELL, GRID, TIMING, Store, check_out
from prunekit.errors import ArtifactError
from prunekit.files.stored import digest_of

KEY = "0123456789abcdef0123"


def whole(record):
    """Give a record the whole report that a run has."""
    result = prunekit.prune("vit_micro", "magnitude", 0.5, evaluate=False)
    told = json.loads(json.dumps(result.report()))
    for side in ("before", "after"):
        told[side] |= {"images": len(record.correct), "top1": 50.0, "top5": 90.0}
    told["axes"] = dict(record.report["axes"])
    return record.__class__(**{**vars(record), "report": told, "timing": None})


@pytest.fixture(scope="module")
def record():
    return whole(made())


@pytest.fixture
def store(tmp_path, record):
    found = Store(tmp_path / "out")
    found.prepare()
    found.write(KEY, record, {"a": 1})
    return found


def home(store):
    return store.root / "cells" / KEY


def test_what_was_written_is_read(store, record):
    found = store.read(KEY)
    assert found.cell == record.cell
    assert found.report == record.report
    assert all(np.array_equal(found.scores[name], record.scores[name]) for name in KINDS)
    assert all(np.array_equal(found.kept[name], record.kept[name]) for name in KINDS)


def test_every_flipped_bit_is_noticed(store):
    for name in (CELL, ARRAYS):
        path, content = home(store) / name, (home(store) / name).read_bytes()
        for place in range(0, len(content), max(1, len(content) // 60)):
            altered = bytearray(content)
            altered[place] ^= 1 << place % 7
            path.write_bytes(altered)
            if name == CELL and json_of(altered) == json_of(content):
                continue  # white space
            with pytest.raises(ArtifactError, match=f"{KEY} is not readable .*; remove it") as said:
                store.read(KEY)
            assert str(said.value).isprintable()
        path.write_bytes(content)
    store.read(KEY)


def json_of(content):
    try:
        return json.loads(bytes(content))
    except ValueError:
        return None


def forge(store, change, *, digests=True):
    data = json.loads((home(store) / CELL).read_text())
    del data["sha256"]
    change(data)
    if digests:
        data["sha256"] = digest_of(data)
    (home(store) / CELL).write_text(json.dumps(data))


def test_a_cell_of_before_has_no_digests(store, record):
    forge(store, lambda data: data.pop("arrays_sha256"), digests=False)
    assert store.read(KEY).cell == record.cell


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data["cell"].update(seed="0"), "cell.seed"),
        (lambda data: data["cell"].update(colour="blue"), "cell.colour"),
        (lambda data: data["cell"].update(axes="mlp"), "cell.axes"),
        (lambda data: data["cost"].update(images=-1), "cost.images"),
        (lambda data: data.update(problem="why"), "a report"),
        (lambda data: data.update(report=None), "neither a report"),
        (lambda data: data["report"].pop("before"), "report.before"),
        (lambda data: data["report"]["after"].update(images=7), "it is not told of 7 images"),
        (lambda data: data["report"]["axes"].clear(), "scores of other axes"),
        (lambda data: data.update(seconds=-1), "seconds"),
        (lambda data: data["cell"].update(arch="\x1b[2J"), "control character"),
    ],
)
def test_a_forged_cell_is_refused_even_with_its_digest(change, expected, store):
    forge(store, change)
    with pytest.raises(ArtifactError, match=expected) as caught:
        store.read(KEY)
    assert str(caught.value).isprintable()


def test_arrays_are_only_read_as_far_as_they_are_as_large_as_they_say(tmp_path):
    good = {"correct": np.ones(3, bool), "scores/a": np.ones(2)}
    assert {name: list(a) for name, a in unpacked(packed(good)).items()} == {
        "correct": [True] * 3,
        "scores/a": [1.0, 1.0],
    }
    for bad in (
        {"correct": np.ones((1, 3), bool)},
        {"correct": np.ones(3)},
        {"scores/a": np.ones(3, np.float32)},
        {"other": np.ones(3)},
        {"correct": np.array([None])},
    ):
        with pytest.raises(ValueError, match="ValueError"):
            unpacked(packed(bad))
    said = b"{'descr': '|b1', 'fortran_order': False, 'shape': (999999999999,)}"
    header = b"\x93NUMPY\x01\x00\x46\x00" + said
    with zipfile.ZipFile(tmp_path / "lies.npz", "w") as archive:
        archive.writestr("correct.npy", header.ljust(80) + b"\1")
    with pytest.raises(ValueError, match="with 1 bytes"):
        unpacked((tmp_path / "lies.npz").read_bytes())
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("correct.npy", "w") as file,
    ):
        for _ in range(LARGEST // 2**24 + 1):
            file.write(bytes(2**24))
    with pytest.raises(ValueError, match="more than"):
        unpacked((tmp_path / "bomb.npz").read_bytes())


@pytest.mark.parametrize("text", ["{", "[" * 9999, '{"a": 1e400}', "[]", "\xff", '{"cells": 1}'])
def test_a_damaged_grid_or_timing_is_one_sentence(text, store, capsys):
    for name, read in ((GRID, store.read_grid), (TIMING, store.read_timing)):
        (store.root / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(ArtifactError, match=rf"{name} is not readable .*; (make|remove)"):
            read()
    assert main(["compare", "--report-only", str(store.root)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_grid_names_cells_and_no_other_files(store):
    grid = {"command": "x", "grid": {"seeds": [0], "calibration": 1}}
    store.write_grid({**grid, "cells": [{"key": "../../etc"}]})
    with pytest.raises(ArtifactError, match=r"cells\.0\.key"):
        report(store.root)


# -- where it goes -----------------------------------------------------------------------------


def test_an_artifact_and_other_peoples_files_are_left_alone(tmp_path, monkeypatch):
    prunekit.prune("vit_micro", "magnitude", 0.5, evaluate=False).save(tmp_path / "saved")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.md").write_text("years of work")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.setattr("prunekit.comparison.compare.plan", lambda _: pytest.fail("worked"))
    grid = Grid.of({"arch": "convnext_micro"})
    for name in ("saved", "mine"):
        with pytest.raises(ArtifactError, match="holds something other than a comparison"):
            compare(grid, tmp_path / name)
        with pytest.raises(ArtifactError, match="holds something other than a comparison"):
            Store(tmp_path / name).prepare()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_comparison_may_be_gone_on_with_wherever_it_was_cut_off(store, tmp_path):
    check_out(store.root)
    (tmp_path / "begun" / "cells").mkdir(parents=True)
    check_out(tmp_path / "begun")
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty")
    check_out(tmp_path / "new")


def test_places_that_cannot_be_are_one_sentence(tmp_path, store):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("away/from/here")
    for place, expected in (
        (tmp_path / "loop", "Too many levels|cannot be written"),
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path / "a\0b", "null"),
        (tmp_path / "dangling", "cannot be written"),
    ):
        with pytest.raises(ArtifactError, match=expected):
            Store(place).prepare()
    with store.claim("group-" + "n" * 500, wait=False) as mine:  # a name of any length
        assert mine
    shutil.rmtree(store.root / "locks")
    with pytest.raises(ArtifactError, match="cannot be written"), store.claim("a", wait=False):
        pass


def test_a_full_disk_is_one_sentence_and_leaves_nothing(store, record, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(path.name for path in store.root.rglob("*"))
    monkeypatch.setattr(os, "fsync", full)
    for act in (
        lambda: store.write("f" * 20, record, {}),
        lambda: store.write_grid({}),
        lambda: store.write_timing({}),
    ):
        with pytest.raises(ArtifactError, match=r"cannot be written .*No space left on device"):
            act()
    assert sorted(path.name for path in store.root.rglob("*")) == before
