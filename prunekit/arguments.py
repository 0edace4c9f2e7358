"""Arguments: what a model is called with, one tensor or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from .naming import some


class Call(NamedTuple):
    """Arguments of a call.

    Attributes:
        args: Positional ones.
        kwargs: Those with names.
        method: The name of what is called, if it is not the module itself.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    method: str = "__call__"


Inputs = Tensor | Call | tuple[Any, ...] | list[Any] | Mapping[str, Any]


def plain(inputs: Inputs) -> Inputs:
    """Return a dictionary in the place of any other mapping, such as what transformers makes."""
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def arguments(inputs: Inputs) -> Call:
    """Return what a model is called with.

    A list is one argument, since torchvision's detectors take their images like that.
    """
    if isinstance(inputs, Call):
        return inputs
    if isinstance(inputs, Mapping):
        return Call((), dict(inputs))
    return Call(inputs if isinstance(inputs, tuple) else (inputs,), {})


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model."""
    args, kwargs, method = arguments(inputs)
    return getattr(model, method)(*args, **kwargs)


def mapped(change: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Return inputs with other tensors in the place of theirs."""
    made: Inputs = tree_map_only(Tensor, change, inputs)
    return made


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """Return all tensors among some inputs."""
    return [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]


def are_batch(inputs: Inputs) -> bool:
    """Say whether it shows how many images there are: all tensors must agree on it."""
    if isinstance(inputs, list):
        return bool(inputs)
    counts = {tensor.shape[0] if tensor.dim() else None for tensor in tensors_of(inputs)}
    return len(counts) == 1 and None not in counts


def batch_of(inputs: Inputs, count: int = 1) -> Inputs:
    """Return the first image, or whatever it is, so many times; all where there is no first."""
    if isinstance(inputs, list):
        return inputs[:1] * count
    if not are_batch(inputs):
        return inputs
    return mapped(lambda tensor: tensor[:1].repeat(count, *[1] * (tensor.dim() - 1)), inputs)


def shown(inputs: Inputs) -> str:
    """Return the shapes of inputs, for messages."""
    shapes = [str(tuple(tensor.shape)) for tensor in tensors_of(inputs)]
    if len(shapes) == 1:
        return f"an input of shape {shapes[0]}"
    return f"inputs of shapes {some(shapes)}"
