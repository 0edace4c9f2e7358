"""How training fails once it is under way, and what to do about each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ...errors import TrainingError
from ..recipes import Recipe
from .checkpoint import Progress


def diverged(
    loss: float, progress: Progress, updates: int, recipe: Recipe, workdir: Path | None
) -> TrainingError:
    """Return what to raise when loss or weights are no numbers any more.

    Args:
        loss: What the loss has become.
        progress: How far the run was.
        updates: How many make an epoch.
        recipe: What it was trained with.
        workdir: Where its checkpoints are, if there are any.
    """
    kept = ""
    if workdir and progress.epoch:
        kept = f" The state after epoch {progress.epoch} is kept in {str(workdir)!r}."
    return TrainingError(
        f"The loss became {loss} in epoch {progress.epoch + 1}, by update {progress.done} of "
        f"{updates}; start again with a lower lr than the recipe's {recipe.lr:g}, or a longer "
        f"warmup.{kept}"
    )


@contextmanager
def memory_explained(recipe: Recipe, processes: int) -> Iterator[None]:
    """Say what to do if memory runs out, on a GPU or on the CPU.

    Raises:
        TrainingError: It did.
    """
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(error):
            raise
        images = recipe.batch_size // (processes * recipe.accumulate)
        raise TrainingError(
            f"Out of memory with {images} images at a time on each of {processes} devices (a batch "
            f"of {recipe.batch_size}); raise the recipe's accumulate above {recipe.accumulate}, "
            "which gives the same result, or lower its batch_size."
        ) from error
