"""One pass over calibration images: what criteria need to know beyond the weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .axis import Axis
from .data import check_labels
from .errors import DataError


def gather_gradients(
    model: nn.Module, axes: Sequence[Axis], images: Iterable[tuple[Tensor, Tensor]]
) -> list[Axis]:
    """Return the axes with the gradient of the mean cross-entropy in every voter.

    The model runs in evaluation mode and is not modified: neither its `.grad` nor its
    `requires_grad`.

    Raises:
        DataError: There are no images, or a label is outside the model's classes.
    """
    names = sorted({member.name for axis in axes for member in axis.voters})
    leaves = {n: p.detach().requires_grad_(n in names) for n, p in model.named_parameters()}
    device = next(model.parameters()).device
    totals = {name: torch.zeros_like(leaves[name]) for name in names}
    seen, was_training = 0, model.training
    model.eval()
    try:
        for x, y in images:
            with torch.enable_grad():
                logits = functional_call(model, leaves, (x.to(device),))
                check_labels(y, logits.shape[1])
                loss = F.cross_entropy(logits.float(), y.to(device), reduction="sum")
                grads = torch.autograd.grad(loss, [leaves[name] for name in names])
            for name, grad in zip(names, grads, strict=True):
                totals[name] += grad
            seen += len(y)
    finally:
        model.train(was_training)
    if not seen:
        raise DataError("There are no calibration images; expected at least one.")
    means = {name: total / seen for name, total in totals.items()}
    return [_with_grads(axis, means) for axis in axes]


def _with_grads(axis: Axis, grads: dict[str, Tensor]) -> Axis:
    voters = {member.name for member in axis.voters}
    return replace(
        axis,
        members=tuple(
            replace(member, grad=grads[member.name]) if member.name in voters else member
            for member in axis.members
        ),
    )
