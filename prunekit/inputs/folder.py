"""FolderImages: image files in a folder, with or without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError
from ..naming import some
from .feed import InputSpec

UNLABELLED = -1
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name for so many channels


class FolderImages(Dataset[tuple[Tensor, Tensor]]):
    """Images in files, prepared as timm prepares them for a model.

    Attributes:
        samples: (path, label) of every image; the label is `UNLABELLED` where there is none.
        targets: The labels alone.
        spec: What they are prepared for.
        transform: From a Pillow image to a normalised tensor.
    """

    def __init__(self, samples: Sequence[tuple[Path, int]], spec: InputSpec):
        self.samples = [(str(path), label) for path, label in samples]
        self.targets = [label for _, label in self.samples]
        self.spec = spec
        self.transform = _transform(spec)
        self.mode = mode_of(spec)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, label = self.samples[index]
        return self.transform(read_image(path, self.mode)), torch.tensor(label)


def class_names(root: Path) -> list[str]:
    """Return the names of a folder's sub-folders, sorted."""
    with _readable(root):
        return sorted(path.name for path in root.iterdir() if path.is_dir())


def labelled(root: Path, numbers: dict[str, int] | None) -> list[tuple[Path, int]]:
    """List the images below the sub-folders of a folder.

    Args:
        root: The folder.
        numbers: Name of a sub-folder to its label; None gives no labels.
    """
    return [
        (path, UNLABELLED if numbers is None else numbers[name])
        for name in class_names(root)
        for path in _images(root / name, "**/*")
    ]


def unlabelled(root: Path) -> list[tuple[Path, int]]:
    """List the images that lie directly in a folder."""
    return [(path, UNLABELLED) for path in _images(root, "*")]


def read_image(path: str, mode: str = "RGB") -> Any:
    """Read one image file.

    Raises:
        DataError: It is not a readable image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image ({error}); mend or remove it.") from error


def listed(names: Sequence[str]) -> str:
    """Quote the first few names."""
    return some([repr(name) for name in names])


def _images(folder: Path, pattern: str) -> list[Path]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    with _readable(folder):
        return sorted(
            path
            for path in folder.glob(pattern)
            if path.suffix.lower() in IMG_EXTENSIONS and path.is_file()
        )


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The folder {str(folder)!r} cannot be read ({error.strerror}); name one that you may "
            "read."
        ) from error


def mode_of(spec: InputSpec) -> str:
    """Return Pillow's name for images of as many channels as a model reads.

    Raises:
        DataError: No image file has so many.
    """
    channels = spec.size[0]
    if channels not in MODES:
        raise DataError(
            f"The model reads images of {channels} channels; image files give 1, 3 or 4, so "
            "leave the data out, or build the model with another --in-chans."
        )
    return MODES[channels]


def _transform(spec: InputSpec) -> Any:
    from timm.data import create_transform

    return create_transform(
        spec.size, is_training=False, mean=spec.mean, std=spec.std, **spec.cropping
    )
