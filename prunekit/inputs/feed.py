"""InputSpec: what a model is fed, settled once and read everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import Inputs, shown
from ..errors import DataError

CROPS: Mapping[str, Any] = {"interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"}


@dataclass(frozen=True)
class InputSpec:
    """What a model is fed.

    Attributes:
        size: Channels, height and width of one image.
        mean, std: What each channel is normalised with, of values in [0, 1].
        cropping: How timm prepares an image file for this model: `interpolation`, `crop_pct` and
            `crop_mode`, as in its data configuration.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cropping: Mapping[str, Any] = field(default_factory=lambda: dict(CROPS))

    @classmethod
    def of(cls, model: nn.Module, example: Inputs | None = None) -> InputSpec:
        """Find out what a model is fed.

        Normalisation and cropping come from a timm model's `pretrained_cfg`. The size comes from
        the example; without one, from the model as it was built, which `pretrained_cfg` does not
        follow (`in_chans`, `img_size`), and only then from `pretrained_cfg`.

        Args:
            model: A timm model, or any other if there is an example.
            example: One batch of images, (batch, C, H, W).

        Raises:
            DataError: The example holds no images.
        """
        from timm.data import resolve_model_data_config

        config = resolve_model_data_config(model)
        if example is not None:
            size = _size_of(example)
        else:
            declared = tuple(config["input_size"])
            size = (_channels(model) or declared[0], *(_fixed_size(model) or declared[1:]))
        return cls(
            size,
            _per_channel(config["mean"], size[0]),
            _per_channel(config["std"], size[0]),
            {key: config[key] for key in CROPS},
        )

    def resized(self, size: tuple[int, int] | None) -> InputSpec:
        """Return it for another height and width; None leaves them as they are."""
        return self if size is None else replace(self, size=(self.size[0], *size))

    def example(self, seed: int = 0, batch: int = 1) -> Tensor:
        """Return normally distributed stand-ins for images, (batch, C, H, W)."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, *self.size, generator=generator)


def are_images(example: object) -> bool:
    """Whether a batch of inputs is shaped like images, (batch, C, H, W)."""
    return isinstance(example, Tensor) and example.dim() == 4


def _size_of(example: Inputs) -> tuple[int, int, int]:
    if not isinstance(example, Tensor) or example.dim() != 4:
        raise DataError(
            f"The example input is {shown(example)}, so no image can be made to fit it; expected "
            "(batch, channels, height, width), or leave the data out."
        )
    _, channels, height, width = example.shape
    return channels, height, width


def _channels(model: nn.Module) -> int | None:
    """Return how many channels the first convolution reads, where timm names that one."""
    first = (getattr(model, "pretrained_cfg", None) or {}).get("first_conv")
    name = next(iter(first), None) if isinstance(first, list | tuple) else first
    layer: Any = dict(model.named_modules()).get(name) if isinstance(name, str) else None
    channels = getattr(layer, "in_channels", None)
    return channels if isinstance(channels, int) else None


def _fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """Return the image size that a timm transformer was built for."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if isinstance(size, Sequence) and len(size) == 2:
        height, width = size
        return int(height), int(width)
    return None


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return one value per channel; channels beyond colour get the mean of the colours."""
    if len(values) == channels:
        return tuple(values)
    average = sum(values) / len(values)
    return (
        (*values, *(average,) * (channels - len(values))) if channels > 3 else (average,) * channels
    )
