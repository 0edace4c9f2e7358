"""finetune: from a saved model to one that has been trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapters.base import Adapter
from .artifact import (
    check_writable,
    data_of,
    load,
    masks_of,
    read_plan,
    read_report,
    save_tuned,
)
from .errors import DataError, TrainingError
from .inputs.architectures import build
from .inputs.data import Data, batches, open_data
from .inputs.device import find_device
from .inputs.feed import InputSpec
from .measuring.accuracy import EVAL_BATCH, accuracy
from .recovery import recipes
from .recovery.recipes import Recipe
from .recovery.training import Epoch, Trained, Update, train_
from .recovery.training.history import CURVE, HISTORY
from .recovery.training.place import finish
from .recovery.training.setting import check_installed, rank
from .weights.zeros import count

NO_TEACHER = {
    "random": "it was built with random weights, which teach nothing; leave --distill out",
    "the caller's": "it was the caller's own; pass it as finetune(..., teacher=...)",
}


@dataclass(frozen=True)
class Finetuned:
    """A model that has been trained on.

    Attributes:
        model: In evaluation mode.
        directory: Where it is saved.
        report: Everything that is known about it, as plain data.
        trained: How the training went.
    """

    model: nn.Module
    directory: Path
    report: Mapping[str, Any]
    trained: Trained


def finetune(
    directory: str | Path,
    out: str | Path | None = None,
    *,
    recipe: str | Path | Recipe = recipes.DEFAULT,
    overrides: Mapping[str, Any] | None = None,
    data: str | None = None,
    data_dir: str | Path | None = None,
    teacher: nn.Module | None = None,
    model: nn.Module | None = None,
    adapter: Adapter | None = None,
    example_input: Tensor | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    resume: bool = False,
    tracker: str | None = None,
    checkpoint_minutes: float = 10.0,
    on_step: Callable[[str], None] = lambda step: None,
    on_update: Callable[[Update], None] = lambda update: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Finetuned:
    """Train a saved model, evaluate it once on test images, and save what came out.

    Args:
        directory: The artifact; it stays as it is.
        out: Where the new one goes; `DIRECTORY-finetuned` unless given. Beside it, in
            `OUT.training`, are the checkpoints.
        recipe: A recipe, its name, or the path of a TOML file.
        overrides: Settings to change in it, by their names.
        data: A named data set or an image folder; what the report names unless given.
        data_dir: Where the full Fashion-MNIST lies.
        teacher: The dense model, for a recipe that distils; built anew unless given.
        model: The original architecture, for an artifact of the caller's own model.
        adapter: For such a model, if its adapter is not registered.
        example_input: For such a model, if it is not timm's.
        device: `auto`, `cpu` or `cuda`.
        seed: Of all that is random.
        workers: Processes that prepare images.
        resume: Go on where a run was cut off.
        tracker: `tensorboard`, `wandb` or `mlflow`.
        checkpoint_minutes: How often to write a checkpoint within an epoch.
        on_step: Called with the name of each step as it starts.
        on_update: Called every few updates.
        on_epoch: Called after every epoch.
        should_stop: Asked every few updates; then a checkpoint is written, and the run ends.

    Raises:
        PruneError: One of its children, in a sentence that says what to do.
    """
    source = Path(directory)
    out = Path(out) if out is not None else source.with_name(f"{source.name}-finetuned")
    name = "custom" if isinstance(recipe, Recipe) else str(recipe)
    settings = recipe if isinstance(recipe, Recipe) else recipes.find(recipe)
    settings = settings.with_(**(overrides or {}))
    check_installed(tracker)
    find_device(device)
    on_step("load")
    plan, report = read_plan(source), read_report(source)
    if rank() == 0:
        check_writable(out)
    small = load(source, model=model, adapter=adapter, example_input=example_input)
    dtype = next(small.parameters()).dtype
    small = small.float()
    images = _images(source, report, small, data, data_dir)
    if settings.distill and teacher is None:
        on_step("build the dense model")
        teacher = _dense(source, plan, report)
    on_step("train")
    workdir = out.with_name(f"{out.name}.training")
    trained = train_(
        small,
        images.calibration,
        settings,
        teacher=teacher,
        masks=masks_of(source, small),
        workdir=workdir,
        resume=resume,
        settings={"data": images.name, "weights_sha256": plan["weights_sha256"]},
        seed=seed,
        device=device,
        workers=workers,
        tracker=tracker,
        checkpoint_minutes=checkpoint_minutes,
        on_update=on_update,
        on_epoch=on_epoch,
        should_stop=should_stop,
    )
    small = small.to(dtype)
    if rank() != 0:
        return Finetuned(small, out, {}, trained)
    on_step("evaluate")
    small = small.to(find_device(device))
    after = _after(source, report, small, images)
    new = {
        **{key: value for key, value in report.items() if key not in ("files", "plan_sha256")},
        "after": after,
        "sparsity": _recounted(report, small, example_input),
        "recipe": {**report["recipe"], "data": images.name},
        "seconds": {**report["seconds"], "finetune": trained.seconds},
        "finetune": {
            "recipe": name,
            "settings": recipes.settings_of(settings),
            "seed": seed,
            "data": images.name,
            **trained.report(),
            "test_top1_before": _known_top1(report, images, after["images"]),
            "test_top1": after["top1"],
            "source": str(source),
            "versions": {"accelerate": version("accelerate"), "torch": torch.__version__},
        },
    }
    extras = {file: (workdir / file).read_text("utf-8") for file in (HISTORY, CURVE)}
    save_tuned(source, out, small, new, extras)
    finish(workdir)
    return Finetuned(small, out, new, trained)


def _images(
    source: Path,
    report: Mapping[str, Any],
    model: nn.Module,
    data: str | None,
    data_dir: str | Path | None,
) -> Data:
    name = data_of(source, report, data)
    images = open_data(name, model, data_dir)
    if images.calibration is None:
        raise DataError(
            f"{name} has no training images; expected a folder with a train folder in it, beside "
            "val or test."
        )
    return images


def _dense(source: Path, plan: Mapping[str, Any], report: Mapping[str, Any]) -> nn.Module:
    """Build the model again that the artifact was pruned from."""
    weights, architecture = report["recipe"]["weights"], plan["architecture"]
    reason = NO_TEACHER.get(weights)
    if reason is not None:
        raise TrainingError(f"The dense model of {source} cannot teach: {reason}.")
    named = "pretrained" if weights in ("pretrained", "zoo") else weights
    return build(architecture["name"], named).model


def _after(
    source: Path, report: Mapping[str, Any], model: nn.Module, images: Data
) -> dict[str, Any]:
    """Return what the small model costs, which training does not change, and its accuracy."""
    top1, top5, count = accuracy(model, batches(images.test, EVAL_BATCH))
    return {**report["after"], "top1": top1, "top5": top5, "images": count}


def _recounted(
    report: Mapping[str, Any], model: nn.Module, example: Tensor | None
) -> dict[str, Any] | None:
    """Count the zeros again, of which training may have made more."""
    old = report.get("sparsity")
    if old is None:
        return None
    kinds = {name: layer["kind"] for name, layer in old["layers"].items()}
    example = InputSpec.of(model).example() if example is None else example
    told = (old["granularity"], old["thresholds"], old["nonzero_before"])
    return count(model, kinds, example, *told).report()


def _known_top1(report: Mapping[str, Any], images: Data, count: int) -> float | None:
    """Return the accuracy before, if it was measured on the same images."""
    same = report["recipe"]["data"] == images.name and report["after"]["images"] == count
    return report["after"]["top1"] if same else None
