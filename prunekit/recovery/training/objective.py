"""From a batch of images to the loss: labels, mixing, and what the dense model says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...tracing.copies import weightless
from ..recipes import Recipe


class Objective:
    """The loss of a recipe."""

    def __init__(
        self,
        recipe: Recipe,
        classes: int,
        teacher: nn.Module | None,
        autocast: Callable[[], AbstractContextManager[None]],
    ):
        self.recipe, self.teacher, self.autocast = recipe, teacher, autocast
        self.mix, self.loss = _mixing(recipe, classes), _label_loss(recipe)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if self.mix is not None:
            x, y = self.mix(x, y)
        output = model(x)
        logits, features = output if isinstance(output, tuple) else (output, None)
        loss: Tensor = self.loss(logits.float(), y)
        if self.teacher is None:
            return loss
        with torch.no_grad(), self.autocast():
            wanted = self.teacher(x)
        wanted, wanted_features = wanted if isinstance(wanted, tuple) else (wanted, None)
        share = self.recipe.distill_weight
        loss = (1 - share) * loss + share * divergence(logits, wanted, self.recipe.temperature)
        if features is not None and wanted_features is not None:
            loss = loss + self.recipe.feature_weight * distance(features, wanted_features)
        return loss


def divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Return how far the softened outputs are from the dense model's, averaged over images.

    Source:
        Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015,
        arXiv:1503.02531; the squared temperature keeps the gradients' size.
    """
    ours = F.log_softmax(logits.float() / temperature, dim=1)
    theirs = F.log_softmax(wanted.float() / temperature, dim=1)
    loss = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return loss * temperature**2


def distance(features: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared distance to the dense model's features, in units of their variance."""
    return F.mse_loss(features.float(), wanted.float()) / wanted.float().var().clamp_min(1e-12)


class WithFeatures(nn.Module):
    """A timm model that returns its last features beside the logits, so that DDP sees both."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.forward_features(x)
        return self.model.forward_head(features), features


def features_agree(model: nn.Module, teacher: nn.Module, image: Tensor) -> bool:
    """Whether both models' last features have one shape, which pruning the width prevents."""
    shapes = []
    for each in (model, teacher):
        if not hasattr(each, "forward_features"):
            return False
        shell: Any
        shell, inputs = weightless(each, image)
        shapes.append(shell.eval().forward_features(inputs).shape)
    return bool(shapes[0] == shapes[1])


def _mixing(recipe: Recipe, classes: int) -> Any:
    if not recipe.mixup and not recipe.cutmix:
        return None
    from timm.data import Mixup

    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=classes,
    )


def _label_loss(recipe: Recipe) -> nn.Module:
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    if recipe.mixup or recipe.cutmix:  # smoothing is in the mixed labels
        return SoftTargetCrossEntropy()  # type: ignore[no-any-return]
    if recipe.label_smoothing:
        return LabelSmoothingCrossEntropy(recipe.label_smoothing)  # type: ignore[no-any-return]
    return nn.CrossEntropyLoss()
