"""The curvature of the loss in what layers return, beside the covariance of what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..axis import Axis
from ..criteria.base import Loss
from ..tracing.outputs import logits_of
from .activations import watching
from .common import Images, evaluating, first_weight, placed, precise, with_voters
from .covariances import readers_of, spreading
from .gradients import explained, labels_for, precise_state
from .loss import drawn_answer, paired


def gather_curvatures(
    model: nn.Module, axes: Sequence[Axis], images: Images, loss: Loss = "labels"
) -> list[Axis]:
    """Return the axes with covariances, and the curvature of the loss in what readers return.

    That is the mean over images of the sum over positions of g g^T, where g is the gradient of an
    image's own cross-entropy. Times the covariance of the inputs it is the layer's block of the
    Fisher matrix, if inputs and gradients are independent, and positions are too: the assumptions
    of K-FAC. The model runs in evaluation mode and is not modified.

    Args:
        model: What was traced.
        axes: What may shrink.
        images: Batches.
        loss: Of the `labels`, or of answers that the model draws it`self`.

    Source:
        Martens and Grosse, Optimizing Neural Networks with Kronecker-factored Approximate
        Curvature, ICML 2015, arXiv:1503.05671; for weights that many positions share Eschenhagen
        et al., NeurIPS 2023, arXiv:2311.00636 (K-FAC-expand).

    Raises:
        DataError: There are no images, or a label is missing or outside the model's classes.
        AdapterError: A voter's layer took no part in the forward pass, it reads too much, or the
            model has no gradients.
    """
    state = precise_state(model)
    weight = precise(first_weight(model))
    seen = 0
    with (
        watching(model, axes) as informed,
        spreading(model, axes) as spread,
        _curving(model, axes) as curved,
        evaluating(model),
    ):
        for x, y in paired(images, loss):
            x = placed(x, weight).requires_grad_()
            with torch.enable_grad(), explained(model):
                logits = logits_of(functional_call(model, state, (x,)))
                y = drawn_answer(logits) if y is None else labels_for(y, logits, len(x))
                torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
            seen += len(x)
    return curved(spread(informed()), seen)


@contextmanager
def _curving(
    model: nn.Module, axes: Sequence[Axis]
) -> Iterator[Callable[[Sequence[Axis], int], list[Axis]]]:
    """Watch what flows back through a model; what is given adds curvatures afterwards."""
    curves = {name: _Curve(layer) for name, layer in readers_of(model, axes).items()}
    handles = [curve.layer.register_forward_hook(curve.hook) for curve in curves.values()]

    def curved(known: Sequence[Axis], images: int) -> list[Axis]:
        found = {name: curve.total / images for name, curve in curves.items()}
        return with_voters(
            known, lambda m: replace(m, curvature=found[m.name]) if m.name in found else m
        )

    try:
        yield curved
    finally:
        for handle in handles:
            handle.remove()


class _Curve:
    """The second moment of the gradients in what one layer returns."""

    def __init__(self, layer: Any):
        self.layer = layer
        outputs = len(layer.weight)
        self.total = torch.zeros(outputs, outputs, dtype=torch.float64, device=layer.weight.device)

    def hook(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Wait for the gradients of one call."""
        if output.requires_grad:
            output.register_hook(self._add)  # type: ignore[no-untyped-call]

    def _add(self, gradient: Tensor) -> None:
        channels = gradient.dim() - 1 if self.layer.weight.dim() == 2 else 1
        rows = gradient.movedim(channels, -1).flatten(0, -2)  # (positions, outputs)
        self.total += (rows.T @ rows).double()
