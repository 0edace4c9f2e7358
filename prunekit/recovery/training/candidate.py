"""The weights that would be kept if the run ended now: copied, and put to the test."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...inputs.data import batches
from ...measuring.accuracy import EVAL_BATCH, accuracy
from .objective import WithFeatures
from .parts import Parts


def candidate(parts: Parts) -> nn.Module:
    """Return the model that would be kept: the average of the weights if there is one."""
    average, wrapped = parts.average, parts.model
    found: Any = average.module if average else parts.accelerator.unwrap_model(wrapped)
    inner: nn.Module = found.model if isinstance(found, WithFeatures) else found
    return inner


def weights(parts: Parts) -> dict[str, Tensor]:
    """Return a copy of its state, on the CPU."""
    state = candidate(parts).state_dict()
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def validated(parts: Parts) -> float:
    """Return the percentage of all held-out images that it gets right; all processes call it."""
    model, accelerator = candidate(parts).eval(), parts.accelerator
    hits = torch.zeros((), device=accelerator.device, dtype=torch.float64)
    if len(parts.validation):  # type: ignore[arg-type]
        with accelerator.autocast():
            top1, _, count = accuracy(model, batches(parts.validation, EVAL_BATCH))
        hits += round(top1 * count / 100)
    return round(100 * float(accelerator.reduce(hits, "sum")) / parts.held_out, 3)
