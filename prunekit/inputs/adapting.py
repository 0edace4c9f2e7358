"""Weights for other images, or in other words, made to fit as timm makes its own fit."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..naming import some
from .weights_file import printable

COLOURS = 3  # channels that timm turns into others
Tensors = Mapping[str, Tensor]


def translated(model: nn.Module, tensors: Tensors) -> dict[str, Tensor] | None:
    """Let timm translate weights for a model, as it does with those that it publishes.

    It knows names that the authors of an architecture use, and resizes what has a place for every
    position of an image: position embeddings, and tables of relative positions.

    Args:
        model: A model of timm, which may be on the meta device.
        tensors: The weights, under whatever names.

    Returns:
        What timm makes of them; None if it knows no such weights.
    """
    translate: Callable[..., Any] | None
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return None
    try:
        with warnings.catch_warnings():  # of torch, about how timm interpolates
            warnings.simplefilter("ignore")
            made: dict[str, Tensor] = translate(dict(tensors), model)
    except Exception:  # whatever weights lead it to that it was not written for
        return None
    return made


def resized(model: nn.Module, tensors: Tensors, source: str) -> tuple[Tensors, tuple[str, ...]]:
    """Resize what has a place for every position of an image, and say so.

    Args:
        model: What it is to fit.
        tensors: Weights with its names.
        source: What to call them.

    Returns:
        The weights, and what to tell the user; both as they were if nothing was resized.
    """
    made = translated(model, tensors)
    if made is None:
        return tensors, ()
    changed = [name for name in tensors if name in made and made[name].shape != tensors[name].shape]
    if not changed:
        return tensors, ()
    return made, (
        f"Resized {some(changed)} of {source} to another image size, as timm does; accuracy may "
        "suffer until it is trained.",
    )


def with_channels(
    model: nn.Module, tensors: Tensors, source: str
) -> tuple[Tensors, tuple[str, ...]]:
    """Turn first convolutions for three colours into ones for other channels, and say so.

    Args:
        model: What it is to fit.
        tensors: Weights with its names.
        source: What to call them.

    Returns:
        The weights, and what to tell the user; both as they were if nothing was turned.
    """
    from timm.models import adapt_input_conv

    own, config = model.state_dict(), getattr(model, "pretrained_cfg", None) or {}
    firsts = config.get("first_conv") or ()
    turned = {}
    for first in [firsts] if isinstance(firsts, str) else firsts:
        name = f"{first}.weight"
        if name not in own or name not in tensors:
            continue
        before, after = tensors[name].shape, own[name].shape
        if len(before) == len(after) == 4 and before[1] == COLOURS != after[1]:
            turned[name] = adapt_input_conv(after[1], tensors[name].clone())
    if not turned:
        return tensors, ()
    channels = next(iter(turned.values())).shape[1]
    return {**tensors, **turned}, (
        f"Turned {printable(some(list(turned)))} of {source}, which is for {COLOURS} channels, "
        f"into one for {channels}, as timm does.",
    )
