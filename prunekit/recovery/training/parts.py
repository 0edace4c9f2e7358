"""prepare: everything that a run trains with, made before its first update."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...errors import DataError, TrainingError
from ...inputs.data import Images
from ...inputs.feed import InputSpec
from ..recipes import Recipe
from . import images as pictures
from .frozen import keep_zeros
from .objective import Objective, WithFeatures, features_agree


@dataclass(frozen=True)
class Parts:
    """What a run trains, and what it trains it with.

    Attributes:
        recipe: How to train.
        seed: Of all that is drawn at random.
        accelerator: This process's, among those that train together.
        model: The student, as Accelerate wraps it.
        average: The running average of its weights; None if the recipe keeps none.
        optimizer, schedule: Of its weights, and of the learning rate.
        loader: Augmented images, in the order of `order`.
        order: Which images, of which epoch, from which batch on.
        objective: From a batch to the loss.
        validation: This process's share of the images held out.
        learnt, held_out: How many images there are of each, over all processes.
        updates: How many make an epoch.
        masks: Parameter name to which of its values are trained; the others stay zero.
        learnt_from: `labels`, and if there is a teacher `logits` and maybe `features`.
    """

    recipe: Recipe
    seed: int
    accelerator: Any
    model: nn.Module
    average: Any
    optimizer: Any
    schedule: Any
    loader: Any
    order: pictures.Order
    objective: Objective
    validation: Images
    learnt: int
    held_out: int
    updates: int
    masks: Mapping[str, Tensor]
    learnt_from: tuple[str, ...]


def prepare(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    teacher: nn.Module | None,
    accelerator: Any,
    seed: int,
    workers: int,
    masks: Mapping[str, Tensor],
) -> Parts:
    """Make all that a run needs; the models that come in are only read.

    Raises:
        DataError: There are fewer images than one batch.
        TrainingError: timm cannot make what the recipe names.
    """
    learnt, held_out = pictures.split(len(images), recipe.validation, seed)  # type: ignore[arg-type]
    updates = updates_of(learnt, recipe)
    device = accelerator.device
    student, teacher, learnt_from = _pair(model, teacher, recipe, device, masks)
    average = _average(student, recipe)
    order = pictures.Order(learnt, recipe.batch_size, seed)
    training = pictures.Training(images, pictures.spec_of(images, model), recipe, seed)
    loader = _loader(training, order, recipe, workers, device)
    optimizer, schedule = make_optimizer(student, recipe, updates)
    wrapped, optimizer, loader = accelerator.prepare(student, optimizer, loader)
    classes = int(getattr(model, "num_classes", 0))
    share = held_out[accelerator.process_index :: accelerator.num_processes]
    return Parts(
        recipe=recipe,
        seed=seed,
        accelerator=accelerator,
        model=wrapped,
        average=average,
        optimizer=optimizer,
        schedule=schedule,
        loader=loader,
        order=order,
        objective=Objective(recipe, classes, teacher, accelerator.autocast),
        validation=pictures.part(images, share),
        learnt=len(learnt),
        held_out=len(held_out),
        updates=updates,
        masks=masks,
        learnt_from=learnt_from,
    )


def updates_of(learnt: Sequence[int], recipe: Recipe) -> int:
    updates = len(learnt) // recipe.batch_size
    if updates == 0:
        raise DataError(
            f"There are {len(learnt)} images to train with, fewer than a batch of "
            f"{recipe.batch_size}, so an epoch would be empty; give the "
            "recipe a lower batch_size."
        )
    return updates


def _pair(
    model: nn.Module,
    teacher: nn.Module | None,
    recipe: Recipe,
    device: torch.device,
    masks: Mapping[str, Tensor],
) -> tuple[nn.Module, nn.Module | None, tuple[str, ...]]:
    """Return student and teacher, and what the one learns from."""
    # Copies, since Accelerate wraps what it is given, and the caller's stay where they are.
    student: nn.Module = copy.deepcopy(model).to(device).requires_grad_(True)
    keep_zeros(student, masks)  # on the copy, since copies lose hooks
    if teacher is None:
        return student, None, ("labels",)
    teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    example = InputSpec.of(model).example()
    if recipe.feature_weight and features_agree(model, teacher, example):
        both = WithFeatures(student), WithFeatures(teacher).eval()
        return *both, ("labels", "logits", "features")
    return student, teacher, ("labels", "logits")


def _average(student: nn.Module, recipe: Recipe) -> Any:
    from timm.utils import ModelEmaV3

    if not recipe.ema_decay:
        return None
    return ModelEmaV3(student, decay=recipe.ema_decay, use_warmup=True)


def _loader(
    training: pictures.Training,
    order: pictures.Order,
    recipe: Recipe,
    workers: int,
    device: torch.device,
) -> DataLoader[Any]:
    return DataLoader(
        training,
        recipe.batch_size // recipe.accumulate,
        sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        drop_last=True,
    )


def make_optimizer(student: nn.Module, recipe: Recipe, updates: int) -> tuple[Any, Any]:
    """Return timm's optimizer, and the schedule of its learning rate."""
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    try:
        optimizer = create_optimizer_v2(student, recipe.optimizer, recipe.lr, recipe.weight_decay)
        schedule, _ = create_scheduler_v2(
            optimizer,
            recipe.schedule,
            num_epochs=recipe.epochs,
            warmup_epochs=recipe.warmup * recipe.epochs,
            warmup_lr=recipe.warmup_lr,
            min_lr=recipe.min_lr,
            step_on_epochs=False,
            updates_per_epoch=updates,
        )
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise TrainingError(
            f"timm cannot make the optimizer {recipe.optimizer!r} with the schedule "
            f"{recipe.schedule!r} ({error}); choose others."
        ) from error
    if schedule is None:
        raise TrainingError(
            f"timm has no scheduler called {recipe.schedule!r}; name one such as cosine, step or "
            "poly."
        )
    return optimizer, schedule
