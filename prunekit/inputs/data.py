"""Named data sets and image folders, as loaders that fit a model.

Two splits, kept apart: `test` is only ever evaluated on, `calibration` comes from the
training images and is the only thing criteria and repairs may see.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from ..errors import DataError
from .datasets import DATASETS, MINI
from .feed import InputSpec

SPLITS = {"calibration": ("train",), "test": ("test", "val", "validation")}


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


Images = Dataset[tuple[Tensor, Tensor]]


Batches = DataLoader[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Data:
    """One data set, both splits ready for one model.

    Attributes:
        name: What was asked for.
        classes: Names of the classes, in label order.
        test: Images to evaluate on.
        calibration: Training images for criteria and repairs; None when there are none.
    """

    name: str
    classes: tuple[str, ...]
    test: Images
    calibration: Images | None


def open_data(name: str, model: nn.Module, data_dir: str | Path | None = None) -> Data:
    """Open a named data set or an image folder, prepared for `model`.

    Args:
        name: One of `DATASETS`, or a folder with a sub-folder of images per class, either
            directly (then all are test images) or below `train` and `val` or `test`.
        model: A timm model; its data configuration decides size and normalisation.
        data_dir: Where the full Fashion-MNIST lies, if not in a usual place.

    Raises:
        DataError: There is no such data set or folder, it holds no images, or not the model's
            number of classes.
    """
    if name == "fashion-mnist-mini":
        data = _fashion(name, MINI, model)
    elif name == "fashion-mnist":
        data = _fashion(name, _find_fashion(data_dir), model)
    else:
        data = _folder(Path(name), model)
    classes = getattr(model, "num_classes", len(data.classes))
    if classes != len(data.classes):
        raise DataError(
            f"{name} has {len(data.classes)} classes, but the model tells {classes} apart; use the "
            "data the model was trained for, or weights that were trained on this data."
        )
    return data


def batches(
    images: Images, size: int, *, limit: int | None = None, seed: int | None = None
) -> Batches:
    """Cut a split into batches.

    Args:
        images: The split.
        size: Images in a batch; the last batch may be smaller.
        limit: Use at most so many images.
        seed: Draw them in a random but repeatable order; None keeps the order.
    """
    count = len(images)  # type: ignore[arg-type]
    order = torch.arange(count)
    if seed is not None:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    chosen = Subset(images, order[:limit].tolist())
    whole = isinstance(images, ArrayImages)  # it answers a list of indices with a batch
    return DataLoader(chosen, size, collate_fn=(lambda batch: batch) if whole else None)


def fingerprint(data: Data) -> str:
    """Return a digest that changes when the images or their labels do.

    Images in memory count bit by bit; those in files by name, size and label, since reading a
    large data set through would take too long.
    """
    digest = hashlib.sha256()
    for split in (data.test, data.calibration):
        digest.update(b"split")
        if isinstance(split, ArrayImages):
            digest.update(repr((tuple(split.images.shape), split.spec)).encode())
            digest.update(split.images.numpy().tobytes())
            digest.update(split.labels.numpy().tobytes())
        elif split is not None:
            for path, label in split.samples:  # type: ignore[attr-defined]
                file = Path(path)
                digest.update(repr((file.parent.name, file.name, file.stat().st_size)).encode())
                digest.update(str(label).encode())
            digest.update(repr(split.transform).encode())  # type: ignore[attr-defined]
    return digest.hexdigest()


def check_labels(labels: Tensor, classes: int) -> None:
    """Make sure that the model has an output for every label.

    Raises:
        DataError: It has not.
    """
    if int(labels.max()) >= classes:
        raise DataError(
            f"The data has a label {int(labels.max())}, but the model tells only {classes} classes "
            "apart; evaluate on the data it was made for."
        )


class ArrayImages(Dataset[tuple[Tensor, Tensor]]):
    """Grey images held in memory, resized and normalised a batch at a time."""

    def __init__(self, images: Tensor, labels: Tensor, spec: InputSpec):
        """Hold `images`, (n, height, width) uint8, and `labels`, (n,) int64."""
        self.images, self.labels, self.spec = images, labels, spec

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.__getitems__([index])
        return image[0], label[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        channels, height, width = self.spec.size
        images = self.images[indices].unsqueeze(1).float() / 255  # (n, 1, 28, 28)
        if images.shape[-2:] != (height, width):
            images = F.interpolate(
                images, (height, width), mode="bilinear", align_corners=False, antialias=True
            )
        mean = torch.tensor(self.spec.mean).view(-1, 1, 1)
        std = torch.tensor(self.spec.std).view(-1, 1, 1)
        images = (images.expand(-1, channels, -1, -1) - mean) / std
        return images, self.labels[indices]


FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def _fashion(name: str, root: Path, model: nn.Module) -> Data:
    spec = InputSpec.of(model)
    test, train = (
        ArrayImages(
            _idx(root, f"{part}-images-idx3-ubyte"),
            _idx(root, f"{part}-labels-idx1-ubyte").long(),
            spec,
        )
        for part in ("t10k", "train")
    )
    return Data(name, FASHION_CLASSES, test, train)


def _idx(root: Path, stem: str) -> Tensor:
    """Read one IDX file of unsigned bytes, compressed or not."""
    path = next((p for p in (root / f"{stem}.gz", root / stem) if p.is_file()), None)
    if path is None:
        raise DataError(f"{root} has no {stem}.gz; expected the four files of Fashion-MNIST there.")
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, struct.error) as error:
        raise DataError(f"{path} is not a readable IDX file ({error}); fetch it again.") from error
    return torch.from_numpy(values.copy())


def _find_fashion(data_dir: str | Path | None) -> Path:
    """Return the folder of the full Fashion-MNIST, downloading it as a last resort."""
    if data_dir is not None:
        return _raw(Path(data_dir))
    if "PRUNEKIT_DATA" in os.environ:
        return _raw(Path(os.environ["PRUNEKIT_DATA"]))
    if DEBIAN.is_dir():
        return DEBIAN
    cache = Path.home() / ".cache" / "prunekit"
    try:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(str(cache), download=True)
    except Exception as error:  # torchvision lets errors of every transport through
        raise DataError(
            "Fashion-MNIST is neither in --data-dir, nor in $PRUNEKIT_DATA, nor in "
            f"{DEBIAN} (Debian's dataset-fashion-mnist), and downloading it failed "
            f"({type(error).__name__}); put it in one of them, or use fashion-mnist-mini."
        ) from error
    return _raw(cache)


def _raw(root: Path) -> Path:
    """Return `root`, or the folder below it where torchvision keeps the files."""
    if not root.is_dir():
        raise DataError(
            f"The data folder {root} does not exist; name the folder that holds the files."
        )
    below = root / "FashionMNIST" / "raw"
    return below if below.is_dir() else root


def _folder(root: Path, model: nn.Module) -> Data:
    if not root.is_dir():
        raise DataError(
            f"No data set or folder is called {str(root)!r}; "
            f"expected one of {', '.join(DATASETS)}, or a folder of images."
        )
    parts = {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in SPLITS.items()
    }
    if parts["test"] is None and parts["calibration"] is None:
        parts["test"] = root
    elif parts["test"] is None:
        raise DataError(
            f"{root} has training images but no val or test folder; add one, since images that "
            "calibrate are never used to evaluate."
        )
    opened = {split: _image_folder(path, model) for split, path in parts.items() if path}
    return Data(str(root), tuple(opened["test"].classes), opened["test"], opened.get("calibration"))


def _image_folder(path: Path, model: nn.Module) -> Any:
    from timm.data import create_transform, resolve_model_data_config
    from torchvision.datasets import ImageFolder

    config = resolve_model_data_config(model)
    grey = config["input_size"][0] == 1
    transform = create_transform(**config, is_training=False)
    try:
        return ImageFolder(str(path), transform=transform, loader=_load_grey if grey else _load_rgb)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} holds no images; expected a sub-folder per class with image files in it."
        ) from error


def _load_grey(path: str) -> Any:
    return _load_rgb(path).convert("L")


def _load_rgb(path: str) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise DataError(f"{path} is not a readable image ({error}); mend or remove it.") from error
