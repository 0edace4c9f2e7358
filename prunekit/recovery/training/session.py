"""Session: how a training run is carried out, as opposed to what it learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ...errors import TrainingError
from .history import Epoch, Update
from .setting import check_installed


class Keywords(TypedDict, total=False):
    """The keywords of `train_` and `finetune`, which explain them; for defaults see `Session`."""

    resume: bool
    seed: int
    device: str
    workers: int
    tracker: str | None
    checkpoint_minutes: float
    on_update: Callable[[Update], None]
    on_epoch: Callable[[Epoch], None]
    should_stop: Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Session:
    """How a run is carried out; `train_` explains each word."""

    workdir: Path | None = None
    resume: bool = False
    seed: int = 0
    device: str = "auto"
    workers: int = 0
    tracker: str | None = None
    checkpoint_minutes: float = 10.0
    on_update: Callable[[Update], None] = lambda update: None
    on_epoch: Callable[[Epoch], None] = lambda epoch: None
    should_stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            TrainingError: A number is out of range, or something is not installed.
        """
        check_installed(self.tracker)
        if self.tracker and self.workdir is None:
            raise TrainingError(
                f"The tracker {self.tracker!r} needs a place to write to; pass workdir."
            )
        if self.workers < 0:
            raise TrainingError(f"Asked for {self.workers} workers; expected 0 or more.")
        if not 0 <= self.seed < 2**63:
            raise TrainingError(f"The seed is {self.seed}; expected a number from 0 to 2^63 - 1.")
        if not 0 <= self.checkpoint_minutes < math.inf:
            raise TrainingError(
                f"checkpoint_minutes is {self.checkpoint_minutes}; expected a number, 0 or more."
            )
