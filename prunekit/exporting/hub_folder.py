"""hub-folder: an artifact with a model card, ready to be uploaded to the Hugging Face Hub."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..arguments import Inputs
from ..artifact import load, read_plan
from ..files.stored import ARTIFACT, WEIGHTS
from ..inputs import zoo
from ..inputs.checkpoints import fill
from ..recovery import recipes
from ..result import Result
from ..tracing.copies import copy_with
from .proof import tensors_from
from .source import Source

CARD, TEMPLATE = "README.md", Path(__file__).parent / "card.md"


def write(source: Source, place: Path) -> None:
    """Write an artifact's files and a model card to a directory."""
    if isinstance(source.saved, Result):
        source.saved.save(place / "artifact")
        made = place / "artifact"
    else:
        made = source.saved
    for name in ARTIFACT:
        if (made / name).is_file():
            shutil.copyfile(made / name, place / name)
    shutil.rmtree(place / "artifact", ignore_errors=True)
    read_plan(place)  # which proves that all of it was copied whole
    card(source).save(place / CARD)


def run(source: Source, place: Path, batches: Sequence[Inputs]) -> list[list[Tensor]]:
    """Load the folder as its users will, and run it on each batch.

    Of a model that its caller built, and whose large self is not at hand, the weights are loaded.
    """
    if source.architecture is not None:
        model = load(place)
    elif source.given is not None:
        model = load(place, model=source.given, example_input=source.example)
    else:
        model = copy_with(source.model, lambda _, tensor: torch.zeros_like(tensor)).eval()
        fill(model, load_file(place / WEIGHTS), str(place))
    return [tensors_from(model, inputs) for inputs in batches]


def card(source: Source) -> Any:
    """Return the model card: what it is, where from, how good, and how to load it."""
    from huggingface_hub import ModelCard, ModelCardData

    report = source.report
    recipe, before, after = report["recipe"], report["before"], report["after"]
    metadata = ModelCardData(
        library_name="prunekit",
        pipeline_tag="image-classification",
        tags=["pruning", "image-classification", "prunekit"],
        license=licence_of(source),
        base_model=base_of(source),
        model_name=f"{recipe['arch']}-{recipe['criterion']}-{report['got']:.0%}",
        eval_results=list(_results(recipe, after)) or None,
    )
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        title=f"{recipe['arch']}, pruned by {report['got']:.1%} of its {recipe['by']}",
        report=report,
        recipe=recipe,
        before=before,
        after=after,
        top1=_top1(before, after),
        command=command_of(source),
        training=training_of(source),
        licence=licence_of(source),
        own=source.architecture is None,
        masked=bool(report.get("sparsity")),
    )


def command_of(source: Source) -> str:
    """Return the command that prunes alike, with all options that are not defaults."""
    recipe = source.report["recipe"]
    told = source.architecture.args if source.architecture and source.architecture.timm else {}
    given = {
        "arch": recipe["arch"],
        **{name.replace("_", "-"): _listed(value) for name, value in told.items()},
        "weights": _unless(recipe["weights"], "zoo"),
        "criterion": _with_options(recipe["criterion"], recipe["options"]),
        "ratio": recipe["ratio"],
        "granularity": _unless(recipe.get("granularity", "slice"), "slice"),
        "by": _unless(recipe["by"], "params"),
        "scope": recipe["scope"],
        "axes": _listed(recipe["axes"]),
        "include": _listed(recipe["include"]),
        "exclude": _listed(recipe["exclude"]),
        "floor": _unless(recipe["floor"], 0.1),
        "multiple": _unless(recipe["multiple"], 8),
        "steps": _unless(recipe["steps"], 1),
        "schedule": _unless(recipe["schedule"], "cubic"),
        **_trained_between(recipe["finetune"] or {}),
        "repair": _unless(_repairs(recipe["repair"], recipe["repair_options"]), "none"),
        "data": recipe["data"],
        "calibration": _unless(recipe["calibration"], 512),
        "seed": _unless(recipe["seed"], 0),
    }
    words = [
        _flag(name, value)
        for name, value in {**given, "uniform": recipe.get("uniform") or None}.items()
        if value is not None
    ]
    return " ".join(["prunekit run", *words])


