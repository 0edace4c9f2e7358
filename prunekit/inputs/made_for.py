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
    channels = _channels_of(own, tensors, unequal)
    colours = {} if channels is None else {"in_chans": channels}
    if colours and fits(colours):
        return _said([f"with {_channels(channels)}"], f"{fed[0]}", [f"--in-chans {channels}"])
    for more in [{}, colours] if colours else [{}]:
        for height, width in _sizes_of(own, tensors, unequal, fed):
            if not fits({**more, "img_size": (height, width)}):
                continue
            side = f"{height}" if height == width else f"{height},{width}"
            made = [
                f"of {height} x {width} pixels",
                *([f"with {_channels(channels)}"] if more else []),
            ]
            options = [f"--img-size {side}", *([f"--in-chans {channels}"] if more else [])]
            expected = f"{fed[1]} x {fed[2]}" + (f" with {fed[0]}" if more else "")
            return _said(made, expected, options)
    return None


def _said(made: list[str], expected: str, options: list[str]) -> str:
    return (
        f"are for images {' '.join(made)}, expected {expected}; add {' '.join(options)} to take "
        "them as they are."
    )


def _channels_of(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], unequal: list[str]
) -> int | None:
    """Return how many channels the first convolution of some weights reads, if not the model's."""
    found = [name for name in unequal if _in_channels_alone(own[name], tensors[name])]
    return int(tensors[found[0]].shape[1]) if found else None


def _in_channels_alone(own: Tensor, other: Tensor) -> bool:
    """Whether two kernels differ in nothing but the channels that they read."""
    if not own.dim() == other.dim() == 4:
        return False
    return own.select(1, 0).shape == other.select(1, 0).shape


def _sizes_of(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    unequal: list[str],
    fed: tuple[int, int, int],
) -> Iterator[tuple[int, int]]:
    """Yield the image sizes that the first tensor with a place per position suggests."""
    for name in unequal:
        if not _in_channels_alone(own[name], tensors[name]):
            yield from _sizes(tuple(own[name].shape), tuple(tensors[name].shape), fed)
            return


def _channels(count: int | None) -> str:
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
