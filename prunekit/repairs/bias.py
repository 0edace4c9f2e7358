"""Bias: fold the mean of what left into the bias of the layer that misses it."""

from __future__ import annotations

from .base import Affine, repair
from .given import Layer


@repair("bias", masks=True)
def bias(layer: Layer) -> Affine:
    """Shift the bias so that the layer's mean output is what it was.

    A layer without a bias is left as it is.

    Source:
        An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models,
        AAAI 2024, arXiv:2312.11983, section 3.3; Berisha et al., Variance-Based Pruning for
        Accelerating and Compressing Trained Networks, 2025. Differs: the mean is that of the
        model repaired so far, so that the shifts of earlier layers are not counted twice.
    """
    if layer.bias is None:
        return layer.weight, None
    return layer.weight, layer.output_mean - layer.weight @ layer.input_mean
