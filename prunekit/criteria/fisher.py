"""Fisher: how much the loss would change, to second order (LeCun et al., NIPS 1989)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..axis import Axis, Member
from .base import LOSS, criterion


@criterion(
    "fisher", needs="squared_gradients", scope="kind", weight_level=True, allowed={"loss": LOSS}
)
def fisher(axes: Sequence[Axis], *, loss: str = "labels") -> list[Tensor]:
    """Score a slice by sum w^2 E[g^2] / 2, where g is the gradient of one image's loss.

    The mean of the squares, not the square of the mean: at a minimum the latter vanishes,
    while the former approximates the diagonal of the Hessian.

    Args:
        axes: What to score, with squared gradients.
        loss: What gradients are of: the `labels`, or answers drawn from what the model itself says
            (`self`), which needs no labels: then the scores estimate the divergence from the
            model's own outputs.

    Source:
        LeCun et al., Optimal Brain Damage, NIPS 1989, Eq. 5. Differs: the diagonal of the
        Hessian is that of the empirical Fisher matrix, from the labels of the calibration
        images; the saliencies of all weights that a slice owns are added up.
    """
    return [axis.reduce(_saliency) for axis in axes]


def _saliency(member: Member) -> Tensor:
    assert member.grad_square is not None, "the engine gathers what a criterion needs"
    return member.weight.float().square() * member.grad_square / 2
