"""MATRICES: the layers of torch whose weight is a matrix, of kernels if they convolve."""

from __future__ import annotations

from torch import nn

MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
