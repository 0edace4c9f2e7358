"""Least squares: refit layers to the outputs they had, on the inputs they now get."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..plugin import Allowed
from .base import Affine, repair
from .given import Layer, Product
from .masked import masked_changes

RIDGES = (1.0, 0.1, 0.01, 0.001, 0.0001)
ROUNDING = 1e-6  # of the outputs' variance; smaller errors are as good as none
SHIFT, AS_IT_IS = 1e300, math.inf  # so large that the weight, or even the bias, stays
VALUES = 2**20  # of the matrices that are factored at once
OUTPUTS = 256  # that say which ridge is best


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


@repair("lstsq", product=low_rank, follows=True, masks=True, allowed={"ridge": RIDGE})
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
            half; so are the mere shift of the bias, and the layer as it is. Of a layer of more
            than 256 outputs so many say which is best.

    Source:
        Luo et al., ThiNet, ICCV 2017, arXiv:1707.06342; Meng et al., OSSCAR, ICML 2024,
        arXiv:2403.12983. Differs: a ridge on the change of the weight, chosen from the data;
        layers that lost no inputs themselves, up to the classifier, are refitted too. Where single
        weights became zero, those that stay are refitted, by `masked_changes`.
    """
    if ridge == 0:
        ridge = _chosen(_sample(layer))
    if ridge == AS_IT_IS:
        return layer.weight, layer.bias
    weights, biases = _fitted(layer, [ridge])
    return weights[0], None if biases is None else biases[0]


def _sample(layer: Layer) -> Layer:
    """Return some outputs of a large layer, of which each is a problem of its own."""
    outputs = len(layer.weight)
    if outputs <= OUTPUTS:
        return layer
    return layer.of_outputs(torch.linspace(0, outputs - 1, OUTPUTS).long().to(layer.weight.device))


def _chosen(layer: Layer) -> float:
    """Return the ridge that does best on images it has not seen."""
    if not layer.halves:
        return AS_IT_IS
    one, other = layer.halves
    as_it_is = sum(half.error(layer.weight, layer.bias) for half in layer.halves)
    errors = [as_it_is, *(_errors(one, other) + _errors(other, one)).tolist()]
    candidates = (AS_IT_IS, SHIFT, *RIDGES)
    best = min(range(len(candidates)), key=lambda n: max(errors[n], ROUNDING))
    return candidates[best] / 2  # twice the images need half the ridge


def _errors(half: Layer, other: Layer) -> Tensor:
    """Return what a mere shift, and every ridge, is worth that was fitted on other images."""
    ridges = (SHIFT, *RIDGES)
    at_once = max(1, VALUES // half.covariance.numel())
    parts = [ridges[start : start + at_once] for start in range(0, len(ridges), at_once)]
    return torch.cat([other.losses(*_fitted(half, part)) for part in parts]) / other.scale


def _fitted(layer: Layer, ridges: Sequence[float]) -> tuple[Tensor, Tensor | None]:
    """Return weights, (ridges, outputs, inputs), and biases, (ridges, outputs)."""
    weights = layer.weight + _changes(layer, torch.tensor(ridges).to(layer.weight))
    if layer.bias is None:
        return weights, None
    return weights, layer.output_mean - weights @ layer.input_mean


def _changes(layer: Layer, ridges: Tensor) -> Tensor:
    inputs, cross = layer.covariance, layer.cross
    if layer.bias is None:  # nothing takes up the means: regress on the raw inputs
        inputs = inputs + layer.input_mean.outer(layer.input_mean)
        cross = cross + layer.output_mean.outer(layer.input_mean)
    spread = inputs.diagonal().mean()
    missing = cross - layer.weight @ inputs
    changes = torch.zeros(len(ridges), *missing.shape).to(missing)
    fits = (ridges < SHIFT / 2) & (spread != 0)  # else the weight stays
    if not fits.any():
        return changes
    if layer.mask is not None:
        changes[fits] = masked_changes(missing, inputs, ridges[fits] * spread, layer.mask)
        return changes
    added = (ridges[fits] * spread).view(-1, 1, 1) * torch.eye(len(inputs)).to(inputs)
    factors, failed = torch.linalg.cholesky_ex(inputs + added)
    changes[fits] = torch.cholesky_solve(missing.T, factors).mT
    if failed.any():
        # Few images leave many directions empty, and rounding makes some of these slightly
        # negative, by more than a small ridge makes up for. Nothing is known there, so they count
        # as empty.
        values, vectors = torch.linalg.eigh(inputs)
        for number in fits.nonzero().flatten()[failed > 0].tolist():
            raised = values.clamp(min=0) + ridges[number] * spread
            changes[number] = missing @ vectors / raised @ vectors.T
    return changes


def _root(second: Tensor) -> Tensor:
    """Return A with A A^T equal to a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(second)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
