"""Images that the caller brings: data sets, loaders, batches, and pairs of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from conftest import toy
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from prunekit import finetune, prune
from prunekit.errors import DataError, RequestError
from prunekit.evaluate import evaluate
from prunekit.inputs.data import open_data
from prunekit.inputs.given import Batched, Collected
from prunekit.recovery import recipes

IMAGES = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 5
LABELLED = TensorDataset(IMAGES, LABELS)


class Stream(IterableDataset):
    """Yields sample by sample, and has no length."""

    def __iter__(self):
        return iter(zip(IMAGES, LABELS, strict=True))


class Unlabelled(Dataset):
    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return IMAGES[index]


def collated(samples):
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor([int(label) for label in labels]), {"extra": 1}


def net():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=5).eval()


def run(data, criterion="wanda", **options):
    told = {"example_input": IMAGES[:1], "calibration": 24, **options}
    return prune(net(), criterion, 0.3, data=data, **told)


def scores(data, criterion="wanda", **options):
    return torch.cat(list(run(data, criterion, **options).scores.values()))


def batches(size=8):
    return list(zip(IMAGES.split(size), LABELS.split(size), strict=True))


CALIBRATION = {
    "data set": lambda: LABELLED,
    "loader": lambda: DataLoader(LABELLED, 7, shuffle=True),
    "loader that collates": lambda: DataLoader(LABELLED, 7, collate_fn=collated),
    "loader with workers": lambda: DataLoader(LABELLED, 7, num_workers=1),
    "stream": lambda: DataLoader(Stream(), 7),
    "batches": batches,
    "large batch": lambda: batches(40),
    "generator": lambda: iter(batches()),
    "pair": lambda: (LABELLED, None),
}


@pytest.mark.parametrize("criterion", ["wanda", "taylor"])
@pytest.mark.parametrize("kind", CALIBRATION)
def test_images_of_every_sort_calibrate(kind, criterion):
    result = run(CALIBRATION[kind](), criterion, repair="lstsq")
    assert result.parity.holds
    assert result.recipe["calibration"] == 24
    assert result.rounds[0].repaired
    json.dumps(result.report())


@pytest.mark.parametrize("kind", ["loader", "loader that collates", "loader with workers", "pair"])
def test_a_loader_is_read_as_its_data_set_in_an_order_of_the_seed(kind):
    assert torch.equal(scores(CALIBRATION[kind]()), scores(LABELLED))
    assert not torch.equal(scores(CALIBRATION[kind](), seed=1), scores(LABELLED))


@pytest.mark.parametrize("kind", ["stream", "batches", "large batch", "generator"])
def test_batches_are_read_from_the_first_image_on(kind):
    wanted = scores(TensorDataset(IMAGES[:24], LABELS[:24]))
    torch.testing.assert_close(scores(CALIBRATION[kind]()), wanted, rtol=1e-5, atol=0)


def test_images_need_labels_only_where_something_looks_at_them():
    for data in (Unlabelled(), list(IMAGES.split(8)), [(IMAGES,)]):
        assert run(data, "wanda").parity.holds
        with pytest.raises(DataError, match="has no labels, and labels are needed"):
            run(data, "taylor")


def test_the_named_data_and_the_same_as_a_data_set_give_the_same(monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=10, in_chans=1, img_size=32).eval()
    spec = {"example_input": torch.randn(1, 1, 32, 32), "evaluate": True, "timed": False}
    named = prune(model, "taylor", 0.3, data="fashion-mnist-mini", calibration=64, **spec)
    data = open_data("fashion-mnist-mini", model, spec=_spec(model, spec["example_input"]))
    brought = (data.calibration, data.test)
    same = prune(model, "taylor", 0.3, data=brought, calibration=64, **spec)
    assert same.plan == named.plan
    assert same.after == named.after
    assert same.recipe["data"] == "the caller's ArrayImages"


def _spec(model, example):
    from prunekit.inputs.feed import InputSpec

    return InputSpec.of(model, example)


@pytest.mark.parametrize("kind", ["data set", "loader that collates", "stream", "batches"])
def test_the_second_of_a_pair_is_what_both_models_are_evaluated_on(kind):
    result = run((None, CALIBRATION[kind]()), "magnitude", evaluate=True, timed=False)
    for model, side in ((net(), result.before), (result.model, result.after)):
        with torch.no_grad():
            right = (model(IMAGES).argmax(1) == LABELS).float().mean()
        assert side.top1 == pytest.approx(100 * float(right))
        assert side.images == 40


def test_one_alone_calibrates_where_something_learns_and_is_evaluated_on_otherwise():
    (warning,) = run(LABELLED, "wanda", evaluate=True, timed=False).warnings
    assert "has no images to evaluate on" in warning
    assert run(LABELLED, "magnitude", evaluate=True, timed=False).after.images == 40


def test_test_images_without_labels_are_remarked_upon():
    (warning,) = run((LABELLED, Unlabelled()), evaluate=True, timed=False).warnings
    assert "the caller's Unlabelled has no labels to evaluate with" in warning


def test_a_data_set_of_torchvision_trains(tmp_path):
    from torchvision.datasets import ImageFolder

    for number in range(12):
        folder = tmp_path / str(number % 2)
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2)
    folder = ImageFolder(tmp_path, timm.data.create_transform((3, 32, 32)))
    tune = recipes.find("quick").with_(epochs=1, batch_size=4)
    result = prune(model, "magnitude", 0.3, finetune=tune, data=folder, img_size=32)
    assert len(result.rounds[0].trained.history) == 1
    with pytest.raises(DataError, match="gives Image for images; give it a transform"):
        prune(model, "wanda", 0.3, data=ImageFolder(tmp_path), img_size=32)
    with pytest.raises(DataError, match=r"has 2 classes, but the model tells 5 apart"):
        run(DataLoader(folder), "taylor", evaluate=True, timed=False, finetune=None)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ((IMAGES, LABELS), DataError, "Pass one batch in a list"),
        ((LABELLED, LABELLED, LABELLED), DataError, "expected a pair"),
        ((None, iter(batches())), DataError, "can be read only once"),
        ([], DataError, "is empty; pass images"),
        ([(IMAGES[:0], LABELS[:0])], DataError, "is empty; pass images"),
        ((None, [(IMAGES[:0], LABELS[:0])]), DataError, "is empty; pass images"),
        (TensorDataset(IMAGES[:0]), DataError, "is empty; pass images"),
        ([{"x": IMAGES}], DataError, "gives dict for images; expected tensors"),
        (["a.png"], DataError, "gives str for images; expected tensors"),
        (
            [IMAGES[:, :1]],
            DataError,
            r"\(1, 32, 32\) in torch.float32, on which Res",
        ),
        ([IMAGES.byte()], DataError, r"in torch.uint8; give it a transform that scales"),
        (TensorDataset(IMAGES[:, :1]), DataError, "on which ResNet does not run"),
        (
            [(IMAGES[:8],), (IMAGES[:, :1],)],
            DataError,
            "gives 1 channels in torch.float32 for",
        ),
        ([((IMAGES, IMAGES), LABELS)], DataError, "gives a list of images of shape"),
        (IMAGES, RequestError, "expected the name of a data set, a folder, a Dataset"),
        ({"x": IMAGES}, RequestError, "expected the name of a data set, a folder, a Dataset"),
        (7, RequestError, "expected the name of a data set, a folder, a Dataset"),
    ],
)
def test_what_holds_no_images_is_refused_in_one_sentence(data, error, said):
    with pytest.raises(error, match=said):
        run(data, "wanda" if not isinstance(data, tuple) else "magnitude", evaluate=True)


ODD_LABELS = {
    "list": LABELS.tolist(),
    "words": ["a"] * 40,
    "too few": LABELS[:7],
    "column": LABELS[:, None],
    "one-hot": torch.nn.functional.one_hot(LABELS),
    "floats": LABELS.float(),
    "bools": LABELS > 2,
    "dictionary": {"labels": LABELS},
}


@pytest.mark.parametrize("kind", ODD_LABELS)
def test_labels_that_are_none_are_refused_in_one_sentence(kind):
    data = [(IMAGES, ODD_LABELS[kind])]
    for given, criterion in ((data, "taylor"), ((None, data), "magnitude")):
        with pytest.raises(DataError, match="expected a tensor of one whole number for each image"):
            run(given, criterion, evaluate=True, timed=False, calibration=40)


def test_labels_of_any_whole_type_are_labels():
    wanted = scores([(IMAGES, LABELS)], "taylor", calibration=40)
    assert torch.equal(scores([(IMAGES, LABELS.int())], "taylor", calibration=40), wanted)
    with pytest.raises(DataError, match="has no labels, and labels are needed"):
        run([(IMAGES, None)], "taylor")


def test_batches_are_parted_and_limited():
    parts = Batched(batches(8), "some").parted(5, 12)
    for _ in range(2):  # more than once
        assert [len(x) for x, _ in parts] == [5, 3, 4]
        assert torch.equal(torch.cat([x for x, _ in parts]), IMAGES[:12])
        assert torch.equal(torch.cat([y for _, y in parts]), LABELS[:12])
    held = Batched(iter(batches(8)), "some").collected(12)
    assert isinstance(held, Collected)
    assert len(held) == 12


def test_images_of_several_sizes_come_in_lists():
    class Detector(nn.Module):
        """Looks at images one by one, as torchvision's look at lists of them."""

        def __init__(self):
            super().__init__()
            self.backbone = net()

        def forward(self, images):
            return [{"scores": self.backbone(image.unsqueeze(0))} for image in images]

    images = [torch.randn(3, 32, 32 + 8 * n) for n in range(4)]
    told = {"at": "backbone", "repair": "lstsq", "example_input": images[:1]}
    samples = [(image, {"boxes": []}) for image in images]
    for data in (
        [(images[:2],), (images[2:],)],
        DataLoader(samples, 2, collate_fn=lambda batch: tuple(zip(*batch, strict=True))),
    ):
        result = prune(Detector(), "wanda", 0.3, data=data, **told)
        assert result.parity.holds
        assert result.recipe["calibration"] == 4
        assert result.rounds[0].repaired


