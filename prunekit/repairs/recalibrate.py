"""Recalibrate: give BatchNorms the mean and the variance of what reaches them now."""

from __future__ import annotations

from torch import Tensor

from .base import repair
from .given import Norm


@repair("recalibrate", needs="norms", masks=True)
def recalibrate(norm: Norm) -> tuple[Tensor, Tensor]:
    """Replace the running statistics by those of the calibration images.

    The variance is that over the number of values less one, as torch keeps it.

    Source:
        Li et al., EagleEye, ECCV 2020, arXiv:2007.02491, section 3.3 (adaptive batch
        normalization). Differs: the statistics are those of all images seen so far, not an
        exponential average over batches.
    """
    return norm.mean, norm.variance * norm.count / (norm.count - 1)
