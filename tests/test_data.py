"""Data sets and folders: what is opened is what lies there, splits kept apart."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

from prunekit.errors import DataError
from prunekit.inputs.data import batches, open_data
from prunekit.inputs.datasets import MINI
from prunekit.inputs.feed import InputSpec
from prunekit.inputs.zoo import build


@pytest.fixture(scope="module")
def model():
    return build("vit_micro")


@pytest.fixture
def digits(tmp_path):
    """Write twenty of scikit-learn's digits as an image folder with two splits."""
    found = load_digits()
    for number, (image, label) in enumerate(zip(found.images[:20], found.target[:20], strict=True)):
        folder = tmp_path / ("train" if number < 10 else "val") / str(label)
        folder.mkdir(parents=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def test_the_small_set_holds_the_official_test_images(model):
    data = open_data("fashion-mnist-mini", model)
    assert len(data.test) == 10_000
    assert len(data.calibration) == 5_000
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert data.classes[9] == "Ankle boot"


def test_calibration_images_are_not_among_the_test_images(model):
    data = open_data("fashion-mnist-mini", model)
    seen = {image.numpy().tobytes() for image in data.test.images}
    assert not any(image.numpy().tobytes() in seen for image in data.calibration.images)


def test_images_are_normalised_for_the_model(model):
    data = open_data("fashion-mnist-mini", model)
    x, y = next(iter(batches(data.calibration, 512)))
    assert x.shape == (512, 1, 28, 28)
    assert abs(float(x.mean())) < 0.05
    assert abs(float(x.std()) - 1) < 0.05
    first = (data.calibration.images[0].float() / 255 - 0.2860) / 0.3530
    assert torch.allclose(x[0, 0], first, atol=1e-6)
    assert y[0] == data.calibration.labels[0]


def test_a_model_of_another_size_gets_resized_images_on_all_channels():
    config = {"input_size": (3, 40, 40), "mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0)}
    other = torch.nn.Identity()
    other.pretrained_cfg = config
    data = open_data("fashion-mnist-mini", other)
    assert InputSpec.of(other).size == (3, 40, 40)
    x, _ = data.test[7]
    assert x.shape == (3, 40, 40)
    assert torch.equal(x[0], x[2])


def test_batches_are_limited_and_drawn_repeatably(model):
    data = open_data("fashion-mnist-mini", model)
    first, second = (
        torch.cat([y for _, y in batches(data.calibration, 100, limit=250, seed=3)])
        for _ in range(2)
    )
    assert len(first) == 250
    assert torch.equal(first, second)
    assert not torch.equal(first, data.calibration.labels[:250])


def test_the_full_set_is_found_where_it_is_said_to_be(model, tmp_path, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    shutil.copytree(MINI, raw)
    assert len(open_data("fashion-mnist", model, tmp_path).test) == 10_000
    monkeypatch.setenv("PRUNEKIT_DATA", str(raw))
    assert len(open_data("fashion-mnist", model).test) == 10_000
    with pytest.raises(DataError, match="does not exist"):
        open_data("fashion-mnist", model, tmp_path / "elsewhere")


def test_a_corrupt_file_is_named(model, tmp_path):
    shutil.copytree(MINI, tmp_path / "copy")
    bad = tmp_path / "copy" / "t10k-images-idx3-ubyte.gz"
    bad.write_bytes(gzip.compress(gzip.decompress(bad.read_bytes())[:1000]))
    with pytest.raises(DataError, match=r"t10k-images.* is not a readable IDX file"):
        open_data("fashion-mnist", model, tmp_path / "copy")


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(DataError, match="t10k-images"):
        open_data("fashion-mnist", model, tmp_path)


def test_a_folder_is_opened_with_its_splits(model, digits):
    data = open_data(str(digits), model)
    assert (len(data.test), len(data.calibration)) == (10, 10)
    assert data.classes == tuple("0123456789")
    x, _ = next(iter(batches(data.test, 10)))
    assert x.shape == (10, 1, 28, 28)


def test_a_folder_without_splits_is_for_testing_only(model, digits):
    data = open_data(str(digits / "train"), model)
    assert len(data.test) == 10
    assert data.calibration is None


def test_training_images_are_never_evaluated_on(model, digits):
    shutil.rmtree(digits / "val")
    data = open_data(str(digits), model)
    assert len(data.calibration) == 10
    assert data.test is None
    with pytest.raises(DataError, match="add a val or test folder"):
        data.tested()


def test_an_unreadable_image_is_named(model, digits):
    (digits / "val" / "3" / "13.png").write_bytes(b"no image")
    data = open_data(str(digits), model)
    with pytest.raises(DataError, match=r"13\.png is not a readable image"):
        list(batches(data.test, 10))


def test_the_number_of_classes_must_be_the_models(model, digits):
    for split in ("train", "val"):
        shutil.rmtree(digits / split / "3")
    with pytest.raises(DataError, match="9 classes, but the model tells 10 apart"):
        open_data(str(digits), model)
    assert open_data(str(digits), model, labels=False).problem is not None


@pytest.mark.parametrize(("lacks", "has"), [("train", "val"), ("val", "train")])
def test_splits_whose_classes_differ_are_refused_by_name(model, digits, lacks, has):
    shutil.rmtree(digits / lacks / "3")
    with pytest.raises(DataError, match=rf"{lacks} lacks '3', which .*{has} has"):
        open_data(str(digits), model)
    mended = digits / lacks / "3"  # as the sentence advises
    mended.mkdir()
    shutil.copy(digits / has / "3" / ("13.png" if has == "val" else "3.png"), mended)
    open_data(str(digits), model)


def test_one_name_is_one_label_in_all_splits(model, digits):
    data = open_data(str(digits), model)
    for split in (data.test, data.calibration):
        for path, label in split.samples:
            assert data.classes[label] == Path(path).parent.name


def test_images_need_no_labels_where_none_are_looked_at(model, digits, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (digits / "train").rglob("*.png"):
        shutil.copy(path, flat)
    data = open_data(str(flat), model, labels=False, calibrates=True)
    assert len(data.calibration) == 10
    assert data.test is None
    x, y = next(iter(batches(data.calibration, 10)))
    assert x.shape == (10, 1, 28, 28)
    assert y.tolist() == [-1] * 10
    with pytest.raises(DataError, match=r"no labels; put those of each class in a sub-folder"):
        open_data(str(flat), model)


def test_some_of_imagenets_classes_have_the_labels_that_timm_gives_them(tmp_path, digits):
    names = ("n01443537", "n02123045")  # goldfish and tabby
    for name in names:
        shutil.copytree(digits / "val" / "3", tmp_path / "few" / "val" / name)
    other = torch.nn.Identity()
    other.num_classes = 1000
    other.pretrained_cfg = {"input_size": (3, 40, 40), "mean": (0.5,) * 3, "std": (1.0,) * 3}
    data = open_data(str(tmp_path / "few"), other)
    assert sorted(set(data.test.targets)) == [1, 281]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_have_the_size_and_the_channels_that_the_model_was_built_for(channels, digits):
    sizes = {"img_size": (32, 48), "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    built = timm.create_model("vit_tiny_patch16_224", in_chans=channels, num_classes=10, **sizes)
    spec = InputSpec.of(built)
    assert spec.size == (channels, 32, 48)
    for name in ("fashion-mnist-mini", str(digits)):
        x, _ = next(iter(batches(open_data(name, built).test, 2)))
        assert x.shape == (2, channels, 32, 48)
        assert built(x).shape == (2, 10)


def configurations():
    """Return one of timm's configurations of every way to prepare images."""
    ways = {}
    for name in timm.list_models():
        config = timm.models.get_pretrained_cfg(name)
        if config is not None and max(config.input_size) <= 600:
            way = config.interpolation, config.crop_pct, config.crop_mode, config.mean, config.std
            ways.setdefault((*way, config.input_size), config.to_dict())
    return list(ways.values())


def test_image_files_are_prepared_as_timm_prepares_them_for_every_model(tmp_path):
    """For every configuration that there is, bit for bit."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (230, 310, 3), np.uint8))
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "1.png")
    configs = configurations()
    assert len(configs) > 50
    for config in configs:
        model = torch.nn.Identity()
        model.pretrained_cfg = config
        own = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        ((x, _),) = open_data(str(tmp_path), model, labels=False).test
        assert torch.equal(x, own(image)), config


def test_image_files_give_no_five_channels(digits):
    built = timm.create_model("convnext_atto", in_chans=5, num_classes=10)
    with pytest.raises(DataError, match="5 channels; image files give 1, 3 or 4"):
        open_data(str(digits), built)


def test_a_download_that_fails_says_where_the_data_is_looked_for(model, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.delenv("PRUNEKIT_DATA", raising=False)
    monkeypatch.setattr("prunekit.inputs.fashion.DEBIAN", tmp_path / "none")
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", refuse)
    with pytest.raises(DataError, match=r"--data-dir.*PRUNEKIT_DATA.*fashion-mnist-mini"):
        open_data("fashion-mnist", model)
