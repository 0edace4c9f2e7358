"""The order of many scores, quickly."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

INDEX = 0xFFFFFFFF  # the lower half of 64 bits


def descending(values: Tensor) -> Tensor:
    """Return the positions of values from the largest to the smallest, of equal ones the first.

    For the millions of weights of a matrix, which are float32, this sorts one integer per value
    that holds the value's bits above its position. NumPy sorts integers with vector instructions,
    in under half the time of a stable sort of floats with their positions.

    Args:
        values: Floating point, none of them NaN, (size,).

    Example:
        >>> descending(torch.tensor([1.0, -3.0, 2.0, 1.0]))
        tensor([2, 0, 3, 1])
    """
    if values.dtype != torch.float32 or values.device.type != "cpu":
        return values.argsort(descending=True, stable=True)
    bits = (values + 0.0).numpy().view(np.int32)  # a negative zero becomes a positive one
    # Read as integers, the bits of positive floats are in order, and those of negative ones too
    # once all but the sign are turned round; then all of it is, for the descending order.
    bits ^= (bits >> 31) & 0x7FFFFFFF
    np.invert(bits, out=bits)
    keys = bits.astype(np.int64)  # all in place from here, since this is what takes most memory
    del bits
    keys <<= 32
    keys |= np.arange(keys.size, dtype=np.uint32)
    keys.sort()
    keys &= INDEX
    return torch.from_numpy(keys)
