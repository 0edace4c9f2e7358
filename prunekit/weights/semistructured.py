"""to_semi_structured: 2:4 masks -> the tensors that sparse tensor cores multiply faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import DeviceError
from ..tracing.copies import M, copy_with

CAPABILITY = (8, 0)  # Ampere, the first with sparse tensor cores
DTYPES = (torch.float16, torch.bfloat16)


def supported() -> bool:
    """Whether there is a CUDA device with sparse tensor cores."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= CAPABILITY


def to_semi_structured(model: M) -> M:
    """Return a copy whose 2:4 linear layers use torch's semi-structured sparse tensors.

    Layers that are not 2:4, or whose shape the kernels do not take, stay dense. The copy is for
    inference: it can be neither trained nor saved, so keep the artifact.

    Args:
        model: Masked by `prune(..., granularity="2:4")`, on a CUDA device, in float16 or bfloat16.

    Raises:
        DeviceError: There is no such device, the model is elsewhere or of another dtype, or none
            of its layers is 2:4.
    """
    if not supported():
        raise DeviceError(
            "Semi-structured sparse tensors need a CUDA device of compute capability 8.0 or more, "
            "and there is none here; run the masked model as it is."
        )
    parameter = next(model.parameters())
    if parameter.device.type != "cuda" or parameter.dtype not in DTYPES:
        raise DeviceError(
            f"The model is {parameter.dtype} on {parameter.device.type}; expected float16 or "
            "bfloat16 on cuda, such as model.half().cuda()."
        )
    copy, converted = copy_with(model, lambda _, tensor: tensor.clone()), 0
    for layer in copy.modules():
        if isinstance(layer, nn.Linear) and is_2_to_4(layer.weight) and _fits(layer.weight):
            sparse = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
            layer.weight = nn.Parameter(sparse, requires_grad=False)
            converted += 1
    if not converted:
        raise DeviceError(
            "No linear layer of the model is 2:4 in a shape that the kernels take; expected one "
            'that was pruned with granularity="2:4".'
        )
    return copy


def is_2_to_4(weight: Tensor) -> bool:
    """Whether every four consecutive inputs have at least two zeros.

    Example:
        >>> is_2_to_4(torch.tensor([[1.0, 0.0, 0.0, 2.0]]))
        True
    """
    if weight.shape[1] % 4:
        return False
    return bool(((weight.detach().reshape(-1, 4) == 0).sum(1) >= 2).all())


def _fits(weight: Tensor) -> bool:
    """Whether the kernels, of either backend, take a half-precision matrix of this shape."""
    rows, columns = weight.shape
    return rows % 32 == 0 and columns % 64 == 0
