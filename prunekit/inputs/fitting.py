"""A checkpoint and an architecture -> how to build the model that its weights fit, and those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import RequestError, WeightsError
from .adapting import resized, translated, with_channels
from .checkpoints import Checkpoint, check_fits, misfits
from .feed import InputSpec
from .made_for import made_for
from .prefixes import bare, contrast
from .sharded import transformers_model

Arguments = Mapping[str, Any]
HEADS = ("head.fc", "head")  # of models whose pretrained_cfg does not name the classifier


@dataclass(frozen=True)
class Fitted:
    """Weights under the model's own names, and how to build that model.

    Attributes:
        tensors: Those of the model, but for what is drawn.
        args: What its factory is told.
        notes: What the user must know about them.
        drawn: Names of the model's tensors that are to stay as they were drawn.
    """

    tensors: Mapping[str, Tensor]
    args: Arguments
    notes: tuple[str, ...]
    drawn: frozenset[str] = frozenset()


def fit(
    checkpoint: Checkpoint, outline: Callable[[Arguments], nn.Module], args: Arguments
) -> Fitted:
    """Make a checkpoint fit an architecture, or say why it does not.

    Prefixes are stripped, and names that timm knows translated. The number of classes is read off
    the classifier, which is left out if none were asked for, and drawn anew if others were. What
    was asked for besides, another image size or other channels, is made to fit as timm does.

    Args:
        checkpoint: What was read.
        outline: Builds the architecture without memory, from what its factory is told.
        args: What the user wants it to be told.

    Raises:
        WeightsError: The weights do not fit; the sentence says what they were made for, as far as
            they show.
    """
    source, asked = checkpoint.source, args.get("num_classes")
    model = outline(args)
    tensors, notes = _named_alike(model, checkpoint)
    drawn: frozenset[str] = frozenset()
    classes = _classes(model, tensors)
    if classes is None:
        _check_headless(model, tensors, source, lambda: outline({**args, "num_classes": 0}))
    elif asked is None:
        args = {**args, "num_classes": classes}
        model = outline(args)
    elif asked != classes:
        head = _head(outline, args, classes)
        tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
        drawn = frozenset(head & model.state_dict().keys())
        notes += (_without_head(source, classes, asked),)
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in drawn}
    if misfits(own, tensors) and "in_chans" in args:
        tensors, more = with_channels(model, tensors, source)
        notes += more
    if misfits(own, tensors) and "img_size" in args:
        tensors, more = resized(model, tensors, source)
        notes += more
    if misfits(own, tensors):
        _check_images(model, tensors, source, outline, args, drawn)
    check_fits(own, tensors, source)
    return Fitted(tensors, args, (*checkpoint.notes, *notes), drawn)


def _named_alike(
    model: nn.Module, checkpoint: Checkpoint
) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return weights under the model's own names, as far as prefixes or timm tell.

    Raises:
        WeightsError: They are called something else.
    """
    source, own = checkpoint.source, model.state_dict()
    tensors, notes = bare(checkpoint.tensors, own, source)
    if _alike(own, tensors):
        return tensors, notes
    for names in (checkpoint.tensors, tensors):
        made = translated(model, names)
        if made is not None and _alike(own, made):
            return made, (f"Translated the names of {source}, as timm does.",)
    other = transformers_model(Path(source))
    if other:
        raise WeightsError(
            f"The weights of {source} are of {other} of transformers, which timm does not build; "
            "in Python, pass what its from_pretrained() returns to prune() as the model."
        )
    raise WeightsError(
        f"The weights of {source} do not fit the architecture, since {contrast(tensors, own)}; "
        "use weights that were saved from timm's model of this name."
    )


def _alike(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    return 2 * len(own.keys() & tensors.keys()) >= len(own)


def _head(outline: Callable[[Arguments], nn.Module], args: Arguments, classes: int) -> set[str]:
    """Return the names of what only a model with a classifier has."""
    whole = outline({**args, "num_classes": classes}).state_dict().keys()
    return whole - outline({**args, "num_classes": 0}).state_dict().keys()


def _without_head(source: str, classes: int, asked: int) -> str:
    if asked == 0:
        return f"Left out the classifier of {source}, which is for {classes:,} classes."
    return (
        f"RANDOM WEIGHTS in the classifier, so that accuracies mean nothing before it is trained: "
        f"those of {source} are for {classes:,} classes, not {asked:,}."
    )


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that tell classes apart; a distilled model has two."""
    named = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or HEADS
    return (named,) if isinstance(named, str) else tuple(named)


def _classes(model: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """Read how many classes weights are for off their classifier; None if they have none."""
    for name in _classifiers(model):
        for part in ("bias", "weight"):
            found = tensors.get(f"{name}.{part}")
            if found is not None and found.dim() > 0:
                return len(found)
    return None


def _check_headless(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, headless: Callable[[], nn.Module]
) -> None:
    """Refuse weights that lack the model's classifier and nothing else."""
    if misfits(model.state_dict(), tensors) and not misfits(headless().state_dict(), tensors):
        raise WeightsError(
            f"The weights of {source} have no classifier; add --num-classes 0 to take them "
            "without one."
        )


def _check_images(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    outline: Callable[[Arguments], nn.Module],
    args: Arguments,
    drawn: frozenset[str],
) -> None:
    """Refuse weights that would fit if only images had another size, or other channels."""

    def wanted(of: nn.Module) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in of.state_dict().items() if name not in drawn}

    def fits(changed: Arguments) -> bool:
        try:
            other = outline({**args, **changed})
        except RequestError:  # the architecture takes no such size
            return False
        return not misfits(wanted(other), tensors)

    channels, *size = InputSpec.of(model).size
    channels, asked = args.get("in_chans", channels), args.get("img_size", size)
    height, width = (asked, asked) if isinstance(asked, int) else asked
    said = made_for(wanted(model), tensors, (channels, height, width), fits)
    if said is None:
        return
    others = (
        (resized, f"--img-size {height if height == width else f'{height},{width}'}"),
        (with_channels, f"--in-chans {channels}"),
    )
    for adapt, option in others:
        if not misfits(wanted(model), adapt(model, tensors, source)[0]):
            said = f"{said.removesuffix('.')}, or {option} to have them adapted as timm does."
    raise WeightsError(f"The weights of {source} {said}")
