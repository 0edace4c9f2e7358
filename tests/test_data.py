"""Data sets and folders: what is opened is what lies there, splits kept apart."""

import gzip
import shutil

import numpy as np
import pytest
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
    with pytest.raises(DataError, match="no val or test folder"):
        open_data(str(digits), model)


def test_an_unreadable_image_is_named(model, digits):
    (digits / "val" / "3" / "13.png").write_bytes(b"no image")
    data = open_data(str(digits), model)
    with pytest.raises(DataError, match=r"13\.png is not a readable image"):
        list(batches(data.test, 10))


def test_the_number_of_classes_must_be_the_models(model, digits):
    shutil.rmtree(digits / "val" / "3")
    with pytest.raises(DataError, match="9 classes, but the model tells 10 apart"):
        open_data(str(digits), model)


def test_a_download_that_fails_says_where_the_data_is_looked_for(model, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.delenv("PRUNEKIT_DATA", raising=False)
    monkeypatch.setattr("prunekit.inputs.data.DEBIAN", tmp_path / "none")
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", refuse)
    with pytest.raises(DataError, match=r"--data-dir.*PRUNEKIT_DATA.*fashion-mnist-mini"):
        open_data("fashion-mnist", model)
