"""evaluate: the accuracy of a saved model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .artifact import open_artifact
from .inputs.data import batches
from .inputs.device import find_device
from .measuring.accuracy import EVAL_BATCH, accuracy
from .provision import images_for


def evaluate(
    directory: str | Path,
    data: Any = None,
    *,
    data_dir: str | None = None,
    device: str = "auto",
    on_step: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Load an artifact and evaluate it on test images.

    Args:
        directory: The artifact.
        data: A named data set or an image folder; the named one of the report unless
            given. A folder that only the report names is not read. Or test images of your own, a
            data set, a loader or batches with labels.
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
    artifact = open_artifact(directory)
    model = artifact.model.to(target)
    images = images_for(artifact.report, directory, model, data, data_dir)
    on_step("evaluate")
    top1, top5, count = accuracy(model, batches(images.tested(), EVAL_BATCH))
    return {"data": images.name, "top1": top1, "top5": top5, "images": count}
