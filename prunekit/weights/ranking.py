"""Ranking: which of many values are the lowest, without joining them or sorting any.

The bits of a float32 are read as two digits of 16 bits, as a radix sort reads them. How often each
first digit comes up tells that of the value in question, and among those that share it the second
digits tell the rest. That takes half a megabyte a tensor, whatever its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Counts = NDArray[np.uint32]
DIGITS = 1 << 16
SIGN = 1 << 31


class Ranking:
    """Values of several tensors in ascending order; of equal ones, first tensors come first.

    Attributes:
        parts: The values of each tensor, (size,) float32, finite, fewer than 2^32.

    Example:
        >>> ranking = Ranking([np.float32([3, 1]), np.float32([2, 1])])
        >>> ranking.lowest(1), ranking.lowest(3)
        ((1.0, [1, 0]), (2.0, [1, 2]))
    """

    def __init__(self, parts: Sequence[Values]) -> None:
        self.parts = parts
        self._firsts = _counted(_keys(part) >> 16 for part in parts)

    def lowest(self, count: int) -> tuple[float, list[int]]:
        """Return the highest of the `count` lowest values, and how many of them each tensor has."""
        if count == 0:
            return -math.inf, [0] * len(self.parts)
        first = _digit(self._firsts, count)
        low, high = _value(first << 16), _value(first + 1 << 16)
        sharing = (part[(part >= low) & (part < high)] for part in self.parts)
        seconds = _counted(_keys(part) & (DIGITS - 1) for part in sharing)
        below = self._firsts[:, first].astype(np.int64)  # (tensors,)
        second = _digit(seconds, count - int(below.sum()))
        below += seconds[:, second]
        equal = seconds[:, second + 1] - seconds[:, second].astype(np.int64)
        earlier = equal.cumsum() - equal
        taken = (count - below.sum() - earlier).clip(0, equal)
        return float(_value(first << 16 | second)), (below + taken).tolist()


def _keys(values: Values) -> NDArray[np.uint32]:
    """Return integers that are in the order of the values, and equal where these are."""
    bits = (values + np.float32(0)).view(np.int32)  # a negative zero becomes a positive one
    bits ^= (bits >> 31) | -SIGN  # the sign turned round, and of negative values all bits
    return bits.view(np.uint32)


def _value(key: int) -> np.float32:
    """Return the value that a key stands for."""
    bits = key ^ (SIGN if key >= SIGN else 2 * SIGN - 1)
    return np.uint32(bits).view(np.float32)


def _counted(digits: Iterable[NDArray[np.integer]]) -> Counts:
    """Count how many digits of each tensor are less than 0, 1, ..., (tensors, DIGITS + 1)."""
    return np.stack(
        [np.bincount(own + 1, minlength=DIGITS + 1).cumsum(dtype=np.uint32) for own in digits]
    )


def _digit(counts: Counts, place: int) -> int:
    """Return the digit at a place, from 1, in the order of all tensors together."""
    return int(np.searchsorted(counts.sum(0, dtype=np.int64), place)) - 1
