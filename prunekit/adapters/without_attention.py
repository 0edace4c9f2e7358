"""A block of timm's SwinTransformer whose attention has left."""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor


class WithoutAttention(SwinTransformerBlock):  # type: ignore[misc]
    """Has no windows: what stands for the attention is the same at every position."""

    def _attn(self, x: Tensor) -> Tensor:
        out: Tensor = self.attn(x)
        return out

    def _init_buffers(self) -> None:
        self.register_buffer("attn_mask", None, persistent=False)

    def set_input_size(self, feat_size: tuple[int, int], *args: Any, **kwargs: Any) -> None:
        """Take note of the size of the image."""
        self.input_resolution = feat_size
