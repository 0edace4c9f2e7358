"""Fashion-MNIST: grey images, held in memory."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..errors import DataError
from .feed import InputSpec

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


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


CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def read_fashion(root: Path, spec: InputSpec) -> tuple[ArrayImages, ArrayImages]:
    """Return the test and the training images of a folder with Fashion-MNIST's four files.

    Raises:
        DataError: A file is missing or not readable.
    """
    test, train = (
        ArrayImages(
            _idx(root, f"{part}-images-idx3-ubyte"),
            _idx(root, f"{part}-labels-idx1-ubyte").long(),
            spec,
        )
        for part in ("t10k", "train")
    )
    return test, train


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


def find_fashion(data_dir: str | Path | None) -> Path:
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
