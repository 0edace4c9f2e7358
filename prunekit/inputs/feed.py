"""InputSpec: what a model wants to be fed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class InputSpec:
    """What a model wants to be fed.

    Attributes:
        size: Channels, height and width of one image.
        mean, std: What each channel is normalised with, of values in [0, 1].
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, model: nn.Module) -> InputSpec:
        """Read the specification off a timm model's `pretrained_cfg`."""
        from timm.data import resolve_model_data_config

        config = resolve_model_data_config(model)
        return cls(tuple(config["input_size"]), tuple(config["mean"]), tuple(config["std"]))

    def example(self, seed: int = 0, batch: int = 1) -> Tensor:
        """Return normally distributed stand-ins for images, (batch, C, H, W)."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, *self.size, generator=generator)
