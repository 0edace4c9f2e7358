"""The time of a forward pass, of several models side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..arguments import Inputs, batch_of, call, mapped
from ..errors import BudgetError
from ..tracing.checkpointing import without_checkpointing
from .counting import Latency

BATCHES = (1, 8)  # images in a forward pass that is timed
WARM_UP = 2  # first passes that do not count, where there are enough others
REPEATS = (3, 40)  # fewest and most passes that do
ENOUGH_SECONDS = 5.0  # for all passes of all models at one batch size, if that is not too few


def latencies(models: Sequence[nn.Module], example: Inputs) -> list[dict[int, Latency]]:
    """Time the models at every batch size of `BATCHES`; one dictionary per model."""
    by_batch = {batch: latency(models, example, batch) for batch in BATCHES}
    return [{batch: by_batch[batch][n] for batch in BATCHES} for n in range(len(models))]


def latency(models: Sequence[nn.Module], example: Inputs, batch: int) -> list[Latency]:
    """Time forward passes of several models side by side; see `times`.

    Returns:
        For each model the median and the quartiles, and of how many passes they are.
    """
    return [summed_up(taken) for taken in times(models, example, batch)]


@torch.inference_mode()
def times(
    models: Sequence[nn.Module],
    example: Inputs,
    batch: int,
    *,
    most: int | None = None,
    seconds: float | None = None,
) -> list[list[float]]:
    """Time forward passes of several models side by side, so that noise hits all alike.

    Args:
        models: Each on the device it is to be timed on.
        example: Inputs; the first image is repeated.
        batch: Images in a forward pass.
        most: The most passes of each; as `REPEATS` says unless given.
        seconds: For all of them; `ENOUGH_SECONDS` unless given.

    Returns:
        For each model the seconds that passes took: at least the fewest of `REPEATS`, at most the
        most, and no more once all have taken long enough. The first `WARM_UP` passes are left
        out, or as many as leave the fewest: what takes seconds is warm by its end.
    """
    found: list[list[float]] = [[] for _ in models]
    inputs = [batch_for(model, example, batch) for model in models]
    fewest, most = REPEATS[0], most or REPEATS[1]
    seconds = seconds or ENOUGH_SECONDS
    turns = list(zip(models, inputs, found, strict=True))
    with without_checkpointing(*models):
        for passes in range(1, WARM_UP + most + 1):
            turns.reverse()  # whatever comes and goes in step should not hit the same one always
            for model, x, taken in turns:
                taken.append(_time(model, x))
            if passes >= fewest and sum(map(sum, found)) > seconds:
                break
    return [taken[min(WARM_UP, len(taken) - fewest) :] for taken in found]


def summed_up(seconds: Sequence[float]) -> Latency:
    """Return the median and the quartiles of some times."""
    low, median, high = statistics.quantiles([1000 * each for each in seconds], n=4)
    return Latency(round(median, 3), round(low, 3), round(high, 3), len(seconds))


def batch_for(model: nn.Module, example: Inputs, count: int) -> Inputs:
    """Return so many times the first image, where a model is and in its precision."""
    like = next(model.parameters())
    return mapped(
        lambda x: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype),
        batch_of(example, count),
    )


@contextmanager
def fitting(batch: int) -> Iterator[None]:
    """Say in a sentence that memory is too small for as many images as a user asked for.

    Raises:
        BudgetError: It is.
    """
    try:
        yield
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise BudgetError(
            f"A batch of {batch} images does not fit into memory; time fewer (latency_batch)."
        ) from error


def _time(model: nn.Module, x: Inputs) -> float:
    device = next(model.parameters()).device
    wait(device)
    start = time.perf_counter()
    call(model, x)
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Let all that a device was asked for be done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
