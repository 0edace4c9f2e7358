"""own_times: how long every module of a model computes by itself, while the model runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..arguments import Inputs, call
from ..tracing.checkpointing import without_checkpointing
from .latency import WARM_UP, batch_for, fitting, wait

PASSES = (5, 30)  # fewest and most of each model
ENOUGH_SECONDS = 40.0  # for all of them, if that is not too few


@torch.inference_mode()
def own_times(models: Sequence[nn.Module], example: Inputs, batch: int) -> list[dict[str, float]]:
    """Time the modules of several models side by side, so that noise hits all alike.

    A module's own time is what it takes without its children: in a model that runs as a whole, with
    the memory traffic that comes with it. What is outside of all modules belongs to the model
    itself, whose name is empty.

    Args:
        models: Each on the device it is to be timed on.
        example: Inputs; the first image is repeated.
        batch: Images in a forward pass.

    Returns:
        For each model the median time of every module that ran, in nanoseconds.
    """
    passes: list[list[Mapping[str, float]]] = [[] for _ in models]
    fewest, most = PASSES
    with fitting(batch), without_checkpointing(*models), ExitStack() as stack:
        turns = [
            (model, batch_for(model, example, batch), stack.enter_context(_watched(model)), found)
            for model, found in zip(models, passes, strict=True)
        ]
        start = time.perf_counter()
        for number in range(1, WARM_UP + most + 1):
            turns.reverse()  # whatever comes and goes in step should not hit the same one always
            for model, x, stopwatch, found in turns:
                found.append(stopwatch.run(model, x))
            if number >= WARM_UP + fewest and time.perf_counter() - start > ENOUGH_SECONDS:
                break
    return [_medians(found[WARM_UP:]) for found in passes]


def _medians(passes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: max(1.0, statistics.median(one[name] for one in passes)) for name in passes[-1]}


class _Stopwatch:
    """Adds up what modules take by themselves, between the moments at which they begin and end."""

    def __init__(self, device: torch.device):
        self._device = device
        self._running: list[str] = []
        self._last = 0
        self._own: dict[str, float] = {}

    def run(self, model: nn.Module, x: Inputs) -> Mapping[str, float]:
        """Return every module's own time in one forward pass, in nanoseconds."""
        self._own, self._running = {}, []
        self.enter("")
        call(model, x)
        self.leave()
        return self._own

    def enter(self, name: str) -> None:
        self._charge()
        self._running.append(name)
        self._last = time.perf_counter_ns()

    def leave(self) -> None:
        self._charge()
        self._running.pop()
        self._last = time.perf_counter_ns()

    def _charge(self) -> None:
        wait(self._device)
        if self._running:
            name = self._running[-1]
            self._own[name] = self._own.get(name, 0) + time.perf_counter_ns() - self._last


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Stopwatch]:
    """Have every module say when it begins and when it ends."""
    stopwatch = _Stopwatch(next(model.parameters()).device)

    def begins(name: str) -> Any:
        return lambda *_: stopwatch.enter(name)

    def ends(*_: object) -> None:
        stopwatch.leave()

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(begins(name)))
            handles.append(module.register_forward_hook(ends, always_call=True))
    try:
        yield stopwatch
    finally:
        for handle in handles:
            handle.remove()
