"""check_trainable: refuse a training run before anything expensive is done for it."""

from __future__ import annotations

from torch import nn

from ...errors import TrainingError
from ...inputs.data import Images
from ..recipes import Recipe
from . import images as pictures
from .parts import make_optimizer, updates_of
from .setting import check_divides, processes


def check_trainable(model: nn.Module, images: Images | None, recipe: Recipe, device: str) -> None:
    """Make sure that a model can be trained on these images as a recipe says.

    Args:
        model: Only looked at.
        images: Training images.
        recipe: How to train.
        device: `cpu` or `cuda`.

    Raises:
        DataError: There are no images, fewer than a batch, or they do not fit the model.
        TrainingError: timm cannot make what the recipe names, or the recipe does not fit the
            device or the number of processes.
    """
    pictures.check(images, model)
    assert images is not None, "checked just now"
    if device == "cpu" and recipe.precision == "fp16":
        raise TrainingError(
            "The precision fp16 needs a GPU; on the CPU give the recipe the precision no or bf16."
        )
    check_divides(recipe, processes())
    learnt, _ = pictures.split(len(images), recipe.validation, seed=0)  # type: ignore[arg-type]
    updates = updates_of(learnt, recipe)
    pictures.augmentation(pictures.spec_of(images, model), recipe)
    make_optimizer(model, recipe, updates)
