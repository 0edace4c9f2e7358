"""A checkpoint and an architecture -> how to build the model that its weights fit, and those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import RequestError, WeightsError
from .checkpoints import Checkpoint, check_fits, misfits
from .feed import InputSpec
from .made_for import made_for
from .prefixes import bare, contrast

Arguments = Mapping[str, Any]
HEADS = ("head.fc", "head")  # of models whose pretrained_cfg does not name the classifier


@dataclass(frozen=True)
class Fitted:
    """Weights under the model's own names, and how to build that model.

    Attributes:
        tensors: Exactly those of the model.
        args: What its factory is told.
        notes: What the user must know about them.
    """

    tensors: Mapping[str, Tensor]
    args: Arguments
    notes: tuple[str, ...]


def fit(
    checkpoint: Checkpoint, outline: Callable[[Arguments], nn.Module], args: Arguments
) -> Fitted:
    """Make a checkpoint fit an architecture, or say why it does not.

    Prefixes are stripped. The number of classes is read off the classifier, which is left out if
    none were asked for.

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
    tensors, notes = bare(checkpoint.tensors, model.state_dict(), source)
    _check_names(model, tensors, source)
    classes = _classes(model, tensors)
    if classes is None:
        _check_headless(model, tensors, source, lambda: outline({**args, "num_classes": 0}))
    elif asked is None:
        args = {**args, "num_classes": classes}
        model = outline(args)
    elif asked == 0:
        head = outline({**args, "num_classes": classes}).state_dict().keys() - model.state_dict()
        tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
        notes += (f"Left out the classifier of {source}, which is for {classes:,} classes.",)
    elif asked != classes:
        raise WeightsError(
            f"The weights of {source} are for {classes:,} classes, but --num-classes is "
            f"{asked:,}; leave it out to keep their classifier, or say 0 to go without."
        )
    if misfits(model.state_dict(), tensors):
        _check_images(model, tensors, source, outline, args)
    check_fits(model.state_dict(), tensors, source)
    return Fitted(tensors, args, (*checkpoint.notes, *notes))


def _check_names(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are named in another manner."""
    own = model.state_dict()
    if 2 * len(own.keys() & tensors.keys()) < len(own):
        raise WeightsError(
            f"The weights of {source} do not fit the architecture, since "
            f"{contrast(tensors, own)}; use weights that were saved from timm's model of this name."
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
) -> None:
    """Refuse weights that would fit if only images had another size, or other channels."""

    def fits(changed: Arguments) -> bool:
        try:
            other = outline({**args, **changed})
        except RequestError:  # the architecture takes no such size
            return False
        return not misfits(other.state_dict(), tensors)

    channels, *size = InputSpec.of(model).size
    asked = args.get("img_size", size)
    height, width = (asked, asked) if isinstance(asked, int) else asked
    said = made_for(model.state_dict(), tensors, (channels, height, width), fits)
    if said:
        raise WeightsError(f"The weights of {source} {said}")
