"""Training: what it learns from, what it leaves alone, and how it fails."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, MEAN, STD, axes_of, random_plan, toy
from PIL import Image
from safetensors.torch import load_file
from torchvision.datasets import ImageFolder

from prunekit.adapters.finding import adapter_for
from prunekit.cutting.shrink import shrunk
from prunekit.errors import DataError, TrainingError, TrainingInterrupted
from prunekit.inputs.fashion import ArrayImages
from prunekit.inputs.feed import InputSpec
from prunekit.recovery.recipes import Recipe, find
from prunekit.recovery.training import train_
from prunekit.recovery.training.chance import draw_for, preserved
from prunekit.recovery.training.checkpoint import TENSORS, whole
from prunekit.recovery.training.images import Order, Training, part, split
from prunekit.recovery.training.objective import Objective, divergence, features_agree

SHORT = Recipe(epochs=2, batch_size=16, lr=1e-2, crop=0.9, ema_decay=0.5)


def stripes(count=100, seed=0, classes=CLASSES, size=(3, 16, 16)):
    """Images that a tiny model can tell apart: the class is the number of bright columns."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 60, (count, 16, 16), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, : 3 * int(label)] += 180
    return ArrayImages(images, labels, InputSpec(size, MEAN[: size[0]], STD[: size[0]]))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def pruned(name="vit", *kinds):
    model, images = toy(name)
    axes = axes_of(model, images, *kinds)
    return model, shrunk(model, axes, random_plan(axes, 0.5), adapter_for(model))


@pytest.mark.parametrize("name", ["vit", "swin", "convnext"])
def test_a_pruned_model_learns(name):
    _, small = pruned(name, "mlp")
    size = small.pretrained_cfg["input_size"]
    images = stripes(200, size=size)
    trained = train_(small, images, replace(SHORT, epochs=4, ema_decay=0.0, lr=3e-3))
    assert trained.val_top1_before < 50
    assert trained.val_top1 > trained.val_top1_before + 20
    assert trained.val_top1 == max(epoch.val_top1 for epoch in trained.history)
    assert (trained.images, trained.validation, trained.processes) == (180, 20, 1)
    assert not small.training
    assert small(torch.randn(1, *size)).shape == (1, CLASSES)


def test_the_model_stays_plain_and_the_world_as_it_was():
    model = toy("vit")[0]
    keys = set(vars(model))
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    train_(model, stripes(), SHORT)
    assert set(vars(model)) == keys
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.get_rng_state().tolist() == states[2]


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    ends = []
    for seed, workers in ((0, 0), (0, 2), (1, 0)):
        torch.manual_seed(len(ends))  # what was drawn before does not matter
        model = toy("vit")[0]
        train_(
            model,
            stripes(),
            replace(SHORT, mixup=0.5, augment="rand-m5"),
            seed=seed,
            workers=workers,
        )
        ends.append(weights(model))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_accumulating_is_the_same_batch_in_parts():
    ends = []
    for accumulate in (1, 4):
        model = toy("vit")[0]
        recipe = replace(SHORT, accumulate=accumulate, optimizer="sgd", lr=0.05, epochs=3)
        trained = train_(model, stripes(200), recipe)
        assert trained.best_epoch > 0
        ends.append((weights(model), trained.history[-1].train_loss))
    for name in ends[0][0]:
        torch.testing.assert_close(ends[0][0][name], ends[1][0][name], rtol=1e-4, atol=1e-5)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-4)


def test_the_learning_rate_warms_up_and_falls():
    recipe = replace(SHORT, epochs=10, warmup=0.5, lr=1e-3, min_lr=1e-5, warmup_lr=1e-6)
    rates = [epoch.lr for epoch in train_(toy("vit")[0], stripes(50), recipe).history]
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert max(rates) == pytest.approx(1e-3, rel=0.1)
    assert 1e-5 < rates[-1] < 1e-4


