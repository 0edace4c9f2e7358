"""Gradient checkpointing, switched off where nothing is trained.

It computes activations twice to hold fewer of them for the backward pass. Where there is none, it
only changes what a forward pass costs, and hides the graph from those who read it off autograd.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

FLAGS = ("grad_checkpointing", "gradient_checkpointing")  # of timm, and of transformers


def switch_off_(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Switch checkpointing off in all modules; return where it was on, and by which flag."""
    found = [
        (module, flag) for module in model.modules() for flag in FLAGS if vars(module).get(flag)
    ]
    for module, flag in found:
        setattr(module, flag, False)
    return found


@contextmanager
def without_checkpointing(*models: nn.Module) -> Iterator[None]:
    """Switch checkpointing off in models for a while, and leave it as it was."""
    found = [where for model in models for where in switch_off_(model)]
    try:
        yield
    finally:
        for module, flag in found:
            setattr(module, flag, True)
