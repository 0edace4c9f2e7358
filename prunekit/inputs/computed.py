"""without_computed: layers that compute their weight, made plain where pruning is concerned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..adapters.answers import axes_of, role_of
from ..adapters.base import Adapter
from ..arguments import Inputs, call, mapped
from ..axis import AUX
from ..errors import AdapterError
from ..naming import some
from ..tracing.checkpointing import switch_off_
from ..tracing.copies import copy_with
from ..tracing.graph import trace_inside
from ..tracing.plain_layers import made_plain, plain_layers

ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}  # of an output's scale
COARSE = 5e-2  # of types of two bytes

# From a model to an adapter that has looked at it, and what the user must know about the choice.
Look = Callable[[nn.Module], tuple[Adapter, tuple[str, ...]]]


@dataclass(frozen=True)
class Plain:
    """A model, and what was made plain in it.

    Attributes:
        model: The given one if nothing was.
        adapter: Has looked at it.
        warnings: What the user must know about both.
        names: Of the layers that were made plain.
    """

    model: nn.Module
    adapter: Adapter
    warnings: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def without_computed(model: nn.Module, look: Look, example: Inputs) -> Plain:
    """Make those layers plain that compute their weight, and that pruning cuts or scores.

    Args:
        model: In evaluation mode; not modified.
        look: Finds the adapter of a model, and lets it look.
        example: One batch of inputs.
    """
    layers = plain_layers(model)
    if not layers:
        return Plain(model, *look(model))
    made = made_plain(model, layers)
    adapter, notes = look(made)
    concerned = set(_concerned(made, adapter, example, list(layers)))
    if not concerned:
        adapter, notes = look(model)
        kept = () if _alike(model, made, example) else (_kept(list(layers)),)
        return Plain(model, adapter, (*notes, *kept))
    if len(concerned) < len(layers):
        layers = {name: layer for name, layer in layers.items() if name in concerned}
        made = made_plain(model, layers)
        adapter, notes = look(made)
    if not _alike(model, made, example):
        adapter, notes = look(model)
        return Plain(model, adapter, (*notes, _kept(list(layers))))
    return Plain(made, adapter, (*notes, _told(list(layers))), tuple(layers))


def _concerned(
    model: nn.Module, adapter: Adapter, example: Inputs, names: Collection[str]
) -> Iterator[str]:
    """Yield the layers whose weight has a role, or is cut by an axis."""
    try:
        specs = axes_of(adapter, model)
    except AdapterError:  # who prunes the model will be told
        return
    others = []
    for name in names:
        if role_of(adapter, f"{name}.weight") != AUX:
            yield name
        else:
            others.append(name)
    if not others or adapter.guesses:  # a guess is made of all weights that have a role
        return
    try:
        axes = trace_inside(model, specs, adapter, example)
    except AdapterError:  # nobody knows then what an axis cuts
        yield from others
        return
    cut = {member.name for axis in axes for member in axis.members}
    yield from (name for name in others if f"{name}.weight" in cut)


def _alike(model: nn.Module, made: nn.Module, example: Inputs) -> bool:
    """Say whether two models compute the same: others may read what a layer learns, too."""
    expected, found = _outputs(model, example), _outputs(made, example)
    return len(found) == len(expected) and all(
        one.shape == other.shape and _close(one.double(), other.double(), other.dtype)
        for one, other in zip(found, expected, strict=True)
    )


def _outputs(model: nn.Module, example: Inputs) -> list[Tensor]:
    ran = copy_with(model, lambda _, tensor: tensor)
    switch_off_(ran)
    like = next(ran.parameters())
    inputs = mapped(
        lambda x: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype), example
    )
    try:
        with torch.no_grad():
            leaves = tree_leaves(call(ran, inputs))
    except Exception:  # of the model's own code, which pruning will run into as well
        return []
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]


def _close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    found, expected = found.nan_to_num(), expected.nan_to_num()
    scale = expected.abs().max() if expected.numel() else 0.0
    return bool(((found - expected).abs() <= ROUNDING.get(dtype, COARSE) * scale).all())


def _told(names: list[str]) -> str:
    return (
        f"Made plain: {some(names)}, which computed their weight anew whenever they ran, as weight "
        "standardisation and weight norms do. They have that weight now, so that the model returns "
        "the same, and training changes it directly."
    )


def _kept(names: list[str]) -> str:
    return (
        f"Not made plain: {some(names)}, which compute their weight whenever they run, since the "
        "model would return something else; they keep all their inputs."
    )
