"""What does a training step in bfloat16 take, dense and pruned?"""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .inside import InputSpec, peak_bytes
from .models import Models, Size

STEPS = 2  # that are timed, after one that is not


def train(models: Models, name: str) -> dict[str, Any]:
    """Take a few steps with the dense model and with the pruned one."""
    settings = models.settings
    size = Size(settings.middle, settings.multiple)
    small, dense = models.small(name, size), models.dense(name)
    return {
        "model": name,
        "batch": settings.train_batch,
        "ratio": size.ratio,
        "dense": _steps(models, dense),
        "pruned": _steps(models, small),
    }


def _steps(models: Models, model: nn.Module) -> dict[str, Any]:
    """Return the time and the loss of every step, the first one's time apart, and the memory."""
    settings = models.settings
    generator = torch.Generator().manual_seed(settings.seed)
    images = InputSpec.of(model).example(settings.seed, settings.train_batch).to(models.device)
    labels = torch.randint(10, (len(images),), generator=generator).to(models.device)
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses, times = [], []

    def work() -> None:
        for _ in range(1 + STEPS):
            start = time.perf_counter()
            losses.append(_step(model, optimizer, images, labels))
            times.append(1000 * (time.perf_counter() - start))

    memory = peak_bytes(work, model, images) if models.device.type == "cuda" else work()
    if not all(map(math.isfinite, losses)):
        raise ArithmeticError(f"The losses are {losses}; expected finite numbers.")
    return {
        "losses": losses,
        "first_step_ms": times[0],
        "step_ms": times[1:],
        "peak_bytes": memory,
    }


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> float:
    """Take one step and return its loss, for which the host waits for the device."""
    with torch.autocast(images.device.type, torch.bfloat16):
        loss = F.cross_entropy(model(images).float(), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if images.is_cuda:
        torch.cuda.synchronize()
    return loss.item()