def test_training_that_does_harm_changes_nothing():
    model = toy("vit")[0]
    train_(model, stripes(200), replace(SHORT, epochs=4, ema_decay=0.0, lr=3e-3))
    before = weights(model)
    trained = train_(model, stripes(200), replace(SHORT, lr=1.0, optimizer="sgd"))
    assert trained.best_epoch == 0
    assert trained.val_top1 == trained.val_top1_before
    assert same(before, weights(model))


# -- images -----------------------------------------------------------------------------------


def test_validation_images_are_apart_and_the_same_for_a_seed():
    learnt, held_out = split(1000, 0.1, seed=3)
    assert len(held_out) == 100
    assert sorted(learnt + held_out) == list(range(1000))
    assert split(1000, 0.1, seed=3) == (learnt, held_out)
    assert split(1000, 0.1, seed=4) != (learnt, held_out)
    assert len(split(1_000_000, 0.1, seed=0)[1]) == 5000
    assert len(split(3, 0.1, seed=0)[1]) == 1


def test_only_the_learning_part_is_trained_on(monkeypatch):
    seen, read = set(), Training.__getitem__
    monkeypatch.setattr(Training, "__getitem__", lambda s, key: seen.add(key) or read(s, key))
    train_(toy("vit")[0], stripes(), SHORT, seed=5)
    learnt, held_out = split(100, SHORT.validation, seed=5)
    positions = {position for _, position in seen}
    assert positions <= set(learnt)
    assert len(seen) == 2 * 5 * 16  # two epochs of five whole batches, no image twice in one
    assert not positions & set(held_out)


def test_order_is_new_in_each_epoch_and_can_be_entered_anywhere():
    order = Order(list(range(100, 150)), batch=8, seed=0)
    first = list(order)
    assert len(first) == len(order) == 48
    assert len(set(first)) == 48
    order.done = 4
    assert list(order) == first[32:]
    order.epoch, order.done = 1, 0
    assert [position for _, position in order] != [position for _, position in first]


def test_augmentation_depends_on_seed_epoch_and_image_alone():
    recipe = find("dimap")
    images = stripes()
    one = Training(images, images.spec, recipe, seed=0)
    first = one[0, 7][0]
    draw_for("something else", devices=True)
    assert torch.equal(one[0, 7][0], first)
    assert not torch.equal(one[1, 7][0], first)
    assert not torch.equal(Training(images, images.spec, recipe, seed=1)[0, 7][0], first)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation_works_on_grey_and_colour(channels):
    model, images = toy("vit")[0], stripes(size=(channels, 16, 16))
    model.pretrained_cfg = {
        "input_size": (channels, 16, 16),
        "mean": MEAN[:channels],
        "std": STD[:channels],
    }
    recipe = replace(find("dimap"), augment="rand-m10-n3-mstd2.0-inc1")  # the strongest too
    training = Training(images, images.spec, recipe, seed=0)
    with preserved():
        for epoch in range(5):
            for position in range(100):
                image, label = training[epoch, position]
                assert image.shape == (channels, 16, 16)
                assert label == position % CLASSES


@pytest.fixture
def folder(tmp_path):
    for number in range(40):
        place = tmp_path / "train" / str(number % CLASSES)
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path


def test_an_image_folder_is_augmented_by_timm(folder):
    from timm.data import create_transform

    model = toy("vit")[0]
    plain = create_transform((3, 16, 16), mean=MEAN, std=STD)
    images = ImageFolder(str(folder / "train"), transform=plain)
    training = Training(images, InputSpec.of(model), replace(SHORT, color_jitter=0.9), 0)
    with preserved():
        one, other = training[0, 3], training[1, 3]
    assert one[0].shape == (3, 16, 16)
    assert not torch.equal(one[0], other[0])
    assert images[3][0].equal(images[3][0])  # what validates is not augmented
    trained = train_(model, images, replace(SHORT, batch_size=8))
    assert trained.images == 36
    assert len(part(images, [1, 2])) == 2


# -- distillation -----------------------------------------------------------------------------


