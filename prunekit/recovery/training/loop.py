"""Run: the loop over epochs and updates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import TrainingError, TrainingInterrupted
from .candidate import candidate, validated, weights
from .chance import draw_for
from .checkpoint import Checkpoints, Progress
from .failures import diverged
from .frozen import check_zeros
from .history import Epoch, Trained, Update
from .parts import Parts
from .records import write_records

LOOK = 10  # updates between two looks at the loss, which on a GPU is a wait
SLOW = 10.0  # seconds an epoch takes for the learning curve to be drawn after each


@dataclass(frozen=True)
class Told:
    """Who hears how a run goes, and who may stop it; `train_` explains each."""

    on_update: Callable[[Update], None]
    on_epoch: Callable[[Epoch], None]
    should_stop: Callable[[], bool]


class Run:
    """One run: what trains, and how far it is."""

    def __init__(self, parts: Parts, told: Told, workdir: Path | None, checkpoint_seconds: float):
        """Stand before the first update.

        Args:
            parts: What trains.
            told: Who hears of it.
            workdir: Where checkpoints and records go; without one there are none.
            checkpoint_seconds: How often to write a checkpoint within an epoch.
        """
        self.parts, self.told, self.workdir, self.every = parts, told, workdir, checkpoint_seconds
        self.recipe, self.accelerator = parts.recipe, parts.accelerator
        self.progress = Progress()
        self.stopping = False
        kept = {
            "model": self.accelerator.unwrap_model(parts.model),
            "optimizer": parts.optimizer,
            "average": parts.average,
            "scaler": self.accelerator.scaler,
            "progress": self.progress,
        }
        there = {name: part for name, part in kept.items() if part is not None}
        self.checkpoints = Checkpoints(workdir, self.accelerator, there) if workdir else None

    def __call__(self) -> Trained:
        """Train until all epochs are done.

        Raises:
            TrainingError: The loss is not a number, or a checkpoint cannot be written.
            TrainingInterrupted: Someone said stop.
        """
        self._begin()
        while self.progress.epoch < self.recipe.epochs:
            self._epoch()
        self._write_records()
        return self._trained()

    def _begin(self) -> None:
        """Go to where the run was cut off, or validate what came in."""
        progress = self.progress
        if self.checkpoints:
            self.checkpoints.load()
        if progress.start_top1 < 0:
            progress.start_top1 = progress.best_top1 = validated(self.parts)
            progress.best = weights(self.parts)
        if self.accelerator.is_main_process:
            for entry in progress.history:
                self.told.on_epoch(entry)
        self.started, self.session = time.perf_counter(), 0  # updates since then
        self.saved = self.started

    def _epoch(self) -> None:
        """Run what is left of an epoch, validate, and write it all down."""
        began, before = time.perf_counter(), self.progress.seconds
        self._updates(began, before)
        trained = before + time.perf_counter() - began
        self._check_finite()
        self._check_zeros()
        top1 = validated(self.parts)
        seconds = before + time.perf_counter() - began
        entry = self._entered(top1, seconds, trained)
        self._save()
        self._write_records(drawn=entry.seconds > SLOW)
        if self.accelerator.is_main_process:
            measured = {"lr": entry.lr, "train_loss": entry.train_loss, "val_top1": top1}
            self.accelerator.log(measured, step=entry.epoch)
            self.told.on_epoch(entry)
        self._stop_if_asked()

    def _updates(self, began: float, before: float) -> None:
        """Take the updates of an epoch that are not done yet."""
        progress, order = self.progress, self.parts.order
        order.epoch, order.done = progress.epoch, progress.done
        self.parts.model.train()
        losses = torch.zeros((), device=self.accelerator.device)
        part = 0
        for x, y in self.parts.loader:
            losses += self._learn(x, y, part)
            part += 1
            if part % self.recipe.accumulate:
                continue
            progress.done += 1
            self.session += 1
            if self._done() == 1:  # an optimizer that moves zeros does so at once
                self._check_zeros()
            if progress.done % LOOK == 0 or progress.done == self.parts.updates:
                progress.seconds = before + time.perf_counter() - began
                self._look(losses)
                losses.zero_()

    def _learn(self, x: Tensor, y: Tensor, part: int) -> Tensor:
        """Take one step, or one part of it, and return the part's share of the loss."""
        parts, accelerator, accumulate = self.parts, self.accelerator, self.recipe.accumulate
        updates, rank = self._done(), accelerator.process_index
        draw_for(parts.seed, "update", updates, part % accumulate, rank, devices=True)
        with accelerator.accumulate(parts.model):
            if accelerator.sync_gradients:
                parts.schedule.step_update(updates)
            loss = parts.objective(parts.model, x, y)
            accelerator.backward(loss)
            if accelerator.sync_gradients and self.recipe.clip_grad:
                accelerator.clip_grad_norm_(parts.model.parameters(), self.recipe.clip_grad)
            parts.optimizer.step()
            parts.optimizer.zero_grad()
            if accelerator.sync_gradients and parts.average is not None:
                parts.average.update(accelerator.unwrap_model(parts.model), step=updates + 1)
        return loss.detach() / accumulate

    def _look(self, losses: Tensor) -> None:
        """See with all processes whether all is well, and what is due."""
        progress, accelerator = self.progress, self.accelerator
        late = accelerator.is_main_process and time.perf_counter() - self.saved > self.every
        flags = torch.tensor([late, self.told.should_stop()], device=losses.device)
        summed = accelerator.reduce(torch.cat([losses.view(1).double(), flags.double()]), "sum")
        loss, late, stop = summed.tolist()
        loss /= accelerator.num_processes
        if not math.isfinite(loss):
            raise self._diverged(loss)
        progress.loss += loss
        if accelerator.is_main_process:
            self.told.on_update(self._update(loss))
        self.stopping = bool(stop)
        if progress.done == self.parts.updates:  # the end of the epoch sees to it
            return
        if self.checkpoints and (late or stop):
            self._check_finite()
            self._save()
        self._stop_if_asked()

    def _entered(self, top1: float, seconds: float, trained: float) -> Epoch:
        """Note an epoch that is done, and its weights if they are the best so far."""
        progress, updates = self.progress, self.parts.updates
        entry = Epoch(
            epoch=progress.epoch + 1,
            lr=self.parts.optimizer.param_groups[0]["lr"],
            train_loss=round(progress.loss / updates, 6),
            val_top1=top1,
            seconds=round(seconds, 3),
            images_per_second=round(updates * self.recipe.batch_size / trained, 1),
        )
        progress.history.append(entry)
        if top1 > progress.best_top1:
            progress.best_epoch, progress.best_top1 = entry.epoch, top1
            progress.best = weights(self.parts)
        progress.epoch, progress.done, progress.loss, progress.seconds = entry.epoch, 0, 0.0, 0.0
        return entry

    def _stop_if_asked(self) -> None:
        progress = self.progress
        if not self.stopping or progress.epoch == self.recipe.epochs:
            return
        place = f"epoch {progress.epoch}"
        if progress.done:
            place = f"{progress.done} of {self.parts.updates} updates of epoch {progress.epoch + 1}"
        self._write_records()
        kept = "add --resume to go on." if self.checkpoints else "nothing was kept."
        raise TrainingInterrupted(f"interrupted after {place}; {kept}")

    def _done(self) -> int:
        """Return how many updates of the whole run are done."""
        return self.progress.epoch * self.parts.updates + self.progress.done

    def _update(self, loss: float) -> Update:
        since = (self.progress.done - 1) % LOOK + 1
        rate = self.session / (time.perf_counter() - self.started)  # updates per second
        done, total = self._done(), self.parts.updates * self.recipe.epochs
        return Update(
            epoch=self.progress.epoch + 1,
            done=done,
            total=total,
            loss=loss / since,
            images_per_second=rate * self.recipe.batch_size,
            seconds_left=(total - done) / rate,
        )

    def _trained(self) -> Trained:
        progress, parts = self.progress, self.parts
        return Trained(
            history=tuple(progress.history),
            best_epoch=progress.best_epoch,
            val_top1_before=progress.start_top1,
            val_top1=progress.best_top1,
            images=parts.learnt,
            validation=parts.held_out,
            learnt_from=parts.learnt_from,
            processes=self.accelerator.num_processes,
            device=self.accelerator.device.type,
            seconds=round(sum(entry.seconds for entry in progress.history), 3),
        )

    def _check_finite(self) -> None:
        groups = self.parts.optimizer.param_groups
        parameters = (each for group in groups for each in group["params"])
        if not all(bool(each.isfinite().all()) for each in parameters):
            raise self._diverged(math.nan)  # the last update did it, after its loss was fine

    def _check_zeros(self) -> None:
        check_zeros(candidate(self.parts), self.parts.masks, self.recipe.optimizer)

    def _diverged(self, loss: float) -> TrainingError:
        return diverged(loss, self.progress, self.parts.updates, self.recipe, self.workdir)

    def _save(self) -> None:
        if self.checkpoints:
            self.checkpoints.save()
            self.saved = time.perf_counter()

    def _write_records(self, drawn: bool = True) -> None:
        if self.workdir and self.accelerator.is_main_process:
            write_records(self.workdir, self.progress, drawn=drawn)
