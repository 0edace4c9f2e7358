"""Another size of images that a model takes, for files that are to take any."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..arguments import call, shown
from ..errors import ExportError
from ..tracing.running import reason
from .source import Source

STEPS = (32, 28)  # pixels: multiples of the strides and patches of most models


def at_another_size(source: Source) -> Source:
    """Return a source whose images have another height and another width.

    Raises:
        ExportError: The model is not fed images, or takes those of one size only.
    """
    if source.images is None:
        raise ExportError(
            f"dynamic_size is for a model that is fed one batch of images, and this one is fed "
            f"{shown(source.example)}; leave dynamic_size out."
        )
    for size in _candidates(*source.images.size[1:]):
        other = source.resized(size)
        try:
            with torch.inference_mode():
                call(other.model, other.batch(1))
        except Exception as error:  # of the model's own code
            why = reason(error)
        else:
            return other
    height, width = source.images.size[1:]
    raise ExportError(
        f"{type(source.model).__name__} takes images of {height} x {width} pixels only ({why}); "
        "leave dynamic_size out, or prune a model that takes others, such as a vision transformer "
        "of timm that was made with dynamic_img_size=True."
    )


def _candidates(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield sizes with different sides, small ones first; multiples also suit windows."""
    yield from ((height + step, width + 2 * step) for step in STEPS)
    yield 2 * height, 3 * width
