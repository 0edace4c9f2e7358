"""Taylor: how much the loss would change, to first order (Molchanov et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..axis import Axis, Member
from .base import LOSS, criterion


@criterion("taylor", needs="gradients", scope="kind", weight_level=True, allowed={"loss": LOSS})
def taylor(axes: Sequence[Axis], *, square: bool = False, loss: str = "labels") -> list[Tensor]:
    """Score a slice by sum |w * g|, where g is the gradient of the mean calibration loss.

    Args:
        axes: What to score, with gradients.
        square: Use (sum w * g)^2 instead, the group form of the paper (its Eq. 8), in which
            weights of one slice may cancel each other.
        loss: What gradients are of: the `labels`, or the answer that the model itself gives with
            the highest probability (`self`), which needs no labels.

    Source:
        Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019,
        arXiv:1906.10771. Differs: one gradient averaged over all calibration images, where
        the paper averages the scores of many mini-batches.
    """
    if square:
        return [axis.reduce(_first_order).square() for axis in axes]
    return [axis.reduce(lambda member: _first_order(member).abs()) for axis in axes]


def _first_order(member: Member) -> Tensor:
    assert member.grad is not None, "the engine gathers gradients for criteria that need them"
    return member.weight.float() * member.grad.float()
