"""First and second moments of a layer's inputs and outputs, a batch at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .common import precise

TILE = 512  # columns; below, one product is as fast


def gram(x: Tensor) -> Tensor:
    """Return X^T X of (..., n, columns); what lies below the diagonal is not computed again.

    Example:
        >>> gram(torch.tensor([[1.0, 2.0]])).tolist()
        [[1.0, 2.0], [2.0, 4.0]]
    """
    columns = x.shape[-1]
    if columns <= TILE:
        return x.mT @ x
    half = columns // 2
    one, other = x[..., :half], x[..., half:]
    found = x.new_empty(*x.shape[:-2], columns, columns)
    found[..., :half, :half], found[..., half:, half:] = gram(one), gram(other)
    cross = one.mT @ other
    found[..., :half, half:], found[..., half:, :half] = cross, cross.mT
    return found


class Covariance:
    """Means and covariances of inputs and outputs, in float64, for either half of the images.

    Values are shifted by the first batch's mean before they are multiplied, so that a large mean
    does not swallow a small variance. Dimensions before the last two count separate problems.
    """

    def __init__(self) -> None:
        self.samples = [0, 0]
        self._shift: Tensor | None = None
        self._sums: list[list[Any]] = [[0.0] * 4, [0.0] * 4]

    def add(self, inputs: Tensor, outputs: Tensor, images: int) -> None:
        """Take in one batch, (..., n, inputs) and (..., n, outputs), sorted by image."""
        joined = torch.cat([precise(inputs), precise(outputs)], -1)  # (..., n, inputs + outputs)
        if self._shift is None:
            self._shift, self._split = joined.mean(-2, keepdim=True), inputs.shape[-1]
        joined = joined - self._shift
        cut = images // 2 * (joined.shape[-2] // images)
        light = self.samples.index(min(self.samples))  # gets the odd image
        for half, part in ((1 - light, joined[..., :cut, :]), (light, joined[..., cut:, :])):
            x, y = part[..., : self._split], part[..., self._split :]
            # Products within a batch in float32, the sum over batches in float64.
            products = (part.sum(-2), y.square().sum(-2), gram(x), y.mT @ x)
            sums = self._sums[half]
            self._sums[half] = [a + b.double() for a, b in zip(sums, products, strict=True)]
            self.samples[half] += part.shape[-2]

    def finish(self, *halves: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return input mean, output mean, output variance, input covariance, cross covariance.

        The cross covariance is (..., outputs, inputs).

        Args:
            halves: Of which images: 0, 1, or both.
        """
        assert self._shift is not None, "no batch was added"
        samples = sum(self.samples[half] for half in halves)
        first, outputs, inputs, cross = (
            sum(self._sums[half][part] for half in halves) / samples for part in range(4)
        )
        x, y = first[..., : self._split], first[..., self._split :]
        mean = self._shift.squeeze(-2).double() + first
        return (
            mean[..., : self._split],
            mean[..., self._split :],
            (outputs - y.square()).clamp(min=0),
            inputs - x.unsqueeze(-1) * x.unsqueeze(-2),
            cross - y.unsqueeze(-1) * x.unsqueeze(-2),
        )


class ProductCovariance:
    """Per group the second moment of queries and the covariance of keys, in float64."""

    def __init__(self, index: Tensor, groups: int):
        """Say where they are.

        Args:
            index: Which output is each slice's query, and which its key, (size, 2).
            groups: How many equal runs the slices come in.
        """
        self._index = index.view(groups, -1, 2)
        self._samples = 0
        self._sums: list[Any] = [0.0] * 3

    def add(self, outputs: Tensor) -> None:
        """Take in one batch of the layer that makes both, (n, outputs)."""
        values = precise(outputs)
        q, k = (values[:, self._index[..., side]] for side in (0, 1))  # (n, groups, dim)
        parts = [torch.einsum("ngi,ngj->gij", side, side) for side in (q, k)]
        parts.append(k.sum(0))
        self._sums = [total + part.double() for total, part in zip(self._sums, parts, strict=True)]
        self._samples += len(outputs)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Return the queries' second moments and the keys' covariances, (groups, dim, dim)."""
        queries, keys, mean = (total / self._samples for total in self._sums)
        return queries, keys - mean.unsqueeze(2) * mean.unsqueeze(1)
