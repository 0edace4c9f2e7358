"""Named data sets and image folders, as loaders that fit a model.

Two splits, kept apart: `test` is only ever evaluated on, `calibration` comes from the
training images and is the only thing criteria and repairs may see.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, Subset

from ..errors import DataError
from .datasets import DATASETS, MINI
from .fashion import CLASSES, ArrayImages, find_fashion, read_fashion
from .feed import InputSpec
from .folder import FolderImages, class_names, labelled, listed, unlabelled
from .given import Batched, Collated

SPLITS = {"calibration": ("train",), "test": ("test", "val", "validation")}

SOME = 64  # of the images that a caller brought, which tell them from others
Images = Dataset[tuple[Tensor, Tensor]]
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Data:
    """One data set, its splits ready for one model.

    Attributes:
        name: What was asked for.
        classes: Names of the classes, in label order; empty if the images have no labels.
        test: Images to evaluate on; None when there are none.
        calibration: Training images for criteria and repairs; None when there are none.
        problem: Why the labels are of no use to the model, as one sentence; None if they are.
    """

    name: str
    classes: tuple[str, ...]
    test: Images | None
    calibration: Images | None
    problem: str | None = None

    def tested(self) -> Images:
        """Return the images to evaluate on.

        Raises:
            DataError: There are none, or their labels are of no use.
        """
        self.check_labels()
        if self.test is None:
            raise DataError(
                f"{self.name} has no images to evaluate on, and images that calibrate are never "
                "used to; add a val or test folder, or pass a pair (calibration, test)."
            )
        return self.test

    def check_labels(self) -> None:
        """Make sure that the labels are of use.

        Raises:
            DataError: They are not.
        """
        if self.problem is not None:
            raise DataError(self.problem)


def open_data(
    name: str,
    model: nn.Module,
    data_dir: str | Path | None = None,
    *,
    spec: InputSpec | None = None,
    labels: bool = True,
    calibrates: bool = False,
) -> Data:
    """Open a named data set or an image folder, prepared for `model`.

    Args:
        name: One of `DATASETS`, or a folder: with `train` and `val` or `test` in it, or one of
            these alone, or images of one purpose only. Each has a sub-folder of images per class,
            or images that need no labels.
        model: Its number of classes decides whether the labels are of use.
        data_dir: Where the full Fashion-MNIST lies, if not in a usual place.
        spec: What the model is fed; found from the model unless given.
        labels: Whether labels will be looked at; if not, what is wrong with them is only noted.
        calibrates: What a folder without splits is for: to calibrate, or to test.

    Raises:
        DataError: There is no such data set or folder, it holds no images, or its labels are
            looked at and are not the model's.
    """
    spec = spec or InputSpec.of(model)
    if name == "fashion-mnist-mini":
        data = Data(name, CLASSES, *read_fashion(MINI, spec))
    elif name == "fashion-mnist":
        data = Data(name, CLASSES, *read_fashion(find_fashion(data_dir), spec))
    else:
        data = _folder(Path(name), spec, getattr(model, "num_classes", None), calibrates)
    data = replace(data, problem=data.problem or misfit(data, model))
    if labels:
        data.check_labels()
    return data


def batches(
    images: Images, size: int, *, limit: int | None = None, seed: int | None = None
) -> Batches:
    """Cut a split into batches.

    Args:
        images: The split; what comes in batches already stays in its order.
        size: Images in a batch; the last batch may be smaller.
        limit: Use at most so many images.
        seed: Draw them in a random but repeatable order; None keeps the order.
    """
    if isinstance(images, Batched):
        return images.parted(size, limit)
    count = len(images)  # type: ignore[arg-type]
    order = torch.arange(count)
    if seed is not None:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if isinstance(images, Collated):
        return images.loader(order[:limit].tolist(), size)
    chosen = Subset(images, order[:limit].tolist())
    whole = isinstance(images, ArrayImages)  # it answers a list of indices with a batch
    return DataLoader(chosen, size, collate_fn=(lambda batch: batch) if whole else None)


def fingerprint(data: Data) -> str:
    """Return a digest that changes when the images or their labels do.

    Images in memory count bit by bit; those in files by name, size and label, since reading a
    large data set through would take too long. Of images that the caller brought, some do.
    """
    digest = hashlib.sha256()
    split: Any
    for split in (data.test, data.calibration):
        digest.update(b"split")
        if isinstance(split, ArrayImages):
            digest.update(repr((tuple(split.images.shape), split.spec)).encode())
            digest.update(split.images.numpy().tobytes())
            digest.update(split.labels.numpy().tobytes())
        elif isinstance(split, FolderImages):
            for path, label in split.samples:
                file = Path(path)
                digest.update(repr((file.parent.name, file.name, file.stat().st_size)).encode())
                digest.update(str(label).encode())
            digest.update(repr(split.transform).encode())
        elif split is not None:
            for batch in batches(split, SOME, limit=SOME):
                for part in tree_leaves(batch):
                    told = part.cpu().numpy().tobytes() if isinstance(part, Tensor) else repr(part)
                    digest.update(told if isinstance(told, bytes) else told.encode())
    return digest.hexdigest()


def check_labels(labels: Any, classes: int, images: int) -> None:
    """Make sure that every image has a label, and the model an output for it.

    Args:
        labels: What came with a batch of images.
        classes: How many the model tells apart.
        images: How many there are in the batch.

    Raises:
        DataError: One has not.
    """
    whole = isinstance(labels, Tensor) and not labels.is_floating_point()
    if not whole or labels.dtype == torch.bool or labels.shape != (images,):
        told = type(labels).__name__
        if isinstance(labels, Tensor):
            told = f"a tensor of shape {tuple(labels.shape)} in {labels.dtype}"
        raise DataError(
            f"The data gives {told} as the labels of {images} images; expected a tensor of one "
            "whole number for each image, the number of its class."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise DataError("The data has images without labels; name data where every image has one.")
    if high >= classes:
        raise DataError(
            f"The data has a label {high}, but the model tells only {classes} classes "
            "apart; evaluate on the data it was made for."
        )


def misfit(data: Data, model: nn.Module) -> str | None:
    """Say why the classes are not the model's, if they are not."""
    told = getattr(model, "num_classes", None)
    if told == 0:
        return (
            f"The model has no classifier, so the labels of {data.name} say nothing about it; "
            "leave out what looks at labels."
        )
    if told in (None, len(data.classes)):
        return None
    return (
        f"{data.name} has {len(data.classes)} classes, but the model tells {told} apart; use the "
        "data the model was trained for, or weights that were trained on this data."
    )


