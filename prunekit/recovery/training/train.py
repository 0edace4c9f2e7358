"""train_: from a model and images to the best weights of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor, nn

from ...errors import TrainingError
from ...inputs.data import Images
from ...inputs.device import find_device
from ...keywords import with_keywords
from ..recipes import Recipe, settings_of
from .chance import preserved
from .failures import memory_explained
from .history import Trained
from .loop import Run, Told
from .parts import prepare
from .place import claimed
from .ready import check_trainable
from .session import Keywords, Session
from .setting import accelerator as accelerator_for


@with_keywords(Keywords, Session)
def train_(
    model: nn.Module,
    images: Images | None,
    recipe: Recipe,
    *,
    teacher: nn.Module | None = None,
    masks: Mapping[str, Tensor] | None = None,
    settings: Mapping[str, Any] | None = None,
    workdir: Path | None = None,
    **keywords: Unpack[Keywords],
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
    session = Session(workdir=workdir, **keywords)
    dtype, device = next(model.parameters()).dtype, find_device(session.device).type
    check_trainable(model, images, recipe, device)
    assert images is not None, "checked just now"
    if recipe.distill and teacher is None:
        raise TrainingError("The recipe distils, but there is no dense model; pass teacher.")
    model.float()  # updates of a half-precision weight would be rounded away
    where = (recipe, session.device, session.tracker, workdir)
    with accelerator_for(*where) as accelerator, preserved():
        taught = teacher if recipe.distill else None
        parts = prepare(
            model, images, recipe, taught, accelerator, session.seed, session.workers, masks or {}
        )
        told = Told(session.on_update, session.on_epoch, session.should_stop)
        plain = {**settings_of(recipe), **(settings or {}), "seed": session.seed}
        plain["images"] = len(images)  # type: ignore[arg-type]
        # Only now: what was refused until here must not stand in the way of the next run.
        with claimed(accelerator, workdir, plain, session.resume):
            run = Run(parts, told, workdir, checkpoint_seconds=60 * session.checkpoint_minutes)
            if accelerator.is_main_process and session.tracker:
                accelerator.init_trackers("prunekit", config=settings_of(recipe))
            with memory_explained(recipe, accelerator.num_processes):
                trained = run()
    model.load_state_dict(run.progress.best)
    model.to(dtype).eval()
    return trained
