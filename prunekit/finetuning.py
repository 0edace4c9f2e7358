"""finetune: from a saved model to one that has been trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from .adapters.base import Adapter
from .arguments import Inputs
from .artifact import (
    check_writable,
    load,
    masks_of,
    read_plan,
    read_report,
    save_tuned,
)
from .errors import DataError, TrainingError
from .inputs.architectures import build
from .inputs.data import Data, batches
from .inputs.device import find_device
from .inputs.feed import InputSpec
from .keywords import with_keywords
from .measuring.accuracy import EVAL_BATCH, accuracy
from .provision import images_for
from .recovery import recipes
from .recovery.recipes import Recipe
from .recovery.training import Trained, train_
from .recovery.training.history import CURVE, HISTORY
from .recovery.training.place import finish
from .recovery.training.session import Keywords, Session
from .recovery.training.setting import rank
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


@with_keywords(Keywords, Session)
def finetune(
    directory: str | Path,
    out: str | Path | None = None,
    *,
    recipe: str | Path | Recipe = recipes.DEFAULT,
    overrides: Mapping[str, Any] | None = None,
    data: Any = None,
    data_dir: str | Path | None = None,
    teacher: nn.Module | None = None,
    model: nn.Module | None = None,
    adapter: Adapter | None = None,
    example_input: Inputs | None = None,
    on_step: Callable[[str], None] = lambda step: None,
    **keywords: Unpack[Keywords],
) -> Finetuned:
    """Train a saved model, evaluate it once on test images, and save what came out.

    Args:
        directory: The artifact; it stays as it is.
        out: Where the new one goes; `DIRECTORY-finetuned` unless given. Beside it, in
            `OUT.training`, are the checkpoints.
        recipe: A recipe, its name, or the path of a TOML file.
        overrides: Settings to change in it, by their names.
        data: A named data set or an image folder; what the report names unless given. Or two data
            sets of your own, (training, test), as torchvision's are.
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
    source, out = _places(directory, out)
    name, settings = _settings(recipe, overrides or {})
    session = Session(workdir=out.with_name(f"{out.name}.training"), **keywords)
    target = find_device(session.device)
    on_step("load")
    plan, report = read_plan(source), read_report(source)
    small = load(source, model=model, adapter=adapter, example_input=example_input)
    images = _images(source, report, small, data, data_dir)
    if settings.distill and teacher is None:
        on_step("build the dense model")
        teacher = _dense(source, plan, report)
    on_step("train")
    pinned = {"data": images.name, "weights_sha256": plan["weights_sha256"]}
    trained = train_(
        small,
        images.calibration,
        settings,
        teacher=teacher,
        masks=masks_of(source, small),
        settings=pinned,
        workdir=session.workdir,
        **keywords,
    )
    if rank() != 0:
        return Finetuned(small, out, {}, trained)
    on_step("evaluate")
    new = _renewed(report, small.to(target), images, example_input)
    new["seconds"] = {**report["seconds"], "finetune": trained.seconds}
    made = {"recipe": name, "settings": recipes.settings_of(settings), "seed": session.seed}
    new["finetune"] = {**made, **_tuning(report, new, trained), "source": str(source)}
    _save(source, out, small, new, session)
    return Finetuned(small, out, new, trained)


def _renewed(
    report: Mapping[str, Any], small: nn.Module, images: Data, example: Inputs | None
) -> dict[str, Any]:
    """Return what a report says of the model as it is now, on these images."""
    return {
        **{key: value for key, value in report.items() if key not in ("files", "plan_sha256")},
        "after": _after(report, small, images),
        "sparsity": _recounted(report, small, example),
        "recipe": {**report["recipe"], "data": images.name},
    }


def _tuning(old: Mapping[str, Any], new: Mapping[str, Any], trained: Trained) -> dict[str, Any]:
    """Return what is to be told of the training itself."""
    after, data = new["after"], new["recipe"]["data"]
    # An accuracy from before counts if it was measured on the same images.
    same = old["recipe"]["data"] == data and old["after"]["images"] == after["images"]
    return {
        "data": data,
        **trained.report(),
        "test_top1_before": old["after"]["top1"] if same else None,
        "test_top1": after["top1"],
        "versions": {"accelerate": version("accelerate"), "torch": torch.__version__},
    }


def _save(
    source: Path, out: Path, model: nn.Module, report: Mapping[str, Any], session: Session
) -> None:
    """Write the artifact with the history of its training, and let go of the checkpoints."""
    assert session.workdir is not None, "finetune gives it one"
    extras = {file: (session.workdir / file).read_text("utf-8") for file in (HISTORY, CURVE)}
    save_tuned(source, out, model, report, extras)
    finish(session.workdir)


def _places(directory: str | Path, out: str | Path | None) -> tuple[Path, Path]:
    """Return where a model is read from and written to; even "." has a name then."""
    source = Path(os.path.realpath(directory))
    target = Path(out) if out is not None else source.with_name(f"{source.name}-finetuned")
    if os.path.realpath(target) == str(source):
        raise TrainingError(
            f"{str(out)!r} is the model that is trained; name another directory, or none for "
            f"{source.name + '-finetuned'!r}."
        )
    # Only one of several processes looks, since looking writes.
    return source, check_writable(target) if rank() == 0 else Path(os.path.realpath(target))


def _settings(recipe: str | Path | Recipe, overrides: Mapping[str, Any]) -> tuple[str, Recipe]:
    """Return a recipe with its name, some settings changed."""
    if isinstance(recipe, Recipe):
        return "custom", recipe.with_(**overrides)
    return str(recipe), recipes.find(recipe).with_(**overrides)


def _images(
    source: Path,
    report: Mapping[str, Any],
    model: nn.Module,
    data: Any,
    data_dir: str | Path | None,
) -> Data:
    images = images_for(report, source, model, data, data_dir, trains=True)
    if images.calibration is None:
        raise DataError(
            f"{images.name} has no training images; expected a folder with a train folder in it, "
            "beside val or test, or two data sets (training, test)."
        )
    images.tested()  # or all would be in vain
    return images


def _dense(source: Path, plan: Mapping[str, Any], report: Mapping[str, Any]) -> nn.Module:
    """Build the model again that the artifact was pruned from."""
    weights, architecture = report["recipe"]["weights"], plan["architecture"]
    reason = NO_TEACHER.get(weights)
    if reason is not None:
        raise TrainingError(f"The dense model of {source} cannot teach: {reason}.")
    named = "pretrained" if weights in ("pretrained", "zoo") else weights
    args = None if architecture["card"] else architecture["args"]
    return build(architecture["name"], named, args=args).model


def _after(report: Mapping[str, Any], model: nn.Module, images: Data) -> dict[str, Any]:
    """Return what the small model costs, which training does not change, and its accuracy."""
    top1, top5, count = accuracy(model, batches(images.tested(), EVAL_BATCH))
    return {**report["after"], "top1": top1, "top5": top5, "images": count}


def _recounted(
    report: Mapping[str, Any], model: nn.Module, example: Inputs | None
) -> dict[str, Any] | None:
    """Count the zeros again, of which training may have made more."""
    old = report.get("sparsity")
    if old is None:
        return None
    kinds = {name: layer["kind"] for name, layer in old["layers"].items()}
    example = InputSpec.of(model).example() if example is None else example
    told = (old["granularity"], old["thresholds"], old["nonzero_before"])
    return count(model, kinds, example, *told).report()