def test_distilling_brings_the_outputs_closer_to_the_dense_models():
    dense, small = pruned("vit", "mlp")
    train_(dense, stripes(200), replace(SHORT, epochs=4, ema_decay=0.0, lr=3e-3))
    fresh = stripes(100, seed=9)
    x = torch.stack([fresh[n][0] for n in range(100)])

    def gap(weight):
        student = pruned("vit", "mlp")[1]
        recipe = replace(SHORT, epochs=3, distill=True, distill_weight=weight, ema_decay=0.0)
        trained = train_(student, stripes(200), recipe, teacher=dense)
        assert trained.learnt_from == ("labels", "logits")
        with torch.inference_mode():
            return float(divergence(student(x), dense(x), 1.0))

    with torch.inference_mode():
        untrained = float(divergence(small(x), dense(x), 1.0))
    assert gap(1.0) < gap(0.0)
    assert gap(1.0) < untrained / 2


def test_the_divergence_is_what_the_formula_says():
    ours, theirs = torch.randn(4, 5), torch.randn(4, 5)
    p, q = (np.exp(z.numpy() / 3) for z in (theirs, ours))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    expected = 9 * (p * np.log(p / q)).sum(1).mean()
    assert float(divergence(ours, theirs, 3.0)) == pytest.approx(expected, rel=1e-5)
    assert float(divergence(ours, ours, 3.0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["vit", "swin", "convnext"])
@pytest.mark.parametrize("kind", ["mlp", "width"])
def test_features_are_distilled_only_where_widths_agree(name, kind):
    dense, small = pruned(name, kind)
    image = torch.randn(1, *dense.pretrained_cfg["input_size"])
    assert features_agree(small, dense, image) == (kind != "width")
    if name != "vit":
        return
    recipe = replace(SHORT, epochs=1, distill=True, feature_weight=1.0)
    trained = train_(small, stripes(), recipe, teacher=dense)
    assert ("features" in trained.learnt_from) == (kind != "width")
    assert small(image).shape == (1, CLASSES)


def test_matching_features_changes_what_is_learnt():
    ends = []
    for weight in (0.0, 5.0):
        dense, small = pruned("vit", "mlp")
        recipe = replace(SHORT, distill=True, feature_weight=weight)
        train_(small, stripes(), recipe, teacher=dense)
        ends.append(weights(small))
    assert not same(*ends)


def test_mixing_smooths_labels_and_feeds_the_teacher_the_same_images():
    seen = []

    def teacher(x):
        seen.append(x.clone())
        return torch.zeros(len(x), CLASSES)

    def student(x):
        seen.append(x.clone())
        return torch.zeros(len(x), CLASSES, requires_grad=True)

    recipe = Recipe(mixup=0.8, cutmix=1.0, distill=True)
    objective = Objective(recipe, CLASSES, teacher, partial(torch.autocast, "cpu", enabled=False))
    x = torch.randn(8, 3, 16, 16)
    with preserved():
        draw_for(0)
        loss = objective(student, x.clone(), torch.arange(8) % CLASSES)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], x)
    assert float(loss.detach()) == pytest.approx(0.5 * np.log(CLASSES), rel=1e-5)


def test_a_recipe_that_distils_needs_a_teacher():
    with pytest.raises(TrainingError, match="no dense model; pass teacher"):
        train_(toy("vit")[0], stripes(), replace(SHORT, distill=True))


# -- failures ---------------------------------------------------------------------------------


def test_no_training_images_is_said():
    for images in (None, stripes(0)):
        with pytest.raises(DataError, match="no training images"):
            train_(toy("vit")[0], images, SHORT)


def test_images_without_labels_are_refused():
    unlabelled = torch.utils.data.TensorDataset(torch.randn(4, 3, 16, 16))
    with pytest.raises(DataError, match="TensorDataset has no labels"):
        train_(toy("vit")[0], unlabelled, SHORT)


def test_too_many_classes_are_refused():
    with pytest.raises(DataError, match="go from 0 to 6, but the model tells 5 classes apart"):
        train_(toy("vit")[0], stripes(classes=7), SHORT)


