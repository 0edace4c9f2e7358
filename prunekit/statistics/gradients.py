"""The gradients of the loss: of its mean over all images, and of each image alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..axis import Axis
from ..criteria.base import Loss
from ..errors import AdapterError
from ..inputs.data import check_labels
from ..tracing.outputs import logits_of
from ..tracing.running import reason
from .common import Images, evaluating, placed, precise, voter_names, with_voters
from .loss import drawn_answer, paired, top_answer

MOST_IMAGES = 16  # whose gradients are held at once; more is no faster
MOST_VALUES = 2**28  # in all gradients held at once: 1 GiB in float32

Gradients = Mapping[str, Tensor]
LossOf = Callable[[Gradients, Tensor, Tensor], Tensor]


def gather_gradients(
    model: nn.Module, axes: Sequence[Axis], images: Images, loss: Loss = "labels"
) -> list[Axis]:
    """Return the axes with the gradient of the mean cross-entropy in every voter.

    The model runs in evaluation mode and is not modified: neither its `.grad` nor its
    `requires_grad`. The loss is that of the labels, or of each image's likeliest answer.

    Raises:
        DataError: There are no images, or a label is outside the model's classes.
    """
    means = _mean(
        model,
        axes,
        paired(images, loss),
        lambda loss, voters, x, y: grad(loss)(voters, x, y),
        top_answer,
    )
    return with_voters(axes, lambda member: replace(member, grad=means[member.name]))


def gather_squared_gradients(
    model: nn.Module, axes: Sequence[Axis], images: Images, loss: Loss = "labels"
) -> list[Axis]:
    """Return the axes with the mean over images of the square of each one's own gradient.

    That is not the square of the mean gradient, in which images cancel each other. The model
    runs in evaluation mode and is not modified. The loss is that of the labels, or of answers that
    the model draws itself.

    Raises:
        DataError: There are no images, or a label is outside the model's classes.
    """
    means = _mean(model, axes, paired(images, loss), _sum_of_squares, drawn_answer)
    return with_voters(axes, lambda member: replace(member, grad_square=means[member.name]))


def _mean(
    model: nn.Module,
    axes: Sequence[Axis],
    batches: Iterable[tuple[Any, Any]],
    summed: Callable[[LossOf, Gradients, Tensor, Tensor], Gradients],
    answer: Callable[[Tensor], Tensor],
) -> Gradients:
    """Add up over batches what `summed` adds up within one, and divide by the images.

    Where a batch has no labels, the model's own answers take their place.
    """
    names = voter_names(axes)
    state = precise_state(model)
    voters = {name: state[name] for name in names}

    def loss(voters: Gradients, x: Tensor, y: Tensor) -> Tensor:
        logits = logits_of(functional_call(model, {**state, **voters}, (x,)))
        return F.cross_entropy(logits, y, reduction="sum")

    totals = {name: torch.zeros_like(voters[name], dtype=torch.float32) for name in names}
    seen = 0
    with evaluating(model):
        for x, y in batches:
            x = placed(x, voters[names[0]])
            if y is None or not seen:
                with torch.no_grad():
                    logits = logits_of(functional_call(model, state, (x if y is None else x[:1],)))
            y = answer(logits) if y is None else labels_for(y, logits, len(x))
            with explained(model):
                found = summed(loss, voters, x, y)
            for name, value in found.items():
                totals[name] += value
            seen += len(x)
    return {name: total / seen for name, total in totals.items()}


def labels_for(labels: Any, logits: Tensor, images: int) -> Tensor:
    """Return labels beside the logits.

    Args:
        labels: What came with a batch.
        logits: Of some images, (images, classes).
        images: How many there are in the batch.

    Raises:
        DataError: One is missing, or outside the model's classes.
    """
    check_labels(labels, logits.shape[1], images)
    found: Tensor = labels.to(logits.device, torch.int64)
    return found


@contextmanager
def explained(model: nn.Module) -> Iterator[None]:
    """Say in a sentence why there are no gradients.

    Raises:
        AdapterError: There are none.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise AdapterError(
            f"{type(model).__name__} has no gradients that torch.func can find ({reason(error)}); "
            "switch gradient checkpointing off, or choose a criterion that needs no gradients."
        ) from error


def precise_state(model: nn.Module) -> dict[str, Tensor]:
    """Return all tensors of a model; in half precision, small gradients would become zero."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        name: precise(tensor.detach()) if tensor.is_floating_point() else tensor
        for name, tensor in tensors
    }


def _sum_of_squares(loss: LossOf, voters: Gradients, x: Tensor, y: Tensor) -> Gradients:
    """Return the sum over images of the squared gradient of each image's loss."""
    values = sum(voter.numel() for voter in voters.values())
    held = min(MOST_IMAGES, max(1, MOST_VALUES // values))
    totals = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in voters.items()}
    for some_x, some_y in zip(torch.split(x, held), torch.split(y, held), strict=True):
        for name, each in _each(loss, voters, some_x, some_y).items():
            totals[name] += each.float().square_().sum(0)
    return totals


def _each(loss: LossOf, voters: Gradients, x: Tensor, y: Tensor) -> Gradients:
    """Return the gradient of the loss of each image, (images, *shape of the parameter)."""
    x, y = x.unsqueeze(1), y.unsqueeze(1)  # (images, 1, ...): every image is a batch
    found: Gradients
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):  # vmap has no fused attention
            warnings.filterwarnings("ignore", message="There is a performance drop")
            found = vmap(grad(loss), (None, 0, 0))(voters, x, y)
    except RuntimeError:  # the model takes a step that depends on its input: the slow way, then
        singly = [grad(loss)(voters, one_x, one_y) for one_x, one_y in zip(x, y, strict=True)]
        found = {name: torch.stack([each[name] for each in singly]) for name in voters}
    return found
