"""K-FAC: how much the loss rises, once the rest has made up for it (LLM Surgeon)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..axis import Axis, Member
from .base import LOSS, criterion
from .compensation import RIDGE, marginal_costs


@criterion("kfac", needs="curvatures", scope="model", allowed={"ridge": RIDGE, "loss": LOSS})
def kfac(axes: Sequence[Axis], *, ridge: float = 0.01, loss: str = "labels") -> list[Tensor]:
    """Score a slice by the loss that its removal adds after the others have made up for it.

    As `obs`, but an error of the outputs counts by what it does to the loss: a change D of the
    weight raises it by tr(G D A D^T) / 2, where A is the covariance of what is read, and G the
    second moment of the loss gradient in what is returned, summed over an image's positions. So
    the costs of all axes are in the unit of the loss, and compete as they are, over their price.

    Args:
        axes: What may shrink, with covariances and curvatures.
        ridge: Added to every covariance, as a fraction of its mean diagonal.
        loss: What gradients are of: the `labels`, or answers drawn from what the model itself says
            (`self`), which needs no labels: then the costs are those of the divergence from the
            model's own outputs.

    Source:
        van der Ouderaa et al., The LLM Surgeon, ICLR 2024, arXiv:2312.17244, with its
        Kronecker-factored curvature; Wang et al., EigenDamage, ICML 2019, arXiv:1905.05934.
        Differs: columns of the readers leave in an elimination that is exact for the factored
        curvature; their outputs are not removed by it; the mean of what is read is left to the
        bias, so that A is a covariance.
    """

    def weighing(member: Member, weight: Tensor, outputs: slice) -> Tensor:
        assert member.curvature is not None, "the engine gathers what a criterion needs"
        curvature = member.curvature[outputs, outputs].to(weight)
        return weight.T @ curvature @ weight / 2

    return marginal_costs(axes, weighing, ridge)
