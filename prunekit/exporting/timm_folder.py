"""timm: a folder that stock timm loads, where its own arguments can say what was pruned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..arguments import Inputs
from .apart import in_fresh_process
from .source import Source
from .timm_words import timm_words

FILE = "model.safetensors"


def write(source: Source, place: Path) -> None:
    """Write config.json and the weights to a directory.

    Raises:
        ExportError: timm has no words for what was pruned.
    """
    from timm.models import save_for_hf

    words = timm_words(source)
    model: Any = copy.copy(source.model)
    images = source.images
    assert images is not None, "timm's models take images"
    model.pretrained_cfg = {
        **(getattr(model, "pretrained_cfg", None) or {}),
        "architecture": words.name,
        "num_classes": model.num_classes,
        "input_size": images.size,
        "mean": images.mean,
        "std": images.std,
    }
    args = {key: value for key, value in words.args.items() if key != "num_classes"}
    save_for_hf(model, str(place), model_args=args, safe_serialization=True)


def run(place: Path, batches: Sequence[Inputs]) -> list[list[Tensor]]:
    """Load the folder by timm in a process that has no prunekit, and run it on each batch."""
    return in_fresh_process("run_timm.py", place, batches)
