"""Images that the caller brings: a data set, a loader, batches, or a pair of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from ..errors import DataError

EXPECTED = (
    "expected tensors of images, or (images, labels) with a tensor of images, or a list of some"
)


class Batched:
    """Batches as they come, each as (images, labels) or images alone.

    Attributes:
        name: What to call them.
    """

    def __init__(
        self, given: Iterable[Any], name: str, size: int | None = None, limit: int | None = None
    ):
        self.name = name
        self._given, self._size, self._limit = given, size, limit

    def parted(self, size: int, limit: int | None) -> Batched:
        """Return the same in parts of at most `size` images, and no more than `limit` images."""
        return Batched(self._given, self.name, size, limit)

    def __iter__(self) -> Iterator[Any]:
        left, first = self._limit, None
        for batch in self._given:
            checked(batch, self.name)
            _check_several(batch, self.name)
            first = first or kind_of(batch)
            if kind_of(batch) != first:
                raise DataError(
                    f"{self.name} gives {kind_of(batch)} for images, after {first}; expected "
                    "equally many channels and one type throughout."
                )
            count = count_of(batch)
            size = self._size or max(1, count)
            for start in range(0, count, size):
                if left is not None and left <= 0:
                    return
                most = size if left is None else min(size, left)
                part = _part(batch, start, start + most)
                left = None if left is None else left - count_of(part)
                yield part

    def collected(self, limit: int) -> Collected:
        """Hold as many of the first images as may be seen."""
        return Collected(list(self.parted(limit, limit)), self.name)


class Collected(Batched):
    """Batches that are held in memory, so that they can be read again and are counted."""

    def __init__(self, given: list[Any], name: str):
        super().__init__(given, name)
        self._count = sum(map(count_of, given))

    def __len__(self) -> int:
        return self._count


class Collated(Dataset[Any]):
    """A data set whose samples are put together in a way of its loader's own."""

    def __init__(self, loader: DataLoader[Any]):
        self.dataset: Any = loader.dataset
        self.collate, self.workers = loader.collate_fn, loader.num_workers

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def loader(self, positions: list[int], size: int) -> DataLoader[Any]:
        """Return batches of some of the samples."""
        chosen = Subset(self.dataset, positions)
        return DataLoader(chosen, size, collate_fn=self.collate, num_workers=self.workers)


def is_given(data: object) -> bool:
    """Say whether it may be images, and not the name of some."""
    if isinstance(data, str | bytes | dict | Tensor):
        return False
    return isinstance(data, Dataset | Iterable) or hasattr(data, "__getitem__")


def name_of(data: object) -> str:
    """Return what to call images in a report."""
    source = data.dataset if isinstance(data, DataLoader) else data
    return f"the caller's {type(source).__name__}"


def pair_of(data: Any, *, calibrates: bool) -> tuple[Any, Any]:
    """Return what calibrates and what tests; either may be None.

    Args:
        data: A pair of them, or one.
        calibrates: What one alone is for: to calibrate, or to test.

    Raises:
        DataError: A tuple holds something else.
    """
    if not isinstance(data, tuple):
        return (data, None) if calibrates else (None, data)
    if len(data) != 2 or not all(one is None or is_given(one) for one in data):
        raise DataError(
            f"data is a tuple of {', '.join(type(one).__name__ for one in data)}; expected a pair "
            "of data sets, loaders or lists of batches, (calibration, test). Pass one batch in a "
            "list."
        )
    return data


def classes_of(data: object) -> tuple[str, ...]:
    """Return the names of the classes, if they are known."""
    source = data.dataset if isinstance(data, DataLoader) else data
    return tuple(map(str, getattr(source, "classes", ())))


def opened(data: Any, *, limit: int | None) -> Any:
    """Return images that can be read more than once.

    Args:
        data: A data set, a loader, or batches.
        limit: Hold so many images of what is no data set; None: read it again every time.

    Raises:
        DataError: It gives no images, or can be read only once.
    """
    name = name_of(data)
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        plain = data.collate_fn is default_collate and not data.num_workers
        opened: Any = data.dataset if plain else Collated(data)
        first: Any = next(iter(Collated(data).loader([0], 1))) if len(opened) else None
    elif isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        opened, first = data, data[0] if len(data) else None  # type: ignore[arg-type]
    elif limit is not None:
        opened = Batched(data, name).collected(limit)
        first = next(iter(opened), None)
    elif iter(data) is data:
        raise DataError(
            f"{name} can be read only once, but both models are evaluated on it; pass a list of "
            "its batches, or a DataLoader."
        )
    else:
        opened = Batched(data, name)
        first = next(iter(opened), None)
    if first is None:
        raise DataError(f"{name} is empty; pass images.")
    checked(first, name)
    return opened


def has_labels(images: Any) -> bool:
    """Say whether the first of some images comes with a label."""
    first = next(iter(images)) if isinstance(images, Batched) else images[0]
    return isinstance(first, tuple | list) and len(first) > 1 and first[1] is not None


def first_of(images: Any) -> Any:
    """Return the first image, as a batch of one or in a list of one."""
    if isinstance(images, Collated):
        first = next(iter(images.loader([0], 1)))
    else:
        first = next(iter(images.parted(1, 1))) if isinstance(images, Batched) else images[0]
    image = first[0] if isinstance(first, tuple | list) else first
    if isinstance(image, tuple | list):
        return list(image)
    return image if isinstance(images, Batched | Collated) else image.unsqueeze(0)


def checked(batch: Any, name: str) -> None:
    """Make sure that a batch, or a sample, holds images.

    Raises:
        DataError: It does not.
    """
    images = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
    several = images if isinstance(images, tuple | list) and images else [images]
    if isinstance(several[0], Tensor):
        return
    kind = type(images).__name__
    advice = "give it a transform that makes tensors" if hasattr(images, "convert") else EXPECTED
    raise DataError(f"{name} gives {kind} for images; {advice}.")


def _check_several(batch: Any, name: str) -> None:
    """Make sure that a batch is one, and not a single sample with its label.

    Raises:
        DataError: It is a sample.
    """
    label = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    if isinstance(label, int) or (isinstance(label, Tensor) and not label.dim()):
        raise DataError(
            f"{name} gives single images with their labels where batches are expected; pass a "
            "DataLoader of it, such as torch.utils.data.DataLoader(data, batch_size=100)."
        )


def count_of(batch: Any) -> int:
    """Return how many images a batch has."""
    return len(batch if isinstance(batch, Tensor) else batch[0])


def _part(batch: Any, start: int, stop: int) -> Any:
    """Return some images of a batch, with their labels."""
    if isinstance(batch, Tensor):
        return batch[start:stop]
    parts = (
        part[start:stop] if isinstance(part, Tensor | list | tuple) else part for part in batch
    )
    return tuple(parts)


def kind_of(batch: Any) -> str:
    """Return in words what is the same for all images of a model: channels and type."""
    images = batch if isinstance(batch, Tensor) else batch[0]
    if not isinstance(images, Tensor):
        return "lists"
    channels = f"{images.shape[1]} channels" if images.dim() > 1 else "numbers"
    return f"{channels} in {images.dtype}"