def test_an_epoch_of_no_batches_is_refused():
    with pytest.raises(DataError, match=r"18 images to train with, fewer than a batch of 64"):
        train_(toy("vit")[0], stripes(20), replace(SHORT, batch_size=64))


def test_batches_that_do_not_divide_are_refused():
    with pytest.raises(TrainingError, match=r"16 images does not divide.*a multiple of 3\."):
        train_(toy("vit")[0], stripes(), replace(SHORT, accumulate=3))
    with pytest.raises(TrainingError, match=r"divide into even parts.*a multiple of 32\."):
        train_(toy("vit")[0], stripes(), replace(SHORT, accumulate=16, mixup=0.1))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(tmp_path, monkeypatch):
    model, calls = toy("vit")[0], [0]
    before = weights(model)
    call = Objective.__call__

    def breaks(self, *arguments):
        calls[0] += 1
        return call(self, *arguments) * (float("nan") if calls[0] == 25 else 1)

    monkeypatch.setattr(Objective, "__call__", breaks)
    with pytest.raises(
        TrainingError, match=r"became nan in epoch 2, by update 10 of 22; .*epoch 1 is kept"
    ):
        train_(model, stripes(), replace(SHORT, batch_size=4), workdir=tmp_path)
    assert same(before, weights(model))
    (kept,) = whole(tmp_path)
    assert all(tensor.isfinite().all() for tensor in load_file(kept / TENSORS).values())


def test_weights_that_blow_up_after_a_finite_loss_are_not_kept(tmp_path, monkeypatch):
    step = torch.optim.AdamW.step

    def breaks(self, *arguments, **options):
        step(self, *arguments, **options)
        self.param_groups[0]["params"][0].data.fill_(float("inf"))

    monkeypatch.setattr(torch.optim.AdamW, "step", breaks)
    with pytest.raises(TrainingError, match="became nan in epoch 1"):
        train_(toy("vit")[0], stripes(20), replace(SHORT, batch_size=18), workdir=tmp_path)
    assert whole(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["gpu", "cpu"],
)
def test_running_out_of_memory_names_the_batch_that_was_tried(error, monkeypatch):
    def refuse(*_):
        raise error

    monkeypatch.setattr(Objective, "__call__", refuse)
    with pytest.raises(TrainingError, match=r"Out of memory with 8 images at a time.*batch of 16"):
        train_(toy("vit")[0], stripes(), replace(SHORT, accumulate=2))


STARVED = """
import resource
from dataclasses import replace
from pathlib import Path
from conftest import toy
from prunekit.errors import TrainingError
from prunekit.recovery.training import train_
from test_train import SHORT, stripes

model = toy("vit")[0]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, resource.RLIM_INFINITY))
try:
    train_(model, stripes(4500), replace(SHORT, batch_size=4000))
except TrainingError as error:
    print(error)
"""


def test_really_running_out_of_memory_is_explained():
    # In a process of its own, as an older one may have enough freed memory to go on with.
    command = [sys.executable, "-c", STARVED]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert "Out of memory with 4000 images" in done.stdout, done.stderr


@pytest.mark.parametrize("package", ["accelerate", "matplotlib"])
def test_a_missing_extra_is_named(package, monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == package else find_spec(n, *a)
    )
    with pytest.raises(TrainingError, match=rf"needs {package}.*pip install 'prunekit\[train\]'"):
        train_(toy("vit")[0], stripes(), SHORT)


def test_trackers_are_checked_before_the_work(tmp_path):
    for tracker, expected in (("wandb", "pip install wandb"), ("tensorbord", "Did you mean")):
        with pytest.raises(TrainingError, match=expected):
            train_(toy("vit")[0], stripes(), SHORT, tracker=tracker, workdir=tmp_path)
    with pytest.raises(TrainingError, match="pass workdir"):
        train_(toy("vit")[0], stripes(), SHORT, tracker="tensorboard")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"optimizer": "adamv"}, "cannot make the optimizer 'adamv'"),
        ({"schedule": "cosin"}, "schedule 'cosin'"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"augment": "rond-m9"}, "rond-m9"),
    ],
    ids=str,
)
def test_what_timm_or_the_device_cannot_do_is_said(change, expected):
    with pytest.raises(TrainingError, match=expected):
        train_(toy("vit")[0], stripes(), replace(SHORT, **change), device="cpu")


