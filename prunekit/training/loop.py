"""train_: the loop over epochs and updates."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import Images, InputSpec, batches
from ..errors import DataError, TrainingError, TrainingInterrupted
from ..measure import EVAL_BATCH, accuracy
from ..recipes import Recipe, settings_of
from . import images as pictures
from .chance import draw_for, preserved
from .checkpoint import Checkpoints, Progress, claim
from .curve import learning_curve
from .history import CURVE, HISTORY, Epoch, Trained, Update, lines, replace_file
from .objective import Objective, WithFeatures, features_agree
from .setting import accelerator as accelerator_for
from .setting import check_installed, leave, together

__all__ = ["leave", "train_"]

LOOK = 10  # updates between two looks at the loss, which on a GPU is a wait
SLOW = 10.0  # seconds an epoch takes for the learning curve to be drawn after each


def train_(
    model: nn.Module,
    images: Images | None,
    recipe: Recipe,
    *,
    teacher: nn.Module | None = None,
    workdir: Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    tracker: str | None = None,
    checkpoint_minutes: float = 10.0,
    on_update: Callable[[Update], None] = lambda update: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train a model, and leave it with the weights of the epoch that validated best.

    Some of the images are held out to choose that epoch; what is trained on a test split is not
    a question, since there is none here. Launched as one of several processes, each trains on
    its share of every batch, and all end with the same weights.

    Args:
        model: Its weights are changed; it stays on its device, in evaluation mode.
        images: Training images, prepared as for evaluation; they are augmented as the recipe says.
        recipe: How to train.
        teacher: The dense model to learn from, if the recipe distils; not modified.
        workdir: Where checkpoints and history go; without one there are none.
        resume: Go on where the run in `workdir` was cut off, if it was.
        settings: What else must not change between start and resumption, as plain data.
        seed: Of the held-out images, order, augmentation, mixing and drop-path.
        device: `auto`, `cpu` or `cuda`.
        workers: Processes that prepare images; 0 prepares them in this one.
        tracker: `tensorboard`, `wandb` or `mlflow`; needs a `workdir`.
        checkpoint_minutes: How often to write a checkpoint within an epoch.
        on_update: Called every few updates, in the main process only.
        on_epoch: Called after every epoch, in the main process only; on resumption with those
            of before, too.
        should_stop: Asked every few updates; then a checkpoint is written, and the run ends.

    Raises:
        TrainingError: Something that must be there is not, the settings cannot be, the loss is not
            a number, or memory ran out.
        TrainingInterrupted: `should_stop` said so.
        DataError: There are no images to train with, or they do not fit the model.
    """
    check_installed(tracker)
    pictures.check(images, model)
    assert images is not None
    if recipe.distill and teacher is None:
        raise TrainingError("The recipe distils, but there is no dense model; pass teacher.")
    if tracker and workdir is None:
        raise TrainingError(f"The tracker {tracker!r} needs a place to write to; pass workdir.")
    with accelerator_for(recipe, device, tracker, workdir) as accelerator, preserved():
        if workdir is not None:
            place, plain = workdir, {**settings_of(recipe), **(settings or {}), "seed": seed}
            plain["images"] = len(images)  # type: ignore[arg-type]
            together(accelerator, lambda: claim(place, plain, resume))
        run = _Run(
            model, images, recipe, teacher if recipe.distill else None, accelerator, seed, workers
        )
        run.workdir, run.every = workdir, 60 * checkpoint_minutes
        run.on_update, run.on_epoch, run.should_stop = on_update, on_epoch, should_stop
        if accelerator.is_main_process and tracker:
            accelerator.init_trackers("prunekit", config=settings_of(recipe))
        with _memory_explained(recipe, accelerator.num_processes):
            trained = run()
    model.load_state_dict(run.progress.best)
    model.eval()
    return trained


