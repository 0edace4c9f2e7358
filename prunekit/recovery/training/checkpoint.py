"""What a run needs to go on, written so that being killed at any moment loses nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from ...errors import TrainingError
from .history import Epoch, replace_file

SETTINGS = "settings.json"
PREFIX, PARTIAL = "checkpoint-", ".partial"


@dataclass
class Progress:
    """How far a run has come, and the best weights so far.

    Attributes:
        epoch: Whole epochs done.
        done: Updates of the epoch that is under way.
        loss: Their sum of losses.
        seconds: Time they took.
        history: What was measured after each epoch.
        best_epoch, best_top1, best: Which weights would be kept now, on the CPU.
        start_top1: What went in.
    """

    epoch: int = 0
    done: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_top1: float = -1.0
    best: dict[str, Tensor] = field(default_factory=dict)
    start_top1: float = -1.0

    def state_dict(self) -> dict[str, Any]:
        return {**vars(self), "history": [asdict(entry) for entry in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.history = [Epoch(**entry) for entry in state["history"]]


class Checkpoints:
    """The checkpoints in a directory, of which the newest whole one counts.

    Each is written under another name and renamed when it is whole, and the one before it is
    removed only then. The best weights travel in it, so that all of it is from one moment.
    """

    def __init__(self, directory: Path, accelerator: Any):
        self.directory, self.accelerator = directory, accelerator

    def save(self) -> None:
        """Write a checkpoint of everything that Accelerate was told of; all processes call it."""
        number = max(map(_number, whole(self.directory)), default=0) + 1
        target = self.directory / f"{PREFIX}{number:06d}"
        partial = target.with_name(target.name + PARTIAL)
        self.accelerator.wait_for_everyone()  # all have counted, before there is one more
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
        self.accelerator.wait_for_everyone()
        try:
            self.accelerator.save_state(str(partial))
        except (OSError, RuntimeError, SafetensorError) as error:  # each for a full disk
            raise TrainingError(
                f"Cannot write a checkpoint to {str(self.directory)!r} ({error}); make room, then "
                "add --resume to go on from the one before it."
            ) from error
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            _flush(partial)
            os.rename(partial, target)
            for other in self.directory.glob(f"{PREFIX}*"):
                if other != target:
                    shutil.rmtree(other)
        self.accelerator.wait_for_everyone()

    def load(self) -> None:
        """Load the newest whole checkpoint, if there is one."""
        found = whole(self.directory)
        if found:
            self.accelerator.load_state(str(max(found, key=_number)))


def whole(directory: Path) -> list[Path]:
    """Return the checkpoints that are not half-written."""
    return [path for path in directory.glob(f"{PREFIX}*") if path.suffix != PARTIAL]


def claim(directory: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Make a directory the place of a run with these settings.

    Raises:
        TrainingError: It holds a run that is not finished, and `resume` was not asked for; or it
            was, and the settings are others.
    """
    plain = json.loads(json.dumps(settings))
    path = directory / SETTINGS
    found = _read(path) if path.is_file() else None
    if found is not None and resume:
        others = [key for key in {**found, **plain} if found.get(key) != plain.get(key)]
        others = [key for key in others if key != "finished"]
        if others:
            changes = ", ".join(f"{k} {found.get(k)} (now {plain.get(k)})" for k in others)
            raise TrainingError(
                f"The run in {str(directory)!r} was started with {changes}; resume it with the "
                "settings it was started with, or name another --out."
            )
        return
    if found is not None and not found.get("finished"):
        raise TrainingError(
            f"{str(directory)!r} holds a run that is not finished; add --resume to go on with it, "
            "or delete it to start again."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # first, or being killed here would leave half a run
        for stray in directory.glob(f"{PREFIX}*"):
            shutil.rmtree(stray)
        replace_file(path, json.dumps(plain, indent=1) + "\n")
    except OSError as error:
        raise TrainingError(
            f"Cannot write to {str(directory)!r} ({error.strerror}); name another --out."
        ) from error


def finish(directory: Path) -> None:
    """Note that what a run was for has been saved, so that the next may take its place."""
    replace_file(
        directory / SETTINGS, json.dumps({**_read(directory / SETTINGS), "finished": True}) + "\n"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} is corrupt ({error}); delete {path.parent}.") from error
    return found


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def _flush(directory: Path) -> None:
    """Wait until all files are on the disk, not only in its cache."""
    for path in [*directory.iterdir(), directory]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