def test_saved_models_are_evaluated_on_and_trained_with_them(tmp_path):
    torch.manual_seed(0)
    options = {"num_classes": 5, "img_size": 32, "weights": "random"}
    result = prune("test_resnet", "magnitude", 0.3, **options)
    result.save(tmp_path / "small")
    with torch.no_grad():
        right = (result.model(IMAGES).argmax(1) == LABELS).float().mean()
    found = evaluate(tmp_path / "small", DataLoader(LABELLED, 7))
    assert found["top1"] == pytest.approx(100 * float(right))
    assert found["images"] == 40

    class Painted(Dataset):
        """As torchvision's data sets are: images that its `transform` makes tensors of."""

        targets, transform = LABELS.tolist(), staticmethod(lambda image: image)

        def __len__(self):
            return 40

        def __getitem__(self, index):
            pixels = (IMAGES[index].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
            return self.transform(Image.fromarray(pixels)), self.targets[index]

    told = {"recipe": "quick", "overrides": {"epochs": 1, "batch_size": 16}}
    tensors = Painted()
    tensors.transform = timm.data.create_transform((3, 32, 32))
    tuned = finetune(tmp_path / "small", data=(tensors, LABELLED), **told)
    assert tuned.report["after"]["images"] == 40
    assert tuned.report["recipe"]["data"] == "the caller's Painted and the caller's TensorDataset"
    with pytest.raises(DataError, match=r"has no images to evaluate on, .* pass a pair"):
        finetune(tmp_path / "small", tmp_path / "other", data=tensors, **told)


@pytest.mark.parametrize("label", [lambda label: label, int], ids=["tensor", "int"])
def test_a_list_of_samples_is_no_list_of_batches(label):
    samples = [(image, label(one)) for image, one in zip(IMAGES, LABELS, strict=True)]
    with pytest.raises(DataError, match=r"single images with their labels .* pass a DataLoader"):
        run(samples)
    run(DataLoader(samples, batch_size=8))  # the advice works


def test_a_search_tells_one_s_own_images_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path))
    model, images = toy("vit")
    batches = [images.roll(shift, -1) for shift in range(6)]
    options = {"scope": "search", "trials": 4, "example_input": images}
    for data in (batches, [one + 1 for one in batches], batches):
        prune(model, "magnitude", 0.3, data=data, **options)
    assert len(list((tmp_path / "search").iterdir())) == 2
