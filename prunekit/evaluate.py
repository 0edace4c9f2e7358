"""evaluate: the accuracy of a saved model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .artifact import load, read_plan, read_report
from .inputs.data import batches
from .inputs.device import find_device
from .measuring.accuracy import EVAL_BATCH, accuracy
from .provision import data_named, images_for


def evaluate(
    directory: str | Path,
    data: str | None = None,
    *,
    data_dir: str | None = None,
    device: str = "auto",
    on_step: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Load an artifact and evaluate it on test images.

    Args:
        directory: The artifact.
        data: A named data set or an image folder; what the report names unless given.
        data_dir: Where the full Fashion-MNIST lies.
        device: `auto`, `cpu` or `cuda`.
        on_step: Called with the name of each step as it starts.

    Returns:
        `data`, `top1` and `top5` as percentages, and `images`, how many there were.

    Raises:
        ArtifactError: The artifact is corrupt.
        DataError: There are no images, or none were named.
    """
    on_step("load")
    target = find_device(device)
    read_plan(Path(directory))  # makes sure that all files are what was saved
    report = read_report(Path(directory))
    data_named(report, directory, data)  # before the model is built
    model = load(directory).to(target)
    images = images_for(report, directory, model, data, data_dir)
    on_step("evaluate")
    top1, top5, count = accuracy(model, batches(images.tested(), EVAL_BATCH))
    return {"data": images.name, "top1": top1, "top5": top5, "images": count}
