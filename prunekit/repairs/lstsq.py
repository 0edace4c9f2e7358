"""Least squares: refit layers to the outputs they had, on the inputs they now get."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..plugin import Allowed
from .base import Affine, repair
from .given import Layer, Product

RIDGES = (1.0, 0.1, 0.01, 0.001, 0.0001)
ROUNDING = 1e-6  # of the outputs' variance; smaller errors are as good as none
SHIFT, AS_IT_IS = 1e300, math.inf  # so large that the weight, or even the bias, stays


def low_rank(product: Product) -> tuple[Tensor, Tensor]:
    """Fit the logits q . k of one head with fewer dimensions, as well as can be.

    With queries of second moment Q = A A^T and keys of covariance K = B B^T, drawn
    independently, the expected squared error of replacing q . k by (P q) . (R k) is smallest
    where P and R cut the singular value decomposition of A^T B short (Eckart and Young). The
    keys' mean adds the same to all logits of a query, which the softmax ignores.

    Returns:
        P and R, both (rank, dim).

    Source:
        The decomposition is that of Eckart and Young, 1936; its use on W_q W_k^T follows CORP.
        Differs: weighted by the moments of the calibration images.
    """
    a, b = _root(product.queries), _root(product.keys)
    u, s, vh = torch.linalg.svd(a.T @ b)
    rank = len(product.kept)
    scale = s[:rank].sqrt().unsqueeze(1)
    # A pseudo-inverse: directions that no calibration image takes are left out.
    left = scale * (u.T[:rank] @ torch.linalg.pinv(a, rtol=1e-6))
    right = scale * (vh[:rank] @ torch.linalg.pinv(b, rtol=1e-6))
    return left, right


RIDGE = Allowed("0 or more", lambda ridge: ridge >= 0)


@repair("lstsq", product=low_rank, follows=True, allowed={"ridge": RIDGE})
def lstsq(layer: Layer, *, ridge: float = 0.0) -> Affine:
    """Refit weight and bias by ridge regression towards the dense layer's outputs.

    With the inputs x that stay (covariance C) and the outputs y of the dense layer, the change
    D of the weight W minimises E|y - (W + D) x - b|^2 + lambda |D|^2, so D = (cov(y, x) - W C)
    (C + lambda I)^-1 and b takes up the means. Penalising the change and not the weight means
    that what nothing is known about stays as it is.

    Args:
        layer: What to refit.
        ridge: lambda as a fraction of C's mean eigenvalue. 0 chooses it by cross-validation: each
            half of the images is refitted with every one of `RIDGES`, and tried out on the other
            half; so are the mere shift of the bias, and the layer as it is.

    Source:
        Luo et al., ThiNet, ICCV 2017, arXiv:1707.06342; Meng et al., OSSCAR, ICML 2024,
        arXiv:2403.12983. Differs: a ridge on the change of the weight, chosen from the data;
        layers that lost no inputs themselves, up to the classifier, are refitted too.
    """
    return _fitted(layer, ridge or _chosen(layer))


def _chosen(layer: Layer) -> float:
    """Return the ridge that does best on images it has not seen."""
    if not layer.halves:
        return AS_IT_IS
    one, other = layer.halves

    def error(ridge: float) -> float:
        found = other.error(*_fitted(one, ridge)) + one.error(*_fitted(other, ridge))
        return max(found, ROUNDING)

    # Twice the images need half the ridge.
    return min((AS_IT_IS, SHIFT, *RIDGES), key=error) / 2


def _fitted(layer: Layer, ridge: float) -> Affine:
    if ridge == AS_IT_IS:
        return layer.weight, layer.bias
    weight = layer.weight if ridge >= SHIFT / 2 else layer.weight + _change(layer, ridge)
    if layer.bias is None:
        return weight, None
    return weight, layer.output_mean - weight @ layer.input_mean


def _change(layer: Layer, ridge: float) -> Tensor:
    inputs, cross = layer.covariance, layer.cross
    if layer.bias is None:  # nothing takes up the means: regress on the raw inputs
        inputs = inputs + layer.input_mean.outer(layer.input_mean)
        cross = cross + layer.output_mean.outer(layer.input_mean)
    spread = inputs.diagonal().mean()
    if spread == 0:
        return torch.zeros_like(layer.weight)
    regular = inputs + ridge * spread * torch.eye(len(inputs)).to(inputs)
    missing = cross - layer.weight @ inputs
    factor, failed = torch.linalg.cholesky_ex(regular)
    if not failed:
        return torch.cholesky_solve(missing.T, factor).T
    # Few images leave many directions empty, and rounding makes some of these slightly negative,
    # by more than a small ridge makes up for. Nothing is known there, so they count as empty.
    values, vectors = torch.linalg.eigh(inputs)
    change: Tensor = missing @ vectors / (values.clamp(min=0) + ridge * spread) @ vectors.T
    return change


def _root(second: Tensor) -> Tensor:
    """Return A with A A^T equal to a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(second)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