class _Run:
    """One run: what trains, and how far it is."""

    workdir: Path | None
    every: float
    on_update: Callable[[Update], None]
    on_epoch: Callable[[Epoch], None]
    should_stop: Callable[[], bool]

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        recipe: Recipe,
        teacher: nn.Module | None,
        accelerator: Any,
        seed: int,
        workers: int,
    ):
        from timm.optim import create_optimizer_v2
        from timm.scheduler import create_scheduler_v2
        from timm.utils import ModelEmaV3

        self.recipe, self.accelerator, self.seed = recipe, accelerator, seed
        learnt, held_out = pictures.split(len(images), recipe.validation, seed)  # type: ignore[arg-type]
        self.updates = len(learnt) // recipe.batch_size  # of an epoch
        if self.updates == 0:
            raise DataError(
                f"There are {len(learnt)} images to train with, fewer than a batch of "
                f"{recipe.batch_size}, so an epoch would be empty; lower --batch-size."
            )
        self.total = self.updates * recipe.epochs
        self.counts = len(learnt), len(held_out)
        spec = InputSpec.of(model)
        device = accelerator.device

        # A copy, since Accelerate wraps what it is given, and the caller's stays where it is.
        student = copy.deepcopy(model).to(device).requires_grad_(True)
        self.learnt_from: tuple[str, ...] = ("labels",)
        if teacher is not None:
            teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
            self.learnt_from = ("labels", "logits")
            if recipe.feature_weight and features_agree(model, teacher, spec.example()):
                student, teacher = WithFeatures(student), WithFeatures(teacher).eval()
                self.learnt_from = ("labels", "logits", "features")
        self.ema = (
            ModelEmaV3(student, decay=recipe.ema_decay, use_warmup=True)
            if recipe.ema_decay
            else None
        )
        self.order = pictures.Order(learnt, recipe.batch_size, seed)
        training = pictures.Training(images, spec, model, recipe, seed)
        loader: DataLoader[Any] = DataLoader(
            training,
            recipe.batch_size // recipe.accumulate,
            sampler=self.order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            drop_last=True,
        )
        share = held_out[accelerator.process_index :: accelerator.num_processes]
        self.validation = pictures.part(images, share)
        try:
            optimizer = create_optimizer_v2(
                student, recipe.optimizer, recipe.lr, recipe.weight_decay
            )
            self.schedule, _ = create_scheduler_v2(
                optimizer,
                recipe.schedule,
                num_epochs=recipe.epochs,
                warmup_epochs=recipe.warmup * recipe.epochs,
                warmup_lr=recipe.warmup_lr,
                min_lr=recipe.min_lr,
                step_on_epochs=False,
                updates_per_epoch=self.updates,
            )
        except (ValueError, TypeError, AssertionError, ImportError) as error:
            raise TrainingError(
                f"timm cannot make the optimizer {recipe.optimizer!r} with the schedule "
                f"{recipe.schedule!r} ({error}); choose others."
            ) from error
        self.model, self.optimizer, self.loader = accelerator.prepare(student, optimizer, loader)
        classes = int(getattr(model, "num_classes", 0))
        self.objective = Objective(recipe, classes, teacher, accelerator.autocast)
        self.progress = Progress()
        accelerator.register_for_checkpointing(self.progress)
        if self.ema is not None:
            accelerator.register_for_checkpointing(self.ema)

    def __call__(self) -> Trained:
        progress, accelerator = self.progress, self.accelerator
        self.checkpoints = Checkpoints(self.workdir, accelerator) if self.workdir else None
        if self.checkpoints:
            self.checkpoints.load()
        if progress.start_top1 < 0:
            progress.start_top1 = progress.best_top1 = self._top1()
            progress.best = self._weights()
        if accelerator.is_main_process:
            for entry in progress.history:
                self.on_epoch(entry)
        self.started, self.session = time.perf_counter(), 0  # updates since then
        self.saved = self.started
        while progress.epoch < self.recipe.epochs:
            self._epoch()
        self._write_records()
        best = progress.best_epoch
        return Trained(
            history=tuple(progress.history),
            best_epoch=best,
            val_top1_before=progress.start_top1,
            val_top1=progress.best_top1,
            images=self.counts[0],
            validation=self.counts[1],
            learnt_from=self.learnt_from,
            processes=accelerator.num_processes,
            device=accelerator.device.type,
            seconds=round(sum(entry.seconds for entry in progress.history), 3),
        )

    def _epoch(self) -> None:
        """Run what is left of an epoch, validate, and write it all down."""
        progress = self.progress
        began, before = time.perf_counter(), progress.seconds
        self.order.epoch, self.order.done = progress.epoch, progress.done
        self.model.train()
        losses = torch.zeros((), device=self.accelerator.device)
        part = 0
        for x, y in self.loader:
            losses += self._learn(x, y, part)
            part += 1
            if part % self.recipe.accumulate:
                continue
            progress.done += 1
            self.session += 1
            if progress.done % LOOK == 0 or progress.done == self.updates:
                progress.seconds = before + time.perf_counter() - began
                self._look(losses)
                losses.zero_()
        trained = before + time.perf_counter() - began
        self._check_finite()
        top1 = self._top1()
        entry = Epoch(
            epoch=progress.epoch + 1,
            lr=self.optimizer.param_groups[0]["lr"],
            train_loss=round(progress.loss / self.updates, 6),
            val_top1=top1,
            seconds=round(before + time.perf_counter() - began, 3),
            images_per_second=round(self.updates * self.recipe.batch_size / trained, 1),
        )
        progress.history.append(entry)
        if top1 > progress.best_top1:
            progress.best_epoch, progress.best_top1 = entry.epoch, top1
            progress.best = self._weights()
        progress.epoch, progress.done, progress.loss, progress.seconds = entry.epoch, 0, 0.0, 0.0
        self._save()
        self._write_records(drawn=entry.seconds > SLOW)
        if self.accelerator.is_main_process:
            measured = {"lr": entry.lr, "train_loss": entry.train_loss, "val_top1": top1}
            self.accelerator.log(measured, step=entry.epoch)
            self.on_epoch(entry)
        self._stop_if_asked()

    def _learn(self, x: Tensor, y: Tensor, part: int) -> Tensor:
        """Take one step, or one part of it, and return the part's share of the loss."""
        progress, accelerator = self.progress, self.accelerator
        updates = progress.epoch * self.updates + progress.done
        draw_for(
            self.seed,
            "update",
            updates,
            part % self.recipe.accumulate,
            accelerator.process_index,
            devices=True,
        )
        with accelerator.accumulate(self.model):
            if accelerator.sync_gradients:
                self.schedule.step_update(updates)
            loss = self.objective(self.model, x, y)
            accelerator.backward(loss)
            if accelerator.sync_gradients and self.recipe.clip_grad:
                accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if accelerator.sync_gradients and self.ema is not None:
                self.ema.update(accelerator.unwrap_model(self.model), step=updates + 1)
        return loss.detach() / self.recipe.accumulate

    def _look(self, losses: Tensor) -> None:
        """See with all processes whether all is well, and what is due."""
        progress, accelerator = self.progress, self.accelerator
        late = accelerator.is_main_process and time.perf_counter() - self.saved > self.every
        flags = torch.tensor([late, self.should_stop()], device=losses.device)
        summed = accelerator.reduce(torch.cat([losses.view(1).double(), flags.double()]), "sum")
        loss, late, stop = summed.tolist()
        loss /= accelerator.num_processes
        if not math.isfinite(loss):
            raise self._diverged(loss)
        progress.loss += loss
        if accelerator.is_main_process:
            self.on_update(self._update(loss))
        self.stopping = bool(stop)
        if progress.done == self.updates:  # the end of the epoch sees to it
            return
        if self.checkpoints and (late or stop):
            self._check_finite()
            self._save()
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        progress = self.progress
        if not self.stopping or progress.epoch == self.recipe.epochs:
            return
        place = f"epoch {progress.epoch}"
        if progress.done:
            place = f"{progress.done} of {self.updates} updates of epoch {progress.epoch + 1}"
        self._write_records()
        kept = "add --resume to go on." if self.checkpoints else "nothing was kept."
        raise TrainingInterrupted(f"interrupted after {place}; {kept}")

    def _update(self, loss: float) -> Update:
        progress, since = self.progress, (self.progress.done - 1) % LOOK + 1
        rate = self.session / (time.perf_counter() - self.started)  # updates per second
        done = progress.epoch * self.updates + progress.done
        return Update(
            epoch=progress.epoch + 1,
            done=done,
            total=self.total,
            loss=loss / since,
            images_per_second=rate * self.recipe.batch_size,
            seconds_left=(self.total - done) / rate,
        )

    def _diverged(self, loss: float) -> TrainingError:
        progress = self.progress
        kept = ""
        if self.checkpoints and progress.epoch:
            kept = f" The state after epoch {progress.epoch} is kept in {str(self.workdir)!r}."
        return TrainingError(
            f"The loss became {loss} in epoch {progress.epoch + 1}, by update {progress.done} of "
            f"{self.updates}; start again with a lower --lr than {self.recipe.lr:g}, or a longer "
            f"--warmup.{kept}"
        )

    def _check_finite(self) -> None:
        parameters = (each for group in self.optimizer.param_groups for each in group["params"])
        if not all(bool(each.isfinite().all()) for each in parameters):
            raise self._diverged(math.nan)  # the last update did it, after its loss was fine

    def _save(self) -> None:
        if self.checkpoints:
            self.checkpoints.save()
            self.saved = time.perf_counter()

    def _candidate(self) -> nn.Module:
        """Return the weights that would be kept: the average if there is one."""
        found: Any = self.ema.module if self.ema else self.accelerator.unwrap_model(self.model)
        inner: nn.Module = found.model if isinstance(found, WithFeatures) else found
        return inner

    def _weights(self) -> dict[str, Tensor]:
        state = self._candidate().state_dict()
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def _top1(self) -> float:
        model = self._candidate().eval()
        hits = torch.zeros((), device=self.accelerator.device, dtype=torch.float64)
        if len(self.validation):  # type: ignore[arg-type]
            with self.accelerator.autocast():
                top1, _, count = accuracy(model, batches(self.validation, EVAL_BATCH))
            hits += round(top1 * count / 100)
        return round(100 * float(self.accelerator.reduce(hits, "sum")) / self.counts[1], 3)

    def _write_records(self, drawn: bool = True) -> None:
        progress = self.progress
        if not self.workdir or not self.accelerator.is_main_process or not progress.history:
            return
        replace_file(self.workdir / HISTORY, lines(progress.history))
        if not drawn:
            return
        picture = learning_curve(
            progress.history, progress.start_top1, progress.best_epoch, self.workdir.stem
        )
        replace_file(self.workdir / CURVE, picture)


@contextmanager
def _memory_explained(recipe: Recipe, processes: int) -> Iterator[None]:
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(error):
            raise
        images = recipe.batch_size // (processes * recipe.accumulate)
        raise TrainingError(
            f"Out of memory with {images} images at a time on each of {processes} devices (a batch "
            f"of {recipe.batch_size}); raise --accumulate above {recipe.accumulate}, which gives "
            "the same result, or lower --batch-size."
        ) from error
