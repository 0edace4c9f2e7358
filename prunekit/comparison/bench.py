"""Bench: runs cells one after the other, and does once what they have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..criteria.base import Criterion
from ..engine import prune
from ..errors import (
    AdapterError,
    BudgetError,
    CriterionError,
    ParityError,
    PruneError,
    RepairError,
    TamperedError,
    TrainingError,
)
from ..inputs.data import batches
from ..inputs.subject import find_images, find_subject
from ..measuring.memory import peak_bytes
from ..pruning.job import SCORING_BATCH
from ..pruning.slices import traced
from ..recovery.training import Epoch
from ..request import configure
from ..result import Result
from ..shared import Shared
from ..statistics import gather
from .cell import Cell, Cost, Record
from .grid import Grid

Step = Callable[[str], None]

# What a cell's own choices lead to, every time. Images or weights that are missing are not: they
# may be back at the next try.
FINDINGS = (AdapterError, BudgetError, CriterionError, ParityError, RepairError, TrainingError)


def _is_crash(error: PruneError) -> bool:
    """Whether a plug-in failed in a way that says nothing about its cell.

    It may have run out of memory, or have spoilt what cells share.
    """
    of_plugin, cause = isinstance(error, CriterionError | RepairError), error.__cause__
    refuses = cause is None or isinstance(cause, FINDINGS)  # in its own words: that is a finding
    return isinstance(error, TamperedError) or (of_plugin and not refuses)


class Bench:
    """Where the cells of one process are run."""

    def __init__(self, grid: Grid):
        self.grid, self.shared = grid, Shared()
        self._peaks: dict[tuple[str, str, tuple[str, ...]], int] = {}

    def run(self, cell: Cell, on_step: Step = lambda step: None) -> Record:
        """Run one cell, just as `prunekit run` would.

        A budget that cannot be had is a result too, and so is what else a cell's own choices lead
        to. Whatever goes wrong besides is the caller's business, who must not go on with this
        bench.

        Args:
            cell: Which.
            on_step: Called with the name of each step as it starts.
        """
        began = time.perf_counter()
        try:
            result = self._prune(cell, on_step)
        except FINDINGS as error:
            if _is_crash(error):
                raise
            none = np.zeros(0, bool)
            return self._record(cell, began, problem=str(error), correct=none, dense_correct=none)
        on_step("scoring memory")
        assert result.correct is not None, "cells are evaluated"
        return self._record(
            cell,
            began,
            report=result.report(),
            cost=self._cost(cell, result),
            dense_correct=result.correct[0].numpy(),
            correct=result.correct[1].numpy(),
            scores={name: scores.numpy() for name, scores in result.scores.items()},
            kept={name: np.array(kept, np.int64) for name, kept in result.plan.kept.items()},
        )

    def _prune(self, cell: Cell, on_step: Step) -> Result:
        recipe = self.grid.recipe_of(cell.finetune)

        def on_epoch(epoch: Epoch) -> None:
            on_step(f"train: epoch {epoch.epoch} of {recipe.epochs if recipe else 0}")

        return prune(
            cell.arch,
            cell.criterion,
            cell.ratio,
            shared=self.shared,
            on_step=on_step,
            on_epoch=on_epoch,
            **self.grid.options(cell),
        )

    def _record(self, cell: Cell, began: float, **found: Any) -> Record:
        empty: dict[str, Any] = {
            "report": None,
            "problem": None,
            "cost": None,
            "scores": {},
            "kept": {},
        }
        seconds = round(time.perf_counter() - began, 3)
        seeded = self.grid.is_seeded(cell)
        return Record(cell=cell, seeded=seeded, seconds=seconds, **{**empty, **found})

    def _cost(self, cell: Cell, result: Result) -> Cost:
        criterion = configure(cell.criterion, cell.seed)
        images = 0 if criterion.needs == "nothing" else result.recipe["calibration"]
        which = (cell.arch, cell.criterion, cell.axes)
        if which not in self._peaks:
            self._peaks[which] = self._peak(cell, criterion)
        return Cost(result.seconds["score"], images, self._peaks[which])

    def _peak(self, cell: Cell, criterion: Criterion) -> int:
        """Return the bytes that scoring needs at its peak, found on two batches of images.

        It is not done while the clock runs, since watching every tensor takes time.
        """
        settings, shared = self.grid.settings, self.shared
        subject = find_subject(self.grid.source(cell.arch, cell.seed), shared)
        data = find_images(subject, settings.data, settings.data_dir, shared)
        axes = traced(subject, cell.axes, (), (), shared)
        if criterion.needs == "nothing":
            return peak_bytes(lambda: criterion(axes), subject.model)
        assert data is not None, "the cell was run on it"
        assert data.calibration is not None, "the cell was scored on them"
        images = list(
            batches(data.calibration, SCORING_BATCH, limit=2 * SCORING_BATCH, seed=cell.seed)
        )
        given = [tensor for batch in images for tensor in batch]
        return peak_bytes(
            lambda: criterion(gather(criterion.needs, subject.model, axes, images, criterion.loss)),
            subject.model,
            *given,
        )
