"""train_: from a model and images to the best weights of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import TrainingError
from ...inputs.data import Images
from ..recipes import Recipe, settings_of
from . import images as pictures
from .chance import preserved
from .failures import memory_explained
from .history import Epoch, Trained, Update
from .loop import Run, Told
from .parts import prepare
from .place import claimed
from .setting import accelerator as accelerator_for
from .setting import check_installed


def train_(
    model: nn.Module,
    images: Images | None,
    recipe: Recipe,
    *,
    teacher: nn.Module | None = None,
    masks: Mapping[str, Tensor] | None = None,
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
        masks: Parameter name to which of its values may change, bool; the others, which must be
            zero, stay zero.
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
        parts = prepare(
            model,
            images,
            recipe,
            teacher if recipe.distill else None,
            accelerator,
            seed,
            workers,
            masks or {},
        )
        told = Told(on_update, on_epoch, should_stop)
        plain = {**settings_of(recipe), **(settings or {}), "seed": seed}
        plain["images"] = len(images)  # type: ignore[arg-type]
        # Only now: what was refused until here must not stand in the way of the next run.
        with claimed(accelerator, workdir, plain, resume):
            run = Run(parts, told, workdir, checkpoint_seconds=60 * checkpoint_minutes)
            if accelerator.is_main_process and tracker:
                accelerator.init_trackers("prunekit", config=settings_of(recipe))
            with memory_explained(recipe, accelerator.num_processes):
                trained = run()
    model.load_state_dict(run.progress.best)
    model.eval()
    return trained
