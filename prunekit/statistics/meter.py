"""Meter: the moments of what passes by, whatever the size of the batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..axis import Moments
from .common import precise


class Meter:
    """The running mean and variance of each feature, whatever the size of the batches.

    Sums of squares would cancel where the mean is large. Values are counted from the first
    one ever seen, variances about each batch's own mean, and batches joined in float64.

    Source:
        Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
        Sample Variances, COMPSTAT 1982.
    """

    def __init__(self, feature: int):
        """Start with nothing seen; `feature` is the dimension of features, from the end."""
        self._feature = feature
        self.count = 0

    def add(self, values: Tensor) -> None:
        """Take note of a batch of activations."""
        values = precise(values.detach())
        others = [dim for dim in range(values.dim()) if dim != values.dim() + self._feature]
        if not self.count:
            first = values
            for dim in others:
                first = first.narrow(dim, 0, 1)
            self._first = first.clone()
            self._mean = self._spread = torch.zeros_like(first, dtype=torch.float64).flatten()
        values = values - self._first
        mean = values.mean(others, keepdim=True)
        spread = (values - mean).square_().sum(others).double()
        count = values.numel() // mean.numel()
        total = self.count + count
        away = mean.flatten().double() - self._mean
        self._mean = self._mean + away * (count / total)
        self._spread = self._spread + spread + away.square() * (self.count * count / total)
        self.count = total

    def moments(self, shaped: Callable[[Tensor], Tensor]) -> Moments:
        """Return what was seen so far, shaped as the caller likes."""
        mean = self._first.flatten().double() + self._mean
        return Moments(shaped(mean), shaped(self._spread / self.count))