def _folder(root: Path, spec: InputSpec, told: int | None, calibrates: bool) -> Data:
    places = _places(root, calibrates)
    names = {split: class_names(place) for split, place in places.items()}
    imagenet = _imagenet(names, told)
    classes = imagenet or sorted({one for found in names.values() for one in found})
    problem = None if imagenet else _difference(places, names)
    if not classes:
        problem = f"The images in {root} have no labels; put those of each class in a sub-folder."
    numbers = {name: number for number, name in enumerate(classes)}
    opened = {split: _opened(place, numbers, spec) for split, place in places.items()}
    return Data(str(root), tuple(classes), opened.get("test"), opened.get("calibration"), problem)


def _difference(places: dict[str, Path], names: dict[str, list[str]]) -> str | None:
    """Say which classes one split has and the other lacks, if there are two that differ."""
    for split, other in (("calibration", "test"), ("test", "calibration")):
        missing = sorted(set(names.get(other, ())) - set(names.get(split, ())))
        if len(places) == 2 and missing:
            return (
                f"{places[split]} lacks {listed(missing)}, which {places[other]} has, so that "
                "their labels would disagree; give both the same sub-folders."
            )
    return None


def _places(root: Path, calibrates: bool) -> dict[str, Path]:
    """Return the folder of each split."""
    if not os.path.isdir(root):  # unlike Path's, it takes any text for a path
        raise DataError(
            f"No data set or folder is called {str(root)!r}; "
            f"expected one of {', '.join(DATASETS)}, or a folder of images."
        )
    found = {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in SPLITS.items()
    }
    places = {split: place for split, place in found.items() if place is not None}
    return places or {"calibration" if calibrates else "test": root}


def _opened(place: Path, numbers: dict[str, int], spec: InputSpec) -> Images:
    samples = labelled(place, numbers) or unlabelled(place)
    if not samples:
        raise DataError(
            f"{place} holds no images; expected image files, in a sub-folder per class where "
            "labels are needed."
        )
    return FolderImages(samples, spec)


def _imagenet(names: dict[str, list[str]], told: int | None) -> list[str]:
    """Return ImageNet's classes in timm's order, if all sub-folders are some of them."""
    from timm.data import ImageNetInfo

    if told != 1000 or not any(names.values()):
        return []
    known = ImageNetInfo("imagenet-1k").label_names()
    return list(known) if {one for found in names.values() for one in found} <= set(known) else []
