"""Checkpoints: tensors and JSON that a run goes on from, and the directory they lie in."""

import errno
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import toy
from safetensors.torch import load_file
from test_train import LONG, SHORT, After, same, stripes, weights

from prunekit.errors import TrainingError, TrainingInterrupted
from prunekit.files.stored import digest_of
from prunekit.recovery.training import train_
from prunekit.recovery.training.checkpoint import STATE, TENSORS, whole
from prunekit.recovery.training.objective import Objective
from prunekit.recovery.training.place import SETTINGS

PICKLED = ("optimizer.bin", "scheduler.bin", "scaler.pt", "custom_checkpoint_0.pkl",
           "custom_checkpoint_1.pkl", "random_states_0.pkl", "pytorch_model.bin")  # fmt: skip


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def stopped(tmp_path):
    """A run that can be resumed, and its checkpoint."""
    workdir = tmp_path / "run.training"
    with pytest.raises(TrainingInterrupted):
        train_(toy("vit")[0], stripes(), LONG, workdir=workdir, should_stop=After(0))
    (kept,) = whole(workdir)
    return workdir, kept


def resume(workdir):
    return train_(toy("vit")[0], stripes(), LONG, workdir=workdir, resume=True)


def test_a_checkpoint_is_tensors_and_json(stopped):
    _, kept = stopped
    assert sorted(path.name for path in kept.iterdir()) == sorted([STATE, TENSORS])
    assert load_file(kept / TENSORS)
    assert json.loads((kept / STATE).read_text())["format"] == 1


def test_nothing_is_ever_unpickled(stopped, tmp_path):
    workdir, kept = stopped
    for name in PICKLED:
        (kept / name).write_bytes(pickle.dumps(Planted(tmp_path / "planted")))
    resume(workdir)
    (workdir / "checkpoint-000099").mkdir()
    for name in PICKLED:  # a checkpoint as they were before
        path = workdir / "checkpoint-000099" / name
        path.write_bytes(pickle.dumps(Planted(tmp_path / "planted")))
    with pytest.raises(TrainingError, match=r"another version of prunekit.*; delete '.*training'"):
        resume(workdir)
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("name", [STATE, TENSORS])
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "missing", "pickle", "huge"])
def test_a_damaged_checkpoint_is_refused_in_a_sentence(name, damage, stopped, tmp_path):
    workdir, kept = stopped
    path, content = kept / name, bytearray((kept / name).read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "huge":  # and of no room on the disk
        os.truncate(path, 2**42)
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(
            {
                "flipped": bytes(content),
                "cut": bytes(content[: len(content) // 2]),
                "emptied": b"",
                "pickle": pickle.dumps(Planted(tmp_path / "planted")),
            }[damage]
        )
    with pytest.raises(TrainingError, match=r"cannot be gone on from \(.*\); delete '.*'") as said:
        resume(workdir)
    assert str(said.value).isprintable()
    assert not (tmp_path / "planted").exists()


def forge(kept, change):
    """Alter the state of a checkpoint, and its digest."""
    data = json.loads((kept / STATE).read_text())
    del data["sha256"]
    data = change(data) or data
    (kept / STATE).write_text(json.dumps({**data, "sha256": digest_of(data)}))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(format=2),
        lambda data: data.update(state={"dict": [["model", 1]]}),
        lambda data: data.update(state={"dict": []}),
        lambda data: data.update(state={"tensor": "none"}),
        lambda data: data.update(state={"eval": "1"}),
        lambda data: data.update(state=[[[]]]),
        lambda data: data["state"]["dict"][-1].__setitem__(1, {"dict": [["epoch", -1]]}),
    ],
)
def test_a_forged_checkpoint_is_refused_in_a_sentence(change, stopped):
    workdir, kept = stopped
    forge(kept, change)
    with pytest.raises(TrainingError, match="cannot be gone on from"):
        resume(workdir)


def test_settings_that_are_damaged_are_refused_in_a_sentence(stopped):
    workdir, _ = stopped
    for text in ("{", "[]", '{"lr": 1e400}', '{"lr": "\\u001b"}', "[" * 9999):
        (workdir / SETTINGS).write_text(text)
        with pytest.raises(TrainingError, match=r"settings.json is not readable .*; delete '"):
            resume(workdir)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "adafactorbv", "lookahead_radam"])
def test_every_sort_of_optimizer_goes_on_to_the_same_bits(name, tmp_path):
    recipe = replace(SHORT, epochs=2, optimizer=name, ema_decay=0.5)
    straight = toy("vit")[0]
    train_(straight, stripes(), recipe)
    model = toy("vit")[0]
    with pytest.raises(TrainingInterrupted):
        train_(model, stripes(), recipe, workdir=tmp_path, should_stop=After(0))
    train_(model, stripes(), recipe, workdir=tmp_path, resume=True)
    assert same(weights(straight), weights(model))


def test_what_was_refused_does_not_stand_in_the_way_of_what_was_meant(tmp_path, monkeypatch):
    workdir = tmp_path / "run.training"
    with pytest.raises(TrainingError, match="cannot make the optimizer 'nonsense'"):
        train_(toy("vit")[0], stripes(), replace(SHORT, optimizer="nonsense"), workdir=workdir)
    assert not workdir.exists()
    with monkeypatch.context() as patched:
        patched.setattr(Objective, "__call__", lambda self, m, x, y: m(x).sum() * float("nan"))
        with pytest.raises(TrainingError, match="became nan in epoch 1"):
            train_(toy("vit")[0], stripes(), SHORT, workdir=workdir)
    assert not workdir.exists()
    train_(toy("vit")[0], stripes(), SHORT, workdir=workdir)


@pytest.mark.parametrize("file", ["history.jsonl", "learning_curve.svg", SETTINGS, "checkpoint"])
def test_a_disk_that_is_full_is_one_sentence(file, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    replaced = os.replace
    if file == "checkpoint":
        monkeypatch.setattr("prunekit.recovery.training.checkpoint.save_file", full)
    else:
        monkeypatch.setattr(
            os, "replace", lambda a, b: full() if str(b).endswith(file) else replaced(a, b)
        )
    with pytest.raises(TrainingError, match=r"Cannot write .*No space left on device"):
        train_(toy("vit")[0], stripes(), SHORT, workdir=tmp_path / "run")


def test_a_place_that_cannot_be_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", tmp_path / ("n" * 300), "/proc/prunekit"):
        with pytest.raises(TrainingError, match=r"Cannot write to .*; name another --out"):
            train_(toy("vit")[0], stripes(), SHORT, workdir=Path(place))
