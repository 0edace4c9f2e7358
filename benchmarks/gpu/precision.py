"""The precisions that models are timed in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

PRECISIONS = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Allow TensorFloat-32 in products and convolutions for `tf32`, and for nothing else."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def converted(model: nn.Module, name: str) -> nn.Module:
    """Return a model in a precision: itself, or a copy of another dtype."""
    dtype = PRECISIONS[name]
    return model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