def training_of(source: Source) -> str | None:
    """Return the command that fine-tunes alike, with all settings that its recipe has otherwise."""
    tuned = source.report.get("finetune")
    if not tuned:
        return None
    # A file of the user's, or a recipe made in Python, is told as changes to a known one.
    name = tuned["recipe"] if tuned["recipe"] in recipes.names() else recipes.DEFAULT
    usual = recipes.settings_of(recipes.find(name))
    changed = {
        setting.replace("_", "-"): value
        for setting, value in tuned["settings"].items()
        if setting in usual and value != usual[setting]
    }
    given = {"recipe": name, "data": tuned["data"], "seed": tuned["seed"], **changed}
    words = [_flag(flag, value) for flag, value in given.items()]
    return " ".join(["prunekit finetune SAVED", *words])


def _trained_between(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells `prunekit run` to train between its steps, as far as its flags can."""
    epochs, distill = settings.get("epochs"), settings.get("distill", False)
    for name in (recipes.DEFAULT, *recipes.names()):
        recipe = recipes.find(name)
        told = recipe.with_(epochs=epochs, distill=distill or recipe.distill)
        if recipes.settings_of(told) == settings:
            return {
                "finetune": epochs,
                "recipe": _unless(name, recipes.DEFAULT),
                "distill": _unless(distill, recipe.distill),
            }
    return {"finetune": epochs}


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {shlex.quote(str(value))}"


def _with_options(name: str, options: Mapping[str, Any]) -> str:
    said = ",".join(f"{key}={value}" for key, value in options.items() if key != "seed")
    return f"{name}:{said}" if said else name


def _repairs(names: str, options: Mapping[str, Any]) -> str:
    """Return a chain of repairs as the command line takes it."""
    if "+" not in names:
        return _with_options(names, options)
    parted = [key.partition(".") for key in options]
    own = {
        name: {option: options[f"{name}.{option}"] for one, _, option in parted if one == name}
        for name in names.split("+")
    }
    return ",".join(_with_options(name, own[name]) for name in own)


def _listed(values: Any) -> str | None:
    several = values if isinstance(values, list | tuple) else [values]
    return ",".join(map(str, several)) or None


def licence_of(source: Source) -> str | None:
    """Return the licence of the weights that were pruned, as far as it is known."""
    if source.report["recipe"]["weights"] == "zoo" and source.architecture:
        return "mit" if source.architecture.name in zoo.names() else None
    if source.report["recipe"]["weights"] != "pretrained":
        return None
    return (getattr(source.model, "pretrained_cfg", None) or {}).get("license")


def base_of(source: Source) -> str | None:
    """Return where on the Hub the large model is, if timm says so and its weights were used."""
    if source.report["recipe"]["weights"] != "pretrained":
        return None
    return (getattr(source.model, "pretrained_cfg", None) or {}).get("hf_hub_id")


def _unless(value: Any, default: Any) -> Any:
    return None if value == default else value


def _top1(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if after["top1"] is None:
        return "not measured"
    if before["top1"] is None:
        return f"{after['top1']:.2f} %"
    return (
        f"{after['top1']:.2f} % (dense: {before['top1']:.2f} %), of {after['images']:,} test images"
    )


def _results(recipe: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    for key, name in (("top1", "Top-1 accuracy"), ("top5", "Top-5 accuracy")):
        if after[key] is not None:
            yield EvalResult(
                task_type="image-classification",
                dataset_type=recipe["data"],
                dataset_name=recipe["data"],
                metric_type="accuracy",
                metric_name=name,
                metric_value=after[key],
            )
