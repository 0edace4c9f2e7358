"""Training images: held apart from validation, put in order, and augmented by timm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, Subset

from ...errors import DataError, TrainingError
from ...inputs.data import Images
from ...inputs.fashion import ArrayImages
from ...inputs.feed import InputSpec
from ...inputs.folder import mode_of
from ..recipes import Recipe
from .chance import draw_for, number

MOST_HELD_OUT = 5000  # validation images: enough to tell half a point


def split(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide the positions of training images into those to learn from and those to choose by."""
    order = torch.randperm(count, generator=_generator(seed, "split")).tolist()
    held_out = min(max(1, round(count * fraction)), MOST_HELD_OUT)
    return sorted(order[held_out:]), sorted(order[:held_out])


def part(images: Images, positions: Sequence[int]) -> Images:
    """Return some of the images, prepared as for evaluation."""
    if isinstance(images, ArrayImages):  # stays one, to be read a batch at a time
        chosen = list(positions)
        return ArrayImages(images.images[chosen], images.labels[chosen], images.spec)
    return Subset(images, positions)


def labels_of(images: Any) -> Tensor:
    """Return all labels, (n,) int64.

    Raises:
        DataError: The images carry none.
    """
    for name in ("labels", "targets"):
        if hasattr(images, name):
            return torch.as_tensor(getattr(images, name), dtype=torch.int64)
    raise DataError(
        f"{type(images).__name__} has no labels to train with; expected images with an attribute "
        "`targets`, as torchvision's data sets have."
    )


def check(images: Images | None, model: nn.Module) -> None:
    """Refuse images that a model cannot learn from.

    Raises:
        DataError: There are none, or their labels are not among the model's classes.
    """
    if images is None or len(images) == 0:  # type: ignore[arg-type]
        raise DataError(
            "There are no training images; name data with some, such as fashion-mnist-mini or a "
            "folder with a train folder in it."
        )
    labels, classes = labels_of(images), int(getattr(model, "num_classes", 0))
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes and high >= classes):
        raise DataError(
            f"The training labels go from {low} to {high}, but the model tells {classes} classes "
            f"apart, 0 to {classes - 1}; train on the data it was made for."
        )


class Training(Dataset[tuple[Tensor, int]]):
    """Augmented images; which augmentation is a function of seed, epoch and position alone."""

    def __init__(self, images: Any, spec: InputSpec, recipe: Recipe, seed: int):
        self.seed, self.transform = seed, augmentation(spec, recipe)
        self.images = images if isinstance(images, ArrayImages) else _with(images, self.transform)
        self.mode = mode_of(spec)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, position = key
        draw_for(self.seed, "image", epoch, position)
        if not isinstance(self.images, ArrayImages):
            image, label = self.images[position]
            return image, int(label)
        from PIL import Image

        grey = Image.fromarray(self.images.images[position].numpy())
        return self.transform(grey.convert(self.mode)), int(self.images.labels[position])


class Order(Sampler[tuple[int, int]]):
    """The positions of one epoch, in whole batches; each comes with its epoch."""

    def __init__(self, positions: Sequence[int], batch: int, seed: int):
        self.positions, self.batch, self.seed = positions, batch, seed
        self.epoch = self.done = 0  # batches of this epoch that are done

    def __len__(self) -> int:
        return (len(self.positions) // self.batch - self.done) * self.batch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = _generator(self.seed, "order", self.epoch)
        order = torch.randperm(len(self.positions), generator=generator).tolist()
        start = self.done * self.batch
        return iter([(self.epoch, self.positions[n]) for n in order[start : start + len(self)]])


def spec_of(images: Any, model: nn.Module) -> InputSpec:
    """Return what the images were prepared for; of a stranger's data set, what the model is fed."""
    found = getattr(images, "spec", None)
    return found if isinstance(found, InputSpec) else InputSpec.of(model)


def augmentation(spec: InputSpec, recipe: Recipe) -> Callable[[Any], Tensor]:
    """Return timm's training transform: from a PIL image to a normalised tensor."""
    from timm.data import create_transform

    try:
        transform: Any = create_transform(
            spec.size,
            is_training=True,
            scale=(recipe.crop, 1.0),
            hflip=recipe.flip,
            color_jitter=recipe.color_jitter or None,
            auto_augment=recipe.augment or None,
            interpolation=spec.cropping["interpolation"],
            mean=spec.mean,
            std=spec.std,
            re_prob=recipe.random_erasing,
            re_mode="pixel",
        )
    except (AssertionError, ValueError, KeyError) as error:  # timm raises what comes to hand
        raise TrainingError(
            f"timm knows no augmentation {recipe.augment!r} ({type(error).__name__}: {error}); "
            "name one such as rand-m9-mstd0.5-inc1."
        ) from error
    for step in transform.transforms:
        for op in getattr(step, "ops", ()):
            _keep_a_bit(op)
    return transform  # type: ignore[no-any-return]


def _keep_a_bit(op: Any) -> None:
    """At its strongest, timm's Posterize keeps no bit at all, which Pillow 12 refuses."""
    if op.name.startswith("Posterize"):
        level = op.level_fn
        op.level_fn = lambda magnitude, hparams: (max(1, level(magnitude, hparams)[0]),)


def _with(images: Any, transform: Callable[[Any], Tensor]) -> Any:
    if not hasattr(images, "transform"):
        raise DataError(
            f"{type(images).__name__} has no attribute `transform` to augment its images with; "
            "expected a data set as torchvision's are."
        )
    twin = copy.copy(images)
    # torchvision reads `transform` when it is made, and `transforms` from then on.
    twin.transform = transform
    if hasattr(images, "transforms"):
        twin.transforms = type(images.transforms)(transform, images.target_transform)
    return twin


def _generator(*key: object) -> torch.Generator:
    return torch.Generator().manual_seed(number(*key))
