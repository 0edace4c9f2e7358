"""evaluate: the accuracy of a saved model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .artifact import data_of, open_artifact
from .inputs.data import batches, open_data
from .inputs.device import find_device
from .measuring.accuracy import EVAL_BATCH, accuracy


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
        data: A named data set or an image folder; the named one of the report unless
            given. A folder that only the report names is not read.
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
    where = find_device(device)
    artifact = open_artifact(directory)
    name = data_of(directory, artifact.report, data)
    model = artifact.model.to(where)
    images = open_data(name, model, data_dir)
    on_step("evaluate")
    top1, top5, count = accuracy(model, batches(images.test, EVAL_BATCH))
    return {"data": images.name, "top1": top1, "top5": top5, "images": count}
