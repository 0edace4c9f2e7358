"""Where training happens: an Accelerator for this process, and what must be there for it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...errors import TrainingError
from ...inputs.device import find_device
from ...registry import unknown
from ..recipes import Recipe

TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}  # and its package


def check_installed(tracker: str | None = None) -> None:
    """Make sure that the parts this is built on are there.

    Raises:
        TrainingError: One is not; the message says how to get it.
    """
    for package in ("accelerate", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise TrainingError(
                f"Fine-tuning needs {package}, which is not installed; run "
                "pip install 'prunekit[train]'."
            )
    if tracker is not None and tracker not in TRACKERS:
        raise TrainingError(unknown("tracker", tracker, list(TRACKERS)))
    if tracker is not None and importlib.util.find_spec(TRACKERS[tracker]) is None:
        raise TrainingError(
            f"The tracker {tracker!r} is not installed; run pip install {TRACKERS[tracker]}, or "
            "leave --tracker out."
        )


@contextmanager
def accelerator(
    recipe: Recipe, device: str, tracker: str | None, workdir: Path | None
) -> Iterator[Any]:
    """Yield an Accelerator, for as many processes as this one was launched among.

    Raises:
        TrainingError: The recipe does not fit the device or the number of processes.
        DeviceError: There is no such device.
    """
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, GradientAccumulationPlugin

    cpu = find_device(device).type == "cpu"
    _forget()
    made = Accelerator(
        # Without this, processes on a machine that has no GPU would not find each other.
        cpu=cpu,
        mixed_precision=recipe.precision,
        # Not the plain number: one in the environment would win over it.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=recipe.accumulate, adjust_scheduler=False
        ),
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=tracker,
        project_dir=workdir,
    )
    try:
        check_divides(recipe, made.num_processes)
        yield made
    finally:
        for running in made.trackers:
            running.finish()
        if made.device.type == "cuda":
            made.free_memory()
        _forget()


def rank() -> int:
    """Return this process's number among those launched together; 0 prints and writes."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """Return how many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leave() -> None:
    """Part from the other processes, at the end of a program."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def together(accelerator: Any, act: Callable[[], None]) -> None:
    """Do something in the main process only; if it fails, fail in all of them."""
    from accelerate.utils import broadcast_object_list

    failure: list[TrainingError | None] = [None]
    if accelerator.is_main_process:
        try:
            act()
        except TrainingError as error:
            failure = [error]
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]


def _forget() -> None:
    """Accelerate keeps its state in classes, so a second run would inherit the first one's."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    AcceleratorState._reset_state()
    GradientState._reset_state()
    if not PartialState._shared_state or PartialState().num_processes == 1:
        PartialState._reset_state()


def check_divides(recipe: Recipe, processes: int) -> None:
    parts = processes * recipe.accumulate
    images = recipe.batch_size // parts
    mixes = bool(recipe.mixup or recipe.cutmix)
    if recipe.batch_size % parts or (mixes and images % 2):
        even = "even " if mixes else ""
        raise TrainingError(
            f"A batch of {recipe.batch_size} images does not divide into {even}parts for "
            f"{processes} processes x {recipe.accumulate} accumulated; choose a batch_size that is "
            f"a multiple of {parts * (2 if mixes else 1)}."
        )
