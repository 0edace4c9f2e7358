"""zeroed: masks carried out, and the proof that nothing else changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ParityError
from ..tracing.copies import M, copy_with


@dataclass(frozen=True)
class Masking:
    """The proof, value by value, that a masked model is what its masks say.

    Attributes:
        zeros: How many values were checked to be zero, all that the masks remove.
        same: How many were checked to be what they were, bit for bit: all others, buffers
            included.
    """

    zeros: int
    same: int


def zeroed(model: M, kept: Mapping[str, Tensor]) -> M:
    """Return a copy of a model whose removed weights are zero; it shares nothing with it."""

    def made(name: str, tensor: Tensor) -> Tensor:
        if name not in kept:
            return tensor.clone()
        # Not a product, which would leave zeros that are negative.
        return tensor.masked_fill(~kept[name].to(tensor.device), 0)

    return copy_with(model, made)


def verify_masks(model: nn.Module, small: nn.Module, kept: Mapping[str, Tensor]) -> Masking:
    """Prove that what the masks remove is zero, and that nothing else has changed by a bit.

    Nothing was cut out, so there is no second way to compute the same, as parity asks for.

    Raises:
        ParityError: Something is not so.
    """
    zeros = same = 0
    after = small.state_dict()
    for name, before in model.state_dict().items():
        now, before = after[name], before.detach()
        if name in kept:
            stays = kept[name].to(now.device)
            removed = now[~stays]
            zeros += _checked(name, not removed.any(), removed)
            now, before = now[stays], before[stays]
        same += _checked(name, _same_bits(now, before), now)
    return Masking(zeros, same)


def _checked(name: str, right: bool, values: Tensor) -> int:
    if not right:
        raise ParityError(
            f"The masked model's {name!r} is not what the masks make of it, which is a mistake in "
            "prunekit; please report it. Nothing was saved."
        )
    return values.numel()


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))
