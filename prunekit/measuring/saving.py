"""saved_time: which part of a model's latency a smaller one saves, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from ..arguments import Inputs
from ..tracing.copies import in_precision
from .counting import Latency
from .latency import fitting, summed_up, times

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MOST, SECONDS = 200, 15.0  # passes of each model, and for all: a goal is worth more than a figure


@dataclass(frozen=True)
class Conditions:
    """How models are timed.

    Attributes:
        batch: Images in a forward pass.
        dtype: The precision they run in: one of `DTYPES`.
        compiled: Whether torch.compile makes them fast first.
    """

    batch: int = 1
    dtype: str = "float32"
    compiled: bool = False

    def ready(self, model: nn.Module, example: Inputs) -> tuple[nn.Module, Inputs]:
        """Return a copy of a model, and inputs, in the precision; it shares what has it already."""
        return in_precision(model, example, DTYPES[self.dtype])


@dataclass(frozen=True)
class Saving:
    """Two models, timed side by side.

    Attributes:
        removed: The fraction of the dense model's time that the small one saves: the median over
            pairs of passes, one of each, next to each other.
        low, high: Quartiles of it.
        dense, small: Their times.
    """

    removed: float
    low: float
    high: float
    dense: Latency
    small: Latency


def saved_time(
    dense: nn.Module, small: nn.Module, example: Inputs, conditions: Conditions
) -> Saving:
    """Time two models side by side.

    Args:
        dense: The larger model, on the device it is to be timed on.
        small: The other one, likewise.
        example: Inputs; the first image is repeated.
        conditions: How.
    """
    ready = [conditions.ready(model, example) for model in (dense, small)]
    models = [model for model, _ in ready]
    with fitting(conditions.batch), _compiled(conditions.compiled):
        run = [_compile(model) for model in models] if conditions.compiled else models
        passes = times(run, ready[0][1], conditions.batch, most=MOST, seconds=SECONDS)
    pairs = [1 - after / before for before, after in zip(*passes, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4)
    return Saving(middle, low, high, *map(summed_up, passes))


def _compile(model: nn.Module) -> nn.Module:
    return cast(nn.Module, torch.compile(model))


@contextmanager
def _compiled(wanted: bool) -> Iterator[None]:
    """Forget what was compiled afterwards: models of other sizes would be recompilations of it."""
    try:
        yield
    finally:
        if wanted:
            torch.compiler.reset()
