"""Which images weights were made for, as far as their shapes show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

MOST_TOKENS = 16  # class, distillation and register tokens, before those of the patches
LARGEST_SIDE = 8192  # pixels


def made_for(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    fed: tuple[int, int, int],
    fits: Callable[[Mapping[str, Any]], bool],
) -> str | None:
    """Find the image size, or the number of channels, with which weights would fit.

    Args:
        own: The model's tensors.
        tensors: The weights, with the names of the model's.
        fed: Channels, height and width of the model's images.
        fits: Whether the weights fit the model that is built with these arguments.

    Returns:
        The end of a sentence about the weights that says what to do; None if nothing helps.
    """
    unequal = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if not unequal:
        return None
    ours, theirs = own[unequal[0]].shape, tensors[unequal[0]].shape
    if len(ours) == len(theirs) == 4 and fits({"in_chans": theirs[1]}):
        return (
            f"are for images with {_channels(theirs[1])}, expected {fed[0]}; add --in-chans "
            f"{theirs[1]} to take them as they are."
        )
    for height, width in _sizes(ours, theirs, fed):
        if fits({"img_size": (height, width)}):
            said = f"{height}" if height == width else f"{height},{width}"
            return (
                f"are for images of {height} x {width} pixels, expected {fed[1]} x {fed[2]}; add "
                f"--img-size {said} to take them as they are."
            )
    return None


def _channels(count: int) -> str:
    return f"{count} channel{'' if count == 1 else 's'}"


def _sizes(
    ours: tuple[int, ...], theirs: tuple[int, ...], fed: tuple[int, int, int]
) -> Iterator[tuple[int, int]]:
    """Yield the image sizes that the shapes of a tensor with a place per position suggest."""
    unequal = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
    if len(ours) != len(theirs) or 0 in theirs:
        return
    for a, b in dict.fromkeys(_sides(*unequal[0])):
        (height, rest), (width, other) = (divmod(side * b, a) for side in fed[1:])
        if rest == other == 0 and 0 < max(height, width) <= LARGEST_SIDE:
            yield height, width


def _sides(ours: int, theirs: int) -> Iterator[tuple[int, int]]:
    """Yield what the sides of two grids may be that have so many positions, or distances."""
    grids = [(ours, theirs)]
    for tokens in range(min(MOST_TOKENS, ours, theirs)):
        a, b = math.isqrt(ours - tokens), math.isqrt(theirs - tokens)
        if (a * a, b * b) == (ours - tokens, theirs - tokens):
            grids.append((a, b))
    for a, b in grids:
        yield a, b
        yield a + 1, b + 1  # 2 n - 1 distances lie between n positions
