"""Swin's patch merging, for torch-pruning."""

from collections.abc import Sequence
from typing import Any

import torch_pruning as tp
from torch import nn


class PatchMergingPruner(tp.BasePruningFunc):
    """Prunes timm's PatchMerging, as in torch-pruning's own example for Swin."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        tp.prune_linear_out_channels(layer.reduction, idxs)
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        homes = four_homes(idxs, layer.dim)
        tp.prune_linear_in_channels(layer.reduction, homes)
        tp.prune_layernorm_out_channels(layer.norm, homes)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return layer.reduction.out_features

    def get_in_channels(self, layer: Any) -> int:
        return layer.dim


def four_homes(positions: Sequence[int], width: int) -> list[int]:
    """Return where channels land when 2x2 neighbours are folded into channels."""
    return [position + home * width for home in range(4) for position in positions]
