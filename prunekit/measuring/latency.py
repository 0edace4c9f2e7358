"""The time of a forward pass, of several models side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .counting import Latency

BATCHES = (1, 8)  # images in a forward pass that is timed


WARM_UP = 2  # passes that are not timed


REPEATS = (5, 40)  # fewest and most passes that are, and for how long to go on with them


ENOUGH_SECONDS = 5.0


def latencies(models: Sequence[nn.Module], example: Tensor) -> list[dict[int, Latency]]:
    """Time the models at every batch size of `BATCHES`; one dictionary per model."""
    by_batch = {batch: latency(models, example, batch) for batch in BATCHES}
    return [{batch: by_batch[batch][n] for batch in BATCHES} for n in range(len(models))]


@torch.inference_mode()
def latency(models: Sequence[nn.Module], example: Tensor, batch: int) -> list[Latency]:
    """Time forward passes of several models side by side, so that noise hits all alike.

    Args:
        models: Each on the device it is to be timed on.
        example: Inputs; the first image is repeated.
        batch: Images in a forward pass.

    Returns:
        For each model the median and the quartiles of the passes after `WARM_UP`: at least
        the fewest of `REPEATS`, at most the most, and no more after `ENOUGH_SECONDS`.
    """
    times: list[list[float]] = [[] for _ in models]
    inputs = [_batch(model, example, batch) for model in models]
    fewest, most = REPEATS
    turns = list(zip(models, inputs, times, strict=True))
    for repeat in range(-WARM_UP, most):
        turns.reverse()  # whatever else comes and goes in step should not hit the same one always
        for model, x, taken in turns:
            seconds = _time(model, x)
            if repeat >= 0:
                taken.append(1000 * seconds)
        if repeat + 1 >= fewest and sum(map(sum, times)) > 1000 * ENOUGH_SECONDS:
            break
    found = []
    for taken in times:
        low, median, high = statistics.quantiles(taken, n=4)
        found.append(Latency(round(median, 3), round(low, 3), round(high, 3)))
    return found


def _batch(model: nn.Module, example: Tensor, batch: int) -> Tensor:
    parameter = next(model.parameters())
    return (
        example[:1].repeat(batch, *[1] * (example.dim() - 1)).to(parameter.device, parameter.dtype)
    )


def _time(model: nn.Module, x: Tensor) -> float:
    _wait(x.device)
    start = time.perf_counter()
    model(x)
    _wait(x.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
