"""What a training run tells about itself, and the files it tells it in."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le

from ...errors import ArtifactError, PruneError, TrainingError
from ...files.reading import parse, reason
from ...files.stored import CURVE, HISTORY

__all__ = ["CURVE", "HISTORY", "Epoch", "Trained", "Update", "epochs", "lines", "replace_file"]

Count = Annotated[int, Ge(0), Le(2**53)]
Percent = Annotated[float, Ge(0), Le(100)]
Amount = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Epoch:
    """One epoch that is done.

    Attributes:
        epoch: 1 for the first.
        lr: Learning rate of the last update.
        train_loss: Mean over the epoch, with augmentation.
        val_top1: Percentage of the validation images after it.
        seconds: Wall-clock time, validation included.
        images_per_second: Training images, over all devices.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    epoch: Count
    lr: float
    train_loss: float
    val_top1: Percent
    seconds: Amount
    images_per_second: Amount


@dataclass(frozen=True)
class Update:
    """How far a run is.

    Attributes:
        epoch: The one it is in; 1 for the first.
        done, total: Updates of the whole run.
        loss: Mean since the last report.
        images_per_second: Over all devices, since the run was started or resumed.
        seconds_left: Estimated.
    """

    epoch: int
    done: int
    total: int
    loss: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Trained:
    """What came out of a run; the weights are in the model that went in.

    Attributes:
        history: All epochs.
        best_epoch: Whose weights were kept; 0 if none was better than what went in.
        val_top1_before, val_top1: Percentage of the validation images, before and now.
        images: How many were learnt from.
        validation: How many chose the best epoch.
        learnt_from: `labels`, and if there was a dense model `logits` and maybe `features`.
        processes: How many trained together.
        device: Of each.
        seconds: Wall-clock time of all epochs.
    """

    history: tuple[Epoch, ...]
    best_epoch: int
    val_top1_before: float
    val_top1: float
    images: int
    validation: int
    learnt_from: tuple[str, ...]
    processes: int
    device: str
    seconds: float

    def report(self) -> dict[str, Any]:
        """Return everything but the history as plain data."""
        plain = asdict(self)
        del plain["history"]
        return {"epochs": len(self.history), **plain}


def lines(history: Sequence[Epoch]) -> str:
    """Write a history as JSON, one epoch on each line."""
    return "".join(json.dumps(asdict(epoch)) + "\n" for epoch in history)


def epochs(
    text: str, where: str, *, error: type[PruneError] = ArtifactError, advice: str = "save it again"
) -> list[Epoch]:
    """Read what `lines` wrote.

    Args:
        text: One epoch on each line.
        where: What to call it in a sentence.
        error: See `parse`.
        advice: See `parse`.

    Raises:
        PruneError: `error`: A line is something else.
    """
    return [
        parse(line.encode(), Epoch, f"{where}, line {number},", error=error, advice=advice)
        for number, line in enumerate(text.splitlines(), start=1)
    ]


def replace_file(path: Path, text: str) -> None:
    """Write a file that is either the old one or the new one at any moment.

    Raises:
        TrainingError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, "utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise TrainingError(
            f"Cannot write {str(path)!r} ({reason(error)}); make room there, then add --resume to "
            "go on from the last checkpoint."
        ) from error
