"""Masks on disk: one bit a weight, in a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from ..errors import ArtifactError
from .masks import astray


def write_masks(path: Path, kept: Mapping[str, Tensor]) -> None:
    """Write which weights of each parameter stay, bool masks of any shape."""
    save_file({name: pack(mask) for name, mask in kept.items()}, path)


def read_masks(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read what `write_masks` wrote, and make sure that the model has its zeros there.

    Args:
        path: The file.
        model: Whose parameters were masked.

    Raises:
        ArtifactError: The file is corrupt, or does not fit the model.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); save it again.") from error
    return masks_in(content, path, model)


def masks_in(content: bytes, path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Do what `read_masks` does, with what was read already."""
    parameters = dict(model.named_parameters())
    try:
        packed = load(content)
    except SafetensorError as error:
        raise ArtifactError(
            f"{path} is corrupt ({type(error).__name__}); save it again."
        ) from error
    kept = {}
    for name, bits in packed.items():
        if name not in parameters:
            raise ArtifactError(f"{path} masks {name!r}, which the model lacks; save it again.")
        shape = parameters[name].shape
        if bits.dtype != torch.uint8 or bits.shape != (-(-shape.numel() // 8),):
            raise ArtifactError(
                f"The mask of {name!r} in {path} is {tuple(bits.shape)} {bits.dtype}; expected a "
                f"bit for each of {shape.numel()} weights. Save it again."
            )
        kept[name] = unpack(bits, shape)
    for name, count in astray(model, kept).items():
        raise ArtifactError(
            f"{count:,} weights of {name!r} are not zero, although {path} says so; save the "
            "artifact again."
        )
    return kept


def pack(mask: Tensor) -> Tensor:
    """Turn a mask into bits, eight to a byte, the first in the highest.

    Example:
        >>> pack(torch.tensor([[True, False], [False, True]]))
        tensor([144], dtype=torch.uint8)
    """
    return torch.from_numpy(np.packbits(mask.flatten().numpy()))


def unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    """Turn bits back into a mask of a shape."""
    values = np.unpackbits(bits.numpy(), count=shape.numel())
    return torch.from_numpy(values.view(np.bool_)).view(shape)
