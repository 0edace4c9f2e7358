"""Any model: what may shrink is found from its operations, without knowing the family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..adapters.base import Adapter
from ..axis import AxisSpec
from ..errors import AdapterError
from .words import INSIDE, KINDS, NAME

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..arguments import Inputs


class Auto(Adapter):
    """Models of any family; what is offered has to be proven, see `prunekit.cutting.proof`."""

    name = NAME
    kinds = KINDS
    default_kinds = INSIDE
    guesses = True

    def matches(self, model: nn.Module) -> bool:
        """Say yes: whether anything in it may shrink is found out by looking."""
        return True

    def seeing(self, model: nn.Module, example: Inputs) -> Adapter:
        """Look at a model."""
        from .seeing import Seeing

        return Seeing(model, example)

    def axes(self, model: nn.Module) -> list[AxisSpec]:
        """Refuse: without inputs, there are no operations to look at."""
        raise AdapterError(
            "The adapter 'auto' looks at a model while it runs; ask what its seeing() returns."
        )

    def toy(self) -> tuple[nn.Module, Tensor]:
        """Return a small network of convolutions first and attention after them."""
        import torch
        from timm.models.maxxvit import MaxxVit, MaxxVitCfg

        stages = MaxxVitCfg(embed_dim=(32, 64, 96, 128), depths=(1, 1, 2, 1), stem_width=(16, 32))
        return MaxxVit(stages, img_size=64, num_classes=7), torch.randn(2, 3, 64, 64)


auto = Auto()