# -- stopping, resuming, writing down ---------------------------------------------------------


class After:
    """Says stop once it has been asked so often."""

    def __init__(self, times):
        self.left = times

    def __call__(self):
        self.left -= 1
        return self.left < 0


LONG = replace(SHORT, epochs=3, batch_size=4, mixup=0.5, augment="rand-m5", accumulate=2)


def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_bits(tmp_path):
    whole_run = toy("vit")[0]
    expected = train_(whole_run, stripes(), LONG)
    assert expected.best_epoch > 0
    places = set()
    for times in (0, 3):
        workdir, model = tmp_path / str(times), toy("vit")[0]
        with pytest.raises(TrainingInterrupted, match="add --resume") as stopped:
            train_(model, stripes(), LONG, workdir=workdir, should_stop=After(times))
        places.add(str(stopped.value))
        resumed = train_(model, stripes(), LONG, workdir=workdir, resume=True)
        assert same(weights(whole_run), weights(model))
        assert [e.train_loss for e in resumed.history] == [e.train_loss for e in expected.history]
        assert len(whole(workdir)) == 1
    assert len(places) == 2
    assert any("after 10 of 22 updates of epoch 1" in place for place in places)


def test_work_that_is_not_finished_is_not_lost(tmp_path):
    with pytest.raises(TrainingInterrupted):
        train_(toy("vit")[0], stripes(), LONG, workdir=tmp_path, should_stop=After(0))
    with pytest.raises(TrainingError, match="not finished; add --resume"):
        train_(toy("vit")[0], stripes(), LONG, workdir=tmp_path)
    for change, expected in (
        ({"recipe": replace(LONG, lr=0.5)}, r"started with lr 0.01 \(now 0.5\)"),
        ({"seed": 1}, r"started with seed 0 \(now 1\)"),
        ({"settings": dict.fromkeys("abcdefg", 1)}, r"d None \(now 1\) and 3 other settings;"),
        ({"images": stripes(90)}, r"images 100 \(now 90\)"),
        ({"settings": {"data": "x"}}, r"data None \(now x\)"),
    ):
        options = {"images": stripes(), "recipe": LONG, **change}
        images, recipe = options.pop("images"), options.pop("recipe")
        with pytest.raises(TrainingError, match=expected):
            train_(toy("vit")[0], images, recipe, workdir=tmp_path, resume=True, **options)
    assert len(whole(tmp_path)) == 1


def test_checkpoints_are_written_within_an_epoch_when_it_is_long(tmp_path, monkeypatch):
    from prunekit.recovery.training.checkpoint import Checkpoints

    done, save = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self: done.append(1) or save(self))
    train_(toy("vit")[0], stripes(), LONG, workdir=tmp_path / "a")
    assert len(done) == 3
    train_(toy("vit")[0], stripes(), LONG, workdir=tmp_path / "b", checkpoint_minutes=0)
    assert len(done) == 3 + 9


def test_everything_is_written_down(tmp_path):
    updates, epochs = [], []
    trained = train_(
        toy("vit")[0],
        stripes(),
        SHORT,
        workdir=tmp_path,
        tracker="tensorboard",
        on_update=updates.append,
        on_epoch=epochs.append,
    )
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert set(lines[0]) == {
        "epoch", "lr", "train_loss", "val_top1", "seconds", "images_per_second"
    }  # fmt: skip
    assert tuple(epochs) == trained.history
    assert (updates[-1].done, updates[-1].total, updates[-1].seconds_left) == (10, 10, 0)
    assert updates[0].images_per_second > 0
    picture = (tmp_path / "learning_curve.svg").read_text()
    assert picture.startswith("<?xml")
    (events,) = (tmp_path / "prunekit").glob("events*")
    assert b"val_top1" in events.read_bytes()
